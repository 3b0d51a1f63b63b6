"""Several web processes: one that does not start, and one that does not stop."""

import asyncio
import os
import socket
from collections.abc import Generator
from pathlib import Path

import pytest
import uvicorn

from api import serving, workers
from api.servers import CommandFailed, Servers
from deps.process import is_alive


@pytest.fixture
def servers(database_url: str, valkey: object) -> Servers:
    return Servers(database_url, str(getattr(valkey, "url", "")), are_embedded=False)


@pytest.fixture
def listener() -> Generator[socket.socket, None, None]:
    with serving.bind("127.0.0.1", 0) as made:
        yield made


def children() -> list[int]:
    """Return the web processes that this one began; other shops of the machine have theirs."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            line = (process / "cmdline").read_bytes()
            status = (process / "status").read_text()
        except OSError:
            continue  # It ended while we looked.
        if f"PPid:\t{os.getpid()}\n" in status and b"api.workers" in line:
            found.append(int(process.name))
    return [pid for pid in found if is_alive(pid)]


async def test_if_one_does_not_start_none_is_left(
    servers: Servers, listener: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SHOPKEEPER_PORT", "many")
    with pytest.raises(CommandFailed, match="A web process did not start"):
        async with workers.worker_pool(servers, listener, 1):
            raise AssertionError("none serves")
    assert children() == []


async def test_if_they_take_too_long_none_is_left(
    servers: Servers, listener: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workers, "START_TIMEOUT_S", 0.01)
    # What has not begun to listen to signals does not end well either.
    monkeypatch.setattr(workers, "STOP_TIMEOUT_S", 0.0)
    with pytest.raises(CommandFailed, match="did not start in time"):
        async with workers.worker_pool(servers, listener, 2):
            raise AssertionError("none serves")
    assert children() == []


async def _nothing(scope: object, receive: object, send: object) -> None:
    """Be an application that nobody asks."""


async def test_a_burst_of_connections_is_shared(listener: socket.socket) -> None:
    """Two servers that come round equally often get as many of a burst each.

    Processes come round as they please; two servers on one loop take turns.
    """
    burst = [socket.create_connection(listener.getsockname()) for _ in range(60)]
    servers = [serving.Server(uvicorn.Config(_nothing, lifespan="off")) for _ in range(2)]
    running = [asyncio.create_task(s.serve([listener.dup()])) for s in servers]
    taken = [0, 0]
    try:
        async with asyncio.timeout(60):
            while sum(taken) < len(burst):
                await asyncio.sleep(0.01)
                taken = [len(server.server_state.connections) for server in servers]
    finally:
        for connection in burst:
            connection.close()
        for server in servers:
            server.should_exit = True
        await asyncio.gather(*running)
    assert min(taken) >= 25, taken
