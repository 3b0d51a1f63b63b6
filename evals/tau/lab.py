"""Databases for the replay: the shop imported once, and a copy of it for every batch of tasks."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from sqlalchemy import URL
from sqlalchemy.ext.asyncio import AsyncEngine

from db.types import new_id
from deps import postgres
from deps.core import Deps
from deps.runtime import open_deps
from evals.tau import importer, names
from evals.tau.data import Shop

POOL_SIZE = 40  # Eight calls at once in several tasks at once, and what looks on.


class Lab:
    """Beside the database of `deps`, which stays empty: same server, same rights."""

    def __init__(self, deps: Deps) -> None:
        engine = deps.db.kw["bind"]
        assert isinstance(engine, AsyncEngine)
        self._server = engine.url
        self._settings = deps.settings.model_copy(
            update={"currency": names.CURRENCY, "database_pool_size": POOL_SIZE}
        )
        self._template = f"tau_template_{new_id().hex}"

    async def build(self, shop: Shop) -> None:
        """Migrate and fill the template."""
        url = self._url(self._template)
        await postgres.ensure_database(url)
        await postgres.upgrade(url)
        async with open_deps(self._settings, database_url=url, redis_url=None, name="tau") as deps:
            await importer.load(deps, shop)

    @asynccontextmanager
    async def shop(self) -> AsyncGenerator[Deps, None]:
        """Yield dependencies over a fresh copy of the imported shop."""
        name = f"tau_{new_id().hex}"
        await postgres.clone_database(self._url(name), self._template)
        try:
            async with open_deps(
                self._settings, database_url=self._url(name), redis_url=None, name="tau"
            ) as deps:
                yield deps
        finally:
            await postgres.drop_database(self._url(name))

    async def close(self) -> None:
        await postgres.drop_database(self._url(self._template))

    def _url(self, database: str) -> str:
        url: URL = self._server.set(database=database)
        return url.render_as_string(hide_password=False)
