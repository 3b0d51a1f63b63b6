"""The web process under load: the real application on a Unix socket, nothing switched off but the
rate limits. Started by `bench.load`, with its addresses in the environment."""

import os

import uvicorn

from api.app import create_app
from deps.runtime import open_deps
from deps.settings import Settings


def run(socket_path: str) -> None:
    settings = Settings()
    assert settings.database_url is not None
    database_url, redis_url = settings.database_url, settings.redis_url
    app = create_app(
        settings,
        lambda: open_deps(settings, database_url=database_url, redis_url=redis_url, name="bench"),
    )
    uvicorn.run(app, uds=socket_path, log_level="warning", access_log=False)


if __name__ == "__main__":
    run(os.environ["BENCH_SOCKET"])
