"""What functions of stock answer, called by themselves: promises, distances, places and locks."""

from datetime import UTC, date, datetime
from typing import Any, Final

import pytest

from db.models.inventory import StockPolicy
from db.models.stock_rule import RuleKind
from db.types import OrderId, new_id
from deps.core import Deps
from tests import factories
from tests.databases import connection_to
from tools import bundle, inventory, location, stock, stock_rule
from tools.bundle import BundlePartInput
from tools.invariant import check
from tools.stock_rule import Rule

DAY: Final = date(2026, 3, 1)
BEFORE: Final = datetime(2026, 2, 28, 23, 59, tzinfo=UTC)
MIDNIGHT: Final = datetime(2026, 3, 1, tzinfo=UTC)
HAMBURG, MADRID, AUCKLAND, HONOLULU = (
    (53.55, 9.99),
    (40.42, -3.7),
    (-36.85, 174.76),
    (21.31, -157.86),
)


@pytest.mark.parametrize(
    ("policy", "on", "now", "allowed"),
    [
        ("deny", None, BEFORE, 0),
        ("deny", DAY, BEFORE, 0),
        ("backorder", None, BEFORE, 5),
        ("backorder", DAY, MIDNIGHT, 5),
        ("preorder", DAY, BEFORE, 5),
        ("preorder", DAY, MIDNIGHT, 0),
    ],
)
async def test_units_are_promised_up_to_the_limit_while_the_policy_says_so(
    deps: Deps, policy: str, on: date | None, now: datetime, allowed: int
) -> None:
    found = await deps.hot.fetchval("SELECT stock_allowance($1, 7, 2, $2, $3)", policy, on, now)
    assert found == allowed


@pytest.mark.parametrize(
    ("here", "there", "km"),
    [
        (HAMBURG, HAMBURG, 0),
        (HAMBURG, MADRID, 1785),
        (MADRID, HAMBURG, 1785),
        (AUCKLAND, HONOLULU, 7076),
        ((0.0, 0.0), (0.0, 90.0), 10_008),
        ((90.0, 0.0), (-90.0, 0.0), 20_015),
    ],
)
async def test_distances_are_along_the_globe(
    deps: Deps, here: tuple[float, float], there: tuple[float, float], km: int
) -> None:
    assert await deps.hot.fetchval("SELECT stock_distance_km($1, $2, $3, $4)", *here, *there) == km


async def _available(deps: Deps, sku: str) -> int:
    found: int = await deps.hot.fetchval("SELECT stock_available($1, $2)", sku, BEFORE)
    return found


async def _reserve(deps: Deps, **units: int) -> OrderId:
    order_id = OrderId(new_id())
    async with deps.begin() as uow:
        await inventory.reserve(uow, order_id=order_id, units=units)
    return order_id


async def _define(deps: Deps, name: str, **parts: int) -> None:
    async with deps.begin() as uow:
        units = [BundlePartInput(sku=sku, quantity=count) for sku, count in parts.items()]
        await bundle.define(uow, name, units)


async def test_what_can_be_ordered_is_what_is_free_and_what_may_be_promised(merchant: Deps) -> None:
    for sku, units in (("MUG", 7), ("TEA", 5), ("NEW", 0), ("SET", 0), ("BOX", 0), ("BAG", 0)):
        await factories.product(merchant, sku, title=sku.title(), stock=units)
    await _define(merchant, "SET", MUG=3, TEA=2)
    await _define(merchant, "BOX", TEA=1)
    await _define(merchant, "BAG", MUG=1, NEW=1)
    skus = ("MUG", "TEA", "NEW", "SET", "BOX", "BAG", "NONE")
    assert [await _available(merchant, sku) for sku in skus] == [7, 5, 0, 2, 5, 0, 0]
    async with merchant.begin() as uow:
        await stock.set_policy(uow, "MUG", StockPolicy.BACKORDER, 9)
    assert [await _available(merchant, sku) for sku in skus] == [16, 5, 0, 2, 5, 0, 0]
    await _reserve(merchant, MUG=10, TEA=1)
    assert [await _available(merchant, sku) for sku in skus] == [6, 4, 0, 2, 4, 0, 0]
    await _reserve(merchant, MUG=4)
    assert [await _available(merchant, sku) for sku in skus] == [2, 4, 0, 0, 4, 0, 0]
    await factories.receive(merchant, "MUG", 1)  # It is owed already, seven times.
    assert [await _available(merchant, sku) for sku in skus] == [2, 4, 0, 0, 4, 0, 0]


