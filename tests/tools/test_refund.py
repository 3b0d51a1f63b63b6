"""Refunds: never more than was captured, once each, to the last charged tender first."""

import asyncio
from datetime import timedelta

import pytest
from sqlalchemy import text

from db.models.order import Order
from db.models.refund import Refund, RefundKind, RefundState
from db.types import OrderId, PaymentId, new_id
from deps.core import Deps
from deps.scripted import Fault, ScriptedGateway
from deps.settings import Settings
from tests import factories
from tests.standing import balances
from tools import credit, order, payment, refund, refund_plan, refund_process, refund_view, sale
from tools.errors import Conflict, InvalidInput, NotRefundable, Unavailable
from tools.invariant import check
from tools.order import OrderView


async def start(deps: Deps, placed: OrderView, **asked: object) -> Refund:
    async with deps.begin() as uow:
        of = await uow.session.get_one(Order, placed.id)
        return await refund.request(uow, of, reason="it broke", **asked)  # type: ignore[arg-type]


async def refunded(deps: Deps, placed: OrderView, **asked: object) -> Refund:
    return await refund_process.drive(deps, (await start(deps, placed, **asked)).id)


async def status(deps: Deps, placed: OrderView) -> str:
    async with deps.begin() as uow:
        return (await uow.session.get_one(Order, placed.id)).payment_status.value


async def test_a_part_and_then_the_rest(customer: Deps, gateway: ScriptedGateway) -> None:
    await factories.product(customer, "MUG", price=1250, stock=5)
    placed = await factories.placed_order(customer, MUG=2)
    first = await refunded(customer, placed, lines={"MUG": 1})
    assert (first.state, first.amount) == (RefundState.SUCCEEDED, 1250)
    assert await status(customer, placed) == "partially_refunded"
    rest = await refunded(customer, placed)
    assert rest.amount == 1250 + 490
    assert await status(customer, placed) == "refunded"
    assert list(gateway.charges.values()) == [0]
    books = await balances(customer)
    assert books["clearing"] == 0
    assert (books["refunds"], books["shipping_revenue"]) == (2500, 0)
    with pytest.raises(NotRefundable):
        await start(customer, placed)
    assert await check(customer) == []


async def test_sixteen_at_once_never_pass_what_was_captured(
    customer: Deps, gateway: ScriptedGateway
) -> None:
    await factories.product(customer, "MUG", price=1000, stock=5)
    placed = await factories.placed_order(customer, MUG=1)
    total = placed.total_amount
    results = await asyncio.gather(
        *(refunded(customer, placed, amount=300) for _ in range(16)), return_exceptions=True
    )
    paid = [r for r in results if isinstance(r, Refund)]
    assert len(paid) == total // 300
    assert all(isinstance(r, Refund | NotRefundable) for r in results), results
    assert sum(gateway.charges.values()) == total - 300 * len(paid)
    assert await check(customer) == []


async def test_what_is_on_its_way_back_is_not_given_back_again(customer: Deps) -> None:
    await factories.product(customer, "MUG", price=1000, stock=5)
    placed = await factories.placed_order(customer, MUG=1)
    first = await start(customer, placed, amount=900)
    second = await start(customer, placed, lines={"MUG": 1}, shipping_amount=490)
    assert (first.breakdown["goods_amount"], second.breakdown["goods_amount"]) == (900, 100)
    assert second.breakdown["shipping_amount"] == 490
    for each in (second, first):
        await refund_process.drive(customer, each.id)
    assert await check(customer) == []


async def test_sixteen_drivers_of_one_refund_pay_it_once(
    customer: Deps, gateway: ScriptedGateway
) -> None:
    await factories.product(customer, "MUG", price=1000, stock=5)
    placed = await factories.placed_order(customer, MUG=1)
    one = await start(customer, placed, amount=700)
    gateway.script.append(Fault.SLOW)
    calls = gateway.calls
    done = await asyncio.gather(*(refund_process.drive(customer, one.id) for _ in range(16)))
    assert gateway.calls == calls + 1
    assert {each.state for each in done} == {RefundState.SUCCEEDED}
    assert sum(gateway.charges.values()) == placed.total_amount - 700
    assert await check(customer) == []


