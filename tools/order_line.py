"""The lines of an order as it is sold now, and how some of their units become something else."""

from collections.abc import Sequence
from typing import Any, Protocol
from uuid import UUID

from sqlmodel import select

from db.models.order import Order, OrderLine
from db.models.payment import Account
from db.types import OrderId
from deps.core import UnitOfWork
from tools import payment, product, total
from tools.line_change import Change
from tools.total import Total


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


def difference(of: Order, changes: Sequence[Change]) -> int:
    """Return what an order comes to after a change more, or less, than it does now."""
    goods = sum(change.difference_amount for change in changes)
    return total.after_change(of, goods).total_amount - of.total_amount


async def replace(
    uow: UnitOfWork,
    of: Order,
    changes: Sequence[LineVersion],
    *,
    change_id: UUID,
    difference_amount: int,
) -> int:
    """Let units of an order's lines be other variants; move its totals with them, and its books.
    Return by how much the order costs more, or less.

    A line that changes as a whole stays in its place; otherwise the changed units become a line of
    their own. The tenders settle what is owed.

    Args:
        difference_amount: What was promised as the price of it; it is kept, unless goods would cost
            less than nothing.
    """
    query = select(OrderLine).where(OrderLine.order_id == of.id).with_for_update()
    lines = {line.id: line for line in await uow.session.exec(query)}
    sold = await product.variants_of(uow, {change.new_sku for change in changes})
    goods = 0
    for change in changes:
        line = lines[change.line_id]
        goods += (change.new_unit_price_amount - line.unit_price_amount) * change.quantity
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
    before = of.total_amount
    await _reprice(uow, of, change_id, total.after_promise(of, goods, difference_amount))
    of.version += 1
    await uow.session.flush()
    return of.total_amount - before


async def _reprice(uow: UnitOfWork, of: Order, change_id: UUID, new: Total) -> None:
    """Book that an order sells for more, or less, than it did."""
    moved = {
        Account.RECEIVABLE: new.total_amount - of.total_amount,
        Account.REVENUE: of.subtotal_amount - of.discount_amount - new.goods_amount,
        Account.TAX_PAYABLE: of.tax_amount - new.tax_amount,
    }
    of.subtotal_amount, of.discount_amount = new.subtotal_amount, new.discount_amount
    of.tax_amount, of.total_amount = new.tax_amount, new.total_amount
    if any(moved.values()):
        await payment.post(uow, change_id, OrderId(of.id), of.currency, moved)
