"""Money out by way of agents: proposed, shown, approved, and paid once."""

import asyncio
from typing import Any

import httpx
import pytest

from agents import domains
from db.models.user import Role
from deps.core import Deps
from deps.scripted import ScriptedGateway
from tests import factories
from tests.api.test_refunds import headers
from tools import action
from tools.errors import DomainError, Forbidden
from tools.invariant import check
from tools.order import OrderView
from tools.registry import OPERATIONS
from tools.surface import load_operations


@pytest.fixture
async def placed(customer: Deps) -> OrderView:
    await factories.product(customer, "MUG", price=1250, stock=9)
    return await factories.placed_order(customer, MUG=2)


def test_every_operation_has_an_agent() -> None:
    load_operations()
    served = {
        op.key: domains.domain_of(op)
        for op in OPERATIONS.values()
        if op.domain in ("refund", "credit", "capture")
    }
    assert served["refund.request"] is domains.Domain.REFUND
    assert served["credit.redeem"] is domains.Domain.PAYMENT
    assert served["capture.take"] is domains.Domain.PAYMENT
    for key, domain in served.items():
        assert key in {op.key for op in domains.operations_in(domain)}


async def test_a_refund_waits_for_its_approval_and_is_paid_once(
    deps: Deps, merchant: Deps, placed: OrderView, gateway: ScriptedGateway
) -> None:
    asked = {"number": placed.number, "reason": "it broke", "lines": {"MUG": 1}}
    shown = await action.propose(merchant, OPERATIONS["refund.request"], asked)
    assert shown.preview["refund_amount"] == 1_250
    assert shown.preview["parts"][0]["provider"] == "scripted"
    assert sum(gateway.charges.values()) == placed.total_amount
    outcomes = await asyncio.gather(
        *(action.approve(merchant, shown.id) for _ in range(8)), return_exceptions=True
    )
    assert all(isinstance(o, action.ActionView | DomainError) for o in outcomes), outcomes
    done = await action.approve(merchant, shown.id)
    assert done.result is not None
    assert (done.result["state"], done.result["amount"]) == ("succeeded", 1_250)
    assert sum(gateway.charges.values()) == placed.total_amount - 1_250
    assert await check(deps) == []


@pytest.mark.parametrize(
    ("key", "arguments"),
    [
        ("refund.request", {"number": 1001, "reason": "x"}),
        ("refund.retry", {"refund_id": "01a1fef1-2389-74e1-b775-90a888339d3d"}),
        ("credit.issue_gift_card", {"amount": 5}),
        ("credit.grant", {"email": "a@example.com", "amount": 5, "reason": "x"}),
        ("capture.take", {"number": 1001}),
        ("capture.release", {"number": 1001}),
    ],
)
async def test_a_shopper_cannot_even_propose_it(
    customer: Deps, placed: OrderView, key: str, arguments: dict[str, Any]
) -> None:
    load_operations()
    with pytest.raises(Forbidden):
        await action.propose(customer, OPERATIONS[key], arguments)


async def test_a_gift_card_is_issued_once_and_its_code_stays_out_of_it(
    deps: Deps, merchant: Deps
) -> None:
    load_operations()
    operation = OPERATIONS["credit.issue_gift_card"]
    shown = await action.propose(merchant, operation, {"amount": 700})
    done = await action.approve(merchant, shown.id)
    again = await action.approve(merchant, shown.id)
    assert done.result == again.result
    assert done.result is not None
    assert (done.result["available_amount"], done.result["has_code"]) == (700, False)
    assert await check(deps) == []


async def test_capturing_over_http(
    client: httpx.AsyncClient, merchant: Deps, placed: OrderView
) -> None:
    path = f"/v1/orders/{placed.number}"
    r = await client.post(f"{path}/capture", json={}, headers=factories.bearer(merchant))
    assert (r.status_code, r.json()["code"]) == (400, "idempotency_key_required")
    r = await client.post(f"{path}/capture", json={}, headers=headers(merchant))
    assert [p["state"] for p in r.json()] == ["captured"]
    r = await client.post(f"{path}/capture", json={"amount": 1}, headers=headers(merchant))
    assert (r.status_code, r.json()["code"]) == (409, "not_capturable")
    r = await client.post(f"{path}/release", headers=headers(merchant))
    assert [p["state"] for p in r.json()] == ["captured"]
    customer = await factories.user(merchant, role=Role.CUSTOMER)
    for each in ("capture", "release"):
        r = await client.post(f"{path}/{each}", json={}, headers=headers(customer))
        assert r.status_code == 403
