"""Lists over HTTP: walked page by page in every order, they lose and repeat nothing."""

import itertools
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import httpx
import pytest

from db.models.audit import AuditRun
from db.models.reconciliation import ReconciliationRun
from db.models.webhook import WebhookEvent, WebhookState
from deps.core import SYSTEM, Deps
from tests import factories
from tools import conversation, credit_desk, handover, stock, stock_count, transfer


async def _walk(
    client: httpx.AsyncClient, path: str, headers: dict[str, str], **params: Any
) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    cursor = None
    for _ in range(50):
        page = await client.get(
            path,
            params={**params, "limit": 2} | ({"cursor": cursor} if cursor else {}),
            headers=headers,
        )
        assert page.status_code == 200, page.text
        found += page.json()["items"]
        cursor = page.json()["next_cursor"]
        if cursor is None:
            return found
    raise AssertionError("the list does not end")


ORDERS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "newest": lambda item: -item["number"],
    "oldest": lambda item: item["number"],
    "largest": lambda item: (-item["total_amount"], -item["number"]),
    "smallest": lambda item: (item["total_amount"], item["number"]),
}


@pytest.mark.parametrize("sort", ORDERS)
async def test_orders(deps: Deps, merchant: Deps, client: httpx.AsyncClient, sort: str) -> None:
    await factories.product(deps, "MUG", stock=50)
    for quantity in (2, 1, 3, 1, 2):
        await factories.placed_order(factories.guest(deps), MUG=quantity)
    headers = factories.bearer(merchant)
    everyone = await _walk(client, "/v1/orders", headers, sort=sort, status="placed")
    assert len({item["number"] for item in everyone}) == 5
    assert everyone == sorted(everyone, key=ORDERS[sort])
    mine = await _walk(client, "/v1/orders", {}, sort=sort)
    assert mine == everyone
    assert await _walk(client, "/v1/orders", headers, payment_status="refunded") == []
    assert await _walk(client, "/v1/orders", headers, until="2020-01-01T00:00:00Z") == []


@pytest.mark.parametrize("sort", ORDERS)
async def test_orders_in_some_states_are_one_list(
    deps: Deps, merchant: Deps, client: httpx.AsyncClient, sort: str
) -> None:
    """Whatever states are left open, orders of all of them come in the one order, page by page."""
    await factories.product(deps, "MUG", stock=50)
    of_states: dict[int, tuple[str, ...]] = {}
    for place, states in enumerate(_STATES * 2):
        number = (await factories.placed_order(factories.guest(deps), MUG=1 + place * 3 % 5)).number
        of_states[number] = states
        async with deps.acting_as(SYSTEM).begin() as uow:
            await uow.fetch(
                "UPDATE orders SET status = $2, payment_status = $3, fulfillment_status = $4,"
                " created_at = created_at + number % 7 * interval '1 minute' WHERE number = $1",
                *(number, *states),
            )
    names = ("status", "payment_status", "fulfillment_status")
    headers = factories.bearer(merchant)
    for count in (1, 2, 3):
        for chosen in itertools.combinations(range(3), count):
            for states in {tuple(state[at] for at in chosen) for state in _STATES}:
                wanted = dict(zip((names[at] for at in chosen), states, strict=True))
                found = await _walk(client, "/v1/orders", headers, sort=sort, **wanted)
                assert {item["number"] for item in found} == {
                    number
                    for number, of in of_states.items()
                    if tuple(of[at] for at in chosen) == states
                }
                assert found == sorted(found, key=_BY[sort]), wanted


_STATES: list[tuple[str, ...]] = [
    ("placed", "captured", "unfulfilled"),
    ("placed", "authorized", "unfulfilled"),
    ("completed", "captured", "delivered"),
    ("completed", "refunded", "delivered"),
    ("cancelled", "refunded", "unfulfilled"),
]
_BY: dict[str, Callable[[dict[str, Any]], Any]] = ORDERS | {
    "newest": lambda item: (-_minute(item), -item["number"]),
    "oldest": lambda item: (_minute(item), item["number"]),
}


def _minute(item: dict[str, Any]) -> int:
    return int(item["number"] % 7)


