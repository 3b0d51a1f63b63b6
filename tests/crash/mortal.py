"""A process that does one thing to the shop and dies by SIGKILL on the way, where it is told.

`Undertaker` keeps one such process ready and forks it for every death, since starting Python takes
seconds and dying takes none. What a run did to the database, and to the scripted provider's file,
stays as the kill left it.

The places to die are counted: before and after every statement of the hot path, before every
commit of a session, before and after every call of a gateway. So a test goes through all of them
by counting up until a run survives.
"""

import asyncio
import importlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from uuid import UUID

from sqlalchemy import event

from db.models.user import Role
from db.types import UserId
from deps.core import ROLE_SCOPES, Actor
from deps.hot import HotPool
from deps.runtime import open_deps
from deps.scripted import ScriptedGateway
from deps.settings import Settings

ROOT = Path(__file__).resolve().parent.parent.parent
SCENARIO_TIMEOUT_S = 120


@dataclass(frozen=True, slots=True)
class Task:
    """`scenario` names a function of `tests.crash.scenarios`; `actor` is who acts."""

    database_url: str
    provider_file: str
    scenario: str
    arguments: dict[str, Any]
    actor: dict[str, Any]
    dies_at: int


class Undertaker:
    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.crash.mortal"],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def run(self, task: Task) -> bool:
        """Carry out `task` in a fork; return whether it lived to the end.

        Raises:
            AssertionError: It failed for another reason than its death.
        """
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(
            json.dumps({name: getattr(task, name) for name in Task.__slots__}) + "\n"
        )
        self.process.stdin.flush()
        status = int(self.process.stdout.readline())
        assert status in (0, -signal.SIGKILL), f"{task.scenario} ended with {status}"
        return status == 0


@contextmanager
def undertaker() -> Generator[Undertaker, None, None]:
    keeper = Undertaker()
    try:
        yield keeper
    finally:
        assert keeper.process.stdin is not None
        keeper.process.stdin.close()
        keeper.process.wait(timeout=SCENARIO_TIMEOUT_S)


class Fate:
    def __init__(self, dies_at: int) -> None:
        self.dies_at, self.passed = dies_at, 0

    def step(self) -> None:
        self.passed += 1
        if self.passed == self.dies_at:
            os.kill(os.getpid(), signal.SIGKILL)


class MortalPool(HotPool):
    fate: Fate

    async def _acquire(self) -> Any:
        self.fate.step()
        return await super()._acquire()

    async def fetchval(self, sql: str, *args: Any) -> Any:
        value = await super().fetchval(sql, *args)
        self.fate.step()
        return value


class MortalGateway(ScriptedGateway):
    fate: Fate

    async def _answer(self, *args: Any) -> Any:
        self.fate.step()
        answer = await super()._answer(*args)
        self.fate.step()
        return answer


async def _live(task: Task) -> None:
    scenarios = importlib.import_module("tests.crash.scenarios")
    settings = Settings(
        _env_file=None, rate_limits=False, statement_timeout_ms=60_000, lock_timeout_ms=60_000
    )
    async with open_deps(settings, database_url=task.database_url, redis_url=None) as opened:
        fate = Fate(task.dies_at)
        gateway = MortalGateway(file=Path(task.provider_file))
        pool = await MortalPool.open(task.database_url, settings)
        gateway.fate = pool.fate = fate
        event.listen(opened.db.kw["bind"].sync_engine, "commit", lambda connection: fate.step())
        deps = replace(
            opened,
            hot=pool,
            gateways={**opened.gateways, gateway.name: gateway},
            actor=_actor(task.actor),
        )
        await getattr(scenarios, task.scenario)(deps, **task.arguments)
        await pool.aclose()


def _actor(given: dict[str, Any]) -> Actor:
    role = Role(given["role"]) if given["role"] else None
    user_id = UserId(UUID(given["user_id"])) if given["user_id"] else None
    return Actor(
        role=role,
        user_id=user_id,
        scopes=ROLE_SCOPES[role],
        guest_secret_sha256=given["guest_secret_sha256"],
    )


def as_json(actor: Actor) -> dict[str, Any]:
    return {
        "role": actor.role.value if actor.role else None,
        "user_id": str(actor.user_id) if actor.user_id else None,
        "guest_secret_sha256": actor.guest_secret_sha256,
    }


def main() -> None:
    importlib.import_module("tests.crash.scenarios")  # Before the forks, which share it.
    for line in sys.stdin:
        task = Task(**json.loads(line))
        child = os.fork()
        if child == 0:
            try:
                asyncio.run(asyncio.wait_for(_live(task), SCENARIO_TIMEOUT_S))
            except BaseException:
                sys.excepthook(*sys.exc_info())
                os._exit(1)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)  # noqa: T201


if __name__ == "__main__":
    main()
