"""What operations and agents are given to work with, instead of reaching for globals."""

from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, ClassVar, Protocol
from uuid import UUID, uuid5

import orjson
from pydantic import BaseModel, ConfigDict
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import async_sessionmaker
from sqlmodel.ext.asyncio.session import AsyncSession

from db.models.outbox import OutboxMessage
from db.models.user import Role
from db.row_security import ROLE
from db.types import UserId
from deps.cache import Cache
from deps.gateway import Gateway
from deps.hot import HotPool, driver_of
from deps.mail import Mailer
from deps.settings import Settings
from deps.telemetry import sql_span
from deps.transaction import in_transaction


class Event(BaseModel):
    """A fact in the past tense about one aggregate. `tools/events.py` lists them all."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    aggregate: ClassVar[str]
    version: ClassVar[int] = 1
    invalidates: ClassVar[str | None] = None
    """The tag of cached bodies that are made of what changed; see `deps.cache`."""

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

    @property
    def key(self) -> UUID | None:
        """What rows made for this actor are bound to: the user, or an id derived from a guest's
        secret. None for a guest without one: nothing can be theirs."""
        if self.user_id is not None:
            return self.user_id
        secret = self.guest_secret_sha256
        return None if secret is None else uuid5(_GUESTS, secret)


_GUESTS = UUID("6d1f9c1e-54c6-4a3e-9f55-0a8b3f6f2f10")


@dataclass(frozen=True, slots=True)
class AgentTurn:
    """The message or request that an agent's calls belong to; `tools.agent_run` records it."""

    id: UUID
    conversation_id: UUID | None = None
    words: str = ""
    route: str = ""


