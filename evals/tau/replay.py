"""Replaying tasks: each on a shop of its own as far as it can tell, compared row by row."""

import asyncio
import sys
import traceback
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson

from deps.core import Deps
from evals.tau import export, names, reference
from evals.tau.adapter import WRITES, Refused, Tools
from evals.tau.data import Call, Json, Shop, Task
from evals.tau.export import Names
from evals.tau.lab import Lab
from evals.tau.reference import Step
from tools import invariant

AT_ONCE = 6  # Tasks of a batch that run beside each other.


@dataclass(slots=True)
class Outcome:
    """What became of a task: how it differs from the gold state, if it does."""

    task: Task
    accepted: list[bool] = field(default_factory=list)
    states: list[tuple[dict[str, Json], dict[str, Json]]] = field(default_factory=list)
    steps: dict[str, list[Step]] = field(default_factory=dict)
    differences: list[str] = field(default_factory=list)
    defects: set[str] = field(default_factory=set)
    refused: int = 0
    must_refuse: int = 0
    same_reason: int = 0

    @property
    def is_matched(self) -> bool:
        return not self.differences


@dataclass(frozen=True, slots=True)
class Touched:
    """The orders and users a task may change: tasks that share none do not see each other."""

    orders: frozenset[str]
    users: frozenset[str]

    def meets(self, other: "Touched") -> bool:
        return bool(self.orders & other.orders or self.users & other.users)


def touched(shop: Shop, task: Task) -> Touched:
    orders = {str(call.arguments.get("order_id", "")) for call in task.calls}
    orders = {order_id for order_id in (*orders, *task.orders) if order_id in shop.orders}
    users = {str(call.arguments.get("user_id", "")) for call in task.calls} | {task.user_id or ""}
    users |= {shop.orders[order_id]["user_id"] for order_id in orders} | set(task.users)
    return Touched(frozenset(orders), frozenset(users & shop.users.keys()))


def batches(shop: Shop, tasks: Sequence[Task]) -> list[list[Task]]:
    """Part tasks into as few batches as come easily, none of whose tasks share an order or user."""
    found: list[tuple[list[Task], list[Touched]]] = []
    for task in tasks:
        mine = touched(shop, task)
        for members, theirs in found:
            if not any(mine.meets(other) for other in theirs):
                members.append(task)
                theirs.append(mine)
                break
        else:
            found.append(([task], [mine]))
    return [members for members, _ in found]


def actor_of(shop: Shop, task: Task, call: Call) -> str | None:
    """Return who calls: the task's user, or the owner of what the call is about."""
    if task.user_id is not None:
        return task.user_id
    order = shop.orders.get(str(call.arguments.get("order_id", "")))
    if order is not None:
        return str(order["user_id"])
    user_id = str(call.arguments.get("user_id", ""))
    return user_id if user_id in shop.users else next(iter(shop.users))


@dataclass(slots=True)
class Bench:
    """A copy of the shop with a batch of tasks on it."""

    shop: Shop
    known: Names
    deps: Deps

    def tools(self, task: Task, call: Call) -> Tools:
        return Tools(self.deps, self.known, actor_of(self.shop, task, call))

    async def state(self, of: Touched) -> tuple[dict[str, Json], dict[str, Json]]:
        """Return the orders and users a task may change, as they are now."""
        numbers = [n for n in map(names.order_number, of.orders) if n is not None]
        orders = await export.orders(self.deps, self.known, numbers)
        return orders, await export.users(self.deps, self.known, of.users)


async def plain(lab: Lab, shop: Shop, tasks: Sequence[Task]) -> tuple[list[Outcome], list[str]]:
    """Replay a batch call by call; return the outcomes and the invariants that do not hold."""
    known = Names.of(shop)
    async with lab.shop() as deps:
        bench = Bench(shop, known, deps)
        outcomes = await beside_each_other([_replay(bench, Outcome(task)) for task in tasks])
        await compare(bench, outcomes)
        return outcomes, await broken(deps)


async def beside_each_other(work: Sequence[Any], at_once: int = AT_ONCE) -> list[Any]:
    gate = asyncio.Semaphore(at_once)

    async def one(item: Any) -> Any:
        async with gate:
            return await item

    return list(await asyncio.gather(*(one(item) for item in work)))


async def _replay(bench: Bench, outcome: Outcome) -> Outcome:
    mine = touched(bench.shop, outcome.task)
    outcome.states.append(await bench.state(mine))
    for call in outcome.task.calls:
        await call_once(bench, outcome, call)
        if call.name in WRITES:
            outcome.states.append(await bench.state(mine))
        else:
            outcome.states.append(outcome.states[-1])
    return outcome


