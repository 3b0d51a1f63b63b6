"""Vocabulary shared by every layer: identifiers, money, time and enum columns."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any, NewType, TypeVar
from uuid import UUID

import uuid_utils.compat as uuid_utils
from sqlalchemy import DateTime, Dialect, Enum, TypeDecorator
from sqlmodel import Field, SQLModel

# Before any table is declared: every constraint then has a name a migration can drop.
SQLModel.metadata.naming_convention = {
    "ix": "ix_%(table_name)s_%(column_0_name)s",
    "uq": "uq_%(table_name)s_%(column_0_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
    "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
    "pk": "pk_%(table_name)s",
}

UserId = NewType("UserId", UUID)
ProductId = NewType("ProductId", UUID)
LocationId = NewType("LocationId", UUID)
CartId = NewType("CartId", UUID)
OrderId = NewType("OrderId", UUID)
PaymentId = NewType("PaymentId", UUID)
ConversationId = NewType("ConversationId", UUID)
ActionId = NewType("ActionId", UUID)

E = TypeVar("E", bound=StrEnum)

# ISO 4217 minor-unit exponents that differ from two: https://www.six-group.com/en/products-services/financial-information/data-standards.html
_EXPONENTS = {
    "BIF": 0,
    "CLP": 0,
    "DJF": 0,
    "GNF": 0,
    "ISK": 0,
    "JPY": 0,
    "KMF": 0,
    "KRW": 0,
    "PYG": 0,
    "RWF": 0,
    "UGX": 0,
    "UYI": 0,
    "VND": 0,
    "VUV": 0,
    "XAF": 0,
    "XOF": 0,
    "XPF": 0,
    "BHD": 3,
    "IQD": 3,
    "JOD": 3,
    "KWD": 3,
    "LYD": 3,
    "OMR": 3,
    "TND": 3,
    "CLF": 4,
    "UYW": 4,
}


def new_id() -> UUID:
    """Return a UUIDv7 (RFC 9562): sorted by time, so inserts append to the primary-key index."""
    return uuid_utils.uuid7()


def exponent(currency: str) -> int:
    """Return how many decimals `currency` has: 2 for EUR, 0 for JPY, 3 for KWD (ISO 4217)."""
    return _EXPONENTS.get(currency, 2)


@dataclass(frozen=True, slots=True)
class Money:
    """An amount in minor units (cents, yen, fils) of one ISO 4217 currency."""

    amount: int
    currency: str

    def __post_init__(self) -> None:
        assert type(self.amount) is int, f"money is whole minor units, not {self.amount!r}"

    def __add__(self, other: "Money") -> "Money":
        assert self.currency == other.currency, f"{self.currency} + {other.currency}"
        return Money(self.amount + other.amount, self.currency)

    def __sub__(self, other: "Money") -> "Money":
        assert self.currency == other.currency, f"{self.currency} - {other.currency}"
        return Money(self.amount - other.amount, self.currency)

    def __mul__(self, quantity: int) -> "Money":
        return Money(self.amount * quantity, self.currency)

    def __str__(self) -> str:
        """Render plainly for people, e.g. `EUR 12.50`; locales are the presenter's business."""
        places = exponent(self.currency)
        sign, digits = ("-" if self.amount < 0 else ""), str(abs(self.amount)).zfill(places + 1)
        text = f"{digits[:-places]}.{digits[-places:]}" if places else digits
        return f"{self.currency} {sign}{text}"

    def split(self, weights: Sequence[int]) -> list["Money"]:
        """Divide in proportion to `weights`; the parts sum exactly to the whole.

        Leftover minor units go to the largest remainders, first come first (Hamilton's method).
        """
        assert self.amount >= 0
        assert all(weight >= 0 for weight in weights)
        total = sum(weights)
        assert total > 0
        shares = [divmod(self.amount * weight, total) for weight in weights]
        parts = [floor for floor, _ in shares]
        largest_remainders_first = sorted(range(len(parts)), key=lambda i: -shares[i][1])
        for i in largest_remainders_first[: self.amount - sum(parts)]:
            parts[i] += 1
        assert sum(parts) == self.amount
        return [Money(part, self.currency) for part in parts]


class UtcDateTime(TypeDecorator[datetime]):
    """A `timestamptz` column that refuses naive datetimes."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        assert value is None or value.tzinfo is not None, f"naive datetime: {value!r}"
        return value


def enum_field(default: E, **options: Any) -> E:
    """Declare a text column of `E`'s values with a named check.

    SQLModel's own choice, a PostgreSQL enum of member names, needs `ALTER TYPE` for a new state.
    """
    values = Enum(
        type(default),
        native_enum=False,
        create_constraint=True,
        name=type(default).__name__.lower(),
        length=32,
        values_callable=lambda members: [member.value for member in members],
    )
    field: E = Field(default=default, sa_type=values, **options)
    return field
