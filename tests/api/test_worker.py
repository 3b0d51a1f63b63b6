"""Whole workers: sharing, waking, stopping, and living through flushes, outages and kills."""

import asyncio
import signal
import sys
from collections.abc import AsyncGenerator
from dataclasses import replace
from pathlib import Path

import pytest
from redis.asyncio import Redis

from api import worker
from deps.bus import RedisStreamBus
from deps.cache import Cache
from deps.core import SYSTEM, Deps, utc_now
from deps.embedded_valkey import EmbeddedValkey
from tests import factories
from tests.factories import RecordingMailer
from tests.tools.effects import Effects, announce, consume, counted, make_table, once, scalar
from tools import delivery
from tools.delivery import Reconciler

STREAM = "test:events"
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
async def live(deps: Deps) -> Deps:
    """With the real clock, for workers that wait for what is due."""
    await make_table(deps)
    return replace(deps, actor=SYSTEM, clock=utc_now)


@pytest.fixture
async def bus(redis: Redis) -> AsyncGenerator[RedisStreamBus, None]:
    beside = RedisStreamBus.beside(redis, STREAM)
    yield beside
    await beside.aclose()


@pytest.fixture
def effects() -> Effects:
    return Effects()


async def work_until_reached(deps: Deps, effects: Effects, *buses: RedisStreamBus | None) -> None:
    """Run a worker for each bus until the expected effects were attempted, then stop them."""
    stop = asyncio.Event()
    workers = [
        asyncio.create_task(worker.run(deps, stop, bus=bus, handlers=effects.handlers))
        for bus in buses
    ]
    async with asyncio.timeout(60):
        await effects.reached.wait()
    stop.set()
    await asyncio.gather(*workers)


async def test_two_workers_share_the_work(
    live: Deps, redis: Redis, bus: RedisStreamBus, effects: Effects
) -> None:
    effects.expected = 2 * 60
    second = RedisStreamBus.beside(redis, STREAM)
    for first in range(0, 60, 20):
        await announce(live, *range(first, first + 20))

    await work_until_reached(live, effects, bus, second)
    await second.aclose()

    assert await counted(live) == once(*range(1, 61))


async def test_a_worker_wakes_when_events_commit_and_stops_when_told(
    live: Deps, bus: RedisStreamBus, effects: Effects
) -> None:
    effects.expected = 2
    stop = asyncio.Event()
    task = asyncio.create_task(worker.run(live, stop, bus=bus, handlers=effects.handlers))
    await announce(live, 1)
    async with asyncio.timeout(60):
        await effects.reached.wait()

    stop.set()
    async with asyncio.timeout(60):
        await task

    assert await counted(live) == once(1)


async def test_a_flush_under_a_running_worker_loses_nothing(
    live: Deps, redis: Redis, bus: RedisStreamBus, effects: Effects
) -> None:
    effects.expected = 2 * 90
    stop = asyncio.Event()
    task = asyncio.create_task(worker.run(live, stop, bus=bus, handlers=effects.handlers))
    for first in range(0, 90, 10):
        await announce(live, *range(first, first + 10))
        await redis.flushall()
    async with asyncio.timeout(60):
        await effects.reached.wait()
    stop.set()
    await task
    # What the stop cut off between attempt and commit is found, as after any restart.
    await Reconciler(effects.handlers).run_once(live, settle_s=0)

    assert await counted(live) == once(*range(1, 91))


async def test_without_redis_events_come_straight_from_the_outbox(
    live: Deps, effects: Effects
) -> None:
    effects.expected = 6
    await announce(live, 1, 2, 3)

    await work_until_reached(replace(live, cache=Cache(None)), effects, None)

    assert await counted(live) == once(1, 2, 3)


async def test_redis_away_while_the_worker_runs(
    live: Deps, effects: Effects, tmp_path: Path
) -> None:
    effects.expected = 4
    nowhere = RedisStreamBus(Redis.from_url(f"unix://{tmp_path}/absent.sock"), STREAM)
    await announce(live, 1, 2)

    await work_until_reached(live, effects, nowhere)

    assert await counted(live) == once(1, 2)
    assert await scalar(live, "SELECT count(*) FROM outbox WHERE published_at IS NULL") == 2


async def test_a_sale_ends_in_one_mail(
    live: Deps, bus: RedisStreamBus, mailer: RecordingMailer
) -> None:
    await factories.product(live, "MUG", stock=5)
    order = await factories.placed_order(factories.guest(live), MUG=1)
    sent = asyncio.Event()

    class Tell(RecordingMailer):
        async def send(self, mail: object) -> None:
            await mailer.send(mail)  # type: ignore[arg-type]
            sent.set()

    stop = asyncio.Event()
    task = asyncio.create_task(worker.run(replace(live, mailer=Tell()), stop, bus=bus))
    async with asyncio.timeout(60):
        await sent.wait()
    stop.set()
    await task

    [mail] = mailer.sent
    assert str(order.number) in mail.subject + mail.body


@pytest.mark.slow
async def test_a_worker_killed_by_the_system_is_survived(
    live: Deps, database_url: str, valkey: EmbeddedValkey, bus: RedisStreamBus, effects: Effects
) -> None:
    await announce(live, *range(20))
    doomed = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "tests.tools.doomed_worker",
        database_url,
        valkey.url,
        STREAM,
        cwd=ROOT,
        stdout=asyncio.subprocess.PIPE,
    )
    assert doomed.stdout is not None
    async with asyncio.timeout(60):
        groups = {await doomed.stdout.readline(), await doomed.stdout.readline()}
    doomed.send_signal(signal.SIGKILL)
    await doomed.wait()
    assert groups == {b"ledger\n", b"letters\n"}
    assert (await bus.lag("ledger")).unacknowledged > 0

    await announce(live, 20)
    await consume(live, bus, effects, "heir", idle_ms=0)
    await delivery.relay_once(live, bus)
    await consume(live, bus, effects, "heir", idle_ms=0)

    assert await counted(live) == once(*range(1, 22))
    assert (await bus.lag("ledger")).unacknowledged == 0
