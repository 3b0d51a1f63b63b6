"""What happens to a placed order: the shop's policy, and edits, returns and exchanges of its lines.

An order's lines say what it sells now; the lines of an edit or an exchange keep what they were, so
every version of an order can be read back.
"""

from collections.abc import Mapping
from datetime import datetime
from enum import StrEnum
from typing import Any
from uuid import UUID

from sqlalchemy import BigInteger, CheckConstraint, Index, Uuid
from sqlalchemy.dialects.postgresql import JSONB
from sqlmodel import Field, SQLModel

from db.types import OrderId, UserId, UtcDateTime, enum_field, new_id


class AftersalesPolicy(SQLModel, table=True):
    """What the merchant allows after the sale; one row, and none means these defaults.

    A maximum of None is no limit. Where money may go back to is not a choice here: to what paid
    for the order, or to the customer's own gift card; `refunds_to_any_method` widens it.
    """

    __tablename__ = "aftersales_policy"
    __table_args__ = (CheckConstraint("id = 1", name="one_row"),)

    id: int = Field(default=1, primary_key=True, sa_column_kwargs={"autoincrement": False})
    item_edits_max: int | None = Field(default=None, ge=0, description="Per order.")
    payment_changes_max: int | None = Field(default=None, ge=0, description="Per order.")
    requests_max: int | None = Field(
        default=None, ge=0, description="Returns and exchanges together, per order."
    )
    item_edit_closes: bool = Field(
        default=False, description="Then neither cancelled nor paid otherwise; addresses may."
    )
    refunds_to_any_method: bool = Field(
        default=False, description="Price differences of edits may go to any stored method."
    )
    return_window_days: int | None = Field(default=30, ge=0, description="From delivery.")
    cancel_reasons: list[str] = Field(
        default_factory=list, sa_type=JSONB, description="Empty: any reason."
    )


class EditKind(StrEnum):
    ITEMS = "items"
    ADDRESS = "address"
    PAYMENT = "payment"


class EditState(StrEnum):
    """`PENDING` waits for the money; the order is unchanged until it is `APPLIED`."""

    PENDING = "pending"
    APPLIED = "applied"
    FAILED = "failed"


EDIT_TRANSITIONS: Mapping[EditState, frozenset[EditState]] = {
    EditState.PENDING: frozenset({EditState.APPLIED, EditState.FAILED}),
    EditState.APPLIED: frozenset(),
    EditState.FAILED: frozenset(),
}
assert EDIT_TRANSITIONS.keys() == set(EditState)


class OrderEdit(SQLModel, table=True):
    """One change of a placed order. Its id is the key: the same id is the same change."""

    __tablename__ = "order_edit"
    __table_args__ = (
        Index("ix_order_edit_order_id_id", "order_id", "id"),
        # Of any number of edits at once, one is being paid for.
        Index(
            "uq_order_edit_pending", "order_id", unique=True, postgresql_where="state = 'pending'"
        ),
    )

    id: UUID = Field(default_factory=new_id, primary_key=True, sa_type=Uuid)
    order_id: OrderId = Field(foreign_key="orders.id", sa_type=Uuid)
    kind: EditKind = enum_field(EditKind.ITEMS)
    state: EditState = enum_field(EditState.PENDING)
    request_sha256: str = Field(max_length=64, description="What the id was first used for.")
    method_id: UUID | None = Field(default=None, foreign_key="stored_method.id", sa_type=Uuid)
    difference_amount: int = Field(
        default=0, sa_type=BigInteger, description="New less old total: charged, or given back."
    )
    currency: str = Field(max_length=3)
    payment_id: UUID | None = Field(default=None, foreign_key="payment.id", sa_type=Uuid)
    refund_id: UUID | None = Field(default=None, foreign_key="refund.id", sa_type=Uuid)
    before: dict[str, Any] = Field(default_factory=dict, sa_type=JSONB)
    after: dict[str, Any] = Field(default_factory=dict, sa_type=JSONB)
    failure: str = Field(default="", max_length=200)
    requested_by: UserId | None = Field(default=None, sa_type=Uuid)
    created_at: datetime = Field(sa_type=UtcDateTime)
    finished_at: datetime | None = Field(default=None, sa_type=UtcDateTime)


class OrderEditLine(SQLModel, table=True):
    """Units of a line that became another variant: the version before, and the one after."""

    __tablename__ = "order_edit_line"
    __table_args__ = (CheckConstraint("quantity > 0", name="quantity_positive"),)

    edit_id: UUID = Field(
        primary_key=True, foreign_key="order_edit.id", ondelete="CASCADE", sa_type=Uuid
    )
    position: int = Field(primary_key=True)
    line_id: UUID = Field(sa_type=Uuid)
    sku: str = Field(max_length=64)
    unit_price_amount: int = Field(sa_type=BigInteger)
    new_sku: str = Field(max_length=64)
    new_unit_price_amount: int = Field(sa_type=BigInteger)
    quantity: int


