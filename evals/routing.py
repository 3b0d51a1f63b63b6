"""Routing eval: does a message reach the operation it asks for, and does nothing act unasked?

Every message is planned as the first of a conversation, by the planner that answers when there is
no model. A false action is a write that would be done or proposed for a message that asks for
something else or for nothing; a question is never one.
"""

import json
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from pydantic_ai.messages import ModelMessage, ModelRequest, UserPromptPart

from agents.desk import tool_of
from agents.domains import domain_of
from agents.planner import Planner
from agents.planner_steps import Step
from db.models.user import Role
from deps.core import ROLE_SCOPES, Deps
from deps.settings import Settings
from evals.routing_data import NONE, Labelled, read
from tools.registry import OPERATIONS, Risk
from tools.surface import load_operations

HERE = Path(__file__).parent
OWN = HERE / "routing.yaml"
CONFUSIONS_MAX = 40
# Who speaks, signed in: the least of these that may do something for every label.
SPEAKERS = (Role.CUSTOMER, Role.MERCHANT, Role.ADMIN)


@dataclass(frozen=True, slots=True)
class Planned:
    """What the planner would do first for each wish in a message."""

    steps: tuple[Step, ...]

    @property
    def operation(self) -> str:
        return next((step.operation for step in self.steps if step.operation), NONE)

    @property
    def writes(self) -> frozenset[str]:
        """Operations that would change something at once or be proposed.

        Looking a product up for the sake of a purchase reads: what the catalogue does not have
        is never bought.
        """
        return frozenset(
            step.operation
            for step in self.steps
            if step.operation
            and step.tool == tool_of(step.operation)
            and OPERATIONS[step.operation].risk is not Risk.READ
        )

    @property
    def asks(self) -> bool:
        return any(step.operation and not step.tool for step in self.steps)


@dataclass(slots=True)
class Tally:
    utterances: int = 0
    right: int = 0
    right_domain: int = 0
    asked: int = 0
    acted: int = 0
    false_actions: int = 0
    got: Counter[str] = field(default_factory=Counter)


def speaker_for(rows: Iterable[Labelled]) -> Role:
    """Return the least role that may do something for every label that is in scope."""
    wanted = {row.wanted for row in rows if row.wanted}
    for role in SPEAKERS:
        scopes = ROLE_SCOPES[role]
        if all(any(OPERATIONS[key].scope in scopes for key in keys) for keys in wanted):
            return role
    return Role.ADMIN


def planner_for(role: Role, currency: str) -> Planner:
    scopes = ROLE_SCOPES[role]
    return Planner({key for key, op in OPERATIONS.items() if op.scope in scopes}, currency)


def plan(planner: Planner, text: str) -> Planned:
    """Plan a message without a conversation behind it."""
    messages: list[ModelMessage] = [ModelRequest(parts=[UserPromptPart(text)])]
    return Planned(tuple(planner.rehearse(messages)))


def score(rows: Sequence[Labelled], planner: Planner) -> dict[str, Any]:
    """Plan every utterance and count what comes of it."""
    by_label: dict[str, Tally] = defaultdict(Tally)
    wrong: list[dict[str, Any]] = []
    missed_actions = 0
    for row in rows:
        planned, tally = plan(planner, row.text), by_label[row.label]
        got = planned.operation
        right = got in row.wanted if row.wanted else got == NONE
        tally.utterances += 1
        tally.right += right
        tally.right_domain += _domain(got) in {_domain(key) for key in row.wanted or (NONE,)}
        tally.asked += planned.asks
        tally.acted += bool(planned.writes)
        tally.false_actions += bool(planned.writes - row.wanted)
        tally.got[got] += 1
        only_writes = row.wanted and all(OPERATIONS[k].risk is not Risk.READ for k in row.wanted)
        missed_actions += bool(only_writes and not right)
        if not right or planned.writes - row.wanted:
            wrong.append({"text": row.text, "want": row.label, "got": got})
    return _report(rows, by_label, wrong, missed_actions)


def _domain(key: str) -> str:
    return NONE if key == NONE else domain_of(OPERATIONS[key]).value


