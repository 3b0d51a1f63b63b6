"""A model that speaks when it is let: it routes everything to one desk and says given words."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest
from pydantic_ai.messages import ModelMessage, ModelResponse, TextPart, ToolCallPart
from pydantic_ai.models.function import AgentInfo, FunctionModel

from api.adapters import native, vercel


class Tap:
    """Holds back each word until `turn` is called, or until it is opened."""

    def __init__(self) -> None:
        self._permits = asyncio.Semaphore(0)
        self._is_open = False
        self.asked = asyncio.Event()

    def turn(self, words: int = 1) -> None:
        for _ in range(words):
            self._permits.release()

    def open(self) -> None:
        self._is_open = True
        self.turn(1000)

    async def wait(self) -> None:
        self.asked.set()
        if not self._is_open:
            await self._permits.acquire()


def saying(words: Sequence[str], tap: Tap | None = None) -> FunctionModel:
    def route(messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
        if info.output_tools:
            wish = {"domain": "order", "text": "talk"}
            arguments = {"wishes": [wish], "reason": "ok"}
            return ModelResponse(parts=[ToolCallPart(info.output_tools[0].name, arguments)])
        return ModelResponse(parts=[TextPart("never asked without a stream")])

    async def speak(messages: list[ModelMessage], info: AgentInfo) -> AsyncIterator[str]:
        for word in words:
            if tap is not None:
                await tap.wait()
            yield word

    return FunctionModel(route, stream_function=speak)


def resumptions(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Return the answers that pages found under way to go on with, as they are found."""
    found: list[Any] = []

    async def under_way(*args: Any, **named: Any) -> Any:
        begun = await native.under_way(*args, **named)
        if begun is not None:
            found.append(begun)
        return begun

    monkeypatch.setattr(vercel, "under_way", under_way)
    return found
