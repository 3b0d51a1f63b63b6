"""Every event is applied exactly once by each handler, whatever dies, doubles or disappears."""

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator

import pytest
from redis.asyncio import Redis
from sqlalchemy import text

from db.types import OrderId, new_id
from deps.bus import RedisStreamBus
from deps.core import SYSTEM, Deps
from tests import factories
from tests.tools.effects import (
    DyingBus,
    Effects,
    Killed,
    announce,
    consume,
    counted,
    make_table,
    once,
    scalar,
    settled,
)
from tools import delivery, event_log
from tools.delivery import ATTEMPTS_MAX, Outcome, Reconciler
from tools.errors import Conflict, NotFound
from tools.events import OrderCancelled, OrderPlaced
from tools.handlers import Handler, HandlerContext, Handlers

STREAM = "test:events"
RELAY_LOCKS = """
    SELECT count(*) FROM pg_locks
    WHERE locktype = 'advisory' AND database = (SELECT oid FROM pg_database
                                                WHERE datname = current_database())
"""


@pytest.fixture
async def system(deps: Deps) -> Deps:
    await make_table(deps)
    return deps.acting_as(SYSTEM)


@pytest.fixture
async def bus(redis: Redis) -> AsyncGenerator[RedisStreamBus, None]:
    beside = RedisStreamBus.beside(redis, STREAM)
    yield beside
    await beside.aclose()


@pytest.fixture
def effects() -> Effects:
    return Effects()


# --- relay -----------------------------------------------------------------------------------


async def test_events_reach_every_group_once(
    system: Deps, bus: RedisStreamBus, effects: Effects
) -> None:
    await announce(system, 1, 2, 3)

    assert await delivery.relay_once(system, bus, limit=2) == 2
    assert await delivery.relay_once(system, bus) == 1
    assert await delivery.relay_once(system, bus) == 0
    await consume(system, bus, effects)
    await consume(system, bus, effects)

    assert await counted(system) == once(1, 2, 3)


async def test_an_event_of_a_transaction_rolled_back_is_never_announced(
    system: Deps, bus: RedisStreamBus
) -> None:
    async def fail() -> None:
        async with system.begin() as uow:
            uow.publish(OrderCancelled(order_id=OrderId(new_id()), reason="never"))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await fail()

    assert await delivery.relay_once(system, bus) == 0


async def test_a_relay_killed_between_publishing_and_marking_does_no_harm(
    system: Deps, bus: RedisStreamBus, effects: Effects
) -> None:
    await announce(system, 1, 2)

    with pytest.raises(Killed):
        await delivery.relay_once(system, DyingBus(bus, after_publish=True))
    assert await scalar(system, "SELECT count(*) FROM outbox WHERE published_at IS NULL") == 2
    async with asyncio.timeout(60):
        while await scalar(system, RELAY_LOCKS):
            pass  # The server ends the dead relay's session, and its lock, in its own time.
    await consume(system, bus, effects)
    assert await delivery.relay_once(system, bus) == 2
    await consume(system, bus, effects)

    assert await bus.redis.xlen(STREAM) == 4
    assert await counted(system) == once(1, 2)


async def test_relays_at_once_publish_each_event_once_in_the_order_of_its_aggregate(
    system: Deps, bus: RedisStreamBus
) -> None:
    orders = [OrderId(new_id()) for _ in range(4)]
    running = True

    async def write(order_id: OrderId) -> None:
        for number in range(10):
            await announce(system, number, order_id=order_id)

    async def relay() -> int:
        published = 0
        while running or await scalar(
            system, "SELECT count(*) FROM outbox WHERE published_at IS NULL"
        ):
            published += await delivery.relay_once(system, bus, limit=3)
        return published

    relays = [asyncio.create_task(relay()) for _ in range(2)]
    # Two writers to each order race for its next place.
    await asyncio.gather(*(write(order_id) for order_id in orders * 2))
    running = False
    published = await asyncio.gather(*relays)

    await bus.ensure_group("check")
    read = await bus.read("check", "one", limit=1000, wait_ms=1)
    order_of = [m.envelope for m in read if m.envelope]
    assert sum(published) == len(order_of) == 80
    for order_id in orders:
        places = [e.aggregate_seq for e in order_of if e.aggregate_id == order_id]
        assert places == list(range(1, 21))


