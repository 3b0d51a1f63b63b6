"""Payments: the tender written before the vendor is called, each attempt, and the ledger."""

from datetime import date, datetime
from enum import StrEnum
from typing import Any
from uuid import UUID

from sqlalchemy import BigInteger, CheckConstraint, Column, Identity, Index, UniqueConstraint, Uuid
from sqlalchemy.dialects.postgresql import JSONB
from sqlmodel import Field, SQLModel

from db.types import OrderId, PaymentId, UserId, UtcDateTime, enum_field, new_id


class PaymentState(StrEnum):
    """`UNKNOWN` is a state, resolved by asking the provider with the same key."""

    CREATED = "created"
    REQUIRES_ACTION = "requires_action"
    AUTHORIZED = "authorized"
    CAPTURED = "captured"
    DECLINED = "declined"
    VOIDED = "voided"
    EXPIRED = "expired"
    UNKNOWN = "unknown"


class Payment(SQLModel, table=True):
    """One tender of one order: a card, a gift card, store credit. Amounts are minor units.

    `amount` is what it is to bring; `authorized` with some captured is a partial capture;
    `captured` is closed, whatever the amount. Within an order, tenders are charged by `position`.
    """

    __tablename__ = "payment"
    __table_args__ = (
        CheckConstraint("amount > 0", name="amount_positive"),
        CheckConstraint("captured_amount BETWEEN 0 AND amount", name="captured_within_authorized"),
        CheckConstraint(
            "refunded_amount BETWEEN 0 AND captured_amount", name="refunded_within_captured"
        ),
        CheckConstraint(
            "refunding_amount >= 0 AND refunded_amount + refunding_amount <= captured_amount",
            name="refunding_within_captured",
        ),
        CheckConstraint("disputed_amount >= 0", name="disputed_not_negative"),
        Index(
            "ix_payment_unfinished",
            "updated_at",
            postgresql_where="state IN ('created', 'requires_action', 'authorized', 'unknown')",
        ),
        Index("ix_payment_provider_reference", "provider", "provider_reference"),
    )

    id: PaymentId = Field(default_factory=new_id, primary_key=True, sa_type=Uuid)
    order_id: OrderId = Field(foreign_key="orders.id", index=True, sa_type=Uuid)
    provider: str = Field(max_length=32)
    method_token: str = Field(max_length=200)
    position: int = 0
    amount: int = Field(sa_type=BigInteger)
    captured_amount: int = Field(default=0, sa_type=BigInteger)
    refunded_amount: int = Field(default=0, sa_type=BigInteger)
    refunding_amount: int = Field(
        default=0,
        sa_type=BigInteger,
        sa_column_kwargs={"server_default": "0"},
        description="Reserved by refunds that are requested and not finished.",
    )
    disputed_amount: int = Field(
        default=0,
        sa_type=BigInteger,
        sa_column_kwargs={"server_default": "0"},
        description="Held back by disputes: with the buyer's bank, and not ours to give back.",
    )
    currency: str = Field(max_length=3)
    state: PaymentState = enum_field(PaymentState.CREATED)
    provider_reference: str | None = Field(default=None, max_length=200)
    decline_code: str | None = Field(default=None, max_length=100)
    action: dict[str, Any] | None = Field(
        default=None, sa_type=JSONB, description="What the shopper has to do first."
    )
    expires_at: datetime | None = Field(
        default=None, sa_type=UtcDateTime, description="When the authorisation lapses."
    )
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
    __table_args__ = (
        UniqueConstraint("payment_id", "kind", "number", name="one_attempt_per_number"),
        Index(
            "ix_payment_attempt_open",
            "started_at",
            postgresql_where="state IN ('started', 'unknown')",
        ),
    )

    id: UUID = Field(default_factory=new_id, primary_key=True, sa_type=Uuid)
    payment_id: PaymentId = Field(foreign_key="payment.id", sa_type=Uuid)
    kind: AttemptKind = enum_field(AttemptKind.AUTHORIZE)
    number: int = Field(default=1, description="Captures and refunds may be several.")
    key: str = Field(max_length=100, unique=True)
    amount: int = Field(sa_type=BigInteger, description="Minor units asked for; 0 for a void.")
    state: AttemptState = enum_field(AttemptState.STARTED)
    detail: str = Field(default="", max_length=500)
    started_at: datetime = Field(sa_type=UtcDateTime)
    finished_at: datetime | None = Field(default=None, sa_type=UtcDateTime)


