"""The truth about a payment, asked of its provider and brought into our rows.

Webhooks come late, twice and in any order, so none of them is believed: each only says where to
look. What is found there is compared with our rows, and what is missing in ours is booked as if we
had asked for it: money taken or given back by hand at the provider's dashboard, an authorisation
that ran out, a refund that the bank sent back. Whatever of ours is still under way is left to its
own driver, which knows its key.
"""

import logging
from contextlib import suppress
from typing import Final
from uuid import UUID, uuid5

from sqlalchemy import func
from sqlmodel import col, select

from db.models.order import Order, OrderStatus
from db.models.payment import (
    AttemptKind,
    AttemptState,
    LedgerEntry,
    Payment,
    PaymentAttempt,
    PaymentState,
)
from db.models.refund import Refund, RefundPart, RefundState
from db.types import OrderId, PaymentId
from deps.core import SYSTEM, Deps, UnitOfWork
from deps.gateway import GatewayTimeout, Outcome, OutcomeStatus
from deps.provider import PaymentTruth, Provider, RefundStanding, RefundTruth, Standing
from tools import order, payment, refund, refund_process, sale
from tools.errors import Conflict, NotFound, NotRefundable, OutOfStock, PaymentDeclined, Unavailable
from tools.events import PaymentExpired, PaymentVoided, RefundFailed
from tools.refund_plan import parts_of

log = logging.getLogger(__name__)

EXPIRED_BATCH: Final = 50
_NAMES = UUID("0b2f0c53-6d9a-4d0e-9a57-3f6f1d2c8e11")
_UNDER_WAY = (AttemptState.STARTED, AttemptState.UNKNOWN)


def provider_named(deps: Deps, name: str) -> Provider:
    """Return a provider that is set up.

    Raises:
        NotFound: There is none of that name, or it is not set up here.
    """
    found = deps.gateways.get(name)
    if not isinstance(found, Provider):
        raise NotFound(f"No payment provider {name} is set up.", field="provider")
    return found


async def payment_at(
    uow: UnitOfWork, provider: str, reference: str | None, key: str | None
) -> Payment | None:
    """Find our row of a provider's payment: by its reference, or by the key of the call we made.

    The key finds it even while the answer that names the reference is still on its way.
    """
    if reference is not None:
        query = select(Payment).where(
            Payment.provider == provider, Payment.provider_reference == reference
        )
        found = (await uow.session.exec(query)).first()
        if found is not None:
            return found
    if key is None:
        return None
    by_key = (
        select(Payment)
        .join(PaymentAttempt, col(PaymentAttempt.payment_id) == col(Payment.id))
        .where(Payment.provider == provider, PaymentAttempt.key == key)
    )
    return (await uow.session.exec(by_key)).first()


async def settle(deps: Deps, provider: str, reference: str, key: str | None) -> bool:
    """Bring our rows of one payment to what the provider says of it. Safe to repeat.

    Args:
        reference: The provider's name for the payment.
        key: Of the call that made it, if known.

    Returns:
        Whether it is a payment of ours.

    Raises:
        Unavailable: The provider does not answer, or a call of ours is under way; repeat it later.
        Conflict: What the provider says cannot be true of our row; a person has to look.
    """
    system = deps.acting_as(SYSTEM)
    async with system.begin() as uow:
        known = await payment_at(uow, provider, reference, key)
        if known is None:
            return False
        order_id = OrderId(known.order_id)
        of = await uow.session.get_one(Order, order_id)
    if of.status is OrderStatus.PENDING:
        with suppress(PaymentDeclined, OutOfStock):  # How it ended; it is in the rows.
            await sale.drive(system, order_id)
    try:
        truth = await provider_named(deps, provider).payment(reference)
    except GatewayTimeout as error:
        raise Unavailable(f"{provider} did not answer.") from error
    if truth is None:
        raise Conflict(f"{provider} does not know the payment {reference}.")
    async with system.begin() as uow:
        await _apply(uow, order_id, PaymentId(known.id), truth)
    return True


