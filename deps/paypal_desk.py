"""PayPal's other side: webhooks, the truth about a payment, disputes, the books, stored methods.

Webhooks are verified by asking PayPal (`verify-webhook-signature`) and not by its certificate: one
call more, but no downloading of certificates from an address that the sender names. What cannot be
genuine is refused before that call.
"""

import re
from collections.abc import AsyncIterator, Mapping
from datetime import datetime, timedelta
from typing import Any, Final
from urllib.parse import urlsplit

import orjson
from pydantic import BaseModel, Field, ValidationError

from db.models.dispute import DisputeState
from db.models.reconciliation import BalanceKind
from db.models.webhook import WebhookTopic
from deps.paypal import PayPalGateway
from deps.paypal_client import PayPalMoney, PayPalOrder, PayPalRefund, Refusal, refused, untag
from deps.provider import (
    BalanceLine,
    DisputeTruth,
    InvalidSignature,
    MethodDeclined,
    MethodTruth,
    Notice,
    PaymentTruth,
    RefundStanding,
    RefundTruth,
    Standing,
)

# PayPal delivers again for three days: https://developer.paypal.com/api/rest/webhooks/rest/
AGE_MAX: Final = timedelta(days=4)
ALGORITHM: Final = "SHA256withRSA"
AHEAD_MAX: Final = timedelta(minutes=5)
REPORT_DAYS: Final = 31
REPORT_PAGE: Final = 500
_HEADERS: Final = ("auth-algo", "cert-url", "transmission-id", "transmission-sig")
_TOKEN: Final = re.compile(r"[A-Za-z0-9_-]{3,100}")

_WON: Final = {"RESOLVED_SELLER_FAVOUR", "CANCELED_BY_BUYER", "DENIED", "RESOLVED_WITH_PAYOUT"}

# https://developer.paypal.com/docs/transaction-search/transaction-event-codes/ by group
_EVENT_CODES: Final = (
    ("T1107", BalanceKind.REFUND),
    ("T1106", BalanceKind.DISPUTE),
    ("T1201", BalanceKind.DISPUTE),
    ("T1202", BalanceKind.DISPUTE_REVERSED),
    ("T1108", BalanceKind.FEE),
    ("T00", BalanceKind.CHARGE),
    ("T01", BalanceKind.FEE),
    ("T04", BalanceKind.PAYOUT),
)


class _RelatedIds(BaseModel):
    order_id: str | None = None


class _Supplement(BaseModel):
    related_ids: _RelatedIds = Field(default_factory=_RelatedIds)


class _Resource(BaseModel):
    id: str | None = None
    dispute_id: str | None = None
    custom_id: str | None = None
    supplementary_data: _Supplement = Field(default_factory=_Supplement)


class _Event(BaseModel):
    id: str = Field(min_length=1, max_length=200)
    event_type: str = Field(min_length=1, max_length=100)
    create_time: datetime
    resource: _Resource


class _Disputed(BaseModel):
    seller_transaction_id: str | None = None


class _DisputeOutcome(BaseModel):
    outcome_code: str = "NONE"


class _Dispute(BaseModel):
    dispute_id: str
    status: str
    reason: str = "OTHER"
    dispute_amount: PayPalMoney
    dispute_life_cycle_stage: str = "INQUIRY"
    disputed_transactions: list[_Disputed] = Field(default_factory=list)
    dispute_outcome: _DisputeOutcome | None = None
    seller_response_due_date: datetime | None = None
    create_time: datetime


class _Transaction(BaseModel):
    transaction_id: str
    transaction_event_code: str
    transaction_initiation_date: datetime
    transaction_amount: PayPalMoney
    fee_amount: PayPalMoney | None = None
    custom_field: str | None = None


class _TransactionDetail(BaseModel):
    transaction_info: _Transaction


class _TransactionPage(BaseModel):
    transaction_details: list[_TransactionDetail] = Field(default_factory=list)
    total_pages: int = 1


class _VaultCard(BaseModel):
    brand: str | None = None
    last_digits: str | None = None
    expiry: str | None = None


class _VaultSource(BaseModel):
    card: _VaultCard | None = None
    paypal: dict[str, Any] | None = None


