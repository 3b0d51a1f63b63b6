"""The first sale: one order per cart, one charge per order, whatever fails or races."""

import asyncio
from uuid import UUID

import pytest
from sqlalchemy import text
from sqlmodel import col, select

from db.models.order import Order
from db.models.payment import AttemptKind, AttemptState, Payment, PaymentAttempt, PaymentState
from db.types import new_id
from deps.core import SYSTEM, Deps
from deps.scripted import AUTHORIZATION_DAYS, Fault, ScriptedGateway
from tests import factories
from tools import (
    cart,
    checkout,
    credit_code,
    credit_desk,
    credit_tender,
    fulfillment,
    inventory,
    order,
    payment,
    sale,
)
from tools.errors import (
    CheckoutIncomplete,
    IllegalTransition,
    InvalidInput,
    NotFound,
    OutOfStock,
    PaymentDeclined,
    TotalChanged,
    Unavailable,
)
from tools.invariant import check


async def counters(deps: Deps, sku: str = "MUG") -> tuple[int, int, int]:
    async with deps.begin() as uow:
        row = await uow.session.execute(
            text(
                "SELECT sum(on_hand), sum(reserved), sum(allocated) FROM stock_level "
                "WHERE sku = :sku"
            ),
            {"sku": sku},
        )
        on_hand, reserved, allocated = row.one()
        return on_hand, reserved, allocated


async def test_a_sale(guest: Deps, gateway: ScriptedGateway) -> None:
    await factories.product(guest, "MUG", price=1250, stock=10)
    filled = await factories.filled_cart(guest, MUG=2)
    assert filled.problems == []
    assert filled.total_amount == 2500 + 490
    placed = await checkout.complete(
        guest, filled.id, payment_method="tok_visa", expected_total_amount=2990
    )
    assert (placed.status, placed.payment_status) == ("placed", "captured")
    assert sum(gateway.charges.values()) == 2990
    assert await counters(guest) == (10, 0, 2)
    async with guest.begin() as uow:
        entries = [e.type for e in await order.timeline(uow, placed.number)]
    assert entries == [
        "OrderCreated",
        "StockReserved",
        "PaymentAuthorized",
        "PaymentCaptured",
        "OrderPlaced",
    ]
    assert await check(guest) == []


async def test_fifty_completions_make_one_order(guest: Deps, gateway: ScriptedGateway) -> None:
    await factories.product(guest, "MUG", stock=10)
    filled = await factories.filled_cart(guest, MUG=1)
    answers = await asyncio.gather(
        *(checkout.complete(guest, filled.id, payment_method="tok_visa") for _ in range(50))
    )
    assert all(answer == answers[0] for answer in answers)
    assert list(gateway.charges.values()) == [answers[0].total_amount]
    assert await counters(guest) == (10, 0, 1)
    assert await check(guest) == []


async def test_the_last_units_are_sold_once(deps: Deps, gateway: ScriptedGateway) -> None:
    await factories.product(deps, "MUG", stock=5)
    buyers = [factories.guest(deps, f"token-of-buyer-{n:030}") for n in range(20)]
    carts = [await factories.filled_cart(buyer, MUG=1) for buyer in buyers]
    results = await asyncio.gather(
        *(
            checkout.complete(buyer, filled.id, payment_method="tok_visa")
            for buyer, filled in zip(buyers, carts, strict=True)
        ),
        return_exceptions=True,
    )
    refused = [r for r in results if isinstance(r, BaseException)]
    assert len(refused) == 15
    assert all(isinstance(r, OutOfStock) for r in refused), refused
    assert len(gateway.charges) == 5
    assert await counters(deps) == (5, 0, 5)
    assert await check(deps) == []


