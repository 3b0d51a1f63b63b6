"""Words go out as they come, but nothing that a later check could take back is shown."""

from collections.abc import AsyncIterator

from pydantic_ai.messages import (
    AgentStreamEvent,
    ModelMessage,
    ModelResponse,
    PartDeltaEvent,
    PartStartEvent,
    TextPart,
    TextPartDelta,
    ToolCallPart,
)
from pydantic_ai.models.function import AgentInfo, FunctionModel

from agents.streaming import Words
from deps.core import Deps
from tests import factories
from tests.agents.talk import Talk


def heard(text: str) -> list[str]:
    """Say `text` letter by letter; return what is shown before the reply has passed."""
    words, shown = Words([], "EUR"), []
    first = PartStartEvent(index=0, part=TextPart(text[0]))
    rest = [PartDeltaEvent(index=0, delta=TextPartDelta(letter)) for letter in text[1:]]
    events: list[AgentStreamEvent] = [first, *rest]
    for event in events:
        shown += [delta for delta, _ in words.hear(event)]
    assert text.startswith("".join(shown))
    return shown


def test_plain_words_go_out_one_by_one() -> None:
    assert heard("We sell mugs and bowls.") == ["We ", "sell ", "mugs ", "and "]


def test_an_invented_amount_is_never_shown() -> None:
    assert "".join(heard("The mug is lovely. It costs EUR 99.00. Buy it.")) == (
        "The mug is lovely. It costs EUR "
    )


def test_nothing_goes_out_after_what_might_be_an_address() -> None:
    for risky in ("see https://evil.example/x", "mail bob@example.com", "![x](y)"):
        shown = "".join(heard(f"Hello there, {risky} and then more words"))
        assert shown.startswith("Hello there, ")
        assert "more" not in shown
        assert "evil" not in shown


async def test_a_reply_sent_back_is_replaced(guest: Deps, deps: Deps) -> None:
    await factories.product(deps, sku="MUG-1", price=1250, stock=10)
    replies = iter(["It is lovely. It costs EUR 99.00 today.", "It costs EUR 12.50."])

    def route(messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
        wish = {"domain": "product", "text": "a mug, I guess EUR 12.50"}
        arguments = {"wishes": [wish], "reason": "ok"}
        return ModelResponse(parts=[ToolCallPart(info.output_tools[0].name, arguments)])

    async def speak(messages: list[ModelMessage], info: AgentInfo) -> AsyncIterator[str]:
        for word in next(replies).split(" "):
            yield word + " "

    reply = await Talk(guest, FunctionModel(route, stream_function=speak)).say("what is it?")
    shown = ""
    for text in reply.of("text"):
        shown = text["delta"] if text.get("replace") else shown + text["delta"]
        assert "99.00" not in shown
    assert shown.strip() == reply.text.strip()
