"""Changing the items of placed orders: stock, lines and money move together, once."""

import asyncio

import pytest
from sqlmodel import select

from db.models.aftersales import EditState
from db.models.refund import Refund
from db.types import new_id
from deps.core import SYSTEM, Deps
from deps.scripted import Fault, ScriptedGateway
from tests import aftersales as shop
from tests import factories
from tests.aftersales import ELSEWHERE, LAMP, edits, to
from tools import (
    checkout,
    invariant,
    inventory,
    order,
    order_change,
    order_edit,
    refund_desk,
)
from tools.errors import (
    AftersalesLimit,
    Conflict,
    IdempotencyMismatch,
    InvalidInput,
    NotRefundable,
    OutOfStock,
    PaymentDeclined,
    Unavailable,
)


async def stock(deps: Deps, sku: str) -> tuple[int, int]:
    """Return (available, allocated)."""
    async with deps.acting_as(SYSTEM).begin() as uow:
        levels = (await inventory.levels(uow, sku)).levels
        return sum(x.available for x in levels), sum(x.allocated for x in levels)


async def test_a_dearer_variant_is_charged_and_stock_follows(
    customer: Deps, gateway: ScriptedGateway
) -> None:
    await shop.lamp(customer)
    method = await shop.card(customer)
    placed = await shop.ordered(customer, steel=1, MUG=1)

    edited = await order_edit.modify_items(customer, placed.number, to("LAMP-OAK"), method)

    assert sorted((x.sku, x.unit_price_amount) for x in edited.lines) == [
        ("LAMP-OAK", 9900),
        ("MUG", 1250),
    ]
    assert edited.total_amount == placed.total_amount + 3400
    assert edited.edit.state is EditState.APPLIED
    assert edited.edit.difference_amount == 3400
    assert await stock(customer, "LAMP-STEEL") == (10, 0)
    assert await stock(customer, "LAMP-OAK") == (9, 1)
    assert sum(gateway.charges.values()) == edited.total_amount
    assert await invariant.check(customer) == []


@pytest.mark.parametrize("way", ["cancel", "refund", "part"])
async def test_what_a_change_owes_since_a_refusal_is_given_back_with_the_rest(
    customer: Deps, merchant: Deps, gateway: ScriptedGateway, way: str
) -> None:
    """It was never booked as sold, so what gives it back takes it off what is owed."""
    await shop.lamp(customer)
    method = await shop.card(customer)
    placed = await shop.ordered(customer, oak=1)
    gateway.script.append(Fault.DECLINE)
    edited = await order_edit.modify_items(
        customer, placed.number, to("LAMP-STEEL", "LAMP-OAK"), method
    )
    owed = placed.total_amount - edited.total_amount
    assert sum(gateway.charges.values()) == placed.total_amount == edited.total_amount + owed

    if way == "cancel":
        await checkout.cancel(customer, placed.number, reason="no longer needed")
    elif way == "refund":
        rest = await refund_desk.request(merchant, placed.number, "it broke")
        assert rest.breakdown.goods_amount == edited.subtotal_amount
        assert rest.breakdown.adjustment_amount == owed
    else:
        sold = await refund_desk.request(
            merchant, placed.number, "it broke", amount=edited.total_amount
        )
        assert sold.breakdown.adjustment_amount == 0
        assert await invariant.check(customer) == []
        late = await refund_desk.request(merchant, placed.number, "we owe it", amount=owed - 1)
        assert late.breakdown.adjustment_amount == late.amount
        async with merchant.begin() as uow:
            (refused,) = await uow.session.exec(select(Refund).where(Refund.state == "failed"))
        with pytest.raises(NotRefundable):
            await refund_desk.retry(merchant, refused.id)
        assert await invariant.check(customer) == []
        await refund_desk.request(merchant, placed.number, "and the last cent")
    assert sum(gateway.charges.values()) == 0
    assert await invariant.check(customer) == []


