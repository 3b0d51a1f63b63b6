"""A sale under way: carry an order to its end, in steps that any process can resume.

    authorise  each tender at its gateway, under the tender's key           undo: void
    confirm    one transaction: hold becomes allocation, intent to capture  undo: void, cancel
    capture    each tender, under its own key                               undo: refund
    place      one transaction: ledger, order placed

No transaction is open during a call to a gateway. What is next is read from the rows, never from
memory, so `drive` continues after a crash exactly where it stopped: undone before the capture,
carried forward after it. The sweeper calls the same function. A tender with a decline code condemns
its sale: what was authorised is voided, what was captured is given back, the stock is free again.
A provider that refuses to do so keeps the order pending: the money is not where the books want it,
staff see that it is, and it is tried anew until it is done or moot.
"""

import asyncio
from collections.abc import Sequence
from datetime import timedelta
from enum import Enum, auto

from sqlalchemy import or_
from sqlmodel import col, select, update

from db.models.cart import CartStatus
from db.models.order import Order, OrderStatus, PaymentStatus
from db.models.payment import AttemptKind, AttemptState, Payment, PaymentState
from db.types import Money, OrderId, PaymentId
from deps.core import Deps, UnitOfWork
from deps.gateway import GatewayTimeout, Outcome, OutcomeStatus
from tools import cart, inventory, order, payment, sale_outcome, sweep
from tools.errors import OutOfStock, PaymentDeclined, Unavailable
from tools.events import OrderCancelled, OrderPlaced
from tools.order import OrderView

LEASE = timedelta(seconds=30)  # Longer than a gateway may take; then another process takes over.
WAIT_S = 0.05
WAITS_MAX = 300
STEPS_MAX = 40
ACTION_TTL = timedelta(minutes=30)  # How long a shopper may take to authenticate.
OUT_OF_STOCK = "out_of_stock"
UNDO_AGAIN_AFTER = timedelta(hours=1)  # What was refused is tried anew, not at every sweep.

_ENDED = (
    PaymentState.DECLINED,
    PaymentState.VOIDED,
    PaymentState.EXPIRED,
    PaymentState.CAPTURED,
)


class Step(Enum):
    AUTHORIZE = auto()
    CONFIRM = auto()
    CAPTURE = auto()
    PLACE = auto()
    VOID = auto()
    GIVE_BACK = auto()
    UNDO = auto()
    DONE = auto()


# Those that call the gateway, by what they ask of it.
_KINDS = {
    Step.AUTHORIZE: AttemptKind.AUTHORIZE,
    Step.CAPTURE: AttemptKind.CAPTURE,
    Step.VOID: AttemptKind.VOID,
    Step.GIVE_BACK: AttemptKind.REFUND,
}


async def drive(deps: Deps, order_id: OrderId) -> OrderView:
    """Carry an order to its end, one step after another, whoever began it.

    One process at a time drives, by a lease in the order's row; the others wait for its answer.
    An order whose shopper has to authenticate first stays pending; its view says what to do.

    Raises:
        PaymentDeclined, OutOfStock: How it ended, when it was undone.
        Unavailable: The provider did not answer; the sweeper goes on later.
    """
    for _ in range(WAITS_MAX):
        async with deps.begin() as uow:
            finished = await _finished(uow, order_id)
            is_leased = finished is None and await _lease(uow, order_id)
        if finished is not None:
            return finished
        if is_leased:
            break
        await asyncio.sleep(WAIT_S)
    else:
        raise Unavailable("The order is still being processed; ask again.")
    try:
        return await _drive_leased(deps, order_id)
    finally:
        await end_lease(deps, order_id)


async def end_lease(deps: Deps, order_id: OrderId) -> None:
    """Let another process, or `drive` in this one, go on with the order."""
    await deps.hot.fetchval("UPDATE orders SET lease_until = NULL WHERE id = $1", order_id)


async def _drive_leased(deps: Deps, order_id: OrderId) -> OrderView:
    for _ in range(STEPS_MAX):
        async with deps.begin() as uow:
            found = await order.locked(uow, order_id)
            step, tender = next_step(found, await payment.tenders(uow, order_id))
        if step is Step.DONE:
            break
        outcome = await _run_step(deps, order_id, step, tender)
        if outcome is not None and outcome.status is OutcomeStatus.REQUIRES_ACTION:
            async with deps.begin() as uow:
                return await order.view(uow, await uow.session.get_one(Order, order_id))
    async with deps.begin() as uow:
        finished = await _finished(uow, order_id)
    assert finished is not None, f"order {order_id} did not end in {STEPS_MAX} steps"
    return finished


