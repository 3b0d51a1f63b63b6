"""Idempotency keys over HTTP, on an application that counts what it does."""

import asyncio
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field, replace
from datetime import timedelta

import httpx
import pytest
from fastapi import FastAPI, Request, Response
from sqlalchemy import text

from api import idempotency as middleware
from api.idempotency import is_required
from api.middleware import install
from deps.core import Deps
from tests import factories
from tools import idempotency
from tools.errors import IdempotencyInFlight

SPEND = "/v1/carts/1/complete"


@dataclass
class Till:
    """An application whose every write counts."""

    deps: Deps
    app: FastAPI = field(default_factory=FastAPI)
    effects: int = 0
    status: int = 201
    settles: bool = False
    crashes: bool = False
    token: str | None = None
    asks_after_client: bool = False
    gate: asyncio.Event = field(default_factory=asyncio.Event)
    started: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self.gate.set()
        self.app.state.deps = self.deps
        self.app.add_api_route("/v1/carts/{id}/complete", self.write, methods=["POST"])
        self.app.add_api_route("/v1/chat", self.write, methods=["POST"])
        self.app.add_api_route("/v1/auth/login", self.write, methods=["POST"])
        self.app.add_api_route("/v1/products/{handle}", self.write, methods=["PUT"])
        install(self.app, self.deps.settings)

    async def write(self, request: Request, response: Response) -> dict[str, int]:
        if self.asks_after_client:
            assert not await request.is_disconnected()
        self.started.set()
        await self.gate.wait()
        self.effects += 1
        if self.settles:
            async with self.deps.begin() as uow:
                await idempotency.settle(uow)
        if self.crashes:
            raise RuntimeError("a bug")
        if self.token:
            response.set_cookie("guest", self.token)
        response.status_code = self.status
        return {"effect": self.effects}


@pytest.fixture
def till(deps: Deps) -> Till:
    return Till(deps)


@pytest.fixture
async def http(till: Till) -> AsyncGenerator[httpx.AsyncClient, None]:
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(app=till.app), base_url="http://test"
    ) as client:
        yield client


def key(value: str = "k-1") -> dict[str, str]:
    return {"Idempotency-Key": value}


async def test_repeat_gets_the_first_answer(till: Till, http: httpx.AsyncClient) -> None:
    first = await http.post(SPEND, json={"a": 1, "b": 2}, headers=key())
    again = await http.post(SPEND, content=b'{ "b":2, "a":1 }', headers=key())
    assert (first.status_code, first.json()) == (201, {"effect": 1})
    assert (again.status_code, again.content) == (201, first.content)
    assert again.headers["idempotent-replayed"] == "true"
    assert again.headers["content-type"] == first.headers["content-type"]
    assert "idempotent-replayed" not in first.headers
    assert till.effects == 1


async def test_twenty_at_once_have_one_effect(till: Till, http: httpx.AsyncClient) -> None:
    answers = await asyncio.gather(*(http.post(SPEND, json={}, headers=key()) for _ in range(20)))
    assert till.effects == 1
    created = [a for a in answers if a.status_code == 201]
    refused = [a for a in answers if a.status_code == 409]
    assert len(created) + len(refused) == 20
    assert sum("idempotent-replayed" not in a.headers for a in created) == 1
    assert {a.json()["code"] for a in refused} <= {"idempotency_in_flight"}
    assert {a.headers["retry-after"] for a in refused} <= {"1"}


async def test_second_is_refused_while_the_first_runs(till: Till, http: httpx.AsyncClient) -> None:
    till.gate.clear()
    first = asyncio.create_task(http.post(SPEND, json={}, headers=key()))
    await till.started.wait()
    second = await http.post(SPEND, json={}, headers=key())
    till.gate.set()
    assert second.status_code == 409
    assert second.json()["code"] == "idempotency_in_flight"
    assert (await first).status_code == 201


async def test_other_body_is_refused(till: Till, http: httpx.AsyncClient) -> None:
    await http.post(SPEND, json={"amount": 1}, headers=key())
    other = await http.post(SPEND, json={"amount": 2}, headers=key())
    assert (other.status_code, other.json()["code"]) == (422, "idempotency_mismatch")
    assert till.effects == 1


async def test_callers_do_not_share_keys(till: Till, http: httpx.AsyncClient) -> None:
    for token in ("a" * 40, "b" * 40):
        answer = await http.post(SPEND, json={}, headers={**key(), "X-Guest-Token": token})
        assert "idempotent-replayed" not in answer.headers
    signed_in = await factories.user(till.deps)
    await http.post(SPEND, json={}, headers={**key(), **factories.bearer(signed_in)})
    assert till.effects == 3


@pytest.mark.parametrize(
    ("path", "status"), [(SPEND, 400), ("/v1/products/mug", 201), ("/v1/chat", 201)]
)
async def test_key_is_required_where_a_repeat_costs(
    http: httpx.AsyncClient, path: str, status: int
) -> None:
    method = "PUT" if path.startswith("/v1/products") else "POST"
    answer = await http.request(method, path, json={})
    assert answer.status_code == status
    if status == 400:
        assert answer.json()["code"] == "idempotency_key_required"


@pytest.mark.parametrize(
    ("path", "required"),
    [
        ("/v1/agents/cart/add_item", True),
        ("/v1/agents/cart/current", False),
        ("/v1/agents/cart/none_such", False),
        ("/v1/agents/cart", False),
    ],
)
def test_agents_need_a_key_for_what_changes_something(path: str, required: bool) -> None:
    assert is_required("POST", path) is required


