"""When the shop's invariants were checked, and what they found."""

from datetime import datetime
from typing import Any

from sqlalchemy import Index
from sqlalchemy.dialects.postgresql import JSONB
from sqlmodel import Field, SQLModel

from db.types import UtcDateTime

FAILED = "violations <> '[]'::jsonb"


class AuditRun(SQLModel, table=True):
    """One audit. `slot` is the time it was due: of many workers, the first to write it audits."""

    __tablename__ = "audit_run"
    __table_args__ = (Index("ix_audit_run_failed_slot", "slot", postgresql_where=FAILED),)

    slot: datetime = Field(primary_key=True, sa_type=UtcDateTime)
    started_at: datetime = Field(sa_type=UtcDateTime)
    finished_at: datetime | None = Field(default=None, sa_type=UtcDateTime)
    violations: list[dict[str, Any]] = Field(default_factory=list, sa_type=JSONB)
