"""Events: the outbox that is also the audit trail, what was handled, and what could not be."""

from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import BigInteger, Column, Identity, Index, UniqueConstraint, Uuid
from sqlalchemy.dialects.postgresql import JSONB
from sqlmodel import Field, SQLModel

from db.types import UtcDateTime, new_id


class OutboxMessage(SQLModel, table=True):
    """A fact, written in the transaction that made it true, numbered within its aggregate."""

    __tablename__ = "outbox"
    __table_args__ = (
        UniqueConstraint("aggregate_id", "aggregate_seq", name="one_event_per_place"),
        Index("ix_outbox_unpublished", "seq", postgresql_where="published_at IS NULL"),
        Index("ix_outbox_type_seq", "type", "seq"),
    )

    seq: int | None = Field(
        default=None, sa_column=Column(BigInteger, Identity(always=True), primary_key=True)
    )
    id: UUID = Field(default_factory=new_id, unique=True, sa_type=Uuid)
    type: str = Field(max_length=100)
    schema_version: int = 1
    aggregate_type: str = Field(max_length=50)
    aggregate_id: UUID = Field(sa_type=Uuid)
    aggregate_seq: int
    payload: dict[str, Any] = Field(sa_type=JSONB)
    actor_id: UUID | None = Field(default=None, sa_type=Uuid)
    actor_role: str = Field(max_length=32)
    trace_id: str | None = Field(default=None, max_length=64)
    occurred_at: datetime = Field(sa_type=UtcDateTime)
    published_at: datetime | None = Field(default=None, sa_type=UtcDateTime)


class AggregateCounter(SQLModel, table=True):
    """The last place given out within an aggregate; `next_aggregate_seq` advances it."""

    __tablename__ = "aggregate_counter"

    aggregate_id: UUID = Field(primary_key=True, sa_type=Uuid)
    last_seq: int


class InboxEntry(SQLModel, table=True):
    """Proof that a handler applied an event, committed with the handler's own effect."""

    __tablename__ = "inbox"

    event_id: UUID = Field(primary_key=True, sa_type=Uuid)
    handler: str = Field(primary_key=True, max_length=100)
    handled_at: datetime = Field(sa_type=UtcDateTime)


class EventRetry(SQLModel, table=True):
    """A delivery that failed and is due again."""

    __tablename__ = "event_retry"

    event_id: UUID = Field(primary_key=True, sa_type=Uuid)
    handler: str = Field(primary_key=True, max_length=100)
    attempts: int
    due_at: datetime = Field(index=True, sa_type=UtcDateTime)
    last_error: str = Field(max_length=2000)


class DeadLetter(SQLModel, table=True):
    """A delivery given up, with the reason and the payload; kept until replayed."""

    __tablename__ = "dead_letter"
    __table_args__ = (UniqueConstraint("event_id", "handler", name="one_letter_per_delivery"),)

    id: UUID = Field(default_factory=new_id, primary_key=True, sa_type=Uuid)
    event_id: UUID = Field(sa_type=Uuid)
    handler: str = Field(max_length=100)
    type: str = Field(max_length=100)
    payload: dict[str, Any] = Field(sa_type=JSONB)
    reason: str = Field(max_length=2000)
    attempts: int
    failed_at: datetime = Field(sa_type=UtcDateTime)
    replayed_at: datetime | None = Field(default=None, sa_type=UtcDateTime)


class EventCheckpoint(SQLModel, table=True):
    """Where a group of handlers stands: every event up to `seq` was applied, parked or given up.

    The reconciler looks only above it, and a redelivery from below is ignored, so old inbox rows
    may go.
    """

    __tablename__ = "event_checkpoint"

    handler_group: str = Field(primary_key=True, max_length=50)
    seq: int = Field(sa_type=BigInteger)
    updated_at: datetime = Field(sa_type=UtcDateTime)
