"""Webhooks: verified, kept once, handled in any order and any number of times."""

import asyncio
import random
from datetime import timedelta
from uuid import UUID

import httpx
import pytest
from sqlmodel import select

from db.models.order import Order
from db.models.payment import Payment, PaymentState
from db.models.refund import Refund, RefundPart, RefundState
from db.models.user import Role
from db.models.webhook import WebhookEvent, WebhookState
from deps.core import SYSTEM, Deps
from tests import factories
from tests.providers.paypal_server import PayPalServer
from tests.providers.server import Fault
from tests.providers.stripe_account import Json
from tests.providers.stripe_server import StripeServer
from tools import checkout, method, refund, refund_process, truth, webhook
from tools.errors import Unavailable
from tools.invariant import check
from tools.order import OrderView


async def buy(deps: Deps, method: str = "pm_card_visa") -> OrderView:
    filled = await factories.filled_cart(deps, MUG=2)
    return await checkout.complete(deps, filled.id, payment_method=method)


@pytest.fixture
async def guest_shop(stripe_shop: Deps) -> Deps:
    await factories.product(stripe_shop, "MUG", price=1250, stock=50)
    return factories.guest(stripe_shop)


async def tender_of(deps: Deps, order_id: UUID) -> Payment:
    async with deps.begin() as uow:
        query = select(Payment).where(Payment.order_id == order_id)
        return (await uow.session.exec(query)).one()


async def order_of(deps: Deps, order_id: UUID) -> Order:
    async with deps.begin() as uow:
        return await uow.session.get_one(Order, order_id)


async def inbox(deps: Deps) -> list[WebhookEvent]:
    async with deps.begin() as uow:
        return list(await uow.session.exec(select(WebhookEvent)))


def of_payment(account: StripeServer, reference: str) -> list[Json]:
    """The events about one payment intent, as Stripe would send them."""
    return [
        event
        for event in account.events
        if reference
        in (event["data"]["object"].get("payment_intent"), event["data"]["object"]["id"])
    ]


async def deliver(deps: Deps, account: StripeServer, *events: Json) -> None:
    for event in events:
        headers, body = account.webhook(event)
        await webhook.receive(deps, "stripe", headers, body)


async def work(deps: Deps) -> None:
    """Handle everything that is due, as three workers would."""
    while any(await asyncio.gather(*(webhook.handle_due(deps, 3) for _ in range(3)))):
        pass


async def test_any_order_and_any_number_of_times(
    guest_shop: Deps, stripe_account: StripeServer
) -> None:
    placed = await buy(guest_shop)
    tender = await tender_of(guest_shop, placed.id)
    assert tender.provider_reference is not None
    stripe_account.refund_by_hand(tender.provider_reference, 500)
    events = of_payment(stripe_account, tender.provider_reference) * 3
    assert len(events) >= 12
    random.Random(7).shuffle(events)
    for event in events:
        await deliver(guest_shop, stripe_account, event)
        await work(guest_shop)
    rows = await inbox(guest_shop)
    assert len(rows) == len({event["id"] for event in events})
    assert {row.state for row in rows} == {WebhookState.HANDLED}
    tender = await tender_of(guest_shop, placed.id)
    assert (tender.captured_amount, tender.refunded_amount) == (2990, 500)
    assert (await order_of(guest_shop, placed.id)).payment_status == "partially_refunded"
    assert await check(guest_shop) == []


async def test_a_webhook_finishes_a_sale_whose_answer_was_lost(
    guest_shop: Deps, stripe_account: StripeServer
) -> None:
    stripe_account.search_lag_s = 60.0  # The search does not show it yet; the key answers.
    stripe_account.faults.script.append(Fault.TIMEOUT_AFTER)
    before = len(stripe_account.intents)
    with pytest.raises(Unavailable):
        await buy(guest_shop)
    event = stripe_account.events[-1]
    assert event["type"] == "payment_intent.amount_capturable_updated"
    await deliver(guest_shop, stripe_account, event)
    await work(guest_shop)
    assert len(stripe_account.intents) == before + 1
    async with guest_shop.begin() as uow:
        order = (await uow.session.exec(select(Order))).one()
    assert (order.status, order.payment_status) == ("placed", "captured")
    assert await check(guest_shop) == []


