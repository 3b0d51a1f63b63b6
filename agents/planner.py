"""The offline planner: a Pydantic AI model that needs no network and always answers the same.

It reads the tool definitions it is given and the registered examples, fills arguments from the
message and the conversation, and words results from templates. It asks one question rather than
guess, and it can call nothing that a remote model could not.
"""

import re
from collections.abc import AsyncGenerator, Collection
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
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
from agents.planner_context import Candidate, Context, context_of, fact, prompt_of, today_of
from agents.planner_fill import (
    arguments_in,
    is_part,
    lines_meant,
    required,
    said_beside,
    signed,
    takes_lines,
)
from agents.planner_frame import Mode
from agents.planner_hear import Intent
from agents.planner_intent import understand
from agents.planner_slots import (
    PRODUCT_SLOTS,
    matching,
    ordinal_in,
    phrase_in,
    pointed_at,
    sku_in,
    variants_named,
)
from agents.planner_stream import PlannedStream
from agents.planner_text import words
from agents.planner_wishes import wishes_in
from tools.registry import OPERATIONS, Operation, Risk

SEARCH_LIMIT = 6
_OF_CART = frozenset(("cart.change_item", "cart.remove_item"))
_LIMITS = frozenset(("min_price_amount", "max_price_amount"))


@dataclass(slots=True)
class Step:
    """One model response: words or one call, and what the next step has to know."""

    text: str | None = None
    tool: str | None = None
    operation: str | None = None
    """What it leads to: a look-up for the sake of a purchase leads to the purchase."""
    arguments: dict[str, Any] = field(default_factory=dict)
    note: dict[str, Any] = field(default_factory=dict)


def _ask(operation: Operation, slots: dict[str, Any], missing: str, text: str) -> Step:
    asked = {"operation": operation.key, "slots": slots, "missing": missing}
    return Step(text=text, note={"question": asked}, operation=operation.key)


