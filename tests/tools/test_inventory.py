"""Stock: the ledger is the only writer, and the checks hold against any code path."""

import asyncio
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError, IntegrityError

from db.models.inventory import StockPolicy
from db.types import OrderId, new_id
from deps.core import Deps
from tests import factories
from tools import bundle, inventory, stock, stock_ledger
from tools.bundle import BundlePartInput
from tools.errors import Conflict, InvalidInput, NotFound, OutOfStock
from tools.invariant import check


async def available(deps: Deps, sku: str = "MUG") -> int:
    async with deps.begin() as uow:
        return (await inventory.levels(uow, sku)).available


async def reserve(deps: Deps, **units: int) -> OrderId:
    order_id = OrderId(new_id())
    async with deps.begin() as uow:
        await inventory.reserve(uow, order_id=order_id, units=units)
    return order_id


async def told(deps: Deps, *types: str) -> list[dict[str, Any]]:
    async with deps.begin() as uow:
        rows = await uow.fetch(
            "SELECT payload FROM outbox WHERE type = ANY($1) ORDER BY seq", list(types)
        )
    return [row["payload"] for row in rows]


async def test_a_hold_is_all_or_nothing(deps: Deps) -> None:
    await factories.product(deps, "MUG", stock=5)
    await factories.product(deps, "TEA", title="Tea", stock=1)
    with pytest.raises(OutOfStock) as refused:
        await reserve(deps, MUG=2, TEA=2)
    assert refused.value.extra["sku"] == "TEA"
    assert await available(deps) == 5
    assert await check(deps) == []


async def test_one_location_with_enough_is_preferred_to_a_split(deps: Deps) -> None:
    await factories.product(deps, "MUG", stock=2, location="HAM")
    await factories.receive(deps, "MUG", 5, "ROT")
    whole = await reserve(deps, MUG=4)
    split = await reserve(deps, MUG=3)
    async with deps.begin() as uow:
        rows = await uow.session.execute(
            text("""SELECT r.reservation_id, p.code, r.quantity FROM reservation_line r
                    JOIN location p ON p.id = r.location_id""")
        )
        found = {(row.reservation_id, row.code): row.quantity for row in rows}
    assert found == {(whole, "ROT"): 4, (split, "HAM"): 2, (split, "ROT"): 1}


async def test_many_holds_at_once_never_oversell(deps: Deps) -> None:
    await factories.product(deps, "MUG", stock=7)
    results = await asyncio.gather(
        *(reserve(deps, MUG=2) for _ in range(20)), return_exceptions=True
    )
    assert sum(not isinstance(r, BaseException) for r in results) == 3
    assert all(isinstance(r, OutOfStock) for r in results if isinstance(r, BaseException))
    assert await available(deps) == 1


async def test_holds_expire_once(deps: Deps) -> None:
    await factories.product(deps, "MUG", stock=5)
    order_id = await reserve(deps, MUG=2)
    assert await inventory.expire_due(deps) == 0
    later = factories.later(deps, minutes=16)
    await asyncio.gather(*(inventory.expire_due(later) for _ in range(4)))
    assert await inventory.expire_due(later) == 0
    assert await available(deps) == 5
    assert await told(deps, "StockReserved", "StockReleased") == [
        {"order_id": str(order_id), "units": {"MUG": 2}},
        {"order_id": str(order_id), "reason": "the hold expired"},
    ]
    assert await check(later) == []


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE stock_level SET reserved = 1",
        "DELETE FROM stock_level",
        "UPDATE stock_movement SET on_hand_delta = 99",
        "DELETE FROM stock_movement",
    ],
)
async def test_nothing_writes_around_the_ledger(deps: Deps, statement: str) -> None:
    await factories.product(deps, "MUG", stock=5)
    with pytest.raises(DBAPIError):
        async with deps.begin() as uow:
            await uow.session.execute(text(statement))
    assert await available(deps) == 5


async def test_the_schema_itself_refuses_an_oversell(deps: Deps) -> None:
    await factories.product(deps, "MUG", stock=5)
    with pytest.raises(IntegrityError):
        async with deps.begin() as uow:
            await uow.session.execute(
                text("""INSERT INTO stock_movement (sku, location_id, kind, on_hand_delta,
                          reserved_delta, allocated_delta, reason, occurred_at)
                        SELECT 'MUG', id, 'reserve', 0, 6, 0, '', now() FROM location""")
            )


async def test_adjustments_are_recorded_and_bounded(merchant: Deps) -> None:
    await factories.product(merchant, "MUG", stock=5)
    async with merchant.begin() as uow:
        left = await stock.adjust(uow, "MUG", "HAM", -2, "broken in transit")
        assert left.available == 3
        page = await stock_ledger.movements(uow, "MUG")
    assert (page.items[0].on_hand_delta, page.items[0].reason) == (-2, "broken in transit")
    for arguments, error in (
        (("MUG", "HAM", -4, "x"), Conflict),
        (("MUG", "HAM", 0, "x"), InvalidInput),
        (("MUG", "HAM", 1, " "), InvalidInput),
        (("MUG", "NOWHERE", 1, "x"), NotFound),
        (("NOPE", "HAM", 1, "x"), NotFound),
    ):
        with pytest.raises(error):
            async with merchant.begin() as uow:
                await stock.adjust(uow, *arguments)
    assert await available(merchant) == 3


