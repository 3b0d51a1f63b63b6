# ruff: noqa: E501  A cue stays on one line: broken up, nobody could read it.
"""Decide which operation a message asks for: cues first, then likeness to the examples.

A cue is a phrase that settles it. Where none fits, the registered examples are compared word by
word; a message that resembles none closely enough is out of scope. A doubtful read is tried, a
doubtful write is not.
"""

import re
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, field
from functools import cache
from math import log
from typing import Any

from rapidfuzz import fuzz

from agents.planner_context import Context
from agents.planner_slots import EXTRACTORS, order_in, ordinal_in, phrase_in, quantity_in, sku_in
from agents.planner_text import FILLER, normalize, singular, words
from tools.registry import OPERATIONS, Operation, Risk

LIKENESS_MIN = 0.72
LIKENESS_MIN_WRITE = 0.86
_N = r"(?:#\s?\d+|\border\s*(?:number|no\.?)?\s*#?\d+|\b\d{4,}\b)"

# First match wins, so the specific stand before the general.
CUES: tuple[tuple[str, str], ...] = (
    ("checkout.cancel", rf"\b(?:cancel|call off|abort|stop)\b.*(?:\border\b|{_N})"),
    ("checkout.cancel", rf"(?:\border\b|{_N}).*\b(?:cancel|called off)\b(?!led)"),
    ("checkout.cancel", rf"\b(?:do|did) not want (?:my )?(?:order\b.*\d|{_N})"),
    ("order.timeline", r"\b(?:timeline|history|happened|log|steps)\b.*\border\b"),
    ("order.timeline", r"\border\b.*\b(?:timeline|history|log)\b"),
    ("payment.list_for_order", rf"\b(?:payments?|paid|charged|captured|refunded)\b.*(?:\border\b|{_N})"),
    ("payment.list_for_order", r"\border\b.*\b(?:payments?|paid|charged|captured|refunded)\b"),
    ("payment.balances", r"\b(?:ledger|balances?)\b"),
    ("inventory.adjust", r"\b(?:adjust|correct|write off|book in|book out|restock)\b"),
    ("inventory.adjust", r"\b(?:add|remove|receive|received)\b.*\d.*\b(?:at|from|in)\s(?:ham|ber|muc|[a-z]{3})\b.*\b(?:because|reason|:)"),
    ("cart.deliver_to", r"\b(?:deliver|ship|send)\b.{0,30}\bto\b.*(?:,|\d)"),
    ("cart.deliver_to", r"\b(?:my|the|shipping|delivery) address\b.*(?:,|\d)"),
    ("cart.remove_item", r"\b(?:remove|delete|drop)\b(?!.*\b(?:account|user|customer|review)\b)"),
    ("cart.remove_item", r"\btake\b.*\b(?:out|off)\b(?!.*of stock)"),
    ("cart.remove_item", r"\bdo not want\b.*\b(?:any ?more|in my cart)\b"),
    ("cart.change_item", r"\b(?:change|set|make|update)\b.*\b(?:quantity|cart|it \d|it (?:two|three|four|five|six|ten)|to \d)"),
    ("cart.change_item", r"^make (?:that|it) (?:\w+)$"),
    ("checkout.buy", r"\bcheck out\b|^(?:buy|order|pay)$|\bplace (?:the|my|an|this) order\b"),
    ("checkout.buy", r"\b(?:buy|order) (?:it|them|now|everything|this|these|all|my cart|the cart)\b"),
    ("checkout.buy", r"\b(?:complete|finish|finalize|finalise) (?:the|my) (?:order|buy|purchase|check out)\b"),
    ("checkout.buy", r"^(?!.*\b(?:how|which|what|when|where)\b).*\b(?:i want to|i would like to|ready to|let us|can i|let me|i will) pay\b|^pay(?: now| for it)?\b"),
    ("cart.add_item", r"(?:\b(?:add|put)\b|\b(?:throw|toss) (?:in|an?|the|my|\d+|two|three|some)\b)(?!.*\b(?:catalogue|catalog|category|user|review|music|song)\b)"),
    ("cart.add_item", r"\b(?:i|we) (?:will|would) (?:like to )?take\b"),
    ("cart.add_item", r"^(?:give me|i would like|i want|get me|we need) (?:\d+|an?|one|two|three|four|five|six|ten) (?:of )?(?:the (?:first|second|third|last)|of the|those|these|them)"),
    ("cart.add_item", r"^(?:i (?:want to|would like to) )?(?:buy|order) (?:\d+|an?|one|two|three|four|five|six|ten|the)\b(?! (?:pizza|taxi))"),
    ("cart.current", r"\b(?:show|see|view|what|open|look|how much|total)\b.*\bcart\b|^(?:my )?cart$"),
    ("analytics.sales_recent", r"\b(?:sales|sold|sell|sellers?|revenue|orders)\b.*\b(?:last|past|previous|this|yesterday)\b.*\b(?:days?|weeks?|months?|year|yesterday)\b"),
    ("analytics.sales_recent", r"\b(?:weekly|monthly) (?:sales|revenue)\b|\byesterday\b.*\b(?:sales|sold|sell|revenue)\b|\b(?:sales|sold|sell|revenue)\b.*\byesterday\b|\b(?:days?|week|month)\b.*\b(?:sales|revenue)\b"),
    ("analytics.sales_today", r"\b(?:sales|sold|sell|revenue|best sellers?)\b.*\b(?:today|so far)\b|\btoday s? ?(?:sales|revenue|orders)\b|\btoday\b.*\b(?:sales|sold|sell|revenue)\b"),
    ("analytics.sales_today", r"^(?:how are|show|what are)?\s*(?:the |our )?(?:sales|revenue)(?: figures| numbers)?\??$|\bhow many orders\b.*\btoday\b|\bhow much (?:money )?(?:did|have) we (?:made?|earn|sell|sold|take)"),
    ("inventory.low", r"\b(?:running|run) (?:low|out)\b|\blow (?:on |in )?stock\b|\breorder\b|\brestocking\b"),
    ("inventory.movements", r"\bmovements?\b|\bstock\b.*\b(?:history|change|changed|happened)\b|\b(?:history|happened|changed?)\b.*\bstock\b"),
    ("inventory.levels", r"\bhow many\b(?!.*\border).*\b(?:stock|left|available|have|there)\b|\bstock (?:level )?(?:of|for)\b|\b(?:in|on) stock\b(?<!show me)|\bstock levels?\b"),
    ("inventory.levels", r"^(?:is|are) .*\bavailable\b|\bstill (?:have|available)\b|\bwhere is .*\bstored\b|^stock\b|\bout of stock\b"),
    ("notification.list_recent", r"\b(?:e?-?mails?|notifications?|messages?|confirmation)\b.*\b(?:send|sent|me|my|arrive|get|list|recent)|\b(?:my|show|list|recent) (?:recent )?(?:notifications?|messages)\b|\b(?:send|sent|get|receive)\b.*\bconfirmation\b"),
    ("user.rename", r"\b(?:change|update|set) my name\b|\bmy name (?:is now|should be)\b|\bcall me\b"),
    ("user.me", r"\bwho am i\b|(?<!delete )(?<!close )(?<!remove )\bmy (?:profile|account)\b|\bwhat is my (?:e-?mail|name)\b|\bwhich account\b|\bam i (?:signed|logged) in\b"),
    ("user.find", r"\b(?:customers?|users?|who registered)\b"),
    ("order.get", r"\b(?:where|show|status|track|see|view|what|has|is|when|details?|find|how|look|check|about)\b.*(?:#\s?\d+|\border\s*(?:number|no\.?)?\s*#?\d+)|^(?:order\s*)?#?\d{4,}\??$|^order #?\d+\??$|\btrack(?:ing)?\b.*\d"),
    ("order.list_all", r"\b(?:latest|all|newest|new|open|incoming|pending|placed|completed|cancelled|canceled)\b.*\borders\b|\borders\b.*\bcame in\b|\borders (?:of|from|by)\b.*@"),
    ("order.list_mine", r"\bmy (?:\w+ )?orders?\b|\bmy order\b|\b(?:did|have) i order(?:ed)?\b|\border history\b|\bwhat i (?:ordered|bought)\b|\b(?:show|list|see) orders\b|\bwhere is my (?:stuff|things|mug)\b"),
    ("product.categories", r"\bcategor(?:y|ies)\b|\bdepartments?\b|\bwhat do you (?:sell|offer|have)\b\??$|\bwhat (?:kinds?|sorts?|types?) of (?:things|product|goods)\b"),
    ("product.get", r"\b(?:tell me (?:more )?about|details? (?:of|about|on)|describe|more about|what colours|which colours|which sizes|what sizes|information (?:on|about))\b"),
    ("product.search", r"\b(?:do you (?:have|sell|carry|stock|offer)|have you got|got any|search|find|looking for|look for|show me|browse|i need|i am after|recommend|suggest|any)\b|\bwhat .* do you (?:sell|have|offer|carry)\b|\b(?:price of|how much (?:is|are|does|do|for))\b|\b(?:under|below|cheaper than|less than)\b.*\d"),
)  # fmt: skip
_COMPILED = tuple((key, re.compile(pattern)) for key, pattern in CUES)

