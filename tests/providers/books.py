"""The books of a provider beside ours: who compares them, runs, reports, and what they found."""

from datetime import timedelta

from db.models.user import Role
from deps.core import Deps
from tests import factories
from tests.conftest import NOW
from tests.providers.shop import buy, reference_of
from tests.providers.stripe_account import Json
from tests.providers.stripe_server import StripeServer
from tools import reconciliation
from tools.reconciliation import RunView

START, END = NOW - timedelta(days=1), NOW + timedelta(days=1)
HEADER = (
    "balance_transaction_id,created_utc,currency,gross,fee,reporting_category,source_id,"
    "payment_intent_id\n"
)


async def bookkeeper(stripe_shop: Deps, stripe_account: StripeServer) -> Deps:
    """Staff of a shop two days later: what was sold at NOW has settled."""
    stripe_account.ledger.clear()
    await factories.product(stripe_shop, "MUG", price=1250, stock=50)
    return factories.later(await factories.user(stripe_shop, role=Role.MERCHANT), days=2)


async def run(deps: Deps, provider: str = "stripe", report: str | None = None) -> RunView:
    return await reconciliation.run(deps, provider, START, END, report)


async def found(deps: Deps, done: RunView) -> list[tuple[str, int | None, int | None]]:
    async with deps.begin() as uow:
        page = await reconciliation.differences(uow, done.id)
    assert len(page.items) == done.difference_count
    return [(d.kind.value, d.expected_amount, d.actual_amount) for d in page.items]


async def sold(shop: Deps) -> str:
    placed = await buy(factories.guest(factories.later(shop, days=-2)))
    return await reference_of(shop, placed.id)


def line_of(account: StripeServer, category: str) -> Json:
    return next(row for row in account.ledger if row["reporting_category"] == category)


def report_of(*lines: tuple[str, str, str, str, str, str]) -> str:
    """Write a report of lines at NOW: id, gross, fee, category, source and payment."""
    at = NOW.strftime("%Y-%m-%d %H:%M:%S")
    return HEADER + "".join(
        f"{id_},{at},eur,{gross},{fee},{category},{source},{payment}\n"
        for id_, gross, fee, category, source, payment in lines
    )