# --- consumers -------------------------------------------------------------------------------


async def test_a_consumer_killed_between_effect_and_acknowledgement(
    system: Deps, bus: RedisStreamBus, effects: Effects
) -> None:
    await announce(system, 1)
    await delivery.relay_once(system, bus)

    with pytest.raises(Killed):
        await consume(system, DyingBus(bus, before_ack=True), effects, "dead")
    await consume(system, bus, effects, "heir", idle_ms=0)

    assert await counted(system) == once(1)
    assert (await bus.lag("ledger")).unacknowledged == 0


async def test_a_consumer_killed_in_the_middle_of_a_handler_leaves_nothing(
    system: Deps, bus: RedisStreamBus, effects: Effects
) -> None:
    await announce(system, 1)
    await delivery.relay_once(system, bus)
    written = asyncio.Event()

    async def hang(context: HandlerContext, event: object, envelope: object) -> None:
        await context.uow.session.execute(text("INSERT INTO effect (handler) VALUES ('half')"))
        written.set()
        await asyncio.Event().wait()

    await bus.ensure_group("ledger")
    messages = await bus.read("ledger", "dead", limit=10, wait_ms=1)
    half: Handlers = {OrderPlaced: (Handler("ledger", hang, known_as="ledger.note"),)}
    envelopes = [message.envelope for message in messages if message.envelope]
    doomed = asyncio.create_task(delivery.apply(system, "ledger", envelopes, half))
    await written.wait()
    doomed.cancel()
    await asyncio.wait([doomed])
    assert await scalar(system, "SELECT count(*) FROM effect") == 0

    await consume(system, bus, effects, "heir", idle_ms=0)

    assert await counted(system) == once(1)


async def test_the_same_event_at_several_consumers_at_once(
    system: Deps, bus: RedisStreamBus, effects: Effects
) -> None:
    await announce(system, *range(10))
    await delivery.relay_once(system, bus)
    await bus.ensure_group("ledger")
    messages = await bus.read("ledger", "one", limit=100, wait_ms=1)
    envelopes = [message.envelope for message in messages if message.envelope]

    outcomes = await asyncio.gather(
        *(delivery.apply(system, "ledger", envelopes, effects.handlers) for _ in range(4))
    )

    flat = [outcome for row in outcomes for outcome in row]
    assert (flat.count(Outcome.APPLIED), flat.count(Outcome.SKIPPED)) == (10, 30)
    assert set((await counted(system)).values()) == {1}


# --- failures --------------------------------------------------------------------------------


async def test_poison_becomes_a_dead_letter_and_is_replayed_once_mended(
    system: Deps, bus: RedisStreamBus, effects: Effects
) -> None:
    effects.poison = {2}
    await announce(system, 1, 2, 3)
    await delivery.relay_once(system, bus)
    await consume(system, bus, effects)
    assert await counted(system) == once(1, 2, 3) - Counter({("ledger.note", 2): 1})
    async with system.begin() as uow:
        await uow.session.execute(text("UPDATE outbox SET published_at = NULL"))
    await delivery.relay_once(system, bus)
    await consume(system, bus, effects)
    assert await scalar(system, "SELECT attempts FROM event_retry") == 1, "redelivery is no attempt"

    for attempt in range(1, ATTEMPTS_MAX):
        assert await delivery.retry_due(system, handlers=effects.handlers) == 0, "not yet due"
        system = factories.later(system, seconds=delivery.BACKOFF_MAX_S + 1)
        assert await delivery.retry_due(system, handlers=effects.handlers) == 1, attempt
    assert await scalar(system, "SELECT count(*) FROM event_retry") == 0
    async with system.begin() as uow:
        [letter] = (await event_log.dead(uow)).items
    assert (letter.handler, letter.attempts) == ("ledger.note", ATTEMPTS_MAX)
    assert letter.reason == "ValueError: order 2 is poison"
    assert letter.payload["number"] == 2
    reconciler = Reconciler(effects.handlers)
    await settled(reconciler, system)
    assert (await counted(system))["ledger.note", 2] == 0, "dead letters rest"
    assert await scalar(system, "SELECT min(seq) FROM event_checkpoint") == 3, "and hold up nobody"

    assert (await event_log.replay_dead(system, letter.id, effects.handlers)).failed == 1
    effects.poison = set()
    system = factories.later(system, seconds=delivery.BACKOFF_MAX_S + 1)
    assert await delivery.retry_due(system, handlers=effects.handlers) == 1

    assert await counted(system) == once(1, 2, 3)
    with pytest.raises(NotFound):
        await event_log.replay_dead(system, letter.id, effects.handlers)


