"""Capturing by hand: take what orders authorised, in parts, give up the rest, mind its expiry.

With `SHOPKEEPER_CAPTURE=manual` an order is placed when it is authorised (`tools.sale`), and its
money is taken here, as goods go out. What was authorised is a promise with a date: what is not
taken by then is authorised anew, or the order is cancelled.

    start    one transaction: which tenders, the intent of each call     undo: release
    finish   each at its gateway, under its own key                      undo: refund

A call without an answer is repeated under its key by whoever comes next, the sweeper too.
"""

from dataclasses import replace
from typing import Final
from uuid import UUID

from pydantic import BaseModel
from sqlmodel import col, func, select

from db.models.order import Order, OrderStatus
from db.models.payment import (
    Account,
    AttemptKind,
    AttemptState,
    Payment,
    PaymentAttempt,
    PaymentState,
)
from db.types import OrderId, PaymentId, new_id
from deps.core import Deps, UnitOfWork
from deps.gateway import Outcome, OutcomeStatus
from tools import idempotency, order, payment, refund_plan, refund_share, sale, sale_outcome, sweep
from tools.errors import Conflict, InvalidInput, NotCapturable, PaymentDeclined, Unavailable
from tools.events import PaymentAuthorizationExpired, PaymentFailed, PaymentVoided
from tools.payment import PaymentView
from tools.registry import Risk, operation

OPEN: Final = (AttemptState.STARTED, AttemptState.UNKNOWN)
LAPSED: Final = frozenset({"authorization_expired"})


class CapturePreview(BaseModel):
    """What capturing would take. An approval binds `capture_id`: repeating it takes once."""

    capture_id: UUID
    order_number: int
    amount: int
    currency: str
    payments: list[PaymentView]


async def preview_take(
    uow: UnitOfWork, number: int, amount: int | None = None, capture_id: UUID | None = None
) -> CapturePreview:
    """Show what `take` would capture, and from which payments.

    Raises:
        NotFound: No such order.
        NotCapturable: Nothing, or less than that, is left to capture.
    """
    of = await order.access(uow, number)
    tenders = await payment.read_tenders(uow, OrderId(of.id))
    parts = await _planned(uow, of, tenders, amount)
    return CapturePreview(
        capture_id=capture_id or new_id(),
        order_number=number,
        amount=sum(part for _, part in parts),
        currency=of.currency,
        payments=[PaymentView.model_validate(tender) for tender, _ in parts],
    )


@operation(
    scope="payment:write",
    risk=Risk.MONEY,
    idempotent=True,
    preview=preview_take,
    examples=(
        "capture the payment of order {number}",
        "capture {amount} of order {number}",
        "take the authorised money of order {number}",
        "collect the payment for order {number}",
    ),
)
async def take(
    deps: Deps, number: int, amount: int | None = None, capture_id: UUID | None = None
) -> list[PaymentView]:
    """Capture what an order authorised, or a part of it; more may follow.

    Credits are taken first, as they are charged. Without an amount, repeating it changes nothing.

    Args:
        number: The order's number.
        amount: Minor units; leave out for all that is authorised.
        capture_id: Leave out: bound when it is proposed, so that the same amount is taken once.

    Raises:
        NotFound: No such order.
        NotCapturable: Nothing, or less than that, is left to capture.
        PaymentDeclined: A provider refused.
        Unavailable: A provider did not answer; it is asked again under the same key.
    """
    async with deps.begin() as uow:
        if amount is not None:
            await idempotency.settle(uow)  # Taking twice is not taking once.
        of = await order.access(uow, number, lock=True)
        tenders = await payment.tenders(uow, OrderId(of.id))
        known = None
        if capture_id is not None:
            known = await uow.session.get(PaymentAttempt, capture_id)
        if known is None and not (amount is None and await _is_done(uow, of, tenders)):
            first = capture_id  # The first attempt bears it; all are written together.
            for tender, part in await _planned(uow, of, tenders, amount):
                await _start(uow, tender, AttemptKind.CAPTURE, part, first)
                first = None
    await finish(deps, OrderId(of.id))
    async with deps.begin() as uow:
        return await payment.list_for_order(uow, number)


async def _is_done(uow: UnitOfWork, of: Order, tenders: list[Payment]) -> bool:
    """Say whether all that was authorised is taken, or asked for."""
    is_open = any(t.state is PaymentState.AUTHORIZED for t in tenders)
    waits = await _open_attempts(uow, OrderId(of.id))
    return bool(waits) or (not is_open and any(t.captured_amount for t in tenders))


