"""Transfers of stock between locations."""

from collections.abc import Mapping
from datetime import datetime
from enum import StrEnum
from uuid import UUID

from sqlalchemy import CheckConstraint, Index, Uuid
from sqlmodel import Field, SQLModel

from db.types import LocationId, UtcDateTime, enum_field, new_id


class TransferStatus(StrEnum):
    DRAFT = "draft"
    IN_TRANSIT = "in_transit"
    RECEIVED = "received"
    CANCELLED = "cancelled"


TRANSFER_TRANSITIONS: Mapping[TransferStatus, frozenset[TransferStatus]] = {
    TransferStatus.DRAFT: frozenset({TransferStatus.IN_TRANSIT, TransferStatus.CANCELLED}),
    TransferStatus.IN_TRANSIT: frozenset({TransferStatus.RECEIVED, TransferStatus.CANCELLED}),
    TransferStatus.RECEIVED: frozenset({TransferStatus.IN_TRANSIT}),
    TransferStatus.CANCELLED: frozenset({TransferStatus.DRAFT, TransferStatus.IN_TRANSIT}),
}
assert TRANSFER_TRANSITIONS.keys() == set(TransferStatus)


class StockTransfer(SQLModel, table=True):
    """Units on their way from one location to another. In transit they are nobody's on hand:
    they left the source and are `incoming` at the target."""

    __tablename__ = "stock_transfer"
    __table_args__ = (
        CheckConstraint("source_id <> target_id", name="goes_somewhere_else"),
        Index("ix_stock_transfer_status_id", "status", "id"),
    )

    id: UUID = Field(default_factory=new_id, primary_key=True, sa_type=Uuid)
    source_id: LocationId = Field(foreign_key="location.id", sa_type=Uuid)
    target_id: LocationId = Field(foreign_key="location.id", sa_type=Uuid)
    status: TransferStatus = enum_field(TransferStatus.DRAFT)
    note: str = Field(default="", max_length=500)
    created_by: UUID | None = Field(default=None, sa_type=Uuid)
    created_at: datetime = Field(sa_type=UtcDateTime)
    shipped_at: datetime | None = Field(default=None, sa_type=UtcDateTime)
    finished_at: datetime | None = Field(default=None, sa_type=UtcDateTime)


class StockTransferLine(SQLModel, table=True):
    __tablename__ = "stock_transfer_line"
    __table_args__ = (
        CheckConstraint("quantity > 0", name="quantity_positive"),
        CheckConstraint(
            "received >= 0 AND lost >= 0 AND returned >= 0"
            " AND received + lost + returned <= quantity",
            name="no_more_than_sent",
        ),
    )

    transfer_id: UUID = Field(
        primary_key=True, foreign_key="stock_transfer.id", ondelete="CASCADE", sa_type=Uuid
    )
    sku: str = Field(primary_key=True, max_length=64)
    quantity: int
    received: int = 0
    lost: int = 0
    returned: int = Field(default=0, description="Sent back to the source by a cancellation.")
    loss_reason: str = Field(default="", max_length=500)
