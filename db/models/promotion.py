"""Codes that make a cart cheaper."""

from datetime import datetime
from uuid import UUID

from sqlalchemy import BigInteger, CheckConstraint, Index, Uuid
from sqlmodel import Field, SQLModel

from db.types import UtcDateTime, new_id


class Discount(SQLModel, table=True):
    """What a code takes off the goods: some per cent, or an amount. Its terms never change.

    `uses` is written by the orders that carry the code, as they are made and cancelled
    (`discount_count` in SQL), whatever code path does it.
    """

    __tablename__ = "discount"
    __table_args__ = (
        CheckConstraint("code ~ '^[A-Z0-9][A-Z0-9_-]{2,31}$'", name="code_is_plain"),
        CheckConstraint("(percent IS NULL) <> (amount IS NULL)", name="percent_or_amount"),
        CheckConstraint("percent BETWEEN 1 AND 100", name="percent_range"),
        CheckConstraint("amount > 0", name="amount_positive"),
        CheckConstraint("minimum_amount >= 0", name="minimum_not_negative"),
        CheckConstraint("uses BETWEEN 0 AND coalesce(uses_max, uses)", name="uses_within_max"),
        CheckConstraint("ends_at > starts_at", name="ends_after_start"),
        Index("ix_discount_is_active_id", "is_active", "id"),
    )

    id: UUID = Field(default_factory=new_id, primary_key=True, sa_type=Uuid)
    code: str = Field(unique=True, max_length=32)
    percent: int | None = None
    amount: int | None = Field(default=None, sa_type=BigInteger)
    currency: str = Field(max_length=3)
    minimum_amount: int = Field(
        default=0, sa_type=BigInteger, description="What the goods have to cost at least."
    )
    starts_at: datetime | None = Field(default=None, sa_type=UtcDateTime)
    ends_at: datetime | None = Field(default=None, sa_type=UtcDateTime)
    uses_max: int | None = Field(default=None, description="Orders at most; null is any number.")
    uses: int = Field(default=0, description="Orders that carry it and are not cancelled.")
    is_active: bool = True
    created_at: datetime = Field(sa_type=UtcDateTime)
