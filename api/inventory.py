"""REST: stock of a SKU, and what staff do with it; `/inventory` is the shop's stock as a whole."""

from datetime import date, datetime
from typing import Annotated

from fastapi import APIRouter, Path, Query
from pydantic import Field

from api.deps import UowDep, needs
from api.parameters import Cursor, Limit
from api.problems import problems
from db.models.inventory import MovementKind, StockPolicy
from deps.given import Given
from tools import bundle, inventory, stock, stock_ledger
from tools.bundle import PARTS_MAX, BundlePartInput, BundleView
from tools.errors import Conflict, Forbidden, InvalidInput, NotFound, Unauthenticated
from tools.inventory import StockView
from tools.page import ByTime, Page
from tools.stock import ADJUSTMENT_MAX, BACKORDER_LIMIT_MAX, ListedLevel, LowStock, Sort
from tools.stock_ledger import AdjustReason, MovementView, PastLevel, RebuildReport

router = APIRouter(tags=["stock"])
Sku = Annotated[str, Path(max_length=64, examples=["MUG-BLUE"])]
LocationCode = Annotated[str | None, Query(max_length=32, examples=["HAM"])]
Time = Annotated[datetime | None, Query(examples=["2026-01-31T00:00:00Z"])]
staff = [needs("stock:write")]


class Adjustment(Given):
    location: str = Field(min_length=1, max_length=32, examples=["HAM"])
    delta: int = Field(
        ge=-ADJUSTMENT_MAX, le=ADJUSTMENT_MAX, description="Units to add, or take when negative."
    )
    reason: str = Field(min_length=1, max_length=500, examples=["found in the back room"])
    reason_code: AdjustReason = AdjustReason.CORRECTION


class Receipt(Given):
    location: str = Field(min_length=1, max_length=32, examples=["HAM"])
    quantity: int = Field(ge=1, le=ADJUSTMENT_MAX, examples=[24])
    reason: str = Field(default="", max_length=500, examples=["delivery note 4711"])


class Policy(Given):
    policy: StockPolicy
    backorder_limit: int = Field(
        default=0, ge=0, le=BACKORDER_LIMIT_MAX, description="Units that may be owed at once."
    )
    available_on: date | None = Field(default=None, examples=["2026-03-01"])


class Thresholds(Given):
    reorder_point: int | None = Field(default=None, ge=0, le=ADJUSTMENT_MAX, examples=[5])
    safety_stock: int | None = Field(default=None, ge=0, le=ADJUSTMENT_MAX, examples=[2])


class BundleParts(Given):
    parts: list[BundlePartInput] = Field(max_length=PARTS_MAX)


class Rebuild(Given):
    is_dry_run: bool = Field(default=True, description="Only compare; nothing is changed.")


@router.get("/stock", dependencies=staff, responses=problems(Unauthenticated, Forbidden))
async def list_low_stock(uow: UowDep, limit: Limit = 20) -> list[LowStock]:
    """List what is at or below its reorder point, by location, scarcest first (staff)."""
    return await stock.low(uow, limit)


@router.get("/stock/{sku}", responses=problems(NotFound))
async def read_stock(sku: Sku, uow: UowDep) -> StockView:
    """Show how many can be ordered; staff see each location's counters."""
    return await inventory.levels(uow, sku)


@router.get(
    "/stock/{sku}/movements",
    dependencies=staff,
    responses=problems(Unauthenticated, Forbidden, NotFound, InvalidInput),
)
async def list_movements(
    sku: Sku,
    uow: UowDep,
    kind: MovementKind | None = None,
    location: LocationCode = None,
    since: Time = None,
    until: Time = None,
    sort: ByTime = ByTime.NEWEST,
    limit: Limit = 20,
    cursor: Cursor = None,
) -> Page[MovementView]:
    """List what changed a SKU's stock (staff)."""
    return await stock_ledger.movements(uow, sku, kind, location, since, until, sort, limit, cursor)


