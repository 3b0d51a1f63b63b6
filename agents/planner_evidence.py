# ruff: noqa: E501  A pattern stays on one line: broken up, nobody could read it.
"""Weigh whether a message is surely a request to change something.

To act takes more than to be likeliest: a phrase of the operation that accounts for all that was
said, in words of the shop's own, and a message that asks. What is told, supposed, asked about or
refused is never done unasked, and neither is what names things no shop has to do with.
"""

import re
from functools import cache
from pathlib import Path

from agents.planner_score import Score, index
from agents.planner_text import listed
from agents.planner_tokens import split, stem, tokens
from tools.registry import Operation

_FOREIGN = Path(__file__).parent / "phrases" / "foreign.txt"
# Said beside a wish without changing it.
_BESIDE = frozenset(
    stem(word)
    for word in listed(
        """today now immediately urgently urgent quickly soon away right instead actually sorry
        again also both one ones first second third fourth fifth last same"""
    )
)
_NOT_ASKED = re.compile(
    r"\b(?:if|unless|whether|suppose|supposing|imagine|hypothetically|pretend|wonder(?:ing)?|"
    r"considering|(?:think(?:ing)?|thought|dream(?:t|ed|ing)?) (?:of|about)|what happens|"
    r"should (?:i|we)|have (?:i|we|you)|had|used to|could have|would have|"
    r"yesterday|ago|last (?:week|month|year|night|time)|already|"
    r"(?:he|she|they|who|wife|husband|friend|boss|mother|father|brother|sister|bank|somebody|someone) "
    r"(?:said|says|told|tells|asked|wants?|wanted|is|was|has)|"
    r"finished|done with|(?:i|we) (?:was|were|have been)|never)\b"
    r"|^(?:i|we) (?:just |also |once )?(?:have )?(?:added|removed|bought|ordered|cancelled|canceled|"
    r"returned|changed|paid|placed|sent|refunded|deleted|checked out|exchanged|bid)\b(?!.*\b(?:want|"
    r"please|can you|could you|mistake|need)\b)"
    r"|^(?:am|are|is|was|were|did|does|do|has|have|why|who|when|where|which|what|how)\b"
)
# Parameters that take names nobody can know beforehand; the catalogue settles those of products.
_NAMED = frozenset(
    listed(
        """sku new_sku handle_or_sku lines changes name query title location source target note token
        method_id return_id refund_id exchange_id"""
    )
)
# A person is fetched for who asks for one, never for who asks what they are talking to.
_FETCHES = re.compile(
    r"\b(?:talk|speak|chat|connect|transfer|escalate|put|get|reach|contact|call|hand|pass|bring|need|want|"
    r"like|give|fetch)\b"
)
_REASON = re.compile(r"\s*(?:\bbecause\b|\bsince\b|[:;]| - ).*$", re.DOTALL)


@cache
def _foreign() -> tuple[frozenset[str], re.Pattern[str]]:
    words: set[str] = set()
    pairs: list[str] = []
    for line in _FOREIGN.read_text().splitlines():
        for entry in line.partition("#")[0].split(","):
            entry = entry.strip()
            if " " in entry:
                pairs.append(entry)
            elif entry:
                words.add(stem(entry))
    return frozenset(words), re.compile(rf"\b(?:{'|'.join(pairs)})(?:s|es)?\b")


def is_foreign(written: str, *, names_product: bool = False) -> bool:
    """Tell whether a message names something that no shop has to do with, such as a flight.

    Args:
        written: The message in plain words, as it was written.
        names_product: Whether the wish names a product: then `pizza stone` is no pizza.
    """
    stems, pattern = _foreign()
    if pattern.search(written):
        return True
    known, said = index().weights, split(written)
    return any(
        stem(word) in stems
        and not (
            names_product
            and place + 1 < len(said)
            and tokens([said[place + 1]])
            and stem(said[place + 1]) not in known
        )
        for place, word in enumerate(said)
    )


def wish_in(written: str) -> str:
    """Return a message without its reason, where the wish itself names what it is about.

    Of `cancel order 1001 because of my flight` only the reason has to do with flights.
    """
    wish = _REASON.sub("", written)
    return wish if "#" in wish else written


def is_asked(said: str) -> bool:
    """Tell whether a message, politeness aside, asks for something rather than tells or supposes."""
    return _NOT_ASKED.search(said) is None


def strays(core: str, best: Score, operation: Operation | None = None) -> list[str]:
    """Return the telling words of a wish that the phrase it is like has no place for.

    With the operation, words that may name what it is about are none.
    """
    of = index()
    phrase = of.phrases[best.phrase]
    left = [
        word
        for word in tokens(split(_REASON.sub("", core)))
        if not word.startswith("#") and word not in phrase.features and word not in _BESIDE
    ]
    names = operation is not None and bool(_NAMED & operation.parameters.keys())
    if not (phrase.is_open and names):
        return left
    # What is named is unknown by nature; a word of ours in its place says something else.
    return [word for word in left if word in of.weights]


def is_plain(core: str, written_core: str, best: Score, operation: Operation) -> bool:
    """Tell whether a message asks for what it is most like, and for nothing else.

    Args:
        core: What is left of the message without its wrapping.
        written_core: The same with its slips: what looks like one may be a name.
        best: What it is most like.
        operation: That operation.
    """
    if not is_asked(_REASON.sub("", core)):
        return False
    if operation.key == "handover.request" and _FETCHES.search(written_core) is None:
        return False
    return not strays(core, best, operation) or (
        leaves_open(best) and not strays(written_core, best, operation)
    )


def leaves_open(best: Score) -> bool:
    """Tell whether a phrase leaves open what is named."""
    return index().phrases[best.phrase].is_open
