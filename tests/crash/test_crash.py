"""kill -9 at every place of a sale: whoever comes next finishes it, exactly once."""

import asyncio
from collections.abc import Generator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from deps.core import Deps, utc_now
from deps.scripted import ScriptedGateway
from tests import factories
from tests.crash.mortal import Task, Undertaker, as_json, undertaker
from tools import checkout, invariant, refund, sale
from tools.errors import PaymentDeclined
from tools.payment import Tender

pytestmark = pytest.mark.slow

DEATHS_MAX = 80


@pytest.fixture(scope="module")
def keeper() -> Generator[Undertaker, None, None]:
    with undertaker() as kept:
        yield kept


@pytest.fixture
async def provider(deps: Deps, tmp_path: Path) -> Deps:
    """The shop, with a provider that outlives its processes, in the present of other processes."""
    gateway = ScriptedGateway(file=tmp_path / "provider.sqlite")
    return replace(deps, gateways={gateway.name: gateway}, clock=utc_now)


async def _die_everywhere(
    keeper: Undertaker, deps: Deps, scenario: str, prepare: Any, check: Any
) -> int:
    """Run `scenario` on something new with the death one place further each time, until it lives.

    After each, the sweepers come, and `check` looks at what is there. Return how many died.
    """
    gateway = deps.gateway
    assert isinstance(gateway, ScriptedGateway)
    for dies_at in range(1, DEATHS_MAX):
        arguments = await prepare()
        task = Task(
            database_url=deps.db.kw["bind"].url.render_as_string(hide_password=False),
            provider_file=str(gateway.file),
            scenario=scenario,
            arguments=arguments,
            actor=as_json(deps.actor),
            dies_at=dies_at,
        )
        survived = await asyncio.to_thread(keeper.run, task)
        await _sweep(deps)
        assert await invariant.check(deps) == [], f"after dying at place {dies_at}"
        await check(arguments)
        if survived:
            return dies_at - 1
    raise AssertionError(f"still dying after {DEATHS_MAX} places")


async def _sweep(deps: Deps) -> None:
    """What the worker does at its leisure, some time later."""
    later = factories.later(deps, minutes=3)
    await sale.resume_stuck(later)
    await refund.resume_stuck(later)


async def _row(deps: Deps, query: str, **values: Any) -> Any:
    async with deps.begin() as uow:
        return (await uow.session.execute(text(query), values)).one()


ENDED = """
    SELECT (SELECT count(*) FROM orders WHERE status = 'pending') AS pending,
           (SELECT count(*) FROM orders WHERE status = 'placed') AS placed,
           (SELECT count(*) FROM outbox WHERE type = 'OrderPlaced') AS announced,
           (SELECT coalesce(sum(captured_amount - refunded_amount), 0) FROM payment) AS kept,
           (SELECT coalesce(sum(total_amount), 0) FROM orders WHERE status = 'placed') AS sold
"""


@pytest.mark.parametrize("scenario", ["buy", "buy_with_two_tenders"])
async def test_a_sale_killed_anywhere_is_finished_once(
    keeper: Undertaker, provider: Deps, scenario: str
) -> None:
    await factories.product(provider, "MUG", price=1250, stock=1000)
    shop = factories.guest(provider)
    bought = 0

    async def prepare() -> dict[str, Any]:
        filled = await factories.filled_cart(shop, MUG=2)
        extra = {"first_amount": 1000} if scenario == "buy_with_two_tenders" else {}
        return {"cart_id": str(filled.id), **extra}

    async def check(arguments: dict[str, Any]) -> None:
        nonlocal bought
        # The shopper tries again, as they would; the sale may be finished or never begun.
        credits = (
            [Tender("scripted", "tok_visa", 1000)] if scenario == "buy_with_two_tenders" else []
        )
        again = await checkout.complete(
            shop, arguments["cart_id"], payment_method="tok_visa", credits=credits
        )
        assert again.status == "placed"
        bought += 1
        row = await _row(provider, ENDED)
        assert (row.pending, row.placed, row.announced) == (0, bought, bought)
        assert row.kept == row.sold
        gateway = provider.gateway
        assert isinstance(gateway, ScriptedGateway)
        assert sum(gateway.charges.values()) == row.sold

    assert await _die_everywhere(keeper, shop, scenario, prepare, check) >= 8


async def test_a_decline_killed_anywhere_keeps_no_money_and_no_stock(
    keeper: Undertaker, provider: Deps
) -> None:
    await factories.product(provider, "MUG", price=1250, stock=10)
    shop = factories.guest(provider)

    async def prepare() -> dict[str, Any]:
        filled = await factories.filled_cart(shop, MUG=2)
        return {"cart_id": str(filled.id), "first_amount": 1000}

    async def check(arguments: dict[str, Any]) -> None:
        row = await _row(provider, ENDED)
        assert (row.pending, row.placed, row.kept) == (0, 0, 0)
        held = await _row(provider, "SELECT sum(reserved + allocated) AS n FROM stock_level")
        assert held.n == 0
        gateway = provider.gateway
        assert isinstance(gateway, ScriptedGateway)
        assert sum(gateway.charges.values()) == 0
        with pytest.raises(PaymentDeclined):
            await checkout.complete(shop, arguments["cart_id"], payment_method="tok_declined")

    assert await _die_everywhere(keeper, shop, "be_declined", prepare, check) >= 8


async def test_a_cancellation_killed_anywhere_pays_back_once(
    keeper: Undertaker, provider: Deps
) -> None:
    await factories.product(provider, "MUG", price=1250, stock=1000)
    customer = await factories.user(provider)

    async def prepare() -> dict[str, Any]:
        return {"number": (await factories.placed_order(customer, MUG=1)).number}

    async def check(arguments: dict[str, Any]) -> None:
        cancelled = await checkout.cancel(customer, arguments["number"], "killed on the way")
        assert (cancelled.status, cancelled.payment_status) == ("cancelled", "refunded")
        row = await _row(provider, ENDED)
        assert (row.pending, row.placed, row.kept) == (0, 0, 0)
        gateway = provider.gateway
        assert isinstance(gateway, ScriptedGateway)
        assert sum(gateway.charges.values()) == 0

    assert await _die_everywhere(keeper, customer, "cancel", prepare, check) >= 4
