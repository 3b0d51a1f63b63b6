"""Run in this process what is made to be a process of its own, and leave no trace of it."""

import asyncio
import logging
import os
import signal
from collections.abc import Callable, Coroutine, Generator
from contextlib import contextmanager
from typing import Any, TypeVar

T = TypeVar("T")

_FACTS = ("logThreads", "logProcesses", "logMultiprocessing", "_srcfile")
_LOGGERS = ("httpx", "httpcore", "aiosmtplib", "mail.log", "asyncio", "uvicorn", "uvicorn.error",
            "uvicorn.access")  # fmt: skip


@contextmanager
def kept_logging() -> Generator[None, None, None]:
    """Undo what a process does to the logging it would have for itself."""
    root = logging.getLogger()
    facts = {name: getattr(logging, name) for name in _FACTS}
    handlers, level = root.handlers[:], root.level
    loggers = {
        name: (found.level, found.propagate, found.handlers[:])
        for name in _LOGGERS
        if (found := logging.getLogger(name))
    }
    try:
        yield
    finally:
        for handler in root.handlers:
            if handler not in handlers:
                handler.close()
        root.handlers[:], root.level = handlers, level
        for name, value in facts.items():
            setattr(logging, name, value)
        for name, (its_level, propagate, its_handlers) in loggers.items():
            found = logging.getLogger(name)
            found.setLevel(its_level)
            found.propagate, found.handlers[:] = propagate, its_handlers


async def signalled(number: signal.Signals, work: Coroutine[Any, Any, None]) -> None:
    """Run `work` and signal this process as soon as it listens to signals."""
    before = signal.getsignal(number)
    task = asyncio.create_task(work)
    while signal.getsignal(number) == before:
        assert not task.done(), "it never listened"
        await asyncio.sleep(0)
    os.kill(os.getpid(), number)
    await task


async def eventually(found: Callable[[], T], within_s: float = 60.0) -> T:
    """Return what `found` returns as soon as it is true."""
    async with asyncio.timeout(within_s):
        while True:
            if result := found():
                return result
            await asyncio.sleep(0.02)
