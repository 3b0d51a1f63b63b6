# ruff: noqa: E501  A pattern stays on one line: broken up, nobody could read it.
"""Decide which operation a message asks for, how sure that is, and how it is meant.

A message is compared with what is said for every operation, and for everything no shop can serve.
A doubtful read is tried; a doubtful write becomes a question.
"""

import re
from collections.abc import Collection
from dataclasses import replace

from agents.base import SUPPLIED
from agents.phrases import NONE
from agents.planner_answer import answer
from agents.planner_context import Context, named_in
from agents.planner_deed import by_form
from agents.planner_evidence import is_asked, is_foreign, is_plain, leaves_open, strays, wish_in
from agents.planner_follow import Following, following, sought_in, stated
from agents.planner_frame import Mode, frame_of
from agents.planner_hear import ACT_MIN, SAME_MIN, Heard, Intent, hear, is_address
from agents.planner_score import Score
from agents.planner_slots import (
    phrase_in,
    sku_in,
)
from agents.planner_text import words
from agents.planner_tokens import ID, SKU
from tools.registry import OPERATIONS, Operation, Risk

READ_MIN = 0.6
WRITE_MIN = 0.6
# A search fits nearly anything, so it takes more to be meant.
SEARCH_MIN = 0.64
_FREE_READS = frozenset(("product.search", "product.get"))
# A write is done as asked if it is this much likelier than all else.
ACT_MARGIN = 0.06
# An operation the person may use is preferred to a likelier one they may not, within this.
ALLOWED_MARGIN = 0.15
TWIN_MARGIN = 0.25
# Words that tell much together are enough where no one phrase says the same.
LIKELY_MIN, LIKELY_ODDS, LIKELY_TOLD_ODDS = 0.45, 8.0, 9.0
# Words this telling are about the shop, whatever else one of them may be about elsewhere.
OURS_ODDS = 12.0
NONE_MARGIN = 0.1
# By so much more it has to be likelier where it is about something that the message does not name.
UNNAMED_MARGIN = 0.15
# What names something of ours, by its id or SKU, is hardly about anything else.
OURS_MIN = 0.45
SHORT_WORDS_MAX = 5
# A thing that is sought is searched for unless the message is this like what is not ours.
SOUGHT_NONE_MAX, SOUGHT_THING_NONE_MAX = 0.55, 0.63

_SEEKS = re.compile(
    r"^(?:(?:i|we) (?:am |are )?(?:really |also |just |still )?(?:need|want|would like|would love|"
    r"looking (?:for|to buy)|look for|searching (?:for)?|shopping for|hunting for|in need of|after|"
    r"interested in|need to (?:buy|get|find|order|purchase)|want to (?:buy|get|find)|would like to (?:buy|get|find))|"
    r"(?:please )?(?:find|show|get|give|look|search|recommend|suggest|buy|order)(?: me)?(?: for)?|help me (?:find|choose|get|buy)|need to (?:buy|get|find|order)|"
    r"looking for|searching for|in search of|where can i (?:find|get|buy))\s+"
    r"(?!to\b|that\b|this\b|it\b|them\b|all\b|everything\b|#money|money\b|ten dollars|someone\b|somebody\b|you\b|your\b|my\b|the (?:name|time|date|way|number|nearest|best way|weather|meaning|definition|balance|news)\b|help\b|assistance\b|information\b|how\b|what\b|when\b|where\b|who\b|why\b|out\b|directions\b|up\b)"
    r"(?:(?:some|any|an?|the|one|two|three|new|good|nice|\d+|pair of|set of)\s+)*(?=\w)"
)
_ASKS = re.compile(
    r"^(?:am|are|is|was|were|did|does|do (?:you|i|we)|has|why|who|when|where|which)\b"
)
_LOOKS_FOR = re.compile(
    r"^(?:(?:i|we) am |i )?(?:looking|look|searching|search|shopping|hunting) for\b"
)
ACTS = (
    "buy|check|add|put|remove|cancel|place|change|adjust|deliver|ship|pay|order|refund|return|"
    "exchange|delete|close|transfer|receive|hand|take|empty|rename|send|book|write|swap|charge"
)
_REFERS = re.compile(r"\b(?:it|them|that|those|this|one|ones|first|second|third|last)\b")
_SAME = re.compile(
    r"^(?:and |also |now |then )*(?:(?:the )?same (?:for|with|again for)|(?:what|how) about|and for)\b"
)
# Two operations for one wish: what a shopper asks for, and what staff do.
_SHOPPERS, _STAFFS = "return.request", "refund.request"
_MONEY_BACK = re.compile(r"\b(?:refund|reimburse|pay|money)|#money")


