"""A server on 127.0.0.1 that speaks the OpenAI chat protocol, told what to answer by a script.

https://platform.openai.com/docs/api-reference/chat: completions, plain and streamed.
"""

import asyncio
import json
from collections import deque
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

_ERROR = b'{"error": {"message": "out of order"}}'


@dataclass
class Answer:
    """One scripted response: words, a tool call, an error status, or silence."""

    text: str | None = None
    tool: str | None = None
    arguments: dict[str, Any] = field(default_factory=dict)
    status: int = 200
    silent: bool = False


@dataclass
class OpenAIServer:
    """Answers requests for a model from that model's own script, first come first."""

    scripts: dict[str, deque[Answer]] = field(default_factory=dict)
    requests: list[dict[str, Any]] = field(default_factory=list)
    url: str = ""

    def script(self, model: str, *answers: Answer) -> None:
        self.scripts[model] = deque(answers)

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            length = next(
                int(line.split(b":")[1])
                for line in head.split(b"\r\n")
                if line.lower().startswith(b"content-length")
            )
            body = json.loads(await reader.readexactly(length))
            self.requests.append(body)
            answer = self.scripts[body["model"]].popleft()
            if answer.silent:
                await reader.read()  # Until the client gives up and closes.
            elif answer.status != 200:
                self._send(
                    writer, answer.status, "application/json", b'{"error": {"message": "x"}}'
                )
            elif body.get("stream"):
                self._send(writer, 200, "text/event-stream", _stream(body["model"], answer))
            else:
                self._send(writer, 200, "application/json", _whole(body["model"], answer))
            await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            return  # The client went away, as the timeout test has it do.
        finally:
            writer.close()

    @staticmethod
    def _send(writer: asyncio.StreamWriter, status: int, kind: str, body: bytes) -> None:
        writer.write(
            f"HTTP/1.1 {status} X\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n"
            "Connection: close\r\n\r\n".encode()
            + body
        )


def _message(answer: Answer, *, streamed: bool) -> dict[str, Any]:
    if answer.tool is None:
        return {"role": "assistant", "content": answer.text}
    function = {"name": answer.tool, "arguments": json.dumps(answer.arguments)}
    call: dict[str, Any] = {"id": "call_1", "type": "function", "function": function}
    if streamed:
        call["index"] = 0
    return {"role": "assistant", "content": None, "tool_calls": [call]}


def _usage() -> dict[str, int]:
    return {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15}


def _whole(model: str, answer: Answer) -> bytes:
    finish = "tool_calls" if answer.tool else "stop"
    choice = {"index": 0, "message": _message(answer, streamed=False), "finish_reason": finish}
    return json.dumps(
        {
            "id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": model,
            "choices": [choice], "usage": _usage(),
        }
    ).encode()  # fmt: skip


def _stream(model: str, answer: Answer) -> bytes:
    frame = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": model}
    if answer.tool is None:
        pieces = [{"role": "assistant", "content": w} for w in (answer.text or "").split(" ")]
        deltas = [piece | {"content": piece["content"] + " "} for piece in pieces]
    else:
        deltas = [_message(answer, streamed=True)]
    finish = "tool_calls" if answer.tool else "stop"
    chunks: list[dict[str, Any]] = [
        frame | {"choices": [{"index": 0, "delta": delta, "finish_reason": None}]}
        for delta in deltas
    ]
    chunks.append(frame | {"choices": [{"index": 0, "delta": {}, "finish_reason": finish}]})
    chunks.append(frame | {"choices": [], "usage": _usage()})
    lines = [f"data: {json.dumps(chunk)}\n\n" for chunk in chunks]
    return ("".join(lines) + "data: [DONE]\n\n").encode()


@asynccontextmanager
async def serve() -> AsyncGenerator[OpenAIServer, None]:
    fake = OpenAIServer()
    server = await asyncio.start_server(fake.handle, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    fake.url = f"http://127.0.0.1:{port}/v1"
    try:
        yield fake
    finally:
        server.close()
