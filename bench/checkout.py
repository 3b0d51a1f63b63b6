"""The shopper's whole way over HTTP: new cart, line, address, shipping method, pay, placed.

Example: ./shopkeeper bench checkout --json

`p50_ms` and the like are of the whole way, six answers of the server after each other; `pay_…` are
of the buying request alone. CPU is what the web processes and PostgreSQL used per order. The
gateway is the scripted one and answers at once: what is measured is this shop, not a vendor.
`pgbench_tps` is how often PostgreSQL's own load generator gets through the same SQL, and `ratio`
our best rate over it.
"""

import asyncio
import random
import sys
from pathlib import Path
from typing import Any, Final
from uuid import uuid4

import orjson
from sqlalchemy import text

from bench import load, pgbench
from deps.core import Deps
from tools import invariant
from tools.cart import LINES_MAX, QUANTITY_MAX

CLIENTS: Final = (1, 16, 64)
WORKERS: Final = 2
PGBENCH_CLIENTS: Final = 8
AUDIT_EVERY_S: Final = 2.5
ADDRESS: Final = {
    "email": "shopper@example.com",
    "shipping_address": {
        "name": "Ada Lovelace",
        "line1": "12 Quay Street",
        "city": "Hamburg",
        "postal_code": "20457",
        "country_code": "DE",
    },
}


async def main(
    deps: Deps, *, data: Path | None = None, as_json: bool = False, seconds: float = load.LEVEL_S
) -> int:
    """Measure each level, audit the shop meanwhile and after. Return 1 if anything is unsound."""
    skus = await load.seed(deps, data)
    levels: list[dict[str, Any]] = []
    violations: list[invariant.Violation] = []
    async with load.serve(deps, workers=WORKERS) as shop:
        await _level(deps, shop, skus, clients=4, seconds=2.0)  # Connections and plans get warm.
        for clients in CLIENTS:
            audit = asyncio.create_task(_audit(deps, seconds))
            levels.append(await _level(deps, shop, skus, clients=clients, seconds=seconds))
            violations += await audit
    violations += await invariant.check(deps)
    rate = await pgbench.run(deps, await _script(deps), clients=PGBENCH_CLIENTS, seconds=seconds)
    best = max(float(level["orders_per_s"]) for level in levels)
    report = {
        **{
            name: {str(level["clients"]): level[name] for level in levels}
            for name in ("orders_per_s", "p50_ms", "p95_ms", "p99_ms", "cpu_ms_per_order")
        },
        "pgbench_tps": rate and round(rate.tps, 1),
        "pgbench_cpu_ms": rate and rate.database_cpu_ms,
        "ratio": rate and round(best / rate.tps, 3),
        "invariant_violations": len(violations),
        "violations": [violation.model_dump() for violation in violations],
        "levels": levels,
    }
    sys.stdout.write(orjson.dumps(report).decode() + "\n" if as_json else _table(report))
    failures = sum(level["failures"] for level in levels)
    return 1 if violations or failures else 0


async def _audit(deps: Deps, seconds: float) -> list[invariant.Violation]:
    """Check the shop once in the middle of the load."""
    await asyncio.sleep(min(AUDIT_EVERY_S, seconds / 2))
    return await invariant.check(deps)


async def _level(
    deps: Deps, shop: load.Shop, skus: list[str], *, clients: int, seconds: float
) -> dict[str, Any]:
    paying, flow = load.Samples(), load.Samples()

    async def order(number: int) -> None:
        with flow.measure():
            if not await _buy(shop, random.choice(skus), paying):
                flow.failures += 1

    web, database = load.cpu_s(shop.pid), await load.server_cpu_s(deps)
    elapsed_s = await load.drive(clients, seconds, order)
    web_s = load.cpu_s(shop.pid) - web
    database_s = await load.server_cpu_s(deps) - database
    orders = max(1, len(flow.taken_s) - flow.failures)
    return {
        "clients": clients,
        "orders": orders,
        "orders_per_s": round(orders / elapsed_s, 1),
        **flow.summary(),
        **{f"pay_{name}": value for name, value in paying.summary().items()},
        "cpu_ms_per_order": round((web_s + database_s) * 1_000 / orders, 2),
        "web_cpu_ms_per_order": round(web_s * 1_000 / orders, 2),
        "database_cpu_ms_per_order": round(database_s * 1_000 / orders, 2),
        "failures": flow.failures,
    }


