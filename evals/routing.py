"""Routing eval: does a message reach the operation it asks for, and does nothing act unasked?

A false action is a write chosen for a message that asked for something else or for nothing.
"""

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic_evals import Case, Dataset
from pydantic_evals.evaluators import Evaluator, EvaluatorContext

from agents import domains as _domains  # noqa: F401  Registers every operation.
from agents.planner_context import Context
from agents.planner_intent import understand
from deps.core import Deps
from tools.registry import OPERATIONS, Risk

HERE = Path(__file__).parent
NONE = "none"


@dataclass
class Reached(Evaluator[str, str, Any]):
    def evaluate(self, ctx: EvaluatorContext[str, str, Any]) -> dict[str, bool]:
        wrong = ctx.output != ctx.expected_output
        acts = ctx.output != NONE and OPERATIONS[ctx.output].risk is not Risk.READ
        return {"reached": not wrong, "no_false_action": not (wrong and acts)}


def dataset(path: Path) -> Dataset[str, str, Any]:
    """Read utterances by operation; an operation that does not exist is an error."""
    table: dict[str, list[str]] = yaml.safe_load(path.read_text())
    unknown = set(table) - set(OPERATIONS) - {NONE}
    assert not unknown, f"{path.name} names unknown operations: {sorted(unknown)}"
    cases = [
        Case(name=f"{key}: {text}", inputs=text, expected_output=key)
        for key, texts in table.items()
        for text in texts
    ]
    return Dataset(name="routing", cases=cases, evaluators=[Reached()])


async def route(text: str) -> str:
    """Return the operation the offline planner chooses with every permission and no history."""
    intent = understand(text, Context(), frozenset(OPERATIONS))
    return intent.operation.key if intent.operation else NONE


async def main(deps: Deps | None = None, *, data: Path | None = None, as_json: bool = False) -> int:
    """Print accuracy and false actions; return 1 when either misses its threshold.

    Args:
        deps: Unused: routing reads nothing. Every eval is called alike.
        data: Other utterances, in the form of `routing.yaml`.
        as_json: Print one JSON object instead of lines.
    """
    report = await dataset(data or HERE / "routing.yaml").evaluate(route, progress=False)
    assert not report.failures, report.failures
    missed = [c for c in report.cases if not c.assertions["reached"].value]
    acted = [c for c in report.cases if not c.assertions["no_false_action"].value]
    total = len(report.cases)
    limits = yaml.safe_load((HERE / "thresholds.yaml").read_text())
    accuracy = (total - len(missed)) / total
    passed = (
        accuracy >= limits["routing_accuracy_min"] and len(acted) <= limits["false_actions_max"]
    )
    result = {
        "cases": total,
        "out_of_scope": sum(c.expected_output == NONE for c in report.cases),
        "accuracy": round(accuracy, 4),
        "false_actions": len(acted),
        "missed": [{"text": c.inputs, "want": c.expected_output, "got": c.output} for c in missed],
        "passed": passed,
    }
    sys.stdout.write((json.dumps(result) if as_json else _lines(result)) + "\n")
    return 0 if passed else 1


def _lines(result: dict[str, Any]) -> str:
    head = (
        f"routing: {result['cases']} messages, {result['out_of_scope']} out of scope, "
        f"accuracy {result['accuracy']:.1%}, false actions {result['false_actions']}"
    )
    missed = [f"  {m['text']!r}: want {m['want']}, got {m['got']}" for m in result["missed"]]
    return "\n".join([head, *missed, "passed" if result["passed"] else "below the threshold"])