async def settle_expired(deps: Deps) -> int:
    """Ask after authorisations whose time is over, in case no webhook came; return how many."""
    names = [name for name, gateway in deps.gateways.items() if isinstance(gateway, Provider)]
    async with deps.acting_as(SYSTEM).begin() as uow:
        query = (
            select(Payment.provider, Payment.provider_reference)
            .where(
                Payment.state == PaymentState.AUTHORIZED,
                col(Payment.provider).in_(names),
                col(Payment.provider_reference).is_not(None),
                col(Payment.expires_at) < uow.now,
            )
            .order_by(col(Payment.expires_at))
            .limit(EXPIRED_BATCH)
        )
        rows = list(await uow.session.exec(query))
    for provider, reference in rows:
        try:
            await settle(deps, provider, reference or "", None)
        except (Unavailable, Conflict) as error:
            log.warning("the payment %s of %s is not settled: %s", reference, provider, error)
    return len(rows)


async def _apply(
    uow: UnitOfWork, order_id: OrderId, payment_id: PaymentId, truth: PaymentTruth
) -> None:
    # Lock order: the order, then its tenders.
    of = await order.locked(uow, order_id)
    tenders = await payment.tenders(uow, order_id)
    tender = next(each for each in tenders if each.id == payment_id)
    if of.status is OrderStatus.PENDING:
        return  # It waits for the shopper, or for its driver.
    if truth.currency != tender.currency:
        raise Conflict(f"The payment is in {truth.currency}, not in {tender.currency}.")
    await _apply_capture(uow, of, tender, truth)
    if tender.state is PaymentState.AUTHORIZED and not truth.is_open:
        _apply_end(uow, of, tender, truth)
    for each in truth.refunds:
        await _apply_refund(uow, of, tender, each)
    await uow.session.flush()
    if of.placed_at is not None:
        of.payment_status = payment.status_of(of, tenders)


async def _apply_capture(uow: UnitOfWork, of: Order, tender: Payment, truth: PaymentTruth) -> None:
    """Book what was captured without us, by hand at the provider."""
    missing = truth.captured_amount - tender.captured_amount
    if missing == 0:
        return
    if await _is_under_way(uow, tender, AttemptKind.CAPTURE):
        raise Unavailable("A capture of ours is under way.")
    if missing < 0 or truth.captured_amount > tender.amount or of.placed_at is None:
        raise Conflict(
            f"The provider captured {truth.captured_amount} of order {of.number}'s payment; "
            f"we have {tender.captured_amount} of {tender.amount}."
        )
    number = await _next_number(uow, tender, AttemptKind.CAPTURE)
    key = await payment.start_attempt(
        uow, PaymentId(tender.id), AttemptKind.CAPTURE, missing, number
    )
    await payment.finish_attempt(uow, key, AttemptState.SUCCEEDED, "made at the provider")
    await payment.record_capture(
        uow,
        of,
        tender,
        missing,
        transaction_id=uuid5(_NAMES, f"capture:{tender.id}:{truth.captured_amount}"),
        is_final=not truth.is_open,
    )


def _apply_end(uow: UnitOfWork, of: Order, tender: Payment, truth: PaymentTruth) -> None:
    """Note that an authorisation is gone: run out, voided by hand, or captured to its end."""
    ids = {"order_id": OrderId(of.id), "payment_id": PaymentId(tender.id)}
    tender.updated_at = uow.now
    if truth.standing is Standing.CAPTURED:
        tender.state = PaymentState.CAPTURED
    elif truth.standing is Standing.EXPIRED or tender.captured_amount:
        tender.state = PaymentState.EXPIRED
        uow.publish(PaymentExpired(**ids))
    elif truth.standing is Standing.VOIDED:
        tender.state = PaymentState.VOIDED
        uow.publish(PaymentVoided(**ids))


