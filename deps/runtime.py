"""The dependencies of a whole process, opened once and closed in order."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from deps.cache import Cache
from deps.core import Deps
from deps.credit import CreditGateway
from deps.hot import HotPool
from deps.mail import SmtpMailer
from deps.postgres import create_engine, session_factory
from deps.providers import configured
from deps.scripted import ScriptedGateway
from deps.settings import Settings


@asynccontextmanager
async def open_deps(
    settings: Settings, *, database_url: str, redis_url: str | None, name: str = "shopkeeper"
) -> AsyncIterator[Deps]:
    """Yield dependencies with a guest as the actor; whoever authenticates replaces it.

    Nothing is connected yet: a database that is away fails the first request, not the start.

    Args:
        settings: Of this process.
        database_url: Any PostgreSQL address.
        redis_url: Of Valkey or Redis, or None to run without a cache.
        name: Shown in `pg_stat_activity`.
    """
    engine = create_engine(database_url, settings, name=name)
    cache = Cache.connect(redis_url) if redis_url else Cache(None)
    hot = await HotPool.open(database_url, settings, name=name)
    sessions = session_factory(engine)
    scripted = ScriptedGateway(file=settings.scripted_gateway_file)
    providers = configured(settings)
    try:
        yield Deps(
            db=sessions,
            hot=hot,
            cache=cache,
            gateways={scripted.name: scripted, "credit": CreditGateway(sessions), **providers},
            mailer=SmtpMailer(settings),
            settings=settings,
        )
    finally:
        for provider in providers.values():
            await provider.aclose()
        await cache.aclose()
        await hot.aclose()
        await engine.dispose()
