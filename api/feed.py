"""The live feed: server-sent events of orders and stock, for the merchant's page.

One poller a process reads the outbox, and only while somebody watches; every watcher has a queue.
No watcher holds a transaction or a database connection while it waits.
"""

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Annotated

from fastapi import APIRouter, Header, Request
from sqlalchemy.exc import SQLAlchemyError
from starlette.responses import StreamingResponse

from api.deps import DepsDep, needs
from deps.core import SYSTEM, Deps
from tools import feed
from tools.errors import Unavailable
from tools.feed import FeedItem

router = APIRouter(tags=["feed"])
log = logging.getLogger(__name__)

POLL_S = 1.0
HEARTBEAT_S = 15.0
BATCH = 200
# How far back each poll looks for transactions that took their number early and committed late.
LOOKBACK = 200
QUEUE_MAX = 1_000
WATCHERS_MAX = 100


class Hub:
    """Hands each change to every watcher once. Lives in `app.state`, on one event loop."""

    def __init__(self, deps: Deps) -> None:
        self._deps = deps.acting_as(SYSTEM)
        self._watchers: set[asyncio.Queue[FeedItem | None]] = set()
        self._poller: asyncio.Task[None] | None = None
        self._starting = asyncio.Lock()
        self._last = 0
        self._seen: set[int] = set()

    @asynccontextmanager
    async def watch(self) -> AsyncIterator[asyncio.Queue[FeedItem | None]]:
        """Yield a queue of changes from now on; None in it says the watcher fell behind.

        Raises:
            Unavailable: `WATCHERS_MAX` watch already.
        """
        if len(self._watchers) >= WATCHERS_MAX:
            raise Unavailable("Too many people watch the shop at once.")
        queue: asyncio.Queue[FeedItem | None] = asyncio.Queue(QUEUE_MAX)
        async with self._starting:
            if self._poller is None:
                await self._begin()
                self._poller = asyncio.create_task(self._poll())
            self._watchers.add(queue)
        try:
            yield queue
        finally:
            self._watchers.discard(queue)
            if not self._watchers and self._poller is not None:
                self._poller.cancel()
                self._poller = None

    async def _begin(self) -> None:
        async with self._deps.begin() as uow:
            newest = await feed.latest(uow)
            recent = await feed.changes(uow, max(0, newest - LOOKBACK), feed.FEED_LIMIT_MAX)
        self._last, self._seen = newest, {item.seq for item in recent}

    async def _poll(self) -> None:
        while True:
            try:
                await self.poll_once()
            except (SQLAlchemyError, OSError):
                # The database is away: watchers keep their heartbeat, and nothing is skipped,
                # because the next poll reads on from the last change handed out.
                log.warning("the feed could not be read; it tries again", exc_info=True)
            await asyncio.sleep(POLL_S)

    async def poll_once(self) -> None:
        """Read the changes since the last poll and hand out those not seen yet."""
        async with self._deps.begin() as uow:
            items = await feed.changes(uow, max(0, self._last - LOOKBACK), LOOKBACK + BATCH)
        for item in items:
            if item.seq not in self._seen:
                self._seen.add(item.seq)
                self._last = max(self._last, item.seq)
                self._hand_out(item)
        self._seen = {seq for seq in self._seen if seq > self._last - LOOKBACK}

    def _hand_out(self, item: FeedItem) -> None:
        for queue in list(self._watchers):
            if queue.qsize() >= QUEUE_MAX - 1:
                # Cut loose: the client comes back with its Last-Event-ID and reads what it missed.
                self._watchers.discard(queue)
                queue.put_nowait(None)
            else:
                queue.put_nowait(item)


def hub_of(request: Request) -> Hub:
    state = request.app.state
    if not isinstance(getattr(state, "feed_hub", None), Hub):
        state.feed_hub = Hub(state.deps)
    hub = state.feed_hub
    assert isinstance(hub, Hub)
    return hub


@router.get("/feed", response_class=StreamingResponse, dependencies=[needs(feed.FEED_SCOPE)])
async def follow(
    request: Request,
    deps: DepsDep,
    last_event_id: Annotated[int | None, Header(ge=0)] = None,
) -> StreamingResponse:
    """Stream `change` events: `{seq, type, occurred_at, summary, order_number, payload}`.

    Send the last `id` you saw as `Last-Event-ID` to go on from there. The stream ends when an
    access token would: connect again with a fresh one, so that a withdrawn right ends too.
    """
    return StreamingResponse(
        stream(hub_of(request), deps, last_event_id),
        media_type="text/event-stream",
        headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"},
    )


async def stream(hub: Hub, deps: Deps, last_event_id: int | None) -> AsyncGenerator[bytes, None]:
    """Yield the missed changes, then each new one, and a comment when nothing happened."""
    loop = asyncio.get_running_loop()
    until = loop.time() + deps.settings.access_token_ttl_s
    async with hub.watch() as queue:
        yield b"retry: 2000\n\n: connected\n\n"
        sent: set[int] = set()
        async for item in _missed(deps, last_event_id):
            sent.add(item.seq)
            yield _frame(item)
        while loop.time() < until:
            arrived: FeedItem | None = None
            with suppress(TimeoutError):
                arrived = await asyncio.wait_for(queue.get(), HEARTBEAT_S)
                if arrived is None:
                    return
            if arrived is None:
                yield b": nothing new\n\n"
            elif arrived.seq not in sent:
                yield _frame(arrived)


async def _missed(deps: Deps, after_seq: int | None) -> AsyncGenerator[FeedItem, None]:
    while after_seq is not None:
        async with deps.begin() as uow:
            items = await feed.changes(uow, after_seq, BATCH)
        for item in items:
            yield item
        after_seq = items[-1].seq if len(items) == BATCH else None


def _frame(item: FeedItem) -> bytes:
    return f"id: {item.seq}\nevent: change\ndata: {item.model_dump_json()}\n\n".encode()
