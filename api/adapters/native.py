"""A turn's events as Pydantic AI's own, for its encoders of other chat protocols.

Cards and approvals go out as custom events. An approval is shown, and nothing more: it is given at
`POST /v1/actions/{id}/approve`, never by anything a client sends in a conversation.
"""

from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass
from typing import Any
from uuid import UUID, uuid5

import orjson
from pydantic import ValidationError
from pydantic_ai import CustomEvent
from pydantic_ai.messages import (
    AgentStreamEvent,
    FunctionToolCallEvent,
    FunctionToolResultEvent,
    PartDeltaEvent,
    PartEndEvent,
    PartStartEvent,
    TextPart,
    TextPartDelta,
    ToolCallPart,
    ToolReturnPart,
)

from agents.runner import Runner
from deps.core import Deps
from tools import conversation as conversations
from tools import turn as turns
from tools.action import owner_id
from tools.errors import InvalidInput, NotFound
from tools.turn import Begun, Event

_MESSAGES = UUID("0c4b8f1e-8f0e-4c53-9d6e-5a1c7b7d9a31")


@dataclass(kw_only=True)
class Card(CustomEvent, name="card"):
    kind: str
    shown: Any

    def to_payload(self) -> Any:
        return {"kind": self.kind, "data": self.shown}


@dataclass(kw_only=True)
class Approval(CustomEvent, name="approval"):
    action_id: str
    operation: str
    summary: str
    preview: dict[str, Any]
    expires_at: str


class TurnFailed(Exception):
    """The turn ended with an error; the text is safe to show."""


def without_history(body: bytes) -> bytes:
    """Drop what a client sends from before the person's last message, unread.

    It means nothing here, so it need not be understood either: a client may be newer than we are
    and remember kinds of messages that the installed models refuse.

    Raises:
        InvalidInput: Not JSON, or nested too deep to be a message.
    """
    try:
        sent = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise InvalidInput(f"The body is not JSON: {error}", field="body") from error
    messages = sent.get("messages") if isinstance(sent, dict) else None
    if not isinstance(messages, list):
        return body
    theirs = [i for i, m in enumerate(messages) if isinstance(m, dict) and m.get("role") == "user"]
    try:
        return orjson.dumps({**sent, "messages": messages[theirs[-1] if theirs else 0 :]})
    except orjson.JSONEncodeError as error:
        raise InvalidInput("The last message is nested too deep.", field="messages") from error


def not_understood(what: str, error: ValidationError) -> InvalidInput:
    """Return the refusal of a request that is not `what` it should be, by its first wrong field."""
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    field = ".".join(str(part) for part in first["loc"]) or "body"
    return InvalidInput(f"Not {what}: {field}: {first['msg']}.", field=field)


async def begin(
    runner: Runner, deps: Deps, *, thread: str, message: str | None, said: str, channel: str
) -> Begun:
    """Begin a turn in the conversation that a client calls `thread`.

    Args:
        runner: Of this process.
        deps: Whose actor asks.
        thread: One of our conversations' ids, if it is the actor's; otherwise the client's own.
        message: The client's id of the message: sending it again begins nothing new.
        said: What the person wrote: of all a client sends, all that is taken.
        channel: agui or vercel.

    Raises: As `Runner.start`.
    """
    turn_id = None
    if message is not None:
        turn_id = uuid5(_MESSAGES, f"{owner_id(deps.actor)} {channel} {thread} {message}")
    return await runner.start(
        deps,
        await _ours(deps, thread),
        said,
        channel=channel,
        turn_id=turn_id,
        thread_key=f"{channel}:{thread}",
    )


async def under_way(deps: Deps, *, thread: str, channel: str) -> Begun | None:
    """Return the turn that runs in what a client calls `thread`, or None: nothing does, or nothing
    there is the actor's."""
    ours = await _ours(deps, thread)
    async with deps.begin() as uow:
        if ours is None:
            known = await conversations.known_thread(uow, f"{channel}:{thread}")
            ours = known.id if known is not None else None
        return await turns.running(uow, ours) if ours is not None else None


async def _ours(deps: Deps, thread: str) -> UUID | None:
    try:
        conversation_id = UUID(thread)
        async with deps.begin() as uow:
            return (await conversations.access(uow, conversation_id)).id
    except (ValueError, NotFound):
        return None


async def native(
    events: AsyncIterator[Event | None],
) -> AsyncGenerator[AgentStreamEvent, None]:
    """Translate a turn's events.

    Raises:
        TurnFailed: After everything that was said, when the turn ended with an error.
    """
    text = ""
    index = -1
    async for event in events:
        if event is None:
            continue
        if event.name == "text" and text and not event.data.get("replace"):
            text += event.data["delta"]
            yield PartDeltaEvent(index=index, delta=TextPartDelta(event.data["delta"]))
            continue
        if event.name in ("route", "turn", "reset"):
            continue
        if text:
            yield PartEndEvent(index=index, part=TextPart(text))
            text = ""
        if event.name == "text":
            index, text = index + 1, event.data["delta"].lstrip()
            if text:
                yield PartStartEvent(index=index, part=TextPart(text))
        elif event.name == "tool" and event.data["status"] == "running":
            index += 1
            for step in _called(index, event.data):
                yield step
        elif event.name == "error":
            raise TurnFailed(event.data["detail"])
        elif (shown := _shown(event)) is not None:
            yield shown


def _called(index: int, data: dict[str, Any]) -> list[AgentStreamEvent]:
    call = ToolCallPart(data["name"], data["arguments"], tool_call_id=data["id"])
    return [
        PartStartEvent(index=index, part=call),
        PartEndEvent(index=index, part=call),
        FunctionToolCallEvent(part=call, args_valid=True),
    ]


def _shown(event: Event) -> AgentStreamEvent | None:
    data = event.data
    if event.name == "tool":
        outcome: Any = "success" if data["status"] == "done" else "failed"
        result = ToolReturnPart(
            data["name"], {"status": data["status"]}, tool_call_id=data["id"], outcome=outcome
        )
        return FunctionToolResultEvent(part=result)
    if event.name == "card":
        return Card(kind=data["kind"], shown=data["data"])
    if event.name == "approval":
        return Approval(
            action_id=data["action_id"],
            operation=data["operation"],
            summary=data["summary"],
            preview=data["preview"],
            expires_at=data["expires_at"],
        )
    return None
