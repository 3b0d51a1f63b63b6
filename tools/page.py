"""Keyset pagination: stable under inserts, as fast on page one thousand as on page one."""

import base64
import binascii
from collections.abc import Callable, Sequence
from typing import Any, Generic, TypeVar
from uuid import UUID

import orjson
from pydantic import BaseModel, Field

from tools.errors import InvalidInput

T = TypeVar("T")

PAGE_LIMIT_MAX = 100


class Page(BaseModel, Generic[T]):
    items: list[T]
    next_cursor: str | None = Field(
        default=None, description="Pass as `cursor` for the next page; null on the last one."
    )


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


def decode_id(cursor: str) -> UUID:
    """Return the id that `encode_cursor` was given.

    Raises:
        InvalidInput: Not a cursor of this list.
    """
    try:
        return UUID(decode_cursor(cursor, str)[0])
    except ValueError as error:
        raise InvalidInput("This is not a cursor of this list.", field="cursor") from error


def checked_limit(limit: int) -> int:
    """Return `limit`.

    Raises:
        InvalidInput: Not 1 to 100.
    """
    if not 1 <= limit <= PAGE_LIMIT_MAX:
        raise InvalidInput(f"limit must be 1 to {PAGE_LIMIT_MAX}.", field="limit")
    return limit
