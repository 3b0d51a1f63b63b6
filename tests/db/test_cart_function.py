"""What the functions of carts do and refuse, called by themselves, and that they leave others."""

from collections.abc import AsyncGenerator
from datetime import UTC, datetime, timedelta
from typing import Any, Final
from uuid import UUID

import asyncpg
import pytest

from db.types import new_id
from deps.core import Deps
from deps.postgres import set_json_codecs
from tests import factories
from tests.databases import connection_to

NOW: Final = datetime(2026, 3, 1, 12, tzinfo=UTC)
LINES_MAX, QUANTITY_MAX = 3, 10
CARTS: Final = """
    SELECT c.*, (SELECT jsonb_object_agg(sku, quantity) FROM cart_line
                 WHERE cart_id = c.id) AS holds
    FROM cart c ORDER BY c.id
"""


class Carts:
    def __init__(self, connection: "asyncpg.Connection[Any]") -> None:
        self.connection = connection
        self.at = NOW

    async def open(self, secret: str = "ours", /, **units: int) -> UUID:
        cart_id = new_id()
        await self.connection.execute(
            "SELECT cart_open($1, NULL, $2, 'EUR', $3)", cart_id, secret, self.at
        )
        for sku, quantity in units.items():
            self.at += timedelta(seconds=1)
            await self.connection.execute(
                "INSERT INTO cart_line VALUES ($1, $2, $3, $4)", cart_id, sku, quantity, self.at
            )
        return cart_id

    async def put(
        self, cart_id: UUID, sku: str, quantity: int, *, adds: bool = False, secret: str = "ours"
    ) -> str | dict[str, int]:
        """Return the refusal, or what the cart holds in its order."""
        self.at += timedelta(seconds=1)
        answer = await self.connection.fetchval(
            "SELECT cart_put($1, NULL, $2, $3, $4, $5, $6, $7, $8)",
            *(cart_id, secret, sku, quantity, adds, LINES_MAX, QUANTITY_MAX, self.at),
        )
        return answer.get("refusal") or {line["sku"]: line["quantity"] for line in answer["lines"]}

    async def describe(self, cart_id: UUID, secret: str = "ours", **details: Any) -> Any:
        names = ("email", "address", "method")
        return await self.connection.fetchval(
            "SELECT cart_describe($1, NULL, $2, $3, $4, $5, $6)",
            *(cart_id, secret, *(details.get(name) for name in names), self.at),
        )

    async def discount(self, cart_id: UUID, code: str | None, secret: str = "ours") -> Any:
        self.at += timedelta(seconds=1)
        return await self.connection.fetchval(
            "SELECT cart_discount($1, NULL, $2, $3, $4)", cart_id, secret, code, self.at
        )

    async def merge(self, into: UUID, source: UUID) -> None:
        await self.connection.execute(
            "SELECT cart_merge($1, $2, $3, $4, $5)", into, source, LINES_MAX, QUANTITY_MAX, self.at
        )

    async def rows(self) -> dict[UUID, dict[str, Any]]:
        return {row["id"]: dict(row) for row in await self.connection.fetch(CARTS)}


@pytest.fixture
async def carts(deps: Deps, database_url: str) -> AsyncGenerator[Carts, None]:
    for sku in ("MUG", "TEA", "POT", "CUP", "JUG"):
        await factories.product(deps, sku, title=sku.title(), price=500)
    async with connection_to(database_url) as connection:
        await set_json_codecs(connection)
        yield Carts(connection)


async def test_a_line_is_put_added_to_and_taken_out_and_other_carts_are_left(carts: Carts) -> None:
    other = await carts.open("theirs", MUG=4, CUP=1)
    cart_id = await carts.open()
    before = (await carts.rows())[other]
    opened = (await carts.rows())[cart_id]
    assert (opened["status"], opened["version"], opened["currency"]) == ("open", 1, "EUR")
    assert await carts.put(cart_id, "TEA", 2, adds=True) == {"TEA": 2}
    assert await carts.put(cart_id, "MUG", 1, adds=True) == {"TEA": 2, "MUG": 1}
    assert await carts.put(cart_id, "TEA", 3, adds=True) == {"TEA": 5, "MUG": 1}
    assert await carts.put(cart_id, "TEA", 1) == {"TEA": 1, "MUG": 1}
    assert await carts.put(cart_id, "TEA", 0) == {"MUG": 1}
    assert await carts.put(cart_id, "CUP", 0) == {"MUG": 1}
    rows = await carts.rows()
    assert (rows[cart_id]["version"], rows[cart_id]["updated_at"]) == (7, carts.at)
    assert rows[cart_id]["holds"] == {"MUG": 1}
    assert rows[other] == before


