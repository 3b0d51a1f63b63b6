"""Sums of money as people say them: `five euros fifty`, `a hundred pounds`, `half of it`."""

import re
from functools import cache
from typing import Final

from agents.grounding import minor_units
from db.types import exponent

_UNITS: Final = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen "
    "sixteen seventeen eighteen nineteen"
)
_DECADES: Final = "twenty thirty forty fifty sixty seventy eighty ninety"
_SMALL: Final = {word: value for value, word in enumerate(_UNITS.split())}
_TENS: Final = {word: 10 * place for place, word in enumerate(_DECADES.split(), start=2)}
_SCALES: Final = {"hundred": 100, "thousand": 1000}
_DOLLARS: Final = ("dollars?", "bucks?", r"\$")
# What else people call a currency; its code is always understood.
CALLED: Final = {
    "EUR": ("euros?", "€"),
    "GBP": ("pounds?", "quid", "£"),
    "JPY": ("yen", "¥"),
    "CHF": ("francs?",),
    **dict.fromkeys(("USD", "CAD", "AUD", "NZD", "SGD", "HKD"), _DOLLARS),
}
_WORD = "|".join((*_SMALL, *_TENS, *_SCALES))
_RUN = rf"(?:(?:a|an)\s+(?=hundred|thousand))?(?:{_WORD})(?:(?:\s+and)?[\s-]+(?:{_WORD}))*"
_COIN = r"(?:euros?|eur|dollars?|usd|bucks?|pounds?|gbp|quid|francs?|yen)"
_SPELLED = re.compile(rf"\b(?P<whole>{_RUN})(?=\s+{_COIN}\b)", re.IGNORECASE)
# `five euros fifty` says its cents, `five euros 20 days ago` does not.
_CENTS = re.compile(
    rf"\b(?P<whole>\d+)\s?(?P<coin>{_COIN})(?:\s+and)?\s+(?P<cents>\d{{1,2}}|{_RUN})"
    r"(?:\s+(?:euro\s?)?(?:cents?|pence))?(?=\s*(?:$|[,.;:!?)])|\s+(?:because|for|to|on|from|of|as|please)\b)",
    re.IGNORECASE,
)
_CENTS_ALONE: Final = re.compile(r"\d\s?(?:cents?|pence|¢)(?!\w)", re.IGNORECASE)
_PART = re.compile(
    rf"[€$£¥%]|\b(?:{_COIN}|percent|per cent|cents?|half|thirds?|quarters?|part|partly|partial|"
    r"partially|portion|some of (?:it|the money))\b",
    re.IGNORECASE,
)
_WHOLE = re.compile(
    r"(?:(?:all|everything|the (?:rest|lot|whole (?:lot|thing|amount|sum)|full amount)|in full|"
    r"fully|full|whole)(?: of (?:it|that))?(?: please)?)[ .!]*",
    re.IGNORECASE,
)


def in_figures(text: str) -> str:
    """Return the text with sums that are spelled out in figures."""
    text = _SPELLED.sub(lambda match: str(_value(match["whole"])), text)
    return _CENTS.sub(_with_cents, text)


def money_in(text: str, currency: str) -> int | None:
    """Return the one amount said in `currency`, in minor units; two different ones are no answer,
    and neither is one in another currency, or with its cents apart."""
    text = in_figures(text)
    if _CENTS_ALONE.search(text):
        return None
    places = exponent(currency)
    found = {minor_units(m[1] or m[2], places) for m in _amounts_in(currency).finditer(text)}
    return found.pop() if len(found) == 1 else None


@cache
def _amounts_in(currency: str) -> re.Pattern[str]:
    called, number = "|".join((currency, *CALLED.get(currency, ()))), r"(\d[\d.,]*)"
    before = rf"(?<!\w)(?:{called})\s?{number}"
    after = rf"(?<![\w.,]){number}\s?(?:{called})(?!\w)"
    return re.compile(f"{before}|{after}", re.IGNORECASE)


def _with_cents(match: re.Match[str]) -> str:
    said = match["cents"]
    cents = int(said) if said.isdigit() else _value(said)
    return f"{match['whole']}.{cents:02} {match['coin']}" if cents < 100 else match[0]


def _value(said: str) -> int:
    total = part = 0
    for word in re.findall(r"[a-z]+", said.lower()):
        if word in _SCALES:
            part = (part or 1) * _SCALES[word]
            if word == "thousand":
                total, part = total + part, 0
        else:
            part += _SMALL.get(word, _TENS.get(word, 0))
    return total + part


def says_part(text: str) -> bool:
    """Tell whether a message speaks of a sum, or of a part of one, read or not."""
    return _PART.search(text) is not None


def says_all(text: str) -> bool:
    """Tell whether an answer to `how much?` is all there is."""
    return _WHOLE.fullmatch(text.strip()) is not None