async def test_baskets_in_opposite_order_do_not_deadlock(deps: Deps) -> None:
    await factories.product(deps, "AAA", stock=100, title="First")
    await factories.product(deps, "ZZZ", stock=100, title="Last")
    buyers = [factories.guest(deps, f"token-of-buyer-{n:030}") for n in range(12)]
    carts = [
        await factories.filled_cart(b, **({"AAA": 1, "ZZZ": 1} if n % 2 else {"ZZZ": 1, "AAA": 1}))
        for n, b in enumerate(buyers)
    ]
    await asyncio.gather(
        *(
            checkout.complete(b, c.id, payment_method="tok_visa")
            for b, c in zip(buyers, carts, strict=True)
        )
    )
    assert await counters(deps, "AAA") == (100, 0, 12)
    assert await check(deps) == []


async def test_a_decline_frees_the_stock_and_reopens_the_cart(
    guest: Deps, gateway: ScriptedGateway
) -> None:
    await factories.product(guest, "MUG", stock=3)
    filled = await factories.filled_cart(guest, MUG=3)
    with pytest.raises(PaymentDeclined):
        await checkout.complete(guest, filled.id, payment_method="tok_declined")
    assert await counters(guest) == (3, 0, 0)
    placed = await checkout.complete(guest, filled.id, payment_method="tok_visa")
    assert placed.status == "placed"
    assert sum(gateway.charges.values()) == placed.total_amount
    assert await check(guest) == []


@pytest.mark.parametrize("fault", [Fault.TIMEOUT_BEFORE, Fault.TIMEOUT_AFTER])
@pytest.mark.parametrize("calls_before", [0, 1])
async def test_an_unknown_outcome_is_asked_for_and_never_repeated(
    guest: Deps, gateway: ScriptedGateway, fault: Fault, calls_before: int
) -> None:
    await factories.product(guest, "MUG", stock=3)
    filled = await factories.filled_cart(guest, MUG=1)
    gateway.script.extend([None] * calls_before)
    gateway.script.append(fault)
    with pytest.raises(Unavailable):
        await checkout.complete(guest, filled.id, payment_method="tok_visa")
    later = factories.later(guest, minutes=2)
    assert await sale.resume_stuck(later) == 1
    placed = await checkout.complete(later, filled.id, payment_method="tok_visa")
    assert placed.status == "placed"
    assert list(gateway.charges.values()) == [placed.total_amount]
    assert await check(later) == []


@pytest.mark.parametrize(
    ("calls_before", "state"), [(0, PaymentState.UNKNOWN), (1, PaymentState.AUTHORIZED)]
)
async def test_what_the_provider_still_decides_on_is_waited_for(
    guest: Deps, gateway: ScriptedGateway, calls_before: int, state: PaymentState
) -> None:
    await factories.product(guest, "MUG", stock=3)
    filled = await factories.filled_cart(guest, MUG=1)
    gateway.script.extend([*[None] * calls_before, Fault.PENDING])
    for _ in range(2):
        with pytest.raises(Unavailable, match="still deciding"):
            await checkout.complete(guest, filled.id, payment_method="tok_visa")
    async with guest.begin() as uow:
        (waiting,) = await uow.session.exec(select(Payment))
        assert waiting.state is state
        assert waiting.provider_reference is not None
        assert waiting.decline_code is None
    assert await check(guest) == []
    gateway.decide()
    placed = await checkout.complete(guest, filled.id, payment_method="tok_visa")
    assert placed.status == "placed"
    assert list(gateway.charges.values()) == [placed.total_amount]
    assert await check(guest) == []


