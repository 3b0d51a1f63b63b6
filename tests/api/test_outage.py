"""What people are told while the database is away, and that nothing is lost over it."""

import asyncio
from collections.abc import AsyncGenerator

import httpx
import pytest
from websockets.asyncio.client import connect

from agents import runner
from api import chat_socket, feed
from db.models.chat import TurnState
from deps.announcement import Announcements
from deps.core import SYSTEM, Deps
from tests import factories
from tests.agents.slow_model import Tap, saying
from tests.agents.test_runner import assert_unbroken, read, spoken, turns_of
from tests.api.test_chat_socket import closed, hello, refusal, send, shop, until
from tests.outage import Wire, wire_to
from tools import feed as changes
from tools import stock

SOON_S = 60.0


@pytest.fixture
def wires() -> list[Wire]:
    return []


@pytest.fixture
async def database_url(database_url: str, wires: list[Wire]) -> AsyncGenerator[str, None]:
    async with wire_to(database_url) as wire:
        wires.append(wire)
        yield wire.url


@pytest.fixture
def wire(database_url: str, wires: list[Wire]) -> Wire:
    return wires[0]


async def test_a_chat_socket_says_so_and_goes_on_when_it_is_back(deps: Deps, wire: Wire) -> None:
    async with shop(deps) as place, connect(place) as one, connect(place) as other:
        await hello(one)
        await hello(other)  # At once: who says nothing is let go.
        await send(one, "say", text="hello")
        heard = await until(one, "done")
        await wire.cut()
        await send(other, "say", text="hello")
        refused = await refusal(other)
        assert (refused["code"], refused["status"]) == ("unavailable", 503)
        assert await closed(one) == chat_socket.TRY_AGAIN
        await wire.mend()
        await send(other, "say", text="hello")
        assert (await until(other, "done"))[-1]["data"]["state"] == "done"
        async with connect(place) as again:
            await hello(again, conversation_id=heard[0]["data"]["id"], after=heard[1]["id"])
            assert await until(again, "done") == heard[2:]


async def test_a_feed_goes_on_where_it_was(
    merchant: Deps, wire: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feed, "POLL_S", 0.02)
    monkeypatch.setattr(feed, "GAP_S", 0.02)
    await factories.product(merchant, "MUG")
    hub = feed.Hub(merchant, changes, Announcements(None))
    async with hub.watch() as queue:
        for delta in (1, 2):
            async with merchant.acting_as(SYSTEM).begin() as uow:
                await stock.adjust(uow, "MUG", "HAM", delta, "counted")
            change = await asyncio.wait_for(queue.get(), SOON_S)
            assert change is not None
            assert change.payload["delta"] == delta
            await wire.cut()
            await asyncio.sleep(0.1)
            await wire.mend()
        assert queue.empty()


async def test_requests_are_told_to_come_back_and_do(
    client: httpx.AsyncClient, guest: Deps, wire: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner, "BEAT_S", 0.2)
    await factories.product(guest, "MUG")
    opened = (await client.post("/v1/carts")).json()["id"]
    body = {"sku": "MUG", "quantity": 2}
    key = {"Idempotency-Key": "one-of-the-guest"}
    await wire.cut()
    for request in (
        client.get(f"/v1/carts/{opened}"),
        client.get("/v1/conversations"),
        client.get("/v1/conversations"),
        client.post(f"/v1/carts/{opened}/lines", json=body, headers=key),
        client.post("/v1/chat", json={"text": "hello"}),
    ):
        answer = await request
        assert (answer.status_code, answer.json()["code"]) == (503, "unavailable")
        assert answer.headers["retry-after"] == "1"
    await wire.mend()
    added = await client.post(f"/v1/carts/{opened}/lines", json=body, headers=key)
    assert [line["quantity"] for line in added.json()["lines"]] == [2]


@pytest.mark.parametrize("ends_meanwhile", [False, True])
async def test_what_is_said_meanwhile_is_kept_and_told_once(
    guest: Deps, wire: Wire, monkeypatch: pytest.MonkeyPatch, ends_meanwhile: bool
) -> None:
    monkeypatch.setattr(runner, "LOOK_S", 0.1)
    words, tap = ["You ", "will ", "like ", "our ", "mugs."], Tap()
    made = runner.Runner(guest)
    try:
        begun = await made.start(guest, None, "mugs?", channel="sse", model=saying(words, tap))
        tap.turn(2)
        heard = await read(made, guest, begun.conversation_id, until="text")
        await wire.cut()
        tap.turn(3 if ends_meanwhile else 2)
        await asyncio.sleep(0.3)
        await wire.mend()
        tap.open()
        heard += await read(made, guest, begun.conversation_id, heard[-1].number)
    finally:
        await made.aclose()
    assert_unbroken(heard)
    assert spoken(heard) == "".join(words)
    (turn,) = await turns_of(guest, begun.conversation_id)
    # One that ends meanwhile could not be booked to its asker's budget.
    assert turn.state is (TurnState.FAILED if ends_meanwhile else TurnState.DONE)
    assert turn.reply.startswith("".join(words))