async def test_a_cheaper_variant_is_given_back_to_what_paid(
    customer: Deps, gateway: ScriptedGateway
) -> None:
    await shop.lamp(customer)
    method = await shop.card(customer)
    placed = await shop.ordered(customer, oak=2)

    edited = await order_edit.modify_items(
        customer, placed.number, to("LAMP-STEEL", "LAMP-OAK"), method
    )

    assert sorted((x.sku, x.quantity) for x in edited.lines) == [("LAMP-OAK", 1), ("LAMP-STEEL", 1)]
    assert edited.total_amount == placed.total_amount - 3400
    assert await shop.tenders(customer, placed) == [("tok_visa", placed.total_amount, 3400)]
    assert sum(gateway.charges.values()) == edited.total_amount
    assert await invariant.check(customer) == []


async def test_some_units_of_a_line_become_a_line_of_their_own(customer: Deps) -> None:
    await shop.lamp(customer)
    method = await shop.card(customer)
    placed = await shop.ordered(customer, steel=4)

    edited = await order_edit.modify_items(
        customer, placed.number, to("LAMP-OAK", quantity=2), method
    )

    assert [(x.sku, x.title, x.quantity, x.total_amount) for x in edited.lines] == [
        ("LAMP-STEEL", "Desk lamp – Steel", 2, 13_000),
        ("LAMP-OAK", "Desk lamp – Oak", 2, 19_800),
    ]
    amounts = (edited.subtotal_amount, edited.discount_amount, edited.tax_amount)
    assert amounts == (32_800, 0, 0)
    versions = "SELECT version FROM orders"
    assert await customer.hot.fetchval(versions) == 2
    assert (await edits(customer))[0].after == {"total_amount": edited.total_amount, "version": 2}
    assert await invariant.check(customer) == []


async def test_the_difference_may_come_from_a_gift_card_and_go_back_to_one(customer: Deps) -> None:
    await shop.lamp(customer)
    present = await shop.gift_card(customer, 5000)
    placed = await shop.ordered(customer, steel=1)

    await order_edit.modify_items(customer, placed.number, to("LAMP-OAK"), present)
    assert await shop.balance(customer, present) == 5000 - 3400

    await order_edit.modify_items(customer, placed.number, to("LAMP-BRASS", "LAMP-OAK"), present)
    assert await shop.balance(customer, present) == 5000 - 3400 + 1900
    assert await invariant.check(customer) == []


async def test_money_goes_to_a_method_that_did_not_pay_only_when_the_shop_allows_it(
    customer: Deps, gateway: ScriptedGateway
) -> None:
    await shop.lamp(customer)
    other = await shop.card(customer, "tok_other")
    placed = await shop.ordered(customer, oak=1)
    with pytest.raises(InvalidInput, match="goes back to what paid"):
        await order_edit.modify_items(customer, placed.number, to("LAMP-STEEL", "LAMP-OAK"), other)

    await shop.rules(customer, refunds_to_any_method=True)
    await order_edit.modify_items(customer, placed.number, to("LAMP-STEEL", "LAMP-OAK"), other)

    assert list(gateway.paid_out.values()) == [3400]
    assert await shop.tenders(customer, placed) == [("tok_visa", placed.total_amount, 3400)]
    assert await invariant.check(customer) == []


async def test_a_gift_card_order_is_paid_out_to_a_card(
    customer: Deps, gateway: ScriptedGateway
) -> None:
    await shop.lamp(customer)
    await shop.rules(customer, refunds_to_any_method=True)
    present = await shop.gift_card(customer, 20_000)
    card = await shop.card(customer)
    placed = await shop.ordered(customer, oak=1)
    await order_edit.modify_payment(customer, placed.number, present)
    before = await shop.balance(customer, present)

    await order_edit.modify_items(customer, placed.number, to("LAMP-STEEL", "LAMP-OAK"), card)

    assert await shop.balance(customer, present) == before
    assert list(gateway.paid_out.values()) == [3400]
    assert await invariant.check(customer) == []


