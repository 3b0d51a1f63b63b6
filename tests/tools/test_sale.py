"""Sales that do not go straight: what comes next in every state, one more tender, and undoing."""

import asyncio
from dataclasses import replace
from datetime import timedelta

import pytest
from sqlmodel import col, select

from db.models.order import Order, OrderStatus, PaymentStatus
from db.models.payment import Payment, PaymentAttempt, PaymentState
from db.types import Money, OrderId, PaymentId
from deps.core import Deps
from deps.gateway import Gateway, Outcome, OutcomeStatus
from deps.scripted import Fault, ScriptedGateway
from tests import factories
from tests.factories import unsaved_tender as tender
from tools import checkout, order, payment, sale
from tools.errors import OutOfStock, PaymentDeclined, Unavailable
from tools.invariant import check
from tools.order import OrderView
from tools.sale import Step

State = PaymentState


def condemned(state: PaymentState, captured: int = 0, refunded: int = 0) -> Payment:
    return tender(state, captured, refunded, "no")


@pytest.mark.parametrize(
    ("status", "is_later", "tenders", "step", "whose"),
    [
        (PaymentStatus.PENDING, False, [tender(State.CREATED)], Step.AUTHORIZE, 0),
        (PaymentStatus.PENDING, False, [tender(State.UNKNOWN)], Step.AUTHORIZE, 0),
        (
            PaymentStatus.REQUIRES_ACTION,
            False,
            [tender(State.REQUIRES_ACTION)],
            Step.AUTHORIZE,
            0,
        ),
        (
            PaymentStatus.PENDING,
            False,
            [tender(State.AUTHORIZED), tender(State.CREATED)],
            Step.AUTHORIZE,
            1,
        ),
        (PaymentStatus.PENDING, False, [tender(State.AUTHORIZED)], Step.CONFIRM, None),
        (PaymentStatus.REQUIRES_ACTION, False, [tender(State.AUTHORIZED)], Step.CONFIRM, None),
        (PaymentStatus.PENDING, True, [tender(State.AUTHORIZED)], Step.CONFIRM, None),
        (PaymentStatus.AUTHORIZED, False, [tender(State.AUTHORIZED)], Step.CAPTURE, 0),
        (
            PaymentStatus.AUTHORIZED,
            False,
            [tender(State.CAPTURED, 100), tender(State.AUTHORIZED)],
            Step.CAPTURE,
            1,
        ),
        (PaymentStatus.AUTHORIZED, True, [tender(State.AUTHORIZED)], Step.PLACE, None),
        (PaymentStatus.AUTHORIZED, False, [tender(State.CAPTURED, 100)], Step.PLACE, None),
        (
            PaymentStatus.PENDING,
            False,
            [condemned(State.DECLINED)],
            Step.UNDO,
            None,
        ),
        (PaymentStatus.PENDING, False, [condemned(State.AUTHORIZED)], Step.VOID, 0),
        (
            PaymentStatus.PENDING,
            False,
            [condemned(State.REQUIRES_ACTION)],
            Step.VOID,
            0,
        ),
        (
            PaymentStatus.PENDING,
            False,
            [
                tender(State.AUTHORIZED),
                tender(State.AUTHORIZED),
                condemned(State.DECLINED),
            ],
            Step.VOID,
            1,
        ),
        (
            PaymentStatus.AUTHORIZED,
            False,
            [tender(State.CAPTURED, 100), condemned(State.AUTHORIZED)],
            Step.VOID,
            1,
        ),
        (
            PaymentStatus.AUTHORIZED,
            False,
            [tender(State.CAPTURED, 100), condemned(State.VOIDED)],
            Step.GIVE_BACK,
            0,
        ),
        (
            PaymentStatus.AUTHORIZED,
            False,
            [tender(State.CAPTURED, 100, 100), condemned(State.VOIDED)],
            Step.UNDO,
            None,
        ),
        (PaymentStatus.PENDING, False, [condemned(State.EXPIRED)], Step.UNDO, None),
    ],
)
def test_what_comes_next_is_read_from_the_rows(
    status: PaymentStatus, is_later: bool, tenders: list[Payment], step: Step, whose: int | None
) -> None:
    found = factories.unsaved_order(payment_status=status, captures_later=is_later)
    expected = None if whose is None else tenders[whose]
    assert sale.next_step(found, tenders) == (step, expected)
    found.status = OrderStatus.PLACED
    assert sale.next_step(found, tenders) == (Step.DONE, None)


