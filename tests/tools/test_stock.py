"""What staff say about stock: policies, thresholds, bundles, and what crossings announce."""

from dataclasses import replace
from datetime import date, timedelta
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError

from db.models.inventory import StockPolicy
from db.types import OrderId, new_id
from deps.core import Deps
from tests import factories
from tools import bundle, inventory, location, stock
from tools.bundle import BundlePartInput
from tools.errors import Conflict, InvalidInput, NotFound, OutOfStock
from tools.invariant import check
from tools.stock import Sort
from tools.stock_ledger import AdjustReason


async def reserve(deps: Deps, to: dict[str, str] | None = None, **units: int) -> OrderId:
    order_id = OrderId(new_id())
    async with deps.begin() as uow:
        await inventory.reserve(uow, order_id=order_id, units=units, destination=to)
    return order_id


async def where(deps: Deps, order_id: OrderId) -> dict[tuple[str, str], int]:
    """Return the units of a reservation by SKU and location."""
    async with deps.begin() as uow:
        rows = await uow.fetch(
            """SELECT r.sku, l.code, r.quantity FROM reservation_line r
               JOIN location l ON l.id = r.location_id WHERE reservation_id = $1""",
            order_id,
        )
    return {(row["sku"], row["code"]): row["quantity"] for row in rows}


async def announced(deps: Deps, *types: str) -> list[tuple[str, dict[str, Any]]]:
    async with deps.begin() as uow:
        rows = await uow.session.execute(
            text("SELECT type, payload FROM outbox WHERE type = ANY(:types) ORDER BY seq"),
            {"types": list(types)},
        )
        return [(row.type, row.payload) for row in rows]


async def set_policy(merchant: Deps, policy: str, limit: int = 0, on: date | None = None) -> None:
    async with merchant.begin() as uow:
        await stock.set_policy(uow, "MUG", StockPolicy(policy), limit, on)


async def places(merchant: Deps) -> None:
    await factories.product(merchant, "MUG", stock=3, location="HAM")
    await factories.product(merchant, "TEA", title="Tea", stock=9, location="MAD")
    await factories.receive(merchant, "MUG", 9, "MAD")
    await factories.receive(merchant, "TEA", 1, "HAM")
    async with merchant.begin() as uow:
        await location.save(uow, "HAM", priority=1, latitude=53.55, longitude=9.99)
        await location.save(uow, "MAD", priority=2, latitude=40.42, longitude=-3.70)


async def test_a_backorder_is_promised_within_its_cap_and_filled_oldest_first(
    merchant: Deps,
) -> None:
    await factories.product(merchant, "MUG", stock=1)
    await set_policy(merchant, "backorder", 4)
    first, second = await reserve(merchant, MUG=3), await reserve(merchant, MUG=2)
    with pytest.raises(OutOfStock):
        await reserve(merchant, MUG=1)
    async with merchant.begin() as uow:
        seen = await stock.receive(uow, "MUG", "HAM", 3, "delivery note 1")
    assert (seen.available, seen.in_stock, seen.backordered) == (3, 0, 1)
    assert await where(merchant, first) == {("MUG", "HAM"): 3}
    assert await where(merchant, second) == {("MUG", "HAM"): 1}
    filled = await announced(merchant, "BackorderFilled")
    assert [(p["order_id"], p["quantity"], p["open_quantity"]) for _, p in filled] == [
        (str(first), 2, 0),
        (str(second), 1, 1),
    ]
    async with merchant.begin() as uow:
        await inventory.allocate(uow, order_id=second)
    with pytest.raises(Conflict):
        async with merchant.begin() as uow:
            await inventory.ship(uow, order_id=second)
    async with merchant.begin() as uow:
        await inventory.release(uow, order_id=first, reason="no more")
        await inventory.ship(uow, order_id=second)
    assert await check(merchant) == []


async def test_a_single_unit_goes_to_who_waits_as_soon_as_it_arrives(merchant: Deps) -> None:
    await factories.product(merchant, "MUG", stock=0)
    await set_policy(merchant, "backorder", 1)
    order_id = await reserve(merchant, MUG=1)
    async with merchant.begin() as uow:
        await location.save(uow, "HAM", name="Hamburg")
        assert (await stock.receive(uow, "MUG", "HAM", 1)).backordered == 0
    assert await where(merchant, order_id) == {("MUG", "HAM"): 1}


