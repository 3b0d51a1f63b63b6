"""The worker: everything that happens without a request.

Each job is a loop of its own, restarted with back-off when it fails, so that one broken dependency
stops one job. Any number of workers may run: every step claims its work in PostgreSQL. Without
Redis the reconciler applies events straight from the outbox.
"""

import asyncio
import logging
import os
import random
import secrets
import socket
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Final

import asyncpg
from sqlalchemy.ext.asyncio import AsyncEngine

from deps import background
from deps.bus import BusUnavailable, EventBus, RedisStreamBus
from deps.core import SYSTEM, Deps
from tools import (
    audit,
    capture,
    checkout,
    credit_desk,
    delivery,
    exchange,
    idempotency,
    inventory,
    ledger,
    notification,
    order_change,
    refund_process,
    sale,
    stock_ledger,
    truth,
    webhook,
)
from tools.handlers import HANDLERS, Handlers, groups

log = logging.getLogger(__name__)

RELAY_POLL_S: Final = 1.0
READ_WAIT_MS: Final = 500
READ_LIMIT: Final = 50
CLAIM_EVERY_S: Final = 15.0
CLAIM_IDLE_MS: Final = 30_000
RETRY_EVERY_S: Final = 1.0
RECONCILE_EVERY_S: Final = 5.0
MAIL_EVERY_S: Final = 1.0
WEBHOOKS_EVERY_S: Final = 1.0
SWEEP_EVERY_S: Final = 5.0
AUDIT_POLL_S: Final = 60.0
PURGE_EVERY_S: Final = 600.0
RESTART_MAX_S: Final = 10.0
STOP_GRACE_S: Final = 1.2

Step = Callable[[], Awaitable[bool]]
"""One round of a loop; True asks for the next round at once."""


async def run(
    deps: Deps,
    stop: asyncio.Event,
    *,
    bus: EventBus | None = None,
    handlers: Handlers = HANDLERS,
) -> None:
    """Work until `stop` is set, then finish or abandon within two seconds.

    What is abandoned was not committed and is found again by the next worker.

    Args:
        deps: The worker acts as the system itself, whoever `deps.actor` is.
        bus: By default, the stream on the cache's Redis; none if there is none.
    """
    own_bus = bus is None and deps.cache.redis is not None
    if deps.cache.redis is not None and bus is None:
        bus = RedisStreamBus.beside(deps.cache.redis)
    worker = _Worker(deps.acting_as(SYSTEM), stop, bus, handlers)
    try:
        await worker.run()
    finally:
        if own_bus and bus is not None:
            await bus.aclose()


