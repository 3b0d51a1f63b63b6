"""What words mean after what was said before."""

import pytest

from agents.planner_context import Candidate, Context
from agents.planner_follow import following, sought_in, stated
from agents.planner_hear import hear
from agents.planner_intent import understand
from deps.core import Deps
from tests import factories
from tests.agents.talk import Talk
from tools.registry import OPERATIONS
from tools.surface import load_operations

load_operations()
ALL = frozenset(OPERATIONS)
MUGS = [
    Candidate("MUG-RUST", "Fjord mug Rust", "fjord-mug"),
    Candidate("MUG-B", "Fjord mug Blue", "fjord-mug"),
]
LAMPS = [Candidate("L-1", "Brass lamp", "brass-lamp"), Candidate("L-2", "Steel lamp", "steel-lamp")]
SOUGHT = {"query": "lamp", "limit": 6}


def followed(text: str, context: Context) -> tuple[str, dict[str, object]] | None:
    found = following(hear(text).written, context, ALL)
    return (found.key, found.slots) if found else None


@pytest.mark.parametrize(
    ("text", "key", "slots"),
    [
        ("show me the cheapest one", "product.search", {"query": "lamp", "sort": "price"}),
        ("what is the most expensive?", "product.search", {"query": "lamp", "sort": "-price"}),
        ("anything cheaper", "product.search", {"query": "lamp", "sort": "price"}),
        ("anything nicer between 50 and 100 euro", "product.search", {"query": "lamp"}),
        ("do you have it in black?", "product.search", {"query": "lamp black"}),
        ("tell me more about the second one", "product.get", {}),
        ("also a tea towel", "product.search", {"query": "tea towel"}),
    ],
)  # fmt: skip
def test_of_what_was_found(text: str, key: str, slots: dict[str, object]) -> None:
    context = Context(candidates=LAMPS, search=SOUGHT, last_operation="product.search")
    assert followed(text, context) == (key, slots)


def test_a_colour_of_one_product_is_among_its_variants() -> None:
    context = Context(candidates=MUGS, search=SOUGHT, last_operation="product.get")
    assert followed("in blue?", context) == ("product.get", {"handle_or_sku": "fjord-mug"})


@pytest.mark.parametrize(
    ("text", "slots"),
    [
        ("how much is the steel one", {"handle_or_sku": "steel-lamp"}),
        ("is the brass lamp waterproof?", {"handle_or_sku": "brass-lamp"}),
        ("is the tray dishwasher safe?", {}),
        ("what are they made of", {}),
    ],
)
def test_what_is_known_of_a_thing_is_told_of_that_thing(
    text: str, slots: dict[str, object]
) -> None:
    context = Context(candidates=LAMPS, search=SOUGHT, last_operation="product.search")
    assert followed(text, context) == ("product.get", slots)


def test_what_a_thing_is_asked_about_is_no_part_of_its_name() -> None:
    found = following("is the tray dishwasher safe", Context(), ALL)
    assert found is not None
    assert found.about == "tray"


@pytest.mark.parametrize(
    ("text", "last", "key"),
    [
        ("close it", "stock_count.record", "stock_count.close"),
        ("ship the transfer", "transfer.create", "transfer.ship"),
        ("send it off", "transfer.create", None),
        ("close the shop", "stock_count.record", None),
        ("cancel it", "cart.add_item", None),
    ],
)
def test_what_is_done_to_it_is_done_to_what_was_talked_about(
    text: str, last: str, key: str | None
) -> None:
    found = followed(text, Context(last_operation=last))
    assert (found and found[0]) == key


@pytest.mark.parametrize(
    ("text", "key", "slots"),
    [
        ("actually make that four", "cart.change_item", {"sku": "MUG-B"}),
        ("and a lamp too please", "cart.add_item", {}),
    ],
)
def test_of_what_was_put_into_the_cart(text: str, key: str, slots: dict[str, object]) -> None:
    context = Context(focus_sku="MUG-B", last_operation="cart.add_item")
    assert followed(text, context) == (key, slots)


