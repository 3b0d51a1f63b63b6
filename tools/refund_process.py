"""Carry refunds that were asked for to their end: each part at its gateway, then in the books.

A call whose outcome is unknown is repeated under its key; a call that was refused has failed, frees
what it had reserved, and is tried again only when somebody asks (`refund.reopen`), under the next
number's key.
"""

import asyncio
from collections.abc import Sequence
from datetime import timedelta
from uuid import UUID

from sqlalchemy import or_
from sqlmodel import col, select, update

from db.models.order import Order
from db.models.payment import Account, AttemptKind, AttemptState, Payment
from db.models.refund import Refund, RefundPart, RefundState
from db.types import OrderId, PaymentId
from deps.core import Deps, UnitOfWork
from deps.gateway import Outcome, OutcomeStatus
from tools import credit_account, order, payment, payout, refund, refund_share, sale, sweep
from tools.errors import Unavailable
from tools.events import PaymentRefunded, RefundFailed, RefundSucceeded
from tools.refund_plan import parts_of
from tools.refund_share import Breakdown

LEASE = timedelta(seconds=30)  # Longer than a gateway may take; then another process takes over.
WAIT_S = 0.05
WAITS_MAX = 200


async def drive(deps: Deps, refund_id: UUID) -> Refund:
    """Carry a refund to its end, part by part, whoever requested it. Safe to repeat.

    One process at a time drives, by a lease in the refund's row; the others wait for its outcome.
    A part that failed does not keep the next from being paid.

    Raises:
        Unavailable: A provider did not answer; the sweeper goes on later, under the same key.
    """
    for _ in range(WAITS_MAX):
        async with deps.begin() as uow:
            found = await uow.session.get_one(Refund, refund_id, populate_existing=True)
            is_leased = found.state is RefundState.PENDING and await _lease(uow, refund_id)
        if found.state is not RefundState.PENDING:
            return found
        if is_leased:
            break
        await asyncio.sleep(WAIT_S)
    else:
        raise Unavailable("The refund is still being processed; ask again.")
    try:
        return await _drive_leased(deps, refund_id)
    finally:
        async with deps.begin() as uow:
            await uow.session.execute(
                update(Refund).where(col(Refund.id) == refund_id).values(lease_until=None)
            )


async def drive_order(deps: Deps, order_id: OrderId) -> None:
    """Carry every refund of an order that is pending to its end.

    Raises:
        Unavailable: As `drive`.
    """
    async with deps.begin() as uow:
        rows = await uow.session.exec(
            select(Refund.id)
            .where(Refund.order_id == order_id, Refund.state == RefundState.PENDING)
            .order_by(col(Refund.id))
        )
        ids = list(rows)
    for refund_id in ids:
        await drive(deps, refund_id)


async def _lease(uow: UnitOfWork, refund_id: UUID) -> bool:
    claim = (
        update(Refund)
        .where(col(Refund.id) == refund_id)
        .where(or_(col(Refund.lease_until).is_(None), col(Refund.lease_until) < uow.now))
        .values(lease_until=uow.now + LEASE)
        .returning(col(Refund.id))
    )
    return (await uow.session.execute(claim)).first() is not None


async def _drive_leased(deps: Deps, refund_id: UUID) -> Refund:
    unanswered: Unavailable | None = None
    async with deps.begin() as uow:
        parts = [
            (part, await uow.session.get_one(Payment, part.payment_id))
            for part in await parts_of(uow, refund_id)
            if part.state is RefundState.PENDING
        ]
    for part, tender in parts:
        outcome = None
        if part.credit_account_id is None:
            try:
                if part.method_id is not None:
                    outcome = await payout.send(deps, part, tender)
                else:
                    outcome = await sale.call(
                        deps, tender, AttemptKind.REFUND, part.amount, part.attempt_number
                    )
            except Unavailable as error:
                unanswered = error
                continue
            if outcome.status is OutcomeStatus.PENDING:
                unanswered = Unavailable("The payment provider is still working on the refund.")
                continue
        async with deps.begin() as uow:
            await record(uow, part.id, outcome)
    if unanswered is not None:
        raise unanswered
    async with deps.begin() as uow:
        return await uow.session.get_one(Refund, refund_id, populate_existing=True)


