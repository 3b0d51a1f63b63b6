"""Stock: locations, levels, the append-only movement ledger and reservations."""

from datetime import datetime
from enum import StrEnum
from uuid import UUID

from sqlalchemy import BigInteger, CheckConstraint, Column, Identity, Index, Uuid
from sqlmodel import Field, SQLModel

from db.types import LocationId, UtcDateTime, enum_field, new_id


class Location(SQLModel, table=True):
    __tablename__ = "location"

    id: LocationId = Field(default_factory=new_id, primary_key=True, sa_type=Uuid)
    code: str = Field(max_length=32, unique=True)
    name: str = Field(max_length=200)
    priority: int = Field(default=100, description="Lower ships first.")
    is_active: bool = True


class StockLevel(SQLModel, table=True):
    """Units of one SKU at one location. Available units are `on_hand - reserved - allocated`.

    Written only by the trigger on `stock_movement`; the check holds against any code path.
    """

    __tablename__ = "stock_level"
    __table_args__ = (
        CheckConstraint("reserved >= 0", name="reserved_not_negative"),
        CheckConstraint("allocated >= 0", name="allocated_not_negative"),
        CheckConstraint("reserved + allocated <= on_hand", name="no_oversell"),
    )

    sku: str = Field(primary_key=True, max_length=64)
    location_id: LocationId = Field(primary_key=True, foreign_key="location.id", sa_type=Uuid)
    on_hand: int = 0
    reserved: int = 0
    allocated: int = 0
    reorder_point: int = 0


class MovementKind(StrEnum):
    RECEIVE = "receive"
    ADJUST = "adjust"
    RESERVE = "reserve"
    RELEASE = "release"
    EXPIRE = "expire"
    ALLOCATE = "allocate"
    DEALLOCATE = "deallocate"
    SHIP = "ship"


class StockMovement(SQLModel, table=True):
    """One change of one level. Append-only: summing it rebuilds every counter."""

    __tablename__ = "stock_movement"
    __table_args__ = (
        Index("ix_stock_movement_sku_id", "sku", "id"),
        Index("ix_stock_movement_reference_id", "reference_id"),
        CheckConstraint(
            "on_hand_delta <> 0 OR reserved_delta <> 0 OR allocated_delta <> 0", name="moves"
        ),
    )

    id: int | None = Field(
        default=None, sa_column=Column(BigInteger, Identity(always=True), primary_key=True)
    )
    sku: str = Field(max_length=64)
    location_id: LocationId = Field(foreign_key="location.id", sa_type=Uuid)
    kind: MovementKind = enum_field(MovementKind.ADJUST)
    on_hand_delta: int = 0
    reserved_delta: int = 0
    allocated_delta: int = 0
    reason: str = Field(default="", max_length=500)
    reference_id: UUID | None = Field(default=None, sa_type=Uuid, description="Order, usually.")
    actor_id: UUID | None = Field(default=None, sa_type=Uuid)
    occurred_at: datetime = Field(sa_type=UtcDateTime)


class ReservationStatus(StrEnum):
    HELD = "held"
    ALLOCATED = "allocated"
    RELEASED = "released"
    EXPIRED = "expired"
    SHIPPED = "shipped"


class Reservation(SQLModel, table=True):
    """The one hold an order may have; its id is the order's id, its lines say on what."""

    __tablename__ = "reservation"
    __table_args__ = (
        Index("ix_reservation_held_expires_at", "expires_at", postgresql_where="status = 'held'"),
    )

    id: UUID = Field(primary_key=True, sa_type=Uuid)
    status: ReservationStatus = enum_field(ReservationStatus.HELD)
    expires_at: datetime = Field(sa_type=UtcDateTime)
    created_at: datetime = Field(sa_type=UtcDateTime)


class ReservationLine(SQLModel, table=True):
    __tablename__ = "reservation_line"
    __table_args__ = (CheckConstraint("quantity > 0", name="quantity_positive"),)

    reservation_id: UUID = Field(
        primary_key=True, foreign_key="reservation.id", ondelete="CASCADE", sa_type=Uuid
    )
    sku: str = Field(primary_key=True, max_length=64)
    location_id: LocationId = Field(primary_key=True, foreign_key="location.id", sa_type=Uuid)
    quantity: int
