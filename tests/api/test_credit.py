"""Gift cards and store credit over HTTP: who may, what is shown once, and what a retry does."""

from uuid import UUID, uuid4

import httpx
import pytest
from sqlalchemy import text

from db.models.user import Role
from deps.core import Deps
from deps.scripted import ScriptedGateway
from tests import factories
from tests.api.test_sale import ready_cart
from tools.invariant import check


def headers(deps: Deps) -> dict[str, str]:
    return factories.bearer(deps) | {"Idempotency-Key": str(uuid4())}


async def issued(client: httpx.AsyncClient, merchant: Deps, amount: int) -> tuple[str, str]:
    made = await client.post("/v1/gift-cards", json={"amount": amount}, headers=headers(merchant))
    assert made.status_code == 201, made.text
    shown = await client.post(
        f"/v1/gift-cards/{made.json()['id']}/code", headers=factories.bearer(merchant)
    )
    assert shown.status_code == 200, shown.text
    return made.json()["id"], shown.json()["code"]


async def test_a_code_is_shown_once_and_never_replayed(
    client: httpx.AsyncClient, merchant: Deps
) -> None:
    key = headers(merchant)
    first = await client.post("/v1/gift-cards", json={"amount": 500}, headers=key)
    again = await client.post("/v1/gift-cards", json={"amount": 500}, headers=key)
    assert first.content == again.content
    assert "code" not in first.json()
    path = f"/v1/gift-cards/{first.json()['id']}/code"
    key = headers(merchant)
    shown = await client.post(path, headers=key)
    assert shown.headers["cache-control"] == "no-store"
    code = shown.json()["code"]
    for retry in (key, headers(merchant)):
        r = await client.post(path, headers=retry)
        assert r.status_code == 409, r.text
        assert code not in r.text
    async with merchant.begin() as uow:
        kept = await uow.session.execute(text("SELECT body FROM idempotency_key"))
        assert all(code.encode() not in (row.body or b"") for row in kept)


async def test_a_guest_pays_with_a_gift_card_and_a_card(
    client: httpx.AsyncClient, deps: Deps, merchant: Deps, gateway: ScriptedGateway
) -> None:
    await factories.product(deps, "MUG", price=1250, stock=10)
    _, code = await issued(client, merchant, 1_000)
    cart_id = await ready_cart(client, quantity=2)
    path = f"/v1/carts/{cart_id}/credit"
    chosen = await client.put(path, json={"codes": [code]})
    assert chosen.status_code == 200, chosen.text
    assert (chosen.json()["credit_amount"], chosen.json()["payable_amount"]) == (1_000, 1_990)
    assert (await client.get(path)).json() == chosen.json()
    assert (await client.get(f"/v1/carts/{cart_id}")).json()["uses_credit"] is True
    r = await client.post(
        f"/v1/carts/{cart_id}/complete",
        json={"payment_method": "tok_visa", "expected_total_amount": 2990},
        headers={"Idempotency-Key": str(uuid4())},
    )
    assert (r.status_code, r.json()["payment_status"]) == (200, "captured"), r.text
    paid = await client.get(
        f"/v1/orders/{r.json()['number']}/payments", headers=factories.bearer(merchant)
    )
    assert [(p["provider"], p["captured_amount"]) for p in paid.json()] == [
        ("credit", 1_000),
        ("scripted", 1_990),
    ]
    assert (await client.put(path, json={"codes": []})).status_code == 409
    assert await check(deps) == []


async def test_no_client_names_an_account_to_pay_with(
    client: httpx.AsyncClient, deps: Deps, merchant: Deps, gateway: ScriptedGateway
) -> None:
    """A gift card's id is no secret: it must not spend the card as a payment method."""
    await factories.product(deps, "MUG", price=1250, stock=10)
    card, _ = await issued(client, merchant, 5_000)
    cart_id = await ready_cart(client)
    r = await client.post(
        f"/v1/carts/{cart_id}/complete",
        json={"payment_method": card},
        headers={"Idempotency-Key": str(uuid4())},
    )
    shown = await client.get("/v1/credit/accounts", headers=factories.bearer(merchant))
    assert shown.json()["items"][0]["available_amount"] == 5_000, r.text


