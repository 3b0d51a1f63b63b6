"""What every step with stock writes: each movement, what an order has, what is told of it."""

from dataclasses import replace
from datetime import datetime, timedelta

import asyncpg
import pytest

from db.models.inventory import StockPolicy
from db.types import OrderId, new_id
from deps.core import Deps
from tests import factories
from tests.stockroom import DUE, NOW, OTHERS, Shop
from tools import inventory, location, stock
from tools.errors import Conflict, OutOfStock
from tools.invariant import check


@pytest.fixture
async def shop(merchant: Deps) -> Shop:
    shop = Shop(merchant)
    await shop.open()
    return shop


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
    waiting = await shop.reserve(MUG=1)
    with pytest.raises(Conflict):
        await shop.step("ship", order_id)
    await shop.step("allocate", order_id)
    for never_shipped in (shop.other, OrderId(new_id())):
        with pytest.raises(Conflict):
            await shop.step("unship", never_shipped)
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
    assert await shop.has(waiting) == ("held", [], ["MUG 1"])
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
    await shop.step("release", waiting, reason="no more")
    assert await shop.moved(waiting) == ["release MUG HAM held-1"]
    assert await shop.has(shop.other) == OTHERS
    assert await check(shop.deps) == []


async def test_who_waits_is_served_by_the_only_one_who_had_any(shop: Shop) -> None:
    await factories.product(shop.deps, "POT", title="Pot", stock=1)
    had = await shop.reserve(POT=1)
    async with shop.deps.begin() as uow:
        await stock.set_policy(uow, "POT", StockPolicy.BACKORDER, 9, DUE)
    waiting = await shop.reserve(POT=1)
    await shop.step("release", had, reason="no more")
    assert await shop.has(waiting) == ("held", ["POT HAM 1"], ["POT 0 no more"])


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
    await shop.step("allocate", shop.other)
    shop.deps = factories.later(shop.deps, minutes=15)
    await shop.receive("MUG", "HAM", 2)
    assert await shop.has(order_id) == ("held", ["MUG HAM 2", "MUG ROT 2"], ["MUG 2"])
    await shop.step("allocate", order_id)
    assert await shop.has(order_id) == ("allocated", ["MUG HAM 4", "MUG ROT 2"], ["MUG 0 no more"])
    assert await check(shop.deps) == []


async def test_the_bundle_whose_part_is_short_is_named_and_none_of_another_order(
    shop: Shop,
) -> None:
    for name in ("ABOX", "MUGS", "SET"):
        await factories.product(shop.deps, name, title=name.title(), stock=0)
    await shop.define("ABOX", TEA=1)
    await shop.define("MUGS", MUG=2)
    await shop.define("SET", MUG=1, TEA=2)
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


async def test_every_crossing_is_told_once_and_nothing_else(merchant: Deps) -> None:
    """What `stock_movement_apply` tells with `stock_announce`."""
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
