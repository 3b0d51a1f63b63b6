"""Messages to people. `dedupe_key` makes one event one message."""

from datetime import datetime
from enum import StrEnum
from uuid import UUID

from sqlalchemy import Index, Text, Uuid
from sqlmodel import Field, SQLModel

from db.types import UserId, UtcDateTime, enum_field, new_id


class NotificationStatus(StrEnum):
    QUEUED = "queued"
    SENDING = "sending"
    SENT = "sent"
    FAILED = "failed"


class Notification(SQLModel, table=True):
    __tablename__ = "notification"
    __table_args__ = (
        Index("ix_notification_due", "due_at", postgresql_where="status IN ('queued', 'sending')"),
        Index("ix_notification_customer_id_id", "customer_id", "id"),
        Index("ix_notification_status_id", "status", "id"),
        Index("ix_notification_template_id", "template", "id"),
        Index("ix_notification_recipient_id", "recipient", "id"),
    )

    id: UUID = Field(default_factory=new_id, primary_key=True, sa_type=Uuid)
    dedupe_key: str = Field(max_length=200, unique=True)
    customer_id: UserId | None = Field(default=None, sa_type=Uuid)
    template: str = Field(max_length=100)
    recipient: str = Field(max_length=254)
    subject: str = Field(max_length=300)
    body: str = Field(sa_type=Text)
    status: NotificationStatus = enum_field(NotificationStatus.QUEUED)
    attempts: int = 0
    due_at: datetime = Field(sa_type=UtcDateTime)
    sent_at: datetime | None = Field(default=None, sa_type=UtcDateTime)
    last_error: str = Field(default="", max_length=500)
    created_at: datetime = Field(sa_type=UtcDateTime)
