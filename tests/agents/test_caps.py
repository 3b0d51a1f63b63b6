"""Second approvers and daily limits: what staff may not do alone, or at all, by way of agents."""

import asyncio
from dataclasses import replace
from uuid import UUID

import pytest

from agents.base import call_operation
from db.models.conversation import ActionStatus, Approver
from db.models.user import Role
from deps.core import Deps
from tests import factories
from tools import action
from tools.errors import Forbidden, LimitReached, NotFound
from tools.registry import OPERATIONS
from tools.surface import load_operations

load_operations()


def limited(deps: Deps, **settings: int) -> Deps:
    return replace(deps, settings=deps.settings.model_copy(update=settings))


async def ask(deps: Deps, number: int, amount: int) -> UUID:
    given = {"number": number, "amount": amount, "reason": "chipped"}
    answer = await call_operation(deps, OPERATIONS["refund.request"], given)
    return UUID(answer["data"]["id"])


@pytest.fixture
async def number(deps: Deps, customer: Deps) -> int:
    await factories.product(deps, "MUG", price=10_000, stock=50)
    return (await factories.placed_order(customer, MUG=5)).number


async def test_a_large_action_needs_a_colleague(
    deps: Deps, customer: Deps, merchant: Deps, number: int
) -> None:
    asker = limited(merchant, agent_second_approver_amount=1000)
    colleague = limited(await factories.user(deps, role=Role.MERCHANT), **{})
    waiting = await ask(asker, number, 1001)
    async with asker.begin() as uow:
        assert (await action.get(uow, waiting)).approver is Approver.OTHER
        assert waiting not in [shown.id for shown in await action.waiting(uow)]
    with pytest.raises(Forbidden):
        await action.approve(asker, waiting)
    for outsider in (customer, deps, factories.guest(deps)):
        with pytest.raises(NotFound):
            await action.approve(outsider, waiting)
    async with colleague.begin() as uow:
        assert waiting in [shown.id for shown in await action.waiting(uow)]
    assert (await action.approve(colleague, waiting)).status is ActionStatus.EXECUTED


async def test_many_small_refunds_do_not_pass_what_one_may_not(
    customer: Deps, merchant: Deps, number: int
) -> None:
    """Of six orders, so that no refund changes what another one's card showed."""
    asker = limited(merchant, agent_refunds_per_person_amount=1000)
    numbers = [(await factories.placed_order(customer, MUG=1)).number for _ in range(6)]
    waiting = [await ask(asker, each, 300) for each in numbers]
    outcomes = await asyncio.gather(
        *(action.approve(asker, each) for each in waiting), return_exceptions=True
    )
    refused = [outcome for outcome in outcomes if isinstance(outcome, BaseException)]
    assert len(refused) == 3
    assert all(isinstance(outcome, Forbidden) for outcome in refused)


async def test_the_shops_limit_holds_for_everybody_until_a_day_has_passed(
    deps: Deps, merchant: Deps, number: int
) -> None:
    limits = {"agent_refunds_per_shop_amount": 1000}
    asker = limited(merchant, **limits)
    first, second = await ask(asker, number, 800), await ask(asker, number, 300)
    await action.approve(asker, first)
    colleague = limited(await factories.user(deps, role=Role.MERCHANT), **limits)
    for person in (asker, colleague):
        with pytest.raises(LimitReached):
            await action.approve(person, second)
    tomorrow = factories.later(asker, hours=24, seconds=1)
    third = await ask(tomorrow, number, 300)
    assert (await action.approve(tomorrow, third)).status is ActionStatus.EXECUTED
