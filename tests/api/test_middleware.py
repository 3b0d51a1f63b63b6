"""What the edge adds to and refuses of every request."""

import asyncio
import json
import logging
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import httpx
import pytest
from fastapi import APIRouter, FastAPI, Request, Response
from fastapi.responses import StreamingResponse
from pydantic import ValidationError
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api import health, metrics
from api.caller import owner_of_limits
from api.middleware import ETAG_BODY_BYTES_MAX, BoundsMiddleware, install
from deps.core import Deps
from deps.ratelimit import LIMITS, EndpointClass, Limit
from deps.settings import Settings
from deps.telemetry import JsonFormatter, current_trace_id
from tests import factories

JSON = {"ok": True}


def _router() -> APIRouter:
    router = APIRouter()

    @router.get("/v1/things/{id}")
    async def thing(id: str) -> dict[str, bool]:
        return JSON

    @router.post("/v1/things")
    async def write(request: Request) -> dict[str, int]:
        return {"bytes": len(await request.body())}

    @router.get("/v1/slow")
    async def slow() -> None:
        await asyncio.Event().wait()

    @router.get("/v1/broken")
    async def broken() -> None:
        raise RuntimeError("ada@example.com broke it")

    @router.get("/v1/feed")
    async def feed() -> StreamingResponse:
        async def lines() -> AsyncIterator[bytes]:
            yield b'{"a": 1}\n'
            await asyncio.sleep(0)
            yield b'{"a": 2}\n'

        return StreamingResponse(lines(), media_type="text/event-stream")

    @router.get("/v1/half")
    async def half() -> StreamingResponse:
        async def lines() -> AsyncIterator[bytes]:
            yield b"half of it"
            raise RuntimeError("the rest is lost")

        return StreamingResponse(lines())

    @router.get("/v1/pieces/{size}")
    async def pieces(size: int) -> StreamingResponse:
        async def parts() -> AsyncIterator[bytes]:
            yield b'"'
            yield b"x" * size
            yield b'"'

        return StreamingResponse(parts(), media_type="application/json")

    @router.post("/v1/auth/login")
    async def login() -> dict[str, bool]:
        return JSON

    @router.get("/v1/trace")
    async def trace() -> dict[str, str | None]:
        return {"trace_id": current_trace_id()}

    @router.get("/page")
    async def page() -> Response:
        return Response("<p>", media_type="text/html")

    return router


@asynccontextmanager
async def _client(
    deps: Deps, *, settings: Settings | None = None, base_url: str = "http://test"
) -> AsyncGenerator[httpx.AsyncClient, None]:
    app = FastAPI()
    app.state.deps = deps
    app.include_router(_router())
    app.include_router(health.router)
    app.include_router(metrics.router)
    install(app, settings or deps.settings)
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(app=app), base_url=base_url
    ) as client:
        yield client


@pytest.fixture
async def http(deps: Deps) -> AsyncGenerator[httpx.AsyncClient, None]:
    async with _client(deps) as client:
        yield client


async def test_request_id_is_kept_when_sane(http: httpx.AsyncClient) -> None:
    kept = await http.get("/v1/things/1", headers={"X-Request-Id": "abc-12345"})
    assert kept.headers["x-request-id"] == "abc-12345"
    made = await http.get("/v1/things/1", headers={"X-Request-Id": "a b\tc" * 9})
    assert len(made.headers["x-request-id"]) == 32


async def test_security_headers_are_on_every_answer(deps: Deps) -> None:
    async with _client(deps) as http:
        for path in ("/v1/things/1", "/v1/broken", "/v1/none", "/page"):
            headers = (await http.get(path)).headers
            assert "frame-ancestors 'none'" in headers["content-security-policy"]
            assert headers["x-content-type-options"] == "nosniff"
            assert "referrer-policy" in headers
            assert "strict-transport-security" not in headers
    async with _client(deps, base_url="https://test") as https:
        assert "strict-transport-security" in (await https.get("/page")).headers


