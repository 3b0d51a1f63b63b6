"""Word a result that has no template of its own: the fields a person would read, in plain words."""

import re
from collections.abc import Mapping
from typing import Any

from db.types import Money

FIELDS_MAX = 8
LINE_FIELDS_MAX = 3
LISTED_MAX = 6
LISTS_MAX = 2
TEXT_CHARS_MAX = 120
# What names a thing, best first; and what is for programs alone.
_NAMES = ("number", "title", "name", "code", "sku", "subject", "label", "email")
_STATES = ("status", "state")
_HIDDEN = ("id", "cursor", "sha256", "token", "key", "version", "currency", "handle")
_ID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)
_MOMENT = re.compile(r"\d{4}-\d{2}-\d{2}T\d{2}:\d{2}\S*")
_SYMBOL = re.compile(r"[a-z]+(?:_[a-z]+)+")


def told(data: Any) -> str:
    """Return sentences for any result; empty when it says nothing a person would read."""
    if isinstance(data, Mapping) and isinstance(data.get("items"), list):
        has_more = bool(data.get("next_cursor"))
        return _listed(data["items"], data.get("currency"), has_more=has_more)
    if isinstance(data, list):
        return _listed(data, None)
    if isinstance(data, Mapping):
        return _one(data)
    return "" if data is None else str(data)


def _listed(rows: list[Any], currency: Any, *, has_more: bool = False) -> str:
    if not rows:
        return "There is nothing to show."
    shown = rows[:LISTED_MAX]
    if any(isinstance(row, Mapping) for row in shown):
        lines = (_line(row, currency) for row in shown)
        said = "; ".join(f"{place}. {line}" for place, line in enumerate(lines, 1))
    else:
        said = ", ".join(str(row) for row in shown)
    return _ended(said) + (" There are more." if has_more or len(rows) > LISTED_MAX else "")


def _line(row: Mapping[str, Any], currency: Any) -> str:
    parts = (_head(row), *_facts(row, LINE_FIELDS_MAX, currency))
    return ", ".join(part for part in parts if part)


def _one(row: Mapping[str, Any]) -> str:
    currency = row.get("currency")
    facts = ", ".join(_facts(row, FIELDS_MAX, currency))
    head = _head(row) if _name_in(row) else _begun(_head(row))
    said = [_ended(part) for part in (head, _begun(facts)) if part]
    lists = [
        f"{_plain(name).capitalize()}: {_listed(value, currency)}"
        for name, value in row.items()
        if isinstance(value, list) and value and not _is_hidden(name)
    ]
    return " ".join([*said, *lists[:LISTS_MAX]])


def _begun(words: str) -> str:
    return words[:1].upper() + words[1:]


def _ended(words: str) -> str:
    return words if words.endswith((".", "!", "?", "…")) else f"{words}."


def _name_in(row: Mapping[str, Any]) -> str | None:
    return next((name for name in _NAMES if row.get(name) not in (None, "")), None)


def _head(row: Mapping[str, Any]) -> str:
    name = _name_in(row)
    state = _plain(next((str(row[s]) for s in _STATES if row.get(s)), ""))
    shown = "" if name is None else (f"#{row[name]}" if name == "number" else str(row[name]))
    return f"{shown} is {state}" if shown and state else shown or state


def _facts(row: Mapping[str, Any], limit: int, currency: Any) -> list[str]:
    """Return what a row says beside its name; amounts without a currency are in `currency`."""
    taken = {_name_in(row), *_STATES}
    facts = []
    for name, value in row.items():
        if name in taken or _is_hidden(name) or value in (None, ""):
            continue
        said = _value(name, value, row.get("currency", currency))
        if said is not None:
            facts.append(f"{_plain(name.removesuffix('_amount').removesuffix('_at'))} {said}")
    return facts[:limit]


def _value(name: str, value: Any, currency: Any) -> str | None:
    """Word one value; None for what nobody would read, such as an id or cents of no currency."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        if not name.endswith("amount"):
            return str(value)
        return str(Money(value, currency)) if isinstance(currency, str) else None
    if not isinstance(value, str) or _ID.fullmatch(value):
        return None
    if _MOMENT.fullmatch(value):
        return value[:10]
    return _plain(value) if _SYMBOL.fullmatch(value) else value[:TEXT_CHARS_MAX]


def _is_hidden(name: str) -> bool:
    return name.startswith("allowed_") or any(
        name == part or name.endswith((f"_{part}", f"{part}s")) for part in _HIDDEN
    )


def _plain(name: str) -> str:
    return name.replace("_", " ")
