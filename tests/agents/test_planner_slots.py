"""What is made of a person's words: dates, amounts, numbers, addresses; and what is not guessed."""

from datetime import date, datetime
from typing import Any, Literal
from uuid import UUID

import pytest
from pydantic import BaseModel

from agents.planner_context import Candidate, Context
from agents.planner_fill import (
    address_answer,
    arguments_in,
    by_type,
    hints_of,
    lines_meant,
    takes_lines,
)
from agents.planner_numbers import money_in
from agents.planner_slots import (
    EXTRACTORS,
    address_in,
    matching,
    order_in,
    ordinal_in,
    phrase_in,
    prices_in,
    quantity_in,
    sku_in,
)
from db.models.order import OrderStatus
from tools.address import Address
from tools.registry import OPERATIONS
from tools.surface import load_operations

load_operations()
AN_ID = "0190ab12-0000-7000-8000-000000000001"


@pytest.mark.parametrize(
    ("text", "currency", "found"),
    [
        ("give back EUR 12.50", "EUR", 1250),
        ("give back €12,50 please", "EUR", 1250),
        ("20 euros", "EUR", 2000),
        ("1.234,5 euro", "EUR", 123450),
        ("1,234.50 €", "EUR", 123450),
        ("20 bucks", "USD", 2000),
        ("20 bucks", "CAD", 2000),
        ("$20", "AUD", 2000),
        ("20 quid", "GBP", 2000),
        ("1000 yen", "JPY", 1000),
        ("¥1,000", "JPY", 1000),
        ("KWD 1.250", "KWD", 1250),
        ("SEK 99", "SEK", 9900),
        ("20 dollars", "EUR", None),
        ("£20", "EUR", None),
        ("20 euros or 30 euros", "EUR", None),
        ("20 euros, I said 20 EUR", "EUR", 2000),
        ("20 euros and 50 cents", "EUR", 2050),
        ("five euros fifty because of a chip", "EUR", 550),
        ("a hundred and twenty euros", "EUR", 12000),
        ("twenty-five euros", "EUR", 2500),
        ("5 euros 20 days ago", "EUR", 500),
        ("50 cents", "EUR", None),
        ("20", "EUR", None),
        ("20 eurocents", "EUR", None),
    ],
)
def test_an_amount_is_in_the_shops_currency_or_none(
    text: str, currency: str, found: int | None
) -> None:
    assert money_in(text, currency) == found


@pytest.mark.parametrize(
    ("answer", "currency", "amount"),
    [
        ("20", "EUR", 2000),
        ("12.5", "EUR", 1250),
        (" 12,50 ", "EUR", 1250),
        ("EUR 12.50", "EUR", 1250),
        ("20", "JPY", 20),
        ("#20", "EUR", None),
        ("twenty", "EUR", None),
        ("20 dollars", "EUR", None),
    ],
)
def test_how_much_is_answered_in_whole_units(
    answer: str, currency: str, amount: int | None
) -> None:
    issue = OPERATIONS["credit.issue_gift_card"]
    made = arguments_in(issue, answer, Context(), currency, given={}, asked="amount")
    assert made.get("amount") == amount


@pytest.mark.parametrize(
    ("text", "limits"),
    [
        ("mugs under 20 euros", {"max_price_amount": 2000}),
        ("no more than $5.5", {"max_price_amount": 550}),
        ("not less than 10", {"min_price_amount": 1000}),
        ("no less than 10", {"min_price_amount": 1000}),
        ("not more than 10", {"max_price_amount": 1000}),
        ("more than 10", {"min_price_amount": 1000}),
        ("from 10 up to 20", {"min_price_amount": 1000, "max_price_amount": 2000}),
        ("between 40 and 20 eur", {"min_price_amount": 2000, "max_price_amount": 4000}),
        ("a cheap mug", {}),
    ],
)
def test_price_limits(text: str, limits: dict[str, int]) -> None:
    assert prices_in(text, "EUR") == limits
    assert prices_in(text, "JPY").keys() == limits.keys()