async def test_the_schema_itself_refuses_a_promise_beyond_the_cap(merchant: Deps) -> None:
    await factories.product(merchant, "MUG", stock=1)
    await set_policy(merchant, "backorder", 4)
    with pytest.raises(IntegrityError, match="within_the_cap"):
        async with merchant.begin() as uow:
            await uow.session.execute(
                text("""INSERT INTO stock_movement (sku, kind, on_hand_delta, reserved_delta,
                          allocated_delta, backordered_delta, reason, occurred_at)
                        VALUES ('MUG', 'backorder', 0, 0, 0, 5, '', now())""")
            )


async def test_a_cap_below_what_is_promised_is_refused(merchant: Deps) -> None:
    await factories.product(merchant, "MUG", stock=0)
    await set_policy(merchant, "backorder", 5)
    await reserve(merchant, MUG=3)
    for policy, limit in (("deny", 0), ("backorder", 2)):
        with pytest.raises(Conflict) as refused:
            await set_policy(merchant, policy, limit)
        assert refused.value.extra["promised"] == 3
    await set_policy(merchant, "backorder", 3)
    with pytest.raises(OutOfStock):
        await reserve(merchant, MUG=1)


async def test_a_preorder_ends_on_its_date(merchant: Deps) -> None:
    await factories.product(merchant, "MUG", stock=0)
    day = merchant.clock().date() + timedelta(days=10)
    await set_policy(merchant, "preorder", 5, day)
    order_id = await reserve(merchant, MUG=2)
    async with merchant.begin() as uow:
        seen = await inventory.levels(uow, "MUG")
        promised = await uow.fetchval(
            "SELECT promised_for FROM backorder WHERE reservation_id = $1", order_id
        )
    assert (seen.available, seen.available_on, promised) == (3, day, day)
    late = factories.later(merchant, days=10)
    with pytest.raises(OutOfStock):
        await reserve(late, MUG=1)
    async with late.begin() as uow:
        assert (await inventory.levels(uow, "MUG")).available == 0


@pytest.mark.parametrize(
    ("policy", "limit", "on"),
    [("deny", 1, None), ("backorder", 0, None), ("preorder", 3, None), ("preorder", 3, "past")],
)
async def test_policies_that_say_nothing_are_refused(
    merchant: Deps, policy: str, limit: int, on: str | None
) -> None:
    await factories.product(merchant, "MUG", stock=0)
    with pytest.raises(InvalidInput):
        await set_policy(merchant, policy, limit, merchant.clock().date() if on else None)


async def test_numbers_are_taken_up_to_their_limits_and_not_beyond(merchant: Deps) -> None:
    await factories.product(merchant, "MUG", stock=0, location="HAM")
    await factories.product(merchant, "TEA", title="Tea", stock=1, location="HAM")
    most = stock.ADJUSTMENT_MAX
    async with merchant.begin() as uow:
        await stock.receive(uow, "MUG", "HAM", 1)
        await stock.receive(uow, "MUG", "HAM", most)
        await stock.adjust(uow, "MUG", "HAM", -most, "a mistake")
        assert (await stock.adjust(uow, "MUG", "HAM", most, "none")).available == most + 1
        await stock.set_thresholds(uow, "MUG", "HAM", reorder_point=most)
        (seen,) = (await stock.set_thresholds(uow, "MUG", "HAM", safety_stock=most)).levels
        assert (seen.reorder_point, seen.safety_stock, seen.available) == (most, most, 1)
        (seen,) = (await stock.set_thresholds(uow, "MUG", "HAM", 0, 0)).levels
        assert (seen.reorder_point, seen.safety_stock) == (0, 0)
        (other,) = (await inventory.levels(uow, "TEA")).levels
        assert (other.reorder_point, other.safety_stock) == (0, 0)
        for limit in (1, stock.BACKORDER_LIMIT_MAX):
            policy = await stock.set_policy(uow, "MUG", StockPolicy.BACKORDER, limit)
            assert policy.backorder_limit == limit
        for refused in (
            stock.receive(uow, "MUG", "HAM", most + 1),
            stock.adjust(uow, "MUG", "HAM", most + 1, "x"),
            stock.adjust(uow, "MUG", "HAM", -most - 1, "x"),
            stock.set_thresholds(uow, "MUG", "HAM", most + 1),
            stock.set_thresholds(uow, "MUG", "HAM"),
            stock.set_policy(uow, "MUG", StockPolicy.BACKORDER, stock.BACKORDER_LIMIT_MAX + 1),
        ):
            with pytest.raises(InvalidInput):
                await refused


