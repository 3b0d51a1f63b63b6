"""The event log over HTTP: who may read it, paging, and replay."""

from uuid import uuid4

import httpx
from sqlalchemy import text

from db.models.user import Role
from deps.core import Deps
from tests import factories
from tools import delivery


async def admin_headers(deps: Deps) -> dict[str, str]:
    admin = await factories.user(deps, role=Role.ADMIN)
    return factories.bearer(admin) | {"Idempotency-Key": str(uuid4())}


async def test_staff_page_through_events_in_order(
    client: httpx.AsyncClient, deps: Deps, merchant: Deps
) -> None:
    await factories.product(deps, "MUG", stock=10)
    order = await factories.placed_order(factories.guest(deps), MUG=1)
    headers = factories.bearer(merchant)

    seen, after_seq = [], 0
    while after_seq is not None:
        answer = await client.get(
            "/v1/events", params={"after_seq": after_seq, "limit": 2}, headers=headers
        )
        assert answer.status_code == 200, answer.text
        seen += answer.json()["items"]
        after_seq = answer.json()["next_after_seq"]

    assert [event["seq"] for event in seen] == sorted(event["seq"] for event in seen)
    [placed] = [event for event in seen if event["type"] == "OrderPlaced"]
    assert placed["payload"]["number"] == order.number
    params = {"type": "OrderPlaced", "aggregate_id": placed["aggregate_id"]}
    only = (await client.get("/v1/events", params=params, headers=headers)).json()["items"]
    assert only == [placed]


async def test_others_may_neither_read_nor_replay(
    client: httpx.AsyncClient, customer: Deps, merchant: Deps
) -> None:
    assert (await client.get("/v1/events")).status_code == 401
    for path in ("/v1/events", "/v1/dead-letters"):
        denied = await client.get(path, headers=factories.bearer(customer))
        assert denied.status_code == 403
    for path in (f"/v1/events/{uuid4()}/replay", f"/v1/dead-letters/{uuid4()}/replay"):
        headers = factories.bearer(merchant) | {"Idempotency-Key": str(uuid4())}
        assert (await client.post(path, json={}, headers=headers)).status_code == 403


async def test_an_event_is_replayed(client: httpx.AsyncClient, deps: Deps) -> None:
    await factories.product(deps, "MUG", stock=10)
    await factories.placed_order(factories.guest(deps), MUG=1)
    headers = await admin_headers(deps)
    [event] = (
        await client.get("/v1/events", params={"type": "OrderPlaced"}, headers=headers)
    ).json()["items"]

    answer = await client.post(f"/v1/events/{event['id']}/replay", json={}, headers=headers)

    assert answer.status_code == 200, answer.text
    assert answer.json() == {"applied": 1, "skipped": 0, "failed": 0, "given_up": 0}
    missing = await client.post(
        f"/v1/events/{uuid4()}/replay", json={}, headers=await admin_headers(deps)
    )
    assert missing.status_code == 404


async def test_dead_letters_are_listed_and_replayed(client: httpx.AsyncClient, deps: Deps) -> None:
    await factories.product(deps, "MUG", stock=10)
    for _ in range(3):
        await factories.placed_order(factories.guest(deps), MUG=1)
    retype = text("UPDATE outbox SET type = :new WHERE type = :old")
    async with deps.begin() as uow:
        await uow.session.execute(retype, {"old": "OrderPlaced", "new": "OrderPlacedLater"})
    await delivery.Reconciler().run_once(deps, settle_s=0)
    headers = await admin_headers(deps)

    letters, cursor = [], None
    while True:
        params = {"limit": 2} | ({"cursor": cursor} if cursor else {})
        page = (await client.get("/v1/dead-letters", params=params, headers=headers)).json()
        letters += page["items"]
        cursor = page["next_cursor"]
        if cursor is None:
            break

    assert len({letter["id"] for letter in letters}) == len(letters) == 3
    replay = f"/v1/dead-letters/{letters[0]['id']}/replay"
    refused = await client.post(replay, headers=headers)
    assert (refused.status_code, refused.json()["code"]) == (409, "conflict")
    async with deps.begin() as uow:
        await uow.session.execute(retype, {"new": "OrderPlaced", "old": "OrderPlacedLater"})
    accepted = await client.post(replay, headers=await admin_headers(deps))
    assert accepted.json()["applied"] == 1
    gone = await client.post(replay, headers=await admin_headers(deps))
    assert gone.status_code == 404
