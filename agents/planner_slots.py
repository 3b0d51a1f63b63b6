"""Fill an operation's parameters from what a person wrote; what was not said stays absent."""

import re
from collections.abc import Callable, Mapping
from typing import Any

from rapidfuzz import fuzz

from agents.grounding import minor_units
from agents.planner_context import Candidate, Context
from agents.planner_text import FILLER, NUMBER_WORDS, ORDINAL_WORDS, normalize, singular, words
from db.types import exponent

_EMAIL = re.compile(r"[\w.+-]+@[\w-]+\.[\w.-]*\w")
_ORDER = re.compile(
    r"(?:#\s?|\borders?\s*(?:number|no\.?|nr\.?)?\s*#?\s*)(\d{1,9})\b", re.IGNORECASE
)
_SKU = re.compile(r"\b(?=[A-Z0-9]*[A-Z])[A-Z0-9]+(?:[-_/.][A-Z0-9]+)+\b|\b[A-Z][A-Z0-9]{2,}\b")
_AFTER_SKU = re.compile(r"\bsku:?\s+([A-Za-z0-9][\w./-]*)", re.IGNORECASE)
_NOT_SKU = frozenset(
    (
        "EUR",
        "USD",
        "GBP",
        "SKU",
        "FAQ",
        "VAT",
        "PLEASE",
        "AND",
        "THE",
        "DHL",
        "UPS",
        "SYSTEM",
        "ADMIN",
    )
)
_PRICE = r"(?:(?:eur|€|\$|usd|£)\s*)?(\d+(?:[.,]\d{1,2})?)\s*(?:eur|euros?|€|\$|dollars?|bucks)?"
_BARE_ORDER = re.compile(r"(?<![\w.,€$-])\d{4,9}(?![\w.,-]*\d)")
_IT = re.compile(r"\b(?:it|this|that|its)\b", re.IGNORECASE)
_OTHER = re.compile(r"\bother (?:order|one)\b", re.IGNORECASE)
# `1200 dollars` is no order number.
_SUM = re.compile(
    r"(?:\b(?:eur|usd|gbp)|[€$£])\s?\d[\d.,]*|\d[\d.,]*\s?(?:eur|usd|gbp|[€$£]|euros?|dollars?|"
    r"pounds?|bucks?)(?!\w)",
    re.IGNORECASE,
)
_MAX = re.compile(
    r"\b(?:under|below|(?<!no )(?<!not )less than|cheaper than|at most|up to|max(?:imum)?|"
    rf"not? more than)\s+{_PRICE}"
)
_TOPS = re.compile(rf"\b{_PRICE}\s+(?:max(?:imum)?|tops|at (?:the )?most|or (?:less|under))\b")
_MIN = re.compile(
    r"\b(?:over|above|(?<!no )(?<!not )more than|at least|from|"
    rf"not? less than)\s+{_PRICE}"
)
_BETWEEN = re.compile(rf"\bbetween\s+{_PRICE}\s+and\s+{_PRICE}")
_PRICE_LIMITS = (_BETWEEN, _MAX, _TOPS, _MIN)
_ORDINAL = re.compile(
    r"\b(?:(?:the |number |option )?(first|second|third|fourth|fifth|sixth|seventh|eighth|last)"
    r"(?: one| product| option)?|(?:number|option|no\.?) ([1-9]))\b"
)
_REASON = re.compile(
    r"(?:\bbecause\b(?: of)?|\bsince\b|\breason(?: is)?\b:?|:|;| - |\bas\b(?= [a-z]+ ))\s*(.+)$",
    re.IGNORECASE | re.DOTALL,
)
_METHODS = {"express": "express", "next day": "express", "pickup": "pickup", "pick up": "pickup"}
_METHODS |= {"pick-up": "pickup", "collect": "pickup", "standard": "standard"}
_COUNTRIES = {
    "germany": "DE", "deutschland": "DE", "france": "FR", "austria": "AT", "switzerland": "CH",
    "netherlands": "NL", "belgium": "BE", "italy": "IT", "spain": "ES", "denmark": "DK",
    "sweden": "SE", "norway": "NO", "poland": "PL", "united kingdom": "GB", "uk": "GB",
    "ireland": "IE", "portugal": "PT", "finland": "FI", "united states": "US", "usa": "US",
}  # fmt: skip
_STATUSES = ("pending", "placed", "completed", "cancelled", "canceled")
PRODUCT_SLOTS = ("sku", "handle_or_sku")
ADDRESS_FIELDS = ("email", "name", "line1", "postal_code", "city", "country_code")