async def test_authentication_and_then_the_webhook(
    guest_shop: Deps, stripe_account: StripeServer
) -> None:
    waiting = await buy(guest_shop, "pm_card_threeDSecure2Required")
    assert (waiting.status, waiting.payment_status) == ("pending", "requires_action")
    assert waiting.payment_action is not None
    assert waiting.payment_action["type"] == "client_secret"
    tender = await tender_of(guest_shop, waiting.id)
    assert tender.provider_reference is not None
    stripe_account.authenticate(tender.provider_reference)
    await deliver(
        guest_shop, stripe_account, *of_payment(stripe_account, tender.provider_reference)
    )
    await work(guest_shop)
    assert (await order_of(guest_shop, waiting.id)).status == "placed"
    assert await check(guest_shop) == []


async def test_a_refund_by_hand_is_booked_as_ours(
    guest_shop: Deps, stripe_account: StripeServer
) -> None:
    placed = await buy(guest_shop)
    reference = (await tender_of(guest_shop, placed.id)).provider_reference
    assert reference is not None
    stripe_account.refund_by_hand(reference, 2990)
    await deliver(guest_shop, stripe_account, stripe_account.events[-1])
    await work(guest_shop)
    async with guest_shop.begin() as uow:
        whole = (await uow.session.exec(select(Refund))).one()
    assert (whole.amount, whole.state) == (2990, RefundState.SUCCEEDED)
    assert whole.reason == "given back at the provider"
    assert (await order_of(guest_shop, placed.id)).payment_status == "refunded"
    assert await check(guest_shop) == []


async def test_our_own_refund_is_not_booked_twice(
    guest_shop: Deps, stripe_account: StripeServer
) -> None:
    placed = await buy(guest_shop)
    async with guest_shop.acting_as(SYSTEM).begin() as uow:
        of = await uow.session.get_one(Order, placed.id)
        asked = await refund.request(uow, of, amount=1000, reason="it broke")
    reference = (await tender_of(guest_shop, placed.id)).provider_reference
    assert reference is not None
    # The answer is lost, and the webhook comes before anybody asks again.
    stripe_account.faults.script.append(Fault.TIMEOUT_AFTER)
    with pytest.raises(Unavailable):
        await refund_process.drive(guest_shop, asked.id)
    await deliver(guest_shop, stripe_account, *of_payment(stripe_account, reference))
    await work(guest_shop)
    await refund_process.drive(guest_shop, asked.id)
    tender = await tender_of(guest_shop, placed.id)
    assert tender.refunded_amount == 1000
    assert stripe_account.charges[_charge(stripe_account, reference)]["amount_refunded"] == 1000
    assert await check(guest_shop) == []


async def test_a_refund_that_the_bank_returns_is_taken_out_of_the_books(
    guest_shop: Deps, stripe_account: StripeServer
) -> None:
    placed = await buy(guest_shop)
    async with guest_shop.acting_as(SYSTEM).begin() as uow:
        of = await uow.session.get_one(Order, placed.id)
        asked = await refund.request(uow, of, amount=1000, reason="it broke")
    await refund_process.drive(guest_shop, asked.id)
    async with guest_shop.begin() as uow:
        part = (await uow.session.exec(select(RefundPart))).one()
    assert part.provider_reference is not None
    stripe_account.fail_refund(part.provider_reference)
    for _ in range(2):
        await deliver(guest_shop, stripe_account, stripe_account.events[-1])
        await work(guest_shop)
    tender = await tender_of(guest_shop, placed.id)
    assert tender.refunded_amount == 0
    async with guest_shop.begin() as uow:
        assert (await uow.session.get_one(Refund, asked.id)).state is RefundState.FAILED
    assert await check(guest_shop) == []


@pytest.fixture
async def later_shop(guest_shop: Deps) -> Deps:
    """A shop that captures when it ships."""
    return factories.by_hand(guest_shop)


