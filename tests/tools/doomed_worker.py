"""A worker process to be killed: it commits its effects, says so, and never acknowledges.

Run as `python -m tests.tools.doomed_worker DATABASE_URL REDIS_URL STREAM`.
"""

import asyncio
import sys
from collections.abc import Sequence

from redis.asyncio import Redis

from api import worker
from deps.bus import Message, RedisStreamBus
from deps.runtime import open_deps
from deps.settings import Settings
from tests.tools.effects import Effects


class StuckBus(RedisStreamBus):
    async def ack(self, group: str, messages: Sequence[Message]) -> None:
        if messages:
            sys.stdout.write(f"{group}\n")
            sys.stdout.flush()
            await asyncio.Event().wait()


async def main(database_url: str, redis_url: str, stream: str) -> None:
    settings = Settings(_env_file=None)
    async with open_deps(settings, database_url=database_url, redis_url=redis_url) as deps:
        bus = StuckBus(Redis.from_url(redis_url), stream)
        await worker.run(deps, asyncio.Event(), bus=bus, handlers=Effects().handlers)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:4]))
