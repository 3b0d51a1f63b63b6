"""The event log and the dead letters, for people: to read, to follow and to replay."""

import asyncio
from collections.abc import AsyncGenerator
from datetime import datetime, timedelta
from typing import Any, Final
from uuid import UUID

from pydantic import BaseModel, ConfigDict
from sqlalchemy import text
from sqlmodel import col, select, update

from db.models.outbox import DeadLetter, OutboxMessage
from deps.bus import Envelope
from deps.core import SYSTEM, Deps, UnitOfWork
from tools.delivery import (
    INBOX_KEPT_DAYS,
    RETRY_LEASE_S,
    UNREADABLE,
    Outcome,
    deliver,
    envelope_of,
)
from tools.envelope import UnreadableEvent, load
from tools.errors import Conflict, Forbidden, NotFound
from tools.handlers import HANDLERS, Handler, Handlers, handlers_of
from tools.page import Ordering, Page, checked_limit, read_page

REPLAY_BATCH: Final = 200
TAIL_BATCH: Final = 100
TAIL_POLL_S: Final = 0.5


class EventView(BaseModel):
    model_config = ConfigDict(from_attributes=True)

    seq: int
    id: UUID
    type: str
    schema_version: int
    aggregate_type: str
    aggregate_id: UUID
    aggregate_seq: int
    payload: dict[str, Any]
    actor_id: UUID | None
    actor_role: str
    trace_id: str | None
    occurred_at: datetime
    published_at: datetime | None


class DeadLetterView(BaseModel):
    model_config = ConfigDict(from_attributes=True)

    id: UUID
    event_id: UUID
    handler: str
    type: str
    payload: dict[str, Any]
    reason: str
    attempts: int
    failed_at: datetime
    replayed_at: datetime | None


class ReplayReport(BaseModel):
    """How many pairs of event and handler went which way. What failed is retried by the worker."""

    applied: int = 0
    skipped: int = 0
    failed: int = 0
    given_up: int = 0

    def count(self, outcome: Outcome) -> None:
        setattr(self, outcome.value, getattr(self, outcome.value) + 1)


def _require(deps_or_uow: Deps | UnitOfWork, scope: str) -> None:
    if not deps_or_uow.actor.may(scope):
        raise Forbidden(f"This needs the permission {scope}.", scope=scope)


# --- reading ---------------------------------------------------------------------------------


async def list_events(
    uow: UnitOfWork,
    *,
    after_seq: int = 0,
    type: str | None = None,
    aggregate_id: UUID | None = None,
    limit: int = 50,
) -> list[EventView]:
    """List events in the order of `seq`, from after `after_seq` on.

    Args:
        limit: 1 to 100. Pass the last event's `seq` as `after_seq` for the next page.

    Raises:
        Forbidden: Without `event:read`.
        InvalidInput: The limit.
    """
    _require(uow, "event:read")
    query = (
        select(OutboxMessage)
        .where(col(OutboxMessage.seq) > after_seq)
        .order_by(col(OutboxMessage.seq))
        .limit(checked_limit(limit))
    )
    if type is not None:
        query = query.where(OutboxMessage.type == type)
    if aggregate_id is not None:
        query = query.where(OutboxMessage.aggregate_id == aggregate_id)
    return [EventView.model_validate(row) for row in await uow.session.exec(query)]


async def tail(deps: Deps, *, after_seq: int | None = None) -> AsyncGenerator[EventView, None]:
    """Yield events as they are committed, for a person to watch, until the caller stops.

    Args:
        after_seq: Where to begin; by default, with what comes next.

    Events that commit out of order may be passed over: `seq` is drawn before the commit.
    """
    if after_seq is None:
        async with deps.begin() as uow:
            _require(uow, "event:read")
            newest = await uow.session.scalar(text("SELECT coalesce(max(seq), 0) FROM outbox"))
        after_seq = int(newest or 0)
    while True:
        async with deps.begin() as uow:
            events = await list_events(uow, after_seq=after_seq, limit=TAIL_BATCH)
        for event in events:
            after_seq = event.seq
            yield event
        if len(events) < TAIL_BATCH:
            await asyncio.sleep(TAIL_POLL_S)


async def dead(
    uow: UnitOfWork, *, limit: int = 50, cursor: str | None = None, with_replayed: bool = False
) -> Page[DeadLetterView]:
    """List dead letters, newest first.

    Raises:
        Forbidden: Without `event:read`.
    """
    _require(uow, "event:read")
    query = select(DeadLetter)
    if not with_replayed:
        query = query.where(col(DeadLetter.replayed_at).is_(None))
    ordering = Ordering((DeadLetter.failed_at, DeadLetter.id))
    return await read_page(uow, query, ordering, DeadLetterView.model_validate, limit, cursor)


# --- replaying -------------------------------------------------------------------------------


