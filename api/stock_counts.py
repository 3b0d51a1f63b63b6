"""REST: cycle counts (staff)."""

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Path, Query
from pydantic import Field

from api.deps import UowDep, needs
from api.parameters import Cursor, Limit
from api.problems import problems
from db.models.stock_count import CountStatus
from deps.given import Given
from tools import stock_count
from tools.errors import Conflict, Forbidden, InvalidInput, NotFound, Unauthenticated
from tools.page import ByTime, Page
from tools.stock_count import COUNTED_MAX, CountSummary, CountView

router = APIRouter(prefix="/inventory/counts", tags=["stock"], dependencies=[needs("stock:write")])


class Opening(Given):
    location: str = Field(min_length=1, max_length=32, examples=["HAM"])
    note: str = Field(default="", max_length=500, examples=["aisle 3"])


class Counted(Given):
    counted: int = Field(ge=0, le=COUNTED_MAX, description="Units found, reserved ones included.")


@router.post(
    "", status_code=201, responses=problems(Unauthenticated, Forbidden, NotFound, InvalidInput)
)
async def open_count(body: Opening, uow: UowDep) -> CountView:
    """Open a counting session at a location."""
    return await stock_count.start(uow, body.location, body.note)


@router.get("", responses=problems(Unauthenticated, Forbidden, NotFound, InvalidInput))
async def list_counts(
    uow: UowDep,
    status: CountStatus | None = None,
    location: Annotated[str | None, Query(max_length=32, examples=["HAM"])] = None,
    sort: ByTime = ByTime.NEWEST,
    limit: Limit = 20,
    cursor: Cursor = None,
) -> Page[CountSummary]:
    """List counts."""
    return await stock_count.show(uow, status, location, sort, limit, cursor)


@router.get("/{count_id}", responses=problems(Unauthenticated, Forbidden, NotFound))
async def read_count(count_id: UUID, uow: UowDep) -> CountView:
    """Show what was expected, what was found, and the difference."""
    return await stock_count.get(uow, count_id)


@router.put(
    "/{count_id}/lines/{sku}",
    responses=problems(Unauthenticated, Forbidden, NotFound, Conflict, InvalidInput),
)
async def record_count(
    count_id: UUID, sku: Annotated[str, Path(max_length=64)], body: Counted, uow: UowDep
) -> CountView:
    """Write down how many are on the shelf; again replaces."""
    return await stock_count.record(uow, count_id, sku, body.counted)


@router.delete(
    "/{count_id}/lines/{sku}", responses=problems(Unauthenticated, Forbidden, NotFound, Conflict)
)
async def strike_line(
    count_id: UUID, sku: Annotated[str, Path(max_length=64)], uow: UowDep
) -> CountView:
    """Strike out what was counted of a SKU, as if nobody had."""
    return await stock_count.strike(uow, count_id, sku)


@router.post(
    "/{count_id}/close", responses=problems(Unauthenticated, Forbidden, NotFound, Conflict)
)
async def close_count(count_id: UUID, uow: UowDep) -> CountView:
    """End the count and correct the units on hand by each difference."""
    return await stock_count.close(uow, count_id)


@router.post(
    "/{count_id}/cancel", responses=problems(Unauthenticated, Forbidden, NotFound, Conflict)
)
async def cancel_count(count_id: UUID, uow: UowDep) -> CountView:
    """End the count without correcting anything."""
    return await stock_count.cancel(uow, count_id)


@router.post(
    "/{count_id}/reopen", responses=problems(Unauthenticated, Forbidden, NotFound, Conflict)
)
async def reopen_count(count_id: UUID, uow: UowDep) -> CountView:
    """Go on with a count that ended; what closing it corrected is booked back."""
    return await stock_count.reopen(uow, count_id)