@pytest.fixture
async def placed(customer: Deps) -> OrderView:
    await factories.product(customer, "MUG", price=1_000, stock=9)
    return await factories.placed_order(customer, MUG=1)


async def one_more(deps: Deps, placed: OrderView, token: str = "tok_visa") -> PaymentId:
    async with deps.begin() as uow:
        of = await uow.session.get_one(Order, placed.id)
        return PaymentId((await payment.add_tender(uow, of, "scripted", token, 500)).id)


async def states(deps: Deps, payment_id: PaymentId) -> tuple[str, str, list[tuple[str, str]]]:
    """The state of a tender, what its order says, and what became of its calls."""
    async with deps.begin() as uow:
        tender = await uow.session.get_one(Payment, payment_id)
        of = await uow.session.get_one(Order, tender.order_id)
        query = select(PaymentAttempt).where(PaymentAttempt.payment_id == payment_id)
        calls = await uow.session.exec(
            query.order_by(col(PaymentAttempt.started_at), col(PaymentAttempt.id))
        )
        told = [(call.kind.value, call.state.value) for call in calls]
        return tender.state, of.payment_status, told


async def test_one_more_tender_is_charged_once(
    customer: Deps, placed: OrderView, gateway: ScriptedGateway
) -> None:
    more = await one_more(customer, placed)
    for _ in range(2):
        await sale.collect(customer, more)
    assert sum(gateway.charges.values()) == placed.total_amount + 500
    expected = [("authorize", "succeeded"), ("capture", "succeeded")]
    assert await states(customer, more) == ("captured", "captured", expected)


@pytest.mark.parametrize("calls_before", [0, 1])
@pytest.mark.parametrize("fault", [Fault.TIMEOUT_BEFORE, Fault.TIMEOUT_AFTER, Fault.PENDING])
async def test_one_more_tender_is_waited_for(
    customer: Deps, placed: OrderView, gateway: ScriptedGateway, fault: Fault, calls_before: int
) -> None:
    more = await one_more(customer, placed)
    gateway.script.extend([*[None] * calls_before, fault])
    with pytest.raises(Unavailable):
        await sale.collect(customer, more)
    gateway.decide()
    await sale.collect(customer, more)
    assert sum(gateway.charges.values()) == placed.total_amount + 500


@pytest.mark.parametrize(
    ("token", "script", "code", "state"),
    [
        ("tok_declined", [], "insufficient_funds", "declined"),
        ("tok_3ds", [], "authentication_required", "voided"),
        ("tok_visa", [Fault.WRONG_AMOUNT], "amount_mismatch", "voided"),
        ("tok_visa", [None, Fault.DECLINE], "generic_decline", "voided"),
        ("tok_visa", [None, Fault.WRONG_AMOUNT], "amount_mismatch", "captured"),
    ],
)
async def test_one_more_tender_that_is_refused_leaves_the_order_paid_and_keeps_nothing(
    customer: Deps,
    placed: OrderView,
    gateway: ScriptedGateway,
    token: str,
    script: list[Fault | None],
    code: str,
    state: str,
) -> None:
    more = await one_more(customer, placed, token)
    gateway.script.extend(script)
    for _ in range(2):
        with pytest.raises(PaymentDeclined) as refused:
            await sale.collect(customer, more)
        assert refused.value.extra["decline_code"] == code
    assert sum(gateway.charges.values()) == placed.total_amount
    assert (await states(customer, more))[:2] == (state, "captured")


