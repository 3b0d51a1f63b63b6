"""The same tasks again, every write of them misused in five ways before and after it is done.

`another_user`   somebody else makes the call: refused, nothing changes
`unconfirmed`    an agent makes the call: an action waits for the person, nothing changes
`eight_at_once`  eight calls at the same moment: the effect of one
`permuted`       the items named in another order: the same result
`twice`          once more when it is done: nothing changes

What the writes lead to must still be the gold state.
"""

import asyncio
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from agents.base import WAITING, call_operation
from evals.tau import export, names
from evals.tau.adapter import WRITES, Refused, Tools, as_operation
from evals.tau.data import Call, Json, Shop
from evals.tau.export import Names
from evals.tau.lab import Lab
from evals.tau.replay import Bench, Outcome, beside_each_other, broken, touched
from tools.errors import DomainError

AT_ONCE = 8
TASKS_AT_ONCE = 2  # Their eight calls each are enough for two processors.

# Everything that belongs to some orders and people, as text: any effect shows.
_PRINT = """
    SELECT md5(coalesce(string_agg(line, '|' ORDER BY line), '')) FROM (
        SELECT o::text AS line FROM orders o WHERE o.number = ANY($1)
        UNION ALL
        SELECT x::text FROM orders o JOIN order_line x ON x.order_id = o.id
         WHERE o.number = ANY($1)
        UNION ALL
        SELECT x::text FROM orders o JOIN payment x ON x.order_id = o.id WHERE o.number = ANY($1)
        UNION ALL
        SELECT x::text FROM orders o JOIN refund x ON x.order_id = o.id WHERE o.number = ANY($1)
        UNION ALL
        SELECT x::text FROM orders o JOIN ledger_entry x ON x.order_id = o.id
         WHERE o.number = ANY($1)
        UNION ALL
        SELECT x::text FROM orders o JOIN order_edit x ON x.order_id = o.id
         WHERE o.number = ANY($1)
        UNION ALL
        SELECT x::text FROM orders o JOIN order_return x ON x.order_id = o.id
         WHERE o.number = ANY($1)
        UNION ALL
        SELECT x::text FROM orders o JOIN order_exchange x ON x.order_id = o.id
         WHERE o.number = ANY($1)
        UNION ALL
        SELECT x::text FROM orders o JOIN reservation_line x ON x.reservation_id = o.id
         WHERE o.number = ANY($1)
        UNION ALL
        SELECT x::text FROM customer_address x WHERE x.customer_id = ANY($2)
        UNION ALL
        SELECT x::text FROM credit_account x WHERE x.customer_id = ANY($2)
        UNION ALL
        SELECT x.seq::text FROM orders o JOIN outbox x ON x.aggregate_id = o.id
         WHERE o.number = ANY($1)
    ) AS fact
"""


@dataclass(slots=True)
class Report:
    tried: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _Write:
    """A write that the plain replay made, and the state it led to."""

    bench: Bench
    report: Report
    tools: Tools
    task_id: str
    call: Call
    numbers: Sequence[int]
    people: Sequence[str]
    wanted: tuple[dict[str, Json], dict[str, Json]]

    async def fingerprint(self) -> str:
        ids = [names.user_uuid(user_id) for user_id in self.people]
        found: str = await self.bench.deps.hot.fetchval(_PRINT, list(self.numbers), ids)
        return found

    async def state(self) -> tuple[dict[str, Json], dict[str, Json]]:
        orders = await export.orders(self.bench.deps, self.bench.known, self.numbers)
        return orders, await export.users(self.bench.deps, self.bench.known, self.people)

    async def unchanged(self, kind: str, act: Callable[[], Awaitable[str | None]]) -> None:
        """Do something that must change nothing; it says itself what else went wrong."""
        self.report.tried[kind] += 1
        before = await self.fingerprint()
        problem = await act()
        if problem is None and await self.fingerprint() != before:
            problem = "something changed"
        if problem is not None:
            self.failed(kind, problem)

    def failed(self, kind: str, problem: str) -> None:
        self.report.failures.append(f"{self.task_id} {self.call.name} {kind}: {problem}")


