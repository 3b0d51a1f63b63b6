"""People and programs that sign in, and the refresh tokens they hold."""

from datetime import datetime
from enum import StrEnum
from uuid import UUID

from sqlalchemy import Index, Uuid
from sqlmodel import Field, SQLModel

from db.types import UserId, UtcDateTime, enum_field, new_id


class Role(StrEnum):
    CUSTOMER = "customer"
    MERCHANT = "merchant"
    ADMIN = "admin"
    SYSTEM = "system"


class User(SQLModel, table=True):
    """One sign-in. `email` is stored lower-case, so its unique index is case-blind."""

    __tablename__ = "app_user"
    __table_args__ = (
        Index("ix_app_user_name_id", "name", "id"),
        Index("ix_app_user_role_id", "role", "id"),
        Index(
            "ix_app_user_name_email_trgm",
            "name",
            "email",
            postgresql_using="gin",
            postgresql_ops={"name": "gin_trgm_ops", "email": "gin_trgm_ops"},
        ),
    )

    id: UserId = Field(default_factory=new_id, primary_key=True, sa_type=Uuid)
    email: str = Field(max_length=254, unique=True)
    name: str = Field(max_length=200)
    password_hash: str
    role: Role = enum_field(Role.CUSTOMER)
    is_active: bool = True
    created_at: datetime = Field(sa_type=UtcDateTime)


class StaffUser(SQLModel, table=True):
    """A sign-in as those see it who may see everybody's; a view, without what proves who one is.

    Row-level security would test each row before a search could use an index. Here the scope is
    asked once, before any row.
    """

    __tablename__ = "staff_user"
    __table_args__ = {"info": {"is_view": True}}

    id: UserId = Field(primary_key=True, sa_type=Uuid)
    email: str
    name: str
    role: Role = enum_field(Role.CUSTOMER)
    is_active: bool
    created_at: datetime = Field(sa_type=UtcDateTime)


class RefreshToken(SQLModel, table=True):
    """One link of a rotation chain. Presenting a rotated one again revokes its whole family
    (RFC 9700, section 4.14.2)."""

    __tablename__ = "refresh_token"

    id: UUID = Field(default_factory=new_id, primary_key=True, sa_type=Uuid)
    family_id: UUID = Field(index=True, sa_type=Uuid)
    user_id: UserId = Field(foreign_key="app_user.id", ondelete="CASCADE", index=True, sa_type=Uuid)
    token_sha256: str = Field(max_length=64, unique=True)
    issued_at: datetime = Field(sa_type=UtcDateTime)
    expires_at: datetime = Field(sa_type=UtcDateTime)
    rotated_at: datetime | None = Field(default=None, sa_type=UtcDateTime)
    revoked_at: datetime | None = Field(default=None, sa_type=UtcDateTime)
