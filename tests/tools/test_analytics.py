"""Sales figures equal what was sold."""

from datetime import timedelta

import pytest

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
