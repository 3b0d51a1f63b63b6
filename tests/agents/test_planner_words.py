"""How results are worded: every operation's, full and empty, and the templates one by one."""

import re
import types
from datetime import UTC, date, datetime
from enum import Enum
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints
from uuid import UUID

import pytest
from pydantic import BaseModel, TypeAdapter
from pydantic_core import to_jsonable_python

from agents import planner_words
from agents.base import answer_of, kind_of
from agents.planner_tell import LISTED_MAX, told
from tools.registry import OPERATIONS, Operation
from tools.surface import load_operations

load_operations()
AN_ID = UUID(int=0xABCDEF0123456789ABCDEF0123456789)
AMOUNT = 123456
MONEY = ("amount", "balance_delta", "held_delta")
SENTENCES = ("message", "statement", "summary")
NEVER_EMPTY = ("statements", "lines")
TEXTS = {"currency": "EUR", "country_code": "DE", "email": "ada@example.com"}


def sample(hint: Any, name: str, *, full: bool) -> Any:
    """Make a value of a type: with everything that may be there, or with nothing that need not."""
    origin, inner = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return sample(inner[0], name, full=full)
    if origin in (Union, types.UnionType):
        kinds = [kind for kind in inner if kind is not type(None)]
        return sample(kinds[0], name, full=full) if full or len(kinds) == len(inner) else None
    if origin is list:
        at_least = 2 if full else int(name in NEVER_EMPTY)
        return [sample(inner[0], name.removesuffix("s"), full=full)] * at_least
    if origin is Literal:
        return inner[-1]
    if origin is dict:
        return {"role": "user", "text": "Two mugs."} if inner[1] is Any else {}
    if hint is bool:
        return full
    if hint is int:
        return (AMOUNT if name.endswith(MONEY) else 7) if full else 0
    if hint is float:
        return 1.5
    if hint is str:
        words = f"the {name.replace('_', ' ')}"
        return TEXTS.get(name, f"{words.capitalize()}." if name in SENTENCES else words)
    known = {UUID: AN_ID, date: date(2026, 1, 30), datetime: datetime(2026, 1, 30, tzinfo=UTC)}
    if hint in known:
        return known[hint]
    if issubclass(hint, BaseModel):
        fields = hint.model_fields.items()
        return {name: sample(field.annotation, name, full=full) for name, field in fields}
    assert issubclass(hint, Enum), f"no sample of {hint} is known"
    return list(hint)[-1].value


def worded(operation: Operation, *, full: bool) -> str:
    hint = get_type_hints(operation.run)["return"]
    result = TypeAdapter(hint).validate_python(sample(hint, "result", full=full))
    answer = answer_of(operation.key, kind_of(operation), to_jsonable_python(result))
    return planner_words.tell(answer["kind"], answer["data"], operation.key)


@pytest.mark.parametrize("full", [True, False], ids=["full", "empty"])
@pytest.mark.parametrize("key", sorted(OPERATIONS))
def test_every_result_is_told_without_ids_and_cents(key: str, full: bool) -> None:
    said = worded(OPERATIONS[key], full=full)
    assert said
    assert str(AN_ID) not in said
    assert str(AMOUNT) not in said, "an amount is said with its currency and its decimals"
    assert said.endswith(".")
    assert not re.search(r"\.\.|\bNone\b|\bnull\b|[{}\[\]]|: [.;]|\w_\w", said), said


