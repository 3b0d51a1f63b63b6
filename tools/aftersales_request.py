"""What every request after the sale needs, whether an edit, a return or an exchange: an id that is
its key, and for what is sent back a lock, a state and what of it can be sold again."""

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar
from uuid import UUID, uuid5

import orjson

from db.models.aftersales import (
    REQUEST_TRANSITIONS,
    OrderExchange,
    OrderExchangeLine,
    OrderReturn,
    OrderReturnLine,
    RequestState,
)
from db.models.order import Order
from db.types import new_id
from deps.core import UnitOfWork
from tools import idempotency, order, reallocation
from tools.errors import Conflict, IdempotencyMismatch, IllegalTransition, InvalidInput, NotFound
from tools.line_change import LineRequest

_REQUESTS = UUID("3d1c6a5e-8a55-4d5e-9f53-3f1f0e4b6a11")
_NOUNS: Mapping[type[OrderReturn] | type[OrderExchange], str] = {
    OrderReturn: "return",
    OrderExchange: "exchange",
}

Request = TypeVar("Request", OrderReturn, OrderExchange)


def key_of(given: UUID | None) -> UUID:
    """Return the id of a request: the caller's, or the one its `Idempotency-Key` stands for.

    A request repeated under its key thereby finds what the first did, even after a crash.
    """
    if given is not None:
        return given
    claim = idempotency.current_claim.get()
    return uuid5(_REQUESTS, f"{claim.scope}/{claim.key}") if claim else new_id()


def digest(number: int, what: Mapping[str, Any]) -> str:
    """Return the sha256 of what is asked; the order of lines does not matter."""
    asked = {
        key: sorted(value, key=orjson.dumps) if isinstance(value, list) else value
        for key, value in what.items()
    }
    content = orjson.dumps({"number": number, **asked}, option=orjson.OPT_SORT_KEYS, default=str)
    return hashlib.sha256(content).hexdigest()


def refuse_other(stored_sha256: str, asked_sha256: str) -> None:
    """Raises:
    IdempotencyMismatch: The id was used for another request.
    """
    if stored_sha256 != asked_sha256:
        raise IdempotencyMismatch("This id was used for a different change.")


async def access(uow: UnitOfWork, model: type[Request], request_id: UUID) -> tuple[Order, Request]:
    """Load a return or an exchange on the actor's behalf, its order first: the lock order everybody
    uses.

    Raises:
        NotFound: No such request, or someone else's. The two must be indistinguishable.
    """
    known = await uow.session.get(model, request_id)
    number = None
    if known is not None:
        number = (await uow.session.get_one(Order, known.order_id)).number
    try:
        of = await order.access(uow, number or 0, lock=True)
    except NotFound as error:
        raise NotFound(f"No such {_NOUNS[model]}.") from error
    assert known is not None
    await uow.session.refresh(known, with_for_update=True)
    return of, known


def move(uow: UnitOfWork, found: OrderReturn | OrderExchange, target: RequestState) -> None:
    """Raises:
    IllegalTransition: A request in its state does not become `target`.
    """
    if target not in REQUEST_TRANSITIONS[found.state]:
        raise IllegalTransition(_NOUNS[type(found)], found.state.value, target.value)
    found.state = target
    has_ended = target in (RequestState.COMPLETED, RequestState.CANCELLED)
    found.finished_at = uow.now if has_ended else None


async def state_of(
    uow: UnitOfWork, model: type[Request], request_id: UUID | None
) -> RequestState | None:
    """Return the state of a request, or None if there is none that the actor may see."""
    if request_id is None or await uow.session.get(model, request_id) is None:
        return None
    _, found = await access(uow, model, request_id)
    return found.state


async def argument_in(
    uow: UnitOfWork, model: type[Request], name: str, request_id: UUID, state: RequestState
) -> dict[str, Any] | None:
    """Return a request's id as the argument `name` of what undoes a step, if it is in `state`."""
    known = await state_of(uow, model, request_id)
    return {name: request_id} if known is state else None


def refuse_other_lines(
    asked: Sequence[OrderReturnLine | OrderExchangeLine],
    now: Sequence[OrderReturnLine | OrderExchangeLine],
) -> None:
    """Raises:
    Conflict: What a request asked for is, since the order changed, not what it would be now.
    """
    if _totals(asked) != _totals(now):
        raise Conflict("The order or a price has changed since; ask for it anew.")


def _totals(lines: Sequence[OrderReturnLine | OrderExchangeLine]) -> Counter[tuple[object, ...]]:
    counter: Counter[tuple[object, ...]] = Counter()
    for line in lines:
        becomes: tuple[object, ...] = ()
        if isinstance(line, OrderExchangeLine):
            becomes = (line.new_sku, line.new_unit_price_amount)
        counter[line.line_id, line.sku, line.unit_price_amount, *becomes] += line.quantity
    return counter


def restocked(
    lines: Sequence[OrderReturnLine | OrderExchangeLine], restock: Sequence[LineRequest] | None
) -> dict[str, int]:
    """Return the units by SKU that go back on sale, of those that were sent back.

    Args:
        restock: What staff found sound; None is everything.

    Raises:
        InvalidInput: More of a SKU than was sent back.
    """
    sent = reallocation.counted((line.sku, line.quantity) for line in lines)
    if restock is None:
        return sent
    sound = reallocation.counted((line.sku, line.quantity) for line in restock)
    for sku, units in sound.items():
        if units > sent.get(sku, 0):
            raise InvalidInput(
                f"{sent.get(sku, 0)} units of {sku} were sent back.", field="restock", sku=sku
            )
    return sound
