"""From the outbox to every handler, each event applied once by each, whatever dies on the way.

    outbox ──relay──▶ bus ──consumer──▶ inbox + effect, in one transaction
       │                                  │ failure
       └──────reconciler, when the        ▼
              bus lost it ───▶      event_retry ──too often──▶ dead_letter

The bus may repeat, reorder or lose events. The inbox makes a repetition harmless, the reconciler
finds a loss, and nothing is acknowledged before PostgreSQL knows what became of it.
"""

import asyncio
import logging
import random
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from enum import StrEnum
from typing import Any, Final
from uuid import UUID

import orjson
from sqlalchemy import CursorResult, Result, Row, text
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlmodel import col, delete, select, update

from db.models.outbox import DeadLetter, EventRetry, InboxEntry, OutboxMessage
from deps.bus import Envelope, EventBus
from deps.core import SYSTEM, Deps, Event, UnitOfWork
from deps.telemetry import continue_trace
from deps.transaction import external
from tools.envelope import UnreadableEvent, load
from tools.events import EVENTS
from tools.handlers import HANDLERS, Handler, HandlerContext, Handlers, groups, handlers_of

log = logging.getLogger(__name__)

ATTEMPTS_MAX: Final = 8
BACKOFF_BASE_S: Final = 1.0
BACKOFF_MAX_S: Final = 300.0
HANDLER_TIMEOUT_S: Final = 10.0
BATCH_MAX: Final = 200
RETRIES_MAX: Final = 20
RETRY_LEASE_S: Final = HANDLER_TIMEOUT_S * (RETRIES_MAX + 1)
SETTLE_S: Final = 5.0
INBOX_KEPT_DAYS: Final = 30
UNREADABLE: Final = "unreadable"
"""Stands for the handler in dead letters of events that no handler could be given."""

_RELAY_LOCK: Final = 7_305_771_401  # Any number, the same in every relay.


class Outcome(StrEnum):
    APPLIED = "applied"
    SKIPPED = "skipped"
    FAILED = "failed"
    GIVEN_UP = "given_up"


def envelope_of(row: "Row[Any] | OutboxMessage") -> Envelope:
    return Envelope.model_validate(row, from_attributes=True)


def backoff_s(attempts: int) -> float:
    """Wait before the next attempt, in full jitter: those who failed together return apart.

    https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/
    """
    return random.uniform(0, min(BACKOFF_MAX_S, BACKOFF_BASE_S * 2.0**attempts))


# --- relay -----------------------------------------------------------------------------------


async def relay_once(deps: Deps, bus: EventBus, limit: int = BATCH_MAX) -> int:
    """Publish the oldest unpublished events and mark them; return how many.

    Relays exclude each other by a session-level advisory lock on a connection that has no
    transaction open, so nothing is held in PostgreSQL but the lock while Redis is called. A lease
    in the rows would run out under a paused relay, which would then publish behind its successor;
    the lock lives exactly as long as its connection. (It needs a real session: no
    transaction-pooling proxy in between.) A relay that dies between publishing and marking leaves
    events to be published again in the same order, which the inbox makes harmless.

    Raises:
        BusUnavailable: The events stay unpublished.
    """
    external()
    engine = deps.db.kw["bind"]
    assert isinstance(engine, AsyncEngine)
    async with engine.connect() as connection:
        await connection.execution_options(isolation_level="AUTOCOMMIT")
        try:
            locked = await connection.scalar(
                text("SELECT pg_try_advisory_lock(CAST(:key AS bigint))"), {"key": _RELAY_LOCK}
            )
            if not locked:
                return 0
            rows = await connection.execute(
                select(OutboxMessage)
                .where(col(OutboxMessage.published_at).is_(None))
                .order_by(col(OutboxMessage.seq))
                .limit(limit)
            )
            envelopes = [envelope_of(row) for row in rows]
            if envelopes:
                await _forget(deps, envelopes)
                await bus.publish(envelopes)
                await connection.execute(
                    update(OutboxMessage)
                    .where(col(OutboxMessage.seq).in_([envelope.seq for envelope in envelopes]))
                    .values(published_at=deps.clock())
                )
            await connection.execute(
                text("SELECT pg_advisory_unlock(CAST(:key AS bigint))"), {"key": _RELAY_LOCK}
            )
        except BaseException:
            # Closes the session and with it the lock, which the pool would otherwise keep.
            await connection.invalidate()
            raise
    return len(envelopes)


