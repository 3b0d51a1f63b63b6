"""Text that the database cannot keep, refused at the edge by the name of the field that holds it.

PostgreSQL's text is made of any character but NUL, which JSON spells `\\u0000` and an address
`%00`, and the halves of surrogate pairs, which JSON can spell alone.
"""

import json
import re
from typing import Any, Final
from urllib.parse import parse_qsl

from starlette.types import ASGIApp, Receive, Scope, Send

from api.answer import problem
from api.body import WRITES, read_body, replayed
from tools.errors import InvalidInput

# Of what others' chat clients remember, only the last message counts, and what providers sign is
# kept byte for byte.
_FREE: Final = ("/v1/agui", "/v1/vercel-ai", "/v1/webhooks/")
_SUSPICIOUS: Final = re.compile(rb"\\u(?:0000|[dD][89a-fA-F])")
_UNSTORABLE: Final = re.compile("[\0\ud800-\udfff]")


class TextMiddleware:
    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        field = _field_of_address(scope)
        if field is None and _has_body(scope):
            body = await read_body(receive)
            if body is None:
                return  # The client left, or sent too much; whoever counted has answered.
            field = _field_of_body(body)
            receive = replayed(body, receive)
        if field is None:
            await self.app(scope, receive, send)
            return
        detail = f"{field}: Text must not contain NUL or half a surrogate pair."
        refusal = problem(422, InvalidInput.error_code(), detail, field=field)
        await refusal(scope, receive, send)


def _has_body(scope: Scope) -> bool:
    path = scope["path"]
    return scope["method"] in WRITES and path.startswith("/v1/") and not path.startswith(_FREE)


def _field_of_address(scope: Scope) -> str | None:
    if "\0" in scope["path"]:
        return "path"
    query = scope.get("query_string", b"")
    if b"%00" not in query:
        return None
    pairs = parse_qsl(query.decode("latin-1"), keep_blank_values=True)
    return next((name for name, value in pairs if "\0" in value), "query")


def _field_of_body(body: bytes) -> str | None:
    if _SUSPICIOUS.search(body) is None:
        return None
    try:
        todo: list[tuple[str, Any]] = [("", json.loads(body))]
    except (ValueError, RecursionError):
        return None  # The endpoint says what is wrong with it.
    while todo:
        field, value = todo.pop()
        if isinstance(value, str) and _UNSTORABLE.search(value):
            return field or "body"
        if isinstance(value, dict):
            if any(_UNSTORABLE.search(name) for name in value):
                return field or "body"
            todo += [(f"{field}.{name}".lstrip("."), item) for name, item in value.items()]
        elif isinstance(value, list):
            todo += [(f"{field}.{at}".lstrip("."), item) for at, item in enumerate(value)]
    return None
