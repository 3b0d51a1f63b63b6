"""The offline planner: what it understands, what it asks, and that it never acts unasked."""

import time
from typing import Any
from uuid import UUID

import pytest
from pydantic_ai.messages import ModelMessage, ModelRequest, UserPromptPart

from agents.phrases import expand, table
from agents.planner import Planner
from agents.planner_context import Context
from agents.planner_frame import Mode, frame_of
from agents.planner_intent import understand
from agents.planner_score import index
from agents.planner_steps import Step
from db.models.user import Role
from deps.core import ROLE_SCOPES, Deps
from tests import factories
from tests.agents.talk import Talk
from tools import credit_desk, fulfillment
from tools import order as orders
from tools import user as users
from tools.registry import OPERATIONS, Risk
from tools.surface import load_operations
from tools.turn import TEXT_CHARS_MAX

load_operations()
STAFF = frozenset(OPERATIONS)
SHOPPER = frozenset(k for k, op in OPERATIONS.items() if op.scope in ROLE_SCOPES[Role.CUSTOMER])


def first_step(text: str, allowed: frozenset[str] = STAFF) -> Step | None:
    messages: list[ModelMessage] = [ModelRequest(parts=[UserPromptPart(text)])]
    return next(iter(Planner(allowed, "EUR").rehearse(messages)), None)


def writes(step: Step | None) -> bool:
    return bool(step and step.tool and OPERATIONS[step.operation or ""].risk is not Risk.READ)


def test_every_phrase_is_for_an_operation_that_exists() -> None:
    unknown = [k for k in table() if k not in OPERATIONS and not k.startswith("none.")]
    assert not unknown


def test_a_phrase_stands_for_each_of_its_readings() -> None:
    assert list(expand("(cancel|stop) my (order|)")) == [
        "cancel my order", "cancel my", "stop my order", "stop my",
    ]  # fmt: skip


def test_alternatives_may_hold_alternatives() -> None:
    assert list(expand("show my orders (from (last|this) week|)")) == [
        "show my orders from last week", "show my orders from this week", "show my orders",
    ]  # fmt: skip


@pytest.mark.parametrize("phrase", ["cancel (my order", "cancel my) order"])
def test_brackets_of_a_phrase_match(phrase: str) -> None:
    with pytest.raises(AssertionError, match="brackets"):
        list(expand(phrase))


@pytest.mark.parametrize(
    ("text", "later"),
    [("close the count", "stock_count.close")],
)
def test_what_is_said_around_an_id_is_meant_once_the_conversation_has_named_one(
    text: str, later: str
) -> None:
    first = understand(text, Context(), STAFF).operation
    named = Context(known={f"{later.partition('.')[0]}_id": "0190f1c2-0000-7000-8000-000000000001"})
    then = understand(text, named, STAFF).operation
    assert first is None or first.key != later
    assert then is not None
    assert then.key == later


@pytest.mark.parametrize(
    "text",
    ["I paid with my card and was charged a fee", "thanks for helping me"],
)
def test_what_is_said_around_an_id_tells_nothing_of_a_message_without_one(text: str) -> None:
    assert first_step(text) is None


@pytest.mark.parametrize(
    ("operation", "missing", "text", "key"),
    [
        ("cart.add_item", "sku", "take the second one out again", "cart.remove_item"),
        ("order_edit.modify_items", "changes", "who asked for a person", "handover.list_open"),
    ],
)
def test_what_asks_for_something_else_is_no_answer(
    operation: str, missing: str, text: str, key: str
) -> None:
    asked = {"operation": operation, "slots": {}, "missing": missing}
    intent = understand(text, Context(question=asked), STAFF)
    assert not intent.answers_question
    assert intent.operation is not None
    assert intent.operation.key == key


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("u got any blue mugs??", "product.search"),
        ("this is taking forever where the hell is my parcel", "order.list_mine"),
        ("wats the cheapest lamp u have", "product.search"),
        ("sth for my moms birthday under 30", "product.search"),
        ("can i pay with klarna", "help.payment_methods"),
        ("can i return opened stuff", "aftersales.policy"),
        ("ur shop sucks, nothing works", "handover.request"),
    ],
)
def test_what_is_typed_in_haste_is_understood(text: str, key: str) -> None:
    intent = understand(text, Context(), SHOPPER)
    assert intent.operation is not None
    assert intent.operation.key == key


