"""Stripe's other side: webhooks, the truth about a payment, disputes, the books, stored methods."""

import re
from collections.abc import AsyncIterator, Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

import orjson
import stripe
from pydantic import BaseModel, Field, ValidationError

from db.models.dispute import DisputeState
from db.models.reconciliation import BalanceKind
from db.models.webhook import WebhookTopic
from deps.provider import (
    BalanceLine,
    DisputeTruth,
    InvalidSignature,
    MethodDeclined,
    MethodTruth,
    Notice,
    PaymentTruth,
    ProviderRefused,
    RefundStanding,
    RefundTruth,
    Standing,
)
from deps.stripe import KEY, Intent, StripeGateway, refused, shop_amount, why_declined

if TYPE_CHECKING:
    from stripe.params import BalanceTransactionListParams

# https://docs.stripe.com/webhooks#replay-attacks
TOLERANCE_S: Final = 300
PAGE: Final = 100
_TIMESTAMP: Final = re.compile(r"(?:^|,)t=(\d{1,12})(?:,|$)")
_METHOD_TOKEN: Final = re.compile(r"pm_[A-Za-z0-9_]{3,100}")

_DISPUTES: Final = {
    "needs_response": DisputeState.NEEDS_RESPONSE,
    "warning_needs_response": DisputeState.NEEDS_RESPONSE,
    "under_review": DisputeState.UNDER_REVIEW,
    "warning_under_review": DisputeState.UNDER_REVIEW,
    "won": DisputeState.WON,
    "warning_closed": DisputeState.WON,
    "prevented": DisputeState.WON,
    "lost": DisputeState.LOST,
}
_EVIDENCE: Final = {
    "text": "uncategorized_text",
    "carrier": "shipping_carrier",
    "tracking_number": "shipping_tracking_number",
    "shipped_on": "shipping_date",
    "product_description": "product_description",
    "customer_name": "customer_name",
    "customer_email": "customer_email_address",
    "refund_policy": "refund_policy_disclosure",
}
# https://docs.stripe.com/reports/reporting-categories
_CATEGORIES: Final = {
    "charge": BalanceKind.CHARGE,
    "refund": BalanceKind.REFUND,
    "partial_capture_reversal": BalanceKind.REFUND,
    "refund_failure": BalanceKind.REFUND_FAILED,
    "dispute": BalanceKind.DISPUTE,
    "dispute_reversal": BalanceKind.DISPUTE_REVERSED,
    "payout": BalanceKind.PAYOUT,
    "payout_reversal": BalanceKind.PAYOUT,
    "fee": BalanceKind.FEE,
    "network_cost": BalanceKind.FEE,
}


class _EventData(BaseModel):
    object: dict[str, Any]


class _Event(BaseModel):
    id: str = Field(min_length=1, max_length=200)
    type: str = Field(min_length=1, max_length=100)
    created: int
    data: _EventData


class _BalanceTransaction(BaseModel):
    id: str
    amount: int
    fee: int = 0
    currency: str
    created: int
    reporting_category: str
    source: dict[str, Any] | str | None = None


class _EvidenceDetails(BaseModel):
    due_by: int | None = None


class _Dispute(BaseModel):
    id: str
    amount: int
    currency: str
    status: str
    reason: str
    created: int
    payment_intent: str | None = None
    balance_transactions: list[_BalanceTransaction] = Field(default_factory=list)
    evidence_details: _EvidenceDetails = Field(default_factory=_EvidenceDetails)


class _MethodCard(BaseModel):
    brand: str
    last4: str
    exp_month: int
    exp_year: int


class _Method(BaseModel):
    id: str
    type: str
    card: _MethodCard | None = None


