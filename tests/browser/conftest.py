"""A real server over the test's database, and a real browser in front of it."""

import asyncio
import os
import socket
from collections.abc import AsyncGenerator, Generator
from contextlib import contextmanager
from pathlib import Path

import pytest
import uvicorn

from api.app import create_app
from deps.core import Deps
from tests.browser.chrome import Browser, Page, binary, browser


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.accepts = asyncio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.accepts.set()

    @contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        """Leave the signals to pytest."""
        yield


@pytest.fixture(scope="session")
async def chromium(tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[Browser, None]:
    if binary() is None:
        reason = "Chromium is not installed; on Debian: apt-get install chromium"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    profile: Path = tmp_path_factory.mktemp("chromium")
    async with browser(profile) as running:
        yield running


@pytest.fixture
async def page(chromium: Browser) -> AsyncGenerator[Page, None]:
    async with chromium.page() as opened:
        yield opened


@pytest.fixture
async def site(deps: Deps) -> AsyncGenerator[str, None]:
    """Serve the application on a free port of this machine; yield its address."""
    app = create_app(deps.settings)
    app.state.deps = deps
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    config = uvicorn.Config(app, log_config=None, timeout_graceful_shutdown=1)
    server = _Server(config)
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    await asyncio.wait_for(server.accepts.wait(), 20)
    yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    server.should_exit = True
    await serving
