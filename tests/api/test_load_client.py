"""The benchmarks' HTTP client against a server that cuts its answers where it likes."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from pathlib import Path

import pytest

import bench.client
from bench.client import Client

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"


class Server:
    """Gives each request the next answer, piece by piece; an empty piece closes."""

    def __init__(self) -> None:
        self.answers: list[Sequence[bytes]] = []
        self.requests: list[bytes] = []
        self.connections = 0

    async def talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        while (head := await reader.read(65_536)) and self.answers:
            self.requests.append(head)
            for piece in self.answers.pop(0):
                if not piece:
                    writer.close()
                    return
                writer.write(piece)
                await writer.drain()
                await asyncio.sleep(0)
        writer.close()


@pytest.fixture
async def server(tmp_path: Path) -> AsyncGenerator[tuple[Server, Client], None]:
    talking = Server()
    listening = await asyncio.start_unix_server(talking.talk, tmp_path / "s")
    client = Client(str(tmp_path / "s"), {"X-Guest-Token": "g"})
    yield talking, client
    await client.aclose()
    listening.close()


async def test_answers_in_pieces_on_one_connection(server: tuple[Server, Client]) -> None:
    talking, client = server
    talking.answers = [[OK], [OK[:9], OK[9:30], OK[30:42], OK[42:]], [b"HTTP/1.1 204 No\r\n\r\n"]]
    assert await client.request("GET", "/a") == (200, b"hello")
    assert await client.request("POST", "/b", {"X-A": "1"}, {"n": 1}) == (200, b"hello")
    assert await client.request("DELETE", "/c") == (204, b"")
    assert talking.connections == 1
    assert talking.requests[0] == b"GET /a HTTP/1.1\r\nHost: bench\r\nX-Guest-Token: g\r\n\r\n"
    assert talking.requests[1].endswith(b'Content-Length: 7\r\n\r\n{"n":1}')
    assert b"X-A: 1\r\n" in talking.requests[1]
    assert b"Content-Length: 0\r\n" in talking.requests[2]


async def test_a_connection_that_rested_long_is_not_trusted(
    server: tuple[Server, Client], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bench.client, "IDLE_MAX_S", -1.0)
    talking, client = server
    talking.answers = [[OK], [OK]]
    for _ in range(2):
        assert await client.request("GET", "/a") == (200, b"hello")
    assert talking.connections == 2


async def test_requests_at_once_have_connections_of_their_own(
    server: tuple[Server, Client],
) -> None:
    talking, client = server
    talking.answers = [[OK]] * 20
    answers = await asyncio.gather(*(client.request("GET", "/") for _ in range(20)))
    assert answers == [(200, b"hello")] * 20
    assert talking.connections == 20


@pytest.mark.parametrize("pieces", [[b"HTTP/1.1 200 OK\r\n", b""], [b"HTTP/1.1 200 OK\r\n\r\n"]])
async def test_half_an_answer_is_an_error_and_the_next_connects_anew(
    server: tuple[Server, Client], pieces: list[bytes]
) -> None:
    talking, client = server
    talking.answers = [pieces, [OK]]
    with pytest.raises(ConnectionError):
        await client.request("GET", "/")
    assert await client.request("GET", "/") == (200, b"hello")
    assert talking.connections == 2


async def test_no_server(tmp_path: Path) -> None:
    with pytest.raises(ConnectionError, match="no server"):
        await Client(str(tmp_path / "none")).request("GET", "/")
