"""What the spans of a turn tell: Pydantic AI's of agents and tools, ours of operations and SQL.

They are recorded in this process and judged in it, so here alone they hold arguments: the people of
a dataset are made up, and nothing is sent anywhere.
"""

import json
from collections.abc import Collection, Generator
from contextlib import contextmanager
from typing import Any

from pydantic_ai import Agent
from pydantic_ai.models.instrumented import InstrumentationSettings
from pydantic_evals.otel import SpanNode, SpanQuery, SpanTree

from agents.desk import key_of, tool_of
from db.models.agent import CallOutcome
from deps import telemetry
from tools.registry import OPERATIONS, Risk

_ANY_TOOL: SpanQuery = {
    "has_attributes": {"gen_ai.operation.name": "execute_tool"},
    "some_ancestor_has": {"name_matches_regex": "invoke_agent"},
}
_SQL: SpanQuery = {"has_attribute_keys": ["db.query.text"]}


@contextmanager
def recorded() -> Generator[None, None, None]:
    """Let every span of this process reach pydantic-evals, the agents' with their arguments."""
    with telemetry.recorded_here():
        Agent.instrument_all(InstrumentationSettings(include_content=True))
        try:
            yield
        finally:
            Agent.instrument_all(False)


def turn_name(number: int) -> str:
    """Return what the span of a conversation's nth turn is called."""
    return f"turn {number}"


def of_turn(number: int, query: SpanQuery) -> SpanQuery:
    return {"and_": [query, {"some_ancestor_has": {"name_equals": turn_name(number)}}]}


def call_of(key: str) -> SpanQuery:
    """An agent's call of an operation: its tool, the operation under it, that one's SQL."""
    operation: SpanQuery = {
        "has_attributes": {telemetry.OPERATION: key},
        "some_descendant_has": _SQL,
    }
    return {
        "and_": [
            _ANY_TOOL,
            {"has_attributes": {"gen_ai.tool.name": tool_of(key)}},
            {"some_descendant_has": operation},
        ]
    }


def writing_other_than(keys: Collection[str]) -> SpanQuery:
    """A call, even a failed one, of anything that writes and is not one of `keys`."""
    others = [op.key for op in OPERATIONS.values() if op.risk is not Risk.READ]
    tools: list[SpanQuery] = [
        {"has_attributes": {"gen_ai.tool.name": tool_of(key)}} for key in others if key not in keys
    ]
    harmless: list[SpanQuery] = [
        {"has_attributes": {telemetry.RISK: Risk.READ.value}},
        *({"has_attributes": {telemetry.OPERATION: key}} for key in keys),  # type: ignore[list-item]
    ]
    operations: SpanQuery = {
        "has_attribute_keys": [telemetry.OPERATION],
        "not_": {"or_": harmless},
    }
    return {"or_": [*tools, operations]}


def ended(outcome: CallOutcome) -> SpanQuery:
    return {"has_attributes": {telemetry.OUTCOME: outcome.value}}


def calls(tree: SpanTree, turn: int) -> list[SpanNode]:
    """Return the tool calls of a turn, in the order they began."""
    return tree.find(of_turn(turn, _ANY_TOOL))


def called(node: SpanNode) -> str:
    """Return the key of the operation a tool's span is a call of."""
    return key_of(str(node.attributes["gen_ai.tool.name"]))


def arguments(node: SpanNode) -> dict[str, Any]:
    given = json.loads(str(node.attributes["gen_ai.tool.call.arguments"]))
    return given if isinstance(given, dict) else {}
