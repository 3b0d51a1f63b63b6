"""The web process under load: the real application on a Unix socket, nothing switched off but the
rate limits. Started by `bench.load`, with its addresses in the environment."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Final

import uvicorn
from fastapi import FastAPI

from api.app import create_app
from deps.runtime import open_deps
from deps.settings import Settings
from deps.telemetry import configure_logging


def application() -> FastAPI:
    settings = Settings()
    assert settings.database_url is not None
    database_url, redis_url = settings.database_url, settings.redis_url
    configure_logging("web")
    return create_app(
        settings,
        lambda: open_deps(settings, database_url=database_url, redis_url=redis_url, name="bench"),
    )


def _uvicorn(socket_path: str, workers: int) -> None:
    uvicorn.run(
        "bench.server:application",
        factory=True,
        uds=socket_path,
        workers=workers,
        # Importing takes longer than the default on a loaded machine, and who is late is killed.
        timeout_worker_healthcheck=60,
        log_config=None,
        access_log=False,
        server_header=False,
    )


def _granian(socket_path: str, workers: int) -> None:
    from granian import Granian
    from granian.constants import Interfaces, Loops

    Granian(
        "bench.server:application",
        factory=True,
        uds=Path(socket_path),
        interface=Interfaces.ASGI,
        loop=Loops.uvloop,
        workers=workers,
        log_enabled=True,
    ).serve()


SERVERS: Final[dict[str, Callable[[str, int], None]]] = {"uvicorn": _uvicorn, "granian": _granian}

if __name__ == "__main__":
    SERVERS[os.environ["BENCH_SERVER"]](
        os.environ["BENCH_SOCKET"], int(os.environ["BENCH_WORKERS"])
    )
