"""Catalogue files as they come: every make is recognised by its content, every breach named."""

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from tools import catalog_format
from tools.catalog_entry import Fault, Faults, Judge, ProductEntry, group
from tools.catalog_format import FOLDER_FILES, Source, find, read
from tools.errors import InvalidInput


def opened(folder: Path, content: str | bytes) -> Source:
    path = folder / "catalogue"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return read(path)


def judged(source: Source, currency: str = "EUR") -> tuple[list[ProductEntry], list[Fault]]:
    faults = Faults(100)
    judge = Judge(currency, faults)
    made = [judge.product(handle, rows) for handle, rows in group(source.rows, faults)]
    return [entry for entry in made if entry is not None], list(faults)


ESHOP = [
    {"Id": 1, "Name": "Trail boot", "Price": 89.9, "Brand": "Peak", "Type": "Boots",
     "Description": "Warm.", "AvailableStock": 4},
    {"Id": 2, "Name": "Trail boot", "Price": 99},
]  # fmt: skip
DUMMYJSON = [
    {"id": 7, "title": "Red lipstick", "price": 12.99, "thumbnail": "https://x.example/a.webp",
     "stock": 91, "sku": "BEA-1", "weight": 8, "rating": 4.5, "tags": ["make up", "lips"],
     "dimensions": {"width": 1.5, "height": 2}, "meta": {"barcode": "4006381333931"}},
    {"id": 8, "title": "Plain", "price": 1, "thumbnail": None, "stock": 0},
]  # fmt: skip
RETAIL = [
    {"id": "ab12cd34-0000-4000-8000-000000000001", "name": "Oak table", "price": 199.99,
     "current_stock": 3, "style": "table", "gender_affinity": None, "aliases": ["desk", "bench"],
     "category": "furniture", "description": "Solid."},
    {"id": "ef56ab78-0000-4000-8000-000000000002", "name": "Oak table", "price": 5,
     "current_stock": 0, "style": "table", "aliases": "none"},
]  # fmt: skip


def test_public_samples_are_known_by_their_fields(tmp_path: Path) -> None:
    eshop = opened(tmp_path, json.dumps(ESHOP))
    entries, faults = judged(eshop)
    assert (eshop.format, faults) == ("eshop", [])
    assert [(e.handle, e.variants[0].sku, e.variants[0].price_amount) for e in entries] == [
        ("trail-boot-1", "ESHOP-1", 8990),
        ("trail-boot-2", "ESHOP-2", 9900),
    ]
    dummy = opened(tmp_path, json.dumps({"products": DUMMYJSON}))
    entries, faults = judged(dummy)
    assert (dummy.format, faults) == ("dummyjson", [])
    lipstick, plain = entries
    assert lipstick.tags == "make-up lips"
    assert lipstick.attributes == {"width_cm": 1.5, "height_cm": 2, "rating": 4.5}
    assert (lipstick.variants[0].barcode, lipstick.variants[0].weight_g) == ("4006381333931", 8)
    assert (plain.variants[0].sku, plain.image_url) == ("PLAIN-8", None)
    retail = opened(tmp_path, json.dumps(RETAIL))
    entries, faults = judged(retail)
    assert (retail.format, faults) == ("retail-demo-store", [])
    assert [(e.handle, e.tags, e.variants[0].sku) for e in entries] == [
        ("oak-table-ab12cd34", "table desk bench", "RDS-AB12CD340000"),
        ("oak-table-ef56ab78", "table", "RDS-EF56AB780000"),
    ]
    assert entries[0].attributes == {"style": "table"}


YAML = """\
- title: Stoneware mug
  price: 9.90
  stock: 4
  attributes: {Dishwasher: yes, Since: 2024-01-01, Volume: 0.350}
- title: Bowl
  variants:
    - {title: Small, price: 5}
    - 7.5
"""


