"""Payments: the intent written before the vendor is called, each attempt, and the ledger."""

from datetime import datetime
from enum import StrEnum
from uuid import UUID

from sqlalchemy import BigInteger, CheckConstraint, Column, Identity, Index, UniqueConstraint, Uuid
from sqlmodel import Field, SQLModel

from db.types import OrderId, PaymentId, UtcDateTime, enum_field, new_id


class PaymentState(StrEnum):
    """`UNKNOWN` is a state, resolved by asking the provider with the same key."""

    CREATED = "created"
    AUTHORIZED = "authorized"
    CAPTURED = "captured"
    DECLINED = "declined"
    VOIDED = "voided"
    UNKNOWN = "unknown"


class Payment(SQLModel, table=True):
    """One payment intent of one order. Its id is the key sent to the provider."""

    __tablename__ = "payment"
    __table_args__ = (
        CheckConstraint("amount > 0", name="amount_positive"),
        CheckConstraint("captured_amount BETWEEN 0 AND amount", name="captured_within_authorized"),
        CheckConstraint(
            "refunded_amount BETWEEN 0 AND captured_amount", name="refunded_within_captured"
        ),
        Index(
            "ix_payment_unfinished",
            "updated_at",
            postgresql_where="state IN ('created', 'authorized', 'unknown')",
        ),
    )

    id: PaymentId = Field(default_factory=new_id, primary_key=True, sa_type=Uuid)
    order_id: OrderId = Field(foreign_key="orders.id", index=True, sa_type=Uuid)
    provider: str = Field(max_length=32)
    method_token: str = Field(max_length=200)
    amount: int = Field(sa_type=BigInteger)
    captured_amount: int = Field(default=0, sa_type=BigInteger)
    refunded_amount: int = Field(default=0, sa_type=BigInteger)
    currency: str = Field(max_length=3)
    state: PaymentState = enum_field(PaymentState.CREATED)
    provider_reference: str | None = Field(default=None, max_length=200)
    decline_code: str | None = Field(default=None, max_length=100)
    created_at: datetime = Field(sa_type=UtcDateTime)
    updated_at: datetime = Field(sa_type=UtcDateTime)


class AttemptKind(StrEnum):
    AUTHORIZE = "authorize"
    CAPTURE = "capture"
    VOID = "void"
    REFUND = "refund"


class AttemptState(StrEnum):
    STARTED = "started"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    UNKNOWN = "unknown"


class PaymentAttempt(SQLModel, table=True):
    """One call to a provider, committed before the call. `key` goes on the wire."""

    __tablename__ = "payment_attempt"
    __table_args__ = (UniqueConstraint("payment_id", "kind", name="one_attempt_per_kind"),)

    id: UUID = Field(default_factory=new_id, primary_key=True, sa_type=Uuid)
    payment_id: PaymentId = Field(foreign_key="payment.id", sa_type=Uuid)
    kind: AttemptKind = enum_field(AttemptKind.AUTHORIZE)
    key: str = Field(max_length=100, unique=True)
    state: AttemptState = enum_field(AttemptState.STARTED)
    detail: str = Field(default="", max_length=500)
    started_at: datetime = Field(sa_type=UtcDateTime)
    finished_at: datetime | None = Field(default=None, sa_type=UtcDateTime)


class Account(StrEnum):
    CLEARING = "clearing"
    REVENUE = "revenue"
    SHIPPING_REVENUE = "shipping_revenue"
    TAX_PAYABLE = "tax_payable"
    REFUNDS = "refunds"


class LedgerEntry(SQLModel, table=True):
    """Half of a movement of money: debits positive, credits negative. A deferred constraint
    trigger refuses a transaction whose entries do not sum to zero per currency."""

    __tablename__ = "ledger_entry"
    __table_args__ = (
        CheckConstraint("amount <> 0", name="amount_not_zero"),
        UniqueConstraint("transaction_id", "account", name="once_per_account"),
    )

    id: int | None = Field(
        default=None, sa_column=Column(BigInteger, Identity(always=True), primary_key=True)
    )
    transaction_id: UUID = Field(sa_type=Uuid)
    account: Account = enum_field(Account.CLEARING)
    amount: int = Field(sa_type=BigInteger)
    currency: str = Field(max_length=3)
    order_id: OrderId = Field(foreign_key="orders.id", index=True, sa_type=Uuid)
    occurred_at: datetime = Field(sa_type=UtcDateTime)
