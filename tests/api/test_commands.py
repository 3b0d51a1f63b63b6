"""What the commands do, in this process: the command line itself is held by `test_cli.py`."""

import asyncio
import json
import os
import signal
import socket
from collections.abc import Callable
from functools import partial
from pathlib import Path
from uuid import UUID

import pytest

from api import doctor, processes
from api.doctor import Finding
from api.servers import CommandFailed
from db.models.user import Role, User
from deps.core import Deps
from deps.settings import Settings
from tests import databases, factories
from tests.processes import kept_logging
from tools import delivery
from tools.errors import NotFound
from tools.invariant import INVARIANTS


@pytest.fixture
def settings(database_url: str, valkey: object, tmp_path: Path) -> Settings:
    return Settings(
        _env_file=None,
        rate_limits=False,
        database_url=database_url,
        redis_url=str(getattr(valkey, "url", "")),
        data_dir=tmp_path,
        port=0,
        database_pool_size=5,
    )


async def execute(url: str, sql: str) -> None:
    async with databases.connection_to(url) as connection:
        await connection.execute(sql)


CSV = """\
Handle,Title,Variant SKU,Variant Price,Variant Inventory Qty
mug,Stoneware mug,MUG,12.50,7
bowl,Bowl,BOWL,not a price,1
"""