async def _forget(deps: Deps, envelopes: Sequence[Envelope]) -> None:
    """Let cached bodies go once more: who committed may have died before it did (`Deps.begin`)."""
    kinds = {EVENTS.get(envelope.type) for envelope in envelopes}
    for tag in {kind.invalidates for kind in kinds if kind is not None and kind.invalidates}:
        await deps.cache.forget(tag)


# --- consumers -------------------------------------------------------------------------------


async def apply(
    deps: Deps, group: str, envelopes: Sequence[Envelope], handlers: Handlers = HANDLERS
) -> list[Outcome]:
    """Give each event to each handler of `group`, every pair in a transaction of its own.

    When this returns, all of it may be acknowledged: PostgreSQL knows each pair as applied, to be
    retried or given up. If it raises, PostgreSQL itself failed; acknowledge nothing.
    """
    if not envelopes:
        return []
    deps = deps.acting_as(SYSTEM)
    async with deps.begin() as uow:
        done_up_to = await _checkpoint(uow, group)
    outcomes: list[Outcome] = []
    for envelope in envelopes:
        if envelope.seq <= done_up_to:
            # A redelivery so late that its inbox row may have been purged.
            outcomes.append(Outcome.SKIPPED)
            continue
        try:
            event = load(envelope)
        except UnreadableEvent as error:
            outcomes.append(await _give_up(deps, envelope, UNREADABLE, str(error), attempts=1))
            continue
        for handler in handlers_of(type(event), group, handlers):
            outcomes.append(await deliver(deps, handler, event, envelope))
    return outcomes


async def deliver(
    deps: Deps,
    handler: Handler,
    event: Event,
    envelope: Envelope,
    *,
    parked: bool = False,
    again: bool = False,
) -> Outcome:
    """Apply one event by one handler, unless that was done, or record the failure.

    Args:
        again: Whether to forget, in the same transaction, that it was done.
        parked: Whether a pair waiting in `event_retry` or `dead_letter` is meant: a redelivery
            must not touch those, or it would use up their attempts.
    """
    with continue_trace(f"handle {handler.name}", envelope.trace_id) as trace_id:
        deps = replace(deps, actor=SYSTEM, trace_id=trace_id)
        try:
            async with asyncio.timeout(HANDLER_TIMEOUT_S):
                return await _deliver(deps, handler, event, envelope, parked, again)
        except Exception as error:
            # The edge between us and any handler: a bug in one must not stop the others' events.
            # It is not swallowed: it waits in event_retry, then dead_letter, with its text.
            log.warning("%s failed on event %s", handler.name, envelope.id, exc_info=True)
            return await _postpone(deps, envelope, handler.name, f"{type(error).__name__}: {error}")


async def _deliver(
    deps: Deps, handler: Handler, event: Event, envelope: Envelope, parked: bool, again: bool
) -> Outcome:
    async with deps.begin() as uow:
        if again:
            await _forget_handled(uow, envelope.id, handler.name)
        if not await _record(uow, envelope.id, handler.name, parked):
            return Outcome.SKIPPED
        await handler.run(HandlerContext(uow), event, envelope)
    return Outcome.APPLIED


_RECORD = text("""
    INSERT INTO inbox (event_id, handler, handled_at)
    SELECT CAST(:event_id AS uuid), CAST(:handler AS text), CAST(:now AS timestamptz)
    WHERE :parked
       OR NOT EXISTS (SELECT FROM event_retry
                      WHERE event_id = CAST(:event_id AS uuid) AND handler = CAST(:handler AS text))
      AND NOT EXISTS (SELECT FROM dead_letter
                      WHERE event_id = CAST(:event_id AS uuid) AND handler = CAST(:handler AS text)
                        AND replayed_at IS NULL)
    ON CONFLICT DO NOTHING RETURNING event_id
""")