async def replay(
    deps: Deps,
    *,
    event_id: UUID | None = None,
    from_seq: int | None = None,
    to_seq: int | None = None,
    handler: str | None = None,
    force: bool = False,
    handlers: Handlers = HANDLERS,
) -> ReplayReport:
    """Apply past events again: one, a range of `seq` (both ends included), or all.

    Without `force` only what was never applied is, including retries not yet due and dead letters.
    Events older than the inbox is kept are then left alone, because nobody knows of them any more.

    Args:
        handler: Name of the only handler to run, as in `notification.confirm_order`.
        force: Whether to run handlers that have applied the event already.

    Raises:
        Forbidden: Without `event:write`.
        NotFound: No such event or handler.
    """
    _require(deps, "event:write")
    known = {each.name for row in handlers.values() for each in row}
    if handler is not None and handler not in known:
        raise NotFound(f"There is no handler {handler}.", field="handler")
    deps = deps.acting_as(SYSTEM)
    report, after_seq, found = ReplayReport(), (from_seq or 1) - 1, False
    while True:
        envelopes = await _batch(deps, event_id, after_seq, to_seq)
        for envelope in envelopes:
            for outcome in await _replay_one(deps, envelope, handler, force, handlers):
                report.count(outcome)
        found = found or bool(envelopes)
        if event_id is not None or len(envelopes) < REPLAY_BATCH:
            break
        after_seq = envelopes[-1].seq
    if event_id is not None and not found:
        raise NotFound("There is no such event.")
    return report


async def _batch(
    deps: Deps, event_id: UUID | None, after_seq: int, to_seq: int | None
) -> list[Envelope]:
    query = (
        select(OutboxMessage)
        .where(col(OutboxMessage.seq) > after_seq)
        .order_by(col(OutboxMessage.seq))
        .limit(REPLAY_BATCH)
    )
    if event_id is not None:
        query = query.where(OutboxMessage.id == event_id)
    if to_seq is not None:
        query = query.where(col(OutboxMessage.seq) <= to_seq)
    async with deps.begin() as uow:
        return [envelope_of(row) for row in await uow.session.exec(query)]


async def _replay_one(
    deps: Deps, envelope: Envelope, handler: str | None, force: bool, handlers: Handlers
) -> list[Outcome]:
    forgotten = envelope.occurred_at < deps.clock() - timedelta(days=INBOX_KEPT_DAYS)
    if forgotten and not force:
        return [Outcome.SKIPPED]
    try:
        event = load(envelope)
    except UnreadableEvent:
        return [Outcome.GIVEN_UP]
    outcomes = []
    for each in handlers_of(type(event), None, handlers):
        if handler in (None, each.name):
            outcome = await deliver(deps, each, event, envelope, parked=True, again=force)
            if outcome is not Outcome.FAILED:
                await _close_letter(deps, envelope.id, each.name, outcome)
            outcomes.append(outcome)
    return outcomes


async def _close_letter(deps: Deps, event_id: UUID, handler: str, outcome: Outcome) -> None:
    if outcome is Outcome.GIVEN_UP:
        return
    async with deps.begin() as uow:
        await uow.session.execute(
            update(DeadLetter)
            .where(
                col(DeadLetter.event_id) == event_id,
                col(DeadLetter.handler).in_([handler, UNREADABLE]),
                col(DeadLetter.replayed_at).is_(None),
            )
            .values(replayed_at=uow.now)
        )


async def replay_dead(deps: Deps, letter_id: UUID, handlers: Handlers = HANDLERS) -> ReplayReport:
    """Deliver a dead letter again, now that its cause is mended.

    It becomes a retry first, in the transaction that closes the letter, so that a crash before the
    delivery does not lose it. A new failure is retried as usual, and ends as a dead letter again.

    Raises:
        Forbidden: Without `event:write`.
        NotFound: No such letter, or it was replayed.
        Conflict: Still unreadable, or its handler is gone; the letter stays.
    """
    _require(deps, "event:write")
    deps = deps.acting_as(SYSTEM)
    async with deps.begin() as uow:
        letter = (
            await uow.session.exec(
                select(DeadLetter).where(DeadLetter.id == letter_id).with_for_update()
            )
        ).first()
        if letter is None or letter.replayed_at is not None:
            raise NotFound("There is no such dead letter.")
        row = await uow.session.exec(
            select(OutboxMessage).where(OutboxMessage.id == letter.event_id)
        )
        envelope = envelope_of(row.one())
        try:
            event = load(envelope)
        except UnreadableEvent as error:
            raise Conflict(f"The event still cannot be read: {error}.") from error
        concerned: list[Handler] = [
            each
            for each in handlers_of(type(event), None, handlers)
            if letter.handler in (each.name, UNREADABLE)
        ]
        if not concerned and letter.handler != UNREADABLE:
            raise Conflict(f"There is no handler {letter.handler} any more.")
        letter.replayed_at = uow.now
        for each in concerned:
            await uow.session.execute(
                text("""
                    INSERT INTO event_retry (event_id, handler, attempts, due_at, last_error)
                    VALUES (:event_id, :handler, 0, :due_at, '') ON CONFLICT DO NOTHING
                """),
                {
                    "event_id": envelope.id,
                    "handler": each.name,
                    "due_at": uow.now + timedelta(seconds=RETRY_LEASE_S),
                },
            )
    report = ReplayReport()
    for each in concerned:
        report.count(await deliver(deps, each, event, envelope, parked=True))
    return report
