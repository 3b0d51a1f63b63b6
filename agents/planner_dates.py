"""Days and periods as people say them: what is planned lies ahead, what is looked up behind."""

import calendar
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import date, timedelta
from itertools import pairwise
from typing import Final

_MONTHS: Final = (
    *("january", "february", "march", "april", "may", "june", "july", "august", "september"),
    *("october", "november", "december"),
)
_WEEKDAYS: Final = (
    *("monday", "tuesday", "wednesday", "thursday"),
    *("friday", "saturday", "sunday"),
)
# From 29 February 2096 to that of 2104.
YEARS_TO_LEAP_DAY_MAX: Final = 8
_NEAR: Final = {
    "day before yesterday": -2,
    "yesterday": -1,
    "today": 0,
    "tomorrow": 1,
    "day after tomorrow": 2,
}
_DAYS: Final = {"day": 1, "week": 7}
_MONTH = "|".join(f"{name[:3]}(?:{name[3:]})?" if len(name) > 3 else name for name in _MONTHS)
_DAY = r"(\d{1,2})(?:st|nd|rd|th)?"
_YEAR = r"(?:,? (\d{4})\b)?"


@dataclass(frozen=True, slots=True)
class Near:
    """What an expression is relative to, and on which side of it what it means lies."""

    day: date
    is_ahead: bool


@dataclass(frozen=True, slots=True)
class Period:
    """Whole days, from the first to the one after the last."""

    first: date
    after: date


@dataclass(frozen=True, slots=True)
class Saying:
    """An expression in a text; of a month, where its name begins, behind its preposition."""

    match: re.Match[str]
    reader: Callable[[re.Match[str], Near], Period | None]

    @property
    def start(self) -> int:
        return self.match.start(1) if self.reader is _month else self.match.start()

    @property
    def end(self) -> int:
        return self.match.end()

    def read(self, near: Near) -> Period | None:
        return self.reader(self.match, near)


def _whole(first: date | None, last: date | None = None) -> Period | None:
    if first is None or first == date.max:
        return None
    last = last if last is not None and first <= last < date.max else first
    return Period(first, last + timedelta(days=1))


def _iso(found: re.Match[str], near: Near) -> Period | None:
    return _whole(_date(int(found[1]), int(found[2]), int(found[3])))


def _by_name(found: re.Match[str], near: Near) -> Period | None:
    return _whole(near.day + timedelta(days=_NEAR[found[1].lower()]))


def _counted(found: re.Match[str], near: Near) -> Period | None:
    days = int(found[2]) * _DAYS[found[3].lower()]
    return _whole(near.day + timedelta(days=days if found[1] else -days))


def _weekday(found: re.Match[str], near: Near) -> Period | None:
    """Never the day itself: on a Friday, that is called today."""
    apart = _WEEKDAYS.index(found[1].lower()) - near.day.weekday()
    days = (apart - 1) % 7 + 1 if near.is_ahead else -((-apart - 1) % 7 + 1)
    return _whole(near.day + timedelta(days=days))


def _day_of_month(found: re.Match[str], near: Near) -> Period | None:
    last = _calendar(int(found[2]), found[3], found[4], near)
    first = _date(last.year, last.month, int(found[1])) if last and found[1] else None
    return _whole(first, last) if first and last and first < last else _whole(last)


def _month_and_day(found: re.Match[str], near: Near) -> Period | None:
    return _whole(_calendar(int(found[2]), found[1], found[3], near))


def _month(found: re.Match[str], near: Near) -> Period | None:
    first = _calendar(1, found[1], found[2], near)
    return _whole(first, _last_of_month(first)) if first else None


def _span(found: re.Match[str], near: Near) -> Period | None:
    """Return a week from Monday on, a month, or a year of the calendar; never days counted back."""
    today, is_this = near.day, found[1].lower() == "this"
    if found[2].lower() == "week":
        monday = today - timedelta(days=today.weekday() + (0 if is_this else 7))
        return _whole(monday, monday + timedelta(days=6))
    first = today.replace(day=1)
    if found[2].lower() == "month":
        first = first if is_this else (first - timedelta(days=1)).replace(day=1)
        return _whole(first, _last_of_month(first))
    year = today.year if is_this else today.year - 1
    return _whole(_date(year, 1, 1), _date(year, 12, 31))


