"""Shares of a refund: whatever the pieces and their order, they sum to the whole to the cent."""

from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from uuid import UUID

from hypothesis import given
from hypothesis import strategies as st

from db.types import exponent
from tools import total
from tools.refund_share import (
    Breakdown,
    Limits,
    Sold,
    SoldLine,
    fitted,
    of_amount,
    of_lines,
    over_tenders,
    remaining,
    sold,
)
from tools.shipping import shipping_methods
from tools.total import Total

AMOUNTS = st.integers(0, 10_000)


def limits(whole: Sold, earlier: list[Breakdown]) -> Limits:
    """What the ledger says, in a notebook."""
    return Limits(
        whole.goods_amount - sum(b.goods_amount for b in earlier),
        whole.shipping_amount - sum(b.shipping_amount for b in earlier),
        whole.tax_amount - sum(b.tax_amount for b in earlier),
    )


@dataclass(frozen=True)
class Order:
    whole: Sold
    total_amount: int


@st.composite
def orders(draw: st.DrawFn) -> Order:
    units = draw(st.lists(st.tuples(st.integers(1, 7), AMOUNTS), min_size=1, max_size=5))
    lines = [
        SoldLine(UUID(int=n), f"SKU{n}", f"Thing {n}", quantity, quantity * price)
        for n, (quantity, price) in enumerate(units)
    ]
    subtotal = sum(line.price_amount for line in lines)
    discount = draw(st.integers(0, subtotal))
    shipping = draw(AMOUNTS)
    # There is no tax on nothing.
    tax = draw(AMOUNTS) if subtotal - discount + shipping else 0
    whole = sold(lines, discount_amount=discount, shipping_amount=shipping, tax_amount=tax)
    return Order(whole, subtotal - discount + shipping + tax)


@given(orders())
def test_the_shares_are_the_order(order: Order) -> None:
    assert order.whole.total_amount == order.total_amount
    assert all(line.discount_amount <= line.price_amount for line in order.whole.lines)


@given(orders(), st.data())
def test_all_pieces_together_are_the_whole_order(order: Order, data: st.DataObject) -> None:
    earlier: list[Breakdown] = []
    while True:
        left = remaining(order.whole, earlier)
        units = {
            line.sku: data.draw(st.integers(0, line.quantity), label=line.sku)
            for line in left.lines
        }
        shipping = data.draw(st.integers(0, left.shipping_amount), label="shipping")
        within = limits(order.whole, earlier)
        if not any(units.values()):  # Enough of drawing: the rest at once.
            units = {line.sku: line.quantity for line in left.lines}
            shipping = left.shipping_amount
        piece = fitted(of_lines(left, units, shipping), within, order.total_amount)
        assert all(part >= 0 for part in piece.parts)
        earlier.append(piece)
        left = remaining(order.whole, earlier)
        if not any(line.quantity for line in left.lines) and not left.shipping_amount:
            break
    assert sum(b.goods_amount for b in earlier) == order.whole.goods_amount
    assert sum(b.shipping_amount for b in earlier) == order.whole.shipping_amount
    # With shipping for nothing, its tax share has no piece to go with; there is none then.
    assert sum(b.tax_amount for b in earlier) == order.whole.tax_amount
    assert sum(b.total_amount for b in earlier) == order.total_amount


@given(orders(), st.data())
def test_amounts_and_lines_together_never_pass_the_order(order: Order, data: st.DataObject) -> None:
    earlier: list[Breakdown] = []
    for _ in range(data.draw(st.integers(1, 6))):
        within = limits(order.whole, earlier)
        if data.draw(st.booleans(), label="plain amount"):
            amount = data.draw(st.integers(0, within.total_amount))
            piece = of_amount(within, amount)
            assert piece.total_amount == amount
        else:
            left = remaining(order.whole, earlier)
            units = {line.sku: data.draw(st.integers(0, line.quantity)) for line in left.lines}
            piece = fitted(of_lines(left, units, left.shipping_amount), within, 10**9)
        earlier.append(piece)
    for name in ("goods_amount", "shipping_amount", "tax_amount"):
        assert sum(getattr(b, name) for b in earlier) <= getattr(order.whole, name), name
    rest = of_amount(limits(order.whole, earlier), limits(order.whole, earlier).total_amount)
    assert sum(b.total_amount for b in [*earlier, rest]) == order.total_amount


@given(st.tuples(AMOUNTS, AMOUNTS, AMOUNTS, AMOUNTS), st.data())
def test_tenders_divide_a_breakdown_exactly(
    parts: tuple[int, int, int, int], data: st.DataObject
) -> None:
    goods, shipping, tax, adjustment = parts
    whole = Breakdown(
        goods_amount=goods,
        shipping_amount=shipping,
        tax_amount=tax,
        adjustment_amount=adjustment,
    )
    cuts = sorted(data.draw(st.lists(st.integers(0, whole.total_amount), max_size=4)))
    edges = [0, *cuts, whole.total_amount]
    amounts = [high - low for low, high in pairwise(edges)]
    rows = over_tenders(whole, amounts)
    assert [sum(row) for row in rows] == amounts
    assert tuple(sum(column) for column in zip(*rows, strict=True)) == parts
    assert all(number >= 0 for row in rows for number in row)


def test_a_third_of_a_line_at_a_time() -> None:
    whole = sold(
        [SoldLine(UUID(int=1), "MUG", "Mug", 3, 3000)],
        discount_amount=100,
        shipping_amount=490,
        tax_amount=10,
    )
    earlier: list[Breakdown] = []
    for shipping in (0, 0, 490):
        earlier.append(of_lines(remaining(whole, earlier), {"MUG": 1}, shipping))
    assert [b.goods_amount for b in earlier] == [966, 967, 967]
    assert [b.lines[0].discount_amount for b in earlier] == [34, 33, 33]
    assert [b.tax_amount for b in earlier] == [3, 3, 4]
    assert sum(b.total_amount for b in earlier) == 3000 - 100 + 490 + 10


