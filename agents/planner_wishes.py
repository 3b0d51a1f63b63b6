"""Tell the several wishes of one message apart."""

import re
from collections.abc import Collection
from itertools import islice
from typing import Final

from agents.planner_context import Context, named_in
from agents.planner_hear import SAME_MIN, Heard, fresh, hear
from agents.planner_intent import ACTS

# Each try hears both sides in full: of a message of nothing but `and`, that would take seconds in
# which nobody else is answered.
CUTS_TRIED_MAX: Final = 12


def wishes_in(text: str, context: Context, allowed: Collection[str], limit: int) -> list[str]:
    """Split a message where both sides ask for something different; otherwise leave it whole."""
    named = named_in(context)
    whole = hear(text, named).scores
    if whole and not whole[0].is_none and whole[0].value >= SAME_MIN:
        return [text]
    pieces = [text]
    for separator in (
        r"[.!?]\s+(?=[A-Za-z])",
        r"\s*;\s*",
        r",?\s+(?:and then|then|and also|but|and)\s+",
        r",\s+(?=(?:what|where|when|how|show|tell|add|remove|cancel|is|are|do)\b)",
    ):
        pieces = [part for piece in pieces for part in _cut(piece, separator, named, allowed)]
    return pieces[:limit]


def _cut(
    text: str,
    separator: str,
    named: frozenset[str],
    allowed: Collection[str],
    tries: int = CUTS_TRIED_MAX,
) -> list[str]:
    places = islice(re.finditer(separator, text), tries)
    for tried, match in enumerate(places, start=1):
        left, right = text[: match.start()].strip(), text[match.end() :].strip()
        if not left or not right:
            continue
        first, second = hear(left, named), hear(right, named)
        if _asks(first, allowed) and _asks(second, allowed) and _differ(first, second, allowed):
            if "because" in first.said and not first.refuses:
                continue  # What follows is still the reason.
            return [left, *_cut(right, separator, named, allowed, tries - tried)]
    return [text]


def _asks(heard: Heard, allowed: Collection[str]) -> bool:
    return fresh(heard, allowed) is not None or bool(
        heard.refuses and re.fullmatch(ACTS, heard.refuses)
    )


_LOOKS = frozenset(("product.search", "inventory.levels", "product.get"))


def _differ(first: Heard, second: Heard, allowed: Collection[str]) -> bool:
    if first.refuses or second.refuses:
        return True
    one, other = fresh(first, allowed), fresh(second, allowed)
    return one != other and not {one, other} <= _LOOKS
