"""A model that breaks things: calls that do not parse, tools that are not there, and no end."""

import asyncio
import math
from dataclasses import dataclass, replace

import pytest
from pydantic_ai.messages import ModelResponsePart, TextPart, ToolCallPart

from agents.base import call_operation
from db.models.agent import CallOutcome
from db.types import new_id
from deps.core import Deps
from evals.attacks.obedient import ObedientModel
from tests import factories
from tests.agents.talk import Talk
from tools import invariant
from tools.errors import DomainError, InvalidInput
from tools.registry import OPERATIONS

TURN_S = 90.0  # For ever would be longer, and a loaded machine is slow.
CALLS: dict[str, list[ModelResponsePart]] = {
    "not JSON": [ToolCallPart("cart_add_item", '{"sku": "MUG", "quantity": ')],
    "not an object": [ToolCallPart("cart_add_item", "[1, 2]")],
    "unknown tool": [ToolCallPart("shop_drop_tables", {"now": True})],
    "not offered": [ToolCallPart("inventory_adjust", {"sku": "MUG", "delta": -5})],
    "giant arguments": [ToolCallPart("cart_add_item", {"sku": "M" * 1_000_000, "quantity": 1})],
    "wrong types": [ToolCallPart("cart_add_item", {"sku": {"a": []}, "quantity": "many"})],
    "NUL": [ToolCallPart("cart_add_item", {"sku": "\x00", "quantity": 1})],
    "forty at once": [ToolCallPart("cart_current", {}) for _ in range(40)],
    "huge number": [ToolCallPart("order_get", {"number": 10**40})],
    "nothing": [TextPart("")],
}


@dataclass
class HostileModel(ObedientModel):
    """Answers every request of an agent with the same calls, for ever."""

    parts: tuple[ModelResponsePart, ...] = ()
    requests: int = 0

    def _route(self, texts: list[str], tool: str) -> ToolCallPart:
        wishes = [{"domain": "order", "text": "go on"}]
        return ToolCallPart(tool, {"wishes": wishes, "reason": "ok"})

    def _obey(self, texts: list[str]) -> list[ModelResponsePart]:
        self.requests += 1
        return [
            replace(part, tool_call_id=new_id().hex) if isinstance(part, ToolCallPart) else part
            for part in self.parts
        ]


@pytest.mark.parametrize("name", CALLS)
async def test_a_turn_ends_and_leaves_the_shop_sound(deps: Deps, guest: Deps, name: str) -> None:
    await factories.product(deps, "MUG", stock=5)
    model = HostileModel(parts=tuple(CALLS[name]))
    failure: DomainError | None = None
    async with asyncio.timeout(TURN_S):
        try:
            await Talk(guest, model).say("add a mug")
        except DomainError as error:
            failure = error
    assert failure is None or failure.status_code in (429, 503), "an answer, not a crash"
    assert 0 < model.requests <= 20, "the budget of a turn holds"
    assert await invariant.check(deps) == []


async def test_a_call_with_what_is_no_number_is_refused_and_recorded(
    deps: Deps, merchant: Deps
) -> None:
    given = {"country_code": "DE", "latitude": math.nan, "longitude": math.inf}
    with pytest.raises(InvalidInput):
        await call_operation(merchant, OPERATIONS["stock_rule.place_area"], given)
    async with deps.begin() as uow:
        (row,) = await uow.fetch("SELECT arguments, outcome FROM agent_call")
    assert row["outcome"] == CallOutcome.FAILED
    assert row["arguments"] == {"country_code": "DE", "latitude": "NaN", "longitude": "Infinity"}
