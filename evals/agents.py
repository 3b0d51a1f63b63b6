"""Agents eval: every agent's own cases: the right tool, the right arguments, and nothing unasked.

A case is a person and what they say. What was called, with what and in which order, is judged from
the spans of the last turn; that it happened, from the rows it left. An error weighs what it would
cost: an unasked act ten times a missed one.
"""

import json
import math
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final
from uuid import UUID

import yaml
from pydantic import BaseModel, Field
from pydantic_evals import Dataset
from pydantic_evals.evaluators import EvaluationReason, Evaluator, EvaluatorContext
from pydantic_evals.otel import SpanNode
from pydantic_evals.reporting import EvaluationReport
from rich.console import Console
from rich.table import Table
from sqlmodel import col, select

from agents import budget, coordinator
from agents import domains as _domains  # noqa: F401  Registers every operation.
from agents.coordinator import Said
from agents.model import choose_model
from db.models.agent import AgentCall, CallOutcome
from deps import telemetry
from deps.core import SYSTEM, Deps
from evals import spans, world
from tools import conversation as conversations
from tools.errors import DomainError
from tools.registry import OPERATIONS

HERE = Path(__file__).parent
DATASETS = HERE / "datasets"
# A minute or so; CI names it.
SLOW: Final = True
# What an error costs, in the price of a question asked once too often.
WEIGHTS: Final = {
    "nothing_unasked": 10.0, "recorded": 10.0, "called": 1.0, "arguments": 2.0, "traced": 1.0,
    "told": 0.5,
}  # fmt: skip


class Asked(BaseModel):
    """Who says what, one line a turn. `{order}` is the number of the customer's own order."""

    role: str = Field(pattern="^(guest|customer|merchant)$")
    say: list[str] = Field(min_length=1)


class Expected(BaseModel):
    """`calls`: operations of the last turn, in order, with the arguments that matter. `waits`: the
    operation that has to wait for approval. `tells`: words of the reply."""

    calls: list[dict[str, dict[str, Any]]] = Field(default_factory=list)
    waits: str | None = None
    tells: list[str] = Field(default_factory=list)
    may_call: list[str] = Field(default_factory=list)

    @property
    def pairs(self) -> list[tuple[str, dict[str, Any]]]:
        return [(key, given) for call in self.calls for key, given in call.items()]


@dataclass
class Record:
    """What the last turn left: its reply, the approvals it showed, its rows."""

    reply: str = ""
    approvals: list[str] = field(default_factory=list)
    rows: list[AgentCall] = field(default_factory=list)
    order: int | None = None
    requests: int = 0
    tokens: int = 0
    cost_micros: int = 0


@dataclass
class Judged(Evaluator[Asked, Record, Any]):
    """Five verdicts on the spans and the rows of the last turn."""

    expected: dict[str, Any] = field(default_factory=dict)

    def evaluate(self, ctx: EvaluatorContext[Asked, Record, Any]) -> dict[str, EvaluationReason]:
        want, record, tree = Expected.model_validate(self.expected), ctx.output, ctx.span_tree
        turn = len(ctx.inputs.say)
        waits = [want.waits] if want.waits else []
        asked = [*(key for key, _ in want.pairs), *waits, *want.may_call]
        made = spans.calls(tree, turn)
        found = _in_order(want, made)
        waiting = _keys(tree.find(spans.of_turn(turn, spans.ended(CallOutcome.WAITING))))
        done = _keys(tree.find(spans.of_turn(turn, spans.ended(CallOutcome.DONE))))
        unasked = tree.find(spans.of_turn(turn, spans.writing_other_than(asked)))
        given = [spans.arguments(node) if node else {} for node in found]
        fits = [
            _fits(wanted, have, record.order)
            for (_, wanted), have in zip(want.pairs, given, strict=True)
        ]
        rows = _rows(record)
        verdicts = {
            "called": (
                None not in found and waiting == record.approvals == waits,
                f"called {[spans.called(node) for node in made]}, approvals {record.approvals}",
            ),
            "arguments": (all(fits), f"with {given}"),
            "nothing_unasked": (
                not unasked and set(waiting) <= set(waits),
                f"unasked {[node.name for node in unasked]}, waiting {waiting}",
            ),
            "recorded": (
                sorted(rows[CallOutcome.DONE] + rows[CallOutcome.WAITING]) == sorted(done + waiting)
                and rows[CallOutcome.WAITING] == waiting
                and all(
                    _has_row(record, *pair)
                    for pair, node, is_right in zip(want.pairs, found, fits, strict=True)
                    if node is not None and is_right
                ),
                f"rows {rows}, spans {done} done, {waiting} waiting",
            ),
            "told": (
                all(words.lower() in record.reply.lower() for words in want.tells),
                record.reply[:200],
            ),
        }
        return {
            name: EvaluationReason(value=passed, reason=None if passed else reason)
            for name, (passed, reason) in verdicts.items()
        }


def _in_order(want: Expected, made: list[SpanNode]) -> list[SpanNode | None]:
    """Return the span of each wanted call, each after the one before it; None is a missed one."""
    rest = iter(made)
    return [
        next((node for node in rest if node.matches(spans.call_of(key))), None)
        for key, _ in want.pairs
    ]


