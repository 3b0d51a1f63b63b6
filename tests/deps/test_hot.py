"""The hot pool against a real server: transactions, JSON, limits, and a server that goes away."""

import asyncio
from uuid import UUID

import asyncpg
import pytest
from sqlmodel import select

from db.models.inventory import Location
from db.types import new_id
from deps import hot
from deps.core import Deps
from deps.hot import HotPool
from deps.postgres import DatabaseUnavailable
from deps.settings import Settings
from tests.databases import connection_to


@pytest.fixture
async def table(deps: Deps) -> None:
    await deps.hot.execute("CREATE TABLE hot (id int PRIMARY KEY, document jsonb)")


async def test_statement_is_a_transaction_of_its_own(deps: Deps, table: None) -> None:
    assert await deps.hot.execute("INSERT INTO hot VALUES (1), (2)") == 2
    with pytest.raises(asyncpg.UniqueViolationError):
        await deps.hot.execute("INSERT INTO hot VALUES (3), (1)")
    assert [row["id"] for row in await deps.hot.fetch("SELECT id FROM hot ORDER BY id")] == [1, 2]
    assert (await deps.hot.fetchrow("SELECT id FROM hot WHERE id = $1", 2))["id"] == 2
    assert await deps.hot.fetchrow("SELECT id FROM hot WHERE id = $1", 9) is None
    assert await deps.hot.fetchval("SELECT count(*) FROM hot") == 2
    assert await deps.hot.execute("UPDATE hot SET id = id + 10 WHERE id = $1", 2) == 1


async def test_json_is_values_on_both_ways(deps: Deps, table: None) -> None:
    for number, sent in enumerate(({"a": [1, None]}, [True], '{"a": "é"}')):
        await deps.hot.execute("INSERT INTO hot VALUES ($1, $2)", number, sent)
    select_all = "SELECT document, document::json AS text FROM hot ORDER BY id"
    stored = [{"a": [1, None]}, [True], {"a": "é"}]
    assert [row["document"] for row in await deps.hot.fetch(select_all)] == stored
    async with deps.begin() as uow:
        await uow.fetch("INSERT INTO hot VALUES ($1, $2)", 9, {"b": 2})
        rows = await uow.fetch(select_all)
    assert [row["document"] for row in rows] == [row["text"] for row in rows]
    assert rows[-1]["document"] == {"b": 2}


async def test_pool_is_refused_inside_a_transaction(deps: Deps) -> None:
    async with deps.begin():
        with pytest.raises(AssertionError, match=r"uow\.fetch"):
            await deps.hot.fetchval("SELECT 1")
    assert await deps.hot.fetchval("SELECT 1") == 1


async def test_statement_of_a_unit_of_work_rolls_back_with_it(deps: Deps, table: None) -> None:
    async def insert_and_fail() -> None:
        async with deps.begin() as uow:
            # The first statement of all: the session has sent no BEGIN yet.
            await uow.fetch("INSERT INTO hot VALUES (1)")
            assert await uow.fetchval("SELECT count(*) FROM hot") == 1
            raise LookupError

    with pytest.raises(LookupError):
        await insert_and_fail()
    assert await deps.hot.fetchval("SELECT count(*) FROM hot") == 0
    async with deps.begin() as uow:
        row = await uow.fetchrow("INSERT INTO hot VALUES (1) RETURNING id")
    assert row["id"] == 1
    assert await deps.hot.fetchval("SELECT count(*) FROM hot") == 1


async def test_unit_of_work_sees_what_its_session_holds_and_the_other_way(deps: Deps) -> None:
    async with deps.begin() as uow:
        uow.session.add(Location(code="HAM", name="Hamburg"))
        found = await uow.fetchval("SELECT id FROM location WHERE code = 'HAM'")
        assert isinstance(found, UUID)
        await uow.fetch("INSERT INTO location VALUES ($1, 'BRE', 'Bremen', 1, true)", new_id())
        codes = (await uow.session.exec(select(Location.code).order_by(Location.code))).all()
    assert list(codes) == ["BRE", "HAM"]


async def test_failed_statement_dooms_its_transaction(deps: Deps, table: None) -> None:
    async def go_on_after_a_failure() -> None:
        async with deps.begin() as uow:
            await uow.fetch("INSERT INTO hot VALUES (1)")
            with pytest.raises(asyncpg.UniqueViolationError):
                await uow.fetch("INSERT INTO hot VALUES (1)")
            await uow.fetch("SELECT 1")

    with pytest.raises(asyncpg.InFailedSQLTransactionError):
        await go_on_after_a_failure()
    assert await deps.hot.fetchval("SELECT count(*) FROM hot") == 0


async def test_limits_are_those_that_are_set(database_url: str) -> None:
    pool = await HotPool.open(database_url, Settings(_env_file=None))
    shown = {
        name: await pool.fetchval("SELECT current_setting($1)", name)
        for name in ("statement_timeout", "lock_timeout", "jit", "application_name")
    }
    await pool.aclose()
    assert shown == {
        "statement_timeout": "10s",
        "lock_timeout": "5s",
        "jit": "off",
        "application_name": "shopkeeper-hot",
    }


async def test_many_callers_share_few_connections(database_url: str, settings: Settings) -> None:
    few = settings.model_copy(update={"database_hot_pool_size": 2})
    pool = await HotPool.open(database_url, few)
    assert pool.connections == {"idle": 0, "in_use": 0}
    answers = await asyncio.gather(*(pool.fetchval("SELECT $1::int", n) for n in range(50)))
    assert answers == list(range(50))
    assert pool.queries == 50
    assert pool.connections == {"idle": 2, "in_use": 0}
    await pool.aclose()


async def test_caller_who_leaves_gives_the_connection_back(
    database_url: str, settings: Settings
) -> None:
    pool = await HotPool.open(
        database_url, settings.model_copy(update={"database_hot_pool_size": 1})
    )
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await pool.fetchval("SELECT pg_sleep(5)")
    assert await pool.fetchval("SELECT 1") == 1
    await pool.aclose()


async def test_connection_cut_by_the_server_is_replaced(deps: Deps) -> None:
    pid = await deps.hot.fetchval("SELECT pg_backend_pid()")
    async with deps.begin() as uow:
        assert await uow.fetchval("SELECT pg_terminate_backend($1, 60000)", pid)
    await asyncio.sleep(0.05)
    assert await deps.hot.fetchval("SELECT pg_backend_pid()") != pid


async def test_absent_server_is_one_sentence(settings: Settings) -> None:
    pool = await HotPool.open("postgresql://u:secret@/none?host=/nonexistent", settings)
    with pytest.raises(DatabaseUnavailable, match="cannot be used") as caught:
        await pool.fetchval("SELECT 1")
    assert "secret" not in str(caught.value)
    await pool.aclose()


_SLEEPING = """
    SELECT count(*) FROM pg_stat_activity
    WHERE datname = current_database() AND wait_event = 'PgSleep'
"""


async def test_closing_waits_for_what_runs_but_not_for_ever(
    database_url: str, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hot, "CLOSE_TIMEOUT_S", 0.1)
    pool = await HotPool.open(database_url, settings)
    stuck = asyncio.create_task(pool.fetchval("SELECT pg_sleep(300)"))
    async with connection_to(database_url) as other, asyncio.timeout(60):
        while not await other.fetchval(_SLEEPING):  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    await pool.aclose()
    with pytest.raises((asyncpg.PostgresError, asyncpg.InterfaceError)):
        await stuck