def understand(text: str, context: Context, allowed: Collection[str]) -> Intent:
    """Return the operation `text` asks for, out of all; one not `allowed` is reported as such."""
    heard = hear(text, named_in(context))
    answered = answer(text, heard, context, allowed)
    if answered is not None:
        return answered
    if heard.refuses and re.fullmatch(ACTS, heard.refuses):
        return Intent(None, "declined")
    again = _again(heard, context)
    if again is not None:
        return again
    if (follows := following(heard.written, context, allowed)) is not None:
        return _following(follows, heard)
    return _chosen(text, heard, context, allowed)


def _following(found: Following, heard: Heard) -> Intent:
    return Intent(
        OPERATIONS[found.key],
        mode=heard.mode,
        is_sure=found.is_sure,
        slots=dict(found.slots),
        about=found.about,
    )


def _chosen(text: str, heard: Heard, context: Context, allowed: Collection[str]) -> Intent:
    scores = [s for s in heard.scores if s.is_none or s.key in OPERATIONS]
    if _is_about_context(heard, context):
        scores = [s for s in scores if s.key != f"{NONE}.small_talk"]
    scores = _by_role(heard, by_form(heard.core, _with_id(heard, scores), allowed), allowed)
    if not scores:
        return _sought(text, heard, allowed) or Intent(None, _reason_without(heard))
    best = _judged(heard, scores)
    fit = next((s for s in scores if s.key in allowed), None)
    least = _least(heard, best)
    if best.is_none or best.value < least:
        doubtful = max(least, SOUGHT_THING_NONE_MAX) if best.is_none else least
        is_sought = best.value < doubtful or stated(heard.written) is not None
        sought = _sought(text, heard, allowed) if is_sought else None
        if sought is not None:
            return sought
        talk = best.key == f"{NONE}.small_talk" and best.value >= READ_MIN
        return Intent(None, "small_talk" if talk else "out_of_scope")
    if best.key not in allowed:
        if fit is None or fit.value < max(least, best.value - ALLOWED_MARGIN):
            return Intent(None, "not_allowed")
        best = fit
    operation = OPERATIONS[best.key]
    is_write = operation.risk is not Risk.READ
    if _is_out_of_place(text, heard, best, operation):
        return Intent(None, "out_of_scope")
    seeks = _LOOKS_FOR.match(heard.said) if is_write else _SEEKS.match(heard.said)
    if seeks and (is_write or operation.key == "product.get"):
        return _sought(text, heard, allowed) or Intent(None, "out_of_scope")
    twins = {_SHOPPERS, _STAFFS} if best.key in (_SHOPPERS, _STAFFS) else {best.key}
    # `place the order` is a deed, whatever is shown of orders that were placed.
    is_deed = is_write and re.match(rf"(?:{ACTS})\b", heard.core) is not None
    rivals = (
        s.value
        for s in scores
        if s.key not in twins
        and not (is_deed and s.key in OPERATIONS and OPERATIONS[s.key].risk is Risk.READ)
    )
    rival = max(rivals, default=0.0)
    if is_write and best.value < min(WRITE_MIN, least):
        return Intent(None, "out_of_scope")
    is_sure = best.value >= ACT_MIN and best.value - rival >= ACT_MARGIN
    if is_write and is_sure and not is_address(text):
        is_sure = is_plain(heard.core, frame_of(heard.written).core, best, operation)
    if best.words < 2 and len(words(heard.said)) > SHORT_WORDS_MAX and not is_address(text):
        is_sure = False  # One word of many in common may be about anything.
    if _ASKS.match(heard.said) or len(words(heard.said)) == 1:
        is_sure = False  # `am I talking to a person` asks; a word alone may be about anything.
    if heard.mode is Mode.HELP and len(words(heard.core)) < 2:
        is_sure = False  # `payment help` is no request to pay.
    return Intent(operation, mode=heard.mode, is_sure=is_sure)


def _least(heard: Heard, best: Score) -> float:
    """Return how like an operation a message has to be for it to be meant at all."""
    if best.key in _FREE_READS:
        return SEARCH_MIN
    if ID in heard.said or SKU in heard.said:
        return OURS_MIN
    odds = LIKELY_ODDS if is_asked(heard.core) else LIKELY_TOLD_ODDS
    return LIKELY_MIN if best.proof >= odds else READ_MIN


def _judged(heard: Heard, scores: list[Score]) -> Score:
    """Return what is meant: the likeliest operation that is likely enough, unless what is not ours
    is more like it; where no one phrase says the same, it has to be likelier clearly."""
    ours = [score for score in scores if not score.is_none]
    others = [score for score in scores if score.is_none]
    best = next((s for s in ours if s.value >= _least(heard, s)), ours[0] if ours else others[0])
    if best.value >= READ_MIN:
        mine = best.value - UNNAMED_MARGIN if best.is_unnamed else best.value
        return next((other for other in others if other.value > mine), best)
    return next((other for other in others if best.proven < other.proven + NONE_MARGIN), best)


