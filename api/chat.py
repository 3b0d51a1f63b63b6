"""Chat: one message in, a stream of server-sent events out.

The events are `conversation`, `route`, `text`, `tool`, `card`, `approval`, `error` and `done`; the
turn is stored before `done`. Closing the connection cancels the run.
"""

import asyncio
import logging
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any
from uuid import UUID

import orjson
from fastapi import APIRouter
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, Field

from agents import coordinator
from agents.model import choose_model
from api.deps import DepsDep, UowDep
from api.problems import problems
from deps.core import Deps
from tools import conversation as conversations
from tools.errors import DomainError, InvalidInput, NotFound, Unavailable

router = APIRouter(tags=["chat"])
log = logging.getLogger(__name__)

TURN_TIMEOUT_S = 90.0


class ChatMessage(BaseModel):
    conversation_id: UUID | None = Field(
        default=None, description="Absent: a new conversation is opened."
    )
    text: str = Field(min_length=1, max_length=4000)


class TranscriptEntry(BaseModel):
    role: str
    text: str
    cards: list[dict[str, Any]] = Field(default_factory=list)
    approvals: list[dict[str, Any]] = Field(default_factory=list)


@router.post(
    "/chat",
    response_class=StreamingResponse,
    responses={200: {"content": {"text/event-stream": {}}}, **problems(NotFound, InvalidInput)},
)
async def chat(body: ChatMessage, deps: DepsDep) -> StreamingResponse:
    """Say something to the shop. What needs approval comes as an `approval` event and waits."""
    async with deps.begin() as uow:
        row = await (
            conversations.access(uow, body.conversation_id)
            if body.conversation_id
            else conversations.start(uow, title=body.text)
        )
        conversation_id, state = row.id, dict(row.state)
    turn = coordinator.begin(state, conversation_id)
    return StreamingResponse(
        _events(deps, conversation_id, body.text, turn),
        media_type="text/event-stream",
        headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"},
    )


def _event(name: str, data: dict[str, Any]) -> bytes:
    return b"event: " + name.encode() + b"\ndata: " + orjson.dumps(data) + b"\n\n"


async def _events(
    deps: Deps, conversation_id: UUID, text: str, turn: coordinator.Turn
) -> AsyncGenerator[bytes, None]:
    yield _event("conversation", {"id": str(conversation_id)})
    reply: dict[str, Any] = {"role": "assistant", "text": "", "cards": [], "approvals": []}
    failure: DomainError | None = None
    model = choose_model(deps.settings, deps.actor)
    try:
        # Closed here, not by the garbage collector: a client that leaves stops the run at once.
        answering = aclosing(coordinator.answer(deps, model, text, turn))
        async with asyncio.timeout(TURN_TIMEOUT_S), answering as events:
            async for said in events:
                if said.name == "card":
                    reply["cards"].append(said.data)
                elif said.name == "approval":
                    reply["approvals"].append(said.data)
                yield _event(said.name, said.data)
    except DomainError as error:
        failure = error
    except TimeoutError:
        failure = Unavailable("That took too long; please try again.")
    if failure is not None:
        log.warning("chat turn failed: %s", failure.error_code())
        yield _event("error", {"code": failure.error_code(), "detail": str(failure)})
    reply["text"] = "\n\n".join(part for part in (turn.text, str(failure or "")) if part)
    asked = {"role": "user", "text": text, "cards": [], "approvals": []}
    await coordinator.persist(deps, conversation_id, turn, [asked, reply])
    yield _event("done", {})


@router.get("/chat/{conversation_id}", responses=problems(NotFound))
async def transcript(conversation_id: UUID, uow: UowDep) -> list[TranscriptEntry]:
    """Return what was said, oldest first."""
    row = await conversations.access(uow, conversation_id)
    return [TranscriptEntry.model_validate(entry) for entry in row.transcript]
