"""Refunds: give money of an order back, to the tenders that brought it or as store credit.

    request   one transaction: shares, tenders, the intent of each call    undo: reject
    drive     each part at its gateway, in `tools.refund_process`          undo: none

What a refund may take is reserved on its tenders when it is requested (`payment.refunding_amount`,
under a CHECK), so parallel refunds never pass what was captured, whatever their drivers do later.

Money goes back last charged first: a sale charges credits first and the card last, so what was paid
with real money returns as real money before a balance with us is topped up again. That is what
payers are owed by card schemes' rules, and it leaves the shop no way to swap cash for credit; who
wants credit asks for it (`to="store_credit"`).
"""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, Literal
from uuid import UUID

from sqlalchemy import func
from sqlmodel import select

from db.models.order import Order
from db.models.payment import (
    AttemptKind,
    AttemptState,
    Payment,
    PaymentAttempt,
    StoredMethod,
)
from db.models.refund import Refund, RefundKind, RefundPart, RefundState
from db.types import OrderId, PaymentId, UserId, new_id
from deps.core import UnitOfWork
from deps.settings import Settings
from tools import credit_account, order, payment
from tools.errors import Conflict, InvalidInput, NotRefundable
from tools.events import RefundRequested
from tools.refund_plan import DISPUTED, is_overdrawn, over, parts_of, refundable, share

Target = Literal["original", "store_credit"] | UUID | StoredMethod
"""Where money goes: back the way it came, to the customer's store credit, to one account, or paid
out to another of the customer's methods (`tools.payout`)."""


def approver_needed(settings: Settings, amount: int) -> bool:
    """Say whether `amount`, in minor units, is more than one person may give back alone."""
    return amount > settings.refund_approval_amount


async def request(
    uow: UnitOfWork,
    of: Order,
    *,
    reason: str,
    amount: int | None = None,
    lines: Mapping[str, int] | None = None,
    shipping_amount: int = 0,
    to: Target = "original",
    first: Sequence[PaymentId] = (),
    kind: RefundKind = RefundKind.REFUND,
    refund_id: UUID | None = None,
    second_person_above: int | None = None,
    is_given: bool = False,
) -> Refund:
    """Write down what is to be given back, and reserve it. `drive` then does it.

    With neither `amount` nor `lines`, everything that is left goes back. Lines and shipping are cut
    to what earlier refunds left; an amount is refused when it is more. The caller has decided that
    the order may be refunded; `tools.refund_desk` does for people.

    Args:
        of: Locked here, then its tenders: the lock order that everybody uses.
        amount: Minor units of the order's currency.
        lines: Units by SKU.
        shipping_amount: How much of the shipping goes back with `lines`.
        to: See `Target`.
        first: Tenders that give back before the others do, in this order.
        kind: An `ADJUSTMENT` pays out what an edit made the order cheaper, which the ledger holds
            as receivable; it leaves revenue and tax alone. Give its `amount`.
        refund_id: The caller's own id, which makes a repetition return the first refund.
        second_person_above: A refund of more reserves only, and waits for `decide`.
        is_given: The provider did it already, whatever disputes hold back.

    Raises:
        NotRefundable: More than is left of the captured money, units or shipping.
        InvalidInput: `refund_id` was used for another refund, or the order has no customer to
            credit.
    """
    found = await order.locked(uow, OrderId(of.id))
    tenders = await payment.tenders(uow, OrderId(found.id))
    asked: dict[str, Any] = {
        "amount": amount,
        "lines": dict(lines) if lines is not None else None,
        "shipping_amount": shipping_amount,
    }
    told = asked | {"to": _named(to), "kind": kind.value}
    known = None if refund_id is None else await uow.session.get(Refund, refund_id)
    if known is not None:
        if known.order_id != found.id or known.breakdown.get("asked") != told:
            raise InvalidInput("This id belongs to another refund.", field="refund_id")
        return known
    breakdown = await share(uow, found, tenders, **asked, kind=kind, is_given=is_given)
    is_free = second_person_above is None or breakdown.total_amount <= second_person_above
    created = Refund(
        id=refund_id or new_id(),
        order_id=OrderId(found.id),
        kind=kind,
        amount=breakdown.total_amount,
        currency=found.currency,
        reason=reason,
        state=RefundState.PENDING if is_free else RefundState.AWAITING_APPROVAL,
        breakdown=breakdown.model_dump(mode="json") | {"asked": told},
        requested_by=uow.actor.user_id,
        created_at=uow.now,
    )
    await _write(uow, created, found, to, over(tenders, created.amount, first, is_given=is_given))
    return created


def _named(to: Target) -> str:
    return f"method {to.id}" if isinstance(to, StoredMethod) else str(to)


async def request_rest(uow: UnitOfWork, of: Order, reason: str) -> Refund | None:
    """Ask for all that is left of an order's money, if anything is."""
    tenders = await payment.tenders(uow, OrderId(of.id))
    if not any(refundable(tender) for tender in tenders):
        return None
    return await request(uow, of, reason=reason)


async def _write(
    uow: UnitOfWork, created: Refund, of: Order, to: Target, parts: Sequence[tuple[Payment, int]]
) -> None:
    method = to if isinstance(to, StoredMethod) else None
    account_id = None if method or to == "original" else await _credited(uow, of, to)
    uow.session.add(created)
    await uow.session.flush()
    for position, (tender, amount) in enumerate(parts):
        await _add_part(uow, created, tender, amount, position, account_id, method)
    await uow.session.flush()
    uow.publish(
        RefundRequested(
            order_id=created.order_id,
            refund_id=created.id,
            amount=created.amount,
            currency=created.currency,
            reason=created.reason,
        )
    )


