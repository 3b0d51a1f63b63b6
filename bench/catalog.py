"""Browsing over HTTP: a page of the catalogue, and one product.

Example: ./shopkeeper bench catalog --json
"""

import json
import random
import sys
from pathlib import Path
from typing import Any, Final

from bench import load
from deps.core import Deps

CLIENTS: Final = (1, 32, 200)


async def main(deps: Deps, *, data: Path | None = None, as_json: bool = False) -> int:
    """Measure each level of each page. Return 1 if any request failed."""
    skus = await load.seed(deps, data)
    levels: list[dict[str, Any]] = []
    async with load.serve(deps) as shop:
        for name in ("list", "detail"):
            await _level(shop, name, skus, clients=2, seconds=0.5)
            for clients in CLIENTS:
                levels.append(await _level(shop, name, skus, clients=clients, seconds=load.LEVEL_S))
    sys.stdout.write(json.dumps({"levels": levels}) + "\n" if as_json else _table(levels))
    return 1 if any(level["failures"] for level in levels) else 0


async def _level(
    shop: load.Shop, name: str, skus: list[str], *, clients: int, seconds: float
) -> dict[str, Any]:
    samples = load.Samples()

    async def read(number: int) -> None:
        path = "/v1/products" if name == "list" else f"/v1/products/{random.choice(skus)}"
        with samples.measure():
            status, _ = await shop.client.request("GET", path)
        if status != 200:
            samples.failures += 1

    before = load.cpu_s(shop.pid)
    elapsed_s = await load.drive(clients, seconds, read)
    requests = max(1, len(samples.taken_s))
    return {
        "page": name,
        "clients": clients,
        "requests_per_s": round(requests / elapsed_s, 1),
        **samples.summary(),
        "web_cpu_ms_per_request": round((load.cpu_s(shop.pid) - before) * 1_000 / requests, 2),
        "failures": samples.failures,
    }


def _table(levels: list[dict[str, Any]]) -> str:
    names = (
        "page",
        "clients",
        "requests_per_s",
        "p50_ms",
        "p95_ms",
        "p99_ms",
        "web_cpu_ms_per_request",
        "failures",
    )
    rows = [names, *(tuple(str(level[name]) for name in names) for level in levels)]
    return "\n".join("  ".join(cell.rjust(14) for cell in row) for row in rows) + "\n"