def test_yaml_keeps_numbers_and_dates_as_they_are_spelled(tmp_path: Path) -> None:
    source = opened(tmp_path, YAML)
    (mug, bowl), faults = judged(source)
    assert source.format == "yaml"
    assert [(fault.line, fault.column) for fault in faults] == [(5, "sku")], "7.5 has no name"
    assert mug.variants[0].price_amount == 990
    assert mug.attributes == {"Dishwasher": True, "Since": "2024-01-01", "Volume": "0.350"}
    assert [(v.title, v.price_amount) for v in bowl.variants] == [("Small", 500)]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("- title: Mug\n  price: [1, 2\n", "Line 3 is not YAML"),
        ("--- {a: 1}\n", "not a list of products"),
        ('{"products": {"a": 1}}', "must be a list"),
        (b"\xe4\x00title", "not a text file"),
        (b"Mug \x81", "neither UTF-8 nor Windows-1252"),
        ("a,b\n1,2\n", "at least the columns title and price"),
        ("title,price,title\nMug,1,Mug\n", "names a column twice: title"),
        ("", "is empty"),
        (b"\x1f\x8b\x08broken", "cannot be read"),
    ],
)
def test_files_that_are_refused_as_a_whole(tmp_path: Path, content: str | bytes, said: str) -> None:
    with pytest.raises(InvalidInput, match=said):
        opened(tmp_path, content)


@pytest.mark.parametrize(
    ("content", "kept", "line", "said"),
    [
        ('[{"title": "Mug", "price": 1}', 1, 1, "the list never ends"),
        ('[{"title": "Mug", "price": 1},\n{"title": ]', 1, 2, "is not JSON, so the rest"),
        ('[{"title": "Mug", "price": 1}, 7]', 1, 1, "is not a product"),
        ('{"title": "Mug", "price": 1}\n\n{"title": \n', 1, 3, "is not JSON"),
        ("title,price\nMug,1\nBowl,1,2\n", 1, 3, "has 3 cells under 2 columns"),
        ('title,price\nMug,1\n"Bowl" x,1\n', 1, 3, "is not CSV"),
        (
            json.dumps([DUMMYJSON[0], {**DUMMYJSON[1], "meta": ["x"]}]),
            1, 1, "has a list or text where an object belongs",
        ),
    ],
)  # fmt: skip
def test_lines_that_cannot_be_read_are_named_and_the_rest_is(
    tmp_path: Path, content: str, kept: int, line: int, said: str
) -> None:
    source = opened(tmp_path, content)
    entries, _ = judged(source)
    assert len(entries) == kept
    ((at, reason),) = source.broken
    assert at == line
    assert said in reason


def test_one_product_alone_and_empty_lines_are_fine(tmp_path: Path) -> None:
    assert len(judged(opened(tmp_path, '{"title": "Mug", "price": 1}'))[0]) == 1
    source = opened(tmp_path, "Title;Price;Note;;Attribute: Colour\n\nMug;1,50;x;;Blue\n;;;;\n")
    ((mug,), faults) = judged(source)
    assert faults == []
    assert mug.variants[0].price_amount == 150
    assert mug.attributes == {"Colour": "Blue"}
    assert source.warnings == ["Columns not used: Note."]


def test_a_folder_holds_one_file_by_its_name(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="holds no catalogue"):
        find(tmp_path)
    packed = tmp_path / f"{FOLDER_FILES[-1]}.gz"
    packed.write_bytes(gzip.compress(b"title,price\nMug,1\n"))
    assert find(tmp_path) == packed
    assert len(judged(read(packed))[0]) == 1
    first = tmp_path / FOLDER_FILES[0]
    first.write_text("title,price\nMug,1\n")
    assert find(tmp_path) == find(first) == first
    with pytest.raises(InvalidInput, match="There is no file"):
        find(tmp_path / "absent.csv")


def test_a_file_that_unpacks_to_too_much_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(catalog_format, "FILE_BYTES_MAX", 100)
    with pytest.raises(InvalidInput, match="is larger than"):
        opened(tmp_path, gzip.compress(b"title,price\n" + b"Mug,1\n" * 50))


GOOD = {"title": "Mug", "price": "1.50"}


