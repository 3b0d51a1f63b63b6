"""What every step with stock writes: each movement, what an order has, what is told of it."""

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from typing import Any

import asyncpg
import pytest

from db.models.inventory import StockPolicy
from db.types import OrderId, new_id
from deps.core import Deps
from tests import factories
from tools import bundle, inventory, location, reallocation, stock
from tools.bundle import BundlePartInput
from tools.errors import Conflict, OutOfStock
from tools.invariant import check

# The deltas of a movement by the words used here.
COUNTERS = {
    "on_hand_delta": "here",
    "reserved_delta": "held",
    "allocated_delta": "sold",
    "incoming_delta": "coming",
    "backordered_delta": "owed",
}
DUE = date(2026, 3, 31)
NOW = datetime(2026, 2, 1, 12, tzinfo=UTC)


class Shop:
    """Three mugs in HAM, two in ROT and up to nine promised; nine teas in HAM.

    `other` is an order that has a mug and a tea all the time, as nobody does anything with it.
    """

    other: OrderId

    def __init__(self, deps: Deps) -> None:
        self.deps = replace(deps, clock=lambda: NOW)
        self.seen: dict[OrderId, int] = {}

    async def open(self) -> None:
        await factories.product(self.deps, "MUG", stock=3)
        await factories.receive(self.deps, "MUG", 2, "ROT")
        await factories.product(self.deps, "TEA", title="Tea", stock=9)
        async with self.deps.begin() as uow:
            await stock.set_policy(uow, "MUG", StockPolicy.BACKORDER, 9, DUE)
        self.other = await self.reserve(MUG=1, TEA=1)

    async def reserve(self, **units: int) -> OrderId:
        order_id = OrderId(new_id())
        async with self.deps.begin() as uow:
            await inventory.reserve(uow, order_id=order_id, units=units)
        return order_id

    async def receive(self, sku: str, location: str, units: int) -> None:
        async with self.deps.begin() as uow:
            await stock.receive(uow, sku, location, units)

    async def step(self, name: str, order_id: OrderId, **more: Any) -> None:
        async with self.deps.begin() as uow:
            await getattr(inventory, name)(uow, order_id=order_id, **more)

    async def moved(self, order_id: OrderId) -> list[str]:
        """Say what moved for an order since the last look, all of it by us and now."""
        async with self.deps.begin() as uow:
            rows = await uow.fetch(
                """SELECT m.*, p.code FROM stock_movement m
                   LEFT JOIN location p ON p.id = m.location_id
                   WHERE m.reference_id = $1 AND m.id > $2 ORDER BY m.id""",
                order_id,
                self.seen.get(order_id, 0),
            )
        for row in rows:
            assert (row["actor_id"], row["occurred_at"]) == (
                self.deps.actor.user_id,
                self.deps.clock(),
            )
            self.seen[order_id] = row["id"]
        return [_said(row) for row in rows]

    async def has(self, order_id: OrderId) -> tuple[str, list[str], list[str]]:
        """Say how an order stands, what it has and what it waits for."""
        async with self.deps.begin() as uow:
            status = await uow.fetchval("SELECT status FROM reservation WHERE id = $1", order_id)
            lines = await uow.fetch(
                """SELECT l.sku || ' ' || p.code || ' ' || l.quantity AS line
                   FROM reservation_line l JOIN location p ON p.id = l.location_id
                   WHERE l.reservation_id = $1 ORDER BY 1""",
                order_id,
            )
            owed = await uow.fetch(
                "SELECT * FROM backorder WHERE reservation_id = $1 ORDER BY sku", order_id
            )
        waits = []
        for row in owed:
            assert row["promised_for"] == DUE
            waits.append(f"{row['sku']} {row['quantity']}{'' if row['is_open'] else ' no more'}")
        return status, [row["line"] for row in lines], waits

    async def told(self, order_id: OrderId) -> list[tuple[int, int]]:
        """Return units that came and units still owed, as it was told."""
        async with self.deps.begin() as uow:
            rows = await uow.fetch(
                """SELECT * FROM outbox WHERE type = 'BackorderFilled' AND aggregate_id = $1
                   AND aggregate_type = 'order' AND schema_version = 1 ORDER BY seq""",
                order_id,
            )
        found = []
        for row in rows:
            assert (row["actor_id"], row["actor_role"]) == (self.deps.actor.user_id, "system")
            told = dict(row["payload"])
            found.append((told.pop("quantity"), told.pop("open_quantity")))
            assert told == {"order_id": str(order_id), "sku": "MUG"}
        return found