async def test_an_answer_too_long_to_keep_frees_the_key(
    till: Till, http: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(middleware, "BODY_BYTES_MAX", 5)
    for effect in (1, 2):
        answer = await http.post(SPEND, json={}, headers=key())
        assert answer.json() == {"effect": effect}
    assert await _rows(till.deps) == 0


async def test_who_asks_whether_the_client_left_is_told(
    till: Till, http: httpx.AsyncClient
) -> None:
    till.asks_after_client = True
    assert (await http.post(SPEND, json={}, headers=key())).status_code == 201


async def test_a_body_nested_deeper_than_can_be_written_is_compared_as_it_is(
    till: Till, http: httpx.AsyncClient
) -> None:
    deep = b"[" * 500 + b"]" * 500
    answers = [await http.post(SPEND, content=deep, headers=key()) for _ in range(2)]
    assert [answer.status_code for answer in answers] == [201, 201]
    assert (await http.post(SPEND, content=deep + b" ", headers=key())).status_code == 422
    assert till.effects == 1


async def test_malformed_key_is_refused(http: httpx.AsyncClient) -> None:
    answer = await http.post(SPEND, json={}, headers=key("x" * 201))
    assert (answer.status_code, answer.json()["code"]) == (400, "idempotency_key_invalid")


@pytest.mark.parametrize("path", ["/v1/chat", "/v1/auth/login"])
async def test_exempt_routes_store_nothing(till: Till, http: httpx.AsyncClient, path: str) -> None:
    await http.post(path, json={}, headers=key())
    await http.post(path, json={}, headers=key())
    assert till.effects == 2
    assert await _rows(till.deps) == 0


@pytest.mark.parametrize("status", [400, 401, 422, 429, 500, 503])
async def test_refusal_frees_the_key(till: Till, http: httpx.AsyncClient, status: int) -> None:
    till.status = status
    assert (await http.post(SPEND, json={}, headers=key())).status_code == status
    till.status = 201
    answer = await http.post(SPEND, json={"corrected": True}, headers=key())
    assert (answer.status_code, till.effects) == (201, 2)


async def test_decline_is_an_outcome_and_is_kept(till: Till, http: httpx.AsyncClient) -> None:
    till.status = 402
    await http.post(SPEND, json={}, headers=key())
    again = await http.post(SPEND, json={}, headers=key())
    assert (again.status_code, till.effects) == (402, 1)


async def test_bug_frees_the_key(till: Till, http: httpx.AsyncClient) -> None:
    till.crashes = True
    answer = await http.post(SPEND, json={}, headers=key())
    assert (answer.status_code, answer.json()["code"]) == (500, "internal_error")
    assert await _rows(till.deps) == 0


async def test_answer_with_a_credential_is_not_stored(till: Till, http: httpx.AsyncClient) -> None:
    till.token = "a-fresh-guest-token"
    await http.post(SPEND, json={}, headers=key())
    assert await _rows(till.deps) == 0


async def test_dead_holder_is_succeeded_after_its_lock(till: Till, http: httpx.AsyncClient) -> None:
    """A process that died between its claim and its answer."""
    digest = idempotency.fingerprint("POST", SPEND, "", b"{}")
    past = replace(till.deps, clock=lambda: till.deps.clock() - timedelta(seconds=61))
    dead = await idempotency.claim(past, scope="ip:127.0.0.1", key="k-1", request_sha256=digest)
    answer = await http.post(SPEND, content=b"{}", headers=key())
    assert (answer.status_code, till.effects) == (201, 1)
    # It was not dead but slow: its late answer changes nothing.
    assert isinstance(dead, idempotency.Claim)
    await idempotency.finish(till.deps, dead, status_code=500, body=b"late", content_type=None)
    again = await http.post(SPEND, content=b"{}", headers=key())
    assert (again.status_code, again.json()) == (201, {"effect": 1})


async def test_settled_effect_is_never_repeated(till: Till, http: httpx.AsyncClient) -> None:
    """The effect committed, then the process failed before the answer was stored."""
    till.settles = till.crashes = True
    assert (await http.post(SPEND, json={}, headers=key())).status_code == 500
    till.crashes = False
    early = await http.post(SPEND, json={}, headers=key())
    assert early.status_code == 409
    till.app.state.deps = factories.later(till.deps, seconds=61)
    late = await http.post(SPEND, json={}, headers=key())
    assert (late.status_code, late.content, till.effects) == (204, b"", 1)


async def test_slow_holder_cannot_settle_after_it_was_succeeded(deps: Deps) -> None:
    async def claim(by: Deps) -> idempotency.Claim | idempotency.StoredAnswer:
        return await idempotency.claim(by, scope="ip:x", key="k", request_sha256="0" * 64)

    slow = await claim(deps)
    assert isinstance(slow, idempotency.Claim)
    await claim(factories.later(deps, seconds=61))
    token = idempotency.current_claim.set(slow)
    try:
        with pytest.raises(IdempotencyInFlight):
            async with deps.begin() as uow:
                await idempotency.settle(uow)
    finally:
        idempotency.current_claim.reset(token)


async def test_keys_are_forgotten_after_two_days(till: Till, http: httpx.AsyncClient) -> None:
    await http.post(SPEND, json={"a": 1}, headers=key())
    assert await idempotency.purge(factories.later(till.deps, hours=47)) == 0
    till.app.state.deps = factories.later(till.deps, hours=49)
    answer = await http.post(SPEND, json={"a": 2}, headers=key())
    assert (answer.status_code, till.effects) == (201, 2)
    assert await idempotency.purge(factories.later(till.deps, hours=98)) == 1


async def _rows(deps: Deps) -> int:
    async with deps.begin() as uow:
        connection = await uow.session.connection()
        count = (await connection.execute(text("SELECT count(*) FROM idempotency_key"))).scalar()
    assert isinstance(count, int)
    return count
