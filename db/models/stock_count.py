"""Cycle counts: what should be there, what was found, and the day's closing stock."""

from collections.abc import Mapping
from datetime import date, datetime
from enum import StrEnum
from typing import Any
from uuid import UUID

from sqlalchemy import BigInteger, CheckConstraint, Column, Identity, Index, Uuid
from sqlalchemy.dialects.postgresql import JSONB
from sqlmodel import Field, SQLModel

from db.types import LocationId, UtcDateTime, enum_field, new_id


class CountStatus(StrEnum):
    OPEN = "open"
    CLOSED = "closed"
    CANCELLED = "cancelled"


COUNT_TRANSITIONS: Mapping[CountStatus, frozenset[CountStatus]] = {
    CountStatus.OPEN: frozenset({CountStatus.CLOSED, CountStatus.CANCELLED}),
    CountStatus.CLOSED: frozenset({CountStatus.OPEN}),
    CountStatus.CANCELLED: frozenset({CountStatus.OPEN}),
}
assert COUNT_TRANSITIONS.keys() == set(CountStatus)


class StockCount(SQLModel, table=True):
    """One counting session at one location. Sales go on while people count."""

    __tablename__ = "stock_count"
    __table_args__ = (Index("ix_stock_count_status_id", "status", "id"),)

    id: UUID = Field(default_factory=new_id, primary_key=True, sa_type=Uuid)
    location_id: LocationId = Field(foreign_key="location.id", sa_type=Uuid)
    status: CountStatus = enum_field(CountStatus.OPEN)
    note: str = Field(default="", max_length=500)
    opened_by: UUID | None = Field(default=None, sa_type=Uuid)
    opened_at: datetime = Field(sa_type=UtcDateTime)
    closed_at: datetime | None = Field(default=None, sa_type=UtcDateTime)


class StockCountLine(SQLModel, table=True):
    """`expected` is what was on hand when the shelf was counted, so later sales do not matter."""

    __tablename__ = "stock_count_line"
    __table_args__ = (CheckConstraint("counted >= 0", name="counted_not_negative"),)

    count_id: UUID = Field(
        primary_key=True, foreign_key="stock_count.id", ondelete="CASCADE", sa_type=Uuid
    )
    sku: str = Field(primary_key=True, max_length=64)
    expected: int
    counted: int
    counted_by: UUID | None = Field(default=None, sa_type=Uuid)
    counted_at: datetime = Field(sa_type=UtcDateTime)


class StockSnapshot(SQLModel, table=True):
    """The counters of a level at the end of a day (UTC), from the ledger."""

    __tablename__ = "stock_snapshot"

    sku: str = Field(primary_key=True, max_length=64)
    location_id: LocationId = Field(primary_key=True, foreign_key="location.id", sa_type=Uuid)
    day: date = Field(primary_key=True)
    on_hand: int
    reserved: int
    allocated: int
    incoming: int


class StockSnapshotDay(SQLModel, table=True):
    """A day whose closing stock is written down; levels absent from it had never moved."""

    __tablename__ = "stock_snapshot_day"

    day: date = Field(primary_key=True)
    levels: int
    taken_at: datetime = Field(sa_type=UtcDateTime)


class StockRebuild(SQLModel, table=True):
    """A comparison of the counters with the ledger. Inserting one that is not a dry run makes the
    counters equal; nothing else may write them around the ledger."""

    __tablename__ = "stock_rebuild"

    id: int | None = Field(
        default=None, sa_column=Column(BigInteger, Identity(always=True), primary_key=True)
    )
    is_dry_run: bool = True
    differences: list[dict[str, Any]] = Field(default_factory=list, sa_type=JSONB)
    actor_id: UUID | None = Field(default=None, sa_type=Uuid)
    started_at: datetime = Field(sa_type=UtcDateTime)
