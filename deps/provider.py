"""What a payment provider tells beside moving money: webhooks, the truth about a payment, disputes,
its books and stored methods. `deps.gateway` moves the money."""

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Protocol, runtime_checkable

from db.models.dispute import DisputeState
from db.models.reconciliation import BalanceKind
from db.models.webhook import WebhookTopic
from deps.gateway import Gateway, GatewayTimeout


class ProviderRefused(GatewayTimeout):
    """The provider calls the request wrong: our bug, or a setting. Until that is mended the outcome
    is as open as after a timeout, which is all that most callers have to know.

    The message names the provider's code and request, and holds no personal data and no secret.
    """


class MethodDeclined(Exception):
    """The method cannot be stored; `code` says why in our words."""

    def __init__(self, code: str) -> None:
        super().__init__(code)
        self.code = code


class InvalidSignature(Exception):
    """A webhook is not from the provider, or not fresh. The message may be shown to the sender."""


@dataclass(frozen=True, slots=True)
class Notice:
    """A verified webhook, reduced to where to look. What happened is asked, never read from it.

    Attributes:
        id: The provider's id of the event; a repeat has the same.
        object_id: The provider's id of what it is about.
        reference: Of the payment, as `Outcome.reference`, if the body says it.
        key: The key of the call that made the payment, if the body says it.
    """

    id: str
    type: str
    topic: WebhookTopic
    object_id: str
    reference: str | None
    key: str | None
    occurred_at: datetime


EVIDENCE_FIELDS = frozenset(
    {
        "text",
        "carrier",
        "tracking_number",
        "shipped_on",
        "product_description",
        "customer_name",
        "customer_email",
        "refund_policy",
    }
)
"""What `submit_evidence` understands; each provider has its own names for them."""


class Standing(StrEnum):
    """Where a payment stands at its provider."""

    REQUIRES_ACTION = "requires_action"
    PENDING = "pending"
    AUTHORIZED = "authorized"
    CAPTURED = "captured"
    DECLINED = "declined"
    VOIDED = "voided"
    EXPIRED = "expired"


class RefundStanding(StrEnum):
    PENDING = "pending"
    SUCCEEDED = "succeeded"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class RefundTruth:
    """One refund at the provider. `key` is None if it was not asked for by us."""

    reference: str
    key: str | None
    amount: int
    standing: RefundStanding


@dataclass(frozen=True, slots=True)
class PaymentTruth:
    """What the provider says of one payment now. Amounts are minor units of `currency`.

    Attributes:
        key: Of the call that made it, or None if it was not asked for by us.
        is_open: Whether more may be captured.
    """

    reference: str
    key: str | None
    standing: Standing
    currency: str
    authorized_amount: int
    captured_amount: int
    is_open: bool
    refunds: tuple[RefundTruth, ...]


@dataclass(frozen=True, slots=True)
class DisputeTruth:
    """A dispute at the provider. `withdrawn_amount` is what it holds back of our money now."""

    id: str
    reference: str | None
    state: DisputeState
    reason: str
    amount: int
    currency: str
    withdrawn_amount: int
    evidence_due_at: datetime | None
    opened_at: datetime


@dataclass(frozen=True, slots=True)
class BalanceLine:
    """A line of the provider's books: `amount` came in (or, negative, went out) before `fee`.

    Attributes:
        id: The provider's id of the line.
        reference: Of the payment it belongs to, if any.
        key: Of our call that caused it, if the provider says.
        object_id: Of the charge, refund, dispute or payout behind it.
        fee: What the provider kept for it, positive; negative when it was given back.
    """

    id: str
    kind: BalanceKind
    reference: str | None
    key: str | None
    object_id: str | None
    amount: int
    fee: int
    currency: str
    occurred_at: datetime


@dataclass(frozen=True, slots=True)
class MethodTruth:
    """A method stored at the provider. `token` is what `authorize` takes."""

    token: str
    kind: str
    brand: str | None
    last4: str | None
    expires_on: str | None
    """Year and month, `2030-08`."""


@runtime_checkable
class MethodVault(Protocol):
    """Where shoppers' methods are kept under tokens."""

    async def store_method(
        self, key: str, token: str, owner: str, *, beside: str | None = None
    ) -> MethodTruth:
        """Keep a method that the shopper gave to the provider, for `owner`'s later purchases.

        Args:
            key: Repeating the call under it stores one method.
            token: As the provider's own form in the browser returned it.
            owner: Our id of the customer.
            beside: The token of another method of the same customer, to be kept with.

        Raises:
            MethodDeclined: The provider does not take it.
        """
        ...

    async def forget_method(self, token: str) -> None:
        """Remove a stored method; one already gone is no error."""
        ...


@runtime_checkable
class Provider(Gateway, MethodVault, Protocol):
    """A gateway to a company outside, with everything that is to be asked of it."""

    async def notice(self, headers: Mapping[str, str], body: bytes, now: datetime) -> Notice:
        """Verify a webhook and say what it is about.

        Args:
            headers: Of the request, names in lower case.
            body: Exactly the bytes received: the signature covers them.
            now: For the age of the signature.

        Raises:
            InvalidSignature: Not theirs, not fresh, or not readable.
            GatewayTimeout: It cannot be verified just now.
        """
        ...

    async def locate(self, topic: WebhookTopic, object_id: str) -> str | None:
        """Return the reference of the payment that an object belongs to."""
        ...

    async def payment(self, reference: str) -> PaymentTruth | None: ...
    async def dispute(self, dispute_id: str) -> DisputeTruth | None: ...

    async def submit_evidence(
        self, key: str, dispute_id: str, evidence: Mapping[str, str]
    ) -> DisputeTruth:
        """Send evidence to the dispute's judges. Repeating it under its key changes nothing."""
        ...

    def balance(self, start: datetime, end: datetime) -> AsyncIterator[BalanceLine]:
        """Read the provider's books from `start` until before `end`."""
        ...

    async def aclose(self) -> None: ...
