"""Orders that cost nothing: bought like any other, with nobody to charge."""

import asyncio
from typing import Any

import pytest

from deps.core import SYSTEM, Deps
from deps.scripted import ScriptedGateway
from deps.settings import CaptureMode
from tests import factories
from tests.tools.test_checkout import counters
from tools import (
    cart,
    cart_discount,
    checkout,
    fulfillment,
    invariant,
    inventory,
    order,
    promotion,
    refund_desk,
    sale,
)
from tools.cart import CartView
from tools.errors import NotRefundable, OutOfStock, TotalChanged


async def sample(deps: Deps, stock: int = 3) -> None:
    await factories.product(deps, "MUG", price=0, stock=stock)


async def to_pick_up(deps: Deps, **units: int) -> CartView:
    filled = await factories.filled_cart(deps, **units)
    async with deps.begin() as uow:
        return await cart.set_details(uow, filled.id, shipping_method="pickup")


async def events(deps: Deps, number: int) -> list[str]:
    async with deps.acting_as(SYSTEM).begin() as uow:
        return [event.type for event in await order.timeline(uow, number)]


@pytest.mark.parametrize("payment_method", [None, "tok_visa"])
async def test_it_is_placed_without_a_charge(
    guest: Deps, gateway: ScriptedGateway, payment_method: str | None
) -> None:
    await sample(guest)
    filled = await to_pick_up(guest, MUG=2)
    assert (filled.total_amount, filled.problems) == (0, [])
    async with guest.begin() as uow:
        shown = await checkout.preview_buy(uow)
    assert (shown.charge_amount, shown.credit_amount) == (0, 0)

    placed = await checkout.complete(
        guest, filled.id, payment_method=payment_method, expected_total_amount=0
    )

    assert (placed.status, placed.payment_status, placed.total_amount) == ("placed", "captured", 0)
    assert gateway.charges == {}
    assert await counters(guest) == (3, 0, 2)
    again = await checkout.complete(guest, filled.id, payment_method=payment_method)
    assert again == placed
    told = await events(guest, placed.number)
    assert [type_ for type_ in told if type_.startswith("Order")] == ["OrderCreated", "OrderPlaced"]
    assert await invariant.check(guest) == []


async def test_asked_for_fifty_times_at_once_it_is_one(guest: Deps) -> None:
    await sample(guest, stock=100)
    filled = await to_pick_up(guest, MUG=1)
    answers = await asyncio.gather(
        *(checkout.complete(guest, filled.id, payment_method=None) for _ in range(50))
    )
    assert {answer.number for answer in answers} == {answers[0].number}
    assert await counters(guest) == (100, 0, 1)
    assert await invariant.check(guest) == []


@pytest.mark.parametrize("terms", [{"percent": 100}, {"amount": 10_000}])
async def test_a_code_may_bring_the_whole_price(
    merchant: Deps, guest: Deps, terms: dict[str, Any]
) -> None:
    await factories.product(merchant, "MUG", price=1_250, stock=3)
    await factories.discount(merchant, "GIFT", uses_max=1, **terms)
    filled = await to_pick_up(guest, MUG=2)
    await cart_discount.put(guest, filled.id, "GIFT")
    placed = await checkout.complete(guest, filled.id, payment_method=None)
    assert (placed.subtotal_amount, placed.discount_amount, placed.total_amount) == (2500, 2500, 0)

    cancelled = await checkout.cancel(guest, placed.number, "not needed")

    assert (cancelled.status, cancelled.payment_status) == ("cancelled", "voided")
    assert await counters(guest) == (3, 0, 0)
    async with merchant.begin() as uow:
        assert (await promotion.get_code(uow, "GIFT")).uses == 0
    assert await invariant.check(guest) == []


async def test_delivery_is_still_to_be_paid(guest: Deps, gateway: ScriptedGateway) -> None:
    await sample(guest)
    filled = await factories.filled_cart(guest, MUG=1)
    with pytest.raises(TotalChanged):
        await checkout.complete(
            guest, filled.id, payment_method="tok_visa", expected_total_amount=0
        )
    placed = await checkout.complete(guest, filled.id, payment_method="tok_visa")
    assert (placed.total_amount, sum(gateway.charges.values())) == (490, 490)


@pytest.mark.parametrize("mode", list(CaptureMode))
async def test_it_ships_with_nothing_left_to_capture(merchant: Deps, mode: CaptureMode) -> None:
    await sample(merchant)
    shopper = factories.guest(merchant)
    shopper.settings.capture = mode
    filled = await to_pick_up(shopper, MUG=1)
    placed = await checkout.complete(shopper, filled.id, payment_method=None)
    async with merchant.begin() as uow:
        await fulfillment.ship(uow, placed.number, "T-1", "DHL")
    async with merchant.begin() as uow:
        await fulfillment.deliver(uow, placed.number)
        shown = await order.get(uow, placed.number)
    assert (shown.status, shown.payment_status) == ("completed", "captured")
    assert await counters(merchant) == (2, 0, 0)
    with pytest.raises(NotRefundable):
        await refund_desk.request(merchant, placed.number, "they are unhappy")
    assert await invariant.check(merchant) == []


async def stranded(deps: Deps, monkeypatch: pytest.MonkeyPatch) -> CartView:
    """Begin to buy, and die before the stock is allocated."""
    filled = await to_pick_up(deps, MUG=1)

    async def die(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(sale, "drive", die)
        with pytest.raises(KeyboardInterrupt):
            await checkout.complete(deps, filled.id, payment_method=None)
    return filled


async def test_one_that_was_left_behind_is_finished(
    guest: Deps, monkeypatch: pytest.MonkeyPatch
) -> None:
    await sample(guest)
    filled = await stranded(guest, monkeypatch)
    assert await counters(guest) == (3, 1, 0)
    assert await sale.resume_stuck(factories.later(guest, minutes=3)) == 1
    assert await counters(guest) == (3, 0, 1)
    assert (await checkout.complete(guest, filled.id, payment_method=None)).status == "placed"
    assert await invariant.check(guest) == []


async def test_one_whose_stock_has_gone_meanwhile_is_undone(
    deps: Deps, monkeypatch: pytest.MonkeyPatch
) -> None:
    await sample(deps, stock=1)
    slow = factories.guest(deps, "token-of-the-slow-buyer-0123456789")
    filled = await stranded(slow, monkeypatch)
    later = factories.later(deps, minutes=20)
    assert await inventory.expire_due(later) == 1
    quick = factories.later(factories.guest(deps), minutes=20)
    bought = await to_pick_up(quick, MUG=1)
    await checkout.complete(quick, bought.id, payment_method=None)

    with pytest.raises(OutOfStock):
        await checkout.complete(factories.later(slow, minutes=20), filled.id, payment_method=None)

    async with slow.begin() as uow:
        assert (await cart.view(uow, filled.id)).status == "open"
    assert await counters(deps) == (1, 0, 1)
    assert await invariant.check(later) == []
