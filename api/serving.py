"""Running the web application and the worker until a signal says stop."""

import asyncio
import contextlib
import errno
import gc
import logging
import signal
import socket
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager
from typing import Any, cast

import uvicorn

from api.servers import CommandFailed, Servers
from deps import background
from deps.core import Deps
from deps.settings import Settings

ACCEPT_AGAIN_S = 1.0
SHUTDOWN_TIMEOUT_S = 3  # Open event streams never end by themselves.
WORKER_STOP_TIMEOUT_S = 15.0
# SIGHUP: the terminal was closed.
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

log = logging.getLogger("shopkeeper.web")


def bind(host: str, port: int) -> socket.socket:
    """Take the address before anything slow is started.

    Raises:
        CommandFailed: It is taken, forbidden or not this machine's.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen(2048)
    except OSError as error:
        listener.close()
        reason = {
            errno.EADDRINUSE: f"Port {port} is taken; choose another with --port.",
            errno.EACCES: f"Port {port} needs more rights; choose one above 1023 with --port.",
        }.get(error.errno or 0, f"{host}:{port} cannot be used: {error.strerror or error}.")
        raise CommandFailed(reason) from error
    return listener


def address_of(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    shown = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, f"[{host}]" if ":" in host else host)
    return f"http://{shown}:{port}"


class Server(uvicorn.Server):
    """uvicorn, but taking one connection at a time from its listeners.

    Processes share a listener. Whoever wakes first would otherwise take all that wait, and its
    clients would share one process while the next has nothing to do. With one accepted per turn of
    the loop, a process that is busy comes round less often and gets fewer.
    """

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.accepts = asyncio.Event()
        self._listening: set[socket.socket] = set()
        self._connecting: set[asyncio.Task[None]] = set()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup([])
        for listener in sockets or []:
            listener.setblocking(False)
            self._listening.add(listener)
            self._listen(listener)
        self.accepts.set()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        for listener in self._listening:
            asyncio.get_running_loop().remove_reader(listener)
        self._listening.clear()
        await super().shutdown(sockets)

    def _listen(self, listener: socket.socket) -> None:
        if listener in self._listening:
            asyncio.get_running_loop().add_reader(listener, self._accept, listener)

    def _accept(self, listener: socket.socket) -> None:
        try:
            connection, _ = listener.accept()
        except (BlockingIOError, InterruptedError, ConnectionAbortedError):
            return  # Another process took it, or the client left.
        except OSError:  # No more files can be open: let some connections end first.
            log.exception("no connection can be accepted")
            loop = asyncio.get_running_loop()
            loop.remove_reader(listener)
            loop.call_later(ACCEPT_AGAIN_S, self._listen, listener)
            return
        task = asyncio.create_task(self._connect(connection))
        self._connecting.add(task)
        task.add_done_callback(self._connecting.discard)

    async def _connect(self, connection: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        protocol = cast("type[Any]", self.config.http_protocol_class)(
            config=self.config,
            server_state=self.server_state,
            app_state=self.lifespan.state,
            _loop=loop,
        )
        try:
            await loop.connect_accepted_socket(lambda: protocol, connection)
        except OSError:  # Gone again already.
            connection.close()

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        yield  # The command listens to signals: it has more than this server to stop.


@asynccontextmanager
async def stop_on_signals() -> AsyncGenerator[asyncio.Event, None]:
    """Yield an event that Ctrl-C and the like set, instead of ending the process at once."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in STOP_SIGNALS:
        loop.add_signal_handler(number, stop.set)
    try:
        yield stop
    finally:
        for number in STOP_SIGNALS:
            loop.remove_signal_handler(number)


@asynccontextmanager
async def web(
    settings: Settings, deps: Deps, listener: socket.socket
) -> AsyncGenerator[asyncio.Task[None], None]:
    """Serve the application on `listener`; the task ends early only if it fails."""
    from api.app import create_app  # The agents' libraries take a while to load.

    app = create_app(settings)
    app.state.deps = deps
    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=SHUTDOWN_TIMEOUT_S,
    )
    server = Server(config)
    task = asyncio.create_task(server.serve(sockets=[listener]), name="web")
    try:
        accepts = asyncio.create_task(server.accepts.wait())
        await asyncio.wait([accepts, task], return_when=asyncio.FIRST_COMPLETED)
        accepts.cancel()
        if task.done():
            task.result()
            raise CommandFailed("The application did not start; see its log.")
        gc.collect()
        gc.freeze()  # What is loaded by now stays: no collection has to walk it again.
        yield task
    finally:
        server.should_exit = True
        await asyncio.wait([task])
        listener.close()


@asynccontextmanager
async def worker(deps: Deps) -> AsyncGenerator[asyncio.Task[None], None]:
    """Deliver events and finish what checkouts began, until the block is left."""
    from api.worker import run

    stop = asyncio.Event()
    task = asyncio.create_task(run(deps, stop), name="worker")
    try:
        yield task
    finally:
        stop.set()
        await asyncio.wait([task], timeout=WORKER_STOP_TIMEOUT_S)
        if not task.done():  # What it was doing is repeated at the next start.
            await background.end(task)


async def until_stopped(stop: asyncio.Event, *tasks: asyncio.Task[None]) -> None:
    """Wait for `stop`. A task that ends before is a failure and is raised."""
    waiting = asyncio.create_task(stop.wait(), name="stop")
    try:
        await asyncio.wait([waiting, *tasks], return_when=asyncio.FIRST_COMPLETED)
    finally:
        waiting.cancel()
    for task in tasks:
        if task.done() and not task.cancelled():
            task.result()
            if not stop.is_set():
                raise CommandFailed(f"The {task.get_name()} ended by itself; see its log.")


async def require_migrated(servers: Servers) -> None:
    """Make an embedded database and migrate it; refuse an external one that is not migrated.

    Raises:
        CommandFailed: The external database is not at the newest revision.
        DatabaseUnavailable: It cannot be reached.
    """
    from deps import postgres

    if servers.are_embedded:
        await migrate(servers)
        return
    current, head = await postgres.revisions(servers.database_url)
    if current != head:
        raise CommandFailed(
            f"The database is at revision {current}, not {head}; run ./shopkeeper migrate."
        )


async def migrate(servers: Servers) -> bool:
    """Bring the schema to the newest revision; return whether there was anything to do."""
    from deps import postgres

    if servers.are_embedded:
        await postgres.ensure_database(servers.database_url)
    current, head = await postgres.revisions(servers.database_url)
    if current == head:
        return False
    await postgres.upgrade(servers.database_url)
    return True
