"""REST: orders."""

from datetime import datetime
from typing import Annotated

from fastapi import APIRouter, Query
from pydantic import Field

from api.deps import DepsDep, UowDep, needs
from api.parameters import Cursor, Limit, OrderNumber
from api.problems import problems
from db.models.order import FulfillmentStatus, OrderStatus, PaymentStatus
from deps.given import Given
from tools import checkout, order, payment
from tools.errors import Forbidden, IllegalTransition, InvalidInput, NotFound, Unauthenticated
from tools.order import OrderSort, OrderSummary, OrderView, TimelineEntry
from tools.page import Page
from tools.payment import PaymentView

router = APIRouter(prefix="/orders", tags=["orders"])


class Cancellation(Given):
    reason: str = Field(min_length=1, max_length=500, examples=["ordered twice"])


@router.get("", responses=problems(InvalidInput))
async def list_orders(
    uow: UowDep,
    status: OrderStatus | None = None,
    email: Annotated[str | None, Query(max_length=254)] = None,
    payment_status: PaymentStatus | None = None,
    fulfillment_status: FulfillmentStatus | None = None,
    since: datetime | None = None,
    until: datetime | None = None,
    mine: bool = False,
    sort: OrderSort = OrderSort.NEWEST,
    limit: Limit = 20,
    cursor: Cursor = None,
) -> Page[OrderSummary]:
    """List orders: one's own, by state; or the whole shop's, by every filter, for staff."""
    if mine or not uow.actor.may("order:read_all"):
        return await order.list_mine(uow, status, sort, limit, cursor)
    return await order.list_all(
        uow,
        status=status,
        email=email,
        payment_status=payment_status,
        fulfillment_status=fulfillment_status,
        since=since,
        until=until,
        sort=sort,
        limit=limit,
        cursor=cursor,
    )


@router.get("/{number}", responses=problems(NotFound))
async def read_order(number: OrderNumber, uow: UowDep) -> OrderView:
    """Show an order with its lines, states and what may be asked of it."""
    return await order.get(uow, number)


@router.get("/{number}/timeline", responses=problems(NotFound))
async def read_timeline(number: OrderNumber, uow: UowDep) -> list[TimelineEntry]:
    """Tell what happened to an order, oldest first."""
    return await order.timeline(uow, number)


@router.get(
    "/{number}/payments",
    dependencies=[needs("payment:read")],
    responses=problems(Unauthenticated, Forbidden, NotFound),
)
async def list_payments(number: OrderNumber, uow: UowDep) -> list[PaymentView]:
    """List an order's payments (staff)."""
    return await payment.list_for_order(uow, number)


@router.post(
    "/{number}/cancel",
    dependencies=[needs("order:cancel")],
    responses=problems(Unauthenticated, Forbidden, NotFound, IllegalTransition),
)
async def cancel_order(number: OrderNumber, body: Cancellation, deps: DepsDep) -> OrderView:
    """Cancel an unshipped order and refund it in full. Needs an `Idempotency-Key`."""
    return await checkout.cancel(deps, number, body.reason)