async def test_a_driver_leases_its_own_refund_and_for_a_while(
    customer: Deps, monkeypatch: pytest.MonkeyPatch
) -> None:
    await factories.product(customer, "MUG", price=1000, stock=5)
    orders = [await factories.placed_order(customer, MUG=1) for _ in range(2)]
    mine, other = [await start(customer, placed, amount=700) for placed in orders]
    lease = "UPDATE refund SET lease_until = $1 WHERE id = $2"
    until = customer.clock() + refund_process.LEASE
    await customer.hot.execute(lease, until, other.id)
    await refund_process.drive_order(customer, OrderId(orders[0].id))
    rows = await customer.hot.fetch("SELECT state, lease_until FROM refund ORDER BY id")
    assert [tuple(row) for row in rows] == [("succeeded", None), ("pending", until)]
    assert (await refund_process.drive(customer, mine.id)).state is RefundState.SUCCEEDED
    monkeypatch.setattr(refund_process, "WAITS_MAX", 2)
    with pytest.raises(Unavailable, match="still being processed"):
        await refund_process.drive(customer, other.id)
    assert await refund_process.resume_stuck(factories.later(customer, seconds=30)) == 0
    ended = factories.later(customer, seconds=31)
    await customer.hot.execute("UPDATE refund SET created_at = created_at - interval '29 s'")
    assert await refund_process.resume_stuck(ended) == 1
    assert (await refund_process.drive(customer, other.id)).state is RefundState.SUCCEEDED
    assert await check(customer) == []


async def test_the_same_id_is_the_same_refund(customer: Deps, gateway: ScriptedGateway) -> None:
    await factories.product(customer, "MUG", price=1000, stock=5)
    placed = await factories.placed_order(customer, MUG=1)
    mine = new_id()
    done = await asyncio.gather(
        *(refunded(customer, placed, amount=700, refund_id=mine) for _ in range(16))
    )
    assert {each.id for each in done} == {mine}
    assert sum(gateway.charges.values()) == placed.total_amount - 700
    with pytest.raises(InvalidInput):
        await start(customer, placed, amount=600, refund_id=mine)
    other = await factories.placed_order(customer, MUG=1)
    with pytest.raises(InvalidInput):
        await start(customer, other, amount=700, refund_id=mine)
    assert await check(customer) == []


@pytest.mark.parametrize("fault", [Fault.TIMEOUT_BEFORE, Fault.TIMEOUT_AFTER])
async def test_an_unknown_outcome_is_asked_for_under_the_same_key(
    customer: Deps, gateway: ScriptedGateway, fault: Fault
) -> None:
    await factories.product(customer, "MUG", price=1000, stock=5)
    placed = await factories.placed_order(customer, MUG=1)
    one = await start(customer, placed, amount=700)
    gateway.script.append(fault)
    with pytest.raises(Unavailable):
        await refund_process.drive(customer, one.id)
    with pytest.raises(NotRefundable):
        await start(customer, placed, amount=placed.total_amount)
    assert await refund_process.resume_stuck(customer) == 0
    later = factories.later(customer, minutes=2)
    assert await refund_process.resume_stuck(later) == 1
    assert (await refund_process.drive(later, one.id)).state is RefundState.SUCCEEDED
    assert sum(gateway.charges.values()) == placed.total_amount - 700
    async with customer.begin() as uow:
        keys = await uow.session.execute(
            text("SELECT key, state FROM payment_attempt WHERE kind = 'refund'")
        )
        assert [row.state for row in keys] == ["succeeded"]
    assert await check(later) == []


