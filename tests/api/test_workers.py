"""Several web processes: one that does not start, and one that does not stop."""

import os
import socket
from collections.abc import Generator
from pathlib import Path

import pytest

from api import serving, workers
from api.servers import CommandFailed, Servers
from deps.process import is_alive
from tests.processes import eventually


@pytest.fixture
def servers(database_url: str, valkey: object) -> Servers:
    return Servers(database_url, str(getattr(valkey, "url", "")), are_embedded=False)


@pytest.fixture
def listener() -> Generator[socket.socket, None, None]:
    with serving.bind("127.0.0.1", 0) as made:
        yield made


def children() -> list[int]:
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            line = (process / "cmdline").read_bytes()
        except OSError:
            continue  # It ended while we looked.
        if b"api.workers" in line and is_alive(int(process.name)):
            found.append(int(process.name))
    return found


async def test_if_one_does_not_start_none_is_left(
    servers: Servers, listener: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = children()
    monkeypatch.setenv("SHOPKEEPER_PORT", "many")
    with pytest.raises(CommandFailed, match="A web process did not start"):
        async with workers.worker_pool(servers, listener, 1):
            raise AssertionError("none serves")
    assert set(children()) <= set(before)


async def test_if_they_take_too_long_none_is_left(
    servers: Servers, listener: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = children()
    monkeypatch.setattr(workers, "START_TIMEOUT_S", 0.01)
    # What has not begun to listen to signals does not end well either.
    monkeypatch.setattr(workers, "STOP_TIMEOUT_S", 0.0)
    with pytest.raises(CommandFailed, match="did not start in time"):
        async with workers.worker_pool(servers, listener, 2):
            raise AssertionError("none serves")
    assert set(children()) <= set(before)


def _sockets(pid: int) -> int:
    links = (os.readlink(entry) for entry in Path(f"/proc/{pid}/fd").iterdir())
    return sum(link.startswith("socket:") for link in links)


async def test_a_burst_of_connections_is_shared(servers: Servers, listener: socket.socket) -> None:
    before = children()
    async with workers.worker_pool(servers, listener, 2):
        mine = [pid for pid in children() if pid not in before]
        assert len(mine) == 2
        idle = {pid: _sockets(pid) for pid in mine}
        burst = [socket.create_connection(listener.getsockname()) for _ in range(60)]
        await eventually(
            lambda: sum(_sockets(pid) - idle[pid] for pid in mine) >= len(burst), within_s=30
        )
        taken = [_sockets(pid) - idle[pid] for pid in mine]
        for connection in burst:
            connection.close()
    assert min(taken) >= 10, taken
