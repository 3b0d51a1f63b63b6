"""What the embedded servers do when a program fails, hangs or finds its place taken.

The programs are the real ones behind shell scripts, named by `PG_BIN`, or the kernel stops them.
"""

import errno
import os
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from deps import embedded, embedded_postgres, process
from deps.embedded import EmbeddedServer
from deps.embedded_postgres import EmbeddedPostgres
from deps.embedded_valkey import EmbeddedValkey
from deps.process import EmbeddedError, digest, find_postgres, is_alive

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root has to become someone else")


class Programs:
    """PostgreSQL's programs, each of which a test can have do something else first."""

    def __init__(self, place: Path, real: Path) -> None:
        self.place = place
        self.real = real
        place.mkdir()
        for name in ("postgres", "initdb", "pg_isready"):
            self.begin(name, "")

    def begin(self, name: str, script: str) -> None:
        """Run `script` before the program `name`, unless it is only asked for its version."""
        lines = ["#!/bin/sh", f'[ "$1" = --version ] && exec {self.real / name} --version', script]
        path = self.place / name
        path.write_text("\n".join([*lines, f'exec {self.real / name} "$@"\n']))
        path.chmod(0o755)


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Programs:
    found = Programs(tmp_path / "bin", find_postgres())
    monkeypatch.setenv("PG_BIN", str(found.place))
    return found


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path / "pg"
    EmbeddedPostgres(tmp_path / "pg").clear()  # Stops what a failed test left running.


def pid_in(path: Path) -> int:
    return int(path.read_text())


def test_what_the_log_says_of_a_failed_start_is_told(home: Path) -> None:
    with EmbeddedPostgres(home, fast=True) as server:
        conf = server.data / "postgresql.conf"
    good = conf.read_text()
    conf.write_text(good + "nonsense = 7\n")
    with pytest.raises(EmbeddedError, match="configuration file") as caught:
        EmbeddedPostgres(home, fast=True).start()
    assert str(home / "server.log") in caught.value.mend
    conf.write_text(good)
    with EmbeddedPostgres(home, fast=True) as again:
        assert again.is_ready()


def test_a_program_that_says_nothing_is_told_by_its_log_s_place(
    home: Path, programs: Programs
) -> None:
    programs.begin("postgres", "exit 1")
    server = EmbeddedPostgres(home, fast=True)
    with pytest.raises(EmbeddedError, match=r"PostgreSQL did not start") as caught:
        server.start()
    assert str(server.log_path) in caught.value.mend
    assert not server.stop(), "nothing is held of what never started"
    server.clear()  # It holds no lock that would be in the way.


def test_a_failed_initdb_leaves_no_data(home: Path, programs: Programs) -> None:
    programs.begin("initdb", "echo 'initdb: error: No space left on device' >&2; exit 1")
    with pytest.raises(EmbeddedError, match=r"did not start: .*No space left on device"):
        EmbeddedPostgres(home, fast=True).start()
    assert not (home / "data").exists()
    programs.begin("initdb", "")
    with EmbeddedPostgres(home, fast=True) as server:
        assert server.is_ready()


def test_what_a_dead_server_left_in_memory_is_waited_for(home: Path, programs: Programs) -> None:
    tries = home.parent / "tries"
    refused = "FATAL:  pre-existing shared memory block (key 7, ID 7) is still in use"
    programs.begin(
        "postgres",
        f"echo >> {tries}; [ $(wc -l < {tries}) -lt 3 ] && echo '{refused}' >&2 && exit 1",
    )
    with EmbeddedPostgres(home, fast=True) as server:
        assert server.is_ready()
    assert tries.read_text() == "\n\n\n"


def test_memory_that_is_never_freed_ends_the_tries(
    home: Path, programs: Programs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embedded, "RECOVERY_TIMEOUT_S", 0.3)
    programs.begin("postgres", "echo 'FATAL:  pre-existing shared memory block' >&2; exit 1")
    with pytest.raises(EmbeddedError, match="did not start: pre-existing shared memory block"):
        EmbeddedPostgres(home, fast=True).start()


@pytest.mark.parametrize("stubborn", ["", "trap '' TERM;"])
def test_a_server_that_never_answers_is_ended(
    home: Path, programs: Programs, monkeypatch: pytest.MonkeyPatch, stubborn: str
) -> None:
    monkeypatch.setattr(embedded, "START_TIMEOUT_S", 3.0)  # What it says first is waited for.
    monkeypatch.setattr(embedded, "ABANDON_TIMEOUT_S", 0.5)
    noted = home.parent / "pid"
    programs.begin(
        "postgres",
        f"{stubborn} echo $$ > {noted}; echo 'still looking' >&2; while :; do sleep 0.1; done",
    )
    server = EmbeddedPostgres(home, fast=True)
    with pytest.raises(EmbeddedError, match="did not start: still looking"):
        server.start()
    assert not is_alive(pid_in(noted))
    server.clear()  # It holds no lock that would be in the way.


