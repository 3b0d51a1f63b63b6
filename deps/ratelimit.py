"""Rate limits: token buckets on Redis, or in this process while Redis is away.

A bucket holds `limit` tokens, refills evenly over `window_s`, and each request takes one. So a
caller may burst to the whole limit and then keeps the average.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

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
local allowed = 0
if tokens >= 1 then
  tokens = tokens - 1
  allowed = 1
end
redis.call('HSET', KEYS[1], 'tokens', tostring(tokens), 'at', now)
redis.call('PEXPIRE', KEYS[1], window_ms)
return {allowed, tostring(tokens)}
"""


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


class RateLimiter:
    def __init__(self, cache: Cache, limits: Mapping[EndpointClass, Limit] = LIMITS) -> None:
        self._cache = cache
        self._limits = limits
        self._local: OrderedDict[str, tuple[float, float]] = OrderedDict()

    async def take(self, endpoint_class: EndpointClass, caller: str) -> Verdict:
        """Take one token of `caller`'s bucket. Never raises: an outage loosens limits to each
        process's own count, because a shop that sells is worth more than an exact limit."""
        limit = self._limits[endpoint_class]
        name = self._cache.name("rate", endpoint_class.value, caller[:KEY_LENGTH_MAX])
        redis = self._cache.redis
        if redis is not None and not self._cache.breaker.is_open:
            try:
                allowed, tokens = await redis.eval(
                    _TAKE, 1, name, str(limit.limit), str(limit.window_s * 1_000)
                )
            except OUTAGE:
                self._cache.breaker.trip()
            else:
                return Verdict(bool(allowed), limit, float(tokens))
        return self._take_local(name, limit)

    def _take_local(self, name: str, limit: Limit) -> Verdict:
        now = asyncio.get_running_loop().time()
        tokens, at = self._local.pop(name, (float(limit.limit), now))
        tokens = min(float(limit.limit), tokens + (now - at) * limit.limit / limit.window_s)
        allowed = tokens >= 1
        self._local[name] = (tokens - 1 if allowed else tokens, now)
        if len(self._local) > LOCAL_BUCKETS_MAX:
            self._local.popitem(last=False)
        return Verdict(allowed, limit, self._local[name][0])