@pytest.fixture
async def places(merchant: Deps) -> Deps:
    """Five places by priority: one is closed, one sold what it had, one is nowhere."""
    for code, priority, at in (
        ("HAM", 1, HAMBURG),
        ("ROT", 2, (None, None)),
        ("MAD", 3, MADRID),
        ("OLD", 0, HAMBURG),
        ("OUT", 0, HAMBURG),
    ):
        async with merchant.begin() as uow:
            await location.save(
                uow, code, name=code, priority=priority, latitude=at[0], longitude=at[1]
            )
    await factories.product(merchant, "MUG", stock=1, location="OUT")
    await _reserve(merchant, MUG=1)
    for sku, code, units in (
        ("MUG", "HAM", 3),
        ("MUG", "ROT", 5),
        ("MUG", "MAD", 9),
        ("MUG", "OLD", 9),
        ("TEA", "HAM", 1),
        ("TEA", "MAD", 4),
        ("POT", "HAM", 99),
    ):
        if code == "HAM":
            await factories.product(merchant, sku, title=sku.title(), stock=0)
        await factories.receive(merchant, sku, units, code)
    async with merchant.begin() as uow:
        await location.save(uow, "OLD", is_active=False)
    return merchant


async def _places(deps: Deps, country: str = "", code: str = "", **units: int) -> str:
    to = {"country_code": country, "postal_code": code} if country else None
    rows = await deps.hot.fetch(
        """SELECT w.sku, p.code, w.available
           FROM stock_places($1, $2, $3) WITH ORDINALITY AS w (sku, id, available, position)
           JOIN location p ON p.id = w.id ORDER BY w.position""",
        list(units),
        list(units.values()),
        to,
    )
    return ", ".join(f"{row['sku']} {row['code']} {row['available']}" for row in rows)


async def _rule(deps: Deps, *rules: Rule) -> None:
    async with deps.begin() as uow:
        await stock_rule.replace(uow, list(rules))


async def test_without_rules_who_has_enough_ships_by_priority(places: Deps) -> None:
    assert await _places(places, MUG=3) == "MUG HAM 3, MUG ROT 5, MUG MAD 9"
    assert await _places(places, MUG=4) == "MUG ROT 5, MUG MAD 9, MUG HAM 3"
    assert await _places(places, MUG=9) == "MUG MAD 9, MUG HAM 3, MUG ROT 5"
    assert await _places(places, MUG=10) == "MUG HAM 3, MUG ROT 5, MUG MAD 9"
    both = "MUG HAM 3, MUG ROT 5, MUG MAD 9, TEA MAD 4, TEA HAM 1"
    assert await _places(places, TEA=2, MUG=1) == both


async def test_who_serves_most_of_an_order_in_full_splits_it_least(places: Deps) -> None:
    await _rule(places, Rule(kind=RuleKind.FEWEST_SPLITS))
    teas = ", TEA MAD 4, TEA HAM 1"
    assert await _places(places, MUG=5, TEA=4) == "MUG MAD 9, MUG ROT 5, MUG HAM 3" + teas
    assert await _places(places, MUG=5, TEA=1) == "MUG MAD 9, MUG ROT 5, MUG HAM 3" + teas
    assert await _places(places, MUG=3, TEA=2) == "MUG MAD 9, MUG HAM 3, MUG ROT 5" + teas
    assert await _places(places, MUG=9) == "MUG MAD 9, MUG HAM 3, MUG ROT 5"


async def test_the_nearest_is_found_by_the_longest_postal_prefix_of_the_country(
    places: Deps,
) -> None:
    await _rule(places, Rule(kind=RuleKind.NEAREST))
    near_hamburg = "MUG HAM 3, MUG MAD 9, MUG ROT 5"
    near_madrid = "MUG MAD 9, MUG HAM 3, MUG ROT 5"
    by_priority = "MUG HAM 3, MUG ROT 5, MUG MAD 9"
    async with places.begin() as uow:
        for country, at, prefix in (
            ("PT", MADRID, ""),
            ("PT", HAMBURG, "4"),
            ("PT", MADRID, "45B"),
            ("PT", HAMBURG, "9999"),
            ("AO", HAMBURG, "45B1"),
        ):
            await stock_rule.place_area(uow, country, *at, prefix)
    for code, expected in (
        ("1000", near_madrid),
        ("4000", near_hamburg),
        ("4 5b 10", near_madrid),
        ("9998", near_madrid),
        ("9999", near_hamburg),
    ):
        assert await _places(places, "PT", code, MUG=1) == expected, code
    assert await _places(places, "XX", "4000", MUG=1) == by_priority
    assert await _places(places, MUG=1) == by_priority


