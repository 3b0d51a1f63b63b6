"""What every request passes on its way in and out, outermost first.

    Cors         pages of other sites, if settings name any
    Edge         request id, trace, security headers, metrics, access log, the last resort: 500
    Bounds       body size (413) and time (504)
    RateLimits   429
    Text         `api.text`
    Idempotency  `api.idempotency`
    Etags        304 for what the caller has already

Plain ASGI: Starlette's BaseHTTPMiddleware costs a task a request and breaks context variables.
"""

import asyncio
import logging
import re
from time import perf_counter
from typing import Final

from fastapi import FastAPI
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api import routing
from api.answer import problem
from api.body import WRITES
from api.caller import address, caller, deps_of, owner_of_limits
from api.headers import header, sent, with_headers
from api.idempotency import IdempotencyMiddleware
from api.metrics import IN_FLIGHT, count_request
from api.routing import route_template
from api.text import TextMiddleware
from deps.cache import etag_of
from deps.ratelimit import EndpointClass, RateLimiter, Verdict
from deps.settings import Settings
from deps.telemetry import begin_trace

log = logging.getLogger("shopkeeper.access")
errors = logging.getLogger("shopkeeper.error")

STREAMS: Final = ("/v1/chat", "/v1/feed", "/v1/agui", "/v1/vercel-ai")
QUIET: Final = ("/health/", "/metrics", "/static/")
# Read so often that their traces would be most of the bill and none of the news.
HOT: Final = ("/v1/products", "/v1/categories")
ETAG_BODY_BYTES_MAX: Final = 1_048_576
_REQUEST_ID: Final = re.compile(r"[A-Za-z0-9._-]{8,64}")
_METHODS: Final = frozenset({"GET", "HEAD", "OPTIONS"}) | WRITES

_SECURITY_HEADERS: Final = (
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"strict-origin-when-cross-origin"),
    (b"x-frame-options", b"DENY"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"permissions-policy", b"camera=(), microphone=(), geolocation=()"),
    (
        b"content-security-policy",
        b"default-src 'self'; img-src 'self' data:; object-src 'none'; base-uri 'self'; "
        b"form-action 'self'; frame-ancestors 'none'",
    ),
)
_HTTPS_ONLY: Final = (b"strict-transport-security", b"max-age=31536000; includeSubDomains")
_NO_STORE: Final = (b"cache-control", b"no-store")
# Stored by the caller alone, and asked about every time.
_REVALIDATE: Final = (b"cache-control", b"private, no-cache")
_VARY: Final = (b"vary", b"Authorization, Cookie, X-Guest-Token")

_CROSS_ORIGIN_REQUEST: Final = (
    "Authorization", "Content-Type", "Idempotency-Key", "If-None-Match", "Last-Event-ID",
    "Traceparent", "User-Agent", "X-Guest-Token", "X-Request-ID",
)  # fmt: skip
_CROSS_ORIGIN_ANSWER: Final = ("ETag", "Idempotent-Replayed", "Retry-After", "X-Request-ID")


def is_stream(path: str) -> bool:
    return path in STREAMS or (path.startswith(STREAMS) and path.endswith(("/events", "/stream")))


