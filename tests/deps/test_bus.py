"""The bus on a real Valkey: order, groups, takeover, loss and outage."""

from datetime import UTC, datetime

import pytest
from redis.asyncio import Redis
from redis.exceptions import ResponseError

from db.types import new_id
from deps import bus as buses
from deps.bus import BusUnavailable, Envelope, Lag, RedisStreamBus
from deps.embedded_valkey import EmbeddedValkey

GROUP = "notification"


def envelope(seq: int) -> Envelope:
    return Envelope(
        id=new_id(),
        seq=seq,
        type="OrderPlaced",
        schema_version=1,
        aggregate_type="order",
        aggregate_id=new_id(),
        aggregate_seq=1,
        payload={"number": seq, "name": "Zoë"},
        occurred_at=datetime(2026, 1, 30, 12, tzinfo=UTC),
        trace_id="0af7651916cd43dd8448eb211c80319c",
    )


@pytest.fixture
def bus(redis: Redis) -> RedisStreamBus:
    return RedisStreamBus(redis, "test:events")


async def read(bus: RedisStreamBus, consumer: str = "one", group: str = GROUP) -> list[int]:
    """Read without acknowledging; return the numbers of the events."""
    messages = await bus.read(group, consumer, limit=100, wait_ms=1)
    return [message.envelope.seq for message in messages if message.envelope]


async def test_every_group_reads_everything_in_order_and_unchanged(bus: RedisStreamBus) -> None:
    sent = [envelope(seq) for seq in range(1, 6)]
    await bus.publish(sent[:3])
    await bus.publish(sent[3:])
    await bus.ensure_group(GROUP)
    await bus.ensure_group("catalog")

    messages = await bus.read(GROUP, "one", limit=100, wait_ms=1)

    assert [message.envelope for message in messages] == sent
    assert await read(bus, group="catalog") == [1, 2, 3, 4, 5]


async def test_consumers_of_a_group_share_its_events(bus: RedisStreamBus) -> None:
    await bus.ensure_group(GROUP)
    await bus.publish([envelope(seq) for seq in range(4)])

    first = await bus.read(GROUP, "one", limit=2, wait_ms=1)

    assert [m.envelope.seq for m in first if m.envelope] == [0, 1]
    assert await read(bus, "two") == [2, 3]
    assert await read(bus, "one") == []


async def test_what_a_dead_consumer_left_is_taken_over_and_lag_tells(bus: RedisStreamBus) -> None:
    await bus.ensure_group(GROUP)
    await bus.publish([envelope(1), envelope(2)])
    assert (await bus.lag(GROUP)).undelivered == 2
    held = await bus.read(GROUP, "dead", limit=100, wait_ms=1)
    await bus.ack(GROUP, held[:1])

    assert await bus.claim(GROUP, "heir", idle_ms=60_000, limit=100) == []
    taken = await bus.claim(GROUP, "heir", idle_ms=0, limit=100)

    assert taken == held[1:]
    assert (await bus.lag(GROUP)).unacknowledged == 1
    await bus.ack(GROUP, taken)
    lag = await bus.lag(GROUP)
    assert (lag.undelivered, lag.unacknowledged) == (0, 0)


async def test_a_flush_makes_the_group_anew(bus: RedisStreamBus, redis: Redis) -> None:
    await bus.ensure_group(GROUP)
    await bus.publish([envelope(1)])
    await redis.flushall()

    assert await read(bus) == []
    await redis.flushall()
    assert await bus.claim(GROUP, "one", idle_ms=0, limit=10) == []
    await bus.publish([envelope(2)])

    assert await read(bus) == [2]
    assert (await bus.lag("never seen")).undelivered == 0


async def test_a_foreign_entry_is_delivered_without_an_envelope(
    bus: RedisStreamBus, redis: Redis
) -> None:
    await bus.ensure_group(GROUP)
    await redis.xadd("test:events", {"e": "{not json"})
    await redis.xadd("test:events", {"other": "field"})
    await bus.publish([envelope(1)])

    messages = await bus.read(GROUP, "one", limit=10, wait_ms=1)

    assert [m.envelope and m.envelope.seq for m in messages] == [None, None, 1]


