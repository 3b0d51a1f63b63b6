"""Token buckets, shared by Redis and local without it."""

import asyncio
from pathlib import Path

import pytest

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
    assert (refused.remaining, refused.retry_after_s) == (0, 1200)
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