@pytest.mark.parametrize("last", ["cart.add_item", "cart.deliver_to", "checkout.buy"])
@pytest.mark.parametrize(
    ("text", "key", "slots"),
    [
        ("pick up please", "cart.deliver_to", {"shipping_method": "pickup"}),
        ("my email is ada@example.com", "cart.deliver_to", {}),
        ("ada@example.com", "cart.deliver_to", {}),
        ("ok, buy it", "checkout.buy", {}),
        ("i want to buy all of it now", "checkout.buy", {}),
    ],
)
def test_of_a_cart_that_is_being_filled(
    text: str, key: str, slots: dict[str, object], last: str
) -> None:
    assert followed(text, Context(last_operation=last)) == (key, slots)
    assert followed(text, Context(last_operation="product.search")) is None


def test_of_an_order_that_was_shown() -> None:
    context = Context(focus_order=1001, last_operation="order.get")
    assert followed("cancel it because the customer called", context) == (
        "checkout.cancel",
        {"number": 1001},
    )
    away = Context(focus_order=1001, last_operation="transfer.get")
    assert followed("cancel it", away) == ("transfer.cancel", {})


@pytest.mark.parametrize(
    "text",
    ["the cheapest one", "make that four", "in blue?", "the second one", "cancel it", "express"],
)
def test_nothing_follows_from_nothing(text: str) -> None:
    assert followed(text, Context()) is None


def test_what_may_not_be_used_does_not_follow() -> None:
    context = Context(focus_sku="MUG-B", last_operation="cart.add_item")
    assert following("make that four", context, frozenset(("product.search",))) is None


@pytest.mark.parametrize(
    ("text", "slots"),
    [
        ("whats ur cheapest lamp", {"query": "lamp", "sort": "price"}),
        ("cheaper mugs please", {"query": "mugs", "sort": "price"}),
        ("some cheap plates for my mother", {"query": "plates", "sort": "price"}),
        ("something cheaper than that", None),
        ("do you sell laptops?", {"query": "laptops"}),
        ("what is the weather", None),
    ],
)
def test_stated_by_itself(text: str, slots: dict[str, object] | None) -> None:
    found = stated(hear(text).written)
    assert (found.slots if found else None) == slots


def test_whom_it_is_for_is_not_sought() -> None:
    assert sought_in("gift for my sister, she likes cooking") == "gift"
    text = "hi, I'm looking for a gift for my sister, she likes cooking. maybe 40 euros max"
    intent = understand(text, Context(), ALL)
    assert intent.operation is not None
    assert (intent.operation.key, intent.slots) == ("product.search", {"query": "gift"})


async def test_a_question_chooses_nothing(customer: Deps) -> None:
    await factories.product(customer, "LAMP-STEEL", title="Steel lamp")
    await factories.product(customer, "LAMP-OAK", title="Oak lamp")
    talk = Talk(customer)
    asked = await talk.say("add a lamp to my cart")
    assert "Which one" in asked.text
    assert (await talk.say("do you have it in oak?")).tools == ["product_search"]
    assert "empty" in (await talk.say("what is in my cart")).text


async def test_what_is_not_in_the_cart_cannot_be_taken_out(customer: Deps) -> None:
    await factories.product(customer, "MUG-1", title="Stoneware mug")
    await factories.product(customer, "TOWEL-1", title="Tea towel")
    talk = Talk(customer)
    await talk.say("add 2 MUG-1 to my cart")
    said = await talk.say("remove the towel")
    assert "no towel in your cart" in said.text
    assert (await talk.say("remove the mug")).text.startswith("Removed.")


async def test_limits_hold_where_nothing_is_called_that(customer: Deps) -> None:
    await factories.product(customer, "MUG-1", title="Stoneware mug", price=1490)
    await factories.product(customer, "DESK-1", title="Oak desk", price=49_900)
    said = await Talk(customer).say("I am looking for a gift for my sister, 40 euros max")
    assert "nothing called “gift”" in said.text
    assert "Stoneware mug" in said.text
    assert "Oak desk" not in said.text


async def test_thanks_is_answered_in_kind(guest: Deps) -> None:
    assert (await Talk(guest).say("thanks!")).text == "You are welcome."