@pytest.mark.parametrize(
    ("change", "column", "said"),
    [
        ({"title": "", "handle": ""}, "title", "is missing, and there is no handle either"),
        ({"handle": "a/b"}, "handle", "must not hold spaces or any of"),
        ({"title": "x" * 301}, "title", "has 301 characters; 300 is the most"),
        ({"title": ["Mug"]}, "title", "must be a single value"),
        ({"status": "someday"}, "status", "must be one of"),
        ({"image_url": "http://x.example/a.png"}, "image_url", "must start with https"),
        ({"image_url": "//x.example/a.png"}, "image_url", "must start with https"),
        ({"description": {"de": "Tasse"}}, "description", "must be a text"),
        ({"description": "x" * 100_001}, "description", "is the most"),
        ({"attributes": "blue"}, "attributes", "must be named values"),
        ({"attributes": {str(n): n for n in range(500)}}, "attributes", "is the most"),
        ({"attributes": {" ": 1}}, "attributes", "is missing"),
        ({"attributes": {"a": "x" * 5000}}, "attributes.a", "is the most"),
        ({"tags": [f"t{n}" for n in range(500)]}, "tags", "is the most"),
        ({"price": None}, "price", "is missing"),
        ({"price": "12.345"}, "price", "could mean"),
        ({"sku": "x" * 65}, "sku", "64 is the most"),
        ({"handle": "h" * 100}, "sku", "the handle is too long to make one"),
        ({"weight": "3", "weight_unit": "stone"}, "weight", "has an unknown unit"),
        ({"weight": "-3"}, "weight", "must not be negative"),
        ({"weight": "heavy"}, "weight", "is no weight"),
        ({"weight": "9" * 12}, "weight", "is above"),
        ({"stock": "-1"}, "stock", "must not be negative"),
        ({"stock": "1.5"}, "stock", "is no whole number"),
        ({"stock": "9" * 15}, "stock", "is above"),
        ({"variants": [{"price": 1}, {"price": 2}]}, "sku", "nothing else tells"),
    ],
)
def test_a_value_that_cannot_be_is_named_by_its_column(
    tmp_path: Path, change: dict[str, Any], column: str, said: str
) -> None:
    entries, faults = judged(opened(tmp_path, json.dumps([{**GOOD, **change}])))
    assert entries == []
    assert faults[0].column == column
    assert said in faults[0].reason


def test_values_are_read_as_people_write_them(tmp_path: Path) -> None:
    item = {
        **GOOD,
        "description": "<h1>Mug</h1><br/>For <b>tea</b>",
        "attributes": {"Blank": " ", "Ok": True, "Long": 2**60, "Half": 0.5, "None": None},
        "tags": "warm, winter wear",
        "weight": "1,5",
        "weight_unit": "KG",
        "status": "ACTIVE",
        "barcode": "'0123",
        "options": {"Size": "Small", "Colour": ""},
    }
    ((mug,), faults) = judged(opened(tmp_path, json.dumps([item])))
    assert faults == []
    assert mug.description == "Mug\nFor tea"
    assert mug.attributes == {"Ok": True, "Long": str(2**60), "Half": 0.5}
    assert (mug.tags, mug.status) == ("warm winter-wear", "active")
    (variant,) = mug.variants
    assert (variant.weight_g, variant.barcode, variant.title) == (1500, "0123", "Small")


def test_a_product_has_so_many_variants(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tools.catalog_entry.VARIANTS_MAX", 2)
    variants = [{"title": str(n), "price": n + 1} for n in range(4)]
    ((mug,), faults) = judged(opened(tmp_path, json.dumps([{**GOOD, "variants": variants}])))
    assert len(mug.variants) == 2
    assert [fault.reason for fault in faults] == ["a product has 2 variants at most"] * 2


def test_rows_of_pictures_alone_are_no_product(tmp_path: Path) -> None:
    header = "Handle,Title,Variant Price,Variant SKU,Image Src\n"
    entries, faults = judged(opened(tmp_path, header + "mug,Mug,,,https://x.example/b.png\n"))
    assert entries == []
    assert [(fault.column, fault.reason) for fault in faults] == [("price", "is missing")]