async def test_a_preview_changes_nothing_and_binds_the_edit(customer: Deps) -> None:
    await shop.lamp(customer)
    method = await shop.card(customer)
    placed = await shop.ordered(customer, steel=1)
    async with customer.begin() as uow:
        shown = await order_edit.preview_modify_items(uow, placed.number, to("LAMP-OAK"), method)

    assert (shown.charge_amount, shown.refund_amount) == (3400, 0)
    assert shown.new_total_amount == placed.total_amount + 3400
    assert await edits(customer) == []
    assert await stock(customer, "LAMP-OAK") == (10, 0)


async def test_a_decline_leaves_the_order_as_it_was(customer: Deps) -> None:
    await shop.lamp(customer)
    bad = await shop.card(customer, "tok_declined")
    placed = await shop.ordered(customer, steel=1)

    with pytest.raises(PaymentDeclined):
        await order_edit.modify_items(customer, placed.number, to("LAMP-OAK"), bad)

    async with customer.begin() as uow:
        now = await order.get(uow, placed.number)
    assert (now.lines, now.total_amount) == (placed.lines, placed.total_amount)
    assert await stock(customer, "LAMP-OAK") == (10, 0)
    assert [edit.state for edit in await edits(customer)] == [EditState.FAILED]
    assert await invariant.check(customer) == []


async def test_an_unanswered_charge_is_finished_by_the_sweeper(
    customer: Deps, gateway: ScriptedGateway
) -> None:
    await shop.lamp(customer)
    method = await shop.card(customer)
    placed = await shop.ordered(customer, steel=1)
    gateway.script.append(Fault.TIMEOUT_AFTER)
    with pytest.raises(Unavailable):
        await order_edit.modify_items(customer, placed.number, to("LAMP-OAK"), method)
    assert await invariant.check(customer) == []

    await order_change.resume_stuck(factories.later(customer, minutes=5))

    async with customer.begin() as uow:
        now = await order.get(uow, placed.number)
    assert [line.sku for line in now.lines] == ["LAMP-OAK"]
    assert sum(gateway.charges.values()) == now.total_amount
    assert await invariant.check(customer) == []


@pytest.mark.parametrize("calls_before", [0, 1])
async def test_a_charge_the_provider_still_decides_on_changes_nothing_yet(
    customer: Deps, gateway: ScriptedGateway, calls_before: int
) -> None:
    await shop.lamp(customer)
    method = await shop.card(customer)
    placed = await shop.ordered(customer, steel=1)
    gateway.script.extend([*[None] * calls_before, Fault.PENDING])
    with pytest.raises(Unavailable):
        await order_edit.modify_items(customer, placed.number, to("LAMP-OAK"), method)
    await order_change.resume_stuck(factories.later(customer, minutes=5))
    assert [edit.state for edit in await edits(customer)] == [EditState.PENDING]
    assert await invariant.check(customer) == []

    gateway.decide()
    await order_change.resume_stuck(factories.later(customer, minutes=5))

    assert [edit.state for edit in await edits(customer)] == [EditState.APPLIED]
    async with customer.begin() as uow:
        now = await order.get(uow, placed.number)
    assert sum(gateway.charges.values()) == now.total_amount
    assert await invariant.check(customer) == []


async def test_units_lost_while_the_money_was_awaited_give_the_money_back(
    customer: Deps, gateway: ScriptedGateway
) -> None:
    await shop.lamp(customer, oak=1)
    method = await shop.card(customer)
    placed = await shop.ordered(customer, steel=1)
    gateway.script.append(Fault.TIMEOUT_AFTER)
    with pytest.raises(Unavailable):
        await order_edit.modify_items(customer, placed.number, to("LAMP-OAK"), method)
    later = factories.later(customer, hours=2)
    await inventory.expire_due(later)
    await shop.ordered(later, oak=1)

    await order_change.resume_stuck(later)

    assert [edit.failure for edit in await edits(customer)] == ["out_of_stock"]
    assert (await shop.tenders(customer, placed))[-1] == ("tok_visa", 3400, 3400)
    assert await invariant.check(customer) == []


