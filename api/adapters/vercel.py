"""Vercel AI: `POST /v1/vercel-ai`, for `useChat` and whatever else speaks the data stream of
https://ai-sdk.dev/docs/ai-sdk-ui/stream-protocol.

The history is the server's: of what a client sends, the last user message is taken and nothing
else. Its system messages, tool results and approvals mean nothing here.
"""

from typing import Annotated

from fastapi import APIRouter, Path, Request, Response
from fastapi.responses import StreamingResponse
from pydantic import ValidationError
from pydantic_ai.ui.vercel_ai import VercelAIAdapter, VercelAIEventStream
from pydantic_ai.ui.vercel_ai.request_types import (
    RequestData,
    SubmitMessage,
    TextUIPart,
    UIMessage,
)

from api.adapters.native import begin, native, not_understood, under_way, without_history
from api.chat import STREAM_HEADERS, runner_of
from api.deps import DepsDep
from api.problems import problems
from deps.core import Deps
from tools.errors import InvalidInput, TurnRunning
from tools.turn import Begun

router = APIRouter(tags=["chat"])

Chat = Annotated[str, Path(min_length=1, max_length=190, description="The page's name for it.")]

_BODY = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {
                "schema": {
                    "type": "object",
                    "description": "What `useChat` sends.",
                    "required": ["trigger", "id", "messages"],
                    "properties": {
                        "trigger": {"enum": ["submit-message", "regenerate-message"]},
                        "id": {"type": "string"},
                        "messages": {"type": "array", "items": {"type": "object"}},
                    },
                }
            }
        },
    }
}


@router.post(
    "/vercel-ai",
    response_class=StreamingResponse,
    responses={
        200: {"content": {"text/event-stream": {}}}, **problems(InvalidInput, TurnRunning),
    },
    openapi_extra=_BODY,
)  # fmt: skip
async def vercel_ai(request: Request, deps: DepsDep) -> StreamingResponse:
    """Take a `useChat` request: its last user message is said in the conversation of its `id`."""
    try:
        asked = VercelAIAdapter.build_run_input(without_history(await request.body()))
    except ValidationError as error:
        raise not_understood("a useChat request", error) from error
    message = _last(asked)
    is_new = asked.trigger == "submit-message"
    begun = await begin(
        runner_of(request), deps, thread=asked.id, message=message.id if is_new else None,
        said=_text(message), channel="vercel",
    )  # fmt: skip
    return _stream(request, deps, asked, begun)


@router.get(
    "/vercel-ai/{chat}/stream",
    response_class=StreamingResponse,
    responses={
        200: {"content": {"text/event-stream": {}}},
        204: {"description": "None runs."},
        **problems(),
    },
)
async def resume(chat: Chat, request: Request, deps: DepsDep) -> Response:
    """Go on with the answer that runs in a chat, from its beginning: what `useChat` asks for with
    `resume`, when its page was left or reloaded."""
    begun = await under_way(deps, thread=chat, channel="vercel")
    if begun is None:
        return Response(status_code=204)
    return _stream(request, deps, SubmitMessage(id=chat, messages=[]), begun)


def _stream(request: Request, deps: Deps, asked: RequestData, begun: Begun) -> StreamingResponse:
    encoder: VercelAIEventStream[None, str] = VercelAIEventStream(
        asked, accept=request.headers.get("accept"), server_message_id=str(begun.id)
    )
    events = native(
        runner_of(request).follow(
            deps, begun.conversation_id, begun.first_event - 1, turn_id=begun.id
        )
    )
    return StreamingResponse(
        encoder.encode_stream(encoder.transform_stream(events)),
        media_type=encoder.content_type,
        headers={**STREAM_HEADERS, **(encoder.response_headers or {})},
    )


def _last(asked: RequestData) -> UIMessage:
    last = asked.messages[-1] if asked.messages else None
    if asked.trigger == "regenerate-message" and last is not None and last.role == "assistant":
        last = asked.messages[-2] if len(asked.messages) > 1 else None
    if last is None or last.role != "user":
        raise InvalidInput("The last message has to be the user's.", field="messages")
    return last


def _text(message: UIMessage) -> str:
    parts = [part.text for part in message.parts if isinstance(part, TextUIPart)]
    if len(parts) < len(message.parts):
        raise InvalidInput("Only text is taken, no files.", field="messages")
    return "\n".join(parts)
