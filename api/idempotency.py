"""The `Idempotency-Key` header on writes under /v1.

As in https://datatracker.ietf.org/doc/draft-ietf-httpapi-idempotency-key-header/: the same key
with the same request gets the first answer again; with another request, 422; while the first is
still running, 409. `tools.idempotency` says what happens when a process dies in between.

An answer is kept when the operation ran to an outcome: 2xx, 3xx, 402, 404, 409. What was refused
before it could have an effect (400, 401, 403, 422, 429) is free to be sent again under its key,
corrected; 5xx is never kept. Nor is an answer that carries a credential, in a header or under
/v1/auth, or that says `no-store`: replaying it would hand out the credential.
"""

import asyncio
import re
from typing import Final

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.answer import problem, send_answer
from api.body import WRITES, read_body, replayed
from api.caller import deps_of, owner_of_keys
from api.headers import header, sent
from api.problems import AWAY, database_away
from deps.core import Deps
from tools.errors import IdempotencyInFlight, IdempotencyMismatch
from tools.idempotency import (
    BODY_BYTES_MAX,
    KEY_LENGTH_MAX,
    Claim,
    abandon,
    claim,
    current_claim,
    fingerprint,
    finish,
)
from tools.registry import OPERATIONS, Risk

EXEMPT: Final = ("/v1/auth/", "/v1/chat", "/v1/agui", "/v1/vercel-ai")
REQUIRED: Final = tuple(
    re.compile(pattern)
    for pattern in (
        r"/v1/carts/[^/]+/complete",
        r"/v1/orders/[^/]+/cancel",
        r"/v1/orders/[^/]+/(?:refunds|capture)",
        r"/v1/refunds/[^/]+/(?:retry|approve)",
        r"/v1/stock/[^/]+/(adjustments|receipts)",
        r"/v1/inventory/transfers/[^/]+/(?:receive|take-back)",
        r"/v1/credit/grants",
        r"/v1/disputes/[^/]+/evidence",
        r"/v1/gift-cards",
    )
)
_AGENT_CALL: Final = re.compile(r"/v1/agents/([^/]+)/([^/]+)")
_KEPT_REFUSALS: Final = frozenset({402, 404, 409})
_NO_STORE: Final = (b"cache-control", b"no-store")
_CREDENTIAL_HEADERS: Final = frozenset({b"set-cookie", b"x-guest-token"})


def takes_key(method: str, path: str) -> bool:
    """Say whether a key has a meaning: on every write whose answer may be told again."""
    return method in WRITES and path.startswith("/v1/") and not path.startswith(EXEMPT)


def is_required(method: str, path: str) -> bool:
    """Say whether a key must be sent: where a blind repeat could cost money, stock or an order."""
    if method != "POST":
        return False
    if any(pattern.fullmatch(path) for pattern in REQUIRED):
        return True
    call = _AGENT_CALL.fullmatch(path)
    if call is None:
        return False
    operation = OPERATIONS.get(f"{call[1]}.{call[2]}")
    return operation is not None and operation.risk is not Risk.READ


class _Recorder:
    """Keeps an answer back until its key holds it: what was sent is then what is replayed."""

    def __init__(self) -> None:
        self.start: Message | None = None
        self.body = bytearray()
        self.is_complete = False

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.start = message
        elif message["type"] == "http.response.body":
            self.body += message.get("body", b"")
            self.is_complete = not message.get("more_body", False)

    @property
    def is_kept(self) -> bool:
        if self.start is None or not self.is_complete or len(self.body) > BODY_BYTES_MAX:
            return False
        headers = [(name.lower(), value) for name, value in self.start["headers"]]
        if any(name in _CREDENTIAL_HEADERS for name, _ in headers) or _NO_STORE in headers:
            return False
        status = self.start["status"]
        return status < 400 or status in _KEPT_REFUSALS


class IdempotencyMiddleware:
    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not takes_key(scope["method"], scope["path"]):
            await self.app(scope, receive, send)
            return
        key = header(scope, b"idempotency-key")
        if not key:
            if is_required(scope["method"], scope["path"]):
                detail = "Send an Idempotency-Key header: a fresh one, such as a UUID, per intent."
                await problem(400, "idempotency_key_required", detail)(scope, receive, send)
            else:
                await self.app(scope, receive, send)
            return
        key = key.strip('" ')
        if not 1 <= len(key) <= KEY_LENGTH_MAX or not (key.isascii() and key.isprintable()):
            detail = f"Idempotency-Key must be 1 to {KEY_LENGTH_MAX} printable ASCII characters."
            await problem(400, "idempotency_key_invalid", detail)(scope, receive, send)
            return
        try:
            await self._once(key, scope, receive, send)
        except AWAY:  # Nothing was sent yet: an answer waits until its key holds it.
            await database_away()(scope, receive, send)

    async def _once(self, key: str, scope: Scope, receive: Receive, send: Send) -> None:
        body = await read_body(receive)
        if body is None:
            return  # The client left, or sent too much; whoever counted has answered.
        deps = deps_of(scope)
        digest = fingerprint(
            scope["method"], scope["path"], scope.get("query_string", b"").decode("latin-1"), body
        )
        try:
            held = await claim(deps, scope=owner_of_keys(scope), key=key, request_sha256=digest)
        except IdempotencyInFlight as error:
            refusal = problem(409, error.error_code(), str(error), headers={"Retry-After": "1"})
            await refusal(scope, receive, send)
            return
        except IdempotencyMismatch as error:
            await problem(422, error.error_code(), str(error))(scope, receive, send)
            return
        if not isinstance(held, Claim):
            headers = [(b"idempotent-replayed", b"true")]
            if held.content_type:
                headers.append((b"content-type", held.content_type.encode("latin-1")))
            await send_answer(send, held.status_code, headers, held.body)
            return
        recorder = await self._run(deps, held, body, scope, receive)
        if recorder.start is not None:
            await send(recorder.start)
            await send({"type": "http.response.body", "body": bytes(recorder.body)})

    async def _run(
        self, deps: Deps, held: Claim, body: bytes, scope: Scope, receive: Receive
    ) -> _Recorder:
        recorder = _Recorder()
        token = current_claim.set(held)
        try:
            await self.app(scope, replayed(body, receive), recorder.send)
        except BaseException:
            # Also when the request is cancelled: the key must not stay locked by nobody.
            await asyncio.shield(abandon(deps, held))
            raise
        finally:
            current_claim.reset(token)
        if recorder.is_kept:
            assert recorder.start is not None
            content_type = sent(recorder.start, b"content-type").decode("latin-1") or None
            await asyncio.shield(
                finish(
                    deps,
                    held,
                    status_code=recorder.start["status"],
                    body=bytes(recorder.body),
                    content_type=content_type,
                )
            )
        else:
            await asyncio.shield(abandon(deps, held))
        return recorder
