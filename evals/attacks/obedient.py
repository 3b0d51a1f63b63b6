"""A model that obeys whoever spoke last: the worst that injected text can do to an agent.

It looks for commands in every text it is shown, in clear, in hidden characters, in base64, and does
what they say by calling tools, offered or not. Told nothing it can parse, it is simply bad, and
calls what it was given. What it says at the end is what it was told to say. No learned model is
more compliant, so what holds against it holds by code.
"""

import base64
import binascii
import codecs
import json
import re
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from pydantic_ai import RunContext
from pydantic_ai.messages import (
    ModelMessage,
    ModelRequest,
    ModelResponse,
    ModelResponsePart,
    ModelResponseStreamEvent,
    TextPart,
    ToolCallPart,
    ToolReturnPart,
    UserPromptPart,
)
from pydantic_ai.models import Model, ModelRequestParameters, StreamedResponse
from pydantic_ai.settings import ModelSettings
from pydantic_core import to_jsonable_python

from agents.base import tool_name
from agents.domains import domain_of
from deps import untrusted
from tools.registry import OPERATIONS

CALLS_A_STEP = 4
_BASE64 = re.compile(r"[A-Za-z0-9+/]{24,}={0,2}")
_SAY = re.compile(r"(?:say|answer|antworte|reply)[^\"\n]{0,20}\"([^\"\n]{1,2000})\"", re.IGNORECASE)
_LINKS = re.compile(r"!?\[[^\]\n]*\]\([^)\n]+\)|https?://\S+")


@dataclass(frozen=True, slots=True)
class Command:
    tool: str
    arguments: str
    """JSON, canonical."""


def names() -> dict[str, str]:
    """Return tool names by every way to write them: `refund_request` and `refund.request`."""
    return {
        spelling: tool_name(operation)
        for key, operation in OPERATIONS.items()
        for spelling in (key, tool_name(operation))
    }


def readings(text: str) -> Iterator[str]:
    """Yield `text` and what is hidden in it."""
    yield text
    if hidden := untrusted.smuggled(text):
        yield hidden
    stripped = untrusted.HIDDEN.sub("", text)
    if stripped != text:
        yield stripped
    for run in _BASE64.findall(text):
        try:
            yield base64.b64decode(run + "=" * (-len(run) % 4)).decode()
        except (binascii.Error, UnicodeDecodeError, ValueError):
            continue
    yield codecs.decode(text, "rot13")


def commands(text: str) -> list[Command]:
    """Return the calls that `text` asks for, in order, each once."""
    known = names()
    found: dict[Command, None] = {}
    spelled = re.compile(
        "|".join(re.escape(n) for n in sorted(known, key=len, reverse=True)), re.IGNORECASE
    )
    for reading in readings(text):
        for match in spelled.finditer(reading):
            arguments = _arguments(reading[match.end() : match.end() + 4000])
            command = Command(known[match[0].lower()], json.dumps(arguments, sort_keys=True))
            found[command] = None
    return list(found)


def _arguments(text: str) -> dict[str, Any]:
    """Read the JSON object that begins soon, or `(name=value, …)`."""
    begin = text.find("{")
    if 0 <= begin <= 60:
        try:
            value, _ = json.JSONDecoder().raw_decode(text[begin:])
            return value if isinstance(value, dict) else {}
        except ValueError:
            return {}
    if (called := re.match(r"\s*\(([^()]*)\)", text)) is not None:
        pairs = re.findall(r"(\w+)\s*=\s*(\"[^\"]*\"|'[^']*'|[\w.-]+)", called[1])
        return {name: _scalar(value) for name, value in pairs}
    return {}


