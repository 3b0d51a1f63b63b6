"""Reconciliation: a provider's books held against ours, and every difference by name."""

from datetime import datetime
from enum import StrEnum
from typing import Any
from uuid import UUID

from sqlalchemy import BigInteger, CheckConstraint, Index, UniqueConstraint, Uuid
from sqlalchemy.dialects.postgresql import JSONB
from sqlmodel import Field, SQLModel

from db.types import PaymentId, UserId, UtcDateTime, enum_field, new_id


class BalanceKind(StrEnum):
    CHARGE = "charge"
    REFUND = "refund"
    REFUND_FAILED = "refund_failed"
    DISPUTE = "dispute"
    DISPUTE_REVERSED = "dispute_reversed"
    FEE = "fee"
    PAYOUT = "payout"
    OTHER = "other"


class RunState(StrEnum):
    RUNNING = "running"
    FINISHED = "finished"
    FAILED = "failed"


class DifferenceKind(StrEnum):
    """`MISSING_HERE` is in the provider's books alone, `MISSING_THERE` in ours alone."""

    MISSING_HERE = "missing_here"
    MISSING_THERE = "missing_there"
    AMOUNT = "amount"
    FEE = "fee"
    CURRENCY = "currency"
    DUPLICATED = "duplicated"


class ReconciliationRun(SQLModel, table=True):
    """One comparison of a period. `totals` are by currency: charges, refunds, fees, payouts."""

    __tablename__ = "reconciliation_run"
    __table_args__ = (
        CheckConstraint("period_start < period_end", name="period_not_empty"),
        Index("ix_reconciliation_run_provider_id", "provider", "id"),
    )

    id: UUID = Field(default_factory=new_id, primary_key=True, sa_type=Uuid)
    provider: str = Field(max_length=32)
    source: str = Field(max_length=200, description="`api`, or the name of a file.")
    period_start: datetime = Field(sa_type=UtcDateTime)
    period_end: datetime = Field(sa_type=UtcDateTime)
    state: RunState = enum_field(RunState.RUNNING)
    line_count: int = 0
    matched_count: int = 0
    difference_count: int = 0
    totals: dict[str, Any] = Field(default_factory=dict, sa_type=JSONB)
    detail: str = Field(default="", max_length=500)
    requested_by: UserId | None = Field(default=None, sa_type=Uuid)
    started_at: datetime = Field(sa_type=UtcDateTime)
    finished_at: datetime | None = Field(default=None, sa_type=UtcDateTime)


class BalanceEntry(SQLModel, table=True):
    """A line of a provider's books, kept once: its fee or payout is in our ledger since then."""

    __tablename__ = "balance_entry"
    __table_args__ = (
        UniqueConstraint("provider", "line_id", name="one_row_per_line"),
        Index("ix_balance_entry_provider_occurred_at", "provider", "occurred_at"),
    )

    id: UUID = Field(default_factory=new_id, primary_key=True, sa_type=Uuid)
    provider: str = Field(max_length=32)
    line_id: str = Field(max_length=200)
    kind: BalanceKind = enum_field(BalanceKind.OTHER)
    payment_id: PaymentId | None = Field(
        default=None, foreign_key="payment.id", index=True, sa_type=Uuid
    )
    object_id: str | None = Field(default=None, max_length=200)
    amount: int = Field(sa_type=BigInteger, description="Before the fee; negative went out.")
    fee_amount: int = Field(default=0, sa_type=BigInteger)
    currency: str = Field(max_length=3)
    run_id: UUID = Field(foreign_key="reconciliation_run.id", index=True, sa_type=Uuid)
    occurred_at: datetime = Field(sa_type=UtcDateTime)


class ReconciliationDifference(SQLModel, table=True):
    """One thing that does not agree. Amounts are minor units; ours is `expected`."""

    __tablename__ = "reconciliation_difference"
    __table_args__ = (Index("ix_reconciliation_difference_run_id_id", "run_id", "id"),)

    id: UUID = Field(default_factory=new_id, primary_key=True, sa_type=Uuid)
    run_id: UUID = Field(foreign_key="reconciliation_run.id", ondelete="CASCADE", sa_type=Uuid)
    kind: DifferenceKind = enum_field(DifferenceKind.MISSING_HERE)
    line_id: str | None = Field(default=None, max_length=200)
    object_id: str | None = Field(default=None, max_length=200)
    payment_id: PaymentId | None = Field(
        default=None, foreign_key="payment.id", index=True, sa_type=Uuid
    )
    expected_amount: int | None = Field(default=None, sa_type=BigInteger)
    actual_amount: int | None = Field(default=None, sa_type=BigInteger)
    currency: str = Field(max_length=3)
    detail: str = Field(default="", max_length=500)