async def test_out_of_stock_refuses_before_anything_is_charged(
    customer: Deps, gateway: ScriptedGateway
) -> None:
    await shop.lamp(customer, oak=0)
    method = await shop.card(customer)
    placed = await shop.ordered(customer, steel=1)
    calls = gateway.calls

    with pytest.raises(OutOfStock):
        await order_edit.modify_items(customer, placed.number, to("LAMP-OAK"), method)

    assert gateway.calls == calls
    assert await edits(customer) == []


async def test_the_same_id_is_the_same_edit(customer: Deps, gateway: ScriptedGateway) -> None:
    await shop.lamp(customer)
    method, key = await shop.card(customer), new_id()
    placed = await shop.ordered(customer, steel=2)

    answers = await asyncio.gather(
        *(
            order_edit.modify_items(customer, placed.number, to("LAMP-OAK"), method, key)
            for _ in range(8)
        )
    )

    assert {answer.total_amount for answer in answers} == {placed.total_amount + 3400}
    assert len(await edits(customer)) == 1
    assert sum(gateway.charges.values()) == placed.total_amount + 3400
    with pytest.raises(IdempotencyMismatch):
        await order_edit.modify_items(customer, placed.number, to("LAMP-BRASS"), method, key)
    assert await invariant.check(customer) == []


async def test_eight_edits_at_once_under_a_limit_of_one_have_one_effect(customer: Deps) -> None:
    await shop.lamp(customer)
    await shop.rules(customer, item_edits_max=1)
    method = await shop.card(customer)
    placed = await shop.ordered(customer, steel=2)

    answers = await asyncio.gather(
        *(
            order_edit.modify_items(customer, placed.number, to("LAMP-OAK"), method)
            for _ in range(8)
        ),
        return_exceptions=True,
    )

    refused = [answer for answer in answers if isinstance(answer, BaseException)]
    assert len(refused) == 7
    assert all(isinstance(answer, AftersalesLimit | Conflict) for answer in refused)
    assert await stock(customer, "LAMP-OAK") == (9, 1)
    assert await invariant.check(customer) == []


async def test_two_edits_in_opposite_directions_do_not_deadlock(customer: Deps) -> None:
    await shop.lamp(customer)
    method = await shop.card(customer)
    orders = [await shop.ordered(customer, steel=1, oak=1) for _ in range(4)]

    await asyncio.gather(
        *(
            order_edit.modify_items(
                customer,
                placed.number,
                to("LAMP-BRASS") if at % 2 else to("LAMP-STEEL", "LAMP-OAK"),
                method,
            )
            for at, placed in enumerate(orders)
        )
    )

    assert await invariant.check(customer) == []


async def test_an_edited_order_is_cancelled_and_all_of_it_given_back(
    customer: Deps, gateway: ScriptedGateway
) -> None:
    await shop.lamp(customer)
    method = await shop.card(customer)
    placed = await shop.ordered(customer, steel=1)
    await order_edit.modify_items(customer, placed.number, to("LAMP-OAK"), method)

    await checkout.cancel(customer, placed.number, "changed my mind")

    assert sum(gateway.charges.values()) == 0
    assert await stock(customer, "LAMP-OAK") == (10, 0)
    assert await invariant.check(customer) == []


async def test_a_change_that_waits_for_its_money_holds_up_another_of_its_order_alone(
    customer: Deps, gateway: ScriptedGateway
) -> None:
    await shop.lamp(customer)
    method, other = await shop.card(customer), await shop.card(customer, "tok_other")
    placed, beside = [await shop.ordered(customer, steel=2) for _ in range(2)]
    await order_edit.modify_items(customer, placed.number, to("LAMP-OAK"), method)
    gateway.script.append(Fault.TIMEOUT_BEFORE)
    with pytest.raises(Unavailable):
        await order_edit.modify_items(customer, placed.number, to("LAMP-OAK"), method)

    with pytest.raises(Conflict, match="being paid for"):
        await order_edit.modify_items(customer, placed.number, to("LAMP-BRASS"), method)
    with pytest.raises(Conflict, match="being paid for"):
        await order_edit.modify_payment(customer, placed.number, other)
    await order_edit.modify_items(customer, beside.number, to("LAMP-OAK"), method)

    await order_change.resume_stuck(factories.later(customer, minutes=5))
    changed = await order_edit.modify_items(customer, placed.number, to("LAMP-BRASS", "LAMP-OAK"))
    assert changed.edit.difference_amount == LAMP["LAMP-BRASS"] - LAMP["LAMP-OAK"]
    assert await invariant.check(customer) == []


