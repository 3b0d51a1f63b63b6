"""What the conversation is about, read back from its tool results."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from typing import Any

from pydantic_ai.messages import (
    ModelMessage,
    ModelRequest,
    ModelResponse,
    ToolReturnPart,
    UserPromptPart,
)
from pydantic_core import to_jsonable_python

from agents.desk import key_of
from agents.planner_tokens import ID, NUMBER


@dataclass(frozen=True, slots=True)
class Candidate:
    """Something `the second one` may refer to."""

    sku: str
    title: str
    handle: str
    variant_count: int = 1


@dataclass(slots=True)
class Context:
    candidates: list[Candidate] = field(default_factory=list)
    orders: list[int] = field(default_factory=list)
    focus_sku: str | None = None
    focus_order: int | None = None
    search: dict[str, Any] | None = None
    question: dict[str, Any] | None = None
    last_operation: str | None = None
    last_arguments: dict[str, Any] = field(default_factory=dict)
    today: date | None = None
    rows: list[dict[str, Any]] = field(default_factory=list)
    known: dict[str, Any] = field(default_factory=dict)
    """Ids and codes that results named last, by the parameter they would fill: `return_id`."""

    @property
    def only_handle(self) -> str | None:
        """The product that all that was shown is of, if it is of one."""
        return only_handle(self.candidates)


def only_handle(candidates: Iterable[Candidate]) -> str | None:
    handles = {candidate.handle for candidate in candidates}
    return handles.pop() if len(handles) == 1 else None


def fact(part: ToolReturnPart) -> tuple[str, Any]:
    """Return kind and data of a tool result; a failure is of kind `failed`."""
    content = to_jsonable_python(part.content)
    if isinstance(content, dict) and "kind" in content and "data" in content:
        return str(content["kind"]), content["data"]
    return "failed", part.model_response_str(wrap_if_error=False)


def prompt_of(messages: Sequence[ModelMessage]) -> tuple[int, str]:
    """Return where the current turn starts and what the person wrote."""
    for index in range(len(messages) - 1, -1, -1):
        message = messages[index]
        if isinstance(message, ModelRequest):
            for part in message.parts:
                if isinstance(part, UserPromptPart):
                    return index, str(part.content)
    return 0, ""


def today_of(messages: Sequence[ModelMessage]) -> date | None:
    """Return the day on which the person wrote, for dates such as `tomorrow`."""
    for message in reversed(messages):
        if isinstance(message, ModelRequest):
            for part in message.parts:
                if isinstance(part, UserPromptPart):
                    return part.timestamp.date()
    return None


def context_of(messages: Sequence[ModelMessage]) -> Context:
    """Replay the conversation: later results replace earlier ones."""
    context = Context()
    for message in messages:
        if isinstance(message, ModelResponse):
            planned = (message.metadata or {}).get("planner", {})
            context.question = planned.get("question")
            for call in message.tool_calls:
                arguments = call.args_as_dict()
                goal = planned.get("goal")
                key = goal["operation"] if goal else key_of(call.tool_name)
                said = goal["slots"] if goal else arguments
                context.last_operation, context.last_arguments = key, said
                context.focus_sku = arguments.get("sku") or context.focus_sku
                if call.tool_name == "product_search":
                    context.search = arguments
        else:
            for returned in message.parts:
                if isinstance(returned, ToolReturnPart):
                    kind, data = fact(returned)
                    _note(context, kind, data)
                    if kind not in ("failed", "waiting"):
                        _remember(context, returned, data)
    return context


def named_in(context: Context) -> frozenset[str]:
    """Return the marks of what the conversation has named, so that a message need not."""
    marks = {NUMBER} if context.orders or context.focus_order else set()
    if any(name.endswith("_id") for name in context.known):
        marks.add(ID)
    return frozenset(marks)


def _remember(context: Context, returned: ToolReturnPart, data: Any) -> None:
    """Keep the ids and codes a result names: `it` and `that one` mean the last of them."""
    if not isinstance(data, dict):
        return
    rows = data.get("items")
    if isinstance(rows, list):
        context.rows = [row for row in rows if isinstance(row, dict)]
        data = context.rows[0] if len(context.rows) == 1 else {}
    noun = key_of(returned.tool_name).partition(".")[0]
    context.known |= named(data, noun)


_OVER = frozenset(
    (
        "received",
        "cancelled",
        "closed",
        "resolved",
        "completed",
        "rejected",
        "succeeded",
        "won",
        "lost",
    )
)


def rows_open(data: Any) -> list[dict[str, Any]]:
    """Return the rows of a list that something can still be done with, or all if that is none."""
    rows = data.get("items") if isinstance(data, dict) else data
    rows = [row for row in rows or [] if isinstance(row, dict) and "id" in row]
    is_open = [row for row in rows if (row.get("status") or row.get("state")) not in _OVER]
    return is_open or rows


def named(row: Mapping[str, Any], noun: str) -> dict[str, Any]:
    """Return a result's ids, codes and numbers by the parameter they would fill."""
    found = {
        name: value
        for name, value in row.items()
        if isinstance(value, str | int)
        and not isinstance(value, bool)
        and (name.endswith(("_id", "_code", "code")) or name in ("sku", "case"))
    }
    if "id" in row:
        found[f"{noun}_id"] = row["id"]
        found[f"{noun.rpartition('_')[2]}_id"] = row[
            "id"
        ]  # `stock_count` is asked for by `count_id`.
    return found


def _note(context: Context, kind: str, data: Any) -> None:
    if kind == "products" and not data["items"]:
        return  # What was found before is still what they look at.
    if kind == "products":
        context.candidates = [
            Candidate(item["sku"], item["title"], item["handle"], item["variant_count"])
            for item in data["items"]
        ]
        single = len(context.candidates) == 1 and context.candidates[0].variant_count == 1
        context.focus_sku = context.candidates[0].sku if single else None
        context.orders = []
    elif kind == "product":
        context.candidates = [
            Candidate(variant["sku"], f"{data['title']} {variant['title']}".strip(), data["handle"])
            for variant in data["variants"]
        ]
        context.focus_sku = data["variants"][0]["sku"] if len(data["variants"]) == 1 else None
        context.orders = []
    elif kind == "order":
        context.focus_order = data["number"]
    elif kind == "orders":
        context.orders = [item["number"] for item in data["items"]]
        context.candidates = []
        context.focus_order = context.orders[0] if len(context.orders) == 1 else None
    elif kind == "stock":
        context.focus_sku = data["sku"]
    elif rows := _of_products(data):
        context.candidates = [Candidate(row["sku"], row["title"], row["sku"]) for row in rows]
        context.focus_sku = rows[0]["sku"] if len(rows) == 1 else None


def _of_products(data: Any) -> list[dict[str, Any]]:
    """Return the rows of a list that are each about a SKU with a title."""
    rows = data.get("items") if isinstance(data, dict) else data
    if not isinstance(rows, list):
        return []
    is_named = all(isinstance(row, dict) and {"sku", "title"} <= row.keys() for row in rows)
    return rows if is_named else []
