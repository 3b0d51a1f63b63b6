"""What the provider servers share: running beside a test, and misbehaving when told to."""

import asyncio
import contextlib
import socket
import threading
from collections import deque
from collections.abc import Generator
from dataclasses import dataclass, field
from enum import StrEnum

import uvicorn
from starlette.applications import Starlette
from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send


class Lost(Response):
    """An answer that is cut off after its head, as by a network that goes away."""

    def __init__(self) -> None:
        super().__init__(b"never sent")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})


class Fault(StrEnum):
    """What the next write suffers."""

    TIMEOUT_BEFORE = "timeout_before"  # Nothing happens, and no answer comes.
    TIMEOUT_AFTER = "timeout_after"  # It happens, and no answer comes.
    ERROR_BEFORE = "error_before"  # Nothing happens; 500.
    ERROR_AFTER = "error_after"  # It happens; 500.
    RATE_LIMIT = "rate_limit"  # Nothing happens; 429.
    SLOW = "slow"  # It happens, late.
    WRONG_AMOUNT = "wrong_amount"  # It happens with one minor unit more.


@dataclass
class Faults:
    """Faults for the next writes, first come first; `None` lets one pass unharmed."""

    script: deque[Fault | None] = field(default_factory=deque)
    slow_s: float = 0.3

    def take(self) -> Fault | None:
        return self.script.popleft() if self.script else None

    async def refuse(self, fault: Fault | None) -> Response | None:
        if fault is Fault.TIMEOUT_BEFORE:
            return Lost()
        if fault is Fault.ERROR_BEFORE:
            return JSONResponse({"error": {"type": "api_error", "message": "boom"}}, 500)
        if fault is Fault.RATE_LIMIT:
            error = {"type": "invalid_request_error", "code": "rate_limit"}
            return JSONResponse({"error": error}, 429)
        return None

    async def delay(self, fault: Fault | None) -> None:
        if fault is Fault.SLOW:
            await asyncio.sleep(self.slow_s)

    async def after(self, fault: Fault | None, answer: Response) -> Response:
        if fault is Fault.TIMEOUT_AFTER:
            return Lost()
        if fault is Fault.ERROR_AFTER:
            return JSONResponse({"error": {"type": "api_error", "message": "boom"}}, 500)
        return answer


@contextlib.contextmanager
def nowhere() -> Generator[str, None, None]:
    """Yield an address at which nobody listens, and nobody else can begin to."""
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{silent.getsockname()[1]}"


@contextlib.contextmanager
def running(app: Starlette) -> Generator[str, None, None]:
    """Serve `app` from a thread of its own, whatever the test's loop does; yield its address."""
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    config = uvicorn.Config(app, log_level="critical", lifespan="off", loop="asyncio")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, args=([listener],), daemon=True)
    thread.start()
    started = threading.Event()
    while not server.started and thread.is_alive():
        started.wait(0.01)
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        server.force_exit = True
        thread.join(10)
