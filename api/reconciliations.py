"""REST: reconciliation with providers' books (staff)."""

from datetime import datetime
from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Query, status
from pydantic import Field

from api.deps import DepsDep, UowDep, needs
from api.parameters import Cursor, Limit
from api.problems import problems
from db.models.reconciliation import DifferenceKind
from deps.given import Given
from tools import reconciliation
from tools.errors import Forbidden, NotFound, Unauthenticated
from tools.page import ByTime, Page
from tools.reconciliation import DifferenceView, RunView

router = APIRouter(prefix="/reconciliations", tags=["reconciliation"])
readers = [needs("payment:read")]


class RunInput(Given):
    provider: str = Field(max_length=32, examples=["stripe"])
    start: datetime = Field(examples=["2026-01-01T00:00:00Z"])
    end: datetime = Field(examples=["2026-02-01T00:00:00Z"])
    report: str | None = Field(
        default=None, description="An itemised report as CSV; the provider is asked without one."
    )


@router.post(
    "",
    status_code=status.HTTP_201_CREATED,
    dependencies=[needs("payment:write")],
    responses=problems(Unauthenticated, Forbidden, NotFound),
)
async def run_reconciliation(body: RunInput, deps: DepsDep) -> RunView:
    """Compare a provider's books with ours; fees and payouts are booked once."""
    return await reconciliation.run(deps, body.provider, body.start, body.end, body.report)


@router.get("", dependencies=readers, responses=problems(Unauthenticated, Forbidden))
async def list_reconciliations(
    uow: UowDep,
    provider: Annotated[str | None, Query(max_length=32)] = None,
    sort: ByTime = ByTime.NEWEST,
    limit: Limit = 20,
    cursor: Cursor = None,
) -> Page[RunView]:
    """List reconciliations."""
    return await reconciliation.list_runs(uow, provider, sort, limit, cursor)


@router.get(
    "/{run_id}/differences",
    dependencies=readers,
    responses=problems(Unauthenticated, Forbidden, NotFound),
)
async def list_differences(
    run_id: UUID,
    uow: UowDep,
    kind: DifferenceKind | None = None,
    limit: Limit = 50,
    cursor: Cursor = None,
) -> Page[DifferenceView]:
    """List what did not agree."""
    return await reconciliation.differences(uow, run_id, kind, limit, cursor)