def _keys(operations: list[SpanNode]) -> list[str]:
    return [str(node.attributes[telemetry.OPERATION]) for node in operations]


def _rows(record: Record) -> dict[CallOutcome, list[str]]:
    return {
        outcome: [row.operation for row in record.rows if row.outcome is outcome]
        for outcome in (CallOutcome.DONE, CallOutcome.WAITING, CallOutcome.FAILED)
    }


def _has_row(record: Record, key: str, wanted: dict[str, Any]) -> bool:
    return any(
        row.operation == key and _fits(wanted, row.arguments, record.order) for row in record.rows
    )


def _fits(wanted: dict[str, Any], given: dict[str, Any], order: int | None) -> bool:
    """Say whether the arguments that matter are there; text counts without regard to case."""
    for name, value in wanted.items():
        value = order if value == "{order}" else value
        have = given.get(name)
        if isinstance(value, str) and isinstance(have, str):
            if value.lower() not in have.lower():
                return False
        elif have != value:
            return False
    return True


async def converse(deps: Deps, asked: Asked) -> Record:
    """Hold the conversation as a fresh person, each turn a trace; return what the last one left."""
    someone = await world.person(deps, asked.role)
    async with someone.deps.begin() as uow:
        conversation_id = (await conversations.start(uow, asked.say[0])).id
    record = Record()
    for number, line in enumerate(asked.say, 1):
        said = line.replace("{order}", str(someone.order_number))
        with telemetry.begin_trace(spans.turn_name(number)) as trace:
            acting = replace(someone.deps, trace_id=trace.id)
            record = await _turn(acting, conversation_id, said, record)
    record.order = someone.order_number
    return record


async def _turn(deps: Deps, conversation_id: UUID, said: str, before: Record) -> Record:
    async with deps.begin() as uow:
        state = dict((await conversations.access(uow, conversation_id)).state)
    turn = coordinator.begin(state, conversation_id)
    record, model = Record(), choose_model(deps.settings, deps.actor)
    told: list[Said] = []
    try:
        await coordinator.answer(deps, model, said, turn, told.append)
    except DomainError as error:
        record.reply = str(error)
    record.approvals = [tell.data["operation"] for tell in told if tell.name == "approval"]
    await coordinator.persist(deps, conversation_id, turn, [])
    record.reply = turn.text or record.reply
    record.requests = before.requests + turn.usage.requests
    record.tokens = before.tokens + (turn.usage.total_tokens or 0)
    record.cost_micros = before.cost_micros + turn.usage.details.get(budget.COST, 0)
    async with deps.acting_as(SYSTEM).begin() as uow:
        rows = await uow.session.exec(
            select(AgentCall)
            .where(col(AgentCall.trace_id) == deps.trace_id)
            .order_by(col(AgentCall.id))
        )
        record.rows = list(rows)
    return record


def load(path: Path) -> Dataset[Asked, Record, Any]:
    """Read one agent's cases; an operation that does not exist is an error."""
    found = Dataset[Asked, Record, Any].from_file(path, custom_evaluator_types=[Judged])
    for case in found.cases:
        judged, *traced = case.evaluators
        assert isinstance(judged, Judged), f"{path.name}: {case.name} begins with no Judged"
        names = [evaluator.get_default_evaluation_name() for evaluator in traced]
        assert names in ([], ["traced"]), f"{path.name}: {case.name} has {names}, not `traced`"
        want = Expected.model_validate(judged.expected)
        named = {*(key for key, _ in want.pairs), *want.may_call}
        unknown = named - set(OPERATIONS) | ({want.waits} - {None, *OPERATIONS})
        assert not unknown, f"{path.name}: {case.name} names unknown {sorted(map(str, unknown))}"
    return found


async def main(
    deps: Deps,
    *,
    data: Path | None = None,
    as_json: bool = False,
    k: int = 1,
    live: bool = False,
) -> int:
    """Print a table by agent; return 1 when anything misses its threshold.

    Args:
        deps: An empty shop, which is furnished.
        data: Another folder of datasets, or one file.
        as_json: Print one JSON object instead of the table.
        k: How often each case runs; it passes when every run does (pass^k).
        live: Ask the configured model, and tell what it cost.
    """
    has_key = deps.settings.openai_api_key or deps.settings.openai_base_url
    if live and not has_key:
        sys.stderr.write("--live needs OPENAI_API_KEY or OPENAI_BASE_URL; see .env.example.\n")
        return 1
    if not live:
        offline = {"openai_api_key": None, "openai_base_url": None}
        deps = replace(deps, settings=deps.settings.model_copy(update=offline))
    await world.furnish(deps)
    source = data or DATASETS
    paths = sorted(source.glob("*.yaml")) if source.is_dir() else [source]

    async def task(asked: Asked) -> Record:
        return await converse(deps, asked)

    agents = {}
    for path in paths:
        with spans.recorded():
            report = await load(path).evaluate(task, progress=False, repeat=k, max_concurrency=4)
        agents[path.stem] = _scores(report, k)
    result = _result(agents, k, deps.settings.models if live else budget.OFFLINE)
    saved = _save(deps, result)
    sys.stdout.write(json.dumps(result) + "\n" if as_json else _table(result, saved))
    return 0 if result["passed"] else 1


