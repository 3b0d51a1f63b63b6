"""Arguments for any operation, made from its signature: new operations need nothing here.

A parameter's type says what fits; its name only chooses among values of that type. What cannot be
made is an error, so that no operation is skipped silently.
"""

import types
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from decimal import Decimal
from enum import Enum
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints
from uuid import UUID

from pydantic import AwareDatetime, BaseModel

from tools import arguments as argument_json
from tools.errors import InvalidInput
from tools.registry import Operation


class Unmakeable(AssertionError):
    """No value of this type is known: teach `value_of`."""


@dataclass(frozen=True)
class Things:
    """References to use: all of one owner, or all to nothing."""

    ids: tuple[UUID, ...]
    numbers: tuple[int, ...]
    emails: tuple[str, ...]
    texts: Mapping[str, str] = field(
        default_factory=lambda: {
            "sku": "MUG",
            "location": "HAM",
            "source": "HAM",
            "target": "BER",
            "country_code": "DE",
            "shipping_method": "standard",
            "currency": "EUR",
            "postal_code": "20457",
            "handle": "mug",
            "handle_or_sku": "MUG",
        }
    )


NUMBERED = ("number", "case", "order_number")


def combinations(operation: Operation, things: Things) -> Iterator[dict[str, Any]]:
    """Yield arguments that `operation` accepts: each reference tried in each place it fits."""
    hints = get_type_hints(operation.run, include_extras=True)
    widest = max(len(things.ids), len(things.numbers), len(things.emails))
    seen = []
    for index in range(widest):
        made = {
            name: value_of(hints[name], name, things, index)
            for name, parameter in operation.parameters.items()
            if parameter.default is parameter.empty or refers(hints[name], name)
        }
        if made in seen:
            continue
        seen.append(made)
        try:
            yield argument_json.parse(operation, argument_json.dump(made))
        except InvalidInput as error:
            raise Unmakeable(f"{operation.key}: {error}: {made}") from error


def refers(hint: Any, name: str) -> bool:
    """Whether a parameter can name somebody's thing."""
    inner = [hint, *get_args(hint)]
    return UUID in inner or (int in inner and name in NUMBERED) or "email" in name


def value_of(hint: Any, name: str, things: Things, index: int) -> Any:
    origin, inner = get_origin(hint), get_args(hint)
    if hasattr(hint, "__supertype__"):
        return value_of(hint.__supertype__, name, things, index)
    if origin is Annotated:
        return value_of(inner[0], name, things, index)
    if origin in (Union, types.UnionType):
        return value_of(next(i for i in inner if i is not type(None)), name, things, index)
    if origin is Literal:
        return inner[0]
    if origin in (list, tuple, set, frozenset):
        return [value_of(inner[0], name.removesuffix("s"), things, index)]
    if origin is dict:
        return {value_of(inner[0], "sku", things, index): value_of(inner[1], "", things, index)}
    if isinstance(hint, type):
        return _plain(hint, name, things, index)
    raise Unmakeable(f"{name}: {hint}")


def _plain(hint: type, name: str, things: Things, index: int) -> Any:
    if issubclass(hint, UUID):
        return things.ids[index % len(things.ids)]
    if issubclass(hint, Enum):
        return next(iter(hint))
    if issubclass(hint, BaseModel):
        fields = hint.model_fields.items()
        return {
            key: value_of(info.annotation, key, things, index)
            for key, info in fields
            if info.is_required()
        }
    if issubclass(hint, bool):
        return True
    if issubclass(hint, int):
        return things.numbers[index % len(things.numbers)] if name in NUMBERED else 1
    if issubclass(hint, str):
        if "email" in name:
            return things.emails[index % len(things.emails)]
        return things.texts.get(name, "words")
    simple: dict[Any, Any] = {
        datetime: datetime(2026, 1, 1, tzinfo=UTC),
        AwareDatetime: datetime(2026, 1, 1, tzinfo=UTC),
        date: date(2026, 1, 1),
        Decimal: Decimal(1),
        float: 1.0,
    }
    if hint in simple:
        return simple[hint]
    raise Unmakeable(f"{name}: {hint}")
