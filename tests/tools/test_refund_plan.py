"""What is left to refund: of this order alone, to the cent, beside what other refunds gave back."""

import pytest

from db.models.refund import RefundState
from deps.core import Deps
from deps.scripted import Fault, ScriptedGateway
from tests import factories
from tests.tools.test_refund import refunded, start, status
from tools.errors import NotRefundable
from tools.invariant import check
from tools.order import OrderView


@pytest.fixture
async def placed(customer: Deps) -> OrderView:
    """An order of two mugs and shipping, beside one of which as much was given back."""
    await factories.product(customer, "MUG", price=1000, stock=9)
    await factories.product(customer, "TEA", title="Tea", price=700, stock=9)
    other = await factories.placed_order(customer, MUG=3, TEA=1)
    await refunded(customer, other, amount=600)
    await start(customer, other, lines={"MUG": 1})
    return await factories.placed_order(customer, MUG=2)


async def test_what_another_order_sold_or_gave_back_is_not_this_one_s(
    customer: Deps, placed: OrderView
) -> None:
    with pytest.raises(NotRefundable, match="0 units of TEA"):
        await start(customer, placed, lines={"TEA": 1})
    with pytest.raises(NotRefundable, match="2 units of MUG") as refused:
        await start(customer, placed, lines={"MUG": 3})
    assert refused.value.extra["refundable_quantity"] == 2
    all_of_it = await refunded(customer, placed)
    assert all_of_it.amount == placed.total_amount == 2490
    assert [(line["sku"], line["quantity"]) for line in all_of_it.breakdown["lines"]] == [
        ("MUG", 2)
    ]
    assert (all_of_it.breakdown["goods_amount"], all_of_it.breakdown["shipping_amount"]) == (
        2000,
        490,
    )
    assert await check(customer) == []


async def test_an_amount_gives_back_the_tax_of_goods_and_leaves_that_of_shipping(
    customer: Deps, merchant: Deps
) -> None:
    await factories.product(customer, "MUG", price=1999, stock=9)
    taxed = factories.taxed(customer, DE="19")
    placed = await factories.placed_order(taxed, MUG=2)
    assert (placed.subtotal_amount, placed.shipping_amount, placed.tax_amount) == (3998, 490, 853)

    reduced = await refunded(merchant, placed, amount=119)
    assert (reduced.breakdown["goods_amount"], reduced.breakdown["tax_amount"]) == (100, 19)
    goods = await refunded(merchant, placed, amount=3998 + 760 - 119)
    assert (goods.breakdown["goods_amount"], goods.breakdown["tax_amount"]) == (3898, 741)
    assert goods.breakdown["shipping_tax_amount"] == 0

    delivery = await refunded(merchant, placed, lines={}, shipping_amount=490)
    assert delivery.amount == 490 + 93
    assert delivery.breakdown["shipping_tax_amount"] == delivery.breakdown["tax_amount"] == 93
    assert await status(customer, placed) == "refunded"
    assert await check(customer) == []


async def test_the_last_cent_is_given_back_and_none_beyond(
    customer: Deps, placed: OrderView
) -> None:
    await refunded(customer, placed, amount=1)
    with pytest.raises(NotRefundable) as refused:
        await start(customer, placed, amount=2490)
    assert refused.value.extra["refundable_amount"] == 2489
    await refunded(customer, placed, amount=2488)
    assert await status(customer, placed) == "partially_refunded"
    for amount in (0, 2):
        with pytest.raises(NotRefundable, match="more than is left"):
            await start(customer, placed, amount=amount)
    assert (await refunded(customer, placed, amount=1)).amount == 1
    assert await status(customer, placed) == "refunded"
    with pytest.raises(NotRefundable, match="Nothing of this order is left"):
        await start(customer, placed, amount=1)
    assert await check(customer) == []


async def test_goods_that_were_given_back_by_amount_are_not_given_back_by_line(
    customer: Deps, placed: OrderView
) -> None:
    first = await refunded(customer, placed, amount=1100)
    assert first.breakdown["goods_amount"] == 1100
    rest = await refunded(customer, placed, lines={"MUG": 2})
    assert (rest.amount, rest.breakdown["goods_amount"]) == (900, 900)
    with pytest.raises(NotRefundable, match="0 units of MUG"):
        await start(customer, placed, lines={"MUG": 1})
    with pytest.raises(NotRefundable, match="left of the shipping"):
        await start(customer, placed, lines={}, shipping_amount=491)
    last = await refunded(customer, placed)
    assert (last.amount, last.breakdown["shipping_amount"]) == (490, 490)
    assert await check(customer) == []


async def test_lines_whose_money_is_gone_already_are_refused(
    customer: Deps, placed: OrderView
) -> None:
    await refunded(customer, placed, amount=2000)
    with pytest.raises(NotRefundable, match="gave that back already") as refused:
        await start(customer, placed, lines={"MUG": 1})
    assert refused.value.extra["refundable_amount"] == 490


async def test_what_failed_leaves_its_units_and_its_money(
    customer: Deps, placed: OrderView, gateway: ScriptedGateway
) -> None:
    gateway.script.append(Fault.DECLINE)
    failed = await refunded(customer, placed, lines={"MUG": 2})
    assert failed.state is RefundState.FAILED
    again = await refunded(customer, placed, lines={"MUG": 2}, shipping_amount=490)
    assert (again.state, again.amount) == (RefundState.SUCCEEDED, 2490)
    assert await check(customer) == []
