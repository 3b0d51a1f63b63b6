"""The embedded servers, as real processes."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import asyncpg
import pytest
from redis.asyncio import Redis

from deps.embedded_postgres import EmbeddedPostgres
from deps.embedded_valkey import EmbeddedValkey
from deps.process import SOCKET_DIRECTORY_LENGTH_MAX, EmbeddedError, is_alive

ROOT = Path(__file__).resolve().parents[2]
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root has to become someone else")

CLIENT = """
import sys
from pathlib import Path
from deps.embedded_postgres import EmbeddedPostgres
with EmbeddedPostgres(Path(sys.argv[1]), fast=True) as server:
    print(server.pid(), flush=True)
    sys.stdin.read()
"""


class Client:
    """Another process that uses the server until it is told to stop, or killed."""

    def __init__(self, home: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", CLIENT, str(home)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
        )

    def server_pid(self) -> int:
        assert self.process.stdout is not None
        return int(self.process.stdout.readline())

    def leave(self) -> None:
        self.process.communicate()
        assert self.process.returncode == 0

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate()


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path / "pg"
    EmbeddedPostgres(tmp_path / "pg").clear()  # Stops what a failed test left running.


async def execute(server: EmbeddedPostgres, query: str) -> object:
    connection = await asyncpg.connect(
        host=str(server.socket_directory), user="postgres", database="postgres"
    )
    try:
        return await connection.fetchval(query)
    finally:
        await connection.close()


async def test_data_outlives_a_stop_and_no_process_does(home: Path) -> None:
    server = EmbeddedPostgres(home)
    with server:
        await execute(server, "CREATE TABLE kept AS SELECT 7 AS n")
        pid = server.pid()
    assert pid is not None
    assert not is_alive(pid)
    with EmbeddedPostgres(home) as again:
        assert await execute(again, "SELECT n FROM kept") == 7
        assert await execute(again, "SHOW fsync") == "on"


async def test_processes_share_a_server_and_the_last_stops_it(home: Path) -> None:
    clients = [Client(home) for _ in range(3)]
    pids = {client.server_pid() for client in clients}
    assert len(pids) == 1
    server = EmbeddedPostgres(home, fast=True).start()
    for client in clients:
        client.leave()
    assert await execute(server, "SELECT 1") == 1
    assert server.stop()
    assert not is_alive(pids.pop())


async def test_a_killed_client_is_not_counted(home: Path) -> None:
    client = Client(home)
    pid = client.server_pid()
    client.kill()
    server = EmbeddedPostgres(home, fast=True).start()
    assert server.pid() == pid
    assert server.stop()
    assert not is_alive(pid)


async def test_a_killed_postmaster_is_replaced_with_nothing_lost(home: Path) -> None:
    with EmbeddedPostgres(home) as server:
        await execute(server, "CREATE TABLE kept AS SELECT 7 AS n")
        pid = server.pid()
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        with EmbeddedPostgres(home) as successor:
            assert await execute(successor, "SELECT n FROM kept") == 7


async def test_a_stranger_with_the_recorded_pid_does_not_stop_the_start(home: Path) -> None:
    with EmbeddedPostgres(home, fast=True) as server:
        recorded = (server.data / "postmaster.pid").read_text()
    stale = recorded.split("\n", 1)
    (server.data / "postmaster.pid").write_text(f"{os.getpid()}\n{stale[1]}")
    with EmbeddedPostgres(home, fast=True) as again:
        assert await execute(again, "SELECT 1") == 1


def test_an_interrupted_initdb_is_begun_again(home: Path) -> None:
    (home / "data.new").mkdir(parents=True)
    (home / "data.new" / "PG_VERSION").write_text("18\n")
    with EmbeddedPostgres(home, fast=True) as server:
        assert server.is_ready()


def test_another_version_s_data_is_refused_and_kept(home: Path) -> None:
    (home / "data").mkdir(parents=True, mode=0o700)
    (home / "data" / "PG_VERSION").write_text("12\n")
    with pytest.raises(EmbeddedError, match="made by PostgreSQL 12"):
        EmbeddedPostgres(home).start()
    assert (home / "data" / "PG_VERSION").exists()


def test_a_server_in_use_is_not_cleared(home: Path) -> None:
    with (
        EmbeddedPostgres(home, fast=True),
        pytest.raises(EmbeddedError, match="in use"),
    ):
        EmbeddedPostgres(home).clear()


def test_wrong_programs_are_told_in_one_sentence(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PG_BIN", "/nowhere")
    with pytest.raises(EmbeddedError, match=r"PG_BIN is /nowhere"):
        EmbeddedPostgres(home).start()


async def test_a_long_path_gets_a_short_socket(tmp_path: Path) -> None:
    home = tmp_path / ("long" * 30)
    with EmbeddedPostgres(home, fast=True) as server:
        assert len(str(server.socket_directory)) <= SOCKET_DIRECTORY_LENGTH_MAX
        assert await execute(server, "SELECT 1") == 1


@needs_root
async def test_without_user_namespaces_it_runs_as_nobody(tmp_path: Path) -> None:
    class Forbidden(EmbeddedPostgres):
        @staticmethod
        def namespaces_allowed() -> bool:
            return False

    server = Forbidden(tmp_path / "pg", fast=True)
    try:
        with server:
            await execute(server, "CREATE TABLE kept AS SELECT 7 AS n")
            pid = server.pid()
            assert pid is not None
            assert os.stat(f"/proc/{pid}").st_uid != 0
        # What was made as nobody is opened as nobody, even where namespaces are allowed again.
        with EmbeddedPostgres(tmp_path / "pg", fast=True) as again:
            assert await execute(again, "SELECT n FROM kept") == 7
    finally:
        EmbeddedPostgres(tmp_path / "pg").clear()


async def test_valkey_keeps_what_was_written_through_a_kill(tmp_path: Path) -> None:
    with EmbeddedValkey(tmp_path) as server:
        async with Redis.from_url(server.url) as client:
            await client.set("kept", "7")
            await client.config_set("appendfsync", "always")
            await client.set("flush", "1")
        pid = server.pid()
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        with EmbeddedValkey(tmp_path) as successor:
            async with Redis.from_url(successor.url) as client:
                assert await client.get("kept") == b"7"
            successor_pid = successor.pid()
    assert successor_pid is not None
    assert not is_alive(successor_pid)


async def test_two_valkey_clients_race_for_the_start(tmp_path: Path) -> None:
    servers = [EmbeddedValkey(tmp_path, fast=True) for _ in range(4)]
    await asyncio.gather(*(asyncio.to_thread(server.start) for server in servers))
    assert len({server.pid() for server in servers}) == 1
    assert [server.stop() for server in servers] == [False, False, False, True]