async def test_units_that_are_promised_cannot_be_written_off(merchant: Deps) -> None:
    await factories.product(merchant, "MUG", stock=6)
    await reserve(merchant, MUG=1)
    paid = await reserve(merchant, MUG=2)
    async with merchant.begin() as uow:
        await inventory.allocate(uow, order_id=paid)
    for place, delta, free in (("HAM", -4, 3), ("ROT", -1, 0)):
        async with merchant.begin() as uow:
            await location.save(uow, "ROT", name="Rotterdam")
            with pytest.raises(Conflict) as refused:
                await stock.adjust(uow, "MUG", place, delta, "burnt")
        assert refused.value.extra["available"] == free
    async with merchant.begin() as uow:
        assert (await stock.adjust(uow, "MUG", "HAM", -3, "burnt")).available == 0
    assert await check(merchant) == []


async def test_what_staff_did_to_stock_is_told(merchant: Deps) -> None:
    product_id = await factories.product(merchant, "MUG", stock=5)
    async with merchant.begin() as uow:
        await stock.receive(uow, "MUG", "HAM", 3)
        await stock.adjust(uow, "MUG", "HAM", -2, "burnt", AdjustReason.DAMAGED)
    await set_policy(merchant, "backorder", 4)
    of = {"product_id": str(product_id), "sku": "MUG"}
    here = of | {"location": "HAM"}
    received = {"delta": 3, "on_hand": 8, "reason": "receive", "reason_code": None}
    burnt = {"delta": -2, "on_hand": 6, "reason": "burnt", "reason_code": "damaged"}
    policy = {"policy": "backorder", "backorder_limit": 4, "available_on": None}
    assert await announced(merchant, "StockAdjusted", "StockPolicySet") == [
        ("StockAdjusted", here | received),
        ("StockAdjusted", here | burnt),
        ("StockPolicySet", of | policy),
    ]


async def test_crossings_are_announced_once_and_exactly(merchant: Deps) -> None:
    await factories.product(merchant, "MUG", stock=5)
    async with merchant.begin() as uow:
        await stock.set_thresholds(uow, "MUG", "HAM", reorder_point=2)
    orders = [await reserve(merchant, MUG=1) for _ in range(5)]
    low = await announced(merchant, "StockLow")
    assert [(p["sku"], p["location"], p["available"]) for _, p in low] == [("MUG", "HAM", 2)]
    assert len(await announced(merchant, "SoldOut")) == 1
    for order_id in orders[:2]:
        async with merchant.begin() as uow:
            await inventory.release(uow, order_id=order_id, reason="no more")
    back = await announced(merchant, "BackInStock")
    assert [(p["sku"], p["available"]) for _, p in back] == [("MUG", 1)]
    async with merchant.begin() as uow:
        await stock.receive(uow, "MUG", "HAM", 4)
    await reserve(merchant, MUG=5)
    assert len(await announced(merchant, "StockLow")) == 2
    assert await check(merchant) == []


async def test_units_owed_are_not_back_in_stock(merchant: Deps) -> None:
    await factories.product(merchant, "MUG", stock=1)
    await set_policy(merchant, "backorder", 5)
    await reserve(merchant, MUG=4)
    async with merchant.begin() as uow:
        await stock.receive(uow, "MUG", "HAM", 3)
    assert await announced(merchant, "BackInStock") == []
    async with merchant.begin() as uow:
        await stock.receive(uow, "MUG", "HAM", 1)
    assert [p["available"] for _, p in await announced(merchant, "BackInStock")] == [1]


