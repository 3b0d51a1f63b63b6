"""Capturing by hand: within what was authorised, once each; the rest is given up."""

import asyncio
from dataclasses import replace

import pytest
from sqlmodel import select

from db.models.order import Order
from db.models.payment import AttemptKind, PaymentAttempt
from db.types import Money, new_id
from deps.core import Deps
from deps.gateway import Gateway, Outcome
from deps.scripted import Fault, ScriptedGateway
from tests import factories
from tests.standing import balances, states
from tools import capture, checkout, idempotency, inventory, payment, refund, refund_process
from tools.errors import (
    Conflict,
    InvalidInput,
    NotCapturable,
    NotFound,
    NotRefundable,
    PaymentDeclined,
    Unavailable,
)
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


async def test_an_order_is_placed_when_it_is_authorised(
    staff: Deps, placed: OrderView, gateway: ScriptedGateway
) -> None:
    assert await states(staff, placed) == ("placed", "authorized")
    assert gateway.charges == {}
    assert (await balances(staff))["receivable"] == placed.total_amount
    assert await check(staff) == []


async def test_captures_in_parts_up_to_all(
    staff: Deps, placed: OrderView, gateway: ScriptedGateway
) -> None:
    await capture.take(staff, placed.number, 1_000)
    assert await states(staff, placed) == ("placed", "partially_captured")
    await capture.take(staff, placed.number, 500)
    with pytest.raises(NotCapturable) as refused:
        await capture.take(staff, placed.number, placed.total_amount - 1_499)
    assert refused.value.extra["capturable_amount"] == placed.total_amount - 1_500
    (row,) = await capture.take(staff, placed.number)
    assert (row.state, row.captured_amount) == ("captured", placed.total_amount)
    assert await capture.take(staff, placed.number) == [row]
    assert await states(staff, placed) == ("placed", "captured")
    assert sum(gateway.charges.values()) == placed.total_amount
    assert (await balances(staff))["receivable"] == 0
    assert await check(staff) == []


async def test_sixteen_captures_at_once_stay_within(
    staff: Deps, placed: OrderView, gateway: ScriptedGateway
) -> None:
    results = await asyncio.gather(
        *(capture.take(staff, placed.number, 1_000) for _ in range(16)), return_exceptions=True
    )
    assert all(isinstance(r, list | NotCapturable) for r in results), results
    assert sum(isinstance(r, list) for r in results) == placed.total_amount // 1_000
    assert sum(gateway.charges.values()) == placed.total_amount // 1_000 * 1_000
    assert await check(staff) == []


async def test_one_id_takes_once(staff: Deps, placed: OrderView, gateway: ScriptedGateway) -> None:
    mine = new_id()
    await asyncio.gather(*(capture.take(staff, placed.number, 1_000, mine) for _ in range(8)))
    assert sum(gateway.charges.values()) == 1_000
    async with staff.begin() as uow:
        shown = await capture.preview_take(uow, placed.number, 700, mine)
    assert (shown.amount, len(shown.payments), shown.capture_id) == (700, 1, mine)
    assert await check(staff) == []


@pytest.mark.parametrize(("amount", "is_spent"), [(1, True), (None, False)])
async def test_an_amount_is_taken_together_with_its_idempotency_key(
    staff: Deps, placed: OrderView, amount: int | None, is_spent: bool
) -> None:
    held = await idempotency.claim(staff, scope="s", key="k", request_sha256="0" * 64)
    assert isinstance(held, idempotency.Claim)
    token = idempotency.current_claim.set(held)
    try:
        await capture.take(staff, placed.number, amount)
    finally:
        idempotency.current_claim.reset(token)
    spent = await staff.hot.fetchval("SELECT status_code IS NOT NULL FROM idempotency_key")
    assert spent is is_spent


async def test_all_that_is_left_is_asked_for_once(
    staff: Deps, placed: OrderView, gateway: ScriptedGateway
) -> None:
    gateway.script.append(Fault.TIMEOUT_BEFORE)
    with pytest.raises(Unavailable):
        await capture.take(staff, placed.number)
    (row,) = await capture.take(staff, placed.number)
    assert (row.state, row.captured_amount) == ("captured", placed.total_amount)
    calls = gateway.calls
    assert await capture.take(staff, placed.number) == [row]
    assert gateway.calls == calls


async def test_what_is_asked_for_is_not_planned_again_to_the_last_cent(
    staff: Deps, placed: OrderView, gateway: ScriptedGateway
) -> None:
    gateway.script.append(Fault.TIMEOUT_BEFORE)
    with pytest.raises(Unavailable):
        await capture.take(staff, placed.number, 1_000)
    async with staff.begin() as uow:
        shown = await capture.preview_take(uow, placed.number)
    assert shown.amount == placed.total_amount - 1_000
    await capture.take(staff, placed.number, placed.total_amount - 1_001)
    assert sum(gateway.charges.values()) == placed.total_amount - 1
    await capture.take(staff, placed.number, 1)
    assert sum(gateway.charges.values()) == placed.total_amount
    async with staff.begin() as uow:
        with pytest.raises(NotCapturable) as refused:
            await capture.preview_take(uow, placed.number)
    assert refused.value.extra["capturable_amount"] == 0
    assert await check(staff) == []


