"""τ-bench retail: does our backend do what the benchmark's does, and stay right when misused?

It measures parity of the backend and no model: the calls are the gold calls of the tasks.
"""

import asyncio
import multiprocessing
import os
import sys
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import orjson

from deps.core import Deps
from evals.tau import data as files
from evals.tau.lab import Lab
from evals.tau.mutations import Report, mutated
from evals.tau.replay import Outcome, batches, counts, plain

SLOW = True
PROCESSES = 2
HALVED_FROM = 24  # Tasks from which a copy of the shop more is worth its second.
SHARED = Path(__file__).parents[2] / ".." / "shared" / "data"
LISTED_MAX = 50


async def main(
    deps: Deps,
    *,
    data: Path | None = None,
    tasks: Path | None = None,
    as_json: bool = False,
) -> int:
    """Replay tasks and their mutations; return 1 unless all match and nothing is violated.

    Args:
        deps: Say which server: the shops are databases beside this one.
        data: Folder with the benchmark's shop, and tasks with gold states.
        tasks: File of other tasks, or a folder of such files.
        as_json: Print one JSON object instead of lines.
    """
    folder = data or Path(os.environ.get("SHOPKEEPER_DATA", SHARED)) / "tau_retail"
    try:
        shop = files.shop(folder)
        sources = files.task_files(tasks or folder)
        wanted = [task for source in sources for task in files.tasks(source)]
    except files.DataMissing as error:
        print(error, file=sys.stderr)  # noqa: T201
        return 1
    started = time.monotonic()
    outcomes, report, broken = await _run(deps, shop, wanted)
    summary = _summary(outcomes, report, broken, time.monotonic() - started)
    if as_json:
        sys.stdout.write(orjson.dumps(summary).decode() + "\n")
    else:
        _print(summary)
    return int(
        summary["matched"] != summary["tasks"]
        or summary["refused"] != summary["must_refuse"]
        or bool(summary["violations"])
    )


async def _run(
    deps: Deps, shop: files.Shop, wanted: Sequence[files.Task]
) -> tuple[list[Outcome], Report, list[str]]:
    lab = Lab.beside(deps)
    outcomes: list[Outcome] = []
    report, broken = Report(), list[str]()
    loop = asyncio.get_running_loop()
    try:
        _tell(f"loading the shop: {len(shop.orders)} orders of {len(shop.users)} customers")
        await lab.build(shop)
        parts = [half for part in batches(shop, wanted) for half in _halves(part)]
        # Processes, because a turn is mostly Python; spawned, because this one has connections.
        with ProcessPoolExecutor(PROCESSES, multiprocessing.get_context("spawn")) as pool:
            work = [loop.run_in_executor(pool, _replayed, lab, shop, part) for part in parts]
            for at, done in enumerate(asyncio.as_completed(work), 1):
                found, misused, rules = await done
                outcomes += found
                broken += rules
                report.tried.update(misused.tried)
                report.failures += misused.failures
                matched = sum(outcome.is_matched for outcome in outcomes)
                _tell(
                    f"part {at} of {len(parts)}: {matched} of {len(outcomes)} tasks match, "
                    f"{sum(report.tried.values())} mutations, {len(report.failures)} failed"
                )
    finally:
        await lab.close()
    place = {task.id: at for at, task in enumerate(wanted)}
    return sorted(outcomes, key=lambda outcome: place[outcome.task.id]), report, broken


def _halves(part: list[files.Task]) -> list[list[files.Task]]:
    if len(part) < HALVED_FROM:
        return [part]
    return [part[: len(part) // 2], part[len(part) // 2 :]]


def _replayed(
    lab: Lab, shop: files.Shop, part: Sequence[files.Task]
) -> tuple[list[Outcome], Report, list[str]]:
    """Replay a part in a process of its own, plainly and misused."""

    async def both() -> tuple[list[Outcome], Report, list[str]]:
        found, rules = await plain(lab, shop, part)
        misused = await mutated(lab, shop, found)
        for outcome in found:  # Only needed here, and large.
            outcome.states, outcome.steps = [], {}
        return found, misused, rules + misused.broken

    return asyncio.run(both())


def _summary(
    outcomes: Sequence[Outcome], report: Report, broken: Sequence[str], seconds: float
) -> dict[str, Any]:
    defects = Counter(name for outcome in outcomes for name in outcome.defects)
    return {
        **counts(outcomes),
        "mutations": sum(report.tried.values()),
        "violations": len(report.failures) + len(broken),
        "mutations_by_kind": dict(sorted(report.tried.items())),
        "mutation_failures": report.failures[:LISTED_MAX],
        "invariant_violations": list(broken)[:LISTED_MAX],
        "mismatches": [
            {"task": outcome.task.id, "differences": outcome.differences[:5]}
            for outcome in outcomes
            if outcome.differences
        ][:LISTED_MAX],
        "reference_defects": dict(sorted(defects.items())),
        "matched_but_for_a_reference_defect": [
            outcome.task.id for outcome in outcomes if outcome.is_matched and outcome.defects
        ],
        "seconds": round(seconds, 1),
    }


def _tell(text: str) -> None:
    print(text, file=sys.stderr, flush=True)  # noqa: T201


def _print(summary: dict[str, Any]) -> None:
    lines = [
        f"tasks       {summary['matched']} of {summary['tasks']} match, "
        f"{summary['matched_exactly']} of them to the letter",
        f"refusals    {summary['refused']} of {summary['must_refuse']}, "
        f"{summary['refused_for_the_same_reason']} for the same reason",
        f"mutations   {summary['mutations']}: {summary['mutations_by_kind']}",
        f"violations  {summary['violations']}",
        f"defects of the benchmark's own tools: {summary['reference_defects'] or 'none met'}",
        *(f"mismatch    {row['task']}: {row['differences'][0]}" for row in summary["mismatches"]),
        *(f"mutation    {line}" for line in summary["mutation_failures"]),
        *(f"invariant   {line}" for line in summary["invariant_violations"]),
        f"{summary['seconds']} s",
    ]
    sys.stdout.write("\n".join(lines) + "\n")
