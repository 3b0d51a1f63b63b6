"""The lines of an order as it is sold now, and how some of their units become something else."""

from collections.abc import Sequence
from typing import Any, Protocol
from uuid import UUID

from sqlmodel import select

from db.models.order import Order, OrderLine
from db.models.payment import Account
from db.types import OrderId
from deps.core import UnitOfWork
from tools import payment, product
from tools.line_change import Change


class LineVersion(Protocol):
    """What an edit and an exchange keep of a line they change."""

    line_id: UUID
    sku: str
    new_sku: str
    new_unit_price_amount: int
    quantity: int


def version(change: Change) -> dict[str, Any]:
    """Return the columns that record units of a line before and after a change."""
    return {
        "sku": change.line.sku,
        "unit_price_amount": change.line.unit_price_amount,
        "new_sku": change.new.sku,
        "new_unit_price_amount": change.new.price_amount,
        "quantity": change.quantity,
    }


async def replace(uow: UnitOfWork, of: Order, changes: Sequence[LineVersion]) -> None:
    """Let units of an order's lines be other variants, and move the order's totals with them.

    A line that changes as a whole stays in its place; otherwise the changed units become a line of
    their own.
    """
    query = select(OrderLine).where(OrderLine.order_id == of.id).with_for_update()
    lines = {line.id: line for line in await uow.session.exec(query)}
    sold = await product.variants_of(uow, {change.new_sku for change in changes})
    difference = 0
    for change in changes:
        line = lines[change.line_id]
        difference += (change.new_unit_price_amount - line.unit_price_amount) * change.quantity
        if change.quantity == line.quantity:
            changed = line
        else:
            assert change.quantity < line.quantity
            line.quantity -= change.quantity
            line.total_amount = line.unit_price_amount * line.quantity
            changed = OrderLine(
                order_id=line.order_id,
                sku=line.sku,
                product_id=line.product_id,
                title=line.title,
                quantity=change.quantity,
                unit_price_amount=line.unit_price_amount,
                total_amount=line.unit_price_amount * change.quantity,
            )
            uow.session.add(changed)
        changed.sku = change.new_sku
        variant, of_product = sold[change.new_sku]
        changed.title = product.full_title(of_product.title, variant.title)
        changed.unit_price_amount = change.new_unit_price_amount
        changed.total_amount = change.new_unit_price_amount * changed.quantity
    of.subtotal_amount += difference
    of.total_amount += difference
    of.version += 1
    await uow.session.flush()


async def post_change(uow: UnitOfWork, of: Order, change_id: UUID, difference: int) -> None:
    """Book that an order sells for more, or less, than it did; the tenders settle what is owed."""
    if difference:
        await payment.post(
            uow,
            change_id,
            OrderId(of.id),
            of.currency,
            {Account.RECEIVABLE: difference, Account.REVENUE: -difference},
        )