# Said of the shop, yet nothing any operation can do or look up.
_OFF_TOPIC = re.compile(
    r"\b(?:weather|joke|poem|news|politic\w*|president|football|recipe|song|music|movie|capital of|"
    r"translate|homework|python|javascript|code|stock market|stock price|share price|bitcoin|crypto|"
    r"horoscope|meaning of life|girlfriend|boyfriend|marry|flight|hotel|taxi|pizza|train|doctor|"
    r"password|opening hours|open on|careers?|job|hiring|newsletter|subscription|warranty|coupon|"
    r"voucher|discount|gift card|loyalty|refund policy|return policy|returns?|exchange|complain\w*|"
    r"human|real person|robot|ai|phone number|ignore (?:all|previous|your)|system prompt|prompt|"
    r"instructions|time is it|what day|date is it|calculate|square root|plus|divided|story|essay|"
    r"email me|remind|alarm|war|election|lottery|tickets?|dentist|lawyer|tax advice|diet)\b"
)
_DECLINE = re.compile(
    r"\b(?:do not|never|no need to)\s+(?:\w+\s+)?(?:buy|check out|add|put|remove|cancel|place|change|"
    r"adjust|deliver|ship|pay|order)\b"
)
# Something is put into, or taken out of, what is not the cart.
_ELSEWHERE = re.compile(
    r"\b(?:to|on|in|into|from|at|off) (?:my|our|the|your) (?!cart\b|order\b)\w+"
)
# A reason may mention anything; only a message that starts like a wish is one.
_FRESH_START = re.compile(
    r"^(?:show|what|where|how|who|which|do you|have you|is|are|list|find|search|add|put|cancel|buy|"
    r"check out|remove|stock|sales|my cart|deliver|ship)\b"
)
_SMALL_TALK = re.compile(
    r"^(?:hi|hello|hey|good (?:morning|afternoon|evening|day)|thanks?(?: you)?(?: \w+)*|thx|bye|"
    r"goodbye|ok(?:ay)?|great|cool|nice|yes|no|help|what can you do(?: for me)?|who are you|"
    r"how are you)(?: there| so much| a lot)?[ ?!.]*$"
)


