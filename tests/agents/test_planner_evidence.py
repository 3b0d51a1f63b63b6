"""What it takes to act, and that the same message always comes to the same."""

import os
import subprocess
import sys

import pytest

from agents.planner import Planner
from evals.routing import plan
from tools.registry import OPERATIONS
from tools.surface import load_operations

load_operations()
PLANNER = Planner(frozenset(OPERATIONS), "EUR")
_PLANS = """
from evals.routing import OWN, plan
from evals.routing_data import read
from tests.agents.test_planner_evidence import PLANNER
for row in read(OWN)[::5]:
    print(row.text, plan(PLANNER, row.text).steps)
"""


@pytest.mark.parametrize(
    "text",
    [
        "order all of it from the list next to the fridge",
        "submit the order for the whole team meeting",
        "what if I cancelled order 1001",
        "I already cancelled order 1001 yesterday",
        "my friend said to cancel order 1001",
        "talk to a person about my mortgage",
        "cancel my flight and order 1001",
        "check out this song",
    ],
)
def test_what_is_told_supposed_or_about_something_else_is_not_done(text: str) -> None:
    assert not plan(PLANNER, text).writes


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("please cancel order 1001 because the customer moved", "checkout.cancel"),
        ("change MUG-CAMP to 4", "cart.change_item"),
        ("put MUG-1 in my basket now", "cart.add_item"),
        ("check out", "checkout.buy"),
    ],
)
def test_a_plain_request_is_done(text: str, key: str) -> None:
    assert plan(PLANNER, text).writes == {key}


@pytest.mark.slow
def test_the_same_message_comes_to_the_same_in_every_process() -> None:
    said = [
        subprocess.run(
            [sys.executable, "-c", _PLANS],
            env=os.environ | {"PYTHONHASHSEED": seed},
            check=True,
            capture_output=True,
            text=True,
            timeout=120,
        ).stdout
        for seed in ("1", "4242")
    ]
    assert said[0].count("\n") >= 50
    assert said[0] == said[1]
