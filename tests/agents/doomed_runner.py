"""A process to be killed in the middle of a turn.

Run as `python -m tests.agents.doomed_runner DATABASE_URL REDIS_URL GUEST_TOKEN`: it begins a turn,
prints the conversation's id once a first word is kept, and never says another.
"""

import asyncio
import sys

from agents.runner import Runner
from deps.runtime import open_deps
from deps.settings import Settings
from tests import factories
from tests.agents.slow_model import Tap, saying


async def main(database_url: str, redis_url: str, token: str) -> None:
    settings = Settings(_env_file=None)
    async with open_deps(settings, database_url=database_url, redis_url=redis_url) as deps:
        runner, tap = Runner(deps), Tap()
        tap.turn(2)
        guest = factories.guest(deps, token)
        model = saying(["It ", "is ", "never ", "finished."], tap)
        begun = await runner.start(guest, None, "tell me", channel="sse", model=model)
        async for event in runner.follow(guest, begun.conversation_id, 0):
            if event is not None and event.name == "text":
                sys.stdout.write(f"{begun.conversation_id}\n")
                sys.stdout.flush()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:4]))
