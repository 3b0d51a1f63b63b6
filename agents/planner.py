"""The offline planner: a Pydantic AI model that needs no network and always answers the same.

It reads the tool definitions it is given and the registered examples, fills arguments from the
message and the conversation, and words results from templates. It asks one question rather than
guess, and it can call nothing that a remote model could not.
"""

from collections.abc import AsyncGenerator, Collection
from contextlib import asynccontextmanager
from typing import Any

from pydantic_ai import RunContext
from pydantic_ai.messages import (
    ModelMessage,
    ModelRequest,
    ModelResponse,
    ModelResponsePart,
    TextPart,
    ToolCallPart,
    ToolReturnPart,
    UserPromptPart,
)
from pydantic_ai.models import Model, ModelRequestParameters, StreamedResponse
from pydantic_ai.settings import ModelSettings

from agents import planner_words
from agents.desk import desk_of, key_of, tool_of
from agents.planner_answer import CONFIRM, agrees
from agents.planner_context import (
    Context,
    context_of,
    fact,
    prompt_of,
    today_of,
)
from agents.planner_fill import (
    arguments_in,
    is_part,
    said_beside,
    signed,
    takes_lines,
)
from agents.planner_frame import Mode
from agents.planner_hear import Intent
from agents.planner_intent import understand
from agents.planner_slots import PRODUCT_SLOTS, matching, phrase_in, pointed_at, sku_in
from agents.planner_steps import Gap, Step, Steps, ask, look_first
from agents.planner_stream import PlannedStream
from agents.planner_wishes import wishes_in
from tools.registry import OPERATIONS, Operation, Risk

_LIMITS = frozenset(("min_price_amount", "max_price_amount"))


def _hesitates(operation: Operation, intent: Intent) -> bool:
    """Tell whether to ask before a write: one asked about, or one that is not surely meant."""
    if operation.risk is Risk.READ or intent.answers_question:
        return False
    if intent.mode is Mode.ABILITY:
        return operation.risk.needs_approval or not intent.is_sure
    return intent.mode in (Mode.HOW, Mode.TROUBLE) or not intent.is_sure


def _sku_meant(text: str, context: Context) -> str | None:
    """Return the SKU that is written out, or that of the one thing of those shown that is meant."""
    chosen = pointed_at(text, context)
    named = [] if chosen is not None else matching(phrase_in(text), context.candidates)
    chosen = chosen or (named[0] if len(named) == 1 else None)
    return sku_in(text) or (chosen.sku if chosen and chosen.variant_count == 1 else None)