@router.post(
    "/stock/{sku}/adjustments",
    dependencies=staff,
    responses=problems(Unauthenticated, Forbidden, NotFound, Conflict, InvalidInput),
)
async def adjust_stock(sku: Sku, body: Adjustment, uow: UowDep) -> StockView:
    """Correct the units on hand (staff). Needs an `Idempotency-Key`."""
    return await stock.adjust(uow, sku, body.location, body.delta, body.reason, body.reason_code)


@router.post(
    "/stock/{sku}/receipts",
    dependencies=staff,
    responses=problems(Unauthenticated, Forbidden, NotFound, Conflict, InvalidInput),
)
async def receive_stock(sku: Sku, body: Receipt, uow: UowDep) -> StockView:
    """Take in units that arrived; who waits for them comes first (staff). Needs an
    `Idempotency-Key`."""
    return await stock.receive(uow, sku, body.location, body.quantity, body.reason)


@router.put(
    "/stock/{sku}/policy",
    dependencies=staff,
    responses=problems(Unauthenticated, Forbidden, NotFound, Conflict, InvalidInput),
)
async def set_stock_policy(sku: Sku, body: Policy, uow: UowDep) -> StockView:
    """Say what happens when the SKU runs out: deny, backorder or pre-order, up to a cap (staff)."""
    return await stock.set_policy(uow, sku, body.policy, body.backorder_limit, body.available_on)


@router.patch(
    "/stock/{sku}/levels/{location}",
    dependencies=staff,
    responses=problems(Unauthenticated, Forbidden, NotFound, Conflict, InvalidInput),
)
async def set_stock_thresholds(
    sku: Sku, location: Annotated[str, Path(max_length=32)], body: Thresholds, uow: UowDep
) -> StockView:
    """Set the reorder point and the safety stock of a SKU at a location (staff)."""
    return await stock.set_thresholds(uow, sku, location, body.reorder_point, body.safety_stock)


@router.get("/stock/{sku}/bundle", responses=problems(NotFound))
async def read_bundle(sku: Sku, uow: UowDep) -> BundleView:
    """Show what a bundle consists of and how many can be ordered."""
    return await bundle.show(uow, sku)


@router.put(
    "/stock/{sku}/bundle",
    dependencies=staff,
    responses=problems(Unauthenticated, Forbidden, NotFound, Conflict, InvalidInput),
)
async def define_bundle(sku: Sku, body: BundleParts, uow: UowDep) -> BundleView:
    """Say what a bundle consists of; no parts make it an ordinary SKU (staff)."""
    return await bundle.define(uow, sku, body.parts)


@router.get(
    "/inventory/levels",
    dependencies=staff,
    responses=problems(Unauthenticated, Forbidden, NotFound, InvalidInput),
)
async def list_levels(
    uow: UowDep,
    location: LocationCode = None,
    is_low: bool | None = None,
    sku_prefix: Annotated[str | None, Query(min_length=1, max_length=64)] = None,
    sort: Sort = Sort.SKU,
    limit: Limit = 20,
    cursor: Cursor = None,
) -> Page[ListedLevel]:
    """List stock levels by SKU and location (staff). `sort=scarcest` needs a filter."""
    return await stock.list_levels(uow, location, is_low, sku_prefix, sort, limit, cursor)


@router.get(
    "/inventory/as-of",
    dependencies=staff,
    responses=problems(Unauthenticated, Forbidden, NotFound, InvalidInput),
)
async def read_stock_as_of(
    uow: UowDep,
    at: Annotated[datetime, Query(examples=["2026-01-31T00:00:00Z"])],
    sku: Annotated[str | None, Query(max_length=64)] = None,
    location: LocationCode = None,
    limit: Limit = 20,
    cursor: Cursor = None,
) -> Page[PastLevel]:
    """Tell from the ledger what there was at a time (staff)."""
    return await stock_ledger.as_of(uow, at, sku, location, limit, cursor)


@router.post(
    "/inventory/rebuild", dependencies=staff, responses=problems(Unauthenticated, Forbidden)
)
async def rebuild_counters(uow: UowDep, body: Rebuild) -> RebuildReport:
    """Compare every stock counter with the ledger and, unless it is a dry run, set it (staff)."""
    return await stock_ledger.rebuild(uow, body.is_dry_run)
