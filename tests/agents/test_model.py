"""The remote chain, against a server that speaks the OpenAI chat protocol."""

from collections.abc import AsyncGenerator
from dataclasses import replace

import pytest
from pydantic import SecretStr
from pydantic_ai import models

from agents.model import choose_model, remote_model
from agents.planner import Planner
from deps.core import Deps
from tests import factories
from tests.agents.openai_server import Answer, OpenAIServer, serve
from tests.agents.talk import Talk
from tools.errors import Unavailable

SEARCH = Answer(tool="product_search", arguments={"query": "mug"})
ROUTE = Answer(
    tool="final_result",
    arguments={"wishes": [{"domain": "product", "text": "do you have a mug?"}], "reason": "ok"},
)


@pytest.fixture
async def remote() -> AsyncGenerator[OpenAIServer, None]:
    async with serve() as server:
        with models.override_allow_model_requests(True):
            yield server


async def test_without_a_key_the_planner_answers(deps: Deps) -> None:
    assert isinstance(choose_model(deps.settings, deps.actor), Planner)


async def test_a_remote_model_routes_calls_tools_and_streams(
    guest: Deps, deps: Deps, remote: OpenAIServer
) -> None:
    await factories.product(deps, sku="MUG", title="Stoneware mug", price=1250)
    remote.script("big", ROUTE, SEARCH, Answer(text="Yes: the Stoneware mug, EUR 12.50."))
    settings = guest.settings.model_copy(
        update={"openai_base_url": remote.url, "openai_api_key": SecretStr("k"), "models": "big"}
    )
    reply = await Talk(replace(guest, settings=settings)).say("do you have a mug?")
    assert reply.tools == ["product_search"]
    assert reply.of("card")[0]["data"]["items"][0]["sku"] == "MUG"
    assert reply.text.strip() == "Yes: the Stoneware mug, EUR 12.50."
    names = {tool["function"]["name"] for tool in remote.requests[1]["tools"]}
    assert "product_search" in names
    assert remote.requests[1]["stream"] is True


async def test_an_invented_price_is_sent_back_and_never_shown(
    guest: Deps, deps: Deps, remote: OpenAIServer
) -> None:
    await factories.product(deps, sku="MUG", price=1250)
    remote.script(
        "big", ROUTE, SEARCH, Answer(text="It is EUR 9.99 only."), Answer(text="It is EUR 12.50.")
    )
    model = remote_model("big", "k", remote.url, 60.0)
    reply = await Talk(guest, model).say("do you have a mug?")
    assert reply.text.strip() == "It is EUR 12.50."
    assert "9.99" not in str([said.data for said in reply.events])


async def test_an_error_passes_to_the_next_model(guest: Deps, remote: OpenAIServer) -> None:
    remote.script("first", Answer(status=500), Answer(status=500))
    remote.script("second", ROUTE, Answer(text="Nothing fits."))
    reply = await Talk(guest, remote_model("first,second", "k", remote.url, 60.0)).say("a mug?")
    assert reply.text.strip() == "Nothing fits."
    assert [request["model"] for request in remote.requests] == ["first", "second"] * 2


async def test_silence_passes_to_the_next_model(guest: Deps, remote: OpenAIServer) -> None:
    remote.script("first", Answer(silent=True), Answer(status=500))
    remote.script("second", ROUTE, Answer(text="Nothing fits."))
    reply = await Talk(guest, remote_model("first,second", "k", remote.url, 2.0)).say("a mug?")
    assert reply.text.strip() == "Nothing fits."


async def test_when_every_model_fails_the_person_is_told(guest: Deps, remote: OpenAIServer) -> None:
    remote.script("first", Answer(status=500))
    remote.script("second", Answer(status=503))
    with pytest.raises(Unavailable):
        await Talk(guest, remote_model("first,second", "k", remote.url, 60.0)).say("a mug?")
