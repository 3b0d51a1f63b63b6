"""Turn by turn: what an answer, a correction or a pronoun means after what was said before."""

import pytest
from pydantic_ai import Agent, ModelRetry

from agents import domains as _domains  # noqa: F401  Registers every operation.
from agents.planner import Planner
from db.models.user import Role
from deps.core import ROLE_SCOPES, Deps
from tests import factories
from tests.agents.talk import Talk
from tools import promotion
from tools import transfer as transfers
from tools.registry import OPERATIONS
from tools.transfer import TransferUnits

STAFF = frozenset(k for k, op in OPERATIONS.items() if op.scope in ROLE_SCOPES[Role.MERCHANT])


async def test_words_that_were_sent_back_are_not_the_persons() -> None:
    agent = Agent(Planner(STAFF, "EUR"), output_type=str, retries=2)
    sent_back: list[str] = []

    @agent.output_validator
    async def refuse_once(reply: str) -> str:
        if not sent_back:
            sent_back.append(reply)
            raise ModelRetry("Nothing is known of order #1001: cancel nothing.")
        return reply

    result = await agent.run("cancel an order please")
    assert sent_back == ["Which order do you mean? Tell me its number."]
    assert result.output == "I can not answer that reliably. Please ask in other words."


@pytest.mark.parametrize("answer", ["kettle", "zinc"])
async def test_a_word_that_is_like_nothing_is_an_answer(guest: Deps, answer: str) -> None:
    await factories.product(guest, "KETTLE-1", title="Zinc kettle")
    talk = Talk(guest)
    assert (await talk.say("add to cart")).text.startswith("Which product")
    (card,) = (await talk.say(answer)).of("card")[-1:]
    assert [line["sku"] for line in card["data"]["lines"]] == ["KETTLE-1"]


async def orders_of(deps: Deps, count: int) -> list[int]:
    await factories.product(deps, "MUG-1", title="Stoneware mug")
    return [(await factories.placed_order(deps, **{"MUG-1": 2})).number for _ in range(count)]


async def test_a_correction_is_no_reason(customer: Deps) -> None:
    first, second = await orders_of(customer, 2)
    talk = Talk(customer)
    await talk.say(f"cancel order {first}")
    asked = await talk.say(f"sorry, I meant {second}")
    assert not asked.tools
    assert asked.text == f"Order #{second}. Why? I keep the reason with it."
    (approval,) = (await talk.say("it came too late")).of("approval")
    assert f"number: {second}, reason: it came too late" in approval["summary"]


@pytest.mark.parametrize("reason", ["sorry, it was a mistake", "the customer asked for it"])
async def test_a_reason_may_be_told_in_any_words(customer: Deps, reason: str) -> None:
    (number,) = await orders_of(customer, 1)
    talk = Talk(customer)
    await talk.say(f"cancel order {number}")
    (approval,) = (await talk.say(reason)).of("approval")
    assert f"reason: {reason}" in approval["summary"]


async def test_a_question_is_no_reason(customer: Deps) -> None:
    (number,) = await orders_of(customer, 1)
    talk = Talk(customer)
    await talk.say(f"cancel order {number}")
    reply = await talk.say("has it been shipped yet?")
    assert not reply.of("approval")


@pytest.mark.parametrize("part", ["half of", "a part of the money of"])
async def test_a_part_that_is_not_understood_is_never_all(
    customer: Deps, merchant: Deps, part: str
) -> None:
    (number,) = await orders_of(customer, 1)
    talk = Talk(merchant)
    asked = await talk.say(f"refund {part} order {number} because it has a chip")
    if asked.text.startswith("Do you want me to give money"):
        asked = await talk.say("yes")
    assert asked.text == "How much, in EUR?"
    assert (await talk.say("half")).text == "How much, in EUR?"
    (approval,) = (await talk.say("10")).of("approval")
    assert approval["preview"]["refund_amount"] == 1000


async def test_a_number_alone_keeps_the_direction(merchant: Deps) -> None:
    await factories.product(merchant, "MUG-1", title="Stoneware mug")
    talk = Talk(merchant)
    await talk.say("write off broken units of MUG-1 at HAM")
    for answer in ("yes", "2", "they fell"):
        reply = await talk.say(answer)
    (call,) = [t for t in reply.of("tool") if t["status"] == "running"]
    assert call["arguments"]["delta"] == -2


async def test_an_address_goes_to_the_order_it_was_asked_for(customer: Deps) -> None:
    (number,) = await orders_of(customer, 1)
    talk = Talk(customer)
    await talk.say(f"change the delivery address of my order {number}")
    lines = ("Ada Lovelace, Lange Reihe 5, 20099 Hamburg, Germany", "yes")
    (approval,) = [card for line in lines for card in (await talk.say(line)).of("approval")]
    assert approval["operation"] == "order_edit.modify_address"
    assert f"number: {number}, address: Ada Lovelace Lange Reihe 5" in approval["summary"]


