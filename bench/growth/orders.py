"""What past orders cost: lists, one order, figures of the books, and the next sale.

The past is written straight into the tables, in the order it happened: neither triggers nor
foreign keys look at it, with which a million orders would take a day. It keeps every invariant.
"""

import random
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import timedelta
from hashlib import md5
from typing import Any, Final
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from bench.growth import history, timing
from db.models.order import FulfillmentStatus, OrderStatus, PaymentStatus
from db.models.user import Role
from db.types import UserId
from deps.core import ROLE_SCOPES, SYSTEM, Actor, Deps, UnitOfWork
from tools import analytics, feed, ledger, notification, order, payment, refund_view
from tools.order import OrderSort

ORDERS_PER_CUSTOMER: Final = 20
ONE_CUSTOMER: Final = "past-1"
MONTH: Final = timedelta(days=30)
FEED_BACK: Final = 200
NUMBERS: Final = 50


async def grow(staff: Deps, location_id: UUID, have: int, count: int, size: int) -> None:
    """Add past orders until there are `count`: over a year, one customer to twenty of them.

    The database role must be one that may set `session_replication_role`.
    """
    if count == have:
        return
    customers = max(1, count // ORDERS_PER_CUSTOMER)
    async with _unhindered(staff) as uow:
        await uow.fetch(history.CUSTOMERS, customers, uow.now)
    until = staff.clock()
    for first in range(have + 1, count + 1, history.BATCH):
        last = min(first + history.BATCH - 1, count)
        async with _unhindered(staff) as uow:
            for statement in (*history.TABLES, history.ADDRESS):
                await uow.fetch(statement)
            currency = staff.settings.currency
            await uow.fetch(
                history.ORDERS, first, last, have + 1, count, customers, until, currency
            )
            await uow.fetch(history.LINES, size, location_id)
            for statement in history.ROWS:
                await uow.fetch(statement)
    async with _unhindered(staff) as uow:
        for statement in history.COUNTERS:
            await uow.fetch(statement)
    await ledger.close_days(staff)
    await _vacuum(staff)


@asynccontextmanager
async def _unhindered(staff: Deps) -> AsyncIterator[UnitOfWork]:
    """Open a transaction without triggers, foreign keys and limits; they come back at its end."""
    async with staff.begin() as uow:
        await uow.fetch("SET LOCAL session_replication_role = replica")
        await uow.fetch("SET LOCAL statement_timeout = 0")
        yield uow


async def _vacuum(staff: Deps) -> None:
    """Do at once what autovacuum does to a shop that grew over a year."""
    engine: AsyncEngine = staff.db.kw["bind"]
    async with engine.connect() as pooled:
        connection = await pooled.execution_options(isolation_level="AUTOCOMMIT")
        await connection.execute(text("SET statement_timeout = 0"))
        await connection.execute(text("VACUUM (ANALYZE)"))
        await connection.execute(text("RESET statement_timeout"))


async def measure(deps: Deps, size: int) -> dict[str, float]:
    """Return the median of each operation in milliseconds."""
    merchant = deps.acting_as(
        Actor(role=Role.MERCHANT, user_id=_customer("staff"), scopes=ROLE_SCOPES[Role.MERCHANT])
    )
    customer = deps.acting_as(
        Actor(
            role=Role.CUSTOMER, user_id=_customer(ONE_CUSTOMER), scopes=ROLE_SCOPES[Role.CUSTOMER]
        )
    )
    guest = deps.acting_as(
        Actor(scopes=ROLE_SCOPES[None], guest_secret_sha256=history.GUEST_SECRET)
    )
    costs = {
        **_timed(customer, _OWN),
        **_timed(guest, {"guest_orders": _OWN["own_orders"]}),
        **_timed(merchant, {**_staff(deps), **_one(await _numbers(deps))}),
        **_timed(replace(merchant, as_agent=True), {"agent_sales_30": _month}),
    }
    found = {name: await timing.p50_ms(run) for name, run in costs.items()}
    return {**found, "place": await timing.place_ms(deps, size)}


Ask = Callable[[UnitOfWork], Awaitable[Any]]


def _timed(deps: Deps, asks: Mapping[str, Ask]) -> dict[str, Callable[[], Awaitable[Any]]]:
    def within(ask: Ask) -> Callable[[], Awaitable[Any]]:
        async def run() -> None:
            async with deps.begin() as uow:
                await ask(uow)

        return run

    return {name: within(ask) for name, ask in asks.items()}


def _customer(name: str) -> UserId:
    return UserId(UUID(md5(name.encode(), usedforsecurity=False).hexdigest()))


async def _numbers(deps: Deps) -> list[int]:
    """Return the numbers of some orders, old and new."""
    async with deps.acting_as(SYSTEM).begin() as uow:
        least, most = await uow.fetchrow("SELECT min(number), max(number) FROM orders")
        picked = [random.randint(least, most) for _ in range(NUMBERS)]
        rows = await uow.fetch("SELECT number FROM orders WHERE number = ANY($1)", picked)
    return [row["number"] for row in rows] or [least]


def _month(uow: UnitOfWork) -> Awaitable[Any]:
    return analytics.sales_recent(uow, MONTH.days)


async def _console(uow: UnitOfWork) -> None:
    newest = await feed.latest(uow)
    await feed.changes(uow, max(0, newest - FEED_BACK), 2 * FEED_BACK)


_OWN: Final[Mapping[str, Ask]] = {
    "own_orders": lambda uow: order.list_mine(uow),
    "own_by_status": lambda uow: order.list_mine(uow, OrderStatus.COMPLETED),
    "own_notices": lambda uow: notification.list_recent(uow),
}


def _staff(deps: Deps) -> dict[str, Ask]:
    long_ago = deps.clock() - 10 * MONTH
    return {
        "newest": lambda uow: order.list_all(uow),
        "by_status": lambda uow: order.list_all(uow, status=OrderStatus.CANCELLED),
        "by_payment": lambda uow: order.list_all(uow, payment_status=PaymentStatus.REFUNDED),
        "to_send": lambda uow: order.list_all(
            uow,
            status=OrderStatus.PLACED,
            fulfillment_status=FulfillmentStatus.UNFULFILLED,
            sort=OrderSort.OLDEST,
        ),
        "long_ago": lambda uow: order.list_all(uow, until=long_ago),
        "by_email": lambda uow: order.list_all(uow, email=f"{ONE_CUSTOMER}@example.com"),
        "largest": lambda uow: order.list_all(uow, sort=OrderSort.LARGEST),
        "sales_today": lambda uow: analytics.sales_today(uow),
        "sales_30": _month,
        "balances": lambda uow: payment.balances(uow),
        "refunds": lambda uow: refund_view.list_all(uow),
        "largest_refunds": lambda uow: refund_view.list_all(
            uow, sort=refund_view.RefundOrder.LARGEST
        ),
        "notices": lambda uow: notification.list_recent(uow),
        "feed": _console,
    }


def _one(numbers: list[int]) -> dict[str, Ask]:
    return {
        "order": lambda uow: order.get(uow, random.choice(numbers)),
        "timeline": lambda uow: order.timeline(uow, random.choice(numbers)),
        "payments": lambda uow: payment.list_for_order(uow, random.choice(numbers)),
    }
