"""What pays for a change, or gets its money: whose it is, what it covers, and what it brought."""

from uuid import UUID

import pytest

from db.models.order import Order
from db.models.payment import StoredMethod
from db.types import Money, OrderId, new_id
from deps.core import Deps
from deps.scripted import ScriptedGateway
from tests import aftersales as shop
from tests import factories
from tools import refund, refund_process, tender
from tools.errors import InsufficientCredit, InvalidInput, NotFound
from tools.order import OrderView


@pytest.fixture
async def placed(customer: Deps) -> OrderView:
    await factories.product(customer, "MUG", price=1000, stock=9)
    return await factories.placed_order(customer, MUG=1)


async def settling(deps: Deps, placed: OrderView, method: UUID | None, amount: int) -> UUID | None:
    async with deps.begin() as uow:
        of = await uow.session.get_one(Order, placed.id)
        found = await tender.settling_method(uow, of, method, amount)
        return found.id if found else None


async def test_the_smallest_difference_names_who_pays_and_what_paid_gets_it_back(
    customer: Deps, placed: OrderView
) -> None:
    mine, other = await shop.card(customer), await shop.card(customer, "tok_other")
    with pytest.raises(InvalidInput, match="1 minor units more") as refused:
        await settling(customer, placed, None, 1)
    assert refused.value.field == "payment_method"
    for amount in (0, -1):
        assert await settling(customer, placed, None, amount) is None
    for amount in (1, 0, -1):
        assert await settling(customer, placed, mine, amount) == mine
    for amount in (1, 0):
        assert await settling(customer, placed, other, amount) == other
    with pytest.raises(InvalidInput, match="goes back to what paid"):
        await settling(customer, placed, other, -1)
    await shop.rules(customer, refunds_to_any_method=True)
    assert await settling(customer, placed, other, -1) == other


async def test_a_method_that_is_not_ones_own_does_not_exist(
    customer: Deps, placed: OrderView
) -> None:
    theirs = await shop.card(await factories.user(customer))
    for method in (theirs, new_id()):
        with pytest.raises(NotFound, match="No such payment method") as refused:
            await settling(customer, placed, method, 1)
        assert refused.value.field == "payment_method"


async def test_credit_pays_what_no_other_purchase_holds(customer: Deps, placed: OrderView) -> None:
    present, empty = await shop.gift_card(customer, 100), await shop.gift_card(customer, 1)
    async with customer.begin() as uow:
        method = await uow.session.get_one(StoredMethod, present)
        account = tender.token_of(method)
        other = await uow.session.get_one(StoredMethod, empty)
        held = [(account, 60), (tender.token_of(other), 1)]
    for token, amount in held:
        money = Money(amount, "EUR")
        key = f"{new_id()}:authorize:1"
        assert (await customer.gateways["credit"].authorize(key, money, token)).approved
    assert await settling(customer, placed, present, 40) == present
    for amount in (0, -1):
        assert await settling(customer, placed, empty, amount) == empty
    for card, amount, left in ((present, 41, 40), (empty, 1, 0)):
        with pytest.raises(InsufficientCredit) as refused:
            await settling(customer, placed, card, amount)
        extra = refused.value.extra
        assert (extra["required_amount"], extra["available_amount"]) == (amount, left)


async def test_only_tenders_that_still_hold_money_of_the_order_give_it_back(
    customer: Deps, placed: OrderView
) -> None:
    mine = await shop.card(customer)
    await factories.placed_order(customer, MUG=1)
    for amount, holds in ((placed.total_amount - 1, True), (1, False)):
        async with customer.begin() as uow:
            of = await uow.session.get_one(Order, placed.id)
            made = await refund.request(uow, of, reason="it broke", amount=amount)
        await refund_process.drive(customer, made.id)
        async with customer.begin() as uow:
            held = await tender.holding_tenders(uow, OrderId(placed.id))
        assert [row.order_id for row in held] == [placed.id] * holds
    with pytest.raises(InvalidInput, match="goes back to what paid"):
        await settling(customer, placed, mine, -1)


async def test_money_goes_where_it_was_allowed_to_go_when_it_was_asked_for(
    customer: Deps, gateway: ScriptedGateway, placed: OrderView
) -> None:
    mine, other = await shop.card(customer), await shop.card(customer, "tok_other")
    for method, sent in ((None, []), (mine, []), (other, [300])):
        async with customer.begin() as uow:
            of = await uow.session.get_one(Order, placed.id)
            made = await tender.give_back(uow, of, method, reason="it shrank", amount=300)
        await refund_process.drive(customer, made)
        assert list(gateway.paid_out.values()) == sent
    assert sum(gateway.charges.values()) == placed.total_amount - 600
