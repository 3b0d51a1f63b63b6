"""REST: one's own conversations: found again, renamed, taken along, deleted."""

from enum import StrEnum
from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Query
from pydantic import BaseModel, Field
from starlette.responses import Response

from agents.runner import remember_broken
from api.deps import UowDep
from api.parameters import Cursor, Limit
from api.problems import problems
from deps.given import Given
from tools import conversation as conversations
from tools import transcript
from tools import turn as turns
from tools.conversation import TITLE_CHARS_MAX, ConversationSummary
from tools.errors import NotFound
from tools.page import Page
from tools.transcript import TurnView

router = APIRouter(prefix="/conversations", tags=["chat"])


class ExportFormat(StrEnum):
    JSON = "json"
    MARKDOWN = "markdown"


class ConversationView(BaseModel):
    id: UUID
    title: str
    last_event: int = Field(description="Follow `/v1/chat/{id}/events` from here on.")
    turns: list[TurnView]


class Title(Given):
    title: str = Field(min_length=1, max_length=TITLE_CHARS_MAX, examples=["Mugs for the office"])


@router.get("", responses=problems())
async def list_conversations(
    uow: UowDep,
    q: Annotated[str | None, Query(max_length=200, description="Words of it.")] = None,
    limit: Limit = 20,
    cursor: Cursor = None,
) -> Page[ConversationSummary]:
    """List one's conversations, the last used first."""
    return await conversations.list_mine(uow, q, limit, cursor)


@router.get("/{conversation_id}", responses=problems(NotFound))
async def read_conversation(
    conversation_id: UUID,
    uow: UowDep,
    before: Annotated[
        int | None, Query(ge=1, le=turns.NUMBER_MAX, description="Turns before this number.")
    ] = None,
    limit: Limit = 50,
) -> ConversationView:
    """Show the last turns of a conversation, oldest first. A running one has no reply yet."""
    # The number first: what happens between the two reads is then told twice rather than never.
    news = await turns.news(uow, conversation_id, turns.NUMBER_MAX, remember_broken)
    row = await conversations.access(uow, conversation_id)
    shown = await transcript.history(uow, conversation_id, before, limit)
    return ConversationView(id=row.id, title=row.title, last_event=news.last_event, turns=shown)


@router.patch("/{conversation_id}", responses=problems(NotFound))
async def rename_conversation(
    conversation_id: UUID, body: Title, uow: UowDep
) -> ConversationSummary:
    """Give a conversation another title."""
    return await conversations.rename(uow, conversation_id, body.title)


@router.delete("/{conversation_id}", status_code=204, responses=problems(NotFound))
async def delete_conversation(conversation_id: UUID, uow: UowDep) -> None:
    """Delete a conversation and all that was said in it, for good."""
    await conversations.delete(uow, conversation_id)


@router.get(
    "/{conversation_id}/export",
    response_class=Response,
    responses={
        200: {"content": {"application/json": {}, "text/markdown": {}}},
        **problems(NotFound),
    },
)
async def export_conversation(
    conversation_id: UUID, uow: UowDep, format: ExportFormat = ExportFormat.JSON
) -> Response:
    """Take a conversation along, whole, as JSON or as Markdown."""
    row = await conversations.access(uow, conversation_id)
    said = await transcript.history(uow, conversation_id, limit=conversations.EXPORT_TURNS_MAX)
    view = ConversationView(id=row.id, title=row.title, last_event=row.event_count, turns=said)
    if format is ExportFormat.JSON:
        body, kind, ending = view.model_dump_json(indent=2), "application/json", "json"
    else:
        body, kind, ending = _markdown(view), "text/markdown; charset=utf-8", "md"
    name = f"conversation-{row.id}.{ending}"
    return Response(
        body, media_type=kind, headers={"Content-Disposition": f'attachment; filename="{name}"'}
    )


def _markdown(view: ConversationView) -> str:
    blocks = [f"# {view.title or 'Conversation'}"]
    for turn in view.turns:
        if turn.asked:
            blocks.append(f"**You**, {turn.created_at:%Y-%m-%d %H:%M} UTC\n\n{_quoted(turn.asked)}")
        blocks.append(f"**Shop**\n\n{_quoted(turn.reply)}" if turn.reply else "")
        blocks += [f"- {_named(card)}" for card in turn.cards]
        blocks += [
            f"- Approval: {approval.get('summary', '')} ({approval.get('status', 'pending')})"
            for approval in turn.approvals
        ]
    return "\n\n".join(block for block in blocks if block) + "\n"


def _quoted(text: str) -> str:
    """Quote lines, so that what people wrote is never read as a heading or a link of ours."""
    return "\n".join(f"> {line}" for line in text.splitlines())


def _named(card: dict[str, Any]) -> str:
    data = card.get("data")
    number = data.get("number") if isinstance(data, dict) else None
    return f"Shown: {card.get('kind', 'card')}" + (f" {number}" if number is not None else "")
