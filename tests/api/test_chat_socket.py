"""Chat over a WebSocket, through a real server."""

import asyncio
import json
from collections.abc import AsyncGenerator
from typing import Any

import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from api import serving
from deps.core import Deps
from tests import factories

SOON_S = 15.0


@pytest.fixture
async def place(deps: Deps) -> AsyncGenerator[str, None]:
    listener = serving.bind("127.0.0.1", 0)
    async with serving.web(deps.settings, deps, listener):
        yield serving.address_of(listener).replace("http", "ws") + "/v1/chat/socket"


async def send(connection: ClientConnection, kind: str, **fields: Any) -> None:
    await connection.send(json.dumps({"type": kind, **fields}))


async def until(connection: ClientConnection, name: str) -> list[dict[str, Any]]:
    heard: list[dict[str, Any]] = []
    async with asyncio.timeout(SOON_S):
        while not heard or heard[-1]["event"] != name:
            heard.append(json.loads(await connection.recv()))
    return heard


async def hello(connection: ClientConnection, **fields: Any) -> None:
    await send(connection, "hello", **{"guest_token": factories.GUEST_TOKEN, **fields})


async def test_a_conversation_and_its_resumption(place: str, deps: Deps) -> None:
    await factories.product(deps, sku="MUG-1", title="Stoneware mug", stock=10)
    async with connect(place) as one:
        await hello(one)
        await send(one, "say", text="do you have a stoneware mug?")
        heard = await until(one, "done")
        assert heard[0]["event"] == "conversation"
        conversation = heard[0]["data"]["id"]
        assert "card" in [event["event"] for event in heard]
        numbers = [event["id"] for event in heard[1:]]
        assert numbers == list(range(1, len(numbers) + 1))
        await send(one, "ping")
        assert (await until(one, "pong"))[-1]["data"] == {}
        async with connect(place) as other:
            # A second tab sees what the first one says.
            await hello(other, conversation_id=conversation, after=numbers[-1])
            await send(one, "say", text="hello")
            assert [e["id"] for e in await until(other, "done")] == [
                e["id"] for e in await until(one, "done")
            ]
    async with connect(place) as again:
        await hello(again, conversation_id=conversation, after=numbers[2])
        rest = await until(again, "done")
        assert [event["id"] for event in rest] == numbers[3:]


async def test_strangers_and_nonsense_are_refused(place: str) -> None:
    async with connect(place) as one:
        await hello(one)
        await send(one, "say", text="hello")
        conversation = (await until(one, "done"))[0]["data"]["id"]
        for nonsense in ({"type": "sing"}, {"type": "say", "text": ""}):
            await one.send(json.dumps(nonsense))
            assert (await until(one, "refused"))[-1]["data"]["code"] == "invalid_input"
        await one.send("not json")
        assert (await until(one, "refused"))[-1]["data"]["code"] == "invalid_input"
    async with connect(place) as stranger:
        token = "somebody-else-0123456789abcdefghijk"
        await hello(stranger, guest_token=token, conversation_id=conversation)
        assert (await until(stranger, "refused"))[-1]["data"]["code"] == "not_found"
        await send(stranger, "say", text="hello")
        assert (await until(stranger, "refused"))[-1]["data"]["code"] == "not_found"
    async with connect(place) as forger:
        await hello(forger, token="x.y.z")
        assert (await until(forger, "refused"))[-1]["data"]["code"] == "unauthenticated"
        with pytest.raises(ConnectionClosed):
            await forger.recv()


async def test_pages_of_other_sites_cannot_connect(place: str) -> None:
    with pytest.raises(InvalidStatus):
        await connect(place, origin="https://evil.example")  # type: ignore[arg-type]


async def test_staff_talk_with_their_token(place: str, merchant: Deps, deps: Deps) -> None:
    await factories.product(deps, sku="MUG-1", stock=10)
    token = factories.bearer(merchant)["Authorization"].removeprefix("Bearer ")
    async with connect(place) as staff:
        await hello(staff, token=token)
        await send(staff, "say", text="what did we sell today?")
        cards = [e["data"]["kind"] for e in await until(staff, "done") if e["event"] == "card"]
        assert cards == ["sales"]
