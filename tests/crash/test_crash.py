"""kill -9 at every place of a sale: whoever comes next finishes it, exactly once."""

from collections.abc import Generator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from deps.core import Deps, utc_now
from deps.scripted import ScriptedGateway
from tests import factories
from tests.crash.mortal import Undertaker, undertaker
from tests.crash.places import die_everywhere, row_of
from tools import cart, checkout
from tools.errors import PaymentDeclined
from tools.payment import Tender

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def keeper() -> Generator[Undertaker, None, None]:
    with undertaker() as kept:
        yield kept


@pytest.fixture
async def provider(deps: Deps, tmp_path: Path) -> Deps:
    """The shop, with a provider that outlives its processes, in the present of other processes."""
    gateway = ScriptedGateway(file=tmp_path / "provider.sqlite")
    return replace(deps, gateways={gateway.name: gateway}, clock=utc_now)


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
        row = await row_of(provider, ENDED)
        assert (row.pending, row.placed, row.announced) == (0, bought, bought)
        assert row.kept == row.sold
        gateway = provider.gateway
        assert isinstance(gateway, ScriptedGateway)
        assert sum(gateway.charges.values()) == row.sold

    assert await die_everywhere(keeper, shop, scenario, prepare, check) >= 8


async def test_a_sale_of_what_costs_nothing_killed_anywhere_is_finished_once(
    keeper: Undertaker, provider: Deps
) -> None:
    await factories.product(provider, "MUG", price=0, stock=1000)
    shop = factories.guest(provider)
    bought = 0

    async def prepare() -> dict[str, Any]:
        filled = await factories.filled_cart(shop, MUG=2)
        async with shop.begin() as uow:
            await cart.set_details(uow, filled.id, shipping_method="pickup")
        return {"cart_id": str(filled.id)}

    async def check(arguments: dict[str, Any]) -> None:
        nonlocal bought
        again = await checkout.complete(shop, arguments["cart_id"], payment_method=None)
        assert again.status == "placed"
        bought += 1
        row = await row_of(provider, ENDED)
        assert (row.pending, row.placed, row.announced) == (0, bought, bought)
        gateway = provider.gateway
        assert isinstance(gateway, ScriptedGateway)
        assert gateway.charges == {}

    assert await die_everywhere(keeper, shop, "buy", prepare, check) >= 5


async def test_a_decline_killed_anywhere_keeps_no_money_and_no_stock(
    keeper: Undertaker, provider: Deps
) -> None:
    await factories.product(provider, "MUG", price=1250, stock=10)
    shop = factories.guest(provider)

    async def prepare() -> dict[str, Any]:
        filled = await factories.filled_cart(shop, MUG=2)
        return {"cart_id": str(filled.id), "first_amount": 1000}

    async def check(arguments: dict[str, Any]) -> None:
        row = await row_of(provider, ENDED)
        assert (row.pending, row.placed, row.kept) == (0, 0, 0)
        held = await row_of(provider, "SELECT sum(reserved + allocated) AS n FROM stock_level")
        assert held.n == 0
        gateway = provider.gateway
        assert isinstance(gateway, ScriptedGateway)
        assert sum(gateway.charges.values()) == 0
        with pytest.raises(PaymentDeclined):
            await checkout.complete(shop, arguments["cart_id"], payment_method="tok_declined")

    assert await die_everywhere(keeper, shop, "be_declined", prepare, check) >= 8


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
        row = await row_of(provider, ENDED)
        assert (row.pending, row.placed, row.kept) == (0, 0, 0)
        gateway = provider.gateway
        assert isinstance(gateway, ScriptedGateway)
        assert sum(gateway.charges.values()) == 0

    assert await die_everywhere(keeper, customer, "cancel", prepare, check) >= 4