async def record(uow: UnitOfWork, part_id: UUID, outcome: Outcome | None) -> None:
    """Book what became of a part; once, however often it is told.

    Args:
        outcome: The provider's; None for a part that becomes credit, which is booked here.
    """
    part = await uow.session.get_one(RefundPart, part_id)
    tender = await uow.session.get_one(Payment, part.payment_id)
    of = await order.locked(uow, OrderId(tender.order_id))
    tenders = await payment.tenders(uow, OrderId(of.id))
    whole = await uow.session.get_one(
        Refund, part.refund_id, with_for_update=True, populate_existing=True
    )
    parts = await parts_of(uow, whole.id)
    if part.state is not RefundState.PENDING:
        return
    tender.refunding_amount -= part.amount
    tender.updated_at = uow.now
    if outcome is None or outcome.approved:
        await _succeed(uow, of, whole, parts, part, tender, outcome)
    else:
        await _fail(uow, whole, part, tender, outcome.decline_code or "refused")
    await _close(uow, whole, parts)
    of.payment_status = payment.status_of(of, tenders)
    await uow.session.flush()


async def _succeed(
    uow: UnitOfWork,
    of: Order,
    whole: Refund,
    parts: Sequence[RefundPart],
    part: RefundPart,
    tender: Payment,
    outcome: Outcome | None,
) -> None:
    part.state = RefundState.SUCCEEDED
    tender.refunded_amount += part.amount
    if outcome is not None:
        part.provider_reference = outcome.reference[:200]
        # The call was for our amount, so that is what we book; reconciliation settles the rest.
        said = "" if outcome.amount == part.amount else f"amount_mismatch: {outcome.amount}"
        part.failure = said
        await payment.finish_attempt(uow, refund.key_of(part), AttemptState.SUCCEEDED, said)
        # What is paid out leaves the provider, whatever had paid for the order.
        is_paid_out = part.method_id is not None
        source = Account.CLEARING if is_paid_out else await payment.account_of(uow, tender)
    else:
        assert part.credit_account_id is not None
        source = await credit_account.add(
            uow,
            part.credit_account_id,
            part.amount,
            key=f"refund:{part.id}",
            reason=f"refund of order {of.number}",
            reference_id=part.id,
        )
    rows = refund_share.over_tenders(
        Breakdown.model_validate(whole.breakdown), [each.amount for each in parts]
    )
    goods, shipping, tax, adjustment = rows[parts.index(part)]
    await payment.post(
        uow,
        part.id,
        OrderId(of.id),
        of.currency,
        {
            Account.REFUNDS: goods,
            Account.SHIPPING_REVENUE: shipping,
            Account.TAX_PAYABLE: tax,
            Account.RECEIVABLE: adjustment,
            source: -part.amount,
        },
    )
    uow.publish(
        PaymentRefunded(
            order_id=OrderId(of.id),
            payment_id=PaymentId(tender.id),
            amount=part.amount,
            currency=of.currency,
            refund_id=whole.id,
        )
    )


async def _fail(
    uow: UnitOfWork, whole: Refund, part: RefundPart, tender: Payment, code: str
) -> None:
    part.state, part.failure = RefundState.FAILED, code[:500]
    await payment.finish_attempt(uow, refund.key_of(part), AttemptState.FAILED, code)
    uow.publish(
        RefundFailed(
            order_id=whole.order_id,
            refund_id=whole.id,
            payment_id=PaymentId(tender.id),
            amount=part.amount,
            currency=whole.currency,
            code=code,
        )
    )


async def _close(uow: UnitOfWork, whole: Refund, parts: Sequence[RefundPart]) -> None:
    states = {part.state for part in parts}
    if RefundState.PENDING in states:
        return
    is_paid = states == {RefundState.SUCCEEDED}
    whole.state = RefundState.SUCCEEDED if is_paid else RefundState.FAILED
    whole.finished_at = uow.now
    if is_paid:
        uow.publish(
            RefundSucceeded(
                order_id=whole.order_id,
                refund_id=whole.id,
                amount=whole.amount,
                currency=whole.currency,
            )
        )


async def resume_stuck(deps: Deps) -> int:
    """Drive every refund that was left between two steps; return how many were looked at."""
    async with deps.begin() as uow:
        idle = or_(col(Refund.lease_until).is_(None), col(Refund.lease_until) < uow.now)
        rows = await uow.session.exec(
            select(Refund.id)
            .where(
                Refund.state == RefundState.PENDING,
                idle,
                col(Refund.created_at) <= uow.now - sweep.RESUME_AFTER,
            )
            .order_by(col(Refund.created_at))
            .limit(sweep.RESUME_BATCH)
        )
        ids = list(rows)
    return await sweep.resume(deps, ids, drive)