async def _planned(
    uow: UnitOfWork, of: Order, tenders: list[Payment], amount: int | None
) -> list[tuple[Payment, int]]:
    if of.status not in (OrderStatus.PLACED, OrderStatus.COMPLETED):
        raise NotCapturable(f"A {of.status.value} order is not captured.", current=of.status.value)
    if amount is not None and amount < 1:
        raise InvalidInput("amount must be positive.", field="amount")
    asked: dict[UUID, int] = {}
    for attempt in await _open_attempts(uow, OrderId(of.id)):
        if attempt.kind is AttemptKind.VOID:
            raise NotCapturable("The rest of this order is being released.", current="releasing")
        asked[attempt.payment_id] = asked.get(attempt.payment_id, 0) + attempt.amount
    parts, left = [], amount
    for tender in tenders:
        free = tender.amount - tender.captured_amount - asked.get(tender.id, 0)
        if tender.state is not PaymentState.AUTHORIZED or free <= 0:
            continue
        part = free if left is None else min(free, left)
        if part:
            parts.append((tender, part))
            left = None if left is None else left - part
    if left or not parts:
        capturable = sum(part for _, part in parts)
        raise NotCapturable(
            "That is more than is left to capture.", field="amount", capturable_amount=capturable
        )
    return parts


async def _open_attempts(uow: UnitOfWork, order_id: OrderId) -> list[PaymentAttempt]:
    query = (
        select(PaymentAttempt)
        .join(Payment, col(Payment.id) == col(PaymentAttempt.payment_id))
        .where(
            Payment.order_id == order_id,
            col(PaymentAttempt.kind).in_((AttemptKind.CAPTURE, AttemptKind.VOID)),
            col(PaymentAttempt.state).in_(OPEN),
        )
        .order_by(col(PaymentAttempt.started_at), col(PaymentAttempt.id))
        .execution_options(populate_existing=True)
    )
    return list(await uow.session.exec(query))


async def _start(
    uow: UnitOfWork,
    tender: Payment,
    kind: AttemptKind,
    amount: int,
    attempt_id: UUID | None = None,
) -> None:
    last = await uow.session.scalar(
        select(func.max(PaymentAttempt.number)).where(
            PaymentAttempt.payment_id == tender.id, PaymentAttempt.kind == kind
        )
    )
    number = (last or 0) + 1
    uow.session.add(
        PaymentAttempt(
            id=attempt_id or new_id(),
            payment_id=PaymentId(tender.id),
            kind=kind,
            number=number,
            key=payment.attempt_key(PaymentId(tender.id), kind, number),
            amount=amount,
            started_at=uow.now,
        )
    )
    await uow.session.flush()


async def finish(deps: Deps, order_id: OrderId) -> None:
    """Carry every capture and release of an order that was asked for to its end. Safe to repeat.

    Raises:
        PaymentDeclined: A provider refused one; the others were carried out.
        Unavailable: A provider did not answer one; the sweeper goes on later.
    """
    async with deps.begin() as uow:
        attempts = await _open_attempts(uow, order_id)
    problem: PaymentDeclined | Unavailable | None = None
    for attempt in attempts:
        async with deps.begin() as uow:
            tender = await uow.session.get_one(Payment, attempt.payment_id)
        try:
            outcome = await sale.call(deps, tender, attempt.kind, attempt.amount, attempt.number)
        except Unavailable as error:
            problem = error
            continue
        if outcome.status is OutcomeStatus.PENDING:
            problem = Unavailable("The payment provider is still working on it.")
            continue
        async with deps.begin() as uow:
            refused = await _record(uow, attempt, outcome)
        if refused is not None:
            problem = PaymentDeclined("The provider refused.", decline_code=refused)
    if problem is not None:
        raise problem


async def _record(uow: UnitOfWork, attempt: PaymentAttempt, outcome: Outcome) -> str | None:
    """Book what became of a call, once; return the code of a refusal."""
    tender = await uow.session.get_one(Payment, attempt.payment_id)
    of = await order.locked(uow, OrderId(tender.order_id))
    tenders = await payment.tenders(uow, OrderId(of.id))
    row = await uow.session.get_one(PaymentAttempt, attempt.id, populate_existing=True)
    if row.state not in OPEN:
        return row.detail if row.state is AttemptState.FAILED else None
    refused = None
    if not outcome.approved:
        refused = outcome.decline_code or "refused"
        await payment.finish_attempt(uow, row.key, AttemptState.FAILED, refused)
        uow.publish(
            PaymentFailed(order_id=OrderId(of.id), payment_id=PaymentId(tender.id), code=refused)
        )
        if refused in LAPSED:
            await _lapse(uow, of, tender)
    elif row.kind is AttemptKind.CAPTURE:
        said = "" if outcome.amount == row.amount else f"amount_mismatch: {outcome.amount}"
        await payment.finish_attempt(uow, row.key, AttemptState.SUCCEEDED, said)
        is_final = tender.captured_amount + row.amount == tender.amount
        await payment.record_capture(
            uow, of, tender, row.amount, transaction_id=row.id, is_final=is_final
        )
    else:
        await payment.finish_attempt(uow, row.key, AttemptState.SUCCEEDED)
        await _give_up(uow, of, tender, row.id)
        tender.state = PaymentState.CAPTURED if tender.captured_amount else PaymentState.VOIDED
        uow.publish(PaymentVoided(order_id=OrderId(of.id), payment_id=PaymentId(tender.id)))
    tender.updated_at = uow.now
    of.payment_status = payment.status_of(of, tenders)
    await uow.session.flush()
    return refused