def next_step(found: Order, tenders: Sequence[Payment]) -> tuple[Step, Payment | None]:
    """Read from the rows what comes next, and for which tender."""
    if found.status is not OrderStatus.PENDING:
        return Step.DONE, None
    if any(tender.decline_code is not None for tender in tenders):
        return _next_undo(tenders)
    for tender in tenders:
        if tender.state in sale_outcome.OPEN:
            return Step.AUTHORIZE, tender
    if found.payment_status in (PaymentStatus.PENDING, PaymentStatus.REQUIRES_ACTION):
        return Step.CONFIRM, None
    for tender in tenders:
        if tender.state is PaymentState.AUTHORIZED and not found.captures_later:
            return Step.CAPTURE, tender
    return Step.PLACE, None


def _next_undo(tenders: Sequence[Payment]) -> tuple[Step, Payment | None]:
    # Last tender first: the reverse of how they were charged.
    for tender in reversed(tenders):
        if tender.captured_amount > tender.refunded_amount:
            return Step.GIVE_BACK, tender
        if tender.state in (PaymentState.AUTHORIZED, PaymentState.REQUIRES_ACTION):
            return Step.VOID, tender
    return Step.UNDO, None


async def _run_step(
    deps: Deps, order_id: OrderId, step: Step, tender: Payment | None
) -> Outcome | None:
    if step is Step.CONFIRM:
        try:
            async with deps.begin() as uow:
                await _confirm(uow, order_id)
        except OutOfStock:
            # The hold had expired and the units are gone: give the money back before capture.
            async with deps.begin() as uow:
                await condemn(uow, order_id, OUT_OF_STOCK)
        return None
    if step in (Step.PLACE, Step.UNDO):
        async with deps.begin() as uow:
            await (_place if step is Step.PLACE else _undo)(uow, order_id)
        return None
    assert tender is not None
    kind = _KINDS[step]
    outcome = await _call_due(deps, tender, kind)
    async with deps.begin() as uow:
        found = await order.locked(uow, order_id)
        tender = await payment.locked(uow, PaymentId(tender.id))
        await sale_outcome.WRITERS[kind](uow, found, tender, outcome)
    _refuse_unfinished(kind, outcome, tender.state)
    return outcome


async def _call_due(deps: Deps, tender: Payment, kind: AttemptKind) -> Outcome:
    """Make the call of its kind that is due for a tender; see `call`."""
    amount = {
        AttemptKind.VOID: 0,
        AttemptKind.REFUND: tender.captured_amount - tender.refunded_amount,
    }.get(kind, tender.amount)
    return await call(deps, tender, kind, amount, await _number(deps, tender, kind))


def _refuse_unfinished(kind: AttemptKind, outcome: Outcome, state: PaymentState) -> None:
    """Say that a call has not come to its end; what is known of it was written before.

    Raises:
        Unavailable: The provider is still deciding, or keeps the money that is to go back or to be
            released.
    """
    if outcome.status is OutcomeStatus.PENDING:
        raise Unavailable("The payment provider is still deciding; the order finishes by itself.")
    if kind is AttemptKind.VOID and not outcome.approved and state is not PaymentState.EXPIRED:
        raise Unavailable("The provider refused to release the money; it is asked again later.")
    if kind is AttemptKind.REFUND and not outcome.approved:
        raise Unavailable("The provider refused to give the money back; it is asked again later.")


