"""The database: its engine with limits on everything, and its migrations."""

import io
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import asyncpg
import orjson
from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from sqlalchemy import Connection, NullPool, event, make_url, text
from sqlalchemy.engine import URL, ExceptionContext
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import (
    AsyncConnection,
    AsyncEngine,
    async_sessionmaker,
    create_async_engine,
)
from sqlalchemy.ext.asyncio import AsyncSession as SqlAlchemySession
from sqlmodel.ext.asyncio.session import AsyncSession

from deps import row_security
from deps.settings import Settings
from deps.telemetry import trace_engine

MIGRATIONS = Path(__file__).resolve().parent.parent / "db" / "migrations"
# "shopkeep" in ASCII: the lock that lets one process at a time migrate a database.
MIGRATION_LOCK = int.from_bytes(b"shopkeep", "big") & 0x7FFF_FFFF_FFFF_FFFF
MIGRATION_TURN_TIMEOUT = "120s"
MIGRATION_LOCK_TIMEOUT = "5s"
IDLE_IN_TRANSACTION_TIMEOUT = "15s"
CONNECT_TIMEOUT_S = 5.0
POOL_TIMEOUT_S = 10.0
# What the driver raises when the database is stopping, full or locked: no statement is at fault.
OUTAGES = (
    asyncpg.PostgresConnectionError,
    asyncpg.OperatorInterventionError,
    asyncpg.InsufficientResourcesError,
    asyncpg.LockNotAvailableError,
    asyncpg.TransactionRollbackError,
)
# Of a database that is there, and of one that another session is making at this moment.
# https://www.postgresql.org/docs/current/errcodes-appendix.html
DUPLICATE_DATABASE = ("42P04", "23505")


class DatabaseUnavailable(Exception):
    """The database cannot be used. The message is one sentence without the password."""


class MigrationError(Exception):
    """Migrations cannot be applied, or do not make what the models say."""


def normalise(url: str) -> URL:
    """Return `url` for the asyncpg driver; `postgres://…?sslmode=…` as platforms hand it out too.

    Raises:
        DatabaseUnavailable: It is not the address of a PostgreSQL database.
    """
    try:
        parsed = make_url(url)
    except Exception as error:  # SQLAlchemy raises its own and ValueError, depending on the fault.
        raise DatabaseUnavailable("DATABASE_URL is not a database address.") from error
    if parsed.drivername.partition("+")[0] not in ("postgres", "postgresql"):
        raise DatabaseUnavailable(f"DATABASE_URL names {parsed.drivername}, not postgresql.")
    query = dict(parsed.query)
    if "sslmode" in query:
        query["ssl"] = query.pop("sslmode")
    return parsed.set(drivername="postgresql+asyncpg", query=query)


def create_engine(url: str, settings: Settings, *, name: str = "shopkeeper") -> AsyncEngine:
    """Make the engine of one process; it connects on first use.

    Its connections raise `DatabaseUnavailable` when the database is away, busy or full: SQLAlchemy
    has no exception that says so for this driver.

    Args:
        url: Any PostgreSQL address.
        settings: For the pool's size and the longest statement.
        name: Shown in `pg_stat_activity`.
    """
    engine = create_async_engine(
        normalise(url),
        pool_size=settings.database_pool_size,
        max_overflow=0,
        pool_timeout=POOL_TIMEOUT_S,
        pool_recycle=1800,
        pool_pre_ping=False,  # Costs a round trip each time; a broken connection fails one request.
        connect_args={
            "timeout": CONNECT_TIMEOUT_S,
            "server_settings": server_settings(settings, name),
        },
    )

    @event.listens_for(engine.sync_engine, "connect")
    def use_our_codecs(connection: Any, _: object) -> None:
        connection.run_async(set_json_codecs)

    place = engine.url.render_as_string(hide_password=True)

    @event.listens_for(engine.sync_engine, "do_connect")
    def connect(dialect: Any, _: object, arguments: Any, options: Any) -> Any:
        try:
            return dialect.connect(*arguments, **options)
        except (OSError, asyncpg.PostgresError, dialect.loaded_dbapi.Error) as error:
            raise DatabaseUnavailable(unavailable(place, error)) from error

    @event.listens_for(engine.sync_engine, "handle_error")
    def name_outage(context: ExceptionContext) -> None:
        error = context.original_exception
        if context.is_disconnect or isinstance(error.__cause__, OUTAGES):
            raise DatabaseUnavailable(unavailable(place, error)) from error

    trace_engine(engine.sync_engine)
    return engine


