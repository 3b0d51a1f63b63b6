"""Rate limits: token buckets on Redis, or in this process while Redis is away.

A bucket holds `limit` tokens, refills evenly over `window_s`, and each request takes one. So a
caller may burst to the whole limit and then keeps the average.

A busy caller's tokens are fetched several at a time, twice as many after each lot that was used up
and one after a lot that was not: what a process holds unused when a lot ends is lost, which is less
than the caller spent. Nobody ever gets more than the limit.
"""

import asyncio
import hashlib
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

from redis.asyncio import Redis
from redis.exceptions import NoScriptError

from deps.cache import OUTAGE, Cache


class EndpointClass(StrEnum):
    AUTH = "auth"
    CHAT = "chat"
    WRITE = "write"
    READ = "read"


@dataclass(frozen=True, slots=True)
class Limit:
    limit: int
    window_s: int


LIMITS: Final[Mapping[EndpointClass, Limit]] = {
    # A password check costs a third of a second of CPU and is what guessers repeat.
    EndpointClass.AUTH: Limit(30, 60),
    # Guests count by address, and many may stand behind one: an office, a mobile carrier.
    EndpointClass.CHAT: Limit(120, 60),
    EndpointClass.WRITE: Limit(1200, 60),
    EndpointClass.READ: Limit(6000, 60),
}
# How many tokens one process may fetch at once. One: counted exactly.
LOTS_MAX: Final[Mapping[EndpointClass, int]] = {
    EndpointClass.AUTH: 1,
    EndpointClass.CHAT: 1,
    EndpointClass.WRITE: 8,
    EndpointClass.READ: 32,
}
LOT_S: Final = 1.0
LOCAL_BUCKETS_MAX: Final = 10_000
KEY_LENGTH_MAX: Final = 100

# Redis's clock decides, so that web processes with differing clocks share one bucket.
_TAKE = """
local limit, window_ms = tonumber(ARGV[1]), tonumber(ARGV[2])
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)
local state = redis.call('HMGET', KEYS[1], 'tokens', 'at')
local tokens, at = tonumber(state[1]) or limit, tonumber(state[2]) or now
tokens = math.min(limit, tokens + math.max(0, now - at) * limit / window_ms)
local taken = math.min(tonumber(ARGV[3]), math.floor(tokens))
tokens = tokens - taken
redis.call('HSET', KEYS[1], 'tokens', tostring(tokens), 'at', now)
redis.call('PEXPIRE', KEYS[1], window_ms)
return {taken, tostring(tokens)}
"""
_DIGEST: Final = hashlib.sha1(_TAKE.encode()).hexdigest()  # How Redis names a script.


@dataclass(frozen=True, slots=True)
class Verdict:
    allowed: bool
    limit: Limit
    tokens: float

    @property
    def remaining(self) -> int:
        return int(self.tokens)

    @property
    def retry_after_s(self) -> int:
        """Whole seconds until a token is there, at least one."""
        missing = max(0.0, 1.0 - self.tokens)
        return max(1, -int(-missing * self.limit.window_s // self.limit.limit))


@dataclass(slots=True)
class _Lot:
    """Tokens this process has fetched and not spent; `left` stayed in the bucket behind them."""

    size: int = 0
    unspent: int = 0
    left: float = 0.0
    ends_at: float = 0.0
    is_being_fetched: bool = False


class RateLimiter:
    def __init__(self, cache: Cache, limits: Mapping[EndpointClass, Limit] = LIMITS) -> None:
        self._cache = cache
        self._limits = limits
        self._local: OrderedDict[str, tuple[float, float]] = OrderedDict()
        self._lots: OrderedDict[str, _Lot] = OrderedDict()

    async def take(self, endpoint_class: EndpointClass, caller: str) -> Verdict:
        """Take one token of `caller`'s bucket. Never raises: an outage loosens limits to each
        process's own count, because a shop that sells is worth more than an exact limit."""
        limit = self._limits[endpoint_class]
        name = self._cache.name("rate", endpoint_class.value, caller[:KEY_LENGTH_MAX])
        lot, now = self._lot(name), asyncio.get_running_loop().time()
        if lot.unspent and now < lot.ends_at:
            lot.unspent -= 1
            return Verdict(True, limit, lot.left + lot.unspent)
        redis = self._cache.redis
        if redis is None or self._cache.breaker.is_open:
            return self._take_local(name, limit)
        # One caller fetches the next lot; those who come meanwhile fetch a token each.
        fetches_lot = not lot.is_being_fetched
        size = 1
        if fetches_lot:
            lot.is_being_fetched = True
            if lot.size and now < lot.ends_at:
                size = min(lot.size * 2, LOTS_MAX[endpoint_class])
        try:
            answer = await self._run(
                redis, name, str(limit.limit), str(limit.window_s * 1_000), str(size)
            )
        except OUTAGE:
            self._cache.breaker.trip()
            return self._take_local(name, limit)
        finally:
            if fetches_lot:
                lot.is_being_fetched = False
        taken, left = int(answer[0]), float(answer[1])
        unspent = max(0, taken - 1)
        if fetches_lot:
            lot.size, lot.unspent, lot.left, lot.ends_at = size, unspent, left, now + LOT_S
        return Verdict(taken > 0, limit, left + unspent)

    def _lot(self, name: str) -> _Lot:
        lot = self._lots.get(name)
        if lot is None:
            lot = self._lots[name] = _Lot()
            if len(self._lots) > LOCAL_BUCKETS_MAX:
                self._lots.popitem(last=False)
        return lot

    async def _run(self, redis: "Redis", name: str, *arguments: str) -> Any:
        try:
            return await redis.evalsha(_DIGEST, 1, name, *arguments)
        except NoScriptError:  # A server that was started or flushed since.
            return await redis.eval(_TAKE, 1, name, *arguments)

    def _take_local(self, name: str, limit: Limit) -> Verdict:
        now = asyncio.get_running_loop().time()
        tokens, at = self._local.pop(name, (float(limit.limit), now))
        tokens = min(float(limit.limit), tokens + (now - at) * limit.limit / limit.window_s)
        allowed = tokens >= 1
        self._local[name] = (tokens - 1 if allowed else tokens, now)
        if len(self._local) > LOCAL_BUCKETS_MAX:
            self._local.popitem(last=False)
        return Verdict(allowed, limit, self._local[name][0])
