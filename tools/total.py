"""What a cart or an order comes to: goods, less a discount, and delivery, and tax on both.

Simple rules, until pricing and promotion answer behind the same functions. Pure arithmetic, in
minor units; halves are rounded up.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Protocol

from tools.shipping import ShippingMethod

RATE_UNIT: Final = 10_000  # Rates of tax are hundredths of a per cent.


@dataclass(frozen=True, slots=True)
class Total:
    subtotal_amount: int
    discount_amount: int
    shipping_amount: int
    tax_amount: int

    @property
    def total_amount(self) -> int:
        return self.goods_amount + self.shipping_amount + self.tax_amount

    @property
    def goods_amount(self) -> int:
        return self.subtotal_amount - self.discount_amount


class Sold(Protocol):
    """An order's amounts, and the rate its tax was reckoned at."""

    subtotal_amount: int
    discount_amount: int
    shipping_amount: int
    tax_amount: int
    total_amount: int
    tax_rate: int


def reckon(
    subtotal_amount: int,
    *,
    discount: Mapping[str, Any] | None,
    method: ShippingMethod | None,
    tax_rate: int,
) -> Total:
    """Say what goods come to.

    Args:
        subtotal_amount: Their price.
        discount: The `percent` or `amount` that a code takes off them, if one does.
        method: How they are delivered, if that is said yet; from an amount on it may be free.
        tax_rate: Hundredths of a per cent, put on goods and delivery; 0 when prices contain tax.
    """
    off = 0 if discount is None else _off(subtotal_amount, discount)
    shipping = 0 if method is None else _delivery(method, subtotal_amount - off)
    tax = _share(subtotal_amount - off + shipping, tax_rate, RATE_UNIT)
    return Total(subtotal_amount, off, shipping, tax)


def after_change(of: Sold, goods_amount: int) -> Total:
    """Say what an order comes to when its goods' price changes by `goods_amount`, on the terms of
    its sale: the same part is taken off, delivery stays, and tax has the same rate."""
    subtotal = of.subtotal_amount + goods_amount
    off = 0
    if of.discount_amount:
        off = _share(subtotal, of.discount_amount, of.subtotal_amount)
    tax = of.tax_amount
    if of.tax_rate:
        tax = _share(subtotal - off + of.shipping_amount, of.tax_rate, RATE_UNIT)
    return Total(subtotal, off, of.shipping_amount, tax)


def after_promise(of: Sold, goods_amount: int, difference_amount: int) -> Total:
    """Say what an order comes to when `difference_amount` was promised as the price of a change.

    Another change that came between may have moved a roundings' cent; tax bears it, or discount.
    Goods and tax never cost less than nothing: of what was promised below it, nothing is owed.
    """
    new = after_change(of, goods_amount)
    odd = of.total_amount + difference_amount - new.total_amount
    tax, off = new.tax_amount, new.discount_amount
    if of.tax_rate:
        tax += odd
    else:
        off -= odd
    # Neither goes below nothing: the other bears what is left.
    tax, off = max(tax, 0), off - min(tax, 0)
    tax, off = tax - min(off, 0), max(off, 0)
    off = min(off, new.subtotal_amount)
    return Total(new.subtotal_amount, off, new.shipping_amount, tax)


def _off(subtotal_amount: int, discount: Mapping[str, Any]) -> int:
    if discount["percent"] is not None:
        return _share(subtotal_amount, discount["percent"], 100)
    return min(subtotal_amount, int(discount["amount"]))


def _delivery(method: ShippingMethod, goods_amount: int) -> int:
    is_free = method.free_from_amount is not None and goods_amount >= method.free_from_amount
    return 0 if is_free else method.amount


def _share(amount: int, part: int, whole: int) -> int:
    return (2 * amount * part + whole) // (2 * whole)
