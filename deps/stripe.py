"""Stripe as a gateway: payment intents captured by hand, through the official library.

Every write carries our key as Stripe's idempotency key, which Stripe remembers for at least a day
(https://docs.stripe.com/api/idempotent_requests), and leaves the key in the object's metadata,
which stays. So an unknown outcome is resolved in two ways that cover each other: `find` reads the
metadata, and if it finds nothing the caller repeats the call under the same key. The search for
an authorisation lags up to a minute behind (https://docs.stripe.com/search#data-freshness); within
that minute the repeated key answers, and after the key is forgotten the search has long caught up.
Captures and refunds are looked up by their payment intent, which never lags.

A void leaves no key: cancelling twice is harmless, so `find` knows nothing of it.
"""

import asyncio
import logging
from collections.abc import Coroutine, Mapping
from datetime import UTC, datetime
from hashlib import sha256
from typing import TYPE_CHECKING, Any, Final, TypeVar

import stripe
from pydantic import BaseModel, Field

from db.types import Money
from deps.gateway import GatewayTimeout, Outcome, OutcomeStatus
from deps.provider import ProviderRefused
from deps.transaction import external

if TYPE_CHECKING:
    from stripe.params import PaymentIntentCaptureParams, PaymentIntentCreateParams

T = TypeVar("T")
log = logging.getLogger(__name__)

TIMEOUT_S: Final = 6.0
DEADLINE_S: Final = 13.0  # With the library's retry: to ask and then to call fits into a lease.
RETRIES: Final = 1
KEY: Final = "shopkeeper_key"
REFUNDS_MAX: Final = 100

# Stripe counts these in hundredths although ISO 4217 has no decimals for them:
# https://docs.stripe.com/currencies#special-cases
_HUNDREDFOLD: Final = frozenset({"ISK", "UGX"})

# What a shopper may be told, by https://docs.stripe.com/declines/codes: lost, stolen and suspected
# cards are declined without a reason, as Stripe asks.
DECLINES: Final[Mapping[str, str]] = {
    "insufficient_funds": "insufficient_funds",
    "card_velocity_exceeded": "limit_exceeded",
    "withdrawal_count_limit_exceeded": "limit_exceeded",
    "expired_card": "card_expired",
    "invalid_expiry_month": "card_expired",
    "invalid_expiry_year": "card_expired",
    "incorrect_cvc": "incorrect_cvc",
    "invalid_cvc": "incorrect_cvc",
    "authentication_required": "authentication_required",
    "payment_intent_authentication_failure": "authentication_failed",
    "authentication_not_handled": "authentication_required",
    "currency_not_supported": "currency_not_supported",
    "card_not_supported": "not_permitted",
    "transaction_not_allowed": "not_permitted",
    "issuer_not_available": "try_again",
    "processing_error": "try_again",
    "try_again_later": "try_again",
    "reenter_transaction": "try_again",
    "invalid_account": "invalid_method",
    "new_account_information_available": "invalid_method",
    "incorrect_number": "invalid_method",
    "invalid_number": "invalid_method",
}
GENERIC_DECLINE: Final = "generic_decline"
REFUSED: Final = "refused_by_provider"
AUTHORIZATION_EXPIRED: Final = "authorization_expired"


class _ErrorDetail(BaseModel):
    code: str | None = None
    decline_code: str | None = None
    message: str | None = None


class _Redirect(BaseModel):
    url: str


class _NextAction(BaseModel):
    type: str
    redirect_to_url: _Redirect | None = None


class _Card(BaseModel):
    capture_before: int | None = None


class _MethodDetails(BaseModel):
    card: _Card | None = None


class _Charge(BaseModel):
    id: str
    payment_method_details: _MethodDetails | None = None


class Intent(BaseModel):
    """The fields of a payment intent that we read: https://docs.stripe.com/api/payment_intents"""

    id: str
    status: str
    amount: int
    amount_received: int = 0
    currency: str
    client_secret: str | None = None
    metadata: dict[str, str] = Field(default_factory=dict)
    cancellation_reason: str | None = None
    last_payment_error: _ErrorDetail | None = None
    next_action: _NextAction | None = None
    latest_charge: _Charge | str | None = None

    @property
    def expires_at(self) -> datetime | None:
        charge = self.latest_charge
        details = charge.payment_method_details if isinstance(charge, _Charge) else None
        before = details.card.capture_before if details and details.card else None
        return datetime.fromtimestamp(before, UTC) if before is not None else None


