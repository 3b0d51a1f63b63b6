"""Receipts: what an order cost and how it was paid. They are no tax invoices."""

from datetime import datetime

from pydantic import BaseModel, ConfigDict
from sqlmodel import col, select

from db.models.order import Order
from db.models.payment import Payment, PaymentState
from deps.core import UnitOfWork
from tools import order
from tools.errors import NotFound
from tools.order import OrderLineView
from tools.registry import Risk, operation


class Tender(BaseModel):
    model_config = ConfigDict(from_attributes=True)

    provider: str
    amount: int
    captured_amount: int
    refunded_amount: int


class Receipt(BaseModel):
    """Amounts are minor units of `currency`."""

    number: int
    seller: str
    ordered_at: datetime
    currency: str
    lines: list[OrderLineView]
    subtotal_amount: int
    discount_amount: int
    shipping_amount: int
    tax_amount: int
    total_amount: int
    captured_amount: int
    refunded_amount: int
    tenders: list[Tender]


@operation(
    scope="order:read",
    risk=Risk.READ,
    idempotent=True,
    examples=(
        "show the receipt of order {number}",
        "get the bill for order {number}",
        "what did i pay for order {number}",
        "find my invoice",
        "my last receipt",
    ),
)
async def show(uow: UnitOfWork, number: int | None = None) -> Receipt:
    """Show what an order cost, line by line, and how it was paid.

    Args:
        number: The order's number; without it, one's newest order.

    Raises:
        NotFound: No such order, someone else's, or no order yet.
    """
    if number is None:
        newest = (await order.list_mine(uow, limit=1)).items
        if not newest:
            raise NotFound("There is no order yet.")
        number = newest[0].number
    found = await order.access(uow, number)
    return await _receipt(uow, found)


async def _receipt(uow: UnitOfWork, of: Order) -> Receipt:
    shown = await order.view(uow, of)
    declined = (PaymentState.DECLINED, PaymentState.VOIDED, PaymentState.EXPIRED)
    payments = await uow.session.exec(
        select(Payment)
        .where(Payment.order_id == of.id, col(Payment.state).not_in(declined))
        .order_by(col(Payment.position), col(Payment.id))
    )
    tenders = [Tender.model_validate(payment) for payment in payments]
    return Receipt(
        number=of.number,
        seller=uow.settings.shop_name,
        ordered_at=of.placed_at or of.created_at,
        currency=of.currency,
        lines=shown.lines,
        subtotal_amount=of.subtotal_amount,
        discount_amount=of.discount_amount,
        shipping_amount=of.shipping_amount,
        tax_amount=of.tax_amount,
        total_amount=of.total_amount,
        captured_amount=sum(tender.captured_amount for tender in tenders),
        refunded_amount=sum(tender.refunded_amount for tender in tenders),
        tenders=tenders,
    )
