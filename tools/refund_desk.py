"""Refunds, as people ask for them: what would go back, ask for it, let it pass, follow it.

More than `refund_approval_amount` needs a second person: the money is reserved at once, and moves
when somebody other than who asked approves. That holds over every way in; an agent's pending action
adds its own approval before.
"""

from contextlib import suppress
from uuid import UUID

from pydantic import BaseModel, Field

from db.models.order import Order, OrderStatus
from db.models.refund import Refund, RefundState
from db.types import OrderId, new_id
from deps.core import Deps, UnitOfWork
from tools import idempotency, order, payment, refund, refund_plan, refund_process, remark
from tools.errors import Forbidden, InvalidInput, NotRefundable, Unavailable
from tools.refund_share import Breakdown
from tools.refund_view import Destination, RefundPartView, RefundView, access, view
from tools.registry import Risk, operation

LINES_MAX = 100


class RefundPreview(BaseModel):
    """What a refund would do. An approval binds `refund_id`, so that repeating it pays once."""

    refund_id: UUID
    order_number: int
    refund_amount: int = Field(description="What goes back. Not `amount`, which a person may give.")
    currency: str
    refundable_amount: int = Field(description="All that could go back now.")
    breakdown: Breakdown
    parts: list[RefundPartView]
    needs_second_person: bool


def _check_asked(amount: int | None, lines: dict[str, int] | None, shipping_amount: int) -> None:
    if amount is not None and (lines is not None or shipping_amount):
        raise InvalidInput("Give an amount, or lines and shipping, not both.", field="amount")
    if lines is not None and not (lines or shipping_amount):
        raise InvalidInput("Say which lines, or how much shipping.", field="lines")
    if lines is None and shipping_amount:
        raise InvalidInput("Give `lines`, empty for shipping alone.", field="lines")
    if lines is not None and len(lines) > LINES_MAX:
        raise InvalidInput(f"At most {LINES_MAX} lines at once.", field="lines")


def _check_eligible(uow: UnitOfWork, of: Order) -> None:
    if of.status not in (OrderStatus.PLACED, OrderStatus.COMPLETED):
        raise NotRefundable(
            f"A {of.status.value} order is not refunded by hand.", current=of.status.value
        )
    if not refund.is_within_window(uow.settings, of, uow.now):
        days = uow.settings.refund_window_days
        raise NotRefundable(f"Orders are refunded for {days} days.", window_days=days)


@operation(
    domain="refund",
    scope="order:read",
    risk=Risk.READ,
    idempotent=True,
    examples=(
        "what would be refunded for order {number}",
        "how much of order {number} can be refunded",
        "how much money would i get back for order {number}",
        "preview a refund of {lines} of order {number}",
    ),
)
async def preview(
    uow: UnitOfWork,
    number: int,
    amount: int | None = None,
    lines: dict[str, int] | None = None,
    shipping_amount: int = 0,
    to: Destination = "original",
) -> RefundPreview:
    """Say what a refund would give back, by line and by tender, without doing it.

    Args:
        number: The order's number.
        amount: Minor units; leave out with `lines` left out, too, for all that is left.
        lines: Units by SKU.
        shipping_amount: How much of the shipping, in minor units, with `lines`.
        to: original or store_credit.

    Raises:
        NotFound: No such order, or it is someone else's.
        NotRefundable: The order, its age, or what is left of its money does not allow it.
    """
    _check_asked(amount, lines, shipping_amount)
    of = await order.access(uow, number)
    _check_eligible(uow, of)
    tenders = await payment.read_tenders(uow, OrderId(of.id))
    breakdown = await refund_plan.share(
        uow, of, tenders, amount=amount, lines=lines, shipping_amount=shipping_amount
    )
    total = breakdown.total_amount
    return RefundPreview(
        refund_id=new_id(),
        order_number=number,
        refund_amount=total,
        currency=of.currency,
        refundable_amount=sum(refund_plan.refundable(tender) for tender in tenders),
        breakdown=breakdown,
        parts=[
            RefundPartView(
                payment_id=tender.id,
                provider=tender.provider,
                amount=part,
                state=RefundState.PENDING,
                to=to,
            )
            for tender, part in refund_plan.over(tenders, total)
        ],
        needs_second_person=refund.approver_needed(uow.settings, total),
    )


async def preview_request(
    uow: UnitOfWork,
    number: int,
    reason: str,
    amount: int | None = None,
    lines: dict[str, int] | None = None,
    shipping_amount: int = 0,
    to: Destination = "original",
    refund_id: UUID | None = None,
) -> RefundPreview:
    """Say what `request` would give back, without doing it.

    Raises:
        NotFound: No such order.
        NotRefundable: The order, its age, or what is left of its money does not allow it.
    """
    remark.needed(reason)
    _check_asked(amount, lines, shipping_amount)
    shown = await preview(uow, number, amount, lines, shipping_amount, to)
    return shown.model_copy(update={"refund_id": refund_id or shown.refund_id})