async def test_pages_of_named_sites_may_call_with_tokens_and_no_others(deps: Deps) -> None:
    ours, theirs = "https://shop.example", "https://evil.example"
    settings = deps.settings.model_copy(update={"allowed_origins": f"{ours}, https://two.example"})
    asked = {
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "content-type,user-agent,x-guest-token",
    }
    async with _client(deps, settings=settings) as http:
        may = await http.options("/v1/things", headers={"Origin": ours, **asked})
        assert (may.status_code, may.headers["access-control-allow-origin"]) == (200, ours)
        assert "X-Guest-Token" in may.headers["access-control-allow-headers"]
        read = await http.get("/v1/things/1", headers={"Origin": ours})
        assert read.headers["access-control-allow-origin"] == ours
        assert "Origin" in read.headers["vary"]
        broken = await http.get("/v1/broken", headers={"Origin": ours})
        assert (broken.status_code, broken.headers["access-control-allow-origin"]) == (500, ours)
        refused = await http.options("/v1/things", headers={"Origin": theirs, **asked})
        assert refused.status_code == 400
        for answer in (may, read, refused, await http.get("/page", headers={"Origin": theirs})):
            assert answer.headers.get("access-control-allow-origin") in (None, ours)
            assert "access-control-allow-credentials" not in answer.headers
    async with _client(deps) as http:
        alone = await http.get("/v1/things/1", headers={"Origin": ours})
        assert "access-control-allow-origin" not in alone.headers


@pytest.mark.parametrize("origins", ["*", "https://*", "shop.example", "https://shop.example/"])
def test_an_origin_is_a_scheme_and_a_host(origins: str) -> None:
    with pytest.raises(ValidationError):
        Settings(_env_file=None, allowed_origins=origins)


async def test_bug_is_a_problem_without_its_text(
    http: httpx.AsyncClient, caplog: pytest.LogCaptureFixture
) -> None:
    answer = await http.get("/v1/broken")
    assert answer.status_code == 500
    assert answer.headers["content-type"] == "application/problem+json"
    assert "ada@example.com" not in answer.text
    assert any(record.exc_info for record in caplog.records)


