"""Stock: locations, levels, the append-only movement ledger, reservations and backorders."""

from datetime import date, datetime
from enum import StrEnum
from uuid import UUID

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Computed,
    Identity,
    Index,
    Integer,
    Uuid,
)
from sqlalchemy import text as sql
from sqlmodel import Field, SQLModel

from db.types import LocationId, UtcDateTime, enum_field, new_id

ZERO = {"server_default": "0"}


class Location(SQLModel, table=True):
    __tablename__ = "location"

    id: LocationId = Field(default_factory=new_id, primary_key=True, sa_type=Uuid)
    code: str = Field(max_length=32, unique=True)
    name: str = Field(max_length=200)
    priority: int = Field(default=100, description="Lower ships first.")
    is_active: bool = Field(default=True, description="Units elsewhere are not for sale.")
    country_code: str | None = Field(default=None, max_length=2)
    latitude: float | None = None
    longitude: float | None = None


class StockPolicy(StrEnum):
    """What happens when the units on hand run out."""

    DENY = "deny"
    BACKORDER = "backorder"
    PREORDER = "preorder"


class StockItem(SQLModel, table=True):
    """One SKU over all locations. Its row lock is the lock of the SKU: whoever moves units of
    several SKUs takes these rows in SKU order and no others first.

    Units promised beyond the stock are `backordered`; the check holds the cap against any code
    path. `free` and `backordered` are written only by triggers.
    """

    __tablename__ = "stock_item"
    __table_args__ = (
        CheckConstraint("free >= 0", name="free_not_negative"),
        CheckConstraint("backordered BETWEEN 0 AND backorder_limit", name="within_the_cap"),
        CheckConstraint("policy <> 'deny' OR backorder_limit = 0", name="deny_promises_nothing"),
        CheckConstraint("policy <> 'preorder' OR available_on IS NOT NULL", name="preorder_dated"),
        Index("ix_stock_item_owes", "sku", postgresql_where="backordered > 0"),
    )

    sku: str = Field(primary_key=True, max_length=64)
    id: UUID = Field(
        default_factory=new_id,
        unique=True,
        sa_type=Uuid,
        sa_column_kwargs={"server_default": sql("gen_random_uuid()")},
        description="The aggregate its events are numbered under.",
    )
    free: int = Field(
        default=0,
        sa_column_kwargs=ZERO,
        description="Units that may be sold, over active locations.",
    )
    backordered: int = Field(default=0, sa_column_kwargs=ZERO)
    policy: StockPolicy = enum_field(
        StockPolicy.DENY, sa_column_kwargs={"server_default": StockPolicy.DENY.value}
    )
    backorder_limit: int = Field(default=0, sa_column_kwargs=ZERO)
    available_on: date | None = Field(
        default=None, description="When the goods are expected; a pre-order ends here."
    )


class StockLevel(SQLModel, table=True):
    """Units of one SKU at one location, and what may be sold of them.

    Counters are written only by the trigger on `stock_movement`; the check holds against any code
    path. Safety stock is kept back from sale, not from the check: the units are there.
    """

    __tablename__ = "stock_level"
    __table_args__ = (
        CheckConstraint("reserved >= 0", name="reserved_not_negative"),
        CheckConstraint("allocated >= 0", name="allocated_not_negative"),
        CheckConstraint("reserved + allocated <= on_hand", name="no_oversell"),
        CheckConstraint("incoming >= 0", name="incoming_not_negative"),
        CheckConstraint("safety_stock >= 0 AND reorder_point >= 0", name="thresholds_not_negative"),
        Index("ix_stock_level_location_id_sku", "location_id", "sku"),
        Index("ix_stock_level_low", "sku", postgresql_where="is_low"),
        Index("ix_stock_level_sku_prefix", "sku", postgresql_ops={"sku": "varchar_pattern_ops"}),
    )

    sku: str = Field(primary_key=True, max_length=64)
    location_id: LocationId = Field(primary_key=True, foreign_key="location.id", sa_type=Uuid)
    on_hand: int = 0
    reserved: int = 0
    allocated: int = 0
    reorder_point: int = 0
    incoming: int = Field(default=0, sa_column_kwargs=ZERO)
    safety_stock: int = Field(default=0, sa_column_kwargs=ZERO)
    available: int = Field(
        default=0,
        sa_column=Column(
            Integer, Computed("on_hand - reserved - allocated - safety_stock", persisted=True)
        ),
    )
    is_low: bool = Field(
        default=False,
        sa_column=Column(
            Boolean,
            Computed(
                "reorder_point > 0 AND "
                "on_hand - reserved - allocated - safety_stock <= reorder_point",
                persisted=True,
            ),
        ),
    )


