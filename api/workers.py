"""Several web processes on one port, and one parent that starts, replaces and stops them.

They share the listening socket and nothing else; the kernel gives each connection to one of them.
Between the parent and each child there is a socket: the child says on it that it accepts, and its
end closes with either of them. So a parent that is killed leaves no child behind, and a child that
dies is noticed at once.

    ./shopkeeper serve --workers 4
"""

import asyncio
import logging
import os
import shutil
import socket
import sys
import tempfile
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from prometheus_client import multiprocess

from api import loop, serving
from api.metrics import MULTIPROCESS_DIRECTORY
from api.servers import CommandFailed, Servers
from deps import background

ROOT: Final = Path(__file__).resolve().parent.parent
START_TIMEOUT_S: Final = 120.0
STOP_TIMEOUT_S: Final = serving.SHUTDOWN_TIMEOUT_S + 7.0
RESTART_S: Final = 1.0
_READY: Final = b"r"

log = logging.getLogger("shopkeeper.workers")


@dataclass(frozen=True, slots=True)
class _Child:
    process: asyncio.subprocess.Process
    link: socket.socket


class Pool:
    """`count` web processes on `listener`, until it is closed."""

    def __init__(self, servers: Servers, listener: socket.socket, count: int) -> None:
        self._listener = listener
        self._count = count
        self._metrics = tempfile.mkdtemp(prefix="shopkeeper-metrics-")
        self._environment = {
            **os.environ,
            "DATABASE_URL": servers.database_url,
            "REDIS_URL": servers.redis_url,
            MULTIPROCESS_DIRECTORY: self._metrics,
        }
        self._children: set[_Child] = set()

    async def start(self) -> None:
        """Start all and wait until each accepts.

        Raises:
            CommandFailed: One ended instead; none is left.
        """
        try:
            async with asyncio.timeout(START_TIMEOUT_S):
                await asyncio.gather(*(self._start() for _ in range(self._count)))
        except BaseException as error:
            await self.stop()
            if isinstance(error, TimeoutError):
                raise CommandFailed("The web processes did not start in time.") from error
            raise

    async def watch(self) -> None:
        """Replace every child that ends, for as long as this runs."""
        async with asyncio.TaskGroup() as group:
            for child in list(self._children):
                group.create_task(self._replace(child))

    async def stop(self) -> None:
        """Let all answer what they have begun, and end them."""
        for child in self._children:
            with suppress(ProcessLookupError):
                child.process.terminate()
        ends = [asyncio.create_task(child.process.wait()) for child in self._children]
        if ends:
            _, late = await asyncio.wait(ends, timeout=STOP_TIMEOUT_S)
            if late:
                for child in self._children:
                    with suppress(ProcessLookupError):
                        child.process.kill()
                await asyncio.wait(ends)
        for child in self._children:
            child.link.close()
        self._children.clear()
        shutil.rmtree(self._metrics, ignore_errors=True)

    async def _start(self) -> _Child:
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        numbers = (self._listener.fileno(), theirs.fileno())
        with theirs:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "api.workers",
                *map(str, numbers),
                cwd=ROOT,
                env=self._environment,
                pass_fds=numbers,
                # Ctrl-C reaches the whole group; only the parent shall act on it.
                start_new_session=True,
            )
        child = _Child(process, ours)
        self._children.add(child)
        if await asyncio.get_running_loop().sock_recv(ours, 1) != _READY:
            await process.wait()
            self._children.discard(child)
            ours.close()
            raise CommandFailed("A web process did not start; see its log.")
        return child

    async def _replace(self, child: _Child) -> None:
        while True:
            code = await child.process.wait()
            log.error("a web process ended", extra={"pid": child.process.pid, "code": code})
            self._children.discard(child)
            child.link.close()
            _forget_gauges(self._metrics, child.process.pid)
            while True:
                await asyncio.sleep(RESTART_S)
                try:
                    child = await self._start()
                    break
                except CommandFailed:
                    log.error("a web process did not start again")


@asynccontextmanager
async def worker_pool(
    servers: Servers, listener: socket.socket, count: int
) -> AsyncGenerator[asyncio.Task[None], None]:
    """Run `count` processes until the block is left; the task ends early only if it fails.

    Raises:
        CommandFailed: One did not start; none is left.
    """
    pool = Pool(servers, listener, count)
    await pool.start()
    watch = asyncio.create_task(pool.watch(), name="web")
    try:
        yield watch
    finally:
        await background.end(watch)
        await pool.stop()


def _forget_gauges(directory: str, pid: int) -> None:
    """Let the dead process's gauges go; its counters still count."""
    multiprocess.mark_process_dead(pid, directory)  # type: ignore[no-untyped-call]


async def _serve(listener: socket.socket, link: socket.socket) -> None:
    from api.processes import opened
    from deps.settings import Settings
    from deps.telemetry import configure, configure_logging, flush

    configure_logging("web")
    settings = Settings()
    configure(settings, "web")
    assert settings.database_url is not None
    assert settings.redis_url is not None
    servers = Servers(settings.database_url, settings.redis_url, are_embedded=False)
    events = asyncio.get_running_loop()
    async with (
        serving.stop_on_signals() as stop,
        opened(settings, servers, "web") as deps,
        serving.web(settings, deps, listener) as web,
    ):
        link.send(_READY)
        events.add_reader(link, stop.set)  # Nothing is ever sent to us: the parent is gone.
        try:
            await serving.until_stopped(stop, web)
        finally:
            events.remove_reader(link)
    flush()


if __name__ == "__main__":
    loop.run(_serve(socket.socket(fileno=int(sys.argv[1])), socket.socket(fileno=int(sys.argv[2]))))
