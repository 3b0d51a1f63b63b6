"""Wake whoever waits for a topic, in this process and, by way of Redis, in the others.

A signal is a hint and carries nothing: whoever is woken reads the database. So losing one costs a
moment, and waiters give a timeout.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Final

from deps import background
from deps.cache import OUTAGE, Cache

RETRY_S: Final = 1.0
SILENCE_S: Final = 30.0


class Signals:
    """Topics of one process; lives on one event loop."""

    def __init__(self, cache: Cache, channel: str) -> None:
        self._cache = cache
        self._channel = cache.name("signal", channel)
        self._waiting: dict[str, set[asyncio.Event]] = {}
        self._reader: asyncio.Task[None] | None = None
        self._sending: set[asyncio.Task[None]] = set()

    def send(self, topic: str) -> None:
        """Wake the waiters of `topic`. Never waits and never raises."""
        self._wake(topic)
        if self._cache.redis is not None and not self._cache.breaker.is_open:
            task = asyncio.create_task(self._publish(topic))
            self._sending.add(task)
            task.add_done_callback(self._sending.discard)

    def _wake(self, topic: str) -> None:
        for event in self._waiting.get(topic, ()):
            event.set()

    async def _publish(self, topic: str) -> None:
        assert self._cache.redis is not None
        try:
            await self._cache.redis.publish(self._channel, topic)
        except OUTAGE:
            self._cache.breaker.trip()

    @asynccontextmanager
    async def waiter(self, topic: str) -> AsyncIterator[asyncio.Event]:
        """Yield an event that is set by every signal; whoever waits clears it before reading."""
        event = asyncio.Event()
        self._waiting.setdefault(topic, set()).add(event)
        if self._reader is None and self._cache.redis is not None:
            self._reader = asyncio.create_task(self._listen())
        try:
            yield event
        finally:
            waiting = self._waiting[topic]
            waiting.discard(event)
            if not waiting:
                del self._waiting[topic]

    async def _listen(self) -> None:
        redis = self._cache.redis
        assert redis is not None
        while True:
            with suppress(*OUTAGE):
                async with redis.pubsub(ignore_subscribe_messages=True) as subscription:
                    await subscription.subscribe(self._channel)
                    while True:
                        message = await subscription.get_message(timeout=SILENCE_S)
                        if message is not None:
                            self._wake(bytes(message["data"]).decode())
            # Redis is away: waiters still look by themselves when their timeouts pass.
            await asyncio.sleep(RETRY_S)

    async def aclose(self) -> None:
        await background.end(*self._sending, *([self._reader] if self._reader else []))
