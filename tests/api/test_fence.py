"""Additive operations on the real application: their key is spent together with the effect."""

from typing import Any
from uuid import uuid4

import httpx
import pytest
from sqlalchemy import text

from deps.core import Deps
from tests import factories
from tools import idempotency
from tools.errors import IdempotencyInFlight
from tools.registry import OPERATIONS
from tools.surface import load_operations
from tools.transfer import TransferUnits

load_operations()


async def test_adjustment_whose_answer_was_lost_is_not_repeated(
    client: httpx.AsyncClient, deps: Deps, merchant: Deps
) -> None:
    await factories.product(deps, "MUG", stock=10)
    headers = {**factories.bearer(merchant), "Idempotency-Key": "k-1"}
    body = {"location": "HAM", "delta": 5, "reason": "counted"}

    first = await client.post("/v1/stock/MUG/adjustments", json=body, headers=headers)
    assert first.status_code < 300, first.text
    replayed = await client.post("/v1/stock/MUG/adjustments", json=body, headers=headers)
    assert replayed.content == first.content

    # As if the process had died after the commit and before it stored the answer.
    async with deps.begin() as uow:
        lost = "UPDATE idempotency_key SET status_code = 204, body = NULL, content_type = NULL"
        await (await uow.session.connection()).execute(text(lost))
    again = await client.post("/v1/stock/MUG/adjustments", json=body, headers=headers)
    assert (again.status_code, again.content) == (204, b"")
    stock = (await client.get("/v1/stock/MUG", headers=headers)).json()
    assert stock["levels"][0]["on_hand"] == 15


async def test_refused_adjustment_leaves_its_key_free(
    client: httpx.AsyncClient, deps: Deps, merchant: Deps
) -> None:
    await factories.product(deps, "MUG", stock=10)
    headers = {**factories.bearer(merchant), "Idempotency-Key": "k-1"}
    url = "/v1/stock/MUG/adjustments"
    wrong = {"location": "HAM", "delta": 0, "reason": "counted"}
    assert (await client.post(url, json=wrong, headers=headers)).status_code == 422
    right = {**wrong, "delta": 1}
    assert (await client.post(url, json=right, headers=headers)).status_code < 300


async def claimed(deps: Deps, key: str) -> idempotency.Claim:
    held = await idempotency.claim(deps, scope="test", key=key, request_sha256="0" * 64)
    assert isinstance(held, idempotency.Claim)
    return held


async def called(deps: Deps, held: idempotency.Claim, operation: str, /, **given: Any) -> Any:
    """Call an operation for a request whose answer is never kept: the process dies before."""
    token = idempotency.current_claim.set(held)
    try:
        return await OPERATIONS[operation](deps, **given)
    finally:
        idempotency.current_claim.reset(token)


async def test_what_adds_spends_its_key_with_its_effect(deps: Deps, merchant: Deps) -> None:
    staff = factories.by_hand(merchant)
    await factories.user(deps, email="person@example.com")
    await factories.product(deps, "MUG", price=1000, stock=10)
    await factories.receive(deps, "MUG", 1, "ROT")
    taken = await factories.placed_order(factories.guest(factories.by_hand(deps)), MUG=1)
    paid = await factories.placed_order(factories.guest(deps), MUG=1)

    async def spends(operation: str, /, **given: Any) -> Any:
        key = uuid4().hex
        answer = await called(staff, await claimed(staff, key), operation, **given)
        kept = "SELECT status_code FROM idempotency_key WHERE key = $1"
        assert await staff.hot.fetchval(kept, key) == 204, operation
        return answer

    here = {"sku": "MUG", "location": "HAM"}
    await spends("inventory.adjust", **here, delta=1, reason="found")
    await spends("inventory.receive", **here, quantity=1)
    await spends("cart.add_item", sku="MUG")
    await spends("stock_count.start", location="HAM")
    lines = [TransferUnits(sku="MUG", quantity=1)]
    moved = (await spends("transfer.create", source="HAM", target="ROT", lines=lines)).id
    await OPERATIONS["transfer.ship"](staff, transfer_id=moved)
    await spends("transfer.receive", transfer_id=moved)
    await spends("transfer.take_back", transfer_id=moved)
    await spends("credit.issue_gift_card", amount=100)
    await spends("credit.grant", email="person@example.com", amount=100, reason="late")
    await spends("capture.take", number=taken.number, amount=100)
    await spends("refund.request", number=paid.number, reason="broken", amount=100)


async def test_who_lost_the_key_to_another_request_adds_nothing(deps: Deps, merchant: Deps) -> None:
    await factories.product(deps, "MUG", stock=10)
    lost = await claimed(merchant, "k-1")
    await claimed(factories.later(merchant, minutes=2), "k-1")
    with pytest.raises(IdempotencyInFlight):
        await called(merchant, lost, "inventory.receive", sku="MUG", location="HAM", quantity=1)
    seen = await OPERATIONS["inventory.levels"](merchant, sku="MUG")
    assert seen.available == 10