@pytest.mark.parametrize("script", [[Fault.TIMEOUT_BEFORE] * 2, [Fault.PENDING]])
async def test_a_call_without_an_answer_does_not_keep_the_next_from_being_made(
    staff: Deps, placed: OrderView, gateway: ScriptedGateway, script: list[Fault]
) -> None:
    gateway.script.extend(script)
    for amount in (1_000, 500):
        with pytest.raises(Unavailable):
            await capture.take(staff, placed.number, amount)
    async with staff.begin() as uow:
        (row,) = await payment.list_for_order(uow, placed.number)
    assert row.captured_amount == 500


class ListeningGateway(ScriptedGateway):
    """A provider that notes whether more captures may follow."""

    async def capture(
        self, key: str, reference: str, amount: Money, *, is_final: bool = True
    ) -> Outcome:
        self.finals = [*getattr(self, "finals", []), is_final]
        return await super().capture(key, reference, amount, is_final=is_final)


async def test_the_provider_is_told_which_capture_is_the_last(staff: Deps, customer: Deps) -> None:
    listening = ListeningGateway()
    gateways: dict[str, Gateway] = {**staff.gateways, listening.name: listening}
    await factories.product(customer, "MUG", price=1_000, stock=9)
    placed = await factories.placed_order(replace(customer, gateways=gateways), MUG=3)
    for amount in (1_000, 2_000, None):
        await capture.take(replace(staff, gateways=gateways), placed.number, amount)
    assert listening.finals == [False, False, True]


async def test_calls_of_another_order_are_left_alone(
    customer: Deps, staff: Deps, placed: OrderView, gateway: ScriptedGateway
) -> None:
    other = await factories.placed_order(customer, MUG=1)
    gateway.script.append(Fault.TIMEOUT_BEFORE)
    with pytest.raises(Unavailable):
        await capture.take(staff, other.number)
    await capture.take(staff, placed.number, 1_000)
    assert list(gateway.charges.values()) == [1_000]
    (row,) = await capture.release(staff, placed.number)
    assert (row.state, row.captured_amount) == ("captured", 1_000)
    assert await states(staff, other) == ("placed", "authorized")
    assert await check(staff) == []


async def test_nothing_is_released_while_it_is_captured(
    staff: Deps, placed: OrderView, gateway: ScriptedGateway
) -> None:
    gateway.script.append(Fault.TIMEOUT_BEFORE)
    with pytest.raises(Unavailable):
        await capture.take(staff, placed.number, 1_000)
    with pytest.raises(Conflict) as refused:
        await capture.release(staff, placed.number)
    assert refused.value.extra["current"] == "capturing"
    (row,) = await capture.take(staff, placed.number)
    assert (row.state, row.captured_amount) == ("authorized", 1_000)


async def test_nothing_is_taken_of_what_is_being_released(
    staff: Deps, placed: OrderView, gateway: ScriptedGateway
) -> None:
    gateway.script.append(Fault.TIMEOUT_BEFORE)
    with pytest.raises(Unavailable):
        await capture.release(staff, placed.number)
    with pytest.raises(NotCapturable) as refused:
        await capture.take(staff, placed.number, 1)
    assert refused.value.extra["current"] == "releasing"
    (row,) = await capture.release(staff, placed.number)
    assert row.state == "voided"
    assert gateway.charges == {}
    async with staff.begin() as uow:
        calls = await uow.session.exec(
            select(PaymentAttempt).where(PaymentAttempt.kind == AttemptKind.VOID)
        )
        assert [(call.number, call.amount) for call in calls] == [(1, 0)]
    assert await check(staff) == []


@pytest.mark.parametrize("amount", [0, -1])
async def test_nothing_is_not_taken(staff: Deps, placed: OrderView, amount: int) -> None:
    with pytest.raises(InvalidInput, match="positive"):
        await capture.take(staff, placed.number, amount)
    assert await states(staff, placed) == ("placed", "authorized")


@pytest.mark.parametrize("fault", [Fault.TIMEOUT_BEFORE, Fault.TIMEOUT_AFTER])
async def test_an_unanswered_capture_is_finished_under_its_key(
    staff: Deps, placed: OrderView, gateway: ScriptedGateway, fault: Fault
) -> None:
    gateway.script.append(fault)
    with pytest.raises(Unavailable):
        await capture.take(staff, placed.number, 1_000)
    with pytest.raises(NotCapturable):
        await capture.take(staff, placed.number, placed.total_amount)
    assert await capture.resume_stuck(factories.later(staff, seconds=59)) == 0
    later = factories.later(staff, seconds=60)
    assert await capture.resume_stuck(later) == 1
    assert await capture.resume_stuck(later) == 0
    assert sum(gateway.charges.values()) == 1_000
    assert await check(later) == []


