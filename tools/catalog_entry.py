"""Judging rows of a catalogue file: what may be stored, and what is wrong with the rest."""

import heapq
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from db.models.product import ProductStatus
from tools import catalog_clean
from tools.catalog_clean import VALUE_CHARS_MAX, BadValue, one_line, slug
from tools.catalog_format import Row

VARIANTS_MAX = 500
OPTIONS_MAX = 10
ATTRIBUTES_MAX = 50
TAGS_MAX = 100
_STATUS = {status.value: status for status in ProductStatus}


@dataclass(frozen=True, slots=True)
class VariantEntry:
    """`stock` is None when the file says nothing of it."""

    line: int
    sku: str
    title: str
    options: dict[str, str]
    price_amount: int
    barcode: str | None
    weight_g: int | None
    stock: int | None
    position: int


@dataclass(frozen=True, slots=True)
class ProductEntry:
    """A product fit to be stored. None leaves what the shop has (or its default) alone."""

    line: int
    handle: str
    title: str
    description: str | None
    brand: str | None
    category: str | None
    attributes: dict[str, Any] | None
    tags: str | None
    image_url: str | None
    status: str | None
    variants: tuple[VariantEntry, ...]


@dataclass(frozen=True, slots=True)
class Fault:
    line: int
    column: str
    reason: str
    value: str


class Faults:
    """What is wrong with a file: every fault is counted, the first by line are kept."""

    def __init__(self, most: int) -> None:
        self.count = 0
        self._most = most
        self._kept: list[tuple[int, int, Fault]] = []  # A heap: its first is the last by line.

    def append(self, fault: Fault) -> None:
        self.count += 1
        heapq.heappush(self._kept, (-fault.line, -self.count, fault))
        if len(self._kept) > self._most:
            heapq.heappop(self._kept)

    def __iter__(self) -> Iterator[Fault]:
        return (fault for _, _, fault in sorted(self._kept, reverse=True))


def group(rows: Iterable[Row], faults: Faults) -> list[tuple[str, list[Row]]]:
    """Gather the rows of each product, wherever they stand, in order of first appearance."""
    groups: dict[str, list[Row]] = {}
    for row in rows:
        given = row.fields.get("handle")
        try:
            title = one_line(row.fields.get("title"), "title", 10_000)
            handle = one_line(given, "handle", 200) or slug(title)[:200].strip("-")
            if not handle:
                raise BadValue("title", "is missing, and there is no handle either")
            if given and not re.fullmatch(r"[^\s/?#%\\]+", handle):
                raise BadValue("handle", "must not hold spaces or any of / ? # % \\", given)
        except BadValue as bad:
            faults.append(Fault(row.line, bad.column, bad.reason, bad.value))
            continue
        groups.setdefault(handle, []).append(row)
    return list(groups.items())


