"""Disputes: a bank or provider takes money back on a buyer's word, until evidence decides."""

from collections.abc import Mapping
from datetime import datetime
from enum import StrEnum
from uuid import UUID

from sqlalchemy import BigInteger, CheckConstraint, Index, UniqueConstraint, Uuid
from sqlalchemy.dialects.postgresql import JSONB
from sqlmodel import Field, SQLModel

from db.types import OrderId, PaymentId, UserId, UtcDateTime, enum_field, new_id


class DisputeState(StrEnum):
    NEEDS_RESPONSE = "needs_response"
    UNDER_REVIEW = "under_review"
    WON = "won"
    LOST = "lost"


# The provider decides, and may reopen what was decided: a bank's second look, a late appeal.
DISPUTE_TRANSITIONS: Mapping[DisputeState, frozenset[DisputeState]] = {
    state: frozenset(DisputeState) - {state} for state in DisputeState
}
assert DISPUTE_TRANSITIONS.keys() == set(DisputeState)


class Dispute(SQLModel, table=True):
    """`withdrawn_amount` is what the provider holds back now: in the ledger it is off the clearing
    account and on the disputes account, where a lost dispute leaves it."""

    __tablename__ = "dispute"
    __table_args__ = (
        UniqueConstraint("provider", "provider_dispute_id", name="one_row_per_dispute"),
        CheckConstraint("amount > 0", name="amount_positive"),
        CheckConstraint("withdrawn_amount BETWEEN 0 AND amount", name="withdrawn_within_amount"),
        Index("ix_dispute_state_id", "state", "id"),
        Index("ix_dispute_open", "evidence_due_at", postgresql_where="state = 'needs_response'"),
    )

    id: UUID = Field(default_factory=new_id, primary_key=True, sa_type=Uuid)
    payment_id: PaymentId = Field(foreign_key="payment.id", index=True, sa_type=Uuid)
    order_id: OrderId = Field(foreign_key="orders.id", index=True, sa_type=Uuid)
    provider: str = Field(max_length=32)
    provider_dispute_id: str = Field(max_length=200)
    state: DisputeState = enum_field(DisputeState.NEEDS_RESPONSE)
    reason: str = Field(max_length=100)
    amount: int = Field(sa_type=BigInteger)
    withdrawn_amount: int = Field(default=0, sa_type=BigInteger)
    moves: int = Field(default=0, description="How often money moved; numbers the ledger's rows.")
    currency: str = Field(max_length=3)
    evidence: dict[str, str] = Field(default_factory=dict, sa_type=JSONB)
    evidence_due_at: datetime | None = Field(default=None, sa_type=UtcDateTime)
    evidence_submitted_at: datetime | None = Field(default=None, sa_type=UtcDateTime)
    submitted_by: UserId | None = Field(default=None, sa_type=Uuid)
    opened_at: datetime = Field(sa_type=UtcDateTime)
    updated_at: datetime = Field(sa_type=UtcDateTime)
    closed_at: datetime | None = Field(default=None, sa_type=UtcDateTime)
