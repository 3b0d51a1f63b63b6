"""Refunds as people see them: one, those of an order, and the shop's."""

from collections.abc import Mapping
from datetime import datetime
from enum import StrEnum
from typing import Final, Literal
from uuid import UUID

from pydantic import AwareDatetime, BaseModel, Field
from sqlmodel import col, select

from db.models.order import Order
from db.models.payment import Payment
from db.models.refund import Refund, RefundKind, RefundPart, RefundState
from db.types import Money
from deps.core import UnitOfWork
from tools import notification, order, payment, refund_plan
from tools.errors import NotFound
from tools.page import Ordering, Page, aware, read_page
from tools.refund_share import Breakdown
from tools.registry import Risk, operation

SHOWN_MAX: Final = 100
Destination = Literal["original", "store_credit"]


class RefundPartView(BaseModel):
    """What one tender gives back. `amount` is minor units."""

    payment_id: UUID
    provider: str
    amount: int
    state: RefundState
    to: Destination
    failure: str = Field(default="", description="Why it failed, in the provider's words.")


class RefundView(BaseModel):
    """A refund. Amounts are minor units of `currency`."""

    id: UUID
    order_number: int
    kind: RefundKind
    state: RefundState
    amount: int
    currency: str
    reason: str
    breakdown: Breakdown
    parts: list[RefundPartView]
    created_at: datetime
    finished_at: datetime | None


class RefundSummary(BaseModel):
    id: UUID
    order_number: int
    state: RefundState
    amount: int
    currency: str
    reason: str
    created_at: datetime
    finished_at: datetime | None


class RefundOrder(StrEnum):
    """How refunds are listed."""

    NEWEST = "newest"
    OLDEST = "oldest"
    LARGEST = "largest"


SORTS: Mapping[RefundOrder, Ordering] = {
    RefundOrder.NEWEST: Ordering((Refund.created_at, Refund.id)),
    RefundOrder.OLDEST: Ordering((Refund.created_at, Refund.id), is_descending=False),
    RefundOrder.LARGEST: Ordering((Refund.amount, Refund.id)),
}


async def view(uow: UnitOfWork, row: Refund) -> RefundView:
    of = await uow.session.get_one(Order, row.order_id)
    parts = [
        _part_view(part, await uow.session.get_one(Payment, part.payment_id))
        for part in await refund_plan.parts_of(uow, row.id)
    ]
    assert of.number is not None
    return RefundView(
        id=row.id,
        order_number=of.number,
        kind=row.kind,
        state=row.state,
        amount=row.amount,
        currency=row.currency,
        reason=row.reason,
        breakdown=Breakdown.model_validate(row.breakdown),
        parts=parts,
        created_at=row.created_at,
        finished_at=row.finished_at,
    )


def _part_view(part: RefundPart, tender: Payment) -> RefundPartView:
    return RefundPartView(
        payment_id=part.payment_id,
        provider=tender.provider,
        amount=part.amount,
        state=part.state,
        to="original" if part.credit_account_id is None else "store_credit",
        failure=part.failure,
    )


async def access(uow: UnitOfWork, refund_id: UUID) -> Refund:
    """Load a refund on the actor's behalf: of an order they may see.

    Raises:
        NotFound: No such refund, or of someone else's order. The two must be indistinguishable.
    """
    row = await uow.session.get(Refund, refund_id, populate_existing=True)
    of = None if row is None else await uow.session.get(Order, row.order_id)
    if row is None or of is None or of.number is None:
        raise NotFound("No such refund.")
    try:
        await order.access(uow, of.number)
    except NotFound:
        raise NotFound("No such refund.") from None
    return row


