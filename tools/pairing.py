"""Pairing: a provider's lines with our own movements, payment by payment.

Charges and refunds are matched by amount within a payment, whichever came first; what has no
partner is named as a difference.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Final
from uuid import UUID

from sqlalchemy import ColumnElement, String, Uuid, any_, func, literal, text
from sqlalchemy.dialects.postgresql import ARRAY
from sqlmodel import col, select

from db.models.dispute import Dispute
from db.models.payment import AttemptKind, AttemptState, Payment, PaymentAttempt
from db.models.reconciliation import (
    BalanceEntry,
    BalanceKind,
    DifferenceKind,
    ReconciliationDifference,
    ReconciliationRun,
)
from db.types import PaymentId
from deps.core import UnitOfWork
from deps.provider import BalanceLine

# PayPal lists a transaction up to three hours late; until then it is not missing.
SETTLE: Final = timedelta(hours=3)
_MOVES: Final = {BalanceKind.CHARGE: AttemptKind.CAPTURE, BalanceKind.REFUND: AttemptKind.REFUND}


def among(column: Any, names: Collection[Any], kind: Any = String) -> ColumnElement[bool]:
    """Compare with any number of names: `IN` would make a parameter of each."""
    result: ColumnElement[bool] = column == any_(literal(list(names), ARRAY(kind)))
    return result


@dataclass
class Comparison:
    """What a run found. `since` is its period's begin, or before, where the run of the period
    before left movements to settle."""

    run: ReconciliationRun
    since: datetime
    differences: list[ReconciliationDifference] = field(default_factory=list)
    matched: int = 0

    def differs(
        self,
        kind: DifferenceKind,
        currency: str,
        detail: str,
        *,
        line: BalanceLine | BalanceEntry | None = None,
        payment_id: UUID | None = None,
        expected: int | None = None,
        actual: int | None = None,
    ) -> None:
        line_id = line.id if isinstance(line, BalanceLine) else line.line_id if line else None
        self.differences.append(
            ReconciliationDifference(
                run_id=self.run.id,
                kind=kind,
                line_id=line_id,
                object_id=line.object_id if line else None,
                payment_id=PaymentId(payment_id) if payment_id else None,
                expected_amount=expected,
                actual_amount=actual,
                currency=currency,
                detail=detail[:500],
            )
        )


async def owners_of(
    uow: UnitOfWork, provider: str, lines: Iterable[BalanceLine]
) -> dict[str, UUID]:
    """Say which payment of ours each line belongs to, by line id: by the payment's reference, by
    the key of our call, or by the refund behind it."""
    by_reference = await _ids(
        uow,
        "SELECT provider_reference, id FROM payment WHERE provider = :provider"
        " AND provider_reference = ANY(:names)",
        provider,
        (line.reference for line in lines),
    )
    by_key = await _ids(
        uow,
        "SELECT a.key, p.id FROM payment_attempt a JOIN payment p ON p.id = a.payment_id"
        " WHERE p.provider = :provider AND a.key = ANY(:names)",
        provider,
        (line.key for line in lines),
    )
    by_refund = await _ids(
        uow,
        "SELECT r.provider_reference, p.id FROM refund_part r JOIN payment p"
        " ON p.id = r.payment_id WHERE p.provider = :provider"
        " AND r.provider_reference = ANY(:names)",
        provider,
        (line.object_id for line in lines),
    )
    owners = {}
    for line in lines:
        owner = (
            by_reference.get(line.reference or "")
            or by_key.get(line.key or "")
            or by_refund.get(line.object_id or "")
        )
        if owner is not None:
            owners[line.id] = owner
    return owners


async def _ids(
    uow: UnitOfWork, query: str, provider: str, names: Iterable[str | None]
) -> dict[str, UUID]:
    wanted = sorted({name for name in names if name})
    rows = await uow.session.execute(text(query), {"provider": provider, "names": wanted})
    return {name: owner for name, owner in rows}


async def pair(uow: UnitOfWork, comparison: Comparison, lines: dict[str, BalanceLine]) -> None:
    """Pair what they moved with what we did, payment by payment."""
    row = comparison.run
    await uow.session.flush()
    ours = await _our_moves(uow, comparison, lines)
    theirs = await _their_moves(uow, row, lines, {move.payment_id for move in ours})
    currencies = {
        found.id: found.currency
        for found in await uow.session.exec(
            select(Payment).where(among(col(Payment.id), {move.payment_id for move in ours}, Uuid))
        )
    }
    for entry in theirs:
        if entry.line_id not in lines or entry.kind not in _MOVES:
            continue
        if entry.payment_id is None:
            detail = f"We know of no such {entry.kind.value}."
            comparison.differs(
                DifferenceKind.MISSING_HERE,
                entry.currency,
                detail,
                line=entry,
                actual=entry.amount,
            )
    for kind, call in _MOVES.items():
        groups = {e.payment_id for e in theirs if e.kind is kind and e.payment_id}
        groups |= {m.payment_id for m in ours if m.kind is call}
        for payment_id in sorted(groups, key=str):
            _pair_payment(
                comparison,
                lines,
                [m for m in ours if m.payment_id == payment_id and m.kind is call],
                _standing(theirs, payment_id, kind),
                currencies.get(payment_id),
            )
    for line in lines.values():
        if line.kind is BalanceKind.OTHER and line.amount:
            detail = "A movement of a kind that we do not know."
            comparison.differs(
                DifferenceKind.MISSING_HERE, line.currency, detail, line=line, actual=line.amount
            )


def _standing(
    theirs: Sequence[BalanceEntry], payment_id: UUID, kind: BalanceKind
) -> list[BalanceEntry]:
    """Return a payment's movements that stand: a refund that the bank returned does not."""
    returned = Counter(e.object_id for e in theirs if e.kind is BalanceKind.REFUND_FAILED)
    kept = []
    for entry in theirs:
        if entry.payment_id != payment_id or entry.kind is not kind:
            continue
        if kind is BalanceKind.REFUND and returned[entry.object_id] > 0:
            returned[entry.object_id] -= 1
        else:
            kept.append(entry)
    return kept


