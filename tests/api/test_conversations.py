"""One's own conversations over HTTP, and what a lost connection does to an answer."""

import json
from dataclasses import replace
from uuid import uuid4

import httpx
import pytest

from api import chat
from api.app import create_app
from deps.core import Deps
from tests import factories
from tests.agents.test_chat import first, say
from tools import conversation as conversations

STRANGER = {"X-Guest-Token": "somebody-else-0123456789abcdefghijk"}


async def talk(client: httpx.AsyncClient, *lines: str) -> str:
    conversation = None
    for line in lines:
        conversation = first(await say(client, line, conversation), "conversation")["id"]
    assert conversation is not None
    return str(conversation)


async def test_they_are_listed_searched_renamed_and_deleted(client: httpx.AsyncClient) -> None:
    mugs = await talk(client, "do you have mugs?", "hello again")
    await talk(client, "hello there, my   friend")
    listed = (await client.get("/v1/conversations")).json()["items"]
    assert {item["title"] for item in listed} == {"do you have mugs?", "hello there, my friend"}
    assert next(item["turns"] for item in listed if item["id"] == mugs) == 2
    found = (await client.get("/v1/conversations", params={"q": "HELLO AGAIN"})).json()["items"]
    assert [item["id"] for item in found] == [mugs]
    assert (await client.get("/v1/conversations", params={"q": "100%_"})).json()["items"] == []
    renamed = await client.patch(f"/v1/conversations/{mugs}", json={"title": " For the  office "})
    assert renamed.json()["title"] == "For the office"
    assert (await client.get("/v1/conversations", headers=STRANGER)).json()["items"] == []
    assert (await client.delete(f"/v1/conversations/{mugs}", headers=STRANGER)).status_code == 404
    assert (await client.delete(f"/v1/conversations/{mugs}")).status_code == 204
    for path in (f"/v1/conversations/{mugs}", f"/v1/chat/{mugs}", f"/v1/chat/{mugs}/events"):
        assert (await client.get(path)).status_code == 404


@pytest.mark.parametrize(
    ("address", "sent", "field"),
    [
        ("/v1/conversations/{}?before=2147483648", None, "before"),
        ("/v1/chat/{}/events?after=2147483648", None, "after"),
        ("/v1/chat/{}/events", "2147483648", "last-event-id"),
    ],
)
async def test_numbers_that_cannot_be_are_refused_before_the_answer_begins(
    client: httpx.AsyncClient, address: str, sent: str | None, field: str
) -> None:
    place = address.format(await talk(client, "hello"))
    answer = await client.get(place, headers={"Last-Event-ID": sent} if sent else {})
    assert (answer.status_code, answer.json()["field"]) == (422, field)


async def test_the_list_pages_without_gaps(client: httpx.AsyncClient) -> None:
    for i in range(5):
        await talk(client, f"hello {i}")
    seen, cursor = [], None
    while True:
        parameters = {"limit": "2"} | ({"cursor": cursor} if cursor else {})
        page = (await client.get("/v1/conversations", params=parameters)).json()
        seen += [item["title"] for item in page["items"]]
        cursor = page["next_cursor"]
        if cursor is None:
            break
    assert sorted(seen) == [f"hello {i}" for i in range(5)]
    assert (await client.get("/v1/conversations", params={"cursor": "x"})).status_code == 422


async def test_it_is_taken_along_as_json_and_markdown(
    client: httpx.AsyncClient, deps: Deps
) -> None:
    await factories.product(deps, sku="MUG-1", title="Stoneware mug", price=1250, stock=10)
    mugs = await talk(client, "# do you have\n# a stoneware mug?")
    path = f"/v1/conversations/{mugs}/export"
    whole = (await client.get(path)).json()
    assert whole["turns"][0]["cards"][0]["kind"] == "products"
    markdown = await client.get(path, params={"format": "markdown"})
    assert markdown.headers["content-type"].startswith("text/markdown")
    assert "> # do you have\n> # a stoneware mug?" in markdown.text
    assert "- Shown: products" in markdown.text
    assert (await client.get(path, headers=STRANGER)).status_code == 404


async def test_events_go_on_from_the_last_one_seen(client: httpx.AsyncClient) -> None:
    turn_id = str(uuid4())
    body = {"text": "hello", "turn_id": turn_id}
    streamed = await client.post("/v1/chat", json=body)
    again = await client.post("/v1/chat", json=body)
    assert again.text == streamed.text
    other = await client.post("/v1/chat", json=body | {"text": "other"})
    assert (other.status_code, other.json()["code"]) == (409, "conflict")
    conversation = json.loads(streamed.text.split("data: ")[1].split("\n")[0])["id"]
    ids = [int(line[4:]) for line in streamed.text.splitlines() if line.startswith("id: ")]
    assert ids == list(range(1, len(ids) + 1))
    path = f"/v1/chat/{conversation}/events"
    for after in (0, ids[1], ids[-1]):
        rest = await client.get(path, headers={"Last-Event-ID": str(after)})
        seen = [int(line[4:]) for line in rest.text.splitlines() if line.startswith("id: ")]
        assert seen == ids[after:]
    assert (await client.get(path, headers=STRANGER)).status_code == 404


