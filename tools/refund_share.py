"""What a refund consists of: the shares of lines, discount, shipping and tax in an amount.

Pure arithmetic, in minor units. Every share is taken from what is left of its whole, so the pieces
of anything refunded in full sum to the whole to the cent, whatever the pieces and their order.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from uuid import UUID

from pydantic import BaseModel, Field

from db.types import Money


class LineShare(BaseModel):
    """Some units of one line: their price, the discount taken off it, and the tax put on it."""

    line_id: UUID
    sku: str
    title: str
    quantity: int
    price_amount: int
    discount_amount: int
    tax_amount: int

    @property
    def goods_amount(self) -> int:
        return self.price_amount - self.discount_amount


class Breakdown(BaseModel):
    """A refund's amount by what it is for. Kept with the refund, and what the ledger posts."""

    lines: list[LineShare] = []
    goods_amount: int = Field(default=0, description="Price of the goods less their discount.")
    shipping_amount: int = 0
    tax_amount: int = 0
    shipping_tax_amount: int = Field(default=0, description="Of `tax_amount`, what shipping bore.")
    adjustment_amount: int = Field(
        default=0, description="Owed since an edit made the order cheaper; no revenue is undone."
    )

    @property
    def total_amount(self) -> int:
        return sum(self.parts)

    @property
    def parts(self) -> tuple[int, int, int, int]:
        return (
            self.goods_amount,
            self.shipping_amount,
            self.tax_amount,
            self.adjustment_amount,
        )


@dataclass(frozen=True, slots=True)
class SoldLine:
    """A line as sold, with its shares of the order's discount and tax."""

    id: UUID
    sku: str
    title: str
    quantity: int
    price_amount: int
    discount_amount: int = 0
    tax_amount: int = 0


@dataclass(frozen=True, slots=True)
class Sold:
    """An order's amounts: what could be given back of it at most, by what it is for."""

    lines: tuple[SoldLine, ...]
    shipping_amount: int
    shipping_tax_amount: int

    @property
    def goods_amount(self) -> int:
        return sum(line.price_amount - line.discount_amount for line in self.lines)

    @property
    def tax_amount(self) -> int:
        return self.shipping_tax_amount + sum(line.tax_amount for line in self.lines)

    @property
    def total_amount(self) -> int:
        return self.goods_amount + self.shipping_amount + self.tax_amount


def split(amount: int, weights: Sequence[int]) -> list[int]:
    """Divide `amount` in proportion, exactly (largest remainder); without weights, to the last.

    A part never exceeds its weight while `amount` does not exceed their sum.
    """
    if sum(weights) == 0:
        return [0] * (len(weights) - 1) + [amount]
    return [part.amount for part in Money(amount, "XXX").split(weights)]


def sold(
    lines: Sequence[SoldLine], *, discount_amount: int, shipping_amount: int, tax_amount: int
) -> Sold:
    """Spread an order's discount over its lines by price, and its tax over lines and shipping by
    what was paid for each."""
    discounts = split(discount_amount, [line.price_amount for line in lines])
    paid = [line.price_amount - off for line, off in zip(lines, discounts, strict=True)]
    *taxes, shipping_tax = split(tax_amount, [*paid, shipping_amount])
    return Sold(
        lines=tuple(
            replace(line, discount_amount=off, tax_amount=tax)
            for line, off, tax in zip(lines, discounts, taxes, strict=True)
        ),
        shipping_amount=shipping_amount,
        shipping_tax_amount=shipping_tax,
    )


def remaining(whole: Sold, earlier: Sequence[Breakdown]) -> Sold:
    """Return what is left of an order after `earlier` refunds of lines and shipping."""
    gone: dict[UUID, list[LineShare]] = {}
    for breakdown in earlier:
        for share in breakdown.lines:
            gone.setdefault(share.line_id, []).append(share)
    shipping = sum(breakdown.shipping_amount for breakdown in earlier)
    shipping_tax = sum(breakdown.shipping_tax_amount for breakdown in earlier)
    return Sold(
        lines=tuple(_less(line, gone.get(line.id, [])) for line in whole.lines),
        shipping_amount=max(0, whole.shipping_amount - shipping),
        shipping_tax_amount=max(0, whole.shipping_tax_amount - shipping_tax),
    )


def _less(line: SoldLine, gone: Sequence[LineShare]) -> SoldLine:
    return replace(
        line,
        quantity=max(0, line.quantity - sum(share.quantity for share in gone)),
        price_amount=max(0, line.price_amount - sum(share.price_amount for share in gone)),
        discount_amount=max(0, line.discount_amount - sum(s.discount_amount for s in gone)),
        tax_amount=max(0, line.tax_amount - sum(share.tax_amount for share in gone)),
    )


