"""Shoppers who have to authenticate: how long they may take, and when they have bought."""

from dataclasses import replace

import pytest

from db.types import OrderId
from deps.core import Deps
from deps.gateway import Outcome, OutcomeStatus
from deps.scripted import Fault, ScriptedGateway
from tests import factories
from tests.tools.test_credit import issue
from tools import checkout, credit_tender, inventory, order, sale
from tools.errors import PaymentDeclined, Unavailable
from tools.invariant import check


async def test_a_shopper_has_half_an_hour_to_authenticate(
    customer: Deps, gateway: ScriptedGateway
) -> None:
    await factories.product(customer, "MUG", price=1_000, stock=9)
    filled = await factories.filled_cart(customer, MUG=1)
    waiting = await checkout.complete(customer, filled.id, payment_method="tok_3ds")
    assert (waiting.status, waiting.payment_status) == ("pending", "requires_action")
    assert waiting.payment_action is not None
    again = await checkout.complete(customer, filled.id, payment_method="tok_3ds")
    assert again == waiting
    assert await sale.resume_stuck(factories.later(customer, minutes=29)) == 1
    async with customer.begin() as uow:
        told = [event.type for event in await order.timeline(uow, waiting.number)]
    assert told.count("PaymentActionRequired") == 1
    late = factories.later(customer, minutes=30)
    assert await sale.resume_stuck(late) == 1
    with pytest.raises(PaymentDeclined) as refused:
        await sale.drive(late, OrderId(waiting.id))
    assert refused.value.extra["decline_code"] == "authentication_expired"
    assert gateway.charges == {}
    assert await check(late) == []


async def test_a_shopper_who_authenticates_keeps_the_units_for_longer(
    customer: Deps, gateway: ScriptedGateway
) -> None:
    await factories.product(customer, "MUG", price=1_000, stock=9)
    filled = await factories.filled_cart(customer, MUG=1)
    gateway.script.append(Fault.TIMEOUT_BEFORE)
    with pytest.raises(Unavailable):
        await checkout.complete(customer, filled.id, payment_method="tok_3ds")
    assert await sale.resume_stuck(factories.later(customer, minutes=10)) == 1
    assert await inventory.expire_due(factories.later(customer, minutes=24)) == 0
    assert await inventory.expire_due(factories.later(customer, minutes=26)) == 1


async def test_half_an_hour_is_over_as_well_for_who_pays_a_part_with_credit(
    guest: Deps, merchant: Deps
) -> None:
    await factories.product(guest, "MUG", price=3_000, stock=9)
    _, code = await issue(merchant, 1_000)
    filled = await factories.filled_cart(guest, MUG=1)
    await credit_tender.choose(guest, filled.id, codes=[code], uses_account=False)
    waiting = await checkout.complete(guest, filled.id, payment_method="tok_3ds")
    late = factories.later(guest, minutes=30)
    await sale.resume_stuck(late)
    with pytest.raises(PaymentDeclined) as refused:
        await sale.drive(late, OrderId(waiting.id))
    assert refused.value.extra["decline_code"] == "authentication_expired"
    async with late.begin() as uow:
        (again,) = (await credit_tender.view(uow, filled.id)).tenders
    assert again.available_amount == 1_000
    assert await check(late) == []


class SlowGateway(ScriptedGateway):
    """A provider that takes its time to believe a shopper who has authenticated."""

    is_sure = False

    async def find(self, key: str, reference: str | None = None) -> Outcome | None:
        known = await super().find(key, reference)
        if known is None or known.status is OutcomeStatus.REQUIRES_ACTION or self.is_sure:
            return known
        return replace(known, status=OutcomeStatus.PENDING)


@pytest.mark.parametrize("is_sure", [True, False])
async def test_a_shopper_who_authenticated_has_bought_whenever_that_is_known(
    customer: Deps, is_sure: bool
) -> None:
    slow = SlowGateway()
    buyer = replace(customer, gateways={**customer.gateways, slow.name: slow})
    await factories.product(buyer, "MUG", price=1_000, stock=9)
    filled = await factories.filled_cart(buyer, MUG=1)
    waiting = await checkout.complete(buyer, filled.id, payment_method="tok_3ds")
    key = await buyer.hot.fetchval("SELECT key FROM payment_attempt")
    slow.finish_action(f"auth_{key}")
    slow.is_sure = is_sure
    late = factories.later(buyer, minutes=31)
    for _ in range(2):
        await sale.resume_stuck(late)
    slow.is_sure = True
    await sale.resume_stuck(late)
    done = await sale.drive(late, OrderId(waiting.id))
    assert (done.status, sum(slow.charges.values())) == ("placed", done.total_amount)
    assert await check(late) == []