async def test_redeem_spend_and_follow(
    client: httpx.AsyncClient, deps: Deps, customer: Deps, merchant: Deps
) -> None:
    card, code = await issued(client, merchant, 1_000)
    me = factories.bearer(customer)
    for _ in range(2):
        r = await client.post("/v1/credit/redeem", json={"code": code.lower()}, headers=me)
        assert (r.status_code, r.json()["available_amount"]) == (200, 1_000), r.text
    assert (await client.get("/v1/credit", headers=me)).json()["available_amount"] == 1_000
    moves = await client.get("/v1/credit/movements", headers=me)
    assert [m["balance_delta"] for m in moves.json()["items"]] == [1_000]
    stranger = factories.bearer(await factories.user(deps, role=Role.CUSTOMER))
    taken = await client.post("/v1/credit/redeem", json={"code": code}, headers=stranger)
    absent = await client.post(
        "/v1/credit/redeem", json={"code": "0000-0000-0000-0000-0000"}, headers=stranger
    )
    for r in (taken, absent):
        assert r.status_code == 404
    assert taken.json()["detail"] == absent.json()["detail"]
    foreign = await client.get(
        "/v1/credit/movements", params={"account_id": card}, headers=stranger
    )
    assert foreign.status_code == 404


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", "/v1/gift-cards", {"amount": 5}),
        ("POST", f"/v1/gift-cards/{UUID(int=7)}/code", None),
        ("POST", "/v1/credit/grants", {"email": "a@example.com", "amount": 5, "reason": "x"}),
        ("GET", "/v1/credit/accounts", None),
        ("PUT", f"/v1/credit/accounts/{UUID(int=7)}/active", {"is_active": False}),
    ],
)
async def test_staff_only(
    client: httpx.AsyncClient,
    customer: Deps,
    method: str,
    path: str,
    body: dict[str, object] | None,
) -> None:
    r = await client.request(method, path, json=body, headers=headers(customer))
    assert r.status_code == 403
    r = await client.request(method, path, json=body, headers={"Idempotency-Key": str(uuid4())})
    assert r.status_code == 401


async def test_grant_deactivate_and_list(
    client: httpx.AsyncClient, customer: Deps, merchant: Deps
) -> None:
    async with merchant.begin() as uow:
        email = await uow.session.scalar(
            text("SELECT email FROM app_user WHERE id = :id"), {"id": customer.actor.user_id}
        )
    body = {"email": email, "amount": 700, "reason": "late"}
    key = headers(merchant)
    first = await client.post("/v1/credit/grants", json=body, headers=key)
    again = await client.post("/v1/credit/grants", json=body, headers=key)
    assert (first.status_code, first.content) == (201, again.content)
    me = factories.bearer(customer)
    assert (await client.get("/v1/credit", headers=me)).json()["available_amount"] == 700
    account, staff = first.json()["id"], factories.bearer(merchant)
    switch = f"/v1/credit/accounts/{account}/active"
    await client.put(switch, json={"is_active": False}, headers=staff)
    assert (await client.get("/v1/credit", headers=me)).json()["available_amount"] == 0
    await issued(client, merchant, 100)
    for query, count in (
        ({}, 2),
        ({"kind": "gift_card"}, 1),
        ({"kind": "store_credit"}, 1),
        ({"is_active": False}, 1),
        ({"last4": "0OIL"}, 0),
    ):
        r = await client.get("/v1/credit/accounts", params=query, headers=staff)
        assert len(r.json()["items"]) == count, query
    page = await client.get("/v1/credit/accounts", params={"limit": 1}, headers=staff)
    rest = await client.get(
        "/v1/credit/accounts",
        params={"limit": 1, "cursor": page.json()["next_cursor"]},
        headers=staff,
    )
    assert [rest.json()["items"][0]["id"], rest.json()["next_cursor"]] == [account, None]
    assert await check(merchant) == []