async def test_money_that_the_provider_will_not_give_back_is_in_the_books_and_asked_for_again(
    guest: Deps, gateway: ScriptedGateway
) -> None:
    await factories.product(guest, "MUG", stock=3)
    filled = await factories.filled_cart(guest, MUG=1)
    gateway.script.extend([None, Fault.WRONG_AMOUNT, Fault.DECLINE])
    for _ in range(2):
        with pytest.raises(Unavailable, match="refused to give the money back"):
            await checkout.complete(guest, filled.id, payment_method="tok_visa")
    async with guest.begin() as uow:
        query = select(PaymentAttempt).where(PaymentAttempt.kind == AttemptKind.REFUND)
        (refused,) = await uow.session.exec(query)
    assert (refused.state, refused.detail) == (AttemptState.FAILED, "generic_decline")
    assert await check(guest) == []
    assert await sale.resume_stuck(factories.later(guest, minutes=59)) == 1
    assert sum(gateway.charges.values()) > 0, "it is not asked at every sweep"
    later = factories.later(guest, minutes=60)
    assert await sale.resume_stuck(later) == 1
    assert sum(gateway.charges.values()) == 0
    async with guest.begin() as uow:
        (of,) = await uow.session.exec(select(Order))
        attempts = await uow.session.exec(query.order_by(col(PaymentAttempt.number)))
        assert [attempt.state for attempt in attempts] == [
            AttemptState.FAILED,
            AttemptState.SUCCEEDED,
        ]
    assert of.status == "cancelled"
    assert await check(later) == []


async def refused_void(guest: Deps, gateway: ScriptedGateway) -> UUID:
    """Begin a sale that has to be undone, at a provider that will not release the money."""
    gateway.clock = guest.clock
    await factories.product(guest, "MUG", stock=3)
    filled = await factories.filled_cart(guest, MUG=1)
    gateway.script.extend([Fault.WRONG_AMOUNT, Fault.DECLINE])
    for _ in range(2):
        with pytest.raises(Unavailable, match="refused to release the money"):
            await checkout.complete(guest, filled.id, payment_method="tok_visa")
    return filled.id


async def sale_of(deps: Deps) -> tuple[str, str, list[tuple[str, str]]]:
    """The states of the only order, of its only tender and of that one's voids."""
    async with deps.begin() as uow:
        (of,) = await uow.session.exec(select(Order))
        (tender,) = await uow.session.exec(select(Payment))
        query = select(PaymentAttempt).where(PaymentAttempt.kind == AttemptKind.VOID)
        voids = await uow.session.exec(query.order_by(col(PaymentAttempt.number)))
        return of.status, tender.state, [(void.state, void.detail) for void in voids]


async def test_a_void_that_the_provider_refuses_is_not_booked_and_tried_anew(
    guest: Deps, gateway: ScriptedGateway
) -> None:
    cart_id = await refused_void(guest, gateway)
    refused = ("failed", "generic_decline")
    assert await sale_of(guest) == ("pending", "authorized", [refused])
    async with guest.acting_as(SYSTEM).begin() as uow:
        (of,) = await uow.session.exec(select(Order))
        told = [event.type for event in await order.timeline(uow, of.number or 0)]
    assert told.count("PaymentFailed") == 1, "staff see it, once"
    soon = factories.later(guest, minutes=59)
    assert await sale.resume_stuck(soon) == 1
    assert await sale_of(guest) == ("pending", "authorized", [refused])
    gateway.script.append(Fault.DECLINE)
    due = factories.later(guest, minutes=60)
    assert await sale.resume_stuck(due) == 1
    assert await sale_of(guest) == ("pending", "authorized", [refused, refused])
    done = factories.later(guest, minutes=120)
    assert await sale.resume_stuck(done) == 1
    assert await sale_of(guest) == ("cancelled", "voided", [refused, refused, ("succeeded", "")])
    assert await counters(guest) == (3, 0, 0)
    assert await check(done) == []
    placed = await checkout.complete(done, cart_id, payment_method="tok_visa")
    assert list(gateway.charges.values()) == [placed.total_amount]


