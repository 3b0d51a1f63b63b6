"""Chat over a WebSocket, through a real server."""

import asyncio
import json
import re
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import httpx
import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from agents.runner import Runner
from api import chat_socket, serving
from deps.core import Deps
from deps.ratelimit import LIMITS, EndpointClass, Limit
from tests import factories
from tests.agents.slow_model import Tap, saying
from tools.errors import NotFound

SOON_S = 60.0


@asynccontextmanager
async def shop(deps: Deps, **settings: Any) -> AsyncGenerator[str, None]:
    changed = replace(deps, settings=deps.settings.model_copy(update=settings))
    listener = serving.bind("127.0.0.1", 0)
    async with serving.web(changed.settings, changed, listener):
        yield serving.address_of(listener).replace("http", "ws") + "/v1/chat/socket"


@pytest.fixture
async def place(deps: Deps) -> AsyncGenerator[str, None]:
    async with shop(deps) as address:
        yield address


@pytest.fixture
async def elsewhere(deps: Deps) -> AsyncGenerator[Runner, None]:
    """The runner of another process."""
    made = Runner(deps)
    yield made
    await made.aclose()


async def send(connection: ClientConnection, kind: str, **fields: Any) -> None:
    await connection.send(json.dumps({"type": kind, **fields}))


async def until(connection: ClientConnection, name: str) -> list[dict[str, Any]]:
    heard: list[dict[str, Any]] = []
    async with asyncio.timeout(SOON_S):
        while not heard or heard[-1]["event"] != name:
            heard.append(json.loads(await connection.recv()))
    return heard


async def refusal(connection: ClientConnection) -> dict[str, Any]:
    heard = await until(connection, "refused")
    assert len(heard) == 1
    problem: dict[str, Any] = heard[0]["data"]
    return problem


async def closed(connection: ClientConnection) -> int:
    """Read to the end of the connection and return its code."""
    async with asyncio.timeout(SOON_S):
        await connection.wait_closed()
    assert connection.close_code is not None
    return connection.close_code


def said(events: list[dict[str, Any]]) -> str:
    return "".join(e["data"]["delta"] for e in events if e["event"] == "text")


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


async def test_one_that_is_cut_and_resumed_loses_and_doubles_nothing(
    place: str, guest: Deps, elsewhere: Runner
) -> None:
    words, tap = ["You ", "will ", "like ", "our ", "mugs."], Tap()
    model = saying(words, tap)
    begun = await elsewhere.start(guest, None, "mugs?", channel="sse", model=model)
    heard: list[dict[str, Any]] = []
    for _ in words[:-1]:
        async with connect(place) as one:
            after = heard[-1]["id"] if heard else 0
            await hello(one, conversation_id=str(begun.conversation_id), after=after)
            tap.turn()
            heard += await until(one, "text")
            one.transport.abort()
    tap.open()
    async with connect(place) as last:
        await hello(last, conversation_id=str(begun.conversation_id), after=heard[-1]["id"])
        heard += await until(last, "done")
    assert [event["id"] for event in heard] == list(range(1, len(heard) + 1))
    assert said(heard) == "".join(words)
    assert heard[-1]["data"]["state"] == "done"


async def test_a_first_message_sent_again_is_answered_once(place: str, guest: Deps) -> None:
    """The connection is cut before the client learns what its conversation is called."""
    message = {"text": "hello", "turn_id": "0190ab12-0000-7000-8000-000000000001"}
    async with connect(place) as one:
        await hello(one)
        await send(one, "say", **message)
        first = await until(one, "done")
    async with connect(place) as again:
        await hello(again)
        await send(again, "say", **message)
        assert await until(again, "done") == first
        await send(again, "say", **message | {"text": "other words"})
        assert (await refusal(again))["code"] == "conflict"


async def test_one_answer_runs_at_a_time_and_cancel_stops_it(
    place: str, guest: Deps, elsewhere: Runner
) -> None:
    tap = Tap()
    model = saying(["You ", "will ", "like ", "our ", "mugs."], tap)
    begun = await elsewhere.start(guest, None, "mugs?", channel="sse", model=model)
    tap.turn(2)
    async with connect(place) as one:
        await hello(one, conversation_id=str(begun.conversation_id))
        heard = await until(one, "text")
        await send(one, "say", text="and bowls?")
        refused = await refusal(one)
        assert (refused["code"], refused["status"]) == ("turn_running", 409)
        await send(one, "cancel")
        heard += await until(one, "done")
        assert heard[-1]["data"]["state"] == "cancelled"
        assert "mugs" not in said(heard)
        await send(one, "say", text="hello")
        assert (await until(one, "done"))[-1]["data"]["state"] == "done"


async def test_cancelling_nothing_is_nothing(place: str) -> None:
    async with connect(place) as one:
        await hello(one)
        await send(one, "cancel")
        await send(one, "say", text="hello")
        heard = await until(one, "done")
        assert heard[-1]["data"]["state"] == "done"
        await send(one, "cancel")
        await send(one, "ping")
        assert [event["event"] for event in await until(one, "pong")] == ["pong"]


