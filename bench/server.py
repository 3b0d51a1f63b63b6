"""The web processes under load, as `./shopkeeper serve --workers` runs them but on a Unix socket,
nothing switched off but the rate limits. Started by `bench.load`, with its addresses in the
environment."""

import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Final

from fastapi import FastAPI

from api import loop, serving
from api.app import create_app
from api.servers import Servers
from api.workers import worker_pool
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


async def _serve(socket_path: str, workers: int) -> None:
    settings = Settings()
    assert settings.database_url is not None
    assert settings.redis_url is not None
    servers = Servers(settings.database_url, settings.redis_url, are_embedded=False)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(socket_path)
        listener.listen(2048)
        async with (
            serving.stop_on_signals() as stop,
            worker_pool(servers, listener, workers) as web,
        ):
            await serving.until_stopped(stop, web)


def _uvicorn(socket_path: str, workers: int) -> None:
    loop.run(_serve(socket_path, workers))


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
