"""The scripted gateway: a provider in this process that keeps a provider's promises, and fails on
command. Demo, tests and benchmarks use it.

Method tokens decide ordinary outcomes, as test cards do: `tok_visa` is approved, `tok_declined`
is declined, `tok_3ds` waits for the shopper. With a file, what it promised survives the process
and is shared by several, as a real provider's memory is.
"""

import asyncio
import sqlite3
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from pathlib import Path
from typing import Any

import orjson

from db.types import Money
from deps.gateway import GatewayTimeout, Outcome, OutcomeStatus
from deps.provider import MethodDeclined, MethodTruth
from deps.transaction import external

AUTHORIZATION_DAYS = 7


class Fault(StrEnum):
    TIMEOUT_BEFORE = "timeout_before"
    TIMEOUT_AFTER = "timeout_after"
    DECLINE = "decline"
    WRONG_AMOUNT = "wrong_amount"
    PENDING = "pending"
    SLOW = "slow"


@dataclass
class _Account:
    """What the provider knows of one payment. Amounts are minor units."""

    authorized: int
    captured: int = 0
    refunded: int = 0
    is_closed: bool = False
    waits: bool = False


class _Memory:
    """Answers by key and accounts by reference, in SQLite: in a file, or in this process."""

    def __init__(self, file: Path | None) -> None:
        self.rows = sqlite3.connect(file or ":memory:", isolation_level=None, timeout=10)
        # What a killed process wrote is kept; only a power cut could lose the last rows.
        self.rows.execute("PRAGMA synchronous = OFF")
        self.rows.execute("CREATE TABLE IF NOT EXISTS answer (key TEXT PRIMARY KEY, said TEXT)")
        self.rows.execute("CREATE TABLE IF NOT EXISTS account (key TEXT PRIMARY KEY, said TEXT)")

    @contextmanager
    def transaction(self) -> Iterator[None]:
        self.rows.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self.rows.execute("ROLLBACK")
            raise
        self.rows.execute("COMMIT")

    def answer(self, key: str) -> Outcome | None:
        said = self._get("answer", key)
        if said is None:
            return None
        expires_at = said.pop("expires_at")
        return Outcome(
            status=OutcomeStatus(said.pop("status")),
            expires_at=datetime.fromisoformat(expires_at) if expires_at else None,
            **said,
        )

    def account(self, reference: str) -> _Account | None:
        said = self._get("account", reference)
        return None if said is None else _Account(**said)

    def accounts(self) -> dict[str, _Account]:
        rows = self.rows.execute("SELECT key, said FROM account ORDER BY rowid")
        return {key: _Account(**orjson.loads(said)) for key, said in rows}

    def keep_answer(self, key: str, answer: Outcome) -> None:
        self._put("answer", key, asdict(answer))

    def keep_account(self, reference: str, account: _Account) -> None:
        self._put("account", reference, asdict(account))

    def _get(self, table: str, key: str) -> dict[str, Any] | None:
        row = self.rows.execute(f"SELECT said FROM {table} WHERE key = ?", (key,)).fetchone()
        return None if row is None else dict(orjson.loads(row[0]))

    def _put(self, table: str, key: str, value: dict[str, Any]) -> None:
        self.rows.execute(
            f"INSERT OR REPLACE INTO {table} VALUES (?, ?)",
            (key, orjson.dumps(value).decode()),
        )


