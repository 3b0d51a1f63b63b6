"""A read cache on Redis that an outage turns off and a stampede does not get through.

Nothing depends on it for being right: a value may be missing at any time, and then the loader runs.

`body` adds a layer in this process and exact invalidation. What is made of the same things carries
their tag, and a tag has a version: a random word in Redis, part of every key. Whoever changes those
things calls `forget` after the commit, which writes a new word; this process obeys at once, the
others when they next look, after `VERSION_S` at most. A body loaded before the commit can only be
stored under the old word. With Redis away, a process knows of its own changes alone and keeps
nothing longer than `ALONE_S`.
"""

import asyncio
import hashlib
import random
import secrets
import struct
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final, Self

from prometheus_client import Counter
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

# How stale an answer may be, by kind. Whoever writes invalidates; these bound what was missed.
LIFETIMES_S: Final[dict[str, float]] = {
    # Price and publication are invalidated exactly; of stock figures this is the greatest age.
    "category": 5.0,
    "product": 5.0,
    "search": 5.0,
    "recommendation": 300.0,
    "sales": 30.0,
    "shipping": 300.0,
}
JITTER: Final = 0.1  # Entries filled together must not expire together: up to this much earlier.
VERSION_S: Final = 0.5
ALONE_S: Final = 1.0
LOCAL_BYTES_MAX: Final = 32 * 1_048_576
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


READS: Final = Counter(
    "cache_reads_total",
    "Cached bodies read: from this process, from Redis, or loaded anew.",
    ("kind", "source"),
    registry=None,
)
_STAMP: Final = struct.Struct("!d")  # Stored bodies begin with when they were made.


@dataclass(frozen=True, slots=True)
class Body:
    """An answer ready to be sent, with the validator that tells it from others."""

    data: bytes
    etag: str


@dataclass(frozen=True, slots=True)
class _Held:
    body: Body
    version: str
    expires_at: float


@dataclass(frozen=True, slots=True)
class _Version:
    word: str
    checked_at: float


class _Local:
    """The bodies of this process, the least recently read leaving first."""

    def __init__(self) -> None:
        self._held: OrderedDict[tuple[str, str], _Held] = OrderedDict()
        self._bytes = 0

    def get(self, name: tuple[str, str], version: str, now: float) -> Body | None:
        held = self._held.get(name)
        if held is None or held.version != version or held.expires_at <= now:
            return None
        self._held.move_to_end(name)
        return held.body

    def put(self, name: tuple[str, str], held: _Held) -> None:
        self._drop(name)
        self._held[name] = held
        self._bytes += len(held.body.data)
        while self._bytes > LOCAL_BYTES_MAX:
            self._drop(next(iter(self._held)))

    def _drop(self, name: tuple[str, str]) -> None:
        old = self._held.pop(name, None)
        if old is not None:
            self._bytes -= len(old.body.data)


def etag_of(data: bytes) -> str:
    """Return the weak validator of a body."""
    return f'W/"{hashlib.blake2b(data, digest_size=12).hexdigest()}"'


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
        self._local = _Local()
        self._versions: dict[str, _Version] = {}
        self._looks: dict[str, asyncio.Task[_Version]] = {}
        self._changes: dict[str, int] = {}
        self._unsent: set[str] = set()

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

    async def body(
        self, tag: str, kind: str, key: str, load: Callable[[], Awaitable[bytes]]
    ) -> Body:
        """Return a body from this process, from Redis, or from `load`; otherwise as `get_or_set`.

        Args:
            tag: What it is made of: `forget` with the same tag makes it be loaded anew.
        """
        version = (await self._version(tag)).word
        name = (kind, key)
        found = self._local.get(name, version, time.time())
        if found is not None:
            READS.labels(kind, "process").inc()
            return found
        source = "redis"

        async def stamped() -> bytes:
            nonlocal source
            source = "loaded"
            made_at = time.time()
            return _STAMP.pack(made_at) + await load()

        digest = hashlib.blake2b(key.encode(), digest_size=16).hexdigest()
        stored = await self.get_or_set(kind, f"{version}:{digest}", stamped)
        READS.labels(kind, source).inc()
        data = stored[_STAMP.size :]
        lifetime_s = LIFETIMES_S[kind] if self._is_usable else min(LIFETIMES_S[kind], ALONE_S)
        (made_at,) = _STAMP.unpack_from(stored)
        held = _Held(Body(data, etag_of(data)), version, made_at + lifetime_s)
        self._local.put(name, held)
        return held.body

    async def forget(self, tag: str) -> None:
        """Let nobody read what carries `tag` any more. Call after the commit that changed it."""
        word = secrets.token_hex(8)
        # A look that began before Redis has the new word must not bring the old one back.
        self._changes[tag] = self._changes.get(tag, 0) + 1
        self._versions[tag] = _Version(word, time.monotonic())
        if await self._command(lambda redis: redis.set(self.name("version", tag), word)):
            self._unsent.discard(tag)
        else:
            self._unsent.add(tag)
        self._changes[tag] += 1

    async def _version(self, tag: str) -> _Version:
        known = self._versions.get(tag)
        if known is not None and time.monotonic() - known.checked_at < VERSION_S:
            return known
        look = self._looks.get(tag)
        if look is None:
            look = asyncio.create_task(self._look(tag))
            self._looks[tag] = look
            look.add_done_callback(lambda _: self._looks.pop(tag, None))
        return await asyncio.shield(look)

    async def _look(self, tag: str) -> _Version:
        if tag in self._unsent and self._is_usable:
            await self.forget(tag)  # The others have yet to hear of it.
        changes, known = self._changes.get(tag, 0), self._versions.get(tag)
        began, word = time.monotonic(), secrets.token_hex(8)
        name = self.name("version", tag)
        found = await self._command(lambda redis: redis.set(name, word, nx=True, get=True))
        if isinstance(found, bytes):
            word = found.decode()
        elif not self._is_usable and known is not None:
            word = known.word
        if self._changes.get(tag, 0) == changes:
            self._versions[tag] = _Version(word, began)
        return self._versions[tag]

    async def invalidate(self, kind: str, key: str) -> None:
        """Forget one entry. Call after the commit that changed what it was made of."""
        assert kind in LIFETIMES_S, kind
        name = self.name("cache", kind, key)
        self._flights.pop(name, None)  # Later readers must not join a load that began earlier.
        await self._command(lambda redis: redis.delete(name, f"{name}:lock"))

    async def aclose(self) -> None:
        for flight in [*self._flights.values(), *self._looks.values()]:
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
            lifetime_ms = int(lifetime_s * 1_000 * random.uniform(1 - JITTER, 1))
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
