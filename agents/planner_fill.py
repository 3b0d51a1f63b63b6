"""Fill an operation's arguments from its signature: by the parameter's name, else by its type."""

import inspect
import re
import types
from collections.abc import Mapping
from dataclasses import replace
from datetime import date, datetime
from enum import StrEnum
from functools import cache
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints
from uuid import UUID

from pydantic import AwareDatetime, BaseModel

from agents.grounding import minor_units
from agents.phrases import phrases_for
from agents.planner_context import Candidate, Context, named
from agents.planner_dates import bound_in, day_in
from agents.planner_numbers import money_in, says_all, says_part
from agents.planner_slots import (
    ADDRESS_FIELDS,
    EXTRACTORS,
    PRODUCT_SLOTS,
    address_in,
    matching,
    ordinal_in,
    phrase_in,
    prices_in,
    quantity_in,
    sku_in,
    takes_away,
)
from agents.planner_terms import TERMS, minimum_apart
from agents.planner_text import normalize, words
from agents.planner_tokens import stem
from db.types import exponent
from tools.registry import OPERATIONS, Operation, Risk

# Parameters nobody says: their defaults, or the server, decide.
UNSAID = frozenset(
    ("limit", "cursor", "sort", "category", "payment_method", "cart_id", "expected_total_amount",
     "conversation_id", "idempotency_key", "key")
)  # fmt: skip
# Where a period begins; any other moment is the end of what is said.
_LOWER = ("since", "start")
# What is told in any words; to a search, too, an answer is taken whole.
FREE = ("reason", "name", "note", "title", "message")
_TAKEN_WHOLE = (*FREE, "query")
_TEXT_MAX = 200
_GOES_TO = re.compile(
    r"\b(?:deliver|ship|send|goes)(?: it| them| everything| this| my order)? to (?!\S+@)|"
    r"\bmy name is\b",
    re.IGNORECASE,
)
_PLACE = frozenset(ADDRESS_FIELDS) - {"email"}
_REFERS = re.compile(r"\b(?:it|its|this|that|same|the order)\b", re.IGNORECASE)
_UUID = re.compile(r"\b[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}\b", re.IGNORECASE)


@cache
def hints_of(operation: Operation) -> Mapping[str, Any]:
    """Return the plain type of each parameter: without `None` and without annotations on it."""
    hints = get_type_hints(operation.run, include_extras=False)
    return {name: _plain(hints[name]) for name in operation.parameters}


def _plain(hint: Any) -> Any:
    if get_origin(hint) is Annotated:
        return _plain(get_args(hint)[0])
    if get_origin(hint) in (Union, types.UnionType):
        inner = [arg for arg in get_args(hint) if arg is not type(None)]
        return _plain(inner[0])
    return getattr(hint, "__supertype__", hint)


def required(operation: Operation) -> list[str]:
    return [
        name
        for name, parameter in operation.parameters.items()
        if parameter.default is inspect.Parameter.empty
    ]


def lacking(operation: Operation, slots: Mapping[str, Any]) -> str | None:
    """Return the first parameter that has to be said still. Of an address, all or nothing."""
    needed = required(operation)
    if is_address(operation) and not needed and (not slots or _PLACE & slots.keys()):
        needed = [name for name in operation.parameters if name in _PLACE]
    return next((name for name in needed if name not in slots), None)


def arguments_in(
    operation: Operation,
    text: str,
    context: Context,
    currency: str,
    *,
    given: Mapping[str, Any],
    asked: str | None,
) -> dict[str, Any]:
    """Return what can be made out of the message and the conversation; the rest stays absent.

    Args:
        operation: What is to be called.
        text: What the person wrote.
        context: What the conversation is about.
        currency: What amounts without one are in.
        given: What was made out before; it stays, except what is asked about.
        asked: The parameter the person was just asked for, if they were.
    """
    slots = {name: value for name, value in given.items() if name != asked}
    if is_address(operation):
        return slots | address_answer(text, asked)
    unmeant = _unmeant_amounts(operation, text)
    apart = {}
    if "minimum_amount" in operation.parameters:
        apart["amount"], apart["minimum_amount"] = minimum_apart(text)
    for name, hint in hints_of(operation).items():
        if name in slots or name in UNSAID or name in PRODUCT_SLOTS or name in unmeant:
            continue
        if is_made(operation, name):
            continue
        value = _value(name, hint, apart.get(name, text), context, currency)
        if name == "number" and name not in required(operation) and not _REFERS.search(text):
            value = EXTRACTORS[name](text, replace(context, focus_order=None))
        if name == "query" and isinstance(value, str) and operation.domain != "product":
            value = beyond_the_wish(operation, text, value)
        if value is None and name == asked:
            value = _whole(name, hint, text, currency)
        if value is not None:
            slots[name] = value
    return slots


