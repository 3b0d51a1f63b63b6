"""What the shop makes of each thing that a provider can say about money."""

from collections.abc import Callable
from datetime import timedelta
from decimal import Decimal
from typing import Any
from uuid import uuid4

import pytest

from db.models.dispute import DisputeState
from db.models.reconciliation import BalanceKind
from db.models.webhook import WebhookTopic
from db.types import Money
from deps.gateway import OutcomeStatus
from deps.paypal_desk import PayPal
from deps.provider import MethodDeclined, ProviderRefused, RefundStanding, Standing
from deps.stripe_desk import Stripe
from tests.conftest import NOW
from tests.providers.paypal_server import PayPalServer
from tests.providers.stripe_server import StripeServer

TOTAL = Money(2990, "EUR")
Json = dict[str, Any]


def key(step: str = "authorize") -> str:
    return f"{uuid4()}:{step}:1"


def payments_of(account: PayPalServer, reference: str) -> Json:
    payments: Json = account.orders[reference]["purchase_units"][0]["payments"]
    return payments


async def paid_by_paypal(paypal: PayPal) -> tuple[str, str]:
    """Authorise and capture; return the order and the capture's key."""
    made = await paypal.authorize(key(), TOTAL, "paypal/VAULT0")
    taken = key("capture")
    assert (await paypal.capture(taken, made.reference, TOTAL)).approved
    return made.reference, taken


async def paid_by_stripe(stripe: Stripe) -> str:
    made = await stripe.authorize(key(), TOTAL, "pm_card_visa")
    assert (await stripe.capture(key("capture"), made.reference, TOTAL)).approved
    return made.reference


@pytest.mark.parametrize(
    ("status", "has_expired", "outcome", "code", "standing"),
    [
        ("CREATED", False, OutcomeStatus.APPROVED, None, Standing.AUTHORIZED),
        ("PENDING", False, OutcomeStatus.PENDING, None, Standing.PENDING),
        ("DENIED", False, OutcomeStatus.DECLINED, "generic_decline", Standing.DECLINED),
        ("VOIDED", False, OutcomeStatus.DECLINED, "voided", Standing.VOIDED),
        ("VOIDED", True, OutcomeStatus.DECLINED, "authorization_expired", Standing.EXPIRED),
    ],
)
async def test_an_authorisation_at_paypal(
    paypal: PayPal,
    paypal_account: PayPalServer,
    status: str,
    has_expired: bool,
    outcome: OutcomeStatus,
    code: str | None,
    standing: Standing,
) -> None:
    name = key()
    made = await paypal.authorize(name, TOTAL, "paypal/VAULT0")
    (authorization,) = payments_of(paypal_account, made.reference)["authorizations"]
    authorization["status"] = status
    if has_expired:
        authorization["update_time"] = authorization["expiration_time"]
    found = await paypal.find(name, made.reference)
    assert found is not None
    assert (found.status, found.decline_code, found.amount) == (outcome, code, 2990)
    truth = await paypal.payment(made.reference)
    assert truth is not None
    assert (truth.standing, truth.is_open, truth.captured_amount) == (
        standing,
        status == "CREATED",
        0,
    )
    if status == "VOIDED":
        late = await paypal.capture(key("capture"), made.reference, TOTAL)
        assert (late.status, late.decline_code) == (OutcomeStatus.DECLINED, code)


@pytest.mark.parametrize(
    ("status", "outcome", "standing"),
    [
        ("PAYER_ACTION_REQUIRED", OutcomeStatus.REQUIRES_ACTION, Standing.REQUIRES_ACTION),
        ("VOIDED", OutcomeStatus.DECLINED, Standing.VOIDED),
        ("SAVED", OutcomeStatus.PENDING, Standing.PENDING),
    ],
)
async def test_an_order_at_paypal_that_was_never_approved(
    paypal: PayPal,
    paypal_account: PayPalServer,
    status: str,
    outcome: OutcomeStatus,
    standing: Standing,
) -> None:
    name = key()
    made = await paypal.authorize(name, TOTAL, "paypal", return_url="https://shop.example/back")
    paypal_account.orders[made.reference]["status"] = status
    found = await paypal.find(name, made.reference)
    assert found is not None
    assert found.status is outcome
    truth = await paypal.payment(made.reference)
    assert truth is not None
    assert (truth.standing, truth.is_open) == (standing, False)
    with pytest.raises(ProviderRefused):
        await paypal.capture(key("capture"), made.reference, TOTAL)
    assert (await paypal.void(key("void"), made.reference)).approved, "there is nothing to release"


