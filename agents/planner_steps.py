"""The next step of a wish: call its operation, look up what that needs, or ask for it."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Self

from agents import planner_words
from agents.desk import tool_of
from agents.planner_context import Candidate, Context, rows_open
from agents.planner_fill import lacking, lines_meant, lists, required, takes_lines
from agents.planner_slots import (
    matching,
    ordinal_in,
    phrase_in,
    pointed_at,
    sku_in,
    variants_named,
)
from agents.planner_text import words
from tools.registry import OPERATIONS, Operation

SEARCH_LIMIT = 6
_OF_CART = frozenset(("cart.change_item", "cart.remove_item"))


@dataclass(slots=True)
class Step:
    """One model response: words or one call, and what the next step has to know."""

    text: str | None = None
    tool: str | None = None
    operation: str | None = None
    """What it leads to: a look-up for the sake of a purchase leads to the purchase."""
    arguments: dict[str, Any] = field(default_factory=dict)
    note: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Gap:
    """A parameter that a call still lacks, and what was made out for the others."""

    operation: Operation
    slots: dict[str, Any]
    name: str
    phrase: str = ""
    """The words that name what it is to be, where they were said."""

    @classmethod
    def of(cls, goal: Mapping[str, Any]) -> Self:
        """Read what `look_first` noted."""
        operation = OPERATIONS[goal["operation"]]
        return cls(operation, goal["slots"], goal["slot"], goal["phrase"])

    def filled(self, value: Any) -> dict[str, Any]:
        return self.slots | {self.name: value}


def ask(gap: Gap, text: str) -> Step:
    asked = {"operation": gap.operation.key, "slots": gap.slots, "missing": gap.name}
    return Step(text=text, note={"question": asked}, operation=gap.operation.key)


def look_first(tool: str, arguments: dict[str, Any], gap: Gap) -> Step:
    """Call another operation first, for what it tells of the parameter that is lacking."""
    key = gap.operation.key
    goal = {"operation": key, "slots": gap.slots, "slot": gap.name, "phrase": gap.phrase}
    return Step(tool=tool, arguments=arguments, note={"goal": goal}, operation=key)


@dataclass(frozen=True, slots=True)
class Steps:
    """Plans steps with the tools at hand; amounts are in `currency`."""

    tools: set[str]
    currency: str

    def go(self, operation: Operation, slots: dict[str, Any], text: str | None = None) -> Step:
        missing = lacking(operation, slots)
        if missing is not None:
            gap = Gap(operation, slots, missing)
            reads = "number" in slots and "order_get" in self.tools
            if text is not None and reads and takes_lines(operation, missing):
                # What is sent back is named by its lines.
                given = {"number": slots["number"]}
                return look_first("order_get", given, replace(gap, phrase=text))
            return self.list_things(gap) or self.ask_for(gap)
        name = tool_of(operation.key)
        if name not in self.tools:
            return Step(text="I can not do that here.")
        if operation.key == "product.search":
            slots = {"limit": SEARCH_LIMIT} | slots
        return Step(tool=name, arguments=slots, operation=operation.key)

    def ask_for(self, gap: Gap, choice: str = "") -> Step:
        """Ask for a parameter in its own words, and tell what there is to choose from."""
        asking = planner_words.question(gap.name, self.currency)
        return ask(gap, f"{asking} {choice}".strip())

    def list_things(self, gap: Gap) -> Step | None:
        """List first what it may be done with: nobody knows such a thing by its id."""
        key = lists(gap.operation, gap.slots) if gap.name.endswith("_id") else None
        if key is None or tool_of(key) not in self.tools:
            return None
        given = {name: gap.slots[name] for name in required(OPERATIONS[key])}
        return look_first(tool_of(key), given, gap)

    def find_product(self, gap: Gap, text: str, context: Context) -> Step:
        sku = sku_in(text)
        if sku is not None:
            return self.go(gap.operation, gap.filled(sku))
        if ordinal_in(text) is not None:
            chosen = pointed_at(text, context)
            return self.ask_for(gap) if chosen is None else self.with_product(gap, chosen)
        if phrase := _product_phrase(gap.operation, gap.slots, text):
            return self.find_named(replace(gap, phrase=phrase), context)
        if context.focus_sku:
            return self.go(gap.operation, gap.filled(context.focus_sku))
        if len(context.candidates) == 1:
            return self.with_product(gap, context.candidates[0])
        if gap.operation.key == "inventory.levels":
            handle = context.only_handle
            if handle and "product_get" in self.tools:
                whole = {"handle_or_sku": handle}
                return Step(tool="product_get", arguments=whole, operation="product.get")
            if context.search and context.candidates:
                return Step(
                    tool="product_search", arguments=context.search, operation="product.search"
                )
        return self.ask_for(gap, planner_words.choices([c.title for c in context.candidates]))

    def find_named(self, gap: Gap, context: Context) -> Step:
        if gap.operation.key in _OF_CART and "cart_current" in self.tools:
            # Only what is in it can be changed or taken out.
            return look_first("cart_current", {}, gap)
        known = matching(gap.phrase, context.candidates)
        if len(known) == 1:
            return self.with_product(gap, known[0])
        if "product_search" not in self.tools:
            return self.ask_for(gap)
        return look_first("product_search", {"query": gap.phrase, "limit": SEARCH_LIMIT}, gap)

    def with_product(self, gap: Gap, candidate: Candidate) -> Step:
        if gap.name == "handle_or_sku":
            return self.go(gap.operation, gap.filled(candidate.handle))
        if candidate.variant_count > 1 and "product_get" in self.tools:
            whole = {"handle_or_sku": candidate.handle}
            return look_first("product_get", whole, replace(gap, phrase=""))
        return self.go(gap.operation, gap.filled(candidate.sku))

    def choose(self, gap: Gap, found: list[Candidate], kind: str, text: str) -> Step:
        """Continue with the one product that was meant, or ask which of several."""
        if not found:
            return Step(text=f"I found no product called “{gap.phrase}”.")
        is_of_one = kind == "product"
        fitting = variants_named(text, found) if is_of_one else matching(gap.phrase, found)
        if len(fitting) == 1:
            return self.with_product(gap, fitting[0])
        titles = planner_words.choices([c.title for c in (fitting or found)])
        some = "these" if fitting or is_of_one else "only these, which are similar"
        return ask(gap, f"Which one do you mean? I have {some}: {titles}")

    def choose_lines(self, gap: Gap, order: dict[str, Any]) -> Step:
        """Continue with the lines of the order that were named, or ask which."""
        lines = lines_meant(gap.operation, gap.phrase, order)
        if lines:
            return self.go(gap.operation, gap.filled(lines))
        titles = planner_words.choices([line["title"] for line in order["lines"]])
        return ask(gap, f"Which of these? {titles}")

    def choose_line(self, gap: Gap, cart: dict[str, Any]) -> Step:
        """Continue with the line of the cart that was named, or say what there is."""
        lines = [Candidate(line["sku"], line["title"], line["sku"]) for line in cart["lines"]]
        if not lines:
            return Step(text="Your cart is empty.")
        fitting = matching(gap.phrase, lines)
        if len(fitting) == 1:
            return self.go(gap.operation, gap.filled(fitting[0].sku))
        titles = planner_words.choices([line.title for line in fitting or lines])
        if fitting:
            return ask(gap, f"Which one do you mean? {titles}")
        there = f"There is no {gap.phrase} in your cart, only this: {titles} Which one?"
        return ask(gap, there)

    def choose_row(self, gap: Gap, data: Any, kind: str) -> Step:
        """Continue with the only thing it can be done with, or ask which."""
        rows = rows_open(data)
        if len(rows) == 1:
            return self.go(gap.operation, gap.filled(rows[0]["id"]))
        if not rows:
            noun = gap.name.removesuffix("_id").replace("_", " ")
            return Step(text=f"There is no {noun} to do that with.")
        return self.ask_for(gap, planner_words.tell(kind, data, gap.operation.key))


def _product_phrase(operation: Operation, slots: dict[str, Any], text: str) -> str:
    """Return what is left to name a product once the other slots are taken out."""
    left = text
    if "reason" in operation.parameters:
        left = re.split(r"\bbecause\b|:|;", left, maxsplit=1)[0]
    if slots.get("location"):
        left = re.sub(rf"\b{re.escape(str(slots['location']))}\b", " ", left)
    noise = {"adjust", "correct", "write", "receive", "restock", "book"}
    return " ".join(w for w in words(phrase_in(left)) if w not in noise)