def _with_id(heard: Heard, scores: list[Score]) -> list[Score]:
    """Keep to operations that take an id where one is given: nobody else has such things."""
    if ID not in heard.said:
        return scores
    fitting = [s for s in scores if not s.is_none and _takes_id(OPERATIONS[s.key])]
    return fitting if fitting and fitting[0].value >= OURS_MIN else scores


def _takes_id(operation: Operation) -> bool:
    return any(
        (name.endswith("_id") or name in ("payment_method", "token"))
        # Of what makes something, it is the key of what is made, which nobody says.
        and (parameter.default is parameter.empty or operation.risk in (Risk.READ, Risk.BULK))
        for name, parameter in operation.parameters.items()
        if name not in SUPPLIED
    )


def _by_role(heard: Heard, scores: list[Score], allowed: Collection[str]) -> list[Score]:
    """Let money back mean what this person does about it, whichever way they put it."""
    if not scores or scores[0].key not in (_SHOPPERS, _STAFFS):
        return scores
    wanted = _STAFFS if _STAFFS in allowed and _MONEY_BACK.search(heard.core) else _SHOPPERS
    likely = scores[0].value - TWIN_MARGIN
    twin = next((s for s in scores if s.key == wanted and s.value >= likely), None)
    if twin is None or twin.key == scores[0].key:
        return scores
    return [replace(twin, value=scores[0].value), *(s for s in scores if s is not twin)]


def _is_out_of_place(text: str, heard: Heard, best: Score, operation: Operation) -> bool:
    """Tell whether a message that is like an operation is about something else altogether."""
    if is_address(text) or sku_in(text):
        return False
    if best.value >= SAME_MIN and best.words > 1 and not strays(heard.core, best, operation):
        return False  # Word for word what we serve, whatever else those words may mean elsewhere.
    names_product = bool({"sku", "handle_or_sku", "query"} & operation.parameters.keys())
    if best.proof < OURS_ODDS and is_foreign(wish_in(heard.written), names_product=names_product):
        return operation.risk is not Risk.READ or best.value < ACT_MIN or names_product
    if operation.risk is Risk.READ or best.words > 1 or "#" in heard.core:
        return False
    # One word in common with what leaves the rest open, among words that are not: not even asked.
    return (
        leaves_open(best)
        and bool(strays(heard.core, best, operation))
        and len(words(heard.said)) > 2
    )


def _reason_without(heard: Heard) -> str:
    """Words without weight, such as thanks, are talk; what is like nothing at all is not ours."""
    return "out_of_scope" if heard.scores or len(words(heard.said)) > 3 else "small_talk"


def _sought(text: str, heard: Heard, allowed: Collection[str]) -> Intent | None:
    """Take `I need a brass compass` as a search: nothing else is like it, and reading does no harm."""
    if "product.search" not in allowed or not phrase_in(text):
        return None
    if (says := stated(heard.written)) is not None:
        # Of `flights to Rome` the name alone could be one of a thing, as `pizza stone` is.
        read = (str(says.slots["query"]), sought_in(heard.written))
        is_ours = not any(is_foreign(text, names_product=True) for text in read)
        return _following(says, heard) if is_ours else None
    seeks = _SEEKS.match(heard.said) or _SEEKS.match(heard.core)
    if not seeks:
        return None
    none = next((score.value for score in heard.scores if score.is_none), 0.0)
    thing = sought_in(seeks.string[seeks.end() :])
    query = phrase_in(thing)
    # Whom it is for and why has not to be ours, as long as the thing has.
    is_short = bool(query) and thing != seeks.string[seeks.end() :].strip()
    about = thing if is_short else heard.written
    most = SOUGHT_THING_NONE_MAX if is_short else SOUGHT_NONE_MAX
    if none >= most or is_foreign(about, names_product=True):
        return None
    slots = {"query": query} if is_short else {}
    return Intent(OPERATIONS["product.search"], mode=heard.mode, is_sure=False, slots=slots)


def _is_about_context(heard: Heard, context: Context) -> bool:
    known = bool(context.candidates or context.orders or context.focus_order or context.focus_sku)
    return known and bool(_REFERS.search(heard.said))


def _again(heard: Heard, context: Context) -> Intent | None:
    """Take `same for the blue one` as the last operation, for another product or order."""
    last = context.last_operation
    if last is None or last not in OPERATIONS or not _SAME.match(heard.said):
        return None
    operation = OPERATIONS[last]
    kept = {
        name: value
        for name, value in context.last_arguments.items()
        if name in operation.parameters and name not in ("sku", "handle_or_sku", "number", "query")
    }
    explicit = "same" in heard.said
    return Intent(operation, is_sure=explicit, kept=kept)