def test_kinds_of_results_are_not_mistaken_for_each_other() -> None:
    """A template is found by the name of a type: two types of one name would share it."""
    named: dict[str, set[Any]] = {}
    for operation in OPERATIONS.values():
        hint = get_type_hints(operation.run)["return"]
        named.setdefault(kind_of(operation), set()).add(hint)
    assert not {kind: hints for kind, hints in named.items() if len(hints) > 1}


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (None, ""),
        ("Done already.", "Done already."),
        (7, "7"),
        ({}, ""),
        ([], "There is nothing to show."),
        ({"items": [], "next_cursor": None}, "There is nothing to show."),
        ({"id": str(AN_ID), "idempotency_key": "k", "account_ids": ["x"]}, ""),
        ({"title": "Mug"}, "Mug."),
        ({"status": "in_transit"}, "In transit."),
        ({"number": 7, "status": "in_transit"}, "#7 is in transit."),
        ({"email": "ada@example.com", "is_staff": False}, "ada@example.com. Is staff no."),
        ({"amount": 1250, "currency": "EUR"}, "Amount EUR 12.50."),
        ({"amount": 1250, "currency": "JPY"}, "Amount JPY 1250."),
        ({"amount": 1250, "currency": "KWD"}, "Amount KWD 1.250."),
        ({"difference_amount": -5, "currency": "EUR"}, "Difference EUR -0.05."),
        ({"amount": 1250}, ""),
        ({"created_at": "2026-01-30T12:00:00Z"}, "Created 2026-01-30."),
        ({"slot": "2026-01-30T12:00:00Z", "units": 0}, "Slot 2026-01-30, units 0."),
        ({"kind": "store_credit", "note": "a_b c"}, "Kind store credit, note a_b c."),
        ({"method": str(AN_ID), "ratio": 0.5, "extra": {"a": 1}}, ""),
        ({"note": "Come back!"}, "Note Come back!"),
        ([{"note": "Two mugs."}], "1. note Two mugs."),
        ({"note": "x" * 500}, "Note " + "x" * 120 + "."),
        ([{"name": "Ada", "email": "a@b.de"}], "1. Ada, email a@b.de."),
        ({"order_numbers": [1001, 1002], "parts": []}, "Order numbers: 1001, 1002."),
        ({"allowed_actions": ["approve"], "status": "open"}, "Open."),
    ],
)  # fmt: skip
def test_a_result_without_a_template_is_told_by_its_fields(data: Any, said: str) -> None:
    assert told(data) == said


def test_parts_are_in_the_currency_of_the_whole_unless_they_say_another() -> None:
    whole = {
        "currency": "KWD",
        "amount": 3000,
        "parts": [{"amount": 1000}, {"amount": 2000, "currency": "EUR"}],
    }
    assert told(whole) == "Amount KWD 3.000. Parts: 1. amount KWD 1.000; 2. amount EUR 20.00."
    listed = {"currency": "JPY", "items": [{"name": "Mug", "price_amount": 900}]}
    assert told(listed) == "1. Mug, price JPY 900."


def test_long_lists_are_cut_and_say_so() -> None:
    rows = [{"sku": f"MUG-{n}"} for n in range(1, LISTED_MAX + 2)]
    assert told(rows).endswith(f"{LISTED_MAX}. MUG-{LISTED_MAX}. There are more.")
    assert told(rows[:-1]).endswith(f"{LISTED_MAX}. MUG-{LISTED_MAX}.")
    assert told({"items": rows[:1], "next_cursor": "c"}) == "1. MUG-1. There are more."


def line(**more: Any) -> dict[str, Any]:
    return {"quantity": 2, "title": "Stoneware mug", "total_amount": 2500, **more}


