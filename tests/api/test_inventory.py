"""Stock over HTTP: the contract that clients see."""

import asyncio
import json
from datetime import timedelta
from uuid import uuid4

import httpx
import pytest

from api.feed import Hub, stream
from db.types import OrderId, new_id
from deps.announcement import Announcements
from deps.core import Deps
from tests import factories
from tools import inventory, stock, stock_feed


@pytest.fixture
async def staff(client: httpx.AsyncClient, merchant: Deps) -> httpx.AsyncClient:
    await factories.product(merchant, "MUG", stock=10)
    await factories.product(merchant, "TEA", title="Tea", stock=5)
    await factories.receive(merchant, "MUG", 1, "ROT")
    client.headers.update(factories.bearer(merchant))
    return client


def key() -> dict[str, str]:
    return {"Idempotency-Key": str(uuid4())}


READS = (
    "/v1/stock",
    "/v1/stock/MUG/movements",
    "/v1/inventory/levels",
    "/v1/inventory/as-of?at=2026-01-31T00:00:00Z",
    "/v1/inventory/transfers",
    "/v1/inventory/counts",
    "/v1/inventory/locations",
    "/v1/inventory/rules",
)
WRITES: tuple[tuple[str, str, dict[str, object]], ...] = (
    ("POST", "/v1/stock/MUG/receipts", {"location": "HAM", "quantity": 1}),
    ("PUT", "/v1/stock/MUG/policy", {"policy": "deny"}),
    ("PATCH", "/v1/stock/MUG/levels/HAM", {"safety_stock": 1}),
    ("PUT", "/v1/stock/MUG/bundle", {"parts": []}),
    ("POST", "/v1/inventory/rebuild", {}),
    ("POST", "/v1/inventory/counts", {"location": "HAM"}),
    ("PUT", "/v1/inventory/rules", {"rules": []}),
    ("PUT", "/v1/inventory/locations/HAM", {"is_active": False}),
)


PLAN = {"source": "HAM", "target": "ROT", "lines": [{"sku": "MUG", "quantity": 4}]}


async def test_shoppers_are_refused_and_change_nothing(
    client: httpx.AsyncClient, customer: Deps
) -> None:
    await factories.product(customer, "MUG", stock=10)
    client.headers.update(factories.bearer(customer))
    for path in READS:
        assert (await client.get(path)).status_code == 403, path
    for method, path, body in WRITES:
        refused = await client.request(method, path, json=body, headers=key())
        assert refused.status_code == 403, path
    assert (await client.get("/v1/inventory/stream")).status_code == 403
    seen = (await client.get("/v1/stock/MUG")).json()
    assert (seen["available"], seen["levels"], seen["backordered"]) == (10, [], None)


async def test_every_list_and_view_answers_staff(staff: httpx.AsyncClient) -> None:
    for path in READS:
        answer = await staff.get(path)
        assert answer.status_code == 200, answer.text


async def test_receiving_is_applied_once_per_key(staff: httpx.AsyncClient) -> None:
    body = {"location": "HAM", "quantity": 5, "reason": "delivery note 4711"}
    assert (await staff.post("/v1/stock/MUG/receipts", json=body)).status_code == 400
    sent = key()
    first = await staff.post("/v1/stock/MUG/receipts", json=body, headers=sent)
    again = await staff.post("/v1/stock/MUG/receipts", json=body, headers=sent)
    assert first.json() == again.json()
    assert first.json()["available"] == 16
    moves = (await staff.get("/v1/stock/MUG/movements?kind=receive&location=HAM")).json()["items"]
    assert [move["on_hand_delta"] for move in moves] == [5, 10]


async def test_a_transfer_goes_all_the_way(staff: httpx.AsyncClient) -> None:
    made = await staff.post("/v1/inventory/transfers", json=PLAN, headers=key())
    assert (made.status_code, made.json()["status"]) == (201, "draft")
    place = f"/v1/inventory/transfers/{made.json()['id']}"
    assert (await staff.post(f"{place}/ship")).json()["status"] == "in_transit"
    part = {"lines": [{"sku": "MUG", "received": 3, "lost": 1, "reason": "broken"}]}
    assert (await staff.post(f"{place}/receive", json=part)).status_code == 400
    done = await staff.post(f"{place}/receive", json=part, headers=key())
    assert (done.json()["status"], done.json()["lines"][0]["lost"]) == ("received", 1)
    late = await staff.post(f"{place}/cancel", json={"reason": "too late"})
    assert (late.status_code, late.json()["code"]) == (409, "illegal_transition")
    listed = (await staff.get("/v1/inventory/transfers?status=received&target=ROT")).json()
    assert [item["id"] for item in listed["items"]] == [made.json()["id"]]
    assert (await staff.get(f"/v1/inventory/transfers/{uuid4()}")).status_code == 404


async def test_a_count_is_opened_recorded_and_closed(staff: httpx.AsyncClient) -> None:
    opened = await staff.post("/v1/inventory/counts", json={"location": "HAM"}, headers=key())
    place = f"/v1/inventory/counts/{opened.json()['id']}"
    line = await staff.put(f"{place}/lines/MUG", json={"counted": 9})
    assert line.json()["lines"][0]["difference"] == -1
    assert (await staff.post(f"{place}/close")).json()["status"] == "closed"
    assert (await staff.get("/v1/stock/MUG")).json()["available"] == 10
    assert (await staff.post(f"{place}/cancel")).status_code == 409


