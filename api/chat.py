"""Chat: one message in, a stream of server-sent events out.

The events are `conversation`, `turn`, `route`, `text`, `tool`, `card`, `approval`, `note`, `error`,
`reset` and `done`. All but the first are numbered in their conversation and kept: a client that
lost its connection goes on from the last `id` it saw. Closing the connection stops nothing; the
answer is carried on and stored. `POST …/cancel` stops it.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Annotated, Any
from uuid import UUID

import orjson
from fastapi import APIRouter, FastAPI, Header, Query, Request, WebSocket
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, Field

from agents.runner import Runner
from api.deps import DepsDep, UowDep
from api.problems import problems
from deps.given import Given
from tools import transcript as transcripts
from tools.errors import Conflict, InvalidInput, NotFound, TooManyRequests, TurnRunning
from tools.turn import NUMBER_MAX, TEXT_CHARS_MAX, Event

router = APIRouter(tags=["chat"])

STREAM_HEADERS = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
_STREAM: dict[int | str, dict[str, Any]] = {200: {"content": {"text/event-stream": {}}}}


class ChatMessage(Given):
    conversation_id: UUID | None = Field(
        default=None, description="Absent: a new conversation is opened."
    )
    text: str = Field(min_length=1, max_length=TEXT_CHARS_MAX)
    turn_id: UUID | None = Field(
        default=None,
        description="Your own id of this message: sending it again asks nothing twice, and streams "
        "the answer from its beginning.",
    )


class TranscriptEntry(BaseModel):
    role: str
    text: str
    cards: list[dict[str, Any]] = Field(default_factory=list)
    approvals: list[dict[str, Any]] = Field(default_factory=list)


class Cancelled(BaseModel):
    turn_id: UUID | None = Field(description="What was asked to stop; null when nothing ran.")


def runner_of(request: Request | WebSocket) -> Runner:
    """Return the runner of this process, made when first needed."""
    state = request.app.state
    if not isinstance(getattr(state, "chat_runner", None), Runner):
        state.chat_runner = Runner(state.deps)
    runner = state.chat_runner
    assert isinstance(runner, Runner)
    return runner


async def close(app: FastAPI) -> None:
    """End what runs, so that it is known as interrupted and not only missing."""
    runner = getattr(app.state, "chat_runner", None)
    if isinstance(runner, Runner):
        app.state.chat_runner = None
        await runner.aclose()


@router.post(
    "/chat",
    response_class=StreamingResponse,
    responses={**_STREAM, **problems(NotFound, TurnRunning, Conflict, InvalidInput)},
)
async def chat(body: ChatMessage, request: Request, deps: DepsDep) -> StreamingResponse:
    """Say something to the shop. What needs approval comes as an `approval` event and waits.

    One answer runs at a time in a conversation: a message sent meanwhile is refused with
    `turn_running`.
    """
    runner = runner_of(request)
    begun = await runner.start(
        deps, body.conversation_id, body.text, channel="sse", turn_id=body.turn_id
    )
    opening = {"id": str(begun.conversation_id), "turn_id": str(begun.id)}
    events = runner.follow(deps, begun.conversation_id, begun.first_event - 1, turn_id=begun.id)
    return StreamingResponse(
        _frames(events, opening), media_type="text/event-stream", headers=STREAM_HEADERS
    )


@router.get(
    "/chat/{conversation_id}/events",
    response_class=StreamingResponse,
    responses={**_STREAM, **problems(NotFound)},
)
async def follow(
    conversation_id: UUID,
    request: Request,
    deps: DepsDep,
    after: Annotated[
        int | None, Query(ge=0, le=NUMBER_MAX, description="The last number seen.")
    ] = None,
    live: Annotated[bool, Query(description="Stay connected when nothing runs.")] = False,
    last_event_id: Annotated[int | None, Header(ge=0, le=NUMBER_MAX)] = None,
) -> StreamingResponse:
    """Follow a conversation from where you left off: send the last `id` as `Last-Event-ID`.

    Without `live` the stream ends when nothing runs any more. `reset` says that events you ask for
    were dropped: read the conversation instead. A live stream ends when an access token would.
    """
    async with deps.begin() as uow:  # Before the answer begins, so that a stranger gets a 404.
        await transcripts.history(uow, conversation_id, limit=1)
    last = last_event_id if last_event_id is not None else after or 0
    runner = runner_of(request)
    events = _until(
        runner.follow(deps, conversation_id, last, is_live=live), deps.settings.access_token_ttl_s
    )
    return StreamingResponse(
        _frames(events), media_type="text/event-stream", headers=STREAM_HEADERS
    )


@router.post("/chat/{conversation_id}/cancel", responses=problems(NotFound, TooManyRequests))
async def cancel(conversation_id: UUID, request: Request, deps: DepsDep) -> Cancelled:
    """Stop the answer that runs. What it had said and done so far is kept."""
    return Cancelled(turn_id=await runner_of(request).cancel(deps, conversation_id))


@router.get("/chat/{conversation_id}", responses=problems(NotFound))
async def transcript(conversation_id: UUID, uow: UowDep) -> list[TranscriptEntry]:
    """Return what was said, oldest first."""
    said = await transcripts.entries(uow, conversation_id)
    return [TranscriptEntry.model_validate(entry) for entry in said]


def shown(event: Event) -> dict[str, Any]:
    """Return an event's data as clients get it: `turn_id` tells whose it is."""
    return {"turn_id": str(event.turn_id), **event.data} if event.turn_id else event.data


def frame(event: Event) -> bytes:
    data = orjson.dumps(shown(event), option=orjson.OPT_SORT_KEYS)  # The same at each replay.
    return b"id: %d\nevent: %s\ndata: %s\n\n" % (event.number, event.name.encode(), data)


async def _frames(
    events: AsyncIterator[Event | None], opening: dict[str, Any] | None = None
) -> AsyncGenerator[bytes, None]:
    if opening is not None:
        yield b"event: conversation\ndata: " + orjson.dumps(opening) + b"\n\n"
    else:
        yield b"retry: 2000\n\n"
    async for event in events:
        yield frame(event) if event is not None else b": still here\n\n"


async def _until(
    events: AsyncGenerator[Event | None, None], seconds: float
) -> AsyncGenerator[Event | None, None]:
    loop = asyncio.get_running_loop()
    end = loop.time() + seconds
    async for event in events:
        yield event
        if loop.time() > end:
            return
