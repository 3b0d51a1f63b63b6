"""PayPal as a gateway: Orders v2 with intent AUTHORIZE and Payments v2, over httpx.

A payment's reference is its PayPal order: authorisation, captures and refunds are read from there,
so nothing else has to be remembered. Every write carries a `PayPal-Request-Id`
(https://developer.paypal.com/api/rest/reference/idempotency/), which PayPal keeps for six hours for
orders and 45 days for payments, and our key as `custom_id` or `invoice_id`, which stay. So `find`
reads the order; while no reference is known, it knows nothing, and the caller repeats the call
under the same key. A void leaves no key: voiding twice is harmless.

Method tokens: `paypal` sends the shopper to PayPal to approve; `paypal/…` and `card/…` are stored
(https://developer.paypal.com/docs/api/payment-tokens/v3/).
"""

import logging
from typing import Any, Final

from db.types import Money
from deps.gateway import Outcome, OutcomeStatus
from deps.paypal_client import (
    TIMEOUT_S,
    Capture,
    PayPalClient,
    PayPalOrder,
    PayPalRefund,
    Refusal,
    as_paypal,
    refused,
    tag,
    untag,
)
from deps.provider import ProviderRefused

log = logging.getLogger(__name__)
REFUSED: Final = "refused_by_provider"

DECLINES: Final = {
    "INSTRUMENT_DECLINED": "generic_decline",
    "TRANSACTION_REFUSED": "generic_decline",
    "PAYER_ACCOUNT_LOCKED_OR_CLOSED": "invalid_method",
    "PAYER_ACCOUNT_RESTRICTED": "not_permitted",
    "PAYER_CANNOT_PAY": "not_permitted",
    "CARD_EXPIRED": "card_expired",
    "TRANSACTION_LIMIT_EXCEEDED": "limit_exceeded",
    "COMPLIANCE_VIOLATION": "not_permitted",
    "CURRENCY_NOT_SUPPORTED": "currency_not_supported",
    "TOKEN_ID_NOT_FOUND": "invalid_method",
    "PAYMENT_SOURCE_CANNOT_BE_USED": "invalid_method",
    "AUTHORIZATION_EXPIRED": "authorization_expired",
    "AUTHORIZATION_VOIDED": "voided",
    "AUTHORIZATION_DENIED": "generic_decline",
    "AUTHORIZATION_ALREADY_CAPTURED": "not_capturable",
    "MAX_CAPTURE_AMOUNT_EXCEEDED": "amount_too_large",
    "CAPTURE_FULLY_REFUNDED": "amount_too_large",
    "REFUND_AMOUNT_EXCEEDED": "amount_too_large",
    "REFUND_TIME_LIMIT_EXCEEDED": "too_old_to_refund",
    "REFUND_FAILED_INSUFFICIENT_FUNDS": "shop_balance_too_low",
}


