"""A real server over the test's database, and a real browser in front of it."""

import os
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from deps.core import Deps
from tests.browser.chrome import Browser, Page, binary, browser
from tests.site import served


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
    async with served(deps) as address:
        yield address
