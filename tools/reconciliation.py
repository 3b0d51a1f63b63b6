"""Reconciliation: hold a provider's books against ours and name every difference.

Each line of theirs is kept once, whatever periods overlap, and its fee or payout goes into our
ledger with it. Charges and refunds are paired by payment and amount with our own succeeded calls;
what has no partner is a difference. None is corrected here: a person decides.
"""

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from typing import Final
from uuid import UUID

from pydantic import BaseModel, ConfigDict
from sqlalchemy import func, text
from sqlalchemy.dialects.postgresql import insert
from sqlmodel import col, select

from db.models.payment import Account
from db.models.reconciliation import (
    BalanceEntry,
    BalanceKind,
    DifferenceKind,
    ReconciliationDifference,
    ReconciliationRun,
    RunState,
)
from db.types import PaymentId, UserId, new_id
from deps.core import Deps, UnitOfWork
from deps.gateway import GatewayTimeout
from deps.provider import BalanceLine
from tools import balance_report, payment, truth
from tools.errors import InvalidInput, NotFound, Unavailable
from tools.events import ReconciliationFinished
from tools.page import ByTime, Page, aware, by_id, read_page
from tools.pairing import SETTLE, Comparison, among, compare_disputes, owners_of, pair
from tools.registry import Risk, operation

PERIOD_MAX: Final = timedelta(days=93)
YEAR_MIN: Final = 1970  # Providers count time from there.
LINES_MAX: Final = 100_000


class RunView(BaseModel):
    """One comparison. `totals` are minor units by currency: charges, refunds, fees, payouts."""

    model_config = ConfigDict(from_attributes=True)

    id: UUID
    provider: str
    source: str
    period_start: datetime
    period_end: datetime
    state: RunState
    line_count: int
    matched_count: int
    difference_count: int
    totals: dict[str, dict[str, int]]
    detail: str
    started_at: datetime
    finished_at: datetime | None


class DifferenceView(BaseModel):
    """One thing that does not agree. `expected_amount` is ours, `actual_amount` the provider's."""

    model_config = ConfigDict(from_attributes=True)

    id: UUID
    kind: DifferenceKind
    line_id: str | None
    object_id: str | None
    payment_id: UUID | None
    expected_amount: int | None
    actual_amount: int | None
    currency: str
    detail: str


@operation(
    scope="payment:write",
    risk=Risk.RECORD,
    idempotent=True,
    examples=(
        "reconcile {provider} from {start} to {end}",
        "compare the books of {provider} with ours since {start}",
        "check {provider}'s balance report for {start} to {end}",
        "run the reconciliation of {provider}",
    ),
)
async def run(
    deps: Deps, provider: str, start: datetime, end: datetime, report: str | None = None
) -> RunView:
    """Compare a provider's books of a period with ours, and book its fees and payouts.

    Running it again, or over overlapping periods, books nothing twice. What moved in the last three
    hours may not be listed yet; the run of the period that follows looks for it.

    Args:
        provider: stripe or paypal.
        start: Begin of the period, with a time zone.
        end: End of the period, not in the future; at most 93 days after `start`.
        report: The provider's itemised report as CSV text; asked of the provider if left out.

    Raises:
        NotFound: No such provider is set up.
        InvalidInput: The period or the report is not one.
        Unavailable: The provider did not answer; the run is kept as failed. Run it again.
    """
    source = truth.provider_named(deps, provider)
    async with deps.begin() as uow:
        start, end = _period(start, end, uow.now)
        row = ReconciliationRun(
            provider=provider,
            source="api" if report is None else "report",
            period_start=start,
            period_end=end,
            requested_by=UserId(uow.actor.user_id) if uow.actor.user_id else None,
            started_at=uow.now,
        )
        uow.session.add(row)
        await uow.session.flush()
        since = await _since(uow, row)
    try:
        if report is not None:
            lines = balance_report.parse(report)
        else:
            lines = [line async for line in source.balance(since, end)]
        if len(lines) > LINES_MAX:
            raise InvalidInput(f"More than {LINES_MAX} lines; take a shorter period.", field="end")
    except (GatewayTimeout, InvalidInput) as error:
        async with deps.begin() as uow:
            failed = await uow.session.get_one(ReconciliationRun, row.id)
            failed.state, failed.detail, failed.finished_at = RunState.FAILED, str(error), uow.now
        if isinstance(error, InvalidInput):
            raise
        raise Unavailable(f"{provider} did not answer; run it again.") from error
    async with deps.begin() as uow:
        return await _compare(uow, row.id, lines, since)