class _VaultToken(BaseModel):
    id: str
    payment_source: _VaultSource


class PayPal(PayPalGateway):
    """Everything that is asked of PayPal."""

    async def notice(self, headers: Mapping[str, str], body: bytes, now: datetime) -> Notice:
        """Verify a webhook by asking PayPal whether it sent it."""
        if self.webhook_id is None:
            raise InvalidSignature("This shop has no webhook id for paypal.")
        given = {name: headers.get(f"paypal-{name}", "") for name in _HEADERS}
        sent = headers.get("paypal-transmission-time", "")
        if not all(given.values()) or any(len(value) > 500 for value in given.values()):
            raise InvalidSignature("The signature's headers are missing.")
        if given["auth-algo"] != ALGORITHM or not self._is_theirs(given["cert-url"]):
            raise InvalidSignature("The signature is not made as PayPal makes it.")
        try:
            sent_at = datetime.fromisoformat(sent)
            is_fresh = -AHEAD_MAX <= now - sent_at <= AGE_MAX
            event = _Event.model_validate(orjson.loads(body))
        except (ValueError, TypeError, ValidationError) as error:
            raise InvalidSignature("The body is not an event, or has no time.") from error
        if not is_fresh:
            raise InvalidSignature("The signature is not fresh.")
        question = {name.replace("-", "_"): value for name, value in given.items()}
        question |= {"transmission_time": sent, "webhook_id": self.webhook_id}
        # The signature covers the exact bytes: the body goes in as it came.
        content = orjson.dumps(question)[:-1] + b',"webhook_event":' + body + b"}"
        try:
            answer = await self.client.send(
                "POST", "/v1/notifications/verify-webhook-signature", content=content
            )
        except Refusal as refusal:
            raise InvalidSignature("PayPal cannot read the signature.") from refusal
        if answer.get("verification_status") != "SUCCESS":
            raise InvalidSignature("The signature does not match.")
        return _notice(event)

    def _is_theirs(self, url: str) -> bool:
        try:
            parts = urlsplit(url)
        except ValueError:
            return False
        host = parts.hostname or ""
        is_paypal = parts.scheme == "https" and host.endswith(".paypal.com")
        return is_paypal or parts.netloc == urlsplit(self.client.api_base).netloc

    async def locate(self, topic: WebhookTopic, object_id: str) -> str | None:
        """Follow a refund, capture or authorisation to its order."""
        try:
            if topic is WebhookTopic.DISPUTE:
                found = await self.dispute(object_id)
                return found.reference if found else None
            if topic is WebhookTopic.REFUND:
                path = f"/v2/payments/refunds/{object_id}"
                up = PayPalRefund.model_validate(await self.client.send("GET", path)).capture_id
                return await self._order_of_capture(up) if up else None
            return await self._order_of_capture(object_id)
        except Refusal as refusal:
            if refusal.status == 404:
                return None
            raise refused(refusal) from None

    async def _order_of_capture(self, capture_id: str) -> str | None:
        path = f"/v2/payments/captures/{capture_id}"
        resource = _Resource.model_validate(await self.client.send("GET", path))
        return resource.supplementary_data.related_ids.order_id

    async def payment(self, reference: str) -> PaymentTruth | None:
        """Fetch the order with its authorisation, captures and refunds."""
        order = await self.known_order(reference)
        if order is None:
            return None
        unit = order.unit
        captured = [
            capture.amount.money.amount
            for capture in unit.payments.captures
            if capture.status not in ("DECLINED", "FAILED", "PENDING")
        ]
        return PaymentTruth(
            reference=order.id,
            key=untag(unit.custom_id),
            standing=_standing(order, sum(captured)),
            currency=unit.amount.currency_code,
            authorized_amount=(order.authorization or unit).amount.money.amount,
            captured_amount=sum(captured),
            is_open=order.authorization is not None
            and order.authorization.status in ("CREATED", "PARTIALLY_CAPTURED"),
            refunds=tuple(_refund(refund) for refund in unit.payments.refunds),
        )

    async def dispute(self, dispute_id: str) -> DisputeTruth | None:
        try:
            answer = await self.client.send("GET", f"/v1/customer/disputes/{dispute_id}")
        except Refusal as refusal:
            if refusal.status == 404:
                return None
            raise refused(refusal) from None
        found = _Dispute.model_validate(answer)
        capture_id = next((t.seller_transaction_id for t in found.disputed_transactions), None)
        reference = await self.locate(WebhookTopic.PAYMENT, capture_id) if capture_id else None
        amount = found.dispute_amount.money
        state = _dispute_state(found)
        # An inquiry holds nothing back; what comes after it does, until it is decided for us.
        is_held = found.dispute_life_cycle_stage != "INQUIRY" or state is DisputeState.LOST
        withdrawn = 0 if state is DisputeState.WON or not is_held else amount.amount
        return DisputeTruth(
            id=found.dispute_id,
            reference=reference,
            state=state,
            reason=found.reason.lower(),
            amount=amount.amount,
            currency=amount.currency,
            withdrawn_amount=withdrawn,
            evidence_due_at=found.seller_response_due_date,
            opened_at=found.create_time,
        )

    async def submit_evidence(
        self, key: str, dispute_id: str, evidence: Mapping[str, str]
    ) -> DisputeTruth:
        """Send evidence, unless PayPal no longer waits for any: then it has ours."""
        before = await self.dispute(dispute_id)
        if before is not None and before.state is not DisputeState.NEEDS_RESPONSE:
            return before
        document = orjson.dumps({"evidences": [_evidence(evidence)]})
        path = f"/v1/customer/disputes/{dispute_id}/provide-evidence"
        files = {"input": ("input.json", document, "application/json")}
        try:
            await self.client.send("POST", path, files=files, key=key)
        except Refusal as refusal:
            raise refused(refusal) from None
        after = await self.dispute(dispute_id)
        assert after is not None, "a dispute does not vanish"
        return after

    async def balance(self, start: datetime, end: datetime) -> AsyncIterator[BalanceLine]:
        """Read the transactions, at most 31 days at a time, as PayPal allows.

        PayPal lists a transaction up to three hours after it was made.
        """
        while start < end:
            until = min(end, start + timedelta(days=REPORT_DAYS))
            number, pages = 1, 1
            while number <= pages:
                params = {
                    "start_date": start.isoformat(),
                    "end_date": until.isoformat(),
                    "fields": "transaction_info",
                    "page_size": REPORT_PAGE,
                    "page": number,
                }
                try:
                    answer = await self.client.send(
                        "GET", "/v1/reporting/transactions", params=params
                    )
                except Refusal as refusal:
                    raise refused(refusal) from None
                page = _TransactionPage.model_validate(answer)
                for item in page.transaction_details:
                    found = item.transaction_info
                    if start <= found.transaction_initiation_date < until:
                        yield _line(found)
                number, pages = number + 1, page.total_pages
            start = until

    async def store_method(
        self, key: str, token: str, owner: str, *, beside: str | None = None
    ) -> MethodTruth:
        """Turn the setup token that the shopper approved into a permanent one."""
        if _TOKEN.fullmatch(token) is None:
            raise MethodDeclined("invalid_method")
        body = {
            "payment_source": {"token": {"id": token, "type": "SETUP_TOKEN"}},
            "customer": {"merchant_customer_id": owner},
        }
        try:
            answer = await self.client.send("POST", "/v3/vault/payment-tokens", json=body, key=key)
        except Refusal:
            raise MethodDeclined("invalid_method") from None
        made = _VaultToken.model_validate(answer)
        card = made.payment_source.card
        if card is None:
            return MethodTruth(f"paypal/{made.id}", "paypal", None, None, None)
        brand = card.brand.lower() if card.brand else None
        return MethodTruth(f"card/{made.id}", "card", brand, card.last_digits, card.expiry)

    async def forget_method(self, token: str) -> None:
        vault_id = token.rpartition("/")[2]
        try:
            await self.client.send("DELETE", f"/v3/vault/payment-tokens/{vault_id}")
        except Refusal as refusal:
            if refusal.status != 404:
                raise refused(refusal) from None


