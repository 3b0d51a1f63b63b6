"""The shopper's whole way over HTTP: open a cart, fill it, say where to, buy.

Example: ./shopkeeper bench checkout --json

`p50_ms` and the like are of the buying request alone; `flow_…` are of all four requests. CPU is
what the web process and PostgreSQL used per order. The gateway is the scripted one and answers at
once: what is measured is this shop, not a vendor.
"""

import json
import random
import sys
from pathlib import Path
from typing import Any, Final
from uuid import uuid4

import orjson

from bench import load
from deps.core import Deps
from tools import invariant

CLIENTS: Final = (1, 16, 64)
LINES: Final = 2
DETAILS: Final = {
    "email": "shopper@example.com",
    "shipping_address": {
        "name": "Ada Lovelace",
        "line1": "12 Quay Street",
        "city": "Hamburg",
        "postal_code": "20457",
        "country_code": "DE",
    },
    "shipping_method": "standard",
}


async def main(deps: Deps, *, data: Path | None = None, as_json: bool = False) -> int:
    """Measure each level, then audit the whole shop. Return 1 if anything failed or is unsound."""
    skus = await load.seed(deps, data)
    levels: list[dict[str, Any]] = []
    async with load.serve(deps) as shop:
        await _level(deps, shop, skus, clients=2, seconds=1.0)  # Connections and plans get warm.
        for clients in CLIENTS:
            levels.append(await _level(deps, shop, skus, clients=clients, seconds=load.LEVEL_S))
    violations = await invariant.check(deps)
    best = max(levels, key=lambda level: float(level["orders_per_s"]))
    report = {
        **best,
        "levels": levels,
        "invariant_violations": len(violations),
        "violations": [violation.model_dump() for violation in violations],
    }
    sys.stdout.write(json.dumps(report) + "\n" if as_json else _table(report))
    failures = sum(level["failures"] for level in levels)
    return 1 if violations or failures else 0


async def _level(
    deps: Deps, shop: load.Shop, skus: list[str], *, clients: int, seconds: float
) -> dict[str, Any]:
    buying, flow = load.Samples(), load.Samples()

    async def order(number: int) -> None:
        with flow.measure():
            if not await _buy(shop, random.sample(skus, LINES), buying):
                flow.failures += 1

    web, database = load.cpu_s(shop.pid), await load.database_cpu_s(deps)
    elapsed_s = await load.drive(clients, seconds, order)
    web_s = load.cpu_s(shop.pid) - web
    database_s = load.grown(database, await load.database_cpu_s(deps))
    orders = max(1, len(flow.taken_s) - flow.failures)
    return {
        "clients": clients,
        "orders": orders,
        "orders_per_s": round(orders / elapsed_s, 1),
        **buying.summary(),
        **{f"flow_{name}": value for name, value in flow.summary().items()},
        "cpu_ms_per_order": round((web_s + database_s) * 1_000 / orders, 2),
        "web_cpu_ms_per_order": round(web_s * 1_000 / orders, 2),
        "database_cpu_ms_per_order": round(database_s * 1_000 / orders, 2),
        "failures": flow.failures,
    }


async def _buy(shop: load.Shop, skus: list[str], buying: load.Samples) -> bool:
    ask, guest = shop.client.request, {"X-Guest-Token": uuid4().hex + uuid4().hex}
    status, opened = await ask("POST", "/v1/carts", guest)
    if status != 201:
        return False
    cart = f"/v1/carts/{orjson.loads(opened)['id']}"
    for sku in skus:
        status, _ = await ask("POST", f"{cart}/lines", guest, {"sku": sku, "quantity": 1})
        if status != 200:
            return False
    status, detailed = await ask("PUT", f"{cart}/details", guest, DETAILS)
    if status != 200:
        return False
    total = orjson.loads(detailed)["total_amount"]
    with buying.measure():
        status, _ = await ask(
            "POST",
            f"{cart}/complete",
            {**guest, "Idempotency-Key": uuid4().hex},
            {"payment_method": "tok_visa", "expected_total_amount": total},
        )
    return status == 200


def _table(report: dict[str, Any]) -> str:
    names = (
        "clients",
        "orders_per_s",
        "p50_ms",
        "p95_ms",
        "p99_ms",
        "cpu_ms_per_order",
        "failures",
    )
    rows = [names, *(tuple(str(level[name]) for name in names) for level in report["levels"])]
    lines = ["  ".join(cell.rjust(16) for cell in row) for row in rows]
    lines.append(f"invariant violations: {report['invariant_violations']}")
    return "\n".join(lines) + "\n"
