"""Hold a conversation in tests and evals: the coordinator with storage, without HTTP."""

from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from pydantic_ai.models import Model

from agents import coordinator
from agents.coordinator import Said
from agents.model import choose_model
from deps.core import Deps
from tools import conversation as conversations


@dataclass
class Reply:
    text: str
    events: list[Said] = field(default_factory=list)

    def of(self, name: str) -> list[dict[str, Any]]:
        return [said.data for said in self.events if said.name == name]

    @property
    def tools(self) -> list[str]:
        return [t["name"] for t in self.of("tool") if t["status"] != "running"]

    @property
    def action_id(self) -> UUID:
        (approval,) = self.of("approval")
        return UUID(approval["action_id"])


@dataclass
class Talk:
    deps: Deps
    model: Model | None = None
    conversation_id: UUID | None = None

    async def say(self, text: str) -> Reply:
        async with self.deps.begin() as uow:
            row = await (
                conversations.access(uow, self.conversation_id)
                if self.conversation_id
                else conversations.start(uow, text)
            )
            self.conversation_id, state = row.id, dict(row.state)
        turn = coordinator.begin(state, self.conversation_id)
        model = self.model or choose_model(self.deps.settings, self.deps.actor)
        events: list[Said] = []
        await coordinator.answer(self.deps, model, text, turn, events.append)
        entry = {"role": "assistant", "text": turn.text}
        await coordinator.persist(self.deps, self.conversation_id, turn, [entry])
        return Reply(turn.text, events)