async def _give_up(uow: UnitOfWork, of: Order, tender: Payment, transaction_id: UUID) -> None:
    """Take off the books what the customer will not be charged after all."""
    rest = tender.amount - tender.captured_amount
    if rest == 0:
        return
    # What an edit owes beside is not of what was never charged.
    within = replace(await refund_plan.limits(uow, of), owed_amount=0)
    shares = refund_share.of_amount(within, rest)
    await payment.post(
        uow,
        transaction_id,
        OrderId(of.id),
        of.currency,
        {
            Account.REVENUE: shares.goods_amount,
            Account.SHIPPING_REVENUE: shares.shipping_amount,
            Account.TAX_PAYABLE: shares.tax_amount,
            Account.RECEIVABLE: -rest,
        },
    )
    await uow.session.flush()


async def preview_release(uow: UnitOfWork, number: int) -> list[PaymentView]:
    """Show the payments whose rest `release` would give up.

    Raises:
        NotFound: No such order.
    """
    return await payment.list_for_order(uow, number)


@operation(
    scope="payment:write",
    risk=Risk.IRREVERSIBLE,
    idempotent=True,
    preview=preview_release,
    examples=(
        "release the rest of order {number}",
        "void the authorisation of order {number}",
        "we will not charge the rest of order {number}",
        "give up what is left to capture of order {number}",
    ),
)
async def release(deps: Deps, number: int) -> list[PaymentView]:
    """Give up what is authorised and not captured of an order: the customer is not charged for it.

    Args:
        number: The order's number.

    Raises:
        NotFound: No such order.
        Conflict: A capture is under way.
        Unavailable: A provider did not answer; it is asked again under the same key.
    """
    async with deps.begin() as uow:
        of = await order.access(uow, number, lock=True)
        await start_release(uow, of)
    await finish(deps, OrderId(of.id))
    async with deps.begin() as uow:
        return await payment.list_for_order(uow, number)


async def start_release(uow: UnitOfWork, of: Order) -> None:
    """Write down that what is left is to be voided; `finish` does it. Repeating changes nothing.

    Raises:
        Conflict: A capture is under way.
    """
    attempts = await _open_attempts(uow, OrderId(of.id))
    if any(attempt.kind is AttemptKind.CAPTURE for attempt in attempts):
        raise Conflict("A capture of this order is under way; ask again.", current="capturing")
    releasing = {attempt.payment_id for attempt in attempts}
    for tender in await payment.tenders(uow, OrderId(of.id)):
        if tender.state is PaymentState.AUTHORIZED and tender.id not in releasing:
            await _start(uow, tender, AttemptKind.VOID, 0)


async def _lapse(uow: UnitOfWork, of: Order, tender: Payment) -> None:
    """Mark an authorisation as lapsed; what it did not bring is owed by a new tender."""
    tender.state, tender.updated_at = PaymentState.EXPIRED, uow.now
    rest = tender.amount - tender.captured_amount
    again = await payment.add_tender(uow, of, tender.provider, tender.method_token, rest)
    await payment.start_attempt(uow, PaymentId(again.id), AttemptKind.AUTHORIZE, rest)
    uow.publish(
        PaymentAuthorizationExpired(
            order_id=OrderId(of.id),
            payment_id=PaymentId(tender.id),
            amount=rest,
            currency=of.currency,
        )
    )


