"""What a reply may state: amounts and order numbers of results, in any currency; no others."""

from typing import Any

import pytest
from pydantic_ai.messages import ModelMessage, ModelRequest, ToolReturnPart, UserPromptPart

from agents.grounding import minor_units, ungrounded


def conversation(result: Any, asked: str = "how much is it?") -> list[ModelMessage]:
    return [
        ModelRequest(parts=[UserPromptPart(asked)]),
        ModelRequest(parts=[ToolReturnPart("order_get", result, tool_call_id="c")]),
    ]


@pytest.mark.parametrize(
    ("text", "places", "units"),
    [
        ("1,234.50", 2, 123450),
        ("1.234,50", 2, 123450),
        ("12,5", 2, 1250),
        ("40", 2, 4000),
        ("12.50.", 2, 1250),
        ("1.250", 3, 1250),
        ("1.250", 2, 125000),
        ("1,250", 0, 1250),
        ("", 2, 0),
    ],
)
def test_numbers_are_read_as_people_write_them(text: str, places: int, units: int) -> None:
    assert minor_units(text, places) == units


@pytest.mark.parametrize(
    ("result", "reply"),
    [
        ({"price_amount": 1250}, "It is EUR 12.50."),
        ({"price_amount": 1250}, "It is 12,50 € or €12.5, which is 12.50 euros."),
        ({"difference_amount": -1250}, "The difference is EUR -12.50: EUR 12.50 go back."),
        ({"price_amount": 1250, "currency": "KWD"}, "It is KWD 1.250."),
        ({"price_amount": 1250, "currency": "JPY"}, "It is JPY 1250, or 1250 JPY."),
        ({"items": [{"price_amount": 5}, "stock: 1250"]}, "EUR 0.05, EUR 12.50."),
        ({"number": 1001}, "Order 1001, or order #1001."),
        ("free over EUR 50.00", "Shipping is free over EUR 50.00."),
    ],
)
def test_what_a_result_holds_may_be_said(result: Any, reply: str) -> None:
    assert ungrounded(reply, conversation(result), "EUR") == []


@pytest.mark.parametrize(
    ("reply", "invented"),
    [
        ("It is EUR 9.99.", ["EUR 9.99", "9.99"]),
        ("It is 9.99 or so.", ["9.99"]),
        ("It is KWD 12.50.", ["KWD 12.50"]),
        ("Order 2002 is on its way.", ["Order 2002"]),
    ],
)
def test_what_no_result_holds_is_named(reply: str, invented: list[str]) -> None:
    assert (
        ungrounded(reply, conversation({"price_amount": 1250, "number": 1001}), "EUR") == invented
    )


def test_what_the_person_wrote_may_be_repeated() -> None:
    said = conversation({}, asked="I wanted it below EUR 9.99, in order 2002")
    assert ungrounded("Nothing is below EUR 9.99; I see no order 2002.", said, "EUR") == []
