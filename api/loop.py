"""The event loop of every process: uvloop where it exists, which halves the cost of a socket."""

import asyncio
import gc
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any, Final, TypeVar

T = TypeVar("T")

# By its defaults the collector of cycles walks every few hundred new objects: half the time of
# loading the application, and a share of every request. Cycles are few; they can wait.
COLLECT_AFTER: Final = (50_000, 20, 20)


def _factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        import uvloop
    except ImportError:  # Not made for this platform.
        return None
    return uvloop.new_event_loop


def _say_which() -> None:
    """Tell libraries that serve several kinds of loops; they look for the running task otherwise,
    two hundred times in a turn of a conversation."""
    with suppress(ImportError):
        import sniffio

        sniffio.thread_local.name = "asyncio"


def run(work: Coroutine[Any, Any, T]) -> T:
    """Run `work` to its end on a loop of its own, as `asyncio.run` does."""
    gc.set_threshold(*COLLECT_AFTER)
    _say_which()
    with asyncio.Runner(loop_factory=_factory()) as runner:
        return runner.run(work)