async def test_approvals_in_the_history_tell_how_they_stand(
    client: httpx.AsyncClient, deps: Deps
) -> None:
    await factories.product(deps, sku="MUG-1", title="Stoneware mug", price=1250, stock=10)
    address = (
        "deliver to Ada Lovelace, 12 Quay Street, 20457 Hamburg, DE, ada@example.com, standard"
    )
    lines = ("do you have a stoneware mug?", "add two of the first one to my cart", address)
    mugs = await talk(client, *lines)
    approval = first(await say(client, "check out", mugs), "approval")
    path = f"/v1/conversations/{mugs}"
    before = (await client.get(path)).json()
    assert before["turns"][-1]["approvals"][0]["status"] == "pending"
    await client.post(f"/v1/actions/{approval['action_id']}/reject")
    after = (await client.get(path)).json()
    assert after["turns"][-2]["approvals"][0]["status"] == "rejected"
    assert after["turns"][-1]["asked"] == ""
    assert after["last_event"] == before["last_event"] + 1


@pytest.mark.parametrize("method", ["post", "get"])
async def test_a_stranger_cannot_cancel_or_follow(client: httpx.AsyncClient, method: str) -> None:
    mine = await talk(client, "hello")
    path = f"/v1/chat/{mine}/{'cancel' if method == 'post' else 'events'}"
    assert (await client.request(method, path, headers=STRANGER)).status_code == 404


async def test_a_live_stream_ends_when_an_access_token_would(
    client: httpx.AsyncClient, deps: Deps
) -> None:
    mine = await talk(client, "hello")
    settings = deps.settings.model_copy(update={"access_token_ttl_s": 0})
    app = create_app(settings)
    app.state.deps = replace(deps, settings=settings)
    headers = {"X-Guest-Token": factories.GUEST_TOKEN}
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(app=app), base_url="http://test", headers=headers
    ) as brief:
        told = await brief.get(f"/v1/chat/{mine}/events", params={"live": True})
    await chat.close(app)
    assert told.text.count("event: ") == 1


async def test_a_conversation_of_notes_alone_is_taken_along(
    client: httpx.AsyncClient, guest: Deps
) -> None:
    """What the shop said by itself has no words of the person before it."""
    async with guest.begin() as uow:
        row = await conversations.start(uow, "")
        order = {"kind": "order", "data": {"number": 7}}
        await conversations.append(
            uow,
            row.id,
            [
                {"role": "user", "text": "# one"},
                {"role": "user", "text": "two"},
                {"role": "assistant", "text": "Both.", "cards": [order, {"kind": "cart"}]},
                {"role": "assistant", "text": "By the way.",
                 "approvals": [{"summary": "Cancel it.", "status": "executed"}, {}]},
                {"role": "user", "text": "three"},
            ],
        )  # fmt: skip
        mine = row.id
    path = f"/v1/conversations/{mine}"
    markdown = (await client.get(f"{path}/export", params={"format": "markdown"})).text
    assert [block.partition(",")[0] for block in markdown.split("\n\n")] == [
        "# Conversation", "**You**", "> # one", "**You**", "> two", "**Shop**", "> Both.",
        "- Shown: order 7", "- Shown: cart", "**Shop**", "> By the way.",
        "- Approval: Cancel it. (executed)", "- Approval:  (pending)", "**You**", "> three\n",
    ]  # fmt: skip
    newest = (await client.get(path, params={"limit": 2})).json()["turns"]
    assert [turn["asked"] for turn in newest] == ["", "three"]
    older = (await client.get(path, params={"limit": 2, "before": newest[0]["number"]})).json()
    assert [turn["asked"] for turn in older["turns"]] == ["# one", "two"]


@pytest.mark.parametrize("title", ["   ", "x" * 81])
async def test_a_title_has_words_and_an_end(client: httpx.AsyncClient, title: str) -> None:
    mine = await talk(client, "hello " + "word " * 30)
    before = (await client.get(f"/v1/conversations/{mine}")).json()["title"]
    assert before.endswith("word…")
    assert len(before) <= 81
    refused = await client.patch(f"/v1/conversations/{mine}", json={"title": title})
    assert (refused.status_code, refused.json()["field"]) == (422, "title")
    assert (await client.get(f"/v1/conversations/{mine}")).json()["title"] == before


async def test_without_a_token_nobody_could_come_back(client: httpx.AsyncClient) -> None:
    del client.headers["X-Guest-Token"]
    refused = await client.post("/v1/chat", json={"text": "hello"})
    assert (refused.status_code, refused.json()["field"]) == (422, "X-Guest-Token")
    assert (await client.get("/v1/conversations")).json()["items"] == []


async def test_a_guests_conversation_stays_with_the_secret_when_they_sign_in(
    client: httpx.AsyncClient, customer: Deps
) -> None:
    mine = await talk(client, "hello")
    both = factories.bearer(customer)
    assert (await client.get("/v1/conversations", headers=both)).json()["items"] == []
    assert (await client.get(f"/v1/conversations/{mine}", headers=both)).status_code == 200
    del client.headers["X-Guest-Token"]
    assert (await client.get(f"/v1/conversations/{mine}", headers=both)).status_code == 404