class PayPalGateway:
    """Moves money through PayPal."""

    name = "paypal"

    def __init__(
        self,
        client_id: str,
        client_secret: str,
        *,
        webhook_id: str | None = None,
        return_url: str | None = None,
        api_base: str | None = None,
        timeout_s: float = TIMEOUT_S,
    ) -> None:
        self.webhook_id = webhook_id
        self._return_url = return_url
        self.client = PayPalClient(client_id, client_secret, api_base, timeout_s)

    async def aclose(self) -> None:
        await self.client.aclose()

    # --- calls ---------------------------------------------------------------------------------

    async def authorize(
        self, key: str, amount: Money, method_token: str, *, return_url: str | None = None
    ) -> Outcome:
        """Reserve `amount`: at once with a stored method, else after the shopper has approved."""
        body = {
            "intent": "AUTHORIZE",
            "purchase_units": [{"custom_id": tag(key), "amount": as_paypal(amount)}],
            "payment_source": _source(method_token, return_url or self._return_url),
        }
        try:
            made = await self.client.send("POST", "/v2/checkout/orders", json=body, key=key)
            return await self._advance(PayPalOrder.model_validate(made), key)
        except Refusal as refusal:
            if refusal.status in (401, 403):
                raise refused(refusal) from None
            # Refused for good, and nothing reserved.
            log.warning("%s", refusal)
            code = DECLINES.get(refusal.issue, REFUSED)
            return _outcome(OutcomeStatus.DECLINED, "", amount, decline_code=code)

    async def _advance(self, order: PayPalOrder, key: str) -> Outcome:
        """Say where an order stands; one that the shopper has approved is authorised now."""
        if order.status == "APPROVED" and order.authorization is None:
            try:
                answer = await self.client.send(
                    "POST",
                    f"/v2/checkout/orders/{order.id}/authorize",
                    json={},
                    key=f"{key}:now",
                )
                order = PayPalOrder.model_validate(answer)
            except Refusal as refusal:
                if refusal.issue == "ORDER_ALREADY_AUTHORIZED":
                    order = await self.order(order.id)
                else:
                    return _declined(refusal, order.id, order.unit.amount.money)
        return _authorization(order)

    async def capture(
        self, key: str, reference: str, amount: Money, *, is_final: bool = True
    ) -> Outcome:
        """Take `amount` of what is reserved. After a final capture the rest is released."""
        order = await self.order(reference)
        known = _captured(order, key)
        if known is not None:
            return known
        authorization = order.authorization
        if authorization is None:
            raise ProviderRefused("paypal: an order without authorisation cannot be captured")
        if authorization.status == "VOIDED":
            code = "authorization_expired" if authorization.has_expired else "voided"
            return _outcome(OutcomeStatus.DECLINED, reference, amount, decline_code=code)
        body = {"amount": as_paypal(amount), "invoice_id": tag(key), "final_capture": is_final}
        path = f"/v2/payments/authorizations/{authorization.id}/capture"
        try:
            made = await self.client.send("POST", path, json=body, key=key)
        except Refusal as refusal:
            return _declined(refusal, reference, amount)
        return _capture(reference, Capture.model_validate(made))

    async def void(self, key: str, reference: str) -> Outcome:
        """Release what is reserved; once more is the same.

        An order that was never approved reserves nothing, and PayPal forgets it by itself.
        """
        order = await self.order(reference)
        authorization = order.authorization
        amount = order.unit.amount.money
        if authorization is not None and authorization.status not in ("VOIDED", "DENIED"):
            path = f"/v2/payments/authorizations/{authorization.id}/void"
            try:
                await self.client.send("POST", path, key=key)
            except Refusal as refusal:
                if refusal.issue not in ("PREVIOUSLY_VOIDED", "AUTHORIZATION_ALREADY_VOIDED"):
                    raise refused(refusal) from None
        return _outcome(OutcomeStatus.APPROVED, reference, amount)

    async def refund(self, key: str, reference: str, amount: Money) -> Outcome:
        """Give `amount` back, from the first capture on: PayPal refunds capture by capture.

        A refund that was cut off between two captures goes on where it stopped.
        """
        order = await self.order(reference)
        label = f"{tag(key)}_{amount.amount}"
        parts = [r for r in _live_refunds(order) if r.custom_id == label]
        missing = amount.amount - sum(r.amount.money.amount for r in parts)
        captures = order.unit.payments.captures
        if missing > sum(_refundable(order, capture) for capture in captures):
            code = "amount_too_large"
            return _outcome(OutcomeStatus.DECLINED, reference, amount, decline_code=code)
        try:
            for capture in captures:
                part = min(missing, _refundable(order, capture))
                if part == 0:
                    continue
                body = {"amount": as_paypal(Money(part, amount.currency)), "custom_id": label}
                path = f"/v2/payments/captures/{capture.id}/refund"
                made = await self.client.send("POST", path, json=body, key=f"{key}:{capture.id}")
                parts.append(PayPalRefund.model_validate(made))
                missing -= part
        except Refusal as refusal:
            return _declined(refusal, reference, amount)
        return _refund(parts, amount)

    async def find(self, key: str, reference: str | None = None) -> Outcome | None:
        """Say what became of the call under `key`; an approved order is authorised by the way.

        None without a reference: PayPal cannot be searched by key. Repeat the call under its key.
        """
        if reference is None:
            return None
        order = await self.known_order(reference)
        if order is None:
            return None
        if order.unit.custom_id == tag(key):
            return await self._advance(order, key)
        captured = _captured(order, key)
        if captured is not None:
            return captured
        parts = [r for r in order.unit.payments.refunds if untag(r.custom_id) == key]
        if not parts:
            return None
        label = parts[0].custom_id or ""
        wanted = Money(int(label.rpartition("_")[2]), order.unit.amount.currency_code)
        done = sum(r.amount.money.amount for r in parts)
        # Less than was asked for: `refund` has to be repeated, and completes it.
        return _refund(parts, wanted) if done == wanted.amount else None

    async def order(self, reference: str) -> PayPalOrder:
        found = await self.known_order(reference)
        if found is None:
            raise ProviderRefused(f"paypal: there is no order {reference}")
        return found

    async def known_order(self, reference: str) -> PayPalOrder | None:
        try:
            answer = await self.client.send("GET", f"/v2/checkout/orders/{reference}")
        except Refusal as refusal:
            if refusal.status == 404:
                return None
            raise refused(refusal) from None
        return PayPalOrder.model_validate(answer)


