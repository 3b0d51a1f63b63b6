"""Sales that do not go straight: what comes next in every state, one more tender, and undoing."""

import pytest
from sqlmodel import col, select

from db.models.order import Order, OrderStatus, PaymentStatus
from db.models.payment import Payment, PaymentAttempt, PaymentState
from db.types import PaymentId
from deps.core import Deps
from deps.scripted import Fault, ScriptedGateway
from tests import factories
from tests.factories import unsaved_tender as tender
from tools import payment, sale
from tools.errors import PaymentDeclined, Unavailable
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