class RequestState(StrEnum):
    """`REQUESTED` waits for the parcel, `RECEIVED` for the money, `COMPLETED` for nothing."""

    REQUESTED = "requested"
    RECEIVED = "received"
    COMPLETED = "completed"
    CANCELLED = "cancelled"


REQUEST_TRANSITIONS: Mapping[RequestState, frozenset[RequestState]] = {
    RequestState.REQUESTED: frozenset({RequestState.RECEIVED, RequestState.CANCELLED}),
    RequestState.RECEIVED: frozenset({RequestState.COMPLETED}),
    RequestState.COMPLETED: frozenset(),
    RequestState.CANCELLED: frozenset({RequestState.REQUESTED}),
}
assert REQUEST_TRANSITIONS.keys() == set(RequestState)


class OrderReturn(SQLModel, table=True):
    """Lines a customer sends back (an RMA). Stock and money move when they have arrived."""

    __tablename__ = "order_return"
    __table_args__ = (Index("ix_order_return_order_id_id", "order_id", "id"),)

    id: UUID = Field(default_factory=new_id, primary_key=True, sa_type=Uuid)
    order_id: OrderId = Field(foreign_key="orders.id", sa_type=Uuid)
    state: RequestState = enum_field(RequestState.REQUESTED)
    request_sha256: str = Field(max_length=64)
    method_id: UUID | None = Field(default=None, foreign_key="stored_method.id", sa_type=Uuid)
    amount: int = Field(sa_type=BigInteger, description="What the lines cost, in minor units.")
    currency: str = Field(max_length=3)
    reason: str = Field(default="", max_length=500)
    refund_id: UUID | None = Field(default=None, foreign_key="refund.id", sa_type=Uuid)
    requested_by: UserId | None = Field(default=None, sa_type=Uuid)
    created_at: datetime = Field(sa_type=UtcDateTime)
    finished_at: datetime | None = Field(default=None, sa_type=UtcDateTime)


class OrderReturnLine(SQLModel, table=True):
    __tablename__ = "order_return_line"
    __table_args__ = (
        CheckConstraint("quantity > 0", name="quantity_positive"),
        CheckConstraint(
            "restocked_quantity BETWEEN 0 AND quantity", name="restocked_within_returned"
        ),
    )

    return_id: UUID = Field(
        primary_key=True, foreign_key="order_return.id", ondelete="CASCADE", sa_type=Uuid
    )
    position: int = Field(primary_key=True)
    line_id: UUID = Field(sa_type=Uuid)
    sku: str = Field(max_length=64)
    unit_price_amount: int = Field(sa_type=BigInteger)
    quantity: int
    restocked_quantity: int = 0


class OrderExchange(SQLModel, table=True):
    """Lines a customer swaps for other variants. The replacements are allocated at once, under
    the exchange's own id; the difference is settled when the old ones have arrived. Their parcel
    is named then, and may have to wait for the difference."""

    __tablename__ = "order_exchange"
    __table_args__ = (Index("ix_order_exchange_order_id_id", "order_id", "id"),)

    id: UUID = Field(default_factory=new_id, primary_key=True, sa_type=Uuid)
    order_id: OrderId = Field(foreign_key="orders.id", sa_type=Uuid)
    state: RequestState = enum_field(RequestState.REQUESTED)
    request_sha256: str = Field(max_length=64)
    method_id: UUID | None = Field(default=None, foreign_key="stored_method.id", sa_type=Uuid)
    difference_amount: int = Field(sa_type=BigInteger, description="New less old price.")
    currency: str = Field(max_length=3)
    reason: str = Field(default="", max_length=500)
    payment_id: UUID | None = Field(default=None, foreign_key="payment.id", sa_type=Uuid)
    refund_id: UUID | None = Field(default=None, foreign_key="refund.id", sa_type=Uuid)
    carrier: str = Field(default="", max_length=64)
    tracking_number: str = Field(default="", max_length=100)
    requested_by: UserId | None = Field(default=None, sa_type=Uuid)
    created_at: datetime = Field(sa_type=UtcDateTime)
    finished_at: datetime | None = Field(default=None, sa_type=UtcDateTime)


class OrderExchangeLine(SQLModel, table=True):
    __tablename__ = "order_exchange_line"
    __table_args__ = (CheckConstraint("quantity > 0", name="quantity_positive"),)

    exchange_id: UUID = Field(
        primary_key=True, foreign_key="order_exchange.id", ondelete="CASCADE", sa_type=Uuid
    )
    position: int = Field(primary_key=True)
    line_id: UUID = Field(sa_type=Uuid)
    sku: str = Field(max_length=64)
    unit_price_amount: int = Field(sa_type=BigInteger)
    new_sku: str = Field(max_length=64)
    new_unit_price_amount: int = Field(sa_type=BigInteger)
    quantity: int