async def test_rules_apply_in_their_order_where_they_are_for_the_country(places: Deps) -> None:
    async with places.begin() as uow:
        await stock_rule.place_area(uow, "PT", *MADRID)
        await stock_rule.place_area(uow, "AO", *MADRID)
    preferred = RuleKind.PREFERRED
    await _rule(places, Rule(kind=preferred, location="ROT", country_code="PT"))
    assert await _places(places, "PT", MUG=1) == "MUG ROT 5, MUG HAM 3, MUG MAD 9"
    assert await _places(places, "AO", MUG=1) == "MUG HAM 3, MUG ROT 5, MUG MAD 9"
    await _rule(
        places,
        Rule(kind=preferred, location="ROT", country_code="PT"),
        Rule(kind=RuleKind.NEAREST),
    )
    assert await _places(places, "PT", MUG=1) == "MUG ROT 5, MUG MAD 9, MUG HAM 3"
    assert await _places(places, "AO", MUG=1) == "MUG MAD 9, MUG HAM 3, MUG ROT 5"


async def test_what_a_location_opens_and_closes_with_is_what_is_free_there(places: Deps) -> None:
    async with places.begin() as uow:
        await stock.set_thresholds(uow, "MUG", "HAM", safety_stock=5)
        await stock.set_thresholds(uow, "MUG", "OLD", safety_stock=2)
    assert await check(places) == []
    free = {"MUG": 14, "TEA": 5, "POT": 99}
    for code, is_active, changed in (
        ("HAM", False, {"TEA": 4, "POT": 0}),
        ("OLD", True, {"MUG": 21}),
        ("HAM", True, {"TEA": 5, "POT": 99}),
    ):
        async with places.begin() as uow:
            await location.save(uow, code, is_active=is_active)
        free |= changed
        assert {sku: await _available(places, sku) for sku in free} == free
        assert await check(places) == []
    async with places.begin() as uow:
        await stock.set_thresholds(uow, "MUG", "HAM", safety_stock=2)
        await stock.set_thresholds(uow, "MUG", "ROT", safety_stock=6)
    assert await _available(places, "MUG") == 17
    assert await check(places) == []


async def test_a_change_waits_for_whatever_it_moves_and_for_nothing_else(
    merchant: Deps, database_url: str
) -> None:
    skus = ("MUG", "TEA", "POT", "CUP", "JUG")
    for sku in (*skus, "SET", "BOX"):
        units = 5 if sku in skus else 0
        await factories.product(merchant, sku, title=sku.title(), stock=units)
    await _define(merchant, "SET", MUG=1)
    await _define(merchant, "BOX", POT=1)
    order_id = await _reserve(merchant, SET=1, BOX=1)
    await _define(merchant, "SET", JUG=1)
    await _reserve(merchant, SET=1)
    await _define(merchant, "SET", TEA=1)
    async with connection_to(database_url) as connection, connection_to(database_url) as other:
        changing: Any = connection.transaction()
        await changing.start()
        await connection.execute("SELECT stock_lock($1, $2)", order_id, ["SET", "CUP"])
        rows = await other.fetch("SELECT sku FROM stock_item FOR UPDATE SKIP LOCKED")
        await changing.rollback()
    assert {row["sku"] for row in rows} == {"POT", "JUG"}


async def test_only_the_order_s_own_hold_is_kept_longer(merchant: Deps) -> None:
    await factories.product(merchant, "MUG", stock=9)
    order_id, other, paid = [await _reserve(merchant, MUG=1) for _ in range(3)]
    ends = "SELECT expires_at FROM reservation WHERE id = $1"
    before = {id: await merchant.hot.fetchval(ends, id) for id in (order_id, other, paid)}
    until, end = before[other].replace(year=2099), before[other]
    async with merchant.begin() as uow:
        await inventory.allocate(uow, order_id=paid)
        extend = "SELECT stock_extend($1, $2, '2 hours', $3)"
        assert await uow.fetchval(extend, paid, until, uow.now) is None
        assert await uow.fetchval(extend, other, until, end) is None
        longer = await uow.fetchval(extend, order_id, until, uow.now)
    after = {id: await merchant.hot.fetchval(ends, id) for id in (order_id, other, paid)}
    assert after == before | {order_id: longer}
    assert longer > end
