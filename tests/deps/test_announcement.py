"""Hearing of events on the bus: everybody is woken, through flushes and outages, by one reader."""

import asyncio
from pathlib import Path

import pytest
from redis.asyncio import Redis

from deps import announcement
from deps.announcement import Announcements
from deps.bus import RedisStreamBus
from deps.embedded_valkey import EmbeddedValkey
from tests.deps.test_bus import envelope

SOON_S = 60.0


async def woken_once(woken: asyncio.Event) -> None:
    await asyncio.wait_for(woken.wait(), SOON_S)
    woken.clear()


async def readers(redis: Redis) -> int:
    """Return how many wait for the bus now; one that has just been told is about to."""
    return sum("b" in client["flags"] for client in await redis.client_list())


async def until_readers(redis: Redis, number: int) -> None:
    async with asyncio.timeout(SOON_S):
        while await readers(redis) != number:
            pass


async def test_every_announcement_wakes_all_who_wait_by_one_reader(redis: Redis) -> None:
    announced, bus = Announcements(redis), RedisStreamBus(redis)
    async with announced.waiter() as one, announced.waiter() as other:
        for woken in (one, other):
            await woken_once(woken)  # The bus answers.
        assert announced.is_heard
        for seq in range(3):
            await bus.publish([envelope(seq)])
            for woken in (one, other):
                await woken_once(woken)
        await until_readers(redis, 1)
        assert max([await readers(redis) for _ in range(20)]) == 1
        async with asyncio.timeout(SOON_S):
            await redis.flushall()
            # Ids are times and begin anew: in the millisecond of the last one it would come again.
            await asyncio.sleep(0.01)
            await bus.publish([envelope(7)])
        await woken_once(one)
    assert not announced.is_heard
    await until_readers(redis, 0)
    assert max([await readers(redis) for _ in range(20)]) == 0
    async with announced.waiter() as again:
        await woken_once(again)
        assert announced.is_heard


async def test_what_was_announced_before_wakes_nobody_later(
    redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(announcement, "WAIT_MS", 20)
    await RedisStreamBus(redis).publish([envelope(1)])
    announced = Announcements(redis)
    async with announced.waiter() as woken:
        await woken_once(woken)
        await asyncio.sleep(0.2)  # Ten empty waits.
        assert not woken.is_set()


async def test_an_outage_wakes_and_so_does_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(announcement, "RETRY_S", 0.05)
    server = EmbeddedValkey(tmp_path, fast=True).start()
    redis = Redis.from_url(server.url)
    announced = Announcements(redis)
    async with announced.waiter() as woken:
        await woken_once(woken)
        assert announced.is_heard
        await asyncio.to_thread(server.stop)
        await woken_once(woken)
        assert not announced.is_heard
        await asyncio.to_thread(server.start)
        await woken_once(woken)
        assert announced.is_heard
        await RedisStreamBus(redis).publish([envelope(1)])
        await woken_once(woken)
    await redis.aclose()
    await asyncio.to_thread(server.stop)


async def test_without_redis_nothing_is_heard() -> None:
    announced = Announcements(None)
    async with announced.waiter() as woken:
        await asyncio.sleep(0)
        assert not announced.is_heard
        assert not woken.is_set()
