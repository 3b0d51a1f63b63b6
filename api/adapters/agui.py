"""AG-UI: `POST /v1/agui`, for front ends that speak https://docs.ag-ui.com.

The history is the server's: of what a client sends, the last user message is taken and nothing
else. Its tools, state, system messages, tool results and approvals mean nothing here.
"""

from ag_ui.core import RunAgentInput, TextInputContent, UserMessage
from fastapi import APIRouter, Request
from fastapi.responses import StreamingResponse
from pydantic import ValidationError
from pydantic_ai.ui.ag_ui import AGUIAdapter, AGUIEventStream

from api.adapters.native import begin, native, not_understood, without_history
from api.chat import STREAM_HEADERS, runner_of
from api.deps import DepsDep
from api.problems import problems
from tools.errors import InvalidInput, TurnRunning

router = APIRouter(tags=["chat"])

_BODY = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {
                "schema": {
                    "type": "object",
                    "description": "AG-UI's RunAgentInput.",
                    "required": ["threadId", "runId", "messages"],
                    "properties": {
                        "threadId": {"type": "string"},
                        "runId": {"type": "string"},
                        "messages": {"type": "array", "items": {"type": "object"}},
                    },
                }
            }
        },
    }
}


@router.post(
    "/agui",
    response_class=StreamingResponse,
    responses={
        200: {"content": {"text/event-stream": {}}}, **problems(InvalidInput, TurnRunning),
    },
    openapi_extra=_BODY,
)  # fmt: skip
async def agui(request: Request, deps: DepsDep) -> StreamingResponse:
    """Take an AG-UI run: its last user message is said in the conversation of its `threadId`."""
    try:
        asked = AGUIAdapter.build_run_input(without_history(await request.body()))
    except ValidationError as error:
        raise not_understood("an AG-UI run", error) from error
    message = _last(asked)
    runner = runner_of(request)
    begun = await begin(
        runner, deps, thread=asked.thread_id, message=message.id, said=_text(message),
        channel="agui",
    )  # fmt: skip
    encoder: AGUIEventStream[None, str] = AGUIEventStream(
        asked, accept=request.headers.get("accept")
    )
    events = native(
        runner.follow(deps, begun.conversation_id, begun.first_event - 1, turn_id=begun.id)
    )
    return StreamingResponse(
        encoder.encode_stream(encoder.transform_stream(events)),
        media_type=encoder.content_type,
        headers=STREAM_HEADERS,
    )


def _last(asked: RunAgentInput) -> UserMessage:
    if asked.resume:
        raise InvalidInput("Approve at /v1/actions; a run cannot.", field="resume")
    last = asked.messages[-1] if asked.messages else None
    if not isinstance(last, UserMessage):
        raise InvalidInput("The last message has to be the user's.", field="messages")
    return last


def _text(message: UserMessage) -> str:
    if isinstance(message.content, str):
        return message.content
    parts = [part.text for part in message.content if isinstance(part, TextInputContent)]
    if len(parts) < len(message.content):
        raise InvalidInput("Only text is taken, no files.", field="messages")
    return "\n".join(parts)