async def call_once(bench: Bench, outcome: Outcome, call: Call) -> None:
    """Make a call and note whether it went as it should."""
    before = outcome.states[-1][0].get(str(call.arguments.get("order_id", "")))
    outcome.must_refuse += call.is_ok is False
    try:
        result = await bench.tools(outcome.task, call)(call.name, call.arguments)
    except Refused as refusal:
        outcome.accepted.append(False)
        outcome.refused += call.is_ok is False
        outcome.same_reason += call.is_ok is False and _same_reason(str(refusal), call.error)
        if call.is_ok:
            outcome.differences.append(f"{call.name} was refused: {refusal}")
        return
    except Exception as error:  # Told as a difference; the run is about the other tasks, too.
        traceback.print_exc(file=sys.stderr)
        outcome.accepted.append(False)
        outcome.differences.append(f"{call.name} failed: {type(error).__name__}: {error}"[:300])
        return
    outcome.accepted.append(True)
    if call.is_ok is False:
        outcome.differences.append(f"{call.name} was not refused ({call.error})")
    if before is not None:
        outcome.steps.setdefault(before["order_id"], []).append(Step(call, before))
    is_same = call.result is None or _value(result) == _value(call.result)
    if not is_same and not await _answer_is_explained(bench, outcome, call):
        outcome.differences.append(f"{call.name} answered otherwise")


async def _answer_is_explained(bench: Bench, outcome: Outcome, call: Call) -> bool:
    """Whether only known defects of the benchmark's own tools part the answers of a write."""
    order_id = str(call.arguments.get("order_id", ""))
    number = names.order_number(order_id)
    if number is None or order_id not in outcome.steps:
        return False
    ours = (await export.orders(bench.deps, bench.known, [number]))[order_id]
    shown, _ = reference.order_with_defects(bench.shop, outcome.steps[order_id], ours)
    return bool(export.compact(shown) == _value(call.result))


def _same_reason(ours: str, theirs: str | None) -> bool:
    said = (theirs or "").removeprefix("ValueError: ").removeprefix("Error: ").lower()
    return bool(said) and (said.startswith(ours.lower()) or ours.lower().startswith(said))


def _value(result: Any) -> Any:
    if isinstance(result, str):
        try:
            return _value(orjson.loads(result))
        except orjson.JSONDecodeError:
            return result.strip()
    return export.normal(result)


async def compare(bench: Bench, outcomes: Sequence[Outcome]) -> None:
    """Hold every order and user of the shop against the gold state, touched or not."""
    orders = await export.orders(bench.deps, bench.known)
    users = await export.users(bench.deps, bench.known)
    owner: dict[str, Outcome] = {}
    gold: dict[str, Json] = {**bench.shop.orders, **bench.shop.users}
    for outcome in outcomes:
        mine = touched(bench.shop, outcome.task)
        owner |= dict.fromkeys((*mine.orders, *mine.users), outcome)
        gold |= {**outcome.task.orders, **outcome.task.users}
    for key, ours in (*orders.items(), *users.items()):
        wanted, shown = export.normal(gold[key]), export.compact(ours)
        if wanted == shown:
            continue
        of = owner.get(key)
        if of is None:
            # Nobody was asked to change it: any task of the batch may have.
            for outcome in outcomes:
                outcome.differences.append(f"{key} changed although no task of the batch names it")
        elif not _is_explained(bench, of, key, ours, wanted):
            of.differences += [f"{key} {line}" for line in differing(wanted, shown)]


def _is_explained(bench: Bench, outcome: Outcome, key: str, ours: Json, wanted: Json) -> bool:
    """Whether the only differences are known defects of the benchmark's own tools."""
    if key in outcome.steps:
        shown, found = reference.order_with_defects(bench.shop, outcome.steps[key], ours)
    else:
        steps = [step for steps in outcome.steps.values() for step in steps]
        shown, found = reference.user_with_defects(steps, ours), {reference.REFUND_OF_ALL}
    if export.compact(shown) != wanted:
        return False
    outcome.defects |= found
    return True


def differing(wanted: Json, shown: Json) -> Iterator[str]:
    for name in sorted(wanted.keys() | shown.keys()):
        if wanted.get(name) != shown.get(name):
            yield f"{name}: {wanted.get(name)!r} expected, {shown.get(name)!r} found"[:400]


async def broken(deps: Deps) -> list[str]:
    found = await invariant.check(deps)
    return [f"{rule.invariant}: {', '.join(rule.offenders[:3])}" for rule in found]


def counts(outcomes: Sequence[Outcome]) -> Mapping[str, int]:
    return {
        "tasks": len(outcomes),
        "matched": sum(outcome.is_matched for outcome in outcomes),
        "matched_exactly": sum(outcome.is_matched and not outcome.defects for outcome in outcomes),
        "must_refuse": sum(outcome.must_refuse for outcome in outcomes),
        "refused": sum(outcome.refused for outcome in outcomes),
        "refused_for_the_same_reason": sum(outcome.same_reason for outcome in outcomes),
    }
