"""Databases for the replay: the shop imported once, and a copy of it for every batch of tasks."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from sqlalchemy import make_url
from sqlalchemy.ext.asyncio import AsyncEngine

from db.types import new_id
from deps import postgres
from deps.core import Deps
from deps.runtime import open_deps
from deps.settings import Settings
from evals.tau import importer, names
from evals.tau.data import Shop

POOL_SIZE = 40  # Eight calls at once in several tasks at once, and what looks on.
WAIT_MS = 120_000  # Eight calls for one order wait for each other, on machines of any speed.


@dataclass(frozen=True, slots=True)
class Lab:
    """Databases beside one that stays empty: same server, same rights. Travels to other processes.

    Attributes:
        server: Address of any database of the server.
        template: Name of the database that holds the imported shop.
    """

    server: str
    settings: Settings
    template: str

    @classmethod
    def beside(cls, deps: Deps) -> "Lab":
        engine = deps.db.kw["bind"]
        assert isinstance(engine, AsyncEngine)
        changes = {
            "currency": names.CURRENCY,
            "database_pool_size": POOL_SIZE,
            "statement_timeout_ms": WAIT_MS,
            "lock_timeout_ms": WAIT_MS,
        }
        return cls(
            server=engine.url.render_as_string(hide_password=False),
            settings=deps.settings.model_copy(update=changes),
            template=f"tau_template_{new_id().hex}",
        )

    async def build(self, shop: Shop) -> None:
        """Migrate and fill the template."""
        url = self._url(self.template)
        await postgres.ensure_database(url)
        await postgres.upgrade(url)
        async with open_deps(self.settings, database_url=url, redis_url=None, name="tau") as deps:
            await importer.load(deps, shop)

    @asynccontextmanager
    async def shop(self) -> AsyncGenerator[Deps, None]:
        """Yield dependencies over a fresh copy of the imported shop."""
        name = f"tau_{new_id().hex}"
        await postgres.clone_database(self._url(name), self.template)
        try:
            async with open_deps(
                self.settings, database_url=self._url(name), redis_url=None, name="tau"
            ) as deps:
                yield deps
        finally:
            await postgres.drop_database(self._url(name))

    async def close(self) -> None:
        await postgres.drop_database(self._url(self.template))

    def _url(self, database: str) -> str:
        url = make_url(self.server).set(database=database)
        return url.render_as_string(hide_password=False)
