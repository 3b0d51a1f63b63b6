"""Webhooks: an inbox of what providers told us, handled in any order and any number of times.

A webhook is verified, written down (unique by provider and event id) and answered at once; the
worker then asks the provider what is true. What cannot be handled is tried again with back-off, and
in the end waits as dead for a person, who can replay it.
"""

import logging
from collections.abc import Mapping
from datetime import datetime, timedelta
from hashlib import sha256
from typing import Final
from uuid import UUID

from pydantic import BaseModel, ConfigDict
from sqlalchemy import update as plain_update
from sqlalchemy.dialects.postgresql import insert
from sqlmodel import col, select, update

from db.models.webhook import WebhookEvent, WebhookState, WebhookTopic
from deps.core import SYSTEM, Deps, UnitOfWork
from deps.gateway import GatewayTimeout
from deps.provider import InvalidSignature as BadSignature
from tools import dispute, truth
from tools.errors import Conflict, DomainError, InvalidSignature, NotFound, Unavailable
from tools.page import ByTime, Page, by_id, read_page
from tools.registry import Risk, operation

log = logging.getLogger(__name__)

BATCH_MAX: Final = 20
# With the doubling below, the last try is about nine hours after the first.
ATTEMPTS_MAX: Final = 14
BACKOFF_S: Final = 5.0
BACKOFF_MAX_S: Final = 3600.0
LEASE: Final = timedelta(minutes=2)  # Longer than handling may take; then another worker tries.


class WebhookReceipt(BaseModel):
    """What the sender is told: that we have it."""

    event_id: str
    is_new: bool


class WebhookView(BaseModel):
    model_config = ConfigDict(from_attributes=True)

    id: UUID
    provider: str
    event_id: str
    type: str
    topic: WebhookTopic
    object_id: str
    reference: str | None
    state: WebhookState
    attempts: int
    last_error: str
    occurred_at: datetime
    received_at: datetime
    due_at: datetime
    handled_at: datetime | None


async def receive(
    deps: Deps, provider: str, headers: Mapping[str, str], body: bytes
) -> WebhookReceipt:
    """Verify a provider's webhook and put it into the inbox, once.

    Args:
        headers: Of the request, names in lower case.
        body: The bytes as received.

    Raises:
        NotFound: No such provider is set up.
        InvalidSignature: It is not from the provider, or not fresh. Nothing was written.
        Unavailable: It cannot be verified just now; the provider sends it again.
    """
    source = truth.provider_named(deps, provider)
    try:
        notice = await source.notice(headers, body, deps.clock())
    except BadSignature as error:
        raise InvalidSignature(str(error)) from error
    except GatewayTimeout as error:
        raise Unavailable(f"{provider} cannot verify it just now.") from error
    is_ours = notice.topic is not WebhookTopic.OTHER
    async with deps.begin() as uow:
        row = WebhookEvent(
            provider=provider,
            event_id=notice.id,
            type=notice.type,
            topic=notice.topic,
            object_id=notice.object_id[:200],
            reference=notice.reference,
            key=notice.key,
            body_sha256=sha256(body).hexdigest(),
            state=WebhookState.RECEIVED if is_ours else WebhookState.IGNORED,
            due_at=uow.now,
            occurred_at=notice.occurred_at,
            received_at=uow.now,
        )
        written = await uow.session.execute(
            insert(WebhookEvent)
            .values(**row.model_dump())
            .on_conflict_do_nothing(constraint="one_row_per_event")
            .returning(col(WebhookEvent.id))
        )
        is_new = written.first() is not None
    return WebhookReceipt(event_id=notice.id, is_new=is_new)


async def handle_due(deps: Deps, limit: int = BATCH_MAX) -> int:
    """Handle webhooks that are due; return how many were tried. Any number of workers may."""
    system = deps.acting_as(SYSTEM)
    async with system.begin() as uow:
        due = (
            select(WebhookEvent.id)
            .where(WebhookEvent.state == WebhookState.RECEIVED, WebhookEvent.due_at <= uow.now)
            .order_by(col(WebhookEvent.due_at))
            .limit(limit)
            .with_for_update(skip_locked=True)
        )
        claim = (
            update(WebhookEvent)
            .where(col(WebhookEvent.id).in_(due))
            .values(attempts=col(WebhookEvent.attempts) + 1, due_at=uow.now + LEASE)
            .returning(WebhookEvent)
        )
        claimed = list((await uow.session.execute(claim)).scalars())
    for row in claimed:
        await _try(system, row)
    return len(claimed)