@dataclass(slots=True)
class Intent:
    """What was asked. Without an operation, `reason` says why none fits."""

    operation: Operation | None
    reason: str = "ok"
    answers_question: bool = False
    slots: dict[str, Any] = field(default_factory=dict)


def understand(text: str, context: Context, allowed: Collection[str]) -> Intent:
    """Return the operation `text` asks for, out of all; one not `allowed` is reported as such."""
    said = normalize(text)
    answer = _answer(text, said, context)
    if answer is not None:
        return answer
    if _SMALL_TALK.search(said):
        return Intent(None, "small_talk")
    if _DECLINE.search(said) and not re.search(r"\bany ?more\b", said):
        return Intent(None, "declined")
    if _OFF_TOPIC.search(said):
        return Intent(None, "out_of_scope")
    operation = _cued(said, text, context) or _likened(said, text, context)
    if operation is None:
        return Intent(None, "out_of_scope")
    if operation.key not in allowed:
        return Intent(None, "not_allowed")
    return Intent(operation)


def _answer(text: str, said: str, context: Context) -> Intent | None:
    """Take the message as the answer to the question just asked, if it can be one."""
    asked = context.question
    if not asked or asked["operation"] not in OPERATIONS:
        return None
    if re.fullmatch(
        r"(?:no|never ?mind|forget it|stop|cancel|nothing|none)(?: thanks?| of them)?", said
    ):
        return Intent(None, "declined")
    operation, missing = OPERATIONS[asked["operation"]], asked["missing"]
    fresh = _cued(said, text, context)
    asks_anew = missing not in ("reason", "name") or _FRESH_START.search(said)
    if fresh is not None and fresh is not operation and len(words(said)) > 2 and asks_anew:
        return None
    if missing in ("sku", "handle_or_sku"):
        fits = ordinal_in(text) is not None or bool(sku_in(text) or phrase_in(text))
    elif missing in EXTRACTORS and missing not in ("reason", "name"):
        fits = EXTRACTORS[missing](text, context) is not None or missing == "query"
    else:
        fits = bool(said)
    if not fits or _OFF_TOPIC.search(said):
        return None
    return Intent(operation, answers_question=True, slots=dict(asked["slots"]))


def _cued(said: str, text: str, context: Context) -> Operation | None:
    for key, pattern in _COMPILED:
        if key not in OPERATIONS or not pattern.search(said):
            continue
        refined = _refined(key, said, text, context)
        if refined is not None:
            return OPERATIONS[refined]
    return None


