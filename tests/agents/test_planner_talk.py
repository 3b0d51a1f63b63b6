"""Choosing products and lines in talk: by name, by place, by variant; and asking when unsure."""

import re
from uuid import UUID

import pytest

from db.models.user import Role
from deps.core import SYSTEM, Deps
from tests import factories
from tests.agents.talk import Talk
from tools import fulfillment
from tools import product as products
from tools.product import ProductInput, VariantInput


async def variants(deps: Deps, handle: str, title: str, **named: str) -> UUID:
    """Save a product of several variants, by SKU and name."""
    async with deps.acting_as(SYSTEM).begin() as uow:
        saved = await products.save(
            uow,
            ProductInput(
                handle=handle,
                title=title,
                variants=[
                    VariantInput(sku=sku, title=name, price_amount=1250, currency="EUR")
                    for sku, name in named.items()
                ],
            ),
        )
    for sku in named:
        await factories.receive(deps, sku, 10)
    return saved.id


@pytest.fixture
async def shelf(customer: Deps) -> Deps:
    await factories.product(customer, "LAMP", title="Brass desk lamp")
    await factories.product(customer, "SHADE", title="Paper lamp shade")
    await variants(customer, "mug", "Stoneware mug", MUGB="Blue", MUGR="Red")
    return customer


async def in_cart(deps: Deps) -> dict[str, int]:
    reply = await Talk(deps).say("show my cart")
    cards = reply.of("card")
    return {line["sku"]: line["quantity"] for line in cards[0]["data"]["lines"]} if cards else {}


async def test_one_of_several_is_asked_for_and_chosen_by_its_place(shelf: Deps) -> None:
    talk = Talk(shelf)
    asked = await talk.say("add a lamp to my cart")
    assert asked.text.startswith("Which one do you mean? I have these: 1. ")
    assert {"Brass desk lamp", "Paper lamp shade"} == set(titles(asked.text))
    beyond = await talk.say("the fifth one")
    assert beyond.tools == []
    assert beyond.text.startswith("Which product do you mean?")
    await talk.say("the second one")
    skus = {"Brass desk lamp": "LAMP", "Paper lamp shade": "SHADE"}
    assert await in_cart(shelf) == {skus[titles(asked.text)[1]]: 1}


def titles(asked: str) -> list[str]:
    """Return what a question offers, in its order."""
    return [part.strip(" .") for part in re.split(r"\d\. ", asked)[1:]]


async def test_a_variant_is_asked_for_and_chosen_by_its_word(shelf: Deps) -> None:
    talk = Talk(shelf)
    asked = await talk.say("add two stoneware mugs to my cart")
    assert asked.text.endswith("I have these: 1. Stoneware mug Blue. 2. Stoneware mug Red.")
    assert await in_cart(shelf) == {}
    await talk.say("the red one")
    assert await in_cart(shelf) == {"MUGR": 2}


async def test_what_is_only_similar_is_named_and_not_taken(shelf: Deps) -> None:
    talk = Talk(shelf)
    await talk.say("add a copper desk lamp to my cart")
    asked = await talk.say("yes")
    assert asked.text.startswith("Which one do you mean? I have only these, which are similar: 1.")
    none = await Talk(shelf).say("put a xylophone in my cart")
    assert none.text == "I found no product called “xylophone”."
    assert await in_cart(shelf) == {}


async def test_it_and_the_second_one_are_what_was_shown(shelf: Deps) -> None:
    talk = Talk(shelf)
    found = await talk.say("do you have lamps?")
    second = found.of("card")[0]["data"]["items"][1]
    about = await talk.say("tell me more about the second one")
    assert about.text.startswith(f"{second['title']}.")
    await talk.say("put it in my cart")
    assert await in_cart(shelf) == {second["sku"]: 1}
    await talk.say("do you have lamps?")
    await talk.say("add the brass one to my cart")
    assert (await in_cart(shelf))["LAMP"] == (2 if second["sku"] == "LAMP" else 1)


async def test_stock_of_what_has_variants_is_told_for_each(shelf: Deps) -> None:
    staff = await factories.user(shelf, role=Role.MERCHANT)
    every = await Talk(staff).say("how many stoneware mugs are left?")
    assert every.text == (
        "Stoneware mug. Blue (MUGB) EUR 12.50, 10 in stock; Red (MUGR) EUR 12.50, 10 in stock."
    )
    several = await Talk(staff).say("how many lamps are left?")
    assert {"Brass desk lamp", "Paper lamp shade"} == set(titles(several.text))


async def test_lines_that_are_not_in_the_order_are_asked_about(shelf: Deps) -> None:
    staff = await factories.user(shelf, role=Role.MERCHANT)
    placed = await factories.placed_order(shelf, LAMP=1, SHADE=2)
    for step in (fulfillment.ship, fulfillment.deliver):
        async with staff.begin() as uow:
            await step(uow, placed.number)
    talk = Talk(shelf)
    asked = await talk.say(f"send back the teapot of order {placed.number}")
    assert asked.text == "Which of these? 1. Brass desk lamp. 2. Paper lamp shade."
    assert not asked.of("approval")
    other = Talk(shelf)
    await other.say(f"return one lamp shade of order {placed.number}")
    (approval,) = (await other.say("yes")).of("approval")
    assert [(line["sku"], line["quantity"]) for line in approval["preview"]["lines"]] == [
        ("SHADE", 1)
    ]


async def test_with_nothing_to_go_by_it_asks(shelf: Deps) -> None:
    reply = await Talk(shelf).say("add it to my cart")
    assert reply.tools == []
    assert reply.text.startswith("Which product do you mean?")


async def test_a_period_is_looked_up_with_its_last_day(shelf: Deps) -> None:
    staff = await factories.user(shelf, role=Role.MERCHANT)
    placed = await factories.placed_order(shelf, LAMP=1)
    for said, expected in (
        ("orders between 2026-01-28 and 2026-01-30", [placed.number]),
        ("orders between 28 and 30 January 2026", [placed.number]),
        ("orders between 2026-01-28 and 2026-01-29", []),
    ):
        reply = await Talk(staff).say(said)
        assert reply.tools == ["order_list_all"]
        (card,) = reply.of("card")
        assert [item["number"] for item in card["data"]["items"]] == expected
