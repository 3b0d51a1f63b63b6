"""Chat: what a turn costs without the model's own time, and 200 streams at once.

Example: ./shopkeeper bench chat --json

A turn is measured from the message to its last committed event, one tool call in between, with a
model that answers at once and with the offline planner; `grown` goes on in one conversation, so
that its history counts. `streams` are real connections to a real server in this process: each must
end with `done`, and its events must be numbered without a gap.
"""

import asyncio
import resource
import secrets
import statistics
import sys
import time
from collections.abc import AsyncIterator
from typing import Any, Final
from urllib.parse import urlsplit
from uuid import UUID

import orjson
from pydantic_ai.messages import ModelMessage, ModelRequest, ModelResponse, ToolCallPart
from pydantic_ai.messages import ToolReturnPart as Returned
from pydantic_ai.models import Model
from pydantic_ai.models.function import AgentInfo, DeltaToolCall, DeltaToolCalls, FunctionModel

from agents.runner import Runner
from api import serving
from deps.core import Deps
from evals import world

TURNS: Final = 60
WARM: Final = 6
GROWN: Final = 20
STREAMS: Final = 200
STREAM_S: Final = 120.0
AIM_P95_MS: Final = 30.0


def instant() -> Model:
    """A model without latency: one desk, one search, a few words."""

    async def route(messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
        arguments = {"wishes": [{"domain": "product", "text": "mugs"}], "reason": "ok"}
        return ModelResponse(parts=[ToolCallPart(info.output_tools[0].name, arguments)])

    async def act(
        messages: list[ModelMessage], info: AgentInfo
    ) -> AsyncIterator[str | DeltaToolCalls]:
        last = messages[-1]
        if isinstance(last, ModelRequest) and any(isinstance(p, Returned) for p in last.parts):
            for word in ["Here", "are", "the", "mugs", "we", "have", "today", "for", "you."]:
                yield word + " "
        else:
            yield {0: DeltaToolCall(name="product_search", json_args='{"query": "mug"}')}

    return FunctionModel(route, stream_function=act)


async def main(deps: Deps, *, as_json: bool = False) -> int:
    """Measure turns and streams. Return 1 when a stream did not end well."""
    await world.furnish(deps)
    turns = {
        "instant model": await _turns(deps, instant(), grows=False),
        "offline planner": await _turns(deps, None, grows=False),
        "instant model, grown": await _turns(deps, instant(), grows=True),
    }
    streams = await _streams(deps)
    sound = streams["finished"] == STREAMS and streams["gaps"] == 0
    result = {"turns": turns, "streams": streams, "aim_p95_ms": AIM_P95_MS, "sound": sound}
    sys.stdout.write(orjson.dumps(result).decode() + "\n" if as_json else _lines(result))
    return 0 if sound else 1


async def _turns(deps: Deps, model: Model | None, *, grows: bool) -> dict[str, float]:
    runner = Runner(deps)
    guest = (await world.person(deps, "guest")).deps
    conversation: UUID | None = None
    taken, cpu = [], []
    try:
        for i in range(TURNS + WARM):
            if not grows or i % GROWN == 0:
                conversation = None
            began, used = time.perf_counter(), time.process_time()
            begun = await runner.start(
                guest, conversation, "show me mugs", channel="bench", model=model
            )
            conversation = begun.conversation_id
            names = [
                event.name
                async for event in runner.follow(
                    guest, conversation, begun.first_event - 1, turn_id=begun.id
                )
                if event is not None
            ]
            assert names[-1] == "done", names
            assert "card" in names, names
            if i >= WARM:
                taken.append((time.perf_counter() - began) * 1_000)
                cpu.append((time.process_time() - used) * 1_000)
    finally:
        await runner.aclose()
    cuts = statistics.quantiles(taken, n=100)
    return {
        "p50_ms": round(cuts[49], 1), "p95_ms": round(cuts[94], 1), "p99_ms": round(cuts[98], 1),
        "cpu_ms": round(statistics.median(cpu), 1),
    }  # fmt: skip


async def _streams(deps: Deps) -> dict[str, Any]:
    before = _rss_mib()
    listener = serving.bind("127.0.0.1", 0)
    free = deps.settings.model_copy(update={"rate_limits": False})
    async with serving.web(free, deps, listener):
        place = urlsplit(serving.address_of(listener))
        assert place.hostname is not None
        assert place.port is not None
        began = time.perf_counter()
        async with asyncio.timeout(STREAM_S):
            ends = await asyncio.gather(
                *(_listen(place.hostname, place.port) for _ in range(STREAMS))
            )
        elapsed = time.perf_counter() - began
    finished = [numbers for numbers, name in ends if name == "done"]
    return {
        "streams": STREAMS, "finished": len(finished),
        "gaps": sum(numbers != list(range(1, len(numbers) + 1)) for numbers in finished),
        "events": sum(map(len, finished)), "seconds": round(elapsed, 2),
        "rss_before_mib": before, "rss_peak_mib": _rss_mib(),
    }  # fmt: skip


async def _listen(host: str, port: int) -> tuple[list[int], str]:
    """Say something as a fresh guest; return the numbers of the events and the last one's name."""
    reader, writer = await asyncio.open_connection(host, port)
    body = b'{"text": "show me mugs"}'
    writer.write(
        b"POST /v1/chat HTTP/1.1\r\nHost: bench\r\nContent-Type: application/json\r\n"
        b"Connection: close\r\nX-Guest-Token: %s\r\nContent-Length: %d\r\n\r\n%s"
        % (secrets.token_hex(20).encode(), len(body), body)
    )
    numbers, name = [], ""
    while line := await reader.readline():
        if line.startswith(b"id: "):
            numbers.append(int(line[4:]))
        elif line.startswith(b"event: "):
            name = line[7:].decode().strip()
    writer.close()
    return numbers, name


def _rss_mib() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


def _lines(result: dict[str, Any]) -> str:
    lines = [f"{'one tool call':22} {'p50':>8} {'p95':>8} {'p99':>8} {'CPU':>8}  ms"]
    lines += [
        f"{name:22} {t['p50_ms']:8} {t['p95_ms']:8} {t['p99_ms']:8} {t['cpu_ms']:8}"
        for name, t in result["turns"].items()
    ]
    streams = result["streams"]
    lines.append(
        f"{streams['finished']} of {streams['streams']} streams ended well in "
        f"{streams['seconds']} s: {streams['events']} events, {streams['gaps']} with a gap, "
        f"{streams['rss_before_mib']} to {streams['rss_peak_mib']} MiB at most"
    )
    return "\n".join(lines) + "\n"
