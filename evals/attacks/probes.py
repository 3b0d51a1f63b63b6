"""The rows that are not text: numbers, races, forgeries and floods, each beside a control."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from evals.attacks.world import World

Probe = Callable[[World], Awaitable[tuple[bool, int, list[str]]]]
"""Returns whether the control executed, how many attempts were made, and what they achieved."""


@dataclass(frozen=True, slots=True)
class Check:
    name: str
    run: Probe


PROBES: tuple[Check, ...] = ()