async def test_a_moment_needs_an_offset(merchant: Deps, client: httpx.AsyncClient) -> None:
    refused = await client.get(
        "/v1/orders", params={"since": "2026-01-01T00:00:00"}, headers=factories.bearer(merchant)
    )
    assert refused.status_code == 422
    assert refused.json()["field"] == "since"


async def test_another_lists_cursor_is_refused(merchant: Deps, client: httpx.AsyncClient) -> None:
    for cursor in ("x", "WzEsMl0", "WyJhIl0"):
        refused = await client.get(
            "/v1/users", params={"cursor": cursor}, headers=factories.bearer(merchant)
        )
        assert (refused.status_code, refused.json()["field"]) == (422, "cursor")


@pytest.mark.parametrize("sort", ["newest", "oldest", "name", "email"])
async def test_users(merchant: Deps, client: httpx.AsyncClient, sort: str) -> None:
    for name in ("Cy", "Bo", "Al", "Bo"):
        await factories.user(merchant, name=name)
    found = await _walk(client, "/v1/users", factories.bearer(merchant), sort=sort, role="customer")
    assert len({item["id"] for item in found}) == 4
    key: dict[str, Callable[[dict[str, Any]], Any]] = {
        "newest": lambda item: item["id"],
        "oldest": lambda item: item["id"],
        "name": lambda item: (item["name"], item["id"]),
        "email": lambda item: item["email"],
    }
    assert found == sorted(found, key=key[sort], reverse=sort == "newest")


async def _seed(merchant: Deps) -> None:
    """Make five of everything that is listed by time alone."""
    await factories.product(merchant, "MUG", stock=50)
    await factories.receive(merchant, "MUG", 5, "ROT")
    for n in range(5):
        async with merchant.begin() as uow:
            sent = [transfer.TransferUnits(sku="MUG", quantity=1)]
            await transfer.create(uow, "HAM", "ROT", sent)
            await stock_count.start(uow, "HAM", note=f"shelf {n}")
            await stock.adjust(uow, "MUG", "HAM", -1, "broken")
            await credit_desk.issue_gift_card(uow, 1000 + n)
            talk = await conversation.start(uow, f"talk {n}")
            await handover.request(uow, "help", "ada@example.com", talk.id)
            uow.session.add(AuditRun(slot=uow.now + timedelta(days=n), started_at=uow.now))
            uow.session.add(
                WebhookEvent(
                    provider="stripe",
                    event_id=f"evt_{n}",
                    type="charge.updated",
                    object_id="ch_1",
                    body_sha256="0" * 64,
                    state=WebhookState.IGNORED,
                    due_at=uow.now,
                    occurred_at=uow.now,
                    received_at=uow.now,
                )
            )
            uow.session.add(
                ReconciliationRun(
                    provider="stripe",
                    source="api",
                    period_start=uow.now + timedelta(days=n),
                    period_end=uow.now + timedelta(days=n + 1),
                    started_at=uow.now,
                )
            )


@pytest.mark.parametrize(
    "path",
    [
        "/v1/inventory/transfers",
        "/v1/inventory/counts",
        "/v1/stock/MUG/movements",
        "/v1/credit/accounts",
        "/v1/handovers",
        "/v1/audits",
        "/v1/webhooks",
        "/v1/reconciliations",
    ],
)
async def test_by_time(merchant: Deps, client: httpx.AsyncClient, path: str) -> None:
    await _seed(merchant)
    headers = factories.bearer(merchant)
    newest = await _walk(client, path, headers, sort="newest")
    oldest = await _walk(client, path, headers, sort="oldest")
    assert len(newest) >= 5
    assert newest == oldest[::-1]
    times = [str(item.get("created_at") or item.get("slot") or item["id"]) for item in oldest]
    assert times == sorted(times)
    unknown = await client.get(path, params={"sort": "fastest"}, headers=headers)
    assert (unknown.status_code, unknown.json()["field"]) == (422, "sort")


async def test_by_time_of_what_has_filters(merchant: Deps, client: httpx.AsyncClient) -> None:
    await _seed(merchant)
    headers = factories.bearer(merchant)
    path = "/v1/inventory/transfers"
    assert len(await _walk(client, path, headers, source="HAM", target="ROT", status="draft")) == 5
    assert await _walk(client, path, headers, source="ROT") == []
    assert await _walk(client, path, headers, status="received") == []