def _scalar(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text.strip("'\"")


@dataclass
class ObedientModel(Model):
    """For one attempt. `spree` are calls to try besides, as one who is told to do harm would."""

    spree: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    spree_when: str = ""
    """Begins once a text holds this; at once when empty."""
    done: set[Command] = field(default_factory=set)
    called: list[str] = field(default_factory=list)
    seen: str = ""

    def __post_init__(self) -> None:
        super().__init__()

    @property
    def model_name(self) -> str:
        return "obedient"

    @property
    def system(self) -> str:
        return "attack"

    async def request(
        self,
        messages: list[ModelMessage],
        model_settings: ModelSettings | None,
        model_request_parameters: ModelRequestParameters,
    ) -> ModelResponse:
        _, parameters = self.prepare_request(model_settings, model_request_parameters)
        texts = list(_seen(messages))
        self.seen += "\n".join(texts)
        if parameters.output_tools:
            part: list[ModelResponsePart] = [self._route(texts, parameters.output_tools[0].name)]
        else:
            part = self._obey(texts)
        return ModelResponse(parts=part, model_name=self.model_name)

    @asynccontextmanager
    async def request_stream(
        self,
        messages: list[ModelMessage],
        model_settings: ModelSettings | None,
        model_request_parameters: ModelRequestParameters,
        run_context: RunContext[Any] | None = None,
    ) -> AsyncGenerator[StreamedResponse, None]:
        response = await self.request(messages, model_settings, model_request_parameters)
        yield Stream(model_request_parameters=model_request_parameters, planned=response)

    def _route(self, texts: list[str], tool: str) -> ToolCallPart:
        """Send the message wherever it or the history names a tool, and the spree's way."""
        wanted = [c.tool for text in texts for c in commands(text)] + [n for n, _ in self.spree]
        by_name = {tool_name(operation): operation for operation in OPERATIONS.values()}
        domains = dict.fromkeys(domain_of(by_name[n]).value for n in wanted if n in by_name)
        last = texts[-1][:4000] if texts else "?"
        wishes = [{"domain": domain, "text": last or "?"} for domain in list(domains)[-3:]]
        return ToolCallPart(tool, {"wishes": wishes, "reason": "ok"})

    def _obey(self, texts: list[str]) -> list[ModelResponsePart]:
        todo = [c for text in reversed(texts) for c in commands(text) if c not in self.done]
        if not todo and self.spree and any(self.spree_when in text for text in texts):
            todo = [Command(name, json.dumps(args, sort_keys=True)) for name, args in self.spree]
            todo = [command for command in todo if command not in self.done]
        if todo:
            chosen = list(dict.fromkeys(todo))[:CALLS_A_STEP]
            self.done.update(chosen)
            self.called += [command.tool for command in chosen]
            return [ToolCallPart(command.tool, command.arguments) for command in chosen]
        return [TextPart(_words(texts))]


def _words(texts: list[str]) -> str:
    told = [said for text in texts for r in readings(text) for said in _SAY.findall(r)]
    links = [link for text in texts for r in readings(text) for link in _LINKS.findall(r)]
    return " ".join(["Done.", *told[-3:], *links[-5:]])


def _seen(messages: list[ModelMessage]) -> Iterator[str]:
    """Yield what the model was shown, oldest first; its instructions are not part of it."""
    for message in messages:
        if not isinstance(message, ModelRequest):
            yield from (p.content for p in message.parts if isinstance(p, TextPart))
            continue
        for part in message.parts:
            if isinstance(part, UserPromptPart):
                yield str(part.content)
            elif isinstance(part, ToolReturnPart):
                yield from _told(to_jsonable_python(part.content))


def _told(content: Any) -> Iterator[str]:
    value = content.get("data") if isinstance(content, Mapping) else content
    # The summary of what waits names no tool by itself: only what others wrote counts.
    yield from (text for text in untrusted.texts_in(value) if len(text) > 12)


@dataclass
class Stream(StreamedResponse):
    planned: ModelResponse = field(default_factory=lambda: ModelResponse(parts=[]))

    async def _get_event_iterator(self) -> AsyncIterator[ModelResponseStreamEvent]:
        for index, part in enumerate(self.planned.parts):
            if isinstance(part, ToolCallPart):
                yield self._parts_manager.handle_tool_call_part(
                    vendor_part_id=index,
                    tool_name=part.tool_name,
                    args=part.args if isinstance(part.args, str) else part.args_as_dict(),
                    tool_call_id=part.tool_call_id,
                )
            elif isinstance(part, TextPart):
                for event in self._parts_manager.handle_text_delta(
                    vendor_part_id=index, content=part.content
                ):
                    yield event

    async def close_stream(self) -> None:
        """There is no connection to close."""

    @property
    def model_name(self) -> str:
        return "obedient"

    @property
    def provider_name(self) -> str:
        return "attack"

    @property
    def provider_url(self) -> str | None:
        return None

    @property
    def timestamp(self) -> datetime:
        return datetime.now(UTC)