@pytest.mark.parametrize("fault", [Fault.TIMEOUT_BEFORE, Fault.TIMEOUT_AFTER, Fault.PENDING])
async def test_a_void_without_an_answer_is_asked_for_under_its_key_however_late(
    guest: Deps, gateway: ScriptedGateway, fault: Fault
) -> None:
    await factories.product(guest, "MUG", stock=3)
    filled = await factories.filled_cart(guest, MUG=1)
    gateway.script.extend([Fault.WRONG_AMOUNT, fault])
    with pytest.raises(Unavailable):
        await checkout.complete(guest, filled.id, payment_method="tok_visa")
    assert (await sale_of(guest))[:2] == ("pending", "authorized")
    gateway.decide()
    assert await sale.resume_stuck(factories.later(guest, hours=3)) == 1
    assert await sale_of(guest) == ("cancelled", "voided", [("succeeded", "")])
    assert await counters(guest) == (3, 0, 0)


async def test_a_void_that_is_refused_for_an_authorisation_without_an_end_is_never_moot(
    guest: Deps, gateway: ScriptedGateway
) -> None:
    await refused_void(guest, gateway)
    await guest.hot.execute("UPDATE payment SET expires_at = NULL")
    gateway.script.append(Fault.DECLINE)
    assert await sale.resume_stuck(factories.later(guest, days=400)) == 1
    assert (await sale_of(guest))[:2] == ("pending", "authorized")


async def test_a_void_that_is_refused_until_the_authorisation_lapses_is_moot(
    guest: Deps, gateway: ScriptedGateway
) -> None:
    await refused_void(guest, gateway)
    gateway.script.append(Fault.DECLINE)
    lapsed = factories.later(guest, days=AUTHORIZATION_DAYS)
    assert await sale.resume_stuck(lapsed) == 1
    assert (await sale_of(guest))[:2] == ("cancelled", "expired")
    async with guest.acting_as(SYSTEM).begin() as uow:
        (of,) = await uow.session.exec(select(Order))
        told = [event.type for event in await order.timeline(uow, of.number or 0)]
    assert told[-3:] == ["PaymentExpired", "StockReleased", "OrderCancelled"]
    assert await counters(guest) == (3, 0, 0)
    assert await check(lapsed) == []


@pytest.mark.parametrize("calls_before", [0, 1])
async def test_a_wrong_amount_goes_back(
    guest: Deps, gateway: ScriptedGateway, calls_before: int
) -> None:
    await factories.product(guest, "MUG", stock=3)
    filled = await factories.filled_cart(guest, MUG=1)
    gateway.script.extend([None] * calls_before)
    gateway.script.append(Fault.WRONG_AMOUNT)
    with pytest.raises(PaymentDeclined):
        await checkout.complete(guest, filled.id, payment_method="tok_visa")
    assert sum(gateway.charges.values()) == 0
    assert await counters(guest) == (3, 0, 0)
    assert await check(guest) == []


async def test_an_expired_hold_is_taken_anew_or_refused_before_capture(
    deps: Deps, gateway: ScriptedGateway
) -> None:
    await factories.product(deps, "MUG", stock=1)
    slow = factories.guest(deps, "token-of-the-slow-buyer-0123456789")
    filled = await factories.filled_cart(slow, MUG=1)
    gateway.script.append(Fault.TIMEOUT_AFTER)
    with pytest.raises(Unavailable):
        await checkout.complete(slow, filled.id, payment_method="tok_visa")
    later = factories.later(deps, minutes=20)
    assert await inventory.expire_due(later) == 1
    assert await counters(deps) == (1, 0, 0)
    await factories.placed_order(factories.later(factories.guest(deps), minutes=20), MUG=1)
    await sale.resume_stuck(later)
    assert len(gateway.charges) == 1
    assert await counters(deps) == (1, 0, 1)
    assert await check(later) == []


