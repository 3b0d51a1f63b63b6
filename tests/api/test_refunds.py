"""Refunds over HTTP: who may, what they see, and what a retry does."""

from uuid import uuid4

import httpx
import pytest

from db.models.user import Role
from deps.core import Deps
from deps.scripted import Fault, ScriptedGateway
from tests import factories
from tools.invariant import check
from tools.order import OrderView


def headers(deps: Deps) -> dict[str, str]:
    return factories.bearer(deps) | {"Idempotency-Key": str(uuid4())}


@pytest.fixture
async def placed(customer: Deps) -> OrderView:
    await factories.product(customer, "MUG", price=1250, stock=9)
    await factories.product(customer, "TEA", price=333, stock=9, title="Green tea")
    return await factories.placed_order(customer, MUG=2, TEA=3)


async def test_the_whole_way(
    client: httpx.AsyncClient,
    customer: Deps,
    merchant: Deps,
    placed: OrderView,
    gateway: ScriptedGateway,
) -> None:
    path = f"/v1/orders/{placed.number}/refunds"
    body = {"lines": {"TEA": 1}, "shipping_amount": 90}
    r = await client.post(f"{path}/preview", json=body, headers=headers(customer))
    assert r.status_code == 200, r.text
    assert (r.json()["refund_amount"], r.json()["refundable_amount"]) == (423, placed.total_amount)
    assert r.json()["parts"][0]["provider"] == "scripted"
    ask = body | {"reason": "one packet was open"}
    key = headers(merchant)
    first = await client.post(path, json=ask, headers=key)
    again = await client.post(path, json=ask, headers=key)
    assert first.status_code == 201, first.text
    assert first.content == again.content
    assert first.json()["state"] == "succeeded"
    mine = await client.get(path, headers=factories.bearer(customer))
    assert [each["id"] for each in mine.json()] == [first.json()["id"]]
    one = await client.get(f"/v1/refunds/{first.json()['id']}", headers=factories.bearer(customer))
    assert one.json()["breakdown"]["lines"][0]["quantity"] == 1
    r = await client.post(path, json={"reason": "the rest"}, headers=headers(merchant))
    assert r.json()["amount"] == placed.total_amount - 423
    r = await client.post(path, json={"reason": "more"}, headers=headers(merchant))
    assert (r.status_code, r.json()["code"]) == (409, "not_refundable")
    assert sum(gateway.charges.values()) == 0
    assert await check(merchant) == []


async def test_who_may(
    client: httpx.AsyncClient, deps: Deps, customer: Deps, merchant: Deps, placed: OrderView
) -> None:
    path = f"/v1/orders/{placed.number}/refunds"
    r = await client.post(path, json={"reason": "me"}, headers=headers(customer))
    assert r.status_code == 403
    r = await client.post(path, json={"reason": "me"}, headers=factories.bearer(merchant))
    assert (r.status_code, r.json()["code"]) == (400, "idempotency_key_required")
    made = await client.post(path, json={"reason": "x", "amount": 5}, headers=headers(merchant))
    stranger = factories.bearer(await factories.user(deps, role=Role.CUSTOMER))
    foreign = await client.get(f"/v1/refunds/{made.json()['id']}", headers=stranger)
    absent = await client.get(f"/v1/refunds/{uuid4()}", headers=stranger)
    assert foreign.status_code == absent.status_code == 404
    assert foreign.json()["detail"] == absent.json()["detail"]
    assert (await client.get(path, headers=stranger)).status_code == 404
    assert (await client.get("/v1/refunds", headers=stranger)).status_code == 403


@pytest.mark.parametrize(
    "body",
    [
        {"reason": "x", "amount": 0},
        {"reason": "x", "amount": 5, "lines": {"MUG": 1}},
        {"reason": "x", "lines": {"MUG": 0}},
        {"reason": "x", "lines": {}},
        {"reason": "x", "shipping_amount": 5},
        {"reason": "   "},
        {"amount": 5},
        {"reason": "x", "to": "cash"},
    ],
)
async def test_what_makes_no_sense_is_refused(
    client: httpx.AsyncClient, merchant: Deps, placed: OrderView, body: dict[str, object]
) -> None:
    r = await client.post(
        f"/v1/orders/{placed.number}/refunds", json=body, headers=headers(merchant)
    )
    assert (r.status_code, r.json()["code"]) == (422, "invalid_input")


async def test_too_much_is_refused_with_what_is_left(
    client: httpx.AsyncClient, merchant: Deps, placed: OrderView
) -> None:
    path = f"/v1/orders/{placed.number}/refunds"
    for body, left in (
        ({"amount": placed.total_amount + 1}, {"refundable_amount": placed.total_amount}),
        ({"lines": {"MUG": 3}}, {"refundable_quantity": 2}),
        ({"lines": {"NOPE": 1}}, {"refundable_quantity": 0}),
        ({"lines": {"MUG": 1}, "shipping_amount": 491}, {"refundable_amount": 490}),
    ):
        r = await client.post(path, json={"reason": "x", **body}, headers=headers(merchant))
        assert (r.status_code, r.json()["code"]) == (409, "not_refundable"), r.text
        assert left.items() <= r.json().items()