def test_a_place_that_cannot_be_used_is_explained(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for server in (EmbeddedPostgres(tmp_path / "file"), EmbeddedValkey(tmp_path / "file" / "in")):
        with pytest.raises(EmbeddedError, match=rf"{server.name} cannot use {server.home}: "):
            server.start()


def test_what_was_never_started_has_nothing_to_stop_or_clear(tmp_path: Path) -> None:
    server = EmbeddedValkey(tmp_path / "none")
    assert not server.stop()
    server.clear()
    assert not server.home.exists()
    assert server.pid() is None


@pytest.mark.parametrize("kind", [EmbeddedPostgres, EmbeddedValkey])
def test_a_server_that_hangs_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: type[EmbeddedServer]
) -> None:
    monkeypatch.setattr(embedded, "STOP_TIMEOUT_S", 0.5)
    server = kind(tmp_path / "home", fast=True).start()
    pid = server.pid()
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)  # It hears nothing but SIGKILL now.
    assert server.stop()
    assert not is_alive(pid)
    with kind(tmp_path / "home", fast=True) as again:
        assert again.is_ready()
    again.clear()


def test_a_killed_client_s_hanging_server_is_killed_by_who_adopts_it(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embedded, "STOP_TIMEOUT_S", 0.5)
    first = EmbeddedPostgres(home, fast=True).start()
    adopter = EmbeddedPostgres(home, fast=True).start()
    pid = adopter.pid()
    assert pid is not None
    assert not first.stop(), "another client uses it"
    os.kill(pid, signal.SIGSTOP)
    assert adopter.stop()
    deadline = time.monotonic() + 60
    while is_alive(pid) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not is_alive(pid)


class WithoutNamespaces(EmbeddedPostgres):
    @staticmethod
    def namespaces_allowed() -> bool:
        return False


@needs_root
def test_a_place_that_belongs_to_someone_else_is_refused(tmp_path: Path) -> None:
    server = WithoutNamespaces(tmp_path / "pg", fast=True)
    place = Path("/var/tmp") / f"shopkeeper-{digest(server.home)}"
    place.mkdir()
    os.chown(place, 12_345, 12_345)
    try:
        with pytest.raises(EmbeddedError, match="belongs to someone else"):
            server.start()
        assert not (place / "data").exists()
    finally:
        shutil.rmtree(place)


@needs_root
def test_a_kernel_that_is_short_of_namespaces_is_asked_again(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = tmp_path / "asked"

    def enter() -> None:  # In the forked child, so that only a file remembers.
        with asked.open("a") as file:
            file.write(".")
        if len(asked.read_text()) < 3:
            raise OSError(errno.ENOSPC, "No space left on device")
        process.enter_user_namespace()

    monkeypatch.setattr(embedded_postgres, "enter_user_namespace", enter)
    with EmbeddedPostgres(home, fast=True) as server:
        assert server.is_ready()
    asked.unlink()
    monkeypatch.setattr(embedded, "LAUNCH_TRIES_MAX", 2)
    with pytest.raises(EmbeddedError, match="could not be started as another user"):
        EmbeddedPostgres(home, fast=True).start()


@needs_root
def test_programs_that_nobody_can_read_are_copied_where_nobody_can(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = find_postgres().parent.parent
    hidden = tmp_path / "embedded_postgres"
    hidden.symlink_to(real)
    (tmp_path / "embedded_postgres.libs").symlink_to(real.parent / "embedded_postgres.libs")
    monkeypatch.setenv("PG_BIN", str(hidden / "pginstall" / "bin"))
    copy = Path("/var/tmp") / f"shopkeeper-bin-{digest(hidden / 'pginstall' / 'bin')}"
    server = WithoutNamespaces(tmp_path / "pg", fast=True)
    try:
        with server:
            pid = server.pid()
            assert pid is not None
            assert Path(f"/proc/{pid}/exe").resolve().is_relative_to(copy)
        with WithoutNamespaces(tmp_path / "pg", fast=True) as again:
            assert again.is_ready()
        os.chown(copy, 12_345, 12_345)
        with pytest.raises(EmbeddedError, match=f"{copy} belongs to someone else"):
            WithoutNamespaces(tmp_path / "pg", fast=True).start()
    finally:
        shutil.rmtree(copy, ignore_errors=True)
        server.clear()


@pytest.mark.parametrize("written", ["", "not a number\n"])
def test_a_lock_file_without_a_pid_names_nobody(tmp_path: Path, written: str) -> None:
    server = EmbeddedPostgres(tmp_path / "pg")
    server.data.mkdir(parents=True)
    (server.data / "postmaster.pid").write_text(written)
    assert server.pid() is None


def test_a_folder_may_have_an_apostrophe(tmp_path: Path) -> None:
    with EmbeddedPostgres(tmp_path / "o'brien", fast=True) as server:
        assert server.is_ready()
        assert server.socket_directory == tmp_path / "o'brien"
    server.clear()


def test_a_failed_valkey_is_not_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VALKEY_BIN", "/bin/false")
    server = EmbeddedValkey(tmp_path / "valkey")
    with pytest.raises(EmbeddedError, match="Valkey did not start: no log") as caught:
        server.start()
    assert str(server.log_path) in caught.value.mend
    server.clear()
