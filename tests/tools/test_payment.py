"""What an order's tenders say about its payment, in every combination that there is."""

from uuid import UUID

import pytest
from sqlmodel import func, select

from db.models.order import Order, OrderStatus, PaymentStatus
from db.models.payment import (
    AttemptKind,
    AttemptState,
    Payment,
    PaymentAttempt,
    PaymentState,
)
from db.types import OrderId, PaymentId, new_id
from deps.core import Deps
from tests import factories
from tests.factories import unsaved_tender as tender
from tools import payment

PLACED, CANCELLED = OrderStatus.PLACED, OrderStatus.CANCELLED
OPEN, CLOSED = PaymentState.AUTHORIZED, PaymentState.CAPTURED
GONE, LAPSED = PaymentState.VOIDED, PaymentState.EXPIRED


@pytest.mark.parametrize(
    ("order_status", "total", "tenders", "says"),
    [
        (PLACED, 100, [tender(OPEN)], PaymentStatus.AUTHORIZED),
        (PLACED, 100, [tender(GONE)], PaymentStatus.VOIDED),
        (PLACED, 100, [tender(LAPSED), tender(OPEN)], PaymentStatus.AUTHORIZED),
        (PLACED, 100, [tender(OPEN, 40)], PaymentStatus.PARTIALLY_CAPTURED),
        (PLACED, 200, [tender(CLOSED, 100), tender(OPEN)], PaymentStatus.PARTIALLY_CAPTURED),
        (PLACED, 100, [tender(CLOSED, 100)], PaymentStatus.CAPTURED),
        (PLACED, 100, [tender(CLOSED, 100, 100)], PaymentStatus.REFUNDED),
        (PLACED, 100, [tender(CLOSED, 100, 1)], PaymentStatus.PARTIALLY_REFUNDED),
        (PLACED, 99, [tender(CLOSED, 100, 1)], PaymentStatus.CAPTURED),
        (PLACED, 200, [tender(CLOSED, 100, 40), tender(OPEN)], PaymentStatus.PARTIALLY_REFUNDED),
        (PLACED, 60, [tender(CLOSED, 100, 40), tender(OPEN)], PaymentStatus.PARTIALLY_CAPTURED),
        (
            PLACED,
            200,
            [tender(CLOSED, 100, 100), tender(CLOSED, 100)],
            PaymentStatus.PARTIALLY_REFUNDED,
        ),
        (CANCELLED, 100, [tender(OPEN)], PaymentStatus.AUTHORIZED),
        (CANCELLED, 100, [tender(GONE)], PaymentStatus.VOIDED),
        (CANCELLED, 100, [tender(CLOSED, 100)], PaymentStatus.REFUND_PENDING),
        (CANCELLED, 100, [tender(CLOSED, 100, 99)], PaymentStatus.REFUND_PENDING),
        (CANCELLED, 100, [tender(CLOSED, 100, 100)], PaymentStatus.REFUNDED),
        (CANCELLED, 200, [tender(CLOSED, 100, 100), tender(OPEN)], PaymentStatus.REFUNDED),
    ],
)
def test_the_status_of_an_order_is_that_of_its_tenders(
    order_status: OrderStatus, total: int, tenders: list[Payment], says: PaymentStatus
) -> None:
    of = factories.unsaved_order(total, status=order_status)
    assert payment.status_of(of, tenders) == says


def test_every_thing_that_happens_to_a_row_has_a_transaction_of_its_own() -> None:
    row = UUID(int=2**128 - 1)
    names = {payment.derived(row, number) for number in range(5)}
    assert len(names) == 5
    assert payment.derived(row, 0) == row
    assert payment.derived(UUID(int=0), 1) == UUID(int=1)