def _said(row: Mapping[str, Any]) -> str:
    deltas = [f"{word}{row[name]:+}" for name, word in COUNTERS.items() if row[name]]
    return " ".join([row["kind"], row["sku"], row["code"] or "nowhere", *deltas])


@pytest.fixture
async def shop(merchant: Deps) -> Shop:
    shop = Shop(merchant)
    await shop.open()
    return shop


OTHERS: tuple[str, list[str], list[str]] = ("held", ["MUG HAM 1", "TEA HAM 1"], [])


async def test_a_hold_takes_what_is_here_and_waits_for_the_rest(shop: Shop) -> None:
    order_id = await shop.reserve(MUG=6, TEA=2)
    assert await shop.moved(order_id) == [
        "backorder MUG nowhere owed+2",
        "reserve MUG HAM held+2",
        "reserve MUG ROT held+2",
        "reserve TEA HAM held+2",
    ]
    assert await shop.has(order_id) == ("held", ["MUG HAM 2", "MUG ROT 2", "TEA HAM 2"], ["MUG 2"])
    assert await shop.has(shop.other) == OTHERS
    assert await check(shop.deps) == []


async def test_as_many_are_promised_as_may_be_and_what_never_came_is_named(shop: Shop) -> None:
    await factories.product(shop.deps, "NEW", title="New", stock=0)
    with pytest.raises(OutOfStock) as refused:
        await shop.reserve(MUG=1, NEW=1, TEA=1)
    assert refused.value.extra["sku"] == "NEW"
    order_id = await shop.reserve(MUG=4 + 9)
    assert await shop.has(order_id) == ("held", ["MUG HAM 2", "MUG ROT 2"], ["MUG 9"])
    with pytest.raises(OutOfStock) as refused:
        await shop.reserve(MUG=1, TEA=1)
    assert refused.value.extra["sku"] == "MUG"
    assert await check(shop.deps) == []


async def test_what_arrives_goes_to_who_waits_and_what_was_paid_for_is_sold(shop: Shop) -> None:
    order_id = await shop.reserve(MUG=6, TEA=2)
    await shop.moved(order_id)
    await shop.receive("MUG", "HAM", 1)
    assert await shop.moved(order_id) == ["fill MUG HAM held+1 owed-1"]
    assert await shop.has(order_id) == ("held", ["MUG HAM 3", "MUG ROT 2", "TEA HAM 2"], ["MUG 1"])
    for _ in range(2):  # Again changes nothing.
        await shop.step("allocate", order_id)
    assert await shop.moved(order_id) == [
        "allocate MUG HAM held-3 sold+3",
        "allocate MUG ROT held-2 sold+2",
        "allocate TEA HAM held-2 sold+2",
    ]
    with pytest.raises(Conflict):
        await shop.step("ship", order_id)
    await shop.receive("MUG", "ROT", 5)
    assert await shop.moved(order_id) == ["fill MUG ROT sold+1 owed-1"]
    assert await shop.has(order_id) == (
        "allocated",
        ["MUG HAM 3", "MUG ROT 3", "TEA HAM 2"],
        ["MUG 0 no more"],
    )
    assert await shop.told(order_id) == [(1, 1), (1, 0)]
    assert await shop.has(shop.other) == OTHERS
    assert await check(shop.deps) == []


async def test_what_leaves_is_neither_here_nor_sold_until_it_had_not_left(shop: Shop) -> None:
    order_id = await shop.reserve(MUG=4, TEA=2)
    with pytest.raises(Conflict):
        await shop.step("ship", order_id)
    await shop.step("allocate", order_id)
    with pytest.raises(Conflict):
        await shop.step("unship", shop.other)
    await shop.step("unship", order_id)
    await shop.moved(order_id)
    for _ in range(2):
        await shop.step("ship", order_id)
    assert await shop.moved(order_id) == [
        "ship MUG HAM here-2 sold-2",
        "ship MUG ROT here-2 sold-2",
        "ship TEA HAM here-2 sold-2",
    ]
    await shop.step("allocate", order_id)
    await shop.step("release", order_id, reason="too late")
    lines = ["MUG HAM 2", "MUG ROT 2", "TEA HAM 2"]
    assert await shop.has(order_id) == ("shipped", lines, [])
    for _ in range(2):
        await shop.step("unship", order_id)
    assert await shop.moved(order_id) == [
        "ship MUG HAM here+2 sold+2",
        "ship MUG ROT here+2 sold+2",
        "ship TEA HAM here+2 sold+2",
    ]
    assert await shop.has(order_id) == ("allocated", lines, [])
    assert await shop.has(shop.other) == OTHERS
    assert await check(shop.deps) == []