async def _apply_refund(uow: UnitOfWork, of: Order, tender: Payment, truth: RefundTruth) -> None:
    part = await _part_of(uow, tender, truth)
    if part is not None:
        if truth.standing is RefundStanding.FAILED and part.state is RefundState.SUCCEEDED:
            await _take_back(uow, of, tender, part)
        return
    is_ours = truth.key is not None and await _attempt(uow, tender, truth.key) is not None
    if is_ours or truth.standing is not RefundStanding.SUCCEEDED:
        return
    try:
        whole = await refund.request(
            uow,
            of,
            amount=truth.amount,
            reason="given back at the provider",
            is_given=True,
            refund_id=uuid5(_NAMES, f"refund:{tender.provider}:{truth.reference}"),
        )
    except NotRefundable as error:
        # Refunds of ours that are under way have reserved it; if they have not, a person looks.
        raise Unavailable(f"A refund at the provider does not fit: {error}") from error
    parts = await parts_of(uow, whole.id)
    if [(each.payment_id, each.amount) for each in parts] != [(tender.id, truth.amount)]:
        raise Conflict(f"Refund {truth.reference} cannot be told apart among several payments.")
    outcome = Outcome(OutcomeStatus.APPROVED, truth.reference, truth.amount, of.currency)
    await refund_process.record(uow, parts[0].id, outcome)


async def _take_back(uow: UnitOfWork, of: Order, tender: Payment, part: RefundPart) -> None:
    """Undo the books of a refund that the bank returned, so that staff can send it another way."""
    entries = await uow.session.exec(
        select(LedgerEntry).where(LedgerEntry.transaction_id == part.id)
    )
    await payment.post(
        uow,
        payment.derived(part.id, 1),
        OrderId(of.id),
        of.currency,
        {entry.account: -entry.amount for entry in entries},
    )
    part.state, part.failure = RefundState.FAILED, "returned_by_bank"
    tender.refunded_amount -= part.amount
    tender.updated_at = uow.now
    whole = await uow.session.get_one(Refund, part.refund_id, with_for_update=True)
    whole.state = RefundState.FAILED
    key = payment.attempt_key(PaymentId(tender.id), AttemptKind.REFUND, part.attempt_number)
    await payment.finish_attempt(uow, key, AttemptState.FAILED, "returned_by_bank")
    uow.publish(
        RefundFailed(
            order_id=OrderId(of.id),
            refund_id=part.refund_id,
            payment_id=PaymentId(tender.id),
            amount=part.amount,
            currency=of.currency,
            code="returned_by_bank",
        )
    )


async def _part_of(uow: UnitOfWork, tender: Payment, truth: RefundTruth) -> RefundPart | None:
    query = select(RefundPart).where(
        RefundPart.payment_id == tender.id, RefundPart.provider_reference == truth.reference
    )
    return (await uow.session.exec(query)).first()


async def _attempt(uow: UnitOfWork, tender: Payment, key: str) -> PaymentAttempt | None:
    query = select(PaymentAttempt).where(
        PaymentAttempt.payment_id == tender.id, PaymentAttempt.key == key
    )
    return (await uow.session.exec(query)).first()


async def _is_under_way(uow: UnitOfWork, tender: Payment, kind: AttemptKind) -> bool:
    query = select(PaymentAttempt.id).where(
        PaymentAttempt.payment_id == tender.id,
        PaymentAttempt.kind == kind,
        col(PaymentAttempt.state).in_(_UNDER_WAY),
    )
    return (await uow.session.exec(query)).first() is not None


async def _next_number(uow: UnitOfWork, tender: Payment, kind: AttemptKind) -> int:
    query = select(func.max(PaymentAttempt.number)).where(
        PaymentAttempt.payment_id == tender.id, PaymentAttempt.kind == kind
    )
    return ((await uow.session.exec(query)).one() or 0) + 1