async def test_an_order_authorised_by_another_process_is_taken_as_it_is(
    paypal: PayPal, paypal_account: PayPalServer
) -> None:
    name = key()
    made = await paypal.authorize(name, TOTAL, "paypal")
    paypal_account.approve(made.reference)
    order = paypal_account.orders[made.reference]
    paypal_account._authorize(order)
    authorized = order["purchase_units"][0]["payments"].pop("authorizations")
    order["status"] = "APPROVED"  # As it was when it was read.
    read = paypal_account.orders[made.reference] = _Overtaken(order, authorized)
    found = await paypal.find(name, made.reference)
    assert found is not None
    assert found.approved
    assert read.reads == 1


class _Overtaken(dict[str, Any]):
    """An order that is authorised between the first look at it and the call."""

    def __init__(self, order: Json, authorizations: list[Json]) -> None:
        super().__init__(order)
        self.reads = 0
        self._authorizations = authorizations

    def __getitem__(self, name: str) -> Any:
        if name == "status":
            self.reads += 1
            self["status"] = "COMPLETED"
            self["purchase_units"][0]["payments"]["authorizations"] = self._authorizations
        return super().__getitem__(name)


@pytest.mark.parametrize(
    ("status", "outcome", "captured"),
    [
        ("COMPLETED", OutcomeStatus.APPROVED, 2990),
        ("PENDING", OutcomeStatus.PENDING, 0),
        ("DECLINED", OutcomeStatus.DECLINED, 0),
        ("FAILED", OutcomeStatus.DECLINED, 0),
    ],
)
async def test_a_capture_at_paypal(
    paypal: PayPal,
    paypal_account: PayPalServer,
    status: str,
    outcome: OutcomeStatus,
    captured: int,
) -> None:
    reference, taken = await paid_by_paypal(paypal)
    payments_of(paypal_account, reference)["captures"][0]["status"] = status
    found = await paypal.find(taken, reference)
    assert found is not None
    assert found.status is outcome
    truth = await paypal.payment(reference)
    assert truth is not None
    assert truth.captured_amount == captured
    back = await paypal.refund(key("refund"), reference, Money(1, "EUR"))
    assert back.approved is (captured > 0), "what was not taken is not given back"


@pytest.mark.parametrize(
    ("status", "outcome", "standing"),
    [
        ("COMPLETED", OutcomeStatus.APPROVED, RefundStanding.SUCCEEDED),
        ("PENDING", OutcomeStatus.PENDING, RefundStanding.PENDING),
        ("FAILED", OutcomeStatus.DECLINED, RefundStanding.FAILED),
        ("CANCELLED", OutcomeStatus.DECLINED, RefundStanding.FAILED),
    ],
)
async def test_a_refund_at_paypal(
    paypal: PayPal,
    paypal_account: PayPalServer,
    status: str,
    outcome: OutcomeStatus,
    standing: RefundStanding,
) -> None:
    reference, _ = await paid_by_paypal(paypal)
    back = key("refund")
    assert (await paypal.refund(back, reference, Money(1000, "EUR"))).approved
    payments_of(paypal_account, reference)["refunds"][0]["status"] = status
    found = await paypal.find(back, reference)
    assert found is not None
    assert (found.status, found.amount) == (outcome, 1000)
    truth = await paypal.payment(reference)
    assert truth is not None
    assert [(r.standing, r.amount, r.key) for r in truth.refunds] == [(standing, 1000, back)]


@pytest.mark.parametrize(
    ("status", "changes", "outcome", "standing"),
    [
        ("requires_capture", {}, OutcomeStatus.APPROVED, Standing.AUTHORIZED),
        ("processing", {}, OutcomeStatus.PENDING, Standing.PENDING),
        ("canceled", {}, OutcomeStatus.DECLINED, Standing.VOIDED),
        (
            "canceled",
            {"cancellation_reason": "automatic"},
            OutcomeStatus.DECLINED,
            Standing.EXPIRED,
        ),
        ("requires_payment_method", {}, OutcomeStatus.DECLINED, Standing.DECLINED),
        ("requires_action", {}, OutcomeStatus.REQUIRES_ACTION, Standing.REQUIRES_ACTION),
        ("succeeded", {"amount_received": 2990}, OutcomeStatus.APPROVED, Standing.CAPTURED),
    ],
)
async def test_a_payment_at_stripe(
    stripe: Stripe,
    stripe_account: StripeServer,
    status: str,
    changes: Json,
    outcome: OutcomeStatus,
    standing: Standing,
) -> None:
    name = key()
    made = await stripe.authorize(name, TOTAL, "pm_card_visa")
    stripe_account.intents[made.reference] |= {"status": status, **changes}
    found = await stripe.find(name, made.reference)
    assert found is not None
    assert (found.status, found.amount) == (outcome, 2990)
    truth = await stripe.payment(made.reference)
    assert truth is not None
    assert (truth.standing, truth.is_open) == (standing, status == "requires_capture")


