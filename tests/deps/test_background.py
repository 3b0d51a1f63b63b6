"""Tasks end when they are told to, also when a library swallows the first telling."""

import asyncio

from deps import background


async def test_a_lost_cancellation_is_repeated() -> None:
    lost = 0

    async def stubborn() -> None:
        nonlocal lost
        while True:
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                if lost:
                    raise
                lost += 1

    task = asyncio.create_task(stubborn())
    await asyncio.sleep(0)
    async with asyncio.timeout(60):
        await background.end(task)
    assert lost == 1
    assert task.cancelled()


async def test_what_is_over_or_failed_is_left_as_it_is() -> None:
    async def fails() -> None:
        raise ValueError("as it does")

    failed = asyncio.create_task(fails())
    done = asyncio.create_task(asyncio.sleep(0, "result"))
    await asyncio.wait([failed, done])
    await background.end(failed, done)
    assert done.result() == "result"