class EdgeMiddleware:
    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        began, status, path = perf_counter(), 0, scope["path"]
        method = scope["method"] if scope["method"] in _METHODS else "OTHER"
        trace = begin_trace(method, header(scope, b"traceparent"), record=_is_traced(scope))
        given = header(scope, b"x-request-id")
        request_id = given if _REQUEST_ID.fullmatch(given) else trace.id
        scope.setdefault("state", {})["request_id"] = request_id

        async def send_dressed(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message = _dress(message, scope, request_id)
            await send(message)

        IN_FLIGHT.inc()
        with trace:
            try:
                await self.app(scope, receive, send_dressed)
            except Exception:
                # The edge: a bug ends here, as one log line with a trace and an answer without.
                errors.exception("unhandled error", extra={"request_id": request_id})
                if status:
                    raise  # Half an answer is out; only closing the connection tells the client.
                refusal = problem(500, "internal_error", "Something went wrong on our side.")
                await refusal(scope, receive, send_dressed)
            finally:
                IN_FLIGHT.dec()
                elapsed_s, route = perf_counter() - began, route_template(scope)
                answered = status or 499  # No answer at all is a client that left.
                timed_s = None if is_stream(path) else elapsed_s
                count_request(method, route, answered, timed_s)
                trace.describe(
                    f"{method} {route}",
                    **{"http.route": route, "http.response.status_code": answered},
                )
                if not path.startswith(QUIET):
                    _log_access(scope, method, route, answered, elapsed_s, request_id)


def _is_traced(scope: Scope) -> bool:
    path = scope["path"]
    return not path.startswith(QUIET) and not (scope["method"] == "GET" and path.startswith(HOT))


def _dress(message: Message, scope: Scope, request_id: str) -> Message:
    absent: tuple[tuple[bytes, bytes], ...] = _SECURITY_HEADERS
    if scope.get("scheme") == "https":
        absent = (*absent, _HTTPS_ONLY)
    if scope["path"].startswith("/v1/"):
        absent = (*absent, _NO_STORE)
    return with_headers(message, (b"x-request-id", request_id.encode()), absent=absent)


def _log_access(
    scope: Scope, method: str, route: str, status: int, elapsed_s: float, request_id: str
) -> None:
    # The template and not the path, no query, no address: neither holds what a person typed.
    log.info(
        "request",
        extra={
            "method": method,
            "route": route,
            "status": status,
            "elapsed_ms": round(elapsed_s * 1_000, 1),
            "request_id": request_id,
            "role": caller(scope).label,
        },
    )


class BoundsMiddleware:
    """Bounds what one request may send and how long it may take. Streams take as long as talk."""

    def __init__(self, app: ASGIApp, *, body_bytes_max: int, timeout_s: float) -> None:
        self.app = app
        self.body_bytes_max = body_bytes_max
        self.timeout_s = timeout_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        length = header(scope, b"content-length") or "0"
        if not length.isdecimal() or int(length) > self.body_bytes_max:
            await self._too_large(scope, receive, send)
            return
        received, is_exceeded, is_started = 0, False, False

        async def receive_counted() -> Message:
            nonlocal received, is_exceeded
            message = await receive()
            if message["type"] == "http.request":
                received += len(message.get("body", b""))
                if received > self.body_bytes_max:
                    # A chunked body names no length. To the application the client has left;
                    # what it answers to that is replaced below.
                    is_exceeded = True
                    return {"type": "http.disconnect"}
            return message

        async def send_unless_exceeded(message: Message) -> None:
            nonlocal is_started
            if is_exceeded and not is_started:
                return
            is_started = True
            await send(message)

        timeout_s = None if is_stream(scope["path"]) else self.timeout_s
        try:
            async with asyncio.timeout(timeout_s) as deadline:
                await self.app(scope, receive_counted, send_unless_exceeded)
        except TimeoutError:
            if not deadline.expired() or is_started:
                raise
            detail = "This took too long. Whether it happened is unknown: ask before repeating."
            await problem(504, "timeout", detail)(scope, receive, send)
        except ClientDisconnect:
            if not is_exceeded or is_started:
                raise
        if is_exceeded and not is_started:
            await self._too_large(scope, receive, send)

    async def _too_large(self, scope: Scope, receive: Receive, send: Send) -> None:
        detail = f"A body may have {self.body_bytes_max} bytes at most."
        await problem(413, "body_too_large", detail)(scope, receive, send)


def endpoint_class(method: str, path: str) -> EndpointClass | None:
    """Return what a request counts as, or None for what is not limited: pages and health."""
    if not path.startswith("/v1/") or method == "OPTIONS":
        return None
    if method == "POST" and path in ("/v1/auth/login", "/v1/auth/register"):
        return EndpointClass.AUTH
    if method == "POST" and path in ("/v1/chat", "/v1/agui", "/v1/vercel-ai"):
        return EndpointClass.CHAT
    return EndpointClass.WRITE if method in WRITES else EndpointClass.READ


class RateLimitMiddleware:
    def __init__(self, app: ASGIApp, limiter: RateLimiter | None = None) -> None:
        self.app = app
        self.limiter = limiter

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        counted = (
            endpoint_class(scope["method"], scope["path"]) if scope["type"] == "http" else None
        )
        if counted is None:
            await self.app(scope, receive, send)
            return
        if self.limiter is None:
            self.limiter = RateLimiter(deps_of(scope).cache)
        # Password guesses count by address, signed in or not.
        is_auth = counted is EndpointClass.AUTH
        owner = f"ip:{address(scope)}" if is_auth else owner_of_limits(scope)
        verdict = await self.limiter.take(counted, owner)
        if not verdict.allowed:
            headers = _limit_headers(counted, verdict)
            headers["Retry-After"] = str(verdict.retry_after_s)
            detail = f"Wait {verdict.retry_after_s} s and try again."
            await problem(429, "too_many_requests", detail, headers=headers)(scope, receive, send)
            return

        async def send_counted(message: Message) -> None:
            if message["type"] == "http.response.start":
                pairs = _limit_headers(counted, verdict).items()
                message = with_headers(
                    message, *((name.lower().encode(), value.encode()) for name, value in pairs)
                )
            await send(message)

        await self.app(scope, receive, send_counted)


def _limit_headers(counted: EndpointClass, verdict: Verdict) -> dict[str, str]:
    """As https://datatracker.ietf.org/doc/draft-ietf-httpapi-ratelimit-headers/ writes them."""
    limit, window_s = verdict.limit.limit, verdict.limit.window_s
    return {
        "RateLimit-Policy": f'"{counted}";q={limit};w={window_s}',
        "RateLimit": f'"{counted}";r={verdict.remaining};t={verdict.retry_after_s}',
    }


class EtagMiddleware:
    """Gives JSON answers of GET a weak validator, unless they bring one, and answers 304 to
    callers who have the same already."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if (
            scope["type"] != "http"
            or scope["method"] != "GET"
            or not scope["path"].startswith("/v1/")
            or is_stream(scope["path"])
        ):
            await self.app(scope, receive, send)
            return
        start: Message | None = None
        body = b""

        async def send_tagged(message: Message) -> None:
            nonlocal start, body
            if message["type"] == "http.response.start":
                if _is_taggable(message):
                    start = message
                else:
                    await send(message)
                return
            if start is None or message["type"] != "http.response.body":
                await send(message)
                return
            body += message.get("body", b"")
            if message.get("more_body", False) and len(body) <= ETAG_BODY_BYTES_MAX:
                return
            held, start = start, None
            if message.get("more_body", False):
                await send(held)
                await send({**message, "body": body})
                return
            await _send_with_etag(scope, held, body, send)

        await self.app(scope, receive, send_tagged)


def _is_taggable(start: Message) -> bool:
    return (
        start["status"] == 200
        and sent(start, b"content-type").startswith(b"application/json")
        and not sent(start, b"set-cookie")
    )


async def _send_with_etag(scope: Scope, start: Message, body: bytes, send: Send) -> None:
    etag = sent(start, b"etag")
    if not etag:
        etag = etag_of(body).encode()
        start = with_headers(start, (b"etag", etag))
    start = with_headers(start, _VARY, absent=(_REVALIDATE,))
    if _is_known(header(scope, b"if-none-match"), etag.decode("latin-1")):
        of_body = (b"content-length", b"content-type")
        headers = [pair for pair in start["headers"] if pair[0] not in of_body]
        await send({**start, "status": 304, "headers": headers})
        await send({"type": "http.response.body", "body": b""})
        return
    await send(start)
    await send({"type": "http.response.body", "body": body})


def _is_known(candidates: str, etag: str) -> bool:
    if not candidates:
        return False
    tags = {tag.strip().removeprefix("W/") for tag in candidates.split(",")}
    return "*" in tags or etag.removeprefix("W/") in tags


def install(app: FastAPI, settings: Settings) -> None:
    """Add every middleware, the last one outermost, and the index of routes inside them all."""
    app.add_middleware(EtagMiddleware)
    app.add_middleware(IdempotencyMiddleware)
    app.add_middleware(TextMiddleware)
    if settings.rate_limits:
        app.add_middleware(RateLimitMiddleware)
    app.add_middleware(
        BoundsMiddleware,
        body_bytes_max=settings.request_body_bytes_max,
        timeout_s=settings.request_timeout_s,
    )
    app.add_middleware(EdgeMiddleware)
    if origins := settings.allowed_origin_list:
        # Without credentials: such a page speaks with the tokens it holds, never with a cookie.
        app.add_middleware(
            CORSMiddleware,
            allow_origins=origins,
            allow_methods=sorted(_METHODS),
            allow_headers=_CROSS_ORIGIN_REQUEST,
            expose_headers=_CROSS_ORIGIN_ANSWER,
        )
    routing.install(app)
