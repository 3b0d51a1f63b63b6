"""Parcels of an order: what was sent, under which tracking number, and whether it arrived."""

from collections.abc import Mapping
from datetime import datetime
from enum import StrEnum
from uuid import UUID

from sqlalchemy import CheckConstraint, Uuid
from sqlmodel import Field, SQLModel

from db.types import OrderId, UtcDateTime, enum_field, new_id


class FulfillmentState(StrEnum):
    SHIPPED = "shipped"
    DELIVERED = "delivered"
    CANCELLED = "cancelled"


FULFILLMENT_TRANSITIONS: Mapping[FulfillmentState, frozenset[FulfillmentState]] = {
    FulfillmentState.SHIPPED: frozenset({FulfillmentState.DELIVERED, FulfillmentState.CANCELLED}),
    FulfillmentState.DELIVERED: frozenset({FulfillmentState.SHIPPED}),
    FulfillmentState.CANCELLED: frozenset(),
}
assert FULFILLMENT_TRANSITIONS.keys() == set(FulfillmentState)


class Fulfillment(SQLModel, table=True):
    """One parcel. A cancelled one was stopped on its way, or had not left: its tracking
    number stays known."""

    __tablename__ = "fulfillment"

    id: UUID = Field(default_factory=new_id, primary_key=True, sa_type=Uuid)
    order_id: OrderId = Field(foreign_key="orders.id", index=True, sa_type=Uuid)
    state: FulfillmentState = enum_field(FulfillmentState.SHIPPED)
    carrier: str = Field(default="", max_length=64)
    tracking_number: str = Field(default="", max_length=100, index=True)
    shipped_at: datetime = Field(sa_type=UtcDateTime)
    delivered_at: datetime | None = Field(default=None, sa_type=UtcDateTime)


class FulfillmentLine(SQLModel, table=True):
    __tablename__ = "fulfillment_line"
    __table_args__ = (CheckConstraint("quantity > 0", name="quantity_positive"),)

    fulfillment_id: UUID = Field(
        primary_key=True, foreign_key="fulfillment.id", ondelete="CASCADE", sa_type=Uuid
    )
    line_id: UUID = Field(primary_key=True, sa_type=Uuid)
    sku: str = Field(primary_key=True, max_length=64)
    quantity: int