@pytest.mark.parametrize(
    ("is_paid", "kind", "was"), [(0, "release", "held"), (1, "deallocate", "sold")]
)
async def test_what_is_let_go_goes_to_who_waits(
    shop: Shop, is_paid: int, kind: str, was: str
) -> None:
    order_id = await shop.reserve(MUG=6, TEA=2)
    if is_paid:
        await shop.step("allocate", order_id)
    await shop.moved(order_id)
    for _ in range(2):
        await shop.step("release", order_id, reason="no more")
    assert await shop.moved(order_id) == [
        f"{kind} MUG HAM {was}-2",
        f"{kind} MUG ROT {was}-2",
        f"{kind} MUG nowhere owed-2",
        f"{kind} TEA HAM {was}-2",
    ]
    assert await shop.has(order_id) == (
        "released",
        ["MUG HAM 2", "MUG ROT 2", "TEA HAM 2"],
        ["MUG 2 no more"],
    )
    first = await shop.reserve(MUG=4)
    waiting = await shop.reserve(MUG=1)
    await shop.moved(waiting)
    await shop.step("release", first, reason="no more")
    assert await shop.moved(waiting) == ["fill MUG HAM held+1 owed-1"]
    assert await shop.has(waiting) == ("held", ["MUG HAM 1"], ["MUG 0 no more"])
    assert await shop.told(waiting) == [(1, 0)]
    assert await shop.has(shop.other) == OTHERS
    assert await check(shop.deps) == []


async def test_only_a_hold_that_is_due_expires(shop: Shop) -> None:
    due, paid, lasting = [await shop.reserve(TEA=1) for _ in range(3)]
    await shop.step("allocate", paid)
    await shop.moved(due)
    end = NOW + inventory.HOLD_TTL

    async def expires(order_id: OrderId, at: datetime) -> bool:
        async with shop.deps.begin() as uow:
            expire = "SELECT stock_release($1, 'expire', $2, $3)"
            return bool(await uow.fetchval(expire, order_id, shop.deps.actor.user_id, at))

    assert not await expires(due, end - timedelta(microseconds=1))
    assert not await expires(paid, end)
    assert not await expires(OrderId(new_id()), end)
    shop.deps = replace(shop.deps, clock=lambda: end)
    assert await expires(due, end)
    assert not await expires(due, end)
    assert await shop.moved(due) == ["expire TEA HAM held-1"]
    assert await shop.has(due) == ("expired", ["TEA HAM 1"], [])
    assert await shop.has(paid) == ("allocated", ["TEA HAM 1"], [])
    assert await shop.has(lasting) == ("held", ["TEA HAM 1"], [])
    assert await check(shop.deps) == []


async def test_what_was_let_go_is_taken_anew_from_what_is_left(shop: Shop) -> None:
    await factories.product(shop.deps, "POT", title="Pot", stock=0)
    async with shop.deps.begin() as uow:
        await stock.set_policy(uow, "POT", StockPolicy.BACKORDER, 9, DUE)
    waiting = await shop.reserve(POT=2)
    order_id = await shop.reserve(MUG=5, TEA=2)
    await shop.step("release", order_id, reason="too late")
    had = await shop.has(order_id)
    await shop.reserve(MUG=3)
    rival = await shop.reserve(TEA=7)
    await shop.moved(order_id)
    with pytest.raises(OutOfStock) as refused:
        await shop.step("allocate", order_id)
    assert refused.value.extra["sku"] == "TEA"
    assert (await shop.moved(order_id), await shop.has(order_id)) == ([], had)
    await shop.step("release", rival, reason="no more")
    await shop.step("allocate", order_id)
    assert await shop.moved(order_id) == [
        "backorder MUG nowhere owed+4",
        "reserve MUG ROT held+1",
        "reserve TEA HAM held+2",
        "allocate MUG ROT held-1 sold+1",
        "allocate TEA HAM held-2 sold+2",
    ]
    assert await shop.has(order_id) == ("allocated", ["MUG ROT 1", "TEA HAM 2"], ["MUG 4"])
    assert await shop.has(waiting) == ("held", [], ["POT 2"])
    assert await shop.has(shop.other) == OTHERS
    with pytest.raises(asyncpg.RaiseError, match="never reserved"):
        await shop.step("allocate", OrderId(new_id()))
    assert await check(shop.deps) == []


