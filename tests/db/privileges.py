"""A database of an ordinary user on a server of its own: roles belong to the whole server."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace

from sqlalchemy import text
from sqlalchemy.ext.asyncio import create_async_engine

from db.row_security import ROLE
from deps import postgres
from deps.core import Deps
from deps.embedded_postgres import EmbeddedPostgres
from tests import factories

USER = "keeper"
DATABASE = "kept"


@dataclass
class PlainUser:
    server: EmbeddedPostgres

    @property
    def url(self) -> str:
        address = postgres.normalise(self.server.dsn(DATABASE)).set(username=USER)
        return address.render_as_string(hide_password=False)

    async def as_superuser(self, *statements: str) -> None:
        engine = create_async_engine(
            postgres.normalise(self.server.dsn("postgres")), isolation_level="AUTOCOMMIT"
        )
        async with engine.connect() as connection:
            for statement in statements:
                await connection.execute(text(statement))
        await engine.dispose()

    async def let_create_roles(self) -> None:
        await self.as_superuser(f"ALTER ROLE {USER} CREATEROLE")

    async def follow_the_mend(self) -> None:
        await self.as_superuser(
            f"CREATE ROLE {ROLE} NOLOGIN",
            f"GRANT {ROLE} TO {USER} WITH INHERIT FALSE, SET TRUE",
        )

    async def customers_seen_by_an_agent(self, deps: Deps) -> int:
        """Insert a user, and count users as an agent of somebody else."""
        engine = postgres.create_engine(self.url, deps.settings)
        try:
            own = replace(deps, db=postgres.session_factory(engine))
            await factories.user(own)
            other = await factories.user(own)
            async with replace(other, as_agent=True).begin() as uow:
                found = await uow.session.execute(text("SELECT count(*) FROM app_user"))
                return int(found.scalar_one())
        finally:
            await engine.dispose()


@asynccontextmanager
async def plain_user(server: EmbeddedPostgres) -> AsyncGenerator[PlainUser, None]:
    user = PlainUser(server)
    await user.as_superuser(
        f"CREATE ROLE {USER} LOGIN NOSUPERUSER", f"CREATE DATABASE {DATABASE} OWNER {USER}"
    )
    try:
        yield user
    finally:
        await user.as_superuser(
            f"DROP DATABASE {DATABASE} WITH (FORCE)",
            f"DROP ROLE IF EXISTS {ROLE}",
            f"DROP ROLE {USER}",
        )