async def test_safety_stock_is_kept_back_from_sale_alone(merchant: Deps) -> None:
    await factories.product(merchant, "MUG", stock=5)
    await factories.receive(merchant, "MUG", 2, "ROT")
    async with merchant.begin() as uow:
        seen = await stock.set_thresholds(uow, "MUG", "HAM", safety_stock=6)
    assert (seen.available, [level.available for level in seen.levels]) == (2, [-1, 2])
    order_id = await reserve(merchant, MUG=2)
    assert await where(merchant, order_id) == {("MUG", "ROT"): 2}
    with pytest.raises(OutOfStock):
        await reserve(merchant, MUG=1)
    async with merchant.begin() as uow:
        await stock.adjust(uow, "MUG", "HAM", -5, "burnt", AdjustReason.DAMAGED)
        assert (await stock.set_thresholds(uow, "MUG", "HAM", safety_stock=0)).available == 0
    assert await check(merchant) == []


async def test_a_bundle_is_as_available_as_its_parts_and_reserves_them(merchant: Deps) -> None:
    for sku, units in (("MUG", 7), ("TEA", 2), ("SET", 0)):
        await factories.product(merchant, sku, title=sku.title(), stock=units)
    parts = [BundlePartInput(sku="MUG", quantity=2), BundlePartInput(sku="TEA")]
    async with merchant.begin() as uow:
        defined = await bundle.define(uow, "SET", parts)
    assert (defined.available, [part.sku for part in defined.parts]) == (2, ["MUG", "TEA"])
    with pytest.raises(OutOfStock) as refused:
        await reserve(merchant, SET=2, TEA=1)
    assert refused.value.extra["sku"] == "TEA"
    with pytest.raises(OutOfStock) as refused:
        await reserve(merchant, SET=3)
    assert refused.value.extra["sku"] == "SET", "the shopper asked for the set, not for its parts"
    order = await factories.placed_order(factories.guest(merchant), SET=2, MUG=1)
    assert {line.sku: line.quantity for line in order.lines} == {"SET": 2, "MUG": 1}
    assert await where(merchant, OrderId(order.id)) == {("MUG", "HAM"): 5, ("TEA", "HAM"): 2}
    async with merchant.begin() as uow:  # The order keeps the parts it was placed with.
        await bundle.define(uow, "SET", [BundlePartInput(sku="TEA", quantity=9)])
    assert await check(merchant) == []


async def test_bundles_are_flat_and_have_no_stock(merchant: Deps) -> None:
    for sku, units in (("MUG", 7), ("TEA", 2), ("SET", 0), ("BOX", 0)):
        await factories.product(merchant, sku, title=sku.title(), stock=units)

    async def define(sku: str, *parts: str) -> None:
        async with merchant.begin() as uow:
            await bundle.define(uow, sku, [BundlePartInput(sku=part) for part in parts])

    await define("SET", "MUG", "TEA")
    for sku, parts, error in (
        ("MUG", ["TEA"], Conflict),
        ("BOX", ["SET"], Conflict),
        ("BOX", ["BOX"], InvalidInput),
        ("BOX", ["MUG", "MUG"], InvalidInput),
        ("BOX", ["NOPE"], NotFound),
        ("NOPE", ["MUG"], NotFound),
    ):
        with pytest.raises(error):
            await define(sku, *parts)
    async with merchant.begin() as uow:
        with pytest.raises(Conflict):
            await stock.receive(uow, "SET", "HAM", 1)
    with pytest.raises(IntegrityError, match="bundle"):
        await factories.receive(merchant, "SET", 1)
    await define("SET")
    async with merchant.begin() as uow:
        with pytest.raises(NotFound):
            await bundle.show(uow, "SET")
    await factories.receive(merchant, "SET", 1)