def _source(method_token: str, return_url: str | None) -> dict[str, Any]:
    kind, _, vault_id = method_token.partition("/")
    if vault_id:
        return {kind: {"vault_id": vault_id}}
    context = {"user_action": "PAY_NOW", "shipping_preference": "NO_SHIPPING"}
    if return_url:
        context |= {"return_url": return_url, "cancel_url": return_url}
    return {"paypal": {"experience_context": context}}


def _outcome(status: OutcomeStatus, reference: str, amount: Money, **more: Any) -> Outcome:
    return Outcome(
        status=status, reference=reference, amount=amount.amount, currency=amount.currency, **more
    )


def _declined(refusal: Refusal, reference: str, amount: Money) -> Outcome:
    code = DECLINES.get(refusal.issue)
    if code is None:
        raise refused(refusal) from None
    return _outcome(OutcomeStatus.DECLINED, reference, amount, decline_code=code)


def _authorization(order: PayPalOrder) -> Outcome:
    authorization = order.authorization
    if authorization is None:
        asked = order.unit.amount.money
        urls = [link.href for link in order.links if link.rel in ("payer-action", "approve")]
        if order.status in ("CREATED", "PAYER_ACTION_REQUIRED") and urls:
            action = {"type": "redirect", "url": urls[0]}
            return _outcome(OutcomeStatus.REQUIRES_ACTION, order.id, asked, action=action)
        if order.status == "VOIDED":
            return _outcome(OutcomeStatus.DECLINED, order.id, asked, decline_code="voided")
        return _outcome(OutcomeStatus.PENDING, order.id, asked)
    amount, expires_at = authorization.amount.money, authorization.expiration_time
    if authorization.status == "PENDING":
        return _outcome(OutcomeStatus.PENDING, order.id, amount)
    if authorization.status in ("DENIED", "VOIDED"):
        ended = "authorization_expired" if authorization.has_expired else "voided"
        code = "generic_decline" if authorization.status == "DENIED" else ended
        return _outcome(OutcomeStatus.DECLINED, order.id, amount, decline_code=code)
    return _outcome(OutcomeStatus.APPROVED, order.id, amount, expires_at=expires_at)


def _captured(order: PayPalOrder, key: str) -> Outcome | None:
    for capture in order.unit.payments.captures:
        if capture.invoice_id == tag(key):
            return _capture(order.id, capture)
    return None


def _capture(reference: str, capture: Capture) -> Outcome:
    amount = capture.amount.money
    if capture.status == "PENDING":
        return _outcome(OutcomeStatus.PENDING, reference, amount)
    if capture.status in ("DECLINED", "FAILED"):
        code = "generic_decline"
        return _outcome(OutcomeStatus.DECLINED, reference, amount, decline_code=code)
    return _outcome(OutcomeStatus.APPROVED, reference, amount)


def _live_refunds(order: PayPalOrder) -> list[PayPalRefund]:
    return [r for r in order.unit.payments.refunds if r.status not in ("FAILED", "CANCELLED")]


def _refundable(order: PayPalOrder, capture: Capture) -> int:
    if capture.status in ("DECLINED", "FAILED", "PENDING"):
        return 0
    back = [r.amount.money.amount for r in _live_refunds(order) if r.capture_id == capture.id]
    return capture.amount.money.amount - sum(back)


def _refund(parts: list[PayPalRefund], amount: Money) -> Outcome:
    """Return the outcome of a refund in one or several parts; its reference is the first's."""
    states = {part.status for part in parts}
    if states & {"FAILED", "CANCELLED"}:
        code = "refund_failed"
        return _outcome(OutcomeStatus.DECLINED, parts[0].id, amount, decline_code=code)
    status = OutcomeStatus.PENDING if "PENDING" in states else OutcomeStatus.APPROVED
    return _outcome(status, parts[0].id, amount)
