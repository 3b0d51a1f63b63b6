# ruff: noqa: E501  A pattern stays on one line: broken up, nobody could read it.
"""Tell whether a message answers the question that was just asked."""

import re
from collections.abc import Collection

from agents.planner_context import Context
from agents.planner_hear import ACT_MIN, SAME_MIN, Heard, Intent, fresh
from agents.planner_slots import (
    EXTRACTORS,
    PRODUCT_SLOTS,
    matching,
    ordinal_in,
    phrase_in,
    sku_in,
    variants_named,
)
from agents.planner_text import words
from tools.registry import OPERATIONS, Risk

CONFIRM = "confirm"
# What names a product is short; a longer message tells something.
NAMED_WORDS_MAX = 3
_INQUIRES = re.compile(
    r"(?:do|does|did|is|are|was|were|have you|has|what|how|when|where|why|who|can|could)\b"
)
_NO = re.compile(
    r"(?:no|nope|nah|never ?mind|forget it|stop|cancel|nothing|none|do not|please do not|better not|"
    r"not now|leave it)(?: thanks?| thank you| of them| that| it)*[ .!]*"
)
_YES = re.compile(
    r"(?:yes|yeah|yep|yup|sure|ok|okay|please|please do|do it|do that|go ahead|of course|"
    r"correct|right|exactly|fine|alright|absolutely|definitely|confirm|confirmed|i do|that one)"
    r"(?:[ ,.!]+(?:please|thanks?|thank you|do it|do that|do so|go ahead|that is right|sure|yes))*[ .!]*"
)


def answer(text: str, heard: Heard, context: Context, allowed: Collection[str]) -> Intent | None:
    """Take the message as the answer to the question just asked, if it can be one."""
    asked = context.question
    if not asked or asked["operation"] not in OPERATIONS:
        return None
    said, missing = heard.said, asked["missing"]
    if _NO.fullmatch(said) or heard.refuses:
        return Intent(None, "declined")
    operation = OPERATIONS[asked["operation"]]
    if missing == CONFIRM:
        if not _YES.fullmatch(said):
            return None
        return Intent(operation, answers_question=True, slots=dict(asked["slots"]))
    asks = fresh(heard, allowed)
    says_more = missing not in ("reason", "name", "note") and (
        len(words(said)) > 2 or _is_like(heard, SAME_MIN)
    )
    if asks is not None and asks != operation.key and says_more:
        return None
    chosen = (*PRODUCT_SLOTS, "lines", "changes")
    if operation.risk is not Risk.READ and missing in chosen and _INQUIRES.match(said):
        return None  # `do you have it in blue?` chooses nothing.
    if missing in PRODUCT_SLOTS:
        fits = _names_one(text, heard, context)
    elif missing in EXTRACTORS and missing not in ("reason", "name", "note"):
        fits = EXTRACTORS[missing](text, context) is not None or missing == "query"
    else:
        fits = bool(said) and not (asks is not None and _is_like(heard, ACT_MIN))
    if not fits or _is_elsewhere(heard):
        return None
    return Intent(operation, answers_question=True, slots=dict(asked["slots"]))


def _names_one(text: str, heard: Heard, context: Context) -> bool:
    """Tell whether a message may say which product is meant: by its place, its SKU or its name."""
    if ordinal_in(text) is not None or sku_in(text):
        return True
    phrase = phrase_in(text)
    if not phrase:
        return False
    if matching(phrase, context.candidates) or variants_named(text, context.candidates):
        return True
    best = heard.scores[0] if heard.scores else None
    is_talk = best is not None and best.is_none and best.value >= ACT_MIN
    return not is_talk and len(words(phrase)) <= NAMED_WORDS_MAX


def _is_like(heard: Heard, least: float) -> bool:
    return bool(heard.scores) and heard.scores[0].value >= least


def _is_elsewhere(heard: Heard) -> bool:
    best = heard.scores[0] if heard.scores else None
    return best is not None and best.is_none and best.value >= ACT_MIN and len(heard.said) > 20