@pytest.mark.parametrize(
    ("text", "units"),
    [
        ("two mugs", 2),
        ("2x MUG-1", 2),
        ("3 × mugs", 3),
        ("a couple of mugs", 2),
        ("a dozen", 12),
        ("half a dozen mugs", 6),
        ("one mug", 1),
        ("the blue one", None),
        ("that one", None),
        ("the second one", None),
        ("two or three", None),
        ("2 mugs, yes 2", 2),
        ("-2 mugs", None),
        ("1.5 mugs", None),
        ("mugs under 20", None),
        ("put two of MUG-12 in order 1001", 2),
        ("write to me4@example.com", None),
        ("mugs", None),
    ],
)
def test_a_quantity_is_one_whole_number_or_none(text: str, units: int | None) -> None:
    assert quantity_in(text) == units


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("the first one", 0),
        ("the third product", 2),
        ("number 2", 1),
        ("option 9", 8),
        ("the last one", -1),
        ("number 0", None),
        ("number 12", None),
        ("a mug", None),
    ],
)
def test_a_place_in_the_list(text: str, place: int | None) -> None:
    assert ordinal_in(text) == place


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("cancel order 7", 7),
        ("order no. 12", 12),
        ("#1001 please", 1001),
        ("where is 1001?", 1001),
        ("1001 or 1002", None),
        ("it costs 1000.50", None),
        ("the second one", 1002),
        ("the last one", 1003),
        ("the fifth one", None),
        ("my order", None),
        ("Ada, Lange Reihe 5, 20099 Hamburg, Germany", None),
    ],
)
def test_an_order_is_named_or_pointed_at(text: str, number: int | None) -> None:
    assert order_in(text, Context(orders=[1001, 1002, 1003])) == number


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("cancel it", 1001),
        ("the other one", 1002),
        ("and for the other order too", 1002),
        ("ship 1003 and 1004", None),
        ("ship order 1003 and order 1004", None),
        ("the fifth one", None),
    ],
)
def test_of_several_orders_the_one_talked_about_is_none_that_was_not_said(
    text: str, number: int | None
) -> None:
    assert order_in(text, Context(orders=[1001, 1002], focus_order=1001)) == number


@pytest.mark.parametrize(
    ("text", "sku"),
    [
        ("add MUG-BLUE-2 to my cart", "MUG-BLUE-2"),
        ("sku: mug-blue-2", "MUG-BLUE-2"),
        ("do you have MUG", "MUG"),
        ("pay in EUR by DHL", None),
        ("WHERE IS MY ORDER", None),
        ("MUG PLEASE", "MUG"),
        ("sku of the mug", None),
        ("a mug", None),
    ],
)
def test_a_sku_is_written_out(text: str, sku: str | None) -> None:
    assert sku_in(text) == sku


MUGS = [
    Candidate("MUG-B", "Stoneware mug blue", "mug"),
    Candidate("MUG-R", "Stoneware mug red", "mug"),
    Candidate("MUG", "Mugs", "plain"),
]


@pytest.mark.parametrize(
    ("phrase", "skus"),
    [
        ("stoneware mugs", ["MUG-B", "MUG-R"]),
        ("stonware mug blue", ["MUG-B"]),
        ("mug", ["MUG"]),
        ("mug-r", ["MUG-R"]),
        ("teapot", []),
        ("", []),
    ],
)
def test_a_phrase_means_what_has_all_its_words(phrase: str, skus: list[str]) -> None:
    assert [found.sku for found in matching(phrase, MUGS)] == skus


def test_a_phrase_is_what_is_left_of_manners_and_numbers() -> None:
    assert (
        phrase_in("please put two of the blue mugs in my cart, between 5 and 9 eur") == "blue mugs"
    )
    assert phrase_in("write to ada@example.com about the second one") == "write"


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        (
            "deliver to Ada Lovelace, 12 Quay Street, 20457 Hamburg, DE, ada@example.com, express",
            {"name": "Ada Lovelace", "line1": "12 Quay Street", "postal_code": "20457",
             "city": "Hamburg", "country_code": "DE", "email": "ada@example.com",
             "shipping_method": "express"},
        ),
        (
            "my name is Ada; Kai 1; Hamburg 20457; Germany; by pick-up",
            {"name": "Ada", "line1": "Kai 1", "city": "Hamburg", "postal_code": "20457",
             "country_code": "DE", "shipping_method": "pickup"},
        ),
        (
            "Ada, Quay 1, 20457, Hamburg",
            {"name": "Ada", "line1": "Quay 1", "postal_code": "20457", "city": "Hamburg"},
        ),
        (
            "Ada, 1 High Street, UK, my e-mail is ada@example.com",
            {"name": "Ada", "line1": "1 High Street", "country_code": "GB",
             "email": "ada@example.com"},
        ),
        ("20457 Hamburg", {"line1": "20457 Hamburg"}),
        ("standard shipping", {"shipping_method": "standard"}),
        ("", {}),
    ],
)  # fmt: skip
def test_an_address_is_read_part_by_part(text: str, parts: dict[str, str]) -> None:
    assert address_in(text) == parts


