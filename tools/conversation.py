"""Conversations with agents: whose they are, what was said, and what the next turn starts from.

`state` is whatever the agents layer serialises; this module only stores it.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any
from uuid import UUID

from sqlmodel import select

from db.models.conversation import Conversation
from deps.core import UnitOfWork
from tools.errors import InvalidInput, NotFound

TRANSCRIPT_MAX = 400


async def start(uow: UnitOfWork, title: str = "") -> Conversation:
    """Open a conversation for the actor.

    Raises:
        InvalidInput: A guest without a token is asking: nobody could continue it.
    """
    actor = uow.actor
    if actor.user_id is None and actor.guest_secret_sha256 is None:
        raise InvalidInput("Send a guest token, or sign in.", field="X-Guest-Token")
    row = Conversation(
        user_id=actor.user_id,
        secret_sha256=None if actor.user_id else actor.guest_secret_sha256,
        title=title[:200],
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


async def append(
    uow: UnitOfWork,
    conversation_id: UUID,
    entries: Sequence[Mapping[str, Any]],
    merge: Callable[[dict[str, Any]], dict[str, Any]] | None = None,
) -> Conversation:
    """Add to the transcript and fold a turn into the state, under the row's lock.

    Args:
        conversation_id: Whose conversation is checked again here.
        entries: What people saw; the oldest go beyond `TRANSCRIPT_MAX`.
        merge: Makes the new state from the stored one, so that two turns at once both stay.

    Raises:
        NotFound: No such conversation, or someone else's.
    """
    row = await access(uow, conversation_id, lock=True)
    row.transcript = [*row.transcript, *(dict(entry) for entry in entries)][-TRANSCRIPT_MAX:]
    if merge is not None:
        row.state = merge(dict(row.state))
    row.updated_at = uow.now
    await uow.session.flush()
    return row
