"""Turn by turn: what an answer, a correction or a pronoun means after what was said before."""

import pytest
from pydantic_ai import Agent, ModelRetry

from agents import domains as _domains  # noqa: F401  Registers every operation.
from agents.planner import Planner
from db.models.user import Role
from deps.core import ROLE_SCOPES, Deps
from tests import factories
from tests.agents.talk import Talk
from tools.registry import OPERATIONS

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