def sku_in(text: str) -> str | None:
    """Return a SKU written out. Capitals alone count only when the rest is not shouted."""
    named = _AFTER_SKU.search(text)
    if named and named[1].lower() not in FILLER:
        return named[1].upper()
    if text.isupper() and len(text.split()) > 2:
        return None
    for match in _SKU.finditer(text):
        if match.group() not in _NOT_SKU:
            return match.group()
    return None


def order_in(text: str, context: Context) -> int | None:
    """Return the number of the order that is named, pointed at, or talked about."""
    left = _SUM.sub(" ", text)
    said = {int(number) for number in _ORDER.findall(left)}
    if not _has_postal_code(text):
        said |= {int(number) for number in _BARE_ORDER.findall(left)}
    if said:
        return said.pop() if len(said) == 1 else None
    position = ordinal_in(text)
    if position is not None and -len(context.orders) <= position < len(context.orders):
        return context.orders[position]
    if _OTHER.search(text):
        others = [number for number in context.orders if number != context.focus_order]
        return others[0] if len(others) == 1 else None
    if position is not None and not _IT.search(text):
        return None  # Of a list there is not, or of more than there are.
    return context.focus_order


def _has_postal_code(text: str) -> bool:
    found = address_in(text).keys() if "," in text else set()
    return {"line1", "postal_code"} <= found


def ordinal_in(text: str) -> int | None:
    match = _ORDINAL.search(normalize(text))
    if not match:
        return None
    return ORDINAL_WORDS[match[1]] if match[1] else int(match[2]) - 1


def pointed_at(text: str, context: Context) -> Candidate | None:
    """Return what `the second one` is of what was shown."""
    position = ordinal_in(text)
    if position is None or not -len(context.candidates) <= position < len(context.candidates):
        return None
    return context.candidates[position]


def quantity_in(text: str) -> int | None:
    """Return the one number of units said; two different ones are no answer."""
    left = _ORDER.sub(" ", _EMAIL.sub(" ", text))
    left = _SKU.sub(lambda m: " " if re.search(r"[A-Z]", m.group()) else m.group(), left)
    left = _ORDINAL.sub(" ", normalize(left))
    for pattern in _PRICE_LIMITS:
        left = pattern.sub(" ", left)
    if re.search(r"(?<![\w])-\s?\d", left) or re.search(r"\d[.,]\d", left):
        return None
    # `the blue one` and `that one` name a thing, not a number.
    left = re.sub(r"\b(?:the|this|that|which|blue|red|other)\s+(?:\w+\s+)?one\b", " ", left)
    found = [int(n) for n in re.findall(r"(?<![\w.,-])(\d{1,6})(?:\s?x\b|×)?(?![\w.,-]*\d)", left)]
    found += [NUMBER_WORDS[w] for w in words(left) if w in NUMBER_WORDS]
    dozens = re.search(r"\bhalf a dozen\b", left)
    if dozens:
        found = [6]
    return found[0] if len(set(found)) == 1 else None


def phrase_in(text: str) -> str:
    """Return the words that may name a product, in order."""
    left = _ORDINAL.sub(" ", normalize(_EMAIL.sub(" ", text)))
    for pattern in _PRICE_LIMITS:
        left = pattern.sub(" ", left)
    left = re.sub(
        r"\b(?:in|on) (?:my|the) cart\b|\b(?:in|into|to|from) (?:my|the) cart\b", " ", left
    )
    kept = [word for word in words(left) if word not in FILLER and not word.isdigit()]
    return " ".join(kept)


