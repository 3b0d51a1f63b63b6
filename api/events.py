"""REST: the event log and the dead letters (staff), and their replay (administrators)."""

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Query
from pydantic import BaseModel, Field

from api.deps import DepsDep, UowDep, needs
from api.parameters import SEQ_MAX, Cursor, Limit
from api.problems import problems
from deps.given import Given
from tools import audit, event_log
from tools.audit import AuditView
from tools.errors import Conflict, Forbidden, InvalidInput, NotFound, Unauthenticated
from tools.event_log import DeadLetterView, EventView, ReplayReport
from tools.page import ByTime, Page

router = APIRouter(tags=["events"])
readers = [needs("event:read")]
writers = [needs("event:write")]


class EventPage(BaseModel):
    items: list[EventView]
    next_after_seq: int | None = Field(
        description="Pass as `after_seq` for what follows; null when nothing does yet."
    )


class Replay(Given):
    handler: str | None = Field(
        default=None, max_length=100, examples=["notification.confirm_order"]
    )
    force: bool = Field(default=False, description="Also where it was applied already.")


@router.get("/audits", dependencies=readers, responses=problems(Unauthenticated, Forbidden))
async def list_audits(
    uow: UowDep,
    is_failed: bool | None = None,
    sort: ByTime = ByTime.NEWEST,
    limit: Limit = 20,
    cursor: Cursor = None,
) -> Page[AuditView]:
    """List the audits of stock, orders and money, with what they found."""
    return await audit.list_audits(uow, is_failed, sort, limit, cursor)


@router.get("/events", dependencies=readers, responses=problems(Unauthenticated, Forbidden))
async def list_events(
    uow: UowDep,
    after_seq: Annotated[int, Query(ge=0, le=SEQ_MAX)] = 0,
    type: Annotated[str | None, Query(max_length=100, examples=["OrderPlaced"])] = None,
    aggregate_id: UUID | None = None,
    limit: Limit = 50,
) -> EventPage:
    """List events in the order they were recorded."""
    items = await event_log.list_events(
        uow, after_seq=after_seq, type=type, aggregate_id=aggregate_id, limit=limit
    )
    return EventPage(items=items, next_after_seq=items[-1].seq if len(items) == limit else None)


@router.post(
    "/events/{event_id}/replay",
    dependencies=writers,
    responses=problems(Unauthenticated, Forbidden, NotFound),
)
async def replay_event(event_id: UUID, deps: DepsDep, body: Replay) -> ReplayReport:
    """Give one event to its handlers again. Needs an `Idempotency-Key`."""
    return await event_log.replay(deps, event_id=event_id, handler=body.handler, force=body.force)


@router.get(
    "/dead-letters",
    dependencies=readers,
    responses=problems(Unauthenticated, Forbidden, InvalidInput),
)
async def list_dead_letters(
    uow: UowDep,
    limit: Limit = 50,
    cursor: Cursor = None,
    with_replayed: bool = False,
) -> Page[DeadLetterView]:
    """List deliveries that were given up."""
    return await event_log.dead(uow, limit=limit, cursor=cursor, with_replayed=with_replayed)


@router.post(
    "/dead-letters/{letter_id}/replay",
    dependencies=writers,
    responses=problems(Unauthenticated, Forbidden, NotFound, Conflict),
)
async def replay_dead_letter(letter_id: UUID, deps: DepsDep) -> ReplayReport:
    """Deliver a dead letter again, after its cause was mended. Needs an `Idempotency-Key`."""
    return await event_log.replay_dead(deps, letter_id)