async def queue_mail(uow: UnitOfWork, refund_id: UUID) -> None:
    """Queue the mail that says what went back and where to; once per refund."""
    row = await uow.session.get_one(Refund, refund_id)
    of = await uow.session.get_one(Order, row.order_id)
    shown = await view(uow, row)
    goods = "".join(f"  {line.quantity} x {line.title}\n" for line in shown.breakdown.lines)
    ways = "".join(f"  {Money(part.amount, row.currency)} {_way(part)}\n" for part in shown.parts)
    body = (
        f"We refunded {Money(row.amount, row.currency)} of your order {of.number}.\n\n"
        + (f"For:\n{goods}\n" if goods else "")
        + f"It went:\n{ways}\n"
        + "Banks may take some days to show it.\n\n"
        + f"{uow.settings.shop_name}\n"
    )
    await notification.queue(
        uow,
        key=f"refund:{row.id}",
        template="refund",
        recipient=of.email,
        subject=f"Refund for your order {of.number}",
        body=body,
        customer_id=of.customer_id,
    )


def _way(part: RefundPartView) -> str:
    if part.to == "store_credit":
        return "to your store credit"
    if part.provider == payment.CREDIT_PROVIDER:
        return "back to the gift card or credit you paid with"
    return "back to the way you paid"


@operation(
    domain="refund",
    scope="order:read",
    risk=Risk.READ,
    idempotent=True,
    examples=(
        "show refund {refund_id}",
        "what became of refund {refund_id}",
        "status of the refund {refund_id}",
        "did refund {refund_id} go through",
    ),
)
async def get(uow: UnitOfWork, refund_id: UUID) -> RefundView:
    """Show a refund with its parts and what it consists of.

    Args:
        refund_id: The refund.

    Raises:
        NotFound: No such refund, or of someone else's order.
    """
    return await view(uow, await access(uow, refund_id))


@operation(
    domain="refund",
    scope="order:read",
    risk=Risk.READ,
    idempotent=True,
    examples=(
        "was order {number} refunded",
        "show the refunds of order {number}",
        "where is my money for order {number}",
        "when do i get the refund for order {number}",
    ),
)
async def list_for_order(uow: UnitOfWork, number: int) -> list[RefundView]:
    """List the refunds of an order, newest first.

    Args:
        number: The order's number.

    Raises:
        NotFound: No such order, or it is someone else's.
    """
    of = await order.access(uow, number)
    query = (
        select(Refund)
        .where(Refund.order_id == of.id)
        .order_by(col(Refund.id).desc())
        .limit(SHOWN_MAX)
    )
    return [await view(uow, row) for row in await uow.session.exec(query)]


@operation(
    domain="refund",
    scope="payment:read",
    risk=Risk.READ,
    idempotent=True,
    examples=(
        "show the latest refunds",
        "which refunds failed",
        "list {state} refunds",
        "which refunds wait for approval",
        "show the largest refunds",
    ),
)
async def list_all(
    uow: UnitOfWork,
    state: RefundState | None = None,
    since: AwareDatetime | None = None,
    amount_min: int | None = None,
    sort: RefundOrder = RefundOrder.NEWEST,
    limit: int = 20,
    cursor: str | None = None,
) -> Page[RefundSummary]:
    """List the shop's refunds (staff).

    Args:
        state: awaiting_approval, rejected, pending, succeeded or failed.
        since: Only those requested at or after this time.
        amount_min: Only those of at least so much, in minor units.
        sort: newest, oldest or largest first.
        limit: How many to return, 1 to 100.
        cursor: `next_cursor` of the page before.
    """
    query = select(Refund, Order.number).join(Order, col(Order.id) == col(Refund.order_id))
    if state is not None:
        query = query.where(Refund.state == state)
    if since is not None:
        query = query.where(col(Refund.created_at) >= aware(since, "since"))
    if amount_min is not None:
        query = query.where(col(Refund.amount) >= amount_min)
    return await read_page(uow, query, SORTS[sort], _summary, limit, cursor)


def _summary(row: tuple[Refund, int | None]) -> RefundSummary:
    found, number = row
    return RefundSummary(
        id=found.id,
        order_number=number or 0,
        state=found.state,
        amount=found.amount,
        currency=found.currency,
        reason=found.reason,
        created_at=found.created_at,
        finished_at=found.finished_at,
    )
