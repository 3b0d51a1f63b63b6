"""Changes, returns and exchanges over HTTP, and through agents: the contract that clients see."""

from uuid import UUID, uuid4

import httpx
import pytest

from agents.base import WAITING, call_operation
from db.types import new_id
from deps.core import Deps
from tests import aftersales as shop
from tests import factories
from tools import action
from tools.address import Address
from tools.line_change import LineChange
from tools.registry import OPERATIONS

SWAP = [{"sku": "LAMP-STEEL", "new_sku": "LAMP-OAK"}]


def signed(deps: Deps, key: str | None = None) -> dict[str, str]:
    return {**factories.bearer(deps), "Idempotency-Key": key or str(uuid4())}


async def test_an_order_is_changed_shipped_and_exchanged(
    client: httpx.AsyncClient, customer: Deps, merchant: Deps
) -> None:
    await shop.lamp(customer)
    method = str(await shop.card(customer))
    placed = await shop.ordered(customer, steel=1)
    path, mine, staff = f"/v1/orders/{placed.number}", signed(customer), factories.bearer(merchant)
    body = {"changes": SWAP, "payment_method": method}

    shown = await client.post(
        f"{path}/edits/preview", json=body, headers=factories.bearer(customer)
    )
    assert (shown.status_code, shown.json()["charge_amount"]) == (200, 3400), shown.text
    first = await client.post(f"{path}/edits", json=body, headers=mine)
    again = await client.post(f"{path}/edits", json=body, headers=mine)
    assert first.status_code == 200, first.text
    assert again.json() == first.json()
    assert first.json()["total_amount"] == placed.total_amount + 3400
    edits = (await client.get(f"{path}/edits", headers=mine)).json()
    assert [edit["kind"] for edit in edits] == ["items"]

    r = await client.post(f"{path}/ship", json={"tracking_number": "T-1"}, headers=signed(merchant))
    assert r.json()["state"] == "shipped", r.text
    r = await client.post(f"{path}/deliver", headers=signed(merchant))
    assert r.json()["state"] == "delivered", r.text
    back = {"changes": [{"sku": "LAMP-OAK", "new_sku": "LAMP-STEEL"}], "reason": "too dark"}
    r = await client.post(f"{path}/exchanges", json=back, headers=signed(customer))
    assert (r.status_code, r.json()["difference_amount"]) == (201, -3400), r.text
    asked = r.json()["id"]
    r = await client.post(f"/v1/exchanges/{asked}/receive", json={}, headers=signed(merchant))
    assert r.json()["state"] == "completed", r.text
    parcels = (await client.get(f"{path}/parcels", headers=staff)).json()
    assert len(parcels) == 2


async def test_a_return_is_asked_for_and_taken_in(
    client: httpx.AsyncClient, customer: Deps, merchant: Deps
) -> None:
    await shop.lamp(customer)
    placed = await shop.delivered(customer, steel=2)
    path = f"/v1/orders/{placed.number}/returns"
    body = {"lines": [{"sku": "LAMP-STEEL", "quantity": 1}], "reason": "too small"}
    shown = await client.post(f"{path}/preview", json=body, headers=signed(customer))
    assert shown.json()["refund_amount"] == 6500, shown.text

    asked = await client.post(path, json=body, headers=signed(customer))
    assert asked.status_code == 201, asked.text
    received = f"/v1/returns/{asked.json()['id']}/receive"
    refused = await client.post(received, json={}, headers=signed(customer))
    assert refused.status_code == 403
    done = await client.post(received, json={}, headers=signed(merchant))

    assert done.json()["state"] == "completed", done.text
    assert [row["state"] for row in (await client.get(path, headers=signed(customer))).json()] == [
        "completed"
    ]


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("edits", {"changes": SWAP}),
        ("edits/preview", {"changes": SWAP}),
        ("returns", {"lines": [{"sku": "LAMP-STEEL"}]}),
        ("exchanges", {"changes": SWAP}),
        ("payment/preview", {"payment_method": str(new_id())}),
        ("shipping-address/preview", factories.ADDRESS.model_dump()),
    ],
)
async def test_another_persons_order_is_as_absent_as_none(
    client: httpx.AsyncClient, customer: Deps, path: str, body: dict[str, object]
) -> None:
    await shop.lamp(customer)
    stranger = await factories.user(customer)
    placed = await shop.ordered(customer, steel=1)

    answers = [
        await client.post(f"/v1/orders/{number}/{path}", json=body, headers=signed(stranger))
        for number in (placed.number, 987_654)
    ]

    assert [answer.status_code for answer in answers] == [404, 404]
    assert answers[0].json()["code"] == answers[1].json()["code"] == "not_found"
    assert answers[0].json()["detail"] == answers[1].json()["detail"]