async def test_an_outage_has_a_name(tmp_path: object) -> None:
    nowhere = RedisStreamBus(Redis.from_url(f"unix://{tmp_path}/absent.sock"))

    with pytest.raises(BusUnavailable):
        await nowhere.publish([envelope(1)])
    with pytest.raises(BusUnavailable):
        await nowhere.read(GROUP, "one", limit=1, wait_ms=1)


async def test_a_connection_beside_may_block_longer_than_the_cache_waits(redis: Redis) -> None:
    impatient = Redis(
        connection_pool=type(redis.connection_pool)(
            connection_class=redis.connection_pool.connection_class,
            **{**redis.connection_pool.connection_kwargs, "socket_timeout": 0.05},
        )
    )
    bus = RedisStreamBus.beside(impatient, "test:events")
    await bus.ensure_group(GROUP)

    assert await bus.read(GROUP, "one", limit=1, wait_ms=150) == []

    await bus.aclose()
    await impatient.aclose()


@pytest.mark.parametrize("protocol", [2, 3])
async def test_either_protocol_of_redis_tells_the_same(
    redis: Redis, valkey: EmbeddedValkey, protocol: int
) -> None:
    client = Redis.from_url(valkey.url, protocol=protocol)
    bus = RedisStreamBus(client, "test:events")
    assert await bus.lag(GROUP) == Lag(undelivered=0, unacknowledged=0)
    await bus.publish([envelope(1), envelope(2)])
    await bus.ensure_group(GROUP)
    await bus.ensure_group(GROUP)
    assert await bus.lag("another") == Lag(undelivered=0, unacknowledged=0)
    assert await bus.lag(GROUP) == Lag(undelivered=2, unacknowledged=0)
    assert await read(bus) == [1, 2]
    taken = await bus.claim(GROUP, "two", idle_ms=0, limit=10)
    assert [message.envelope.seq for message in taken if message.envelope] == [1, 2]
    await bus.ack(GROUP, [])
    await bus.ack(GROUP, taken)
    assert await bus.lag(GROUP) == Lag(undelivered=0, unacknowledged=0)
    await bus.aclose()


async def test_what_is_no_stream_is_our_mistake_and_no_outage(
    bus: RedisStreamBus, redis: Redis
) -> None:
    await redis.set("test:events", "no stream")
    for call in (
        bus.ensure_group(GROUP),
        bus.read(GROUP, "one", limit=1, wait_ms=1),
        bus.claim(GROUP, "one", idle_ms=0, limit=1),
        bus.lag(GROUP),
    ):
        with pytest.raises(ResponseError, match="WRONGTYPE"):
            await call


async def test_takeover_passes_what_was_trimmed_and_takes_no_more_than_asked(
    bus: RedisStreamBus, redis: Redis
) -> None:
    await bus.ensure_group(GROUP)
    await bus.publish([envelope(seq) for seq in range(6)])
    left = await bus.read(GROUP, "dead", limit=6, wait_ms=1)
    await redis.xdel("test:events", *(message.id for message in left[:4]))
    taken = await bus.claim(GROUP, "one", idle_ms=0, limit=1)
    assert [message.envelope.seq for message in taken if message.envelope] == [4]


async def test_consumers_that_are_gone_are_forgotten(
    bus: RedisStreamBus, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    await bus.ensure_group(GROUP)
    await bus.publish([envelope(1)])
    await bus.ack(GROUP, await bus.read(GROUP, "dead", limit=1, wait_ms=1))
    await bus.publish([envelope(2)])
    await bus.read(GROUP, "slow", limit=1, wait_ms=1)
    monkeypatch.setattr(buses, "CONSUMER_FORGOTTEN_MS", -1)
    await bus.claim(GROUP, "one", idle_ms=3_600_000, limit=1)
    names = {consumer["name"] for consumer in await redis.xinfo_consumers("test:events", GROUP)}
    assert names == {b"slow", b"one"}, "one has work to hand over, the other is us"
