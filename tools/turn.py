"""Turns of a conversation: begun once, one at a time, ended once, and told in numbered events.

Whoever changes a turn locks its conversation first. A turn belongs to the process that runs it;
when that dies, the next reader ends the turn as interrupted.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final
from uuid import UUID

import asyncpg
import orjson
from pydantic import BaseModel, Field
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlmodel import select

from db.models.chat import ChatTurn, TurnState
from db.models.conversation import Conversation
from db.types import new_id
from deps.core import Deps, UnitOfWork
from tools import conversation as conversations
from tools.errors import Conflict, InvalidInput, NotFound, TooManyRequests, TurnRunning

TEXT_CHARS_MAX: Final = 4000
NUMBER_MAX: Final = 2**31 - 1  # Of turns and of events, which count up in their conversation.
RUNNING_PER_OWNER_MAX: Final = 8
# The events of older turns are dropped; who asks for them is told to read the turns.
TURNS_WITH_EVENTS: Final = 5
EVENTS_PAGE_MAX: Final = 500
INTERRUPTED: Final = (
    "This answer was interrupted. What was done is done; look before you repeat it."
)

_APPEND = text("SELECT * FROM chat_append(:conversation, :turn, CAST(:events AS jsonb), :at)")
_RUNNING = text("""
    SELECT id, chat_is_orphan(runner, heartbeat_at) AS is_orphan
    FROM chat_turn WHERE conversation_id = :conversation AND state = 'running'
""")
_RUNNING_OF_OWNER = text("""
    SELECT count(*) FROM chat_turn t JOIN conversation c ON c.id = t.conversation_id
    WHERE t.state = 'running'
      AND (c.user_id = :user_id OR c.user_id IS NULL AND c.secret_sha256 = :secret)
""")
_EVENTS = text("""
    SELECT number, turn_id, name, data FROM chat_event
    WHERE conversation_id = :conversation AND number > :after ORDER BY number LIMIT :limit
""")
_OF_TURN = text("""
    SELECT name, data FROM chat_event
    WHERE conversation_id = :conversation AND turn_id = :turn ORDER BY number
""")
_DROP_OLD = text("""
    DELETE FROM chat_event WHERE conversation_id = :conversation AND number < (
        SELECT first_event FROM chat_turn
        WHERE conversation_id = :conversation AND number = :oldest_kept)
""")

_BEGIN = "SELECT * FROM chat_begin($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13)"
_ADD = "SELECT last_number, is_cancelled FROM chat_append($1, $2, $3, $4)"
_FINISH = "SELECT chat_finish($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)"
_LOCK = text("SELECT pg_advisory_lock(7408, :runner)")
_BEAT = text("""
    UPDATE chat_turn SET heartbeat_at = clock_timestamp()
    WHERE runner = :runner AND state = 'running' RETURNING id, cancel_requested_at IS NOT NULL
