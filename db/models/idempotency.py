"""Idempotency keys: one row per key, in progress or done, with the stored answer."""

from datetime import datetime

from sqlalchemy import LargeBinary
from sqlmodel import Field, SQLModel

from db.types import UtcDateTime


class IdempotencyKey(SQLModel, table=True):
    """`scope` is the caller, so one caller's key never replays another's answer."""

    __tablename__ = "idempotency_key"

    scope: str = Field(primary_key=True, max_length=100)
    key: str = Field(primary_key=True, max_length=200)
    request_sha256: str = Field(max_length=64)
    claim: str = Field(max_length=64)
    locked_until: datetime | None = Field(default=None, sa_type=UtcDateTime)
    status_code: int | None = None
    body: bytes | None = Field(default=None, sa_type=LargeBinary)
    content_type: str | None = Field(default=None, max_length=100)
    created_at: datetime = Field(index=True, sa_type=UtcDateTime)