@pytest.mark.parametrize(("difference", "calls"), [(-1, 1), (0, 0), (1, 2)])
async def test_the_least_difference_is_charged_or_given_back_and_none_is_left_alone(
    customer: Deps, gateway: ScriptedGateway, difference: int, calls: int
) -> None:
    await shop.lamp(customer)
    price = LAMP["LAMP-STEEL"] + difference
    await customer.hot.execute("UPDATE variant SET price_amount = $1 WHERE sku = 'LAMP-OAK'", price)
    method = await shop.card(customer)
    placed = await shop.ordered(customer, steel=1)
    before = gateway.calls
    edited = await order_edit.modify_items(customer, placed.number, to("LAMP-OAK"), method)
    assert (edited.edit.state, edited.edit.difference_amount) == (EditState.APPLIED, difference)
    assert gateway.calls - before == calls
    assert sum(gateway.charges.values()) == edited.total_amount == placed.total_amount + difference
    assert await invariant.check(customer) == []


async def test_a_preview_refuses_what_cannot_be_had_and_keeps_the_id_it_is_given(
    customer: Deps,
) -> None:
    await shop.lamp(customer, oak=0)
    method, other, key = await shop.card(customer), await shop.card(customer, "tok_other"), new_id()
    placed = await shop.ordered(customer, steel=1)
    async with customer.begin() as uow:
        with pytest.raises(OutOfStock):
            await order_edit.preview_modify_items(uow, placed.number, to("LAMP-OAK"), method)
        shown = await order_edit.preview_modify_items(
            uow, placed.number, to("LAMP-BRASS"), method, key
        )
        paid = await order_edit.preview_modify_payment(uow, placed.number, other, key)
        again = await order_edit.preview_modify_payment(uow, placed.number, other)
        with pytest.raises(InvalidInput, match="already"):
            await order_edit.preview_modify_payment(uow, placed.number, method)
    assert shown.edit_id == paid.edit_id == key != again.edit_id
    assert again.edit_id is not None
    assert paid.charge_amount == paid.refund_amount == placed.total_amount


async def test_the_changes_of_one_order_are_listed(customer: Deps) -> None:
    await shop.lamp(customer)
    placed, other = [await shop.ordered(customer, oak=1) for _ in range(2)]
    async with customer.begin() as uow:
        for of in (placed, other):
            await order_edit.modify_address(uow, of.number, ELSEWHERE)
        assert len(await order_edit.list_for_order(uow, placed.number)) == 1


async def test_every_version_of_the_lines_can_be_read_back(customer: Deps) -> None:
    await shop.lamp(customer)
    method = await shop.card(customer)
    placed = await shop.ordered(customer, steel=1)
    await order_edit.modify_items(customer, placed.number, to("LAMP-OAK"), method)
    await order_edit.modify_items(customer, placed.number, to("LAMP-BRASS", "LAMP-OAK"), method)

    async with customer.begin() as uow:
        history = await order_edit.list_for_order(uow, placed.number)

    assert [(edit.lines[0].sku, edit.lines[0].new_sku) for edit in history] == [
        ("LAMP-STEEL", "LAMP-OAK"),
        ("LAMP-OAK", "LAMP-BRASS"),
    ]
    assert [edit.difference_amount for edit in history] == [
        LAMP["LAMP-OAK"] - LAMP["LAMP-STEEL"],
        LAMP["LAMP-BRASS"] - LAMP["LAMP-OAK"],
    ]
