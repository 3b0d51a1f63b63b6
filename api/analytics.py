"""REST: sales figures, ledger balances and messages."""

from datetime import datetime
from typing import Annotated

from fastapi import APIRouter, Query

from api.deps import UowDep, needs
from api.parameters import Cursor, Limit
from api.problems import problems
from db.models.notification import NotificationStatus
from tools import analytics, notification, payment
from tools.analytics import SalesReport
from tools.errors import Forbidden, Unauthenticated
from tools.notification import NotificationView
from tools.page import ByTime, Page
from tools.payment import AccountBalance

router = APIRouter()
staff_errors = problems(Unauthenticated, Forbidden)


@router.get(
    "/analytics/today",
    tags=["analytics"],
    dependencies=[needs("analytics:read")],
    responses=staff_errors,
)
async def sales_today(uow: UowDep) -> SalesReport:
    """Report today's sales so far (staff). Days are UTC."""
    return await analytics.sales_today(uow)


@router.get(
    "/analytics/sales",
    tags=["analytics"],
    dependencies=[needs("analytics:read")],
    responses=staff_errors,
)
async def sales(
    uow: UowDep,
    start: Annotated[datetime, Query(description="First moment, with a time zone.")],
    end: Annotated[datetime, Query(description="First moment after, with a time zone.")],
) -> SalesReport:
    """Report the sales of a period of at most 400 days (staff)."""
    return await analytics.sales(uow, start, end)


@router.get(
    "/ledger/balances",
    tags=["payments"],
    dependencies=[needs("payment:read")],
    responses=staff_errors,
)
async def ledger_balances(uow: UowDep) -> list[AccountBalance]:
    """Show the ledger's balance by account (staff)."""
    return await payment.balances(uow)


@router.get(
    "/notifications",
    tags=["notifications"],
    dependencies=[needs("notification:read")],
    responses=staff_errors,
)
async def list_notifications(
    uow: UowDep,
    status: NotificationStatus | None = None,
    template: Annotated[str | None, Query(max_length=100)] = None,
    sort: ByTime = ByTime.NEWEST,
    limit: Limit = 20,
    cursor: Cursor = None,
) -> Page[NotificationView]:
    """List messages sent to the caller; everyone's for staff."""
    return await notification.list_recent(uow, status, template, sort, limit, cursor)
