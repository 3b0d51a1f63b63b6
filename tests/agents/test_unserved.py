"""What a shop could do and this one does not is said plainly, and nothing else is done instead."""

import pytest

from agents import phrases, unserved
from agents.planner import Planner
from db.models.user import Role
from deps.core import ROLE_SCOPES, Deps
from evals.routing import plan
from tests import factories
from tests.agents.talk import Talk
from tools.registry import OPERATIONS
from tools.surface import load_operations

load_operations()
STAFF = ROLE_SCOPES[Role.MERCHANT]
PLANNER = Planner(frozenset(key for key, op in OPERATIONS.items() if op.scope in STAFF), "EUR")


@pytest.mark.parametrize(
    ("text", "topic"),
    [
        ("who bought most this year?", "buyers"),
        ("please show me our top 5 customers", "buyers"),
        ("email Ada that her order is late", "message"),
        ("let ada know her order is delayed", "message"),
        ("chnage the price of the mug to 12", "price"),
        ("could you raise the price of MUG-1 to 12 euros?", "price"),
        ("set mug price 12", "price"),
        ("make the tea towel cheaper", "price"),
        ("give 10% off all mugs", "price"),
        ("put the lamp on sale", "price"),
        ("add a new product called Oak tray", "assortment"),
        ("delete product MUG-1", "assortment"),
        ("rename MUG-1 to Red mug", "assortment"),
    ],
)
def test_what_no_operation_does_is_said_and_nothing_is_done(text: str, topic: str) -> None:
    assert plan(PLANNER, text).operation == "none"
    told = unserved.told(text, STAFF)
    assert told is not None
    assert told.startswith(unserved.TOPICS[topic][0])


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("what does the mug cost", "product.search"),
        ("what sold best today", "analytics.sales_today"),
        ("which messages were sent to ada@example.com", "notification.list_recent"),
        ("email me the receipt of order 1001", "receipt.show"),
        ("remove the mug from my cart", "cart.remove_item"),
    ],
)
def test_what_is_near_it_is_still_done(text: str, key: str) -> None:
    assert plan(PLANNER, text).operation == key
    assert unserved.told(text, STAFF) is None


def test_every_topic_has_phrases_and_names_only_scopes_that_exist() -> None:
    known = {scope for scopes in ROLE_SCOPES.values() for scope in scopes}
    for topic, (_, near) in unserved.TOPICS.items():
        assert f"{phrases.NONE}.{topic}" in phrases.table()
        assert {scope for scope, _ in near} <= known


def test_only_what_is_permitted_is_named_as_near() -> None:
    wish = "who are our best customers"
    assert "report sales" in str(unserved.told(wish, STAFF))
    assert "report sales" not in str(unserved.told(wish, ROLE_SCOPES[Role.CUSTOMER]))
    assert unserved.told(wish, ()) == unserved.TOPICS["buyers"][0]


async def test_the_refusal_is_what_they_are_told(merchant: Deps) -> None:
    said = await Talk(merchant).say("change the price of the mug to 12")
    assert said.tools == []
    assert said.text.startswith("I can not change prices")


async def test_an_offer_names_what_was_pointed_at(merchant: Deps) -> None:
    await factories.product(merchant, "MUG-1", title="Stoneware mug", price=900)
    await factories.product(merchant, "MUG-2", title="Blue mug", price=1900)
    talk = Talk(merchant)
    await talk.say("show me the cheapest mugs")
    assert "(MUG-1, 50 units)" in (await talk.say("restock the first one with 50")).text
