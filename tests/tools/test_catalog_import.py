"""Catalogue files of every supported make, good and bad, on the real database."""

import contextlib
import csv
import gzip
import json
import os
from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import text

from db.types import exponent
from deps.core import SYSTEM, Deps
from deps.postgres import DatabaseUnavailable
from tools import catalog_format, catalog_import
from tools.catalog_clean import (
    PRICE_AMOUNT_MAX,
    BadValue,
    clean,
    grams,
    price_amount,
    prose,
    slug,
    whole,
)
from tools.catalog_import import ImportReport, import_file
from tools.errors import Forbidden, InvalidInput, NotFound

DATA = Path(os.environ.get("SHOPKEEPER_DATA", Path(__file__).parents[2] / ".." / "shared" / "data"))
OWN = """handle,title,description,brand,category,sku,price,stock,option:Size,attribute:Material
mug,Stoneware mug,<p>A <b>mug</b></p>,Kiln,Kitchen,MUG-S,12.50,4,Small,Stoneware
mug,,,,,MUG-L,14.50,3,Large,
lamp,Desk lamp,Bright & warm,Lumen,Lighting,LAMP,49,2,,
"""
SHOPIFY = """Handle,Title,Body (HTML),Vendor,Type,Tags,Published,Option1 Name,Option1 Value,\
Variant SKU,Variant Grams,Variant Inventory Qty,Variant Price,Variant Barcode,Image Src,Status
scarf,Wool scarf,"<p>Soft.</p><script>alert(1)</script>",Fold,Knitwear,"warm, winter wear",true,\
Colour,Red,SC-RED,200,5,35.00,4006381333931,https://cdn.example/a.jpg,active
scarf,,,,,,,,Blue,SC-BLUE,200,0,35.00,,,
scarf,,,,,,,,,,,,,,https://cdn.example/b.jpg,
card,Gift card,,Fold,Cards,,false,Title,Default Title,,0,,25.00,,,draft
"""


def write(folder: Path, content: str | bytes, name: str = "catalogue.csv") -> Path:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


async def load(deps: Deps, path: Path, *, location: str | None = None) -> ImportReport:
    return await import_file(
        deps.acting_as(SYSTEM), path, currency="EUR", location=location, on_progress=None
    )


async def column(deps: Deps, sql: str) -> list[object]:
    async with deps.begin() as uow:
        return list((await uow.session.execute(text(sql))).scalars())


async def stock(deps: Deps) -> dict[str, int]:
    async with deps.begin() as uow:
        rows = await uow.session.execute(text("SELECT sku, on_hand FROM stock_level"))
        return {row.sku: row.on_hand for row in rows}


@given(
    amount=st.integers(0, PRICE_AMOUNT_MAX), currency=st.sampled_from(["EUR", "JPY", "KWD", "CLF"])
)
def test_every_amount_survives_being_written_and_read(amount: int, currency: str) -> None:
    places = exponent(currency)
    number = Decimal(amount).scaleb(-places)
    assert price_amount(number, currency) == amount
    spelled = f"{number:.{places}f}"
    assert price_amount(f" {spelled} {currency}", currency) == amount
    # With a comma and three decimals it could as well be thousands, so it is refused instead.
    if places != 3:
        assert price_amount(spelled.replace(".", ","), currency) == amount


@given(amount=st.integers(100_000, PRICE_AMOUNT_MAX))
def test_grouped_prices_are_read_in_both_conventions(amount: int) -> None:
    english = f"{amount // 100:,}.{amount % 100:02}"
    german = english.translate(str.maketrans(",.", ".,"))
    assert price_amount(english, "EUR") == price_amount(german, "EUR") == amount


@given(raw=st.text(max_size=30))
def test_any_text_is_a_price_or_a_reason(raw: str) -> None:
    with contextlib.suppress(BadValue):
        assert 0 <= price_amount(raw, "EUR") <= PRICE_AMOUNT_MAX


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        ("12.345", "could mean"),
        (Decimal("12.345"), "more than the 2 decimals"),
        ("1,299", "could mean"),
        ("-1", "negative"),
        (Decimal("-0.01"), "negative"),
        ("NaN", "not a price"),
        (Decimal("Infinity"), "not a price"),
        (Decimal("1E+999999"), "too large"),
        ("1e3", "not a price"),
        ("$5", "marked $"),
        ("1,2,3", "not a price"),
        ("٣", "not a price"),
        ("", "missing"),
        (None, "missing"),
        (True, "not a price"),
        ("9" * 20, "too large"),
    ],
)
def test_prices_that_are_refused(raw: object, reason: str) -> None:
    with pytest.raises(BadValue, match="^.*" + reason.replace("$", r"\$")):
        price_amount(raw, "EUR")