@pytest.mark.parametrize("is_told", [True, False])
async def test_an_authorization_that_ran_out(
    later_shop: Deps, stripe_account: StripeServer, is_told: bool
) -> None:
    placed = await buy(later_shop)
    reference = (await tender_of(later_shop, placed.id)).provider_reference
    assert reference is not None
    stripe_account.expire(reference)
    if is_told:
        await deliver(later_shop, stripe_account, stripe_account.events[-1])
        await work(later_shop)
    else:
        assert await truth.settle_expired(later_shop) == 0
        assert await truth.settle_expired(factories.later(later_shop, days=8)) == 1
    assert (await tender_of(later_shop, placed.id)).state is PaymentState.EXPIRED


async def test_a_capture_by_hand_is_booked(later_shop: Deps, stripe_account: StripeServer) -> None:
    placed = await buy(later_shop)
    reference = (await tender_of(later_shop, placed.id)).provider_reference
    assert reference is not None
    by_hand = {"amount_to_capture": "1000", "final_capture": "false"}
    for captured in (1000, 2000):
        stripe_account.capture(reference, by_hand, None)
        await deliver(later_shop, stripe_account, stripe_account.events[-1])
        await work(later_shop)
        tender = await tender_of(later_shop, placed.id)
        assert (tender.captured_amount, tender.state) == (captured, PaymentState.AUTHORIZED)
    assert await check(later_shop) == []


async def test_what_is_not_ours_or_not_known_is_ignored(
    guest_shop: Deps, stripe_account: StripeServer
) -> None:
    foreign = stripe_account.create_intent(
        "", {"amount": "100", "currency": "eur", "payment_method": "pm_card_visa"}, None
    )
    stripe_account.emit("payment_intent.created", foreign)
    stripe_account.emit("invoice.finalized", {"id": "in_1", "object": "invoice"})
    stripe_account.emit("some.day.new", {"object": "unheard_of"})
    await deliver(guest_shop, stripe_account, *stripe_account.events[-3:])
    await work(guest_shop)
    assert {row.state for row in await inbox(guest_shop)} == {WebhookState.IGNORED}


@pytest.mark.slow
async def test_a_provider_that_is_away_puts_it_off_until_it_is_dead_and_replayed(
    guest_shop: Deps, stripe_account: StripeServer
) -> None:
    placed = await buy(guest_shop)
    reference = (await tender_of(guest_shop, placed.id)).provider_reference
    assert reference is not None
    await deliver(guest_shop, stripe_account, of_payment(stripe_account, reference)[-1])
    # Each try is put off further, and the last is the end.
    stripe_account.is_away = True
    now = guest_shop
    for attempt in range(1, webhook.ATTEMPTS_MAX + 1):
        await webhook.handle_due(now)
        (row,) = await inbox(guest_shop)
        assert row.attempts == attempt
        assert row.last_error
        if row.state is WebhookState.DEAD:
            break
        assert await webhook.handle_due(now) == 0, "it waits"
        now = factories.later(now, seconds=webhook.BACKOFF_MAX_S)
    assert row.state is WebhookState.DEAD
    stripe_account.is_away = False
    async with now.acting_as(SYSTEM).begin() as uow:
        replayed = await webhook.replay(uow, row.id)
        assert (replayed.state, replayed.attempts) == (WebhookState.RECEIVED, 0)
    await work(now)
    assert (await inbox(guest_shop))[0].state is WebhookState.HANDLED


async def test_a_worker_that_died_is_followed_by_another(
    guest_shop: Deps, stripe_account: StripeServer
) -> None:
    placed = await buy(guest_shop)
    reference = (await tender_of(guest_shop, placed.id)).provider_reference
    assert reference is not None
    await deliver(guest_shop, stripe_account, of_payment(stripe_account, reference)[-1])
    async with guest_shop.acting_as(SYSTEM).begin() as uow:
        (row,) = list(await uow.session.exec(select(WebhookEvent)))
        row.attempts, row.due_at = 1, uow.now + webhook.LEASE  # As claimed by one that is gone.
    assert await webhook.handle_due(guest_shop) == 0
    after = factories.later(guest_shop, seconds=(webhook.LEASE + timedelta(seconds=1)).seconds)
    assert await webhook.handle_due(after) == 1
    assert (await inbox(guest_shop))[0].state is WebhookState.HANDLED


