"""Taking back over HTTP: what clients call, and who may."""

from uuid import uuid4

import httpx
import pytest

from deps.core import SYSTEM, Deps
from tests import aftersales as shop
from tests import factories
from tools import credit_code, credit_desk

PLAN = {"source": "HAM", "target": "ROT", "lines": [{"sku": "MUG", "quantity": 4}]}


def signed(deps: Deps) -> dict[str, str]:
    return {**factories.bearer(deps), "Idempotency-Key": str(uuid4())}


@pytest.fixture
async def staff(client: httpx.AsyncClient, merchant: Deps) -> httpx.AsyncClient:
    await factories.product(merchant, "MUG", stock=10)
    await factories.receive(merchant, "MUG", 1, "ROT")
    client.headers.update(factories.bearer(merchant))
    return client


async def test_a_count_is_struck_out_and_reopened(staff: httpx.AsyncClient) -> None:
    opened = (await staff.post("/v1/inventory/counts", json={"location": "HAM"})).json()
    path = f"/v1/inventory/counts/{opened['id']}"
    line = f"{path}/lines/MUG"
    assert (await staff.put(line, json={"counted": 9})).status_code == 200
    assert (await staff.delete(line)).json()["lines"] == []
    await staff.put(line, json={"counted": 9})
    assert (await staff.post(f"{path}/close")).json()["status"] == "closed"
    assert (await staff.delete(line)).status_code == 409
    r = await staff.post(f"{path}/reopen")
    assert (r.status_code, r.json()["status"], r.json()["closed_at"]) == (200, "open", None)


async def test_an_arrival_is_taken_back_once_per_key(
    staff: httpx.AsyncClient, merchant: Deps
) -> None:
    planned = (await staff.post("/v1/inventory/transfers", json=PLAN)).json()
    path = f"/v1/inventory/transfers/{planned['id']}"
    await staff.post(f"{path}/ship")
    some = {"lines": [{"sku": "MUG", "received": 2}]}
    await staff.post(f"{path}/receive", json=some, headers=signed(merchant))
    one = {"lines": [{"sku": "MUG", "received": 1}]}
    assert (await staff.post(f"{path}/take-back", json=one)).status_code == 400
    headers = signed(merchant)
    for _ in range(2):
        r = await staff.post(f"{path}/take-back", json=one, headers=headers)
        assert (r.status_code, r.json()["lines"][0]["received"]) == (200, 1), r.text
    await staff.post(f"{path}/cancel", json={"reason": "no lorry"})
    r = await staff.post(f"{path}/reopen")
    assert (r.json()["status"], r.json()["lines"][0]["outstanding"]) == ("in_transit", 3), r.text


async def test_shipping_and_delivery_are_taken_back_by_staff(
    client: httpx.AsyncClient, customer: Deps, merchant: Deps
) -> None:
    await shop.lamp(customer)
    placed = await shop.delivered(customer, oak=1)
    path = f"/v1/orders/{placed.number}"
    for step, state in (("undeliver", "shipped"), ("unship", "cancelled")):
        refused = await client.post(f"{path}/{step}", headers=signed(customer))
        assert refused.status_code == 403
        r = await client.post(f"{path}/{step}", headers=signed(merchant))
        assert (r.status_code, r.json()["state"]) == (200, state), r.text
    again = await client.post(f"{path}/undeliver", headers=signed(merchant))
    assert again.status_code == 409


@pytest.mark.parametrize("kind", ["returns", "exchanges"])
async def test_what_was_withdrawn_is_wanted_after_all(
    client: httpx.AsyncClient, customer: Deps, kind: str
) -> None:
    await shop.lamp(customer)
    placed = await shop.delivered(customer, oak=1)
    body = {
        "returns": {"lines": [{"sku": "LAMP-OAK", "quantity": 1}]},
        "exchanges": {"changes": [{"sku": "LAMP-OAK", "new_sku": "LAMP-STEEL"}]},
    }[kind]
    asked = await client.post(
        f"/v1/orders/{placed.number}/{kind}", json=body, headers=signed(customer)
    )
    path = f"/v1/{kind}/{asked.json()['id']}"
    assert (await client.post(f"{path}/cancel", headers=signed(customer))).status_code == 200
    stranger = await factories.user(customer)
    assert (await client.post(f"{path}/reopen", headers=signed(stranger))).status_code == 404
    r = await client.post(f"{path}/reopen", headers=signed(customer))
    assert (r.status_code, r.json()["state"]) == (200, "requested"), r.text


async def test_whoever_asked_for_a_person_closes_and_reopens_the_case(
    client: httpx.AsyncClient, customer: Deps
) -> None:
    mine = signed(customer)
    asked = await client.post("/v1/handovers", json={"reason": "broken"}, headers=mine)
    path = f"/v1/handovers/{asked.json()['number']}"
    stranger = await factories.user(customer)
    for step, body, status in (("resolve", {"note": "mended"}, "resolved"), ("reopen", {}, "open")):
        refused = await client.post(f"{path}/{step}", json=body, headers=signed(stranger))
        assert refused.status_code == 404
        r = await client.post(f"{path}/{step}", json=body, headers=signed(customer))
        assert (r.status_code, r.json()["status"]) == (200, status), r.text


async def test_a_gift_card_is_handed_back(client: httpx.AsyncClient, customer: Deps) -> None:
    async with customer.acting_as(SYSTEM).begin() as uow:
        card = await credit_desk.issue_gift_card(uow, 1_000)
        code = (await credit_code.reveal(uow, card.id)).code
    path = f"/v1/credit/{card.id}/hand-back"
    stranger = await factories.user(customer)
    redeemed = await client.post("/v1/credit/redeem", json={"code": code}, headers=signed(customer))
    assert redeemed.status_code == 200, redeemed.text
    assert (await client.post(path, headers=signed(stranger))).status_code == 404
    assert (await client.post(path, headers=signed(customer))).status_code == 200
    taken = await client.post("/v1/credit/redeem", json={"code": code}, headers=signed(stranger))
    assert taken.status_code == 200, taken.text


async def test_a_location_and_a_postal_area_are_forgotten_by_staff(
    staff: httpx.AsyncClient, customer: Deps
) -> None:
    place, area = "/v1/inventory/locations/BER", "/v1/inventory/postal-areas/DE/10"
    await staff.put(place, json={"name": "Berlin"})
    await staff.put(area, json={"latitude": 52.5, "longitude": 13.4})
    for path in (place, area):
        refused = await staff.delete(path, headers=factories.bearer(customer))
        assert refused.status_code == 403
    assert [left["code"] for left in (await staff.delete(place)).json()] == ["HAM", "ROT"]
    assert (await staff.delete(area)).json()["latitude"] == 52.5
    for path in (place, area):
        assert (await staff.delete(path)).status_code == 404
    assert (await staff.delete("/v1/inventory/locations/HAM")).status_code == 409


async def test_where_a_cart_goes_is_forgotten_by_its_owner(
    client: httpx.AsyncClient, merchant: Deps, customer: Deps
) -> None:
    await factories.product(merchant, "MUG", stock=10)
    filled = await factories.filled_cart(customer, MUG=1)
    path = f"/v1/carts/{filled.id}/details"
    assert (await client.delete(path, headers=factories.bearer(merchant))).status_code == 404
    r = await client.delete(path, headers=factories.bearer(customer))
    told = r.json()
    assert (r.status_code, told["email"], told["shipping_address"]) == (200, None, None)
    assert [problem["field"] for problem in told["problems"]] == [
        "email", "shipping_address", "shipping_method",
    ]  # fmt: skip
