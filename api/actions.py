"""Approve or reject what an agent proposed. Only the person it was proposed to can."""

from typing import Any
from uuid import UUID

from fastapi import APIRouter
from pydantic import BaseModel

from agents import planner_words
from agents.base import CARD_KINDS, as_data, kind_of
from agents.coordinator import note
from api.deps import DepsDep, UowDep
from api.problems import problems
from db.models.conversation import ActionStatus
from deps.core import Deps
from tools import action
from tools.action import ActionView
from tools.errors import Conflict, DomainError, NotFound
from tools.registry import OPERATIONS

router = APIRouter(tags=["actions"])


class Card(BaseModel):
    kind: str
    data: Any


class Decision(BaseModel):
    action_id: UUID
    status: ActionStatus
    summary: str
    result: dict[str, Any] | None = None
    card: Card | None = None


@router.get("/actions/{action_id}", responses=problems(NotFound))
async def read_action(action_id: UUID, uow: UowDep) -> ActionView:
    return await action.get(uow, action_id)


@router.post("/actions/{action_id}/approve", responses=problems(NotFound, Conflict))
async def approve_action(action_id: UUID, deps: DepsDep) -> Decision:
    """Carry out a proposed action, once; approving again returns the first outcome."""
    try:
        done = await action.approve(deps, action_id)
    except DomainError as error:
        await _tell(deps, action_id, f"That did not work: {error}", None)
        raise
    kind = kind_of(OPERATIONS[done.operation])
    data = as_data(done.result)
    card = Card(kind=kind, data=data) if kind in CARD_KINDS.values() else None
    summary = planner_words.tell(kind, data, done.operation)
    await _tell(deps, action_id, summary, card)
    return Decision(action_id=done.id, status=done.status, summary=summary, result=data, card=card)


@router.post("/actions/{action_id}/reject", responses=problems(NotFound, Conflict))
async def reject_action(action_id: UUID, deps: DepsDep) -> Decision:
    """Decline a proposed action for good."""
    declined = await action.reject(deps, action_id)
    summary = "Rejected. Nothing was changed."
    await _tell(deps, action_id, summary, None)
    return Decision(action_id=declined.id, status=declined.status, summary=summary)


async def _tell(deps: Deps, action_id: UUID, text: str, card: Card | None) -> None:
    """Add the outcome to the conversation, so that the next turn knows of it."""
    async with deps.begin() as uow:
        try:
            row = await action.access(uow, action_id)
        except NotFound:
            return
        conversation_id, operation = row.conversation_id, row.operation
    if conversation_id is not None:
        shown = card.model_dump() if card else None
        await note(deps, conversation_id, operation, text, shown, action_id)
