"""Reservations a second: everybody wants one SKU, or each another.

Example: ./shopkeeper bench reserve --json

A reservation is one transaction: a hold, its line, its movement, the counters. `function` calls the
database as checkout does, `operation` is `inventory.reserve` in a unit of work with its event. Each
is measured `contended` (one SKU) and `spread` (200 SKUs), and beside it PostgreSQL's own load
generator with the same function; `ratio` is our rate over its. `sold_out` lets 64 clients fight for
500 units: exactly 500 may have one.
"""

import random
import sys
from datetime import timedelta
from typing import Any, Final

import orjson

from bench import load, pgbench
from db.types import OrderId, new_id
from deps.core import SYSTEM, Deps
from tools import invariant, inventory, product, stock
from tools.errors import OutOfStock

CLIENTS: Final = (1, 64)
SCARCE: Final = 500
PGBENCH_CLIENTS: Final = 8
_RESERVE: Final = "SELECT stock_reserve($1, $2, $3, $4, $5, $6)"
_SCRIPT: Final = """
\\set n random(0, {last})
SELECT stock_reserve(gen_random_uuid(), ARRAY['BENCH-' || :n::text], ARRAY[1],
                     now() + interval '15 minutes', NULL, now());
"""


async def main(deps: Deps, *, as_json: bool = False, seconds: float = load.LEVEL_S) -> int:
    """Measure each way and level, and audit the shop. Return 1 if anything is unsound."""
    skus = await load.seed(deps, None)
    await _drive(deps, skus, "function", clients=8, seconds=1.0)  # Connections and plans get warm.
    levels: list[dict[str, Any]] = []
    for spread, among in (("contended", skus[:1]), ("spread", skus)):
        rate = await pgbench.run(
            deps,
            _SCRIPT.format(last=len(among) - 1),
            clients=PGBENCH_CLIENTS,
            seconds=seconds,
        )
        for way in ("function", "operation"):
            for clients in CLIENTS:
                level = await _drive(deps, among, way, clients=clients, seconds=seconds)
                levels.append(
                    {
                        "stock": spread,
                        **level,
                        "pgbench_tps": rate and round(rate.tps, 1),
                        "pgbench_cpu_ms": rate and rate.database_cpu_ms,
                        "ratio": rate and round(level["reservations_per_s"] / rate.tps, 3),
                    }
                )
    sold = await _sell_out(deps)
    violations = await invariant.check(deps)
    report = {
        "levels": levels,
        "sold_out": {"clients": max(CLIENTS), "units": SCARCE, "sold": sold},
        "invariant_violations": len(violations),
        "violations": [violation.model_dump() for violation in violations],
    }
    sys.stdout.write(orjson.dumps(report).decode() + "\n" if as_json else _table(report))
    failures = sum(level["failures"] for level in levels)
    return 1 if violations or failures or sold != SCARCE else 0


async def _drive(
    deps: Deps, skus: list[str], way: str, *, clients: int, seconds: float
) -> dict[str, Any]:
    samples = load.Samples()

    async def reserve(number: int) -> None:
        sku = random.choice(skus)
        with samples.measure():
            try:
                await _reserve(deps, sku, way)
            except OutOfStock:
                samples.failures += 1

    database = await load.server_cpu_s(deps)
    elapsed_s = await load.drive(clients, seconds, reserve)
    database_s = await load.server_cpu_s(deps) - database
    done = max(1, len(samples.taken_s) - samples.failures)
    return {
        "way": way,
        "clients": clients,
        "reservations_per_s": round(done / elapsed_s, 1),
        **samples.summary(),
        "database_cpu_ms": round(database_s * 1_000 / done, 2),
        "failures": samples.failures,
    }


async def _reserve(deps: Deps, sku: str, way: str) -> None:
    order_id, now = OrderId(new_id()), deps.clock()
    if way == "operation":
        async with deps.begin() as uow:
            await inventory.reserve(uow, order_id=order_id, units={sku: 1})
        return
    until = now + timedelta(minutes=15)
    if await deps.hot.fetchval(_RESERVE, order_id, [sku], [1], until, None, now) is not None:
        raise OutOfStock(sku, 1)


async def _sell_out(deps: Deps) -> int:
    """Let everybody buy one scarce SKU until nobody can; return how many units went."""
    staff = deps.acting_as(SYSTEM)
    async with staff.begin() as uow:
        scarce = product.ProductInput(
            handle="scarce",
            title="The scarce one",
            variants=[
                product.VariantInput(
                    sku="SCARCE", price_amount=100, currency=deps.settings.currency
                )
            ],
        )
        await product.save(uow, scarce)
        await stock.receive(uow, "SCARCE", load.LOCATION, SCARCE)
    sold = 0
    is_over = False

    async def buy(number: int) -> None:
        nonlocal sold, is_over
        while not is_over:
            try:
                async with deps.begin() as uow:
                    await inventory.reserve(uow, order_id=OrderId(new_id()), units={"SCARCE": 1})
            except OutOfStock:
                is_over = True
            else:
                sold += 1

    await load.drive(max(CLIENTS), 0.001, buy)
    return sold


def _table(report: dict[str, Any]) -> str:
    names = (
        "stock",
        "way",
        "clients",
        "reservations_per_s",
        "p50_ms",
        "p95_ms",
        "p99_ms",
        "database_cpu_ms",
        "pgbench_tps",
        "ratio",
    )
    rows = [names, *(tuple(str(level[name]) for name in names) for level in report["levels"])]
    lines = ["  ".join(cell.rjust(18) for cell in row) for row in rows]
    sold = report["sold_out"]
    lines.append(f"sold {sold['sold']} of {sold['units']} to {sold['clients']} clients at once")
    lines.append(f"invariant violations: {report['invariant_violations']}")
    return "\n".join(lines) + "\n"
