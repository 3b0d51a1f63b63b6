"""The terms of an offer, as people write them: its code, its per cent, its limits and its time."""

import re
from collections.abc import Callable, Mapping
from typing import Any

from agents.planner_context import Context
from agents.planner_dates import bound_in
from agents.planner_numbers import CALLED

_NAMED = re.compile(
    r"\b(?:code|coupon|voucher|card|promo|discount|called|named)\b"
    r"(?=\s*(?:is|=)?\s*[:\"'“]?\s*([a-z0-9][a-z0-9_-]{2,39})(?![\w-]))",
    re.IGNORECASE,
)
_CAPITALS = re.compile(r"(?<![\w@.-])([A-Z0-9][A-Z0-9_-]{2,39})(?![\w@-])")
_NO_CODES = frozenset((*CALLED, "VAT", "SKU"))
_PERCENT = re.compile(r"(?<![\w.,-])(\d{1,3})\s?(?:%|per ?cent\b|pct\b)", re.IGNORECASE)
_USES = re.compile(
    r"\b(?:first|most|max|maximum(?: of)?)\s+(\d{1,8})\b"
    r"|(?<![\w.,-])(\d{1,8})\s+(?:uses|times|orders|buyers|customers|people)\b",
    re.IGNORECASE,
)
_MINIMUM = re.compile(
    r"\b(?:(?:orders?|carts?|goods|purchases?|baskets?)\s+)?"
    r"(?:over|above|from|of at least|at least|minimum(?: of)?|min\.?|worth)\s+"
    r"(\S{0,4}\s?\d[\d.,]*(?:\s?(?:[a-z]+|[€£$]))?(?:\s+or more)?)",
    re.IGNORECASE,
)


def code_in(text: str) -> str | None:
    """Return the one code that is written: in capitals, or with digits beside a word for codes."""
    found = {m for m in _CAPITALS.findall(text) if re.search(r"[A-Z]", m)} - _NO_CODES
    found |= {
        m.upper()
        for m in _NAMED.findall(text)
        if re.search(r"[a-z].*\d|\d.*[a-z]", m, re.IGNORECASE)
    }
    return found.pop() if len(found) == 1 else None


def percent_in(text: str) -> int | None:
    found = {int(n) for n in _PERCENT.findall(text)}
    return found.pop() if len(found) == 1 else None


def uses_in(text: str) -> int | None:
    found = {int(a or b) for a, b in _USES.findall(text)}
    return found.pop() if len(found) == 1 else None


def minimum_apart(text: str) -> tuple[str, str]:
    """Return what is said without, and of, the least that goods have to cost."""
    said = _MINIMUM.search(text)
    if said is None:
        return text, ""
    return text[: said.start()] + " " + text[said.end() :], said[1]


def _bound(text: str, context: Context, *, is_upper: bool) -> str | None:
    return bound_in(text, context.today, is_upper=is_upper, is_ahead=True)


# By parameter name, as in `planner_slots.EXTRACTORS`.
TERMS: Mapping[str, Callable[[str, Context], Any]] = {
    "code": lambda text, context: code_in(text),
    "percent": lambda text, context: percent_in(text),
    "uses_max": lambda text, context: uses_in(text),
    "starts_at": lambda text, context: _bound(text, context, is_upper=False),
    "ends_at": lambda text, context: _bound(text, context, is_upper=True),
}