@dataclass
class _Worker:
    deps: Deps
    stop: asyncio.Event
    bus: EventBus | None
    handlers: Handlers
    wake_relay: asyncio.Event = field(default_factory=asyncio.Event)
    is_bus_down: bool = False

    def __post_init__(self) -> None:
        self.reconciler = delivery.Reconciler(self.handlers)
        self.is_bus_down = self.bus is None
        self.name = f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(3)}"

    async def run(self) -> None:
        loops = [
            self.supervise("reconciler", self.reconcile, self.reconcile_every_s),
            self.supervise("retries", self.retry, lambda: RETRY_EVERY_S),
            self.supervise("mail", self.send_mail, lambda: MAIL_EVERY_S),
            self.supervise("checkout sweep", self.resume_checkouts, lambda: SWEEP_EVERY_S),
            self.supervise("refund sweep", self.resume_refunds, lambda: SWEEP_EVERY_S),
            self.supervise("authorization expiry", self.settle_expired, lambda: PURGE_EVERY_S),
            self.supervise("webhooks", self.handle_webhooks, lambda: WEBHOOKS_EVERY_S),
            self.supervise("authorisations", self.renew_authorizations, lambda: PURGE_EVERY_S),
            self.supervise("credit expiry", self.expire_credit, lambda: PURGE_EVERY_S),
            self.supervise("hold sweep", self.expire_holds, lambda: SWEEP_EVERY_S),
            self.supervise("backorder sweep", self.fill_backorders, lambda: SWEEP_EVERY_S),
            self.supervise("stock snapshot", self.snapshot_stock, lambda: PURGE_EVERY_S),
            self.supervise("ledger closing", self.close_ledger, lambda: PURGE_EVERY_S),
            self.supervise("audit", self.audit, lambda: AUDIT_POLL_S),
            self.supervise("purge", self.purge, lambda: PURGE_EVERY_S),
        ]
        if self.bus is not None:
            loops.append(self.supervise("listener", self.listen, lambda: 0.0))
            loops.append(self.supervise("relay", self.relay, lambda: 0.0))
            loops += [
                self.supervise(f"consumer {group}", self.consumer(self.bus, group), lambda: 0.0)
                for group in groups(self.handlers)
            ]
        # Before any event is announced, so that no group can begin behind one it has not seen.
        await self.until_done(self.supervise("start", self.begin, lambda: 0.0, once=True))
        tasks = [asyncio.create_task(loop) for loop in loops]
        log.info("worker %s runs %d jobs", self.name, len(tasks))
        try:
            await self.stop.wait()
            await asyncio.wait(tasks, timeout=STOP_GRACE_S)
        finally:
            await background.end(*tasks)
            log.info("worker %s stopped", self.name)

    async def begin(self) -> bool:
        await delivery.begin_checkpoints(self.deps, self.handlers)
        return True

    async def until_done(self, work: Coroutine[Any, Any, None]) -> None:
        """Await `work`, or give it up when the worker is told to stop."""
        task, stopping = asyncio.create_task(work), asyncio.create_task(self.stop.wait())
        try:
            await asyncio.wait({task, stopping}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            await background.end(task, stopping)

    async def supervise(
        self, name: str, step: Step, interval_s: Callable[[], float], *, once: bool = False
    ) -> None:
        """Repeat `step` until the worker stops; after a failure wait longer each time, jittered."""
        failures = 0
        while not self.stop.is_set():
            try:
                again = await step()
                failures = 0
            except Exception as error:
                # The edge of the process: a job may fail for any reason and must come back.
                failures += 1
                is_outage = isinstance(error, BusUnavailable)
                log.warning(
                    "%s failed, time %d in a row: %s", name, failures, error, exc_info=not is_outage
                )
                await self.pause(random.uniform(0.1, min(RESTART_MAX_S, 0.2 * 2.0**failures)))
                continue
            if once:
                return
            if not again:
                await self.pause(interval_s())

    async def pause(self, seconds: float) -> None:
        if seconds > 0:
            with suppress(TimeoutError):
                await asyncio.wait_for(self.stop.wait(), seconds)

    # --- events --------------------------------------------------------------------------------

    async def relay(self) -> bool:
        assert self.bus is not None
        self.wake_relay.clear()  # Before looking: what commits from here on wakes the next round.
        try:
            published = await delivery.relay_once(self.deps, self.bus)
        except BusUnavailable:
            self.is_bus_down = True
            raise
        if published < delivery.BATCH_MAX:
            await self.until_done(self.nudge())
        return True

    async def nudge(self) -> None:
        with suppress(TimeoutError):
            await asyncio.wait_for(self.wake_relay.wait(), RELAY_POLL_S)

    async def listen(self) -> bool:
        """Wake the relay on every commit of events, as long as the connection lives.

        Losing it costs a second of delay at most: the relay also polls.
        """
        engine = self.deps.db.kw["bind"]
        assert isinstance(engine, AsyncEngine)
        async with engine.connect() as pooled:
            raw = await pooled.get_raw_connection()
            connection = raw.driver_connection
            assert isinstance(connection, asyncpg.Connection)
            lost = asyncio.Event()
            connection.add_termination_listener(lambda _: lost.set())
            try:
                await connection.add_listener("outbox", lambda *_: self.wake_relay.set())
                self.wake_relay.set()
                await self.until_done(_wait(lost))
            finally:
                # Not back to the pool: a listening connection is of no use to others.
                await pooled.invalidate()
        return False

    def consumer(self, bus: EventBus, group: str) -> Step:
        claim_at = 0.0

        async def step() -> bool:
            nonlocal claim_at
            now = asyncio.get_running_loop().time()
            messages = []
            try:
                if now >= claim_at:
                    await bus.ensure_group(group)
                    claim_at = now + CLAIM_EVERY_S
                    messages = await bus.claim(
                        group, self.name, idle_ms=CLAIM_IDLE_MS, limit=READ_LIMIT
                    )
                messages += await bus.read(
                    group, self.name, limit=READ_LIMIT, wait_ms=1 if messages else READ_WAIT_MS
                )
            except BusUnavailable:
                self.is_bus_down = True
                raise
            self.is_bus_down = False
            envelopes = [m.envelope for m in messages if m.envelope is not None]
            if len(envelopes) < len(messages):
                log.error("%d entries on the bus are not ours", len(messages) - len(envelopes))
            await delivery.apply(self.deps, group, envelopes, self.handlers)
            await bus.ack(group, messages)
            return True

        return step

    async def retry(self) -> bool:
        return await delivery.retry_due(self.deps, handlers=self.handlers) > 0

    def reconcile_every_s(self) -> float:
        return RELAY_POLL_S if self.is_bus_down else RECONCILE_EVERY_S

    async def reconcile(self) -> bool:
        settle_s = 0.0 if self.is_bus_down else delivery.SETTLE_S
        return await self.reconciler.run_once(self.deps, settle_s=settle_s) > 0

    # --- the rest ------------------------------------------------------------------------------

    async def send_mail(self) -> bool:
        return await notification.send_due(self.deps) > 0

    async def resume_checkouts(self) -> bool:
        await sale.resume_stuck(self.deps)
        await order_change.resume_stuck(self.deps)
        await exchange.resume_stuck(self.deps)
        return False

    async def resume_refunds(self) -> bool:
        await capture.resume_stuck(self.deps)
        await refund_process.resume_stuck(self.deps)
        return False

    async def renew_authorizations(self) -> bool:
        await checkout.cancel_unpaid(self.deps)
        return False

    async def expire_credit(self) -> bool:
        return await credit_desk.expire_due(self.deps) > 0

    async def settle_expired(self) -> bool:
        await truth.settle_expired(self.deps)
        return False

    async def handle_webhooks(self) -> bool:
        return await webhook.handle_due(self.deps) > 0

    async def expire_holds(self) -> bool:
        await inventory.expire_due(self.deps)
        return False

    async def fill_backorders(self) -> bool:
        return await inventory.fill_due(self.deps) > 0

    async def snapshot_stock(self) -> bool:
        await stock_ledger.snapshot(self.deps)
        return False

    async def close_ledger(self) -> bool:
        await ledger.close_days(self.deps)
        return False

    async def audit(self) -> bool:
        found = await audit.run_due(self.deps)
        if found:
            log.error("the audit found %d broken invariants", len(found))
        return False

    async def purge(self) -> bool:
        more = await delivery.purge(self.deps, handlers=self.handlers)
        return await idempotency.purge(self.deps) + more > 0


async def _wait(event: asyncio.Event) -> None:
    await event.wait()