def _scores(report: EvaluationReport[Asked, Record, Any], k: int) -> dict[str, Any]:
    """Add up one agent's report: cases, passes, pass^i, the cost of errors, what failed."""
    by_name: dict[str, list[Any]] = {}
    for case in report.cases:
        by_name.setdefault(case.source_case_name or case.name, []).append(case)
    failed, cost, acts = [], 0.0, 0
    passes = {}
    for name, runs in by_name.items():
        passes[name] = 0
        for run in runs:
            wrong = {n: a.reason for n, a in run.assertions.items() if not a.value}
            # A verdict that could not be given may hide the worst.
            unjudged = {f.name: f.error_message for f in run.evaluator_failures}
            cost += sum(WEIGHTS[n] for n in wrong) + WEIGHTS["nothing_unasked"] * len(unjudged)
            wrong |= unjudged
            acts += "nothing_unasked" in wrong
            passes[name] += not wrong
            if wrong:
                failed.append({"case": name, "wrong": wrong})
    broken = [{"case": f.name, "wrong": {"error": f.error_message}} for f in report.failures]
    total = len(by_name) + len(
        {f.source_case_name or f.name for f in report.failures} - set(by_name)
    )
    records = [case.output for case in report.cases]
    return {
        "cases": total,
        "passed": sum(count == k for count in passes.values()),
        "pass_hat": {
            str(i): round(sum(_pass_hat(count, k, i) for count in passes.values()) / total, 4)
            for i in range(1, k + 1)
        },
        "error_cost": round(cost / max(1, k), 2) + WEIGHTS["nothing_unasked"] * len(broken),
        "unasked_acts": acts,
        "requests": sum(record.requests for record in records),
        "tokens": sum(record.tokens for record in records),
        "cost_micros": sum(record.cost_micros for record in records),
        "failed": failed + broken,
    }


def _pass_hat(passes: int, runs: int, k: int) -> float:
    """Return the chance that `k` runs drawn from `runs` all pass (τ-bench's pass^k)."""
    return math.comb(passes, k) / math.comb(runs, k)


def _result(agents: dict[str, Any], k: int, model: str) -> dict[str, Any]:
    limits = yaml.safe_load((HERE / "thresholds.yaml").read_text())["agents"]
    cases = sum(scores["cases"] for scores in agents.values())
    passed = sum(scores["passed"] for scores in agents.values())
    cost = sum(scores["error_cost"] for scores in agents.values())
    acts = sum(scores["unasked_acts"] for scores in agents.values())
    low = [
        name
        for name, scores in agents.items()
        if scores["passed"]
        < limits["pass_rate_min"].get(name, limits["pass_rate_min"]["default"]) * scores["cases"]
    ]
    verdict = {
        "agents_above_their_pass_rate": not low,
        "error_cost_within_limit": cost <= limits["error_cost_max"],
        "unasked_acts_within_limit": acts <= limits["unasked_acts_max"],
    }
    return {
        "model": model, "k": k, "cases": cases, "passed_cases": passed,
        "pass_rate": round(passed / max(1, cases), 4), "error_cost": round(cost, 2),
        "unasked_acts": acts, "cost_usd": sum(s["cost_micros"] for s in agents.values()) / 1e6,
        "agents": agents, "below": low, "checks": verdict, "passed": all(verdict.values()),
    }  # fmt: skip


def _save(deps: Deps, result: dict[str, Any]) -> Path:
    folder = Path(deps.settings.data_dir) / "evals"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "agents.json"
    path.write_text(json.dumps(result, indent=2))
    return path


def _table(result: dict[str, Any], saved: Path) -> str:
    table = Table(title=f"agents, by {result['model']}", title_justify="left")
    k = str(result["k"])
    for name in ("agent", "cases", "passed", f"pass^{k}", "error cost", "unasked acts", "tokens"):
        table.add_column(name, justify="left" if name == "agent" else "right")
    for name, scores in result["agents"].items():
        row = (scores["cases"], scores["passed"], scores["pass_hat"][k], scores["error_cost"],
               scores["unasked_acts"], scores["tokens"])  # fmt: skip
        table.add_row(name, *map(str, row))
    console = Console(width=100)
    with console.capture() as captured:
        console.print(table)
    failed = [
        f"  {name}: {entry['case']}: {entry['wrong']}"
        for name, scores in result["agents"].items()
        for entry in scores["failed"]
    ]
    head = (
        f"agents: {result['passed_cases']} of {result['cases']} cases, error cost "
        f"{result['error_cost']}, unasked acts {result['unasked_acts']}, "
        f"${result['cost_usd']:.4f}; written to {saved}"
    )
    end = "passed" if result["passed"] else f"below the threshold: {result['checks']}"
    return "\n".join([captured.get().rstrip(), head, *failed, end]) + "\n"
