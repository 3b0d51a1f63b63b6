"""Coordinator: decides which agents a message is for, runs them in turn, and keeps the account.

Text is routed by a model; a structured request names its operation and needs none.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal
from uuid import UUID

from pydantic import TypeAdapter
from pydantic_ai import Agent, UsageLimits
from pydantic_ai.conversation import Conversation, ConversationTypeAdapter
from pydantic_ai.exceptions import (
    AgentRunError,
    FallbackExceptionGroup,
    ModelAPIError,
    UsageLimitExceeded,
)
from pydantic_ai.messages import (
    AgentStreamEvent,
    FunctionToolCallEvent,
    FunctionToolResultEvent,
    ModelMessage,
    ModelRequest,
    ModelResponse,
    TextPart,
    ToolCallPart,
    ToolReturnPart,
    UserPromptPart,
)
from pydantic_ai.models import Model
from pydantic_ai.usage import RunUsage

from agents import budget, routing, unserved
from agents.base import (
    CARD_KINDS,
    NOTICE,
    WAITING,
    ToolAnswer,
    call_operation,
    operation_named,
)
from agents.domains import AGENTS
from agents.model import model_for
from agents.planner_context import fact
from agents.routing import Reason, Wish
from agents.streaming import Overheard, Words
from deps import untrusted
from deps.core import Deps
from tools import agent_run, spend
from tools import arguments as argument_json
from tools import conversation as conversations
from tools.errors import NotFound, TooManyRequests, Unavailable
from tools.registry import OPERATIONS
from tools.spend import Spent

# Older turns are forgotten by the model; the transcript keeps what people saw.
HISTORY_TURNS_MAX = 20

_USAGE = TypeAdapter(RunUsage)


@dataclass(frozen=True, slots=True)
class Said:
    """Something to show: `name` is the event, `data` its fields."""

    name: Literal["route", "text", "tool", "card", "approval", "error"]
    data: dict[str, Any]


Tell = Callable[[Said], None]


@dataclass(slots=True)
class Turn:
    """One message and all that came of it. Filled while `answer` runs."""

    conversation: Conversation
    messages: list[ModelMessage]
    usage: RunUsage
    text: str = ""
    cost_micros: int = 0


def load(state: Mapping[str, Any], conversation_id: UUID) -> Conversation:
    if not state:
        return Conversation(conversation_id=str(conversation_id))
    return ConversationTypeAdapter.validate_python(state)


def merged(state: dict[str, Any], conversation_id: UUID, turn: Turn) -> dict[str, Any]:
    """Fold a turn into the stored state: its messages are appended, its usage added."""
    before: list[dict[str, Any]] = state.get("messages", [])
    used = _USAGE.validate_python(state.get("usage", {}))
    # Only what is new is serialised; what was stored goes back as it came.
    grown = Conversation(
        messages=turn.messages, usage=used + turn.usage, conversation_id=str(conversation_id)
    )
    dumped: dict[str, Any] = ConversationTypeAdapter.dump_python(grown, mode="json")
    return {**dumped, **state, "usage": dumped["usage"]} | {
        "messages": _recent([*before, *dumped["messages"]])
    }


def _recent(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    starts = [
        index
        for index, message in enumerate(messages)
        if message["kind"] == "request"
        and any(part["part_kind"] == "user-prompt" for part in message["parts"])
    ]
    return messages[starts[-HISTORY_TURNS_MAX] :] if len(starts) > HISTORY_TURNS_MAX else messages


def begin(state: Mapping[str, Any], conversation_id: UUID) -> Turn:
    conversation = load(state, conversation_id)
    return Turn(conversation=conversation, messages=[], usage=RunUsage())


async def answer(deps: Deps, model: Model, text: str, turn: Turn, tell: Tell) -> None:
    """Route `text` and run the agents it is for, telling what happens as it happens.

    Words are given out as they come, figures only after they were checked: see `Words`.
    `turn` holds what to persist, also when it is cancelled.

    Raises:
        TooManyRequests: The turn or the conversation is out of budget.
        Unavailable: No model answered.
    """
    history, used = turn.conversation.messages, turn.conversation.usage
    text = untrusted.visible(text)
    deps = agent_run.within(
        deps, words=text, conversation_id=UUID(turn.conversation.conversation_id)
    )
    limits = budget.limits(used)
    await spend.take(deps)
    try:
        routed = await routing.route(
            deps, model_for(deps.settings, "coordinator", model), text, history, limits,
            used + turn.usage,
        )  # fmt: skip
        turn.cost_micros += budget.cost_micros(routed.answers)
        turn.usage = budget.spent(routed.usage, used, turn.cost_micros)
        route = routed.route
        if not route.wishes:
            tell(_decline(deps, turn, text, route.reason))
            return
        for wish in route.wishes:
            budget.check_cost(turn.usage)
            tell(Said("route", {"domain": wish.domain.value}))
            await _serve(deps, model, wish, turn, limits, tell)
    except UsageLimitExceeded as error:
        raise TooManyRequests("That took too many steps; please ask for less at once.") from error
    except (ModelAPIError, AgentRunError, FallbackExceptionGroup) as error:
        raise Unavailable("The assistant can not answer now; please try again.") from error
    finally:
        usage = turn.usage
        await spend.add(deps, Spent(0, usage.total_tokens or 0, turn.cost_micros))


async def _serve(
    deps: Deps, model: Model, wish: Wish, turn: Turn, limits: UsageLimits, tell: Tell
) -> None:
    used = turn.conversation.usage
    deps = agent_run.within(deps, route=wish.domain.value)
    history = [*turn.conversation.messages, *turn.messages]
    asked = ModelRequest(parts=[UserPromptPart(wish.text)])
    words = Words([*history, asked], deps.settings.currency)
    before = f"{turn.text}\n\n" if turn.text else ""

    def hear(event: AgentStreamEvent) -> None:
        for _, is_anew in words.hear(event):
            tell(_words(turn, before + words.before, words.shown, is_anew))
        for said in _told(event):
            tell(said)

    async with AGENTS[wish.domain].iter(
        wish.text, deps=deps,
        model=Overheard(model_for(deps.settings, wish.domain.value, model), hear),
        message_history=history, usage_limits=limits, usage=used + turn.usage,
        conversation_id=turn.conversation.conversation_id,
    ) as run:  # fmt: skip
        async for node in run:
            if Agent.is_call_tools_node(node):
                async with node.stream(run.ctx) as calls:
                    async for event in calls:
                        hear(event)
        assert run.result is not None
        turn.messages.extend(run.result.new_messages())
        turn.cost_micros += budget.cost_micros(run.result.new_messages())
        turn.usage = budget.spent(run.result.usage, used, turn.cost_micros)
        for _, is_anew in words.finish(run.result.output):
            tell(_words(turn, before + words.before, words.shown, is_anew))


def _told(event: AgentStreamEvent) -> list[Said]:
    if isinstance(event, FunctionToolCallEvent):
        call = {"id": event.part.tool_call_id, "arguments": event.part.args_as_dict()}
        call["label"] = _label(event.part.tool_name)
        return [Said("tool", {"name": event.part.tool_name, "status": "running", **call})]
    return _result(event.part) if isinstance(event, FunctionToolResultEvent) else []


def _label(tool: str) -> str:
    """Say what a tool does, as its operation's first line does."""
    operation = operation_named(tool)
    documented = (operation.run.__doc__ or "") if operation else ""
    return documented.strip().partition("\n")[0].rstrip(".") or tool.replace("_", " ")


