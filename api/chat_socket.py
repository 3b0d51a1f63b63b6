"""Chat over a WebSocket: the same turns and events as over HTTP, several messages a connection.

The first message says who and what: `{"type": "hello", "token": …, "guest_token": …,
"conversation_id": …, "after": 12}`; cookies count too, from our own pages only. Then
`{"type": "say", "text": …, "turn_id": …}`, `{"type": "cancel"}` and `{"type": "ping"}`. Answers
are events as `{"event": …, "id": …, "data": …}`; a refused message comes back as `refused` with the
problem, which names the field at fault. The connection ends when an access token would, and when
the conversation cannot be read: connect again, with the last `id` seen as `after`.
"""

import asyncio
import logging
from contextlib import suppress
from dataclasses import replace
from typing import Annotated, Any, Final, Literal, TypeVar
from urllib.parse import urlsplit
from uuid import UUID

import orjson
from fastapi import APIRouter, WebSocket, WebSocketDisconnect
from pydantic import Field, TypeAdapter, ValidationError

from agents.runner import Runner
from api.caller import (
    GUEST_TOKEN_CHARS_MAX,
    GUEST_TOKEN_CHARS_MIN,
    Credentials,
    actor_of,
    address,
    deps_of,
)
from api.chat import runner_of, shown
from api.problems import AWAY
from deps import background
from deps.core import Deps
from deps.given import Given
from deps.ratelimit import EndpointClass, RateLimiter
from tools.errors import DomainError, InvalidInput, TooManyRequests, Unavailable
from tools.turn import NUMBER_MAX, TEXT_CHARS_MAX

router = APIRouter(tags=["chat"])
log = logging.getLogger(__name__)

SOCKETS_MAX: Final = 2_000
HELLO_S: Final = 10.0
MESSAGE_BYTES_MAX: Final = 32_768
REFUSED: Final = 1008
TRY_AGAIN: Final = 1013

M = TypeVar("M")


class Hello(Given):
    type: Literal["hello"]
    token: str | None = Field(default=None, max_length=4000)
    guest_token: str | None = Field(
        default=None, min_length=GUEST_TOKEN_CHARS_MIN, max_length=GUEST_TOKEN_CHARS_MAX
    )
    conversation_id: UUID | None = None
    after: int = Field(default=0, ge=0, le=NUMBER_MAX)


class Say(Given):
    type: Literal["say"]
    text: str = Field(min_length=1, max_length=TEXT_CHARS_MAX)
    turn_id: UUID | None = None


class Cancel(Given):
    type: Literal["cancel"]


class Ping(Given):
    type: Literal["ping"]


_HELLO: TypeAdapter[Hello] = TypeAdapter(Hello)
_MESSAGES: TypeAdapter[Say | Cancel | Ping] = TypeAdapter(
    Annotated[Say | Cancel | Ping, Field(discriminator="type")]
)


@router.websocket("/chat/socket")
async def chat_socket(socket: WebSocket) -> None:
    state = socket.app.state
    if not _is_from_here(socket):
        await socket.close(REFUSED)
        return
    open_sockets = getattr(state, "chat_sockets", 0)
    if open_sockets >= SOCKETS_MAX:
        await socket.close(TRY_AGAIN)
        return
    state.chat_sockets = open_sockets + 1
    try:
        await socket.accept()
        with suppress(WebSocketDisconnect, RuntimeError):
            await _serve(socket)
    finally:
        state.chat_sockets -= 1


def _is_from_here(socket: WebSocket) -> bool:
    """Refuse other sites' pages: a browser would send them our cookies."""
    origin = socket.headers.get("origin")
    return origin is None or urlsplit(origin).netloc == socket.headers.get("host")


async def _serve(socket: WebSocket) -> None:
    try:
        hello = await _hello(socket)
        guest = hello.guest_token or socket.cookies.get("guest", "")
        scheme = "" if hello.token is None else "bearer"
        actor = actor_of(Credentials(scheme, hello.token or "", guest), socket.scope)
    except DomainError as error:
        await _refuse(socket, error)
        await socket.close(REFUSED)
        return
    deps = deps_of(socket.scope).acting_as(actor)
    talk = Talk(socket, runner_of(socket), deps, hello)
    with suppress(TimeoutError):
        async with asyncio.timeout(deps.settings.access_token_ttl_s):
            await talk.hold()
    await socket.close()


async def _hello(socket: WebSocket) -> Hello:
    try:
        return _parsed(_HELLO, await asyncio.wait_for(_receive(socket), HELLO_S))
    except TimeoutError as error:
        raise InvalidInput("Begin with a hello message.", field="type") from error


