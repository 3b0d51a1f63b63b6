"""A wire to the database that can be cut and mended, as servers and networks go away."""

import asyncio
import shutil
import tempfile
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from sqlalchemy import make_url

_READY = b"Z\x00\x00\x00\x05I"
_SOCKET = ".s.PGSQL.5432"


class Wire:
    """Hands bytes on between clients of `url` and the server at `address`."""

    def __init__(self, address: str, directory: Path) -> None:
        parsed = make_url(address)
        self._server_socket = Path(str(parsed.query["host"])) / _SOCKET
        self._directory = directory
        self.url = parsed.set(query={"host": str(directory)}).render_as_string(hide_password=False)
        self._listener: asyncio.Server | None = None
        self._open: set[asyncio.StreamWriter] = set()
        self._being_made: set[asyncio.StreamWriter] = set()

    async def mend(self) -> None:
        self._listener = await asyncio.start_unix_server(self._serve, self._directory / _SOCKET)

    async def cut(self) -> None:
        """Break every connection, and refuse new ones until it is mended."""
        # asyncpg waits for its whole timeout when a connection breaks while it is being made.
        while self._being_made:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        if self._listener is not None:
            self._listener.close()
            (self._directory / _SOCKET).unlink()
            self._listener = None
        for writer in self._open:
            writer.transport.abort()
        await asyncio.sleep(0)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._open.add(writer)
        self._being_made.add(writer)
        there = await asyncio.open_unix_connection(self._server_socket)
        self._open.add(there[1])
        await asyncio.gather(_carry(reader, there[1]), self._answer(there[0], writer))
        self._open -= {writer, there[1]}

    async def _answer(self, source: asyncio.StreamReader, client: asyncio.StreamWriter) -> None:
        """Hand on what the server says; ready for queries, it has made the connection."""
        try:
            with suppress(ConnectionError):
                said = b""
                while _READY not in said and (data := await source.read(65_536)):
                    said += data
                    client.write(data)
                    await client.drain()
        finally:
            self._being_made.discard(client)
        await _carry(source, client)


async def _carry(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
    with suppress(ConnectionError):
        while data := await source.read(65_536):
            target.write(data)
            await target.drain()
    target.close()


@asynccontextmanager
async def wire_to(address: str) -> AsyncGenerator[Wire, None]:
    directory = Path(tempfile.mkdtemp(prefix="wire-", dir="/tmp"))  # A socket's path is short.
    wire = Wire(address, directory)
    await wire.mend()
    try:
        yield wire
    finally:
        await wire.cut()
        shutil.rmtree(directory)
