"""Budgets: what a conversation, a person and the shop may use, in rows that outlive a process."""

import asyncio
from dataclasses import replace
from uuid import uuid4

import pytest
from pydantic_ai.messages import ModelResponse, TextPart
from pydantic_ai.usage import RequestUsage, RunUsage

from agents import budget
from db.models.spend import AgentSpend
from deps.core import Deps
from tests import factories
from tests.agents.talk import Talk
from tools import spend
from tools.errors import TooManyRequests
from tools.spend import SHOP, Spent


def _limited(deps: Deps, **limits: int) -> Deps:
    return replace(deps, settings=deps.settings.model_copy(update=limits))


async def spent(deps: Deps, spender: str | None = None) -> AgentSpend:
    async with deps.begin() as uow:
        who = spender or str(deps.actor.key)
        return await uow.session.get_one(AgentSpend, (who, uow.now.date()))


async def test_a_person_has_so_many_turns_a_day(customer: Deps) -> None:
    few = _limited(customer, person_daily_turns_max=2)
    talk = Talk(few)
    await talk.say("hello")
    await talk.say("hello")
    with pytest.raises(TooManyRequests):
        await talk.say("hello")
    with pytest.raises(TooManyRequests):  # Another conversation, as in another process.
        await Talk(few).say("hello")
    await Talk(factories.later(few, days=1)).say("hello")


async def test_the_cap_holds_when_turns_start_at_once(customer: Deps) -> None:
    few = _limited(customer, person_daily_turns_max=3)
    taken = await asyncio.gather(*(spend.take(few) for _ in range(10)), return_exceptions=True)
    assert sum(result is None for result in taken) == 3
    assert (await spent(few)).requests == 3


async def test_the_shop_has_a_cap_over_everybody(deps: Deps, customer: Deps) -> None:
    other = await factories.user(deps)
    await spend.take(_limited(customer, shop_daily_turns_max=1))
    with pytest.raises(TooManyRequests):
        await spend.take(_limited(other, shop_daily_turns_max=1))


@pytest.mark.parametrize("used", [Spent(0, 100, 0), Spent(0, 0, 100)])
async def test_tokens_and_cost_count_too(customer: Deps, used: Spent) -> None:
    small = _limited(customer, person_daily_tokens_max=100, person_daily_cost_micros_max=100)
    await spend.take(small)
    await spend.add(small, used)
    assert (await spent(small, SHOP)).tokens == used.tokens
    with pytest.raises(TooManyRequests):
        await spend.take(small)


@pytest.mark.parametrize(
    "used",
    [
        RunUsage(requests=budget.CONVERSATION_REQUESTS_MAX),
        RunUsage(input_tokens=budget.CONVERSATION_TOKENS_MAX),
        RunUsage(details={budget.COST: budget.CONVERSATION_COST_MICROS_MAX}),
    ],
)
def test_a_conversation_ends_when_its_budget_does(used: RunUsage) -> None:
    with pytest.raises(TooManyRequests):
        budget.limits(used)


def test_a_new_turn_does_not_reset_the_budget() -> None:
    used = RunUsage(requests=budget.CONVERSATION_REQUESTS_MAX - 1)
    assert budget.limits(used).request_limit == budget.CONVERSATION_REQUESTS_MAX


def test_an_unknown_model_is_counted_as_a_dear_one() -> None:
    usage = RequestUsage(input_tokens=900, output_tokens=100)
    unknown = ModelResponse([TextPart("x")], usage=usage, model_name=f"made-up-{uuid4()}")
    assert budget.cost_micros([unknown]) == 1000 * budget.UNKNOWN_MICROS_PER_TOKEN
    offline = ModelResponse([TextPart("x")], usage=usage, model_name=budget.OFFLINE)
    assert budget.cost_micros([offline]) == 0


def test_a_known_model_costs_what_its_provider_asks() -> None:
    usage = RequestUsage(input_tokens=1_000_000, output_tokens=0)
    known = ModelResponse(
        [TextPart("x")], usage=usage, model_name="gpt-4o-mini", provider_name="openai"
    )
    assert budget.cost_micros([known]) == 150_000
