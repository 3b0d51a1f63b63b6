"""A reply word by word, without showing what is taken back: figures are checked before they go out.

`Overheard` lets the words be heard while a model answers; `Words` decides which of them may go out.

The whole reply is validated at its end. Until then plain words go out as they come; a sentence with
a figure waits for its end and is checked; from anything that could be an address or a secret on,
nothing goes out before the reply has passed.
"""

import re
from collections.abc import Callable, Iterator, Sequence

from pydantic_ai.messages import (
    AgentStreamEvent,
    FunctionToolCallEvent,
    FunctionToolResultEvent,
    ModelMessage,
    ModelRequest,
    ModelResponse,
    PartDeltaEvent,
    PartStartEvent,
    TextPart,
    TextPartDelta,
    ToolReturnPart,
)
from pydantic_ai.models import Model, ModelRequestParameters
from pydantic_ai.models.wrapper import WrapperModel
from pydantic_ai.settings import ModelSettings

from agents.grounding import ungrounded

# What a later check may refuse or change: links, addresses, long codes.
_GUARDED = re.compile(r"//|www\.|[\[<@]|(?:javascript|data):|[A-Za-z0-9_\-]{25,}|\d[\d -]{10,}")
_SENTENCE_END = re.compile(r"[.!?:](?=\s)|\n")


class Overheard(WrapperModel):
    """A model whose answer is heard as it is written, by a run that waits for the whole of it.

    An agent that streams takes each word through seven iterators, three locks and as many cancel
    scopes, so that anybody could stop it anywhere: a third of what a turn costs.
    """

    def __init__(self, wrapped: Model, hear: Callable[[AgentStreamEvent], None]) -> None:
        super().__init__(wrapped)
        self._hear = hear

    async def request(
        self,
        messages: list[ModelMessage],
        model_settings: ModelSettings | None,
        model_request_parameters: ModelRequestParameters,
    ) -> ModelResponse:
        async with self.wrapped.request_stream(
            messages, model_settings, model_request_parameters
        ) as answer:
            async for event in answer:
                self._hear(event)
            return answer.get()


class Words:
    """The words of one agent's run. `shown` is what went out of the current reply."""

    def __init__(self, messages: Sequence[ModelMessage], currency: str) -> None:
        self._known = list(messages)
        self._currency = currency
        self._written = ""
        self._part = -1
        self._is_held = False
        self.shown = ""
        self.before = ""

    def hear(self, event: AgentStreamEvent) -> Iterator[tuple[str, bool]]:
        """Take an event of the run; yield words to show, and whether they replace `shown`."""
        if isinstance(event, PartStartEvent) and isinstance(event.part, TextPart):
            if event.index <= self._part and self._written:
                # The reply was sent back and is being written again.
                yield from self._forget()
            self._part = event.index
            self._written += event.part.content
            yield from self._go_on()
        elif isinstance(event, PartDeltaEvent) and isinstance(event.delta, TextPartDelta):
            self._written += event.delta.content_delta
            yield from self._go_on()
        elif isinstance(event, FunctionToolCallEvent):
            # What was said on the way to a tool stays; the reply proper comes after it.
            self.before += self.shown + ("\n\n" if self.shown else "")
            self._written, self.shown, self._part, self._is_held = "", "", -1, False
        elif isinstance(event, FunctionToolResultEvent) and isinstance(event.part, ToolReturnPart):
            self._known.append(ModelRequest(parts=[event.part]))

    def finish(self, reply: str) -> Iterator[tuple[str, bool]]:
        """Yield what is left of the reply that passed."""
        if reply.startswith(self.shown):
            rest, self.shown = reply[len(self.shown) :], reply
            if rest:
                yield rest, False
            return
        self.shown = reply
        yield reply, True

    def _forget(self) -> Iterator[tuple[str, bool]]:
        was_shown = bool(self.shown)
        self._written, self.shown, self._part, self._is_held = "", "", -1, False
        if was_shown:
            yield "", True

    def _go_on(self) -> Iterator[tuple[str, bool]]:
        if self._is_held:
            return
        waiting = self._written[len(self.shown) :]
        if _GUARDED.search(waiting):
            self._is_held = True
            return
        end = self._safe_length(waiting)
        if end:
            self.shown += waiting[:end]
            yield waiting[:end], False

    def _safe_length(self, waiting: str) -> int:
        """Return how much of `waiting` may go out: whole words, whole sentences with figures."""
        digit = next((i for i, letter in enumerate(waiting) if letter.isdigit()), None)
        if digit is None:
            return waiting.rfind(" ") + 1
        ends = [match.end() for match in _SENTENCE_END.finditer(waiting) if match.start() > digit]
        if not ends:
            return 0
        said = self._written[: len(self.shown) + ends[-1]]
        if ungrounded(said, self._known, self._currency):
            self._is_held = True
            return 0
        return ends[-1]