MALFORMED: list[tuple[str | bytes, str | None]] = [
    ('{"type": "sing"}', "type"),
    ("{}", "type"),
    ("[1]", "type"),
    ('{"type": "say"}', "text"),
    ('{"type": "say", "text": 7}', "text"),
    ('{"type": "say", "text": "  "}', "text"),
    ('{"type": "say", "text": "' + "x" * 4001 + '"}', "text"),
    ('{"type": "say", "text": "hi", "turn_id": "7"}', "turn_id"),
    ('{"type": "say", "text": "a\\u0000b"}', "text"),
    ("{", None),
    ('"' + "x" * chat_socket.MESSAGE_BYTES_MAX + '"', None),
    (b'{"type": "ping"}', None),
]


async def test_a_malformed_message_is_refused_by_its_field_and_the_next_is_taken(
    place: str,
) -> None:
    async with connect(place) as one:
        await hello(one)
        for frame, field in MALFORMED:
            await one.send(frame)
            refused = await refusal(one)
            assert (refused["code"], refused["status"]) == ("invalid_input", 422), frame
            assert refused.get("field") == field, frame
            await send(one, "ping")
            assert (await until(one, "pong"))[-1]["data"] == {}


OPENINGS: list[tuple[dict[str, Any], str]] = [
    ({"type": "say", "text": "hello"}, "type"),
    ({"type": "hello", "after": -1}, "after"),
    ({"type": "hello", "after": 2**31}, "after"),
    ({"type": "hello", "conversation_id": "mine"}, "conversation_id"),
    ({"type": "hello", "guest_token": "short"}, "guest_token"),
    ({"type": "hello", "token": "x" * 4001}, "token"),
]


async def test_a_bad_opening_is_told_and_ends_it(place: str) -> None:
    for opening, field in OPENINGS:
        async with connect(place) as one:
            await one.send(json.dumps(opening))
            refused = await refusal(one)
            assert (refused["code"], refused["field"]) == ("invalid_input", field)
            assert await closed(one) == chat_socket.REFUSED


async def test_who_says_nothing_is_let_go(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chat_socket, "HELLO_S", 0.05)
    async with connect(place) as silent:
        assert (await refusal(silent))["field"] == "type"
        assert await closed(silent) == chat_socket.REFUSED


async def test_a_cookie_speaks_for_a_guest_if_it_is_a_secret(place: str) -> None:
    headers = {"Cookie": f"guest={factories.GUEST_TOKEN}"}
    async with connect(place, additional_headers=headers) as page:
        await send(page, "hello")
        await send(page, "say", text="hello")
        conversation = (await until(page, "done"))[0]["data"]["id"]
    async with connect(place) as same:
        await hello(same, conversation_id=conversation)
        assert (await until(same, "done"))[-1]["data"]["state"] == "done"
    async with connect(place, additional_headers={"Cookie": "guest=a"}) as guessable:
        await send(guessable, "hello")
        assert (await refusal(guessable))["field"] == "X-Guest-Token"
    async with connect(place) as nobody:
        await send(nobody, "hello")
        await send(nobody, "say", text="hello")
        assert (await refusal(nobody))["field"] == "X-Guest-Token"


async def test_a_conversation_that_is_deleted_is_gone(
    place: str, client: httpx.AsyncClient
) -> None:
    async with connect(place) as one:
        await hello(one)
        await send(one, "say", text="hello")
        conversation = (await until(one, "done"))[0]["data"]["id"]
        await client.delete(f"/v1/conversations/{conversation}")
        assert (await refusal(one))["code"] == NotFound.error_code()
        await send(one, "cancel")
        assert (await refusal(one))["code"] == NotFound.error_code()


async def test_it_ends_when_the_access_token_would(deps: Deps) -> None:
    async with shop(deps, access_token_ttl_s=0.2) as place, connect(place) as one:
        await hello(one)
        assert await closed(one) == 1000


async def test_messages_are_counted_with_those_over_http(
    deps: Deps, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(LIMITS, EndpointClass.CHAT, Limit(2, 600))
    async with shop(deps, rate_limits=True) as place:
        async with connect(place) as one:
            await hello(one)
            await send(one, "say", text="hello")
            await until(one, "done")
        url = place.replace("ws", "http", 1).removesuffix("/socket")
        headers = {"X-Guest-Token": factories.GUEST_TOKEN}
        async with httpx.AsyncClient(headers=headers, timeout=60) as http:
            assert (await http.post(url, json={"text": "hello"})).status_code == 200
        async with connect(place) as other:
            await hello(other, guest_token="another-guest-0123456789abcdefghijk")
            await send(other, "say", text="hello")
            refused = await refusal(other)
            assert (refused["code"], refused["status"]) == ("too_many_requests", 429)
            assert re.fullmatch(r"Wait \d+ s and try again\.", refused["detail"])
            await send(other, "ping")
            await until(other, "pong")


async def test_more_than_the_process_can_hold_are_turned_away(
    place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chat_socket, "SOCKETS_MAX", 1)
    async with connect(place) as one:
        await hello(one)
        await send(one, "ping")
        await until(one, "pong")
        with pytest.raises(InvalidStatus):
            await connect(place)
    async with asyncio.timeout(SOON_S):
        while True:  # The place is free as soon as the server saw it leave.
            try:
                async with connect(place) as next_one:
                    await hello(next_one)
                    await send(next_one, "ping")
                    await until(next_one, "pong")
                    return
            except InvalidStatus:
                await asyncio.sleep(0.02)
