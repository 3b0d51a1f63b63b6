"""The next step of a wish: call its operation, look up what that needs, or ask for it."""

import re
from dataclasses import dataclass, field
from typing import Any

from agents import planner_words
from agents.desk import tool_of
from agents.planner_context import Candidate, Context, rows_open
from agents.planner_fill import lines_meant, lists, required, takes_lines
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


def ask(operation: Operation, slots: dict[str, Any], missing: str, text: str) -> Step:
    asked = {"operation": operation.key, "slots": slots, "missing": missing}
    return Step(text=text, note={"question": asked}, operation=operation.key)


def look_first(
    tool: str,
    arguments: dict[str, Any],
    operation: Operation,
    slots: dict[str, Any],
    slot: str,
    phrase: str = "",
) -> Step:
    """Call another operation first, for the sake of what `slot` is to be filled with.

    Args:
        tool: What is called now, with its `arguments`.
        operation: What it leads to, with the `slots` made out so far.
        slot: The parameter that the result tells.
        phrase: The words that name what it is.
    """
    goal = {"operation": operation.key, "slots": slots, "slot": slot, "phrase": phrase}
    return Step(tool=tool, arguments=arguments, note={"goal": goal}, operation=operation.key)


@dataclass(frozen=True, slots=True)
class Steps:
    """Plans steps with the tools at hand; amounts are in `currency`."""

    tools: set[str]
    currency: str

    def go(self, operation: Operation, slots: dict[str, Any], text: str | None = None) -> Step:
        missing = next((name for name in required(operation) if name not in slots), None)
        if missing is not None:
            reads = "number" in slots and "order_get" in self.tools
            if text is not None and reads and takes_lines(operation, missing):
                # What is sent back is named by its lines.
                given = {"number": slots["number"]}
                return look_first("order_get", given, operation, slots, missing, text)
            if (listing := self.things(operation, slots, missing)) is not None:
                return listing
            return self.ask_for(operation, slots, missing)
        name = tool_of(operation.key)
        if name not in self.tools:
            return Step(text="I can not do that here.")
        if operation.key == "product.search":
            slots = {"limit": SEARCH_LIMIT} | slots
        return Step(tool=name, arguments=slots, operation=operation.key)

    def ask_for(
        self, operation: Operation, slots: dict[str, Any], missing: str, choice: str = ""
    ) -> Step:
        """Ask for a parameter in its own words, and tell what there is to choose from."""
        asking = planner_words.question(missing, self.currency)
        return ask(operation, slots, missing, f"{asking} {choice}".strip())

    def things(self, operation: Operation, slots: dict[str, Any], missing: str) -> Step | None:
        """List first what it may be done with: nobody knows such a thing by its id."""
        key = lists(operation, slots) if missing.endswith("_id") else None
        if key is None or tool_of(key) not in self.tools:
            return None
        given = {name: slots[name] for name in required(OPERATIONS[key])}
        return look_first(tool_of(key), given, operation, slots, missing)

    def with_lines(
        self,
        operation: Operation,
        slots: dict[str, Any],
        goal: dict[str, Any],
        order: dict[str, Any],
    ) -> Step:
        lines = lines_meant(operation, goal["phrase"], order)
        if lines:
            return self.go(operation, slots | {goal["slot"]: lines})
        titles = planner_words.choices([line["title"] for line in order["lines"]])
        asking = f"Which of these? {titles}"
        return ask(operation, slots, goal["slot"], asking)

    def find_product(
        self,
        operation: Operation,
        slots: dict[str, Any],
        slot: str,
        text: str,
        context: Context,
    ) -> Step:
        sku = sku_in(text)
        if sku is not None:
            return self.go(operation, slots | {slot: sku})
        if ordinal_in(text) is not None:
            if (chosen := pointed_at(text, context)) is not None:
                return self.with_product(operation, slots, slot, chosen)
            return self.ask_for(operation, slots, slot)
        phrase = _product_phrase(operation, slots, text)
        if phrase:
            if operation.key in _OF_CART and "cart_current" in self.tools:
                # Only what is in it can be changed or taken out.
                return look_first("cart_current", {}, operation, slots, slot, phrase)
            known = matching(phrase, context.candidates)
            if len(known) == 1:
                return self.with_product(operation, slots, slot, known[0])
            return self.look_up(operation, slots, slot, phrase)
        if context.focus_sku:
            return self.go(operation, slots | {slot: context.focus_sku})
        if len(context.candidates) == 1:
            return self.with_product(operation, slots, slot, context.candidates[0])
        handle = context.only_handle
        if operation.key == "inventory.levels" and handle and "product_get" in self.tools:
            whole = {"handle_or_sku": handle}
            return Step(tool="product_get", arguments=whole, operation="product.get")
        if operation.key == "inventory.levels" and context.search and context.candidates:
            return Step(tool="product_search", arguments=context.search, operation="product.search")
        titles = planner_words.choices([c.title for c in context.candidates])
        return self.ask_for(operation, slots, slot, titles)

    def look_up(self, operation: Operation, slots: dict[str, Any], slot: str, phrase: str) -> Step:
        if "product_search" not in self.tools:
            return self.ask_for(operation, slots, slot)
        sought = {"query": phrase, "limit": SEARCH_LIMIT}
        return look_first("product_search", sought, operation, slots, slot, phrase)

    def choose(
        self,
        operation: Operation,
        slots: dict[str, Any],
        goal: dict[str, Any],
        found: list[Candidate],
        kind: str,
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
            return self.with_product(operation, slots, goal["slot"], fitting[0])
        titles = planner_words.choices([c.title for c in (fitting or found)])
        some = "these" if fitting or kind == "product" else "only these, which are similar"
        return ask(
            operation, slots, goal["slot"], f"Which one do you mean? I have {some}: {titles}"
        )

    def choose_line(
        self,
        operation: Operation,
        slots: dict[str, Any],
        goal: dict[str, Any],
        cart: dict[str, Any],
    ) -> Step:
        """Continue with the line of the cart that was named, or say what there is."""
        lines = [Candidate(line["sku"], line["title"], line["sku"]) for line in cart["lines"]]
        if not lines:
            return Step(text="Your cart is empty.")
        fitting = matching(goal["phrase"], lines)
        if len(fitting) == 1:
            return self.go(operation, slots | {goal["slot"]: fitting[0].sku})
        titles = planner_words.choices([line.title for line in fitting or lines])
        if fitting:
            return ask(operation, slots, goal["slot"], f"Which one do you mean? {titles}")
        said = f"There is no {goal['phrase']} in your cart, only this: {titles} Which one?"
        return ask(operation, slots, goal["slot"], said)

    def choose_row(
        self,
        operation: Operation,
        slots: dict[str, Any],
        slot: str,
        data: Any,
        kind: str,
    ) -> Step:
        """Continue with the only thing it can be done with, or ask which."""
        rows = rows_open(data)
        if len(rows) == 1:
            return self.go(operation, slots | {slot: rows[0]["id"]})
        if not rows:
            noun = slot.removesuffix("_id").replace("_", " ")
            return Step(text=f"There is no {noun} to do that with.")
        return self.ask_for(operation, slots, slot, planner_words.tell(kind, data, operation.key))

    def with_product(
        self,
        operation: Operation,
        slots: dict[str, Any],
        slot: str,
        candidate: Candidate,
    ) -> Step:
        if slot == "handle_or_sku":
            return self.go(operation, slots | {slot: candidate.handle})
        if candidate.variant_count > 1 and "product_get" in self.tools:
            whole = {"handle_or_sku": candidate.handle}
            return look_first("product_get", whole, operation, slots, slot)
        return self.go(operation, slots | {slot: candidate.sku})


def _product_phrase(operation: Operation, slots: dict[str, Any], text: str) -> str:
    """Return what is left to name a product once the other slots are taken out."""
    left = text
    if "reason" in operation.parameters:
        left = re.split(r"\bbecause\b|:|;", left, maxsplit=1)[0]
    if slots.get("location"):
        left = re.sub(rf"\b{re.escape(str(slots['location']))}\b", " ", left)
    noise = {"adjust", "correct", "write", "receive", "restock", "book"}
    return " ".join(w for w in words(phrase_in(left)) if w not in noise)