async def test_one_more_tender_that_cannot_be_released_is_asked_for_again(
    customer: Deps, placed: OrderView, gateway: ScriptedGateway
) -> None:
    more = await one_more(customer, placed)
    gateway.script.extend([Fault.WRONG_AMOUNT, Fault.DECLINE])
    for _ in range(2):
        with pytest.raises(Unavailable, match="refused to release"):
            await sale.collect(customer, more)
    assert (await states(customer, more))[0] == "authorized"
    with pytest.raises(PaymentDeclined):
        await sale.collect(factories.later(customer, hours=1), more)
    expected = [("authorize", "succeeded"), ("void", "failed"), ("void", "succeeded")]
    assert await states(customer, more) == ("voided", "captured", expected)


async def left(deps: Deps, gateway: ScriptedGateway, *script: Fault | None) -> OrderId:
    """Begin a sale that stops where the script says; return its order."""
    await factories.product(deps, "MUG", price=1_000, stock=9)
    filled = await factories.filled_cart(deps, MUG=1)
    gateway.script.extend(script)
    with pytest.raises(Unavailable):
        await checkout.complete(deps, filled.id, payment_method="tok_visa")
    return OrderId(await deps.hot.fetchval("SELECT id FROM orders"))


@pytest.mark.parametrize("script", [[Fault.TIMEOUT_BEFORE], [None, Fault.TIMEOUT_BEFORE]])
async def test_one_at_a_time_drives_and_the_others_wait_for_its_answer(
    customer: Deps, gateway: ScriptedGateway, script: list[Fault | None]
) -> None:
    order_id = await left(customer, gateway, *script)
    unknown = "SELECT kind FROM payment_attempt WHERE state = 'unknown' AND detail = 'timeout'"
    assert await customer.hot.fetchval(unknown) == ("authorize", "capture")[len(script) - 1]
    gateway.script.append(Fault.SLOW)
    views = await asyncio.gather(*(sale.drive(customer, order_id) for _ in range(8)))
    assert {view.status for view in views} == {OrderStatus.PLACED}
    assert gateway.calls == 3, "one timed out, and an authorisation and a capture were answered"
    calls = await customer.hot.fetch("SELECT kind || ' ' || state FROM payment_attempt ORDER BY id")
    assert [call[0] for call in calls] == ["authorize succeeded", "capture succeeded"]
    async with customer.begin() as uow:
        told = [event.type for event in await order.timeline(uow, views[0].number)]
    assert told[-3:] == ["PaymentAuthorized", "PaymentCaptured", "OrderPlaced"]
    assert await customer.hot.fetchval("SELECT status FROM cart") == "completed"
    assert await check(customer) == []


