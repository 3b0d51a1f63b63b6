"""A death at every place of a scenario, and what comes after each."""

import asyncio
from typing import Any

from sqlalchemy import text

from deps.core import Deps
from deps.scripted import ScriptedGateway
from tests import factories
from tests.crash.mortal import Task, Undertaker, as_json
from tools import capture, invariant, refund_process, sale

DEATHS_MAX = 80


async def die_everywhere(
    keeper: Undertaker, deps: Deps, scenario: str, prepare: Any, check: Any
) -> int:
    """Run `scenario` on something new with the death one place further each time, until it lives.

    After each, the sweepers come, and `check` looks at what is there. Return how many died.
    """
    gateway = deps.gateway
    assert isinstance(gateway, ScriptedGateway)
    for dies_at in range(1, DEATHS_MAX):
        arguments = await prepare()
        task = Task(
            database_url=deps.db.kw["bind"].url.render_as_string(hide_password=False),
            provider_file=str(gateway.file),
            scenario=scenario,
            arguments=arguments,
            actor=as_json(deps.actor),
            dies_at=dies_at,
        )
        survived = await asyncio.to_thread(keeper.run, task)
        await sweep(deps)
        assert await invariant.check(deps) == [], f"after dying at place {dies_at}"
        await check(arguments)
        if survived:
            return dies_at - 1
    raise AssertionError(f"still dying after {DEATHS_MAX} places")


async def sweep(deps: Deps) -> None:
    """What the worker does at its leisure, some time later."""
    later = factories.later(deps, minutes=3)
    await sale.resume_stuck(later)
    await capture.resume_stuck(later)
    await refund_process.resume_stuck(later)


async def row_of(deps: Deps, query: str, **values: Any) -> Any:
    async with deps.begin() as uow:
        return (await uow.session.execute(text(query), values)).one()