async def test_what_is_missing_is_named_and_nothing_is_held(guest: Deps) -> None:
    await factories.product(guest, "MUG", stock=3)
    async with guest.begin() as uow:
        opened = await cart.create(uow)
        await cart.add(uow, opened.id, "MUG")
    with pytest.raises(CheckoutIncomplete) as refused:
        await checkout.complete(guest, opened.id, payment_method="tok_visa")
    async with guest.begin() as uow:
        with pytest.raises(CheckoutIncomplete):
            await checkout.preview_buy(uow)
    fields = {problem["field"] for problem in refused.value.extra["problems"]}
    assert fields == {"email", "shipping_address", "shipping_method"}
    assert await counters(guest) == (3, 0, 0)


async def test_what_ran_out_is_named_unless_more_is_missing(guest: Deps) -> None:
    await factories.product(guest, "MUG", stock=3)
    await factories.product(guest, "TEA", title="Tea", stock=1)
    filled = await factories.filled_cart(guest, MUG=2, TEA=4)
    with pytest.raises(OutOfStock) as refused:
        await checkout.complete(guest, filled.id, payment_method="tok_visa")
    assert (refused.value.extra["sku"], refused.value.extra["requested"]) == ("TEA", 4)
    async with guest.begin() as uow:
        opened = await cart.create(uow)
        await cart.add(uow, opened.id, "TEA", 4)
    with pytest.raises(CheckoutIncomplete) as incomplete:
        await checkout.complete(guest, opened.id, payment_method="tok_visa")
    assert "out_of_stock" in {p["code"] for p in incomplete.value.extra["problems"]}
    assert await counters(guest) == (3, 0, 0)


async def test_nobody_is_offered_what_they_have_to_sign_in_for(
    merchant: Deps, customer: Deps, guest: Deps
) -> None:
    await factories.product(merchant, "MUG", stock=9)
    for buyer, actions in ((guest, []), (customer, list(order.BEFORE_SHIPPING))):
        placed = await factories.placed_order(buyer, MUG=1)
        assert placed.allowed_actions == actions
        async with buyer.begin() as uow:
            assert await order.get(uow, placed.number) == placed
        async with merchant.begin() as uow:
            shown = await order.get(uow, placed.number)
        assert shown.allowed_actions == list(order.BEFORE_SHIPPING)


async def test_more_credit_than_the_total_is_refused(guest: Deps) -> None:
    await factories.product(guest, "MUG", stock=3)
    filled = await factories.filled_cart(guest, MUG=1)
    more = payment.Tender("credit", str(new_id()), filled.total_amount + 1)
    with pytest.raises(TotalChanged) as refused:
        await checkout.complete(guest, filled.id, payment_method="tok_visa", credits=[more])
    assert refused.value.field == "credits"
    assert await counters(guest) == (3, 0, 0)


async def test_the_current_cart_is_bought_for_what_was_shown(
    guest: Deps, merchant: Deps, gateway: ScriptedGateway
) -> None:
    await factories.product(guest, "MUG", price=1000, stock=3)
    async with merchant.begin() as uow:
        card = await credit_desk.issue_gift_card(uow, 400)
    async with merchant.begin() as uow:
        code = (await credit_code.reveal(uow, card.id)).code
    filled = await factories.filled_cart(guest, MUG=1)
    for codes, credit in (([], 0), ([code], 400)):
        await credit_tender.choose(guest, filled.id, codes=codes, uses_account=False)
        async with guest.begin() as uow:
            shown = await checkout.preview_buy(uow)
            assert shown == await checkout.preview_buy(uow, cart_id=filled.id)
        assert (shown.cart_id, shown.expected_total_amount) == (filled.id, 1490)
        assert (shown.credit_amount, shown.charge_amount) == (credit, 1490 - credit)
    placed = await checkout.buy(guest, expected_total_amount=1490)
    assert (placed.status, placed.total_amount) == ("placed", 1490)
    assert sum(gateway.charges.values()) == 1090
    assert await check(guest) == []