async def expire_due(deps: Deps) -> int:
    """Mark authorisations of placed orders whose time is over; return how many."""
    async with deps.begin() as uow:
        rows = await uow.session.exec(
            select(Payment.id, Payment.order_id)
            .join(Order, col(Order.id) == col(Payment.order_id))
            .where(
                Payment.state == PaymentState.AUTHORIZED,
                col(Payment.expires_at) <= uow.now,
                Order.status == OrderStatus.PLACED,
            )
            .order_by(col(Payment.expires_at))
            .limit(sweep.RESUME_BATCH)
        )
        due = list(rows)
    lapsed = 0
    for payment_id, order_id in due:
        async with deps.begin() as uow:
            of = await order.locked(uow, OrderId(order_id))
            tenders = await payment.tenders(uow, OrderId(of.id))
            tender = next(each for each in tenders if each.id == payment_id)
            # A capture under way tells itself whether it came in time.
            waits = {a.payment_id for a in await _open_attempts(uow, OrderId(of.id))}
            if tender.state is PaymentState.AUTHORIZED and tender.id not in waits:
                await _lapse(uow, of, tender)
                await uow.session.flush()
                lapsed += 1
    return lapsed


async def renew_due(deps: Deps) -> list[tuple[int, str]]:
    """Authorise anew what lapsed; return the numbers of orders that cannot be, with the reason."""
    async with deps.begin() as uow:
        rows = await uow.session.exec(
            select(Payment, Order.number)
            .join(Order, col(Order.id) == col(Payment.order_id))
            .where(
                col(Payment.state).in_((PaymentState.CREATED, PaymentState.UNKNOWN)),
                Order.status == OrderStatus.PLACED,
                col(Order.captures_later),
            )
            .order_by(col(Payment.updated_at))
            .limit(sweep.RESUME_BATCH)
        )
        due = list(rows)
    refused = []
    for tender, number in due:
        try:
            outcome = await sale.call(deps, tender, AttemptKind.AUTHORIZE, tender.amount)
            async with deps.begin() as uow:
                code = await _record_renewal(uow, PaymentId(tender.id), outcome)
        except Unavailable:
            continue  # Another try at the next sweep, under the same key.
        if code is not None:
            refused.append((number or 0, code))
    return refused


async def _record_renewal(uow: UnitOfWork, payment_id: PaymentId, outcome: Outcome) -> str | None:
    """Book the answer to authorising anew; return the code of a refusal.

    A shopper who would have to authenticate is not there: that is a refusal, too. What is refused
    is not owed any more.
    """
    tender = await uow.session.get_one(Payment, payment_id)
    of = await order.locked(uow, OrderId(tender.order_id))
    tenders = await payment.tenders(uow, OrderId(of.id))
    was_open = tender.decline_code is None
    await sale_outcome.authorization(uow, of, tender, outcome)
    if tender.state is PaymentState.UNKNOWN:
        return None  # The provider is still deciding; the next sweep asks again.
    if tender.state is PaymentState.REQUIRES_ACTION:
        tender.state, tender.decline_code = PaymentState.DECLINED, "authentication_required"
    if was_open and tender.state is PaymentState.DECLINED:
        await _give_up(uow, of, tender, tender.id)
    of.payment_status = payment.status_of(of, tenders)
    return tender.decline_code


async def resume_stuck(deps: Deps) -> int:
    """Finish captures and releases that were left between two steps; return how many orders."""
    await _release_anew(deps)
    async with deps.begin() as uow:
        rows = await uow.session.exec(
            select(Payment.order_id)
            .join(PaymentAttempt, col(PaymentAttempt.payment_id) == col(Payment.id))
            .join(Order, col(Order.id) == col(Payment.order_id))
            .where(
                col(Order.placed_at).is_not(None),
                col(PaymentAttempt.kind).in_((AttemptKind.CAPTURE, AttemptKind.VOID)),
                col(PaymentAttempt.state).in_(OPEN),
                col(PaymentAttempt.started_at) <= uow.now - sweep.RESUME_AFTER,
            )
            .distinct()
            .limit(sweep.RESUME_BATCH)
        )
        ids = [OrderId(order_id) for order_id in rows]
    return await sweep.resume(deps, ids, finish)


async def _release_anew(deps: Deps) -> None:
    """Ask again for the releases of cancelled orders that a provider refused."""
    async with deps.begin() as uow:
        rows = await uow.session.exec(
            select(Payment.order_id)
            .join(Order, col(Order.id) == col(Payment.order_id))
            .where(
                Payment.state == PaymentState.AUTHORIZED,
                col(Payment.updated_at) <= uow.now - sale.UNDO_AGAIN_AFTER,
                Order.status == OrderStatus.CANCELLED,
                col(Order.placed_at).is_not(None),
            )
            .distinct()
            .limit(sweep.RESUME_BATCH)
        )
        ids = [OrderId(order_id) for order_id in rows]
    await sweep.resume(deps, ids, _release_again)


async def _release_again(deps: Deps, order_id: OrderId) -> None:
    async with deps.begin() as uow:
        await start_release(uow, await order.locked(uow, order_id))
    await finish(deps, order_id)
