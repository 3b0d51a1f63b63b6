"""What agents did: a run for each message or request, and every call they made in it."""

from datetime import datetime
from enum import StrEnum
from typing import Any
from uuid import UUID

from sqlalchemy import Index, Text, Uuid
from sqlalchemy.dialects.postgresql import JSONB
from sqlmodel import Field, SQLModel

from db.types import ActionId, ConversationId, UtcDateTime, enum_field, new_id


class AgentRun(SQLModel, table=True):
    """One message of a person, or one structured request, and where it was sent.

    The row is written with the first call: a turn that called nothing has none.
    """

    __tablename__ = "agent_run"
    __table_args__ = (
        Index("ix_agent_run_actor_id_id", "actor_id", "id"),
        Index("ix_agent_run_conversation_id", "conversation_id"),
    )

    id: UUID = Field(default_factory=new_id, primary_key=True, sa_type=Uuid)
    conversation_id: ConversationId | None = Field(default=None, sa_type=Uuid)
    actor_id: UUID | None = Field(
        default=None, sa_type=Uuid, description="`Actor.key`: the user, or a guest's secret."
    )
    actor_role: str = Field(max_length=32)
    words: str = Field(default="", sa_type=Text, description="What the person wrote.")
    trace_id: str | None = Field(default=None, max_length=64, index=True)
    started_at: datetime = Field(sa_type=UtcDateTime)


class CallOutcome(StrEnum):
    STARTED = "started"
    DONE = "done"
    WAITING = "waiting"
    FAILED = "failed"
    UNDONE = "undone"


class AgentCall(SQLModel, table=True):
    """One call of an operation by an agent. Ids are in the order of the calls.

    `inverse_arguments` is what the operation's inverse has to be called with to bring back what
    was there before; `state_sha256` recognises whether someone changed it since.
    """

    __tablename__ = "agent_call"

    id: UUID = Field(default_factory=new_id, primary_key=True, sa_type=Uuid)
    run_id: UUID = Field(foreign_key="agent_run.id", ondelete="CASCADE", index=True, sa_type=Uuid)
    route: str = Field(default="", max_length=64, description="The desk that called it.")
    operation: str = Field(max_length=100)
    arguments: dict[str, Any] = Field(sa_type=JSONB)
    arguments_sha256: str = Field(max_length=64)
    outcome: CallOutcome = enum_field(CallOutcome.STARTED)
    error_code: str | None = Field(default=None, max_length=100)
    result_sha256: str | None = Field(default=None, max_length=64)
    action_id: ActionId | None = Field(default=None, index=True, sa_type=Uuid)
    inverse_arguments: dict[str, Any] | None = Field(default=None, sa_type=JSONB)
    state_sha256: str | None = Field(default=None, max_length=64)
    trace_id: str | None = Field(default=None, max_length=64, index=True)
    started_at: datetime = Field(sa_type=UtcDateTime)
    finished_at: datetime | None = Field(default=None, sa_type=UtcDateTime)
