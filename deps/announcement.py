"""Hear in a process that events were announced on the bus, without consuming them.

Hearing carries nothing: whoever is woken reads the database. So an announcement that is lost or
heard twice costs a look that comes late or in vain, and waiters give a timeout.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from redis.asyncio import Redis

from deps import background
from deps.bus import BusUnavailable, RedisStreamBus

WAIT_MS: Final = 4_000  # Shorter than the bus waits for an answer.
RETRY_S: Final = 1.0


class Announcements:
    """Wakes everybody who waits, by one blocking read, and none while nobody waits. Lives on one
    event loop.

    Attributes:
        is_heard: Whether the bus answers: until it does, waiters have to look by themselves.
    """

    def __init__(self, redis: "Redis | None") -> None:
        self.is_heard = False
        self._redis = redis
        self._waiting: set[asyncio.Event] = set()
        self._listener: asyncio.Task[None] | None = None

    @asynccontextmanager
    async def waiter(self) -> AsyncIterator[asyncio.Event]:
        """Yield an event that each announcement sets; whoever waits clears it before reading.

        It is also set when the bus goes away and comes back, since then some may have been missed.
        """
        woken = asyncio.Event()
        self._waiting.add(woken)
        if self._listener is None and self._redis is not None:
            self._listener = asyncio.create_task(self._listen(self._redis))
        try:
            yield woken
        finally:
            self._waiting.discard(woken)
            if not self._waiting and self._listener is not None:
                listener, self._listener = self._listener, None
                await background.end(listener)

    async def _listen(self, redis: "Redis") -> None:
        bus = RedisStreamBus.beside(redis)
        known: str | None = None
        try:
            while True:
                try:
                    newest = await bus.newest(known, wait_ms=WAIT_MS)
                except BusUnavailable:
                    self._tell(is_heard=False, is_new=False)
                    await asyncio.sleep(RETRY_S)
                    continue
                self._tell(is_heard=True, is_new=newest != known)
                known = newest
        finally:
            self.is_heard = False
            await bus.aclose()

    def _tell(self, *, is_heard: bool, is_new: bool) -> None:
        changes = is_heard is not self.is_heard
        self.is_heard = is_heard
        if is_new or changes:
            for woken in self._waiting:
                woken.set()
