"""Whether a change was asked for: by the person's own words, and by nothing else that was read.

A model may be talked into things by text that others wrote. What it may do without asking is small;
it is done at once only when the person's words contain what it is done with, and no text in the
conversation has spoken to the model. Everything else waits for a click. This never refuses.
"""

import functools
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pydantic_ai.messages import ModelMessage, ModelRequest, ToolReturnPart, UserPromptPart
from pydantic_core import to_jsonable_python

from tools.registry import OPERATIONS, Operation, Risk

DOUBT = "A text in it was not written for people and has"
_NUMBERS = {
    "a": 1, "an": 1, "one": 1, "another": 1, "two": 2, "couple": 2, "pair": 2, "both": 2,
    "three": 3, "four": 4, "five": 5, "six": 6, "half": 6, "seven": 7, "eight": 8, "nine": 9,
    "ten": 10, "eleven": 11, "twelve": 12, "dozen": 12, "fifteen": 15, "twenty": 20,
    "fifty": 50, "hundred": 100, "none": 0, "no": 0, "remove": 0, "delete": 0,
}  # fmt: skip
_FILLERS_CHARS_MAX = 3
_ID = re.compile(r"[0-9a-f]{8}-[0-9a-f-]{27}")


def has_spoken(messages: Sequence[ModelMessage]) -> bool:
    """Tell whether a result in the conversation held a text that speaks to the model."""
    return any(
        DOUBT in str(part.content.get("notice", ""))
        for part in _results(messages)
        if isinstance(part.content, dict)
    )


def is_asked_for(
    operation: Operation,
    arguments: Mapping[str, Any],
    words: str,
    messages: Sequence[ModelMessage],
    *,
    is_staff: bool = False,
) -> bool:
    """Tell whether every number and text that a change is made with is the person's.

    What a tool returned as a value of its own, as a SKU, may be used too: the person chose it from
    a list. A text inside a longer one may not.

    Args:
        operation: A change.
        arguments: Parsed.
        words: What the person wrote last.
        messages: The conversation; its last prompt is a model's rendering of `words`.
        is_staff: Then the words must also tell this change from looking things up: what staff look
            at belongs to others, so that naming it is not yet asking to change it.
    """
    prompts = [
        str(part.content)
        for message in messages
        if isinstance(message, ModelRequest)
        for part in message.parts
        if isinstance(part, UserPromptPart)
    ]
    said = _plain(" ".join([*prompts[:-1], words]))
    spoken = set(said.split())
    numbers = {int(n) for n in re.findall(r"\d{1,15}", said)}
    numbers |= {value for word, value in _NUMBERS.items() if word in spoken}
    shown = {_plain(text) for part in _results(messages) for text in _values(part.content)}
    given = {
        name: value
        for name, value in arguments.items()
        if name in operation.parameters and value != operation.parameters[name].default
    }
    if is_staff and not spoken & telling_words(operation):
        return False
    return all(
        _is_known(value, said, spoken, numbers, shown)
        for value in _values(to_jsonable_python(given))
    )


@functools.cache
def telling_words(operation: Operation) -> frozenset[str]:
    """Return the words of a change's name and examples that no question uses."""

    def words_of(one: Operation) -> set[str]:
        text = re.sub(r"\{[^}]*\}", " ", " ".join([*one.examples, one.key.replace(".", " ")]))
        return set(_plain(text.replace("_", " ")).split())

    questions = [words_of(one) for one in OPERATIONS.values() if one.risk is Risk.READ]
    return frozenset(words_of(operation).difference(*questions) | {operation.key.replace(".", "_")})


def _is_known(value: str, said: str, spoken: set[str], numbers: set[int], shown: set[str]) -> bool:
    if re.fullmatch(r"-?\d{1,15}", value):
        return abs(int(value)) in numbers or value in shown
    text = _plain(value)
    if re.fullmatch("[A-Z]{2}", value) or _ID.fullmatch(value) or text in said or text in shown:
        return True
    parts = [word for word in text.split() if len(word) > _FILLERS_CHARS_MAX]
    return bool(parts) and all(part in spoken for part in parts)


def _plain(text: str) -> str:
    return " ".join(re.findall(r"[\w@.+-]+", text.casefold().replace("-", " ")))


def _results(messages: Sequence[ModelMessage]) -> Iterator[ToolReturnPart]:
    for message in messages:
        if isinstance(message, ModelRequest):
            yield from (part for part in message.parts if isinstance(part, ToolReturnPart))


def _values(value: Any) -> Iterator[str]:
    """Yield the leaves of a JSON value as text; flags and nothing are no values."""
    if isinstance(value, Mapping):
        for item in value.values():
            yield from _values(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _values(item)
    elif value is not None and not isinstance(value, bool):
        yield str(value)
