"""Turning what a catalogue file says into values the shop stores, or a reason why not.

Nothing here guesses: a price that two countries would read differently is refused, not chosen.
"""

import re
import unicodedata
from collections.abc import Mapping
from decimal import Decimal, InvalidOperation
from html.parser import HTMLParser

from db.types import exponent
from deps.untrusted import visible

PRICE_AMOUNT_MAX = 10**12
STOCK_MAX = 10_000_000
WEIGHT_G_MAX = 100_000_000
DESCRIPTION_CHARS_MAX = 20_000
VALUE_CHARS_MAX = 500
ERROR_VALUE_CHARS_MAX = 200

_MARKUP = re.compile(r"</?[a-zA-Z][^<>]*>|<!--|&(?:#\d+|#x[0-9a-fA-F]+|[a-zA-Z]+\d*);")
_SYMBOLS = {
    "€": {"EUR"},
    "£": {"GBP"},
    "zł": {"PLN"},
    "kr": {"SEK", "NOK", "DKK", "ISK"},
    "$": {"USD", "CAD", "AUD", "NZD", "SGD", "HKD", "MXN"},
    "¥": {"JPY", "CNY"},
}
_PLAIN = re.compile(r"[0-9]+(?:\.[0-9]+)?")
_GROUPED = {
    ",": re.compile(r"[0-9]{1,3}(?:,[0-9]{3})+\.[0-9]+"),
    ".": re.compile(r"[0-9]{1,3}(?:\.[0-9]{3})+,[0-9]+"),
    " ": re.compile(r"[0-9]{1,3}(?: [0-9]{3})+(?:[.,][0-9]{1,2})?"),
    "'": re.compile(r"[0-9]{1,3}(?:'[0-9]{3})+(?:[.,][0-9]{1,2})?"),
}
_WEIGHTS_G = {
    "g": Decimal(1),
    "kg": Decimal(1000),
    "oz": Decimal("28.349523125"),
    "lb": Decimal("453.59237"),
}


class BadValue(ValueError):
    """One value of one row that cannot be stored. `str(error)` says why, for the shop's owner."""

    def __init__(self, column: str, reason: str, value: object = "") -> None:
        super().__init__(reason)
        self.column = column
        self.reason = reason
        self.value = str(value)[:ERROR_VALUE_CHARS_MAX]


def clean(text: str) -> str:
    """Drop characters nobody can see, normalise to NFC and trim; keep line breaks."""
    return visible(text).strip()


def one_line(value: object, column: str, chars_max: int, *, required: bool = False) -> str:
    """Read a short text.

    Raises:
        BadValue: It is missing though required, too long, or not a text.
    """
    if value is None:
        value = ""
    if isinstance(value, Mapping | list):
        raise BadValue(column, "must be a single value", value)
    text = " ".join(clean(str(value)).split())
    if required and not text:
        raise BadValue(column, "is missing")
    if len(text) > chars_max:
        raise BadValue(column, f"has {len(text)} characters; {chars_max} is the most", text)
    return text


class _TextOfHtml(HTMLParser):
    _BLOCKS = frozenset(
        {"p", "div", "br", "li", "ul", "ol", "tr", "table", "h1", "h2", "h3", "h4", "h5", "h6"}
        | {"section", "blockquote"}
    )
    _UNSEEN = frozenset({"script", "style", "template", "noscript", "iframe", "svg"})

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.parts: list[str] = []
        self._unseen = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in self._UNSEEN:
            self._unseen += 1
        elif tag in self._BLOCKS:
            self.parts.append("\n- " if tag == "li" else "\n")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in self._BLOCKS:
            self.parts.append("\n")

    def handle_endtag(self, tag: str) -> None:
        if tag in self._UNSEEN:
            self._unseen = max(0, self._unseen - 1)
        elif tag in self._BLOCKS:
            self.parts.append("\n")

    def handle_data(self, data: str) -> None:
        if not self._unseen:
            self.parts.append(" ".join(data.split("\n")))


def prose(value: object, column: str = "description") -> str:
    """Read a description: HTML becomes its visible text, scripts and styles vanish.

    Raises:
        BadValue: It is longer than `DESCRIPTION_CHARS_MAX` once the markup is gone.
    """
    if isinstance(value, Mapping | list):
        raise BadValue(column, "must be a text", value)
    text = clean("" if value is None else str(value))
    if _MARKUP.search(text):
        parser = _TextOfHtml()
        parser.feed(text)
        parser.close()
        lines = (" ".join(line.split()) for line in clean("".join(parser.parts)).split("\n"))
        text = "\n".join(line for line in lines if line and line != "-")
    if len(text) > DESCRIPTION_CHARS_MAX:
        raise BadValue(column, f"has {len(text)} characters; {DESCRIPTION_CHARS_MAX} is the most")
    return text