def _piece(amount: int, part: int, whole: int) -> int:
    """Return the share of `part` out of `whole` in `amount`: all of it for the last piece."""
    return amount if part >= whole else amount * part // whole


def of_lines(left: Sold, units: Mapping[str, int], shipping_amount: int = 0) -> Breakdown:
    """Return the shares of `units` by SKU, and of some shipping, in what is left of an order.

    The caller has checked that so many units and so much shipping are left.
    """
    shares = []
    wanted = dict(units)
    for line in left.lines:
        quantity = min(wanted.get(line.sku, 0), line.quantity)
        if not quantity:
            continue
        wanted[line.sku] -= quantity
        price = _piece(line.price_amount, quantity, line.quantity)
        goods = _piece(line.price_amount - line.discount_amount, quantity, line.quantity)
        shares.append(
            LineShare(
                line_id=line.id,
                sku=line.sku,
                title=line.title,
                quantity=quantity,
                price_amount=price,
                discount_amount=price - goods,
                tax_amount=_piece(line.tax_amount, quantity, line.quantity),
            )
        )
    assert not any(wanted.values()), wanted
    shipping_tax = 0
    if shipping_amount:
        shipping_tax = _piece(left.shipping_tax_amount, shipping_amount, left.shipping_amount)
    return Breakdown(
        lines=shares,
        goods_amount=sum(share.goods_amount for share in shares),
        shipping_amount=shipping_amount,
        tax_amount=sum(share.tax_amount for share in shares) + shipping_tax,
        shipping_tax_amount=shipping_tax,
    )


@dataclass(frozen=True, slots=True)
class Limits:
    """What is left of an order's goods, shipping and tax after all that was taken off them, and
    what is owed beside since an edit made it cheaper."""

    goods_amount: int
    shipping_amount: int
    tax_amount: int
    owed_amount: int = 0

    @property
    def total_amount(self) -> int:
        return self.goods_amount + self.shipping_amount + self.tax_amount


def of_amount(within: Limits, amount: int) -> Breakdown:
    """Return what a plain amount consists of: goods with their tax first, as a price reduction is,
    then shipping with its own, then what an edit owes; what the order does not hold is goods."""
    goods_tax, shipping_tax = split(
        within.tax_amount, [within.goods_amount, within.shipping_amount]
    )
    reduced = min(amount, within.goods_amount + goods_tax)
    goods, tax = split(reduced, [within.goods_amount, goods_tax])
    delivered = min(amount - reduced, within.shipping_amount + shipping_tax)
    shipping, tax_of_shipping = split(delivered, [within.shipping_amount, shipping_tax])
    owed = min(amount - reduced - delivered, within.owed_amount)
    return Breakdown(
        goods_amount=goods + amount - reduced - delivered - owed,
        shipping_amount=shipping,
        tax_amount=tax + tax_of_shipping,
        shipping_tax_amount=tax_of_shipping,
        adjustment_amount=owed,
    )


def fitted(wanted: Breakdown, within: Limits, ceiling_amount: int) -> Breakdown:
    """Cut a refund of lines down to what earlier refunds of amounts, and the capture, left of it.

    Every kind of amount is cut to its own limit, then all in proportion to `ceiling_amount`.
    """
    goods = min(wanted.goods_amount, within.goods_amount)
    shipping = min(wanted.shipping_amount, within.shipping_amount)
    tax = min(wanted.tax_amount, within.tax_amount)
    total = goods + shipping + tax
    if total > ceiling_amount:
        goods, shipping, tax = split(ceiling_amount, [goods, shipping, tax])
    return wanted.model_copy(
        update={"goods_amount": goods, "shipping_amount": shipping, "tax_amount": tax}
    )


def over_tenders(breakdown: Breakdown, amounts: Sequence[int]) -> list[tuple[int, int, int, int]]:
    """Divide a breakdown's (goods, shipping, tax, adjustment) over the tenders that pay it.

    Both the rows and the columns sum exactly, and no number is negative.
    """
    assert sum(amounts) == breakdown.total_amount
    left = list(breakdown.parts)
    rows = []
    for amount in amounts:
        row = split(amount, left)
        left = [whole - part for whole, part in zip(left, row, strict=True)]
        rows.append((row[0], row[1], row[2], row[3]))
    assert not any(left)
    return rows