@pytest.mark.parametrize(
    ("status", "reason", "outcome", "code", "standing"),
    [
        ("succeeded", None, OutcomeStatus.APPROVED, None, RefundStanding.SUCCEEDED),
        ("pending", None, OutcomeStatus.PENDING, None, RefundStanding.PENDING),
        ("failed", "lost_card", OutcomeStatus.DECLINED, "lost_card", RefundStanding.FAILED),
        ("canceled", None, OutcomeStatus.DECLINED, "refund_failed", RefundStanding.FAILED),
    ],
)
async def test_a_refund_at_stripe(
    stripe: Stripe,
    stripe_account: StripeServer,
    status: str,
    reason: str | None,
    outcome: OutcomeStatus,
    code: str | None,
    standing: RefundStanding,
) -> None:
    reference = await paid_by_stripe(stripe)
    back = key("refund")
    made = await stripe.refund(back, reference, Money(1000, "EUR"))
    stripe_account.refunds[made.reference] |= {"status": status, "failure_reason": reason}
    found = await stripe.find(back, reference)
    assert found is not None
    assert (found.status, found.decline_code) == (outcome, code)
    truth = await stripe.payment(reference)
    assert truth is not None
    assert [(r.standing, r.key) for r in truth.refunds] == [(standing, back)]


async def test_a_key_that_neither_knows_is_unknown(stripe: Stripe, paypal: PayPal) -> None:
    reference, _ = await paid_by_paypal(paypal)
    intent = await paid_by_stripe(stripe)
    for gateway, known in ((paypal, reference), (stripe, intent)):
        assert await gateway.find(key(), known) is None
        assert await gateway.find(key(), "none_such") is None
    assert await paypal.find(key()) is None


async def test_what_is_not_there_is_none_and_forgetting_it_is_well(
    stripe: Stripe, paypal: PayPal
) -> None:
    for gateway in (stripe, paypal):
        assert await gateway.payment("none_such") is None
        assert await gateway.dispute("none_such") is None
        await gateway.forget_method("none_such")
    for topic in (WebhookTopic.PAYMENT, WebhookTopic.REFUND, WebhookTopic.DISPUTE):
        assert await paypal.locate(topic, "none_such") is None
    for object_id in ("re_none", "du_none", "ch_none", "what_is_this"):
        assert await stripe.locate(WebhookTopic.OTHER, object_id) is None
    for gateway in (stripe, paypal):
        for token in ("", "a b", "../x", "x" * 300):
            with pytest.raises(MethodDeclined):
                await gateway.store_method(key("method"), token, "owner")


async def test_everything_leads_to_its_payment(
    stripe: Stripe, stripe_account: StripeServer, paypal: PayPal, paypal_account: PayPalServer
) -> None:
    intent = await paid_by_stripe(stripe)
    refund = await stripe.refund(key("refund"), intent, Money(100, "EUR"))
    charge = stripe_account.intents[intent]["latest_charge"]
    dispute = stripe_account.open_dispute(intent)
    for object_id in (intent, refund.reference, charge, dispute):
        assert await stripe.locate(WebhookTopic.OTHER, object_id) == intent
    order, _ = await paid_by_paypal(paypal)
    back = await paypal.refund(key("refund"), order, Money(100, "EUR"))
    payments = payments_of(paypal_account, order)
    held = paypal_account.open_dispute(order)
    assert await paypal.locate(WebhookTopic.DISPUTE, held) == order
    assert await paypal.locate(WebhookTopic.REFUND, back.reference) == order
    assert await paypal.locate(WebhookTopic.PAYMENT, payments["captures"][0]["id"]) == order
    payments["refunds"][0]["links"] = []
    assert await paypal.locate(WebhookTopic.REFUND, back.reference) is None


@pytest.mark.parametrize(
    ("status", "outcome", "stage", "state", "is_withdrawn"),
    [
        ("OPEN", None, "CHARGEBACK", DisputeState.NEEDS_RESPONSE, True),
        ("UNDER_REVIEW", None, "CHARGEBACK", DisputeState.UNDER_REVIEW, True),
        ("UNDER_REVIEW", None, "INQUIRY", DisputeState.UNDER_REVIEW, False),
        ("RESOLVED", "RESOLVED_SELLER_FAVOUR", "CHARGEBACK", DisputeState.WON, False),
        ("RESOLVED", "RESOLVED_BUYER_FAVOUR", "INQUIRY", DisputeState.LOST, True),
        ("RESOLVED", None, "CHARGEBACK", DisputeState.LOST, True),
    ],
)
async def test_a_dispute_at_paypal(
    paypal: PayPal,
    paypal_account: PayPalServer,
    status: str,
    outcome: str | None,
    stage: str,
    state: DisputeState,
    is_withdrawn: bool,
) -> None:
    reference, _ = await paid_by_paypal(paypal)
    opened = paypal_account.open_dispute(reference, stage=stage)
    paypal_account.disputes[opened]["status"] = status
    if outcome is not None:
        paypal_account.disputes[opened]["dispute_outcome"] = {"outcome_code": outcome}
    found = await paypal.dispute(opened)
    assert found is not None
    assert (found.state, found.reference) == (state, reference)
    assert found.withdrawn_amount == (2990 if is_withdrawn else 0)
    if state is not DisputeState.NEEDS_RESPONSE:
        sent = await paypal.submit_evidence(key("evidence"), opened, {"text": "It arrived."})
        assert sent == found, "they wait for nothing"
        assert opened not in paypal_account.evidence


