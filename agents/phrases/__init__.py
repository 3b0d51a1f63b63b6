"""Ways to say what the operations are asked for, beside the examples the operations declare.

A phrase may hold alternatives: `(cancel|stop) my (order|)` stands for four. Slots are in braces, as
in the operations' own examples. `none.yaml` holds what no operation serves.
"""

import re
from collections.abc import Iterator, Mapping
from functools import cache
from itertools import product
from pathlib import Path

import yaml

from agents.planner_tokens import split, tokens
from tools.registry import OPERATIONS

HERE = Path(__file__).parent
NONE = "none"
READINGS_MAX = 2000


def expand(phrase: str) -> Iterator[str]:
    """Yield what a phrase stands for, one reading at a time."""
    parts = [_distinct(part.split("|")) for part in re.split(r"\(([^()]*)\)", phrase)]
    readings = 1
    for part in parts:
        readings *= len(part)
    assert readings <= READINGS_MAX, f"{phrase!r} has {readings} readings"
    for choice in product(*parts):
        yield " ".join("".join(choice).split())


def _distinct(choices: list[str]) -> list[str]:
    """Leave out choices that are compared as the same, such as `a` and `my`."""
    return list({tuple(tokens(split(choice.lower()))): choice for choice in choices}.values())


@cache
def table() -> Mapping[str, tuple[str, ...]]:
    """Return the phrases by the operation they ask for; those of `none` by their topic."""
    found: dict[str, tuple[str, ...]] = {}
    for path in sorted(HERE.glob("*.yaml")):
        for key, phrases in yaml.safe_load(path.read_text()).items():
            name = f"{NONE}.{key}" if path.stem == NONE else key
            assert name not in found, f"{name} is in two files"
            found[name] = tuple(phrases)
    return found


def phrases_for(key: str) -> tuple[str, ...]:
    """Return an operation's examples and the further phrases for it."""
    operation = OPERATIONS.get(key)
    return (*(operation.examples if operation else ()), *table().get(key, ()))