async def test_shoppers_see_how_many_but_not_where(guest: Deps, merchant: Deps) -> None:
    await factories.product(guest, "MUG", stock=5)
    async with guest.begin() as uow:
        seen = await inventory.levels(uow, "MUG")
    assert (seen.available, seen.levels) == (5, [])
    async with merchant.begin() as uow:
        assert [level.location for level in (await inventory.levels(uow, "MUG")).levels] == ["HAM"]


async def test_what_can_be_had_now_is_what_is_free_and_owed_to_nobody(merchant: Deps) -> None:
    await factories.product(merchant, "MUG", stock=5)
    await reserve(merchant, MUG=2)
    await factories.product(merchant, "TEA", title="Tea", stock=0)
    async with merchant.begin() as uow:
        mug = await stock.set_policy(uow, "MUG", StockPolicy.BACKORDER, 4)
        tea = await inventory.levels(uow, "TEA")
        with pytest.raises(NotFound):
            await inventory.levels(uow, "NONE")
    assert (mug.available, mug.in_stock, mug.policy) == (7, 3, StockPolicy.BACKORDER)
    assert (mug.backordered, mug.backorder_limit) == (0, 4)
    assert (tea.available, tea.in_stock, tea.policy) == (0, 0, StockPolicy.DENY)
    assert (tea.backordered, tea.backorder_limit, tea.levels) == (0, 0, [])


async def test_units_that_nobody_gave_out_are_given_to_who_waits(merchant: Deps) -> None:
    for sku in ("MUG", "TEA"):
        await factories.product(merchant, sku, title=sku.title(), stock=0)
        async with merchant.begin() as uow:
            await stock.set_policy(uow, sku, StockPolicy.BACKORDER, 5)
    await reserve(merchant, MUG=3, TEA=2)
    assert await inventory.fill_due(merchant) == 0
    for sku in ("MUG", "TEA"):
        await factories.receive(merchant, sku, 4)
    async with merchant.begin() as uow:  # What is owed is nobody else's, though it still lies here.
        assert [(await inventory.levels(uow, sku)).in_stock for sku in ("MUG", "TEA")] == [1, 2]
    assert await inventory.fill_due(merchant) == 5
    assert await inventory.fill_due(merchant) == 0
    async with merchant.begin() as uow:
        for sku, left in (("MUG", 1), ("TEA", 2)):
            seen = await inventory.levels(uow, sku)
            assert (seen.in_stock, seen.backordered) == (left, 0)
    assert await check(merchant) == []


async def test_units_that_are_no_longer_kept_back_go_to_who_waits(merchant: Deps) -> None:
    await factories.product(merchant, "MUG", stock=5)
    async with merchant.begin() as uow:
        await stock.set_thresholds(uow, "MUG", "HAM", safety_stock=5)
        await stock.set_policy(uow, "MUG", StockPolicy.BACKORDER, 4)
    await reserve(merchant, MUG=3)
    async with merchant.begin() as uow:
        assert (await inventory.levels(uow, "MUG")).backordered == 3
        seen = await stock.set_thresholds(uow, "MUG", "HAM", safety_stock=1)
    assert (seen.backordered, seen.in_stock) == (0, 1)
    assert await check(merchant) == []


async def test_thresholds_and_policies_are_of_a_sku_that_has_stock(merchant: Deps) -> None:
    for sku in ("MUG", "SET"):
        await factories.product(merchant, sku, title=sku.title(), stock=0)
    await factories.product(merchant, "TEA", title="Tea", stock=1)
    async with merchant.begin() as uow:
        await bundle.define(uow, "SET", [BundlePartInput(sku="TEA")])
        with pytest.raises(Conflict, match="bundle"):
            await stock.set_policy(uow, "SET", StockPolicy.BACKORDER, 1)
        with pytest.raises(Conflict, match="was never at HAM"):
            await stock.set_thresholds(uow, "MUG", "HAM", 1)
        with pytest.raises(NotFound, match="no SKU NONE"):
            await stock.set_thresholds(uow, "NONE", "HAM", 1)


async def test_low_stock_is_listed(merchant: Deps) -> None:
    await factories.product(merchant, "MUG", stock=1)
    await factories.product(merchant, "TEA", title="Tea", stock=50)
    async with merchant.begin() as uow:
        await uow.session.execute(text("UPDATE stock_level SET reorder_point = 3"))
        assert [(item.sku, item.available) for item in await stock.low(uow)] == [("MUG", 1)]
