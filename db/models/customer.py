"""What the shop knows of a customer beyond the sign-in."""

from datetime import datetime
from typing import Any

from sqlalchemy import Index, Uuid
from sqlalchemy.dialects.postgresql import JSONB
from sqlmodel import Field, SQLModel

from db.types import UserId, UtcDateTime


class CustomerAddress(SQLModel, table=True):
    """Where a customer's parcels go unless an order says otherwise: one per customer."""

    __tablename__ = "customer_address"
    __table_args__ = (Index("ix_customer_address_postal_code", "postal_code"),)

    customer_id: UserId = Field(
        primary_key=True, foreign_key="app_user.id", ondelete="CASCADE", sa_type=Uuid
    )
    postal_code: str = Field(max_length=20, description="As in `address`, for look-ups.")
    address: dict[str, Any] = Field(sa_type=JSONB)
    updated_at: datetime = Field(sa_type=UtcDateTime)
