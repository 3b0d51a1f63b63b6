"""Which location ships: the shop's rules, and where the places people order from are."""

from enum import StrEnum
from uuid import UUID

from sqlalchemy import CheckConstraint, Uuid
from sqlmodel import Field, SQLModel

from db.types import LocationId, enum_field, new_id


class RuleKind(StrEnum):
    PREFERRED = "preferred"
    NEAREST = "nearest"
    FEWEST_SPLITS = "fewest_splits"


class StockRule(SQLModel, table=True):
    """One rule of the shop. Earlier ones weigh more; a tie goes on to the next."""

    __tablename__ = "stock_rule"
    __table_args__ = (
        CheckConstraint(
            "(kind = 'preferred') = (location_id IS NOT NULL)", name="preferred_names_a_location"
        ),
    )

    id: UUID = Field(default_factory=new_id, primary_key=True, sa_type=Uuid)
    position: int = Field(unique=True)
    kind: RuleKind = enum_field(RuleKind.FEWEST_SPLITS)
    location_id: LocationId | None = Field(default=None, foreign_key="location.id", sa_type=Uuid)
    country_code: str | None = Field(
        default=None, max_length=2, description="Only for deliveries there; null is everywhere."
    )


class PostalArea(SQLModel, table=True):
    """Roughly where the postal codes that begin with `prefix` are; an empty one is the country."""

    __tablename__ = "postal_area"

    country_code: str = Field(primary_key=True, max_length=2)
    prefix: str = Field(primary_key=True, max_length=10)
    latitude: float
    longitude: float