class Planner(Model):
    """Plans for one actor. `allowed` are the keys of the operations their scopes permit."""

    def __init__(self, allowed: Collection[str], currency: str, wishes_max: int = 3) -> None:
        super().__init__()
        self._allowed = frozenset(allowed)
        self._currency = currency
        self._wishes_max = wishes_max

    @property
    def model_name(self) -> str:
        return "offline-planner"

    @property
    def system(self) -> str:
        return "shopkeeper"

    def prepare_messages(
        self,
        messages: list[ModelMessage],
        model_request_parameters: ModelRequestParameters | None = None,
    ) -> list[ModelMessage]:
        """Leave the messages as they are: a provider is told in the person's place that an answer
        was sent back, and here that would be taken for the person's own words."""
        return list(messages)

    async def request(
        self,
        messages: list[ModelMessage],
        model_settings: ModelSettings | None,
        model_request_parameters: ModelRequestParameters,
    ) -> ModelResponse:
        _, parameters = self.prepare_request(model_settings, model_request_parameters)
        if parameters.output_tools:
            step = self._route(messages, parameters.output_tools[0].name)
        else:
            step = self._act(messages, {tool.name for tool in parameters.function_tools})
        part: ModelResponsePart = (
            ToolCallPart(step.tool, step.arguments)
            if step.tool
            else TextPart(step.text or "I do not know what to say to that.")
        )
        return ModelResponse(
            parts=[part], model_name=self.model_name, metadata={"planner": step.note}
        )

    @asynccontextmanager
    async def request_stream(
        self,
        messages: list[ModelMessage],
        model_settings: ModelSettings | None,
        model_request_parameters: ModelRequestParameters,
        run_context: RunContext[Any] | None = None,
    ) -> AsyncGenerator[StreamedResponse, None]:
        response = await self.request(messages, model_settings, model_request_parameters)
        yield PlannedStream(model_request_parameters=model_request_parameters, planned=response)

    def rehearse(self, messages: list[ModelMessage]) -> list[Step]:
        """Return the first step for each wish in the last message, with every tool at hand."""
        tools = {tool_of(key) for key in self._allowed}
        wishes = self._route(messages, "").arguments["wishes"]
        return [
            self._act([*messages[:-1], ModelRequest(parts=[UserPromptPart(wish["text"])])], tools)
            for wish in wishes
        ]

    def _route(self, messages: list[ModelMessage], tool: str) -> Step:
        start, text = prompt_of(messages)
        context = context_of(messages[:start])
        wishes, reason = [], "ok"
        for piece in wishes_in(text, context, self._allowed, self._wishes_max):
            intent = understand(piece, context, self._allowed)
            if intent.operation is None:
                reason = intent.reason
                continue
            wishes.append({"operation": intent.operation.key, "text": piece})
            context.question = None
        route = {
            "wishes": [
                {"domain": desk_of(OPERATIONS[w["operation"]].domain), "text": w["text"]}
                for w in wishes
            ],
            "reason": "ok" if wishes else reason,
        }
        return Step(tool=tool, arguments=route)

    def _act(self, messages: list[ModelMessage], tools: set[str]) -> Step:
        start, text = prompt_of(messages)
        last = messages[-1]
        returns = [
            part
            for part in (last.parts if isinstance(last, ModelRequest) else [])
            if isinstance(part, ToolReturnPart)
        ]
        if returns:
            return self._after(messages, returns[-1], text, tools)
        if len(messages) - 1 > start:  # A validator sent the words back; templates have no others.
            return Step(text="I can not answer that reliably. Please ask in other words.")
        context = context_of(messages[:start])
        context.today = today_of(messages)
        intent = understand(text, context, self._allowed)
        if intent.operation is None:
            return Step(text="I am not sure what you mean. Please say it in other words.")
        return self._fill(intent, text, context, tools)

    def _after(
        self, messages: list[ModelMessage], returned: ToolReturnPart, text: str, tools: set[str]
    ) -> Step:
        kind, data = fact(returned)
        response = next(m for m in reversed(messages) if isinstance(m, ModelResponse))
        goal = (response.metadata or {}).get("planner", {}).get("goal")
        if kind == "failed" and (asked := self._asks_back(returned, response, data)):
            return asked
        if goal is None or kind == "failed":
            key = key_of(returned.tool_name)
            wider = self._widen(key, response) if kind == "products" and not data["items"] else None
            return wider or Step(text=planner_words.tell(kind, data, key))
        steps, gap = Steps(tools, self._currency), Gap.of(goal)
        operation = gap.operation
        if kind == "order" and takes_lines(operation, gap.name):
            return steps.choose_lines(gap, data)
        if gap.name.endswith("_id"):
            return steps.choose_row(gap, data, kind)
        if kind == "cart" and gap.name in PRODUCT_SLOTS:
            return steps.choose_line(gap, data)
        if kind == "products" and operation.key == "product.search":
            return _widened(gap.phrase, data)
        found = context_of(messages).candidates
        if kind == "product" and operation.key == "inventory.levels" and len(found) > 1:
            return Step(text=planner_words.tell(kind, data, "product.get"))
        return steps.choose(gap, found, kind, text)

    def _widen(self, key: str, response: ModelResponse) -> Step | None:
        """Where nothing is called that, look for what is within the limits that were said."""
        (call,) = response.tool_calls
        said = call.args_as_dict()
        if "query" not in said or not _LIMITS & said.keys():
            return None
        kept = {name: value for name, value in said.items() if name != "query"}
        return look_first(call.tool_name, kept, Gap(OPERATIONS[key], kept, "query", said["query"]))

    def _asks_back(
        self, returned: ToolReturnPart, response: ModelResponse, problem: Any
    ) -> Step | None:
        """Pass on a refusal that is a question, and take the answer for what it names."""
        operation = OPERATIONS.get(key_of(returned.tool_name))
        if operation is None or not str(problem).endswith("?"):
            return None
        named = [n for n in operation.parameters if n.replace("_", " ") in str(problem).lower()]
        calls = response.tool_calls
        if not named or not calls:
            return None
        slots = {k: v for k, v in calls[0].args_as_dict().items() if k != named[0]}
        return ask(Gap(operation, slots, named[0]), str(problem))

    def _fill(self, intent: Intent, text: str, context: Context, tools: set[str]) -> Step:
        """Plan the first step, and keep with a question the wish that it is about."""
        asked = (context.question or {}) if intent.answers_question else {}
        step = self._filled(intent, text, context, tools, asked)
        if "question" in step.note:
            step.note["question"] = {"text": asked.get("text", text)} | step.note["question"]
        return step

    def _filled(
        self, intent: Intent, text: str, context: Context, tools: set[str], asked: dict[str, Any]
    ) -> Step:
        operation = intent.operation
        assert operation is not None
        steps = Steps(tools, self._currency)
        missing, given = asked.get("missing"), intent.slots
        if intent.adds:
            more = said_beside(operation, text, context, self._currency)
            given = given | more
            if missing == CONFIRM and not agrees(text):
                return self._confirm(operation, signed(given, asked), intent)
            if missing not in (CONFIRM, *more):
                step = steps.go(operation, signed(given, asked))
                named = planner_words.about(more, self._currency)
                step.text = (
                    f"{named[:1].upper()}{named[1:]}. {step.text}"
                    if named and step.text
                    else step.text
                )
                return step
        if missing == CONFIRM:  # What they said yes to is what they wrote before.
            text = asked["text"]
        slots = arguments_in(
            operation, text, context, self._currency,
            given=given, asked=None if missing == CONFIRM else missing,
        )  # fmt: skip
        slots |= {name: value for name, value in intent.kept.items() if name not in slots}
        slots = signed(slots, asked)
        if is_part(operation, slots, text, missing):
            return steps.ask_for(Gap(operation, slots, "amount"))
        slot = next((s for s in PRODUCT_SLOTS if s in operation.parameters), None)
        if _hesitates(operation, intent):
            if slot == "sku" and (sku := _sku_meant(text, context)) is not None:
                slots = {slot: sku} | slots  # An offer says which one `the first one` is.
            return self._confirm(operation, slots, intent)
        if slot is None or slot in slots:
            return steps.go(operation, slots, text)
        return steps.find_product(Gap(operation, slots, slot), intent.about or text, context)

    def _confirm(self, operation: Operation, slots: dict[str, Any], intent: Intent) -> Step:
        """Ask before a write that was asked about, or that may be meant otherwise."""
        offers = intent.mode in (Mode.HOW, Mode.ABILITY, Mode.TROUBLE) and intent.is_sure
        said = planner_words.offer(operation, slots, self._currency, is_certain=offers)
        return ask(Gap(operation, slots, CONFIRM), said)


def _widened(phrase: str, data: dict[str, Any]) -> Step:
    if not data["items"]:
        return Step(text=planner_words.products(data, "product.search"))
    found = planner_words.products(data, "product.search").partition(": ")[2]
    return Step(text=f"I found nothing called “{phrase}”. Within your limits there is: {found}")
