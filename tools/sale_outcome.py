"""What came of a call to a gateway, written into the tender's rows: once, whoever brings it.

Each function writes an answer down and decides nothing; a call that the provider still decides on
leaves things as they are. `tools.sale` reads from the rows what is next.
"""

from typing import Final

from db.models.order import Order, PaymentStatus
from db.models.payment import AttemptKind, AttemptState, Payment, PaymentState
from db.types import OrderId, PaymentId
from deps.core import UnitOfWork
from deps.gateway import Outcome, OutcomeStatus
from tools import inventory, payment
from tools.events import (
    PaymentActionRequired,
    PaymentAuthorized,
    PaymentExpired,
    PaymentFailed,
    PaymentVoided,
)

OPEN = (PaymentState.CREATED, PaymentState.UNKNOWN, PaymentState.REQUIRES_ACTION)


async def authorization(uow: UnitOfWork, found: Order, tender: Payment, outcome: Outcome) -> None:
    """Write what came of authorising a tender. One that the provider still decides on is unknown,
    and has its reference already: webhooks name it, and it is asked for by it."""
    if tender.state not in OPEN:
        return
    tender.updated_at, order_id = uow.now, OrderId(found.id)
    tender.provider_reference = outcome.reference or tender.provider_reference
    tender.action, tender.expires_at = outcome.action, outcome.expires_at
    key = payment.attempt_key(PaymentId(tender.id), AttemptKind.AUTHORIZE)
    if outcome.status is OutcomeStatus.PENDING:
        tender.state = PaymentState.UNKNOWN
        return
    if outcome.status is OutcomeStatus.REQUIRES_ACTION:
        if tender.state is not PaymentState.REQUIRES_ACTION:
            tender.state = PaymentState.REQUIRES_ACTION
            found.payment_status = PaymentStatus.REQUIRES_ACTION
            await inventory.extend(uow, order_id=order_id)  # The shopper is busy authenticating.
            uow.publish(PaymentActionRequired(order_id=order_id, payment_id=PaymentId(tender.id)))
        return
    if not outcome.approved:
        code = outcome.decline_code or "declined"
        await payment.finish_attempt(uow, key, AttemptState.FAILED, code)
        tender.state, tender.decline_code = PaymentState.DECLINED, code
        uow.publish(PaymentFailed(order_id=order_id, payment_id=PaymentId(tender.id), code=code))
        return
    await payment.finish_attempt(uow, key, AttemptState.SUCCEEDED)
    tender.state = PaymentState.AUTHORIZED
    uow.publish(
        PaymentAuthorized(
            order_id=order_id,
            payment_id=PaymentId(tender.id),
            amount=outcome.amount,
            currency=outcome.currency,
        )
    )
    if (outcome.amount, outcome.currency) != (tender.amount, tender.currency):
        tender.decline_code = "amount_mismatch"


async def capture(uow: UnitOfWork, found: Order, tender: Payment, outcome: Outcome) -> None:
    if tender.state is not PaymentState.AUTHORIZED or outcome.status is OutcomeStatus.PENDING:
        return
    key = payment.attempt_key(PaymentId(tender.id), AttemptKind.CAPTURE)
    tender.updated_at = uow.now
    if not outcome.approved or outcome.amount != tender.amount:
        code = outcome.decline_code or "amount_mismatch"
        await payment.finish_attempt(uow, key, AttemptState.FAILED, code)
        tender.decline_code = code
        uow.publish(
            PaymentFailed(order_id=OrderId(found.id), payment_id=PaymentId(tender.id), code=code)
        )
        taken = min(outcome.amount, tender.amount) if outcome.approved else 0
        if taken > 0:
            # Another amount than asked for, and yet it was taken: book it, so that it goes back.
            await payment.record_capture(uow, found, tender, taken, transaction_id=tender.id)
        return
    await payment.finish_attempt(uow, key, AttemptState.SUCCEEDED)
    await payment.record_capture(uow, found, tender, outcome.amount, transaction_id=tender.id)


async def void(uow: UnitOfWork, found: Order, tender: Payment, outcome: Outcome) -> None:
    is_open = tender.state in (PaymentState.AUTHORIZED, PaymentState.REQUIRES_ACTION)
    if not is_open or outcome.status is OutcomeStatus.PENDING:
        return
    attempt = await payment.last_attempt(uow, PaymentId(tender.id), AttemptKind.VOID)
    assert attempt is not None, "a void is written before it is asked for"
    ids = {"order_id": OrderId(found.id), "payment_id": PaymentId(tender.id)}
    if outcome.approved:
        await payment.finish_attempt(uow, attempt.key, AttemptState.SUCCEEDED)
        tender.state, tender.updated_at = PaymentState.VOIDED, uow.now
        uow.publish(PaymentVoided(**ids))
        return
    code = outcome.decline_code or "refused"
    if attempt.state is not AttemptState.FAILED:
        await payment.finish_attempt(uow, attempt.key, AttemptState.FAILED, code)
        uow.publish(PaymentFailed(**ids, code="void_refused"))
    if tender.expires_at is not None and tender.expires_at <= uow.now:
        # What has lapsed reserves nothing any more, whatever the provider says.
        tender.state, tender.updated_at = PaymentState.EXPIRED, uow.now
        uow.publish(PaymentExpired(**ids))


async def give_back(uow: UnitOfWork, found: Order, tender: Payment, outcome: Outcome) -> None:
    """Book that what a tender of a sale that is undone brought went back whole."""
    owed = tender.captured_amount - tender.refunded_amount
    if outcome.status is OutcomeStatus.PENDING:
        return
    attempt = await payment.last_attempt(uow, PaymentId(tender.id), AttemptKind.REFUND)
    assert attempt is not None, "a refund is written before it is asked for"
    if not outcome.approved:
        code = outcome.decline_code or "refused"
        await payment.finish_attempt(uow, attempt.key, AttemptState.FAILED, code)
    elif owed:
        await payment.finish_attempt(uow, attempt.key, AttemptState.SUCCEEDED)
        await payment.record_refund(
            uow, found, tender, owed, transaction_id=payment.derived(tender.id, 1)
        )


WRITERS: Final = {
    AttemptKind.AUTHORIZE: authorization,
    AttemptKind.CAPTURE: capture,
    AttemptKind.VOID: void,
    AttemptKind.REFUND: give_back,
}