async def _since(uow: UnitOfWork, row: ReconciliationRun) -> datetime:
    """Say from when on a run looks: what the period before it left to settle is looked at now, or
    nobody would, and lines that were listed too late for its run are taken along."""
    before = await uow.session.scalar(
        select(func.max(ReconciliationRun.period_end)).where(
            ReconciliationRun.provider == row.provider,
            ReconciliationRun.state == RunState.FINISHED,
            col(ReconciliationRun.period_start) < row.period_start,
            col(ReconciliationRun.period_end) >= row.period_start - SETTLE,
        )
    )
    return row.period_start if before is None else min(row.period_start, before - SETTLE)


def _period(start: datetime, end: datetime, now: datetime) -> tuple[datetime, datetime]:
    start, end = aware(start, "start"), aware(end, "end")
    if start.year < YEAR_MIN:
        raise InvalidInput(f"A period begins in {YEAR_MIN} or later.", field="start")
    if not start < end <= now or end - start > PERIOD_MAX:
        raise InvalidInput(
            f"A period has up to {PERIOD_MAX.days} days and does not end in the future.",
            field="end",
        )
    return start, end


async def _compare(
    uow: UnitOfWork, run_id: UUID, lines: Sequence[BalanceLine], since: datetime
) -> RunView:
    row = await uow.session.get_one(ReconciliationRun, run_id)
    # Two runs over one provider take turns: each sees the other's lines whole.
    await uow.session.execute(
        text("SELECT pg_advisory_xact_lock(hashtext('reconcile ' || :provider))"),
        {"provider": row.provider},
    )
    comparison = Comparison(row, since)
    if row.source == "api":
        lines = await _without_counted(uow, row, lines)
    owners = await owners_of(uow, row.provider, lines)
    fresh: dict[str, BalanceLine] = {}
    for line in lines:
        if line.id in fresh:
            comparison.differs(
                DifferenceKind.DUPLICATED,
                line.currency,
                "The report has this line twice.",
                line=line,
                payment_id=owners.get(line.id),
                actual=line.amount,
            )
        else:
            fresh[line.id] = line
    await _keep(uow, comparison, list(fresh.values()), owners)
    await pair(uow, comparison, fresh)
    await compare_disputes(uow, comparison, set(owners.values()))
    uow.session.add_all(comparison.differences)
    row.state, row.finished_at = RunState.FINISHED, uow.now
    row.line_count, row.matched_count = len(lines), comparison.matched
    row.difference_count = len(comparison.differences)
    row.totals = _totals(fresh.values())
    await uow.session.flush()
    uow.publish(
        ReconciliationFinished(
            reconciliation_id=row.id,
            provider=row.provider,
            difference_count=row.difference_count,
        )
    )
    return RunView.model_validate(row)


async def _without_counted(
    uow: UnitOfWork, row: ReconciliationRun, lines: Sequence[BalanceLine]
) -> list[BalanceLine]:
    """Leave out lines from before the period that another run has had."""
    early = [line.id for line in lines if line.occurred_at < row.period_start]
    query = select(BalanceEntry.line_id).where(
        BalanceEntry.provider == row.provider, among(col(BalanceEntry.line_id), early)
    )
    counted = set(await uow.session.exec(query))
    return [line for line in lines if line.id not in counted]