def _charge(account: StripeServer, reference: str) -> str:
    return str(account.intents[reference]["latest_charge"])


# --- over HTTP, from hostile senders --------------------------------------------------------------


async def post(
    client: httpx.AsyncClient, provider: str, headers: dict[str, str], body: bytes
) -> int:
    answer = await client.post(f"/v1/webhooks/{provider}", headers=headers, content=body)
    if answer.status_code >= 400:
        assert answer.headers["content-type"] == "application/problem+json"
        assert "secret" not in answer.text
    return answer.status_code


async def test_stripe_signatures_are_checked(
    stripe_client: httpx.AsyncClient, stripe_shop: Deps, stripe_account: StripeServer
) -> None:
    stripe_account.emit("invoice.finalized", {"id": "in_1", "object": "invoice"})
    headers, body = stripe_account.webhook(stripe_account.events[-1])
    good = headers["stripe-signature"]
    stamp, _, signature = good.partition(",")
    hostile = [
        {},
        {"stripe-signature": ""},
        {"stripe-signature": "t=,v1="},
        {"stripe-signature": "v1=" + "0" * 64},
        {"stripe-signature": f"{stamp},v1={'0' * 64}"},
        {"stripe-signature": f"{stamp},v0={signature.removeprefix('v1=')}"},
        {"stripe-signature": f"t=99999999999999999999,{signature}"},
        {"stripe-signature": "t=" + "9" * 5000 + ",v1=x"},
    ]
    for each in hostile:
        assert await post(stripe_client, "stripe", each, body) == 400
    assert await post(stripe_client, "stripe", headers, body + b" ") == 400
    assert await post(stripe_client, "stripe", headers, body.replace(b"in_1", b"in_2")) == 400
    forged, _ = stripe_account.webhook(stripe_account.events[-1], secret="whsec_other")
    assert await post(stripe_client, "stripe", forged, body) == 400
    assert await inbox(stripe_shop) == []
    assert await post(stripe_client, "stripe", headers, body) == 200
    assert len(await inbox(stripe_shop)) == 1


@pytest.mark.parametrize("minutes", [-10, 10, 60 * 24 * 365])
async def test_a_replayed_or_predated_signature_is_refused(
    stripe_client: httpx.AsyncClient, stripe_account: StripeServer, minutes: int
) -> None:
    stripe_account.emit("invoice.finalized", {"id": "in_1", "object": "invoice"})
    event = stripe_account.events[-1]
    now = stripe_account.clock()
    stripe_account.clock = lambda: now + minutes * 60
    assert await post(stripe_client, "stripe", *stripe_account.webhook(event)) == 400


@pytest.mark.parametrize(
    "event",
    [
        {},
        {"id": "evt_1"},
        {"id": 1, "type": [], "created": "x", "data": None},
        {"id": "x" * 300, "type": "charge.captured", "created": 1, "data": {"object": {}}},
    ],
)
async def test_signed_rubbish_is_refused(
    stripe_client: httpx.AsyncClient, stripe_account: StripeServer, event: Json
) -> None:
    assert await post(stripe_client, "stripe", *stripe_account.webhook(event)) == 400


async def test_odd_but_signed_events_do_no_harm(
    stripe_client: httpx.AsyncClient, stripe_shop: Deps, stripe_account: StripeServer
) -> None:
    for about in ({}, {"id": None}, {"id": "x" * 500}, {"payment_intent": {"id": 7}}):
        stripe_account.emit("charge.captured", about)
        event = stripe_account.events[-1]
        assert await post(stripe_client, "stripe", *stripe_account.webhook(event)) == 200
    await work(stripe_shop)
    assert {row.state for row in await inbox(stripe_shop)} == {WebhookState.IGNORED}