class Judge:
    """Judges product by product; remembers SKUs, so the second use of one is refused."""

    def __init__(self, currency: str, faults: Faults) -> None:
        self.currency = currency
        self.faults = faults
        self._sku_lines: dict[str, int] = {}

    def product(self, handle: str, rows: list[Row]) -> ProductEntry | None:
        """Return the product with its good variants; None when nothing of it can be stored."""
        before = self.faults.count
        merged: dict[str, Any] = {}
        for row in rows:
            for name, value in row.fields.items():
                if name in merged and _is_empty(merged[name]):
                    del merged[name]
                merged.setdefault(name, value)
        try:
            values = self._product_values(merged)
        except BadValue as bad:
            others = f" (so its {len(rows)} rows were left out)" if len(rows) > 1 else ""
            self.faults.append(Fault(rows[0].line, bad.column, bad.reason + others, bad.value))
            return None
        own = [row for row in rows if not row.fields.get("picture_only")]
        variants = []
        for position, row in enumerate(own):
            try:
                if position >= VARIANTS_MAX:
                    raise BadValue("sku", f"a product has {VARIANTS_MAX} variants at most")
                variants.append(self._variant(handle, row, position, alone=len(own) == 1))
            except BadValue as bad:
                self.faults.append(Fault(row.line, bad.column, bad.reason, bad.value))
        if not variants:
            if self.faults.count == before:
                self.faults.append(Fault(rows[0].line, "price", "is missing", ""))
            return None
        return ProductEntry(line=rows[0].line, handle=handle, variants=tuple(variants), **values)

    def _product_values(self, fields: Mapping[str, Any]) -> dict[str, Any]:
        def text(name: str, most: int) -> str | None:
            return one_line(fields[name], name, most) if name in fields else None

        status = (text("status", 32) or "").lower()
        if status and status not in _STATUS:
            raise BadValue("status", f"must be one of {', '.join(_STATUS)}", status)
        image = text("image_url", 2000)
        if image and not re.match(r"https://[^/\s]|/(?!/)", image):
            raise BadValue("image_url", "must start with https:// or /", image)
        return {
            "title": one_line(fields.get("title"), "title", 300, required=True),
            "description": (
                catalog_clean.prose(fields["description"]) if "description" in fields else None
            ),
            "brand": text("brand", 200),
            "category": text("category", 200) or None,
            "attributes": (
                _attributes(fields["attributes"], "attributes", ATTRIBUTES_MAX)
                if "attributes" in fields
                else None
            ),
            "tags": _tags(fields["tags"]) if "tags" in fields else None,
            "image_url": image or None,
            "status": status or None,
        }

    def _variant(self, handle: str, row: Row, position: int, *, alone: bool) -> VariantEntry:
        fields = row.fields
        options = {
            name: str(value)
            for name, value in _attributes(fields.get("options"), "options", OPTIONS_MAX).items()
        }
        title = one_line(fields.get("variant"), "variant", 300) or " / ".join(options.values())
        unit = one_line(fields.get("weight_unit"), "weight_unit", 10) or "g"
        amount = catalog_clean.price_amount(fields.get("price"), self.currency)
        sku = one_line(fields.get("sku"), "sku", 64)
        if not sku:
            # Made from what stays the same between two exports, so a rerun finds it again.
            if not alone and not title:
                raise BadValue("sku", "is missing, and nothing else tells the variants apart")
            sku = slug(handle if alone else f"{handle}-{title}").upper()
            if not 0 < len(sku) <= 64:
                raise BadValue("sku", "is missing, and the handle is too long to make one", handle)
        entry = VariantEntry(
            line=row.line,
            sku=sku,
            title=one_line(title, "variant", 300),
            options=options,
            price_amount=amount,
            barcode=one_line(fields.get("barcode"), "barcode", 64).lstrip("'") or None,
            weight_g=catalog_clean.grams(fields.get("weight"), unit=unit),
            stock=catalog_clean.whole(fields.get("stock"), "stock", catalog_clean.STOCK_MAX),
            position=position,
        )
        if sku in self._sku_lines:
            raise BadValue("sku", f"is used twice: first on line {self._sku_lines[sku]}", sku)
        self._sku_lines[sku] = row.line
        return entry


def _is_empty(value: object) -> bool:
    return value is None or (isinstance(value, str) and not value.strip())


def _attributes(given: object, column: str, most: int) -> dict[str, Any]:
    if _is_empty(given):
        return {}
    if not isinstance(given, Mapping):
        raise BadValue(column, "must be named values, as in {name: value}", given)
    if len(given) > most:
        raise BadValue(column, f"are {len(given)}; {most} is the most")
    found: dict[str, Any] = {}
    for raw_name, value in given.items():
        name = one_line(raw_name, column, 100, required=True)
        if _is_empty(value):
            continue
        # Beyond 2**53 a JSON number loses digits in a browser, so it stays text.
        if isinstance(value, bool) or (isinstance(value, int) and abs(value) < 2**53):
            found[name] = value
        elif isinstance(value, Decimal) and value.is_finite() and abs(value) < 2**53:
            found[name] = float(value)
        else:
            found[name] = one_line(value, f"{column}.{name}", VALUE_CHARS_MAX)
    return found


def _tags(given: object) -> str:
    """Spell tags as the shop keeps them: separated by spaces, a tag of two words hyphenated."""
    if _is_empty(given):
        return ""
    if isinstance(given, list):
        each = [one_line(tag, "tags", 200) for tag in given]
    else:
        text = one_line(given, "tags", VALUE_CHARS_MAX * 20)
        each = text.split(",") if "," in text else text.split()
    tags = dict.fromkeys("-".join(tag.split()) for tag in each if tag.strip())
    if len(tags) > TAGS_MAX:
        raise BadValue("tags", f"are {len(tags)}; {TAGS_MAX} is the most")
    return " ".join(tags)