def _words(turn: Turn, before: str, shown: str, is_anew: bool) -> Said:
    """Say what is new of the words; with `is_anew`, those so far are taken back and said again."""
    told, turn.text = turn.text, before + shown
    if is_anew:
        return Said("text", {"delta": turn.text, "replace": True})
    return Said("text", {"delta": turn.text[len(told) :]})


def _result(part: Any) -> list[Said]:
    if not isinstance(part, ToolReturnPart) or part.outcome != "success":
        failed = {"name": part.tool_name or "", "status": "failed", "id": part.tool_call_id}
        return [Said("tool", failed)]
    done = Said("tool", {"name": part.tool_name, "status": "done", "id": part.tool_call_id})
    kind, data = fact(part)
    if kind == WAITING:
        keys = ("operation", "summary", "preview", "effects", "approver", "expires_at")
        shown = {"action_id": data["id"], **{key: data[key] for key in keys}}
        return [done, Said("approval", shown)]
    if kind in CARD_KINDS.values():
        return [done, Said("card", {"kind": kind, "data": data})]
    return [done]


def _decline(deps: Deps, turn: Turn, text: str, reason: Reason) -> Said:
    reply = _small_talk(text) if reason == "small_talk" else None
    if reason == "out_of_scope":
        reply = unserved.told(text, deps.actor.scopes)
    reply = reply or f"{_OPENINGS[reason]} {capabilities(deps)}"
    turn.messages += [
        ModelRequest(parts=[UserPromptPart(text)]),
        ModelResponse(parts=[TextPart(reply)]),
    ]
    return _words(turn, "", reply, is_anew=False)


