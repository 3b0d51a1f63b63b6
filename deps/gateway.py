"""Payment gateways: the protocol every provider speaks.

Every call carries a key; repeating a call with its key returns the first outcome, as Stripe
(https://docs.stripe.com/api/idempotent_requests) and PayPal (PayPal-Request-Id) promise.
"""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any, Protocol, runtime_checkable

from db.types import Money


class GatewayTimeout(Exception):
    """No answer: the outcome is unknown until `find`, or the same call again, tells.

    Its message is the key of the call.
    """


class OutcomeStatus(StrEnum):
    APPROVED = "approved"
    DECLINED = "declined"
    REQUIRES_ACTION = "requires_action"
    PENDING = "pending"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a provider says of one call. A decline is an outcome, not an exception.

    Attributes:
        reference: The provider's name for the payment; capture, void and refund take it.
        amount: Minor units the provider says it authorised, captured or refunded.
        decline_code: Why not, in the provider's vocabulary.
        action: What the shopper has to do first, such as `{"type": "redirect", "url": …}`.
        expires_at: When an authorisation lapses, if the provider says.
    """

    status: OutcomeStatus
    reference: str
    amount: int
    currency: str
    decline_code: str | None = None
    action: dict[str, Any] | None = None
    expires_at: datetime | None = None

    @property
    def approved(self) -> bool:
        return self.status is OutcomeStatus.APPROVED


class Gateway(Protocol):
    """A provider. Every method but `find` may be repeated with its key at no cost.

    Raises:
        GatewayTimeout: Whether it happened is unknown.
    """

    name: str

    async def authorize(
        self, key: str, amount: Money, method_token: str, *, return_url: str | None = None
    ) -> Outcome: ...

    async def capture(
        self, key: str, reference: str, amount: Money, *, is_final: bool = True
    ) -> Outcome:
        """Take `amount` of what was authorised; unless `is_final`, more may follow."""
        ...

    async def void(self, key: str, reference: str) -> Outcome: ...

    async def refund(self, key: str, reference: str, amount: Money) -> Outcome: ...

    async def find(self, key: str, reference: str | None = None) -> Outcome | None:
        """Return what became of the call under `key`, or None if it never arrived.

        After a shopper did what `REQUIRES_ACTION` asked for, this is what tells.
        """
        ...


@runtime_checkable
class PaysOut(Gateway, Protocol):
    """A provider that can also send money to a method it did not charge."""

    async def pay_out(self, key: str, amount: Money, method_token: str) -> Outcome: ...
