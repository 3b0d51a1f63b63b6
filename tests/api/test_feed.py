"""The live feed: who may watch, what they are told, and that nothing is told twice or missed."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, aclosing
from dataclasses import replace
from typing import Any

import httpx
import orjson
import pytest
from redis.asyncio import Redis
from sqlalchemy import text

import api.feed
from api.app import create_app
from api.feed import GAP_S, QUEUE_MAX, Hub, stream
from db.types import new_id
from deps.announcement import Announcements
from deps.bus import RedisStreamBus
from deps.core import SYSTEM, Deps, UnitOfWork
from tests import factories
from tools import delivery, feed, stock, stock_feed
from tools.errors import Forbidden, Unavailable
from tools.feed import FeedItem

SOON_S = 60.0
_EVENT = text("""
    INSERT INTO outbox (id, type, schema_version, aggregate_type, aggregate_id, aggregate_seq,
                        payload, actor_role, occurred_at)
    VALUES (:id, 'StockLow', 1, 'product', :id, 1,
            '{"sku": "MUG", "available": 1}', 'system', :now)
""")


async def adjust(deps: Deps, delta: int = 1) -> None:
    async with deps.acting_as(SYSTEM).begin() as uow:
        await stock.adjust(uow, "MUG", "HAM", delta, "counted")


@pytest.fixture
def announced(deps: Deps) -> Announcements:
    return Announcements(deps.cache.redis)


@pytest.fixture
async def bus(redis: Redis) -> AsyncGenerator[RedisStreamBus, None]:
    """The stream of the shop, as a worker's relay writes it."""
    beside = RedisStreamBus.beside(redis)
    yield beside
    await beside.aclose()


class Counted:
    """The feed, which counts how often it is read."""

    def __init__(self) -> None:
        self.reads = 0

    async def latest(self, uow: UnitOfWork) -> int:
        return await feed.latest(uow)

    async def changes(
        self, uow: UnitOfWork, after_seq: int | None = None, limit: int = 100
    ) -> list[FeedItem]:
        self.reads += 1
        return await feed.changes(uow, after_seq, limit)


async def newest(deps: Deps) -> int:
    async with deps.acting_as(SYSTEM).begin() as uow:
        return await feed.latest(uow)


async def next_change(events: AsyncGenerator[bytes, None]) -> dict[str, object]:
    """Return the next change; comments and hints are passed over."""
    while True:
        frame = await asyncio.wait_for(anext(events), SOON_S)
        for line in frame.decode().splitlines():
            if line.startswith("data: "):
                data: dict[str, object] = orjson.loads(line.removeprefix("data: "))
                return data


async def test_only_staff_may_watch(
    client: httpx.AsyncClient, merchant: Deps, customer: Deps
) -> None:
    assert (await client.get("/v1/feed")).status_code == 401
    answer = await client.get("/v1/feed", headers=factories.bearer(customer))
    assert answer.status_code == 403
    staff = factories.bearer(merchant)
    for place in ("/v1/feed", "/v1/inventory/stream"):
        late = await client.get(place, headers={**staff, "Last-Event-ID": str(2**63)})
        assert (late.status_code, late.json()["field"]) == (422, "last-event-id")
    for source in (feed, stock_feed):
        with pytest.raises(Forbidden):
            async with customer.begin() as uow:
                await source.changes(uow, 0)


async def test_changes_are_told_in_sentences(merchant: Deps) -> None:
    await factories.product(merchant, "MUG")
    order = await factories.placed_order(factories.guest(merchant), MUG=2)
    async with merchant.begin() as uow:
        items = await feed.changes(uow, 0)
    placed = next(item for item in items if item.type == "OrderPlaced")
    assert placed.order_number == order.number
    assert placed.summary == f"Order {order.number} was placed over EUR 29.90."
    held = next(item for item in items if item.type == "StockReserved")
    assert held.summary == f"Order {order.number}: Stock was held."
    assert [item.seq for item in items] == sorted(item.seq for item in items)


async def test_a_watcher_goes_on_where_it_left(merchant: Deps, announced: Announcements) -> None:
    await factories.product(merchant, "MUG")
    seen = await newest(merchant)
    await adjust(merchant, 3)
    events = stream(Hub(merchant, feed, announced), merchant, seen)
    missed = await next_change(events)
    assert missed["summary"] == "MUG at HAM: +3, now 13 on hand (counted)."
    await adjust(merchant, 4)
    fresh = await next_change(events)
    assert fresh["summary"] == "MUG at HAM: +4, now 17 on hand (counted)."
    await events.aclose()


