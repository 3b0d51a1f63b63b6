"""Turns: one at a time, carried to their end, followed from anywhere, and never doubled or lost."""

import asyncio
import sys
from collections.abc import AsyncGenerator
from contextlib import suppress
from dataclasses import replace
from uuid import UUID

import pytest
from redis.asyncio import Redis

from agents.runner import Runner
from db.models.chat import TurnState
from db.types import new_id
from deps.cache import Cache
from deps.core import Deps
from tests import factories
from tests.agents.slow_model import Tap, saying
from tools import conversation as conversations
from tools import transcript
from tools import turn as turns
from tools.errors import (
    Conflict,
    InvalidInput,
    NotFound,
    TooManyRequests,
    TurnRunning,
    Unavailable,
)
from tools.transcript import TurnView
from tools.turn import Event

WORDS = ["You ", "will ", "like ", "our ", "mugs."]
SOON_S = 60.0


@pytest.fixture
async def runner(deps: Deps) -> AsyncGenerator[Runner, None]:
    made = Runner(deps)
    yield made
    await made.aclose()


@pytest.fixture
async def elsewhere(deps: Deps) -> AsyncGenerator[Runner, None]:
    """The runner of another process: it shares the database and Redis, and no memory."""
    made = Runner(deps)
    yield made
    await made.aclose()


async def read(
    runner: Runner, deps: Deps, conversation_id: UUID, after: int = 0, until: str = "done"
) -> list[Event]:
    """Follow until the first event named `until`, and leave."""
    found = []
    async with asyncio.timeout(SOON_S):
        following = runner.follow(deps, conversation_id, after, is_live=True)
        async for event in following:
            if event is None:
                continue
            found.append(event)
            if event.name == until:
                await following.aclose()
                break
    return found


async def turns_of(deps: Deps, conversation_id: UUID) -> list[TurnView]:
    async with deps.begin() as uow:
        return await transcript.history(uow, conversation_id)


def spoken(events: list[Event]) -> str:
    return "".join(event.data["delta"] for event in events if event.name == "text")


def assert_unbroken(events: list[Event]) -> None:
    numbers = [event.number for event in events]
    assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))


async def test_leaving_stops_nothing_and_coming_back_loses_and_doubles_nothing(
    runner: Runner, elsewhere: Runner, guest: Deps
) -> None:
    tap = Tap()
    begun = await runner.start(guest, None, "hello", channel="sse", model=saying(WORDS, tap))
    tap.turn(2)
    first = await read(runner, guest, begun.conversation_id, until="text")
    for _ in range(2):
        there = await read(elsewhere, guest, begun.conversation_id, 0, until="text")
        assert [event.number for event in there][: len(first)] == [e.number for e in first]
    tap.open()
    for place in (runner, elsewhere):
        rest = await read(place, guest, begun.conversation_id, first[-1].number)
        assert_unbroken([*first, *rest])
        assert spoken([*first, *rest]) == "".join(WORDS)
    (turn,) = await turns_of(guest, begun.conversation_id)
    assert (turn.state, turn.asked, turn.reply) == (TurnState.DONE, "hello", "".join(WORDS))


async def test_a_turn_nobody_listens_to_is_finished_and_stored(runner: Runner, guest: Deps) -> None:
    begun = await runner.start(guest, None, "hello", channel="sse", model=saying(WORDS))
    events = await read(runner, guest, begun.conversation_id)
    assert [event.name for event in events][:2] == ["turn", "route"]
    assert events[-1].data["state"] == "done"
    (turn,) = await turns_of(guest, begun.conversation_id)
    assert turn.reply == "".join(WORDS)


async def test_two_tabs_cannot_answer_at_once(
    runner: Runner, elsewhere: Runner, guest: Deps
) -> None:
    async with guest.begin() as uow:
        conversation_id = (await conversations.start(uow, "tabs")).id
    tap = Tap()
    begun = await asyncio.gather(
        *(
            place.start(guest, conversation_id, f"say {i}", channel="sse", model=saying(WORDS, tap))
            for i, place in enumerate([runner, elsewhere] * 4)
        ),
        return_exceptions=True,
    )
    refused = [error for error in begun if isinstance(error, TurnRunning)]
    assert len(refused) == 7
    tap.open()
    events = await asyncio.gather(
        read(runner, guest, conversation_id), read(elsewhere, guest, conversation_id)
    )
    assert events[0] == events[1]
    assert len(await turns_of(guest, conversation_id)) == 1
    again = await elsewhere.start(
        guest, conversation_id, "next", channel="sse", model=saying(WORDS)
    )
    await read(elsewhere, guest, conversation_id, again.first_event)
    assert [t.number for t in await turns_of(guest, conversation_id)] == [1, 2]


