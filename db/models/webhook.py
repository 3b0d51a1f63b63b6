"""What providers told us: the inbox of webhooks."""

from datetime import datetime
from enum import StrEnum
from uuid import UUID

from sqlalchemy import CheckConstraint, Index, UniqueConstraint, Uuid
from sqlmodel import Field, SQLModel

from db.types import UtcDateTime, enum_field, new_id


class WebhookTopic(StrEnum):
    PAYMENT = "payment"
    REFUND = "refund"
    DISPUTE = "dispute"
    OTHER = "other"


class WebhookState(StrEnum):
    """`DEAD` was tried to the end and waits for a person; `IGNORED` is about nothing of ours."""

    RECEIVED = "received"
    HANDLED = "handled"
    IGNORED = "ignored"
    DEAD = "dead"


class WebhookEvent(SQLModel, table=True):
    """One verified event of a provider, once, however often it is sent.

    The body is not kept: it holds personal data, and what happened is asked of the provider anyway.
    """

    __tablename__ = "webhook_event"
    __table_args__ = (
        UniqueConstraint("provider", "event_id", name="one_row_per_event"),
        CheckConstraint("attempts >= 0", name="attempts_not_negative"),
        Index("ix_webhook_event_due", "due_at", postgresql_where="state = 'received'"),
        Index("ix_webhook_event_reference_id", "reference", "id"),
        Index("ix_webhook_event_state_id", "state", "id"),
    )

    id: UUID = Field(default_factory=new_id, primary_key=True, sa_type=Uuid)
    provider: str = Field(max_length=32)
    event_id: str = Field(max_length=200, description="The provider's own.")
    type: str = Field(max_length=100)
    topic: WebhookTopic = enum_field(WebhookTopic.OTHER)
    object_id: str = Field(max_length=200)
    reference: str | None = Field(default=None, max_length=200, description="Of the payment.")
    key: str | None = Field(default=None, max_length=200, description="Of our call behind it.")
    body_sha256: str = Field(max_length=64)
    state: WebhookState = enum_field(WebhookState.RECEIVED)
    attempts: int = 0
    due_at: datetime = Field(sa_type=UtcDateTime)
    last_error: str = Field(default="", max_length=500)
    occurred_at: datetime = Field(sa_type=UtcDateTime, description="By the provider's clock.")
    received_at: datetime = Field(sa_type=UtcDateTime)
    handled_at: datetime | None = Field(default=None, sa_type=UtcDateTime)