async def _try(deps: Deps, row: WebhookEvent) -> None:
    try:
        is_ours = await _handle(deps, row)
    except DomainError as error:
        is_final = isinstance(error, Conflict | NotFound)
        await _put_off(deps, row, str(error), is_final=is_final)
    except Exception as error:
        # The edge of the job: one event that we cannot handle must not stop the others.
        log.exception("webhook %s of %s failed", row.event_id, row.provider)
        await _put_off(deps, row, f"{type(error).__name__}: {error}", is_final=False)
    else:
        state = WebhookState.HANDLED if is_ours else WebhookState.IGNORED
        await _finish(deps, row, state=state, last_error="", handled_at=deps.clock())


async def _handle(deps: Deps, row: WebhookEvent) -> bool:
    """Ask what is true and write it down; return whether it concerns us."""
    if row.topic is WebhookTopic.DISPUTE:
        return await dispute.settle(deps, row.provider, row.object_id)
    reference = row.reference
    if reference is None:
        source = truth.provider_named(deps, row.provider)
        try:
            reference = await source.locate(row.topic, row.object_id)
        except GatewayTimeout as error:
            raise Unavailable(f"{row.provider} did not answer.") from error
    return reference is not None and await truth.settle(deps, row.provider, reference, row.key)


async def _put_off(deps: Deps, row: WebhookEvent, error: str, *, is_final: bool) -> None:
    is_over = is_final or row.attempts >= ATTEMPTS_MAX
    wait_s = min(BACKOFF_MAX_S, BACKOFF_S * 2.0 ** (row.attempts - 1))
    if is_over:
        log.error("webhook %s of %s is dead: %s", row.event_id, row.provider, error)
    await _finish(
        deps,
        row,
        state=WebhookState.DEAD if is_over else WebhookState.RECEIVED,
        last_error=error[:500],
        due_at=deps.clock() + timedelta(seconds=wait_s),
    )


async def _finish(deps: Deps, row: WebhookEvent, **values: object) -> None:
    async with deps.begin() as uow:
        # Unless another worker took it over, or a person replayed it, after our lease.
        await uow.session.execute(
            plain_update(WebhookEvent)
            .where(col(WebhookEvent.id) == row.id, col(WebhookEvent.attempts) == row.attempts)
            .values(**values)
        )


@operation(
    scope="payment:read",
    risk=Risk.READ,
    idempotent=True,
    examples=(
        "show the latest webhooks",
        "which webhooks are dead",
        "list {state} webhooks of {provider}",
        "did {provider} tell us about payment {reference}",
    ),
)
async def list_webhooks(
    uow: UnitOfWork,
    provider: str | None = None,
    state: WebhookState | None = None,
    reference: str | None = None,
    sort: ByTime = ByTime.NEWEST,
    limit: int = 20,
    cursor: str | None = None,
) -> Page[WebhookView]:
    """List what providers told us.

    Args:
        provider: Only of this one: stripe or paypal.
        state: Only in this state: received, handled, ignored or dead.
        reference: Only about this payment, by the provider's name for it.
        sort: newest or oldest first.
        limit: How many to return, 1 to 100.
        cursor: `next_cursor` of the page before.
    """
    query = select(WebhookEvent)
    if provider is not None:
        query = query.where(WebhookEvent.provider == provider)
    if state is not None:
        query = query.where(WebhookEvent.state == state)
    if reference is not None:
        query = query.where(WebhookEvent.reference == reference)
    return await read_page(
        uow, query, by_id(WebhookEvent.id, sort), WebhookView.model_validate, limit, cursor
    )


@operation(
    scope="payment:write",
    risk=Risk.RECORD,
    idempotent=True,
    examples=(
        "replay webhook {webhook_id}",
        "handle the webhook {webhook_id} again",
        "try webhook {webhook_id} once more",
        "retry the dead webhook {webhook_id}",
    ),
)
async def replay(uow: UnitOfWork, webhook_id: UUID) -> WebhookView:
    """Have a webhook handled again, whatever became of it. The provider is asked anew, so that
    repeating it changes nothing that is right already.

    Args:
        webhook_id: Our id of the webhook.

    Raises:
        NotFound: No such webhook.
    """
    row = await uow.session.get(WebhookEvent, webhook_id, with_for_update=True)
    if row is None:
        raise NotFound("No such webhook.")
    row.state, row.attempts, row.due_at, row.last_error = WebhookState.RECEIVED, 0, uow.now, ""
    row.handled_at = None
    await uow.session.flush()
    return WebhookView.model_validate(row)