async def _credited(uow: UnitOfWork, of: Order, to: Target) -> UUID:
    assert not isinstance(to, StoredMethod)
    if isinstance(to, UUID):
        return to
    if of.customer_id is None:
        raise InvalidInput(
            "A guest has no store credit; refund to the original payment.", field="to"
        )
    return (await credit_account.store_account(uow, UserId(of.customer_id), of.currency)).id


async def _add_part(
    uow: UnitOfWork,
    of: Refund,
    tender: Payment,
    amount: int,
    position: int,
    account_id: UUID | None,
    method: StoredMethod | None,
) -> None:
    tender.refunding_amount += amount
    tender.updated_at = uow.now
    part = RefundPart(
        refund_id=of.id,
        payment_id=PaymentId(tender.id),
        position=position,
        amount=amount,
        credit_account_id=account_id,
        method_id=method.id if method else None,
    )
    if account_id is None:
        await _number(uow, part, tender)
    await _let_live(uow, part, tender)
    uow.session.add(part)


async def _let_live(uow: UnitOfWork, part: RefundPart, tender: Payment) -> None:
    """Let the credit that a part goes to live long enough for the money to be spent."""
    account_id = part.credit_account_id
    is_given_back = account_id is None and part.method_id is None
    if is_given_back and tender.provider == payment.CREDIT_PROVIDER:
        account_id = UUID(tender.method_token)
    if account_id is not None:
        await credit_account.prolong(uow, account_id)


async def _number(uow: UnitOfWork, part: RefundPart, tender: Payment) -> None:
    """Give the part's next call its number, hence its key, and write the attempt down."""
    last = await uow.session.scalar(
        select(func.max(PaymentAttempt.number)).where(
            PaymentAttempt.payment_id == tender.id, PaymentAttempt.kind == AttemptKind.REFUND
        )
    )
    part.attempt_number = (last or 0) + 1
    await payment.start_attempt(
        uow, PaymentId(tender.id), AttemptKind.REFUND, part.amount, part.attempt_number
    )


def key_of(part: RefundPart) -> str:
    """Return the key of a part's latest call, by which its attempt is known, too."""
    return payment.attempt_key(part.payment_id, AttemptKind.REFUND, part.attempt_number)


async def decide(uow: UnitOfWork, refund_id: UUID, *, approves: bool) -> Refund:
    """Let a refund that waits go, or free what it reserved. The same decision again changes
    nothing.

    Raises:
        Conflict: It was decided the other way.
        NotRefundable: A bank has taken the money back meanwhile; it can be rejected.
    """
    whole = await _locked(uow, refund_id)
    decided = RefundState.PENDING if approves else RefundState.REJECTED
    if whole.state is not RefundState.AWAITING_APPROVAL:
        was_approved = whole.state is not RefundState.REJECTED
        if was_approved is not approves:
            raise Conflict(f"This refund is {whole.state.value}.", current=whole.state.value)
        return whole
    parts = [
        (part, await payment.locked(uow, part.payment_id)) for part in await parts_of(uow, whole.id)
    ]
    if approves and any(is_overdrawn(tender) for _, tender in parts):
        raise NotRefundable(DISPUTED, refundable_amount=0)
    whole.state, whole.decided_by = decided, uow.actor.user_id
    if not approves:
        whole.finished_at = uow.now
        for part, tender in parts:
            tender.refunding_amount -= part.amount
            part.state = RefundState.REJECTED
            await payment.finish_attempt(uow, key_of(part), AttemptState.FAILED, "rejected")
    await uow.session.flush()
    return whole


async def reopen(uow: UnitOfWork, refund_id: UUID, to: Target = "original") -> Refund:
    """Make the failed parts of a refund pending again, each under a new key; `drive` follows.

    A refusal is final under its key, so the next try is a new attempt; one whose outcome is unknown
    is still pending and needs no reopening.

    Raises:
        NotRefundable: Other refunds took what it needs meanwhile.
        Conflict: It did not fail.
    """
    whole = await _locked(uow, refund_id)
    if whole.state in (RefundState.PENDING, RefundState.SUCCEEDED):
        return whole
    if whole.state is not RefundState.FAILED:
        raise Conflict(f"This refund is {whole.state.value}.", current=whole.state.value)
    of = await uow.session.get_one(Order, whole.order_id)
    method = to if isinstance(to, StoredMethod) else None
    account_id = None if method or to == "original" else await _credited(uow, of, to)
    for part in await parts_of(uow, whole.id):
        if part.state is not RefundState.FAILED:
            continue
        tender = await payment.locked(uow, part.payment_id)
        if part.amount > refundable(tender):
            raise NotRefundable(
                "Other refunds have taken that money meanwhile.",
                refundable_amount=refundable(tender),
            )
        tender.refunding_amount += part.amount
        tender.updated_at = uow.now
        part.state, part.failure, part.credit_account_id = RefundState.PENDING, "", account_id
        part.method_id = method.id if method else None
        if account_id is None:
            await _number(uow, part, tender)
        await _let_live(uow, part, tender)
    whole.state, whole.finished_at = RefundState.PENDING, None
    await uow.session.flush()
    return whole


async def _locked(uow: UnitOfWork, refund_id: UUID) -> Refund:
    """Lock in the one order everybody uses: the order, its tenders, then the refund."""
    whole = await uow.session.get_one(Refund, refund_id)
    await order.locked(uow, OrderId(whole.order_id))
    await payment.tenders(uow, whole.order_id)
    return await uow.session.get_one(
        Refund, refund_id, with_for_update=True, populate_existing=True
    )


def is_within_window(settings: Settings, of: Order, now: datetime) -> bool:
    days = settings.refund_window_days
    return of.placed_at is not None and now <= of.placed_at + timedelta(days=days)