async def _record(uow: UnitOfWork, event_id: UUID, handler: str, parked: bool) -> bool:
    """Claim the pair for this transaction; a concurrent claim waits and then finds it taken."""
    values = {"event_id": event_id, "handler": handler, "parked": parked, "now": uow.now}
    recorded = await uow.session.scalar(_RECORD, values) is not None
    if parked:
        await _forget_retry(uow, event_id, handler)
    return recorded


async def _forget_handled(uow: UnitOfWork, event_id: UUID, handler: str) -> None:
    await uow.session.execute(
        delete(InboxEntry).where(
            col(InboxEntry.event_id) == event_id, col(InboxEntry.handler) == handler
        )
    )


async def _forget_retry(uow: UnitOfWork, event_id: UUID, handler: str) -> None:
    await uow.session.execute(
        delete(EventRetry).where(
            col(EventRetry.event_id) == event_id, col(EventRetry.handler) == handler
        )
    )


async def _checkpoint(uow: UnitOfWork, group: str) -> int:
    seq = await uow.session.scalar(
        text("SELECT seq FROM event_checkpoint WHERE handler_group = :group"), {"group": group}
    )
    return int(seq or 0)


# --- failures --------------------------------------------------------------------------------

_POSTPONE = text("""
    INSERT INTO event_retry (event_id, handler, attempts, due_at, last_error)
    VALUES (:event_id, :handler, 1, :now, :error)
    ON CONFLICT (event_id, handler)
    DO UPDATE SET attempts = event_retry.attempts + 1, last_error = excluded.last_error
    RETURNING attempts
""")
_GIVE_UP = text("""
    INSERT INTO dead_letter (id, event_id, handler, type, payload, reason, attempts, failed_at)
    VALUES (gen_random_uuid(), :event_id, :handler, :type, CAST(:payload AS jsonb), :reason,
            :attempts, :now)
    ON CONFLICT (event_id, handler)
    DO UPDATE SET reason = excluded.reason, attempts = excluded.attempts,
                  failed_at = excluded.failed_at, replayed_at = NULL
""")


async def _postpone(deps: Deps, envelope: Envelope, handler: str, error: str) -> Outcome:
    async with deps.begin() as uow:
        attempts = await uow.session.scalar(
            _POSTPONE,
            {"event_id": envelope.id, "handler": handler, "now": uow.now, "error": error[:2000]},
        )
        assert isinstance(attempts, int)
        if attempts >= ATTEMPTS_MAX:
            await _write_dead_letter(uow, envelope, handler, error, attempts)
            return Outcome.GIVEN_UP
        await uow.session.execute(
            update(EventRetry)
            .where(col(EventRetry.event_id) == envelope.id, col(EventRetry.handler) == handler)
            .values(due_at=uow.now + timedelta(seconds=backoff_s(attempts)))
        )
    return Outcome.FAILED


async def _give_up(
    deps: Deps, envelope: Envelope, handler: str, reason: str, attempts: int
) -> Outcome:
    async with deps.begin() as uow:
        await _write_dead_letter(uow, envelope, handler, reason, attempts)
    return Outcome.GIVEN_UP


async def _write_dead_letter(
    uow: UnitOfWork, envelope: Envelope, handler: str, reason: str, attempts: int
) -> None:
    await _forget_retry(uow, envelope.id, handler)
    await uow.session.execute(
        _GIVE_UP,
        {
            "event_id": envelope.id,
            "handler": handler,
            "type": envelope.type,
            "payload": orjson.dumps(envelope.payload).decode(),
            "reason": reason[:2000],
            "attempts": attempts,
            "now": uow.now,
        },
    )


