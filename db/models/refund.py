"""Money given back: one refund of an order, and its part by each tender."""

from datetime import datetime
from enum import StrEnum
from typing import Any
from uuid import UUID

from sqlalchemy import BigInteger, CheckConstraint, Index, UniqueConstraint, Uuid
from sqlalchemy.dialects.postgresql import JSONB
from sqlmodel import Field, SQLModel

from db.types import OrderId, PaymentId, UserId, UtcDateTime, enum_field, new_id


class RefundKind(StrEnum):
    """An `ADJUSTMENT` follows an order whose total fell; a `REFUND` leaves the total as it was."""

    REFUND = "refund"
    ADJUSTMENT = "adjustment"


class RefundState(StrEnum):
    """A `FAILED` refund may have paid some of its parts; a retry makes it pending again."""

    AWAITING_APPROVAL = "awaiting_approval"
    REJECTED = "rejected"
    PENDING = "pending"
    SUCCEEDED = "succeeded"
    FAILED = "failed"


class Refund(SQLModel, table=True):
    """`breakdown` says what the amount consists of: lines, shipping, tax, discount shares."""

    __tablename__ = "refund"
    __table_args__ = (
        CheckConstraint("amount > 0", name="amount_positive"),
        Index("ix_refund_order_id_id", "order_id", "id"),
        Index("ix_refund_pending", "created_at", postgresql_where="state = 'pending'"),
        # What lists walk along.
        Index("ix_refund_created_at_id", "created_at", "id"),
        Index("ix_refund_amount_id", "amount", "id"),
        Index("ix_refund_state_created_at_id", "state", "created_at", "id"),
        Index("ix_refund_state_amount_id", "state", "amount", "id"),
    )

    id: UUID = Field(default_factory=new_id, primary_key=True, sa_type=Uuid)
    order_id: OrderId = Field(foreign_key="orders.id", sa_type=Uuid)
    kind: RefundKind = enum_field(RefundKind.REFUND)
    amount: int = Field(sa_type=BigInteger, description="Minor units of `currency`.")
    currency: str = Field(max_length=3)
    reason: str = Field(max_length=500)
    state: RefundState = enum_field(RefundState.PENDING)
    breakdown: dict[str, Any] = Field(default_factory=dict, sa_type=JSONB)
    requested_by: UserId | None = Field(default=None, sa_type=Uuid)
    decided_by: UserId | None = Field(
        default=None, sa_type=Uuid, description="Who approved or rejected it, if that was needed."
    )
    created_at: datetime = Field(sa_type=UtcDateTime)
    finished_at: datetime | None = Field(default=None, sa_type=UtcDateTime)
    lease_until: datetime | None = Field(
        default=None, sa_type=UtcDateTime, description="Who drives it until then."
    )


class RefundPart(SQLModel, table=True):
    """What one tender gives back. Several parts at once are sent in order of `position`."""

    __tablename__ = "refund_part"
    __table_args__ = (
        CheckConstraint("amount > 0", name="amount_positive"),
        UniqueConstraint("refund_id", "payment_id", name="once_per_tender"),
    )

    id: UUID = Field(default_factory=new_id, primary_key=True, sa_type=Uuid)
    refund_id: UUID = Field(foreign_key="refund.id", ondelete="CASCADE", sa_type=Uuid)
    payment_id: PaymentId = Field(foreign_key="payment.id", index=True, sa_type=Uuid)
    position: int = 0
    amount: int = Field(sa_type=BigInteger)
    state: RefundState = enum_field(RefundState.PENDING)
    attempt_number: int = Field(
        default=0,
        sa_column_kwargs={"server_default": "0"},
        description="Of the refund attempt in flight; its key goes on the wire. 0: no provider.",
    )
    credit_account_id: UUID | None = Field(
        default=None,
        foreign_key="credit_account.id",
        sa_type=Uuid,
        description="Where it goes instead of back to the tender.",
    )
    method_id: UUID | None = Field(
        default=None,
        foreign_key="stored_method.id",
        sa_type=Uuid,
        description="Another method of the customer that gets the money instead of the tender.",
    )
    provider_reference: str | None = Field(default=None, max_length=200)
    failure: str = Field(default="", max_length=500)