async def test_a_refused_capture_can_be_tried_again(
    staff: Deps, placed: OrderView, gateway: ScriptedGateway
) -> None:
    gateway.script.append(Fault.DECLINE)
    with pytest.raises(PaymentDeclined):
        await capture.take(staff, placed.number)
    assert await states(staff, placed) == ("placed", "authorized")
    await capture.take(staff, placed.number)
    assert sum(gateway.charges.values()) == placed.total_amount
    assert await check(staff) == []


async def test_the_rest_is_given_up_and_off_the_books(
    staff: Deps, placed: OrderView, gateway: ScriptedGateway
) -> None:
    await capture.take(staff, placed.number, 1_000)
    (row,) = await capture.release(staff, placed.number)
    assert (row.state, row.captured_amount) == ("captured", 1_000)
    assert await capture.release(staff, placed.number) == [row]
    with pytest.raises(NotCapturable):
        await capture.take(staff, placed.number, 1)
    books = await balances(staff)
    assert books["receivable"] == 0
    sold = sum(books.get(name, 0) for name in ("revenue", "shipping_revenue", "tax_payable"))
    assert sold == -1_000
    async with staff.begin() as uow:
        of = await uow.session.get_one(Order, placed.id)
        asked = await refund.request(uow, of, reason="all of it")
    assert asked.amount == 1_000
    await refund_process.drive(staff, asked.id)
    assert sum(gateway.charges.values()) == 0
    assert await check(staff) == []


async def test_nothing_is_refunded_that_was_not_captured(staff: Deps, placed: OrderView) -> None:
    async with staff.begin() as uow:
        of = await uow.session.get_one(Order, placed.id)
        with pytest.raises(NotRefundable):
            await refund.request(uow, of, reason="x", amount=1)


@pytest.mark.parametrize("taken", [0, 1_000])
async def test_cancelling_voids_and_refunds(
    customer: Deps, staff: Deps, placed: OrderView, gateway: ScriptedGateway, taken: int
) -> None:
    if taken:
        await capture.take(staff, placed.number, taken)
    answers = await asyncio.gather(
        *(checkout.cancel(customer, placed.number, "too late") for _ in range(4))
    )
    assert {a.status for a in answers} == {"cancelled"}
    assert await states(staff, placed) == ("cancelled", "refunded" if taken else "voided")
    assert sum(gateway.charges.values()) == 0
    books = await balances(staff)
    assert books["receivable"] == 0
    sold = ("revenue", "shipping_revenue", "refunds")
    assert sum(books.get(name, 0) for name in sold) == 0
    assert await check(staff) == []


async def test_a_release_that_is_refused_after_cancelling_is_asked_for_again(
    customer: Deps, staff: Deps, placed: OrderView, gateway: ScriptedGateway
) -> None:
    gateway.script.append(Fault.DECLINE)
    with pytest.raises(PaymentDeclined) as refused:
        await checkout.cancel(customer, placed.number, "too late")
    assert refused.value.extra["decline_code"] == "generic_decline"
    assert await states(staff, placed) == ("cancelled", "authorized")
    assert await check(staff) == []
    calls = gateway.calls
    await capture.resume_stuck(factories.later(staff, minutes=59))
    assert gateway.calls == calls, "not at every sweep"
    later = factories.later(staff, minutes=60)
    await capture.resume_stuck(later)
    assert await states(staff, placed) == ("cancelled", "voided")
    assert (await balances(staff))["receivable"] == 0
    assert await check(later) == []


async def test_the_sweeper_leaves_alone_what_nobody_asked_for_and_what_is_not_placed(
    customer: Deps, staff: Deps, placed: OrderView, gateway: ScriptedGateway, deps: Deps
) -> None:
    under_way = await factories.filled_cart(customer, MUG=1)
    at_once = replace(customer, settings=deps.settings)
    gateway.script.extend([None, Fault.TIMEOUT_BEFORE])
    with pytest.raises(Unavailable):
        await checkout.complete(at_once, under_way.id, payment_method="tok_visa")
    calls = gateway.calls
    assert await capture.resume_stuck(factories.later(staff, hours=2)) == 0
    assert gateway.calls == calls
    assert await states(staff, placed) == ("placed", "authorized")


async def test_of_what_order(staff: Deps, customer: Deps, placed: OrderView) -> None:
    with pytest.raises(NotFound):
        await capture.take(staff, placed.number + 1)
    await checkout.cancel(customer, placed.number, "too late")
    with pytest.raises(NotCapturable) as refused:
        await capture.take(staff, placed.number)
    assert refused.value.extra["current"] == "cancelled"
    assert await inventory.expire_due(staff) == 0
