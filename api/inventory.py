"""REST: stock levels, movements and adjustments."""

from typing import Annotated

from fastapi import APIRouter, Path, Query
from pydantic import BaseModel, Field

from api.deps import UowDep, needs
from api.problems import problems
from tools import inventory
from tools.errors import Conflict, Forbidden, NotFound, Unauthenticated
from tools.inventory import ADJUSTMENT_MAX, LowStock, MovementView, StockView
from tools.page import PAGE_LIMIT_MAX, Page

router = APIRouter(prefix="/stock", tags=["stock"])
Sku = Annotated[str, Path(max_length=64, examples=["MUG-BLUE"])]
staff = [needs("stock:write")]


class Adjustment(BaseModel):
    location: str = Field(min_length=1, max_length=32, examples=["HAM"])
    delta: int = Field(
        ge=-ADJUSTMENT_MAX, le=ADJUSTMENT_MAX, description="Units to add, or take when negative."
    )
    reason: str = Field(min_length=1, max_length=500, examples=["found in the back room"])


@router.get("", dependencies=staff, responses=problems(Unauthenticated, Forbidden))
async def list_low_stock(
    uow: UowDep, limit: Annotated[int, Query(ge=1, le=PAGE_LIMIT_MAX)] = 20
) -> list[LowStock]:
    """List SKUs at or below their reorder point (staff)."""
    return await inventory.low(uow, limit)


@router.get("/{sku}", responses=problems(NotFound))
async def read_stock(sku: Sku, uow: UowDep) -> StockView:
    """Show how many can be sold; staff see each location's counters."""
    return await inventory.levels(uow, sku)


@router.get(
    "/{sku}/movements",
    dependencies=staff,
    responses=problems(Unauthenticated, Forbidden, NotFound),
)
async def list_movements(
    sku: Sku,
    uow: UowDep,
    limit: Annotated[int, Query(ge=1, le=PAGE_LIMIT_MAX)] = 20,
    cursor: Annotated[str | None, Query(max_length=1000)] = None,
) -> Page[MovementView]:
    """List what changed a SKU's stock, newest first (staff)."""
    return await inventory.movements(uow, sku, limit, cursor)


@router.post(
    "/{sku}/adjustments",
    dependencies=staff,
    responses=problems(Unauthenticated, Forbidden, NotFound, Conflict),
)
async def adjust_stock(sku: Sku, body: Adjustment, uow: UowDep) -> StockView:
    """Correct the units on hand (staff). Needs an `Idempotency-Key`."""
    return await inventory.adjust(uow, sku, body.location, body.delta, body.reason)