SHOPPER_SCOPES = frozenset(
    {
        "catalog:read",
        "stock:read",
        "cart:write",
        "checkout:write",
        "order:read",
        "profile:read",
        "support:ask",
    }
)
CUSTOMER_SCOPES = SHOPPER_SCOPES | {
    "order:cancel",
    "order:edit",
    "order:return",
    "profile:write",
    "notification:read",
    "credit:use",
}
MERCHANT_SCOPES = CUSTOMER_SCOPES | {
    "catalog:write",
    "stock:write",
    "order:read_all",
    "order:manage",
    "payment:read",
    "payment:write",
    "promotion:write",
    "analytics:read",
    "notification:read_all",
    "user:read_all",
    "event:read",
    "support:write",
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


class Work(Protocol):
    """What an operation of a single statement needs: a transaction, or a pool where the statement
    is one by itself."""

    @property
    def actor(self) -> Actor: ...
    @property
    def now(self) -> datetime: ...
    @property
    def settings(self) -> Settings: ...
    @property
    def trace_id(self) -> str | None: ...

    async def fetch(self, sql: str, *args: Any) -> list[Any]: ...
    async def fetchrow(self, sql: str, *args: Any) -> Any: ...
    async def fetchval(self, sql: str, *args: Any) -> Any: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class HotWork:
    """`Work` outside any transaction: every statement is one of its own."""

    hot: HotPool
    actor: Actor
    now: datetime
    settings: Settings
    trace_id: str | None = None

    async def fetch(self, sql: str, *args: Any) -> list[Any]:
        return await self.hot.fetch(sql, *args)

    async def fetchrow(self, sql: str, *args: Any) -> Any:
        return await self.hot.fetchrow(sql, *args)

    async def fetchval(self, sql: str, *args: Any) -> Any:
        return await self.hot.fetchval(sql, *args)


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
    invalidated: set[str] = field(default_factory=set)
    """Tags of cached bodies to forget after the commit."""
    is_agent: bool = False

    async def fetch(self, sql: str, *args: Any) -> list[Any]:
        """Run `$1`-style SQL in this transaction, past the session, and return its rows.

        Raises:
            asyncpg.PostgresError: The statement failed; the transaction can only roll back.
        """
        driver = await driver_of(self.session)
        with sql_span(sql):
            return await driver.fetch(sql, *args)

    async def fetchrow(self, sql: str, *args: Any) -> Any:
        """Return the first row, or None. Otherwise as `fetch`."""
        driver = await driver_of(self.session)
        with sql_span(sql):
            return await driver.fetchrow(sql, *args)

    async def fetchval(self, sql: str, *args: Any) -> Any:
        """Return the first column of the first row, or None. Otherwise as `fetch`."""
        driver = await driver_of(self.session)
        with sql_span(sql):
            return await driver.fetchval(sql, *args)

    def publish(self, event: Event) -> None:
        """Record `event`: it is announced if, and only if, this transaction commits.

        The row is written, and numbered within its aggregate, just before the commit.
        """
        if event.invalidates is not None:
            self.invalidated.add(event.invalidates)
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


class AgentRoleMissing(Exception):
    """The database has no role for agents that we may take: they cannot act. See the doctor."""


# One statement, one round trip; all of it ends with the transaction.
_CONFINE = text("""
    SELECT set_config('shopkeeper.actor_id', :actor_id, true),
           set_config('shopkeeper.actor_key', :actor_key, true),
           set_config('shopkeeper.guest', :guest, true),
           set_config('shopkeeper.scopes', :scopes, true),
           set_config('role', :role, true)
""")
_RELEASE = text("SELECT set_config('role', 'none', true)")
_CANNOT_SET_ROLE = ("22023", "42501")  # No such role; not permitted.


@asynccontextmanager
async def confined(uow: UnitOfWork) -> AsyncGenerator[UnitOfWork, None]:
    """Let a part of a transaction see and change only what row-level security grants its actor.

    On an exception the restriction stays: the transaction can only be rolled back.

    Raises:
        AgentRoleMissing: The role does not exist or is not ours to take. Nothing has run.
    """
    actor = uow.actor
    values = {
        "actor_id": str(actor.user_id or ""),
        "actor_key": str(actor.key or ""),
        "guest": actor.guest_secret_sha256 or "",
        "scopes": f",{','.join(sorted(actor.scopes))},",
        "role": ROLE,
    }
    await uow.session.flush()
    try:
        await uow.session.execute(_CONFINE, values)
    except DBAPIError as error:
        if getattr(error.orig, "sqlstate", None) not in _CANNOT_SET_ROLE:
            raise
        raise AgentRoleMissing("The database has no role for agents.") from error
    yield replace(uow, is_agent=True)
    await uow.session.flush()
    await uow.session.execute(_RELEASE)


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
    as_agent: bool = False
    """Whether transactions run in the agents' role, under row-level security."""
    turn: AgentTurn | None = None

    def __post_init__(self) -> None:
        # Single statements of an agent need the role, too, and with it a transaction.
        plain = self.hot.plain if isinstance(self.hot, _ConfinedPool) else self.hot
        hot = _ConfinedPool(self, plain) if self.as_agent else plain
        object.__setattr__(self, "hot", hot)

    @property
    def gateway(self) -> Gateway:
        """The provider that new payments by card go to."""
        return self.gateways[self.settings.payment_provider]

    def hot_work(self) -> HotWork:
        return HotWork(
            hot=self.hot,
            actor=self.actor,
            now=self.clock(),
            settings=self.settings,
            trace_id=self.trace_id,
        )

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
                if self.as_agent:
                    async with confined(uow) as restricted:
                        yield restricted
                else:
                    yield uow
                    await session.flush()
                await _write_events(uow)
        finally:
            in_transaction.reset(token)
        for tag in uow.invalidated:
            await self.cache.forget(tag)


class _ConfinedPool(HotPool):
    """What an agent has in place of the hot pool: the same statements under row-level security."""

    def __init__(self, deps: Deps, plain: HotPool) -> None:
        self._deps = deps
        self.plain = plain

    async def fetch(self, sql: str, *args: Any) -> list[Any]:
        async with self._deps.begin() as uow:
            return await uow.fetch(sql, *args)

    async def fetchrow(self, sql: str, *args: Any) -> Any:
        async with self._deps.begin() as uow:
            return await uow.fetchrow(sql, *args)

    async def fetchval(self, sql: str, *args: Any) -> Any:
        async with self._deps.begin() as uow:
            return await uow.fetchval(sql, *args)

    async def execute(self, sql: str, *args: Any) -> int:
        async with self._deps.begin() as uow:
            status = await (await driver_of(uow.session)).execute(sql, *args)
        count = status.rpartition(" ")[2]
        return int(count) if count.isdecimal() else 0

    @property
    def connections(self) -> dict[str, int]:
        return self.plain.connections

    async def aclose(self) -> None:
        await self.plain.aclose()
