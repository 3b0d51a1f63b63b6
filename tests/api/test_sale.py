"""The first sale over HTTP: the contract that clients see."""

import asyncio
from uuid import uuid4

import httpx
import pytest

from deps.core import Deps
from tests import factories


def key() -> dict[str, str]:
    return {"Idempotency-Key": str(uuid4())}


async def ready_cart(client: httpx.AsyncClient, sku: str = "MUG", quantity: int = 1) -> str:
    cart_id = (await client.post("/v1/carts")).json()["id"]
    r = await client.post(f"/v1/carts/{cart_id}/lines", json={"sku": sku, "quantity": quantity})
    assert r.status_code == 200, r.text
    details = {
        "email": "ada@example.com",
        "shipping_address": factories.ADDRESS.model_dump(),
        "shipping_method": "standard",
    }
    r = await client.put(f"/v1/carts/{cart_id}/details", json=details)
    assert r.json()["problems"] == [], r.text
    return str(cart_id)


async def complete(client: httpx.AsyncClient, cart_id: str, **body: object) -> httpx.Response:
    return await client.post(
        f"/v1/carts/{cart_id}/complete", json={"payment_method": "tok_visa", **body}, headers=key()
    )


async def test_the_whole_way(client: httpx.AsyncClient, deps: Deps, merchant: Deps) -> None:
    await factories.product(deps, "MUG", title="Stoneware mug", price=1250, stock=10)
    found = (await client.get("/v1/products", params={"q": "mugs"})).json()["items"]
    assert [(f["sku"], f["price_amount"], f["available"]) for f in found] == [("MUG", 1250, 10)]
    cart_id = await ready_cart(client, quantity=2)
    r = await complete(client, cart_id, expected_total_amount=2990)
    assert r.status_code == 200, r.text
    number = r.json()["number"]
    assert (await client.get(f"/v1/orders/{number}")).json()["payment_status"] == "captured"
    timeline = (await client.get(f"/v1/orders/{number}/timeline")).json()
    assert timeline[-1]["summary"] == f"Order {number} was placed over EUR 29.90."
    staff = factories.bearer(merchant)
    today = (await client.get("/v1/analytics/today", headers=staff)).json()
    assert (today["orders"], today["units"], today["revenue_amount"]) == (1, 2, 2990)
    stock = (await client.get("/v1/stock/MUG", headers=staff)).json()
    assert stock["levels"][0]["allocated"] == 2
    moves = (await client.get("/v1/stock/MUG/movements", headers=staff)).json()["items"]
    assert [move["kind"] for move in moves] == ["allocate", "reserve", "receive"]


@pytest.mark.parametrize("seen", [2**63, 10**20])
async def test_a_total_that_no_sale_can_have_is_refused_by_its_field(
    client: httpx.AsyncClient, deps: Deps, seen: int
) -> None:
    await factories.product(deps, "MUG", stock=10)
    r = await complete(client, await ready_cart(client, quantity=1), expected_total_amount=seen)
    assert (r.status_code, r.json()["field"]) == (422, "expected_total_amount")


async def test_completing_needs_a_key_and_replays_under_it(
    client: httpx.AsyncClient, deps: Deps
) -> None:
    await factories.product(deps, "MUG", stock=10)
    cart_id = await ready_cart(client)
    body = {"payment_method": "tok_visa"}
    r = await client.post(f"/v1/carts/{cart_id}/complete", json=body)
    assert (r.status_code, r.json()["code"]) == (400, "idempotency_key_required")
    headers = key()
    first = await client.post(f"/v1/carts/{cart_id}/complete", json=body, headers=headers)
    second = await client.post(f"/v1/carts/{cart_id}/complete", json=body, headers=headers)
    assert first.content == second.content
    assert second.headers["Idempotent-Replayed"] == "true"
    r = await client.post(
        f"/v1/carts/{cart_id}/complete", json={"payment_method": "tok_x"}, headers=headers
    )
    assert r.status_code == 422


async def test_fifty_buyers_of_five_units(client: httpx.AsyncClient, deps: Deps) -> None:
    await factories.product(deps, "MUG", stock=5)
    carts = []
    for n in range(50):
        client.headers["X-Guest-Token"] = f"token-of-buyer-{n:030}"
        carts.append(await ready_cart(client))

    async def buy(n: int, cart_id: str) -> httpx.Response:
        headers = {**key(), "X-Guest-Token": f"token-of-buyer-{n:030}"}
        return await client.post(
            f"/v1/carts/{cart_id}/complete", json={"payment_method": "tok_visa"}, headers=headers
        )

    answers = await asyncio.gather(*(buy(n, cart_id) for n, cart_id in enumerate(carts)))
    codes = sorted(answer.status_code for answer in answers)
    assert codes == [200] * 5 + [409] * 45
    assert {a.json()["code"] for a in answers if a.status_code == 409} == {"out_of_stock"}