async def _buy(shop: load.Shop, sku: str, paying: load.Samples) -> bool:
    http, guest = shop.client, {"X-Guest-Token": uuid4().hex + uuid4().hex}
    status, body = await http.request("POST", "/v1/carts", guest)
    if status != 201:
        return False
    cart = f"/v1/carts/{orjson.loads(body)['id']}"
    for method, path, sent in (
        ("POST", f"{cart}/lines", {"sku": sku, "quantity": 1}),
        ("PUT", f"{cart}/details", ADDRESS),
        ("PUT", f"{cart}/details", {"shipping_method": "standard"}),
    ):
        status, body = await http.request(method, path, guest, sent)
        if status != 200:
            return False
    total = orjson.loads(body)["total_amount"]
    with paying.measure():
        status, body = await http.request(
            "POST",
            f"{cart}/complete",
            {**guest, "Idempotency-Key": uuid4().hex},
            {"payment_method": "tok_visa", "expected_total_amount": total},
        )
    return status == 200 and orjson.loads(body)["status"] == "placed"


async def _script(deps: Deps) -> str:
    """Write the same statements, in the same transactions, for `pgbench`."""
    async with deps.begin() as uow:
        skus = await uow.session.scalar(text("SELECT count(*) FROM variant"))
        await uow.session.execute(
            text(
                "CREATE TABLE IF NOT EXISTS bench_sku AS "
                "SELECT row_number() OVER (ORDER BY sku)::int AS n, sku FROM variant"
            )
        )
        await uow.session.execute(
            text("CREATE UNIQUE INDEX IF NOT EXISTS bench_sku_n ON bench_sku (n)")
        )
    address = orjson.dumps(ADDRESS["shipping_address"]).decode()
    return rf"""
\set n random(1, {skus})
SELECT sku, uuidv7() AS cart, uuidv7() AS ord, uuidv7() AS pay, now() AS at,
       md5(random()::text) || md5(random()::text) AS secret
FROM bench_sku WHERE n = :n \gset
SELECT cart_open(:cart, NULL, :secret, '{deps.settings.currency}', :at) FROM commit_lazily();
SELECT cart_put(:cart, NULL, :secret, :sku, 1, true, {LINES_MAX}, {QUANTITY_MAX}, :at)
FROM commit_lazily();
SELECT cart_describe(:cart, NULL, :secret, 'shopper@example.com', '{address}', NULL, :at)
FROM commit_lazily();
SELECT cart_describe(:cart, NULL, :secret, NULL, NULL, 'standard', :at) FROM commit_lazily();
INSERT INTO idempotency_key (scope, key, request_sha256, claim, locked_until, created_at)
VALUES ('bench', :secret, :secret, :cart, :at, :at) ON CONFLICT DO NOTHING RETURNING claim;
SELECT (d->'cart'->>'version')::int AS version,
       (d->'lines'->0->>'unit_price_amount')::bigint AS subtotal
FROM (SELECT cart_document(c, :at) AS d FROM cart c WHERE id = :cart) AS found \gset
SELECT checkout_prepare(:cart, NULL, :secret, :version, :subtotal, :ord, 490, 0, 0, 0, false,
                        jsonb_build_array(jsonb_build_object(
                            'id', :pay::text, 'provider', 'scripted', 'method_token', 'tok_visa',
                            'amount', :subtotal::bigint + 490)),
                        :at::timestamptz + interval '15 minutes',
                        :at::timestamptz + interval '30 seconds', 'guest', NULL, :at);
SELECT checkout_confirm(:ord, :pay, 'auth', NULL, NULL, 'guest', NULL, :at);
SELECT checkout_place(:ord, :pay, NULL, 'guest', NULL, :at);
UPDATE idempotency_key SET status_code = 200, body = repeat('x', 900)::bytea, locked_until = NULL
WHERE scope = 'bench' AND key = :secret;
"""


def _table(report: dict[str, Any]) -> str:
    names = ("clients", "orders_per_s", "p50_ms", "p95_ms", "p99_ms", "cpu_ms_per_order")
    rows = [names, *(tuple(str(level[name]) for name in names) for level in report["levels"])]
    lines = ["  ".join(cell.rjust(16) for cell in row) for row in rows]
    if report["pgbench_tps"] is not None:
        lines.append(f"pgbench, the same SQL: {report['pgbench_tps']}/s; ratio {report['ratio']}")
    lines.append(f"invariant violations: {report['invariant_violations']}")
    return "\n".join(lines) + "\n"
