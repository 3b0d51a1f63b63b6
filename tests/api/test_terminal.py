"""The conversation in the terminal: what a person reads of a stream of events."""

from collections.abc import Mapping

import httpx
import orjson
import pytest

from api import terminal

APPROVAL = b'event: approval\ndata: {"action_id": "7", "summary": "Cancel order 1."}\n\n'


def reply(*texts: Mapping[str, object]) -> bytes:
    return b"".join(b"event: text\ndata: " + orjson.dumps(text) + b"\n\n" for text in texts)


async def printed(capsys: pytest.CaptureFixture[str], *texts: Mapping[str, object]) -> str:
    transport = httpx.MockTransport(lambda _: httpx.Response(200, content=reply(*texts)))
    async with httpx.AsyncClient(base_url="http://shop", transport=transport) as client:
        await terminal.Conversation(client, interactive=False).say("hello")
    return capsys.readouterr().out


async def test_words_are_printed_as_they_come(capsys: pytest.CaptureFixture[str]) -> None:
    assert await printed(capsys, {"delta": "We have "}, {"delta": "mugs."}) == "We have mugs.\n"


async def test_a_reply_said_anew_is_marked(capsys: pytest.CaptureFixture[str]) -> None:
    said = ({"delta": "It is red."}, {"delta": "It is blue.", "replace": True})
    assert await printed(capsys, *said) == (
        "It is red.\n(That was taken back. Instead:)\nIt is blue.\n"
    )


async def test_what_was_printed_is_not_printed_again(capsys: pytest.CaptureFixture[str]) -> None:
    said = ({"delta": "It is "}, {"delta": "It is blue.", "replace": True})
    assert await printed(capsys, *said) == "It is blue.\n"


async def test_a_refused_approval_is_told(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def shop(request: httpx.Request) -> httpx.Response:
        if request.url.path.endswith("/v1/chat"):
            return httpx.Response(200, content=APPROVAL)
        assert request.url.path == "/v1/actions/7/approve"
        return httpx.Response(409, json={"title": "Conflict", "detail": "The order [1] changed."})

    monkeypatch.setattr("builtins.input", lambda prompt: "yes")
    transport = httpx.MockTransport(shop)
    async with httpx.AsyncClient(base_url="http://shop", transport=transport) as client:
        await terminal.Conversation(client, interactive=True).say("cancel it")
    said = capsys.readouterr().out
    assert said == "\nNeeds your yes: Cancel order 1.\nThe order [1] changed.\n"
