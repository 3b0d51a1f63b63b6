"""The cache against a real Valkey, and against one that is not there."""

import asyncio
from pathlib import Path

import pytest

from deps import cache as caching
from deps.cache import Cache
from deps.core import Deps


@pytest.fixture
async def cache(deps: Deps) -> Cache:
    assert deps.cache.redis is not None
    return deps.cache


class Source:
    """Counts its loads and can be made to wait."""

    def __init__(self, value: bytes = b"1") -> None:
        self.value = value
        self.loads = 0
        self.gate = asyncio.Event()
        self.gate.set()
        self.started = asyncio.Event()

    async def load(self) -> bytes:
        self.loads += 1
        value = self.value
        self.started.set()
        await self.gate.wait()
        return value


async def test_second_read_does_not_load(cache: Cache) -> None:
    source = Source()
    assert await cache.get_or_set("product", "a", source.load) == b"1"
    assert await cache.get_or_set("product", "a", source.load) == b"1"
    assert source.loads == 1


async def test_hundred_readers_load_once(cache: Cache) -> None:
    source = Source()
    reads = [cache.get_or_set("product", "a", source.load) for _ in range(100)]
    assert set(await asyncio.gather(*reads)) == {b"1"}
    assert source.loads == 1


async def test_two_processes_load_once(cache: Cache) -> None:
    neighbour = Cache(cache.redis, cache.namespace)
    source = Source()
    source.gate.clear()
    first = asyncio.create_task(cache.get_or_set("product", "a", source.load))
    await source.started.wait()
    second = asyncio.create_task(neighbour.get_or_set("product", "a", source.load))
    await asyncio.sleep(0)
    source.gate.set()
    assert list(await asyncio.gather(first, second)) == [b"1", b"1"]
    assert source.loads == 1


async def test_value_read_before_a_write_is_never_stored_after_it(cache: Cache) -> None:
    source = Source(b"old")
    source.gate.clear()
    reader = asyncio.create_task(cache.get_or_set("product", "a", source.load))
    await source.started.wait()
    source.value = b"new"
    await cache.invalidate("product", "a")
    source.gate.set()
    assert await reader == b"old"
    assert await cache.get_or_set("product", "a", source.load) == b"new"


async def test_entry_expires(cache: Cache) -> None:
    await cache.get_or_set("product", "a", Source().load)
    assert cache.redis is not None
    remaining_ms = await cache.redis.pttl(cache.name("cache", "product", "a"))
    assert 0 < remaining_ms <= 66_000


async def test_failed_load_reaches_its_caller_and_is_not_stored(cache: Cache) -> None:
    async def fail() -> bytes:
        raise LookupError("gone")

    with pytest.raises(LookupError):
        await cache.get_or_set("product", "a", fail)
    assert await cache.get_or_set("product", "a", Source().load) == b"1"


async def test_leaving_reader_takes_nobodys_answer(cache: Cache) -> None:
    source = Source()
    source.gate.clear()
    leaver = asyncio.create_task(cache.get_or_set("product", "a", source.load))
    await source.started.wait()
    stayer = asyncio.create_task(cache.get_or_set("product", "a", source.load))
    leaver.cancel()
    source.gate.set()
    assert await stayer == b"1"
    assert source.loads == 1


async def test_outage_costs_a_load_not_an_error(tmp_path: Path) -> None:
    cache = Cache.connect(f"unix://{tmp_path}/nothing.sock")
    source = Source()
    assert await cache.get_or_set("product", "a", source.load) == b"1"
    assert cache.breaker.is_open
    await cache.invalidate("product", "a")
    assert await cache.get_or_set("product", "a", source.load) == b"1"
    assert source.loads == 2
    await cache.aclose()


async def test_a_neighbour_that_dies_while_it_loads_is_waited_for_no_longer(
    cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert cache.redis is not None
    lock = cache.name("cache", "product", "a") + ":lock"
    await cache.redis.set(lock, "neighbour", px=20)
    source = Source()
    assert await cache.get_or_set("product", "a", source.load) == b"1"
    # One that hangs is waited for so long and no longer.
    monkeypatch.setattr(caching, "POLL_ATTEMPTS_MAX", 2)
    await cache.redis.set(cache.name("cache", "product", "b") + ":lock", "neighbour", px=60_000)
    assert await cache.get_or_set("product", "b", source.load) == b"1"
    assert source.loads == 2


async def test_a_long_value_is_not_kept_and_blocks_nobody(
    cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(caching, "VALUE_BYTES_MAX", 3)
    source = Source(b"long")
    for loads in (1, 2):
        assert await cache.get_or_set("product", "a", source.load) == b"long"
        assert source.loads == loads


async def test_a_process_keeps_so_many_bytes(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(caching, "LOCAL_BYTES_MAX", 8)
    assert cache.redis is not None
    source = Source(b"four")
    for key in ("a", "b", "c"):
        await cache.body("tag", "product", key, source.load)
    await cache.redis.delete(*await cache.redis.keys(cache.name("cache", "product") + "*"))
    for key, loads in (("c", 3), ("b", 3), ("a", 4)):
        await cache.body("tag", "product", key, source.load)
        assert source.loads == loads, "the least recently read left first"


async def test_what_was_forgotten_in_an_outage_is_told_to_the_others_after_it(
    cache: Cache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(caching, "VERSION_S", 0.0)
    neighbour = Cache(cache.redis, cache.namespace)
    source = Source(b"old")
    for process in (cache, neighbour):
        assert (await process.body("mug", "product", "a", source.load)).data == b"old"
    source.value = b"new"
    cut = Cache.connect(f"unix://{tmp_path}/nothing.sock")
    redis, cache.redis = cache.redis, cut.redis
    await cache.forget("mug")
    assert (await cache.body("mug", "product", "a", source.load)).data == b"new"
    cache.redis = redis
    cache.breaker = caching.Breaker()
    assert (await cache.body("mug", "product", "a", source.load)).data == b"new"
    assert (await neighbour.body("mug", "product", "a", source.load)).data == b"new"


async def test_closing_leaves_no_load_behind(cache: Cache) -> None:
    source = Source()
    source.gate.clear()
    own = Cache(None)
    reader = asyncio.create_task(own.get_or_set("product", "a", source.load))
    await source.started.wait()
    await own.aclose()
    with pytest.raises(asyncio.CancelledError):
        await reader