async def _keep(
    uow: UnitOfWork,
    comparison: Comparison,
    lines: Sequence[BalanceLine],
    owners: dict[str, UUID],
) -> None:
    """Keep the lines that are new, with their fees and payouts; compare those that are known."""
    row = comparison.run
    known = {
        entry.line_id: entry
        for entry in await uow.session.exec(
            select(BalanceEntry).where(
                BalanceEntry.provider == row.provider,
                among(col(BalanceEntry.line_id), [line.id for line in lines]),
            )
        )
    }
    for line in lines:
        before = known.get(line.id)
        if before is None:
            await _book(uow, row, line, owners.get(line.id))
            if line.fee < 0 or (line.kind is BalanceKind.CHARGE and line.fee > line.amount):
                detail = "The fee is not within the amount."
                comparison.differs(
                    DifferenceKind.FEE, line.currency, detail, line=line, actual=line.fee
                )
            continue
        if before.payment_id is None and line.id in owners:
            before.payment_id = PaymentId(owners[line.id])
        for kind, ours, theirs in (
            (DifferenceKind.AMOUNT, before.amount, line.amount),
            (DifferenceKind.FEE, before.fee_amount, line.fee),
        ):
            if ours != theirs:
                comparison.differs(
                    kind,
                    line.currency,
                    "The provider changed a line that an earlier run has seen.",
                    line=line,
                    payment_id=before.payment_id,
                    expected=ours,
                    actual=theirs,
                )


async def _book(
    uow: UnitOfWork, row: ReconciliationRun, line: BalanceLine, owner: UUID | None
) -> None:
    entry = BalanceEntry(
        id=new_id(),
        provider=row.provider,
        line_id=line.id,
        kind=line.kind,
        payment_id=PaymentId(owner) if owner else None,
        object_id=line.object_id,
        amount=line.amount,
        fee_amount=line.fee,
        currency=line.currency,
        run_id=row.id,
        occurred_at=line.occurred_at,
    )
    await uow.session.execute(insert(BalanceEntry).values(**entry.model_dump()))
    paid_out = -line.amount if line.kind is BalanceKind.PAYOUT else 0
    await payment.post(
        uow,
        entry.id,
        None,
        line.currency,
        {
            Account.FEES: line.fee,
            Account.PAYOUTS: paid_out,
            Account.CLEARING: -line.fee - paid_out,
        },
    )


def _totals(lines: Iterable[BalanceLine]) -> dict[str, dict[str, int]]:
    totals: dict[str, dict[str, int]] = {}
    for line in lines:
        of = totals.setdefault(line.currency, {})
        of[line.kind.value] = of.get(line.kind.value, 0) + line.amount
        of["fees"] = of.get("fees", 0) + line.fee
    return totals


@operation(
    scope="payment:read",
    risk=Risk.READ,
    idempotent=True,
    examples=(
        "show the latest reconciliations",
        "list the reconciliations of {provider}",
        "when did we last reconcile {provider}",
        "did the books agree",
    ),
)
async def list_runs(
    uow: UnitOfWork,
    provider: str | None = None,
    sort: ByTime = ByTime.NEWEST,
    limit: int = 20,
    cursor: str | None = None,
) -> Page[RunView]:
    """List reconciliations.

    Args:
        provider: Only of this one: stripe or paypal.
        sort: newest or oldest first.
        limit: How many to return, 1 to 100.
        cursor: `next_cursor` of the page before.
    """
    query = select(ReconciliationRun)
    if provider is not None:
        query = query.where(ReconciliationRun.provider == provider)
    ordering = by_id(ReconciliationRun.id, sort)
    return await read_page(uow, query, ordering, RunView.model_validate, limit, cursor)


@operation(
    scope="payment:read",
    risk=Risk.READ,
    idempotent=True,
    examples=(
        "show the differences of reconciliation {run_id}",
        "what did not agree in {run_id}",
        "list the {kind} differences of {run_id}",
        "which payments are missing in {run_id}",
    ),
)
async def differences(
    uow: UnitOfWork,
    run_id: UUID,
    kind: DifferenceKind | None = None,
    limit: int = 50,
    cursor: str | None = None,
) -> Page[DifferenceView]:
    """List what a reconciliation found not to agree.

    Args:
        run_id: Of the reconciliation.
        kind: Only these: missing_here, missing_there, amount, fee, currency or duplicated.
        limit: How many to return, 1 to 100.
        cursor: `next_cursor` of the page before.

    Raises:
        NotFound: No such reconciliation.
    """
    if await uow.session.get(ReconciliationRun, run_id) is None:
        raise NotFound("No such reconciliation.")
    query = select(ReconciliationDifference).where(ReconciliationDifference.run_id == run_id)
    if kind is not None:
        query = query.where(ReconciliationDifference.kind == kind)
    ordering = by_id(ReconciliationDifference.id, ByTime.OLDEST)
    return await read_page(uow, query, ordering, DifferenceView.model_validate, limit, cursor)
