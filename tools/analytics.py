"""Sales figures, read from placed orders."""

from datetime import UTC, datetime, timedelta

from pydantic import BaseModel
from sqlalchemy import text

from deps.core import UnitOfWork
from tools.errors import InvalidInput
from tools.registry import Risk, operation

TOP_PRODUCTS = 5
SPAN_MAX = timedelta(days=400)


class TopProduct(BaseModel):
    title: str
    units: int
    revenue_amount: int


class SalesReport(BaseModel):
    """Orders placed in [start, end). Amounts are minor units of `currency`; cancelled orders and
    their revenue are left out."""

    start: datetime
    end: datetime
    currency: str
    orders: int
    units: int
    revenue_amount: int
    aov_amount: int
    top_products: list[TopProduct]


@operation(
    scope="analytics:read",
    risk=Risk.READ,
    idempotent=True,
    examples=(
        "what did we sell today",
        "how are sales today",
        "today's revenue",
        "how many orders came in today",
        "show today's sales",
    ),
)
async def sales_today(uow: UnitOfWork) -> SalesReport:
    """Report today's sales so far: orders, units, revenue and what sold best. Days are UTC."""
    start = uow.now.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    return await _report(uow, start, start + timedelta(days=1))


@operation(
    scope="analytics:read",
    risk=Risk.READ,
    idempotent=True,
    examples=(
        "sales of the last {days} days",
        "what did we sell in the last {days} days",
        "revenue of the past {days} days",
        "best sellers of the last {days} days",
    ),
)
async def sales_recent(uow: UnitOfWork, days: int) -> SalesReport:
    """Report the sales of the last days, today included. Days are UTC.

    Args:
        days: How many days, 1 to 400.

    Raises:
        InvalidInput: `days` is out of range.
    """
    if not 1 <= days <= SPAN_MAX.days:
        raise InvalidInput(f"days must be 1 to {SPAN_MAX.days}.", field="days")
    midnight = uow.now.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    end = midnight + timedelta(days=1)
    return await _report(uow, end - timedelta(days=days), end)


async def sales(uow: UnitOfWork, start: datetime, end: datetime) -> SalesReport:
    """Report the sales of a period.

    Raises:
        InvalidInput: The bounds are naive, reversed, or more than 400 days apart.
    """
    if start.tzinfo is None or end.tzinfo is None:
        raise InvalidInput("start and end need a time zone, such as Z.", field="start")
    if not start < end <= start + SPAN_MAX:
        raise InvalidInput(
            f"end must be after start, by at most {SPAN_MAX.days} days.", field="end"
        )
    return await _report(uow, start, end)


async def _report(uow: UnitOfWork, start: datetime, end: datetime) -> SalesReport:
    bounds = {"start": start, "end": end, "currency": uow.settings.currency}
    where = "o.status IN ('placed', 'completed') AND o.placed_at >= :start AND o.placed_at < :end"
    where += " AND o.currency = :currency"
    totals = (
        await uow.session.execute(
            text(f"""
                SELECT count(*)::int AS orders, coalesce(sum(o.total_amount), 0)::bigint AS revenue,
                       coalesce(sum((SELECT sum(l.quantity) FROM order_line l
                                     WHERE l.order_id = o.id)), 0)::int AS units
                FROM orders o WHERE {where}
            """),
            bounds,
        )
    ).one()
    top = await uow.session.execute(
        text(f"""
            SELECT l.title, sum(l.quantity)::int AS units,
                   sum(l.total_amount)::bigint AS revenue_amount
            FROM orders o JOIN order_line l ON l.order_id = o.id
            WHERE {where} GROUP BY l.title ORDER BY units DESC, l.title LIMIT :top
        """),
        bounds | {"top": TOP_PRODUCTS},
    )
    return SalesReport(
        start=start,
        end=end,
        currency=uow.settings.currency,
        orders=totals.orders,
        units=totals.units,
        revenue_amount=totals.revenue,
        aov_amount=totals.revenue // totals.orders if totals.orders else 0,
        top_products=[TopProduct.model_validate(row, from_attributes=True) for row in top],
    )