async def test_after_the_window(
    client: httpx.AsyncClient, merchant: Deps, customer: Deps, placed: OrderView
) -> None:
    from api.app import create_app

    app = create_app(merchant.settings)
    app.state.deps = factories.later(merchant, days=181)
    transport = httpx.ASGITransport(app=app)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as later:
        auth = factories.bearer(factories.later(merchant, days=181))
        r = await later.post(
            f"/v1/orders/{placed.number}/refunds",
            json={"reason": "late"},
            headers=auth | {"Idempotency-Key": str(uuid4())},
        )
    assert (r.status_code, r.json()["window_days"]) == (409, 180)


async def test_a_large_refund_needs_a_second_person(
    client: httpx.AsyncClient, deps: Deps, customer: Deps, merchant: Deps, gateway: ScriptedGateway
) -> None:
    await factories.product(customer, "SOFA", price=90_000, stock=2, title="Sofa")
    placed = await factories.placed_order(customer, SOFA=1)
    path = f"/v1/orders/{placed.number}/refunds"
    asked = await client.post(path, json={"reason": "it sags"}, headers=headers(merchant))
    assert asked.json()["state"] == "awaiting_approval"
    approve = f"/v1/refunds/{asked.json()['id']}/approve"
    r = await client.post(approve, headers=headers(merchant))
    assert (r.status_code, r.json()["code"]) == (403, "forbidden")
    assert sum(gateway.charges.values()) == placed.total_amount
    other = await factories.user(deps, role=Role.MERCHANT)
    r = await client.post(approve, headers=headers(other))
    assert r.json()["state"] == "succeeded", r.text
    assert (await client.post(approve, headers=headers(other))).json()["state"] == "succeeded"
    r = await client.post(approve.replace("approve", "reject"), headers=headers(other))
    assert r.status_code == 409
    assert sum(gateway.charges.values()) == 0
    assert await check(deps) == []


async def test_an_unanswered_refund_is_pending_and_a_failed_one_is_retried(
    client: httpx.AsyncClient, merchant: Deps, placed: OrderView, gateway: ScriptedGateway
) -> None:
    path = f"/v1/orders/{placed.number}/refunds"
    gateway.script.append(Fault.TIMEOUT_AFTER)
    r = await client.post(path, json={"reason": "x", "amount": 100}, headers=headers(merchant))
    assert (r.status_code, r.json()["state"]) == (201, "pending")
    retry = f"/v1/refunds/{r.json()['id']}/retry"
    r = await client.post(retry, json={}, headers=headers(merchant))
    assert r.json()["state"] == "succeeded"
    gateway.script.append(Fault.DECLINE)
    r = await client.post(path, json={"reason": "x", "amount": 200}, headers=headers(merchant))
    assert (r.json()["state"], r.json()["parts"][0]["failure"]) == ("failed", "generic_decline")
    retry = f"/v1/refunds/{r.json()['id']}/retry"
    r = await client.post(retry, json={"to": "store_credit"}, headers=headers(merchant))
    assert (r.json()["state"], r.json()["parts"][0]["to"]) == ("succeeded", "store_credit")
    assert sum(gateway.charges.values()) == placed.total_amount - 100
    assert await check(merchant) == []


async def test_the_list_filters_sorts_and_pages(
    client: httpx.AsyncClient, merchant: Deps, placed: OrderView, gateway: ScriptedGateway
) -> None:
    for amount in (300, 100, 200):
        if amount == 100:
            gateway.script.append(Fault.DECLINE)
        await client.post(
            f"/v1/orders/{placed.number}/refunds",
            json={"reason": "x", "amount": amount},
            headers=headers(merchant),
        )
    auth = factories.bearer(merchant)

    async def amounts(**query: str | int) -> list[int]:
        found: list[int] = []
        cursor: str | None = None
        while True:
            asked = dict(query) | {"limit": 1} | ({"cursor": cursor} if cursor else {})
            page = (await client.get("/v1/refunds", params=asked, headers=auth)).json()
            found += [item["amount"] for item in page["items"]]
            cursor = page["next_cursor"]
            if cursor is None:
                return found

    assert await amounts() == [200, 100, 300]
    assert await amounts(sort="oldest") == [300, 100, 200]
    assert await amounts(sort="largest") == [300, 200, 100]
    assert await amounts(state="failed") == [100]
    assert await amounts(amount_min=200, sort="largest") == [300, 200]
    assert await amounts(since="2026-02-01T00:00:00Z") == []
    r = await client.get("/v1/refunds", params={"cursor": "zzz"}, headers=auth)
    assert r.status_code == 422
