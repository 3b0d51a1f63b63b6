"""Authorisations that lapse before they are captured: made anew, or their orders are let go."""

import asyncio
from dataclasses import replace

import pytest
from sqlalchemy import text

from db.models.order import Order
from db.types import Money
from deps.core import Deps
from deps.gateway import Gateway, Outcome, OutcomeStatus
from deps.scripted import Fault, ScriptedGateway
from tests import factories
from tests.standing import balances, states
from tools import capture, checkout, order, payment
from tools.errors import PaymentDeclined, Unavailable
from tools.invariant import check
from tools.order import OrderView


@pytest.fixture
async def customer(deps: Deps) -> Deps:
    return await factories.user(factories.by_hand(deps))


@pytest.fixture
def staff(merchant: Deps) -> Deps:
    return factories.by_hand(merchant)


@pytest.fixture
async def placed(customer: Deps) -> OrderView:
    await factories.product(customer, "MUG", price=1_000, stock=9)
    return await factories.placed_order(customer, MUG=3)


class LateGateway(ScriptedGateway):
    """A provider that finds the authorisation lapsed when it is to be captured."""

    async def capture(
        self, key: str, reference: str, amount: Money, *, is_final: bool = True
    ) -> Outcome:
        code = "authorization_expired"
        return Outcome(OutcomeStatus.DECLINED, reference, 0, amount.currency, decline_code=code)


async def test_a_capture_that_comes_too_late_is_authorised_anew(
    staff: Deps, placed: OrderView, gateway: ScriptedGateway
) -> None:
    gateways: dict[str, Gateway] = {**staff.gateways, gateway.name: LateGateway()}
    late = replace(staff, gateways=gateways)
    with pytest.raises(PaymentDeclined):
        await capture.take(late, placed.number, 1_000)
    async with staff.begin() as uow:
        rows = await payment.list_for_order(uow, placed.number)
        told = [entry.type for entry in await order.timeline(uow, placed.number)]
    assert [(row.state, row.amount) for row in rows] == [
        ("expired", placed.total_amount),
        ("created", placed.total_amount),
    ]
    intended = await staff.hot.fetchval(
        "SELECT amount FROM payment_attempt WHERE payment_id = $1 AND kind = 'authorize'",
        rows[1].id,
    )
    assert intended == placed.total_amount
    assert told[-2:] == ["PaymentFailed", "PaymentAuthorizationExpired"]
    assert await checkout.cancel_unpaid(staff) == 0
    await capture.take(staff, placed.number)
    assert sum(gateway.charges.values()) == placed.total_amount
    assert (await balances(staff))["receivable"] == 0
    assert await check(staff) == []


async def test_a_shopper_who_is_not_there_cannot_authenticate(
    staff: Deps, placed: OrderView, gateway: ScriptedGateway
) -> None:
    await staff.hot.execute("UPDATE payment SET method_token = 'tok_3ds'")
    later = factories.later(staff, days=400)
    assert await checkout.cancel_unpaid(later) == 1
    assert await states(later, placed) == ("cancelled", "voided")
    async with staff.begin() as uow:
        rows = await payment.list_for_order(uow, placed.number)
    assert (rows[1].state, rows[1].decline_code) == ("declined", "authentication_required")
    assert (await balances(later))["receivable"] == 0


async def test_what_lapses_is_authorised_anew(
    staff: Deps, placed: OrderView, gateway: ScriptedGateway
) -> None:
    await capture.take(staff, placed.number, 1_000)
    later = factories.later(staff, days=400)
    gateway.clock = later.clock
    await asyncio.gather(*(checkout.cancel_unpaid(later) for _ in range(4)))
    assert await states(later, placed) == ("placed", "partially_captured")
    async with later.begin() as uow:
        rows = await payment.list_for_order(uow, placed.number)
        told = [entry.type for entry in await order.timeline(uow, placed.number)]
    assert [(row.state, row.captured_amount) for row in rows] == [
        ("expired", 1_000),
        ("authorized", 0),
    ]
    assert "PaymentAuthorizationExpired" in told
    await capture.take(later, placed.number)
    assert sum(gateway.charges.values()) == placed.total_amount
    assert (await balances(later))["receivable"] == 0
    assert await check(later) == []


