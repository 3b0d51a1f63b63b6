"""Payments that wait for their shopper: confirmed by them alone, failed, or left to run out."""

from uuid import UUID, uuid4

import httpx
import pytest

from deps.core import SYSTEM, Deps
from tests import factories
from tests.providers.shop import buy, order_of, tender_of
from tests.providers.stripe_server import StripeServer
from tools import confirmation, sale
from tools.errors import NotFound, PaymentDeclined
from tools.invariant import check
from tools.order import OrderView

CHALLENGED = "pm_card_threeDSecure2Required"


async def waiting(shop: Deps) -> tuple[Deps, OrderView, UUID]:
    await factories.product(shop, "MUG", price=1250, stock=2)
    buyer = await factories.user(shop)
    order = await buy(buyer, CHALLENGED)
    assert order.payment_status == "requires_action"
    assert order.payment_action is not None
    return buyer, order, UUID(order.payment_action["payment_id"])


async def test_confirmed_over_http(
    stripe_client: httpx.AsyncClient, stripe_shop: Deps, stripe_account: StripeServer
) -> None:
    buyer, order, payment_id = await waiting(stripe_shop)
    path, headers = f"/v1/payments/{payment_id}/confirm", factories.bearer(buyer)
    early = await stripe_client.post(path, headers=headers)
    assert early.json()["payment_status"] == "requires_action"
    reference = (await tender_of(buyer, order.id)).provider_reference
    assert reference is not None
    stripe_account.authenticate(reference)
    for _ in range(2):
        done = await stripe_client.post(path, headers=headers)
        assert (done.status_code, done.json()["status"]) == (200, "placed")
    assert stripe_account.intents[reference]["amount_received"] == 2990
    assert await check(stripe_shop) == []


async def test_a_failed_challenge_frees_the_stock(
    stripe_shop: Deps, stripe_account: StripeServer
) -> None:
    buyer, order, payment_id = await waiting(stripe_shop)
    reference = (await tender_of(buyer, order.id)).provider_reference
    assert reference is not None
    stripe_account.authenticate(reference, succeeds=False)
    with pytest.raises(PaymentDeclined):
        await confirmation.confirm(buyer, payment_id)
    assert (await order_of(buyer, order.id)).status == "cancelled"
    assert (await buy(await factories.user(stripe_shop), "pm_card_visa")).status == "placed"
    assert await check(stripe_shop) == []


async def test_an_abandoned_challenge_is_voided(
    stripe_shop: Deps, stripe_account: StripeServer
) -> None:
    buyer, order, _ = await waiting(stripe_shop)
    later = factories.later(stripe_shop, seconds=sale.ACTION_TTL.total_seconds() + 60)
    await sale.resume_stuck(later.acting_as(SYSTEM))
    assert (await order_of(buyer, order.id)).status == "cancelled"
    reference = (await tender_of(buyer, order.id)).provider_reference
    assert reference is not None
    assert stripe_account.intents[reference]["status"] == "canceled"
    assert await check(stripe_shop) == []


async def test_others_payments_look_absent(
    stripe_client: httpx.AsyncClient, stripe_shop: Deps, stripe_account: StripeServer
) -> None:
    _, _, payment_id = await waiting(stripe_shop)
    thief = factories.bearer(await factories.user(stripe_shop))
    foreign = await stripe_client.post(f"/v1/payments/{payment_id}/confirm", headers=thief)
    absent = await stripe_client.post(f"/v1/payments/{uuid4()}/confirm", headers=thief)
    assert (foreign.status_code, foreign.json()) == (404, absent.json())
    with pytest.raises(NotFound):
        await confirmation.confirm(factories.guest(stripe_shop), payment_id)