async def call(
    deps: Deps, tender: Payment, kind: AttemptKind, amount: int, number: int = 1
) -> Outcome:
    """Call the tender's gateway, asking first what an earlier call came to.

    The attempt is committed before the call, and marked unknown when no answer comes.

    Args:
        amount: Minor units; ignored for a void.
        number: Which capture or refund of this tender.

    Raises:
        Unavailable: No answer; the same key is used again later. Or the provider is not set up.
    """
    async with deps.begin() as uow:
        key = await payment.start_attempt(uow, PaymentId(tender.id), kind, amount, number)
    gateway = deps.gateways.get(tender.provider)
    if gateway is None:
        raise Unavailable(f"The payment provider {tender.provider} is not set up.")
    reference, money = tender.provider_reference or "", Money(amount, tender.currency)
    try:
        known = await gateway.find(key, tender.provider_reference)
        if known is not None:
            return known
        if kind is AttemptKind.AUTHORIZE:
            return await gateway.authorize(key, money, tender.method_token)
        if kind is AttemptKind.CAPTURE:
            is_final = tender.captured_amount + amount >= tender.amount
            return await gateway.capture(key, reference, money, is_final=is_final)
        if kind is AttemptKind.REFUND:
            return await gateway.refund(key, reference, money)
        return await gateway.void(key, reference)
    except GatewayTimeout as error:
        raise await unknown(deps, key) from error


async def unknown(deps: Deps, key: str) -> Unavailable:
    """Mark a call that got no answer, and return what to tell the shopper."""
    async with deps.begin() as uow:
        await payment.finish_attempt(uow, key, AttemptState.UNKNOWN, "timeout")
    return Unavailable(
        "The payment provider did not answer. The order finishes by itself; do not pay again."
    )


async def condemn(uow: UnitOfWork, order_id: OrderId, code: str) -> None:
    """Mark a pending sale to be undone; `drive` does it. Repeating it changes nothing.

    One that costs nothing is undone at once: there is no money to give back.
    """
    found = await order.locked(uow, order_id)
    tenders = await payment.tenders(uow, order_id)
    if not tenders:
        await _undo(uow, order_id)
    elif found.status is OrderStatus.PENDING and all(t.decline_code is None for t in tenders):
        tenders[-1].decline_code, tenders[-1].updated_at = code, uow.now


async def _confirm(uow: UnitOfWork, order_id: OrderId) -> None:
    """Make the stock ours for good, and only then mean to capture."""
    found = await order.locked(uow, order_id)
    if found.status is OrderStatus.PENDING:
        await inventory.allocate(uow, order_id=order_id)
        found.payment_status = PaymentStatus.AUTHORIZED


async def _place(uow: UnitOfWork, order_id: OrderId) -> None:
    found = await order.locked(uow, order_id)
    if found.status is not OrderStatus.PENDING:
        return
    await payment.post_sale(uow, found)
    await uow.session.flush()
    await order.transition(
        uow,
        found,
        OrderStatus.PLACED,
        payment_status=PaymentStatus.AUTHORIZED if found.captures_later else PaymentStatus.CAPTURED,
        placed_at=uow.now,
    )
    if found.cart_id is not None:
        await cart.set_status(uow, found.cart_id, CartStatus.COMPLETED)
    assert found.number is not None
    uow.publish(
        OrderPlaced(
            order_id=order_id,
            number=found.number,
            customer_id=found.customer_id,
            total_amount=found.total_amount,
            currency=found.currency,
        )
    )


async def _number(deps: Deps, tender: Payment, kind: AttemptKind) -> int:
    """Say which call of its kind is due for a tender: an undoing that was refused would only be
    refused again under its key, so another follows after a while. Else the key is used again."""
    if kind not in (AttemptKind.VOID, AttemptKind.REFUND):
        return 1
    async with deps.begin() as uow:
        last = await payment.last_attempt(uow, PaymentId(tender.id), kind)
    if last is None:
        return 1
    is_over = last.state is AttemptState.FAILED and last.started_at <= uow.now - UNDO_AGAIN_AFTER
    return last.number + is_over


async def _undo(uow: UnitOfWork, order_id: OrderId) -> None:
    """End an order that was never paid: stock free, cart open for another try."""
    found = await order.locked(uow, order_id)
    if found.status is not OrderStatus.PENDING:
        return
    tenders = await payment.tenders(uow, order_id)
    code = _why(tenders)
    is_declined = any(tender.state is PaymentState.DECLINED for tender in tenders)
    await inventory.release(uow, order_id=order_id, reason=code)
    if found.cart_id is not None:
        await cart.set_status(uow, found.cart_id, CartStatus.OPEN)
    await uow.session.flush()
    await order.transition(
        uow,
        found,
        OrderStatus.CANCELLED,
        payment_status=PaymentStatus.FAILED if is_declined else PaymentStatus.VOIDED,
        cancelled_at=uow.now,
        cart_id=None,
    )
    reason = "the payment was declined" if is_declined else code
    uow.publish(OrderCancelled(order_id=order_id, reason=reason))