def _report(
    rows: Sequence[Labelled],
    by_label: Mapping[str, Tally],
    wrong: list[dict[str, Any]],
    missed_actions: int,
) -> dict[str, Any]:
    in_scope = {row.label for row in rows if row.wanted}
    inside = [tally for label, tally in by_label.items() if label in in_scope]
    outside = [tally for label, tally in by_label.items() if label not in in_scope]
    confusions = Counter(
        {
            (label, got): count
            for label, tally in by_label.items()
            for got, count in tally.got.items()
            if got not in _served(rows, label)
        }
    )
    return {
        "utterances": len(rows),
        "in_scope": sum(tally.utterances for tally in inside),
        "out_of_scope": sum(tally.utterances for tally in outside),
        "accuracy": _share([*inside, *outside], "right"),
        "intent_accuracy": _share(inside, "right"),
        "domain_accuracy": _share(inside, "right_domain"),
        "out_of_scope_recall": _share(outside, "right"),
        "false_actions": sum(tally.false_actions for tally in by_label.values()),
        "missed_actions": missed_actions,
        "asked": sum(tally.asked for tally in by_label.values()),
        "acted": sum(tally.acted for tally in by_label.values()),
        "intents": {
            label: {
                "in_scope": label in in_scope,
                "utterances": tally.utterances,
                "right": tally.right,
                "asked": tally.asked,
                "acted": tally.acted,
                "false_actions": tally.false_actions,
            }
            for label, tally in sorted(by_label.items())
        },
        "confusions": [
            {"want": label, "got": got, "utterances": count}
            for (label, got), count in sorted(
                confusions.items(), key=lambda item: (-item[1], item[0])
            )[:CONFUSIONS_MAX]
        ],
        "missed": wrong,
    }


def _served(rows: Sequence[Labelled], label: str) -> frozenset[str]:
    wanted = next(row.wanted for row in rows if row.label == label)
    return wanted or frozenset((NONE,))


def _share(tallies: Sequence[Tally], what: str) -> float | None:
    total = sum(tally.utterances for tally in tallies)
    return round(sum(getattr(t, what) for t in tallies) / total, 4) if total else None


async def main(deps: Deps | None = None, *, data: Path | None = None, as_json: bool = False) -> int:
    """Print accuracy and false actions; return 1 when a threshold is missed.

    Args:
        deps: Unused: routing reads nothing. Every eval is called alike.
        data: Other labelled utterances, in any layout `evals/routing_data.py` reads.
        as_json: Print one JSON object instead of lines.
    """
    load_operations()
    rows = read(data or OWN)
    speaker = Role.ADMIN if data is None else speaker_for(rows)
    result = score(rows, planner_for(speaker, Settings(_env_file=None).currency))
    limits = yaml.safe_load((HERE / "thresholds.yaml").read_text())
    passed = result["false_actions"] <= limits["false_actions_max"] and (
        data is not None or result["accuracy"] >= limits["routing_accuracy_min"]
    )
    missed = result.pop("missed")
    result |= {"speaker": speaker.value, "passed": passed}
    if data is None:
        result["missed"] = missed
    sys.stdout.write((json.dumps(result) if as_json else _lines(result)) + "\n")
    return 0 if passed else 1


def _lines(result: Mapping[str, Any]) -> str:
    head = ", ".join(
        f"{name.replace('_', ' ')} {value:.1%}" if isinstance(value, float) else
        f"{name.replace('_', ' ')} {value}"
        for name, value in result.items()
        if not isinstance(value, dict | list | bool)
    )  # fmt: skip
    table = [
        f"  {row['right']:5}/{row['utterances']:<5} {label}"
        + ("" if row["in_scope"] else "  (out of scope)")
        for label, row in result["intents"].items()
    ]
    told = [f"  {c['utterances']:5}  {c['want']} → {c['got']}" for c in result["confusions"]]
    missed = [
        f"  {m['text']!r}: want {m['want']}, got {m['got']}" for m in result.get("missed", ())
    ]
    verdict = "passed" if result["passed"] else "below the threshold"
    return "\n".join([f"routing: {head}", *table, "taken for another:", *told, *missed, verdict])