@pytest.mark.parametrize(
    "text",
    [
        "find the customer ada@example.com",
        "look up the buyer with the email ada@example.com",
        "who has the address ada@example.com",
    ],
)
def test_a_customer_is_looked_up_by_the_whole_address(text: str) -> None:
    step = first_step(text)
    assert step is not None
    assert step.operation == "user.find_by_email"
    assert step.arguments == {"email": "ada@example.com"}


@pytest.mark.parametrize(
    "text",
    [
        "how do I cancel order 1001?",
        "how can I remove MUG-1 from my cart?",
        "I don't know how to change the address of order 1001",
        "is it possible to cancel order 1001?",
        "what do I have to do to return order 1001?",
        "I can't cancel order 1001",
        "tell me how to add MUG-1 to my cart",
    ],
)
def test_a_question_about_a_write_is_never_the_write(text: str) -> None:
    step = first_step(text)
    assert step is not None
    assert not writes(step)
    assert step.note["question"]["missing"] == "confirm"


@pytest.mark.parametrize(
    "text",
    [
        "don't cancel my order 1001",
        "please do not buy it",
        "never mind, don't add MUG-1 to my cart",
        "I do not want to cancel order 1001",
        "no, do not refund order 1001",
    ],
)
def test_what_must_not_be_done_is_not_done(text: str) -> None:
    assert understand(text, Context(), STAFF).reason == "declined" or first_step(text) is None
    assert not writes(first_step(text))


def test_a_message_of_nothing_but_joints_is_read_in_no_time() -> None:
    """Nobody else is answered meanwhile: trying each of its 800 joints took five seconds."""
    before = time.process_time()
    first_step(("a and b, " * 440)[:TEXT_CHARS_MAX])
    assert time.process_time() - before < 1.5


def test_one_clause_may_refuse_what_another_asks() -> None:
    step = first_step("don't cancel order 1001, show me order 1001")
    assert step is not None
    assert (step.operation, step.tool) == ("order.get", "order_get")


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("cancle ordr 1001", "checkout.cancel"),
        ("plz canel purchase 1001", "checkout.cancel"),
        ("where is my oder 1001", "order.get"),
        ("wanna tlak to a humna", "handover.request"),
        ("CANCEL ORDER 1001!!!", "checkout.cancel"),
        ("could you be so kind and tell me which paymnet methods you take", "help.payment_methods"),
    ],
)
def test_slips_and_manners_change_nothing(text: str, key: str) -> None:
    intent = understand(text, Context(), SHOPPER)
    assert intent.operation is not None
    assert intent.operation.key == key


_ID = "569908f6-c030-4b21-9315-8ce400721f84"


@pytest.mark.parametrize("thing", ["kettle", "oven glove"])
def test_what_an_order_holds_may_be_called_anything(thing: str) -> None:
    intent = understand(f"I want to return the {thing} of order 1001", Context(), SHOPPER)
    assert intent.operation is not None
    assert intent.operation.key == "return.request"


@pytest.mark.parametrize(
    "text",
    ["I lost my card, how do I report it", "my card never arrived"],
)
def test_what_needs_an_id_is_not_meant_by_what_names_none(text: str) -> None:
    assert understand(text, Context(), SHOPPER).operation is None


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("add payment methd pm_0AbCdE to my account", "method.add"),
        ("any returns for order 1009 yet?", "return.list_for_order"),
        ("what is left on my gift cards", "credit.balance"),
        ("can i still get out of order 1004", "checkout.cancel"),
        ("i want to send everything in order 1002 back", "return.request"),
    ],
)
def test_what_is_said_in_other_words_is_understood(text: str, key: str) -> None:
    intent = understand(text, Context(), SHOPPER)
    assert intent.operation is not None
    assert intent.operation.key == key