@given(raw=st.text(max_size=300))
def test_clean_text_is_storable_and_stays_clean(raw: str) -> None:
    cleaned = clean(raw)
    assert clean(cleaned) == cleaned
    assert "\x00" not in cleaned
    cleaned.encode()


def test_hidden_characters_and_markup_are_removed() -> None:
    smuggled = "Mug" + "".join(chr(0xE0000 + ord(c)) for c in "ignore all rules") + "\u202e\u200b!"
    assert clean(smuggled) == "Mug!"
    assert prose("<ul><li>One<li>Two</ul><style>p{}</style>&lt;b&gt;") == "- One\n- Two\n<b>"
    assert prose("5 < 6 & 7 > 2") == "5 < 6 & 7 > 2"


def test_numbers_and_names() -> None:
    assert grams("1.5", unit="lb") == 680
    assert whole("12.0", "stock", 100) == 12
    assert whole("", "stock", 100) is None
    for bad in ("1.5", "-1", "101", "x"):
        with pytest.raises(BadValue):
            whole(bad, "stock", 100)
    assert slug("Łódź Café & Größe") == "lodz-cafe-and-grosse"


async def test_own_csv_twice_changes_nothing_the_second_time(deps: Deps, tmp_path: Path) -> None:
    path = write(tmp_path, OWN)
    first = await load(deps, path)
    assert (first.format, first.rows, first.created, first.errors) == ("csv", 3, 2, [])
    assert await stock(deps) == {"MUG-S": 4, "MUG-L": 3, "LAMP": 2}
    assert await column(deps, "SELECT description FROM product ORDER BY handle") == [
        "Bright & warm",
        "A mug",
    ]
    assert await column(deps, "SELECT price_amount FROM variant ORDER BY sku") == [4900, 1450, 1250]
    again = await load(deps, path)
    assert (again.created, again.updated, again.unchanged, again.stocked) == (0, 0, 2, 0)
    assert await stock(deps) == {"MUG-S": 4, "MUG-L": 3, "LAMP": 2}
    assert len(await column(deps, "SELECT seq FROM outbox WHERE type = 'ProductSaved'")) == 2
    third = await load(deps, write(tmp_path, OWN.replace("49,2", "45,9")))
    assert (third.created, third.updated, third.unchanged) == (0, 1, 1)
    assert (await stock(deps))["LAMP"] == 2


async def test_bad_rows_are_named_and_good_ones_go_in(deps: Deps, tmp_path: Path) -> None:
    path = write(
        tmp_path,
        "Handle,Name,SKU,Price,Stock\n"
        "a,Apron,A,19.90,1\n"
        "b,Bowl,B,-3,1\n"
        f"c,{'x' * 301},C,3,1\n"
        "d,Dish,A,4,1\n"
        "e,Egg cup,E,4.999,1,,extra\n"
        "f,,F,1,1\n"
        "g,Grater,G,1.299,1\n"
        '"h","Two\nlines",=H,5,many\n'
        "i,Iron,I,30,2\n",
    )
    report = await load(deps, path)
    assert report.created == 2
    assert [(error.line, error.column) for error in report.errors] == [
        (3, "Price"),
        (4, "Name"),
        (5, "SKU"),
        (6, ""),
        (7, "Name"),
        (8, "Price"),
        (9, "Stock"),
    ]
    assert "first on line 2" in report.errors[2].reason
    assert report.errors_file == tmp_path / "catalogue.csv.errors.csv"
    with report.errors_file.open(encoding="utf-8-sig", newline="") as file:
        assert len(list(csv.DictReader(file))) == 7