async def test_a_refused_refund_frees_the_money_and_can_be_tried_again(
    customer: Deps, gateway: ScriptedGateway
) -> None:
    await factories.product(customer, "MUG", price=1000, stock=5)
    placed = await factories.placed_order(customer, MUG=1)
    gateway.script.append(Fault.DECLINE)
    failed = await refunded(customer, placed, amount=700)
    assert failed.state is RefundState.FAILED
    assert await status(customer, placed) == "captured"
    async with customer.begin() as uow:
        again = await refund.reopen(uow, failed.id)
    done = await refund_process.drive(customer, again.id)
    assert done.state is RefundState.SUCCEEDED
    assert sum(gateway.charges.values()) == placed.total_amount - 700
    async with customer.begin() as uow:
        rows = await uow.session.execute(
            text("SELECT number, state FROM payment_attempt WHERE kind = 'refund' ORDER BY number")
        )
        assert [tuple(row) for row in rows] == [(1, "failed"), (2, "succeeded")]
    assert await check(customer) == []


async def paid_twice(deps: Deps) -> OrderView:
    """An order that a second card brought 500 for, too."""
    await factories.product(deps, "MUG", price=1000, stock=5)
    placed = await factories.placed_order(deps, MUG=1)
    async with deps.begin() as uow:
        of = await uow.session.get_one(Order, placed.id)
        more = await payment.add_tender(uow, of, "scripted", "tok_visa", 500)
    await sale.collect(deps, PaymentId(more.id))
    return placed


@pytest.mark.parametrize("fault", [Fault.TIMEOUT_BEFORE, Fault.PENDING])
async def test_a_part_without_an_answer_does_not_keep_the_next_from_being_paid(
    customer: Deps, gateway: ScriptedGateway, fault: Fault
) -> None:
    placed = await paid_twice(customer)
    one = await start(customer, placed, amount=placed.total_amount)
    gateway.script.append(fault)
    with pytest.raises(Unavailable):
        await refund_process.drive(customer, one.id)
    async with customer.begin() as uow:
        parts = await refund_plan.parts_of(uow, one.id)
    assert [(part.amount, part.state) for part in parts] == [
        (500, RefundState.PENDING),
        (placed.total_amount - 500, RefundState.SUCCEEDED),
    ]
    gateway.decide()
    calls = gateway.calls
    assert (await refund_process.drive(customer, one.id)).state is RefundState.SUCCEEDED
    assert gateway.calls - calls <= 1, "what succeeded is not asked for again"
    assert sorted(gateway.charges.values()) == [0, 500]


async def test_what_failed_of_a_refund_is_tried_again_and_only_that(
    customer: Deps, gateway: ScriptedGateway
) -> None:
    placed = await paid_twice(customer)
    gateway.script.extend([None, Fault.DECLINE])
    failed = await refunded(customer, placed, amount=placed.total_amount)
    assert failed.state is RefundState.FAILED
    assert sorted(gateway.charges.values()) == [0, placed.total_amount]
    async with customer.begin() as uow:
        again = await refund.reopen(uow, failed.id)
        assert (again.state, again.finished_at) == (RefundState.PENDING, None)
        parts = await refund_plan.parts_of(uow, failed.id)
        assert [(part.state, part.attempt_number) for part in parts] == [
            (RefundState.SUCCEEDED, 1),
            (RefundState.PENDING, 2),
        ]
    done = await refund_process.drive(customer, failed.id)
    assert done.state is RefundState.SUCCEEDED
    assert sorted(gateway.charges.values()) == [0, 500]
    async with customer.begin() as uow:
        assert (await refund.reopen(uow, failed.id)).state is RefundState.SUCCEEDED


async def test_a_refused_refund_of_everything_can_be_tried_again(
    customer: Deps, gateway: ScriptedGateway
) -> None:
    await factories.product(customer, "MUG", price=1000, stock=5)
    placed = await factories.placed_order(customer, MUG=1)
    gateway.script.append(Fault.DECLINE)
    failed = await refunded(customer, placed)
    async with customer.begin() as uow:
        await refund.reopen(uow, failed.id)
    assert (await refund_process.drive(customer, failed.id)).state is RefundState.SUCCEEDED
    assert set(gateway.charges.values()) == {0}


