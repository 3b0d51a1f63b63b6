"""The demo as one process: it fills a shop, serves it, keeps its mails, and ends when told to."""

import asyncio
import os
import re
import signal
import webbrowser
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest

from api import demo
from api.servers import CommandFailed
from deps.process import EmbeddedError
from deps.settings import Settings
from tests import factories
from tests.api.test_sale import complete, ready_cart
from tests.processes import eventually, kept_logging, signalled

SOON_S = 60.0


@pytest.fixture(autouse=True)
def logging_as_before() -> Generator[None, None, None]:
    with kept_logging():
        yield


@pytest.fixture
def settings(demo_url: str, valkey: object, tmp_path: Path) -> Settings:
    return Settings(
        _env_file=None,
        database_url=demo_url,
        redis_url=str(getattr(valkey, "url", "")),
        data_dir=tmp_path,
        port=0,
        database_pool_size=5,
    )


@asynccontextmanager
async def running(
    settings: Settings, capsys: pytest.CaptureFixture[str], *, open_browser: bool = False
) -> AsyncGenerator[tuple[str, "asyncio.Task[None]"], None]:
    """Yield the shop's address; end the demo as Ctrl-C would, and check that it ends well."""
    task = asyncio.create_task(demo.run(settings, fresh=False, open_browser=open_browser))
    said = ""
    async with asyncio.timeout(SOON_S):
        while (address := re.search(r"Shop and chat +(http://\S+?)/\s", said)) is None:
            assert not task.done(), task.result()
            await asyncio.sleep(0.05)
            said += capsys.readouterr().out
    try:
        yield address[1], task
    finally:
        os.kill(os.getpid(), signal.SIGTERM)
        async with asyncio.timeout(SOON_S):
            await task


async def test_a_sale_in_the_demo_sends_a_mail_into_its_folder(
    settings: Settings, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    async with running(settings, capsys) as (address, _):
        headers = {"X-Guest-Token": factories.GUEST_TOKEN}
        async with httpx.AsyncClient(base_url=address, headers=headers, timeout=60) as client:
            found = await client.get("/v1/products", params={"in_stock": True, "limit": 1})
            cart_id = await ready_cart(client, found.json()["items"][0]["sku"])
            order = await complete(client, cart_id)
            assert order.status_code == 200, order.text
        mails = await eventually(lambda: list((tmp_path / "mail").glob("*.eml")))
    assert "ada@example.com" in mails[0].read_text()
    said = capsys.readouterr().out
    assert "mail to ada@example.com: " in said
    assert said.endswith("Stopping.\nStopped.\n")
    assert '"service":"demo"' in (tmp_path / "demo.log").read_text()


async def test_a_window_opens_on_a_desktop(
    settings: Settings,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    opened: list[str] = []
    monkeypatch.setattr(webbrowser, "open", opened.append)
    monkeypatch.setattr(demo, "_has_desktop", lambda: True)
    elsewhere = settings.model_copy(update={"smtp_host": "127.0.0.1"})
    elsewhere.model_fields_set.add("smtp_host")
    async with running(elsewhere, capsys, open_browser=True) as (address, _):
        await eventually(lambda: opened)
    assert opened == [address]
    assert not (tmp_path / "mail").exists(), "a mail server was named"


async def test_one_that_is_stopped_while_it_starts_serves_nothing(
    settings: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    async with asyncio.timeout(SOON_S):
        await signalled(signal.SIGTERM, demo.run(settings, fresh=False, open_browser=False))
    said = capsys.readouterr().out
    assert "Stopped." in said
    assert "is open after" not in said


async def test_a_fresh_start_forgets_mails_but_no_database_of_someone(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "mail").mkdir()
    (tmp_path / "mail" / "old.eml").touch()
    with pytest.raises(CommandFailed, match="unset DATABASE_URL"):
        await demo.run(settings, fresh=True, open_browser=False)
    assert (tmp_path / "mail" / "old.eml").exists()
    embedded = settings.model_copy(update={"database_url": None})
    monkeypatch.setenv("PG_BIN", str(tmp_path))
    with pytest.raises(EmbeddedError):
        await demo.run(embedded, fresh=True, open_browser=False)
    assert not (tmp_path / "mail" / "old.eml").exists()