async def test_who_pays_after_the_hold_lapsed_gets_what_came_meanwhile(shop: Shop) -> None:
    order_id = await shop.reserve(MUG=6)
    shop.deps = factories.later(shop.deps, minutes=15)
    await shop.receive("MUG", "HAM", 2)
    assert await shop.has(order_id) == ("held", ["MUG HAM 2", "MUG ROT 2"], ["MUG 2"])
    await shop.step("allocate", order_id)
    assert await shop.has(order_id) == ("allocated", ["MUG HAM 4", "MUG ROT 2"], ["MUG 0 no more"])
    assert await check(shop.deps) == []


async def define(shop: Shop, name: str, **parts: int) -> None:
    units = [BundlePartInput(sku=sku, quantity=quantity) for sku, quantity in parts.items()]
    async with shop.deps.begin() as uow:
        await bundle.define(uow, name, units)


async def test_the_bundle_whose_part_is_short_is_named_and_none_of_another_order(
    shop: Shop,
) -> None:
    for name in ("ABOX", "MUGS", "SET"):
        await factories.product(shop.deps, name, title=name.title(), stock=0)
    await define(shop, "ABOX", TEA=1)
    await define(shop, "MUGS", MUG=2)
    await define(shop, "SET", MUG=1, TEA=2)
    await shop.reserve(ABOX=1)
    order_id = await shop.reserve(MUGS=1, SET=1)
    assert (await shop.has(order_id))[1] == ["MUG HAM 2", "MUG ROT 1", "TEA HAM 2"]
    await shop.step("release", order_id, reason="too late")
    await shop.reserve(TEA=6)
    with pytest.raises(OutOfStock) as refused:
        await shop.step("allocate", order_id)
    assert refused.value.extra["sku"] == "SET"
    with pytest.raises(OutOfStock) as refused:
        await shop.reserve(MUGS=1, SET=1)
    assert refused.value.extra["sku"] == "SET"


async def swap(shop: Shop, order_id: OrderId, removed: dict[str, int], **added: int) -> None:
    change_id = await shop.reserve(**added)
    async with shop.deps.begin() as uow:
        await reallocation.swap(
            uow, order_id=order_id, change_id=change_id, removed=removed, added=added
        )
    async with shop.deps.begin() as uow:
        left = "SELECT count(*) FROM reservation WHERE id = $1"
        assert await uow.fetchval(left, change_id) == 0


async def test_a_change_gives_up_what_is_owed_first_and_is_inherited(shop: Shop) -> None:
    order_id = await shop.reserve(MUG=6, TEA=2)
    await shop.step("allocate", order_id)
    await shop.moved(order_id)
    with pytest.raises(asyncpg.RaiseError, match="too few units"):
        await swap(shop, order_id, {"MUG": 7}, TEA=1)
    assert await shop.moved(order_id) == []
    await swap(shop, order_id, {"MUG": 3, "TEA": 1}, MUG=1, TEA=3)
    assert await shop.moved(order_id) == [
        "release MUG nowhere owed-2",
        "deallocate MUG HAM sold-1",
        "deallocate TEA HAM sold-1",
        "fill MUG HAM sold+1 owed-1",
    ]
    lines = ["MUG HAM 2", "MUG ROT 2", "TEA HAM 4"]
    assert await shop.has(order_id) == ("allocated", lines, ["MUG 0 no more"])
    assert await shop.has(shop.other) == OTHERS
    await swap(shop, order_id, {"MUG": 3}, TEA=1)
    assert await shop.has(order_id) == ("allocated", ["MUG ROT 1", "TEA HAM 5"], ["MUG 0 no more"])
    assert await check(shop.deps) == []


async def test_what_a_change_waits_for_the_order_waits_for(shop: Shop) -> None:
    order_id = await shop.reserve(TEA=2)
    await shop.step("allocate", order_id)
    waiting = await shop.reserve(MUG=5)
    await swap(shop, order_id, {"TEA": 1}, MUG=2)
    assert await shop.has(order_id) == ("allocated", ["TEA HAM 1"], ["MUG 2"])
    assert await shop.has(waiting) == ("held", ["MUG HAM 2", "MUG ROT 2"], ["MUG 1"])
    await swap(shop, order_id, {"MUG": 1}, MUG=3)
    assert await shop.has(order_id) == ("allocated", ["TEA HAM 1"], ["MUG 4"])
    assert await check(shop.deps) == []