def _why(tenders: Sequence[Payment]) -> str:
    """Say why a sale is undone: as its condemned tender does. What costs nothing has none, and can
    only lack stock."""
    return next((t.decline_code for t in tenders if t.decline_code is not None), OUT_OF_STOCK)


async def _finished(uow: UnitOfWork, order_id: OrderId) -> OrderView | None:
    found = await uow.session.get_one(Order, order_id, populate_existing=True)
    if found.status is OrderStatus.PENDING:
        return None
    if found.status is OrderStatus.CANCELLED and found.placed_at is None:
        tenders = await payment.tenders(uow, order_id)
        code = _why(tenders)
        if code == OUT_OF_STOCK:
            raise OutOfStock("an item", 1)
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


async def resume_stuck(deps: Deps) -> int:
    """Drive every order that was left between two steps; return how many were looked at."""
    async with deps.begin() as uow:
        idle = or_(col(Order.lease_until).is_(None), col(Order.lease_until) < uow.now)
        stuck = await uow.session.exec(
            select(Order.id)
            .where(
                Order.status == OrderStatus.PENDING,
                idle,
                col(Order.created_at) <= uow.now - sweep.RESUME_AFTER,
            )
            .order_by(col(Order.created_at))
            .limit(sweep.RESUME_BATCH)
        )
        ids = [OrderId(order_id) for order_id in stuck]
    return await sweep.resume(deps, ids, _resume)


async def _resume(deps: Deps, order_id: OrderId) -> None:
    await drive(deps, order_id)
    async with deps.begin() as uow:
        found = await order.locked(uow, order_id)
        tenders = await payment.tenders(uow, order_id)
        # Only who still has to authenticate, as the provider has just said, is late.
        is_waiting = any(tender.state is PaymentState.REQUIRES_ACTION for tender in tenders)
        if not is_waiting or uow.now < found.created_at + ACTION_TTL:
            return
        await condemn(uow, order_id, "authentication_expired")
    await drive(deps, order_id)


async def collect(deps: Deps, payment_id: PaymentId) -> None:
    """Charge one more tender of a placed order: authorise, then capture. Safe to repeat.

    Raises:
        PaymentDeclined: The provider said no, or wants the shopper to authenticate; nothing is
            charged.
        Unavailable: No answer; repeat it later.
    """
    for _ in range(STEPS_MAX):
        async with deps.begin() as uow:
            tender = await uow.session.get_one(Payment, payment_id)
            found = await order.locked(uow, OrderId(tender.order_id))
            tender = await payment.locked(uow, payment_id)
        is_condemned = tender.decline_code is not None
        keeps = tender.captured_amount - tender.refunded_amount
        if tender.state is PaymentState.CAPTURED and not is_condemned:
            return
        if tender.state in _ENDED and keeps == 0:
            raise PaymentDeclined(
                "The payment was declined; try another method.",
                decline_code=tender.decline_code or "declined",
            )
        if tender.state in (PaymentState.CREATED, PaymentState.UNKNOWN):
            kind = AttemptKind.AUTHORIZE
        elif tender.state is PaymentState.AUTHORIZED and not is_condemned:
            kind = AttemptKind.CAPTURE
        elif keeps:
            kind = AttemptKind.REFUND
        else:
            kind = AttemptKind.VOID
        outcome = await _call_due(deps, tender, kind)
        async with deps.begin() as uow:
            found = await order.locked(uow, OrderId(tender.order_id))
            status = found.payment_status
            tender = await payment.locked(uow, payment_id)
            await sale_outcome.WRITERS[kind](uow, found, tender, outcome)
            found.payment_status = status  # The order was paid before, whatever becomes of this.
            if tender.state is PaymentState.REQUIRES_ACTION:
                tender.decline_code = "authentication_required"
        _refuse_unfinished(kind, outcome, tender.state)
    raise AssertionError(f"payment {payment_id} did not end in {STEPS_MAX} steps")
