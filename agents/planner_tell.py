"""Word a result that has no template of its own: the fields a person would read, in plain words."""

from collections.abc import Mapping
from typing import Any

from db.types import Money

FIELDS_MAX = 8
LISTED_MAX = 6
# What names a thing, best first; and what is for programs alone.
_NAMES = ("number", "title", "name", "code", "sku", "subject", "label", "email")
_STATES = ("status", "state")
_HIDDEN = ("id", "cursor", "sha256", "token", "key", "version", "currency", "handle", "allowed")


def told(data: Any) -> str:
    """Return sentences for any result; empty when it says nothing a person would read."""
    if isinstance(data, Mapping) and isinstance(data.get("items"), list):
        return _listed(data["items"])
    if isinstance(data, list):
        return _listed(data)
    if isinstance(data, Mapping):
        return _one(data)
    return "" if data is None else str(data)


def _listed(rows: list[Any]) -> str:
    if not rows:
        return "There is nothing to show."
    lines = [
        f"{place}. {_line(row) if isinstance(row, Mapping) else row}"
        for place, row in enumerate(rows[:LISTED_MAX], 1)
    ]
    more = " There are more." if len(rows) > LISTED_MAX else ""
    return "; ".join(lines) + "." + more


def _line(row: Mapping[str, Any]) -> str:
    head = _head(row)
    facts = [f for f in _facts(row, 3) if f]
    return ", ".join(part for part in (head, *facts) if part)


def _one(row: Mapping[str, Any]) -> str:
    head, facts = _head(row), _facts(row, FIELDS_MAX)
    said = [f"{head}." if head else ""]
    said += [", ".join(facts)[:1].upper() + ", ".join(facts)[1:] + "." if facts else ""]
    lists = [
        f"{_plain(name).capitalize()}: {_listed(value)}"
        for name, value in row.items()
        if isinstance(value, list) and value and not _is_hidden(name)
    ]
    return " ".join(part for part in (*said, *lists[:2]) if part)


def _head(row: Mapping[str, Any]) -> str:
    name = next((n for n in _NAMES if row.get(n) not in (None, "")), None)
    state = next((str(row[s]) for s in _STATES if row.get(s)), "")
    shown = "" if name is None else (f"#{row[name]}" if name == "number" else str(row[name]))
    return f"{shown} is {_plain(state)}" if shown and state else shown or _plain(state)


def _facts(row: Mapping[str, Any], limit: int) -> list[str]:
    taken = {next((n for n in _NAMES if row.get(n) not in (None, "")), ""), *_STATES}
    currency = row.get("currency")
    facts = []
    for name, value in row.items():
        if name in taken or _is_hidden(name) or value in (None, "", [], {}):
            continue
        said = _value(name, value, currency)
        if said is not None:
            facts.append(f"{_plain(name.removesuffix('_amount').removesuffix('_at'))} {said}")
    return facts[:limit]


def _value(name: str, value: Any, currency: Any) -> str | None:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        if name.endswith("amount") and isinstance(currency, str):
            return str(Money(value, currency))
        return str(value)
    if isinstance(value, str):
        return value[:10] if name.endswith(("_at", "_on")) else value[:120]
    return None


def _is_hidden(name: str) -> bool:
    return any(name == part or name.endswith((f"_{part}", f"{part}s")) for part in _HIDDEN)


def _plain(name: str) -> str:
    return name.replace("_", " ")