async def test_tenders_are_listed_and_charged_in_the_order_they_were_added(
    customer: Deps,
) -> None:
    await factories.product(customer, "MUG", stock=2)
    await factories.placed_order(customer, MUG=1)  # Of whose payments nothing may be seen here.
    placed = await factories.placed_order(customer, MUG=1)
    async with customer.begin() as uow:
        of = await uow.session.get_one(Order, placed.id)
        for amount in (30, 10, 20):
            await payment.add_tender(uow, of, "scripted", "tok_visa", amount)
    async with customer.begin() as uow:
        for rows in (
            await payment.tenders(uow, OrderId(of.id)),
            await payment.read_tenders(uow, OrderId(of.id)),
        ):
            assert [row.amount for row in rows] == [placed.total_amount, 30, 10, 20]
            assert [row.position for row in rows] == [0, 1, 2, 3]
        shown = await payment.list_for_order(uow, placed.number)
    assert [row.amount for row in shown] == [placed.total_amount, 30, 10, 20]


async def test_the_latest_attempt_is_that_of_its_tender_and_kind(customer: Deps) -> None:
    await factories.product(customer, "MUG", stock=2)
    placed = await factories.placed_order(customer, MUG=1)
    async with customer.begin() as uow:
        (first,) = await payment.tenders(uow, OrderId(placed.id))
        of = await uow.session.get_one(Order, placed.id)
        other = await payment.add_tender(uow, of, "scripted", "tok_visa", 10)
        mine = PaymentId(first.id)
        assert await payment.last_attempt(uow, mine, AttemptKind.VOID) is None
        for number in (1, 2):
            await payment.start_attempt(uow, mine, AttemptKind.VOID, 0, number)
        await payment.start_attempt(uow, PaymentId(other.id), AttemptKind.VOID, 0, 3)
        await payment.start_attempt(uow, mine, AttemptKind.REFUND, 10, 4)
        key = payment.attempt_key(mine, AttemptKind.VOID, 1)
        await payment.finish_attempt(uow, key, AttemptState.FAILED, "x" * 501)
        ended = await uow.session.exec(
            select(PaymentAttempt.number, func.length(PaymentAttempt.detail)).where(
                PaymentAttempt.finished_at == uow.now, PaymentAttempt.state == AttemptState.FAILED
            )
        )
        assert [tuple(row) for row in ended] == [(1, 500)]
        last = await payment.last_attempt(uow, mine, AttemptKind.VOID)
    assert last is not None
    assert (last.payment_id, last.kind, last.number) == (first.id, AttemptKind.VOID, 2)


async def test_a_sale_is_booked_with_its_discount_its_shipping_and_its_tax(deps: Deps) -> None:
    of = factories.unsaved_order(100)
    of.discount_amount, of.shipping_amount, of.tax_amount, of.total_amount = 20, 5, 10, 95
    async with deps.begin() as uow:
        uow.session.add(of)
        await uow.session.flush()
        await payment.post_sale(uow, of)
    async with deps.begin() as uow:
        booked = {row.account: row.balance_amount for row in await payment.balances(uow)}
    assert booked == {
        "receivable": 95,
        "revenue": -80,
        "shipping_revenue": -5,
        "tax_payable": -10,
    }


async def test_every_tender_s_money_is_told_of_when_it_comes_and_when_it_goes(
    customer: Deps,
) -> None:
    await factories.product(customer, "MUG", stock=2)
    placed = await factories.placed_order(customer, MUG=1)
    async with customer.begin() as uow:
        of = await uow.session.get_one(Order, placed.id)
        more = await payment.add_tender(uow, of, "scripted", "tok_visa", 30)
        await payment.record_capture(uow, of, more, 30, transaction_id=new_id())
        await payment.record_refund(uow, of, more, 20, transaction_id=new_id())
        assert (more.state, more.captured_amount, more.refunded_amount) == (CLOSED, 30, 20)
    async with customer.begin() as uow:
        rows = await uow.fetch(
            "SELECT type, payload FROM outbox WHERE payload->>'payment_id' = $1 ORDER BY seq",
            str(more.id),
        )
    assert [(row["type"], row["payload"]["amount"]) for row in rows] == [
        ("PaymentCaptured", 30),
        ("PaymentRefunded", 20),
    ]