async def test_a_line_is_put_up_to_the_limits_and_not_beyond(carts: Carts) -> None:
    cart_id = await carts.open(MUG=9)
    await carts.open("theirs", CUP=1)
    assert await carts.put(cart_id, "MUG", 2, adds=True) == "quantity"
    assert await carts.put(cart_id, "MUG", -1) == "quantity"
    assert await carts.put(cart_id, "MUG", 1, adds=True) == {"MUG": 10}
    assert await carts.put(cart_id, "TEA", 10) == {"MUG": 10, "TEA": 10}
    assert await carts.put(cart_id, "POT", 1) == {"MUG": 10, "TEA": 10, "POT": 1}
    assert await carts.put(cart_id, "CUP", 1) == "too_many_lines"
    assert await carts.put(cart_id, "POT", 2) == {"MUG": 10, "TEA": 10, "POT": 2}
    assert (await carts.rows())[cart_id]["holds"] == {"MUG": 10, "TEA": 10, "POT": 2}


async def test_what_is_not_on_sale_and_a_cart_that_is_not_open_is_refused(carts: Carts) -> None:
    cart_id = await carts.open(TEA=1)
    assert await carts.put(cart_id, "NONE", 1) == "not_on_sale"
    for change, refusal in (
        ("UPDATE variant SET is_active = false WHERE sku = 'MUG'", "not_on_sale"),
        ("UPDATE product SET status = 'draft' WHERE handle = 'mug-handle'", "not_on_sale"),
        ("UPDATE variant SET currency = 'USD' WHERE sku = 'MUG'", "currency"),
        ("UPDATE cart SET status = 'completed'", "closed"),
        ("UPDATE cart SET secret_sha256 = 'theirs'", "not_found"),
        ("UPDATE cart SET secret_sha256 = NULL", "not_found"),
    ):
        transaction = carts.connection.transaction()
        await transaction.start()
        await carts.connection.execute(change)
        before = await carts.rows()
        assert await carts.put(cart_id, "MUG", 1) == refusal, change
        if refusal in ("closed", "not_found"):
            assert await carts.describe(cart_id, email="ada@example.com") == {"refusal": refusal}
        assert await carts.rows() == before, change
        await transaction.rollback()


async def test_a_cart_is_its_customer_s_and_no_longer_the_secret_s(
    carts: Carts, customer: Deps
) -> None:
    cart_id, user_id = await carts.open(), customer.actor.user_id
    is_of = "SELECT cart_is_of(c, $2, $3) FROM cart c WHERE id = $1"
    for is_customers in (False, True):
        if is_customers:
            await carts.connection.execute("UPDATE cart SET customer_id = $1", user_id)
        for who, secret, expected in (
            (user_id, None, is_customers),
            (user_id, "theirs", is_customers),
            (None, "ours", not is_customers),
            (None, "theirs", False),
            (None, None, False),
            (new_id(), None, False),
        ):
            found = await carts.connection.fetchval(is_of, cart_id, who, secret)
            assert found is expected, (is_customers, who, secret)


async def test_each_detail_is_kept_until_it_is_said_anew(carts: Carts) -> None:
    other, cart_id = await carts.open("theirs"), await carts.open(MUG=1)
    before = (await carts.rows())[other]
    home, office = {"city": "Hamburg"}, {"city": "Bremen"}
    await carts.describe(cart_id, email="a@example.com", address=home, method="standard")
    await carts.describe(cart_id)
    for changed in ({"email": "b@example.com"}, {"address": office}, {"method": "express"}):
        answer = await carts.describe(cart_id, **changed)
    assert [line["sku"] for line in answer["lines"]] == ["MUG"]
    row = (await carts.rows())[cart_id]
    details = (row["email"], row["shipping_address"], row["shipping_method"])
    assert details == ("b@example.com", office, "express")
    assert (row["version"], row["updated_at"]) == (6, carts.at)
    assert answer["cart"].items() >= {"version": 6, "email": "b@example.com"}.items()
    assert (await carts.rows())[other] == before