@pytest.mark.parametrize("is_elsewhere", [False, True])
async def test_cancel_stops_it_and_keeps_what_was_said(
    runner: Runner, elsewhere: Runner, guest: Deps, is_elsewhere: bool
) -> None:
    tap = Tap()
    begun = await runner.start(guest, None, "hello", channel="sse", model=saying(WORDS, tap))
    tap.turn(2)
    await read(runner, guest, begun.conversation_id, until="text")
    place = elsewhere if is_elsewhere else runner
    assert await place.cancel(guest, begun.conversation_id) == begun.id
    events = await read(place, guest, begun.conversation_id)
    assert events[-1].data["state"] == "cancelled"
    (turn,) = await turns_of(guest, begun.conversation_id)
    assert turn.state is TurnState.CANCELLED
    assert turn.reply.startswith("You ")
    assert turn.reply.endswith("Stopped.")
    assert await place.cancel(guest, begun.conversation_id) is None
    after = await runner.start(
        guest, begun.conversation_id, "go on", channel="sse", model=saying(WORDS)
    )
    assert "hello" in str(after.state), "the agents know what was asked before"


async def test_the_same_turn_id_asks_nothing_twice(runner: Runner, guest: Deps) -> None:
    turn_id = new_id()
    model = saying(WORDS)
    first = await runner.start(guest, None, "hello", channel="sse", turn_id=turn_id, model=model)
    again = await runner.start(guest, None, "hello", channel="sse", turn_id=turn_id, model=model)
    assert again.is_repeat
    assert again.conversation_id == first.conversation_id
    await read(runner, guest, first.conversation_id)
    later = await runner.start(guest, None, "hello", channel="sse", turn_id=turn_id, model=model)
    assert later.is_repeat
    assert len(await turns_of(guest, first.conversation_id)) == 1
    with pytest.raises(Conflict, match="other words"):
        await runner.start(guest, None, "other", channel="sse", turn_id=turn_id, model=model)


async def test_strangers_find_nothing(runner: Runner, guest: Deps, customer: Deps) -> None:
    begun = await runner.start(guest, None, "hello", channel="sse", model=saying(WORDS))
    await read(runner, guest, begun.conversation_id)
    stranger = factories.guest(guest, "another-secret-0123456789abcdefghijklmn")
    for other in (stranger, customer):
        with pytest.raises(NotFound):
            await read(runner, other, begun.conversation_id)
        with pytest.raises(NotFound):
            await runner.cancel(other, begun.conversation_id)
        with pytest.raises(NotFound):
            await runner.start(other, begun.conversation_id, "hi", channel="sse")
        with pytest.raises(NotFound):
            await runner.start(other, None, "hello", channel="sse", turn_id=begun.id)
        with pytest.raises(NotFound):
            await turns_of(other, begun.conversation_id)


async def test_a_stranger_hears_nothing_of_a_turn_that_runs(runner: Runner, guest: Deps) -> None:
    tap = Tap()
    begun = await runner.start(guest, None, "hello", channel="sse", model=saying(WORDS, tap))
    stranger = factories.guest(guest, "another-secret-0123456789abcdefghijklmn")
    with pytest.raises(NotFound):
        await read(runner, stranger, begun.conversation_id)
    tap.open()
    events = await read(runner, guest, begun.conversation_id)
    assert events[0].data["text"] == "hello"


async def test_nobody_may_run_everything(runner: Runner, guest: Deps) -> None:
    tap = Tap()
    for _ in range(turns.RUNNING_PER_OWNER_MAX):
        await runner.start(guest, None, "hello", channel="sse", model=saying(WORDS, tap))
    with pytest.raises(TooManyRequests):
        await runner.start(guest, None, "hello", channel="sse", model=saying(WORDS, tap))
    tap.open()


@pytest.mark.parametrize("said", ["", "   ", "x" * 4001])
async def test_what_cannot_be_said(runner: Runner, guest: Deps, said: str) -> None:
    with pytest.raises(InvalidInput):
        await runner.start(guest, None, said, channel="sse", model=saying(WORDS))


async def test_a_bug_ends_the_turn_and_says_so(runner: Runner, guest: Deps) -> None:
    def boom() -> str:
        raise RuntimeError("a bug")

    class Broken(list[str]):
        def __iter__(self):  # type: ignore[no-untyped-def]
            boom()

    begun = await runner.start(guest, None, "hello", channel="sse", model=saying(Broken(WORDS)))
    events = await read(runner, guest, begun.conversation_id)
    assert [event.name for event in events][-2:] == ["error", "done"]
    assert "a bug" not in str(events)
    (turn,) = await turns_of(guest, begun.conversation_id)
    assert turn.state is TurnState.FAILED


