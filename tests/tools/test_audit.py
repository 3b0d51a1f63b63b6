"""The audit: once per slot whoever asks, remembered, and told to staff when something is wrong."""

import asyncio

import httpx

from deps.core import Deps
from tests import factories
from tests.factories import RecordingMailer
from tests.tools.effects import settled
from tools import audit, delivery, notification
from tools.handlers import HANDLERS


async def _break_the_books(deps: Deps) -> None:
    """Damage that no constraint can see: a count that no movement explains."""
    await factories.damage(deps, "UPDATE stock_level SET on_hand = on_hand + 1")


async def test_of_many_workers_one_audits(deps: Deps) -> None:
    results = await asyncio.gather(*(audit.run_due(deps) for _ in range(8)))
    assert results.count([]) == 1
    assert results.count(None) == 7
    assert await audit.run_due(deps) is None
    assert await audit.run_due(factories.later(deps, minutes=16)) == []


async def test_a_broken_invariant_reaches_staff_once(
    deps: Deps, merchant: Deps, mailer: RecordingMailer, client: httpx.AsyncClient
) -> None:
    await factories.product(deps, "MUG", stock=3)
    await _break_the_books(deps)
    reconciler = delivery.Reconciler(HANDLERS)
    await delivery.begin_checkpoints(deps, HANDLERS)
    found = await audit.run_due(deps)
    assert found is not None
    assert [violation.invariant for violation in found] == [
        "stock counters equal the sums of the movement ledger"
    ]
    await settled(reconciler, deps)
    await settled(reconciler, deps)
    await notification.send_due(deps)
    told = [mail for mail in mailer.sent if "broken invariants" in mail.subject]
    assert len(told) == 1
    assert "MUG" in told[0].body
    listed = await client.get(
        "/v1/audits", params={"is_failed": True}, headers=factories.bearer(merchant)
    )
    assert listed.json()["items"][0]["violations"][0]["count"] == 1
    assert "broken_invariants 1.0" in (await client.get("/metrics")).text
    assert (await client.get("/v1/audits")).status_code == 401
