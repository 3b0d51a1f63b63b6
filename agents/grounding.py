"""Check a reply against what the tools returned: amounts and order numbers are never invented."""

import re
from collections.abc import Iterator, Sequence
from typing import Any

from pydantic_ai import ModelRetry, RunContext
from pydantic_ai.messages import ModelMessage, ModelRequest, ToolReturnPart, UserPromptPart
from pydantic_core import to_jsonable_python

from db.types import exponent
from deps import untrusted
from deps.core import Deps

_CODE = r"[A-Z]{3}|[€$£¥]"
_ISO_CODE = re.compile(r"[A-Z]{3}")
_DIGITS = r"\d+(?:[.,]\d+)*"
_AMOUNT = re.compile(rf"(?:({_CODE})\s?-?({_DIGITS})|({_DIGITS})\s?({_CODE}|euros?\b|dollars?\b))")
_DECIMAL = re.compile(r"(?<![\d.,])\d+[.,]\d{2}(?![\d.,]*\d)")
_ORDER = re.compile(r"(?:\border\s*(?:number|no\.?|#)?\s*|#)(\d{3,})", re.IGNORECASE)


def minor_units(text: str, places: int) -> int:
    """Read `1,234.50`, `12,5` or `40` as minor units; the last separator is the decimal one."""
    digits = text.replace(" ", "").rstrip(".,")
    match = re.fullmatch(rf"(.*)[.,](\d{{1,{max(places, 1)}}})", digits) if places else None
    whole, fraction = (match[1], match[2]) if match else (digits, "")
    units: int = int(re.sub(r"[.,]", "", whole) or "0") * int(10**places)
    return units + int((fraction + "0" * places)[:places] or "0")


def returned_facts(messages: Sequence[ModelMessage]) -> Iterator[Any]:
    for message in messages:
        if isinstance(message, ModelRequest):
            for part in message.parts:
                if isinstance(part, ToolReturnPart):
                    yield to_jsonable_python(part.content)


def _asked(messages: Sequence[ModelMessage]) -> str:
    """Return what people wrote: a reply may repeat it."""
    return " ".join(
        str(part.content)
        for message in messages
        if isinstance(message, ModelRequest)
        for part in message.parts
        if isinstance(part, UserPromptPart)
    )


def _integers(value: Any) -> Iterator[int]:
    if isinstance(value, dict):
        for item in value.values():
            yield from _integers(item)
    elif isinstance(value, list):
        for item in value:
            yield from _integers(item)
    elif isinstance(value, int):
        yield abs(value)  # Less by 5 is told as 5, with or without a sign.
    elif isinstance(value, str):
        yield from (int(number) for number in re.findall(r"(?<![\d.])\d{1,15}(?![\d.])", value))


def ungrounded(reply: str, messages: Sequence[ModelMessage], currency: str) -> list[str]:
    """Return the amounts and order numbers in `reply` that no tool result contains."""
    amounts = [
        (match.group(), match[2] or match[3], match[1] or match[4])
        for match in _AMOUNT.finditer(reply)
    ]
    amounts += [(match.group(), match.group(), currency) for match in _DECIMAL.finditer(reply)]
    orders = list(_ORDER.finditer(reply))
    if not amounts and not orders:
        return []  # Most replies: a long conversation need not be read for them.
    facts = list(returned_facts(messages))
    asked = _asked(messages)
    known = {number for fact in facts for number in _integers(fact)}
    said = str(facts) + asked
    invented = []
    for words, number, code in amounts:
        places = exponent(code if _ISO_CODE.fullmatch(code) else currency)
        if minor_units(number, places) not in known and number not in said:
            invented.append(words)
    for match in orders:
        if int(match[1]) not in known and match[1] not in asked:
            invented.append(match.group())
    return list(dict.fromkeys(invented))


async def grounded(ctx: RunContext[Deps], reply: str) -> str:
    """Send the model back when it states an amount or order number that no tool returned."""
    invented = ungrounded(reply, ctx.messages, ctx.deps.settings.currency)
    if invented:
        raise ModelRetry(
            f"No tool result contains {', '.join(invented)}. State only amounts and order numbers "
            "that a tool returned; leave out what you do not know."
        )
    return reply


async def fit_to_show(ctx: RunContext[Deps], reply: str) -> str:
    """Take out of a reply links that are not ours, hidden characters, credentials, card numbers,
    and addresses that neither the person wrote nor a field for addresses holds."""
    hosts = ctx.deps.settings.link_host_names
    shown = untrusted.safe_links(untrusted.visible(reply), hosts)
    known: set[str] = set()
    if untrusted.emails_in([shown]):
        facts = list(returned_facts(ctx.messages))
        known = untrusted.emails_in([_asked(ctx.messages), *_addresses(facts)])
    return untrusted.redact_reply(shown, keep=known)


def _addresses(value: Any) -> Iterator[str]:
    """Yield what fields for addresses hold: one in a description is not ours to tell."""
    if isinstance(value, dict):
        for key, item in value.items():
            if key in ("email", "recipient") and isinstance(item, str):
                yield item
            else:
                yield from _addresses(item)
    elif isinstance(value, list):
        for item in value:
            yield from _addresses(item)