_CLAIM_DUE = text("""
    UPDATE event_retry SET due_at = :leased_until
    WHERE (event_id, handler) IN (
        SELECT event_id, handler FROM event_retry WHERE due_at <= :now
        ORDER BY due_at LIMIT :limit FOR UPDATE SKIP LOCKED)
    RETURNING event_id, handler, attempts
""")


async def retry_due(deps: Deps, limit: int = RETRIES_MAX, handlers: Handlers = HANDLERS) -> int:
    """Try again what is due; return how many were. The claim is a lease, so a crash delays only."""
    async with deps.begin() as uow:
        claimed = await uow.session.execute(
            _CLAIM_DUE,
            {
                "leased_until": uow.now + timedelta(seconds=RETRY_LEASE_S),
                "now": uow.now,
                "limit": limit,
            },
        )
        due = claimed.all()
        events = await _outbox_rows(uow, [row.event_id for row in due])
    for event_id, handler_name, attempts in due:
        envelope = events[event_id]
        try:
            event = load(envelope)
            named = [h for h in handlers_of(type(event), None, handlers) if h.name == handler_name]
            if not named:
                raise UnreadableEvent(f"no handler {handler_name} for {envelope.type} any more")
        except UnreadableEvent as error:
            await _give_up(deps, envelope, handler_name, str(error), attempts)
            continue
        await deliver(deps, named[0], event, envelope, parked=True)
    return len(due)


async def _outbox_rows(uow: UnitOfWork, ids: Sequence[UUID]) -> dict[UUID, Envelope]:
    rows = await uow.session.exec(select(OutboxMessage).where(col(OutboxMessage.id).in_(ids)))
    return {row.id: envelope_of(row) for row in rows}


# --- reconciler ------------------------------------------------------------------------------

# A group new to this shop starts where the others stand: history is for `replay` to give it.
_BEGIN_CHECKPOINT = text("""
    INSERT INTO event_checkpoint (handler_group, seq, updated_at)
    SELECT CAST(:group AS text), coalesce((SELECT max(seq) FROM event_checkpoint), 0),
           CAST(:now AS timestamptz)
    ON CONFLICT DO NOTHING
""")
_MOVE_CHECKPOINT = text("""
    UPDATE event_checkpoint SET seq = :seq, updated_at = :now
    WHERE handler_group = :group AND seq < :seq
""")
_HEIGHT = text("""
    SELECT CAST(CAST(pg_snapshot_xmin(pg_current_snapshot()) AS text) AS bigint) AS oldest_running,
           CAST(CAST(pg_snapshot_xmax(pg_current_snapshot()) AS text) AS bigint) AS next_to_run,
           coalesce((SELECT max(seq) FROM outbox), 0) AS seq
""")
_MISSING = text("""
    SELECT o.* FROM outbox o
    WHERE o.seq > :after_seq
      AND CASE WHEN o.type = ANY(CAST(:known AS text[]))
          THEN EXISTS (
            SELECT FROM unnest(CAST(:types AS text[]), CAST(:handlers AS text[]))
                        AS pair(type, handler)
            WHERE pair.type = o.type
              AND NOT EXISTS (SELECT FROM inbox i
                              WHERE i.event_id = o.id AND i.handler = pair.handler)
              AND NOT EXISTS (SELECT FROM event_retry r
                              WHERE r.event_id = o.id AND r.handler = pair.handler)
              AND NOT EXISTS (SELECT FROM dead_letter d
                              WHERE d.event_id = o.id AND d.replayed_at IS NULL
                                AND d.handler IN (pair.handler, :unreadable)))
          ELSE NOT EXISTS (SELECT FROM dead_letter d
                           WHERE d.event_id = o.id AND d.handler = :unreadable)
          END
    ORDER BY o.seq LIMIT :limit
""")


async def begin_checkpoints(deps: Deps, handlers: Handlers = HANDLERS) -> None:
    """Give each group its starting point. Call before the first relay or consumer runs."""
    async with deps.begin() as uow:
        for group in groups(handlers):
            await uow.session.execute(_BEGIN_CHECKPOINT, {"group": group, "now": uow.now})