async def test_lines_are_shown_as_they_were_added_with_what_they_cost(carts: Carts) -> None:
    await carts.open("theirs", MUG=1)
    cart_id = await carts.open(TEA=2, POT=1, CUP=1, MUG=3)
    for change in (
        "UPDATE variant SET title = 'Green' WHERE sku = 'TEA'",
        "UPDATE variant SET is_active = false WHERE sku = 'POT'",
        "UPDATE product SET status = 'archived' WHERE handle = 'cup-handle'",
    ):
        await carts.connection.execute(change)
    lines = await carts.connection.fetchval("SELECT cart_lines($1, $2)", cart_id, NOW)
    assert [
        (x["sku"], x["title"], x["quantity"], x["unit_price_amount"], x["on_sale"], x["available"])
        for x in lines
    ] == [
        ("TEA", "Tea – Green", 2, 500, True, 10),
        ("POT", "Pot", 1, 500, False, 10),
        ("CUP", "Cup", 1, 500, False, 10),
        ("MUG", "Mug", 3, 500, True, 10),
    ]
    assert await carts.connection.fetchval("SELECT cart_lines($1, $2)", new_id(), NOW) == []


async def test_carts_merge_up_to_the_limits_and_what_both_hold_first(carts: Carts) -> None:
    other = await carts.open("theirs", MUG=9, TEA=9)
    four = {"MUG": 1, "TEA": 1, "POT": 1, "CUP": 1}
    for into, source, merged in (
        ({"MUG": 3}, {"MUG": 4, "TEA": 2}, {"MUG": 7, "TEA": 2}),
        ({"MUG": 3}, {"MUG": 8}, {"MUG": 10}),
        ({}, {"MUG": 1, "TEA": 2, "POT": 3, "CUP": 4}, {"MUG": 1, "TEA": 2, "POT": 3}),
        ({"MUG": 1, "TEA": 1}, {"CUP": 1, "POT": 1, "TEA": 1}, {"MUG": 1, "TEA": 2, "CUP": 1}),
        ({"MUG": 1, "TEA": 1, "POT": 1}, {"CUP": 1, "POT": 2}, {"MUG": 1, "TEA": 1, "POT": 3}),
        (four, {"JUG": 1}, four),
    ):
        source_id, into_id = await carts.open(**source), await carts.open(**into)
        before = await carts.rows()
        await carts.merge(into_id, source_id)
        after = await carts.rows()
        assert after[into_id]["holds"] == merged
        assert (after[into_id]["status"], after[into_id]["version"]) == ("open", 2)
        assert (after[source_id]["status"], after[source_id]["holds"]) == ("merged", source)
        assert after[other] == before[other]


async def test_a_merged_cart_says_what_the_other_does_not(carts: Carts) -> None:
    account = """
        INSERT INTO credit_account (id, kind, code_last4, currency, balance_amount, held_amount,
                                    is_active, created_at)
        VALUES (uuidv7(), 'gift_card', '', 'EUR', 0, 0, true, now()) RETURNING id
    """
    first, second, third, fourth = [await carts.connection.fetchval(account) for _ in range(4)]
    other = await carts.open("theirs")
    full, empty = await carts.open(), await carts.open()
    home, office = {"city": "Hamburg"}, {"city": "Bremen"}
    await carts.describe(full, email="a@example.com", address=home, method="standard")
    await carts.describe(other, "theirs", email="x@example.com", address=office, method="express")
    for cart_id, account_id, seen, is_chosen in (
        (full, first, 100, True),
        (full, second, 200, True),
        (full, fourth, 400, False),
        (empty, first, 90, False),
        (empty, second, 150, True),
        (other, third, 300, True),
    ):
        await carts.connection.execute(
            """INSERT INTO cart_credit (cart_id, account_id, seen_amount, is_chosen)
               VALUES ($1, $2, $3, $4)""",
            *(cart_id, account_id, seen, is_chosen),
        )
    await carts.connection.execute("UPDATE cart SET uses_credit = true WHERE id = $1", full)
    before = await carts.rows()
    await carts.merge(empty, full)
    rows = await carts.rows()
    assert (rows[empty]["uses_credit"], rows[other]["uses_credit"]) == (True, False)
    details = ("email", "shipping_address", "shipping_method")
    assert [rows[empty][name] for name in details] == ["a@example.com", home, "standard"]
    chosen = await carts.connection.fetch(
        """SELECT account_id, seen_amount, is_chosen FROM cart_credit WHERE cart_id = $1
           ORDER BY seen_amount""",
        empty,
    )
    assert [tuple(row) for row in chosen] == [(first, 100, True), (second, 150, True)]
    assert rows[other] == before[other]
    third_cart = await carts.open()
    await carts.describe(third_cart, email="c@example.com", address=office, method="express")
    await carts.merge(empty, third_cart)
    rows = await carts.rows()
    assert rows[empty]["uses_credit"]
    assert [rows[empty][name] for name in details] == ["a@example.com", home, "standard"]


