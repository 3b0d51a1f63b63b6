# ruff: noqa: E501  A pattern stays on one line: broken up, nobody could read it.
"""Tell by its form what a message is: a deed, a look at deeds done, or a question.

`refund order 1001` and `refunds of order 1001` have all their words in common, and are told apart
by the one letter.
"""

import re
from collections.abc import Callable, Collection
from dataclasses import replace
from typing import Final

from agents.planner_score import Score
from tools.registry import OPERATIONS, Risk

_OF = r"(?:(?:the|my|this|that|of|whole|full|entire|complete|last|latest|first|second|third|newest|oldest|customer s) )*"
# What a verb does to an order.
DEEDS: Final = {
    "refund": "refund.request",
    "return": "return.request",
    "exchange": "exchange.request",
    "cancel": "checkout.cancel",
    "ship": "order.ship",
    "dispatch": "order.ship",
}
# What it is done to there, where the verb stands first.
_OBJECTS: Final = {
    "refund": r"(?:order|#number|#money|customer)\b",
    "return": r"(?:order|#number)\b",
    "exchange": r"(?:order|#number)\b",
    "cancel": r"(?:order|#number)\b(?! (?:edit|change))",
    "ship": r"(?:order|one|#number)\b",
    "dispatch": r"(?:order|one|#number)\b",
}
_PATTERNS: Final = (
    *((DEEDS[verb], re.compile(rf"{verb} {_OF}{what}")) for verb, what in _OBJECTS.items()),
    ("inventory.receive", re.compile(r"restock\b")),
)
_DONE = re.compile(
    r"(?:(?:any|all|the|my|our|of|which|what|are|there|open|recent|latest|newest|past) )*"
    r"(refund|return|exchange|capture|transfer|payment)s\b"
)
_ASKS = re.compile(r"(?:which|what|who|whose|how many|how much|when|where)\b")
# To give a price is no look at one.
_PRICES = re.compile(r"(?:set|change|raise|increase|lower|reduce|drop|put|update)\b.*\bprices?\b")
# How like it a look at deeds may at least be, and what answers a question.
LOOK_MIN, READ_MIN = 0.5, 0.45
# A write this like what was said is meant, even in the form of a question.
PLAIN_MIN = 0.78
# The catalogue is kept elsewhere; what is in a cart or an order is no product of it.
_DELISTS = re.compile(
    r"delete (?:the |this )?products?(?: #sku)?(?: from (?:the|our) (?:shop|store|catalogue|range))?"
)
# What undoes a deed is meant by words that take it back, and by no others.
_TAKES_BACK = re.compile(
    r"\b(?:not|never|un\w+|undo|mistake\w*|accident\w*|error|back|reverse|revoke|wrong\w*|still)\b"
)
_MINE, _ALL = "order.list_mine", "order.list_all"


def by_form(core: str, scores: list[Score], allowed: Collection[str]) -> list[Score]:
    """Put first what the form of a message says it is; the rest keep their order."""
    if _PRICES.match(core):
        scores = [score for score in scores if not score.key.startswith("product.")]
    if not scores or scores[0].is_none:
        return scores
    if _DELISTS.fullmatch(core):
        return [replace(scores[0], key="none.assortment")]
    deed = next((key for key, pattern in _PATTERNS if pattern.match(core)), None)
    if deed is not None:
        return _first(scores, lambda score: score.key == deed)
    if done := _DONE.match(core):
        domain = f"{done[1]}."
        return _first(
            scores,
            lambda s: s.key.startswith(domain) and _reads(s) and s.value >= LOOK_MIN,
        )
    if _ASKS.match(core) and not _reads(scores[0]) and scores[0].value < PLAIN_MIN:
        scores = _first(scores, lambda s: not s.is_none and _reads(s) and s.value >= READ_MIN)
    best = scores[0].key
    if not scores[0].is_none and ".un" in best and not _TAKES_BACK.search(core):
        scores = _first(scores, lambda score: score.key == OPERATIONS[best].inverse)
    if scores[0].key == _MINE and _ALL in allowed and not re.search(r"\b(?:my|mine|i)\b", core):
        return _first(scores, lambda score: score.key == _ALL)
    return scores


def _reads(score: Score) -> bool:
    return not score.is_none and OPERATIONS[score.key].risk is Risk.READ


def _first(scores: list[Score], fits: Callable[[Score], bool]) -> list[Score]:
    found = next((score for score in scores if fits(score)), None)
    if found is None or found is scores[0]:
        return scores
    best = max(found.value, scores[0].value)
    return [replace(found, value=best), *(score for score in scores if score is not found)]
