"""Where a run of the tests keeps its servers: a folder of its own, which goes with it."""

import fcntl
import os
import shutil
import signal
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Final

RUN: Final = "PYTEST_XDIST_TESTRUNUID"
ABANDONED_S: Final = 3600


def homes() -> Path:
    return Path(tempfile.gettempdir()) / f"shopkeeper-tests-{os.getuid()}"


def home() -> Path:
    """Return the folder of this run, shared by its workers, so that they share the servers too."""
    found = homes() / os.environ[RUN]
    found.mkdir(parents=True, exist_ok=True, mode=0o700)
    return found


def remove(run: str) -> None:
    """Remove the folder of a run that is over, and those that killed runs left behind."""
    shutil.rmtree(homes() / run, ignore_errors=True)
    for left in homes().glob("*"):
        with suppress(OSError):
            if time.time() - left.stat().st_mtime > ABANDONED_S and _is_abandoned(left):
                _end_servers(left)
                shutil.rmtree(left, ignore_errors=True)


def _is_abandoned(left: Path) -> bool:
    """Tell whether nobody uses its servers: who does holds their locks, which die with them."""
    for path in left.glob("*/clients.lock"):
        with path.open() as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return False
    return True


def _end_servers(left: Path) -> None:
    for commands in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            if str(left).encode() in commands.read_bytes():
                os.kill(int(commands.parent.name), signal.SIGINT)
