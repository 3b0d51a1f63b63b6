"""Additive operations on the real application: their key is spent together with the effect."""

import httpx
from sqlalchemy import text

from deps.core import Deps
from tests import factories


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
