"""Money adds up; ids sort by time."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from db.types import Money, new_id

amounts = st.integers(min_value=0, max_value=10**15)
weights = st.lists(st.integers(min_value=0, max_value=10**9), min_size=1, max_size=50).filter(sum)


@given(amounts, weights)
def test_the_parts_of_a_split_sum_to_the_whole(amount: int, shares: list[int]) -> None:
    parts = Money(amount, "EUR").split(shares)
    assert sum(part.amount for part in parts) == amount
    for part, share in zip(parts, shares, strict=True):
        exact = amount * share / sum(shares)
        assert abs(part.amount - exact) < 1 + exact * 1e-12
        assert share or part.amount == 0


@given(amounts, st.integers(min_value=1, max_value=100))
def test_equal_weights_differ_by_one_at_most(amount: int, count: int) -> None:
    parts = [part.amount for part in Money(amount, "JPY").split([1] * count)]
    assert max(parts) - min(parts) <= 1


@pytest.mark.parametrize(
    ("amount", "currency", "text"),
    [
        (1999, "EUR", "EUR 19.99"),
        (5, "EUR", "EUR 0.05"),
        (0, "EUR", "EUR 0.00"),
        (-120, "EUR", "EUR -1.20"),
        (500, "JPY", "JPY 500"),
        (1234, "KWD", "KWD 1.234"),
    ],
)
def test_money_reads_as_people_write_it(amount: int, currency: str, text: str) -> None:
    assert str(Money(amount, currency)) == text


@given(amounts, amounts, st.integers(min_value=0, max_value=999))
def test_sums_differences_and_multiples_are_those_of_integers(a: int, b: int, n: int) -> None:
    one, other = Money(a, "EUR"), Money(b, "EUR")
    assert one + other == Money(a + b, "EUR")
    assert one - other == Money(a - b, "EUR")
    assert one * n == Money(a * n, "EUR")


def test_money_refuses_floats_and_mixed_currencies() -> None:
    with pytest.raises(AssertionError):
        Money(1.5, "EUR")  # type: ignore[arg-type]
    with pytest.raises(AssertionError):
        Money(1, "EUR") + Money(1, "USD")


def test_ids_sort_by_time() -> None:
    ids = [new_id() for _ in range(1000)]
    assert ids == sorted(ids)
    assert {i.version for i in ids} == {7}
