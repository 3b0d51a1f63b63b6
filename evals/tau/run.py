"""τ-bench retail: does our backend do what the benchmark's does, and stay right when misused?

It measures parity of the backend and no model: the calls are the gold calls of the tasks.
"""

import os
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import orjson

from deps.core import Deps
from evals.tau import data as files
from evals.tau.lab import Lab
from evals.tau.mutations import Report, mutated
from evals.tau.replay import Outcome, batches, counts, plain

SLOW = True
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
    lab = Lab(deps)
    outcomes: list[Outcome] = []
    report, broken = Report(), list[str]()
    try:
        _tell(f"loading the shop: {len(shop.orders)} orders of {len(shop.users)} customers")
        await lab.build(shop)
        parts = batches(shop, wanted)
        for at, part in enumerate(parts, 1):
            found, rules = await plain(lab, shop, part)
            outcomes += found
            broken += rules
            misused = await mutated(lab, shop, found)
            report.tried.update(misused.tried)
            report.failures += misused.failures
            broken += misused.broken
            matched = sum(outcome.is_matched for outcome in outcomes)
            _tell(
                f"batch {at} of {len(parts)}: {matched} of {len(outcomes)} tasks match, "
                f"{sum(report.tried.values())} mutations, {len(report.failures)} failed"
            )
    finally:
        await lab.close()
    return outcomes, report, broken


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