async def test_a_lapsed_hold_is_taken_anew_or_refused_whole(merchant: Deps) -> None:
    await factories.product(merchant, "MUG", stock=3)
    await factories.product(merchant, "TEA", title="Tea", stock=3)
    order_id = await reserve(merchant, MUG=2, TEA=2)
    late = factories.later(merchant, minutes=20)
    await inventory.expire_due(late)
    rival = await reserve(late, TEA=2)
    with pytest.raises(OutOfStock) as refused:
        async with late.begin() as uow:
            await inventory.allocate(uow, order_id=order_id)
    assert refused.value.extra["sku"] == "TEA"
    async with late.begin() as uow:
        assert (await inventory.levels(uow, "MUG")).available == 3
        await inventory.release(uow, order_id=rival, reason="no more")
        await inventory.allocate(uow, order_id=order_id)
        await inventory.allocate(uow, order_id=order_id)
        assert (await inventory.levels(uow, "MUG")).available == 1
    assert await check(late) == []


async def test_a_hold_lasts_while_the_shopper_is_there_but_not_for_ever(merchant: Deps) -> None:
    await factories.product(merchant, "MUG", stock=1)
    order_id, began = await reserve(merchant, MUG=1), merchant.clock()
    for minutes, left in ((10, 25), (20, 35), (34, 49), (48, 60), (59, 60)):
        later = factories.later(merchant, minutes=minutes)
        async with later.begin() as uow:
            until = await inventory.extend(uow, order_id=order_id)
        assert until == began + timedelta(minutes=left)
    late = factories.later(merchant, minutes=60)
    async with late.begin() as uow:
        assert await inventory.extend(uow, order_id=order_id) is None
    assert await inventory.expire_due(late) == 1


async def test_levels_are_listed_filtered_and_paged(merchant: Deps) -> None:
    await places(merchant)
    await factories.product(merchant, "MUGGY", title="Muggy", stock=2)
    async with merchant.begin() as uow:
        await stock.set_thresholds(uow, "MUG", "HAM", reorder_point=5)
        await stock.set_thresholds(uow, "TEA", "HAM", reorder_point=5)

        async def listed(**filters: Any) -> list[tuple[str, str]]:
            found, cursor = [], None
            while True:
                page = await stock.list_levels(uow, **filters, limit=2, cursor=cursor)
                found += [(item.sku, item.location) for item in page.items]
                if (cursor := page.next_cursor) is None:
                    return found

        mugs = [("MUG", "HAM"), ("MUG", "MAD")]
        teas = [("TEA", "HAM"), ("TEA", "MAD")]
        assert await listed() == [*mugs, ("MUGGY", "HAM"), *teas]
        assert await listed(location_code="MAD") == [mugs[1], teas[1]]
        assert await listed(sku_prefix="MUG") == [*mugs, ("MUGGY", "HAM")]
        assert await listed(sku_prefix="TEA") == teas
        for last in ("\ud7ff", "\U0010ffff"):  # After which no character comes.
            assert await listed(sku_prefix=f"MUG{last}") == []
        assert await listed(is_low=True) == [mugs[0], teas[0]]
        assert await listed(is_low=True, sort=Sort.SCARCEST) == [teas[0], mugs[0]]
        assert await listed(sku_prefix="MUG", sort=Sort.SCARCEST) == [
            ("MUGGY", "HAM"),
            mugs[0],
            mugs[1],
        ]
        with pytest.raises(InvalidInput):
            await stock.list_levels(uow, sort=Sort.SCARCEST)
        with pytest.raises(NotFound):
            await stock.list_levels(uow, location_code="MOON")
        for limit in (0, 101):
            with pytest.raises(InvalidInput):
                await stock.list_levels(uow, limit=limit)
            with pytest.raises(InvalidInput):
                await stock.low(uow, limit)
        low = [(item.sku, item.location) for item in await stock.low(uow)]
        assert low == [teas[0], mugs[0]]


async def test_a_shopper_sees_a_date_and_no_places(merchant: Deps, guest: Deps) -> None:
    await factories.product(merchant, "MUG", stock=0)
    day = merchant.clock().date() + timedelta(days=3)
    await set_policy(merchant, "backorder", 2, day)
    async with replace(guest, clock=merchant.clock).begin() as uow:
        seen = await inventory.levels(uow, "MUG")
    assert (seen.available, seen.in_stock, seen.available_on) == (2, 0, day)
    assert (seen.levels, seen.backordered, seen.backorder_limit) == ([], None, None)
