"""Routing: one request to a model; an answer that is no route is sent back, a few times."""

from collections.abc import Sequence
from typing import Any

import pytest
from pydantic_ai import UsageLimits
from pydantic_ai.exceptions import UnexpectedModelBehavior, UsageLimitExceeded
from pydantic_ai.messages import (
    ModelMessage,
    ModelRequest,
    ModelResponse,
    ModelResponsePart,
    TextPart,
    ToolCallPart,
    ToolReturnPart,
)
from pydantic_ai.models.function import AgentInfo, FunctionModel
from pydantic_ai.usage import RunUsage

from agents import routing
from agents.domains import Domain
from agents.routing import Routed
from deps.core import Deps

ANSWER = {"wishes": [{"domain": "product", "text": "mugs"}]}
STRANGE = {"wishes": [{"domain": "kitchen", "text": "mugs"}]}


class Told(list[list[ModelMessage]]):
    """A model that gives `answers` in turn; what it was told at each."""

    def __init__(self, *answers: Sequence[ModelResponsePart]) -> None:
        self._answers = iter(answers)
        self.model = FunctionModel(self._answer)

    def _answer(self, messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
        assert [tool.name for tool in info.output_tools] == ["final_result"]
        assert not info.allow_text_output
        self.append(list(messages))
        return ModelResponse(parts=list(next(self._answers)))

    async def asked(self, deps: Deps, limits: UsageLimits | None = None) -> Routed:
        return await routing.route(
            deps, self.model, "mugs", [], limits or UsageLimits(), RunUsage(requests=1)
        )


def call(arguments: dict[str, Any], name: str = "a") -> ToolCallPart:
    return ToolCallPart("final_result", arguments, tool_call_id=name)


async def test_a_route_is_one_request(guest: Deps) -> None:
    told = Told([call(ANSWER)])
    routed = await told.asked(guest)
    assert [(wish.domain, wish.text) for wish in routed.route.wishes] == [(Domain.PRODUCT, "mugs")]
    assert (len(told), len(routed.answers), routed.usage.requests) == (1, 1, 2)
    assert routed.usage.output_tokens > 0


async def test_an_answer_that_is_no_route_is_sent_back_with_what_is_wrong(guest: Deps) -> None:
    told = Told([call(STRANGE), call(STRANGE, "b")], [call(ANSWER)])
    routed = await told.asked(guest)
    assert routed.route.wishes
    assert (len(routed.answers), routed.usage.requests) == (2, 3)
    *_, answered, back = told[1]
    assert isinstance(answered, ModelResponse)
    assert isinstance(back, ModelRequest)
    # Every call gets an answer: providers refuse a history in which one is left open.
    parts = [part for part in back.parts if isinstance(part, ToolReturnPart)]
    assert [part.tool_call_id for part in parts] == ["a", "b"]
    assert "domain" in str(parts[0].content)
    assert {part.outcome for part in parts} == {"failed"}


async def test_words_instead_of_a_route_are_sent_back(guest: Deps) -> None:
    told = Told([TextPart("Mugs? Gladly.")], [call(ANSWER)])
    assert (await told.asked(guest)).route.wishes
    assert "final_result" in str(told[1][-1])


async def test_a_model_that_never_gives_a_route_is_given_up(guest: Deps) -> None:
    told = Told(*[[call({"wishes": "mugs"})]] * 9)
    with pytest.raises(UnexpectedModelBehavior, match="No route"):
        await told.asked(guest)
    assert len(told) == routing.TRIES_MAX


async def test_a_budget_holds_for_what_is_sent_back(guest: Deps) -> None:
    told = Told(*[[call(STRANGE)]] * 9)
    with pytest.raises(UsageLimitExceeded):
        await told.asked(guest, UsageLimits(request_limit=2))
    assert len(told) == 1
    with pytest.raises(UsageLimitExceeded):
        await Told([call(ANSWER)]).asked(guest, UsageLimits(total_tokens_limit=3))
