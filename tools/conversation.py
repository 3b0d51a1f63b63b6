"""Conversations with agents: whose they are, their titles, and what the next turn starts from.

`state` is whatever the agents layer serialises; this module only stores it.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any, Final
from uuid import UUID

import orjson
from pydantic import BaseModel
from sqlalchemy import and_, text
from sqlmodel import col, exists, or_, select

from db.models.chat import ChatTurn, TurnState
from db.models.conversation import Conversation
from deps.core import Actor, UnitOfWork
from tools.errors import InvalidInput, NotFound
from tools.page import Ordering, Page, read_page

TITLE_CHARS_MAX: Final = 80
EXPORT_TURNS_MAX: Final = 5_000


class ConversationSummary(BaseModel):
    id: UUID
    title: str
    turns: int
    is_running: bool
    created_at: datetime
    updated_at: datetime


def titled(said: str) -> str:
    """Make a title of the first words: whole words, no line breaks."""
    words = " ".join(said.split())
    if len(words) <= TITLE_CHARS_MAX:
        return words
    return words[:TITLE_CHARS_MAX].rpartition(" ")[0] + "…"


async def start(uow: UnitOfWork, title: str = "", thread_key: str | None = None) -> Conversation:
    """Open a conversation for the actor.

    Args:
        title: Its first words will do.
        thread_key: The id that a client of another protocol gave it.

    Raises:
        InvalidInput: A guest without a token is asking: nobody could continue it.
    """
    actor = uow.actor
    if actor.user_id is None and actor.guest_secret_sha256 is None:
        raise InvalidInput("Send a guest token, or sign in.", field="X-Guest-Token")
    row = Conversation(
        user_id=actor.user_id,
        secret_sha256=None if actor.user_id else actor.guest_secret_sha256,
        title=titled(title),
        thread_key=thread_key,
        created_at=uow.now,
        updated_at=uow.now,
    )
    uow.session.add(row)
    await uow.session.flush()
    return row


async def access(uow: UnitOfWork, conversation_id: UUID, *, lock: bool = False) -> Conversation:
    """Load a conversation on the actor's behalf; no other code may load one by id.

    A guest's conversation stays with the guest's secret, also once the same browser signs in.

    Raises:
        NotFound: No such conversation, or someone else's. The two must be indistinguishable.
    """
    query = select(Conversation).where(Conversation.id == conversation_id)
    if lock:
        query = query.with_for_update().execution_options(populate_existing=True)
    row = (await uow.session.exec(query)).first()
    if row is None or not _owns(uow, row):
        raise NotFound("No such conversation.")
    return row


def _owns(uow: UnitOfWork, row: Conversation) -> bool:
    if row.user_id is not None:
        return row.user_id == uow.actor.user_id
    secret = uow.actor.guest_secret_sha256
    return secret is not None and row.secret_sha256 == secret


_TAKE_THREAD = text("SELECT pg_advisory_xact_lock(hashtextextended(:thread, 7408))")


async def thread(uow: UnitOfWork, thread_key: str, title: str) -> Conversation:
    """Return the actor's conversation that a client calls `thread_key`, opened when it is new.

    Raises:
        InvalidInput: A guest without a token is asking, or the key is too long or no text.
    """
    if not 1 <= len(thread_key) <= 200 or "\0" in thread_key:
        raise InvalidInput("A thread id has 1 to 200 characters and no NUL.", field="threadId")
    owner = str(uow.actor.user_id or uow.actor.guest_secret_sha256)
    await uow.session.execute(_TAKE_THREAD, {"thread": f"{owner} {thread_key}"})
    return await known_thread(uow, thread_key) or await start(uow, title, thread_key)


async def known_thread(uow: UnitOfWork, thread_key: str) -> Conversation | None:
    """Return the actor's conversation that a client calls `thread_key`, if there is one."""
    query = select(Conversation).where(_mine(uow.actor), Conversation.thread_key == thread_key)
    return (await uow.session.exec(query)).first()


def _mine(actor: Actor) -> Any:
    if actor.user_id is not None:
        return col(Conversation.user_id) == actor.user_id
    return and_(
        col(Conversation.user_id).is_(None),
        col(Conversation.secret_sha256) == (actor.guest_secret_sha256 or ""),
    )