async def test_what_was_rejected_stays_so(customer: Deps, merchant: Deps) -> None:
    await factories.product(customer, "MUG", price=1000, stock=5)
    placed = await factories.placed_order(customer, MUG=1)
    waiting = await start(customer, placed, amount=701, second_person_above=700)
    free = await start(customer, placed, amount=700, second_person_above=700)
    assert (waiting.state, free.state) == (RefundState.AWAITING_APPROVAL, RefundState.PENDING)
    async with merchant.begin() as uow:
        with pytest.raises(Conflict):
            await refund.reopen(uow, waiting.id)
        for _ in range(2):
            rejected = await refund.decide(uow, waiting.id, approves=False)
            assert (rejected.state, rejected.finished_at) == (RefundState.REJECTED, uow.now)
            assert rejected.decided_by == merchant.actor.user_id
        with pytest.raises(Conflict):
            await refund.decide(uow, waiting.id, approves=True)
        with pytest.raises(Conflict):
            await refund.decide(uow, free.id, approves=False)
        assert (await refund.decide(uow, free.id, approves=True)).state is RefundState.PENDING
        with pytest.raises(Conflict):
            await refund.reopen(uow, waiting.id)
        (part,) = await refund_plan.parts_of(uow, waiting.id)
        assert part.state is RefundState.REJECTED
    calls = "SELECT state || ' ' || detail FROM payment_attempt WHERE amount = 701"
    assert await customer.hot.fetchval(calls) == "failed rejected"
    assert await check(customer) == []


@pytest.mark.parametrize(
    ("days", "seconds", "is_within"), [(0, 0, True), (30, 0, True), (30, 1, False)]
)
def test_the_window_begins_when_the_order_is_placed(
    settings: Settings, days: int, seconds: int, is_within: bool
) -> None:
    settings = settings.model_copy(update={"refund_window_days": 30})
    of = factories.unsaved_order()
    now = of.created_at + timedelta(days=days, seconds=seconds)
    assert not refund.is_within_window(settings, of, now)
    of.placed_at = of.created_at
    assert refund.is_within_window(settings, of, now) is is_within


@pytest.mark.parametrize("amount", [4_999, 5_000, 5_001])
def test_more_than_the_limit_needs_an_approver(settings: Settings, amount: int) -> None:
    settings = settings.model_copy(update={"refund_approval_amount": 5_000})
    assert refund.approver_needed(settings, amount) is (amount > 5_000)


async def test_all_that_is_left_is_asked_for_if_anything_is(customer: Deps) -> None:
    await factories.product(customer, "MUG", price=1000, stock=5)
    placed = await factories.placed_order(customer, MUG=1)
    async with customer.begin() as uow:
        of = await uow.session.get_one(Order, placed.id)
        await payment.add_tender(uow, of, "scripted", "tok_visa", 500)
        rest = await refund.request_rest(uow, of, "the order was cancelled")
        assert rest is not None
        assert rest.amount == placed.total_amount
        assert await refund.request_rest(uow, of, "again") is None


async def test_a_failed_refund_finds_its_money_gone(
    customer: Deps, gateway: ScriptedGateway
) -> None:
    await factories.product(customer, "MUG", price=1000, stock=5)
    placed = await factories.placed_order(customer, MUG=1)
    gateway.script.append(Fault.DECLINE)
    failed = await refunded(customer, placed, amount=700)
    await refunded(customer, placed)
    with pytest.raises(NotRefundable):
        async with customer.begin() as uow:
            await refund.reopen(uow, failed.id)
    assert sum(gateway.charges.values()) == 0
    assert await check(customer) == []