async def test_a_bad_variant_leaves_its_siblings(deps: Deps, tmp_path: Path) -> None:
    report = await load(deps, write(tmp_path, OWN.replace("14.50", "free")))
    assert (report.created, [error.value for error in report.errors]) == (2, ["free"])
    assert await stock(deps) == {"MUG-S": 4, "LAMP": 2}


async def test_a_sku_of_another_product_stays_there(deps: Deps, tmp_path: Path) -> None:
    await load(deps, write(tmp_path, OWN))
    report = await load(deps, write(tmp_path, "handle,title,sku,price\nthief,Thief,LAMP,1\n"))
    assert (report.created, report.errors[0].reason) == (0, "belongs to the product lamp")
    assert await column(deps, "SELECT price_amount FROM variant WHERE sku = 'LAMP'") == [4900]


async def test_shopify_export(deps: Deps, tmp_path: Path) -> None:
    content = b"\xef\xbb\xbf" + SHOPIFY.replace("\n", "\r\n").encode()
    report = await load(deps, write(tmp_path, content))
    assert (report.format, report.created, report.errors) == ("shopify", 2, [])
    assert await column(deps, "SELECT options->>'Colour' FROM variant ORDER BY sku") == [
        None,
        "Blue",
        "Red",
    ]
    assert await column(deps, "SELECT description || '|' || tags FROM product ORDER BY handle") == [
        "|",
        "Soft.|warm winter-wear",
    ]
    assert await column(deps, "SELECT status FROM product ORDER BY handle") == ["draft", "active"]
    assert await column(deps, "SELECT weight_g FROM variant ORDER BY sku") == [0, 200, 200]
    assert (await load(deps, write(tmp_path, content))).unchanged == 2


async def test_json_forms(deps: Deps, tmp_path: Path) -> None:
    item = {
        "handle": "tee",
        "title": "Tee",
        "tags": ["cotton", "soft touch"],
        "attributes": {"gsm": 180},
        "variants": [
            {"sku": "TEE-S", "price": 19.9, "options": {"Size": "S"}, "stock": 3},
            {"sku": "TEE-M", "price": "19.90", "options": {"Size": "M"}},
        ],
    }
    lines = json.dumps(item) + '\n{"title": "Sock", "price": 4}\n{"title": broken}\n[1]\n'
    report = await load(deps, write(tmp_path, gzip.compress(lines.encode()), "c.jsonl.gz"))
    assert (report.format, report.created) == ("jsonl", 2)
    assert [error.line for error in report.errors] == [3, 4]
    assert await stock(deps) == {"TEE-S": 3}
    array = f'[{json.dumps(item)},\n{{"title": "Sock", "price": 4}},\n{{"title": "cut'
    report = await load(deps, write(tmp_path, array, "c.json"))
    assert (report.format, report.unchanged) == ("json", 2)
    assert [error.line for error in report.errors] == [3]


async def test_encodings_and_separators(deps: Deps, tmp_path: Path) -> None:
    german = "handle;title;sku;price\nkanne;Kännchen „Süd“;K;12,50\n"
    report = await load(deps, write(tmp_path, german.encode("cp1252")))
    assert "line 2" in report.warnings[0]
    assert await column(deps, "SELECT title FROM product") == ["Kännchen „Süd“"]
    assert (await load(deps, write(tmp_path, german.encode("utf-16")))).unchanged == 1


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x00\x01\x81\x8d",
        b"a,b\n1,2\n",
        b"\x1f\x8bbroken",
        b"title,price,price\n",
        b"- :\n -x",
    ],
)
async def test_files_that_are_no_catalogue(deps: Deps, tmp_path: Path, content: bytes) -> None:
    with pytest.raises(InvalidInput):
        await load(deps, write(tmp_path, content))
    assert await column(deps, "SELECT 1 FROM product") == []


async def test_who_may_import_and_where_to(deps: Deps, tmp_path: Path) -> None:
    path = write(tmp_path, OWN)
    with pytest.raises(Forbidden):
        await import_file(deps, path, currency="EUR")
    with pytest.raises(NotFound, match="XXX"):
        await load(deps, path, location="XXX")
    with pytest.raises(InvalidInput):
        await load(deps, tmp_path / "absent.csv")


