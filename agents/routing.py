"""Routing: which desks a message is for, asked of a model in one request.

There is no loop of tools here, so there is no agent: an agent's run around a single request costs
more than the request's own handling, at every message. What the answer must be is the schema of
`Route`; an answer that is none is sent back with what is wrong.
"""

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

from pydantic import BaseModel, Field, ValidationError
from pydantic_ai import UsageLimits
from pydantic_ai.direct import model_request
from pydantic_ai.exceptions import UnexpectedModelBehavior
from pydantic_ai.messages import (
    ModelMessage,
    ModelRequest,
    ModelResponse,
    ToolReturnPart,
    UserPromptPart,
)
from pydantic_ai.models import Model, ModelRequestParameters
from pydantic_ai.tools import ToolDefinition
from pydantic_ai.usage import RunUsage

from agents.base import prompt
from agents.domains import Domain, domain_of
from deps.core import Deps
from tools.registry import OPERATIONS

WISHES_MAX: Final = 3
TRIES_MAX: Final = 3

Reason = Literal["ok", "small_talk", "out_of_scope", "not_allowed", "declined"]


class Wish(BaseModel):
    domain: Domain
    text: str = Field(min_length=1, max_length=4000, description="The person's words for it.")


class Route(BaseModel):
    wishes: list[Wish] = Field(max_length=WISHES_MAX, description="Empty when no desk fits.")
    reason: Reason = "ok"


@dataclass(frozen=True, slots=True)
class Routed:
    """`answers` are the model's, those that were sent back among them: they cost, too."""

    route: Route
    answers: list[ModelResponse]
    usage: RunUsage


_ANSWER: Final = ToolDefinition(
    name="final_result",
    description="Say which desks the message is for.",
    parameters_json_schema=Route.model_json_schema(),
    kind="output",
)
_PARAMETERS: Final = ModelRequestParameters(
    output_mode="tool", output_tools=[_ANSWER], allow_text_output=False
)


async def route(
    deps: Deps,
    model: Model,
    text: str,
    history: Sequence[ModelMessage],
    limits: UsageLimits,
    used: RunUsage,
) -> Routed:
    """Ask `model` which desks `text` is for.

    Args:
        deps: The actor's: what they may do decides which desks there are.
        model: Whom to ask.
        text: What the person said.
        history: What was said before.
        limits: Bounds of the turn and the conversation.
        used: What they have used; the result's usage goes on from it.

    Raises:
        UsageLimitExceeded: A bound is reached.
        UnexpectedModelBehavior: `TRIES_MAX` answers were no routes.
    """
    asked = ModelRequest(parts=[UserPromptPart(text)], instructions=instructions(deps))
    messages, answers, usage = [*history, asked], [], used + RunUsage()
    for _ in range(TRIES_MAX):
        limits.check_before_request(usage)
        answer = await model_request(model, messages, model_request_parameters=_PARAMETERS)
        answers.append(answer)
        usage.incr(answer.usage)
        usage.requests += 1
        limits.check_tokens(usage)
        found = _read(answer)
        if isinstance(found, Route):
            return Routed(found, answers, usage)
        messages += [answer, found]
    raise UnexpectedModelBehavior(f"No route in {TRIES_MAX} answers.")


def _read(answer: ModelResponse) -> Route | ModelRequest:
    """Return the route of an answer, or what to tell the model if there is none in it."""
    calls = answer.tool_calls
    if not calls:
        return ModelRequest(parts=[UserPromptPart(f"Answer by calling {_ANSWER.name}.")])
    try:
        return Route.model_validate_json(calls[0].args_as_json_str())
    except ValidationError as error:
        problem = error.json(include_url=False, include_context=False)
    parts = [
        ToolReturnPart(
            call.tool_name,
            f"Not a route: {problem}" if call is calls[0] else "Only the first call is read.",
            tool_call_id=call.tool_call_id,
            outcome="failed",
        )
        for call in calls
    ]
    return ModelRequest(parts=parts)


def instructions(deps: Deps) -> str:
    """Say what a model is told: every desk by what this actor may ask it for."""
    desks = _desks_of(deps.actor.scopes)
    return prompt("coordinator", shop=deps.settings.shop_name, wishes=WISHES_MAX, desks=desks)


@functools.lru_cache(maxsize=64)
def _desks_of(scopes: frozenset[str]) -> str:
    lines = [
        f"- {domain.value}: " + "; ".join(op.examples[0] for op in operations)
        for domain in Domain
        if (
            operations := [
                op
                for _, op in sorted(OPERATIONS.items())
                if domain_of(op) is domain and op.scope in scopes
            ]
        )
    ]
    return "\n".join(lines)
