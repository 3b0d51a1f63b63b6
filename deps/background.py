"""Tasks that run beside their owner, and how they end."""

import asyncio
from typing import Any, Final

AGAIN_S: Final = 0.5


async def end(*tasks: asyncio.Task[Any]) -> None:
    """Cancel tasks and wait until they are over, whatever they end with.

    One cancellation may be lost: a library that is interrupted while it connects can take it for a
    fault of the connection, which a loop that outlives faults then survives. So it is repeated.
    """
    waiting = {task for task in tasks if not task.done()}
    while waiting:
        for task in waiting:
            task.cancel()
        _, waiting = await asyncio.wait(waiting, timeout=AGAIN_S)
    for task in tasks:
        if not task.cancelled():
            task.exception()  # Seen: whoever ends a task does not ask what became of it.
