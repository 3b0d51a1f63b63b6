"""What operations and agents are given to work with, instead of reaching for globals."""

from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, ClassVar
from uuid import UUID

import orjson
from pydantic import BaseModel, ConfigDict
from sqlalchemy import text
from sqlalchemy.ext.asyncio import async_sessionmaker
from sqlmodel.ext.asyncio.session import AsyncSession

from db.models.outbox import OutboxMessage
from db.models.user import Role
from db.types import UserId
from deps.cache import Cache
from deps.gateway import Gateway
from deps.hot import HotPool, driver_of
from deps.mail import Mailer
from deps.settings import Settings
from deps.transaction import in_transaction


class Event(BaseModel):
    """A fact in the past tense about one aggregate. `tools/events.py` lists them all."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    aggregate: ClassVar[str]
    version: ClassVar[int] = 1

    @property
    def aggregate_id(self) -> UUID:
        """The id this event is numbered under: the field `<aggregate>_id`."""
        value = getattr(self, f"{self.aggregate}_id")
        assert isinstance(value, UUID)
        return value


@dataclass(frozen=True, slots=True)
class Actor:
    """Who is asking. Set by authentication; never taken from model output or request bodies.

    A guest has no `user_id`; `guest_secret_sha256` proves that carts and conversations are theirs.
    """

    role: Role | None = None
    user_id: UserId | None = None
    scopes: frozenset[str] = frozenset()
    guest_secret_sha256: str | None = None

    def may(self, scope: str) -> bool:
        return scope in self.scopes

    @property
    def label(self) -> str:
        return self.role.value if self.role else "guest"


SHOPPER_SCOPES = frozenset(
    {"catalog:read", "stock:read", "cart:write", "checkout:write", "order:read", "profile:read"}
)
CUSTOMER_SCOPES = SHOPPER_SCOPES | {"order:cancel", "profile:write", "notification:read"}
MERCHANT_SCOPES = CUSTOMER_SCOPES | {
    "catalog:write",
    "stock:write",
    "order:read_all",
    "order:manage",
    "payment:read",
    "payment:write",
    "analytics:read",
    "notification:read_all",
    "user:read_all",
    "event:read",
}
ADMIN_SCOPES = MERCHANT_SCOPES | {"user:write_all", "event:write"}
ROLE_SCOPES = {
    None: SHOPPER_SCOPES,
    Role.CUSTOMER: CUSTOMER_SCOPES,
    Role.MERCHANT: MERCHANT_SCOPES,
    Role.ADMIN: ADMIN_SCOPES,
    Role.SYSTEM: ADMIN_SCOPES,
}
SYSTEM = Actor(role=Role.SYSTEM, scopes=ADMIN_SCOPES)


@dataclass(frozen=True, slots=True, kw_only=True)
class UnitOfWork:
    """One open transaction and the facts fixed for its duration.

    Operations in `tools/` take it first and never commit: whoever opened it does. So operations
    compose, and either all of them happen or none does.
    """

    session: AsyncSession
    actor: Actor
    now: datetime
    settings: Settings
    trace_id: str | None = None
    events: list[OutboxMessage]

    async def fetch(self, sql: str, *args: Any) -> list[Any]:
        """Run `$1`-style SQL in this transaction, past the session, and return its rows.

        Raises:
            asyncpg.PostgresError: The statement failed; the transaction can only roll back.
        """
        return await (await driver_of(self.session)).fetch(sql, *args)

    async def fetchrow(self, sql: str, *args: Any) -> Any:
        """Return the first row, or None. Otherwise as `fetch`."""
        return await (await driver_of(self.session)).fetchrow(sql, *args)

    async def fetchval(self, sql: str, *args: Any) -> Any:
        """Return the first column of the first row, or None. Otherwise as `fetch`."""
        return await (await driver_of(self.session)).fetchval(sql, *args)

    def publish(self, event: Event) -> None:
        """Record `event`: it is announced if, and only if, this transaction commits.

        The row is written, and numbered within its aggregate, just before the commit.
        """
        self.events.append(
            OutboxMessage(
                type=type(event).__name__,
                schema_version=event.version,
                aggregate_type=event.aggregate,
                aggregate_id=event.aggregate_id,
                aggregate_seq=0,
                payload=event.model_dump(mode="json"),
                actor_id=self.actor.user_id,
                actor_role=self.actor.label,
                trace_id=self.trace_id,
                occurred_at=self.now,
            )
        )


# The place is taken first: its row lock, kept until the commit, makes `seq` follow the commit order
# within an aggregate. In VALUES the identity would be drawn before the lock.
_INSERT_EVENT = text("""
    WITH place AS MATERIALIZED (SELECT next_aggregate_seq(:aggregate_id) AS aggregate_seq)
    INSERT INTO outbox (id, type, schema_version, aggregate_type, aggregate_id, aggregate_seq,
                        payload, actor_id, actor_role, trace_id, occurred_at)
    SELECT :id, :type, :schema_version, :aggregate_type, :aggregate_id, place.aggregate_seq,
           CAST(:payload AS jsonb), :actor_id, :actor_role, :trace_id, :occurred_at
    FROM place
""")


async def _write_events(uow: UnitOfWork) -> None:
    # In aggregate order, so that two transactions touching the same aggregates cannot deadlock on
    # the counters' row locks; the stable sort keeps each aggregate's own order.
    for message in sorted(uow.events, key=lambda m: m.aggregate_id.bytes):
        values = message.model_dump(exclude={"seq", "aggregate_seq", "published_at"})
        values["payload"] = orjson.dumps(message.payload).decode()
        await uow.session.execute(_INSERT_EVENT, values)


def utc_now() -> datetime:
    return datetime.now(UTC)


@dataclass(frozen=True, slots=True, kw_only=True)
class Deps:
    """Dependencies of one request, one job or one agent run."""

    db: async_sessionmaker[AsyncSession]
    hot: HotPool
    cache: Cache
    gateways: Mapping[str, Gateway]
    mailer: Mailer
    settings: Settings
    actor: Actor = Actor(scopes=SHOPPER_SCOPES)
    clock: Callable[[], datetime] = utc_now
    trace_id: str | None = None

    @property
    def gateway(self) -> Gateway:
        """The provider that new payments by card go to."""
        return self.gateways[self.settings.payment_provider]

    def acting_as(self, actor: Actor) -> "Deps":
        return replace(self, actor=actor)

    @asynccontextmanager
    async def begin(self) -> AsyncGenerator[UnitOfWork, None]:
        """Open a transaction: commit on success, roll back on any exception.

        While it is open, `deps.transaction.external()` refuses to run: no network call may hold a
        transaction.
        """
        assert not in_transaction.get(), "a transaction is already open in this task"
        token = in_transaction.set(True)
        try:
            async with self.db.begin() as session:
                uow = UnitOfWork(
                    session=session,
                    actor=self.actor,
                    now=self.clock(),
                    settings=self.settings,
                    trace_id=self.trace_id,
                    events=[],
                )
                yield uow
                await session.flush()
                await _write_events(uow)
        finally:
            in_transaction.reset(token)