def _refined(key: str, said: str, text: str, context: Context) -> str | None:
    """Settle what a cue alone cannot; None passes to the next cue."""
    names_thing: bool = bool(sku_in(text) or phrase_in(text) or ordinal_in(text) is not None)
    refers = names_thing or bool(re.search(r"\b(?:it|them|that|those|this|one|ones)\b", said))
    if key == "inventory.adjust":
        return key if refers and re.search(r"\d|stock|units", said) else None
    if key in ("cart.add_item", "cart.remove_item", "cart.change_item"):
        if _ELSEWHERE.search(said):
            return None
        return key if refers or quantity_in(text) is not None else None
    if key == "order.timeline" and order_in(text, context) is None and not context.focus_order:
        return "order.list_mine" if "my order" in said else None
    if key == "order.list_mine" and order_in(text, context) is not None:
        return "order.get"
    if key == "inventory.levels":
        return key if names_thing or context.focus_sku or context.candidates else None
    if key in ("product.search", "product.get"):
        return key if names_thing or (key == "product.get" and context.focus_sku) else None
    return key


def _literals(example: str) -> list[str]:
    return [singular(w) for w in words(re.sub(r"\{\w+\}", " ", normalize_example(example)))]


@cache
def normalize_example(example: str) -> str:
    slots = re.findall(r"\{\w+\}", example)
    folded = normalize(re.sub(r"\{\w+\}", " SLOT ", example))
    for slot in slots:
        folded = folded.replace("slot", slot, 1)
    return folded


@cache
def _weights() -> dict[str, float]:
    """Rare words tell operations apart; words every example has tell nothing."""
    seen = Counter(
        word
        for operation in OPERATIONS.values()
        for word in {w for example in operation.examples for w in _literals(example)}
    )
    return {word: log(1 + len(OPERATIONS) / count) for word, count in seen.items()}


def likeness(said: str, text: str, example: str) -> float:
    """Return 0 to 1: the share of the example's words that were said, less what it leaves over."""
    literals, weights = _literals(example), _weights()
    heard = [singular(word) for word in words(said)]
    matched = {w: max((fuzz.ratio(w, h) for h in heard), default=0) for w in set(literals)}
    total = sum(weights.get(w, 1.0) for w in matched) or 1.0
    hit = sum(weights.get(w, 1.0) for w, score in matched.items() if score >= 86)
    left = [h for h in heard if h not in literals and h not in FILLER and not h.isdigit()]
    free = re.search(r"\{(?:query|sku|handle_or_sku|name|reason|line1)\}", example)
    surplus = 0.0 if free else 0.15 * len(left)
    if "{number}" in example and not re.search(r"\d", said):
        surplus += 0.2
    shape = fuzz.token_set_ratio(said, " ".join(literals)) / 100
    return max(0.0, 0.85 * hit / total + 0.15 * shape - surplus)


def _likened(said: str, text: str, context: Context) -> Operation | None:
    scored = sorted(
        (
            (max((likeness(said, text, e) for e in operation.examples), default=0.0), key)
            for key, operation in OPERATIONS.items()
        ),
        reverse=True,
    )
    best, key = scored[0]
    write = OPERATIONS[key].risk is not Risk.READ
    if best < (LIKENESS_MIN_WRITE if write else LIKENESS_MIN):
        return None
    settled = _refined(key, said, text, context)
    return OPERATIONS[settled] if settled else None


def wishes_in(text: str, context: Context, allowed: Collection[str], limit: int) -> list[str]:
    """Split a message where both sides ask for something different; otherwise leave it whole."""
    pieces = [text]
    for separator in (
        r"[.!?]\s+(?=[A-Za-z])",
        r"\s*;\s*",
        r",?\s+(?:and then|then|and also|and)\s+",
    ):
        pieces = [part for piece in pieces for part in _cut(piece, separator, context, allowed)]
    return pieces[:limit]


def _cut(text: str, separator: str, context: Context, allowed: Collection[str]) -> list[str]:
    for match in re.finditer(separator, text):
        left, right = text[: match.start()].strip(), text[match.end() :].strip()
        first, second = (_cued(normalize(part), part, context) for part in (left, right))
        if first and second and first.key != second.key:
            quiet = {first.key, second.key} <= {"product.search", "inventory.levels", "product.get"}
            verbs = ("checkout.cancel", "inventory.adjust", "cart.deliver_to")
            if not quiet and not (first.key in verbs and "because" in normalize(left)):
                return [left, *_cut(right, separator, context, allowed)]
    return [text]