async def list_mine(
    uow: UnitOfWork, query: str | None = None, limit: int = 20, cursor: str | None = None
) -> Page[ConversationSummary]:
    """List the actor's conversations, the last used first.

    Args:
        query: Words of the title or of what was said in it.
        limit: 1 to 100.
        cursor: `next_cursor` of the page before.

    Raises:
        InvalidInput: The limit or the cursor is not one of this list.
    """
    running = exists().where(
        col(ChatTurn.conversation_id) == Conversation.id,
        col(ChatTurn.state) == TurnState.RUNNING,
    )
    wanted = select(Conversation, running).where(_mine(uow.actor))
    if query is not None and query.strip():
        said = exists().where(
            col(ChatTurn.conversation_id) == Conversation.id,
            or_(
                col(ChatTurn.asked).icontains(query.strip(), autoescape=True),
                col(ChatTurn.reply).icontains(query.strip(), autoescape=True),
            ),
        )
        wanted = wanted.where(
            or_(col(Conversation.title).icontains(query.strip(), autoescape=True), said)
        )
    ordering = Ordering((Conversation.updated_at, Conversation.id))
    return await read_page(uow, wanted, ordering, lambda row: _summary(*row), limit, cursor)


def _summary(row: Conversation, is_running: bool) -> ConversationSummary:
    return ConversationSummary(
        id=row.id,
        title=row.title,
        turns=row.turn_count,
        is_running=is_running,
        created_at=row.created_at,
        updated_at=row.updated_at,
    )


async def rename(uow: UnitOfWork, conversation_id: UUID, title: str) -> ConversationSummary:
    """Give a conversation another title, 1 to 80 characters.

    Raises:
        NotFound: No such conversation, or someone else's.
        InvalidInput: The title is empty or too long.
    """
    row = await access(uow, conversation_id, lock=True)
    clean = " ".join(title.split())
    if not 1 <= len(clean) <= TITLE_CHARS_MAX:
        raise InvalidInput(f"A title has 1 to {TITLE_CHARS_MAX} characters.", field="title")
    row.title = clean
    await uow.session.flush()
    return _summary(row, is_running=False)


async def delete(uow: UnitOfWork, conversation_id: UUID) -> None:
    """Delete a conversation with all that was said in it. What was approved in it stays on record.

    Raises:
        NotFound: No such conversation, or someone else's.
    """
    row = await access(uow, conversation_id, lock=True)
    await uow.session.delete(row)
    await uow.session.flush()


async def append(
    uow: UnitOfWork,
    conversation_id: UUID,
    entries: Sequence[Mapping[str, Any]],
    merge: Callable[[dict[str, Any]], dict[str, Any]] | None = None,
) -> Conversation:
    """Add turns that are over, and fold them into the state, under the row's lock.

    Args:
        conversation_id: Whose conversation is checked again here.
        entries: What people saw: an assistant's follows the user's it answers, or stands alone.
        merge: Makes the new state from the stored one, so that two at once both stay.

    Raises:
        NotFound: No such conversation, or someone else's.
    """
    row = await access(uow, conversation_id, lock=True)
    for asked, entry in _exchanges(entries):
        turn = ChatTurn(
            conversation_id=row.id,
            number=row.turn_count + 1,
            asked=asked,
            reply=str(entry.get("text", "")),
            cards=list(entry.get("cards", [])),
            approvals=list(entry.get("approvals", [])),
            state=TurnState.DONE,
            first_event=row.event_count + 1,
            trace_id=uow.trace_id,
            created_at=uow.now,
            finished_at=uow.now,
        )
        row.turn_count += 1
        uow.session.add(turn)
        await uow.session.flush()
        if not asked:
            await _tell(uow, row, turn, entry.get("action_id"))
    if merge is not None:
        row.state = merge(dict(row.state))
    row.updated_at = uow.now
    await uow.session.flush()
    return row


def _exchanges(
    entries: Sequence[Mapping[str, Any]],
) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Pair what people said with the answers; either may stand alone."""
    asked = ""
    for entry in entries:
        if entry["role"] != "user":
            yield asked, entry
            asked = ""
            continue
        if asked:
            yield asked, {}
        asked = str(entry["text"])
    if asked:
        yield asked, {}


_APPEND = text("SELECT * FROM chat_append(:conversation, NULL, CAST(:events AS jsonb), :at)")


async def _tell(uow: UnitOfWork, row: Conversation, turn: ChatTurn, action_id: str | None) -> None:
    """Tell those who follow what the shop said by itself."""
    data: dict[str, Any] = {"turn_id": str(turn.id), "text": turn.reply, "cards": turn.cards}
    if action_id is not None:
        data["action_id"] = action_id
    events = orjson.dumps([{"name": "note", "data": data}]).decode()
    told = {"conversation": row.id, "events": events, "at": uow.now}
    await uow.session.execute(_APPEND, told)
    await uow.session.refresh(row, ["event_count"])