def server_settings(settings: Settings, name: str) -> dict[str, str]:
    """Return what every session of this program asks of the server: limits on everything."""
    return {
        "application_name": name,
        "statement_timeout": str(settings.statement_timeout_ms),
        "idle_in_transaction_session_timeout": IDLE_IN_TRANSACTION_TIMEOUT,
        "lock_timeout": str(settings.lock_timeout_ms),
        "timezone": "UTC",
        "jit": "off",
        # Below the default of 0.6, so that a letter left out of a word still matches.
        "pg_trgm.word_similarity_threshold": "0.45",
        # And below 0.3, so that a wrong letter in a short word does.
        "pg_trgm.similarity_threshold": "0.2",
    }


async def set_json_codecs(connection: "asyncpg.Connection[Any]") -> None:
    """Make JSON columns Python values. A `str` parameter is taken as JSON text, as SQLAlchemy
    sends it; anything else is encoded."""
    await connection.set_type_codec(
        "jsonb", encoder=_to_jsonb, decoder=_from_jsonb, schema="pg_catalog", format="binary"
    )
    await connection.set_type_codec(
        "json", encoder=_to_json, decoder=orjson.loads, schema="pg_catalog"
    )


def _to_json(value: Any) -> str:
    return value if isinstance(value, str) else orjson.dumps(value).decode()


def _to_jsonb(value: Any) -> bytes:
    # The first byte is the version of the wire format.
    return b"\x01" + (value.encode() if isinstance(value, str) else orjson.dumps(value))


def _from_jsonb(value: bytes) -> Any:
    return orjson.loads(memoryview(value)[1:])


class Session(AsyncSession):
    """SQLModel's session, with SQLAlchemy's `execute` for the SQL that `exec` has no types for.

    SQLModel's own `execute` warns at every call, which costs more than the call.
    """

    execute = SqlAlchemySession.execute


def session_factory(engine: AsyncEngine) -> async_sessionmaker[AsyncSession]:
    """Return the factory of sessions; objects stay readable after the commit."""
    return async_sessionmaker(engine, class_=Session, expire_on_commit=False)


async def ensure_database(url: str) -> bool:
    """Create the database `url` names, by way of `postgres` on the same server, if it is absent."""
    target = normalise(url)
    assert target.database
    async with _connect(target.set(database="postgres"), autocommit=True) as connection:
        found = await connection.scalar(
            text("SELECT 1 FROM pg_database WHERE datname = :name"), {"name": target.database}
        )
        if found:
            return False
        quoted = target.database.replace('"', '""')
        try:
            await connection.execute(text(f'CREATE DATABASE "{quoted}"'))
        except DBAPIError as error:
            if getattr(error.orig, "sqlstate", None) not in DUPLICATE_DATABASE:
                raise
            return False  # Another process was faster.
    return True


async def clone_database(url: str, template: str) -> None:
    """Create the database `url` names as a copy of `template`, to which nobody may be connected."""
    target = normalise(url)
    assert target.database
    async with _connect(target.set(database="postgres"), autocommit=True) as connection:
        new, old = (name.replace('"', '""') for name in (target.database, template))
        # Copying files beats logging every block when durability does not matter: 50 to 400 ms.
        await connection.execute(
            text(f'CREATE DATABASE "{new}" TEMPLATE "{old}" STRATEGY file_copy')
        )


async def drop_database(url: str) -> None:
    """Drop the database `url` names and end the sessions in it."""
    target = normalise(url)
    assert target.database
    async with _connect(target.set(database="postgres"), autocommit=True) as connection:
        quoted = target.database.replace('"', '""')
        await connection.execute(text(f'DROP DATABASE IF EXISTS "{quoted}" WITH (FORCE)'))