class MovementKind(StrEnum):
    RECEIVE = "receive"
    ADJUST = "adjust"
    COUNT = "count"
    RESERVE = "reserve"
    BACKORDER = "backorder"
    FILL = "fill"
    RELEASE = "release"
    EXPIRE = "expire"
    ALLOCATE = "allocate"
    DEALLOCATE = "deallocate"
    SHIP = "ship"
    TRANSFER_OUT = "transfer_out"
    TRANSFER_IN = "transfer_in"
    TRANSFER_LOSS = "transfer_loss"
    TRANSFER_BACK = "transfer_back"


class StockMovement(SQLModel, table=True):
    """One change of one level, or of the units promised beyond all levels, which have no location.

    Append-only: summing it rebuilds every counter. No foreign key to the location: the level has
    it, and a lock on that one row for every sale would be the shop's narrowest door.
    """

    __tablename__ = "stock_movement"
    __table_args__ = (
        Index("ix_stock_movement_sku_occurred_at_id", "sku", "occurred_at", "id"),
        Index("ix_stock_movement_reference_id", "reference_id"),
        Index("ix_stock_movement_occurred_at", "occurred_at", postgresql_using="brin"),
        CheckConstraint(
            "on_hand_delta <> 0 OR reserved_delta <> 0 OR allocated_delta <> 0"
            " OR incoming_delta <> 0 OR backordered_delta <> 0",
            name="moves",
        ),
        CheckConstraint(
            "location_id IS NOT NULL OR (on_hand_delta = 0 AND reserved_delta = 0"
            " AND allocated_delta = 0 AND incoming_delta = 0)",
            name="units_are_somewhere",
        ),
    )

    id: int | None = Field(
        default=None, sa_column=Column(BigInteger, Identity(always=True), primary_key=True)
    )
    sku: str = Field(max_length=64)
    location_id: LocationId | None = Field(default=None, sa_type=Uuid)
    kind: MovementKind = enum_field(MovementKind.ADJUST)
    on_hand_delta: int = 0
    reserved_delta: int = 0
    allocated_delta: int = 0
    incoming_delta: int = Field(default=0, sa_column_kwargs=ZERO)
    backordered_delta: int = Field(default=0, sa_column_kwargs=ZERO)
    reason: str = Field(default="", max_length=500)
    reason_code: str | None = Field(default=None, max_length=32)
    reference_id: UUID | None = Field(
        default=None, sa_type=Uuid, description="Order, transfer or count."
    )
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
    """Units of a SKU set aside at a location. A bundle's units are those of its parts."""

    __tablename__ = "reservation_line"
    __table_args__ = (CheckConstraint("quantity > 0", name="quantity_positive"),)

    reservation_id: UUID = Field(
        primary_key=True, foreign_key="reservation.id", ondelete="CASCADE", sa_type=Uuid
    )
    sku: str = Field(primary_key=True, max_length=64)
    location_id: LocationId = Field(primary_key=True, sa_type=Uuid)
    quantity: int


class ReservationBundle(SQLModel, table=True):
    """What a bundle consisted of when it was reserved; its definition may change afterwards."""

    __tablename__ = "reservation_bundle"

    reservation_id: UUID = Field(
        primary_key=True, foreign_key="reservation.id", ondelete="CASCADE", sa_type=Uuid
    )
    bundle_sku: str = Field(primary_key=True, max_length=64)
    part_sku: str = Field(primary_key=True, max_length=64)
    quantity: int = Field(description="Units of the part in one bundle.")


class Backorder(SQLModel, table=True):
    """Units promised to a reservation that no location has. Filled oldest first."""

    __tablename__ = "backorder"
    __table_args__ = (
        CheckConstraint("quantity >= 0 AND (quantity > 0 OR NOT is_open)", name="open_is_owed"),
        Index("ix_backorder_queue", "sku", "id", postgresql_where="is_open"),
        Index("ix_backorder_reservation_id_sku", "reservation_id", "sku", unique=True),
    )

    id: int | None = Field(
        default=None, sa_column=Column(BigInteger, Identity(always=True), primary_key=True)
    )
    reservation_id: UUID = Field(foreign_key="reservation.id", ondelete="CASCADE", sa_type=Uuid)
    sku: str = Field(max_length=64)
    quantity: int = Field(description="Units still owed.")
    is_open: bool = True
    promised_for: date | None = None
    created_at: datetime = Field(sa_type=UtcDateTime)


class BundlePart(SQLModel, table=True):
    """A SKU sold as a set. It has no stock of its own: as many can be sold as its parts allow."""

    __tablename__ = "bundle_part"
    __table_args__ = (
        CheckConstraint("quantity > 0", name="quantity_positive"),
        CheckConstraint("bundle_sku <> part_sku", name="not_of_itself"),
        Index("ix_bundle_part_part_sku", "part_sku"),
    )

    bundle_sku: str = Field(
        primary_key=True, max_length=64, foreign_key="variant.sku", ondelete="CASCADE"
    )
    part_sku: str = Field(primary_key=True, max_length=64, foreign_key="variant.sku")
    quantity: int
