"""The ledger: movements, any day's stock, counts that correct it, and counters rebuilt from it."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from db.models.inventory import MovementKind, StockPolicy
from db.models.stock_count import CountStatus, StockRebuild
from db.types import OrderId, new_id
from deps.core import SYSTEM, Deps
from tests import factories
from tools import inventory, location, stock, stock_count, stock_ledger, transfer
from tools.errors import Conflict, IllegalTransition, InvalidInput, NotFound
from tools.invariant import check
from tools.page import ByTime
from tools.transfer import TransferUnits


def on_day(deps: Deps, day: int, hour: int = 12) -> Deps:
    at = datetime(2026, 3, day, hour, tzinfo=UTC)
    return replace(deps, clock=lambda: at)


async def stock_at(deps: Deps, at: datetime) -> dict[tuple[str, str], tuple[int, int]]:
    async with deps.begin() as uow:
        page = await stock_ledger.as_of(uow, at, limit=100)
    return {(past.sku, past.location): (past.on_hand, past.reserved) for past in page.items}


async def test_stock_as_of_any_time_is_the_same_with_snapshots_and_without(
    merchant: Deps,
) -> None:
    await factories.product(on_day(merchant, 1), "MUG", stock=10)
    await factories.product(on_day(merchant, 1), "TEA", title="Tea", stock=4)
    order_id = OrderId(new_id())
    async with on_day(merchant, 2).begin() as uow:
        await inventory.reserve(uow, order_id=order_id, units={"MUG": 3})
    async with on_day(merchant, 4).begin() as uow:
        await inventory.allocate(uow, order_id=order_id)
        await inventory.ship(uow, order_id=order_id)
    times = [datetime(2026, 3, day, hour, tzinfo=UTC) for day in range(1, 7) for hour in (0, 13)]
    without = [await stock_at(merchant, at) for at in times]
    mug = [found[("MUG", "HAM")] for found in without]
    assert mug == [(0, 0), *[(10, 0)] * 2, *[(10, 3)] * 4, *[(7, 0)] * 5]
    assert without[1][("TEA", "HAM")] == (4, 0)

    taken = [await stock_ledger.snapshot(on_day(merchant, day, 1)) for day in (2, 3, 3, 6)]
    assert taken == [2, 1, 0, 1], "a snapshot has a row for each level that moved since the last"
    assert [await stock_at(merchant, at) for at in times] == without
    async with merchant.begin() as uow:
        kept = await uow.fetch("SELECT levels FROM stock_snapshot_day ORDER BY day")
    assert [row["levels"] for row in kept] == [2, 1, 1]


async def test_a_day_is_closed_only_when_late_commits_are_in(merchant: Deps) -> None:
    await factories.product(on_day(merchant, 1), "MUG", stock=10)
    just_after = datetime(2026, 3, 2, 0, 4, tzinfo=UTC)
    early = replace(merchant, clock=lambda: just_after)
    assert await stock_ledger.snapshot(early) == 0
    later = replace(merchant, clock=lambda: just_after + timedelta(minutes=2))
    assert await stock_ledger.snapshot(later) == 1


async def test_as_of_pages_and_filters(merchant: Deps) -> None:
    for sku in ("A", "B"):
        await factories.product(merchant, sku, title=sku, stock=2)
        await factories.receive(merchant, sku, 3, "ROT")
    async with merchant.begin() as uow:
        found, cursor = [], None
        while True:
            page = await stock_ledger.as_of(uow, uow.now, limit=1, cursor=cursor)
            found += [(past.sku, past.location) for past in page.items]
            if (cursor := page.next_cursor) is None:
                break
        assert sorted(found) == [("A", "HAM"), ("A", "ROT"), ("B", "HAM"), ("B", "ROT")]
        only = await stock_ledger.as_of(uow, uow.now, sku="B", location_code="ROT")
        assert [(past.sku, past.on_hand) for past in only.items] == [("B", 3)]
        with pytest.raises(InvalidInput):
            await stock_ledger.as_of(uow, uow.now.replace(tzinfo=None))
        with pytest.raises(NotFound):
            await stock_ledger.as_of(uow, uow.now, sku="NOPE")


async def test_movements_are_filtered_by_kind_place_and_time(merchant: Deps) -> None:
    await factories.product(on_day(merchant, 1), "MUG", stock=10)
    await factories.product(on_day(merchant, 1), "TEA", title="Tea", stock=10)
    await factories.receive(on_day(merchant, 2), "MUG", 5, "ROT")
    for day in (3, 4):
        async with on_day(merchant, day).begin() as uow:
            await stock.adjust(uow, "MUG", "HAM", -1, "broken")

    async def days(**filters: object) -> list[int]:
        async with merchant.begin() as uow:
            found, cursor = [], None
            while True:
                page = await stock_ledger.movements(
                    uow,
                    "MUG",
                    limit=1,
                    cursor=cursor,
                    **filters,  # type: ignore[arg-type]
                )
                found += [item.occurred_at.day for item in page.items]
                if (cursor := page.next_cursor) is None:
                    return found

    async with merchant.begin() as uow:
        places = [item.location for item in (await stock_ledger.movements(uow, "MUG")).items]
        assert places == ["HAM", "HAM", "ROT", "HAM"]
        with pytest.raises(NotFound):
            await stock_ledger.movements(uow, "NONE")
    assert await days() == [4, 3, 2, 1]
    assert await days(kind=MovementKind.ADJUST) == [4, 3]
    assert await days(location_code="ROT") == [2]
    assert await days(sort=ByTime.OLDEST) == [1, 2, 3, 4]
    third = datetime(2026, 3, 3, 12, tzinfo=UTC)
    assert await days(since=third) == [4, 3]
    assert await days(until=third) == [2, 1]
    for bound in ("since", "until"):
        with pytest.raises(InvalidInput):
            await days(**{bound: third.replace(tzinfo=None)})


async def test_damaged_counters_are_named_and_rebuilt(merchant: Deps) -> None:
    await factories.product(merchant, "MUG", stock=10)
    await factories.placed_order(factories.guest(merchant), MUG=2)
    async with merchant.begin() as uow:
        assert (await stock_ledger.rebuild(uow, is_dry_run=True)).different == 0
    await factories.damage(
        merchant,
        "UPDATE stock_level SET on_hand = 99, allocated = 1",
        "UPDATE stock_item SET free = 55",
    )
    async with merchant.begin() as uow:
        dry = await stock_ledger.rebuild(uow, is_dry_run=True)
    found = {(d.counter, d.location): (d.stored, d.ledger) for d in dry.differences}
    assert found == {
        ("on_hand", "HAM"): (99, 10),
        ("allocated", "HAM"): (1, 2),
        ("free", None): (55, 8),
    }
    assert (dry.different, dry.is_changed) == (3, False)
    assert await check(merchant) != []
    async with merchant.begin() as uow:
        assert (await stock_ledger.rebuild(uow)).is_changed
    assert await check(merchant) == []
    async with merchant.begin() as uow:
        assert not (await stock_ledger.rebuild(uow)).is_changed
        kept = await uow.fetch(
            "SELECT actor_id, jsonb_array_length(differences) AS n FROM stock_rebuild ORDER BY id"
        )
    assert [(row["actor_id"] == merchant.actor.user_id, row["n"]) for row in kept] == [
        (True, 3),
        (True, 0),
    ]


async def test_a_single_wrong_counter_is_a_change(merchant: Deps) -> None:
    await factories.product(merchant, "MUG", stock=10)
    await factories.damage(merchant, "UPDATE stock_item SET free = 55")
    async with merchant.begin() as uow:
        done = await stock_ledger.rebuild(uow)
    assert (done.different, done.is_changed, len(done.differences)) == (1, True, 1)


async def test_lost_rows_are_rebuilt_too(merchant: Deps) -> None:
    await factories.product(merchant, "MUG", stock=10)
    await factories.damage(merchant, "DELETE FROM stock_level", "DELETE FROM stock_item")
    async with merchant.begin() as uow:
        assert (await stock_ledger.rebuild(uow)).is_changed
        assert (await inventory.levels(uow, "MUG")).available == 10
    assert await check(merchant) == []


async def _stored(deps: Deps) -> tuple[list[Any], list[Any]]:
    async with deps.begin() as uow:
        levels = await uow.fetch(
            """SELECT l.sku, p.code, on_hand, reserved, allocated, incoming, safety_stock
               FROM stock_level l JOIN location p ON p.id = l.location_id ORDER BY 1, 2"""
        )
        items = await uow.fetch("SELECT sku, free, backordered FROM stock_item ORDER BY 1")
    return [tuple(row) for row in levels], [tuple(row) for row in items]


async def test_each_counter_that_is_wrong_is_named_and_no_other_is_changed(merchant: Deps) -> None:
    for sku in ("MUG", "TEA", "POT", "CUP", "NEW"):
        await factories.product(merchant, sku, title=sku.title(), stock=0 if sku == "NEW" else 9)
        if sku != "NEW":
            await factories.receive(merchant, sku, 7, "ROT")
    await factories.receive(merchant, "POT", 4, "OLD")
    async with merchant.begin() as uow:
        await location.save(uow, "OLD", is_active=False)
        await stock.set_thresholds(uow, "MUG", "HAM", safety_stock=1)
        await stock.set_thresholds(uow, "CUP", "HAM", safety_stock=99)
        for sku in ("MUG", "TEA"):
            await stock.set_policy(uow, sku, StockPolicy.BACKORDER, 50)
        sold, held = OrderId(new_id()), OrderId(new_id())
        await inventory.reserve(uow, order_id=sold, units={"MUG": 10, "CUP": 2})
        await inventory.allocate(uow, order_id=sold)
        await inventory.reserve(uow, order_id=held, units={"MUG": 9, "TEA": 20, "POT": 3})
        moved = [TransferUnits(sku="CUP", quantity=3), TransferUnits(sku="POT", quantity=1)]
        sent = await transfer.create(uow, "ROT", "HAM", moved)
        await transfer.ship(uow, sent.id)
    assert await check(merchant) == []
    levels, items = await _stored(merchant)
    await factories.damage(
        merchant,
        """UPDATE stock_level SET on_hand = on_hand + 40, reserved = reserved + 1,
                                  allocated = allocated + 2, incoming = incoming + 3
           WHERE sku = 'CUP' AND location_id = (SELECT id FROM location WHERE code = 'HAM')""",
        """DELETE FROM stock_level
           WHERE sku = 'POT' AND location_id = (SELECT id FROM location WHERE code = 'ROT')""",
        "UPDATE stock_item SET free = 5, backordered = backordered + 6 WHERE sku = 'TEA'",
        "DELETE FROM stock_item WHERE sku = 'POT'",
        """INSERT INTO stock_level (sku, location_id, on_hand, reserved, allocated,
                                    reorder_point)
           SELECT 'NEW', id, 8, 0, 0, 0 FROM location WHERE code = 'ROT'""",
        "INSERT INTO stock_item (sku, free) VALUES ('NEW', 2)",
    )
    async with merchant.begin() as uow:
        dry = await stock_ledger.rebuild(uow, is_dry_run=True)
    assert [(d.sku, d.location, d.counter, d.stored, d.ledger) for d in dry.differences] == [
        ("CUP", "HAM", "allocated", 2, 0),
        ("CUP", "HAM", "incoming", 6, 3),
        ("CUP", "HAM", "on_hand", 49, 9),
        ("CUP", "HAM", "reserved", 1, 0),
        ("NEW", "ROT", "on_hand", 8, 0),
        ("NEW", None, "free", 2, 0),
        ("POT", "ROT", "on_hand", 0, 6),
        ("POT", None, "free", 0, 12),
        ("TEA", None, "backordered", 10, 4),
        ("TEA", None, "free", 5, 0),
    ]
    async with merchant.begin() as uow:
        assert (await stock_ledger.rebuild(uow)).is_changed
    after, rebuilt = await _stored(merchant)
    assert [row for row in after if row[0] != "NEW"] == levels
    assert [row for row in rebuilt if row[0] != "NEW"] == items
    assert [row for row in after + rebuilt if row[0] == "NEW"] == [
        ("NEW", "ROT", 0, 0, 0, 0, 0),
        ("NEW", 0, 0),
    ]


async def test_a_row_that_only_one_side_has_is_compared_with_nothing(merchant: Deps) -> None:
    for sku in ("MUG", "TEA", "POT", "CUP"):
        await factories.product(merchant, sku, title=sku.title(), stock=9 if sku == "MUG" else 0)
    await factories.receive(merchant, "MUG", 4, "ROT")
    async with merchant.begin() as uow:
        for sku in ("MUG", "CUP"):
            await stock.set_policy(uow, sku, StockPolicy.BACKORDER, 50)
        sold = OrderId(new_id())
        await inventory.reserve(uow, order_id=sold, units={"MUG": 2})
        await inventory.allocate(uow, order_id=sold)
        await inventory.reserve(uow, order_id=OrderId(new_id()), units={"MUG": 3})
        await inventory.reserve(uow, order_id=OrderId(new_id()), units={"CUP": 7})
        sent = await transfer.create(uow, "ROT", "HAM", [TransferUnits(sku="MUG", quantity=1)])
        await transfer.ship(uow, sent.id)
    await factories.damage(
        merchant,
        "DELETE FROM stock_level WHERE location_id = (SELECT id FROM location WHERE code = 'HAM')",
        "DELETE FROM stock_item WHERE sku = 'CUP'",
        """INSERT INTO stock_level (sku, location_id, on_hand, reserved, allocated, incoming,
                                    reorder_point)
           SELECT 'TEA', id, 8, 1, 2, 3, 0 FROM location WHERE code = 'ROT'""",
        "INSERT INTO stock_item (sku) VALUES ('TEA')",
        """INSERT INTO stock_item (sku, policy, backorder_limit, free, backordered)
           VALUES ('POT', 'backorder', 1, 2, 1)""",
    )
    async with merchant.begin() as uow:
        uow.session.add(StockRebuild(is_dry_run=True, started_at=uow.now))
        await uow.session.flush()
        dry = await stock_ledger.rebuild(uow, is_dry_run=True)
    assert [(d.sku, d.location, d.counter, d.stored, d.ledger) for d in dry.differences] == [
        ("CUP", None, "backordered", 0, 7),
        ("MUG", "HAM", "allocated", 0, 2),
        ("MUG", "HAM", "incoming", 0, 1),
        ("MUG", "HAM", "on_hand", 0, 9),
        ("MUG", "HAM", "reserved", 0, 3),
        ("POT", None, "backordered", 1, 0),
        ("POT", None, "free", 2, 0),
        ("TEA", "ROT", "allocated", 2, 0),
        ("TEA", "ROT", "incoming", 3, 0),
        ("TEA", "ROT", "on_hand", 8, 0),
        ("TEA", "ROT", "reserved", 1, 0),
    ]
    async with merchant.begin() as uow:
        await stock.set_policy(uow, "CUP", StockPolicy.BACKORDER, 7)  # It was lost with its row.
        assert (await stock_ledger.rebuild(uow)).is_changed
        assert (await stock_ledger.rebuild(uow)).different == 0
        listed = (await stock.list_levels(uow)).items
    assert [level.reorder_point for level in listed] == [0, 0, 0]


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE stock_item SET free = 99",
        "DELETE FROM stock_item",
        "UPDATE stock_level SET incoming = 1",
        "UPDATE stock_rebuild SET is_dry_run = true",
        "INSERT INTO stock_item (sku, free) VALUES ('NEW', 5)",
    ],
)
async def test_nothing_writes_counters_around_the_ledger(merchant: Deps, statement: str) -> None:
    await factories.product(merchant, "MUG", stock=5)
    async with merchant.begin() as uow:
        await stock_ledger.rebuild(uow)
    with pytest.raises(DBAPIError):
        async with merchant.acting_as(SYSTEM).begin() as uow:
            await uow.session.execute(text(statement))


async def test_a_count_corrects_by_what_was_wrong_when_it_was_counted(merchant: Deps) -> None:
    await factories.product(merchant, "MUG", stock=10)
    await factories.product(merchant, "TEA", title="Tea", stock=5)
    async with merchant.begin() as uow:
        count = await stock_count.start(uow, "HAM", "aisle 3")
        await stock_count.record(uow, count.id, "MUG", 12)
        await stock_count.record(uow, count.id, "MUG", 8)
        seen = await stock_count.record(uow, count.id, "TEA", 5)
    assert [(line.sku, line.expected, line.counted, line.difference) for line in seen.lines] == [
        ("MUG", 10, 8, -2),
        ("TEA", 5, 5, 0),
    ]
    await factories.placed_order(factories.guest(merchant), MUG=3)  # While the shelf is counted.
    async with merchant.begin() as uow:
        await stock.receive(uow, "MUG", "HAM", 4)
        closed = await stock_count.close(uow, count.id)
        assert await stock_count.close(uow, count.id) == closed
        mug = (await inventory.levels(uow, "MUG")).levels[0]
        page = await stock_ledger.movements(uow, "MUG", MovementKind.COUNT)
    assert (mug.on_hand, mug.allocated, mug.available) == (12, 3, 9)
    assert [(item.on_hand_delta, item.reference_id) for item in page.items] == [(-2, count.id)]
    assert await check(merchant) == []


async def test_a_count_may_not_take_what_is_promised(merchant: Deps) -> None:
    await factories.product(merchant, "MUG", stock=10)
    await factories.placed_order(factories.guest(merchant), MUG=9)
    async with merchant.begin() as uow:
        count = await stock_count.start(uow, "HAM")
        await stock_count.record(uow, count.id, "MUG", 8)
    with pytest.raises(Conflict) as refused:
        async with merchant.begin() as uow:
            await stock_count.close(uow, count.id)
    assert refused.value.extra["short"] == ["MUG"]
    async with merchant.begin() as uow:
        assert (await stock_count.get(uow, count.id)).status == "open"
        cancelled = await stock_count.cancel(uow, count.id)
        assert (cancelled.status, (await stock_count.cancel(uow, count.id)).status) == (
            "cancelled",
            "cancelled",
        )
        with pytest.raises(IllegalTransition):
            await stock_count.record(uow, count.id, "MUG", 10)
        with pytest.raises(IllegalTransition):
            await stock_count.close(uow, count.id)
        assert (await inventory.levels(uow, "MUG")).levels[0].on_hand == 10


async def test_counts_are_listed_and_wrong_ones_refused(merchant: Deps) -> None:
    await factories.product(merchant, "MUG", stock=1)
    await factories.receive(merchant, "MUG", 1, "ROT")
    async with merchant.begin() as uow:
        first = await stock_count.start(uow, "HAM")
        second = await stock_count.start(uow, "ROT")
        await stock_count.close(uow, first.id)
        page = await stock_count.show(uow, limit=1)
        assert [item.id for item in page.items] == [second.id]
        rest = await stock_count.show(uow, limit=1, cursor=page.next_cursor)
        assert ([item.id for item in rest.items], rest.next_cursor) == ([first.id], None)
        assert [c.id for c in (await stock_count.show(uow, CountStatus.OPEN)).items] == [second.id]
        assert [c.id for c in (await stock_count.show(uow, location="HAM")).items] == [first.id]
        for arguments, error in (
            ((new_id(), "MUG", 1), NotFound),
            ((second.id, "NOPE", 1), NotFound),
            ((second.id, "MUG", -1), InvalidInput),
        ):
            with pytest.raises(error):
                await stock_count.record(uow, *arguments)