def is_made(operation: Operation, name: str) -> bool:
    """Tell whether a parameter is the id of what a change makes: nobody says that, and the id of
    another such thing, which the conversation may be about, would mean that one again."""
    parameter = operation.parameters[name]
    is_optional = parameter.default is not parameter.empty
    return name.endswith("_id") and is_optional and operation.risk not in (Risk.READ, Risk.BULK)


def lists(operation: Operation, slots: Mapping[str, Any]) -> str | None:
    """Return the key of what lists the things that an operation is to be done with one of."""
    listing = [
        other.key
        for other in OPERATIONS.values()
        if other.domain == operation.domain
        and other.risk is Risk.READ
        and re.search(r"\b(?:show|list)", other.key.partition(".")[2])
        and set(required(other)) <= slots.keys()
    ]
    return max(listing, key=lambda key: (len(required(OPERATIONS[key])), key), default=None)


def _unmeant_amounts(operation: Operation, text: str) -> set[str]:
    """Of `amount` and `shipping_amount`, one sum said is the one that is named, not both."""
    amounts = {name for name in operation.parameters if name.endswith("_amount")}
    amounts.discard("minimum_amount")  # It is told apart by what is said before it.
    if "amount" not in operation.parameters or not amounts:
        return set()
    said = words(normalize(text))
    named = {name for name in amounts if set(name.split("_")[:-1]) <= set(said)}
    return (amounts - named) | ({"amount"} if named else set())


def beyond_the_wish(operation: Operation, text: str, phrase: str) -> str | None:
    """Leave out the words that ask for the operation: `find the customer ada` is about Ada."""
    email = EXTRACTORS["email"](text, Context())
    own = {stem(w) for p in phrases_for(operation.key) for w in words(p) if "{" not in w}
    return email or " ".join(w for w in words(phrase) if stem(w) not in own) or None


def takes_lines(operation: Operation, name: str) -> bool:
    """Tell whether a parameter is lines of an order: SKUs and how many of each."""
    hint = hints_of(operation)[name]
    inner = get_args(hint)[0] if get_origin(hint) is list else None
    if not (isinstance(inner, type) and issubclass(inner, BaseModel)):
        return False
    needed = {n for n, f in inner.model_fields.items() if f.is_required()}
    return "sku" in needed and needed <= {"sku", "quantity"}


