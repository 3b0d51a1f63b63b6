"""The live feed: who may watch, what they are told, and that nothing is told twice or missed."""

import asyncio
from collections.abc import AsyncGenerator

import httpx
import orjson
import pytest
from sqlalchemy import text

from api.feed import QUEUE_MAX, Hub, stream
from db.types import new_id
from deps.core import SYSTEM, Deps
from tests import factories
from tools import feed, stock
from tools.errors import Forbidden

_EVENT = text("""
    INSERT INTO outbox (id, type, schema_version, aggregate_type, aggregate_id, aggregate_seq,
                        payload, actor_role, occurred_at)
    VALUES (:id, 'StockLow', 1, 'product', :id, 1,
            '{"sku": "MUG", "available": 1}', 'system', :now)
""")


async def adjust(deps: Deps, delta: int = 1) -> None:
    async with deps.acting_as(SYSTEM).begin() as uow:
        await stock.adjust(uow, "MUG", "HAM", delta, "counted")


async def newest(deps: Deps) -> int:
    async with deps.acting_as(SYSTEM).begin() as uow:
        return await feed.latest(uow)


async def next_change(events: AsyncGenerator[bytes, None]) -> dict[str, object]:
    """Return the next change; comments and hints are passed over."""
    while True:
        frame = await asyncio.wait_for(anext(events), 20)
        for line in frame.decode().splitlines():
            if line.startswith("data: "):
                data: dict[str, object] = orjson.loads(line.removeprefix("data: "))
                return data


async def test_only_staff_may_watch(client: httpx.AsyncClient, deps: Deps, customer: Deps) -> None:
    assert (await client.get("/v1/feed")).status_code == 401
    answer = await client.get("/v1/feed", headers=factories.bearer(customer))
    assert answer.status_code == 403
    with pytest.raises(Forbidden):
        async with customer.begin() as uow:
            await feed.changes(uow, 0)


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


async def test_a_watcher_goes_on_where_it_left(merchant: Deps) -> None:
    await factories.product(merchant, "MUG")
    seen = await newest(merchant)
    await adjust(merchant, 3)
    events = stream(Hub(merchant, feed), merchant, seen)
    missed = await next_change(events)
    assert missed["summary"] == "MUG at HAM: +3, now 13 on hand (counted)."
    await adjust(merchant, 4)
    fresh = await next_change(events)
    assert fresh["summary"] == "MUG at HAM: +4, now 17 on hand (counted)."
    await events.aclose()


async def test_a_change_that_commits_late_is_not_missed(merchant: Deps) -> None:
    """A sequence hands out numbers before commits do: a lower one can become visible later."""
    await factories.product(merchant, "MUG")
    hub = Hub(merchant, feed)
    async with hub.watch() as queue, merchant.db() as slow:
        event = {"id": new_id(), "now": merchant.clock()}
        await slow.execute(_EVENT, event)
        await adjust(merchant)
        first = await asyncio.wait_for(queue.get(), 20)
        await slow.commit()
        second = await asyncio.wait_for(queue.get(), 20)
        assert first is not None
        assert second is not None
        assert (first.type, second.type) == ("StockAdjusted", "StockLow")
        assert second.seq < first.seq
        await hub.poll_once()
        assert queue.empty()


async def test_a_watcher_that_falls_behind_is_cut_loose(merchant: Deps) -> None:
    await factories.product(merchant, "MUG")
    hub = Hub(merchant, feed)
    async with hub.watch() as slow, hub.watch() as quick:
        async with merchant.begin() as uow:
            example = (await feed.changes(uow, 0))[0]
        while slow.qsize() < QUEUE_MAX - 1:
            slow.put_nowait(example)
        await adjust(merchant)
        assert (await asyncio.wait_for(quick.get(), 20)) is not None
        while slow.qsize() > 1:
            slow.get_nowait()
        assert slow.get_nowait() is None