async def test_a_letter_is_replayed_while_the_worker_dies(
    system: Deps, bus: RedisStreamBus, effects: Effects
) -> None:
    effects.poison = {1}
    await announce(system, 1)
    await delivery.relay_once(system, bus)
    await consume(system, bus, effects)
    async with system.begin() as uow:
        await uow.session.execute(text(f"UPDATE event_retry SET attempts = {ATTEMPTS_MAX - 1}"))
    system = factories.later(system, minutes=10)
    await delivery.retry_due(system, handlers=effects.handlers)
    async with system.begin() as uow:
        [letter] = (await event_log.dead(uow)).items

    async def die(context: HandlerContext, event: object, envelope: object) -> None:
        raise Killed

    doomed: Handlers = {OrderPlaced: (Handler("ledger", die, known_as="ledger.note"),)}
    with pytest.raises(Killed):
        await event_log.replay_dead(system, letter.id, doomed)
    effects.poison = set()
    system = factories.later(system, minutes=10)
    assert await delivery.retry_due(system, handlers=effects.handlers) == 1

    assert await counted(system) == once(1)


async def test_a_letter_whose_handler_is_gone_stays(
    system: Deps, bus: RedisStreamBus, effects: Effects
) -> None:
    effects.poison = {1}
    await announce(system, 1)
    await delivery.relay_once(system, bus)
    await consume(system, bus, effects)
    later = factories.later(system, minutes=10)
    without: Handlers = {
        kind: tuple(each for each in row if each.name != "ledger.note")
        for kind, row in effects.handlers.items()
    }
    assert await delivery.retry_due(later, handlers=without) >= 0
    async with system.begin() as uow:
        [letter] = (await event_log.dead(uow)).items
    assert letter.reason == "no handler ledger.note for OrderPlaced any more"
    with pytest.raises(Conflict, match=r"no handler ledger\.note any more"):
        await event_log.replay_dead(system, letter.id, without)
    async with system.begin() as uow:
        assert [each.id for each in (await event_log.dead(uow)).items] == [letter.id]
        assert (await event_log.dead(uow, with_replayed=True)).items[0].replayed_at is None


async def test_what_cannot_be_read_is_a_dead_letter_once(
    system: Deps, bus: RedisStreamBus, effects: Effects
) -> None:
    await announce(system, 1, 2, 3)
    async with system.begin() as uow:
        await uow.session.execute(text("UPDATE outbox SET type = 'Teleported' WHERE seq = 1"))
        await uow.session.execute(text("UPDATE outbox SET payload = '{}' WHERE seq = 2"))
    await delivery.relay_once(system, bus)
    await consume(system, bus, effects)
    await Reconciler(effects.handlers).run_once(system, settle_s=0)

    assert await counted(system) == once(3)
    async with system.begin() as uow:
        letters = (await event_log.dead(uow)).items
    assert {letter.handler for letter in letters} == {delivery.UNREADABLE}
    assert sorted(letter.reason[:20] for letter in letters) == [
        "invalid OrderPlaced:",
        "unknown event type T",
    ]
    mended = next(letter for letter in letters if letter.type == "Teleported")
    with pytest.raises(Conflict, match="still cannot be read"):
        await event_log.replay_dead(system, mended.id, effects.handlers)
    async with system.begin() as uow:
        await uow.session.execute(text("UPDATE outbox SET type = 'OrderPlaced' WHERE seq = 1"))
    assert (await event_log.replay_dead(system, mended.id, effects.handlers)).applied == 2
    assert await counted(system) == once(1, 3)


def test_back_off_grows_to_a_limit_and_is_spread() -> None:
    draws = [delivery.backoff_s(attempts) for attempts in range(60) for _ in range(20)]

    assert all(0 <= draw <= delivery.BACKOFF_MAX_S for draw in draws)
    assert max(delivery.backoff_s(1) for _ in range(100)) <= 2 * delivery.BACKOFF_BASE_S
    assert len({round(draw, 6) for draw in draws}) > len(draws) / 2