def lines_meant(operation: Operation, text: str, order: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the lines of an order that a message names, or all when it names none."""
    lines = order["lines"]
    phrase = beyond_the_wish(operation, text, phrase_in(text)) or ""
    known = [Candidate(line["sku"], line["title"], line["sku"]) for line in lines]
    skus = {c.sku for c in matching(phrase, known)} if phrase else {c.sku for c in known}
    said = quantity_in(text) if len(skus) == 1 else None
    return [
        {"sku": line["sku"], "quantity": min(said or line["quantity"], line["quantity"])}
        for line in lines
        if line["sku"] in skus
    ]


def is_address(operation: Operation) -> bool:
    return {"line1", "postal_code", "city"} <= set(operation.parameters)


def takes_address(operation: Operation) -> bool:
    """Tell whether an operation sends something to an address, in fields or as a whole."""
    return is_address(operation) or any(map(_is_address_model, hints_of(operation).values()))


def _is_address_model(hint: Any) -> bool:
    is_model = isinstance(hint, type) and issubclass(hint, BaseModel)
    return is_model and {"line1", "city"} <= hint.model_fields.keys()


def said_beside(operation: Operation, text: str, context: Context, currency: str) -> dict[str, Any]:
    """Return what a message itself says, whatever the conversation is about; free text is none."""
    bare = Context(orders=context.orders, rows=context.rows, today=context.today)
    found = arguments_in(operation, text, bare, currency, given={}, asked=None)
    return {name: value for name, value in found.items() if name not in _TAKEN_WHOLE}


def signed(slots: dict[str, Any], asked: Mapping[str, Any]) -> dict[str, Any]:
    """Keep the direction of what was said first: of `write off some`, `3` are three less.

    Args:
        slots: What was made out.
        asked: The question that was open, with the wish that it was about.
    """
    delta = slots.get("delta", 0)
    return slots | {"delta": -delta} if delta > 0 and takes_away(asked.get("text", "")) else slots


def is_part(operation: Operation, slots: dict[str, Any], text: str, missing: str | None) -> bool:
    """Tell whether a sum was said and not made out: without it, all there is would be meant."""
    if "amount" not in operation.parameters or {"amount", "percent"} & slots.keys():
        return False
    return (
        not says_all(text)
        if missing == "amount"
        else says_part(re.split(r"\bbecause\b|[:;]", text, maxsplit=1)[0])
    )


def _whole(name: str, hint: Any, text: str, currency: str) -> Any:
    """Take the whole answer for what was asked."""
    said = text.strip()
    if hint is str or name in _TAKEN_WHOLE:
        return said[:_TEXT_MAX] or None
    if hint is int and name.endswith("amount"):  # `20` are twenty euros, not twenty cents.
        plain = re.fullmatch(r"\d[\d.,]*", said)
        return minor_units(said, exponent(currency)) if plain else None
    if hint is int and re.fullmatch(r"#?\d{1,18}", said):
        return int(said.lstrip("#"))
    return None


def _value(name: str, hint: Any, text: str, context: Context, currency: str) -> Any:
    if name in ("min_price_amount", "max_price_amount"):
        return prices_in(text, currency).get(name)
    if name == "in_stock":
        return True if re.search(r"\bin stock\b|\bavailable\b", text.lower()) else None
    if name in EXTRACTORS:
        return EXTRACTORS[name](text, context)
    if name in TERMS:
        return TERMS[name](text, context) or context.known.get(name)
    return by_type(name, hint, text, context, currency)


def by_type(name: str, hint: Any, text: str, context: Context, currency: str) -> Any:
    """Make a value out of the message by its type; None when it says none."""
    if get_origin(hint) is Literal:
        return _one_of([str(value) for value in get_args(hint)], text)
    if get_origin(hint) in (list, tuple):
        return _listed(get_args(hint)[0], text, context)
    if not isinstance(hint, type):
        return None
    if issubclass(hint, StrEnum):
        return _one_of([member.value for member in hint], text)
    if issubclass(hint, UUID):
        return _referred(name, text, context)
    if hint is date:
        return day_in(text, context.today)
    if hint in (datetime, AwareDatetime):
        return bound_in(text, context.today, is_upper=name not in _LOWER)
    if hint is int and name.endswith("amount"):
        return money_in(text, currency)
    if hint is int:
        return _number_named(name, text, context)
    if _is_address_model(hint):
        found = address_in(text)
        return found if {"line1", "city"} <= found.keys() else None
    if hint is str:
        return context.known.get(name)
    return None


def _one_of(values: list[str], text: str) -> str | None:
    said = normalize(text)
    hits = [v for v in values if re.search(rf"\b{re.escape(v.replace('_', ' '))}\b", said)]
    return max(hits, key=len) if hits else None


def _referred(name: str, text: str, context: Context) -> Any:
    """Return the id that is written out, or that of the row of the last list that is meant."""
    written = _UUID.search(text)
    if written:
        return written.group()
    position = ordinal_in(text)
    if position is not None and -len(context.rows) <= position < len(context.rows):
        return named(context.rows[position], name.removesuffix("_id")).get(name)
    return context.known.get(name)


def _number_named(name: str, text: str, context: Context) -> int | None:
    word = name.removesuffix("_number").replace("_", " ")
    beside = re.search(rf"\b{re.escape(word)}\s*(?:number|no\.?|#)?\s*#?(\d{{1,18}})\b", text, re.I)
    if beside:
        return int(beside[1])
    known = context.known.get(name)
    if isinstance(known, int):
        return known
    return quantity_in(text) if name in ("units", "count", "quantity") else None


def _listed(hint: Any, text: str, context: Context) -> list[Any] | None:
    """Make lines such as `2 of MUG-1` of a model with a SKU; other lists are not said in chat."""
    if not (isinstance(hint, type) and issubclass(hint, BaseModel)):
        return None
    if "sku" not in hint.model_fields:
        return None
    sku = sku_in(text) or (context.focus_sku if re.search(r"\b(?:it|that|this)\b", text) else None)
    if sku is None:
        return None
    line: dict[str, Any] = {"sku": sku}
    for name, field in hint.model_fields.items():
        if name == "sku":
            continue
        value: Any = quantity_in(text) if name in ("quantity", "units") else None
        if name.startswith("new_"):
            value = _second_sku(text, sku)
        if value is not None:
            line[name] = value
        elif field.is_required():
            return None
    return [line]


def _second_sku(text: str, first: str) -> str | None:
    return sku_in(text.replace(first, " ", 1))


def address_answer(text: str, asked: str | None) -> dict[str, Any]:
    """Read an address; a short answer to a question fills only what was asked."""
    found = address_in(text)
    if asked is None and not {"line1", "postal_code"} & found.keys() and not _GOES_TO.search(text):
        # `send the confirmation to ada@example.com` names nobody.
        return {key: found[key] for key in ("email", "shipping_method") if key in found}
    if asked is None or "," in text:
        return found
    if asked == "postal_code" and (place := re.fullmatch(r"\s*(\S*\d\S*)\s+(\D+)", text)):
        return {"postal_code": place[1], "city": place[2].strip()}
    if asked in ("email", "country_code"):
        said = {"country_code": text.strip().upper()} if len(text.strip()) == 2 else {}
        return said | {key: found[key] for key in (asked, "shipping_method") if key in found}
    return {asked: text.strip()} if asked in ADDRESS_FIELDS else found