async def test_a_drifted_total_is_refused(guest: Deps, gateway: ScriptedGateway) -> None:
    await factories.product(guest, "MUG", price=1000, stock=3)
    filled = await factories.filled_cart(guest, MUG=1)
    await factories.product(guest, "MUG", price=2000, stock=0)
    with pytest.raises(TotalChanged):
        await checkout.complete(
            guest,
            filled.id,
            payment_method="tok_visa",
            expected_total_amount=filled.total_amount,
        )
    assert gateway.calls == 0


@pytest.mark.parametrize(
    "token", ["4242 4242 4242 4242", "card 4242-4242-4242-4242", "12", "", "x" * 201]
)
async def test_a_card_number_is_no_token(guest: Deps, token: str) -> None:
    await factories.product(guest, "MUG", stock=3)
    filled = await factories.filled_cart(guest, MUG=1)
    with pytest.raises(InvalidInput) as refused:
        await checkout.complete(guest, filled.id, payment_method=token)
    assert refused.value.field == "payment_method"


async def test_another_persons_cart_and_order_do_not_exist(guest: Deps, customer: Deps) -> None:
    await factories.product(guest, "MUG", stock=3)
    filled = await factories.filled_cart(guest, MUG=1)
    with pytest.raises(NotFound):
        await checkout.complete(customer, filled.id, payment_method="tok_visa")
    placed = await checkout.complete(guest, filled.id, payment_method="tok_visa")
    async with customer.begin() as uow:
        with pytest.raises(NotFound):
            await order.get(uow, placed.number)
    with pytest.raises(NotFound):
        await checkout.cancel(customer, placed.number, reason="not mine")


async def test_cancelling_gives_stock_and_money_back_once(
    customer: Deps, merchant: Deps, gateway: ScriptedGateway
) -> None:
    await factories.product(customer, "MUG", stock=3)
    placed = await factories.placed_order(customer, MUG=2)
    answers = await asyncio.gather(
        *(checkout.cancel(customer, placed.number, reason="too late") for _ in range(8))
    )
    assert {a.payment_status for a in answers} == {"refunded"}
    assert list(gateway.charges.values()) == [0]
    assert await counters(customer) == (3, 0, 0)
    async with merchant.begin() as uow:
        balances = {b.account: b.balance_amount for b in await payment.balances(uow)}
        (paid,) = await payment.list_for_order(uow, placed.number)
        told = [event.type for event in await order.timeline(uow, placed.number)]
    assert told.count("OrderCancelled") == 1
    assert balances["clearing"] == 0
    assert sum(balances.values()) == 0
    assert paid.refunded_amount == paid.captured_amount
    assert await check(customer) == []


async def test_an_order_that_has_left_is_not_cancelled(customer: Deps) -> None:
    await factories.product(customer, "MUG", stock=3)
    placed = await factories.placed_order(customer, MUG=1)
    with pytest.raises(InvalidInput):
        await checkout.cancel(customer, placed.number, " ")
    async with customer.begin() as uow:
        assert (await checkout.preview_cancel(uow, placed.number, "late")).number == placed.number
    async with customer.acting_as(SYSTEM).begin() as uow:
        await fulfillment.ship(uow, placed.number)
    with pytest.raises(IllegalTransition):
        await checkout.cancel(customer, placed.number, "late")
    with pytest.raises(IllegalTransition):
        async with customer.begin() as uow:
            await checkout.preview_cancel(uow, placed.number, "late")
    assert await check(customer) == []


async def test_an_order_that_was_never_placed_cannot_be_cancelled(
    customer: Deps, gateway: ScriptedGateway
) -> None:
    await factories.product(customer, "MUG", stock=3)
    filled = await factories.filled_cart(customer, MUG=1)
    gateway.script.append(Fault.TIMEOUT_BEFORE)
    with pytest.raises(Unavailable):
        await checkout.complete(customer, filled.id, payment_method="tok_visa")
    async with customer.begin() as uow:
        (pending,) = (await order.list_mine(uow)).items
    with pytest.raises(IllegalTransition):
        await checkout.cancel(customer, pending.number, reason="never mind")