# --- loss ------------------------------------------------------------------------------------


async def test_events_lost_in_a_flush_are_found(
    system: Deps, bus: RedisStreamBus, redis: Redis, effects: Effects
) -> None:
    await delivery.begin_checkpoints(system, effects.handlers)
    await announce(system, 1, 2)
    await delivery.relay_once(system, bus)
    await consume(system, bus, effects)
    await announce(system, 3, 4)
    await delivery.relay_once(system, bus)
    await redis.flushall()
    await announce(system, 5)
    await delivery.relay_once(system, bus)
    await consume(system, bus, effects)
    reconciler = Reconciler(effects.handlers)

    assert await reconciler.run_once(system) == 0, "the bus is given time"
    assert await counted(system) == once(1, 2, 5)
    overdue = factories.later(system, seconds=delivery.SETTLE_S)
    assert await reconciler.run_once(overdue) == 4, "two events in two groups"

    assert await counted(system) == once(1, 2, 3, 4, 5)
    await settled(reconciler, overdue)
    checkpoint = "SELECT min(seq) FROM event_checkpoint"
    assert await scalar(system, checkpoint) == 5


async def test_an_event_that_commits_late_is_not_passed_over(
    system: Deps, effects: Effects
) -> None:
    reconciler = Reconciler(effects.handlers)
    engine = system.db.kw["bind"]
    async with engine.connect() as slow:
        # The lower `seq`, drawn first and committed last.
        await slow.execute(
            text("""
                INSERT INTO outbox (id, type, schema_version, aggregate_type, aggregate_id,
                                    aggregate_seq, payload, actor_role, occurred_at)
                SELECT gen_random_uuid(), 'OrderPlaced', 1, 'order', id, 1,
                       jsonb_build_object('order_id', id, 'number', 1, 'customer_id', NULL,
                                          'total_amount', 1, 'currency', 'EUR'),
                       'guest', '2026-01-30T11:00:00Z'
                FROM (SELECT gen_random_uuid() AS id) AS new
            """)
        )
        await announce(system, 2)
        for _ in range(3):
            await reconciler.run_once(system, settle_s=0)
        assert await counted(system) == once(2)
        assert await scalar(system, "SELECT max(seq) FROM event_checkpoint") == 0
        await slow.commit()

    await settled(reconciler, system)

    assert await counted(system) == once(1, 2)
    assert await scalar(system, "SELECT min(seq) FROM event_checkpoint") == 2


async def test_a_group_new_to_the_shop_starts_where_the_others_stand(
    system: Deps, effects: Effects
) -> None:
    old: Handlers = {OrderPlaced: effects.handlers[OrderPlaced][:1]}
    await announce(system, 1)
    reconciler = Reconciler(old)
    await settled(reconciler, system)
    await announce(system, 2)

    await delivery.begin_checkpoints(system, effects.handlers)
    await Reconciler(effects.handlers).run_once(system, settle_s=0)

    assert await counted(system) == once(1, 2) - Counter({("letters.post", 1): 1})


async def test_purging_keeps_the_trail_and_applies_nothing_again(
    system: Deps, bus: RedisStreamBus, effects: Effects
) -> None:
    await announce(system, 1)
    await delivery.relay_once(system, bus)
    await bus.ensure_group("ledger")
    [message] = await bus.read("ledger", "slow", limit=1, wait_ms=1)
    reconciler = Reconciler(effects.handlers)
    await settled(reconciler, system)
    assert await delivery.purge(system, handlers=effects.handlers) == 0
    much_later = factories.later(system, days=delivery.INBOX_KEPT_DAYS + 1)

    assert await delivery.purge(much_later, handlers=effects.handlers) == 2
    assert await scalar(system, "SELECT count(*) FROM outbox") == 1
    assert message.envelope is not None
    await delivery.apply(much_later, "ledger", [message.envelope], effects.handlers)
    await reconciler.run_once(much_later, settle_s=0)
    skipped = await event_log.replay(much_later, handlers=effects.handlers)

    assert skipped.applied == 0
    assert await counted(system) == once(1)