@pytest.mark.parametrize(
    ("answer", "asked", "parts"),
    [
        ("12 Quay Street", "line1", {"line1": "12 Quay Street"}),
        ("20457 Hamburg", "postal_code", {"postal_code": "20457", "city": "Hamburg"}),
        ("20457", "postal_code", {"postal_code": "20457"}),
        ("de", "country_code", {"country_code": "DE"}),
        ("Germany", "country_code", {"country_code": "DE"}),
        ("somewhere", "country_code", {}),
        ("ada@example.com by express", "email",
         {"email": "ada@example.com", "shipping_method": "express"}),
        ("Ada, 12 Quay Street, 20457 Hamburg", "line1",
         {"name": "Ada", "line1": "12 Quay Street", "postal_code": "20457", "city": "Hamburg"}),
        ("express", "shipping_method", {"shipping_method": "express"}),
    ],
)  # fmt: skip
def test_a_short_answer_fills_only_what_was_asked(
    answer: str, asked: str, parts: dict[str, str]
) -> None:
    assert address_answer(answer, asked) == parts


@pytest.mark.parametrize(
    ("name", "text", "found"),
    [
        ("reason", "cancel it because it broke.", "it broke"),
        ("reason", "cancel it", None),
        ("days", "the last 2 weeks", 14),
        ("days", "this week", 7),
        ("days", "the last three months", 90),
        ("days", "last year", 365),
        ("days", "of 10 days", 10),
        ("days", "since yesterday", 2),
        ("days", "lately", None),
        ("location", "at the location HAM", "HAM"),
        ("location", "at home", None),
        ("delta", "correct MUG-1 by -3", -3),
        ("delta", "+4 of MUG-1", 4),
        ("delta", "write off 3 mugs because 2 fell", -3),
        ("delta", "book 3 mugs", 3),
        ("delta", "book mugs", None),
        ("status", "canceled orders", "cancelled"),
        ("status", "orders", None),
        ("email", "of ada+mugs@example.com.", "ada+mugs@example.com"),
        ("email", "of ada", None),
        ("name", "call me Ada King!", "Ada King"),
        ("name", "call me the last one", None),
        ("name", "hello", None),
        ("query", "find brass lamps", "brass lamps"),
        ("query", "find it", None),
        ("quantity", "two", 2),
    ],
)  # fmt: skip
def test_what_a_parameter_is_called_says_how_it_is_read(name: str, text: str, found: Any) -> None:
    assert EXTRACTORS[name](text, Context()) == found


class Line(BaseModel):
    sku: str
    quantity: int
    note: str | None = None


class Swap(BaseModel):
    sku: str
    new_sku: str


class Size(BaseModel):
    width: int


ROWS = [{"id": AN_ID, "status": "open"}, {"id": AN_ID[:-1] + "2", "status": "open"}]


@pytest.mark.parametrize(
    ("name", "hint", "text", "found"),
    [
        ("source", Literal["stripe", "pay_pal"], "from pay pal", "pay_pal"),
        ("source", Literal["stripe", "pay_pal"], "from the bank", None),
        ("status", OrderStatus, "the cancelled ones", "cancelled"),
        ("return_id", UUID, f"cancel {AN_ID.upper()}", AN_ID.upper()),
        ("return_id", UUID, "the second one", AN_ID[:-1] + "2"),
        ("return_id", UUID, "the fifth one", "known-return"),
        ("return_id", UUID, "cancel it", "known-return"),
        ("other_id", UUID, "cancel it", None),
        ("at", datetime, "as of 2026-01-20", "2026-01-21T00:00:00Z"),
        ("on", date, "tomorrow", "2026-01-31"),
        ("refund_amount", int, "EUR 5", 500),
        ("case_number", int, "case no. 12", 12),
        ("case", int, "resolve it", 3),
        ("priority", int, "make it 7", None),
        ("units", int, "seven of them", 7),
        ("provider", str, "whatever", "stripe"),
        ("unheard", str, "whatever", None),
        ("ratio", float, "0.5", None),
        ("size", Size, "5 wide", None),
        ("address", Address, "Ada, 12 Quay Street, 20457 Hamburg, DE",
         {"name": "Ada", "line1": "12 Quay Street", "postal_code": "20457", "city": "Hamburg",
          "country_code": "DE"}),
        ("address", Address, "in Hamburg", None),
        ("lines", list[Line], "send back 2 of MUG-1", [{"sku": "MUG-1", "quantity": 2}]),
        ("lines", list[Line], "send back two of it", [{"sku": "LAST-1", "quantity": 2}]),
        ("lines", list[Line], "send back MUG-1", None),
        ("lines", list[Line], "send something back", None),
        ("changes", list[Swap], "MUG-1 to MUG-2", [{"sku": "MUG-1", "new_sku": "MUG-2"}]),
        ("changes", list[Swap], "change MUG-1", None),
        ("sizes", list[Size], "5 wide", None),
        ("tags", list[str], "blue", None),
        ("anything", dict[str, str], "blue", None),
    ],
)  # fmt: skip
def test_a_parameter_of_any_type_is_read_from_the_words_or_left_out(
    name: str, hint: Any, text: str, found: Any
) -> None:
    known = {"return_id": "known-return", "case": 3, "priority": "high", "provider": "stripe"}
    context = Context(rows=ROWS, known=known, today=date(2026, 1, 30), focus_sku="LAST-1")
    assert by_type(name, hint, text, context, "EUR") == found


