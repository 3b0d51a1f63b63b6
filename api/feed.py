"""Live feeds: server-sent events of orders and stock, for the merchant's page and for programs.

One reader a process and feed, and only while somebody watches; every watcher has a queue, and holds
no transaction or database connection while it waits. What the relay announces on the bus wakes the
reader. It looks by itself, too: now and then, and every second while the bus is away.
"""

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Annotated, Any, Generic, Protocol, TypeVar

from fastapi import APIRouter, Header, Request
from sqlalchemy.exc import TimeoutError as PoolTimeout
from starlette.responses import StreamingResponse

from api.deps import DepsDep, needs
from api.parameters import SEQ_MAX
from api.problems import problems
from deps import background
from deps.announcement import Announcements
from deps.core import SYSTEM, Deps, UnitOfWork
from deps.postgres import DatabaseUnavailable
from tools import feed, stock_feed
from tools.errors import Forbidden, Unauthenticated, Unavailable

router = APIRouter(tags=["feed"])
log = logging.getLogger(__name__)

POLL_S = 1.0
# While announcements are heard. They may be missing: no worker runs, or a movement has no event.
QUIET_S = 5.0
# After a look, so that a busy shop is read some times a second and not once for each commit.
GAP_S = 0.2
HEARTBEAT_S = 15.0
BATCH = 200
# How far back each look goes, for transactions that took their number early and committed late.
LOOKBACK = 200
QUEUE_MAX = 1_000
WATCHERS_MAX = 500


class Change(Protocol):
    seq: int

    def model_dump_json(self) -> str: ...


C = TypeVar("C", bound=Change)
Made = TypeVar("Made", bound=Change, covariant=True)


class Source(Protocol[Made]):
    """A module of `tools` that can be followed."""

    async def latest(self, uow: UnitOfWork) -> int: ...

    async def changes(
        self, uow: UnitOfWork, after_seq: int | None = None, limit: int = 100
    ) -> Sequence[Made]: ...


class Hub(Generic[C]):
    """Hands each change to every watcher once. Lives in `app.state`, on one event loop."""

    def __init__(self, deps: Deps, source: Source[C], announced: Announcements) -> None:
        self.source = source
        self._announced = announced
        self._deps = deps.acting_as(SYSTEM)
        self._watchers: set[asyncio.Queue[C | None]] = set()
        self._reader: asyncio.Task[None] | None = None
        self._starting = asyncio.Lock()
        self._last = 0
        self._seen: set[int] = set()

    @asynccontextmanager
    async def watch(self) -> AsyncIterator[asyncio.Queue[C | None]]:
        """Yield a queue of changes from now on; None in it says the watcher fell behind.

        Raises:
            Unavailable: `WATCHERS_MAX` watch already.
        """
        if len(self._watchers) >= WATCHERS_MAX:
            raise Unavailable("Too many people watch the shop at once.")
        queue: asyncio.Queue[C | None] = asyncio.Queue(QUEUE_MAX)
        async with self._starting:
            if self._reader is None:
                await self._begin()
                self._reader = asyncio.create_task(self._read())
            self._watchers.add(queue)
        try:
            yield queue
        finally:
            self._watchers.discard(queue)
            if not self._watchers and self._reader is not None:
                reader, self._reader = self._reader, None
                await background.end(reader)

    async def _begin(self) -> None:
        async with self._deps.begin() as uow:
            newest = await self.source.latest(uow)
            recent = await self.source.changes(uow, max(0, newest - LOOKBACK), LOOKBACK + BATCH)
        self._last, self._seen = newest, {item.seq for item in recent}

    async def _read(self) -> None:
        async with self._announced.waiter() as woken:
            while True:
                woken.clear()  # Before reading: what is announced from here on has another look.
                more, is_read = False, False
                try:
                    more, is_read = await self.read_once(), True
                except (DatabaseUnavailable, PoolTimeout):
                    # The database is away: watchers keep their heartbeat, and nothing is skipped,
                    # because the next look reads on from the last change handed out.
                    log.warning("the feed could not be read; it tries again", exc_info=True)
                if not more:
                    await asyncio.sleep(GAP_S)
                    is_quiet = is_read and self._announced.is_heard
                    with suppress(TimeoutError):
                        await asyncio.wait_for(woken.wait(), QUIET_S if is_quiet else POLL_S)

    async def read_once(self) -> bool:
        """Read the changes since the last look and hand out those not seen yet.

        Return whether there are more to read at once.
        """
        async with self._deps.begin() as uow:
            items = await self.source.changes(uow, max(0, self._last - LOOKBACK), LOOKBACK + BATCH)
        for item in items:
            if item.seq not in self._seen:
                self._seen.add(item.seq)
                self._last = max(self._last, item.seq)
                self._hand_out(item)
        self._seen = {seq for seq in self._seen if seq > self._last - LOOKBACK}
        return len(items) == LOOKBACK + BATCH

    def _hand_out(self, item: C) -> None:
        for queue in list(self._watchers):
            if queue.qsize() >= QUEUE_MAX - 1:
                # Cut loose: the client comes back with its Last-Event-ID and reads what it missed.
                self._watchers.discard(queue)
                queue.put_nowait(None)
            else:
                queue.put_nowait(item)