def _pair_payment(
    comparison: Comparison,
    lines: dict[str, BalanceLine],
    ours: Sequence[PaymentAttempt],
    theirs: Sequence[BalanceEntry],
    currency: str | None,
) -> None:
    row = comparison.run
    left = list(ours)
    unmatched: list[BalanceEntry] = []
    foreign: list[BalanceEntry] = []
    for entry in theirs:
        if currency is not None and entry.currency != currency:
            foreign.append(entry)
            continue
        partner = next((m for m in left if m.amount == abs(entry.amount)), None)
        if partner is None:
            unmatched.append(entry)
            continue
        left.remove(partner)
        comparison.matched += entry.line_id in lines
    # Its partner is one of those that nothing else fits.
    for entry in foreign:
        left = left[1:]
        if entry.line_id in lines:
            comparison.differs(
                DifferenceKind.CURRENCY,
                entry.currency,
                f"The payment is in {currency}.",
                line=entry,
                payment_id=entry.payment_id,
                actual=entry.amount,
            )
    for entry in unmatched:
        if left:
            mine = left.pop(0)
            if entry.line_id in lines:
                comparison.differs(
                    DifferenceKind.AMOUNT,
                    entry.currency,
                    f"Our {mine.kind.value} was for another amount.",
                    line=entry,
                    payment_id=entry.payment_id,
                    expected=mine.amount,
                    actual=abs(entry.amount),
                )
        elif entry.line_id in lines:
            is_repeated = any(m.amount == abs(entry.amount) for m in ours)
            comparison.differs(
                DifferenceKind.DUPLICATED if is_repeated else DifferenceKind.MISSING_HERE,
                entry.currency,
                "They moved it once more than we did."
                if is_repeated
                else "They moved it, and we did not.",
                line=entry,
                payment_id=entry.payment_id,
                actual=entry.amount,
            )
    for mine in left:
        at = mine.finished_at or mine.started_at
        if comparison.since <= at < row.period_end - SETTLE:
            comparison.differs(
                DifferenceKind.MISSING_THERE,
                currency or "XXX",
                f"Our {mine.kind.value} {mine.key} is not in their books.",
                payment_id=mine.payment_id,
                expected=mine.amount,
            )


async def _our_moves(
    uow: UnitOfWork, comparison: Comparison, lines: dict[str, BalanceLine]
) -> list[PaymentAttempt]:
    """Load our succeeded calls: those of the period, and all others of the payments in the lines,
    whose partner may be on the other side of the period's edge."""
    row = comparison.run
    done = (col(PaymentAttempt.state) == AttemptState.SUCCEEDED) & col(PaymentAttempt.kind).in_(
        _MOVES.values()
    )
    touched = select(BalanceEntry.payment_id).where(
        BalanceEntry.provider == row.provider, among(col(BalanceEntry.line_id), lines)
    )
    query = (
        select(PaymentAttempt)
        .join(Payment)
        .where(Payment.provider == row.provider, done)
        .where(
            col(PaymentAttempt.payment_id).in_(touched)
            | col(PaymentAttempt.finished_at).between(comparison.since, row.period_end)
        )
        .order_by(col(PaymentAttempt.payment_id), col(PaymentAttempt.id))
    )
    return list(await uow.session.exec(query))


async def _their_moves(
    uow: UnitOfWork,
    row: ReconciliationRun,
    lines: Collection[str],
    payment_ids: Collection[PaymentId],
) -> list[BalanceEntry]:
    """Load what they moved of these payments, in any run, and all of this run."""
    query = (
        select(BalanceEntry)
        .where(BalanceEntry.provider == row.provider)
        .where(
            among(col(BalanceEntry.payment_id), payment_ids, Uuid)
            | among(col(BalanceEntry.line_id), lines)
        )
        .order_by(col(BalanceEntry.occurred_at), col(BalanceEntry.line_id))
    )
    return list(await uow.session.exec(query))


async def compare_disputes(uow: UnitOfWork, comparison: Comparison, payment_ids: set[UUID]) -> None:
    """Compare what they withheld for disputes with what our disputes say."""
    kinds = (BalanceKind.DISPUTE, BalanceKind.DISPUTE_REVERSED)
    held = await uow.session.exec(
        select(BalanceEntry.payment_id, BalanceEntry.currency, func.sum(col(BalanceEntry.amount)))
        .where(
            among(col(BalanceEntry.payment_id), payment_ids, Uuid),
            col(BalanceEntry.kind).in_(kinds),
        )
        .group_by(col(BalanceEntry.payment_id), col(BalanceEntry.currency))
    )
    for payment_id, currency, amount in list(held):
        ours = await uow.session.exec(
            select(func.coalesce(func.sum(Dispute.withdrawn_amount), 0)).where(
                Dispute.payment_id == payment_id
            )
        )
        expected, actual = int(ours.one()), -int(amount)
        if expected != actual:
            comparison.differs(
                DifferenceKind.AMOUNT,
                currency,
                "Our disputes of this payment hold back another amount.",
                payment_id=payment_id,
                expected=expected,
                actual=actual,
            )
        else:
            comparison.matched += 1
