"""The log of events: followed, listed, and replayed by administrators, as often as is asked."""

import asyncio
from collections import Counter

import pytest
from sqlalchemy import text

from db.types import new_id
from deps.core import SYSTEM, Deps
from tests.tools.effects import Effects, announce, counted, make_table, once
from tools import event_log
from tools.errors import Forbidden, NotFound


@pytest.fixture
async def system(deps: Deps) -> Deps:
    await make_table(deps)
    return deps.acting_as(SYSTEM)


@pytest.fixture
def effects() -> Effects:
    return Effects()


async def test_replay_fills_gaps_and_repeats_only_when_forced(
    system: Deps, effects: Effects
) -> None:
    await announce(system, 1, 2, 3)

    assert (await event_log.replay(system, from_seq=2, handlers=effects.handlers)).applied == 4
    assert await counted(system) == once(2, 3)
    assert (await event_log.replay(system, handlers=effects.handlers)).applied == 2
    forced = await event_log.replay(
        system, from_seq=1, to_seq=2, handler="letters.post", force=True, handlers=effects.handlers
    )

    assert forced.applied == 2
    again = Counter({("letters.post", 1): 1, ("letters.post", 2): 1})
    assert await counted(system) == once(1, 2, 3) + again
    with pytest.raises(NotFound):
        await event_log.replay(system, handler="nobody.here", handlers=effects.handlers)
    with pytest.raises(NotFound):
        await event_log.replay(system, event_id=new_id(), handlers=effects.handlers)


async def test_only_administrators_replay(deps: Deps, merchant: Deps) -> None:
    with pytest.raises(Forbidden):
        await event_log.replay(merchant)
    with pytest.raises(Forbidden):
        await event_log.replay_dead(merchant, new_id())
    async with deps.begin() as uow:
        with pytest.raises(Forbidden):
            await event_log.list_events(uow)


async def test_tail_yields_what_is_committed(system: Deps) -> None:
    await announce(system, 1, 2, 3)
    events = event_log.tail(system, after_seq=1)

    seen = [(await anext(events)).payload["number"] for _ in range(2)]
    await events.aclose()

    assert seen == [2, 3]


async def test_tail_begins_with_what_comes_next_and_waits_for_it(
    system: Deps, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(event_log, "TAIL_POLL_S", 0.01)
    await announce(system, 1)
    events = event_log.tail(system)
    coming = asyncio.ensure_future(anext(events))
    await asyncio.sleep(0.1)
    assert not coming.done()
    await announce(system, 2)
    async with asyncio.timeout(60):
        assert (await coming).payload["number"] == 2
    await events.aclose()


async def test_events_are_listed_by_type_and_by_what_they_are_about(system: Deps) -> None:
    await announce(system, 1, 2)
    async with system.begin() as uow:
        await uow.session.execute(text("UPDATE outbox SET type = 'OrderCancelled' WHERE seq = 2"))
        first, second = await event_log.list_events(uow)
        of_type = await event_log.list_events(uow, type="OrderCancelled")
        about = await event_log.list_events(uow, aggregate_id=first.aggregate_id)
    assert of_type == [second]
    assert about == [first]


async def test_replay_goes_on_past_what_is_unreadable_and_past_one_batch(
    system: Deps, effects: Effects, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(event_log, "REPLAY_BATCH", 2)
    await announce(system, *range(1, 6))
    async with system.begin() as uow:
        await uow.session.execute(text("UPDATE outbox SET payload = '{}' WHERE seq = 2"))
    effects.poison = {4}
    report = await event_log.replay(system, handlers=effects.handlers)
    assert (report.applied, report.failed, report.given_up) == (7, 1, 1)
    assert await counted(system) == once(1, 3, 4, 5) - Counter({("ledger.note", 4): 1})
