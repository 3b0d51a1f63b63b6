"""Conversations handed over to a person."""

from datetime import datetime
from enum import StrEnum
from typing import Any
from uuid import UUID

from sqlalchemy import BigInteger, Column, Identity, Index, Text, Uuid
from sqlalchemy.dialects.postgresql import JSONB
from sqlmodel import Field, SQLModel

from db.types import ConversationId, UserId, UtcDateTime, enum_field, new_id


class HandoverStatus(StrEnum):
    OPEN = "open"
    CLAIMED = "claimed"
    RESOLVED = "resolved"


class Handover(SQLModel, table=True):
    """`transcript` is what was said until then: a conversation may be deleted, the case stays."""

    __tablename__ = "handover"
    __table_args__ = (
        # A conversation waits once for a person, however often it asks.
        Index(
            "uq_handover_conversation_id_unresolved",
            "conversation_id",
            unique=True,
            postgresql_where="status <> 'resolved'",
        ),
        Index("ix_handover_status_id", "status", "id"),
    )

    id: UUID = Field(default_factory=new_id, primary_key=True, sa_type=Uuid)
    number: int | None = Field(
        default=None, sa_column=Column(BigInteger, Identity(start=1), unique=True, nullable=False)
    )
    conversation_id: ConversationId | None = Field(
        default=None, foreign_key="conversation.id", ondelete="SET NULL", sa_type=Uuid
    )
    user_id: UserId | None = Field(default=None, index=True, sa_type=Uuid)
    secret_sha256: str | None = Field(default=None, max_length=64)
    email: str | None = Field(default=None, max_length=254)
    reason: str = Field(sa_type=Text)
    transcript: list[dict[str, Any]] = Field(default_factory=list, sa_type=JSONB)
    status: HandoverStatus = enum_field(HandoverStatus.OPEN)
    claimed_by: UserId | None = Field(default=None, sa_type=Uuid)
    note: str = Field(default="", sa_type=Text)
    created_at: datetime = Field(sa_type=UtcDateTime)
    resolved_at: datetime | None = Field(default=None, sa_type=UtcDateTime)