async def test_others_carts_and_orders_look_absent(client: httpx.AsyncClient, deps: Deps) -> None:
    await factories.product(deps, "MUG", stock=10)
    cart_id = await ready_cart(client)
    number = (await complete(client, cart_id)).json()["number"]
    client.headers["X-Guest-Token"] = "another-guest-" + "0" * 30
    foreign = await client.get(f"/v1/orders/{number}")
    absent = await client.get("/v1/orders/999999")
    assert (foreign.status_code, foreign.json()) == (absent.status_code, absent.json())
    assert (await client.get(f"/v1/carts/{cart_id}")).status_code == 404


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/v1/stock/MUG/movements"),
        ("GET", "/v1/analytics/today"),
        ("GET", "/v1/ledger/balances"),
        ("GET", "/v1/users"),
        ("POST", "/v1/stock/MUG/adjustments"),
        ("PUT", "/v1/products/mug"),
    ],
)
async def test_staff_routes_refuse_shoppers(
    client: httpx.AsyncClient, customer: Deps, method: str, path: str
) -> None:
    body = {
        "location": "HAM",
        "delta": 1,
        "reason": "x",
        "handle": "mug",
        "title": "Mug",
        "variants": [{"sku": "MUG", "price_amount": 1, "currency": "EUR"}],
    }
    sent = body if method != "GET" else None
    r = await client.request(method, path, json=sent, headers=key())
    assert (r.status_code, r.json()["code"]) == (401, "unauthenticated")
    headers = {**key(), **factories.bearer(customer)}
    r = await client.request(method, path, json=sent, headers=headers)
    assert (r.status_code, r.json()["code"]) == (403, "forbidden")


async def test_problems_name_the_field(client: httpx.AsyncClient, deps: Deps) -> None:
    await factories.product(deps, "MUG", stock=10)
    cart_id = (await client.post("/v1/carts")).json()["id"]
    r = await client.post(f"/v1/carts/{cart_id}/lines", json={"sku": "MUG", "quantity": 0})
    assert r.headers["content-type"] == "application/problem+json"
    assert (r.status_code, r.json()["field"]) == (422, "quantity")
    r = await client.post(f"/v1/carts/{cart_id}/lines", json={"sku": "NOPE"})
    assert (r.status_code, r.json()["field"]) == (404, "sku")
    r = await client.get("/v1/products", params={"cursor": "rubbish"})
    assert (r.status_code, r.json()["field"]) == (422, "cursor")


async def test_lists_page_to_the_end_without_loss(client: httpx.AsyncClient, deps: Deps) -> None:
    for n in range(7):
        await factories.product(deps, f"SKU{n}", title=f"Mug {n % 3}", price=100 + n % 2)
    for sort in ("newest", "price", "-price", "title", "relevance"):
        seen, cursor = [], None
        while True:
            params = {"q": "mug", "sort": sort, "limit": 2} | ({"cursor": cursor} if cursor else {})
            page = (await client.get("/v1/products", params=params)).json()
            seen += [item["sku"] for item in page["items"]]
            cursor = page["next_cursor"]
            if cursor is None:
                break
        assert sorted(seen) == [f"SKU{n}" for n in range(7)], sort


async def test_small_misspellings_still_find(client: httpx.AsyncClient, deps: Deps) -> None:
    await factories.product(deps, "MUG", title="Stoneware mug")
    for query in ("stonware", "mug xyzzy", "MUG"):
        items = (await client.get("/v1/products", params={"q": query})).json()["items"]
        assert [item["sku"] for item in items] == ["MUG"], query


async def test_register_login_refresh_and_reuse(client: httpx.AsyncClient) -> None:
    person = {"email": "Ada@Example.com", "password": "correct horse", "name": "Ada"}
    assert (await client.post("/v1/auth/register", json=person)).status_code == 201
    assert (await client.post("/v1/auth/register", json=person)).status_code == 409
    wrong = await client.post("/v1/auth/login", json={**person, "password": "wrong horse"})
    unknown = await client.post("/v1/auth/login", json={"email": "x@example.com", "password": "y"})
    assert wrong.json() == unknown.json()
    tokens = (await client.post("/v1/auth/login", json=person)).json()
    me = await client.get("/v1/me", headers={"Authorization": f"Bearer {tokens['access_token']}"})
    assert (me.json()["email"], me.json()["role"]) == ("ada@example.com", "customer")
    old = {"refresh_token": tokens["refresh_token"]}
    fresh = (await client.post("/v1/auth/refresh", json=old)).json()
    assert (await client.post("/v1/auth/refresh", json=old)).status_code == 401
    reused = {"refresh_token": fresh["refresh_token"]}
    assert (await client.post("/v1/auth/refresh", json=reused)).status_code == 401
    r = await client.get("/v1/me", headers={"Authorization": "Bearer rubbish"})
    assert r.status_code == 401