def _hesitates(operation: Operation, intent: Intent) -> bool:
    """Tell whether to ask before a write: one asked about, or one that is not surely meant."""
    if operation.risk is Risk.READ or intent.answers_question:
        return False
    if intent.mode is Mode.ABILITY:
        return operation.risk.needs_approval or not intent.is_sure
    return intent.mode in (Mode.HOW, Mode.TROUBLE) or not intent.is_sure


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
        operation, slots = OPERATIONS[goal["operation"]], dict(goal["slots"])
        if (
            kind == "order"
            and isinstance(goal.get("phrase"), str)
            and goal["slot"] in (operation.parameters)
            and takes_lines(operation, goal["slot"])
        ):
            return self._with_lines(operation, slots, goal, data, tools)
        if kind == "cart" and goal["slot"] in PRODUCT_SLOTS:
            return self._choose_line(operation, slots, goal, data, tools)
        if kind == "products" and operation.key == "product.search":
            return _widened(goal["phrase"], data)
        found = context_of(messages).candidates
        if kind == "product" and operation.key == "inventory.levels" and len(found) > 1:
            return Step(text=planner_words.tell(kind, data, "product.get"))
        return self._choose(operation, slots, goal, found, kind, tools, text)

    def _widen(self, key: str, response: ModelResponse) -> Step | None:
        """Where nothing is called that, look for what is within the limits that were said."""
        (call,) = (part for part in response.parts if isinstance(part, ToolCallPart))
        said = call.args_as_dict()
        if "query" not in said or not _LIMITS & said.keys():
            return None
        kept = {name: value for name, value in said.items() if name != "query"}
        goal = {"operation": key, "slots": kept, "slot": "query", "phrase": said["query"]}
        return Step(tool=call.tool_name, arguments=kept, operation=key, note={"goal": goal})

    def _asks_back(
        self, returned: ToolReturnPart, response: ModelResponse, problem: Any
    ) -> Step | None:
        """Pass on a refusal that is a question, and take the answer for what it names."""
        operation = OPERATIONS.get(key_of(returned.tool_name))
        if operation is None or not str(problem).endswith("?"):
            return None
        named = [n for n in operation.parameters if n.replace("_", " ") in str(problem).lower()]
        calls = [part for part in response.parts if isinstance(part, ToolCallPart)]
        if not named or not calls:
            return None
        slots = {k: v for k, v in calls[0].args_as_dict().items() if k != named[0]}
        return _ask(operation, slots, named[0], str(problem))

    def _with_lines(
        self,
        operation: Operation,
        slots: dict[str, Any],
        goal: dict[str, Any],
        order: dict[str, Any],
        tools: set[str],
    ) -> Step:
        lines = lines_meant(operation, goal["phrase"], order)
        if lines:
            return self._go(operation, slots | {goal["slot"]: lines}, tools)
        titles = planner_words.choices([line["title"] for line in order["lines"]])
        asking = f"Which of these? {titles}"
        return _ask(operation, slots, goal["slot"], asking)

    def _choose_line(
        self,
        operation: Operation,
        slots: dict[str, Any],
        goal: dict[str, Any],
        cart: dict[str, Any],
        tools: set[str],
    ) -> Step:
        """Continue with the line of the cart that was named, or say what there is."""
        lines = [Candidate(line["sku"], line["title"], line["sku"]) for line in cart["lines"]]
        if not lines:
            return Step(text="Your cart is empty.")
        fitting = matching(goal["phrase"], lines)
        if len(fitting) == 1:
            return self._go(operation, slots | {goal["slot"]: fitting[0].sku}, tools)
        titles = planner_words.choices([line.title for line in fitting or lines])
        if fitting:
            return _ask(operation, slots, goal["slot"], f"Which one do you mean? {titles}")
        said = f"There is no {goal['phrase']} in your cart, only this: {titles} Which one?"
        return _ask(operation, slots, goal["slot"], said)

    def _choose(
        self,
        operation: Operation,
        slots: dict[str, Any],
        goal: dict[str, Any],
        found: list[Candidate],
        kind: str,
        tools: set[str],
        text: str,
    ) -> Step:
        """Continue with the one product that was meant, or ask which of several."""
        if not found:
            return Step(text=f"I found no product called “{goal['phrase']}”.")
        if kind == "product":
            fitting = variants_named(text, found)
        else:
            fitting = matching(goal["phrase"], found)
        if len(fitting) == 1:
            return self._with_product(operation, slots, goal["slot"], fitting[0], tools)
        titles = planner_words.choices([c.title for c in (fitting or found)])
        some = "these" if fitting or kind == "product" else "only these, which are similar"
        return _ask(
            operation, slots, goal["slot"], f"Which one do you mean? I have {some}: {titles}"
        )

    def _with_product(
        self,
        operation: Operation,
        slots: dict[str, Any],
        slot: str,
        candidate: Candidate,
        tools: set[str],
    ) -> Step:
        if slot == "handle_or_sku":
            return self._go(operation, slots | {slot: candidate.handle}, tools)
        if candidate.variant_count > 1 and "product_get" in tools:
            goal = {"operation": operation.key, "slots": slots, "slot": slot, "phrase": ""}
            return Step(
                tool="product_get",
                arguments={"handle_or_sku": candidate.handle},
                note={"goal": goal},
                operation=operation.key,
            )
        return self._go(operation, slots | {slot: candidate.sku}, tools)

    def _go(
        self, operation: Operation, slots: dict[str, Any], tools: set[str], text: str | None = None
    ) -> Step:
        missing = next((name for name in required(operation) if name not in slots), None)
        if missing is not None:
            reads = text is not None and "number" in slots and "order_get" in tools
            if reads and text is not None and takes_lines(operation, missing):
                return self._read_order(operation, slots, missing, text)
            return _ask(operation, slots, missing, planner_words.question(missing, self._currency))
        name = tool_of(operation.key)
        if name not in tools:
            return Step(text="I can not do that here.")
        if operation.key == "product.search":
            slots = {"limit": SEARCH_LIMIT} | slots
        return Step(tool=name, arguments=slots, operation=operation.key)

    def _read_order(
        self, operation: Operation, slots: dict[str, Any], missing: str, text: str
    ) -> Step:
        """Look an order up first: what is sent back is named by its lines."""
        goal = {"operation": operation.key, "slots": slots, "slot": missing, "phrase": text}
        return Step(
            tool="order_get",
            arguments={"number": slots["number"]},
            note={"goal": goal},
            operation=operation.key,
        )

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
        missing, given = asked.get("missing"), intent.slots
        if intent.adds:
            more = said_beside(operation, text, context, self._currency)
            given = given | more
            if missing == CONFIRM and not agrees(text):
                return self._confirm(operation, signed(given, asked), asked["text"], intent)
            if missing not in (CONFIRM, *more):
                step = self._go(operation, signed(given, asked), tools)
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
            return _ask(
                operation, slots, "amount", planner_words.question("amount", self._currency)
            )
        slot = next((s for s in PRODUCT_SLOTS if s in operation.parameters), None)
        if _hesitates(operation, intent):
            chosen = pointed_at(text, context)
            if slot == "sku" and chosen is not None and chosen.variant_count == 1:
                slots = {slot: chosen.sku} | slots  # An offer says which one `the first one` is.
            return self._confirm(operation, slots, text, intent)
        if slot is None or slot in slots:
            return self._go(operation, slots, tools, text)
        return self._find_product(operation, slots, slot, text, context, tools)

    def _confirm(
        self, operation: Operation, slots: dict[str, Any], text: str, intent: Intent
    ) -> Step:
        """Ask before a write that was asked about, or that may be meant otherwise."""
        offers = intent.mode in (Mode.HOW, Mode.ABILITY, Mode.TROUBLE) and intent.is_sure
        asked = {"operation": operation.key, "slots": slots, "missing": CONFIRM, "text": text}
        said = planner_words.offer(operation, slots, self._currency, is_certain=offers)
        return Step(text=said, note={"question": asked}, operation=operation.key)

    def _find_product(
        self,
        operation: Operation,
        slots: dict[str, Any],
        slot: str,
        text: str,
        context: Context,
        tools: set[str],
    ) -> Step:
        sku = sku_in(text)
        if sku is not None:
            return self._go(operation, slots | {slot: sku}, tools)
        if ordinal_in(text) is not None:
            if (chosen := pointed_at(text, context)) is not None:
                return self._with_product(operation, slots, slot, chosen, tools)
            return _ask(operation, slots, slot, planner_words.question(slot, self._currency))
        phrase = _product_phrase(operation, slots, text)
        if phrase:
            if operation.key in _OF_CART and "cart_current" in tools:
                return self._read_cart(operation, slots, slot, phrase)
            known = matching(phrase, context.candidates)
            if len(known) == 1:
                return self._with_product(operation, slots, slot, known[0], tools)
            return self._look_up(operation, slots, slot, phrase, tools)
        if context.focus_sku:
            return self._go(operation, slots | {slot: context.focus_sku}, tools)
        if len(context.candidates) == 1:
            return self._with_product(operation, slots, slot, context.candidates[0], tools)
        handles = {candidate.handle for candidate in context.candidates}
        if operation.key == "inventory.levels" and len(handles) == 1 and "product_get" in tools:
            return Step(
                tool="product_get",
                arguments={"handle_or_sku": handles.pop()},
                operation="product.get",
            )
        if operation.key == "inventory.levels" and context.search and context.candidates:
            return Step(tool="product_search", arguments=context.search, operation="product.search")
        titles = planner_words.choices([c.title for c in context.candidates])
        asking = planner_words.question(slot, self._currency)
        return _ask(operation, slots, slot, f"{asking} {titles}".strip())

    def _read_cart(
        self, operation: Operation, slots: dict[str, Any], slot: str, phrase: str
    ) -> Step:
        """Look into the cart first: only what is in it can be changed or taken out."""
        goal = {"operation": operation.key, "slots": slots, "slot": slot, "phrase": phrase}
        return Step(tool="cart_current", arguments={}, note={"goal": goal}, operation=operation.key)

    def _look_up(
        self, operation: Operation, slots: dict[str, Any], slot: str, phrase: str, tools: set[str]
    ) -> Step:
        if "product_search" not in tools:
            return _ask(operation, slots, slot, planner_words.question(slot, self._currency))
        goal = {"operation": operation.key, "slots": slots, "slot": slot, "phrase": phrase}
        return Step(
            tool="product_search",
            arguments={"query": phrase, "limit": SEARCH_LIMIT},
            note={"goal": goal},
            operation=operation.key,
        )


def _widened(phrase: str, data: dict[str, Any]) -> Step:
    if not data["items"]:
        return Step(text=planner_words.products(data, "product.search"))
    found = planner_words.products(data, "product.search").partition(": ")[2]
    return Step(text=f"I found nothing called “{phrase}”. Within your limits there is: {found}")


def _product_phrase(operation: Operation, slots: dict[str, Any], text: str) -> str:
    """Return what is left to name a product once the other slots are taken out."""
    left = text
    if "reason" in operation.parameters:
        left = re.split(r"\bbecause\b|:|;", left, maxsplit=1)[0]
    if slots.get("location"):
        left = re.sub(rf"\b{re.escape(str(slots['location']))}\b", " ", left)
    noise = {"adjust", "correct", "write", "receive", "restock", "book"}
    return " ".join(w for w in words(phrase_in(left)) if w not in noise)