MADE: Final = """
    INSERT INTO discount (id, code, percent, amount, currency, minimum_amount, starts_at, ends_at,
                          uses_max, uses, is_active, created_at)
    VALUES (uuidv7(), $1, $2, $3, 'EUR', $4, $5, $6, $7, $8, $9, $10)
"""


async def made(
    carts: Carts,
    code: str,
    *,
    percent: int | None = 10,
    amount: int | None = None,
    minimum: int = 0,
    starts: datetime | None = None,
    ends: datetime | None = None,
    uses_max: int | None = None,
    uses: int = 0,
    is_active: bool = True,
) -> None:
    terms = (percent, amount, minimum, starts, ends, uses_max, uses, is_active)
    await carts.connection.execute(MADE, code, *terms, NOW)


async def test_a_code_says_what_it_takes_off_and_why_it_does_not_now(carts: Carts) -> None:
    second = timedelta(seconds=1)
    await made(carts, "PLAIN", percent=None, amount=300, minimum=1_000)
    for code, terms, refusal in (
        ("BEGAN", {"starts": NOW}, None),
        ("BEGINS", {"starts": NOW + second}, "not_started"),
        ("ENDS", {"ends": NOW + second}, None),
        ("ENDED", {"ends": NOW}, "ended"),
        ("LEFT", {"uses_max": 2, "uses": 1}, None),
        ("NONE-LEFT", {"uses_max": 2, "uses": 2}, "used_up"),
        ("OFF", {"is_active": False, "uses_max": 2, "uses": 2}, "ended"),
    ):
        await made(carts, code, **terms)
        found = await carts.connection.fetchval("SELECT discount_terms($1, $2)", code, NOW)
        assert (found["code"], found["refusal"]) == (code, refusal)
    of = [await carts.connection.fetchval("SELECT discount_terms($1, $2)", code, NOW)
          for code in ("PLAIN", "LEFT", "NONE", None)]  # fmt: skip
    assert of == [
        {
            "code": "PLAIN", "percent": None, "amount": 300, "currency": "EUR",
            "minimum_amount": 1_000, "refusal": None,
        },
        {
            "code": "LEFT", "percent": 10, "amount": None, "currency": "EUR",
            "minimum_amount": 0, "refusal": None,
        },
        None,
        None,
    ]  # fmt: skip


async def test_a_code_is_put_on_one_open_cart_of_ones_own(carts: Carts) -> None:
    for code in ("ONE", "TWO"):
        await made(carts, code)
    other, cart_id = await carts.open("theirs", MUG=1), await carts.open(MUG=1)
    before = (await carts.rows())[other]
    versions = []
    for wanted in ("ONE", "ONE", "TWO", None, None, "ONE"):
        answer = await carts.discount(cart_id, wanted)
        row = (await carts.rows())[cart_id]
        versions.append(row["version"])
        assert (row["discount_code"], answer["cart"]["discount_code"]) == (wanted, wanted)
        assert answer["cart"]["version"] == row["version"]
        assert (answer["discount"] or {}).get("code") == wanted
        assert [line["sku"] for line in answer["lines"]] == ["MUG"]
    assert versions == [2, 2, 3, 4, 4, 5]
    assert row["updated_at"] == carts.at
    assert (await carts.rows())[other] == before
    for secret, change, refusal in (
        ("theirs", "SELECT", "not_found"),
        ("ours", "UPDATE cart SET status = 'completed'", "closed"),
    ):
        await carts.connection.execute(change)
        rows = await carts.rows()
        assert await carts.discount(cart_id, "TWO", secret) == {"refusal": refusal}
        assert await carts.rows() == rows


async def test_a_merged_cart_keeps_its_code_and_takes_over_another(carts: Carts) -> None:
    for code in ("ONE", "TWO"):
        await made(carts, code)
    for mine, theirs, kept in (
        (None, None, None), ("ONE", None, "ONE"), (None, "TWO", "TWO"), ("ONE", "TWO", "ONE"),
    ):  # fmt: skip
        into, source = await carts.open(), await carts.open()
        await carts.discount(into, mine)
        await carts.discount(source, theirs)
        await carts.merge(into, source)
        rows = await carts.rows()
        assert (rows[into]["discount_code"], rows[source]["discount_code"]) == (kept, theirs)