class Stripe(StripeGateway):
    """Everything that is asked of Stripe."""

    async def notice(self, headers: Mapping[str, str], body: bytes, now: datetime) -> Notice:
        """Verify by the endpoint's secret, and refuse what is older or newer than five minutes."""
        header = headers.get("stripe-signature", "")
        if self.webhook_secret is None:
            raise InvalidSignature("This shop has no webhook secret for stripe.")
        try:
            stripe.WebhookSignature.verify_header(body, header, self.webhook_secret)
        except (stripe.SignatureVerificationError, UnicodeError) as error:
            raise InvalidSignature("The signature does not match.") from error
        stamp = _TIMESTAMP.search(header)
        if stamp is None or abs(now.timestamp() - int(stamp[1])) > TOLERANCE_S:
            raise InvalidSignature("The signature is not fresh.")
        try:
            event = _Event.model_validate(orjson.loads(body))
        except (orjson.JSONDecodeError, ValidationError) as error:
            raise InvalidSignature("The body is not an event.") from error
        return _notice(event)

    async def locate(self, topic: WebhookTopic, object_id: str) -> str | None:
        """Follow a charge, refund or dispute to its payment intent."""
        if object_id.startswith("pi_"):
            return object_id
        v1 = self.client.v1
        try:
            if object_id.startswith(("re_", "pyr_")):
                found: stripe.StripeObject = await self.call(v1.refunds.retrieve_async(object_id))
            elif object_id.startswith(("dp_", "du_")):
                found = await self.call(v1.disputes.retrieve_async(object_id))
            elif object_id.startswith(("ch_", "py_")):
                found = await self.call(v1.charges.retrieve_async(object_id))
            else:
                return None
        except stripe.InvalidRequestError as error:
            if error.http_status == 404:
                return None
            raise refused(error) from None
        return _id_of(found.to_dict().get("payment_intent"))

    async def payment(self, reference: str) -> PaymentTruth | None:
        """Fetch the payment intent and its refunds."""
        intent = await self.intent(reference)
        if intent is None:
            return None
        currency = intent.currency.upper()
        refunds = tuple(
            RefundTruth(
                reference=refund.id,
                key=refund.metadata.get(KEY),
                amount=shop_amount(refund.amount, currency),
                standing=_refund_standing(refund.status),
            )
            for refund in await self.refunds(reference)
        )
        return PaymentTruth(
            reference=intent.id,
            key=intent.metadata.get(KEY),
            standing=_standing(intent),
            currency=currency,
            authorized_amount=shop_amount(intent.amount, currency),
            captured_amount=shop_amount(intent.amount_received, currency),
            is_open=intent.status == "requires_capture",
            refunds=refunds,
        )

    async def dispute(self, dispute_id: str) -> DisputeTruth | None:
        try:
            found = await self.call(self.client.v1.disputes.retrieve_async(dispute_id))
        except stripe.InvalidRequestError as error:
            if error.http_status == 404:
                return None
            raise refused(error) from None
        return _dispute(_Dispute.model_validate(found.to_dict()))

    async def submit_evidence(
        self, key: str, dispute_id: str, evidence: Mapping[str, str]
    ) -> DisputeTruth:
        """Send evidence and submit it: Stripe takes one submission a dispute."""
        params: Any = {
            "evidence": {_EVIDENCE[name]: text for name, text in evidence.items()},
            "submit": True,
        }
        try:
            made = await self.call(
                self.client.v1.disputes.update_async(dispute_id, params, {"idempotency_key": key})
            )
        except stripe.InvalidRequestError as error:
            # Stripe forgets keys after a day; a dispute that waits no longer has our evidence.
            found = await self.dispute(dispute_id)
            if found is None or found.state is DisputeState.NEEDS_RESPONSE:
                raise refused(error) from None
            return found
        return _dispute(_Dispute.model_validate(made.to_dict()))

    async def balance(self, start: datetime, end: datetime) -> AsyncIterator[BalanceLine]:
        """Read the balance transactions, newest first, as Stripe lists them."""
        params: BalanceTransactionListParams = {
            "created": {"gte": int(start.timestamp()), "lt": int(end.timestamp())},
            "limit": PAGE,
            "expand": ["data.source"],
        }
        while True:
            page = await self.read(self.client.v1.balance_transactions.list_async(params))
            for item in page.data:
                yield _line(_BalanceTransaction.model_validate(item.to_dict()))
            if not page.has_more:
                return
            params["starting_after"] = page.data[-1].id

    async def store_method(
        self, key: str, token: str, owner: str, *, beside: str | None = None
    ) -> MethodTruth:
        """Attach a payment method to the customer's account at Stripe, made with the first one.

        Methods that are stored at once share it by its key, later ones by `beside`.
        """
        if _METHOD_TOKEN.fullmatch(token) is None:
            raise MethodDeclined("invalid_method")
        customer = beside.partition("/")[0] if beside else None
        v1 = self.client.v1
        try:
            if customer is None:
                made = await self.call(
                    v1.customers.create_async(
                        {"metadata": {"shopkeeper_customer": owner}},
                        {"idempotency_key": f"customer:{owner}"},
                    )
                )
                customer = made.id
            attached = await self.call(
                v1.payment_methods.attach_async(
                    token, {"customer": customer}, {"idempotency_key": f"{key}:{customer}"}
                )
            )
        except stripe.CardError as error:
            raise MethodDeclined(why_declined(error)) from None
        except stripe.InvalidRequestError:
            raise MethodDeclined("invalid_method") from None
        method = _Method.model_validate(attached.to_dict())
        card = method.card
        return MethodTruth(
            token=f"{customer}/{method.id}",
            kind=method.type,
            brand=card.brand if card else None,
            last4=card.last4 if card else None,
            expires_on=f"{card.exp_year:04}-{card.exp_month:02}" if card else None,
        )

    async def forget_method(self, token: str) -> None:
        method = token.rpartition("/")[2]
        try:
            await self.call(self.client.v1.payment_methods.detach_async(method))
        except stripe.InvalidRequestError as error:
            # Detached before, or never there: gone is what was wanted.
            if error.http_status not in (400, 404):
                raise refused(error) from None


