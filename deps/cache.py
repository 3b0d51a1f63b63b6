"""A read cache on Redis that an outage turns off and a stampede does not get through.

Nothing depends on it for being right: a value may be missing at any time, and then the loader runs.
"""

import asyncio
import random
import secrets
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final, Self

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

# How stale an answer may be, by kind. Whoever writes invalidates; these bound what was missed.
LIFETIMES_S: Final[Mapping[str, float]] = {
    "category": 300.0,
    "product": 60.0,
    "search": 15.0,
    "recommendation": 300.0,
    "sales": 30.0,
    "shipping": 300.0,
}
JITTER: Final = 0.1  # Entries filled together must not expire together.
LOCK_MS: Final = 3_000
POLL_S: Final = 0.025
POLL_ATTEMPTS_MAX: Final = 40
BREAKER_OPEN_S: Final = 2.0
REDIS_TIMEOUT_S: Final = 0.5
VALUE_BYTES_MAX: Final = 1_048_576
OUTAGE = (RedisError, OSError, TimeoutError)

# Stores only while the lock is still ours: `invalidate` deletes the lock with the value, so what
# was read before a write can never be stored after it.
_STORE = """
if redis.call('GET', KEYS[2]) == ARGV[1] then
  redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3])
  redis.call('DEL', KEYS[2])
  return 1
end
return 0
"""
_UNLOCK = "if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end"


class Breaker:
    """Remember an outage briefly, so that requests do not each wait for a connection timeout."""

    def __init__(self, open_s: float = BREAKER_OPEN_S) -> None:
        self._open_s = open_s
        self._open_until = 0.0

    @property
    def is_open(self) -> bool:
        return asyncio.get_running_loop().time() < self._open_until

    def trip(self) -> None:
        self._open_until = asyncio.get_running_loop().time() + self._open_s


class Cache:
    def __init__(self, redis: "Redis | None", namespace: str = "shopkeeper") -> None:
        self.redis = redis
        self.namespace = namespace
        self.breaker = Breaker()
        self._flights: dict[str, asyncio.Task[bytes]] = {}

    @classmethod
    def connect(cls, url: str, namespace: str = "shopkeeper") -> Self:
        """Connect on first use; short timeouts, because a slow cache is worse than none."""
        redis = Redis.from_url(
            url,
            socket_timeout=REDIS_TIMEOUT_S,
            socket_connect_timeout=REDIS_TIMEOUT_S,
            retry=Retry(NoBackoff(), 1),
            health_check_interval=30,
        )
        return cls(redis, namespace)

    def name(self, *parts: str) -> str:
        """Return the Redis key for `parts` within this cache's namespace."""
        return ":".join((self.namespace, *parts))

    async def get_or_set(self, kind: str, key: str, load: Callable[[], Awaitable[bytes]]) -> bytes:
        """Return the cached bytes, or those that `load` returns, running it once for all waiters.

        Args:
            kind: A row of `LIFETIMES_S`.
            key: Must tell apart everything the answer depends on, the caller included.
            load: Runs in a task of its own, so that a waiter who leaves takes nobody's answer.

        Raises:
            Whatever `load` raises, to every waiter; nothing is stored then.
        """
        lifetime_s = LIFETIMES_S[kind]
        name = self.name("cache", kind, key)
        flight = self._flights.get(name)
        if flight is None:
            cached = await self._command(lambda redis: redis.get(name))
            if isinstance(cached, bytes):
                return cached
            flight = self._flights.get(name)  # Another may have taken off while we asked.
        if flight is None:
            flight = asyncio.create_task(self._fill(name, lifetime_s, load))
            self._flights[name] = flight
            flight.add_done_callback(lambda done: self._landed(name, done))
        return await asyncio.shield(flight)

    async def invalidate(self, kind: str, key: str) -> None:
        """Forget one entry. Call after the commit that changed what it was made of."""
        assert kind in LIFETIMES_S, kind
        name = self.name("cache", kind, key)
        self._flights.pop(name, None)  # Later readers must not join a load that began earlier.
        await self._command(lambda redis: redis.delete(name, f"{name}:lock"))

    async def aclose(self) -> None:
        for flight in list(self._flights.values()):
            flight.cancel()
        if self.redis is not None:
            await self.redis.aclose()

    def _landed(self, name: str, flight: asyncio.Task[bytes]) -> None:
        if self._flights.get(name) is flight:
            del self._flights[name]
        if not flight.cancelled():
            flight.exception()  # Seen by the waiters; if all left, asyncio should not complain.

    async def _fill(
        self, name: str, lifetime_s: float, load: Callable[[], Awaitable[bytes]]
    ) -> bytes:
        token, lock = secrets.token_hex(8), f"{name}:lock"
        held = await self._command(lambda redis: redis.set(lock, token, nx=True, px=LOCK_MS))
        if not held and self._is_usable:
            for _ in range(POLL_ATTEMPTS_MAX):
                # Another process is loading the same: wait for its answer, but not for ever.
                await asyncio.sleep(POLL_S)
                cached = await self._command(lambda redis: redis.get(name))
                if isinstance(cached, bytes):
                    return cached
                if not self._is_usable:
                    break
                if not await self._command(lambda redis: redis.exists(lock)):
                    break
        try:
            value = await load()
        except BaseException:
            await self._command(lambda redis: redis.eval(_UNLOCK, 1, lock, token))
            raise
        if held and len(value) > VALUE_BYTES_MAX:
            await self._command(lambda redis: redis.eval(_UNLOCK, 1, lock, token))
        elif held:
            lifetime_ms = int(lifetime_s * 1_000 * random.uniform(1 - JITTER, 1 + JITTER))
            await self._command(
                lambda redis: redis.eval(_STORE, 2, name, lock, token, value, str(lifetime_ms))
            )
        return value

    @property
    def _is_usable(self) -> bool:
        return self.redis is not None and not self.breaker.is_open

    async def _command(self, send: "Callable[[Redis], Any]") -> Any:
        """Return Redis's answer, or None when it is away: a cache never fails its caller."""
        if self.redis is None or self.breaker.is_open:
            return None
        try:
            return await send(self.redis)
        except OUTAGE:
            self.breaker.trip()
            return None