CART = {
    "lines": [line()], "currency": "EUR", "total_amount": 2990, "shipping_amount": 490,
    "discount_amount": 0, "tax_amount": 0, "problems": [],
}  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"lines": []}, "Your cart is empty."),
        ({}, "Your cart: 2 × Stoneware mug. Total EUR 29.90, EUR 4.90 of it for shipping. "
             "Everything is there: say “check out” to buy."),
        ({"discount_code": "SALE", "discount_amount": 250, "tax_amount": 190},
         "Your cart: 2 × Stoneware mug. Total EUR 29.90, EUR 2.50 off by SALE, EUR 4.90 of it for "
         "shipping, EUR 1.90 of it tax. Everything is there: say “check out” to buy."),
        ({"shipping_amount": 0, "problems": [
            {"code": "missing", "field": "email", "message": "No email yet."},
            {"code": "missing", "field": "shipping_address", "message": "No address yet."}]},
         "Your cart: 2 × Stoneware mug. Total EUR 29.90. No email yet. No address yet. Tell me: "
         "deliver to name, street, postal code and city, country, your email."),
        ({"shipping_amount": 0, "problems": [
            {"code": "missing", "field": "shipping_method", "message": "How is not said."}]},
         "Your cart: 2 × Stoneware mug. Total EUR 29.90. How is not said. Tell me: standard, "
         "express or pickup."),
        ({"shipping_amount": 0, "problems": [
            {"code": "sold_out", "field": "lines.MUG", "message": "MUG is sold out."}]},
         "Your cart: 2 × Stoneware mug. Total EUR 29.90. MUG is sold out."),
    ],
)  # fmt: skip
def test_a_cart_says_what_it_still_needs(changes: dict[str, Any], said: str) -> None:
    assert planner_words.tell("cart", CART | changes, "cart.current") == said


def test_what_was_done_is_said_before_what_there_is() -> None:
    said = planner_words.tell("cart", CART | {"lines": []}, "cart.remove_item")
    assert said == "Removed. Your cart is empty."
    proposal = {"summary": "Buy the cart.", "preview": {}}
    assert planner_words.tell("waiting", proposal, "cart.deliver_to") == (
        "This waits for your approval: Buy the cart. Nothing has happened yet."
    )
    assert planner_words.tell("failed", "It is sold out.", "cart.add_item") == (
        "That did not work: It is sold out."
    )
    assert planner_words.tell("Nothing", None, "user.undo") == "Done."


@pytest.mark.parametrize(
    ("preview", "cost"),
    [
        ({"charge_amount": 2990, "currency": "EUR"}, " EUR 29.90 will be charged."),
        ({"refund_amount": 500, "currency": "JPY"}, " JPY 500 goes back."),
        ({"refund_amount": 500}, ""),
    ],
)
def test_an_approval_says_what_it_costs(preview: dict[str, Any], cost: str) -> None:
    said = planner_words.tell("waiting", {"summary": "Do it.", "preview": preview}, "checkout.buy")
    assert said == f"This waits for your approval: Do it.{cost} Nothing has happened yet."


CARD = {
    "title": "Mug", "price_amount": 1250, "currency": "EUR", "available": 0, "sku": "MUG",
}  # fmt: skip


def test_search_results_say_what_is_sold_out_and_whether_there_is_more() -> None:
    tell = planner_words.products
    assert tell({"items": []}, "").startswith("I found no product like that.")
    one = {"items": [CARD], "next_cursor": None}
    assert tell(one, "") == "Here is what I found: 1. Mug, EUR 12.50, sold out."
    assert tell(one | {"next_cursor": "c"}, "").endswith("sold out. There are more.")
    many = [CARD | {"available": 3}] * 7
    assert tell({"items": many}, "").endswith("6. Mug, EUR 12.50, 3 in stock. There are more.")


def test_a_product_says_its_variants_and_cuts_a_long_description() -> None:
    data = {"title": "Mug", "description": "  ", "variants": [CARD | {"title": ""}]}
    assert planner_words.product(data, "") == "Mug. Mug (MUG) EUR 12.50, sold out."
    data["description"] = "word " * 100
    said = planner_words.product(data | {"variants": [CARD | {"title": "Blue"}]}, "")
    assert "word word…" in said
    assert len(said) < 360
    assert said.endswith("Blue (MUG) EUR 12.50, sold out.")


def test_orders_are_listed_newest_first() -> None:
    row = {"number": 7, "status": "placed", "total_amount": 900, "currency": "JPY"}
    tell = planner_words.orders
    assert tell({"items": [], "next_cursor": None}, "") == "There are no orders."
    one = {"items": [row], "next_cursor": None}
    assert tell(one, "") == "Newest first: #7 placed, JPY 900."
    assert tell(one | {"next_cursor": "c"}, "").endswith("There are more.")
    assert tell({"items": [row] * 7, "next_cursor": None}, "").endswith("There are more.")