@dataclass
class Reconciler:
    """Finds events that never reached a group, applies them, and moves the group's checkpoint.

    Keep one per process: it remembers where the last scan stood. `seq` is drawn before the commit,
    so an event below the highest visible one may still appear; a checkpoint moves only to a height
    seen earlier, once every transaction that was running then has ended.
    """

    handlers: Handlers = field(default_factory=lambda: HANDLERS)
    _seen: dict[str, tuple[int, int]] = field(default_factory=dict)

    async def run_once(
        self, deps: Deps, *, settle_s: float = SETTLE_S, limit: int = BATCH_MAX
    ) -> int:
        """Apply what is missing; return how many deliveries that took.

        Args:
            settle_s: How long the bus has to deliver an event first. 0 when there is no bus.
        """
        found = 0
        for group in groups(self.handlers):
            found += await self._run_group(deps.acting_as(SYSTEM), group, settle_s, limit)
        return found

    async def _run_group(self, deps: Deps, group: str, settle_s: float, limit: int) -> int:
        pairs = [
            (event.__name__, handler.name)
            for event in self.handlers
            for handler in handlers_of(event, group, self.handlers)
        ]
        async with deps.begin() as uow:
            await uow.session.execute(_BEGIN_CHECKPOINT, {"group": group, "now": uow.now})
            settled_seq = await self._settled_seq(uow, group)
            rows = await uow.session.execute(
                _MISSING,
                {
                    "after_seq": await _checkpoint(uow, group),
                    "known": list(EVENTS),
                    "types": [event for event, _ in pairs],
                    "handlers": [handler for _, handler in pairs],
                    "unreadable": UNREADABLE,
                    "limit": limit,
                },
            )
            missing = [envelope_of(row) for row in rows]
            if missing:
                settled_seq = min(settled_seq, missing[0].seq - 1)
            await uow.session.execute(
                _MOVE_CHECKPOINT, {"group": group, "seq": settled_seq, "now": uow.now}
            )
            overdue = uow.now - timedelta(seconds=settle_s)
        late = [envelope for envelope in missing if envelope.occurred_at <= overdue]
        outcomes = await apply(deps, group, late, self.handlers)
        return len(outcomes) - outcomes.count(Outcome.SKIPPED)

    async def _settled_seq(self, uow: UnitOfWork, group: str) -> int:
        """Return a height below which no event can appear any more (0 when none is known yet)."""
        now = (await uow.session.execute(_HEIGHT)).one()
        seq, next_to_run = self._seen.get(group, (0, now.next_to_run))
        settled = now.oldest_running >= next_to_run
        if settled or group not in self._seen:
            self._seen[group] = (now.seq, now.next_to_run)
        return seq if settled else 0


# --- retention -------------------------------------------------------------------------------

_PURGE_INBOX = text("""
    DELETE FROM inbox WHERE (event_id, handler) IN (
        SELECT i.event_id, i.handler FROM inbox i JOIN outbox o ON o.id = i.event_id
        WHERE i.handled_at < :before
          AND o.seq <= (SELECT min(seq) FROM event_checkpoint
                        WHERE handler_group = ANY(CAST(:groups AS text[])))
        LIMIT :limit)
""")


async def purge(deps: Deps, limit: int = 5_000, handlers: Handlers = HANDLERS) -> int:
    """Delete old inbox rows below every checkpoint and letters long since replayed.

    The outbox is the audit trail: nothing is deleted from it.
    """
    async with deps.begin() as uow:
        before = uow.now - timedelta(days=INBOX_KEPT_DAYS)
        purged = await uow.session.execute(
            _PURGE_INBOX, {"before": before, "groups": list(groups(handlers)), "limit": limit}
        )
        letters = await uow.session.execute(
            delete(DeadLetter).where(col(DeadLetter.replayed_at) < before)
        )
    return _rowcount(purged) + _rowcount(letters)


def _rowcount(result: "Result[Any]") -> int:
    assert isinstance(result, CursorResult)
    return result.rowcount
