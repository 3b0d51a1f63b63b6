"""Which ASGI server: the same application and load under each, on one and on two processes.

Example: ./shopkeeper bench server_choice
"""

import json
import sys
from pathlib import Path
from typing import Any, Final

from bench import catalog, load
from bench.server import SERVERS
from deps.core import Deps

SLOW: Final = True
CLIENTS: Final = (32, 200)
WORKERS: Final = (1, 2)
LEVEL_S: Final = 3.0


async def main(deps: Deps, *, data: Path | None = None, as_json: bool = False) -> int:
    """Measure every server. Return 1 if any request failed."""
    skus = await load.seed(deps, data)
    rows: list[dict[str, Any]] = []
    for workers in WORKERS:
        for server in SERVERS:
            levels = await catalog.measure(
                deps, skus, server=server, workers=workers, clients=CLIENTS, seconds=LEVEL_S
            )
            rows += [{"server": server, "workers": workers, **level} for level in levels]
    sys.stdout.write(json.dumps({"levels": rows}) + "\n" if as_json else load.table(rows))
    return 1 if any(row["failures"] for row in rows) else 0