async def test_guests_sign_in_first(client: httpx.AsyncClient, customer: Deps) -> None:
    await shop.lamp(customer)
    placed = await shop.ordered(customer, steel=1)

    r = await client.post(
        f"/v1/orders/{placed.number}/edits",
        json={"changes": SWAP},
        headers={"Idempotency-Key": str(uuid4())},
    )

    assert r.status_code == 401


async def test_the_policy_is_read_by_all_and_set_by_staff(
    client: httpx.AsyncClient, customer: Deps, merchant: Deps
) -> None:
    wanted = {"item_edits_max": 1, "return_window_days": None, "cancel_reasons": ["too late"]}
    assert (await client.get("/v1/aftersales-policy")).json()["return_window_days"] == 30
    r = await client.put("/v1/aftersales-policy", json=wanted, headers=signed(customer))
    assert r.status_code == 403

    r = await client.put("/v1/aftersales-policy", json=wanted, headers=signed(merchant))

    assert r.status_code == 200, r.text
    now = (await client.get("/v1/aftersales-policy")).json()
    assert {name: now[name] for name in wanted} == wanted


async def test_an_account_shows_address_methods_and_orders(
    client: httpx.AsyncClient, customer: Deps, merchant: Deps
) -> None:
    await shop.lamp(customer)
    await shop.card(customer)
    await shop.gift_card(customer, 700)
    placed = await shop.ordered(customer, steel=1)
    mine, staff = factories.bearer(customer), factories.bearer(merchant)
    assert (await client.get("/v1/me/address", headers=mine)).status_code == 404
    address = factories.ADDRESS.model_dump()
    r = await client.put("/v1/me/address", json=address, headers=signed(customer))
    assert r.status_code == 200, r.text

    shown = (await client.get("/v1/me/account", headers=mine)).json()

    assert shown["address"] == address
    assert [row["balance_amount"] for row in shown["payment_methods"]] == [None, 700]
    assert shown["order_numbers"] == [placed.number]
    found = await client.get("/v1/customers", params={"email": shown["email"]}, headers=staff)
    assert [row["id"] for row in found.json()] == [shown["id"]], found.text
    where = {"name": " ada ", "postal_code": "20457"}
    found = await client.get("/v1/customers", params=where, headers=staff)
    assert [row["id"] for row in found.json()] == [shown["id"]], found.text
    r = await client.get(f"/v1/customers/{shown['id']}", headers=staff)
    assert r.json() == shown
    assert (await client.get("/v1/customers", params=where, headers=mine)).status_code == 403


async def test_an_agent_proposes_and_only_approval_changes_the_order(customer: Deps) -> None:
    await shop.lamp(customer)
    method = await shop.card(customer)
    placed = await shop.ordered(customer, steel=1)
    arguments = {
        "number": placed.number,
        "changes": [LineChange(sku="LAMP-STEEL", new_sku="LAMP-OAK")],
        "payment_method": method,
    }

    answer = await call_operation(customer, OPERATIONS["order_edit.modify_items"], arguments)

    assert answer["kind"] == WAITING
    assert await shop.tenders(customer, placed) == [("tok_visa", placed.total_amount, 0)]
    action_id = UUID(answer["data"]["id"])
    for _ in range(2):
        await action.approve(customer, action_id)
    assert [row[1] for row in await shop.tenders(customer, placed)] == [placed.total_amount, 3400]


@pytest.mark.parametrize("key", ["order_edit.modify_address", "address.set_default"])
async def test_agents_do_not_move_parcels_without_approval(customer: Deps, key: str) -> None:
    await shop.lamp(customer)
    placed = await shop.ordered(customer, steel=1)
    elsewhere = Address(**{**factories.ADDRESS.model_dump(), "city": "Bremen"})
    arguments: dict[str, object] = {"address": elsewhere}
    if key == "order_edit.modify_address":
        arguments["number"] = placed.number

    answer = await call_operation(customer, OPERATIONS[key], arguments)

    assert answer["kind"] == WAITING
