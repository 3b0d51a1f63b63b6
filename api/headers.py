"""Headers as ASGI passes them: pairs of bytes with lower-case names.

Starlette's `Headers` decodes and searches through several layers; the edge reads ten headers of
every request.
"""

from collections.abc import Iterable

from starlette.types import Message, Scope

Pairs = Iterable[tuple[bytes, bytes]]


def header(scope: Scope, name: bytes) -> str:
    """Return the first value of the request's header `name`, or an empty string."""
    for key, value in scope["headers"]:
        if key == name:
            text: str = value.decode("latin-1")
            return text
    return ""


def sent(message: Message, name: bytes) -> bytes:
    """Return the first value of the answer's header `name`, or nothing."""
    for key, value in message.get("headers", ()):
        if key == name:
            found: bytes = value
            return found
    return b""


def with_headers(message: Message, *more: tuple[bytes, bytes], absent: Pairs = ()) -> Message:
    """Return `message` with `more` headers, and those of `absent` whose names it lacks.

    A copy: what an answer is made of may be shared by all that are sent.
    """
    headers = [*message.get("headers", ()), *more]
    names = {name for name, _ in headers}
    headers += [pair for pair in absent if pair[0] not in names]
    return {**message, "headers": headers}
