"""How long one operation takes, and placing a sale, which the dimensions share."""

import random
from collections.abc import Awaitable, Callable
from typing import Any, Final
from uuid import UUID

from bench import load
from deps.core import ROLE_SCOPES, Actor, Deps
from tools import cart, checkout
from tools.address import Address

RUNS: Final = 60
SALES: Final = 20
WARM: Final = 8  # From the sixth time on PostgreSQL may keep a plan, so that one counts.
ADDRESS: Final = Address(
    name="Ada Lovelace",
    line1="12 Quay Street",
    city="Hamburg",
    postal_code="20457",
    country_code="DE",
)


async def p50_ms(run: Callable[[], Awaitable[Any]]) -> float:
    samples = load.Samples()
    for _ in range(WARM):
        await run()
    for _ in range(RUNS):
        with samples.measure():
            await run()
    return samples.percentile_ms(50)


def guest(deps: Deps) -> Deps:
    return deps.acting_as(Actor(scopes=ROLE_SCOPES[None], guest_secret_sha256="growth"))


async def filled_cart(deps: Deps, skus: list[str]) -> UUID:
    """Open a cart that is ready to be bought, with a unit of each."""
    async with deps.begin() as uow:
        opened = await cart.create(uow)
        for sku in skus:
            await cart.add(uow, opened.id, sku, 1)
        await cart.set_details(
            uow,
            opened.id,
            email="shopper@example.com",
            shipping_address=ADDRESS,
            shipping_method="standard",
        )
    return opened.id


async def place_ms(deps: Deps, size: int, count: int = 2) -> float:
    """Return what the whole of `checkout.complete` takes of a cart of `count` lines."""
    samples = load.Samples()
    shopper = guest(deps)
    for run in range(SALES + WARM):
        bought = await filled_cart(shopper, any_skus(size, count))
        if run < WARM:
            await checkout.complete(shopper, bought, payment_method="tok_visa")
            continue
        with samples.measure():
            await checkout.complete(shopper, bought, payment_method="tok_visa")
    return samples.percentile_ms(50)


def any_skus(size: int, count: int) -> list[str]:
    """Pick different ones of the shop."""
    return [f"GROWN-{number}" for number in random.sample(range(1, size + 1), min(count, size))]
