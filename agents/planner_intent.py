# ruff: noqa: E501  A pattern stays on one line: broken up, nobody could read it.
"""Decide which operation a message asks for, how sure that is, and how it is meant.

A message is compared with what is said for every operation, and for everything no shop can serve.
A doubtful read is tried; a doubtful write becomes a question.
"""

import re
from collections.abc import Collection
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any

from agents.base import SUPPLIED
from agents.phrases import NONE
from agents.planner_context import Context, named_in
from agents.planner_deed import by_form
from agents.planner_evidence import is_asked, is_foreign, is_plain, leaves_open, strays, wish_in
from agents.planner_follow import Following, following, sought_in, stated
from agents.planner_frame import Mode, frame_of
from agents.planner_score import Score, index
from agents.planner_slots import (
    EXTRACTORS,
    PRODUCT_SLOTS,
    address_in,
    matching,
    ordinal_in,
    phrase_in,
    sku_in,
    variants_named,
)
from agents.planner_text import normalize, words
from agents.planner_tokens import ADDRESS, ID, SKU, marked, plain
from tools.registry import OPERATIONS, Operation, Risk

READ_MIN = 0.6
WRITE_MIN = 0.6
# A search fits nearly anything, so it takes more to be meant.
SEARCH_MIN = 0.64
_FREE_READS = frozenset(("product.search", "product.get"))
# From here on a write is done as asked, if it is also this much likelier than all else.
ACT_MIN = 0.78
ACT_MARGIN = 0.06
# An operation the person may use is preferred to a likelier one they may not, within this.
ALLOWED_MARGIN = 0.15
TWIN_MARGIN = 0.25
SAME_MIN = 0.97
# Words that tell much together are enough where no one phrase says the same.
LIKELY_MIN, LIKELY_ODDS, LIKELY_TOLD_ODDS = 0.45, 8.0, 9.0
# Words this telling are about the shop, whatever else one of them may be about elsewhere.
OURS_ODDS = 12.0
NONE_MARGIN = 0.1
# By so much more it has to be likelier where it is about something that the message does not name.
UNNAMED_MARGIN = 0.15
# What names something of ours, by its id or SKU, is hardly about anything else.
OURS_MIN = 0.45
SPLIT_MIN = 0.7
# What names a product is short; a longer message tells something.
NAMED_WORDS_MAX = 3
SHORT_WORDS_MAX = 5
# A thing that is sought is searched for unless the message is this like what is not ours.
SOUGHT_NONE_MAX, SOUGHT_THING_NONE_MAX = 0.55, 0.63
# Comparing costs time; what is longer than this tells a story, and the story is cut.
COMPARED_CHARS_MAX = 400

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
_INQUIRES = re.compile(
    r"(?:do|does|did|is|are|was|were|have you|has|what|how|when|where|why|who|can|could)\b"
)
_LOOKS_FOR = re.compile(
    r"^(?:(?:i|we) am |i )?(?:looking|look|searching|search|shopping|hunting) for\b"
)
_ACTS = (
    "buy|check|add|put|remove|cancel|place|change|adjust|deliver|ship|pay|order|refund|return|"
    "exchange|delete|close|transfer|receive|hand|take|empty|rename|send|book|write|swap|charge"
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
_REFERS = re.compile(r"\b(?:it|them|that|those|this|one|ones|first|second|third|last)\b")
_SAME = re.compile(
    r"^(?:and |also |now |then )*(?:(?:the )?same (?:for|with|again for)|(?:what|how) about|and for)\b"
)
_CLAUSES = re.compile(r"\s*[,.;:?!]\s+|\s+because\s+|\s+-\s+|(?<=\w)\s+(?=where (?:is|are) my\b)")
CLAUSES_MAX = 5
# A clause further back is never enough for a write without asking.
FIRST_CLAUSE, LATER_CLAUSE = 0.93, 0.77
_POINTING = re.compile(
    r"(?:\bof )?\b(?:the )?(?:first|second|third|fourth|fifth|sixth|last)(?: one| product| item)?\b"
)
# What is written on a thing is part of its name, whatever it says.
_INSCRIBED = re.compile(
    r"\s(?:(?:that|which) (?:says?|reads?)|saying|reading|(?:called|named|titled|labelled)|"
    r"with (?:the |a )?(?:words?|text|slogan|inscription|message|caption|print)(?: on it)?)\s.+$"
)
CLAUSE_OF_NONE = 0.6
# With its wrapping on, a wish is hardly less like itself: this settles who is first, no more.
WRAPPED = 0.999
# Two operations for one wish: what a shopper asks for, and what staff do.
_SHOPPERS, _STAFFS = "return.request", "refund.request"
_MONEY_BACK = re.compile(r"\b(?:refund|reimburse|pay|money)|#money")
CONFIRM = "confirm"


@dataclass(slots=True)
class Intent:
    """What was asked. Without an operation, `reason` says why none fits."""

    operation: Operation | None
    reason: str = "ok"
    mode: Mode = Mode.REQUEST
    is_sure: bool = True
    """Whether a write may be done without asking back."""
    answers_question: bool = False
    slots: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Heard:
    """A message as it is compared, and how like each operation it is."""

    said: str
    written: str
    """The same with its slips."""
    mode: Mode
    core: str
    refuses: str | None
    scores: tuple[Score, ...]


@lru_cache(maxsize=1024)
def hear(text: str, named: frozenset[str] = frozenset()) -> Heard:
    """Read a message without regard to the conversation, but for what that has `named`."""
    of = index()
    shown = text if len(text) <= COMPARED_CHARS_MAX else text[:COMPARED_CHARS_MAX]
    written = plain(normalize(marked(shown)))
    said = of.speller.mend(written)
    frame = frame_of(said)
    best: dict[str, Score] = {}
    for reading, worth in _readings(text, written, said, frame.core):
        for score in of.rank(reading, named):
            # What a clause says of something else does not outweigh what another asks for.
            value = score.value * (
                worth if worth >= WRAPPED or not score.is_none else CLAUSE_OF_NONE
            )
            if score.key not in best or value > best[score.key].value:
                best[score.key] = replace(score, value=value)
    scores = of.judge(frame.core, named, best.values())
    return Heard(said, written, frame.mode, frame.core, frame.refuses, tuple(scores[:12]))


def _readings(text: str, written: str, said: str, core: str) -> list[tuple[str, float]]:
    """Return what to compare, each with its worth: the whole, what it is about, and its clauses."""
    if _is_address(text):
        lead = re.match(r".{0,40}?\b(?:to|is|at)\b", said)
        head = lead.group() if lead else " ".join(words(said)[:3])
        return [(f"{head} {ADDRESS}", 1.0)]
    readings = [(said, 1.0 if core == said else WRAPPED), (core, 1.0)]
    named = _INSCRIBED.sub("", core)
    if named != core and len(words(named)) > 2:
        readings.append((named, 1.0))
    pointed = _POINTING.sub(" ", core)
    if pointed != core:  # What `the first one` stands for is settled by the conversation.
        readings.append((pointed, 1.0))
    if written != said:  # What looked like a slip may be the name of a thing.
        readings.append((frame_of(written).core, 1.0))
    clauses = [clause for clause in _CLAUSES.split(said) if clause.strip()]
    if len(clauses) > 1:
        for place, clause in enumerate(clauses[:CLAUSES_MAX]):
            worth = FIRST_CLAUSE if place == 0 else LATER_CLAUSE
            if len(clause.split()) < 2:
                continue
            readings.append((frame_of(clause.strip(" ,.;?!:")).core, worth))
    return list(dict(readings).items())


def _is_address(text: str) -> bool:
    found = address_in(text).keys() if "," in text else set()
    return {"line1", "name"} <= found and bool({"postal_code", "country_code"} & found)


def understand(text: str, context: Context, allowed: Collection[str]) -> Intent:
    """Return the operation `text` asks for, out of all; one not `allowed` is reported as such."""
    heard = hear(text, named_in(context))
    answer = _answer(text, heard, context, allowed)
    if answer is not None:
        return answer
    if heard.refuses and re.fullmatch(_ACTS, heard.refuses):
        return Intent(None, "declined")
    again = _again(heard, context)
    if again is not None:
        return again
    if (follows := following(heard.written, context, allowed)) is not None:
        return _following(follows, heard)
    return _chosen(text, heard, context, allowed)


def _following(found: Following, heard: Heard) -> Intent:
    return Intent(
        OPERATIONS[found.key], mode=heard.mode, is_sure=found.is_sure, slots=dict(found.slots)
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
    is_deed = is_write and re.match(rf"(?:{_ACTS})\b", heard.core) is not None
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
    if is_write and is_sure and not _is_address(text):
        is_sure = is_plain(heard.core, frame_of(heard.written).core, best, operation)
    if best.words < 2 and len(words(heard.said)) > SHORT_WORDS_MAX and not _is_address(text):
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
    if _is_address(text) or sku_in(text):
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
    return Intent(operation, is_sure=explicit, slots=kept)


def _answer(text: str, heard: Heard, context: Context, allowed: Collection[str]) -> Intent | None:
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
    fresh = _fresh(heard, allowed)
    says_more = missing not in ("reason", "name", "note") and (
        len(words(said)) > 2 or heard.scores[0].value >= SAME_MIN
    )
    if fresh is not None and fresh != operation.key and says_more:
        return None
    chosen = (*PRODUCT_SLOTS, "lines", "changes")
    if operation.risk is not Risk.READ and missing in chosen and _INQUIRES.match(said):
        return None  # `do you have it in blue?` chooses nothing.
    if missing in PRODUCT_SLOTS:
        fits = _names_one(text, heard, context)
    elif missing in EXTRACTORS and missing not in ("reason", "name", "note"):
        fits = EXTRACTORS[missing](text, context) is not None or missing == "query"
    else:
        fits = bool(said) and not (fresh is not None and _starts_anew(heard))
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


def _fresh(heard: Heard, allowed: Collection[str]) -> str | None:
    """Return the operation a message asks for by itself, if it does so clearly."""
    best = next((s for s in heard.scores if not s.is_none and s.key in allowed), None)
    return best.key if best and best.value >= SPLIT_MIN and best == heard.scores[0] else None


def _starts_anew(heard: Heard) -> bool:
    return heard.scores[0].value >= ACT_MIN


def _is_elsewhere(heard: Heard) -> bool:
    best = heard.scores[0] if heard.scores else None
    return best is not None and best.is_none and best.value >= ACT_MIN and len(heard.said) > 20


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


def _cut(text: str, separator: str, named: frozenset[str], allowed: Collection[str]) -> list[str]:
    for match in re.finditer(separator, text):
        left, right = text[: match.start()].strip(), text[match.end() :].strip()
        if not left or not right:
            continue
        first, second = hear(left, named), hear(right, named)
        if _asks(first, allowed) and _asks(second, allowed) and _differ(first, second, allowed):
            if "because" in first.said and not first.refuses:
                continue  # What follows is still the reason.
            return [left, *_cut(right, separator, named, allowed)]
    return [text]


def _asks(heard: Heard, allowed: Collection[str]) -> bool:
    return _fresh(heard, allowed) is not None or bool(
        heard.refuses and re.fullmatch(_ACTS, heard.refuses)
    )


_LOOKS = frozenset(("product.search", "inventory.levels", "product.get"))


def _differ(first: Heard, second: Heard, allowed: Collection[str]) -> bool:
    if first.refuses or second.refuses:
        return True
    one, other = _fresh(first, allowed), _fresh(second, allowed)
    return one != other and not {one, other} <= _LOOKS
