"""Addresses of databases, and one sentence when there is none behind them."""

import asyncio

import pytest
from sqlalchemy import make_url

from deps import postgres
from deps.embedded_postgres import EmbeddedPostgres
from deps.postgres import DatabaseUnavailable, MigrationError
from tests import databases


@pytest.mark.parametrize(
    ("given", "used"),
    [
        ("postgres://u:p@db/shop", "postgresql+asyncpg://u:p@db/shop"),
        ("postgresql://db:5433/shop", "postgresql+asyncpg://db:5433/shop"),
        ("postgresql+psycopg://db/shop", "postgresql+asyncpg://db/shop"),
        ("postgres://db/shop?sslmode=require", "postgresql+asyncpg://db/shop?ssl=require"),
        ("postgresql://u:p%40ss@db/shop", "postgresql+asyncpg://u:p%40ss@db/shop"),
    ],
)
def test_addresses_as_platforms_hand_them_out(given: str, used: str) -> None:
    assert postgres.normalise(given).render_as_string(hide_password=False) == used


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("", "not a database address"),
        ("shop", "not a database address"),
        ("postgresql://db:port/shop", "not a database address"),
        ("mysql://u:secret@db/shop", "names mysql, not postgresql"),
        ("sqlite:///shop.db", "names sqlite, not postgresql"),
    ],
)
def test_an_address_of_something_else_is_one_sentence(given: str, said: str) -> None:
    with pytest.raises(DatabaseUnavailable, match=said) as caught:
        postgres.normalise(given)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (ConnectionRefusedError(111, "Connection refused"), "Connection refused"),
        (TimeoutError(), "no answer in time"),
        (OSError("a.\nb"), "a"),
        (RuntimeError("<class 'asyncpg.X'>: the role is locked"), "the role is locked"),
    ],
)
def test_why_it_is_away(error: Exception, reason: str) -> None:
    said = postgres.unavailable("postgresql+asyncpg://db/shop", error)
    assert said == f"The database at postgresql://db/shop cannot be used: {reason}."


async def test_what_the_server_says_is_passed_on_without_the_password(database_url: str) -> None:
    absent = make_url(database_url).set(database="absent", password="hunter2hunter2")
    with pytest.raises(DatabaseUnavailable, match='database "absent" does not exist') as caught:
        await postgres.probe(absent.render_as_string(hide_password=False))
    assert "hunter2" not in str(caught.value)


async def test_a_server_that_never_answers_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(postgres, "CONNECT_TIMEOUT_S", 0.2)
    silent = await asyncio.start_server(lambda _reader, _writer: None, "127.0.0.1", 0)
    port = silent.sockets[0].getsockname()[1]
    with pytest.raises(DatabaseUnavailable, match="no answer in time"):
        await postgres.probe(f"postgresql://u:p@127.0.0.1:{port}/shop")
    silent.close()


async def test_a_database_is_made_once_by_many(server: EmbeddedPostgres) -> None:
    url = server.dsn('made "once"')
    try:
        made = await asyncio.gather(*(postgres.ensure_database(url) for _ in range(4)))
        assert sum(made) == 1
        assert await postgres.ensure_database(url) is False
        assert (await postgres.revisions(url))[0] is None
    finally:
        await postgres.drop_database(url)


async def test_an_unknown_revision_leaves_the_schema_alone(database_url: str) -> None:
    before, newest = await postgres.revisions(database_url)
    assert before == newest
    with pytest.raises(MigrationError, match=r"The migration failed: .*no-such"):
        await postgres.upgrade(database_url, "no-such")
    with pytest.raises(MigrationError):
        await postgres.downgrade(database_url, "no-such")
    assert (await postgres.revisions(database_url))[0] == before
    await postgres.check(database_url)


async def test_a_schema_that_the_models_do_not_declare_is_found(database_url: str) -> None:
    async with databases.connection_to(database_url) as connection:
        await connection.execute("ALTER TABLE orders ADD COLUMN colour text")
    with pytest.raises(MigrationError, match="colour"):
        await postgres.check(database_url)
