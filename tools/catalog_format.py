"""Reading catalogue files of several makes into rows of one vocabulary.

A format only renames: what a row says is judged by `tools.catalog_entry`, the same for all. The
vocabulary is `FIELDS`; `Source.columns` remembers what the file itself calls each field, because
that is the name its owner will look for.
"""

import csv
import gzip
import itertools
import json
import re
import zlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any

import yaml

from tools.catalog_clean import slug
from tools.errors import InvalidInput

FILE_BYTES_MAX = 512 * 1024 * 1024
# What has to be held as a whole, such as YAML, takes many times its length in memory.
WHOLE_CHARS_MAX = 64 * 1024 * 1024
ROWS_MAX = 500_000
CELL_CHARS_MAX = 1_000_000
FOLDER_FILES = ("products.yaml", "catalog.json", "products.json", "products.jsonl", "products.csv")

FIELDS = frozenset(
    {"handle", "title", "description", "brand", "category", "tags", "image_url", "status"}
    | {"attributes", "sku", "variant", "options", "price", "barcode", "weight", "weight_unit"}
    | {"stock"}
)
_ALIASES = {
    "name": "title",
    "body": "description",
    "vendor": "brand",
    "type": "category",
    "quantity": "stock",
    "qty": "stock",
    "image": "image_url",
    "weight_g": "weight",
    "ean": "barcode",
    "gtin": "barcode",
    "upc": "barcode",
}


@dataclass(frozen=True, slots=True)
class Row:
    """One row or item. An absent field says nothing; an empty one says "empty"."""

    line: int
    fields: dict[str, Any]


class Broken(list[tuple[int, str]]):
    """Rows that could not be read: their lines, and why. They count as rows do."""

    def append(self, row: tuple[int, str]) -> None:
        if len(self) >= ROWS_MAX:
            raise InvalidInput(f"The file has more than {ROWS_MAX} rows.")
        super().append(row)


@dataclass(slots=True)
class Source:
    """A file opened and recognised. Reading `rows` may add to `broken`, and must come first."""

    format: str
    rows: Iterator[Row]
    columns: Mapping[str, str] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    broken: Broken = field(default_factory=Broken)


def find(path: Path) -> Path:
    """Return `path`, or the catalogue inside it when it is a folder.

    Raises:
        InvalidInput: There is no such file, or the folder holds none of `FOLDER_FILES`.
    """
    if path.is_dir():
        for name in FOLDER_FILES:
            for candidate in (path / name, path / f"{name}.gz"):
                if candidate.is_file():
                    return candidate
        raise InvalidInput(f"{path} holds no catalogue: looked for {', '.join(FOLDER_FILES)}.")
    if not path.is_file():
        raise InvalidInput(f"There is no file {path}.")
    return path


def read(path: Path) -> Source:
    """Open a catalogue file and recognise its format from its content, never from its name.

    Raises:
        InvalidInput: It cannot be read, is too large, is not text, or is no known format.
    """
    warnings: list[str] = []
    text = _text(_bytes(path), warnings)
    start = text.lstrip()[:1]
    if not start:
        raise InvalidInput(f"{path.name} is empty.")
    if start == "[":
        source = _json_array(text)
    elif start == "{":
        source = _json_lines(text)
    elif start == "-":
        source = _yaml(text)
    else:
        source = _csv(text)
    source.warnings[:0] = warnings
    return source