async def test_evidence_is_sent_as_each_wants_it(
    stripe: Stripe, stripe_account: StripeServer, paypal: PayPal, paypal_account: PayPalServer
) -> None:
    intent = await paid_by_stripe(stripe)
    opened = stripe_account.open_dispute(intent)
    sent = await stripe.submit_evidence(key("evidence"), opened, {"text": "It arrived."})
    assert sent.state is DisputeState.UNDER_REVIEW
    again = await stripe.submit_evidence(key("evidence"), opened, {"text": "Once more."})
    assert again.state is DisputeState.UNDER_REVIEW
    assert stripe_account.disputes[opened]["evidence_details"]["submission_count"] == 1
    stripe_account.disputes[opened]["status"] = "an_idea_of_theirs"
    with pytest.raises(ProviderRefused, match="which we do not know"):
        await stripe.dispute(opened)
    with pytest.raises(ProviderRefused):
        await stripe.submit_evidence(key("evidence"), "du_none", {"text": "To nobody."})
    reference, _ = await paid_by_paypal(paypal)
    for evidence, kind in (
        ({"text": "It arrived.", "shipped_on": "2026-01-02"}, "OTHER"),
        ({"tracking_number": "JD01"}, "PROOF_OF_FULFILLMENT"),
    ):
        held = paypal_account.open_dispute(reference)
        answered = await paypal.submit_evidence(key("evidence"), held, evidence)
        assert answered.state is DisputeState.UNDER_REVIEW
        (kept,) = paypal_account.evidence[held]
        assert kept["evidence_type"] == kind
        if kind == "OTHER":
            assert kept["notes"] == "It arrived.\nshipped on: 2026-01-02"
        else:
            (told,) = kept["evidence_info"]["tracking_info"]
            assert told == {"carrier_name": "OTHER", "tracking_number": "JD01"}


async def test_fees_in_the_books_are_fees_and_not_sales(
    stripe: Stripe, stripe_account: StripeServer, paypal: PayPal, paypal_account: PayPalServer
) -> None:
    at = NOW + timedelta(days=400)
    paypal_account.clock = stripe_account.clock = at.timestamp
    amount = {"currency_code": "EUR", "value": "-1.50"}
    found = {"id": "F", "amount": amount}
    paypal_account.book("T0100", found, Decimal("-1.50"), Decimal(0), "")
    del paypal_account.transactions[-1]["fee_amount"]
    paypal_account.book("T9999", {**found, "id": "X"}, Decimal("2.00"), Decimal(0), "")
    stripe_account.book("fee", -150, 0, "eur", {"id": "fee_1"})
    stripe_account.book("an_idea_of_theirs", 200, 0, "eur", {"id": "x_1"})
    for gateway in (paypal, stripe):
        lines = [line async for line in gateway.balance(at, at + timedelta(days=1))]
        told = sorted((line.kind, line.amount, line.fee, line.key) for line in lines)
        assert told == sorted([(BalanceKind.FEE, 0, 150, None), (BalanceKind.OTHER, 200, 0, None)])


async def test_a_long_list_of_the_books_is_read_to_its_end(
    stripe: Stripe, stripe_account: StripeServer, paypal: PayPal, paypal_account: PayPalServer
) -> None:
    at = NOW + timedelta(days=500)
    paypal_account.clock = stripe_account.clock = at.timestamp
    write: dict[str, Callable[[int], Any]] = {
        "paypal": lambda _: paypal_account.pay_out("1.00"),
        "stripe": lambda _: stripe_account.pay_out(100),
    }
    for gateway in (paypal, stripe):
        for n in range(601 if gateway is paypal else 101):
            write[gateway.name](n)
        lines = [line async for line in gateway.balance(at, at + timedelta(days=40))]
        assert len({line.id for line in lines}) == len(lines)
        assert sum(line.amount for line in lines) == -100 * len(lines)
        assert len(lines) == (601 if gateway is paypal else 101)
