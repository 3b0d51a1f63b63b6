"""A seeded random shop, with crashes and gateway faults, audited by a model too simple to be wrong.

Reproduce a failure with `SEED=<n> ./shopkeeper test tests/simulation`; widen with `STEPS=<n>` and
`SEEDS=<how many>`, which count from `SEED` on.
"""

import os
import random

import pytest

from db.models.user import Role
from deps.core import Deps
from deps.scripted import ScriptedGateway
from tests import factories
from tests.simulation.shop import (
    CODE,
    CODE_USES,
    CUSTOMERS,
    PLACES,
    PRICE,
    STOCK,
    TAX_PERCENT,
    Shop,
)
from tools.invariant import check

FIRST = int(os.environ.get("SEED", "1"))
SEEDS = range(FIRST, FIRST + int(os.environ.get("SEEDS", "1" if "SEED" in os.environ else "4")))
STEPS = int(os.environ.get("STEPS", "60"))
ACTIONS = {
    "open_cart": 5,
    "buy": 7,
    "authenticate": 2,
    "cancel": 2,
    "give_back": 2,
    "adjust": 2,
    "send": 1,
    "take_in": 1,
    "grant": 1,
}
SWEEP_EVERY = 5
BY_STAFF = ("cancel", "give_back", "adjust", "send", "take_in", "grant")


@pytest.mark.parametrize("seed", SEEDS)
async def test_the_shop_matches_the_notebook(
    deps: Deps, gateway: ScriptedGateway, seed: int
) -> None:
    rng = random.Random(seed)
    deps = factories.taxed(deps, DE=str(TAX_PERCENT))
    for sku, units in STOCK.items():
        await factories.product(deps, sku, title=sku.title(), price=PRICE, stock=units)
    await factories.product(deps, "OTHER", stock=1, location=PLACES[1])
    shop = Shop(deps, gateway, rng)
    staff = await factories.user(deps, role=Role.MERCHANT)
    await factories.discount(staff, CODE, uses_max=CODE_USES)
    shop.customers = [await factories.user(deps) for _ in range(CUSTOMERS)]
    for step in range(STEPS):
        shop.deps = factories.later(deps, minutes=4 * step)
        (action,) = rng.choices(list(ACTIONS), list(ACTIONS.values()))
        run = getattr(shop, action)
        await (run(shop.at(staff)) if action in BY_STAFF else run())
        if step % SWEEP_EVERY == 0:
            await shop.sweep()
        assert await check(shop.deps) == [], f"{seed=} {step=} {action}"
    await shop.settle(staff)
    await audit(shop, seed)


async def audit(shop: Shop, seed: int) -> None:
    """Compare what the shop says with the notebook: shelves, roads, promises, money."""
    assert await check(shop.deps) == [], f"{seed=}"
    book = shop.book
    promised = {sku: sum(units.get(sku, 0) for units in book.sold.values()) for sku in STOCK}
    rows = await shop.deps.hot.fetch(
        "SELECT sku, sum(on_hand)::int AS on_hand, sum(reserved)::int AS reserved,"
        " sum(allocated)::int AS allocated, sum(incoming)::int AS incoming"
        " FROM stock_level WHERE sku <> 'OTHER' GROUP BY sku"
    )
    found = {row["sku"]: tuple(row)[1:] for row in rows}
    assert found == {
        sku: (book.on_shelf[sku], 0, promised[sku], book.on_the_road[sku]) for sku in STOCK
    }, f"{seed=}"
    uses = await shop.deps.hot.fetchval("SELECT uses FROM discount")
    assert uses == len(book.reduced), f"{seed=}"
    credit = await shop.deps.hot.fetchval(
        "SELECT coalesce(sum(balance_amount), 0)::bigint FROM credit_account"
    )
    kept = sum(shop.gateway.charges.values()) + book.granted - credit
    assert kept == book.owed_to_us(), f"{seed=}"
    placed = await shop.deps.hot.fetchval("SELECT count(*) FROM outbox WHERE type = 'OrderPlaced'")
    assert placed, f"{seed=} sold nothing: the run proves nothing"