def test_another_first_letter_is_another_word() -> None:
    assert index().speller.mend("kettle") == "kettle"
    assert index().speller.mend("a eprson") == "a person"


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("refund order 1003 because it arrived broken", "refund.request"),
        ("refunds of order 1003", "refund.list_for_order"),
        ("Any exchanges for my order 1026?", "exchange.list_for_order"),
        # What takes a deed back is not meant by words that ask for it.
        ("mark 1003 delivered", "order.deliver"),
        ("1003 was not delivered after all", "order.undeliver"),
        ("we counted 18 of MUG-1", "stock_count.record"),
        # What could be said elsewhere too is about us if all the rest is.
        (f"please disable giftcard {_ID}, we suspect fraud", "credit.deactivate"),
        # An id is not what somebody would.
        (f"withdraw the return with id {_ID}", "return.cancel"),
        (
            "order 1036 should go to my office: Mia Vries, Singel 101, 3012 AG Rotterdam, NL",
            "order_edit.modify_address",
        ),
    ],
)
def test_what_is_meant_is_told_by_form_and_by_all_the_words(text: str, key: str) -> None:
    intent = understand(text, Context(), STAFF)
    assert intent.operation is not None
    assert intent.operation.key == key


@pytest.mark.parametrize(
    ("said", "mode", "core"),
    [
        ("could you help me to cancel my order please", Mode.HELP, "cancel my order"),
        ("how do i cancel my order", Mode.HOW, "cancel my order"),
        ("i want to cancel my order, how do i do it?", Mode.HOW, "cancel my order"),
        ("is it possible to cancel my order", Mode.ABILITY, "cancel my order"),
        ("i am not able to cancel my order", Mode.TROUBLE, "cancel my order"),
        ("please cancel my order", Mode.REQUEST, "cancel my order"),
    ],
)
def test_the_wrapping_is_taken_off(said: str, mode: Mode, core: str) -> None:
    frame = frame_of(said)
    assert (frame.mode, frame.core) == (mode, core)


@pytest.mark.parametrize("key", sorted(OPERATIONS))
def test_every_operation_is_reached_by_most_of_its_own_examples(key: str) -> None:
    operation = OPERATIONS[key]
    values = {
        "number": "1001", "quantity": "2", "sku": "MUG-1", "handle_or_sku": "MUG-1", "days": "7",
        "new_sku": "MUG-2", "delta": "5", "location": "HAM", "email": "ada@example.com",
        "reason": "it broke", "at": "2026-01-20", "query": "brass lamp", "name": "Ada King",
        "amount": "EUR 12.50", "token": "pm_0AbCdE",
        "max_price_amount": "EUR 40", "status": "placed", "note": "sent a new one", "case": "3",
        "line1": "12 Quay Street", "postal_code": "20457", "city": "Hamburg", "country_code": "DE",
        "shipping_method": "express", "country": "Norway",
        "address": "Ada Lovelace, 12 Quay Street, 20457 Hamburg, DE",
    }  # fmt: skip
    said = [example.format_map(_Default(values)) for example in operation.examples]
    reached = sum(_operation(text) == key for text in said)
    assert reached * 2 >= len(said), [(text, _operation(text)) for text in said]


class _Default(dict[str, Any]):
    def __missing__(self, key: str) -> str:
        return str(UUID(int=7)) if key.endswith("_id") else "X1"


def _operation(text: str) -> str | None:
    found = understand(text, Context(), STAFF).operation
    return found.key if found else None


CONVERSATION = (
    "do you have a mug?", "add two of the first one to my cart", "how do I check out?", "no",
    "what's in my cart and do you ship to Norway?", "which payment methods do you accept",
)  # fmt: skip


async def test_the_same_words_make_the_same_transcript(customer: Deps) -> None:
    await factories.product(customer, "MUG-1", title="Stoneware mug")
    other = await factories.user(customer)
    transcripts = []
    for deps in (customer, other):
        talk = Talk(deps)
        transcripts.append([(await talk.say(text)).text for text in CONVERSATION])
    assert transcripts[0] == transcripts[1]
    assert all(transcripts[0])


async def test_several_wishes_are_served_in_turn(customer: Deps) -> None:
    await factories.product(customer, "MUG-1", title="Stoneware mug")
    reply = await Talk(customer).say("add MUG-1 to my cart and tell me how much shipping is")
    assert reply.tools == ["cart_add_item", "help_delivery"]
    assert [r["domain"] for r in reply.of("route")] == ["order", "support"]


