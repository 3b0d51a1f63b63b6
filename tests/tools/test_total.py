"""What goods come to: parts that add up, whatever the terms, and roundings that lose nothing."""

from dataclasses import dataclass
from fractions import Fraction

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tools import total
from tools.shipping import ShippingMethod

AMOUNTS = st.integers(0, 10**9)
RATES = st.integers(0, 10_000)
METHODS = st.builds(
    ShippingMethod,
    code=st.just("standard"),
    name=st.just("Standard"),
    amount=st.integers(0, 10_000),
    free_from_amount=st.none() | AMOUNTS,
)
DISCOUNTS = st.builds(lambda n: {"percent": n, "amount": None}, st.integers(1, 100)) | st.builds(
    lambda n: {"percent": None, "amount": n}, st.integers(1, 10**9)
)


@dataclass
class Order:
    subtotal_amount: int
    discount_amount: int
    shipping_amount: int
    tax_amount: int
    total_amount: int
    tax_rate: int


def order(of: total.Total, tax_rate: int) -> Order:
    return Order(
        of.subtotal_amount, of.discount_amount, of.shipping_amount, of.tax_amount, of.total_amount,
        tax_rate,
    )  # fmt: skip


@given(AMOUNTS, st.none() | DISCOUNTS, st.none() | METHODS, RATES)
def test_no_part_is_negative_and_the_total_is_their_sum(
    subtotal: int, discount: dict[str, int] | None, method: ShippingMethod | None, rate: int
) -> None:
    of = total.reckon(subtotal, discount=discount, method=method, tax_rate=rate)
    assert 0 <= of.discount_amount <= subtotal
    assert of.shipping_amount in (0, method.amount if method else 0)
    exact = Fraction((subtotal - of.discount_amount + of.shipping_amount) * rate, 10_000)
    assert abs(of.tax_amount - exact) <= Fraction(1, 2)
    assert of.total_amount == (subtotal - of.discount_amount + of.shipping_amount + of.tax_amount)


def test_a_code_takes_off_its_part_or_its_amount_and_never_more_than_there_is() -> None:
    def off(subtotal: int, percent: int | None, amount: int | None) -> int:
        terms = {"percent": percent, "amount": amount}
        return total.reckon(subtotal, discount=terms, method=None, tax_rate=0).discount_amount

    assert off(1_250, 10, None) == 125
    assert off(1_255, 10, None) == 126  # 125.5: halves go up.
    assert off(1_254, 10, None) == 125
    assert off(1_250, None, 500) == 500
    assert off(400, None, 500) == 400


def test_delivery_is_free_from_what_is_paid_for_the_goods() -> None:
    method = ShippingMethod(code="standard", name="", amount=490, free_from_amount=6_000)
    code = {"percent": 10, "amount": None}
    free = total.reckon(6_000, discount=None, method=method, tax_rate=0)
    dear = total.reckon(6_000, discount=code, method=method, tax_rate=0)
    assert (free.shipping_amount, dear.shipping_amount) == (0, 490)


def test_tax_is_put_on_the_reduced_goods_and_on_their_delivery() -> None:
    method = ShippingMethod(code="standard", name="", amount=490)
    of = total.reckon(10_000, discount={"percent": 20, "amount": None}, method=method, tax_rate=825)
    assert (of.discount_amount, of.tax_amount, of.total_amount) == (2_000, 700, 9_190)


@given(AMOUNTS, st.none() | DISCOUNTS, st.none() | METHODS, RATES)
def test_a_change_that_changes_nothing_costs_nothing(
    subtotal: int, discount: dict[str, int] | None, method: ShippingMethod | None, rate: int
) -> None:
    of = total.reckon(subtotal, discount=discount, method=method, tax_rate=rate)
    assert total.after_change(order(of, rate), 0) == of


@given(AMOUNTS, AMOUNTS, st.none() | DISCOUNTS, st.none() | METHODS, RATES)
def test_after_a_change_no_part_is_negative(
    subtotal: int, later: int, discount: dict[str, int] | None, method: ShippingMethod | None,
    rate: int,
) -> None:  # fmt: skip
    of = total.reckon(subtotal, discount=discount, method=method, tax_rate=rate)
    new = total.after_change(order(of, rate), later - subtotal)
    assert new.subtotal_amount == later
    assert 0 <= new.discount_amount <= later
    assert new.tax_amount >= 0
    assert new.shipping_amount == of.shipping_amount


FREE_CODE = {"percent": 99, "amount": None}
TWO_OFF = {"percent": None, "amount": 2}
PICKUP = ShippingMethod(code="pickup", name="", amount=0)
STANDARD = ShippingMethod(code="standard", name="", amount=490)


@given(
    st.lists(st.integers(1, 50_000), min_size=2, max_size=4),
    st.lists(st.integers(1, 50_000), min_size=4, max_size=4),
    st.none() | DISCOUNTS,
    METHODS,
    RATES,
)
@example([83, 83, 83], [20, 20, 20, 1], FREE_CODE, STANDARD, 0)
@example([83, 83, 83], [20, 20, 20, 1], FREE_CODE, PICKUP, 0)
@example([183, 168, 83], [116, 78, 12, 1], FREE_CODE, PICKUP, 1449)
@example([10, 10, 10], [2, 2, 2, 1], TWO_OFF, PICKUP, 0)
def test_changes_promised_at_once_are_kept_one_after_the_other(
    prices: list[int], new: list[int], discount: dict[str, int] | None, method: ShippingMethod,
    rate: int,
) -> None:  # fmt: skip
    """Each is priced while the others still wait; the cents of rounding go where they can, and what
    would make goods and tax cheaper than nothing is not owed."""
    of = order(total.reckon(sum(prices), discount=discount, method=method, tax_rate=rate), rate)
    changes = [after - before for before, after in zip(prices, new, strict=False)]
    promised = [total.after_change(of, goods).total_amount - of.total_amount for goods in changes]
    for goods, difference in zip(changes, promised, strict=True):
        expected = max(of.total_amount + difference, of.shipping_amount)
        of = order(total.after_promise(of, goods, difference), rate)
        assert 0 <= of.discount_amount <= of.subtotal_amount
        assert of.tax_amount >= 0
        assert of.total_amount == expected
    assert of.subtotal_amount == sum(new[: len(prices)])


@pytest.mark.parametrize(
    ("prices", "new", "discount", "rate", "off", "tax"),
    [
        # 4 off 23; 5 off 30 and 3 off 20 were promised, so 4 off 27, which by itself has 5 off.
        ([11, 12], [18, 9], {"percent": 16, "amount": None}, 0, 4, 0),
        ([19, 5], [10, 17], {"percent": None, "amount": 21}, 0, 24, 0),
        # There is no tax to bear it, and no discount.
        ([108, 23], [92, 153], {"percent": 41, "amount": None}, 7, 101, 0),
        ([10, 10, 10], [2, 2, 2], TWO_OFF, 0, 0, 1),
    ],
)
def test_the_cents_of_promises_are_borne_by_tax_where_there_is_any_and_else_by_the_discount(
    prices: list[int], new: list[int], discount: dict[str, int], rate: int, off: int, tax: int
) -> None:
    of = order(total.reckon(sum(prices), discount=discount, method=STANDARD, tax_rate=rate), rate)
    changes = [after - before for before, after in zip(prices, new, strict=True)]
    promised = [total.after_change(of, goods).total_amount - of.total_amount for goods in changes]
    for goods, difference in zip(changes, promised, strict=True):
        of = order(total.after_promise(of, goods, difference), rate)
    assert (of.discount_amount, of.tax_amount) == (off, tax)