_STREAM: dict[int | str, dict[str, Any]] = {
    200: {"content": {"text/event-stream": {}}},
    **problems(Unauthenticated, Forbidden, Unavailable),
}


def hub_of(request: Request, source: Source[C]) -> Hub[C]:
    """Return the process's hub of a source; the first watcher makes it."""
    state = request.app.state
    if not hasattr(state, "hubs"):
        state.hubs, state.announced = {}, Announcements(state.deps.cache.redis)
    hub: Hub[C] = state.hubs.setdefault(id(source), Hub(state.deps, source, state.announced))
    return hub


@router.get(
    "/feed",
    response_class=StreamingResponse,
    responses=_STREAM,
    dependencies=[needs(feed.FEED_SCOPE)],
)
async def follow(
    request: Request,
    deps: DepsDep,
    last_event_id: Annotated[int | None, Header(ge=0, le=SEQ_MAX)] = None,
) -> StreamingResponse:
    """Stream `change` events: `{seq, type, occurred_at, summary, order_number, payload}`.

    Send the last `id` you saw as `Last-Event-ID` to go on from there. The stream ends when an
    access token would: connect again with a fresh one, so that a withdrawn right ends too.
    """
    return StreamingResponse(
        stream(hub_of(request, feed), deps, last_event_id),
        media_type="text/event-stream",
        headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"},
    )


@router.get(
    "/inventory/stream",
    response_class=StreamingResponse,
    responses=_STREAM,
    dependencies=[needs(stock_feed.FEED_SCOPE)],
)
async def follow_stock(
    request: Request,
    deps: DepsDep,
    last_event_id: Annotated[int | None, Header(ge=0, le=SEQ_MAX)] = None,
) -> StreamingResponse:
    """Stream every stock movement as a `change` event, with the counters after it (staff).

    Send the last `id` you saw as `Last-Event-ID` to go on from there. The stream ends when an
    access token would: connect again with a fresh one.
    """
    return StreamingResponse(
        stream(hub_of(request, stock_feed), deps, last_event_id),
        media_type="text/event-stream",
        headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"},
    )


async def stream(hub: Hub[C], deps: Deps, last_event_id: int | None) -> AsyncGenerator[bytes, None]:
    """Yield the missed changes, then each new one, and a comment when nothing happened."""
    loop = asyncio.get_running_loop()
    until = loop.time() + deps.settings.access_token_ttl_s
    async with hub.watch() as queue:
        yield b"retry: 2000\n\n: connected\n\n"
        sent: set[int] = set()
        async for item in _missed(hub.source, deps, last_event_id):
            sent.add(item.seq)
            yield _frame(item)
        while loop.time() < until:
            arrived: C | None = None
            with suppress(TimeoutError):
                patience = min(HEARTBEAT_S, until - loop.time())
                arrived = await asyncio.wait_for(queue.get(), patience)
                if arrived is None:
                    return
            if arrived is None:
                yield b": nothing new\n\n"
            elif arrived.seq not in sent:
                yield _frame(arrived)


async def _missed(source: Source[C], deps: Deps, after_seq: int | None) -> AsyncGenerator[C, None]:
    while after_seq is not None:
        async with deps.begin() as uow:
            items = await source.changes(uow, after_seq, BATCH)
        for item in items:
            yield item
        after_seq = items[-1].seq if len(items) == BATCH else None


def _frame(item: Change) -> bytes:
    return f"id: {item.seq}\nevent: change\ndata: {item.model_dump_json()}\n\n".encode()