async def test_store_credit_instead_of_the_card(customer: Deps, gateway: ScriptedGateway) -> None:
    await factories.product(customer, "MUG", price=1000, stock=5)
    placed = await factories.placed_order(customer, MUG=1)
    done = await asyncio.gather(
        *(refunded(customer, placed, amount=100, to="store_credit") for _ in range(4))
    )
    assert {each.state for each in done} == {RefundState.SUCCEEDED}
    assert sum(gateway.charges.values()) == placed.total_amount
    async with customer.begin() as uow:
        mine = await credit.balance(uow)
    assert (mine.available_amount, len(mine.accounts)) == (400, 1)
    assert (await balances(customer))["store_credit_liability"] == -400
    with pytest.raises(NotRefundable):
        await start(customer, placed, amount=placed.total_amount - 399)
    assert await check(customer) == []


async def test_a_guest_has_no_store_credit(guest: Deps) -> None:
    await factories.product(guest, "MUG", price=1000, stock=5)
    placed = await factories.placed_order(guest, MUG=1)
    with pytest.raises(InvalidInput):
        await start(guest, placed, amount=100, to="store_credit")


async def test_a_waiting_refund_reserves_and_its_rejection_frees(
    customer: Deps, merchant: Deps, gateway: ScriptedGateway
) -> None:
    await factories.product(customer, "MUG", price=1000, stock=5)
    placed = await factories.placed_order(customer, MUG=1)
    waiting = await start(customer, placed, second_person_above=0)
    assert (await refund_process.drive(customer, waiting.id)).state is RefundState.AWAITING_APPROVAL
    with pytest.raises(NotRefundable):
        await start(customer, placed, amount=1)
    async with merchant.begin() as uow:
        await refund.decide(uow, waiting.id, approves=False)
    approved = await start(customer, placed, amount=100, second_person_above=0)
    async with merchant.begin() as uow:
        await refund.decide(uow, approved.id, approves=True)
    assert (await refund_process.drive(customer, approved.id)).state is RefundState.SUCCEEDED
    assert sum(gateway.charges.values()) == placed.total_amount - 100
    assert await check(customer) == []


async def test_an_adjustment_leaves_revenue_alone(customer: Deps) -> None:
    await factories.product(customer, "MUG", price=1000, stock=5)
    placed = await factories.placed_order(customer, MUG=1)
    async with customer.begin() as uow:
        of = await uow.session.get_one(Order, placed.id)
        breakdown = await refund_plan.share(
            uow,
            of,
            await payment.tenders(uow, of.id),
            amount=200,
            lines=None,
            kind=RefundKind.ADJUSTMENT,
        )
    assert (breakdown.adjustment_amount, breakdown.goods_amount) == (200, 0)


async def test_the_timeline_tells(customer: Deps) -> None:
    await factories.product(customer, "MUG", price=1000, stock=5)
    placed = await factories.placed_order(customer, MUG=1)
    await refunded(customer, placed, amount=700)
    async with customer.begin() as uow:
        told = [entry.summary for entry in await order.timeline(uow, placed.number)]
    assert told[-3:] == [
        "A refund of EUR 7.00 was requested: it broke.",
        "EUR 7.00 was refunded.",
        "The refund of EUR 7.00 is complete.",
    ]


async def test_one_mail_says_where_the_money_went(customer: Deps) -> None:
    await factories.product(customer, "MUG", price=1000, stock=5)
    placed = await factories.placed_order(customer, MUG=2)
    done = await refunded(customer, placed, lines={"MUG": 1})
    for _ in range(2):
        async with customer.begin() as uow:
            await refund_view.queue_mail(uow, done.id)
    async with customer.begin() as uow:
        rows = await uow.session.execute(text("SELECT recipient, subject, body FROM notification"))
        (mail,) = rows.all()
    assert (mail.recipient, mail.subject) == (
        "ada@example.com",
        f"Refund for your order {placed.number}",
    )
    assert "1 x Stoneware mug" in mail.body
    assert "EUR 10.00 back to the way you paid" in mail.body
