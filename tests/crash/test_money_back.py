"""kill -9 at every place of a refund and of a capture: whoever comes next finishes it, once."""

from collections.abc import Generator
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from db.models.user import Role
from db.types import new_id
from deps.core import Deps, utc_now
from deps.scripted import ScriptedGateway
from tests import factories
from tests.crash.mortal import Undertaker, undertaker
from tests.crash.places import die_everywhere, row_of
from tools import capture, checkout, credit_code, credit_desk, credit_tender, refund_desk

pytestmark = pytest.mark.slow

GIFT = 600
HELD = """
    SELECT (SELECT count(*) FROM refund WHERE state <> 'succeeded') AS unfinished,
           (SELECT coalesce(sum(amount), 0) FROM refund) AS given,
           (SELECT coalesce(sum(refunded_amount), 0) FROM payment) AS back,
           (SELECT coalesce(sum(refunding_amount), 0) FROM payment) AS reserved,
           (SELECT coalesce(sum(captured_amount), 0) FROM payment) AS captured,
           (SELECT coalesce(sum(balance_amount), 0) FROM credit_account) AS credit,
           (SELECT count(*) FROM outbox WHERE type = 'RefundSucceeded') AS announced
"""


@pytest.fixture(scope="module")
def keeper() -> Generator[Undertaker, None, None]:
    with undertaker() as kept:
        yield kept


@pytest.fixture
async def provider(deps: Deps, tmp_path: Path) -> Deps:
    """The shop, with a provider that outlives its processes, in the present of other processes."""
    gateway = ScriptedGateway(file=tmp_path / "provider.sqlite")
    return replace(deps, gateways={**deps.gateways, gateway.name: gateway}, clock=utc_now)


async def placed_with_a_gift_card(customer: Deps, staff: Deps) -> int:
    async with staff.begin() as uow:
        card = await credit_desk.issue_gift_card(uow, GIFT)
        code = (await credit_code.reveal(uow, card.id)).code
    filled = await factories.filled_cart(customer, MUG=1)
    await credit_tender.choose(customer, filled.id, codes=[code], uses_account=False)
    return (await checkout.complete(customer, filled.id, payment_method="tok_visa")).number


@pytest.mark.parametrize("to", ["original", "store_credit"])
async def test_a_refund_killed_anywhere_pays_once(
    keeper: Undertaker, provider: Deps, to: str
) -> None:
    await factories.product(provider, "MUG", price=1_250, stock=1_000)
    customer = await factories.user(provider)
    staff = await factories.user(provider, role=Role.MERCHANT)
    refunds = 0

    async def prepare() -> dict[str, Any]:
        number = await placed_with_a_gift_card(customer, staff)
        return {"number": number, "refund_id": str(new_id()), "to": to}

    async def check(arguments: dict[str, Any]) -> None:
        nonlocal refunds
        asked = {**arguments, "refund_id": UUID(arguments["refund_id"]), "reason": "killed"}
        done = await refund_desk.request(staff, **asked)
        assert (done.state, done.amount) == ("succeeded", 1_250 + 490)
        refunds += 1
        row = await row_of(provider, HELD)
        assert (row.unfinished, row.reserved, row.announced) == (0, 0, refunds)
        assert row.given == row.back == row.captured == refunds * (1_250 + 490)
        gateway = provider.gateway
        assert isinstance(gateway, ScriptedGateway)
        by_card = 1_250 + 490 - GIFT
        kept = 0 if to == "original" else refunds * by_card
        assert sum(gateway.charges.values()) == kept
        assert row.credit == refunds * (GIFT if to == "original" else 1_250 + 490)

    assert await die_everywhere(keeper, staff, "give_back", prepare, check) >= 5


async def test_a_capture_killed_anywhere_takes_once(keeper: Undertaker, provider: Deps) -> None:
    shop = factories.by_hand(provider)
    await factories.product(shop, "MUG", price=1_250, stock=1_000)
    customer = await factories.user(shop)
    staff = await factories.user(shop, role=Role.MERCHANT)
    captures = 0

    async def prepare() -> dict[str, Any]:
        number = (await factories.placed_order(customer, MUG=1)).number
        return {"number": number, "amount": 700, "capture_id": str(new_id())}

    async def check(arguments: dict[str, Any]) -> None:
        nonlocal captures
        again = {**arguments, "capture_id": UUID(arguments["capture_id"])}
        await capture.take(staff, **again)
        (row,) = await capture.release(staff, arguments["number"])
        assert (row.state, row.captured_amount) == ("captured", 700)
        captures += 1
        gateway = provider.gateway
        assert isinstance(gateway, ScriptedGateway)
        assert sum(gateway.charges.values()) == 700 * captures

    assert await die_everywhere(keeper, staff, "take_and_release", prepare, check) >= 6