class IntentRefund(BaseModel):
    """The fields of a refund that we read: https://docs.stripe.com/api/refunds"""

    id: str
    amount: int
    currency: str
    status: str | None
    failure_reason: str | None = None
    metadata: dict[str, str] = Field(default_factory=dict)


def stripe_amount(money: Money) -> int:
    """Return `money` in the units that Stripe counts in."""
    return money.amount * 100 if money.currency in _HUNDREDFOLD else money.amount


def shop_amount(amount: int, currency: str) -> int:
    """Return Stripe's `amount` in minor units of ISO 4217."""
    if currency.upper() not in _HUNDREDFOLD:
        return amount
    whole, rest = divmod(amount, 100)
    if rest:
        raise ProviderRefused(f"Stripe names {amount} of {currency}, which has no such fraction")
    return whole


def _name_of_capture(key: str) -> str:
    # Metadata names have 40 characters at most; ours have up to a hundred.
    return f"capture_{sha256(key.encode()).hexdigest()[:24]}"


class StripeGateway:
    """Moves money through Stripe. Method tokens are `pm_…`, or `cus_…/pm_…` once stored."""

    name = "stripe"

    def __init__(
        self,
        secret_key: str,
        *,
        webhook_secret: str | None = None,
        return_url: str | None = None,
        api_base: str | None = None,
        timeout_s: float = TIMEOUT_S,
        retries: int = RETRIES,
    ) -> None:
        self._http = stripe.HTTPXClient(timeout=timeout_s)
        self.client = stripe.StripeClient(
            secret_key,
            base_addresses={"api": api_base.rstrip("/")} if api_base else {},
            http_client=self._http,
            max_network_retries=retries,
        )
        self.webhook_secret = webhook_secret
        self._return_url = return_url

    async def aclose(self) -> None:
        await self._http.close_async()  # type: ignore[no-untyped-call]  # Theirs.

    # --- calls ---------------------------------------------------------------------------------

    async def authorize(
        self, key: str, amount: Money, method_token: str, *, return_url: str | None = None
    ) -> Outcome:
        """Reserve `amount`; without `return_url`, a challenge is shown by Stripe's own script."""
        return_url = return_url or self._return_url
        customer, _, method = method_token.rpartition("/")
        params: PaymentIntentCreateParams = {
            "amount": stripe_amount(amount),
            "currency": amount.currency.lower(),
            "payment_method": method,
            "capture_method": "manual",
            "confirm": True,
            "metadata": {KEY: key},
            "expand": ["latest_charge"],
            "payment_method_options": {"card": {"request_multicapture": "if_available"}},
            "automatic_payment_methods": {
                "enabled": True,
                "allow_redirects": "always" if return_url else "never",
            },
        }
        if customer:
            params["customer"] = customer
        if return_url:
            params["return_url"] = return_url
        try:
            made = await self.call(
                self.client.v1.payment_intents.create_async(params, {"idempotency_key": key})
            )
        except stripe.CardError as error:
            return self._declined(error, amount)
        except stripe.InvalidRequestError as error:
            # Refused for good and nothing reserved, mostly for a token that is none of theirs.
            log.warning("stripe: refused %s %s (%s)", error.param, error.code, error.request_id)
            is_method = (error.param or "").startswith(("payment_method", "customer"))
            code = "invalid_method" if is_method else REFUSED
            return _outcome(OutcomeStatus.DECLINED, "", amount, decline_code=code)
        return _authorization(Intent.model_validate(made.to_dict()))

    async def capture(
        self, key: str, reference: str, amount: Money, *, is_final: bool = True
    ) -> Outcome:
        """Take `amount` of what is reserved. After a final capture the rest is released."""
        wanted = stripe_amount(amount)
        params: PaymentIntentCaptureParams = {
            "amount_to_capture": wanted,
            "metadata": {_name_of_capture(key): f"{wanted} {key}"},
        }
        if not is_final:
            params["final_capture"] = False
        try:
            taken = await self.call(
                self.client.v1.payment_intents.capture_async(
                    reference, params, {"idempotency_key": key}
                )
            )
        except stripe.CardError as error:
            return self._declined(error, amount, reference)
        except stripe.InvalidRequestError as error:
            return await self._capture_refused(key, reference, amount, error)
        outcome = _capture(Intent.model_validate(taken.to_dict()), key)
        assert outcome is not None, "Stripe drops metadata"
        return outcome

    async def _capture_refused(
        self, key: str, reference: str, amount: Money, error: stripe.InvalidRequestError
    ) -> Outcome:
        """Tell a capture that is too late, too large or known already from a wrong request."""
        if error.code == "amount_too_large":
            code = "amount_too_large"
            return _outcome(OutcomeStatus.DECLINED, reference, amount, decline_code=code)
        if error.code in ("payment_intent_unexpected_state", "charge_expired_for_capture"):
            intent = await self.intent(reference)
            known = _capture(intent, key) if intent is not None else None
            if known is not None:
                return known
            if intent is not None:
                is_canceled = intent.status == "canceled"
                code = _why_canceled(intent) if is_canceled else "not_capturable"
                return _outcome(OutcomeStatus.DECLINED, reference, amount, decline_code=code)
        raise refused(error) from None

    async def void(self, key: str, reference: str) -> Outcome:
        """Release what is reserved; once more is the same."""
        try:
            ended = await self.call(
                self.client.v1.payment_intents.cancel_async(reference, {}, {"idempotency_key": key})
            )
            intent = Intent.model_validate(ended.to_dict())
        except stripe.InvalidRequestError as error:
            found = await self.intent(reference)
            if found is None or found.status != "canceled":
                raise refused(error) from None
            intent = found
        return _outcome(OutcomeStatus.APPROVED, reference, _money(intent, intent.amount))

    async def refund(self, key: str, reference: str, amount: Money) -> Outcome:
        """Give `amount` of what was captured back to where it came from."""
        try:
            made = await self.call(
                self.client.v1.refunds.create_async(
                    {
                        "payment_intent": reference,
                        "amount": stripe_amount(amount),
                        "metadata": {KEY: key},
                    },
                    {"idempotency_key": key},
                )
            )
        except stripe.InvalidRequestError as error:
            if error.code == "charge_already_refunded" or "greater than" in str(error):
                code = "amount_too_large"
                return _outcome(OutcomeStatus.DECLINED, reference, amount, decline_code=code)
            raise refused(error) from None
        return _refund(IntentRefund.model_validate(made.to_dict()))

    async def find(self, key: str, reference: str | None = None) -> Outcome | None:
        """Say what became of the call under `key`; None if Stripe shows no trace of it (yet)."""
        assert "'" not in key, "the key is quoted in a search"
        if reference is None:
            found = await self.read(
                self.client.v1.payment_intents.search_async(
                    {
                        "query": f"metadata['{KEY}']:'{key}'",
                        "limit": 1,
                        "expand": ["data.latest_charge"],
                    }
                )
            )
            intents = [Intent.model_validate(item.to_dict()) for item in found.data]
            return _authorization(intents[0]) if intents else None
        intent = await self.intent(reference)
        if intent is None:
            return None
        if intent.metadata.get(KEY) == key:
            return _authorization(intent)
        captured = _capture(intent, key)
        if captured is not None:
            return captured
        for refund in await self.refunds(reference):
            if refund.metadata.get(KEY) == key:
                return _refund(refund)
        return None

    # --- reading -------------------------------------------------------------------------------

    async def intent(self, reference: str) -> Intent | None:
        try:
            found = await self.call(
                self.client.v1.payment_intents.retrieve_async(
                    reference, {"expand": ["latest_charge"]}
                )
            )
        except stripe.InvalidRequestError as error:
            if error.http_status == 404:
                return None
            raise refused(error) from None
        return Intent.model_validate(found.to_dict())

    async def refunds(self, reference: str) -> list[IntentRefund]:
        found = await self.read(
            self.client.v1.refunds.list_async({"payment_intent": reference, "limit": REFUNDS_MAX})
        )
        return [IntentRefund.model_validate(item.to_dict()) for item in found.data]

    async def read(self, call: Coroutine[Any, Any, T]) -> T:
        """Await a call that is only refused when we ask wrongly.

        Raises: GatewayTimeout, ProviderRefused; see `call`.
        """
        try:
            return await self.call(call)
        except stripe.InvalidRequestError as error:
            raise refused(error) from None

    async def call(self, call: Coroutine[Any, Any, T]) -> T:
        """Await a call of the library and sort its failures.

        Raises:
            GatewayTimeout: No answer, or none to rely on: 5xx, 429, or the key is in use.
            ProviderRefused: Our credentials or our use of a key are wrong.
            stripe.CardError, stripe.InvalidRequestError: For the caller to judge.
        """
        try:
            external()
            async with asyncio.timeout(DEADLINE_S):
                return await call
        except (stripe.CardError, stripe.InvalidRequestError):
            raise
        # A 409, the same key in flight, is an APIError too.
        except (stripe.APIConnectionError, stripe.APIError, stripe.RateLimitError) as error:
            raise GatewayTimeout(f"stripe: {type(error).__name__}") from None
        except TimeoutError:
            raise GatewayTimeout("stripe: no answer in time") from None
        except stripe.StripeError as error:
            raise refused(error) from None
        finally:
            call.close()  # Already over, unless it was never begun.

    def _declined(
        self, error: stripe.CardError, amount: Money, reference: str | None = None
    ) -> Outcome:
        intent = _detail(error).get("payment_intent") or {}
        known = reference or intent.get("id") or ""
        return _outcome(OutcomeStatus.DECLINED, known, amount, decline_code=why_declined(error))