def price_amount(value: object, currency: str, column: str = "price") -> int:
    """Read a price as minor units of `currency`, exactly.

    Numbers from JSON and YAML must arrive as `Decimal` or text, never as `float`. In text, a lone
    separator before exactly three digits (`1.299`, `1,299`) could be thousands or decimals and is
    refused, unless it is a point and the currency really has three decimals.

    Raises:
        BadValue: Missing, negative, not a number, ambiguous, another currency, finer than the
            currency's smallest unit, or above `PRICE_AMOUNT_MAX`.
    """
    assert not isinstance(value, float), "a float has already lost the price"
    if value is None or isinstance(value, bool | Mapping | list):
        raise BadValue(column, "is missing" if value is None else "is not a price", value or "")
    number = (
        Decimal(value)
        if isinstance(value, int | Decimal)
        else _decimal_of_text(str(value), currency, column)
    )
    if not number.is_finite():
        raise BadValue(column, "is not a price", value)
    if number.is_signed():
        raise BadValue(column, "must not be negative", value)
    places = exponent(currency)
    # Bound the size first: scaling 1E+999999 would exhaust memory.
    if number.adjusted() + places > 13:
        raise BadValue(column, "is too large", value)
    minor = number.scaleb(places)
    if minor != minor.to_integral_value():
        raise BadValue(column, f"has more than the {places} decimals of {currency}", value)
    if minor > PRICE_AMOUNT_MAX:
        raise BadValue(column, "is too large", value)
    return int(minor)


def _decimal_of_text(raw: str, currency: str, column: str) -> Decimal:
    text = " ".join(clean(raw).replace("\u2019", "'").split())
    for mark, currencies in _SYMBOLS.items():
        if currency not in currencies and mark in text:
            raise BadValue(column, f"is marked {mark}, but this import is in {currency}", raw)
    for mark in [currency, *(m for m, currencies in _SYMBOLS.items() if currency in currencies)]:
        text = text.removeprefix(mark).removesuffix(mark).strip()
    if not text:
        raise BadValue(column, "is missing")
    if text[0] in "-\u2212(":
        raise BadValue(column, "must not be negative", raw)
    lone = re.fullmatch(r"([0-9]{1,3})([.,])([0-9]{3})", text)
    if lone and lone[1] != "0" and not (lone[2] == "." and exponent(currency) == 3):
        raise BadValue(column, "could mean thousands or decimals; write it with a point", raw)
    for group, pattern in _GROUPED.items():
        if pattern.fullmatch(text):
            text = text.replace(group, "")
            break
    text = text.replace(",", ".") if text.count(",") == 1 and "." not in text else text
    if not text.isascii() or not _PLAIN.fullmatch(text):
        raise BadValue(column, "is not a price", raw)
    try:
        return Decimal(text)
    except InvalidOperation as error:
        raise BadValue(column, "is not a price", raw) from error


def whole(value: object, column: str, most: int) -> int | None:
    """Read an optional whole number from 0 to `most`; empty is None.

    Raises:
        BadValue: Negative, fractional, too large, or not a number.
    """
    text = "" if value is None else str(value).strip()
    if not text:
        return None
    match = re.fullmatch(r"([0-9]{1,15})(?:\.0{1,6})?", text)
    if isinstance(value, bool) or not text.isascii() or not match:
        negative = text.startswith("-")
        raise BadValue(column, "must not be negative" if negative else "is no whole number", value)
    if int(match[1]) > most:
        raise BadValue(column, f"is above {most}", value)
    return int(match[1])


def grams(value: object, column: str = "weight", unit: str = "g") -> int | None:
    """Read an optional weight in `unit` (g, kg, oz or lb) as whole grams, rounded.

    Raises:
        BadValue: The unit is unknown, or the weight negative, too large or no number.
    """
    text = "" if value is None else str(value).strip()
    if not text:
        return None
    factor = _WEIGHTS_G.get(unit.lower())
    if factor is None:
        raise BadValue(column, "has an unknown unit; use g, kg, oz or lb", unit)
    if not text.isascii() or not re.fullmatch(r"[0-9]{1,12}(?:[.,][0-9]{1,12})?", text):
        negative = text.startswith("-")
        raise BadValue(column, "must not be negative" if negative else "is no weight", value)
    weight = int((Decimal(text.replace(",", ".")) * factor).to_integral_value())
    if weight > WEIGHT_G_MAX:
        raise BadValue(column, f"is above {WEIGHT_G_MAX} g", value)
    return weight


def slug(text: str) -> str:
    """Spell `text` for an address: `Café crème, 250 g` is `cafe-creme-250-g`; may be empty."""
    spelled = text.translate({0xDF: "ss", 0xE6: "ae", 0xF8: "o", 0xC6: "AE", 0xD8: "O"})
    spelled = spelled.replace("&", " and ").replace("ł", "l").replace("Ł", "L")
    ascii_only = unicodedata.normalize("NFKD", spelled).encode("ascii", "ignore").decode()
    return re.sub(r"[^a-z0-9]+", "-", ascii_only.lower()).strip("-")
