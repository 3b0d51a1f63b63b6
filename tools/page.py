"""Keyset pagination: stable under inserts, as fast on page one thousand as on page one."""

import base64
import binascii
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, Generic, TypeVar
from uuid import UUID

import orjson
from pydantic import BaseModel, Field
from sqlalchemy import Row, TypeDecorator, literal, true, tuple_
from sqlalchemy.orm import aliased
from sqlmodel import col, select

from deps.core import UnitOfWork
from tools.errors import InvalidInput

T = TypeVar("T")

PAGE_LIMIT_MAX = 100


class Page(BaseModel, Generic[T]):
    items: list[T]
    next_cursor: str | None = Field(
        default=None, description="Pass as `cursor` for the next page; null on the last one."
    )


class Values:
    """The bound parameters of a statement, numbered as they are added."""

    def __init__(self, *bound: Any) -> None:
        self.bound: list[Any] = list(bound)

    def __call__(self, value: Any, type_: str | None = None) -> str:
        """Return what stands for `value` in the SQL, cast to `type_` where it needs one."""
        self.bound.append(value)
        return f"${len(self.bound)}" + (f"::{type_}" if type_ else "")


def page_of(items: Sequence[T], limit: int, key: Callable[[T], Sequence[Any]]) -> Page[T]:
    """Return the first `limit` items as a page, with the cursor of what follows.

    Args:
        items: In order, read with a limit of one more than `limit`: the extra one says that
            there is a next page.
        key: What `items` are ordered by; `decode_cursor` gives it back.
    """
    assert len(items) <= limit + 1
    if len(items) <= limit:
        return Page(items=list(items))
    shown = items[:limit]
    return Page(items=list(shown), next_cursor=encode_cursor(*key(shown[-1])))


class ByTime(StrEnum):
    """Ids sort by time, so these two need no column of their own."""

    NEWEST = "newest"
    OLDEST = "oldest"


@dataclass(frozen=True, slots=True)
class Ordering:
    """What a list is sorted by; the last column is unique, so that every row has one place."""

    columns: tuple[Any, ...]
    is_descending: bool = True


async def read_page(
    uow: UnitOfWork,
    query: Any,
    ordering: Ordering,
    view: Callable[[Any], T],
    limit: int,
    cursor: str | None,
) -> Page[T]:
    """Read one page of `query` in the given order, which is of the first table it selects.

    Args:
        view: Makes an item of a row: of an object, or of a tuple where several are selected.

    Raises:
        InvalidInput: The limit is out of range, or the cursor is not of a list in this order.
    """
    columns: list[Any] = [col(column) for column in ordering.columns]
    walk = _walk(query, columns, ordering, cursor).limit(checked_limit(limit) + 1)
    return _shown(list(await uow.session.exec(walk)), columns, view, limit)


async def read_page_of_groups(
    uow: UnitOfWork,
    groups: Any,
    query: Any,
    ordering: Ordering,
    view: Callable[[Any], T],
    limit: int,
    cursor: str | None,
) -> Page[T]:
    """Read one page of `query`, which is about each row of `groups`, in the given order over all.

    Of every group no more than a page is read, along an index that begins with what `query` equals
    to columns of `groups` and goes on in the given order. So rows outside the groups cost nothing,
    however many there are between two that are wanted.

    Args:
        groups: What can stand in FROM.
        query: Selects one table; it may refer to columns of `groups`.

    Raises: As `read_page`.
    """
    table = ordering.columns[0].class_
    columns: list[Any] = [col(column) for column in ordering.columns]
    few = checked_limit(limit) + 1
    of_each = _walk(query, columns, ordering, cursor).limit(few).lateral()
    found = aliased(table, of_each)
    merged = [getattr(found, column.key) for column in columns]
    rows = select(found).select_from(groups.join(of_each, true()))
    rows = rows.order_by(*_sorted(merged, ordering)).limit(few)
    return _shown(list(await uow.session.exec(rows)), columns, view, limit)


def _walk(query: Any, columns: Sequence[Any], ordering: Ordering, cursor: str | None) -> Any:
    query = query.order_by(*_sorted(columns, ordering))
    if cursor is None:
        return query
    values, place = _typed(cursor, columns), tuple_(*columns)
    return query.where(place < values if ordering.is_descending else place > values)


def _sorted(columns: Sequence[Any], ordering: Ordering) -> list[Any]:
    return [column.desc() if ordering.is_descending else column.asc() for column in columns]


def _shown(
    rows: Sequence[Any], columns: Sequence[Any], view: Callable[[Any], T], limit: int
) -> Page[T]:
    page = page_of(rows, limit, lambda row: [_plain(getattr(_main(row), c.key)) for c in columns])
    return Page(items=[view(row) for row in page.items], next_cursor=page.next_cursor)


def by_id(column: Any, sort: ByTime = ByTime.NEWEST) -> Ordering:
    """Order by an id that sorts by time."""
    return Ordering((column,), is_descending=sort is ByTime.NEWEST)


def _main(row: Any) -> Any:
    return row[0] if isinstance(row, Row) else row


def _plain(value: Any) -> Any:
    return value.isoformat() if isinstance(value, datetime) else value


def _typed(cursor: str, columns: Sequence[Any]) -> Any:
    kinds = [_kind(column) for column in columns]
    values = decode_cursor(cursor, *(int if kind is int else str for kind in kinds))
    try:
        return tuple_(
            *(
                literal(_parse(kind, value), column.type)
                for kind, value, column in zip(kinds, values, columns, strict=True)
            )
        )
    except ValueError as error:
        raise InvalidInput("This is not a cursor of this list.", field="cursor") from error


def _kind(column: Any) -> type:
    declared = column.type
    stored = declared.impl_instance if isinstance(declared, TypeDecorator) else declared
    kind: type = stored.python_type
    return kind


def _parse(kind: type, value: Any) -> Any:
    if kind is datetime:
        return aware(datetime.fromisoformat(value), "cursor")
    return UUID(value) if kind is UUID else value


def encode_cursor(*values: Any) -> str:
    # `default`: asyncpg's UUIDs are a class of their own.
    return base64.urlsafe_b64encode(orjson.dumps(values, default=str)).decode().rstrip("=")


def decode_cursor(cursor: str, *types: type) -> list[Any]:
    """Return the values `encode_cursor` was given.

    Raises:
        InvalidInput: Not a cursor of this list.
    """
    try:
        values = orjson.loads(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)))
    except (ValueError, binascii.Error) as error:
        raise InvalidInput("This is not a cursor of this list.", field="cursor") from error
    if not isinstance(values, list) or [type(v) for v in values] != list(types):
        raise InvalidInput("This is not a cursor of this list.", field="cursor")
    return values


def checked_limit(limit: int) -> int:
    """Return `limit`.

    Raises:
        InvalidInput: Not 1 to 100.
    """
    if not 1 <= limit <= PAGE_LIMIT_MAX:
        raise InvalidInput(f"limit must be 1 to {PAGE_LIMIT_MAX}.", field="limit")
    return limit


def aware(time: datetime, field: str) -> datetime:
    """Return `time` in UTC.

    Raises:
        InvalidInput: It says no offset from UTC, so it names no moment, or the calendar's end is
            before it.
    """
    if time.tzinfo is None:
        raise InvalidInput(f"{field} needs a time zone, such as 2026-01-31T00:00:00Z.", field=field)
    try:
        return time.astimezone(UTC)
    except OverflowError as error:
        raise InvalidInput(f"{field} is outside the calendar.", field=field) from error
