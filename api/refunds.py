"""REST: refunds."""

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Query, status
from pydantic import AwareDatetime, Field

from api.deps import DepsDep, UowDep, needs
from api.parameters import Cursor, Limit, OrderNumber
from api.problems import problems
from db.models.refund import RefundState
from deps.given import Given
from tools import refund_desk, refund_view
from tools.errors import (
    Conflict,
    Forbidden,
    IdempotencyKeyRequired,
    NotFound,
    NotRefundable,
    Unauthenticated,
)
from tools.page import Page
from tools.refund_desk import RefundPreview
from tools.refund_view import Destination, RefundOrder, RefundSummary, RefundView

router = APIRouter(tags=["refunds"])
Units = Annotated[int, Field(ge=1, le=999)]


class RefundScope(Given):
    """What to give back: an amount, or lines and shipping, or with neither all that is left."""

    amount: int | None = Field(default=None, ge=1, lt=2**63, description="Minor units.")
    lines: dict[str, Units] | None = Field(
        default=None, max_length=100, description="Units by SKU.", examples=[{"MUG-BLUE": 1}]
    )
    shipping_amount: int = Field(default=0, ge=0, lt=2**63, description="Minor units.")
    to: Destination = "original"


class RefundInput(RefundScope):
    reason: str = Field(min_length=1, max_length=500, examples=["arrived broken"])
    refund_id: UUID | None = Field(
        default=None, description="An id of your own: the same one is the same refund."
    )


class RetryInput(Given):
    to: Destination = "original"


@router.post("/orders/{number}/refunds/preview", responses=problems(NotFound, NotRefundable))
async def preview_refund(number: OrderNumber, body: RefundScope, uow: UowDep) -> RefundPreview:
    """Say what would go back, by line and by tender. Nothing changes."""
    return await refund_desk.preview(
        uow, number, body.amount, body.lines, body.shipping_amount, body.to
    )


@router.post(
    "/orders/{number}/refunds",
    status_code=status.HTTP_201_CREATED,
    dependencies=[needs("payment:write")],
    responses=problems(Unauthenticated, Forbidden, NotFound, NotRefundable, IdempotencyKeyRequired),
)
async def request_refund(number: OrderNumber, body: RefundInput, deps: DepsDep) -> RefundView:
    """Give money back (staff). Needs an `Idempotency-Key`.

    `state` says how far it came: `pending` finishes by itself, `awaiting_approval` needs another
    person.
    """
    return await refund_desk.request(
        deps,
        number,
        body.reason,
        body.amount,
        body.lines,
        body.shipping_amount,
        body.to,
        body.refund_id,
    )


@router.get("/orders/{number}/refunds", responses=problems(NotFound))
async def list_order_refunds(number: OrderNumber, uow: UowDep) -> list[RefundView]:
    """List the refunds of an order, newest first."""
    return await refund_view.list_for_order(uow, number)


@router.get(
    "/refunds",
    dependencies=[needs("payment:read")],
    responses=problems(Unauthenticated, Forbidden),
)
async def list_refunds(
    uow: UowDep,
    state: RefundState | None = None,
    since: AwareDatetime | None = None,
    amount_min: Annotated[int | None, Query(ge=0, lt=2**63)] = None,
    sort: RefundOrder = RefundOrder.NEWEST,
    limit: Limit = 20,
    cursor: Cursor = None,
) -> Page[RefundSummary]:
    """List the shop's refunds (staff)."""
    return await refund_view.list_all(uow, state, since, amount_min, sort, limit, cursor)


@router.get("/refunds/{refund_id}", responses=problems(NotFound))
async def read_refund(refund_id: UUID, uow: UowDep) -> RefundView:
    """Show a refund with its parts and what it consists of."""
    return await refund_view.get(uow, refund_id)


@router.post(
    "/refunds/{refund_id}/retry",
    dependencies=[needs("payment:write")],
    responses=problems(
        Unauthenticated, Forbidden, NotFound, Conflict, NotRefundable, IdempotencyKeyRequired
    ),
)
async def retry_refund(refund_id: UUID, body: RetryInput, deps: DepsDep) -> RefundView:
    """Try the failed parts again, or send them to store credit (staff)."""
    return await refund_desk.retry(deps, refund_id, body.to)


@router.post(
    "/refunds/{refund_id}/approve",
    dependencies=[needs("payment:write")],
    responses=problems(Unauthenticated, Forbidden, NotFound, Conflict, IdempotencyKeyRequired),
)
async def approve_refund(refund_id: UUID, deps: DepsDep) -> RefundView:
    """Approve a refund that another person asked for, and pay it."""
    return await refund_desk.approve(deps, refund_id)


@router.post(
    "/refunds/{refund_id}/reject",
    dependencies=[needs("payment:write")],
    responses=problems(Unauthenticated, Forbidden, NotFound, Conflict),
)
async def reject_refund(refund_id: UUID, uow: UowDep) -> RefundView:
    """Reject a refund that waits for approval; its money is free again."""
    return await refund_desk.reject(uow, refund_id)