def _bytes(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            packed = file.read(2) == b"\x1f\x8b"
        with gzip.open(path) if packed else path.open("rb") as file:
            data = file.read(FILE_BYTES_MAX + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise InvalidInput(f"{path.name} cannot be read: {error}.") from error
    if len(data) > FILE_BYTES_MAX:
        raise InvalidInput(f"{path.name} is larger than {FILE_BYTES_MAX // 2**20} MiB unpacked.")
    return bytes(data)


def _text(data: bytes, warnings: list[str]) -> str:
    try:
        if data.startswith((b"\xff\xfe", b"\xfe\xff")):
            return data.decode("utf-16")
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
    try:
        text = data.decode("cp1252")
    except UnicodeDecodeError as error:
        raise InvalidInput(
            f"Line {line} is neither UTF-8 nor Windows-1252 text; save the file as UTF-8."
        ) from error
    if "\x00" in text:
        raise InvalidInput("This is not a text file.")
    warnings.append(
        f"The file is not UTF-8 (line {line}), so it was read as Windows-1252 (Latin-1). "
        "If letters look wrong, save it as UTF-8 and import it again."
    )
    return text


_LINE = re.compile(r"[^\r\n]*(?:\r\n?|\n)|[^\r\n]+")


def _lines(text: str) -> Iterator[str]:
    """Read a text line by line, without holding it twice."""
    return (found[0] for found in _LINE.finditer(text))


# JSON and YAML -----------------------------------------------------------------------------------

_TOO_LONG = "The file is too long to be read as a whole; send JSON, one product a line."
_NO_PRODUCT = "is not a product: expected an object with named fields"
_DECODER = json.JSONDecoder(parse_float=Decimal, parse_constant=str)
_Map = Callable[[dict[str, Any]], dict[str, Any]]


def _only(fields: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value is not None}


def _own_item(item: dict[str, Any]) -> dict[str, Any]:
    return {_ALIASES.get(name, name): value for name, value in item.items()}


def _eshop_item(item: dict[str, Any]) -> dict[str, Any]:
    number, name = item.get("Id"), item.get("Name")
    return _only(
        {
            # Names repeat in this set, so the number keeps handles apart.
            "handle": f"{slug(str(name))}-{number}",
            "title": name,
            "description": item.get("Description"),
            "brand": item.get("Brand"),
            "category": item.get("Type"),
            "sku": f"ESHOP-{number}",
            "price": item.get("Price"),
            "stock": item.get("AvailableStock"),
        }
    )


_DUMMYJSON_SAME = (
    *("title", "description", "brand", "category", "tags"),
    *("sku", "price", "stock", "weight"),
)


def _dummyjson_item(item: dict[str, Any]) -> dict[str, Any]:
    size, meta = item.get("dimensions") or {}, item.get("meta") or {}
    attributes = {
        "width_cm": size.get("width"),
        "height_cm": size.get("height"),
        "depth_cm": size.get("depth"),
        "warranty": item.get("warrantyInformation"),
        "returns": item.get("returnPolicy"),
        "rating": item.get("rating"),
    }
    return _only(
        {
            "handle": f"{slug(str(item.get('title')))}-{item.get('id')}",
            "attributes": _only(attributes),
            "barcode": meta.get("barcode"),
            "image_url": item.get("thumbnail"),
            **{name: item.get(name) for name in _DUMMYJSON_SAME},
        }
    )


def _retail_item(item: dict[str, Any]) -> dict[str, Any]:
    key = str(item.get("id", "")).replace("-", "")
    aliases = item.get("aliases")
    return _only(
        {
            # Names repeat in this set, so the id keeps handles apart.
            "handle": f"{slug(str(item.get('name')))}-{key[:8]}",
            "title": item.get("name"),
            "description": item.get("description"),
            "category": item.get("category"),
            "tags": [str(item.get("style") or ""), *(aliases if isinstance(aliases, list) else [])],
            "attributes": _only(
                {"style": item.get("style"), "gender_affinity": item.get("gender_affinity")}
            ),
            "sku": f"RDS-{key[:12].upper()}",
            "price": item.get("price"),
            "stock": item.get("current_stock"),
        }
    )


_ITEM_FORMATS: tuple[tuple[str, frozenset[str], _Map, dict[str, str]], ...] = (
    (
        "eshop",
        frozenset({"Id", "Name", "Price"}),
        _eshop_item,
        {"title": "Name", "price": "Price", "description": "Description", "sku": "Id"},
    ),
    (
        "retail-demo-store",
        frozenset({"id", "name", "current_stock", "style"}),
        _retail_item,
        {"title": "name", "stock": "current_stock", "sku": "id", "tags": "aliases"},
    ),
    (
        "dummyjson",
        frozenset({"id", "title", "price", "thumbnail", "stock"}),
        _dummyjson_item,
        {"image_url": "thumbnail", "barcode": "meta.barcode", "attributes": "dimensions"},
    ),
)


def _items(found: Iterable[tuple[int, Any]], own: str, broken: Broken) -> Source:
    items = iter(found)
    first: dict[str, Any] = {}
    for line, item in items:
        if isinstance(item, dict):
            first, items = item, itertools.chain([(line, item)], items)
            break
        broken.append((line, _NO_PRODUCT))
    format_, columns = own, dict[str, str]()
    rename: _Map = _own_item
    for name, keys, known, its_columns in _ITEM_FORMATS:
        if keys <= first.keys():
            format_, rename, columns = name, known, its_columns
            break

    def rows() -> Iterator[Row]:
        for line, item in items:
            if not isinstance(item, dict):
                broken.append((line, _NO_PRODUCT))
                continue
            try:
                fields = rename(item)
            except AttributeError:
                broken.append((line, "has a list or text where an object belongs"))
                continue
            yield from _with_variants(line, fields)

    return Source(format_, rows(), columns, broken=broken)


def _with_variants(line: int, fields: dict[str, Any]) -> Iterator[Row]:
    variants = fields.pop("variants", None)
    if not isinstance(variants, list) or not variants:
        yield Row(line, fields)
        return
    for variant in variants:
        its = variant if isinstance(variant, dict) else {"price": variant}
        its = {"title": None, **its}
        renamed = {_ALIASES.get(n, n): v for n, v in its.items() if n != "title"}
        yield Row(line, {**fields, **renamed, "variant": its["title"]})


def _json_array(text: str) -> Source:
    broken = Broken()

    def found() -> Iterator[tuple[int, Any]]:
        at, line, counted = text.index("[") + 1, 1, 0
        while True:
            while at < len(text) and text[at] in " \t\r\n,":
                at += 1
            line, counted = line + text.count("\n", counted, at), at
            if text[at : at + 1] in ("]", ""):
                if at >= len(text):
                    broken.append((line, "the list never ends: is the file cut off?"))
                return
            try:
                item, at = _DECODER.raw_decode(text, at)
            except (ValueError, RecursionError) as error:
                broken.append((line, f"is not JSON, so the rest was not read: {error}"))
                return
            yield line, item

    return _items(found(), "json", broken)


def _json_lines(text: str) -> Source:
    broken = Broken()
    try:
        whole = _DECODER.decode(text) if len(text) <= WHOLE_CHARS_MAX else None
    except (ValueError, RecursionError):
        whole = None
    if isinstance(whole, dict):
        products = whole.get("products", [whole])
        if not isinstance(products, list):
            raise InvalidInput("`products` must be a list.")
        return _items(((place, item) for place, item in enumerate(products, 1)), "json", broken)

    def found() -> Iterator[tuple[int, Any]]:
        for line, each in enumerate(_lines(text), 1):
            if not each.strip():
                continue
            if len(each) > WHOLE_CHARS_MAX:
                raise InvalidInput(_TOO_LONG)
            try:
                yield line, _DECODER.decode(each.strip())
            except (ValueError, RecursionError) as error:
                broken.append((line, f"is not JSON: {error}"))

    return _items(found(), "jsonl", broken)


class _ExactLoader(yaml.CSafeLoader):
    """Keeps numbers and dates as they are spelled: `9.99` as a float is no longer 9.99."""


def _as_spelled(loader: _ExactLoader, node: yaml.Node) -> Any:
    assert isinstance(node, yaml.ScalarNode)
    return node.value


for _tag in ("float", "timestamp"):
    _ExactLoader.add_constructor(f"tag:yaml.org,2002:{_tag}", _as_spelled)


def _yaml(text: str) -> Source:
    if len(text) > WHOLE_CHARS_MAX:
        raise InvalidInput(_TOO_LONG)
    loader = _ExactLoader(text)
    try:
        root = loader.get_single_node()
        if not isinstance(root, yaml.SequenceNode):
            raise InvalidInput("The YAML is not a list of products.")
        found = [(node.start_mark.line + 1, loader.construct_document(node)) for node in root.value]
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f"Line {mark.line + 1}" if mark else "The file"
        raise InvalidInput(f"{where} is not YAML: {error}") from error
    finally:
        loader.dispose()
    return _items(found, "yaml", Broken())


# CSV ---------------------------------------------------------------------------------------------

_SHOPIFY = {
    "handle": "Handle",
    "title": "Title",
    "description": "Body (HTML)",
    "brand": "Vendor",
    "tags": "Tags",
    "image_url": "Image Src",
    "sku": "Variant SKU",
    "price": "Variant Price",
    "barcode": "Variant Barcode",
    "weight": "Variant Grams",
    "stock": "Variant Inventory Qty",
    "status": "Status",
}


def _delimiter(header: str) -> str:
    return max(",;\t|", key=header.count)


def _csv(text: str) -> Source:
    delimiter = _delimiter(text[:CELL_CHARS_MAX].lstrip().split("\n", 1)[0])
    csv.field_size_limit(CELL_CHARS_MAX)
    broken = Broken()
    cells = _cells(_Lines(text), delimiter, broken)
    _, header = next(cells, (0, []))
    header = [name.strip() for name in header]
    shopify = {"Handle", "Variant Price"} <= set(header)
    twice = {name for name in header if name and header.count(name) > 1}
    if twice:
        raise InvalidInput(f"The header names a column twice: {', '.join(sorted(twice))}.")
    if shopify:
        return Source("shopify", _shopify_rows(_named(cells, header, broken)), _SHOPIFY, [], broken)
    names = {column: _canonical(column) for column in header}
    if not {"title", "price"} <= set(names.values()):
        raise InvalidInput(
            "This is no catalogue: the first line must name at least the columns title and price. "
            f"It says: {', '.join(header)[:200]}"
        )
    unused = [c for c, n in names.items() if c and n not in FIELDS and ":" not in n]
    warnings = [f"Columns not used: {', '.join(unused)}."] if unused else []
    columns = {name: column for column, name in names.items()}
    return Source("csv", _own_rows(_named(cells, header, broken), names), columns, warnings, broken)


def _canonical(column: str) -> str:
    kind, colon, rest = column.partition(":")
    if colon and kind.strip().lower() in ("option", "attribute"):
        return f"{kind.strip().lower()}:{rest.strip()}"
    name = column.lower().replace(" ", "_")
    return _ALIASES.get(name, name)


class _Lines(Iterator[str]):
    """The lines of a text; those of a record that is none can be read again, but for its first."""

    def __init__(self, text: str) -> None:
        self.number = 0
        self._fresh = _lines(text)
        self._again: deque[str] = deque()
        self._record: list[str] = []

    def __next__(self) -> str:
        line = self._again.popleft() if self._again else next(self._fresh)
        self.number += 1
        self._record.append(line)
        return line

    def begin(self) -> int:
        """Begin a record, and return the number of its first line."""
        self._record.clear()
        return self.number + 1

    def give_back(self) -> None:
        rest = self._record[1:]
        self._again.extendleft(reversed(rest))
        self.number -= len(rest)


def _cells(lines: _Lines, delimiter: str, broken: Broken) -> Iterator[tuple[int, list[str]]]:
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    while True:
        line = lines.begin()
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            broken.append((line, f"is not CSV: {error}; is a quotation mark left open?"))
            lines.give_back()  # An open mark swallows the rows after it, which are good.
            continue
        if any(cell.strip() for cell in cells):
            yield line, cells


def _named(
    cells: Iterator[tuple[int, list[str]]], header: list[str], broken: Broken
) -> Iterator[tuple[int, dict[str, str]]]:
    for line, row in cells:
        if any(cell.strip() for cell in row[len(header) :]):
            broken.append((line, f"has {len(row)} cells under {len(header)} columns"))
            continue
        yield line, dict(zip(header, row, strict=False))


def _own_rows(rows: Iterator[tuple[int, dict[str, str]]], names: dict[str, str]) -> Iterator[Row]:
    for line, row in rows:
        fields: dict[str, Any] = {}
        for column, cell in row.items():
            name = names[column]
            kind, colon, key = name.partition(":")
            if colon and key and cell.strip():
                fields.setdefault(f"{kind}s", {})[key] = cell
            elif name in FIELDS and name not in ("options", "attributes"):
                fields[name] = cell
        yield Row(line, fields)


def _shopify_rows(rows: Iterator[tuple[int, dict[str, str]]]) -> Iterator[Row]:
    """Map Shopify's export: a product's first row says what it is, the others add variants or
    pictures (https://help.shopify.com/en/manual/products/import-export/using-csv)."""
    option_names: dict[str, list[str]] = {}
    for line, row in rows:
        fields: dict[str, Any] = {n: row[c] for n, c in _SHOPIFY.items() if row.get(c, "").strip()}
        kind = row.get("Type", "").strip() or row.get("Product Category", "").strip()
        if kind:
            fields["category"] = kind.rpartition(">")[2]
        if row.get("Published", "").strip().lower() == "false":
            fields.setdefault("status", "draft")
        handle = fields.get("handle", "")
        names = [row.get(f"Option{n} Name", "").strip() for n in (1, 2, 3)]
        known = option_names.setdefault(handle, names)
        values = [row.get(f"Option{n} Value", "").strip() for n in (1, 2, 3)]
        fields["options"] = {
            name: value
            for name, value in zip(known, values, strict=True)
            if name and value and (name, value) != ("Title", "Default Title")
        }
        if not (any(values) or "price" in fields or "sku" in fields or "title" in fields):
            # A row that only adds a picture: it is no variant, and the first picture wins.
            fields.pop("options")
            fields["picture_only"] = True
        yield Row(line, fields)
