"""Ways to say what the operations are asked for, beside the examples the operations declare.

A phrase may hold alternatives, one within another: `(cancel|stop) (my (last |)order|it)` stands for
six. Slots are in braces, as in the operations' own examples. `none.yaml` holds what no operation
serves.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path

import yaml

from agents.planner_tokens import split, tokens
from tools.registry import OPERATIONS

HERE = Path(__file__).parent
NONE = "none"
READINGS_MAX = 2000
_BRACKETS = re.compile(r"([()|])")
# The loader in C, where there is one: a tenth of what the index takes.
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def expand(phrase: str) -> Iterator[str]:
    """Yield what a phrase stands for, one reading at a time."""
    readings, _ = _read(_BRACKETS.split(phrase), 0)
    for reading in readings:
        yield " ".join(reading.split())


def _read(parts: Sequence[str], at: int, *, is_open: bool = False) -> tuple[list[str], int]:
    """Return the readings from a place up to the bracket that closes it, and where that is."""
    choices: list[str] = []
    said = [""]
    while at < len(parts) and parts[at] != ")":
        if parts[at] == "(":
            group, at = _read(parts, at + 1, is_open=True)
            said = [left + right for left in said for right in group]
            assert len(said) <= READINGS_MAX, f"{''.join(parts)!r} has more readings than that"
        elif parts[at] == "|":
            choices, said = [*choices, *said], [""]
        else:
            said = [left + parts[at] for left in said]
        at += 1
    assert is_open == (at < len(parts)), f"{''.join(parts)!r} has brackets that do not match"
    return (_distinct([*choices, *said]) if is_open else said), at


def _distinct(choices: list[str]) -> list[str]:
    """Leave out choices that are compared as the same, such as `a` and `my`."""
    return list({tuple(tokens(split(choice.lower()))): choice for choice in choices}.values())


@cache
def table() -> Mapping[str, tuple[str, ...]]:
    """Return the phrases by the operation they ask for; those of `none` by their topic."""
    found: dict[str, tuple[str, ...]] = {}
    for path in sorted(HERE.glob("*.yaml")):
        for key, phrases in yaml.load(path.read_text(), _LOADER).items():
            name = f"{NONE}.{key}" if path.stem == NONE else key
            assert name not in found, f"{name} is in two files"
            found[name] = tuple(phrases)
    return found


def phrases_for(key: str) -> tuple[str, ...]:
    """Return an operation's examples and the further phrases for it."""
    operation = OPERATIONS.get(key)
    return (*(operation.examples if operation else ()), *table().get(key, ()))
