"""Databases for tests: clones of a template, emptied and used again where that is safe.

Copying a thousand files for every test costs more than most tests. What a test left is deleted
instead, unless it changed more than rows: then the clone is dropped and the next test gets a new
one.
"""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any, Final

import asyncpg

from db.types import new_id
from deps import postgres
from deps.embedded_postgres import EmbeddedPostgres

# A table with more is emptied at once rather than row by row.
LARGE_BYTES: Final = 1 << 20

_SHAPE: Final = """
    SELECT md5(string_agg(thing, ',' ORDER BY thing)) FROM (
        SELECT concat_ws(' ', 'class', oid, relname, relkind, relowner, relrowsecurity,
                         relforcerowsecurity, reloptions, relacl) AS thing
        FROM pg_class WHERE oid >= 16384 AND relkind <> 't'
        UNION ALL SELECT concat_ws(' ', 'column', attrelid, attnum, xmin)
        FROM pg_attribute WHERE attrelid >= 16384
        UNION ALL SELECT concat_ws(' ', 'index', indexrelid, xmin)
        FROM pg_index WHERE indexrelid >= 16384
        UNION ALL SELECT concat_ws(' ', 'constraint', oid, xmin)
        FROM pg_constraint WHERE oid >= 16384
        UNION ALL SELECT concat_ws(' ', 'trigger', oid, xmin) FROM pg_trigger
        UNION ALL SELECT concat_ws(' ', 'function', oid, xmin) FROM pg_proc WHERE oid >= 16384
        UNION ALL SELECT concat_ws(' ', 'policy', oid, xmin) FROM pg_policy
        UNION ALL SELECT concat_ws(' ', 'type', oid, xmin) FROM pg_type WHERE oid >= 16384
        UNION ALL SELECT concat_ws(' ', 'schema', oid, xmin) FROM pg_namespace
        UNION ALL SELECT concat_ws(' ', 'analysed', starelid, staattnum)
        FROM pg_statistic WHERE starelid >= 16384
        UNION ALL SELECT concat_ws(' ', 'setting', setrole, setconfig) FROM pg_db_role_setting s
        JOIN pg_database d ON d.oid = s.setdatabase WHERE d.datname = current_database()
    ) things
"""
_USED: Final = """
    SELECT c.oid::regclass::text AS name, pg_relation_size(c.oid) AS bytes FROM pg_class c
    WHERE c.relkind = 'r' AND c.oid >= 16384 AND pg_relation_size(c.oid) > 0
"""
_SEQUENCES: Final = """
    SELECT format('%I.%I', schemaname, sequencename) AS name, start_value, last_value
    FROM pg_sequences WHERE last_value IS NOT NULL
"""
_OTHERS: Final = """
    SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity
    WHERE datname = current_database() AND pid <> pg_backend_pid()
"""
_ROWS: Final = "SELECT md5(coalesce(string_agg(t::text, ',' ORDER BY t::text), '')) FROM {} AS t"


class Clones:
    """Clones of one template, one at a time."""

    def __init__(self, server: EmbeddedPostgres, template: str) -> None:
        self._server = server
        self._template = template
        self._shape = ""
        self._seeds: dict[str, str] = {}
        self._spare: str | None = None

    @asynccontextmanager
    async def taken(self) -> AsyncGenerator[str, None]:
        """Yield the URL of a database as the template is, for one test."""
        name, self._spare = self._spare, None
        if name is None:
            name = await self._new()
        yield self._server.dsn(name)
        if await self._restored(name):
            self._spare = name
        else:
            await postgres.drop_database(self._server.dsn(name))

    async def aclose(self) -> None:
        if self._spare is not None:
            await postgres.drop_database(self._server.dsn(self._spare))

    async def _new(self) -> str:
        name = f"test_{new_id().hex}"
        await postgres.clone_database(self._server.dsn(name), self._template)
        if not self._shape:
            async with connection_to(self._server.dsn(name)) as connection:
                assert not await connection.fetch(_SEQUENCES)
                self._shape = await connection.fetchval(_SHAPE)
                used = [row["name"] for row in await connection.fetch(_USED)]
                self._seeds = {
                    table: await connection.fetchval(_ROWS.format(table)) for table in used
                }
        return name

    async def _restored(self, name: str) -> bool:
        """Return whether the database is as it was cloned, after deleting what was added."""
        async with connection_to(self._server.dsn(name)) as connection:
            await connection.execute(_OTHERS)
            if await connection.fetchval(_SHAPE) != self._shape:
                return False
            for table, rows in self._seeds.items():
                if await connection.fetchval(_ROWS.format(table)) != rows:
                    return False
            used = {row["name"]: row["bytes"] for row in await connection.fetch(_USED)}
            added = {table: size for table, size in used.items() if table not in self._seeds}
            large = [table for table, size in added.items() if size > LARGE_BYTES]
            small = [table for table in added if table not in large]
            # No triggers: what is only ever added to cannot be deleted otherwise.
            empty = [f"DELETE FROM {table}" for table in small]
            if large:
                empty.append(f"TRUNCATE {', '.join(large)} CASCADE")
            for row in await connection.fetch(_SEQUENCES):
                empty.append(f"SELECT setval('{row['name']}', {row['start_value']}, false)")
            await connection.execute(
                "; ".join(
                    ["BEGIN", "SET LOCAL session_replication_role = replica", *empty, "COMMIT"]
                )
            )
            if small:
                await connection.execute(f"VACUUM {', '.join(small)}")
        return True


async def connect(url: str) -> "asyncpg.Connection[Any]":
    """Connect to `url` by asyncpg itself, as its user."""
    parsed = postgres.normalise(url)
    _, parts = parsed.get_dialect()().create_connect_args(parsed)
    return await asyncpg.connect(**parts)


@asynccontextmanager
async def connection_to(url: str) -> "AsyncGenerator[asyncpg.Connection[Any], None]":
    connection = await connect(url)
    try:
        yield connection
    finally:
        await connection.close()
