"""The event bus: a fast, forgetful copy of the outbox on Redis Streams.

The outbox in PostgreSQL is the truth. The stream only carries events to consumers sooner than
polling would, so it may be flushed, trimmed or unreachable and nothing is lost: the reconciler in
`tools/delivery.py` finds what never arrived. Only commands that Redis ≥ 7.0 and Valkey ≥ 8 share
are used.
"""

from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Protocol
from uuid import UUID

from pydantic import BaseModel, ConfigDict, ValidationError
from redis.asyncio import Redis
from redis.asyncio.connection import ConnectionPool
from redis.exceptions import RedisError, ResponseError

STREAM_LENGTH_MAX: Final = 100_000
READ_TIMEOUT_S: Final = 5.0
CONSUMER_FORGOTTEN_MS: Final = 3_600_000
_FIELD: Final = b"e"


class Envelope(BaseModel):
    """One outbox row on its way to handlers. `payload` is as written, in `schema_version`."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    id: UUID
    seq: int
    type: str
    schema_version: int
    aggregate_type: str
    aggregate_id: UUID
    aggregate_seq: int
    payload: dict[str, Any]
    occurred_at: datetime
    trace_id: str | None = None


@dataclass(frozen=True, slots=True)
class Message:
    """A delivery to acknowledge. `envelope` is None when the entry cannot be read: whoever wrote
    it was not a relay, and the event it may have been is still in the outbox."""

    id: str
    envelope: Envelope | None


@dataclass(frozen=True, slots=True)
class Lag:
    """`undelivered` is None where the server cannot tell, as after entries were trimmed."""

    undelivered: int | None
    unacknowledged: int


class BusUnavailable(Exception):
    """The bus does not answer. Events stay in the outbox until it does."""


class EventBus(Protocol):
    """At least once, in the order published, to every group; to one consumer within a group."""

    async def publish(self, envelopes: Sequence[Envelope]) -> None: ...
    async def ensure_group(self, group: str) -> None: ...
    async def read(
        self, group: str, consumer: str, *, limit: int, wait_ms: int
    ) -> list[Message]: ...
    async def claim(
        self, group: str, consumer: str, *, idle_ms: int, limit: int
    ) -> list[Message]: ...
    async def ack(self, group: str, messages: Sequence[Message]) -> None: ...
    async def lag(self, group: str) -> Lag: ...
    async def aclose(self) -> None: ...


class RedisStreamBus:
    """`EventBus` on one stream with consumer groups."""

    def __init__(self, redis: "Redis", stream: str = "shopkeeper:events") -> None:
        """Take over `redis`, whose read timeout must exceed the `wait_ms` that callers ask for."""
        self.redis = redis
        self.stream = stream

    @classmethod
    def beside(cls, redis: "Redis", stream: str = "shopkeeper:events") -> "RedisStreamBus":
        """Connect to the same server as `redis` with timeouts that allow blocking reads."""
        pool = redis.connection_pool
        arguments = {**pool.connection_kwargs, "socket_timeout": READ_TIMEOUT_S}
        own = ConnectionPool(connection_class=pool.connection_class, **arguments)
        return cls(Redis.from_pool(own), stream)

    async def publish(self, envelopes: Sequence[Envelope]) -> None:
        """Append in order. After an error some may have been appended: publish all again.

        Raises:
            BusUnavailable: The server is away.
        """
        async with self._outage_named(), self.redis.pipeline(transaction=False) as pipe:
            for envelope in envelopes:
                pipe.xadd(
                    self.stream,
                    {_FIELD: envelope.model_dump_json().encode()},
                    maxlen=STREAM_LENGTH_MAX,
                    approximate=True,
                )
            await pipe.execute()

    async def ensure_group(self, group: str) -> None:
        """Create the group and the stream where absent, from the stream's first entry on."""
        async with self._outage_named():
            try:
                await self.redis.xgroup_create(self.stream, group, id="0", mkstream=True)
            except ResponseError as error:
                if not str(error).startswith("BUSYGROUP"):
                    raise

    async def read(self, group: str, consumer: str, *, limit: int, wait_ms: int) -> list[Message]:
        """Return entries no consumer of the group was given yet; empty after `wait_ms`.

        A group lost in a flush is made again.
        """
        async with self._outage_named():
            try:
                answer = await self.redis.xreadgroup(
                    group, consumer, {self.stream: ">"}, count=limit, block=wait_ms
                )
            except ResponseError as error:
                if not str(error).startswith(("NOGROUP", "UNBLOCKED")):
                    raise
                answer = None
                await self.ensure_group(group)
        return [_message(entry) for entry in _entries_of_one_stream(answer)]

    async def claim(self, group: str, consumer: str, *, idle_ms: int, limit: int) -> list[Message]:
        """Take over entries whose consumer has neither acknowledged nor lived for `idle_ms`."""
        taken: list[Message] = []
        cursor: Any = "0-0"
        async with self._outage_named():
            try:
                while len(taken) < limit:
                    cursor, entries, *_ = await self.redis.xautoclaim(
                        self.stream,
                        group,
                        consumer,
                        min_idle_time=idle_ms,
                        start_id=cursor,
                        count=limit - len(taken),
                    )
                    taken += [_message(entry) for entry in entries if entry[0] is not None]
                    if _text(cursor) == "0-0":
                        break
                await self._forget_dead_consumers(group, consumer)
            except ResponseError as error:
                if not str(error).startswith("NOGROUP"):
                    raise
                await self.ensure_group(group)
        return taken

    async def _forget_dead_consumers(self, group: str, consumer: str) -> None:
        # Every process has its own name, so the names of killed ones would pile up.
        for other in await self.redis.xinfo_consumers(self.stream, group):
            name = _text(other["name"])
            gone = other["pending"] == 0 and other["idle"] > CONSUMER_FORGOTTEN_MS
            if gone and name != consumer:
                await self.redis.xgroup_delconsumer(self.stream, group, name)

    async def ack(self, group: str, messages: Sequence[Message]) -> None:
        if messages:
            async with self._outage_named():
                await self.redis.xack(self.stream, group, *(message.id for message in messages))

    async def lag(self, group: str) -> Lag:
        async with self._outage_named():
            try:
                groups = await self.redis.xinfo_groups(self.stream)
            except ResponseError as error:
                if "no such key" not in str(error):
                    raise
                groups = []
        for row in groups:
            if _text(row["name"]) == group:
                return Lag(undelivered=row["lag"], unacknowledged=row["pending"])
        return Lag(undelivered=0, unacknowledged=0)

    async def newest(self, known: str | None = None, *, wait_ms: int = 0) -> str:
        """Return the id of the newest entry, as nobody's consumer.

        Args:
            known: The id returned last: wait until there is a newer entry, or for `wait_ms`.

        Raises:
            BusUnavailable: The server is away.
        """
        async with self._outage_named():
            if known is not None:
                await self.redis.xread({self.stream: known}, count=1, block=wait_ms)
            entries = await self.redis.xrevrange(self.stream, count=1)
        return _text(entries[0][0]) if entries else "0-0"

    async def aclose(self) -> None:
        await self.redis.aclose()

    @asynccontextmanager
    async def _outage_named(self) -> AsyncGenerator[None, None]:
        try:
            yield
        except ResponseError:
            raise  # The server answered: our mistake, or a state the caller knows.
        except (RedisError, OSError, TimeoutError) as error:
            raise BusUnavailable(str(error) or type(error).__name__) from error


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def _entries_of_one_stream(answer: Any) -> list[Any]:
    """Unwrap a read of one stream: a list of pairs in RESP2, a mapping in RESP3."""
    if not answer:
        return []
    if isinstance(answer, dict):
        (entries,) = answer.values()
        # RESP3 as some client versions leave it: one list of entries inside another.
        return list(entries[0]) if entries and isinstance(entries[0], list) else list(entries)
    return list(answer[0][1])


def _message(entry: Any) -> Message:
    message_id, fields = entry
    raw = fields.get(_FIELD) or fields.get(_FIELD.decode()) if fields else None
    try:
        envelope = Envelope.model_validate_json(raw) if raw is not None else None
    except ValidationError:
        envelope = None
    return Message(_text(message_id), envelope)
