"""The terms of an offer are read as people write them, or left to a question."""

from datetime import date

import pytest

from agents import planner_terms
from agents.planner_context import Context
from agents.planner_fill import arguments_in
from tools.registry import OPERATIONS
from tools.surface import load_operations

load_operations()
CONTEXT = Context(today=date(2026, 1, 30))


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("apply the coupon WELCOME10", "WELCOME10"),
        ("my promo code is welcome10, thanks", "WELCOME10"),
        ("I have a promo code: SUMMER-20", "SUMMER-20"),
        ("pay with gift card 7H3K-0ZQX-9M2D-4TCV-W81P", "7H3K-0ZQX-9M2D-4TCV-W81P"),
        ("end SPRING", "SPRING"),
        ("I want to use a discount code", None),
        ("swap SPRING for AUTUMN", None),
        ("a code for 20 EUR", None),
        ("write to ADA@EXAMPLE.COM", None),
    ],
)
def test_a_code(text: str, code: str | None) -> None:
    assert planner_terms.code_in(text) == code


def terms(text: str) -> dict[str, object]:
    operation = OPERATIONS["promotion.create_code"]
    return arguments_in(operation, text, CONTEXT, "EUR", given={}, asked=None)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("create the code FALL with 15 percent off", {"code": "FALL", "percent": 15}),
        (
            "make a coupon FIVER: 5 euro off orders over 50 euro, for 100 uses",
            {"code": "FIVER", "amount": 500, "minimum_amount": 5_000, "uses_max": 100},
        ),
        (
            "coupon XMAS 20% for the first 30 orders until 24 december",
            {"code": "XMAS", "percent": 20, "uses_max": 30, "ends_at": "2026-12-25T00:00:00Z"},
        ),
        (
            "SALE, 10 %, from 2026-03-01 until 2026-03-31",
            {
                "code": "SALE", "percent": 10,
                "starts_at": "2026-03-01T00:00:00Z", "ends_at": "2026-04-01T00:00:00Z",
            },
        ),
        ("new discount code", {}),
    ],
)  # fmt: skip
def test_an_offer(text: str, expected: dict[str, object]) -> None:
    assert terms(text) == expected