async def test_policies_thresholds_and_bundles(staff: httpx.AsyncClient, merchant: Deps) -> None:
    tomorrow = (merchant.clock() + timedelta(days=1)).date().isoformat()
    wanted = {"policy": "preorder", "backorder_limit": 5, "available_on": tomorrow}
    seen = (await staff.put("/v1/stock/TEA/policy", json=wanted)).json()
    assert (seen["available"], seen["in_stock"], seen["available_on"]) == (10, 5, tomorrow)
    undated = {"policy": "preorder", "backorder_limit": 5}
    refused = await staff.put("/v1/stock/TEA/policy", json=undated)
    assert (refused.status_code, refused.json()["code"]) == (422, "invalid_input")
    levels = (await staff.patch("/v1/stock/MUG/levels/HAM", json={"reorder_point": 10})).json()
    assert levels["levels"][0]["reorder_point"] == 10
    low = (await staff.get("/v1/inventory/levels?is_low=true&sort=scarcest")).json()["items"]
    assert [(item["sku"], item["location"]) for item in low] == [("MUG", "HAM")]
    await factories.product(merchant, "SET", title="Set", stock=0)
    parts = {"parts": [{"sku": "MUG", "quantity": 2}, {"sku": "TEA"}]}
    assert (await staff.put("/v1/stock/SET/bundle", json=parts)).json()["available"] == 5
    assert (await staff.get("/v1/stock/SET/bundle")).json()["parts"][0]["quantity"] == 2
    assert (await staff.get("/v1/stock/MUG/bundle")).status_code == 404


async def test_places_and_rules(staff: httpx.AsyncClient) -> None:
    there = {"name": "Rotterdam", "country_code": "nl", "latitude": 51.9, "longitude": 4.5}
    saved = (await staff.put("/v1/inventory/locations/ROT", json=there)).json()
    assert (saved["country_code"], saved["is_active"]) == ("NL", True)
    rules = {"rules": [{"kind": "fewest_splits"}, {"kind": "preferred", "location": "ROT"}]}
    assert len((await staff.put("/v1/inventory/rules", json=rules)).json()) == 2
    assert [r["kind"] for r in (await staff.get("/v1/inventory/rules")).json()] == [
        "fewest_splits",
        "preferred",
    ]
    area = {"latitude": 53.5, "longitude": 10.0}
    assert (await staff.put("/v1/inventory/postal-areas/DE/20", json=area)).status_code == 200


async def test_the_ledger_proves_the_counters(staff: httpx.AsyncClient) -> None:
    report = (await staff.post("/v1/inventory/rebuild", json={}, headers=key())).json()
    assert (report["levels"], report["different"], report["is_changed"]) == (3, 0, False)


@pytest.mark.parametrize(
    ("operation", "arguments"),
    [
        ("inventory/receive", {"sku": "MUG", "location": "HAM", "quantity": 2}),
        ("inventory/set_policy", {"sku": "MUG", "policy": "backorder", "backorder_limit": 3}),
        ("inventory/list_levels", {"sku_prefix": "MU"}),
        ("transfer/create", PLAN),
        ("stock_count/start", {"location": "HAM"}),
        ("stock_rule/replace", {"rules": [{"kind": "nearest"}]}),
        ("bundle/define", {"sku": "TEA", "parts": []}),
    ],
)
async def test_the_agent_reaches_the_operations(
    staff: httpx.AsyncClient, operation: str, arguments: dict[str, object]
) -> None:
    """In the role that agents' transactions run in, so every grant it needs is there."""
    call = {"arguments": arguments}
    answer = await staff.post(f"/v1/agents/{operation}", json=call, headers=key())
    expected = 409 if operation == "bundle/define" else 200  # TEA has stock of its own.
    assert answer.status_code == expected, answer.text


async def test_the_agent_is_not_asked_for_what_is_no_number(staff: httpx.AsyncClient) -> None:
    call = b'{"arguments": {"country_code": "DE", "latitude": 1e400, "longitude": 0}}'
    headers = {"Content-Type": "application/json", **key()}
    answer = await staff.post("/v1/agents/stock_rule/place_area", content=call, headers=headers)
    assert (answer.status_code, answer.json()["field"]) == (422, "latitude")


async def next_change(events: object) -> dict[str, object]:
    while True:
        chunk = (await asyncio.wait_for(anext(events), 60)).decode()  # type: ignore[call-overload]
        if "event: change" in chunk:
            data = next(line for line in chunk.splitlines() if line.startswith("data: "))
            found: dict[str, object] = json.loads(data.removeprefix("data: "))
            return found


async def test_the_stream_tells_every_movement_and_resumes(merchant: Deps) -> None:
    await factories.product(merchant, "MUG", stock=10)
    async with merchant.begin() as uow:
        seen = await stock_feed.latest(uow)
    async with merchant.begin() as uow:
        await inventory.reserve(uow, order_id=OrderId(new_id()), units={"MUG": 3})
    events = stream(Hub(merchant, stock_feed, Announcements(None)), merchant, seen)
    missed = await next_change(events)
    async with merchant.begin() as uow:
        await stock.receive(uow, "MUG", "HAM", 5)
    fresh = await next_change(events)
    await events.aclose()
    names = ("kind", "reserved_delta", "on_hand", "available")
    assert [missed[name] for name in names] == ["reserve", 3, 10, 7]
    assert [fresh[name] for name in names] == ["receive", 0, 15, 12]
    assert int(str(fresh["seq"])) > int(str(missed["seq"])) > seen
