"""Changes of placed orders that are refused: for what they ask, whose it is, and by the policy."""

import pytest

from deps.core import SYSTEM, Deps
from tests import aftersales as shop
from tests import factories
from tests.aftersales import ELSEWHERE, edits, to
from tools import (
    checkout,
    fulfillment,
    order_edit,
)
from tools.errors import (
    AftersalesLimit,
    Conflict,
    DomainError,
    IllegalTransition,
    InsufficientCredit,
    InvalidInput,
    NotFound,
)
from tools.line_change import LineChange


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        (to("MUG"), InvalidInput),
        (to("LAMP-STEEL"), InvalidInput),
        (to("LAMP-GOLD"), NotFound),
        (to("LAMP-OAK", "LAMP-BRASS"), InvalidInput),
        (to("LAMP-OAK", quantity=2), InvalidInput),
        ([], InvalidInput),
    ],
)
async def test_what_cannot_be_changed_is_refused(
    customer: Deps, changes: list[LineChange], error: type[DomainError]
) -> None:
    await shop.lamp(customer)
    method = await shop.card(customer)
    placed = await shop.ordered(customer, steel=1)

    with pytest.raises(error):
        await order_edit.modify_items(customer, placed.number, changes, method)

    assert await edits(customer) == []


async def test_a_gift_card_must_cover_the_difference(customer: Deps) -> None:
    await shop.lamp(customer)
    present = await shop.gift_card(customer, 3399)
    placed = await shop.ordered(customer, steel=1)

    with pytest.raises(InsufficientCredit) as refused:
        await order_edit.modify_items(customer, placed.number, to("LAMP-OAK"), present)

    assert refused.value.extra == {"required_amount": 3400, "available_amount": 3399}
    assert await shop.balance(customer, present) == 3399
    enough = await shop.gift_card(customer, 3400)
    await order_edit.modify_items(customer, placed.number, to("LAMP-OAK"), enough)
    assert await shop.balance(customer, enough) == 0


async def test_another_persons_order_and_method_do_not_exist(customer: Deps) -> None:
    await shop.lamp(customer)
    stranger = await factories.user(customer)
    theirs, mine = await shop.card(stranger), await shop.card(customer)
    placed = await shop.ordered(customer, steel=1)

    with pytest.raises(NotFound, match="No such order"):
        await order_edit.modify_items(stranger, placed.number, to("LAMP-OAK"), theirs)
    with pytest.raises(NotFound, match="No such payment method"):
        await order_edit.modify_items(customer, placed.number, to("LAMP-OAK"), theirs)
    with pytest.raises(NotFound, match="No such order"):
        await order_edit.modify_payment(stranger, placed.number, mine)
    async with stranger.begin() as uow:
        with pytest.raises(NotFound, match="No such order"):
            await order_edit.modify_address(uow, placed.number, ELSEWHERE)
    assert await edits(customer) == []


async def test_the_policy_decides_how_often_and_what_an_edit_closes(customer: Deps) -> None:
    await shop.lamp(customer)
    await shop.rules(customer, item_edits_max=1, item_edit_closes=True)
    method, other = await shop.card(customer), await shop.card(customer, "tok_other")
    placed = await shop.ordered(customer, steel=2)
    await order_edit.modify_items(customer, placed.number, to("LAMP-OAK"), method)

    with pytest.raises(AftersalesLimit):
        await order_edit.modify_items(customer, placed.number, to("LAMP-OAK"), method)
    with pytest.raises(AftersalesLimit):
        await order_edit.modify_payment(customer, placed.number, other)
    with pytest.raises(AftersalesLimit):
        await checkout.cancel(customer, placed.number, "no longer needed")
    async with customer.begin() as uow:
        moved = await order_edit.modify_address(uow, placed.number, ELSEWHERE)
    assert moved.shipping_address["city"] == "Bremen"


async def test_cancel_reasons_may_be_limited(customer: Deps) -> None:
    await shop.lamp(customer)
    await shop.rules(customer, cancel_reasons=["ordered by mistake"])
    placed = await shop.ordered(customer, steel=1)

    with pytest.raises(InvalidInput, match="reason must be one of"):
        await checkout.cancel(customer, placed.number, "just because")
    async with customer.begin() as uow:
        with pytest.raises(InvalidInput, match="reason must be one of"):
            await checkout.preview_cancel(uow, placed.number, "just because")
        shown = await checkout.preview_cancel(uow, placed.number, "ordered by mistake")
    assert (shown.number, shown.status) == (placed.number, "placed")
    await checkout.cancel(customer, placed.number, "ordered by mistake")


async def test_a_gift_card_must_cover_the_whole_order(customer: Deps) -> None:
    await shop.lamp(customer)
    present = await shop.gift_card(customer, 9899)
    placed = await shop.ordered(customer, oak=1)

    with pytest.raises(InsufficientCredit):
        await order_edit.modify_payment(customer, placed.number, present)

    assert await shop.tenders(customer, placed) == [("tok_visa", placed.total_amount, 0)]


@pytest.mark.parametrize("state", ["shipped", "cancelled"])
async def test_what_has_left_or_is_cancelled_is_not_changed(customer: Deps, state: str) -> None:
    await shop.lamp(customer)
    method, other = await shop.card(customer), await shop.card(customer, "tok_other")
    placed = await shop.ordered(customer, steel=1)
    if state == "cancelled":
        await checkout.cancel(customer, placed.number, "changed my mind")
    else:
        async with customer.acting_as(SYSTEM).begin() as uow:
            await fulfillment.ship(uow, placed.number)

    with pytest.raises(IllegalTransition):
        await order_edit.modify_items(customer, placed.number, to("LAMP-OAK"), method)
    with pytest.raises(IllegalTransition):
        await order_edit.modify_payment(customer, placed.number, other)
    async with customer.begin() as uow:
        with pytest.raises(IllegalTransition):
            await order_edit.modify_address(uow, placed.number, ELSEWHERE)


async def test_a_preview_of_an_address_refuses_what_the_change_does(customer: Deps) -> None:
    await shop.lamp(customer)
    placed = await shop.ordered(customer, oak=1)
    taxed, abroad = factories.taxed(customer, NL="21"), ELSEWHERE.model_copy()
    abroad.country_code = "NL"
    async with taxed.begin() as uow:
        with pytest.raises(Conflict, match="taxed otherwise"):
            await order_edit.preview_modify_address(uow, placed.number, abroad)
    await checkout.cancel(customer, placed.number, "changed my mind")
    async with customer.begin() as uow:
        with pytest.raises(IllegalTransition):
            await order_edit.preview_modify_address(uow, placed.number, ELSEWHERE)
