# ruff: noqa: E501  A pattern stays on one line: broken up, nobody could read it.
"""Tell whether a message answers the question that was just asked."""

import re
from collections.abc import Collection

from agents.planner_context import Context
from agents.planner_fill import FREE, takes_address
from agents.planner_follow import is_place
from agents.planner_hear import ACT_MIN, SAME_MIN, Heard, Intent, fresh, is_address
from agents.planner_numbers import says_all, says_part
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
from agents.planner_tokens import split
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


# `oh no, I meant …`, `sorry, make that …`: what was made out before is wrong in part.
_CORRECTS = re.compile(
    r"^(?:(?:no|nope|oh|oops|sorry|wait|hold on|actually|ok|okay|well|my mistake|i am sorry|yes|but)\b[ ,.!-]*)*"
    r"(?:i (?:mean|meant|was (?:talking|asking) about)|(?:make|change) (?:it|that|this|them)(?: to)?|"
    r"it (?:is|was|should be)|rather|but)?\b[ ,:]*"
)
# Said of amounts and numbers alone, it names them and tells no reason.
_DETAILS = re.compile(
    r"(?:(?:#(?:number|money|sku|count|id|email|date)|order|number|the|of|for|it|is|at|in|on|to|not|"
    r"just|only|units?|one|and|a)\b[ ,.]*)+"
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
    found = Intent(operation, answers_question=True, slots=dict(asked["slots"]))
    if missing == CONFIRM and _YES.fullmatch(said):
        return found
    if takes_address(operation) and is_address(text):
        found.adds = text
        return found
    if missing == "amount" and (says_all(text) or says_part(text)):
        return found
    is_listed = missing in PRODUCT_SLOTS or missing.endswith("_id")
    if is_listed and is_place(heard.written):
        return found
    asks = fresh(heard, allowed)
    says_more = missing not in FREE and (len(words(said)) > 2 or _is_like(heard, SAME_MIN))
    if asks is not None and asks != operation.key and says_more:
        return None
    if missing in (CONFIRM, *FREE) and _is_detail(heard.written):
        found.adds = text
        return found
    if missing == CONFIRM:
        return None
    chosen = (*PRODUCT_SLOTS, "lines", "changes")
    if operation.risk is not Risk.READ and missing in chosen and _INQUIRES.match(said):
        return None  # `do you have it in blue?` chooses nothing.
    if missing in PRODUCT_SLOTS:
        fits = _names_one(text, heard, context)
    elif missing in EXTRACTORS and missing not in FREE:
        fits = EXTRACTORS[missing](text, context) is not None or missing == "query"
    elif missing in FREE:
        fits = bool(said) and not _INQUIRES.match(said) and (asks is None or not _commands(heard))
    else:
        fits = bool(said) and not (asks is not None and _is_like(heard, ACT_MIN))
    if not fits or _is_elsewhere(heard):
        return None
    return found


def _is_detail(said: str) -> bool:
    """Tell whether a message only says more of what was asked for, or corrects it."""
    rest = " ".join(split(said[end.end() :] if (end := _CORRECTS.match(said)) else said))
    return "#" in rest and _DETAILS.fullmatch(rest) is not None


def agrees(text: str) -> bool:
    """Tell whether a message that says more begins with a yes."""
    return (
        re.match(r"\s*(?:yes|yeah|yep|yup|sure|ok|okay|please do|do it)\b", text, re.I) is not None
    )


def _commands(heard: Heard) -> bool:
    """Tell whether a message is a wish of its own rather than a reason: it says what to do."""
    is_told = re.match(r"(?:i|we|it|he|she|they|the|my|our|customer)\b", heard.core) is not None
    return _is_like(heard, ACT_MIN) and not is_told


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
