"""An HTTP/1.1 client that costs less than the server it measures.

Keep-alive connections over a Unix socket or TCP, one request at a time on each, whole answers with
a length. That is all a closed loop needs; httpx would use several times the server's own CPU.
"""

import asyncio
from collections.abc import Mapping
from typing import Any, Final, cast

import orjson

ANSWER_TIMEOUT_S: Final = 60.0
# Servers close a connection that rests for five seconds; a request could just miss that.
IDLE_MAX_S: Final = 2.0
_END_OF_HEAD: Final = b"\r\n\r\n"
_LENGTH: Final = b"\r\ncontent-length:"
_EMPTY_STATUSES: Final = frozenset({204, 304})


class _Connection(asyncio.Protocol):
    """One connection; `ask` sends a request and waits for the whole answer."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._buffer = bytearray()
        self._answer: asyncio.Future[tuple[int, bytes]] | None = None
        self._body_at = 0
        self._ends_at = -1
        self.is_open = False
        self.idle_since = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is one, and no subclass.
        self.is_open = True

    def connection_lost(self, exc: Exception | None) -> None:
        self.fail(exc or ConnectionError("closed before it answered"))

    async def ask(self, request: bytes) -> tuple[int, bytes]:
        assert self._transport is not None
        self._answer = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        return await self._answer

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        if self._ends_at < 0:
            head_ends_at = self._buffer.find(_END_OF_HEAD)
            if head_ends_at < 0:
                return
            length = self._length(head_ends_at)
            if length is None:
                self.fail(ConnectionError("an answer without a length"))
                return
            self._body_at = head_ends_at + len(_END_OF_HEAD)
            self._ends_at = self._body_at + length
        if len(self._buffer) < self._ends_at:
            return
        answer, status = self._answer, int(self._buffer[9:12])
        body = bytes(self._buffer[self._body_at : self._ends_at])
        del self._buffer[: self._ends_at]
        self._ends_at = -1
        if answer is not None and not answer.done():
            answer.set_result((status, body))

    def _length(self, head_ends_at: int) -> int | None:
        head = bytes(self._buffer[:head_ends_at]).lower()
        at = head.find(_LENGTH)
        if at >= 0:
            return int(head[at + len(_LENGTH) :].partition(b"\r\n")[0])
        return 0 if int(head[9:12]) in _EMPTY_STATUSES else None

    def fail(self, error: Exception) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(error)
        self.close()

    def close(self) -> None:
        self.is_open = False
        if self._transport is not None:
            self._transport.close()


class Client:
    """As many connections as there are requests at the same time, kept open between them."""

    def __init__(self, address: str, headers: Mapping[str, str] | None = None) -> None:
        """Connect on first use.

        Args:
            address: The path of a Unix socket, or `host:port`.
            headers: Sent with every request.
        """
        self._address = address
        self._common = _lines({"Host": "bench", **(headers or {})})
        self._idle: list[_Connection] = []
        self._all: set[_Connection] = set()

    async def request(
        self,
        method: str,
        path: str,
        headers: Mapping[str, str] | None = None,
        json: Any = None,
    ) -> tuple[int, bytes]:
        """Return the status and the body.

        Raises:
            ConnectionError: There is no server, or it closed before the answer was whole.
            TimeoutError: No answer within `ANSWER_TIMEOUT_S`.
        """
        head = f"{method} {path} HTTP/1.1\r\n{self._common}{_lines(headers or {})}"
        body = b"" if json is None else orjson.dumps(json)
        if json is not None:
            head += "Content-Type: application/json\r\n"
        if body or method not in ("GET", "HEAD"):
            head += f"Content-Length: {len(body)}\r\n"
        connection = await self._take()
        try:
            async with asyncio.timeout(ANSWER_TIMEOUT_S):
                answer = await connection.ask(head.encode() + b"\r\n" + body)
        except BaseException:
            connection.close()  # What comes later on it would answer the next request.
            self._all.discard(connection)
            raise
        connection.idle_since = asyncio.get_running_loop().time()
        self._idle.append(connection)
        return answer

    async def aclose(self) -> None:
        for connection in self._all:
            connection.close()
        self._idle.clear()
        self._all.clear()

    async def _take(self) -> _Connection:
        loop = asyncio.get_running_loop()
        while self._idle:
            connection = self._idle.pop()
            if connection.is_open and loop.time() - connection.idle_since <= IDLE_MAX_S:
                return connection
            connection.close()
            self._all.discard(connection)
        try:
            if self._address.startswith("/"):
                _, connection = await loop.create_unix_connection(_Connection, self._address)
            else:
                host, _, port = self._address.rpartition(":")
                _, connection = await loop.create_connection(_Connection, host, int(port))
        except OSError as error:
            raise ConnectionError(f"no server at {self._address}") from error
        self._all.add(connection)
        return connection


def _lines(headers: Mapping[str, str]) -> str:
    return "".join(f"{name}: {value}\r\n" for name, value in headers.items())