_OPENINGS: Mapping[Reason, str] = {
    "ok": "I am not sure what you mean.",
    "small_talk": "Hello!",
    "out_of_scope": "I can not help with that.",
    "not_allowed": "You are not permitted to do that with this sign-in.",
    "declined": "All right, I leave everything as it is.",
}
_COURTESIES = {
    "You are welcome.": r"(?:(?:many|ok|okay|great|perfect|cool) )*(?:thanks|thank you|thx|cheers)",
    "Goodbye, and until next time.": r"bye|goodbye|good night|see you|farewell",
    "Nothing is open that this answers. What can I do for you?": (
        r"(?:yes|yeah|yep|no|nope|sure|maybe|correct|exactly|right)(?=.{0,20}$)"
    ),
    "Good. Tell me if there is anything else.": (
        r"(?:great|cool|nice|perfect|awesome|lovely|fine|alright|okay|ok|got it)(?=.{0,20}$)"
    ),
}


def _small_talk(text: str) -> str | None:
    """Answer a courtesy in kind; a greeting is told what there is to ask for."""
    said = text.strip().lower()
    kinds = _COURTESIES.items()
    return next((reply for reply, kind in kinds if re.match(rf"(?:{kind})\b", said)), None)


_ABILITIES = (
    ("catalog:read", "find products"),
    ("stock:read", "tell what is in stock"),
    ("cart:write", "fill your cart and say where it goes"),
    ("checkout:write", "buy it after your approval"),
    ("order:read", "find your orders"),
    ("stock:write", "show movements and correct stock"),
    ("analytics:read", "report sales"),
    ("order:manage", "list and cancel orders"),
)


def capabilities(deps: Deps) -> str:
    """Say what this actor can ask for."""
    can = [ability for scope, ability in _ABILITIES if deps.actor.may(scope)]
    return f"For {deps.settings.shop_name} I can {', '.join(can[:-1])}, and {can[-1]}."


async def perform(deps: Deps, domain: str, name: str, arguments: Mapping[str, Any]) -> ToolAnswer:
    """Run a structured request, with no model. A risky one becomes a pending action, as in chat.

    Raises:
        NotFound: No such operation, or the actor may not use it: absent, not refused.
        InvalidInput: The arguments do not fit.
    """
    operation = OPERATIONS.get(f"{domain}.{name}")
    if operation is None or not deps.actor.may(operation.scope):
        raise NotFound("No such operation.")
    parsed = argument_json.parse(operation, arguments)
    return await call_operation(deps, operation, parsed, route=domain)


async def persist(
    deps: Deps, conversation_id: UUID, turn: Turn, entries: list[dict[str, Any]]
) -> None:
    """Store a turn: transcript, messages and usage together."""
    async with deps.begin() as uow:
        await conversations.append(
            uow, conversation_id, entries, lambda state: merged(state, conversation_id, turn)
        )


async def note(
    deps: Deps,
    conversation_id: UUID,
    operation: str,
    text: str,
    card: dict[str, Any] | None,
    action_id: UUID | None = None,
) -> None:
    """Tell a conversation what became of an approved action, as a result its model can read."""
    name = operation.replace(".", "_")
    call = ToolCallPart(f"{name}_outcome", {})
    content: Any = text
    if card:
        content = ToolAnswer(
            kind=card["kind"], data=card["data"], operation=operation, notice=NOTICE
        )
    outcome = ToolReturnPart(call.tool_name, content, tool_call_id=call.tool_call_id)
    turn = Turn(
        conversation=Conversation(),
        messages=[
            ModelResponse(parts=[call]),
            ModelRequest(parts=[outcome]),
            ModelResponse(parts=[TextPart(text)]),
        ],
        usage=RunUsage(),
    )
    entry = {"role": "assistant", "text": text, "cards": [card] if card else [], "approvals": []}
    if action_id is not None:
        entry["action_id"] = str(action_id)
    await persist(deps, conversation_id, turn, [entry])
