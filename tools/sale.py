"""A sale under way: carry an order to its end, in steps that any process can resume.

    authorise  the gateway, with the intent's key                             undo: void
    confirm    one transaction: hold becomes allocation, intent to capture    undo: void, cancel
    capture    the gateway, with its own key
    place      one transaction: outcome, ledger, order placed

No transaction is open during a call to a gateway. What is next is read from the rows, never from
memory, so `drive` continues after a crash exactly where it stopped: undone before the capture,
carried forward after it. The sweeper calls the same function.
"""

import asyncio
from datetime import timedelta
from enum import Enum, auto
from uuid import UUID

from sqlalchemy import or_
from sqlmodel import col, select, update

from db.models.cart import CartStatus
from db.models.order import Order, OrderStatus, PaymentStatus
from db.models.payment import AttemptKind, AttemptState, Payment, PaymentState
from db.types import Money, OrderId, PaymentId
from deps.core import SYSTEM, Deps, UnitOfWork
from deps.gateway import GatewayTimeout, Outcome
from tools import cart, inventory, order, payment
from tools.errors import (
    OutOfStock,
    PaymentDeclined,
    Unavailable,
)
from tools.events import (
    OrderCancelled,
    OrderPlaced,
    PaymentAuthorized,
    PaymentCaptured,
    PaymentFailed,
    PaymentRefunded,
    PaymentVoided,
)
from tools.order import OrderView

LEASE = timedelta(seconds=30)  # Longer than a gateway may take; then another process takes over.
WAIT_S = 0.05
WAITS_MAX = 300
STEPS_MAX = 12
RESUME_AFTER = timedelta(seconds=60)
RESUME_BATCH = 50


class Step(Enum):
    AUTHORIZE = auto()
    CONFIRM = auto()
    CAPTURE = auto()
    VOID = auto()
    REFUND = auto()
    DONE = auto()


async def drive(deps: Deps, order_id: OrderId) -> OrderView:
    """Carry an order to its end, one step after another, whoever began it.

    One process at a time drives, by a lease in the order's row; the others wait for its answer.

    Raises:
        PaymentDeclined, OutOfStock: How it ended, when it was undone.
        Unavailable: The provider did not answer; the sweeper goes on later.
    """
    for _ in range(WAITS_MAX):
        async with deps.begin() as uow:
            finished = await _finished(uow, order_id)
            leased = finished is None and await _lease(uow, order_id)
        if finished is not None:
            return finished
        if leased:
            break
        await asyncio.sleep(WAIT_S)
    else:
        raise Unavailable("The order is still being processed; ask again.")
    try:
        for _ in range(STEPS_MAX):
            async with deps.begin() as uow:
                step, intent = await _next_step(uow, order_id)
            if step is Step.DONE:
                break
            await _run_step(deps, order_id, step, intent)
        async with deps.begin() as uow:
            finished = await _finished(uow, order_id)
    finally:
        async with deps.begin() as uow:
            await uow.session.execute(
                update(Order).where(col(Order.id) == order_id).values(lease_until=None)
            )
    assert finished is not None, f"order {order_id} did not end in {STEPS_MAX} steps"
    return finished


async def _finished(uow: UnitOfWork, order_id: OrderId) -> OrderView | None:
    found = await uow.session.get_one(Order, order_id, populate_existing=True)
    if found.status is OrderStatus.PENDING or found.payment_status is PaymentStatus.REFUND_PENDING:
        return None
    if found.status is OrderStatus.CANCELLED and found.placed_at is None:
        intent = await payment.locked(uow, order_id)
        if intent.decline_code == "out_of_stock":
            raise OutOfStock("an item", 1)
        code = intent.decline_code or "declined"
        raise PaymentDeclined("The payment was declined; try another method.", decline_code=code)
    return await order.view(uow, found)


async def _lease(uow: UnitOfWork, order_id: OrderId) -> bool:
    claim = (
        update(Order)
        .where(col(Order.id) == order_id)
        .where(or_(col(Order.lease_until).is_(None), col(Order.lease_until) < uow.now))
        .values(lease_until=uow.now + LEASE)
        .returning(col(Order.id))
    )
    return (await uow.session.execute(claim)).first() is not None


async def _next_step(uow: UnitOfWork, order_id: OrderId) -> tuple[Step, Payment]:
    """Read from the rows what comes next."""
    found = await uow.session.get_one(Order, order_id, with_for_update=True, populate_existing=True)
    intent = await payment.locked(uow, order_id)
    if found.payment_status is PaymentStatus.REFUND_PENDING:
        return Step.REFUND, intent
    if found.status is not OrderStatus.PENDING:
        return Step.DONE, intent
    if intent.state in (PaymentState.CREATED, PaymentState.UNKNOWN):
        return Step.AUTHORIZE, intent
    assert intent.state is PaymentState.AUTHORIZED, intent.state
    if intent.decline_code is not None:
        return Step.VOID, intent
    confirmed = found.payment_status is PaymentStatus.AUTHORIZED
    return (Step.CAPTURE if confirmed else Step.CONFIRM), intent


