"""Servers from wheels, for the demo, tests and benchmarks: nothing to install first.

Several processes may use one server. Each holds a shared `flock` on `clients.lock` while it does;
the one that can make its lock exclusive was the last and stops the server. The kernel drops the
lock of a killed client, so nothing has to be counted or cleaned, and the next start adopts a
server that was left running. `start.lock` lets one process at a time start or stop.

The servers listen on Unix sockets in private directories only and lead their own sessions, so
Ctrl-C in a terminal reaches the shop first and the servers are stopped in order.
"""

import contextlib
import fcntl
import os
import signal
import subprocess
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Self

from deps.process import (
    POLL_S,
    START_TIMEOUT_S,
    STOP_TIMEOUT_S,
    EmbeddedError,
    explain,
    is_alive,
    locked,
    open_lock,
    private_directory,
    short,
)

ABANDON_TIMEOUT_S = 5.0
LAUNCH_TRIES_MAX = 20
RECOVERY_TIMEOUT_S = 10.0  # For how long what a dead server left may keep the next from starting.

# Servers that other processes still use. Kept, so that nobody warns about unwaited children.
_outliving: list[subprocess.Popen[bytes]] = []


def own_environment() -> dict[str, str]:
    """Return the environment less what steers PostgreSQL: PGPORT and its like in the shell must not
    reach our server or its tools."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("PG")}
    return {**kept, "LC_ALL": "C"}


class EmbeddedServer(ABC):
    """One server process, shared among its clients; a subclass knows which server it is.

    Args:
        home: Directory for data, log and locks; made when absent.
        fast: Trade durability for speed. For tests only.
    """

    name: str

    def __init__(self, home: Path, *, fast: bool = False) -> None:
        self.home = home.absolute()
        self.fast = fast
        self._clients_lock: int | None = None
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def socket_directory(self) -> Path:
        return short(self.home)

    @property
    def log_path(self) -> Path:
        return self.home / "server.log"

    def start(self) -> Self:
        """Start the server, or adopt the one that runs, and return once it accepts connections.

        Raises:
            EmbeddedError: It cannot run here; nothing is left running that was not before.
        """
        assert self._clients_lock is None, "started twice"
        try:
            private_directory(self.home)
            private_directory(self.socket_directory)
            self._clients_lock = open_lock(self.home / "clients.lock")
            with locked(self.home / "start.lock", self.name):
                fcntl.flock(self._clients_lock, fcntl.LOCK_SH)
                if not self.is_ready():
                    self._start_process()
        except BaseException as error:
            self._abandon()
            if isinstance(error, OSError):
                raise explain(self.name, self.home, error) from error
            raise
        return self

    def stop(self) -> bool:
        """Let go of the server; return whether it was stopped, as no other client uses it."""
        if self._clients_lock is None:
            return False
        with locked(self.home / "start.lock", self.name):
            try:
                fcntl.flock(self._clients_lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if self._process is not None:
                    _outliving.append(self._process)
                return False
            else:
                self._stop_process()
                return True
            finally:
                os.close(self._clients_lock)
                self._clients_lock = self._process = None

    def clear(self) -> None:
        """Delete everything the server keeps, stopping one that a killed client left running.

        Raises:
            EmbeddedError: Another process uses it.
        """
        assert self._clients_lock is None, "stop it first"
        if not self.home.exists():
            return
        with locked(self.home / "start.lock", self.name):
            clients = open_lock(self.home / "clients.lock")
            try:
                fcntl.flock(clients, fcntl.LOCK_EX | fcntl.LOCK_NB)
                self._stop_process()
                self._delete()
            except BlockingIOError:
                raise EmbeddedError(
                    f"{self.name} in {self.home} is in use.", "Stop the other shop first."
                ) from None
            finally:
                os.close(clients)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    @abstractmethod
    def is_ready(self) -> bool:
        """Return whether it accepts connections."""

    @abstractmethod
    def pid(self) -> int | None:
        """Return the running server's process id."""

    @abstractmethod
    def _start_process(self) -> None:
        """Start the server and return once it is ready."""

    @abstractmethod
    def _delete(self) -> None:
        """Delete what the server keeps, all but the locks."""

    @abstractmethod
    def _ask_to_stop(self, pid: int) -> None:
        """Ask the server to end by itself, with its work on disk; it may be gone already."""

    def _launch(
        self, command: Sequence[str], enter: Callable[[], None] | None, cwd: Path
    ) -> subprocess.Popen[bytes]:
        for _ in range(LAUNCH_TRIES_MAX):
            with self.log_path.open("ab") as log, contextlib.suppress(subprocess.SubprocessError):
                return subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    cwd=cwd,
                    env=own_environment(),
                    start_new_session=True,
                    preexec_fn=enter,
                )
            # The kernel refused what `enter` asks for, though it allows it: so it is short of it.
            time.sleep(POLL_S)
        raise EmbeddedError(
            f"{self.name} could not be started as another user.",
            "Start as an ordinary user, or let this one make user namespaces.",
        )

    def _wait_until_ready(self, command: Callable[[], subprocess.Popen[bytes]]) -> None:
        # The first attempts after a crash may be refused while orphaned backends still hold the
        # shared memory of the dead server, so a server that exits is started again for a while.
        deadline = time.monotonic() + START_TIMEOUT_S
        retry_until = time.monotonic() + RECOVERY_TIMEOUT_S
        log_start = self.log_path.stat().st_size if self.log_path.exists() else 0
        self._process = command()
        while not self.is_ready():
            if self._process.poll() is not None:
                if time.monotonic() > retry_until or not self._may_recover(log_start):
                    raise self._failure(log_start)
                time.sleep(0.1)
                self._process = command()
            elif time.monotonic() > deadline:
                raise self._failure(log_start)
            time.sleep(POLL_S)

    def _may_recover(self, log_start: int) -> bool:
        """Return whether a server that exited at once, as its log says, is worth another start."""
        return False

    def _failure(self, log_start: int) -> EmbeddedError:
        lines = self._log_since(log_start).splitlines()
        telling = [line for line in lines if "FATAL" in line or "No space" in line] or lines
        reason = telling[-1].partition("FATAL:")[2].strip() or telling[-1] if telling else "no log"
        return EmbeddedError(
            f"{self.name} did not start: {reason}.".replace("..", "."), f"Its log: {self.log_path}"
        )

    def _log_since(self, offset: int) -> str:
        with self.log_path.open("rb") as log:
            log.seek(offset)
            return log.read(65_536).decode(errors="replace")

    def _stop_process(self) -> None:
        pid = self.pid()
        if pid is None and self._process is not None and self._process.poll() is None:
            pid = self._process.pid  # It runs, but is too stuck to say so.
        if pid is None:
            return
        self._ask_to_stop(pid)
        if not self._gone_within(pid, STOP_TIMEOUT_S):
            # Both servers recover from this: it is what a power cut does.
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            self._gone_within(pid, STOP_TIMEOUT_S)

    def _gone_within(self, pid: int, timeout_s: float) -> bool:
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            if self._process is not None and self._process.pid == pid:
                if self._process.poll() is not None:
                    return True
            elif not is_alive(pid):
                return True
            time.sleep(POLL_S)
        return False

    def _abandon(self) -> None:
        """Undo a start that failed or was interrupted."""
        process, self._process = self._process, None
        if process is not None and process.poll() is None:
            process.terminate()
            try:
                process.wait(ABANDON_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        if self._clients_lock is not None:
            os.close(self._clients_lock)
            self._clients_lock = None