def why_declined(error: stripe.CardError) -> str:
    """Return the bank's reason if it gave one, else Stripe's."""
    return decline_code(_detail(error).get("decline_code") or error.code)


def _detail(error: stripe.CardError) -> dict[str, Any]:
    body = error.json_body
    detail = body.get("error") if isinstance(body, dict) else None
    return detail if isinstance(detail, dict) else {}


def decline_code(code: str | None) -> str:
    return DECLINES.get(code or "", GENERIC_DECLINE)


def refused(error: stripe.StripeError) -> ProviderRefused:
    # Not the message: it may quote what was sent.
    what = f"stripe: {type(error).__name__} {error.code or error.http_status} ({error.request_id})"
    log.error("%s", what)
    return ProviderRefused(what)


def _money(intent: Intent, amount: int) -> Money:
    currency = intent.currency.upper()
    return Money(shop_amount(amount, currency), currency)


def _outcome(status: OutcomeStatus, reference: str, amount: Money, **more: Any) -> Outcome:
    return Outcome(
        status=status, reference=reference, amount=amount.amount, currency=amount.currency, **more
    )


def _why_canceled(intent: Intent) -> str:
    # Stripe cancels by itself when the authorisation has run out.
    return AUTHORIZATION_EXPIRED if intent.cancellation_reason == "automatic" else "voided"


