"""Conversations with agents, and the risky actions that wait in them for a person."""

from datetime import datetime
from enum import StrEnum
from typing import Any
from uuid import UUID

from sqlalchemy import BigInteger, Index, Uuid, text
from sqlalchemy.dialects.postgresql import JSONB
from sqlmodel import Field, SQLModel

from db.types import ActionId, ConversationId, UserId, UtcDateTime, enum_field, new_id


class Conversation(SQLModel, table=True):
    """`state` is Pydantic AI's serialised conversation (history and usage); its turns are what
    people saw. A guest's conversation belongs to the holder of its secret.

    `thread_key` is the id another protocol's client gave it; it means something to its owner only.
    """

    __tablename__ = "conversation"
    __table_args__ = (
        Index("ix_conversation_user_id_id", "user_id", "id"),
        Index("ix_conversation_user_id_updated_at", "user_id", "updated_at"),
        Index("ix_conversation_secret_sha256_updated_at", "secret_sha256", "updated_at"),
        Index(
            "uq_conversation_thread_key",
            "user_id",
            "secret_sha256",
            "thread_key",
            unique=True,
            postgresql_nulls_not_distinct=True,
            postgresql_where=text("thread_key IS NOT NULL"),
        ),
    )

    id: ConversationId = Field(default_factory=new_id, primary_key=True, sa_type=Uuid)
    user_id: UserId | None = Field(default=None, sa_type=Uuid)
    secret_sha256: str | None = Field(default=None, max_length=64)
    title: str = Field(default="", max_length=200)
    state: dict[str, Any] = Field(default_factory=dict, sa_type=JSONB)
    thread_key: str | None = Field(default=None, max_length=200)
    turn_count: int = Field(default=0)
    event_count: int = Field(default=0)
    created_at: datetime = Field(sa_type=UtcDateTime)
    updated_at: datetime = Field(sa_type=UtcDateTime)


class ActionStatus(StrEnum):
    PENDING = "pending"
    EXECUTING = "executing"
    EXECUTED = "executed"
    REJECTED = "rejected"
    FAILED = "failed"


class Approver(StrEnum):
    ASKER = "asker"
    OTHER = "other"


class PendingAction(SQLModel, table=True):
    """What an agent proposed and a person has to approve: single-use, expiring, bound to actor,
    sha256 of the canonical arguments, and to the state of the shop that the dry run saw."""

    __tablename__ = "pending_action"
    __table_args__ = (
        Index("ix_pending_action_actor_id_id", "actor_id", "id"),
        Index("ix_pending_action_decided_at", "decided_at"),
        Index("ix_pending_action_trace_id", "trace_id"),
        Index("ix_pending_action_waiting", "expires_at", postgresql_where="status = 'pending'"),
    )

    id: ActionId = Field(default_factory=new_id, primary_key=True, sa_type=Uuid)
    conversation_id: ConversationId | None = Field(default=None, index=True, sa_type=Uuid)
    actor_id: UUID = Field(sa_type=Uuid, description="User, or the cart of a guest.")
    actor_role: str = Field(max_length=32)
    operation: str = Field(max_length=100)
    arguments: dict[str, Any] = Field(sa_type=JSONB)
    arguments_sha256: str = Field(max_length=64)
    preview: dict[str, Any] = Field(sa_type=JSONB)
    effects: dict[str, Any] = Field(
        default_factory=dict, sa_type=JSONB, description="Rows, money and events of the dry run."
    )
    state_sha256: str = Field(default="", max_length=64, description="Of what the dry run saw.")
    approver: Approver = enum_field(Approver.ASKER)
    refund_amount: int = Field(
        default=0, sa_type=BigInteger, description="What it pays out, for the daily caps."
    )
    currency: str = Field(default="", max_length=3)
    status: ActionStatus = enum_field(ActionStatus.PENDING)
    result: dict[str, Any] | None = Field(default=None, sa_type=JSONB)
    expires_at: datetime = Field(sa_type=UtcDateTime)
    created_at: datetime = Field(sa_type=UtcDateTime)
    decided_at: datetime | None = Field(default=None, sa_type=UtcDateTime)
    decided_by: UUID | None = Field(default=None, sa_type=Uuid)
    trace_id: str | None = Field(default=None, max_length=64, description="Of carrying it out.")