@operation(
    domain="refund",
    scope="payment:write",
    risk=Risk.MONEY,
    idempotent=True,
    preview=preview_request,
    examples=(
        "refund order {number} because {reason}",
        "refund {amount} of order {number}, {reason}",
        "give the money of order {number} back, {reason}",
        "refund {lines} of order {number} because {reason}",
        "refund order {number} to store credit, {reason}",
    ),
)
async def request(
    deps: Deps,
    number: int,
    reason: str,
    amount: int | None = None,
    lines: dict[str, int] | None = None,
    shipping_amount: int = 0,
    to: Destination = "original",
    refund_id: UUID | None = None,
) -> RefundView:
    """Give money of a placed order back. With neither amount nor lines, all that is left.

    The answer may say `pending`: the provider has not answered, and the refund finishes by itself.
    Above the shop's limit it says `awaiting_approval` until another person approves it.

    Args:
        number: The order's number.
        reason: Why, in the person's words.
        amount: Minor units of the order's currency.
        lines: Units by SKU.
        shipping_amount: How much of the shipping, in minor units, with `lines`.
        to: original (the way it was paid) or store_credit.
        refund_id: Leave out: bound when it is proposed, so that the same refund is paid once.

    Raises:
        NotFound: No such order.
        NotRefundable: The order, its age, or what is left of its money does not allow it.
        InvalidInput: A field breaks a rule, or `refund_id` is another refund's.
    """
    reason = remark.needed(reason)
    _check_asked(amount, lines, shipping_amount)
    async with deps.begin() as uow:
        # Refunding twice is not refunding once: the request's key is spent with the effect.
        await idempotency.settle(uow)
        of = await order.access(uow, number, lock=True)
        if refund_id is None or await uow.session.get(Refund, refund_id) is None:
            _check_eligible(uow, of)
        asked = await refund.request(
            uow,
            of,
            reason=reason,
            amount=amount,
            lines=lines,
            shipping_amount=shipping_amount,
            to=to,
            refund_id=refund_id,
            second_person_above=uow.settings.refund_approval_amount,
        )
    return await _driven(deps, asked.id)


async def _driven(deps: Deps, refund_id: UUID) -> RefundView:
    with suppress(Unavailable):  # It is pending then, says so, and finishes by itself.
        await refund_process.drive(deps, refund_id)
    async with deps.begin() as uow:
        return await view(uow, await access(uow, refund_id))


class RefundDecision(RefundView):
    """A refund that is to be paid, and how much of it still is."""

    refund_amount: int


def _to_pay(shown: RefundView) -> RefundDecision:
    unpaid = [part.amount for part in shown.parts if part.state is not RefundState.SUCCEEDED]
    return RefundDecision(**dict(shown), refund_amount=sum(unpaid))


async def preview_retry(
    uow: UnitOfWork, refund_id: UUID, to: Destination = "original"
) -> RefundDecision:
    """Show the refund that would be tried again.

    Raises:
        NotFound: No such refund.
    """
    return _to_pay(await view(uow, await access(uow, refund_id)))


async def preview_rejection(uow: UnitOfWork, refund_id: UUID) -> RefundView:
    """Show the refund that would be rejected.

    Raises:
        NotFound: No such refund.
    """
    return await view(uow, await access(uow, refund_id))


@operation(
    domain="refund",
    scope="payment:write",
    risk=Risk.MONEY,
    idempotent=True,
    preview=preview_retry,
    examples=(
        "retry refund {refund_id}",
        "try the failed refund {refund_id} again",
        "send refund {refund_id} to store credit instead",
        "repeat refund {refund_id}",
    ),
)
async def retry(deps: Deps, refund_id: UUID, to: Destination = "original") -> RefundView:
    """Try the failed parts of a refund again, or send them to store credit instead.

    One that is pending is asked for under its old key: it never pays twice.

    Args:
        refund_id: The refund.
        to: original or store_credit.

    Raises:
        NotFound: No such refund.
        Conflict: It waits for approval, or was rejected.
        NotRefundable: Other refunds have taken its money meanwhile.
    """
    async with deps.begin() as uow:
        await refund.reopen(uow, (await access(uow, refund_id)).id, to)
    return await _driven(deps, refund_id)


async def preview_approval(uow: UnitOfWork, refund_id: UUID) -> RefundDecision:
    """Show the refund that would be paid.

    Raises:
        NotFound: No such refund.
        Forbidden: Who asked for it cannot approve it.
    """
    row = await access(uow, refund_id)
    _check_second_person(uow, row)
    return _to_pay(await view(uow, row))


def _check_second_person(uow: UnitOfWork, row: Refund) -> None:
    if uow.actor.user_id is None or row.requested_by == uow.actor.user_id:
        raise Forbidden("Another person than the one who asked has to approve this refund.")


@operation(
    domain="refund",
    scope="payment:write",
    risk=Risk.MONEY,
    idempotent=True,
    preview=preview_approval,
    examples=(
        "approve refund {refund_id}",
        "let refund {refund_id} go out",
        "release the refund {refund_id}",
        "i approve the refund {refund_id}",
    ),
)
async def approve(deps: Deps, refund_id: UUID) -> RefundView:
    """Approve a refund that another person asked for, and pay it.

    Args:
        refund_id: The refund.

    Raises:
        NotFound: No such refund.
        Forbidden: Who asked for it cannot approve it.
        Conflict: It was rejected.
        NotRefundable: A bank has taken the money back meanwhile.
    """
    async with deps.begin() as uow:
        row = await access(uow, refund_id)
        _check_second_person(uow, row)
        await refund.decide(uow, row.id, approves=True)
    return await _driven(deps, refund_id)


@operation(
    domain="refund",
    scope="payment:write",
    risk=Risk.IRREVERSIBLE,
    idempotent=True,
    preview=preview_rejection,
    examples=(
        "reject refund {refund_id}",
        "do not pay refund {refund_id}",
        "decline the refund request {refund_id}",
        "withdraw refund {refund_id}",
    ),
)
async def reject(uow: UnitOfWork, refund_id: UUID) -> RefundView:
    """Reject a refund that waits for approval: nothing is paid, and its money is free again.

    Args:
        refund_id: The refund.

    Raises:
        NotFound: No such refund.
        Conflict: It was approved.
    """
    row = await access(uow, refund_id)
    return await view(uow, await refund.decide(uow, row.id, approves=False))
