"""Orders: three independent states, their transitions, and lines copied at the time of sale."""

from collections.abc import Mapping
from datetime import datetime
from enum import StrEnum
from typing import Any
from uuid import UUID

from sqlalchemy import BigInteger, CheckConstraint, Column, Identity, Index, Uuid
from sqlalchemy.dialects.postgresql import JSONB
from sqlmodel import Field, SQLModel

from db.types import CartId, Money, OrderId, UserId, UtcDateTime, enum_field, new_id


class OrderStatus(StrEnum):
    PENDING = "pending"
    PLACED = "placed"
    COMPLETED = "completed"
    CANCELLED = "cancelled"


ORDER_TRANSITIONS: Mapping[OrderStatus, frozenset[OrderStatus]] = {
    OrderStatus.PENDING: frozenset({OrderStatus.PLACED, OrderStatus.CANCELLED}),
    OrderStatus.PLACED: frozenset({OrderStatus.COMPLETED, OrderStatus.CANCELLED}),
    OrderStatus.COMPLETED: frozenset({OrderStatus.PLACED}),
    OrderStatus.CANCELLED: frozenset(),
}
assert ORDER_TRANSITIONS.keys() == set(OrderStatus)


class PaymentStatus(StrEnum):
    PENDING = "pending"
    REQUIRES_ACTION = "requires_action"
    AUTHORIZED = "authorized"
    PARTIALLY_CAPTURED = "partially_captured"
    CAPTURED = "captured"
    FAILED = "failed"
    VOIDED = "voided"
    REFUND_PENDING = "refund_pending"
    PARTIALLY_REFUNDED = "partially_refunded"
    REFUNDED = "refunded"


class FulfillmentStatus(StrEnum):
    UNFULFILLED = "unfulfilled"
    IN_PROGRESS = "in_progress"
    PARTIALLY_FULFILLED = "partially_fulfilled"
    FULFILLED = "fulfilled"
    DELIVERED = "delivered"


_STATES = ("status", "payment_status", "fulfillment_status")


class Order(SQLModel, table=True):
    """A sale. `cart_id` is unique: one cart makes one order, whatever races."""

    __tablename__ = "orders"
    __table_args__ = (
        CheckConstraint(
            "total_amount = subtotal_amount + shipping_amount + tax_amount - discount_amount",
            name="total_adds_up",
        ),
        CheckConstraint("total_amount >= 0", name="total_not_negative"),
        CheckConstraint("discount_amount BETWEEN 0 AND subtotal_amount", name="discount_of_goods"),
        CheckConstraint("tax_amount >= 0 AND tax_rate >= 0", name="tax_not_negative"),
        # What lists walk along: by time or by amount, of everybody, of one, or of some states.
        Index("ix_orders_created_at_number", "created_at", "number"),
        Index("ix_orders_total_amount_number", "total_amount", "number"),
        Index("ix_orders_customer_id_created_at_number", "customer_id", "created_at", "number"),
        Index(
            "ix_orders_guest_created_at_number",
            "guest_secret_sha256",
            "created_at",
            "number",
            postgresql_where="customer_id IS NULL",
        ),
        Index("ix_orders_email_created_at_number", "email", "created_at", "number"),
        Index("ix_orders_states_created_at_number", *_STATES, "created_at", "number"),
        Index("ix_orders_states_total_amount_number", *_STATES, "total_amount", "number"),
        Index("ix_orders_placed_at", "placed_at"),
        Index(
            "ix_orders_discount_code", "discount_code", postgresql_where="discount_code IS NOT NULL"
        ),
        Index("ix_orders_unfinished", "created_at", postgresql_where="status = 'pending'"),
    )

    id: OrderId = Field(default_factory=new_id, primary_key=True, sa_type=Uuid)
    number: int | None = Field(
        default=None,
        sa_column=Column(BigInteger, Identity(start=1001), unique=True, nullable=False),
    )
    cart_id: CartId | None = Field(default=None, foreign_key="cart.id", unique=True, sa_type=Uuid)
    customer_id: UserId | None = Field(default=None, foreign_key="app_user.id", sa_type=Uuid)
    guest_secret_sha256: str | None = Field(default=None, max_length=64)
    email: str = Field(max_length=254)
    status: OrderStatus = enum_field(OrderStatus.PENDING)
    payment_status: PaymentStatus = enum_field(PaymentStatus.PENDING)
    fulfillment_status: FulfillmentStatus = enum_field(FulfillmentStatus.UNFULFILLED)
    currency: str = Field(max_length=3)
    subtotal_amount: int = Field(sa_type=BigInteger)
    shipping_amount: int = Field(default=0, sa_type=BigInteger)
    tax_amount: int = Field(default=0, sa_type=BigInteger)
    discount_amount: int = Field(default=0, sa_type=BigInteger)
    total_amount: int = Field(sa_type=BigInteger)
    discount_code: str | None = Field(default=None, foreign_key="discount.code", max_length=32)
    tax_rate: int = Field(
        default=0,
        sa_column_kwargs={"server_default": "0"},
        description="Hundredths of a per cent, put on goods and shipping; 0: prices contain tax.",
    )
    shipping_address: dict[str, Any] = Field(sa_type=JSONB)
    shipping_method: str = Field(max_length=64)
    created_at: datetime = Field(sa_type=UtcDateTime)
    placed_at: datetime | None = Field(default=None, sa_type=UtcDateTime)
    cancelled_at: datetime | None = Field(default=None, sa_type=UtcDateTime)
    captures_later: bool = Field(
        default=False, description="Placed when authorised; staff capture what they ship."
    )
    version: int = Field(default=1, description="Grows with every change of lines or totals.")
    lease_until: datetime | None = Field(
        default=None, sa_type=UtcDateTime, description="Who drives the checkout until then."
    )

    @property
    def total(self) -> Money:
        return Money(self.total_amount, self.currency)


class OrderLine(SQLModel, table=True):
    __tablename__ = "order_line"
    __table_args__ = (
        CheckConstraint("quantity > 0", name="quantity_positive"),
        CheckConstraint("total_amount = unit_price_amount * quantity", name="line_adds_up"),
    )

    id: UUID = Field(default_factory=new_id, primary_key=True, sa_type=Uuid)
    order_id: OrderId = Field(foreign_key="orders.id", ondelete="CASCADE", index=True, sa_type=Uuid)
    sku: str = Field(max_length=64, index=True)
    product_id: UUID = Field(sa_type=Uuid)
    title: str = Field(max_length=600)
    quantity: int
    unit_price_amount: int = Field(sa_type=BigInteger)
    total_amount: int = Field(sa_type=BigInteger)