def _notice(event: _Event) -> Notice:
    about = event.resource
    object_id, reference, topic = about.id or "", None, WebhookTopic.OTHER
    if event.event_type.startswith("CUSTOMER.DISPUTE."):
        topic, object_id = WebhookTopic.DISPUTE, about.dispute_id or object_id
    elif event.event_type.startswith("CHECKOUT.ORDER."):
        topic, reference = WebhookTopic.PAYMENT, about.id
    elif event.event_type in ("PAYMENT.CAPTURE.REFUNDED", "PAYMENT.CAPTURE.REVERSED"):
        topic = WebhookTopic.REFUND
    elif event.event_type.startswith(("PAYMENT.CAPTURE.", "PAYMENT.AUTHORIZATION.")):
        topic, reference = WebhookTopic.PAYMENT, about.supplementary_data.related_ids.order_id
    return Notice(
        id=event.id,
        type=event.event_type,
        topic=topic,
        object_id=object_id,
        reference=reference,
        key=untag(about.custom_id) if topic is WebhookTopic.PAYMENT else None,
        occurred_at=event.create_time,
    )


def _standing(order: PayPalOrder, captured_amount: int) -> Standing:
    authorization = order.authorization
    if captured_amount:
        return Standing.CAPTURED
    if authorization is None:
        return {
            "CREATED": Standing.REQUIRES_ACTION,
            "PAYER_ACTION_REQUIRED": Standing.REQUIRES_ACTION,
            "VOIDED": Standing.VOIDED,
        }.get(order.status, Standing.PENDING)
    if authorization.status == "VOIDED":
        return Standing.EXPIRED if authorization.has_expired else Standing.VOIDED
    return {"DENIED": Standing.DECLINED, "PENDING": Standing.PENDING}.get(
        authorization.status, Standing.AUTHORIZED
    )