async def test_a_driver_that_takes_too_long_is_not_waited_for(
    customer: Deps, gateway: ScriptedGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    order_id = await left(customer, gateway, Fault.TIMEOUT_BEFORE)
    await customer.hot.execute("UPDATE orders SET lease_until = $1", customer.clock() + sale.LEASE)
    monkeypatch.setattr(sale, "WAITS_MAX", 2)
    calls = gateway.calls
    with pytest.raises(Unavailable, match="still being processed"):
        await sale.drive(customer, order_id)
    assert gateway.calls == calls
    await sale.end_lease(customer, order_id)
    assert (await sale.drive(customer, order_id)).status == "placed"


async def test_a_lease_ends_by_itself_and_is_of_one_order(
    customer: Deps, gateway: ScriptedGateway
) -> None:
    order_id = await left(customer, gateway, Fault.TIMEOUT_BEFORE)
    await factories.placed_order(customer, MUG=1)
    until = customer.clock() - timedelta(seconds=1)
    await customer.hot.execute("UPDATE orders SET lease_until = $1", until)
    assert (await sale.drive(customer, order_id)).status == "placed"
    leases = await customer.hot.fetch("SELECT lease_until FROM orders ORDER BY number")
    assert [lease[0] for lease in leases] == [None, until]


async def test_a_provider_that_is_gone_leaves_the_sale_for_its_return(
    customer: Deps, gateway: ScriptedGateway
) -> None:
    order_id = await left(customer, gateway, Fault.TIMEOUT_AFTER)
    with pytest.raises(Unavailable, match="scripted is not set up"):
        await sale.drive(replace(customer, gateways={}), order_id)
    assert (await sale.drive(customer, order_id)).status == "placed"


async def test_only_sales_that_stopped_a_while_ago_are_resumed(
    customer: Deps, gateway: ScriptedGateway
) -> None:
    order_id = await left(customer, gateway, Fault.TIMEOUT_BEFORE)
    soon = factories.later(customer, seconds=59)
    assert await sale.resume_stuck(soon) == 0
    due = factories.later(customer, seconds=60)
    await customer.hot.execute("UPDATE orders SET lease_until = $1", due.clock())
    assert await sale.resume_stuck(due) == 0, "another process is at it"
    await sale.end_lease(customer, order_id)
    assert await sale.resume_stuck(due) == 1
    assert await sale.resume_stuck(due) == 0


async def test_a_condemned_sale_is_undone_and_condemned_once(
    customer: Deps, gateway: ScriptedGateway
) -> None:
    order_id = await left(customer, gateway, None, Fault.TIMEOUT_BEFORE)
    for code in ("first", "second"):
        async with customer.begin() as uow:
            await sale.condemn(uow, order_id, code)
    for _ in range(2):
        with pytest.raises(PaymentDeclined) as refused:
            await sale.drive(customer, order_id)
        assert refused.value.extra["decline_code"] == "first"
    async with customer.begin() as uow:
        of = await uow.session.get_one(Order, order_id)
        told = [event.type for event in await order.timeline(uow, of.number or 0)]
    assert (of.status, of.payment_status) == ("cancelled", "voided")
    assert of.cancelled_at == customer.clock()
    assert told[-3:] == ["PaymentVoided", "StockReleased", "OrderCancelled"]
    async with customer.begin() as uow:
        why = (await order.timeline(uow, of.number or 0))[-1].summary
    assert why == "Order was cancelled: first."
    voided = "SELECT amount FROM payment_attempt WHERE kind = 'void'"
    assert await customer.hot.fetchval(voided) == 0
    assert await check(customer) == []


async def test_a_sale_that_one_tender_condemned_keeps_its_reason(
    customer: Deps, gateway: ScriptedGateway
) -> None:
    order_id = await left(customer, gateway, None, Fault.TIMEOUT_BEFORE)
    async with customer.begin() as uow:
        of = await uow.session.get_one(Order, order_id)
        await payment.add_tender(uow, of, gateway.name, "tok_visa", 1)
        tenders = await payment.tenders(uow, order_id)
        tenders[0].decline_code = "first"
        await sale.condemn(uow, order_id, "second")
        assert [tender.decline_code for tender in tenders] == ["first", None]


async def test_one_tender_that_is_declined_ends_the_sale_of_all(
    customer: Deps, gateway: ScriptedGateway
) -> None:
    order_id = await left(customer, gateway, Fault.TIMEOUT_BEFORE)
    async with customer.begin() as uow:
        of = await uow.session.get_one(Order, order_id)
        await payment.add_tender(uow, of, gateway.name, "tok_declined", 1)
    for _ in range(2):
        with pytest.raises(PaymentDeclined) as refused:
            await sale.drive(customer, order_id)
        assert refused.value.extra["decline_code"] == "insufficient_funds"
    async with customer.begin() as uow:
        of = await uow.session.get_one(Order, order_id)
        tenders = await payment.read_tenders(uow, order_id)
        why = (await order.timeline(uow, of.number or 0))[-1].summary
    assert (of.status, of.payment_status) == ("cancelled", "failed")
    assert [tender.state.value for tender in tenders] == ["voided", "declined"]
    assert why == "Order was cancelled: the payment was declined."
    assert gateway.charges == {}


async def test_a_sale_that_was_condemned_for_want_of_units_says_so(
    customer: Deps, gateway: ScriptedGateway
) -> None:
    order_id = await left(customer, gateway, Fault.TIMEOUT_BEFORE)
    async with customer.begin() as uow:
        await sale.condemn(uow, order_id, "out_of_stock")
    for _ in range(2):
        with pytest.raises(OutOfStock):
            await sale.drive(customer, order_id)


async def test_an_order_that_was_cancelled_later_was_bought_all_the_same(
    customer: Deps, placed: OrderView
) -> None:
    await checkout.cancel(customer, placed.number, "too late")
    assert (await sale.drive(customer, OrderId(placed.id))).status == "cancelled"


async def test_a_placed_sale_is_not_condemned(customer: Deps, placed: OrderView) -> None:
    async with customer.begin() as uow:
        await sale.condemn(uow, OrderId(placed.id), "too_late")
        (tender,) = await payment.tenders(uow, OrderId(placed.id))
    assert tender.decline_code is None


async def test_a_decline_is_told_and_its_call_has_failed(
    customer: Deps, gateway: ScriptedGateway
) -> None:
    await factories.product(customer, "MUG", price=1_000, stock=9)
    filled = await factories.filled_cart(customer, MUG=1)
    with pytest.raises(PaymentDeclined) as refused:
        await checkout.complete(customer, filled.id, payment_method="tok_declined")
    assert refused.value.extra["decline_code"] == "insufficient_funds"
    calls = "SELECT kind || ' ' || state || ' ' || detail FROM payment_attempt"
    assert await customer.hot.fetchval(calls) == "authorize failed insufficient_funds"
    number = await customer.hot.fetchval("SELECT number FROM orders")
    async with customer.begin() as uow:
        told = {event.type: event.summary for event in await order.timeline(uow, number)}
        of = await order.get(uow, number)
    assert told["PaymentFailed"] == "Payment failed: insufficient_funds."
    assert told["OrderCancelled"] == "Order was cancelled: the payment was declined."
    assert (of.status, of.payment_status) == ("cancelled", "failed")


class WordyGateway(ScriptedGateway):
    """A provider that names the amount that it declines to capture, as PayPal does."""

    async def capture(
        self, key: str, reference: str, amount: Money, *, is_final: bool = True
    ) -> Outcome:
        code, asked = "generic_decline", amount.amount
        return Outcome(OutcomeStatus.DECLINED, reference, asked, amount.currency, decline_code=code)


async def test_a_declined_capture_is_no_money_whatever_amount_it_names(customer: Deps) -> None:
    wordy = WordyGateway()
    gateways: dict[str, Gateway] = {**customer.gateways, wordy.name: wordy}
    buyer = replace(customer, gateways=gateways)
    await factories.product(buyer, "MUG", price=1_000, stock=9)
    filled = await factories.filled_cart(buyer, MUG=1)
    with pytest.raises(PaymentDeclined) as refused:
        await checkout.complete(buyer, filled.id, payment_method="tok_visa")
    assert refused.value.extra["decline_code"] == "generic_decline"
    calls = await buyer.hot.fetch("SELECT kind || ' ' || state FROM payment_attempt ORDER BY id")
    assert [call[0] for call in calls] == [
        "authorize succeeded",
        "capture failed",
        "void succeeded",
    ]
    number = await buyer.hot.fetchval("SELECT number FROM orders")
    async with buyer.begin() as uow:
        told = [event.type for event in await order.timeline(uow, number)]
        of = await order.get(uow, number)
    assert told[-4:] == ["PaymentFailed", "PaymentVoided", "StockReleased", "OrderCancelled"]
    assert (of.status, of.payment_status) == ("cancelled", "voided")
    assert await buyer.hot.fetchval("SELECT count(*) FROM ledger_entry") == 0
    assert await check(buyer) == []


async def test_a_sale_that_no_shopper_keeps_waiting_is_finished_however_late(
    customer: Deps, gateway: ScriptedGateway
) -> None:
    order_id = await left(customer, gateway, Fault.TIMEOUT_BEFORE)
    late = factories.later(customer, hours=2)
    assert await sale.resume_stuck(late) == 1
    assert (await sale.drive(late, order_id)).status == "placed"