_READERS: Final[Mapping[re.Pattern[str], Callable[[re.Match[str], Near], Period | None]]] = {
    re.compile(pattern, re.IGNORECASE): reader
    for pattern, reader in (
        (r"\b(\d{4})-(\d{2})-(\d{2})\b", _iso),
        (rf"\b({'|'.join(_NEAR)})\b", _by_name),
        (r"\b(in) (\d{1,3}) (day|week)s?\b", _counted),
        (r"\b()(\d{1,3}) (day|week)s? ago\b", _counted),
        (rf"\b({'|'.join(_WEEKDAYS)})\b", _weekday),
        (rf"\b(?:{_DAY} ?(?:-|–|to|and) ?)?{_DAY}(?: of)? ({_MONTH})\b\.?{_YEAR}", _day_of_month),
        (rf"\b({_MONTH})\b\.? {_DAY}\b{_YEAR}", _month_and_day),
        # Without a word before it, `may` is no month; nor is it in `and may I`.
        (
            rf"\b(?:in|of|to|and|since|until|till|after|before|between|from|during|for|through) "
            rf"(?!may (?:i|you|we|it|be|not|have)\b)({_MONTH})\b{_YEAR}",
            _month,
        ),
        (r"\b(this|last|past) (week|month|year)\b", _span),
    )
}
_BETWEEN: Final = re.compile(r",? ?(?:and|to|until|till|through|-|–) ?(?:the )?(?:last )?", re.I)
_LINK: Final = re.compile(
    r"\b(since|from|after|before|until|till|through|up to)(?: the)?(?: last)?\s*$", re.IGNORECASE
)


def day_in(text: str, today: date | None) -> str | None:
    """Return the day that is said, as ISO 8601; one without a year is the next there is.

    Args:
        text: What the person wrote.
        today: The day on which it was written; without it, only ISO dates are understood.
    """
    for said in _sayings(text, today):
        period = said.read(Near(today or date.max, is_ahead=True))
        if period and period.after - period.first == timedelta(days=1):
            return period.first.isoformat()
    return None


def bound_in(
    text: str, today: date | None, *, is_upper: bool, is_ahead: bool = False
) -> str | None:
    """Return where the period that is said begins or, with `is_upper`, ends, as a moment in UTC.

    One without a year is the last there was, or the next there is. Who names a last day means all
    of it, so the end is the midnight after it.

    Args:
        text: What the person wrote.
        today: The day on which it was written; without it, only ISO dates are understood.
        is_upper: Which of the two is wanted.
        is_ahead: Whether something is planned; otherwise it is looked up.
    """
    first, after = _bounds(text, today, is_ahead)
    day = after if is_upper else first
    return f"{day.isoformat()}T00:00:00Z" if day else None


def _bounds(text: str, today: date | None, is_ahead: bool) -> tuple[date | None, date | None]:
    sayings = _sayings(text, today)
    near = Near(today or date.max, is_ahead)
    for one, other in pairwise(sayings):
        if _BETWEEN.fullmatch(text, one.end, other.start):
            return _between(one, other, near)
    for said in sayings:
        if period := said.read(near):
            link = _LINK.search(text[: said.start])
            return _linked(link[1].lower() if link else "", period)
    return None, None


def _between(one: Saying, other: Saying, near: Near) -> tuple[date | None, date | None]:
    begun, ended = one.read(near), other.read(near)
    if begun and ended and ended.first < begun.first:
        # In `from 20 December to 10 January` the end follows the begin, unless it has a year.
        follows = other.read(Near(begun.first, is_ahead=True))
        if follows and follows.first >= begun.first:
            ended = follows
        else:
            begun = one.read(Near(ended.first, is_ahead=False))
    return (begun.first, ended.after) if begun and ended else (None, None)


def _linked(link: str, period: Period) -> tuple[date | None, date | None]:
    match link:
        case "since" | "from":
            return period.first, None
        case "after":
            return period.after, None
        case "before":
            return None, period.first
        case "until" | "till" | "through" | "up to":
            return None, period.after
    return period.first, period.after


def _sayings(text: str, today: date | None) -> list[Saying]:
    """Return what names a day or a period, in order; the longest where some overlap."""
    found = [
        Saying(match, reader)
        for pattern, reader in _READERS.items()
        if today is not None or reader is _iso
        for match in pattern.finditer(text)
    ]
    kept: list[Saying] = []
    for said in sorted(found, key=lambda said: (said.start, -said.end)):
        if not kept or said.start >= kept[-1].end:
            kept.append(said)
    return kept


def _calendar(day: int, month: str, year: str | None, near: Near) -> date | None:
    number = next(i for i, name in enumerate(_MONTHS, 1) if name.startswith(month[:3].lower()))
    if year:
        return _date(int(year), number, day)
    step = 1 if near.is_ahead else -1
    for other in range(YEARS_TO_LEAP_DAY_MAX + 1):
        found = _date(near.day.year + step * other, number, day)
        if found and (found >= near.day if near.is_ahead else found <= near.day):
            return found
    return None


def _last_of_month(day: date) -> date | None:
    return _date(day.year, day.month, calendar.monthrange(day.year, day.month)[1])


def _date(year: int, month: int, day: int) -> date | None:
    try:
        return date(year, month, day)
    except ValueError:
        return None