async def test_old_events_are_dropped_and_a_late_client_is_told(
    runner: Runner, guest: Deps
) -> None:
    conversation_id = None
    for i in range(turns.TURNS_WITH_EVENTS + 3):
        begun = await runner.start(
            guest, conversation_id, f"hello {i}", channel="sse", model=saying(WORDS)
        )
        conversation_id = begun.conversation_id
        events = await read(runner, guest, conversation_id, begun.first_event - 1)
        assert_unbroken(events)
    assert conversation_id is not None
    late = await read(runner, guest, conversation_id, 1)
    assert late[0].name == "reset"
    assert len(await turns_of(guest, conversation_id)) == turns.TURNS_WITH_EVENTS + 3
    assert (await read(runner, guest, conversation_id, events[0].number))[0].name != "reset"


async def test_what_the_shop_says_meanwhile_is_neither_lost_nor_doubled(
    runner: Runner, guest: Deps
) -> None:
    tap = Tap()
    begun = await runner.start(guest, None, "hello", channel="sse", model=saying(WORDS, tap))
    tap.turn(2)
    await read(runner, guest, begun.conversation_id, until="text")
    note = {"role": "assistant", "text": "Approved.", "cards": []}
    async with guest.begin() as uow:
        await conversations.append(uow, begun.conversation_id, [note])
    tap.open()
    events = await read(runner, guest, begun.conversation_id)
    assert_unbroken(events)
    assert [event.name for event in events].count("note") == 1
    assert spoken(events) == "".join(WORDS)
    assert [turn.reply for turn in await turns_of(guest, begun.conversation_id)] == [
        "".join(WORDS),
        "Approved.",
    ]


async def test_a_deleted_conversation_ends_quietly(runner: Runner, guest: Deps) -> None:
    tap = Tap()
    begun = await runner.start(guest, None, "hello", channel="sse", model=saying(WORDS, tap))
    await tap.asked.wait()
    async with guest.begin() as uow:
        await conversations.delete(uow, begun.conversation_id)
    tap.open()
    with pytest.raises(NotFound):
        await read(runner, guest, begun.conversation_id)


async def test_without_redis_it_is_only_slower(deps: Deps, guest: Deps) -> None:
    lonely = replace(deps, cache=Cache(None))
    runner, elsewhere = Runner(lonely), Runner(lonely)
    tap = Tap()
    begun = await runner.start(guest, None, "hello", channel="sse", model=saying(WORDS, tap))
    following = asyncio.create_task(read(elsewhere, guest, begun.conversation_id))
    await tap.asked.wait()
    tap.open()
    assert spoken(await following) == "".join(WORDS)
    for made in (runner, elsewhere):
        await made.aclose()


async def test_stopping_the_process_marks_its_turns(runner: Runner, deps: Deps) -> None:
    guest = factories.guest(deps)
    stopping, tap = Runner(deps), Tap()
    begun = await stopping.start(guest, None, "hello", channel="sse", model=saying(WORDS, tap))
    await tap.asked.wait()
    await stopping.aclose()
    events = await read(runner, guest, begun.conversation_id)
    assert events[-1].data["state"] == "interrupted"


async def test_a_killed_process_leaves_its_turn_interrupted_at_the_next_read(
    database_url: str, redis: Redis, valkey: object, runner: Runner, guest: Deps
) -> None:
    doomed = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.agents.doomed_runner",
        database_url, str(getattr(valkey, "url", "")), factories.GUEST_TOKEN,
        stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert doomed.stdout is not None
    try:
        async with asyncio.timeout(60):
            conversation_id = UUID((await doomed.stdout.readline()).decode().strip())
        with pytest.raises(TurnRunning):
            await runner.start(guest, conversation_id, "and?", channel="sse", model=saying(WORDS))
        seen = await read(runner, guest, conversation_id, until="text")
    finally:
        doomed.kill()
        await doomed.wait()
    rest = await read(runner, guest, conversation_id, seen[-1].number)
    assert_unbroken([*seen, *rest])
    assert [event.name for event in rest][-2:] == ["error", "done"]
    assert rest[-1].data["state"] == "interrupted"
    (turn,) = await turns_of(guest, conversation_id)
    assert turn.state is TurnState.INTERRUPTED
    assert turn.reply.startswith(spoken(seen))
    again = await runner.start(guest, conversation_id, "and?", channel="sse", model=saying(WORDS))
    assert "tell me" in str(again.state)
    assert spoken(await read(runner, guest, conversation_id, again.first_event)) == "".join(WORDS)


async def test_a_process_may_stop_at_any_moment_of_its_first_message(
    deps: Deps, guest: Deps
) -> None:
    for moment in range(12):
        made = Runner(deps)
        starting = asyncio.create_task(made.start(guest, None, "x" * 5_000, channel="sse"))
        for _ in range(moment * 3):
            await asyncio.sleep(0)
        async with asyncio.timeout(SOON_S):
            await made.aclose()
            with suppress(InvalidInput, Unavailable, asyncio.CancelledError):
                await starting