@dataclass
class ScriptedGateway:
    """`script` holds faults for the next calls, first come first; None is a call without one.

    A call that is `PENDING` stays so, however often it is repeated or asked for, until `decide`.

    Raises:
        GatewayTimeout: As the script says.
    """

    name: str = "scripted"
    script: deque[Fault | None] = field(default_factory=deque)
    slow_s: float = 0.2
    calls: int = 0
    file: Path | None = None
    clock: Callable[[], datetime] = lambda: datetime.now(UTC)
    _memory: _Memory = field(init=False, repr=False)
    _undecided: set[str] = field(default_factory=set, init=False, repr=False)

    def __post_init__(self) -> None:
        self._memory = _Memory(self.file)

    @property
    def charges(self) -> dict[str, int]:
        """Money kept by reference: captured less refunded. What tests audit."""
        return {
            reference: account.captured - account.refunded
            for reference, account in self._memory.accounts().items()
            if account.captured
        }

    @property
    def paid_out(self) -> dict[str, int]:
        """Money sent to methods that were not charged for it, by reference."""
        return {
            reference: account.refunded
            for reference, account in self._memory.accounts().items()
            if reference.startswith("out_")
        }

    async def authorize(
        self, key: str, amount: Money, method_token: str, *, return_url: str | None = None
    ) -> Outcome:
        reference = f"auth_{key}"

        def decide(wrong: int) -> Outcome:
            if method_token == "tok_declined":
                return _declined(reference, amount, "insufficient_funds")
            waits = method_token == "tok_3ds"
            self._memory.keep_account(reference, _Account(amount.amount, waits=waits))
            return Outcome(
                OutcomeStatus.REQUIRES_ACTION if waits else OutcomeStatus.APPROVED,
                reference,
                amount.amount + wrong,
                amount.currency,
                action={"type": "redirect", "url": f"{return_url or ''}#{reference}"}
                if waits
                else None,
                expires_at=self.clock() + timedelta(days=AUTHORIZATION_DAYS),
            )

        return await self._answer(key, amount, reference, decide)

    async def capture(
        self, key: str, reference: str, amount: Money, *, is_final: bool = True
    ) -> Outcome:
        def decide(wrong: int) -> Outcome:
            account = self._memory.account(reference)
            if account is None or account.is_closed or account.waits:
                return _declined(reference, amount, "not_capturable")
            if account.captured + amount.amount > account.authorized:
                return _declined(reference, amount, "amount_too_large")
            account.captured += amount.amount
            account.is_closed = is_final
            self._memory.keep_account(reference, account)
            return _approved(reference, amount, wrong)

        return await self._answer(key, amount, reference, decide)

    async def void(self, key: str, reference: str) -> Outcome:
        def decide(wrong: int) -> Outcome:
            account = self._memory.account(reference)
            if account is not None and account.is_closed and account.captured:
                return _declined(reference, Money(0, "XXX"), "already_captured")
            if account is not None:
                account.is_closed = True
                self._memory.keep_account(reference, account)
            return _approved(reference, Money(0, "XXX"), 0)

        return await self._answer(key, Money(0, "XXX"), reference, decide)

    async def refund(self, key: str, reference: str, amount: Money) -> Outcome:
        def decide(wrong: int) -> Outcome:
            account = self._memory.account(reference) or _Account(0)
            # A payment made before this provider began to remember cannot be checked.
            if account.authorized and account.refunded + amount.amount > account.captured:
                return _declined(reference, amount, "amount_too_large")
            account.refunded += amount.amount
            self._memory.keep_account(reference, account)
            return _approved(reference, amount, wrong)

        return await self._answer(key, amount, reference, decide)

    async def pay_out(self, key: str, amount: Money, method_token: str) -> Outcome:
        reference = f"out_{key}"

        def decide(wrong: int) -> Outcome:
            if method_token == "tok_declined":
                return _declined(reference, amount, "payout_refused")
            # Money out with nothing captured before: `charges` leaves it out, `paid_out` has it.
            self._memory.keep_account(reference, _Account(0, refunded=amount.amount))
            return _approved(reference, amount, wrong)

        return await self._answer(key, amount, reference, decide)

    async def find(self, key: str, reference: str | None = None) -> Outcome | None:
        external()
        known = self._memory.answer(key)
        if known is not None and key in self._undecided:
            return replace(known, status=OutcomeStatus.PENDING)
        if known is None or known.status is not OutcomeStatus.REQUIRES_ACTION:
            return known
        account = self._memory.account(known.reference)
        assert account is not None
        if account.waits:
            return known
        if account.is_closed:
            total = Money(known.amount, known.currency)
            return _declined(known.reference, total, "authentication_failed")
        return replace(known, status=OutcomeStatus.APPROVED, action=None)

    async def store_method(
        self, key: str, token: str, owner: str, *, beside: str | None = None
    ) -> MethodTruth:
        """Keep a `tok_…` as it is; `tok_declined` is declined."""
        external()
        if not token.startswith("tok_") or token == "tok_declined":
            raise MethodDeclined("invalid_method")
        return MethodTruth(token, "card", token.removeprefix("tok_"), "4242", "2030-08")

    async def forget_method(self, token: str) -> None:
        external()

    def decide(self) -> None:
        """Come to an answer on everything that was pending."""
        self._undecided.clear()

    def finish_action(self, reference: str, *, succeeds: bool = True) -> None:
        """Do the shopper's part of a `tok_3ds` payment."""
        with self._memory.transaction():
            account = self._memory.account(reference)
            assert account is not None, f"no payment {reference}"
            account.waits = False
            account.is_closed = not succeeds
            self._memory.keep_account(reference, account)

    async def _answer(
        self,
        key: str,
        amount: Money,
        reference: str,
        decide: Callable[[int], Outcome],
    ) -> Outcome:
        external()
        self.calls += 1
        fault = self.script.popleft() if self.script else None
        if fault is Fault.TIMEOUT_BEFORE:
            raise GatewayTimeout(key)
        if fault is Fault.SLOW:
            await asyncio.sleep(self.slow_s)
        with self._memory.transaction():
            answer = self._memory.answer(key)
            if answer is None:
                if fault is Fault.DECLINE:
                    answer = _declined(reference, amount, "generic_decline")
                else:
                    answer = decide(1 if fault is Fault.WRONG_AMOUNT else 0)
                self._memory.keep_answer(key, answer)
        if fault is Fault.PENDING:
            self._undecided.add(key)
        if fault is Fault.TIMEOUT_AFTER:
            raise GatewayTimeout(key)
        if key in self._undecided:
            return replace(answer, status=OutcomeStatus.PENDING)
        return answer


def _approved(reference: str, amount: Money, wrong: int) -> Outcome:
    return Outcome(OutcomeStatus.APPROVED, reference, amount.amount + wrong, amount.currency)


def _declined(reference: str, amount: Money, code: str) -> Outcome:
    return Outcome(OutcomeStatus.DECLINED, reference, 0, amount.currency, decline_code=code)
