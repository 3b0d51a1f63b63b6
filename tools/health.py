"""How the shop's own dependencies are. PostgreSQL is needed; Redis only makes things faster."""

import asyncio
from time import perf_counter
from typing import Final, Literal

from pydantic import BaseModel
from redis.exceptions import RedisError
from sqlalchemy import Pool, text
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.pool import QueuePool

from deps.core import Deps
from deps.postgres import DatabaseUnavailable

TIMEOUT_S: Final = 2.0


class Check(BaseModel):
    name: Literal["postgres", "redis"]
    ok: bool
    latency_ms: float
    error: str | None = None


class Health(BaseModel):
    """`degraded` still serves: without Redis, caches miss and limits count per process."""

    status: Literal["ok", "degraded", "unavailable"]
    checks: list[Check]

    @property
    def is_ready(self) -> bool:
        return self.status != "unavailable"


class Backlog(BaseModel):
    pending: int
    lag_s: float
    dead_letters: int
    broken_invariants: int


async def check(deps: Deps) -> Health:
    """Ask each dependency, all at once, and wait no longer than `TIMEOUT_S`."""
    postgres, redis = await asyncio.gather(_postgres(deps), _redis(deps))
    status: Literal["ok", "degraded", "unavailable"] = "ok" if redis.ok else "degraded"
    return Health(status=status if postgres.ok else "unavailable", checks=[postgres, redis])


async def backlog(deps: Deps) -> Backlog:
    """Count what waits to be announced, and what was given up."""
    async with deps.begin() as uow:
        row = (
            await (await uow.session.connection()).execute(
                text("""
                    SELECT (SELECT count(*) FROM outbox WHERE published_at IS NULL) AS pending,
                           (SELECT min(occurred_at) FROM outbox WHERE published_at IS NULL)
                               AS oldest,
                           (SELECT count(*) FROM dead_letter WHERE replayed_at IS NULL)
                               AS dead_letters,
                           (SELECT jsonb_array_length(violations) FROM audit_run
                             WHERE finished_at IS NOT NULL ORDER BY slot DESC LIMIT 1)
                               AS broken_invariants
                """)
            )
        ).one()
    lag_s = max(0.0, (uow.now - row.oldest).total_seconds()) if row.oldest else 0.0
    return Backlog(
        pending=row.pending,
        lag_s=lag_s,
        dead_letters=row.dead_letters,
        broken_invariants=row.broken_invariants or 0,
    )


def pool(deps: Deps) -> dict[str, int]:
    """Return how many connections are in use, idle and beyond the pool's size."""
    found: Pool | None = getattr(deps.db.kw["bind"], "pool", None)
    if not isinstance(found, QueuePool):
        return {}
    return {
        "in_use": found.checkedout(),
        "idle": found.checkedin(),
        "overflow": max(0, found.overflow()),
    }


async def _postgres(deps: Deps) -> Check:
    began = perf_counter()
    error: str | None = None
    try:
        async with asyncio.timeout(TIMEOUT_S), deps.db() as session:
            await (await session.connection()).execute(text("SELECT 1"))
    except (DatabaseUnavailable, SQLAlchemyError, TimeoutError) as failure:
        error = type(failure).__name__  # Its text may hold an address or a name.
    return Check(name="postgres", ok=error is None, latency_ms=_ms(began), error=error)


async def _redis(deps: Deps) -> Check:
    began = perf_counter()
    error: str | None = "NotConfigured"
    if deps.cache.redis is not None:
        try:
            async with asyncio.timeout(TIMEOUT_S):
                await deps.cache.redis.get(deps.cache.name("health"))
            error = None
        except (RedisError, OSError, TimeoutError) as failure:
            error = type(failure).__name__
    return Check(name="redis", ok=error is None, latency_ms=_ms(began), error=error)


def _ms(began: float) -> float:
    return round((perf_counter() - began) * 1_000, 2)