async def test_a_change_that_commits_late_is_not_missed(
    merchant: Deps, announced: Announcements, bus: RedisStreamBus
) -> None:
    """A sequence hands out numbers before commits do: a lower one can become visible later."""
    await factories.product(merchant, "MUG")
    hub = Hub(merchant, feed, announced)
    async with hub.watch() as queue, merchant.db() as slow:
        event = {"id": new_id(), "now": merchant.clock()}
        await slow.execute(_EVENT, event)
        await adjust(merchant)
        await delivery.relay_once(merchant, bus)
        first = await asyncio.wait_for(queue.get(), SOON_S)
        await slow.commit()
        await delivery.relay_once(merchant, bus)
        second = await asyncio.wait_for(queue.get(), SOON_S)
        assert first is not None
        assert second is not None
        assert (first.type, second.type) == ("StockAdjusted", "StockLow")
        assert second.seq < first.seq
        await hub.read_once()
        assert queue.empty()


async def test_a_watcher_that_falls_behind_is_cut_loose(
    merchant: Deps, announced: Announcements
) -> None:
    await factories.product(merchant, "MUG")
    hub = Hub(merchant, feed, announced)
    async with hub.watch() as slow, hub.watch() as quick:
        async with merchant.begin() as uow:
            example = (await feed.changes(uow, 0))[0]
        while slow.qsize() < QUEUE_MAX - 1:
            slow.put_nowait(example)
        await adjust(merchant)
        assert (await asyncio.wait_for(quick.get(), SOON_S)) is not None
        while slow.qsize() > 1:
            slow.get_nowait()
        assert slow.get_nowait() is None


async def heard(announced: Announcements) -> None:
    async with asyncio.timeout(SOON_S), announced.waiter() as woken:
        while not announced.is_heard:
            await woken.wait()
            woken.clear()


async def at_rest(source: Counted) -> int:
    """Return how often it was read once nobody reads it any more."""
    async with asyncio.timeout(SOON_S):
        reads = -1
        while reads != source.reads:
            reads = source.reads
            await asyncio.sleep(3 * GAP_S)
    return reads


