"""Gift cards and store credit: accounts, and the append-only movements that alone change them."""

from datetime import datetime
from enum import StrEnum
from uuid import UUID

from sqlalchemy import BigInteger, CheckConstraint, Column, Identity, Index, Uuid
from sqlmodel import Field, SQLModel

from db.types import UserId, UtcDateTime, enum_field, new_id


class CreditKind(StrEnum):
    GIFT_CARD = "gift_card"
    STORE_CREDIT = "store_credit"


class CreditAccount(SQLModel, table=True):
    """What can be spent is `balance_amount - held_amount`. Written only by the trigger on
    `credit_movement`; the check holds against any code path. A code is kept as its digest."""

    __tablename__ = "credit_account"
    __table_args__ = (
        CheckConstraint("held_amount >= 0 AND held_amount <= balance_amount", name="no_overdraft"),
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