async def test_unknown_providers_and_huge_bodies_are_refused(
    stripe_client: httpx.AsyncClient, stripe_account: StripeServer
) -> None:
    assert await post(stripe_client, "nobody", {}, b"{}") == 404
    assert await post(stripe_client, "scripted", {}, b"{}") == 404
    assert await post(stripe_client, "paypal", {}, b"{}") == 404
    assert await post(stripe_client, "stripe", {}, b"x" * 2_000_000) == 413


async def test_the_inbox_is_for_staff(
    stripe_client: httpx.AsyncClient, stripe_shop: Deps, stripe_account: StripeServer
) -> None:
    stripe_account.emit("invoice.finalized", {"id": "in_1", "object": "invoice"})
    for _ in range(2):
        event = stripe_account.events[-1]
        assert await post(stripe_client, "stripe", *stripe_account.webhook(event)) == 200
    customer = factories.bearer(await factories.user(stripe_shop))
    assert (await stripe_client.get("/v1/webhooks")).status_code == 401
    assert (await stripe_client.get("/v1/webhooks", headers=customer)).status_code == 403
    staff = factories.bearer(await factories.user(stripe_shop, role=Role.MERCHANT))
    answer = await stripe_client.get(
        "/v1/webhooks", headers=staff, params={"provider": "stripe", "state": "ignored"}
    )
    (item,) = answer.json()["items"]
    assert item["event_id"] == event["id"]
    r = await stripe_client.post(f"/v1/webhooks/{item['id']}/replay", headers=staff)
    assert (r.status_code, r.json()["state"]) == (200, "received")
    r = await stripe_client.get("/v1/webhooks", headers=staff, params={"cursor": "rubbish"})
    assert (r.status_code, r.json()["field"]) == (422, "cursor")


async def test_paypal_is_asked_whether_it_sent_it(
    paypal_client: httpx.AsyncClient, paypal_shop: Deps, paypal_account: PayPalServer
) -> None:
    await factories.product(paypal_shop, "MUG", price=1250, stock=50)
    shop = await factories.user(paypal_shop)
    stored = await method.add(shop, "SETUP-1")
    placed = await buy(shop, str(stored.id))
    assert placed.status == "placed"
    reference = (await tender_of(shop, placed.id)).provider_reference
    assert reference is not None
    paypal_account.refund_by_hand(reference, "5.00")
    event = paypal_account.events[-1]
    headers, body = paypal_account.webhook(event)
    for name in headers:
        if name.startswith("paypal-"):
            assert await post(paypal_client, "paypal", {**headers, name: "x"}, body) == 400, name
    elsewhere = {"paypal-cert-url": "https://paypal.com.evil.example/cert"}
    assert await post(paypal_client, "paypal", {**headers, **elsewhere}, body) == 400
    assert await post(paypal_client, "paypal", headers, body.replace(b"5.00", b"9.00")) == 400
    injected = body[:-1] + b',"id":"WH-OTHER"}'
    assert await post(paypal_client, "paypal", headers, injected) == 400
    old = paypal_account.webhook(event, sent_at="2025-01-01T00:00:00Z")
    assert await post(paypal_client, "paypal", *old) == 400
    assert await inbox(shop) == []
    for _ in range(2):
        assert await post(paypal_client, "paypal", headers, body) == 200
    await work(shop)
    (row,) = await inbox(shop)
    assert row.state is WebhookState.HANDLED
    assert (await tender_of(shop, placed.id)).refunded_amount == 500
    assert await check(shop) == []


async def test_paypal_approval_and_then_the_webhook(
    paypal_shop: Deps, paypal_account: PayPalServer
) -> None:
    await factories.product(paypal_shop, "MUG", price=1250, stock=50)
    shop = factories.guest(paypal_shop)
    waiting = await buy(shop, "paypal")
    assert waiting.payment_action is not None
    assert waiting.payment_action["url"].startswith("https://www.paypal.test/")
    reference = (await tender_of(shop, waiting.id)).provider_reference
    assert reference is not None
    paypal_account.approve(reference)
    headers, body = paypal_account.webhook(paypal_account.events[-1])
    await webhook.receive(shop, "paypal", headers, body)
    await work(shop)
    assert (await order_of(shop, waiting.id)).status == "placed"
    assert await check(shop) == []