def _parsed(known: TypeAdapter[M], message: Any) -> M:
    try:
        return known.validate_python(message)
    except ValidationError as error:
        first = error.errors()[0]
        field = str(first["loc"][-1]) if first["loc"] else "type"
        raise InvalidInput(f"{field}: {first['msg']}", field=field) from error


class Talk:
    """One connection: reads messages, and follows its conversation beside it."""

    def __init__(self, socket: WebSocket, runner: Runner, deps: Deps, hello: Hello) -> None:
        self._socket = socket
        self._runner = runner
        self._deps = replace(deps)
        self._conversation_id = hello.conversation_id
        self._after = hello.after
        self._limiter = _limiter_of(socket) if deps.settings.rate_limits else None
        self._follower: asyncio.Task[None] | None = None

    async def hold(self) -> None:
        try:
            self._follow()
            while True:
                try:
                    await self._handle(await _receive(self._socket))
                except DomainError as error:
                    await _refuse(self._socket, error)
                except AWAY:
                    log.warning("a message of a chat socket was not taken", exc_info=True)
                    away = Unavailable("The database is away or busy; try again.")
                    await _refuse(self._socket, away)
        finally:
            if self._follower is not None:
                await background.end(self._follower)

    async def _handle(self, message: Any) -> None:
        known = _parsed(_MESSAGES, message)
        if isinstance(known, Ping):
            await _send(self._socket, "pong", {})
        elif isinstance(known, Cancel):
            if self._conversation_id is not None:
                await self._runner.cancel(self._deps, self._conversation_id)
        else:
            await self._take_one()
            begun = await self._runner.start(
                self._deps, self._conversation_id, known.text, channel="websocket",
                turn_id=known.turn_id,
            )  # fmt: skip
            if self._conversation_id is None:
                self._conversation_id = begun.conversation_id
                self._after = begun.first_event - 1
                opening = {"id": str(begun.conversation_id), "turn_id": str(begun.id)}
                await _send(self._socket, "conversation", opening)
            self._follow()

    async def _take_one(self) -> None:
        if self._limiter is None:
            return
        user_id = self._deps.actor.user_id
        owner = f"ip:{address(self._socket.scope)}" if user_id is None else f"user:{user_id}"
        verdict = await self._limiter.take(EndpointClass.CHAT, owner)
        if not verdict.allowed:
            raise TooManyRequests(f"Wait {verdict.retry_after_s} s and try again.")

    def _follow(self) -> None:
        if self._conversation_id is not None and (self._follower is None or self._follower.done()):
            self._follower = asyncio.create_task(self._tell(self._conversation_id))

    async def _tell(self, conversation_id: UUID) -> None:
        try:
            events = self._runner.follow(self._deps, conversation_id, self._after, is_live=True)
            async for event in events:
                if event is not None:
                    self._after = event.number
                    await _send(self._socket, event.name, shown(event), event.number)
        except DomainError as error:
            await _refuse(self._socket, error)
        except AWAY:
            # Silence would look like a shop with nothing to say. Who comes back misses nothing.
            log.warning("a chat socket could not be told what happened", exc_info=True)
            await self._socket.close(TRY_AGAIN)
        except (WebSocketDisconnect, RuntimeError):
            return  # It left while something was being said.


def _limiter_of(socket: WebSocket) -> RateLimiter:
    """Return the limiter of all sockets of this process: while Redis is away, it counts alone."""
    state = socket.app.state
    if not hasattr(state, "socket_limiter"):
        state.socket_limiter = RateLimiter(state.deps.cache)
    limiter = state.socket_limiter
    assert isinstance(limiter, RateLimiter)
    return limiter


async def _receive(socket: WebSocket) -> Any:
    frame = await socket.receive()
    if frame["type"] == "websocket.disconnect":
        raise WebSocketDisconnect(frame["code"])
    text = frame.get("text")
    if text is None:
        raise InvalidInput("Messages are text, not bytes.")
    if len(text) > MESSAGE_BYTES_MAX:
        raise InvalidInput("The message is too long.")
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise InvalidInput("Messages are JSON.") from error


async def _send(
    socket: WebSocket, event: str, data: dict[str, Any], number: int | None = None
) -> None:
    await socket.send_text(orjson.dumps({"event": event, "id": number, "data": data}).decode())


async def _refuse(socket: WebSocket, error: DomainError) -> None:
    problem = {"code": error.error_code(), "detail": str(error), "status": error.status_code}
    if error.field is not None:
        problem["field"] = error.field
    await _send(socket, "refused", problem | error.extra)
