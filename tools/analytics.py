"""Sales figures, read from placed orders."""

from datetime import UTC, datetime, timedelta

from pydantic import BaseModel

from deps.core import UnitOfWork
from tools.errors import InvalidInput
from tools.page import aware
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
        InvalidInput: The bounds are naive, past the calendar, reversed, or more than 400 days
            apart.
    """
    start, end = aware(start, "start"), aware(end, "end")
    if not timedelta() < end - start <= SPAN_MAX:
        raise InvalidInput(
            f"end must be after start, by at most {SPAN_MAX.days} days.", field="end"
        )
    return await _report(uow, start, end)


# An order's lines are looked up by its index: joined otherwise, PostgreSQL reads those of all time.
_REPORT = """
    WITH sold AS MATERIALIZED (
        SELECT id, total_amount FROM orders
        WHERE status IN ('placed', 'completed') AND placed_at >= $1 AND placed_at < $2
          AND currency = $3
    ), title AS MATERIALIZED (
        SELECT l.title, sum(l.quantity)::int AS units, sum(l.total_amount)::bigint AS revenue_amount
        FROM sold CROSS JOIN LATERAL (
            SELECT title, quantity, total_amount FROM order_line WHERE order_id = sold.id OFFSET 0
        ) l GROUP BY l.title
    )
    SELECT (SELECT count(*) FROM sold)::int AS orders,
           (SELECT coalesce(sum(total_amount), 0) FROM sold)::bigint AS revenue,
           (SELECT coalesce(sum(units), 0) FROM title)::int AS units,
           ARRAY(SELECT to_jsonb(best)
                 FROM (SELECT * FROM title ORDER BY units DESC, title LIMIT $4) best) AS top
"""


async def _report(uow: UnitOfWork, start: datetime, end: datetime) -> SalesReport:
    currency = uow.settings.currency
    found = await uow.fetchrow(_REPORT, start, end, currency, TOP_PRODUCTS)
    return SalesReport(
        start=start,
        end=end,
        currency=currency,
        orders=found["orders"],
        units=found["units"],
        revenue_amount=found["revenue"],
        aov_amount=found["revenue"] // found["orders"] if found["orders"] else 0,
        top_products=[TopProduct.model_validate(row) for row in found["top"]],
    )