""")
_DISOWN = text("UPDATE chat_turn SET runner = NULL WHERE id = :turn")

# Makes a conversation's next state of the stored one: what the agents remember of a turn.
Remember = Callable[[dict[str, Any]], dict[str, Any]]
RememberBroken = Callable[[dict[str, Any], UUID, str, str], dict[str, Any]]


class Event(BaseModel):
    """One thing that happened in a conversation, as every client of it is told."""

    number: int = Field(description="Counts up in the conversation, without gaps.")
    turn_id: UUID | None
    name: str
    data: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Begun:
    """A turn that may run now. With `is_repeat`, it was begun before and nothing was changed."""

    id: UUID
    conversation_id: UUID
    number: int
    first_event: int
    state: dict[str, Any]
    is_repeat: bool = False


@dataclass(slots=True)
class Answer:
    """What people see of a turn."""

    text: str = ""
    cards: list[dict[str, Any]] = field(default_factory=list)
    approvals: list[dict[str, Any]] = field(default_factory=list)

    def take(self, name: str, data: dict[str, Any]) -> None:
        """Fold an event in."""
        if name == "text":
            self.text = data["delta"] if data.get("replace") else self.text + data["delta"]
        elif name == "card":
            self.cards.append(data)
        elif name == "approval":
            self.approvals.append(data)


async def begin(
    deps: Deps,
    conversation_id: UUID | None,
    said: str,
    *,
    runner: int,
    channel: str,
    remember: RememberBroken,
    turn_id: UUID | None = None,
    thread_key: str | None = None,
) -> Begun:
    """Begin a turn of the actor's conversation, for the process `runner` to run.

    The ordinary case is one statement; a transaction finds out what is not ordinary.

    Args:
        deps: Whose actor asks.
        conversation_id: Absent: that of `thread_key`, or a new one.
        said: 1 to 4000 characters.
        runner: Number whose advisory lock the process holds.
        channel: Where it was said.
        remember: Tells the agents of a turn that broke off, if one did.
        turn_id: The client's own id: sending it again returns the turn begun before.
        thread_key: What a client of another protocol calls the conversation.

    Raises:
        NotFound: No such conversation, or someone else's; or a turn of another one.
        TurnRunning: Another turn runs; wait for it or cancel it.
        TooManyRequests: The actor has `RUNNING_PER_OWNER_MAX` turns running.
        InvalidInput: Nothing was said, or too much, or what is no text.
    """
    if not 1 <= len(said.strip()) <= TEXT_CHARS_MAX or len(said) > TEXT_CHARS_MAX:
        raise InvalidInput(f"Say 1 to {TEXT_CHARS_MAX} characters.", field="text")
    if "\0" in said:  # Which the database cannot keep.
        raise InvalidInput("Text must not contain NUL characters.", field="text")
    if thread_key is None and deps.actor.key is not None:
        begun = await _begin_ordinary(deps, conversation_id, said, runner, channel, turn_id)
        if begun is not None:
            return begun
    async with deps.begin() as uow:
        return await _begin(
            uow, conversation_id, said, runner=runner, channel=channel, remember=remember,
            turn_id=turn_id, thread_key=thread_key,
        )  # fmt: skip


async def _begin_ordinary(
    deps: Deps,
    conversation_id: UUID | None,
    said: str,
    runner: int,
    channel: str,
    turn_id: UUID | None,
) -> Begun | None:
    actor, own, turn = deps.actor, conversation_id or new_id(), turn_id or new_id()
    try:
        row = await deps.hot.fetchrow(
            _BEGIN, own, conversation_id is None, turn, actor.user_id, actor.guest_secret_sha256,
            conversations.titled(said), said, channel, runner, deps.trace_id, deps.clock(),
            RUNNING_PER_OWNER_MAX, TURNS_WITH_EVENTS,
        )  # fmt: skip
    except asyncpg.UniqueViolationError:
        return None  # The same turn was begun at the same moment.
    if row is None:
        return None
    return Begun(turn, own, row["turn_number"], row["first_number"], row["remembered"])


async def _begin(
    uow: UnitOfWork,
    conversation_id: UUID | None,
    said: str,
    *,
    runner: int,
    channel: str,
    remember: RememberBroken,
    turn_id: UUID | None,
    thread_key: str | None,
) -> Begun:
    known = await uow.session.get(ChatTurn, turn_id) if turn_id is not None else None
    conversation = await _conversation_for(uow, conversation_id, known, thread_key, said)
    if known is not None:
        if known.conversation_id != conversation.id:
            raise NotFound("No such conversation.")
        if known.asked != said:
            raise Conflict("This turn id was used for other words.", current=known.state.value)
        return Begun(known.id, conversation.id, known.number, known.first_event, {}, is_repeat=True)
    await _refuse_while_running(uow, conversation, remember)
    conversation.turn_count += 1
    turn = ChatTurn(
        id=turn_id or new_id(),
        conversation_id=conversation.id,
        number=conversation.turn_count,
        asked=said,
        channel=channel,
        runner=runner,
        first_event=conversation.event_count + 1,
        trace_id=uow.trace_id,
        created_at=uow.now,
    )
    conversation.updated_at = uow.now
    uow.session.add(turn)
    await uow.session.flush()
    opening = {"id": str(turn.id), "number": turn.number, "text": said}
    await append(uow, conversation.id, turn.id, [("turn", opening)])
    if turn.number > TURNS_WITH_EVENTS:
        oldest = {"conversation": conversation.id, "oldest_kept": turn.number - TURNS_WITH_EVENTS}
        await uow.session.execute(_DROP_OLD, oldest)
    return Begun(turn.id, conversation.id, turn.number, turn.first_event, dict(conversation.state))


async def _conversation_for(
    uow: UnitOfWork,
    conversation_id: UUID | None,
    known: ChatTurn | None,
    thread_key: str | None,
    said: str,
) -> Conversation:
    if conversation_id is None and known is not None:
        conversation_id = known.conversation_id
    if conversation_id is None and thread_key is not None:
        conversation_id = (await conversations.thread(uow, thread_key, said)).id
    if conversation_id is None:
        return await conversations.start(uow, said)
    return await conversations.access(uow, conversation_id, lock=True)


async def _refuse_while_running(
    uow: UnitOfWork, conversation: Conversation, remember: RememberBroken
) -> None:
    running = (await uow.session.execute(_RUNNING, {"conversation": conversation.id})).first()
    if running is not None:
        if not running.is_orphan:
            raise TurnRunning(running.id)
        await _interrupt(uow, conversation, running.id, remember)
    owner = {"user_id": uow.actor.user_id, "secret": uow.actor.guest_secret_sha256}
    count = int(await uow.session.scalar(_RUNNING_OF_OWNER, owner) or 0)
    if count >= RUNNING_PER_OWNER_MAX:
        raise TooManyRequests("You have several answers running; wait for one of them.")


async def append(
    uow: UnitOfWork,
    conversation_id: UUID,
    turn_id: UUID | None,
    events: Sequence[tuple[str, Mapping[str, Any]]],
) -> tuple[int, bool] | None:
    """Add events under the next numbers. The caller has checked whose conversation it is.

    Returns:
        The last number and whether somebody asked to cancel; None when the turn does not run any
        more, and then nothing was written.
    """
    arguments = {"conversation": conversation_id, "turn": turn_id, "at": uow.now}
    packed = arguments | {"events": _packed(events)}
    row = (await uow.session.execute(_APPEND, packed)).first()
    return (row.last_number, row.is_cancelled) if row is not None else None


async def add(
    deps: Deps,
    conversation_id: UUID,
    turn_id: UUID,
    events: Sequence[tuple[str, Mapping[str, Any]]],
) -> tuple[int, bool] | None:
    """Add events of a turn as `append` does, in one statement that is a transaction by itself."""
    rows = _packed(events)
    row = await deps.hot.fetchrow(_ADD, conversation_id, turn_id, rows, deps.clock())
    return (row["last_number"], row["is_cancelled"]) if row is not None else None


def _packed(events: Sequence[tuple[str, Mapping[str, Any]]]) -> str:
    return orjson.dumps([{"name": name, "data": data} for name, data in events]).decode()


async def finish(
    deps: Deps,
    begun: Begun,
    state: TurnState,
    answer: Answer,
    events: Sequence[tuple[str, Mapping[str, Any]]],
    remember: Remember,
    *,
    error_code: str | None = None,
) -> int | None:
    """End a running turn: its last events, its answer and what the agents remember, together.

    The state is made of the one that the turn began with; only where the conversation has got
    another turn meanwhile, such as what became of an approval, it is read again.

    Returns:
        The number of the last event, or None when somebody else has ended the turn.

    Raises:
        NotFound: The conversation was deleted meanwhile.
    """
    ending = [*events, ("done", {"turn_id": str(begun.id), "state": state.value})]
    last: int | None = await deps.hot.fetchval(
        _FINISH, begun.conversation_id, begun.id, begun.number, _packed(ending), deps.clock(),
        state.value, answer.text, answer.cards, answer.approvals, error_code,
        remember(dict(begun.state)),
    )  # fmt: skip
    if last is not None:
        return last
    async with deps.begin() as uow:
        return await _finish(uow, begun, state, answer, ending, remember, error_code)


async def _finish(
    uow: UnitOfWork,
    begun: Begun,
    state: TurnState,
    answer: Answer,
    ending: Sequence[tuple[str, Mapping[str, Any]]],
    remember: Remember,
    error_code: str | None,
) -> int | None:
    conversation, turn_id = await _locked(uow, begun.conversation_id), begun.id
    written = await append(uow, conversation.id, turn_id, ending)
    if written is None:
        return None
    turn = await uow.session.get_one(ChatTurn, turn_id, populate_existing=True)
    turn.state, turn.finished_at, turn.error_code = state, uow.now, error_code
    turn.reply, turn.cards, turn.approvals = answer.text, answer.cards, answer.approvals
    conversation.state = remember(dict(conversation.state))
    conversation.updated_at = uow.now
    await uow.session.flush()
    return written[0]


async def _locked(uow: UnitOfWork, conversation_id: UUID) -> Conversation:
    query = select(Conversation).where(Conversation.id == conversation_id).with_for_update()
    found = (await uow.session.exec(query.execution_options(populate_existing=True))).first()
    if found is None:
        raise NotFound("No such conversation.")  # It was deleted while the turn ran.
    return found


async def cancel(uow: UnitOfWork, conversation_id: UUID) -> UUID | None:
    """Ask the running turn to stop, wherever it runs. Return its id, or None when none runs.

    Raises:
        NotFound: No such conversation, or someone else's.
    """
    conversation = await conversations.access(uow, conversation_id, lock=True)
    turn = await _running(uow, conversation)
    if turn is None:
        return None
    turn.cancel_requested_at = turn.cancel_requested_at or uow.now
    await uow.session.flush()
    return turn.id


@dataclass(frozen=True, slots=True)
class News:
    """Events after a number. `is_reset`: older ones than these were dropped."""

    events: list[Event]
    is_running: bool
    is_reset: bool = False
    last_event: int = 0


async def news(
    uow: UnitOfWork, conversation_id: UUID, after: int, remember: RememberBroken
) -> News:
    """Return what happened after the event `after`; end a turn whose process died.

    Raises:
        NotFound: No such conversation, or someone else's.
    """
    conversation = await conversations.access(uow, conversation_id)
    # Whether a turn runs is read first: then `not is_running` means that its events are all here.
    running = (await uow.session.execute(_RUNNING, {"conversation": conversation.id})).first()
    if running is not None and running.is_orphan:
        conversation = await conversations.access(uow, conversation_id, lock=True)
        await _interrupt(uow, conversation, running.id, remember)
        running = None
    page = {"conversation": conversation.id, "after": after, "limit": EVENTS_PAGE_MAX}
    rows = (await uow.session.execute(_EVENTS, page)).mappings().all()
    events = [Event.model_validate(dict(row)) for row in rows]
    count = conversation.event_count
    dropped = after < count and (not events or events[0].number > after + 1)
    is_running = running is not None or len(events) == EVENTS_PAGE_MAX
    return News(events, is_running, is_reset=dropped, last_event=count)


async def _interrupt(
    uow: UnitOfWork, conversation: Conversation, turn_id: UUID, remember: RememberBroken
) -> None:
    turn = await uow.session.get_one(ChatTurn, turn_id, populate_existing=True)
    if turn.state is not TurnState.RUNNING:
        return  # Another reader was first.
    answer = Answer()
    of_turn = {"conversation": conversation.id, "turn": turn_id}
    for row in await uow.session.execute(_OF_TURN, of_turn):
        answer.take(row.name, row.data)
    broken = {"code": "interrupted", "detail": INTERRUPTED}
    done = {"turn_id": str(turn_id), "state": TurnState.INTERRUPTED.value}
    await append(uow, conversation.id, turn_id, [("error", broken), ("done", done)])
    turn.state, turn.finished_at, turn.error_code = TurnState.INTERRUPTED, uow.now, "interrupted"
    turn.reply = "\n\n".join(part for part in (answer.text, INTERRUPTED) if part)
    turn.cards, turn.approvals = answer.cards, answer.approvals
    conversation.state = remember(dict(conversation.state), conversation.id, turn.asked, turn.reply)
    conversation.updated_at = uow.now
    await uow.session.flush()


async def running(uow: UnitOfWork, conversation_id: UUID) -> Begun | None:
    """Return the turn that runs now, for one who wants its events from the first; without state.

    Raises:
        NotFound: No such conversation, or someone else's.
    """
    conversation = await conversations.access(uow, conversation_id)
    turn = await _running(uow, conversation)
    if turn is None:
        return None
    return Begun(turn.id, conversation.id, turn.number, turn.first_event, {}, is_repeat=True)


async def _running(uow: UnitOfWork, conversation: Conversation) -> ChatTurn | None:
    query = select(ChatTurn).where(
        ChatTurn.conversation_id == conversation.id, ChatTurn.state == TurnState.RUNNING
    )
    return (await uow.session.exec(query)).first()


async def be_present(connection: AsyncConnection, runner: int) -> None:
    """Take the lock that says that the process `runner` lives. It goes with the connection."""
    await connection.execute(_LOCK, {"runner": runner})


async def beat(connection: AsyncConnection, runner: int) -> dict[UUID, bool]:
    """Say that a process's turns run; return which do, and whether each is to be cancelled."""
    rows = (await connection.execute(_BEAT, {"runner": runner})).all()
    return {turn_id: is_cancelled for turn_id, is_cancelled in rows}


async def disown(connection: AsyncConnection, turn_id: UUID) -> None:
    """Leave a turn to be ended by its next reader."""
    await connection.execute(_DISOWN, {"turn": turn_id})