async def probe(url: str) -> str:
    """Connect and return the server's version.

    Raises:
        DatabaseUnavailable: No connection.
    """
    async with _connect(normalise(url)) as connection:
        return str(await connection.scalar(text("SHOW server_version")))


async def upgrade(url: str, revision: str = "head") -> None:
    """Bring the schema to `revision`. Several processes may call it: one migrates, others wait.

    Raises:
        DatabaseUnavailable: No connection.
        MigrationError: A migration failed; it was rolled back.
    """
    await _migrate(url, lambda config: command.upgrade(config, revision), secure=True)


async def downgrade(url: str, revision: str) -> None:
    """Take the schema back to `revision`: `-1` is one step, `base` is empty.

    Raises: As `upgrade`.
    """
    await _migrate(url, lambda config: command.downgrade(config, revision))


async def check(url: str) -> None:
    """Assert that the migrated schema is what the models declare.

    Raises:
        MigrationError: They differ, or the database is not at the newest revision.
    """
    await _migrate(url, command.check)


async def revisions(url: str) -> tuple[str | None, str | None]:
    """Return the database's revision and the newest there is."""
    head = ScriptDirectory.from_config(_config()).get_current_head()
    async with _connect(normalise(url)) as connection:
        if not await connection.scalar(text("SELECT to_regclass('alembic_version')")):
            return None, head
        current = await connection.scalar(text("SELECT version_num FROM alembic_version"))
        return (str(current) if current else None), head


def _config() -> Config:
    config = Config(stdout=io.StringIO())  # `check` prints its verdict otherwise.
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    return config


async def agents_problem(url: str) -> str | None:
    """Say why agents cannot act on the database, or None when they can.

    Raises:
        DatabaseUnavailable: No connection.
    """
    async with _connect(normalise(url)) as connection:
        return await row_security.problem(connection)


async def _migrate(url: str, run: Callable[[Config], None], *, secure: bool = False) -> None:
    config = _config()

    def within(connection: Connection) -> None:
        config.attributes["connection"] = connection
        run(config)

    async with _connect(normalise(url)) as connection:
        # Session-level, so that it spans the transactions of all migrations; the connection is
        # closed afterwards, which releases it even if we are killed.
        try:
            await connection.execute(text(f"SET lock_timeout = '{MIGRATION_TURN_TIMEOUT}'"))
            await connection.execute(text(f"SELECT pg_advisory_lock({MIGRATION_LOCK})"))
            # A migration that waits for a table lock stalls every reader behind it.
            await connection.execute(text(f"SET lock_timeout = '{MIGRATION_LOCK_TIMEOUT}'"))
            await connection.commit()
            await connection.run_sync(within)
            if secure:
                await row_security.install(connection)
            await connection.commit()
        except (CommandError, DBAPIError) as error:
            reason = str(getattr(error, "orig", None) or error).splitlines()[0]
            raise MigrationError(f"The migration failed: {reason}") from error


@asynccontextmanager
async def _connect(url: URL, *, autocommit: bool = False) -> AsyncIterator[AsyncConnection]:
    engine = create_async_engine(
        url,
        poolclass=NullPool,
        connect_args={"timeout": CONNECT_TIMEOUT_S},
        **({"isolation_level": "AUTOCOMMIT"} if autocommit else {}),
    )
    try:
        try:
            connection = await engine.connect()
        except (OSError, TimeoutError, DBAPIError, asyncpg.PostgresError, TypeError) as error:
            place = url.render_as_string(hide_password=True)
            raise DatabaseUnavailable(unavailable(place, error)) from error
        try:
            yield connection
        finally:
            await connection.close()
    finally:
        await engine.dispose()


def unavailable(place: str, error: BaseException) -> str:
    """Say in one sentence why the database at `place`, an address without password, is away."""
    cause = getattr(error, "orig", None) or error
    lines = (getattr(cause, "strerror", None) or str(cause)).splitlines()
    reason = lines[0].partition(">: ")[2] or lines[0] if lines else "no answer in time"
    shown = place.replace("+asyncpg", "")
    return f"The database at {shown} cannot be used: {reason.rstrip('.')}."
