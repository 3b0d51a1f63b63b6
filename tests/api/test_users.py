"""Sign-in, people and the desk's figures over HTTP."""

from datetime import timedelta

import httpx
import pytest

from deps.core import Deps
from tests import factories
from tools import notification

ADA = {"email": "ada@example.com", "password": "a long passphrase", "name": "Ada"}


async def test_a_person_from_registration_to_sign_out(client: httpx.AsyncClient) -> None:
    made = await client.post("/v1/auth/register", json=ADA)
    assert (made.status_code, made.json()["role"]) == (201, "customer")
    again = await client.post("/v1/auth/register", json=ADA)
    assert (again.status_code, again.json()["code"]) == (409, "already_exists")
    wrong = await client.post("/v1/auth/login", json=ADA | {"password": "not this one"})
    assert (wrong.status_code, wrong.json()["code"]) == (401, "unauthenticated")
    tokens = (await client.post("/v1/auth/login", json=ADA)).json()
    mine = {"Authorization": f"Bearer {tokens['access_token']}"}
    renamed = await client.patch("/v1/me", json={"name": "Ada King"}, headers=mine)
    assert renamed.status_code == 200
    assert (await client.get("/v1/me", headers=mine)).json()["name"] == "Ada King"
    body = {"refresh_token": tokens["refresh_token"]}
    fresh = await client.post("/v1/auth/refresh", json=body)
    assert fresh.status_code == 200
    assert (await client.post("/v1/auth/refresh", json=body)).status_code == 401
    body = {"refresh_token": fresh.json()["refresh_token"]}
    assert (await client.post("/v1/auth/logout", json=body)).status_code == 204
    assert (await client.post("/v1/auth/refresh", json=body)).status_code == 401


async def test_what_a_guest_chose_comes_along(client: httpx.AsyncClient, deps: Deps) -> None:
    await factories.product(deps, "MUG", stock=5)
    cart = (await client.post("/v1/carts")).json()["id"]
    added = await client.post(f"/v1/carts/{cart}/lines", json={"sku": "MUG", "quantity": 2})
    assert added.status_code == 200, added.text
    await client.post("/v1/auth/register", json=ADA)
    tokens = (await client.post("/v1/auth/login", json=ADA)).json()
    mine = {"Authorization": f"Bearer {tokens['access_token']}", "X-Guest-Token": ""}
    seen = await client.get(f"/v1/carts/{cart}", headers=mine)
    assert seen.status_code == 200, seen.text
    assert [(line["sku"], line["quantity"]) for line in seen.json()["lines"]] == [("MUG", 2)]


STAFF_ONLY = (
    "/v1/users",
    "/v1/analytics/today",
    "/v1/analytics/sales?start=2026-01-01T00:00:00Z&end=2026-02-01T00:00:00Z",
    "/v1/ledger/balances",
)


@pytest.mark.parametrize("path", STAFF_ONLY)
async def test_the_desk_is_for_staff(
    client: httpx.AsyncClient, customer: Deps, merchant: Deps, path: str
) -> None:
    assert (await client.get(path)).status_code == 401
    assert (await client.get(path, headers=factories.bearer(customer))).status_code == 403
    assert (await client.get(path, headers=factories.bearer(merchant))).status_code == 200


async def test_figures_of_a_sale(client: httpx.AsyncClient, customer: Deps, merchant: Deps) -> None:
    await factories.product(customer, "MUG", price=1000, stock=5)
    placed = await factories.placed_order(customer, MUG=2)
    staff = factories.bearer(merchant)
    today = (await client.get("/v1/analytics/today", headers=staff)).json()
    assert (today["orders"], today["units"]) == (1, 2)
    assert today["revenue_amount"] == placed.total_amount
    now = customer.clock()
    for days, orders in ((-1, 1), (-3, 0)):
        end = now + timedelta(days=days + 2)
        period = {"start": (end - timedelta(days=2)).isoformat(), "end": end.isoformat()}
        report = await client.get("/v1/analytics/sales", params=period, headers=staff)
        assert report.json()["orders"] == orders
    reversed_ = {"start": now.isoformat(), "end": (now - timedelta(days=1)).isoformat()}
    refused = await client.get("/v1/analytics/sales", params=reversed_, headers=staff)
    assert (refused.status_code, refused.json()["code"]) == (422, "invalid_input")
    balances = (await client.get("/v1/ledger/balances", headers=staff)).json()
    assert balances
    assert sum(balance["balance_amount"] for balance in balances) == 0


async def test_messages_are_their_addressee_s(
    client: httpx.AsyncClient, customer: Deps, merchant: Deps
) -> None:
    await factories.product(customer, "MUG", stock=5)
    placed = await factories.placed_order(customer, MUG=1)
    async with customer.begin() as uow:
        await notification.queue_order_confirmation(uow, placed.id)  # type: ignore[arg-type]
    other = await factories.user(customer)

    async def listed(deps: Deps, **params: str) -> int:
        answer = await client.get(
            "/v1/notifications", params=params, headers=factories.bearer(deps)
        )
        assert answer.status_code == 200, answer.text
        return len(answer.json()["items"])

    assert (await listed(customer), await listed(other), await listed(merchant)) == (1, 0, 1)
    assert await listed(customer, status="sent") == 0
    assert await listed(customer, status="queued", template="order_confirmation") == 1


async def test_a_product_is_saved_under_its_own_address(
    client: httpx.AsyncClient, merchant: Deps
) -> None:
    body = {
        "handle": "mug",
        "title": "Mug",
        "variants": [{"sku": "MUG", "price_amount": 900, "currency": "EUR"}],
    }
    staff = factories.bearer(merchant)
    wrong = await client.put("/v1/products/cup", json=body, headers=staff)
    assert (wrong.status_code, wrong.json()["code"]) == (422, "invalid_input")
    assert (await client.put("/v1/products/mug", json=body, headers=staff)).status_code == 200
    assert (await client.get("/v1/products/mug")).json()["title"] == "Mug"
    assert (await client.get("/v1/products/cup")).status_code == 404