async def mutated(lab: Lab, shop: Shop, outcomes: Sequence[Outcome]) -> Report:
    """Replay a batch with its mutations, on a copy of its own."""
    report = Report()
    known = Names.of(shop)
    async with lab.shop() as deps:
        bench = Bench(shop, known, deps)
        work = [_misuse(bench, report, outcome) for outcome in outcomes]
        await beside_each_other(work, TASKS_AT_ONCE)
        report.broken = await broken(deps)
    return report


async def _misuse(bench: Bench, report: Report, outcome: Outcome) -> None:
    mine = touched(bench.shop, outcome.task)
    numbers = [n for n in map(names.order_number, mine.orders) if n is not None]
    for at, (call, is_accepted) in enumerate(
        zip(outcome.task.calls, outcome.accepted, strict=True)
    ):
        if call.name not in WRITES:
            continue
        tools = bench.tools(outcome.task, call)
        write = _Write(
            bench=bench,
            report=report,
            tools=tools,
            task_id=outcome.task.id,
            call=call,
            numbers=numbers,
            people=sorted(mine.users),
            wanted=outcome.states[at + 1],
        )
        if is_accepted:
            await _misuse_write(write)
        else:
            await write.unchanged("refused_again", lambda w=write: _refused(w.tools, w.call))  # type: ignore[misc]


async def _misuse_write(write: _Write) -> None:
    await write.unchanged("another_user", lambda: _as_stranger(write))
    await write.unchanged("unconfirmed", lambda: _unconfirmed(write))
    await _at_once(write)
    await write.unchanged("twice", lambda: _again(write))


async def _refused(tools: Tools, call: Call) -> str | None:
    try:
        await tools(call.name, call.arguments)
    except Refused:
        return None
    return "it was not refused"


async def _as_stranger(write: _Write) -> str | None:
    others = [user_id for user_id in write.bench.shop.users if user_id not in write.people]
    stranger = others[hash_of(write) % len(others)]
    tools = Tools(write.bench.deps, write.bench.known, stranger)
    return await _refused(tools, write.call)


async def _unconfirmed(write: _Write) -> str | None:
    operation, arguments = await as_operation(write.tools, write.call.name, write.call.arguments)
    try:
        answer = await call_operation(write.tools.person, operation, arguments)
    except DomainError as error:
        return f"an agent could not even propose it: {error}"
    return None if answer["kind"] == WAITING else "it was carried out without confirmation"


async def _at_once(write: _Write) -> None:
    """Let eight calls race, each naming its items in an order of its own."""
    orders = [permuted(write.call.arguments, seed) for seed in range(AT_ONCE)]
    is_permuted = any(order != dict(write.call.arguments) for order in orders)
    kinds = ["eight_at_once", *(["permuted"] if is_permuted else [])]
    write.report.tried.update(kinds)

    async def one(arguments: Mapping[str, Any]) -> bool:
        try:
            await write.tools(write.call.name, arguments)
        except Refused:
            return False
        return True

    accepted = await asyncio.gather(*(one(arguments) for arguments in orders))
    state = await write.state()
    if not any(accepted):
        write.failed("eight_at_once", "none was accepted")
    elif state != write.wanted:
        for kind in kinds:
            write.failed(kind, "the result is not that of one call")


async def _again(write: _Write) -> str | None:
    try:
        await write.tools(write.call.name, write.call.arguments)
    except Refused:
        return None
    return None  # Accepting it is as good, as long as nothing changes.


def permuted(arguments: Mapping[str, Any], seed: int) -> Json:
    """Return the arguments with items, and what they become, in another order; pairs stay."""
    if not isinstance(arguments.get("item_ids"), list):
        return dict(arguments)
    pairs = list(zip(arguments["item_ids"], arguments.get("new_item_ids") or [], strict=False))
    order = list(range(len(arguments["item_ids"])))
    random.Random(seed).shuffle(order)
    changed = {**arguments, "item_ids": [arguments["item_ids"][at] for at in order]}
    if pairs:
        changed["new_item_ids"] = [arguments["new_item_ids"][at] for at in order]
    return changed


def hash_of(write: _Write) -> int:
    return sum(map(ord, f"{write.task_id}{write.call.name}"))