class MethodKind(StrEnum):
    CARD = "card"
    PAYPAL = "paypal"
    CREDIT = "credit"


class StoredMethod(SQLModel, table=True):
    """A way to pay that a customer keeps with us: the provider's token, never a card number.

    A removed one stays as a row, for what refers to it, and is of no use any more.
    """

    __tablename__ = "stored_method"
    __table_args__ = (UniqueConstraint("customer_id", "provider", "token", name="once"),)

    id: UUID = Field(default_factory=new_id, primary_key=True, sa_type=Uuid)
    customer_id: UserId = Field(foreign_key="app_user.id", ondelete="CASCADE", sa_type=Uuid)
    provider: str = Field(max_length=32)
    token: str = Field(max_length=200)
    kind: MethodKind = enum_field(MethodKind.CARD)
    brand: str = Field(default="", max_length=40)
    last4: str = Field(default="", max_length=4)
    expires_on: date | None = None
    credit_account_id: UUID | None = Field(
        default=None, foreign_key="credit_account.id", index=True, sa_type=Uuid
    )
    is_default: bool = False
    created_at: datetime = Field(sa_type=UtcDateTime)
    removed_at: datetime | None = Field(default=None, sa_type=UtcDateTime)


class Account(StrEnum):
    """`CLEARING` is money a provider holds for us; `PAYOUTS` what reached the bank."""

    RECEIVABLE = "receivable"
    CLEARING = "clearing"
    REVENUE = "revenue"
    SHIPPING_REVENUE = "shipping_revenue"
    TAX_PAYABLE = "tax_payable"
    REFUNDS = "refunds"
    GIFT_CARD_LIABILITY = "gift_card_liability"
    STORE_CREDIT_LIABILITY = "store_credit_liability"
    CREDIT_ISSUED = "credit_issued"
    FEES = "fees"
    PAYOUTS = "payouts"
    DISPUTES = "disputes"


class LedgerEntry(SQLModel, table=True):
    """Half of a movement of money: debits positive, credits negative. A deferred constraint
    trigger refuses a transaction whose entries do not sum to zero per currency."""

    __tablename__ = "ledger_entry"
    __table_args__ = (
        CheckConstraint("amount <> 0", name="amount_not_zero"),
        UniqueConstraint("transaction_id", "account", name="once_per_account"),
        Index("ix_ledger_entry_occurred_at", "occurred_at"),
    )

    id: int | None = Field(
        default=None, sa_column=Column(BigInteger, Identity(always=True), primary_key=True)
    )
    transaction_id: UUID = Field(sa_type=Uuid)
    account: Account = enum_field(Account.CLEARING)
    amount: int = Field(sa_type=BigInteger)
    currency: str = Field(max_length=3)
    order_id: OrderId | None = Field(
        default=None,
        foreign_key="orders.id",
        index=True,
        sa_type=Uuid,
        description="None for fees, payouts and issued credit.",
    )
    occurred_at: datetime = Field(sa_type=UtcDateTime)


class LedgerDay(SQLModel, table=True):
    """A day (UTC) that is closed: its sums, and those of every day before, are written down."""

    __tablename__ = "ledger_day"

    day: date = Field(primary_key=True)
    closed_at: datetime = Field(sa_type=UtcDateTime)


class LedgerClosing(SQLModel, table=True):
    """What an account held at the end of a closed day. Every account that was ever booked on has a
    row for every day since. Written by `ledger_close_next`, and by the trigger for late entries."""

    __tablename__ = "ledger_closing"

    day: date = Field(primary_key=True, foreign_key="ledger_day.day")
    account: str = Field(primary_key=True, max_length=32)
    currency: str = Field(primary_key=True, max_length=3)
    amount: int = Field(sa_type=BigInteger)