async def _run_step(deps: Deps, order_id: OrderId, step: Step, intent: Payment) -> None:
    if step is Step.AUTHORIZE:
        outcome = await _call(deps, intent, AttemptKind.AUTHORIZE)
        async with deps.begin() as uow:
            await _record_authorization(uow, order_id, outcome)
    elif step is Step.CONFIRM:
        try:
            async with deps.begin() as uow:
                await _confirm(uow, order_id)
        except OutOfStock:
            # The hold had expired and the units are gone: give the money back before capture.
            async with deps.begin() as uow:
                await _mark_for_void(uow, order_id, "out_of_stock")
    elif step is Step.CAPTURE:
        outcome = await _call(deps, intent, AttemptKind.CAPTURE)
        async with deps.begin() as uow:
            await _place(uow, order_id, outcome)
    elif step is Step.VOID:
        outcome = await _call(deps, intent, AttemptKind.VOID)
        async with deps.begin() as uow:
            await _record_void(uow, order_id, outcome)
    elif step is Step.REFUND:
        outcome = await _call(deps, intent, AttemptKind.REFUND)
        async with deps.begin() as uow:
            await _record_refund(uow, order_id, outcome)


async def _call(deps: Deps, intent: Payment, kind: AttemptKind) -> Outcome:
    """Call the gateway under the attempt's key, asking first what an earlier call came to.

    Raises:
        Unavailable: No answer. The attempt is marked unknown; the same key is used again later.
    """
    key = payment.attempt_key(intent.id, kind)
    gateway, reference = deps.gateway, intent.provider_reference or ""
    total = Money(intent.amount, intent.currency)
    try:
        known = await gateway.find(key)
        if known is not None:
            return known
        if kind is AttemptKind.AUTHORIZE:
            return await gateway.authorize(key, total, intent.method_token)
        if kind is AttemptKind.CAPTURE:
            return await gateway.capture(key, reference, total)
        if kind is AttemptKind.REFUND:
            return await gateway.refund(key, reference, total)
        return await gateway.void(key, reference)
    except GatewayTimeout as error:
        async with deps.begin() as uow:
            await payment.finish_attempt(uow, intent.id, kind, AttemptState.UNKNOWN, "timeout")
        raise Unavailable(
            "The payment provider did not answer. The order finishes by itself; do not pay again."
        ) from error


async def _record_authorization(uow: UnitOfWork, order_id: OrderId, outcome: Outcome) -> None:
    found, intent = await _both_locked(uow, order_id)
    if intent.state not in (PaymentState.CREATED, PaymentState.UNKNOWN):
        return
    if not outcome.approved:
        code = outcome.decline_code or "declined"
        await payment.finish_attempt(
            uow, intent.id, AttemptKind.AUTHORIZE, AttemptState.FAILED, code
        )
        intent.state, intent.decline_code = PaymentState.DECLINED, code
        intent.updated_at = uow.now
        uow.publish(PaymentFailed(order_id=order_id, payment_id=intent.id, code=code))
        await _undo(uow, found, PaymentStatus.FAILED, "the payment was declined")
        return
    await payment.finish_attempt(uow, intent.id, AttemptKind.AUTHORIZE, AttemptState.SUCCEEDED)
    intent.state, intent.provider_reference = PaymentState.AUTHORIZED, outcome.reference
    intent.updated_at = uow.now
    uow.publish(
        PaymentAuthorized(
            order_id=order_id,
            payment_id=intent.id,
            amount=outcome.amount,
            currency=outcome.currency,
        )
    )
    if (outcome.amount, outcome.currency) != (intent.amount, intent.currency):
        await _mark_for_void(uow, order_id, "amount_mismatch")


async def _mark_for_void(uow: UnitOfWork, order_id: OrderId, code: str) -> None:
    _, intent = await _both_locked(uow, order_id)
    intent.decline_code, intent.updated_at = code, uow.now
    await payment.start_attempt(uow, intent.id, AttemptKind.VOID)


async def _confirm(uow: UnitOfWork, order_id: OrderId) -> None:
    """Make the stock ours for good, and only then write the intent to capture."""
    found, intent = await _both_locked(uow, order_id)
    if found.payment_status is not PaymentStatus.PENDING:
        return
    await inventory.allocate(uow, order_id=order_id)
    found.payment_status = PaymentStatus.AUTHORIZED
    await payment.start_attempt(uow, intent.id, AttemptKind.CAPTURE)


