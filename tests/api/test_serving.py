"""Serving until a signal: what ends well, what ends by itself, and what is refused."""

import asyncio
import errno
import socket
from dataclasses import replace
from typing import Any

import httpx
import pytest

from api import serving
from api.servers import CommandFailed, Servers
from deps import postgres
from deps.cache import Cache
from deps.core import Deps, utc_now
from tests import factories
from tests.factories import RecordingMailer
from tests.processes import eventually


async def fails() -> None:
    raise OSError("the network is gone")


async def ends() -> None:
    return


@pytest.mark.parametrize(
    ("work", "error", "said"),
    [
        (fails, OSError, "the network is gone"),
        (ends, CommandFailed, "The web ended by itself; see its log."),
    ],
)
async def test_what_ends_before_it_is_stopped_has_failed(
    work: object, error: type[Exception], said: str
) -> None:
    assert callable(work)
    task = asyncio.create_task(work(), name="web")
    with pytest.raises(error, match=said):
        await serving.until_stopped(asyncio.Event(), task)


async def test_what_ends_when_it_is_stopped_is_well() -> None:
    stop = asyncio.Event()
    stop.set()
    lasting = asyncio.create_task(asyncio.Event().wait())
    over = asyncio.create_task(ends(), name="worker")
    await over
    await serving.until_stopped(stop, over, lasting)  # type: ignore[arg-type]
    lasting.cancel()


async def test_a_closed_port_cannot_be_served(deps: Deps) -> None:
    listener = serving.bind("127.0.0.1", 0)
    listener.close()
    with pytest.raises((OSError, ValueError)):
        async with serving.web(deps.settings, deps, listener):
            raise AssertionError("it serves nothing")


def test_a_port_that_cannot_be_had_is_one_sentence() -> None:
    with serving.bind("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(CommandFailed, match=f"Port {port} is taken"):
            serving.bind("127.0.0.1", port)
    with pytest.raises(CommandFailed, match="cannot be used"):
        serving.bind("192.0.2.1", 0)


async def test_the_worker_delivers_what_happened_and_ends_with_the_block(
    deps: Deps, mailer: RecordingMailer
) -> None:
    live = replace(deps, clock=utc_now)
    await factories.product(live, "MUG", stock=5)
    order = await factories.placed_order(factories.guest(live), MUG=1)
    async with serving.worker(live) as task:
        await eventually(lambda: mailer.sent)
    assert task.done()
    assert not task.cancelled()
    assert str(order.number) in mailer.sent[0].subject + mailer.sent[0].body


async def test_a_worker_that_does_not_stop_in_time_is_cancelled(
    deps: Deps, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serving, "WORKER_STOP_TIMEOUT_S", 0.0)
    async with serving.worker(replace(deps, cache=Cache(None))) as task:
        await asyncio.sleep(0.05)
    assert task.cancelled()


async def test_a_database_of_another_version_is_refused_and_an_embedded_one_migrated(
    database_url: str,
) -> None:
    theirs = Servers(database_url, "", are_embedded=False)
    await serving.require_migrated(theirs)
    await postgres.downgrade(database_url, "-1")
    with pytest.raises(CommandFailed, match=r"run \./shopkeeper migrate"):
        await serving.require_migrated(theirs)
    await serving.require_migrated(Servers(database_url, "", are_embedded=True))
    assert not await serving.migrate(theirs), "there is nothing left to do"


class _Full(socket.socket):
    """Says once that no more files can be open."""

    refusals = 1

    def accept(self) -> tuple[socket.socket, Any]:
        if self.refusals:
            self.refusals -= 1
            raise OSError(errno.EMFILE, "Too many open files")
        return super().accept()


async def test_connections_wait_while_no_more_files_can_be_open(
    deps: Deps, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serving, "ACCEPT_AGAIN_S", 0.05)
    with _Full(socket.AF_INET, socket.SOCK_STREAM) as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        async with serving.web(deps.settings, deps, listener):
            async with httpx.AsyncClient(base_url=serving.address_of(listener), timeout=60) as http:
                assert (await http.get("/health/live")).status_code == 200
            assert listener.refusals == 0