def matching(phrase: str, candidates: list[Candidate]) -> list[Candidate]:
    """Return the candidates a phrase may mean: every word must be in the title, roughly."""
    wanted = [singular(word) for word in words(phrase)]

    def fits(candidate: Candidate) -> bool:
        title = [singular(word) for word in words(f"{candidate.title} {candidate.sku}")]
        return all(any(fuzz.ratio(word, own) >= 84 for own in title) for word in wanted)

    found = [candidate for candidate in candidates if wanted and fits(candidate)]
    exact = [c for c in found if [singular(w) for w in words(c.title)] == wanted]
    return exact or found


def variants_named(text: str, variants: list[Candidate]) -> list[Candidate]:
    """Return the variants whose own words, those the others lack, were said."""
    said = set(words(normalize(text)))
    titles = [set(words(variant.title)) for variant in variants]
    shared = set.intersection(*titles) if titles else set()
    hits = [v for v, title in zip(variants, titles, strict=True) if (title - shared) & said]
    return variants if len(variants) == 1 else hits


def address_in(text: str) -> dict[str, str]:
    """Read `Ada Lovelace, 12 Quay Street, 20457 Hamburg, DE, ada@example.com, express`."""
    slots: dict[str, str] = {}
    email = _EMAIL.search(text)
    if email:
        slots["email"] = email.group()
    left = _EMAIL.sub(" ", text)
    for said, method in _METHODS.items():
        pattern = re.compile(rf"\b(?:by|via|with|as)?\s*{said}(?: (?:shipping|delivery))?\b", re.I)
        if pattern.search(left):
            slots.setdefault("shipping_method", method)
            left = pattern.sub(" ", left)
    left = re.sub(
        r"^.*?\b(?:(?:deliver|ship|send|go|goes)(?: it| them| everything| this| my order)? to|"
        r"address(?: is|:)|i live at|my name is)\s*:?",
        " ", left, count=1, flags=re.IGNORECASE,
    )  # fmt: skip
    left = re.sub(r"\b(?:and |my )?e-?mail(?: address)?(?: is)?:?", " ", left, flags=re.IGNORECASE)
    # `my office: Ada Lovelace, …`: whose it is, or where, says the label.
    left = re.sub(r"^\s*(?:(?:my|our|the|their|his|her) )?[a-z][a-z' ]{2,24}:\s", " ", left)
    parts = [part.strip(" .!?\t") for part in re.split(r"[,;\n]", left)]
    rest: list[str] = []
    for part in (p for p in parts if p):
        place = re.fullmatch(r"([A-Z]{0,2}-?\d{3,6}(?: ?[A-Z]{2})?)\s+([^\d]+)", part)
        swapped = re.fullmatch(r"([^\d]+?)\s+(\d{4,6})", part)
        if part.lower() in _COUNTRIES:
            slots["country_code"] = _COUNTRIES[part.lower()]
        elif re.fullmatch(r"[A-Z]{2}", part):
            slots["country_code"] = part
        elif place and "line1" in slots | _street(rest):
            slots["postal_code"], slots["city"] = place[1], place[2].strip()
        elif swapped and "line1" in slots | _street(rest):
            slots["city"], slots["postal_code"] = swapped[1].strip(), swapped[2]
        elif re.fullmatch(r"\d{4,6}", part):
            slots["postal_code"] = part
        else:
            rest.append(part)
    return slots | _street(rest)


def _street(parts: list[str]) -> dict[str, str]:
    named = next((p for p in parts if not re.search(r"\d", p)), None)
    street = next((p for p in parts if re.search(r"\d", p)), None)
    others = [p for p in parts if p not in (named, street)]
    slots = {"name": named, "line1": street, "city": others[0] if others else None}
    return {key: value for key, value in slots.items() if value}


def _reason(text: str, context: Context) -> str | None:
    match = _REASON.search(text)
    said = match[1].strip(" .") if match else ""
    return said[:500] or None


def _days(text: str, context: Context) -> int | None:
    said = normalize(text)
    if "week" in said:
        return 7 * (quantity_in(said) or 1)
    if "month" in said:
        return 30 * (quantity_in(said) or 1)
    if "year" in said:
        return 365
    return quantity_in(said) or (2 if "yesterday" in said else None)