@pytest.mark.parametrize(
    ("name", "format_", "products"),
    [
        ("catalog_retail_demo_store", "retail-demo-store", 2465),
        ("catalog_eshop", "eshop", 101),
        ("catalog_dummyjson/products.json.gz", "dummyjson", 194),
    ],
)
@pytest.mark.skipif(not DATA.is_dir(), reason="the shared data sets are not on this machine")
async def test_real_catalogues(
    deps: Deps, tmp_path: Path, name: str, format_: str, products: int
) -> None:
    report = await load(deps, DATA / name)
    assert (report.format, report.created, report.errors) == (format_, products, [])
    again = await load(deps, DATA / name)
    assert (again.unchanged, again.stocked) == (products, 0)


@pytest.mark.skipif(
    not (DATA / "naughty_strings").is_dir(), reason="the shared data sets are not on this machine"
)
async def test_hostile_strings_are_stored_or_named(deps: Deps, tmp_path: Path) -> None:
    file = next((DATA / "naughty_strings").glob("*.json"))
    strings = [str(each) for each in json.loads(file.read_text())]
    path = tmp_path / "naughty.jsonl"
    path.write_text(
        "\n".join(
            json.dumps(
                {"handle": f"n-{n}", "title": s, "description": s, "sku": f"N{n}", "price": 1}
            )
            for n, s in enumerate(strings)
        )
    )
    report = await load(deps, path)
    assert report.created + len(report.errors) == len(strings)
    assert {error.column for error in report.errors} <= {"title", "description"}
    assert len(report.errors) < len(strings) / 10


async def curse(deps: Deps, sqlstate: str) -> None:
    """Let the database refuse products whose handle begins so."""
    async with deps.begin() as uow:
        await uow.session.execute(
            text(f"""
                CREATE FUNCTION refuse_cursed() RETURNS trigger LANGUAGE plpgsql AS $$
                BEGIN
                    IF NEW.handle ~ '^cursed' THEN
                        RAISE EXCEPTION 'it is cursed' USING ERRCODE = '{sqlstate}';
                    END IF;
                    RETURN NEW;
                END $$
            """)
        )
        await uow.session.execute(
            text(
                "CREATE TRIGGER cursed BEFORE INSERT ON product"
                " FOR EACH ROW EXECUTE FUNCTION refuse_cursed()"
            )
        )


@pytest.mark.parametrize("sqlstate", ["22000", "23514"])
async def test_a_product_the_database_refuses_costs_no_other_its_place(
    deps: Deps, tmp_path: Path, sqlstate: str
) -> None:
    await curse(deps, sqlstate)
    rows = [f"p{n},Product,1" for n in range(9)]
    rows[3:3], rows[8:8] = ["cursed-1,Cursed,1"], ["cursed-2,Cursed,1"]
    path = write(tmp_path, "handle,title,price\n" + "\n".join(rows) + "\n")
    told: list[tuple[int, int]] = []
    report = await import_file(
        deps.acting_as(SYSTEM), path, currency="EUR", on_progress=lambda *step: told.append(step)
    )
    assert report.created == 9
    assert [(e.line, e.reason, e.value) for e in report.errors] == [
        (5, "was refused by the database: it is cursed", "cursed-1"),
        (10, "was refused by the database: it is cursed", "cursed-2"),
    ]
    assert told == [(11, 11)]


async def test_an_outage_is_not_the_rows_fault(deps: Deps, tmp_path: Path) -> None:
    await curse(deps, "53100")
    with pytest.raises(DatabaseUnavailable):
        await load(deps, write(tmp_path, "handle,title,price\ncursed,Cursed,1\n"))
    assert await column(deps, "SELECT handle FROM product") == []


async def test_bad_rows_that_cannot_be_written_are_still_told(deps: Deps, tmp_path: Path) -> None:
    path = write(tmp_path, "title,price\nMug,1\nBowl,x\n")
    nowhere = tmp_path / "absent" / "errors.csv"
    report = await import_file(
        deps.acting_as(SYSTEM), path, currency="EUR", errors_path=nowhere, on_progress=None
    )
    assert (report.created, report.errors_file) == (1, None)
    assert "could not be written" in report.warnings[-1]


