"""Payment gateways: the protocol, and the scripted one that demo, tests and benchmarks use.

Every call carries a key; repeating a call with its key returns the first outcome, as Stripe
(https://docs.stripe.com/api/idempotent_requests) and PayPal (PayPal-Request-Id) promise.
"""

import asyncio
from collections import deque
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol

from db.types import Money
from deps.transaction import external


class GatewayTimeout(Exception):
    """No answer: the outcome is unknown until `find` tells."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a provider says of one call. A decline is an outcome, not an exception."""

    approved: bool
    reference: str
    amount: int
    currency: str
    decline_code: str | None = None


class Gateway(Protocol):
    name: str

    async def authorize(self, key: str, amount: Money, method_token: str) -> Outcome: ...
    async def capture(self, key: str, reference: str, amount: Money) -> Outcome: ...
    async def void(self, key: str, reference: str) -> Outcome: ...
    async def refund(self, key: str, reference: str, amount: Money) -> Outcome: ...
    async def find(self, key: str) -> Outcome | None:
        """Return the outcome recorded under `key`, or None if the call never arrived."""
        ...


class Fault(StrEnum):
    TIMEOUT_BEFORE = "timeout_before"
    TIMEOUT_AFTER = "timeout_after"
    DECLINE = "decline"
    WRONG_AMOUNT = "wrong_amount"
    SLOW = "slow"


@dataclass
class ScriptedGateway:
    """A gateway in this process that keeps a provider's promises and can be told to fail.

    Method tokens decide ordinary outcomes, as test cards do: `tok_visa` is approved,
    `tok_declined` is declined. `script` holds faults for the next calls, first come first.
    Its own record of money moved (`charges`) is what tests audit.
    """

    name: str = "scripted"
    script: deque[Fault] = field(default_factory=deque)
    charges: dict[str, int] = field(default_factory=dict)
    slow_s: float = 0.2
    calls: int = 0
    _answers: dict[str, Outcome] = field(default_factory=dict)

    async def authorize(self, key: str, amount: Money, method_token: str) -> Outcome:
        declined = "insufficient_funds" if method_token == "tok_declined" else None
        return await self._answer(key, f"auth_{key}", amount, declined)

    async def capture(self, key: str, reference: str, amount: Money) -> Outcome:
        return await self._answer(key, reference, amount, None)

    async def void(self, key: str, reference: str) -> Outcome:
        return await self._answer(key, reference, Money(0, "XXX"), None)

    async def refund(self, key: str, reference: str, amount: Money) -> Outcome:
        return await self._answer(key, reference, amount, None)

    async def find(self, key: str) -> Outcome | None:
        external()
        return self._answers.get(key)

    async def _answer(
        self, key: str, reference: str, amount: Money, declined: str | None
    ) -> Outcome:
        external()
        self.calls += 1
        fault = self.script.popleft() if self.script else None
        if fault is Fault.TIMEOUT_BEFORE:
            raise GatewayTimeout(key)
        if fault is Fault.SLOW:
            await asyncio.sleep(self.slow_s)
        if key not in self._answers:
            if fault is Fault.DECLINE:
                declined = "generic_decline"
            charged = amount.amount + (1 if fault is Fault.WRONG_AMOUNT else 0)
            self._answers[key] = Outcome(
                declined is None, reference, charged, amount.currency, declined
            )
            if declined is None and key.endswith(":capture"):
                self.charges[reference] = self.charges.get(reference, 0) + amount.amount
            if declined is None and key.endswith(":refund"):
                self.charges[reference] = self.charges.get(reference, 0) - amount.amount
        if fault is Fault.TIMEOUT_AFTER:
            raise GatewayTimeout(key)
        return self._answers[key]