def test_what_was_made_out_before_stays_but_for_what_is_asked_about() -> None:
    grant = OPERATIONS["credit.grant"]
    before = {"email": "ada@example.com", "amount": 100}
    made = arguments_in(grant, "EUR 5", Context(), "EUR", given=before, asked="amount")
    assert made == {"email": "ada@example.com", "amount": 500}
    made = arguments_in(
        grant, "EUR 9 for bob@example.com", Context(), "EUR", given=before, asked=None
    )
    assert made == before


def test_the_id_of_what_is_made_is_never_that_of_another() -> None:
    known = Context(known={"refund_id": "0198f2a0-0000-7000-8000-000000000000"})
    text = "refund EUR 5 of order 1001 because of a chip"
    made = arguments_in(OPERATIONS["refund.request"], text, known, "EUR", given={}, asked=None)
    assert "refund_id" not in made
    done = arguments_in(
        OPERATIONS["refund.approve"], "approve it", known, "EUR", given={}, asked=None
    )
    assert done == known.known


def test_a_transfer_says_where_from_and_where_to() -> None:
    text = "move 5 of MUG-1 from HAM to ROT"
    made = arguments_in(OPERATIONS["transfer.create"], text, Context(), "EUR", given={}, asked=None)
    assert made == {
        "source": "HAM", "target": "ROT", "lines": [{"sku": "MUG-1", "quantity": 5}],
    }  # fmt: skip


def test_a_search_of_people_is_about_their_names() -> None:
    find = OPERATIONS["user.find"]
    for text, query in (
        ("find the customer ada", "ada"),
        ("find the customer ada@example.com", "ada@example.com"),
        ("find the customer", None),
    ):
        made = arguments_in(find, text, Context(), "EUR", given={}, asked=None)
        assert made.get("query") == query


ORDER = {
    "lines": [
        {"sku": "MUG-1", "title": "Stoneware mug", "quantity": 2},
        {"sku": "BOWL-1", "title": "Enamel bowl", "quantity": 3},
    ]
}


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("send back order 1001", {"MUG-1": 2, "BOWL-1": 3}),
        ("return the bowls of order 1001", {"BOWL-1": 3}),
        ("return two bowls of order 1001", {"BOWL-1": 2}),
        ("return 9 bowls of order 1001", {"BOWL-1": 3}),
        ("return the teapot of order 1001", {}),
    ],
)
def test_lines_are_those_of_the_order_and_never_more(text: str, lines: dict[str, int]) -> None:
    made = lines_meant(OPERATIONS["return.request"], text, ORDER)
    assert {line["sku"]: line["quantity"] for line in made} == lines


def test_only_lists_of_skus_and_quantities_are_lines() -> None:
    request = OPERATIONS["return.request"]
    assert takes_lines(request, "lines")
    assert not any(takes_lines(request, name) for name in hints_of(request) if name != "lines")


@pytest.mark.parametrize(
    ("text", "amounts"),
    [
        ("refund 5 euros of order 1001 because it came late", {"amount": 500}),
        ("refund the shipping of order 1001, 4.90 euros", {"shipping_amount": 490}),
    ],
)
def test_a_sum_said_once_is_meant_once(text: str, amounts: dict[str, int]) -> None:
    operation = OPERATIONS["refund.request"]
    found = arguments_in(operation, text, Context(), "EUR", given={}, asked=None)
    assert {name: found[name] for name in found if name.endswith("amount")} == amounts