async def _place(uow: UnitOfWork, order_id: OrderId, outcome: Outcome) -> None:
    found, intent = await _both_locked(uow, order_id)
    if intent.state is not PaymentState.AUTHORIZED:
        return
    if not outcome.approved or outcome.amount != intent.amount:
        code = outcome.decline_code or "amount_mismatch"
        await payment.finish_attempt(uow, intent.id, AttemptKind.CAPTURE, AttemptState.FAILED, code)
        uow.publish(PaymentFailed(order_id=order_id, payment_id=intent.id, code=code))
        await _mark_for_void(uow, order_id, code)
        return
    await payment.finish_attempt(uow, intent.id, AttemptKind.CAPTURE, AttemptState.SUCCEEDED)
    intent.state, intent.captured_amount = PaymentState.CAPTURED, outcome.amount
    intent.updated_at = uow.now
    await payment.post_capture(uow, intent, found)
    await uow.session.flush()
    await order.transition(
        uow,
        found,
        OrderStatus.PLACED,
        payment_status=PaymentStatus.CAPTURED,
        placed_at=uow.now,
    )
    if found.cart_id is not None:
        await cart.set_status(uow, found.cart_id, CartStatus.COMPLETED)
    assert found.number is not None
    uow.publish(
        PaymentCaptured(
            order_id=order_id,
            payment_id=intent.id,
            amount=intent.captured_amount,
            currency=intent.currency,
        )
    )
    uow.publish(
        OrderPlaced(
            order_id=order_id,
            number=found.number,
            customer_id=found.customer_id,
            total_amount=found.total_amount,
            currency=found.currency,
        )
    )


async def _record_void(uow: UnitOfWork, order_id: OrderId, outcome: Outcome) -> None:
    found, intent = await _both_locked(uow, order_id)
    if intent.state is not PaymentState.AUTHORIZED:
        return
    await payment.finish_attempt(uow, intent.id, AttemptKind.VOID, AttemptState.SUCCEEDED)
    intent.state, intent.updated_at = PaymentState.VOIDED, uow.now
    uow.publish(PaymentVoided(order_id=order_id, payment_id=intent.id))
    await _undo(uow, found, PaymentStatus.VOIDED, intent.decline_code or "voided")


async def _undo(uow: UnitOfWork, found: Order, status: PaymentStatus, reason: str) -> None:
    """End an order that was never paid: stock free, cart open for another try."""
    await inventory.release(uow, order_id=found.id, reason=reason)
    if found.cart_id is not None:
        await cart.set_status(uow, found.cart_id, CartStatus.OPEN)
    await uow.session.flush()
    await order.transition(
        uow,
        found,
        OrderStatus.CANCELLED,
        payment_status=status,
        cancelled_at=uow.now,
        cart_id=None,
    )
    uow.publish(OrderCancelled(order_id=found.id, reason=reason))


async def _both_locked(uow: UnitOfWork, order_id: OrderId) -> tuple[Order, Payment]:
    """Lock in the one order everybody uses: the order, then its payment."""
    found = await uow.session.get_one(Order, order_id, with_for_update=True, populate_existing=True)
    return found, await payment.locked(uow, order_id)


async def resume_stuck(deps: Deps) -> int:
    """Drive every order that was left between two steps; return how many were looked at."""
    async with deps.begin() as uow:
        unfinished = or_(
            col(Order.status) == OrderStatus.PENDING,
            col(Order.payment_status) == PaymentStatus.REFUND_PENDING,
        )
        idle = or_(col(Order.lease_until).is_(None), col(Order.lease_until) < uow.now)
        stuck = await uow.session.exec(
            select(Order.id)
            .where(unfinished, idle, col(Order.created_at) <= uow.now - RESUME_AFTER)
            .order_by(col(Order.created_at))
            .limit(RESUME_BATCH)
        )
        ids = [OrderId(order_id) for order_id in stuck]
    system = deps.acting_as(SYSTEM)
    for order_id in ids:
        try:
            await drive(system, order_id)
        except (PaymentDeclined, OutOfStock, Unavailable):
            continue  # An end, or another try at the next sweep; either way it is in the rows.
    return len(ids)


async def _record_refund(uow: UnitOfWork, order_id: OrderId, outcome: Outcome) -> None:
    found, intent = await _both_locked(uow, order_id)
    if found.payment_status is not PaymentStatus.REFUND_PENDING:
        return
    if not outcome.approved:
        code = outcome.decline_code or "refused"
        await payment.finish_attempt(uow, intent.id, AttemptKind.REFUND, AttemptState.FAILED, code)
        raise Unavailable(f"The provider refused the refund ({code}); staff will look at it.")
    await payment.finish_attempt(uow, intent.id, AttemptKind.REFUND, AttemptState.SUCCEEDED)
    intent.refunded_amount, intent.updated_at = intent.captured_amount, uow.now
    found.payment_status = PaymentStatus.REFUNDED
    await payment.post_refund(uow, refund_transaction(intent.id), found, intent.captured_amount)
    uow.publish(
        PaymentRefunded(
            order_id=order_id,
            payment_id=intent.id,
            amount=intent.captured_amount,
            currency=intent.currency,
        )
    )


def refund_transaction(payment_id: PaymentId) -> UUID:
    """The ledger transaction of a full refund: derived, so that it can be posted once only."""
    return UUID(int=payment_id.int ^ 1)