@given(AMOUNTS, AMOUNTS, AMOUNTS, st.integers(0, 40_000))
def test_a_plain_amount_takes_shipping_only_after_all_goods_and_their_tax(
    goods: int, shipping: int, tax: int, amount: int
) -> None:
    within = Limits(goods, shipping, tax)
    made_of = of_amount(within, amount)
    assert made_of.total_amount == amount
    assert made_of.tax_amount <= tax
    assert made_of.shipping_tax_amount <= made_of.tax_amount
    assert made_of.shipping_amount <= shipping
    if made_of.shipping_amount + made_of.shipping_tax_amount:
        assert made_of.goods_amount >= goods
    if amount >= goods + shipping + tax:
        assert (made_of.shipping_amount, made_of.tax_amount) == (shipping, tax)


@given(st.integers(1, 30_000), st.integers(0, 2_000), st.integers(0, 2_500), st.data())
def test_a_plain_amount_bears_tax_at_the_rate_of_the_sale(
    goods: int, shipping: int, rate: int, data: st.DataObject
) -> None:
    """Rounded once for the sale's tax, once for the part of it that goods bear, once here."""
    tax = round((goods + shipping) * rate / 10_000)
    amount = data.draw(st.integers(0, goods + shipping + tax))
    made_of = of_amount(Limits(goods, shipping, tax), amount)
    net = made_of.goods_amount + made_of.shipping_amount
    assert abs(made_of.tax_amount - net * rate / 10_000) <= 3


@dataclass(frozen=True)
class Sale:
    of: Total
    whole: Sold


@st.composite
def sales(draw: st.DrawFn) -> Sale:
    """What a checkout sells: at prices of a currency without cents, with them, or with mills."""
    currency = draw(st.sampled_from(["JPY", "EUR", "KWD"]))
    dear = 200 * 10 ** exponent(currency)
    units = draw(
        st.lists(st.tuples(st.integers(1, 5), st.integers(1, dear)), min_size=1, max_size=4)
    )
    lines = [
        SoldLine(UUID(int=n), f"SKU{n}", f"Thing {n}", quantity, quantity * price)
        for n, (quantity, price) in enumerate(units)
    ]
    percent, amount, rate = st.integers(1, 100), st.integers(1, dear), st.integers(1, 2_700)
    of = total.reckon(
        sum(line.price_amount for line in lines),
        discount=draw(
            st.none()
            | st.builds(lambda n: {"percent": n, "amount": None}, percent)
            | st.builds(lambda n: {"percent": None, "amount": n}, amount)
        ),
        method=draw(st.sampled_from(list(shipping_methods(currency).values()))),
        tax_rate=draw(st.just(0) | rate),
    )
    whole = sold(
        lines,
        discount_amount=of.discount_amount,
        shipping_amount=of.shipping_amount,
        tax_amount=of.tax_amount,
    )
    return Sale(of, whole)


@given(sales())
def test_lines_and_shipping_with_their_shares_are_what_a_sale_comes_to(sale: Sale) -> None:
    of, whole = sale.of, sale.whole
    paid = [line.price_amount - line.discount_amount for line in whole.lines]
    bore = sum(line.tax_amount for line in whole.lines) + whole.shipping_tax_amount
    assert (sum(paid), bore) == (of.goods_amount, of.tax_amount)
    assert whole.total_amount == sum(paid) + bore + of.shipping_amount == of.total_amount
    untaxed = of.goods_amount + of.shipping_amount
    for line, price in zip(whole.lines, paid, strict=True):
        off = Fraction(of.discount_amount * line.price_amount, of.subtotal_amount)
        tax = Fraction(of.tax_amount * price, max(untaxed, 1))
        assert 0 <= line.discount_amount <= line.price_amount
        assert max(abs(line.discount_amount - off), abs(line.tax_amount - tax)) < 1
    tax = Fraction(of.tax_amount * of.shipping_amount, max(untaxed, 1))
    assert abs(whole.shipping_tax_amount - tax) < 1


@given(sales(), st.data())
def test_partial_refunds_bring_back_all_that_was_captured_and_no_more(
    sale: Sale, data: st.DataObject
) -> None:
    """Of a whole capture and of less, in pieces of lines and of amounts."""
    whole, of = sale.whole, sale.of
    captured = data.draw(st.just(of.total_amount) | st.integers(0, of.total_amount), label="paid")
    earlier: list[Breakdown] = []
    for _ in range(data.draw(st.integers(0, 6), label="pieces")):
        within, left = limits(whole, earlier), remaining(whole, earlier)
        ceiling = captured - sum(b.total_amount for b in earlier)
        if data.draw(st.booleans(), label="of lines"):
            units = {x.sku: data.draw(st.integers(0, x.quantity)) for x in left.lines}
            shipping = data.draw(st.integers(0, left.shipping_amount))
            piece = fitted(of_lines(left, units, shipping), within, ceiling)
        else:
            piece = of_amount(within, data.draw(st.integers(0, ceiling)))
        assert min(piece.parts) >= 0
        assert piece.total_amount <= ceiling
        earlier.append(piece)
    ceiling = captured - sum(b.total_amount for b in earlier)
    earlier.append(of_amount(limits(whole, earlier), ceiling))
    assert sum(b.total_amount for b in earlier) == captured
    if captured == of.total_amount:
        assert sum(b.goods_amount for b in earlier) == of.goods_amount
        assert sum(b.shipping_amount for b in earlier) == of.shipping_amount
        assert sum(b.tax_amount for b in earlier) == of.tax_amount
