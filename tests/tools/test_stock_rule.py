"""Which location ships: the shop's rules, the address, and who is open."""

import pytest

from db.models.stock_rule import RuleKind
from db.types import OrderId
from deps.core import Deps
from tests import factories
from tests.tools.test_stock import places, reserve, set_policy, where
from tools import cart, checkout, inventory, location, stock_rule
from tools.errors import InvalidInput, NotFound, OutOfStock
from tools.invariant import check
from tools.stock_rule import Rule

GERMANY, SPAIN = (
    {"country_code": "DE", "postal_code": "20457"},
    {"country_code": "ES", "postal_code": "28001"},
)


async def replace_rules(merchant: Deps, *rules: Rule) -> None:
    async with merchant.begin() as uow:
        assert await stock_rule.replace(uow, list(rules)) == list(rules)


async def test_the_nearest_location_ships(merchant: Deps) -> None:
    await places(merchant)
    await replace_rules(merchant, Rule(kind=RuleKind.NEAREST))
    assert await where(merchant, await reserve(merchant, GERMANY, MUG=1)) == {("MUG", "HAM"): 1}
    assert await where(merchant, await reserve(merchant, SPAIN, MUG=1)) == {("MUG", "MAD"): 1}
    split = await reserve(merchant, GERMANY, MUG=4)
    assert await where(merchant, split) == {("MUG", "HAM"): 2, ("MUG", "MAD"): 2}
    async with merchant.begin() as uow:  # Postal codes from 2 on are said to be in Spain.
        await stock_rule.place_area(uow, "DE", 41.0, -3.0, "2")
    assert await where(merchant, await reserve(merchant, GERMANY, MUG=1)) == {("MUG", "MAD"): 1}


async def test_an_order_ships_from_where_it_is_nearest_to(merchant: Deps) -> None:
    await places(merchant)
    async with merchant.begin() as uow:
        await location.save(uow, "MAD", priority=0)
    for _ in range(2):
        order = await factories.placed_order(factories.guest(merchant), MUG=1)
        assert await where(merchant, OrderId(order.id)) == {("MUG", "MAD"): 1}
    await replace_rules(merchant, Rule(kind=RuleKind.NEAREST))
    order = await factories.placed_order(factories.guest(merchant), MUG=1)
    assert await where(merchant, OrderId(order.id)) == {("MUG", "HAM"): 1}
    async with merchant.begin() as uow:  # Also when it is taken anew.
        await inventory.release(uow, order_id=OrderId(order.id), reason="too late")
        await inventory.allocate(uow, order_id=OrderId(order.id))
    assert await where(merchant, OrderId(order.id)) == {("MUG", "HAM"): 1}


async def test_who_waited_is_served_from_where_it_is_nearest_to(merchant: Deps) -> None:
    await places(merchant)
    async with merchant.begin() as uow:
        await location.save(uow, "MAD", priority=0)
    await replace_rules(merchant, Rule(kind=RuleKind.NEAREST))
    await set_policy(merchant, "backorder", 5)
    await reserve(merchant, MUG=12)
    guest = factories.guest(merchant)
    nearest = {}
    for to, code in ((GERMANY, "HAM"), (SPAIN, "MAD")):
        filled = await factories.filled_cart(guest, MUG=1)
        async with guest.begin() as uow:
            there = factories.ADDRESS.model_copy(update=to)
            await cart.set_details(uow, filled.id, shipping_address=there)
        order = await checkout.complete(guest, filled.id, payment_method="tok_visa")
        nearest[OrderId(order.id)] = code
    for code in ("MAD", "HAM"):
        await factories.receive(merchant, "MUG", 2, code)
    assert await inventory.fill_due(merchant) == 2
    for order_id, code in nearest.items():
        assert await where(merchant, order_id) == {("MUG", code): 1}


async def test_fewest_splits_looks_at_the_whole_order(merchant: Deps) -> None:
    await places(merchant)
    splits = Rule(kind=RuleKind.FEWEST_SPLITS)
    await replace_rules(merchant, splits, Rule(kind=RuleKind.NEAREST))
    order_id = await reserve(merchant, GERMANY, MUG=2, TEA=2)
    assert await where(merchant, order_id) == {("MUG", "MAD"): 2, ("TEA", "MAD"): 2}


async def test_a_preferred_location_may_be_for_one_country(merchant: Deps) -> None:
    await places(merchant)
    rule = Rule(kind=RuleKind.PREFERRED, location="MAD", country_code="DE")
    await replace_rules(merchant, rule)
    assert await where(merchant, await reserve(merchant, GERMANY, MUG=1)) == {("MUG", "MAD"): 1}
    assert await where(merchant, await reserve(merchant, SPAIN, MUG=1)) == {("MUG", "HAM"): 1}
    await replace_rules(merchant)
    assert await where(merchant, await reserve(merchant, GERMANY, MUG=1)) == {("MUG", "HAM"): 1}


@pytest.mark.parametrize(
    ("rule", "error"),
    [
        (Rule(kind=RuleKind.PREFERRED), InvalidInput),
        (Rule(kind=RuleKind.NEAREST, location="HAM"), InvalidInput),
        (Rule(kind=RuleKind.PREFERRED, location="MOON"), NotFound),
    ],
)
async def test_rules_that_mean_nothing_are_refused(
    merchant: Deps, rule: Rule, error: type[Exception]
) -> None:
    await places(merchant)
    with pytest.raises(error):
        await replace_rules(merchant, rule)


async def test_a_closed_location_sells_nothing_until_it_opens(merchant: Deps) -> None:
    await places(merchant)
    async with merchant.begin() as uow:
        await location.save(uow, "MAD", is_active=False)
        assert (await inventory.levels(uow, "MUG")).available == 3
    with pytest.raises(OutOfStock):
        await reserve(merchant, MUG=4)
    await factories.receive(merchant, "MUG", 1, "MAD")
    assert await check(merchant) == []
    async with merchant.begin() as uow:
        await location.save(uow, "MAD", is_active=True)
        assert (await inventory.levels(uow, "MUG")).available == 13
        assert [place.code for place in await location.show(uow)] == ["HAM", "MAD"]
    assert await check(merchant) == []
