"""The body of a request, read ahead of the endpoint and passed on to it."""

from typing import Final

from starlette.types import Message, Receive

WRITES: Final = frozenset({"POST", "PUT", "PATCH", "DELETE"})


async def read_body(receive: Receive) -> bytes | None:
    """Return the whole body, or None if the client left or sent too much."""
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] != "http.request":
            return None
        body += message.get("body", b"")
        if not message.get("more_body", False):
            return bytes(body)


def replayed(body: bytes, receive: Receive) -> Receive:
    """Return a `receive` that tells a body again that was read, and then what comes after it."""
    is_sent = False

    async def replay() -> Message:
        nonlocal is_sent
        if is_sent:
            return await receive()
        is_sent = True
        return {"type": "http.request", "body": body, "more_body": False}

    return replay
