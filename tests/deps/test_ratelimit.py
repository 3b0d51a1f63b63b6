"""Token buckets, shared by Redis and local without it."""

import asyncio
from pathlib import Path

import pytest

from deps import ratelimit
from deps.cache import Cache
from deps.core import Deps
from deps.ratelimit import EndpointClass, Limit, RateLimiter

THREE = {EndpointClass.AUTH: Limit(3, 3600)}


@pytest.mark.parametrize("where", ["redis", "local", "outage"])
async def test_bucket_empties_once_for_all(deps: Deps, tmp_path: Path, where: str) -> None:
    caches = {
        "redis": deps.cache,
        "local": Cache(None),
        "outage": Cache.connect(f"unix://{tmp_path}/nothing.sock"),
    }
    limiter = RateLimiter(caches[where], THREE)
    verdicts = await asyncio.gather(*(limiter.take(EndpointClass.AUTH, "ip:a") for _ in range(20)))
    assert sum(verdict.allowed for verdict in verdicts) == 3
    refused = next(verdict for verdict in verdicts if not verdict.allowed)
    assert refused.remaining == 0
    assert 1140 <= refused.retry_after_s <= 1200
    assert (await limiter.take(EndpointClass.AUTH, "ip:b")).allowed
    await caches[where].aclose()


async def test_processes_share_a_bucket(deps: Deps) -> None:
    neighbours = [RateLimiter(Cache(deps.cache.redis), THREE) for _ in range(2)]
    verdicts = [await limiter.take(EndpointClass.AUTH, "ip:a") for limiter in neighbours * 2]
    assert [verdict.allowed for verdict in verdicts] == [True, True, True, False]


async def test_bucket_refills(deps: Deps) -> None:
    quick = RateLimiter(deps.cache, {EndpointClass.AUTH: Limit(1_000_000, 1)})
    for _ in range(10):
        verdict = await quick.take(EndpointClass.AUTH, "ip:a")
    assert verdict.remaining > 999_000


async def test_busy_caller_costs_few_round_trips_and_gets_no_more(deps: Deps) -> None:
    limits = {EndpointClass.READ: Limit(200, 3600)}
    limiter, neighbour = RateLimiter(deps.cache, limits), RateLimiter(deps.cache, limits)
    assert deps.cache.redis is not None
    before = (await deps.cache.redis.info("commandstats")).get("cmdstat_evalsha", {"calls": 0})
    verdicts = [await limiter.take(EndpointClass.READ, "ip:a") for _ in range(150)]
    after = (await deps.cache.redis.info("commandstats"))["cmdstat_evalsha"]
    assert all(verdict.allowed for verdict in verdicts)
    assert [verdict.remaining for verdict in verdicts] == list(range(199, 49, -1))
    assert after["calls"] - before["calls"] < 15
    rest = [await neighbour.take(EndpointClass.READ, "ip:a") for _ in range(80)]
    assert sum(verdict.allowed for verdict in rest) <= 50


async def test_callers_at_once_get_no_more_than_the_limit(deps: Deps) -> None:
    limiter = RateLimiter(deps.cache, {EndpointClass.READ: Limit(40, 3600)})
    for _ in range(3):
        await limiter.take(EndpointClass.READ, "ip:a")
    verdicts = await asyncio.gather(*(limiter.take(EndpointClass.READ, "ip:a") for _ in range(90)))
    assert sum(verdict.allowed for verdict in verdicts) <= 37


async def test_lot_that_was_not_used_up_is_followed_by_a_small_one(
    deps: Deps, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ratelimit, "LOT_S", 0.0)
    limiter = RateLimiter(deps.cache, {EndpointClass.READ: Limit(100, 3600)})
    verdicts = [await limiter.take(EndpointClass.READ, "ip:a") for _ in range(20)]
    assert verdicts[-1].remaining == 80


@pytest.mark.parametrize("where", ["redis", "local"])
async def test_so_many_callers_are_remembered_here(
    deps: Deps, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever makes up callers fills no memory; with Redis, nobody is forgotten there."""
    monkeypatch.setattr(ratelimit, "LOCAL_BUCKETS_MAX", 2)
    limiter = RateLimiter(deps.cache if where == "redis" else Cache(None), THREE)
    for _ in range(3):
        assert (await limiter.take(EndpointClass.AUTH, "ip:a")).allowed
    for n in range(5):
        assert (await limiter.take(EndpointClass.AUTH, f"ip:{n}")).allowed
    assert (await limiter.take(EndpointClass.AUTH, "ip:a")).allowed is (where == "local")