SALES = {
    "currency": "EUR", "start": "2026-01-23T00:00:00Z", "orders": 0, "units": 0,
    "revenue_amount": 0, "aov_amount": 0, "top_products": [],
}  # fmt: skip


def test_sales_leave_out_what_there_was_none_of() -> None:
    tell = planner_words.sales
    assert tell(SALES, "analytics.sales_today") == "Today: 0 orders, 0 units, EUR 0.00 revenue."
    sold = SALES | {
        "orders": 2, "units": 1, "revenue_amount": 5000, "aov_amount": 2500,
        "top_products": [{"title": "Mug", "units": 1}],
    }  # fmt: skip
    assert tell(sold, "analytics.sales_recent") == (
        "Since 2026-01-23: 2 orders, 1 unit, EUR 50.00 revenue, EUR 25.00 per order. "
        "Best sellers: Mug (1)."
    )


def test_stock_is_told_by_place_if_there_are_places() -> None:
    data: dict[str, Any] = {"title": "Mug", "sku": "MUG", "available": 1, "levels": []}
    assert planner_words.stock(data, "") == "Mug (MUG): 1 unit available."
    data["levels"] = [{"location": "HAM", "available": 1, "on_hand": 3}]
    assert planner_words.stock(data, "") == (
        "Mug (MUG): 1 unit available. HAM 1 available of 3 on hand."
    )


def test_movements_of_stock_and_of_credit_are_told_apart() -> None:
    stock = {
        "occurred_at": "2026-01-30T12:00:00Z", "kind": "transfer_out", "location": "HAM",
        "on_hand_delta": -3, "reason": None,
    }  # fmt: skip
    assert planner_words.tell("Page[MovementView]", {"items": [stock]}, "inventory.movements") == (
        "Newest first: 2026-01-30 transfer out at HAM: -3 on hand."
    )
    credit = {
        "occurred_at": "2026-01-30T12:00:00Z", "currency": "EUR", "reason": "",
        "held_delta": 0, "balance_delta": 2000,
    }  # fmt: skip
    moves = [
        credit | {"reason": "a gift"},
        credit | {"balance_delta": 0, "held_delta": 500},
        credit | {"balance_delta": -500, "held_delta": -500},
        credit | {"balance_delta": 0, "held_delta": -500},
    ]
    said = planner_words.tell("Page[CreditMovementView]", {"items": moves}, "credit.history")
    assert said == (
        "Newest first: 2026-01-30 EUR 20.00 added (a gift); 2026-01-30 EUR 5.00 set aside; "
        "2026-01-30 EUR 5.00 taken off; 2026-01-30 EUR 5.00 set free."
    )


def test_policies_say_only_what_is_limited() -> None:
    tell = planner_words._aftersales_policy
    free = tell({"return_window_days": None, "item_edits_max": None}, "")
    assert free.startswith("You can send things back at any time;")
    assert "changed" not in free
    strict = tell({"return_window_days": 30, "item_edits_max": 1}, "")
    assert strict.startswith("You can send things back within 30 days of delivery;")
    assert strict.endswith("The items of an order can be changed 1 times.")


@pytest.mark.parametrize(
    ("missing", "asked"),
    [
        ("quantity", "How many?"),
        ("return_id", "Which return?"),
        ("currency_code", "Which currency?"),
        ("unit_cost", "What is the unit cost?"),
    ],
)
def test_a_question_names_what_is_missing(missing: str, asked: str) -> None:
    assert planner_words.question(missing, "EUR") == asked


def test_an_offer_names_what_it_is_about() -> None:
    operation = OPERATIONS["checkout.cancel"]
    sure = planner_words.offer(operation, {"number": 1001}, "EUR", is_certain=True)
    assert sure.startswith("I can do that for you here: cancel ")
    assert sure.endswith("(order #1001). Shall I?")
    unsure = planner_words.offer(operation, {}, "EUR", is_certain=False)
    assert unsure.startswith("Do you want me to cancel ")
    assert "(" not in unsure
