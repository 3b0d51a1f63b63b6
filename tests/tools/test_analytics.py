"""Sales figures equal what was sold."""

from datetime import timedelta

import httpx
import pytest

from db.models.user import Role
from deps.core import Deps
from tests import factories
from tools import analytics, checkout
from tools.errors import InvalidInput


async def test_today_counts_what_was_placed_and_kept(customer: Deps, merchant: Deps) -> None:
    await factories.product(customer, "MUG", price=1000, stock=20)
    first = await factories.placed_order(customer, MUG=3)
    second = await factories.placed_order(customer, MUG=1)
    dropped = await factories.placed_order(customer, MUG=5)
    await checkout.cancel(customer, dropped.number, reason="ordered twice")
    async with merchant.begin() as uow:
        report = await analytics.sales_today(uow)
        week = await analytics.sales_recent(uow, 7)
        yesterday = await analytics.sales(uow, report.start - timedelta(days=1), report.start)
    revenue = first.total_amount + second.total_amount
    assert (report.orders, report.units, report.revenue_amount) == (2, 4, revenue)
    assert report.aov_amount == revenue // 2
    assert [(top.title, top.units) for top in report.top_products] == [("Stoneware mug", 4)]
    assert week.revenue_amount == revenue
    assert (yesterday.orders, yesterday.aov_amount) == (0, 0)


async def test_periods_are_checked(merchant: Deps) -> None:
    async with merchant.begin() as uow:
        now = uow.now
        for start, end in (
            (now, now),
            (now, now - timedelta(days=1)),
            (now, now + timedelta(days=401)),
            (now.replace(tzinfo=None), now),
        ):
            with pytest.raises(InvalidInput):
                await analytics.sales(uow, start, end)
        with pytest.raises(InvalidInput):
            await analytics.sales_recent(uow, 0)


FIRST = "0001-01-01T00:00:00+00:00"
LAST = "9999-12-31T23:59:59+00:00"


@pytest.mark.parametrize(
    ("start", "end", "field"),
    [
        ("0001-01-01T00:00:00+14:00", "0001-02-01T00:00:00+00:00", "start"),
        ("9999-12-31T00:00:00+00:00", "9999-12-31T23:59:59-23:59", "end"),
        (FIRST, LAST, "end"),
        (LAST, FIRST, "end"),
        (LAST, LAST, "end"),
    ],
)
async def test_a_period_past_the_calendar_is_refused_by_its_field(
    client: httpx.AsyncClient, deps: Deps, start: str, end: str, field: str
) -> None:
    client.headers.update(factories.bearer(await factories.user(deps, role=Role.MERCHANT)))
    answer = await client.get("/v1/analytics/sales", params={"start": start, "end": end})
    assert (answer.status_code, answer.json()["field"]) == (422, field), answer.text


@pytest.mark.parametrize(
    ("start", "end"),
    [(FIRST, "0001-02-01T00:00:00+00:00"), ("9999-12-01T00:00:00+00:00", LAST)],
)
async def test_the_calendars_first_and_last_month_had_no_sales(
    client: httpx.AsyncClient, deps: Deps, start: str, end: str
) -> None:
    client.headers.update(factories.bearer(await factories.user(deps, role=Role.MERCHANT)))
    answer = await client.get("/v1/analytics/sales", params={"start": start, "end": end})
    assert (answer.status_code, answer.json()["orders"]) == (200, 0), answer.text
