"""Counts: what may be written down, what closing books and tells, and whom it serves."""

import pytest

from db.models.inventory import MovementKind, StockPolicy
from db.types import new_id
from deps.core import Deps
from tests import factories
from tools import bundle, inventory, stock, stock_count, stock_ledger
from tools.bundle import BundlePartInput
from tools.errors import Conflict, InvalidInput, NotFound
from tools.invariant import check
from tools.page import ByTime
from tools.stock_count import COUNTED_MAX


async def test_none_to_ten_million_are_counted_by_somebody(merchant: Deps) -> None:
    await factories.product(merchant, "MUG", stock=10)
    await factories.product(merchant, "TEA", stock=3)
    async with merchant.begin() as uow:
        count = await stock_count.start(uow, "HAM", " aisle 3 ")
        other = await stock_count.start(uow, "HAM")
        assert (count.status, count.location, count.note) == ("open", "HAM", "aisle 3")
        assert (count.opened_at, count.closed_at, count.lines) == (uow.now, None, [])
        for counted in (-1, COUNTED_MAX + 1):
            with pytest.raises(InvalidInput) as refused:
                await stock_count.record(uow, count.id, "MUG", counted)
            assert refused.value.field == "counted"
        for counted in (COUNTED_MAX, 0):
            (line,) = (await stock_count.record(uow, count.id, "MUG", counted)).lines
            assert (line.expected, line.counted, line.difference) == (10, counted, counted - 10)
            assert line.counted_at == uow.now
        await stock_count.record(uow, count.id, "TEA", 3)
        assert [line.sku for line in (await stock_count.get(uow, count.id)).lines] == ["MUG", "TEA"]
        assert (await stock_count.get(uow, other.id)).lines == []
        pages = [await stock_count.show(uow, sort=sort, limit=1) for sort in ByTime]
        assert {page.items[0].id for page in pages} == {count.id, other.id}
    by = merchant.actor.user_id
    assert await merchant.hot.fetchval("SELECT opened_by FROM stock_count LIMIT 1") == by
    assert await merchant.hot.fetchval("SELECT counted_by FROM stock_count_line LIMIT 1") == by


async def test_what_is_found_where_nothing_was_serves_who_waits(merchant: Deps) -> None:
    await factories.product(merchant, "MUG", stock=1)
    for sku in ("TEA", "POT"):
        await factories.product(merchant, sku, stock=4, location="ROT")
    async with merchant.begin() as uow:
        await stock.set_policy(uow, "MUG", StockPolicy.BACKORDER, 5)
    await factories.placed_order(factories.guest(merchant), MUG=3)
    async with merchant.begin() as uow:
        count = await stock_count.start(uow, "ROT", "behind the door")
        await stock_count.record(uow, count.id, "TEA", 3)
        await stock_count.record(uow, count.id, "POT", 4)
        seen = await stock_count.record(uow, count.id, "MUG", 6)
        assert [(x.sku, x.expected, x.difference) for x in seen.lines] == [
            ("MUG", 0, 6),
            ("POT", 4, 0),
            ("TEA", 4, -1),
        ]
    async with merchant.begin() as uow:
        for _ in range(2):
            closed = await stock_count.close(uow, count.id)
            assert (closed.status, closed.closed_at) == ("closed", uow.now)
    async with merchant.begin() as uow:
        mugs = await inventory.levels(uow, "MUG")
        moved = await stock_ledger.movements(uow, "MUG", MovementKind.COUNT)
    assert (mugs.backordered, mugs.in_stock) == (0, 4)
    assert [(m.on_hand_delta, m.location, m.reason) for m in moved.items] == [
        (6, "ROT", "behind the door")
    ]
    assert await check(merchant) == []
    async with merchant.begin() as uow:
        with pytest.raises(Conflict) as refused:
            await stock_count.reopen(uow, count.id)
        assert refused.value.extra["short"] == ["MUG"]
    told = await merchant.hot.fetch(
        "SELECT type, payload FROM outbox WHERE type LIKE 'StockCount%'"
    )
    assert [(row["type"], row["payload"]) for row in told] == [
        (
            "StockCounted",
            {
                "count_id": str(count.id),
                "location": "ROT",
                "counted": 3,
                "corrections": {"MUG": 6, "TEA": -1},
            },
        )
    ]


async def test_exactly_what_is_promised_may_be_left(merchant: Deps) -> None:
    for sku in ("MUG", "TEA"):
        await factories.product(merchant, sku, stock=10)
    await factories.placed_order(factories.guest(merchant), MUG=9)
    async with merchant.begin() as uow:
        count = await stock_count.start(uow, "HAM")
        await stock_count.record(uow, count.id, "TEA", 10)
        await stock_count.record(uow, count.id, "MUG", 9)
        await stock_count.close(uow, count.id)
        back = await stock_count.reopen(uow, count.id)
        assert (back.status, back.closed_at) == ("open", None)
        await stock_count.reopen(uow, count.id)
        assert (await stock_count.cancel(uow, count.id)).closed_at == uow.now
        await stock_count.reopen(uow, count.id)
    payloads = "SELECT payload FROM outbox WHERE type = 'StockCountReopened' ORDER BY seq"
    told = [row["payload"]["corrections"] for row in await merchant.hot.fetch(payloads)]
    assert told == [{"MUG": 1}, {}]
    async with merchant.begin() as uow:
        assert (await inventory.levels(uow, "MUG")).levels[0].on_hand == 10
    assert await check(merchant) == []


async def test_a_bundle_is_counted_by_its_parts_and_a_count_that_is_none_by_nobody(
    merchant: Deps,
) -> None:
    await factories.product(merchant, "MUG", stock=10)
    await factories.product(merchant, "SET", stock=0)
    async with merchant.begin() as uow:
        await bundle.define(uow, "SET", [BundlePartInput(sku="MUG")])
        count = await stock_count.start(uow, "HAM")
        with pytest.raises(Conflict):
            await stock_count.record(uow, count.id, "SET", 1)
        for ask in (
            stock_count.get,
            stock_count.close,
            stock_count.cancel,
            stock_count.reopen,
        ):
            with pytest.raises(NotFound, match="no such count") as refused:
                await ask(uow, new_id())
            assert refused.value.field == "count_id"
        for location in ("NOPE", ""):
            with pytest.raises(NotFound):
                await stock_count.start(uow, location)
