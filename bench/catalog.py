"""Browsing over HTTP: a page of the catalogue, and one product.

Example: ./shopkeeper bench catalog --json

`web_cpu_ms_per_request` is what all processes of the web server used. The clients share the machine
with them, so throughput is a lower bound and that figure is the one to compare.
"""

import json
import random
import sys
from pathlib import Path
from typing import Any, Final

from bench import load
from deps.core import Deps

CLIENTS: Final = (1, 32, 200)
PAGES: Final = ("list", "detail")
WARM_UP_S: Final = 1.0


async def main(
    deps: Deps,
    *,
    data: Path | None = None,
    server: str = "uvicorn",
    workers: int = 1,
    as_json: bool = False,
) -> int:
    """Measure each level of each page. Return 1 if any request failed."""
    skus = await load.seed(deps, data)
    levels = await measure(deps, skus, server=server, workers=workers)
    sys.stdout.write(json.dumps({"levels": levels}) + "\n" if as_json else load.table(levels))
    return 1 if any(level["failures"] for level in levels) else 0


async def measure(
    deps: Deps,
    skus: list[str],
    *,
    server: str,
    workers: int,
    clients: tuple[int, ...] = CLIENTS,
    seconds: float = load.LEVEL_S,
) -> list[dict[str, Any]]:
    """Run one server and return a row for each page and number of clients."""
    levels: list[dict[str, Any]] = []
    async with load.serve(deps, server=server, workers=workers) as shop:
        for page in PAGES:
            await level(shop, page, skus, clients=8 * workers, seconds=WARM_UP_S)
            for number in clients:
                levels.append(await level(shop, page, skus, clients=number, seconds=seconds))
    return levels


async def level(
    shop: load.Shop, page: str, skus: list[str], *, clients: int, seconds: float
) -> dict[str, Any]:
    samples = load.Samples()

    async def read(number: int) -> None:
        path = "/v1/products" if page == "list" else f"/v1/products/{random.choice(skus)}"
        with samples.measure():
            status, _ = await shop.client.request("GET", path)
        if status != 200:
            samples.failures += 1

    before = load.cpu_s(shop.pid)
    elapsed_s = await load.drive(clients, seconds, read)
    requests = max(1, len(samples.taken_s))
    return {
        "page": page,
        "clients": clients,
        "requests_per_s": round(requests / elapsed_s, 1),
        **samples.summary(),
        "web_cpu_ms_per_request": round((load.cpu_s(shop.pid) - before) * 1_000 / requests, 3),
        "failures": samples.failures,
    }
