"""What every agent is told, rendered, beside the files in `prompts/` here.

A change of a prompt, or of a value the code puts into one, shows as a difference of these files. To
take it over: `SHOPKEEPER_RENDER_PROMPTS=1 pytest tests/agents/test_prompts.py`.
"""

import os
import re
from pathlib import Path

import pytest
from pydantic_ai import UsageLimits
from pydantic_ai.messages import ModelMessage, ModelRequest, ModelResponse, TextPart, ToolCallPart
from pydantic_ai.models.function import AgentInfo, FunctionModel
from pydantic_ai.usage import RunUsage

from agents import routing
from agents.domains import AGENTS
from deps.core import Deps
from tools.surface import load_operations

load_operations()
RENDERED = Path(__file__).parent / "prompts"
DESKS = {domain.value: agent for domain, agent in AGENTS.items()}
ALL = {*DESKS, "coordinator"}


async def _instructions(name: str, deps: Deps) -> str:
    """Return what a model would be told, by being the model."""
    told: list[str] = []

    def model(messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
        (request,) = [m for m in messages if isinstance(m, ModelRequest)]
        told.append(request.instructions or "")
        if info.output_tools:
            return ModelResponse([ToolCallPart(info.output_tools[0].name, {"wishes": []})])
        return ModelResponse([TextPart("Hello.")])

    if name == "coordinator":
        await routing.route(deps, FunctionModel(model), "hello", [], UsageLimits(), RunUsage())
    else:
        await DESKS[name].run("hello", deps=deps, model=FunctionModel(model))
    return told[0]


@pytest.mark.parametrize("name", sorted(ALL))
async def test_a_prompt_reads_as_recorded(name: str, merchant: Deps) -> None:
    rendered = (await _instructions(name, merchant)).rstrip() + "\n"
    if name == "coordinator":  # Its desks quote an example of every operation there is.
        rendered = re.sub(r"(?m)^- (\w+): .*$", r"- \1: …", rendered)
    path = RENDERED / f"{name}.txt"
    if os.environ.get("SHOPKEEPER_RENDER_PROMPTS"):
        path.write_text(rendered)
    assert path.exists(), f"{path} is missing; see above how to record it"
    assert rendered == path.read_text()


async def test_the_coordinator_tells_nobody_of_what_they_may_not_do(
    merchant: Deps, customer: Deps
) -> None:
    told = await _instructions("coordinator", customer)
    assert "ledger" not in told
    assert "ledger" in await _instructions("coordinator", merchant)


def test_nothing_is_recorded_of_agents_that_are_gone() -> None:
    assert {path.stem for path in RENDERED.glob("*.txt")} == ALL