async def test_a_changed_bundle_is_what_it_is_now_and_its_parts_go_to_who_waits(
    shop: Shop,
) -> None:
    for name in ("BOX", "SET"):
        await factories.product(shop.deps, name, title=name.title(), stock=0)
    await define(shop, "BOX", TEA=1)
    await define(shop, "SET", MUG=2, TEA=1)
    other = await shop.reserve(SET=1)
    order_id = await shop.reserve(BOX=1, SET=1)
    await shop.step("allocate", order_id)
    await define(shop, "SET", MUG=1, TEA=2)
    await swap(shop, order_id, {"SET": 1}, SET=1)

    async def consists(of: OrderId) -> list[str]:
        async with shop.deps.begin() as uow:
            parts = await uow.fetch(
                """SELECT bundle_sku || ' ' || part_sku || ' ' || quantity AS part
                   FROM reservation_bundle WHERE reservation_id = $1 ORDER BY 1""",
                of,
            )
        return [row["part"] for row in parts]

    assert await consists(order_id) == ["BOX TEA 1", "SET MUG 1", "SET TEA 2"]
    assert await consists(other) == ["SET MUG 2", "SET TEA 1"]
    assert await shop.has(order_id) == (
        "allocated",
        ["MUG ROT 1", "TEA HAM 3"],
        ["MUG 0 no more"],
    )
    assert await check(shop.deps) == []


async def test_an_exchange_ships_the_new_and_forgets_the_old_that_left(shop: Shop) -> None:
    order_id = await shop.reserve(MUG=3, TEA=1)
    for name in ("allocate", "ship"):
        await shop.step(name, order_id)
    change_id = await shop.reserve(TEA=2)
    await shop.step("allocate", change_id)
    await shop.moved(order_id)
    async with shop.deps.begin() as uow:
        await reallocation.swap_shipped(
            uow, order_id=order_id, change_id=change_id, removed={"MUG": 2}
        )
    assert (await shop.moved(order_id), (await shop.moved(change_id))[-1]) == (
        [],
        "ship TEA HAM here-2 sold-2",
    )
    assert await shop.has(order_id) == ("shipped", ["MUG ROT 1", "TEA HAM 3"], [])
    assert await check(shop.deps) == []


async def test_every_crossing_is_told_once_and_nothing_else(merchant: Deps) -> None:
    product_id = await factories.product(merchant, "MUG", stock=0)
    shop = Shop(merchant)
    seen = 0

    async def told() -> list[tuple[str, str, int]]:
        nonlocal seen
        async with shop.deps.begin() as uow:
            item = await uow.fetchval("SELECT id FROM stock_item WHERE sku = 'MUG'")
            rows = await uow.fetch(
                """SELECT * FROM outbox WHERE aggregate_type = 'stock' AND aggregate_id = $1
                   AND aggregate_seq > $2 AND schema_version = 1 ORDER BY aggregate_seq""",
                item,
                seen,
            )
        found = []
        for row in rows:
            seen += 1
            assert (row["actor_id"], row["actor_role"]) == (merchant.actor.user_id, "system")
            assert (row["aggregate_seq"], row["occurred_at"]) == (seen, NOW)
            payload = dict(row["payload"])
            found.append((row["type"], payload.pop("location"), payload.pop("available")))
            assert payload == {"stock_id": str(item), "product_id": str(product_id), "sku": "MUG"}
        return found

    await factories.receive(shop.deps, "TEA", 1)
    await shop.receive("MUG", "HAM", 3)
    assert await told() == [], "what is new is not back"
    async with shop.deps.begin() as uow:
        await stock.set_thresholds(uow, "MUG", "HAM", reorder_point=1)
        await location.save(uow, "ROT", name="Rotterdam", priority=9)
        await location.save(uow, "OLD", name="The old barn", is_active=False)
    await shop.reserve(MUG=2)
    assert await told() == [("StockLow", "HAM", 1)]
    last = await shop.reserve(MUG=1)
    assert await told() == [("SoldOut", "", 0)]
    await shop.step("release", last, reason="no more")
    assert await told() == [("BackInStock", "", 1)]
    await shop.receive("MUG", "HAM", 1)
    await shop.receive("MUG", "OLD", 9)
    assert await told() == []
    await shop.reserve(MUG=1)
    assert await told() == [("StockLow", "HAM", 1)]
    await shop.receive("MUG", "ROT", 2)
    await shop.reserve(MUG=2)
    assert await told() == []
    await shop.reserve(MUG=1)
    assert await told() == [("SoldOut", "", 0)]
    async with shop.deps.begin() as uow:
        await stock.set_policy(uow, "MUG", StockPolicy.BACKORDER, 3)
    await shop.reserve(MUG=2)
    await shop.receive("MUG", "HAM", 1)
    assert await told() == []
    await shop.receive("MUG", "HAM", 3)
    assert await told() == [("BackInStock", "", 2)]
    assert await check(shop.deps) == []
