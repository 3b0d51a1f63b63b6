"""Who pays a placed order, and where it goes, are changed: once, and told."""

import pytest

from db.models.aftersales import EditState
from db.types import new_id
from deps.core import Deps
from deps.scripted import ScriptedGateway
from tests import aftersales as shop
from tests import factories
from tests.aftersales import ELSEWHERE, LAMP, edits, to
from tools import (
    invariant,
    order,
    order_edit,
    refund_desk,
)
from tools.errors import (
    Conflict,
    IdempotencyMismatch,
    InvalidInput,
    PaymentDeclined,
)


async def test_paying_otherwise_charges_the_new_method_and_gives_back_the_old(
    customer: Deps,
) -> None:
    await shop.lamp(customer)
    present = await shop.gift_card(customer, 20_000)
    placed = await shop.ordered(customer, oak=1)

    changed = await order_edit.modify_payment(customer, placed.number, present)

    total = placed.total_amount
    assert changed.total_amount == total
    assert await shop.balance(customer, present) == 20_000 - total
    assert [row[1:] for row in await shop.tenders(customer, placed)] == [(total, total), (total, 0)]
    assert await invariant.check(customer) == []
    with pytest.raises(InvalidInput, match="already"):
        await order_edit.modify_payment(customer, placed.number, present)


async def test_a_declined_new_method_changes_nothing(customer: Deps) -> None:
    await shop.lamp(customer)
    bad = await shop.card(customer, "tok_declined")
    placed = await shop.ordered(customer, oak=1)

    with pytest.raises(PaymentDeclined):
        await order_edit.modify_payment(customer, placed.number, bad)

    assert (await shop.tenders(customer, placed))[0] == ("tok_visa", placed.total_amount, 0)
    assert await invariant.check(customer) == []


async def test_an_address_is_changed_once_however_often_it_is_asked(customer: Deps) -> None:
    await shop.lamp(customer)
    placed = await shop.ordered(customer, oak=1)
    for _ in range(2):
        async with customer.begin() as uow:
            moved = await order_edit.modify_address(uow, placed.number, ELSEWHERE)

    assert moved.shipping_address["line1"] == "1 Other Street"
    assert len(await edits(customer)) == 1


async def test_the_same_id_is_the_same_way_of_paying(
    customer: Deps, gateway: ScriptedGateway
) -> None:
    await shop.lamp(customer)
    other, third = await shop.card(customer, "tok_other"), await shop.card(customer, "tok_third")
    placed, key = await shop.ordered(customer, oak=1), new_id()
    for _ in range(2):
        paid = await order_edit.modify_payment(customer, placed.number, other, key)
    assert (paid.edit.state, paid.edit.difference_amount) == (EditState.APPLIED, 0)
    with pytest.raises(IdempotencyMismatch):
        await order_edit.modify_payment(customer, placed.number, third, key)
    assert await shop.tenders(customer, placed) == [
        ("tok_visa", placed.total_amount, placed.total_amount),
        ("tok_other", placed.total_amount, 0),
    ]
    assert sum(gateway.charges.values()) == placed.total_amount


async def test_what_is_paid_in_full_now_is_paid_otherwise_and_nothing_else(
    customer: Deps, merchant: Deps, gateway: ScriptedGateway
) -> None:
    await shop.lamp(customer)
    method, other = await shop.card(customer), await shop.card(customer, "tok_other")
    placed = await shop.ordered(customer, oak=1)
    changed = to("LAMP-STEEL", "LAMP-OAK")
    cheaper = await order_edit.modify_items(customer, placed.number, changed, method)
    await order_edit.modify_payment(customer, placed.number, other)
    await order_edit.modify_items(customer, placed.number, to("LAMP-OAK"), method)
    # Two cards have paid; one of them may pay all of it.
    await order_edit.modify_payment(customer, placed.number, other)
    assert sum(gateway.charges.values()) == cheaper.total_amount + LAMP["LAMP-OAK"] - 6500
    assert await invariant.check(customer) == []

    await refund_desk.request(merchant, placed.number, "a scratch", amount=100)
    calls = gateway.calls
    with pytest.raises(Conflict, match="not paid in full"):
        await order_edit.modify_payment(customer, placed.number, method)
    assert gateway.calls == calls


async def test_a_changed_address_is_shown_kept_and_told(customer: Deps) -> None:
    await shop.lamp(customer)
    placed = await shop.ordered(customer, oak=1)
    async with customer.begin() as uow:
        shown = await order_edit.preview_modify_address(uow, placed.number, ELSEWHERE)
        await order_edit.modify_address(uow, placed.number, ELSEWHERE)
    assert (shown.address, shown.new_address) == (factories.ADDRESS, ELSEWHERE)
    (edit,) = await edits(customer)
    assert (edit.state, edit.difference_amount) == (EditState.APPLIED, 0)
    assert edit.finished_at == customer.clock()
    assert edit.before == {"address": factories.ADDRESS.model_dump()}
    assert edit.after == {"address": ELSEWHERE.model_dump()}
    assert await customer.hot.fetchval("SELECT version FROM orders") == 2
    async with customer.begin() as uow:
        told = [event.type for event in await order.timeline(uow, placed.number)]
    assert told.count("OrderAddressChanged") == 1


async def test_a_rate_that_has_changed_since_keeps_nobody_from_moving_within_the_country(
    customer: Deps,
) -> None:
    await shop.lamp(customer)
    placed = await shop.ordered(customer, oak=1)
    async with factories.taxed(customer, DE="19").begin() as uow:
        moved = await order_edit.modify_address(uow, placed.number, ELSEWHERE)
    assert (moved.shipping_address["city"], moved.tax_amount) == ("Bremen", 0)