def _authorization(intent: Intent) -> Outcome:
    money = _money(intent, intent.amount)
    if intent.status in ("requires_capture", "succeeded"):
        return _outcome(OutcomeStatus.APPROVED, intent.id, money, expires_at=intent.expires_at)
    if intent.status == "requires_action":
        following = intent.next_action
        redirect = following.redirect_to_url if following else None
        action = (
            {"type": "redirect", "url": redirect.url}
            if redirect
            else {"type": "client_secret", "client_secret": intent.client_secret}
        )
        return _outcome(OutcomeStatus.REQUIRES_ACTION, intent.id, money, action=action)
    if intent.status == "requires_payment_method":
        why = intent.last_payment_error
        code = decline_code((why.decline_code or why.code) if why else None)
        return _outcome(OutcomeStatus.DECLINED, intent.id, money, decline_code=code)
    if intent.status == "canceled":
        return _outcome(
            OutcomeStatus.DECLINED, intent.id, money, decline_code=_why_canceled(intent)
        )
    return _outcome(OutcomeStatus.PENDING, intent.id, money)


def _capture(intent: Intent, key: str) -> Outcome | None:
    noted = intent.metadata.get(_name_of_capture(key))
    if noted is None:
        return None
    # Our notes and Stripe's total must agree; what they differ by is this capture's fault.
    amounts = [
        int(value.split()[0])
        for name, value in intent.metadata.items()
        if name.startswith("capture_")
    ]
    amount = int(noted.split()[0]) + intent.amount_received - sum(amounts)
    return _outcome(OutcomeStatus.APPROVED, intent.id, _money(intent, amount))


def _refund(refund: IntentRefund) -> Outcome:
    """Return a refund's outcome; its reference is the refund's own."""
    reference = refund.id
    currency = refund.currency.upper()
    money = Money(shop_amount(refund.amount, currency), currency)
    if refund.status == "succeeded":
        return _outcome(OutcomeStatus.APPROVED, reference, money)
    if refund.status in ("failed", "canceled"):
        code = refund.failure_reason or "refund_failed"
        return _outcome(OutcomeStatus.DECLINED, reference, money, decline_code=code)
    return _outcome(OutcomeStatus.PENDING, reference, money)