def _id_of(value: Any) -> str | None:
    """Return the id of a field that is an id, or the object itself if expanded."""
    found = value.get("id") if isinstance(value, Mapping) else value
    return found if isinstance(found, str) else None


def _notice(event: _Event) -> Notice:
    about = event.data.object
    object_id = about.get("id")
    intent = _id_of(about.get("payment_intent"))
    key = None
    topic = WebhookTopic.OTHER
    if event.type.startswith("payment_intent."):
        topic, intent = WebhookTopic.PAYMENT, _id_of(about)
        metadata = about.get("metadata")
        key = metadata.get(KEY) if isinstance(metadata, dict) else None
    elif event.type.startswith("charge.dispute."):
        topic = WebhookTopic.DISPUTE
    elif event.type.startswith(("refund.", "charge.refund.")):
        topic = WebhookTopic.REFUND
    elif event.type.startswith("charge."):
        topic = WebhookTopic.PAYMENT
    return Notice(
        id=event.id,
        type=event.type,
        topic=topic,
        object_id=object_id if isinstance(object_id, str) else "",
        reference=intent if topic is not WebhookTopic.OTHER else None,
        key=key if isinstance(key, str) else None,
        occurred_at=datetime.fromtimestamp(event.created, UTC),
    )


def _standing(intent: Intent) -> Standing:
    if intent.status == "canceled":
        ran_out = intent.cancellation_reason == "automatic"
        return Standing.EXPIRED if ran_out else Standing.VOIDED
    if intent.amount_received:
        return Standing.CAPTURED
    return {
        "requires_capture": Standing.AUTHORIZED,
        "requires_action": Standing.REQUIRES_ACTION,
        "requires_payment_method": Standing.DECLINED,
    }.get(intent.status, Standing.PENDING)


def _refund_standing(status: str | None) -> RefundStanding:
    if status == "succeeded":
        return RefundStanding.SUCCEEDED
    return RefundStanding.FAILED if status in ("failed", "canceled") else RefundStanding.PENDING


def _dispute(found: _Dispute) -> DisputeTruth:
    currency = found.currency.upper()
    state = _DISPUTES.get(found.status)
    if state is None:
        raise ProviderRefused(f"stripe: a dispute is {found.status}, which we do not know")
    due = found.evidence_details.due_by
    return DisputeTruth(
        id=found.id,
        reference=found.payment_intent,
        state=state,
        reason=found.reason,
        amount=shop_amount(found.amount, currency),
        currency=currency,
        withdrawn_amount=shop_amount(-sum(t.amount for t in found.balance_transactions), currency),
        evidence_due_at=datetime.fromtimestamp(due, UTC) if due is not None else None,
        opened_at=datetime.fromtimestamp(found.created, UTC),
    )


def _line(found: _BalanceTransaction) -> BalanceLine:
    currency = found.currency.upper()
    kind = _CATEGORIES.get(found.reporting_category, BalanceKind.OTHER)
    amount, fee = found.amount, found.fee
    if kind is BalanceKind.FEE:
        amount, fee = 0, fee - amount
    source = found.source
    return BalanceLine(
        id=found.id,
        kind=kind,
        reference=_id_of(source.get("payment_intent")) if isinstance(source, dict) else None,
        key=None,  # The payment intent says it all.
        object_id=_id_of(source),
        amount=shop_amount(amount, currency),
        fee=shop_amount(fee, currency),
        currency=currency,
        occurred_at=datetime.fromtimestamp(found.created, UTC),
    )
