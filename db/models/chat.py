"""What happens in a conversation: its turns, and the numbered events that clients follow."""

from datetime import datetime
from enum import StrEnum
from typing import Any
from uuid import UUID

from sqlalchemy import ForeignKey, Index, UniqueConstraint, Uuid, text
from sqlalchemy.dialects.postgresql import JSONB
from sqlmodel import Field, SQLModel

from db.types import ConversationId, UtcDateTime, enum_field, new_id


class TurnState(StrEnum):
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"
    # Its process died. What its tools had committed stays done; the rest never began.
    INTERRUPTED = "interrupted"


class ChatTurn(SQLModel, table=True):
    """One message and the answer to it; without `asked`, something the shop said by itself.

    At most one turn of a conversation runs at a time, on any process: an index says so. `runner`
    names the process, which holds an advisory lock of that number as long as it lives.
    """

    __tablename__ = "chat_turn"
    __table_args__ = (
        UniqueConstraint("conversation_id", "number", name="uq_chat_turn_number"),
        Index(
            "uq_chat_turn_running",
            "conversation_id",
            unique=True,
            postgresql_where=text("state = 'running'"),
        ),
    )

    id: UUID = Field(default_factory=new_id, primary_key=True, sa_type=Uuid)
    conversation_id: ConversationId = Field(
        sa_type=Uuid,
        sa_column_args=(ForeignKey("conversation.id", ondelete="CASCADE"),),
    )
    number: int
    asked: str = Field(default="", max_length=4000)
    reply: str = Field(default="")
    cards: list[dict[str, Any]] = Field(default_factory=list, sa_type=JSONB)
    approvals: list[dict[str, Any]] = Field(default_factory=list, sa_type=JSONB)
    state: TurnState = enum_field(TurnState.RUNNING)
    channel: str = Field(default="sse", max_length=20)
    error_code: str | None = Field(default=None, max_length=60)
    runner: int | None = Field(default=None)
    first_event: int = Field(description="Number of its first event in the conversation.")
    cancel_requested_at: datetime | None = Field(default=None, sa_type=UtcDateTime)
    heartbeat_at: datetime | None = Field(default=None, sa_type=UtcDateTime)
    trace_id: str | None = Field(default=None, max_length=64)
    created_at: datetime = Field(sa_type=UtcDateTime)
    finished_at: datetime | None = Field(default=None, sa_type=UtcDateTime)


class ChatEvent(SQLModel, table=True):
    """An event as clients get it. Numbers have no gaps and follow the commit order; those of old
    turns are dropped, since the turns themselves tell what was said."""

    __tablename__ = "chat_event"

    conversation_id: ConversationId = Field(
        primary_key=True,
        sa_type=Uuid,
        sa_column_args=(ForeignKey("conversation.id", ondelete="CASCADE"),),
    )
    number: int = Field(primary_key=True)
    turn_id: UUID | None = Field(default=None, sa_type=Uuid)
    name: str = Field(max_length=40)
    data: dict[str, Any] = Field(sa_type=JSONB)
    occurred_at: datetime = Field(sa_type=UtcDateTime)
