"""The hot path to PostgreSQL: asyncpg itself, without the session that costs ten times its CPU.

`HotPool` is for a statement that is a transaction by itself, such as one call of an SQL function.
`driver_of` gives the same driver under the transaction of a session, for `$1`-style SQL beside
ORM work. Both raise asyncpg's own errors, not SQLAlchemy's, and treat JSON alike: documents come
back as Python values, and go in as Python values or, a `str`, as JSON text.
"""

import asyncio
from typing import Any, Final, Self, cast

import asyncpg
from sqlalchemy.ext.asyncio import AsyncSession

from deps.postgres import (
    CONNECT_TIMEOUT_S,
    POOL_TIMEOUT_S,
    DatabaseUnavailable,
    normalise,
    server_settings,
    set_json_codecs,
    unavailable,
)
from deps.settings import Settings
from deps.telemetry import sql_span
from deps.transaction import in_transaction

STATEMENTS_CACHED: Final = 200
# What runs here finds its rows by an index. Without this the plans of a young shop, whose tables
# are a page long, read them from end to end, and are kept while the tables grow.
PLANNING: Final = {"enable_seqscan": "off"}
CLOSE_TIMEOUT_S: Final = 5.0
# In what a statement returns: its transaction commits without waiting for the disk. A crash of the
# server, not of a process, can lose the last half second of such, and never part of one.
WITHOUT_WAITING: Final = "set_config('synchronous_commit', 'off', true)"


class HotPool:
    """Connections for statements that are one transaction each.

    Every statement is prepared once per connection and kept. There is no reset between two
    statements, which would cost a round trip: so no `SET` here, no advisory lock, no cursor.
    """

    def __init__(self, pool: "asyncpg.Pool[Any]", name: str) -> None:
        self._pool = pool
        self._name = name
        self.queries = 0

    @classmethod
    async def open(cls, url: str, settings: Settings, *, name: str = "shopkeeper") -> Self:
        """Make the pool of one process; it connects on first use.

        Args:
            url: Any PostgreSQL address.
            settings: For the pool's size and the longest statement.
            name: Shown in `pg_stat_activity`.
        """
        parsed = normalise(url)
        _, address = parsed.get_dialect()().create_connect_args(parsed)
        pool = await asyncpg.create_pool(
            **address,
            min_size=0,
            max_size=settings.database_hot_pool_size,
            timeout=CONNECT_TIMEOUT_S,
            statement_cache_size=STATEMENTS_CACHED,
            max_cached_statement_lifetime=0,
            init=set_json_codecs,
            reset=_keep,
            server_settings={**server_settings(settings, f"{name}-hot"), **PLANNING},
        )
        return cls(pool, parsed.render_as_string(hide_password=True))

    async def fetch(self, sql: str, *args: Any) -> list[Any]:
        """Run `sql` in a transaction of its own and return its rows.

        Raises:
            DatabaseUnavailable: No connection could be had in time; nothing ran.
            asyncpg.PostgresError: The statement failed and left nothing behind.
        """
        connection = await self._acquire()
        try:
            with sql_span(sql):
                rows: list[Any] = await connection.fetch(sql, *args)
            return rows
        finally:
            await self._pool.release(connection)

    async def fetchrow(self, sql: str, *args: Any) -> Any:
        """Return the first row, or None. Otherwise as `fetch`."""
        connection = await self._acquire()
        try:
            with sql_span(sql):
                return await connection.fetchrow(sql, *args)
        finally:
            await self._pool.release(connection)

    async def fetchval(self, sql: str, *args: Any) -> Any:
        """Return the first column of the first row, or None. Otherwise as `fetch`."""
        connection = await self._acquire()
        try:
            with sql_span(sql):
                return await connection.fetchval(sql, *args)
        finally:
            await self._pool.release(connection)

    async def execute(self, sql: str, *args: Any) -> int:
        """Return how many rows were written. Otherwise as `fetch`."""
        connection = await self._acquire()
        try:
            with sql_span(sql):
                status = await connection.execute(sql, *args)
        finally:
            await self._pool.release(connection)
        count = status.rpartition(" ")[2]
        return int(count) if count.isdecimal() else 0

    @property
    def connections(self) -> dict[str, int]:
        """Count the open connections by state."""
        idle = self._pool.get_idle_size()
        return {"idle": idle, "in_use": self._pool.get_size() - idle}

    async def aclose(self) -> None:
        """Let running statements end, but not for ever."""
        try:
            await asyncio.wait_for(self._pool.close(), CLOSE_TIMEOUT_S)
        except TimeoutError:
            self._pool.terminate()

    async def _acquire(self) -> Any:
        # In a task that holds a transaction, a second connection could wait for the first for ever.
        assert not in_transaction.get(), "a transaction is open in this task: use `uow.fetch`"
        self.queries += 1
        try:
            return await self._pool.acquire(timeout=POOL_TIMEOUT_S)
        except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
            raise DatabaseUnavailable(unavailable(self._name, error)) from error


async def _keep(connection: "asyncpg.Connection[Any]") -> None:
    """Leave the connection as it is."""


async def driver_of(session: AsyncSession) -> "asyncpg.Connection[Any]":
    """Return the asyncpg connection of the session's open transaction, all pending rows flushed.

    SQLAlchemy sends BEGIN with its first statement only. A statement sent past it before that would
    be a transaction of its own, which no rollback undoes.
    """
    await session.flush()
    raw = await (await session.connection()).get_raw_connection()
    adapted = cast(Any, raw.dbapi_connection)
    if adapted._transaction is None:
        await adapted._start_transaction()
    driver = cast("asyncpg.Connection[Any]", adapted.driver_connection)
    assert driver.is_in_transaction()
    return driver