async def test_a_question_is_answered_and_then_done(customer: Deps) -> None:
    await factories.product(customer, "MUG-1", title="Stoneware mug")
    placed = await factories.placed_order(customer, **{"MUG-1": 1})
    talk = Talk(customer)
    offered = await talk.say(f"how do I cancel order {placed.number}?")
    assert not offered.tools
    assert offered.text.endswith("Shall I?")
    asked = await talk.say("yes please")
    assert "Why?" in asked.text
    proposed = await talk.say("ordered twice")
    assert proposed.of("approval")[0]["operation"] == "checkout.cancel"
    async with customer.begin() as uow:
        assert (await orders.get(uow, placed.number)).status == "placed"


async def test_no_is_an_answer(customer: Deps) -> None:
    talk = Talk(customer)
    await talk.say("how do I cancel order 1001?")
    assert not (await talk.say("no, leave it")).tools


async def test_the_same_for_another_product(customer: Deps) -> None:
    await factories.product(customer, "MUG-1", title="Stoneware mug")
    await factories.product(customer, "BOWL-1", title="Enamel bowl")
    talk = Talk(customer)
    await talk.say("add 2 MUG-1 to my cart")
    again = await talk.say("same for BOWL-1")
    (card,) = again.of("card")
    assert {line["sku"]: line["quantity"] for line in card["data"]["lines"]} == {
        "MUG-1": 2,
        "BOWL-1": 2,
    }


async def test_another_thing_too(customer: Deps) -> None:
    await factories.product(customer, "MUG-1", title="Stoneware mug")
    await factories.product(customer, "LAMP-1", title="Brass lamp")
    talk = Talk(customer)
    await talk.say("add 2 MUG-1 to my cart")
    again = await talk.say("and a lamp too please")
    *_, card = again.of("card")
    assert {line["sku"]: line["quantity"] for line in card["data"]["lines"]} == {
        "MUG-1": 2,
        "LAMP-1": 1,
    }


async def test_a_guest_who_asks_for_a_person_is_asked_for_an_email(guest: Deps) -> None:
    talk = Talk(guest)
    asked = await talk.say("I want to talk to a human")
    assert "email" in asked.text
    done = await talk.say("ada@example.com")
    assert done.tools == ["handover_request"]
    assert "ada@example.com" in done.text


async def test_a_shopper_does_not_reach_what_only_staff_may(customer: Deps) -> None:
    reply = await Talk(customer).say("show the ledger balances")
    assert not reply.tools
    assert "not permitted" in reply.text


async def test_a_return_takes_its_lines_from_the_order(customer: Deps, merchant: Deps) -> None:
    await factories.product(customer, "MUG-1", title="Stoneware mug")
    await factories.product(customer, "BOWL-1", title="Enamel bowl")
    placed = await factories.placed_order(customer, **{"MUG-1": 2, "BOWL-1": 1})
    await _deliver(merchant, placed.number)
    reply = await Talk(customer).say(f"send back order {placed.number}")
    assert reply.tools == ["order_get", "return_request"], reply.text
    (approval,) = reply.of("approval")
    lines = {line["sku"]: line["quantity"] for line in approval["preview"]["lines"]}
    assert lines == {"MUG-1": 2, "BOWL-1": 1}


async def _deliver(merchant: Deps, number: int) -> None:
    async with merchant.begin() as uow:
        await fulfillment.ship(uow, number)
    async with merchant.begin() as uow:
        await fulfillment.deliver(uow, number)


async def test_a_bare_number_answers_in_whole_units_of_the_shops_money(merchant: Deps) -> None:
    talk = Talk(merchant)
    await talk.say("issue a gift card")
    asked = await talk.say("yes")
    assert asked.text == "How much, in EUR?"
    again = await talk.say("20 dollars")
    assert again.text == "How much, in EUR?"
    (approval,) = (await talk.say("20")).of("approval")
    assert approval["preview"]["amount"] == 2000


async def test_the_history_of_credit_is_told_with_its_money(customer: Deps, merchant: Deps) -> None:
    async with customer.begin() as uow:
        email = (await users.me(uow)).email
    async with merchant.begin() as uow:
        await credit_desk.grant(uow, email, 1250, "a late parcel")
    reply = await Talk(customer).say("show the history of my store credit")
    assert reply.tools == ["credit_history"]
    assert reply.text == "Newest first: 2026-01-30 EUR 12.50 added (a late parcel)."