async def test_an_import_counts_and_says_what_was_refused(
    settings: Settings, deps: Deps, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, errors = tmp_path / "shop.csv", tmp_path / "refused.csv"
    source.write_text(CSV)
    assert await processes.import_catalogue(settings, source, None, errors, None) == 1
    said = capsys.readouterr().out
    assert "1 products created, 0 updated, 0 unchanged" in said
    assert f"1 rows were refused; see {errors}" in said
    assert "3,Variant Price,is not a price,not a price" in errors.read_text()
    source.write_text(CSV.rpartition("bowl")[0])
    assert await processes.import_catalogue(settings, source, "EUR", errors, None) == 0
    assert "0 products created, 0 updated, 1 unchanged" in capsys.readouterr().out


async def test_invariants_that_break_are_named(
    settings: Settings, deps: Deps, capsys: pytest.CaptureFixture[str]
) -> None:
    assert await processes.check_invariants(settings, as_json=False) == 0
    every = f"{len(INVARIANTS)} of {len(INVARIANTS)} invariants hold."
    assert capsys.readouterr().out == f"{every}\n"
    await factories.product(deps, "MUG", stock=5)
    await execute(
        str(settings.database_url),
        "SET session_replication_role = replica;"
        "UPDATE stock_level SET on_hand = on_hand + 1 WHERE sku = 'MUG'",
    )
    assert await processes.check_invariants(settings, as_json=False) == 1
    said = capsys.readouterr().out
    assert "MUG" in said
    assert every not in said
    assert await processes.check_invariants(settings, as_json=True) == 1
    told = json.loads(capsys.readouterr().out)
    assert told["checked"] == len(INVARIANTS)
    assert len(told["violations"]) > 0


async def test_events_are_told_as_they_happen(
    settings: Settings, deps: Deps, capsys: pytest.CaptureFixture[str]
) -> None:
    await factories.product(deps, "MUG", stock=5)
    told: dict[bool, str] = {}
    for as_json in (False, True):
        tail = asyncio.create_task(processes.tail_events(settings, 0, as_json))
        said = ""
        async with asyncio.timeout(60):
            while "ProductSaved" not in said:
                await asyncio.sleep(0.05)
                assert not tail.done(), tail.result()
                said += capsys.readouterr().out
        tail.cancel()
        await asyncio.wait([tail])
        told[as_json] = said
    assert "ProductSaved by system {" in told[False]
    first = json.loads(told[True].splitlines()[0])
    assert {"seq", "type", "payload"} <= set(first)


async def test_events_are_replayed_by_id_and_by_range(settings: Settings, deps: Deps) -> None:
    await factories.product(deps, "MUG", stock=5)
    await factories.placed_order(await factories.user(deps), MUG=1)
    async with deps.begin() as uow:
        row = await uow.fetchrow("SELECT seq, id FROM outbox WHERE type = 'OrderPlaced'")
    assert row is not None
    replay = partial(processes.replay_events, settings, None, handler=None)
    # What was handled once is handled again only if that is asked for.
    for force, said in ((False, "0 applied, 1 skipped"), (True, "1 applied, 0 skipped")):
        one = await replay(event=row["id"], from_seq=None, to_seq=None, force=force)
        several = await replay(event=None, from_seq=row["seq"], to_seq=row["seq"], force=force)
        assert one == several == f"{said}, 0 failed, 0 given_up"
    with pytest.raises(CommandFailed, match="--letter, --event, --from or --to"):
        await replay(event=None, from_seq=None, to_seq=None, force=False)


async def test_a_worker_delivers_until_it_is_told_to_stop(
    settings: Settings, deps: Deps, capsys: pytest.CaptureFixture[str]
) -> None:
    await factories.product(deps, "MUG", stock=5)
    with kept_logging():
        work = asyncio.create_task(processes.work(settings))
        said = ""
        async with asyncio.timeout(60):
            while "Working." not in said:
                assert not work.done(), work.result()
                await asyncio.sleep(0.02)
                said += capsys.readouterr().out
            async with deps.begin() as uow:
                events = await uow.fetchval("SELECT count(*) FROM outbox")
            while await _published(deps) < events:
                pass
            os.kill(os.getpid(), signal.SIGTERM)
            await work


async def _published(deps: Deps) -> int:
    await asyncio.sleep(0.02)
    async with deps.begin() as uow:
        return int(await uow.fetchval("SELECT count(published_at) FROM outbox"))


async def test_dead_letters_are_listed_and_replayed(
    settings: Settings, deps: Deps, capsys: pytest.CaptureFixture[str]
) -> None:
    await processes.list_dead(settings, as_json=False)
    assert capsys.readouterr().out == "No dead letters.\n"
    await factories.product(deps, "MUG", stock=50)
    for _ in range(20):
        await factories.placed_order(factories.guest(deps), MUG=1)
    url = str(settings.database_url)
    await execute(url, "UPDATE outbox SET type = 'X' || type")
    await delivery.Reconciler().run_once(deps, settle_s=0)
    await processes.list_dead(settings, as_json=False)
    *lines, last = capsys.readouterr().out.splitlines()
    assert last == "There are more."
    assert all(" → unreadable after 1 attempts: unknown event type X" in line for line in lines)
    await processes.list_dead(settings, as_json=True)
    page = json.loads(capsys.readouterr().out)
    assert [line.partition(" ")[0] for line in lines] == [item["id"] for item in page["items"]]
    await execute(url, "UPDATE outbox SET type = substr(type, 2)")
    letter = next(item["id"] for item in page["items"] if item["type"] == "XOrderPlaced")
    told = await processes.replay_events(
        settings, UUID(letter), event=None, from_seq=None, to_seq=None, handler=None, force=False
    )
    assert told.startswith("1 applied")


async def test_a_shop_gets_its_first_admin(settings: Settings, deps: Deps) -> None:
    somebody = await factories.user(deps)
    async with deps.begin() as uow:
        email = (await uow.session.get_one(User, somebody.actor.user_id)).email
    told = await processes.set_role(settings, email.upper(), Role.ADMIN)
    assert told == f"{email.upper()} is admin from the next sign-in on, and in 15 minutes at most."
    async with deps.begin() as uow:
        assert (await uow.session.get_one(User, somebody.actor.user_id)).role is Role.ADMIN
    with pytest.raises(NotFound, match="Nobody has registered"):
        await processes.set_role(settings, "nobody@example.com", Role.ADMIN)


async def test_migrations_go_down_and_up(settings: Settings) -> None:
    assert "; the newest is " in await processes.migrate(settings, "-1")
    assert "; the newest." in await processes.migrate(settings, None)


async def test_migrations_make_what_the_models_say(settings: Settings) -> None:
    assert "up and down" in await processes.check_migrations(settings)
    async with asyncio.timeout(60):
        async with databases.connection_to(str(settings.database_url)) as connection:
            left = await connection.fetch(
                "SELECT datname FROM pg_database WHERE datname LIKE 'shopkeeper_scratch_%'"
            )
    assert left == []


def named(findings: list[Finding]) -> dict[str, Finding]:
    return {finding.name: finding for finding in findings}


@pytest.fixture
def examine(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Callable[..., "asyncio.Task[list[Finding]]"]:
    """Run the doctor under an environment; `None` leaves a variable out."""
    monkeypatch.chdir(tmp_path)
    usual = {
        "DATABASE_URL": settings.database_url,
        "REDIS_URL": settings.redis_url,
        "SHOPKEEPER_DATA_DIR": str(tmp_path / "home"),
        "SHOPKEEPER_PORT": "0",
    }

    def run(**changes: str | None) -> "asyncio.Task[list[Finding]]":
        for name, value in (usual | changes).items():
            if value is None:
                monkeypatch.delenv(name, raising=False)
            else:
                monkeypatch.setenv(name, value)
        return asyncio.create_task(doctor.examine())

    return run


async def test_the_doctor_finds_a_sound_shop_sound(
    examine: Callable[..., "asyncio.Task[list[Finding]]"],
) -> None:
    found = named(await examine())
    for name in ("settings", "data folder", "disk", "port", "database", "cache and bus"):
        assert found[name].ok, found[name]
    assert "PostgreSQL program" not in found


async def test_the_doctor_of_an_embedded_shop_looks_for_programs(
    examine: Callable[..., "asyncio.Task[list[Finding]]"], tmp_path: Path
) -> None:
    found = named(await examine(DATABASE_URL=None, REDIS_URL=None))
    assert found["PostgreSQL program"].ok
    assert found["Valkey program"].ok
    assert found["identity"].ok
    assert found["database"].state == "embedded, not running now"
    assert found["cache and bus"].state == "embedded"
    found = named(await examine(DATABASE_URL=None, PG_BIN=str(tmp_path)))
    assert not found["PostgreSQL program"].ok
    assert found["PostgreSQL program"].mend == "Correct or unset it."


async def test_the_doctor_says_what_is_wrong_and_what_mends_it(
    examine: Callable[..., "asyncio.Task[list[Finding]]"], settings: Settings, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        found = named(
            await examine(
                SHOPKEEPER_PORT=str(taken.getsockname()[1]),
                SHOPKEEPER_DATA_DIR=str(tmp_path / "file" / "below"),
                DATABASE_URL="mysql://u:hunter2@db/shop",
                REDIS_URL="redis://127.0.0.1:1",
            )
        )
    for name, mend in (
        ("port", "--port"),
        ("data folder", "SHOPKEEPER_DATA_DIR"),
        ("database", "DATABASE_URL"),
        ("cache and bus", "REDIS_URL"),
    ):
        assert not found[name].ok, name
        assert mend in found[name].mend
        assert "hunter2" not in found[name].state
    await execute(str(settings.database_url), "UPDATE alembic_version SET version_num = '0001'")
    behind = named(await examine())["database"]
    assert not behind.ok
    assert behind.mend == "Run ./shopkeeper migrate."
    assert "schema 0001" in behind.state


async def test_the_doctor_stops_at_settings_that_are_not_valid(
    examine: Callable[..., "asyncio.Task[list[Finding]]"],
) -> None:
    found = await examine(SHOPKEEPER_CURRENCY="euro")
    assert [finding.name for finding in found][-1] == "settings"
    assert not found[-1].ok
    assert "currency" in found[-1].state.lower()