async def test_bug_after_half_an_answer_breaks_the_connection(
    http: httpx.AsyncClient, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(RuntimeError, match="the rest is lost"):
        await http.get("/v1/half")
    assert any(record.message == "unhandled error" for record in caplog.records)


async def test_declared_body_over_the_limit(deps: Deps) -> None:
    settings = deps.settings.model_copy(update={"request_body_bytes_max": 10})
    async with _client(deps, settings=settings) as http:
        assert (await http.post("/v1/things", content=b"x" * 10)).json() == {"bytes": 10}
        answer = await http.post("/v1/things", content=b"x" * 11)
    assert (answer.status_code, answer.json()["code"]) == (413, "body_too_large")


@pytest.mark.parametrize("headers", [{}, {"Idempotency-Key": "k"}])
async def test_chunked_body_over_the_limit(deps: Deps, headers: dict[str, str]) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(4):
            yield b"xxxx"

    settings = deps.settings.model_copy(update={"request_body_bytes_max": 10})
    async with _client(deps, settings=settings) as http:
        answer = await http.post("/v1/things", content=chunks(), headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (413, "body_too_large")


async def test_slow_request_is_cut_off(deps: Deps) -> None:
    settings = deps.settings.model_copy(update={"request_timeout_s": 0.01})
    async with _client(deps, settings=settings) as http:
        answer = await http.get("/v1/slow")
    assert (answer.status_code, answer.json()["code"]) == (504, "timeout")


async def test_stream_is_neither_timed_nor_tagged(deps: Deps) -> None:
    settings = deps.settings.model_copy(update={"request_timeout_s": 1e-9})
    async with _client(deps, settings=settings) as http:
        answer = await http.get("/v1/feed")
    assert answer.text.count("\n") == 2
    assert "etag" not in answer.headers


async def test_known_answer_is_not_sent_again(http: httpx.AsyncClient) -> None:
    first = await http.get("/v1/things/1")
    etag = first.headers["etag"]
    assert etag.startswith('W/"')
    for known in (etag, f'"other", {etag}', etag.removeprefix("W/"), "*"):
        again = await http.get("/v1/things/1", headers={"If-None-Match": known})
        assert (again.status_code, again.content) == (304, b"")
        assert again.headers["etag"] == etag
    other = await http.get("/v1/things/1", headers={"If-None-Match": '"other"'})
    assert other.json() == JSON


async def test_answer_in_pieces_is_tagged_unless_it_is_long(http: httpx.AsyncClient) -> None:
    short, long = [await http.get(f"/v1/pieces/{n}") for n in (10, 3 * ETAG_BODY_BYTES_MAX)]
    assert (len(short.content), len(long.content)) == (12, 3 * ETAG_BODY_BYTES_MAX + 2)
    known = {"If-None-Match": short.headers["etag"]}
    assert (await http.get("/v1/pieces/10", headers=known)).status_code == 304
    assert "etag" not in long.headers


Sent = list[tuple[str, int | None]]


async def bounded(app: ASGIApp, *, timeout_s: float = 5.0) -> Sent:
    """Send a chunked body of 8 bytes to `app` where 4 are allowed; return what was answered."""
    body = iter([b"xxxx", b"xxxx"])
    answered: Sent = []

    async def receive() -> Message:
        return {"type": "http.request", "body": next(body), "more_body": True}

    async def send(message: Message) -> None:
        answered.append((message["type"], message.get("status")))

    scope: Scope = {"type": "http", "method": "POST", "path": "/v1/things", "headers": []}
    await BoundsMiddleware(app, body_bytes_max=4, timeout_s=timeout_s)(scope, receive, send)
    return answered


@pytest.mark.parametrize("is_started", [False, True])
@pytest.mark.parametrize("then", ["answers", "raises"])
async def test_an_application_that_is_sent_too_much(is_started: bool, then: str) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if is_started:
            await send({"type": "http.response.start", "status": 200, "headers": []})
        while (await receive())["type"] != "http.disconnect":
            pass
        if then == "raises":
            raise ClientDisconnect
        if not is_started:
            await send({"type": "http.response.start", "status": 400, "headers": []})
        await send({"type": "http.response.body", "body": b"bad"})

    if is_started and then == "raises":
        with pytest.raises(ClientDisconnect):
            await bounded(app)
        return
    status = 200 if is_started else 413
    assert await bounded(app) == [("http.response.start", status), ("http.response.body", None)]


async def test_a_timeout_of_the_application_itself_is_its_own() -> None:
    async def impatient(scope: Scope, receive: Receive, send: Send) -> None:
        raise TimeoutError("of its own")

    async def stuck(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await asyncio.Event().wait()

    with pytest.raises(TimeoutError, match="of its own"):
        await bounded(impatient)
    with pytest.raises(TimeoutError):  # Half an answer cannot become another.
        await bounded(stuck, timeout_s=0.01)


async def test_credentials_of_another_scheme_are_refused(client: httpx.AsyncClient) -> None:
    answer = await client.get("/v1/me", headers={"Authorization": "Basic YWRhOmE="})
    assert (answer.status_code, answer.json()["code"]) == (401, "unauthenticated")
    assert answer.headers["www-authenticate"] == "Bearer"


async def test_one_login_too_many_waits(deps: Deps, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = deps.settings.model_copy(update={"rate_limits": True})
    # As many as otherwise in a minute, so that none becomes free while a slow machine tries.
    allowed = LIMITS[EndpointClass.AUTH].limit
    monkeypatch.setitem(LIMITS, EndpointClass.AUTH, Limit(allowed, 86_400))
    async with _client(deps, settings=settings) as http:
        answers = [
            # A fresh guest token must not be a fresh allowance.
            await http.post("/v1/auth/login", headers={"X-Guest-Token": f"t{i}" * 20})
            for i in range(allowed + 1)
        ]
        read = await http.get("/v1/things/1")
    assert [a.status_code for a in answers] == [200] * allowed + [429]
    assert answers[-1].json()["code"] == "too_many_requests"
    assert 1 <= int(answers[-1].headers["retry-after"]) <= 86_400 / allowed
    assert answers[0].headers["ratelimit"].startswith(f'"auth";r={allowed - 1}')
    assert read.status_code == 200


async def test_users_behind_one_address_count_apart(deps: Deps) -> None:
    app = FastAPI()
    app.state.deps = deps
    owners = set()
    for _ in range(2):
        authorization = factories.bearer(await factories.user(deps))["Authorization"]
        headers = [(b"authorization", authorization.encode())]
        owners.add(owner_of_limits({"type": "http", "app": app, "headers": headers}))
    forged = [(b"authorization", b"Bearer eyJhbGciOiJub25lIn0.e30.")]
    scope = {"type": "http", "app": app, "headers": forged, "client": ("192.0.2.1", 1)}
    assert len(owners) == 2
    assert owner_of_limits(scope) == "ip:192.0.2.1"


async def test_metrics_name_templates_not_paths(http: httpx.AsyncClient) -> None:
    await http.get("/v1/things/secret-1")
    await http.get("/nowhere/secret-2")
    scraped = (await http.get("/metrics")).text
    assert 'route="/v1/things/{id}",status="200"' in scraped
    assert 'route="unmatched",status="404"' in scraped
    assert "secret-" not in scraped
    assert 'db_pool_connections{state="in_use"}' in scraped
    assert "outbox_lag_seconds 0.0" in scraped


async def test_access_log_names_nobody(
    http: httpx.AsyncClient, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, logger="shopkeeper.access"):
        await http.get("/v1/things/7?email=lovelace@example.com")
    [record] = [r for r in caplog.records if r.name == "shopkeeper.access"]
    line = json.loads(JsonFormatter("web").format(record))
    assert (line["route"], line["status"], line["role"]) == ("/v1/things/{id}", 200, "guest")
    assert "lovelace" not in json.dumps(line), "a name that no id holds by chance"


async def test_trace_of_the_caller_is_joined(http: httpx.AsyncClient) -> None:
    trace_id = "4bf92f3577b34da6a3ce929d0e0e4736"
    joined = await http.get(
        "/v1/trace", headers={"traceparent": f"00-{trace_id}-00f067aa0ba902b7-01"}
    )
    assert joined.json() == {"trace_id": trace_id}
    own = (await http.get("/v1/trace", headers={"traceparent": "nonsense"})).json()["trace_id"]
    assert len(own) == 32


async def test_health(deps: Deps) -> None:
    async with _client(deps) as http:
        assert (await http.get("/health/live")).json() == {"status": "ok"}
        ready = await http.get("/health/ready")
        assert (ready.status_code, ready.json()["status"]) == (200, "ok")
        details = (await http.get("/v1/health")).json()
    assert details["backlog"] == {
        "pending": 0,
        "lag_s": 0.0,
        "dead_letters": 0,
        "broken_invariants": 0,
    }


async def test_shop_without_redis_is_degraded_but_ready(deps: Deps) -> None:
    from deps.cache import Cache

    async with _client(replace(deps, cache=Cache(None))) as http:
        ready = await http.get("/health/ready")
    assert (ready.status_code, ready.json()["status"]) == (200, "degraded")


async def test_shop_without_postgres_is_not_ready(deps: Deps, settings: Settings) -> None:
    from deps import postgres

    engine = postgres.create_engine(
        "postgresql+asyncpg://nobody@/nothing?host=/nonexistent", settings
    )
    away = replace(deps, db=postgres.session_factory(engine))
    async with _client(away) as http:
        ready = await http.get("/health/ready")
        assert (await http.get("/health/live")).status_code == 200
        assert 'dependency_up{name="postgres"} 0.0' in (await http.get("/metrics")).text
    assert (ready.status_code, ready.json()["status"]) == (503, "unavailable")
    await engine.dispose()