def _refund(refund: PayPalRefund) -> RefundTruth:
    standing = {
        "COMPLETED": RefundStanding.SUCCEEDED,
        "PENDING": RefundStanding.PENDING,
    }.get(refund.status, RefundStanding.FAILED)
    return RefundTruth(refund.id, untag(refund.custom_id), refund.amount.money.amount, standing)


def _dispute_state(found: _Dispute) -> DisputeState:
    if found.status == "RESOLVED":
        outcome = found.dispute_outcome.outcome_code if found.dispute_outcome else "NONE"
        return DisputeState.WON if outcome in _WON else DisputeState.LOST
    if found.status in ("OPEN", "WAITING_FOR_SELLER_RESPONSE"):
        return DisputeState.NEEDS_RESPONSE
    return DisputeState.UNDER_REVIEW


def _evidence(evidence: Mapping[str, str]) -> dict[str, Any]:
    words = [
        f"{name.replace('_', ' ')}: {text}"
        for name, text in sorted(evidence.items())
        if name not in ("carrier", "tracking_number", "text")
    ]
    document: dict[str, Any] = {
        "evidence_type": "OTHER",
        "notes": "\n".join([evidence.get("text", ""), *words]).strip()[:2000],
    }
    if "tracking_number" in evidence:
        document["evidence_type"] = "PROOF_OF_FULFILLMENT"
        document["evidence_info"] = {
            "tracking_info": [
                {
                    "carrier_name": evidence.get("carrier", "OTHER"),
                    "tracking_number": evidence["tracking_number"],
                }
            ]
        }
    return document


def _line(found: _Transaction) -> BalanceLine:
    code = found.transaction_event_code
    kind = next((k for prefix, k in _EVENT_CODES if code.startswith(prefix)), BalanceKind.OTHER)
    money = found.transaction_amount.money
    # PayPal's fees are negative amounts beside the transaction's own.
    fee = -found.fee_amount.money.amount if found.fee_amount else 0
    amount = money.amount
    if kind is BalanceKind.FEE:
        amount, fee = 0, fee - money.amount
    return BalanceLine(
        id=found.transaction_id,
        kind=kind,
        reference=None,
        key=untag(found.custom_field),
        object_id=found.transaction_id,
        amount=amount,
        fee=fee,
        currency=money.currency,
        occurred_at=found.transaction_initiation_date,
    )