async def test_only_what_is_due_and_not_under_way_lapses(
    customer: Deps, staff: Deps, placed: OrderView, gateway: ScriptedGateway
) -> None:
    gateway.clock = factories.later(staff, days=-1).clock
    due = [await factories.placed_order(customer, MUG=1) for _ in range(2)]
    gateway.script.append(Fault.TIMEOUT_BEFORE)
    with pytest.raises(Unavailable):
        await capture.take(staff, due[1].number)
    assert await capture.expire_due(factories.later(staff, days=6, seconds=-1)) == 0
    lapsed = factories.later(staff, days=6)
    assert await capture.expire_due(lapsed) == 1
    assert await capture.expire_due(lapsed) == 0
    async with staff.begin() as uow:
        rows = [await payment.list_for_order(uow, each.number) for each in (placed, *due)]
    assert [[row.state.value for row in each] for each in rows] == [
        ["authorized"],
        ["expired", "created"],
        ["authorized"],
    ]
    assert await check(staff) == []


async def test_only_what_is_placed_and_captured_by_hand_is_authorised_anew(
    deps: Deps, customer: Deps, staff: Deps, placed: OrderView, gateway: ScriptedGateway
) -> None:
    under_way = await factories.filled_cart(customer, MUG=1)
    gateway.script.append(Fault.TIMEOUT_BEFORE)
    with pytest.raises(Unavailable):
        await checkout.complete(customer, under_way.id, payment_method="tok_visa")
    at_once = await factories.placed_order(replace(customer, settings=deps.settings), MUG=1)
    async with staff.begin() as uow:
        of = await uow.session.get_one(Order, at_once.id)
        await payment.add_tender(uow, of, gateway.name, "tok_visa", 500)
    calls = gateway.calls
    assert await capture.renew_due(staff) == []
    assert gateway.calls == calls


async def test_one_that_is_not_answered_does_not_keep_the_next_from_being_authorised_anew(
    customer: Deps, staff: Deps, placed: OrderView, gateway: ScriptedGateway
) -> None:
    await factories.placed_order(customer, MUG=1)
    later = factories.later(staff, days=400)
    gateway.clock = later.clock
    gateway.script.append(Fault.TIMEOUT_BEFORE)
    assert await capture.expire_due(later) == 2
    for opened in (1, 2):
        assert await capture.renew_due(later) == []
        authorized = "SELECT count(*) FROM payment WHERE state = 'authorized'"
        assert await staff.hot.fetchval(authorized) == opened
    assert await check(later) == []


async def test_what_the_provider_still_decides_on_is_neither_renewed_nor_cancelled(
    staff: Deps, placed: OrderView, gateway: ScriptedGateway
) -> None:
    before = await states(staff, placed)
    later = factories.later(staff, days=400)
    gateway.clock = later.clock
    gateway.script.append(Fault.PENDING)
    for _ in range(2):
        assert await checkout.cancel_unpaid(later) == 0
        assert await states(later, placed) == before
    async with later.begin() as uow:
        rows = await payment.list_for_order(uow, placed.number)
    assert [row.state for row in rows] == ["expired", "unknown"]
    assert await check(later) == []
    gateway.decide()
    assert await checkout.cancel_unpaid(later) == 0
    taken = await capture.take(later, placed.number)
    assert await capture.take(later, placed.number) == taken, "the lapsed one brought nothing"
    assert sum(gateway.charges.values()) == placed.total_amount
    assert await check(later) == []


async def test_what_cannot_be_authorised_anew_is_cancelled(
    staff: Deps, placed: OrderView, gateway: ScriptedGateway
) -> None:
    later = factories.later(staff, days=400)
    gateway.script.append(Fault.DECLINE)
    assert await checkout.cancel_unpaid(later) == 1
    assert await checkout.cancel_unpaid(later) == 0
    assert await states(later, placed) == ("cancelled", "voided")
    assert (await balances(later))["receivable"] == 0
    async with later.begin() as uow:
        counts = await uow.session.execute(
            text("SELECT sum(reserved), sum(allocated) FROM stock_level")
        )
        assert tuple(counts.one()) == (0, 0)
    assert await check(later) == []


async def test_an_unpaid_order_with_some_money_is_left_to_staff(
    staff: Deps, placed: OrderView, gateway: ScriptedGateway
) -> None:
    await capture.take(staff, placed.number, 1_000)
    later = factories.later(staff, days=400)
    gateway.script.append(Fault.DECLINE)
    assert await checkout.cancel_unpaid(later) == 0
    assert await states(later, placed) == ("placed", "captured")
    assert await check(later) == []
