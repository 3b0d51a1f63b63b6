"""Gift cards and store credit: accounts, and the append-only movements that alone change them."""

from datetime import datetime
from enum import StrEnum
from uuid import UUID

from sqlalchemy import BigInteger, CheckConstraint, Column, Identity, Index, Uuid
from sqlmodel import Field, SQLModel

from db.types import CartId, UserId, UtcDateTime, enum_field, new_id


class CreditKind(StrEnum):
    GIFT_CARD = "gift_card"
    STORE_CREDIT = "store_credit"


class CreditAccount(SQLModel, table=True):
    """What can be spent is `balance_amount - held_amount`. Written only by the trigger on
    `credit_movement`; the check holds against any code path. A code is kept as its digest."""

    __tablename__ = "credit_account"
    __table_args__ = (
        CheckConstraint("held_amount >= 0 AND held_amount <= balance_amount", name="no_overdraft"),
        Index("ix_credit_account_kind_id", "kind", "id"),
        Index("ix_credit_account_code_last4_id", "code_last4", "id"),
        Index("ix_credit_account_inactive_id", "id", postgresql_where="NOT is_active"),
    )

    id: UUID = Field(default_factory=new_id, primary_key=True, sa_type=Uuid)
    kind: CreditKind = enum_field(CreditKind.GIFT_CARD)
    customer_id: UserId | None = Field(
        default=None, foreign_key="app_user.id", index=True, sa_type=Uuid
    )
    code_sha256: str | None = Field(default=None, max_length=64, unique=True)
    code_last4: str = Field(default="", max_length=4)
    currency: str = Field(max_length=3)
    balance_amount: int = Field(default=0, sa_type=BigInteger)
    held_amount: int = Field(default=0, sa_type=BigInteger)
    expires_at: datetime | None = Field(default=None, sa_type=UtcDateTime)
    is_active: bool = True
    created_at: datetime = Field(sa_type=UtcDateTime)


class CreditMovement(SQLModel, table=True):
    """One change of one account. `key` is unique: a repeated call finds what it did before."""

    __tablename__ = "credit_movement"
    __table_args__ = (
        CheckConstraint("balance_delta <> 0 OR held_delta <> 0", name="moves"),
        Index("ix_credit_movement_account_id_id", "account_id", "id"),
        Index("ix_credit_movement_reference_id", "reference_id"),
    )

    id: int | None = Field(
        default=None, sa_column=Column(BigInteger, Identity(always=True), primary_key=True)
    )
    account_id: UUID = Field(foreign_key="credit_account.id", sa_type=Uuid)
    balance_delta: int = Field(default=0, sa_type=BigInteger)
    held_delta: int = Field(default=0, sa_type=BigInteger)
    key: str = Field(max_length=200, unique=True)
    reason: str = Field(default="", max_length=500)
    reference_id: UUID | None = Field(default=None, sa_type=Uuid)
    actor_id: UUID | None = Field(default=None, sa_type=Uuid)
    occurred_at: datetime = Field(sa_type=UtcDateTime)


class CreditHold(SQLModel, table=True):
    """An authorisation on an account, as a provider keeps one. Written by `credit_authorize` and
    its like only; what is neither captured nor released counts in the account's `held_amount`."""

    __tablename__ = "credit_hold"
    __table_args__ = (
        CheckConstraint("authorized_amount > 0", name="authorized_positive"),
        CheckConstraint(
            "captured_amount >= 0 AND released_amount >= 0 "
            "AND captured_amount + released_amount <= authorized_amount",
            name="within_authorized",
        ),
        CheckConstraint(
            "refunded_amount BETWEEN 0 AND captured_amount", name="refunded_within_captured"
        ),
    )

    id: UUID = Field(default_factory=new_id, primary_key=True, sa_type=Uuid)
    account_id: UUID = Field(foreign_key="credit_account.id", index=True, sa_type=Uuid)
    authorized_amount: int = Field(sa_type=BigInteger)
    captured_amount: int = Field(default=0, sa_type=BigInteger)
    released_amount: int = Field(default=0, sa_type=BigInteger)
    refunded_amount: int = Field(default=0, sa_type=BigInteger)
    currency: str = Field(max_length=3)
    created_at: datetime = Field(sa_type=UtcDateTime)


class CreditCall(SQLModel, table=True):
    """What the credit provider answered under a key, declines included, to answer it again."""

    __tablename__ = "credit_call"

    key: str = Field(max_length=200, primary_key=True)
    kind: str = Field(max_length=16)
    hold_id: UUID | None = Field(default=None, foreign_key="credit_hold.id", sa_type=Uuid)
    amount: int = Field(sa_type=BigInteger)
    currency: str = Field(max_length=3)
    decline_code: str | None = Field(default=None, max_length=100)
    occurred_at: datetime = Field(sa_type=UtcDateTime)


class CartCredit(SQLModel, table=True):
    """Credit a shopper wants to pay a cart with, and how much of it there was when they said so.

    What they take off stays: who once chose a gift card by its code may choose it again."""

    __tablename__ = "cart_credit"

    cart_id: CartId = Field(
        primary_key=True, foreign_key="cart.id", ondelete="CASCADE", sa_type=Uuid
    )
    account_id: UUID = Field(primary_key=True, foreign_key="credit_account.id", sa_type=Uuid)
    seen_amount: int = Field(sa_type=BigInteger, description="Spendable then, in minor units.")
    is_chosen: bool = Field(default=True, sa_column_kwargs={"server_default": "true"})


class CreditLookup(SQLModel, table=True):
    """How many codes a caller has tried in the current window."""

    __tablename__ = "credit_lookup"

    caller: str = Field(max_length=100, primary_key=True)
    window_start: datetime = Field(sa_type=UtcDateTime)
    count: int = 0
