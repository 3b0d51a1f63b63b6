"""What mutation testing of Python and of SQL share: servers, forked processes, a kept template."""

import os
import shutil
import signal
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import pytest  # noqa: E402

from deps.embedded_postgres import EmbeddedPostgres  # noqa: E402
from deps.embedded_valkey import EmbeddedValkey  # noqa: E402

WITHOUT = ("cacheprovider", "terminalreporter", "unraisableexception", "threadexception")
PLAIN = ["-n0", "-q", "--tb=no", *(word for name in WITHOUT for word in ("-p", f"no:{name}"))]
TIMEOUT_S = 30.0  # For a mutant; and five times what its tests take without it.
MEMORY = "/dev/shm"
TEMPLATE = "template_master"
VERDICTS = {b"s": "survived", b"k": "killed", b"u": "untested", b"": "hung"}
children: list[int] = []


@dataclass(eq=False)
class KeptTemplate:
    """Give the tests a template that is there already, and note which of them fails."""

    name: str = TEMPLATE
    kills: Counter[str] = field(default_factory=Counter)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            self.kills[report.nodeid] += 1

    @pytest.hookimpl(tryfirst=True)
    def pytest_fixture_setup(self, fixturedef: Any, request: pytest.FixtureRequest) -> str | None:
        if fixturedef.argname != "template":
            return None
        fixturedef.cached_result = (self.name, fixturedef.cache_key(request), None)
        return self.name


@contextmanager
def servers() -> Iterator[tuple[Path, EmbeddedPostgres]]:
    """Start what tests need, under the name by which they find it; yield its home."""
    os.chdir(ROOT)
    os.environ["PYTEST_XDIST_TESTRUNUID"] = run = f"mutate-{os.getpid()}"
    if os.access(MEMORY, os.W_OK):
        os.environ["TMPDIR"] = MEMORY  # A database is cloned for every run.
    home = Path(tempfile.gettempdir()) / f"shopkeeper-tests-{os.getuid()}" / run
    home.mkdir(parents=True, mode=0o700)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # Let go of the servers then, too.
    with (
        _removed(home),
        EmbeddedPostgres(home / "pg", fast=True) as postgres,
        EmbeddedValkey(home / "valkey-master", fast=True),
        _childless(),
    ):
        yield home, postgres


@contextmanager
def _removed(home: Path) -> Iterator[None]:
    try:
        yield
    finally:
        shutil.rmtree(home, ignore_errors=True)


@contextmanager
def _childless() -> Iterator[None]:
    try:
        yield
    finally:
        for child in list(children):
            end(child, is_hung=True)


def fork() -> int:
    """Fork; the child leads a group of its own and writes nothing."""
    child = os.fork()
    if child:
        children.append(child)
        return child
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    os.setsid()
    silence = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silence, 1)
    os.dup2(silence, 2)
    return 0


def end(child: int, *, is_hung: bool = False) -> None:
    if is_hung:
        with suppress(ProcessLookupError):
            os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    children.remove(child)


def say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()
