"""What was said in a conversation, turn by turn, with its approvals as they stand now."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final
from uuid import UUID

from pydantic import BaseModel
from sqlalchemy import text
from sqlmodel import col, select

from db.models.chat import ChatTurn, TurnState
from deps.core import UnitOfWork
from tools import conversation as conversations

ENTRIES_MAX: Final = 400

_STATUSES = text("SELECT id, status FROM pending_action WHERE id = ANY(:ids)")


class TurnView(BaseModel):
    """What was asked and answered; `asked` is empty where the shop spoke by itself."""

    id: UUID
    number: int
    asked: str
    reply: str
    cards: list[dict[str, Any]]
    approvals: list[dict[str, Any]]
    state: TurnState
    created_at: datetime
    first_event: int


async def history(
    uow: UnitOfWork, conversation_id: UUID, before: int | None = None, limit: int = 100
) -> list[TurnView]:
    """Return the turns before number `before`, oldest first, with their approvals as they stand.

    Raises:
        NotFound: No such conversation, or someone else's.
    """
    conversation = await conversations.access(uow, conversation_id)
    query = select(ChatTurn).where(ChatTurn.conversation_id == conversation.id)
    if before is not None:
        query = query.where(col(ChatTurn.number) < before)
    rows = (await uow.session.exec(query.order_by(col(ChatTurn.number).desc()).limit(limit))).all()
    views = [TurnView.model_validate(row, from_attributes=True) for row in reversed(rows)]
    await _refresh_approvals(uow, views)
    return views


async def entries(uow: UnitOfWork, conversation_id: UUID) -> list[dict[str, Any]]:
    """Return what was said as a plain list of `role`, `text`, `cards` and `approvals`.

    Raises:
        NotFound: No such conversation, or someone else's.
    """
    said: list[dict[str, Any]] = []
    for turn in await history(uow, conversation_id, limit=ENTRIES_MAX):
        if turn.asked:
            said.append({"role": "user", "text": turn.asked, "cards": [], "approvals": []})
        if turn.reply or turn.cards or turn.approvals or not turn.asked:
            shown = {"cards": turn.cards, "approvals": turn.approvals}
            said.append({"role": "assistant", "text": turn.reply, **shown})
    return said


async def _refresh_approvals(uow: UnitOfWork, views: Sequence[TurnView]) -> None:
    shown = [approval for view in views for approval in view.approvals if "action_id" in approval]
    if not shown:
        return
    ids = {"ids": [UUID(approval["action_id"]) for approval in shown]}
    current = {str(row.id): row.status for row in await uow.session.execute(_STATUSES, ids)}
    for approval in shown:
        approval["status"] = current.get(approval["action_id"], "expired")
