"""What a shopper intends to buy. A cart is never an order: completing it makes one."""

from datetime import datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import CheckConstraint, Index, Uuid
from sqlalchemy.dialects.postgresql import JSONB
from sqlmodel import Field, SQLModel

from db.types import CartId, UserId, UtcDateTime, enum_field, new_id


class CartStatus(StrEnum):
    OPEN = "open"
    COMPLETING = "completing"
    COMPLETED = "completed"
    MERGED = "merged"


class Cart(SQLModel, table=True):
    """A guest's cart has no `customer_id`; whoever knows its `secret_sha256` preimage owns it."""

    __tablename__ = "cart"
    # Not of open carts only: then closing one would have to touch every index of the table.
    __table_args__ = (
        Index("ix_cart_secret_sha256", "secret_sha256", postgresql_where="customer_id IS NULL"),
    )

    id: CartId = Field(default_factory=new_id, primary_key=True, sa_type=Uuid)
    customer_id: UserId | None = Field(
        default=None, foreign_key="app_user.id", index=True, sa_type=Uuid
    )
    secret_sha256: str | None = Field(default=None, max_length=64)
    status: CartStatus = enum_field(CartStatus.OPEN)
    currency: str = Field(max_length=3)
    email: str | None = Field(default=None, max_length=254)
    shipping_address: dict[str, Any] | None = Field(default=None, sa_type=JSONB)
    shipping_method: str | None = Field(default=None, max_length=64)
    discount_code: str | None = Field(default=None, foreign_key="discount.code", max_length=32)
    version: int = Field(default=1, description="Grows with every change of what is bought.")
    uses_credit: bool = Field(
        default=False,
        sa_column_kwargs={"server_default": "false"},
        description="Whether gift cards or store credit are to pay for some of it.",
    )
    created_at: datetime = Field(sa_type=UtcDateTime)
    updated_at: datetime = Field(sa_type=UtcDateTime)


class CartLine(SQLModel, table=True):
    __tablename__ = "cart_line"
    __table_args__ = (CheckConstraint("quantity BETWEEN 1 AND 999", name="quantity_range"),)

    cart_id: CartId = Field(
        primary_key=True, foreign_key="cart.id", ondelete="CASCADE", sa_type=Uuid
    )
    sku: str = Field(primary_key=True, foreign_key="variant.sku", max_length=64)
    quantity: int
    added_at: datetime = Field(sa_type=UtcDateTime)