def _location(text: str, context: Context) -> str | None:
    match = re.search(r"\b(?:at|in|from)\s+(?:the\s+)?(?:location\s+)?([A-Z]{2,5})\b", text)
    return match[1] if match else None


_LOST = re.compile(
    r"\b(?:remove|write (?:it |them )?off|wrote off|take|subtract|minus|reduce|fewer|broken|broke|"
    r"damaged|lost|stolen|scrap(?:ped)?)\b",
    re.IGNORECASE,
)
_FOUND = re.compile(r"\b(?:found|add|plus|extra|more|turned up)\b", re.IGNORECASE)


def _delta(text: str, context: Context) -> int | None:
    signed = re.search(r"(?<![\w-])([+-])\s?(\d{1,6})\b", text)
    if signed:
        return int(signed[1] + signed[2])
    amount = quantity_in(_REASON.sub("", text))
    return -amount if amount is not None and takes_away(text) else amount


def _source(text: str, context: Context) -> str | None:
    match = re.search(r"\b(?:from|out of)\s+(?:the\s+)?(?:location\s+)?([A-Z]{2,5})\b", text)
    return match[1] if match else None


def _target(text: str, context: Context) -> str | None:
    match = re.search(r"\b(?:to|into)\s+(?:the\s+)?(?:location\s+)?([A-Z]{2,5})\b", text)
    return match[1] if match else None


def takes_away(text: str) -> bool:
    """Tell whether units are to become fewer."""
    return _LOST.search(text) is not None and _FOUND.search(text) is None


def _query(text: str, context: Context) -> str | None:
    return sku_in(text) or phrase_in(text) or None


def _rename(text: str, context: Context) -> str | None:
    match = re.search(r"(?:name (?:is now|is|to|should be)|call me)\s+(.+?)[.!]?$", text, re.I)
    name = match[1].strip() if match else ""
    return name if name and words(name)[:1] != [] and words(name)[0] not in FILLER else None


def _status(text: str, context: Context) -> str | None:
    said = next((status for status in _STATUSES if re.search(rf"\b{status}\b", text, re.I)), None)
    return "cancelled" if said == "canceled" else said


_UNSENT = re.compile(
    r"\b(?:not|never|nothing)(?: \w+){0,2} (?:shipped|sent|dispatched|fulfilled|ship|gone out)\b|"
    r"\bun(?:shipped|sent|fulfilled)\b|"
    r"\b(?:to|waiting to|need to|have to) (?:be )?(?:ship|shipped|sent|dispatched)\b"
)


def _fulfillment(text: str, context: Context) -> str | None:
    said = normalize(text)
    if _UNSENT.search(said):
        return "unfulfilled"
    return next((s for s in ("delivered", "shipped") if re.search(rf"\b{s}\b", said)), None)


def _email(text: str, context: Context) -> str | None:
    match = _EMAIL.search(text)
    return match.group() if match else None


# By parameter name: the same name means the same thing in every operation.
EXTRACTORS: Mapping[str, Callable[[str, Context], Any]] = {
    "quantity": lambda text, context: quantity_in(text),
    "number": order_in,
    "reason": _reason,
    "days": _days,
    "location": _location,
    "location_code": _location,
    "source": _source,
    "target": _target,
    "counted": lambda text, context: quantity_in(text),
    "delta": _delta,
    "query": _query,
    "status": _status,
    "fulfillment_status": _fulfillment,
    "email": _email,
    "name": _rename,
}


def prices_in(text: str, currency: str) -> dict[str, int]:
    """Return price limits in minor units."""
    said, places = normalize(text), exponent(currency)
    between = _BETWEEN.search(said)
    if between:
        low, high = sorted(minor_units(between[i], places) for i in (1, 2))
        return {"min_price_amount": low, "max_price_amount": high}
    found = {}
    for name, pattern in (
        ("max_price_amount", _MAX),
        ("max_price_amount", _TOPS),
        ("min_price_amount", _MIN),
    ):
        match = pattern.search(said)
        if match:
            found[name] = minor_units(match[1], places)
    return found