async def test_what_the_relay_announces_is_read_at_once_and_for_everybody(
    merchant: Deps,
    announced: Announcements,
    bus: RedisStreamBus,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Two hundred watchers of a quiet shop cost no reads; a change costs a few, not two hundred."""
    monkeypatch.setattr(api.feed, "QUIET_S", 600.0)
    monkeypatch.setattr(api.feed, "POLL_S", 600.0)
    await factories.product(merchant, "MUG")
    await delivery.relay_once(merchant, bus)
    source = Counted()
    hub = Hub(merchant, source, announced)
    async with AsyncExitStack() as stack:
        queues = [await stack.enter_async_context(hub.watch()) for _ in range(200)]
        await heard(announced)
        began = await at_rest(source)
        for delta in (1, 2):
            await adjust(merchant, delta)
            await delivery.relay_once(merchant, bus)
            for queue in queues:
                change = await asyncio.wait_for(queue.get(), SOON_S)
                assert change is not None
                assert change.payload["delta"] == delta
        assert all(queue.empty() for queue in queues)
        assert source.reads - began <= 4
    assert not announced.is_heard, "nobody watches, so nobody listens"


async def test_many_commits_at_once_cost_few_reads(
    merchant: Deps,
    announced: Announcements,
    bus: RedisStreamBus,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(api.feed, "QUIET_S", 600.0)
    await factories.product(merchant, "MUG")
    source = Counted()
    hub = Hub(merchant, source, announced)
    async with hub.watch() as queue:
        await heard(announced)
        began, loop = source.reads, asyncio.get_running_loop()
        since = loop.time()
        for _ in range(30):
            await adjust(merchant)
            await delivery.relay_once(merchant, bus)
        told = [await asyncio.wait_for(queue.get(), SOON_S) for _ in range(30)]
        passed_s = loop.time() - since
        assert len({change.seq for change in told if change is not None}) == 30
        assert source.reads - began <= passed_s / GAP_S + 2


async def test_without_the_bus_the_feed_is_polled(
    merchant: Deps, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(api.feed, "QUIET_S", 600.0)
    monkeypatch.setattr(api.feed, "POLL_S", 0.05)
    await factories.product(merchant, "MUG")
    away = Redis.from_url("unix:///nowhere/valkey.sock")
    for announced in (Announcements(away), Announcements(None)):
        async with Hub(merchant, feed, announced).watch() as queue:
            await adjust(merchant)
            assert (await asyncio.wait_for(queue.get(), SOON_S)) is not None
            assert not announced.is_heard
    await away.aclose()


@pytest.mark.parametrize(
    ("kind", "payload", "number", "said"),
    [
        ("StockLow", {"sku": "MUG", "available": 1}, None, "MUG is running low: 1 left."),
        (
            "StockLow",
            {"sku": "MUG", "available": 1, "location": "HAM"},
            None,
            "MUG is running low at HAM: 1 left.",
        ),
        (
            "BackInStock",
            {"sku": "MUG", "available": 3},
            None,
            "MUG is back in stock: 3 can be sold.",
        ),
        ("SoldOut", {"sku": "MUG"}, None, "MUG is sold out."),
        ("ProductSaved", {"handle": "mug", "created": True}, None, "mug was added."),
        ("ProductSaved", {"handle": "mug", "created": False}, None, "mug was changed."),
    ],
)
def test_a_change_is_one_sentence(
    kind: str, payload: dict[str, Any], number: int | None, said: str
) -> None:
    assert feed.summarize(kind, payload, number) == said


@pytest.mark.parametrize("path", ["/v1/feed", "/v1/inventory/stream"])
async def test_what_was_missed_is_told_over_http_until_the_token_would_end(
    merchant: Deps, path: str
) -> None:
    await factories.product(merchant, "MUG")
    settings = merchant.settings.model_copy(update={"access_token_ttl_s": 0.1})
    app = create_app(settings)
    app.state.deps = replace(merchant, settings=settings)
    headers = factories.bearer(merchant)
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(app=app), base_url="http://test", headers=headers
    ) as client:
        for after, is_told in ((0, True), (2**31, False)):
            answer = await client.get(path, headers={"Last-Event-ID": str(after)})
            assert answer.headers["content-type"].startswith("text/event-stream")
            assert answer.text.startswith("retry: 2000\n\n: connected\n\n")
            assert ("event: change" in answer.text) is is_told
        assert len(app.state.hubs) == 1, "both were told by one hub"


async def test_from_now_on_is_nothing_of_the_past(merchant: Deps) -> None:
    await factories.product(merchant, "MUG")
    async with merchant.begin() as uow:
        assert await feed.changes(uow) == []
        assert await stock_feed.changes(uow) == []


async def test_silence_is_broken_by_a_comment(
    merchant: Deps, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(api.feed, "HEARTBEAT_S", 0.01)
    async with aclosing(stream(Hub(merchant, feed, Announcements(None)), merchant, None)) as events:
        assert b": connected" in await anext(events)
        assert await anext(events) == b": nothing new\n\n"


async def test_what_was_missed_and_comes_again_is_told_once(merchant: Deps) -> None:
    await factories.product(merchant, "MUG")
    seen = await newest(merchant)
    hub = Hub(merchant, feed, Announcements(None))
    async with aclosing(stream(hub, merchant, seen)) as events:
        await anext(events)
        await adjust(merchant, 3)
        await hub.read_once()  # The change is in the queue, and among what was missed.
        assert (await next_change(events))["summary"] == (
            "MUG at HAM: +3, now 13 on hand (counted)."
        )
        await adjust(merchant, 4)
        assert (await next_change(events))["summary"] == (
            "MUG at HAM: +4, now 17 on hand (counted)."
        )


async def test_a_stream_that_falls_behind_ends(merchant: Deps) -> None:
    await factories.product(merchant, "MUG")
    hub = Hub(merchant, feed, Announcements(None))
    async with aclosing(stream(hub, merchant, None)) as events, hub.watch() as other:
        await anext(events)
        await adjust(merchant)
        change = await asyncio.wait_for(other.get(), SOON_S)
        assert change is not None
        for _ in range(QUEUE_MAX):
            hub._hand_out(change)
        told = [frame async for frame in events]
    assert 0 < len(told) < QUEUE_MAX


async def test_the_shop_is_watched_by_so_many_at_once(
    merchant: Deps, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(api.feed, "WATCHERS_MAX", 1)
    hub = Hub(merchant, feed, Announcements(None))
    async with hub.watch():
        with pytest.raises(Unavailable, match="Too many"):
            async with hub.watch():
                raise AssertionError("it is full")
    async with hub.watch() as queue:
        assert queue.empty(), "whoever left made room"