async def test_how_an_order_stands_is_asked_by_pointing_at_it(customer: Deps) -> None:
    first, second = await orders_of(customer, 2)
    talk = Talk(customer)
    await talk.say("show my orders")
    assert f"#{first}" in (await talk.say("where is the second one?")).text
    assert f"#{second}" in (await talk.say("and has the other one been shipped?")).text
    assert f"#{second}" in (await talk.say("when will it arrive?")).text


async def planned(deps: Deps, note: str) -> None:
    async with deps.begin() as uow:
        lines = [TransferUnits(sku="MUG-1", quantity=1)]
        await transfers.create(uow, "HAM", "ROT", lines, note)


async def test_what_has_an_id_is_looked_up_and_asked_for_if_there_are_several(
    merchant: Deps,
) -> None:
    await factories.product(merchant, "MUG-1", title="Stoneware mug")
    await factories.receive(merchant, "MUG-1", 1, "ROT")
    assert (await Talk(merchant).say("ship the transfer")).text == (
        "There is no transfer to do that with."
    )
    await planned(merchant, "for the fair")
    reply = await Talk(merchant).say("ship the transfer")
    assert reply.tools[:2] == ["transfer_show", "transfer_ship"]
    await planned(merchant, "for the window")
    await planned(merchant, "for the shelf")
    talk = Talk(merchant)
    asked = await talk.say("ship the transfer")
    assert asked.tools == ["transfer_show"]
    assert asked.text.startswith("Which transfer? 1. ")
    assert (await talk.say("the second one")).tools[0] == "transfer_ship"


async def test_to_point_at_what_was_asked_about_puts_nothing_into_the_cart(guest: Deps) -> None:
    for sku, title in (("TRAY-1", "Oak tray"), ("TRAY-2", "Cork tray")):
        await factories.product(guest, sku, title=title)
    talk = Talk(guest)
    asked = await talk.say("is the tray dishwasher safe?")
    assert asked.text.startswith("Which one do you mean?")
    told = await talk.say("the second one")
    assert told.tools == ["product_get"]


async def test_an_offer_is_repeated_before_it_is_approved(merchant: Deps) -> None:
    talk = Talk(merchant)
    said = await talk.say(
        "make a coupon FIVER: 5 euro off orders over 50 euro, for 100 uses until 2030-01-31"
    )
    assert "(code: FIVER, amount: EUR 5.00, minimum: EUR 50.00, uses max: 100, ends at: " in (
        said.text
    )
    deep = await talk.say("create the discount code DEEP with 80 percent off")
    assert deep.text.startswith("That did not work: DEEP would take up to 80 % off")
    async with merchant.begin() as uow:
        assert (await promotion.list_codes(uow)).items == []


async def test_a_code_is_read_beside_its_word_and_told_with_what_it_takes_off(
    guest: Deps, merchant: Deps
) -> None:
    await factories.product(guest, "LAMP", title="Brass desk lamp", price=1250)
    await factories.discount(merchant, "HELLO10")
    talk = Talk(guest)
    await talk.say("put 2 of LAMP in my cart")
    used = await talk.say("my promo code is hello10")
    assert "EUR 2.50 off by HELLO10" in used.text
    off = await talk.say("take the coupon off")
    assert off.text.startswith("Taken off. ")
    assert "HELLO10" not in off.text
    unknown = await talk.say("use the coupon HELLO99")
    assert unknown.text == "That did not work: There is no such discount code."


@pytest.mark.parametrize("email", ["my email is ada@example.com", "ada@example.com"])
async def test_what_a_cart_needs_is_said_piece_by_piece(guest: Deps, email: str) -> None:
    await factories.product(guest, "MUG-1", title="Stoneware mug", price=1_000, stock=5)
    talk = Talk(guest)
    await talk.say("add 2 MUG-1")
    for said, still in (
        (email, "The delivery address is missing."),
        ("ship it to Ada Lovelace, 12 Quay Street, 20457 Hamburg, DE", "Everything is there"),
        ("express please", "EUR 9.90 of it for shipping"),
        ("pickup instead", "Total EUR 20.00. Everything is there"),
    ):
        reply = await talk.say(said)
        assert reply.tools == ["cart_deliver_to"]
        assert still in reply.text
    (approval,) = (await talk.say("buy it")).of("approval")
    assert approval["preview"]["charge_amount"] == 2_000
    bought = approval["preview"]
    assert (bought["email"], bought["shipping_method"]) == ("ada@example.com", "pickup")
    assert bought["shipping_address"]["line1"] == "12 Quay Street"


async def test_an_address_in_pieces_is_asked_for_until_it_is_whole(guest: Deps) -> None:
    await factories.product(guest, "MUG-1", title="Stoneware mug", stock=5)
    talk = Talk(guest)
    await talk.say("add 2 MUG-1")
    answers = ("add a delivery address", "Ada Lovelace", "12 Quay Street", "20457 Hamburg", "DE")
    told = [(await talk.say(answer)).text for answer in answers]
    assert told[:4] == [
        "Which name?",
        "Which street and number?",
        "Which postal code and city?",
        "Which country? Two letters, such as DE.",
    ]
    assert "An email address for the confirmation is missing." in told[4]