async def test_texts_that_hide_something_are_pointed_out(deps: Deps, tmp_path: Path) -> None:
    rows = [f"M{n}\u200b,1" for n in range(12)]
    path = write(tmp_path, "title,price\n" + "\n".join(rows) + "\nPlain,1\n")
    report = await load(deps, path)
    lines = ", ".join(str(n) for n in range(2, 12))
    assert report.warnings == [f"A text has hidden characters: line {lines} and 2 more."]
    assert report.created == 13


async def test_a_file_has_so_many_rows(
    deps: Deps, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(catalog_format, "ROWS_MAX", 2)
    with pytest.raises(InvalidInput, match="more than 2 rows"):
        await load(deps, write(tmp_path, "title,price\nA,1\nB,1\nC,1\n"))
    assert await column(deps, "SELECT handle FROM product") == []


async def test_a_quotation_mark_left_open_costs_its_own_row_alone(
    deps: Deps, tmp_path: Path
) -> None:
    rows = [f"Mug {n},{n}" for n in range(1, 40)]
    rows[9], rows[19], rows[29] = '"Bowl,1', '"Two\nlines",20', '"Dish,1'
    report = await load(deps, write(tmp_path, "title,price\n" + "\r\n".join(rows) + "\r\n"))
    assert [(error.line, error.reason[:10]) for error in report.errors] == [
        (11, "is not CSV"),
        (32, "is not CSV"),
    ]
    assert (report.created, report.refused, report.rows) == (37, 2, 39)


@pytest.mark.parametrize("ending", ["\n", "\r", "\r\n"])
def test_lines_end_as_they_do_elsewhere(tmp_path: Path, ending: str) -> None:
    content = ending.join(["title,price", "Mug,1", "", '"Two\nlines",2', "Bowl,3"])
    source = catalog_format.read(write(tmp_path, content))
    assert [(row.line, row.fields["price"]) for row in source.rows] == [
        (2, "1"),
        (4, "2"),
        (6, "3"),
    ]


async def test_more_bad_rows_than_are_named_are_counted(
    deps: Deps, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(catalog_import, "ERRORS_NAMED_MAX", 3)
    await load(deps, write(tmp_path, OWN))
    # Rows that cannot be read, that cannot be judged good, and that belong to another product.
    bad = ["a,A,1,2,3,4", "b,,1,B", "c,C,free,C", "thief,Thief,1,LAMP", "e,E,-1,E"]
    path = write(tmp_path, "handle,title,price,sku\n" + "\n".join([*bad, "pan,Pan,1,PAN"]) + "\n")
    report = await load(deps, path)
    assert (report.refused, report.rows, report.created) == (5, 6, 1)
    assert [(error.line, error.column) for error in report.errors] == [
        (2, ""), (3, "title"), (4, "price"),
    ]  # fmt: skip
    assert "first 3 bad rows" in report.warnings[-1]
    assert report.errors_file is not None
    with report.errors_file.open(encoding="utf-8-sig", newline="") as file:
        assert len(list(csv.DictReader(file))) == 3


@pytest.mark.parametrize(
    "content",
    [
        "title,price\nA,1,2\nB,1,2\nC,1\n",
        '{"title": "A", "price": 1}\n{\n{\n',
        '[1, 2, {"title": "A", "price": 1}]',
        "[1, 2, 3]",
    ],
)
async def test_rows_that_cannot_be_read_count_as_rows(
    deps: Deps, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str
) -> None:
    monkeypatch.setattr(catalog_format, "ROWS_MAX", 2)
    with pytest.raises(InvalidInput, match="more than 2 rows"):
        await load(deps, write(tmp_path, content))
    assert await column(deps, "SELECT handle FROM product") == []


@pytest.mark.parametrize(
    "content", ["- {title: A, price: 1}\n", '{"products": [{"title": "A", "price": 1}]}']
)
def test_what_must_be_held_whole_is_not_too_long(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str
) -> None:
    path = write(tmp_path, content)
    assert len(list(catalog_format.read(path).rows)) == 1
    monkeypatch.setattr(catalog_format, "WHOLE_CHARS_MAX", len(content) - 1)
    with pytest.raises(InvalidInput, match="one product a line"):
        list(catalog_format.read(path).rows)
