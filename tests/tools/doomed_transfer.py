"""A process to be killed: inside one step of a transfer, before its commit, or anywhere in many.

Run as `python -m tests.tools.doomed_transfer DATABASE_URL REDIS_URL STEP ARGUMENT`: the step is
ship, receive or cancel, and the argument the transfer; or it is loop, and a seed.
"""

import asyncio
import random
import sys
from uuid import UUID

from deps.core import SYSTEM, Deps
from deps.runtime import open_deps
from deps.settings import Settings
from tools import transfer
from tools.transfer import TransferUnits


def say(word: str) -> None:
    sys.stdout.write(f"{word}\n")
    sys.stdout.flush()


async def one(staff: Deps, step: str, transfer_id: UUID) -> None:
    async with staff.begin() as uow:
        arguments = ["the lorry broke down"] if step == "cancel" else []
        await getattr(transfer, step)(uow, transfer_id, *arguments)
        say("inside")
        await asyncio.Event().wait()


async def many(staff: Deps, seed: int) -> None:
    rng = random.Random(seed)
    while True:
        source, target = rng.sample(["HAM", "ROT"], 2)
        line = TransferUnits(sku="MUG", quantity=rng.randint(1, 4))
        async with staff.begin() as uow:
            planned = await transfer.create(uow, source, target, [line])
        say("created")
        async with staff.begin() as uow:
            await transfer.ship(uow, planned.id)
        say("shipped")
        async with staff.begin() as uow:
            if rng.random() < 0.3:
                await transfer.cancel(uow, planned.id, "called back")
            else:
                await transfer.receive(uow, planned.id)
        say("received")


async def main(database_url: str, redis_url: str, step: str, argument: str) -> None:
    settings = Settings(_env_file=None)
    async with open_deps(settings, database_url=database_url, redis_url=redis_url) as deps:
        staff = deps.acting_as(SYSTEM)
        await (many(staff, int(argument)) if step == "loop" else one(staff, step, UUID(argument)))


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:5]))
