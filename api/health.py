"""Whether this process lives, and whether it can serve."""

from typing import Annotated, Literal

from fastapi import APIRouter, Depends, Response
from pydantic import BaseModel
from starlette.requests import Request

from api.caller import deps_of
from deps.core import Deps
from tools import health

router = APIRouter(tags=["operations"])


def _deps(request: Request) -> Deps:
    return deps_of(request.scope)


HealthDeps = Annotated[Deps, Depends(_deps)]


class Alive(BaseModel):
    status: Literal["ok"] = "ok"


@router.get("/health/live")
async def live() -> Alive:
    """Answer while the process can. It asks nothing else: a restart would not mend a database."""
    return Alive()


@router.get("/health/ready", responses={503: {"model": health.Health}})
async def ready(deps: HealthDeps, response: Response) -> health.Health:
    """Say whether to send traffic here: 503 without PostgreSQL; without Redis still ready."""
    report = await health.check(deps)
    if not report.is_ready:
        response.status_code = 503
    response.headers["cache-control"] = "no-store"
    return report


class Details(BaseModel):
    report: health.Health
    pool: dict[str, int]
    backlog: health.Backlog | None


@router.get("/v1/health")
async def details(deps: HealthDeps) -> Details:
    """Return the checks with the connection pool and what waits in the outbox."""
    report = await health.check(deps)
    return Details(
        report=report,
        pool=health.pool(deps),
        backlog=await health.backlog(deps) if report.is_ready else None,
    )
