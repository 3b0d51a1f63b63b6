"""Carry on what was left between two steps by a crash, a timeout or a worker that was killed."""

from collections.abc import Awaitable, Callable, Sequence
from datetime import timedelta
from typing import Final, TypeVar
from uuid import UUID

from deps.core import SYSTEM, Deps
from tools.errors import OutOfStock, PaymentDeclined, Unavailable

RESUME_AFTER: Final = timedelta(seconds=60)  # Before, whoever began it may still be at it.
RESUME_BATCH: Final = 50

Id = TypeVar("Id", bound=UUID)


async def resume(
    deps: Deps, ids: Sequence[Id], carry_on: Callable[[Deps, Id], Awaitable[object]]
) -> int:
    """Carry each on as the shop itself; return how many were looked at.

    How one ended, or that it is to be tried again at the next sweep, is in its rows: either way it
    does not keep the others from their turn.
    """
    system = deps.acting_as(SYSTEM)
    for each in ids:
        try:
            await carry_on(system, each)
        except (PaymentDeclined, OutOfStock, Unavailable):
            continue
    return len(ids)
