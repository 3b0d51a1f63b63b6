"""Disputes: the books follow what the provider holds back, and evidence is sent once."""

import asyncio
from uuid import UUID, uuid4

import httpx
import pytest
from sqlmodel import col, select

from db.models.dispute import Dispute, DisputeState
from db.models.outbox import OutboxMessage
from db.models.user import Role
from deps.core import Deps
from tests import factories
from tests.providers.paypal_server import PayPalServer
from tests.providers.server import Fault
from tests.providers.shop import balances, buy, hear, reference_of
from tests.providers.stripe_server import StripeServer
from tools import dispute, method
from tools.errors import Conflict, InvalidInput, NotFound, Unavailable
from tools.invariant import check

EVIDENCE = {"carrier": "DHL", "tracking_number": "00340434161094000000", "text": "Delivered."}


@pytest.fixture
async def staff(stripe_shop: Deps) -> Deps:
    return await factories.user(stripe_shop, role=Role.MERCHANT)


async def disputed(shop: Deps, account: StripeServer) -> tuple[UUID, str]:
    """Sell, and have the bank take the money back; return our id and Stripe's."""
    await factories.product(shop, "MUG", price=1250, stock=50)
    placed = await buy(factories.guest(shop))
    theirs = account.open_dispute(await reference_of(shop, placed.id))
    await hear(shop, account)
    return (await only(shop)).id, theirs


async def only(deps: Deps) -> Dispute:
    async with deps.begin() as uow:
        return (await uow.session.exec(select(Dispute))).one()


async def events(deps: Deps) -> list[str]:
    async with deps.begin() as uow:
        rows = await uow.session.exec(
            select(OutboxMessage.type)
            .where(col(OutboxMessage.type).startswith("Dispute"))
            .order_by(col(OutboxMessage.seq))
        )
        return list(rows)


@pytest.mark.parametrize(("ending", "kept"), [("won", 2990), ("lost", 0)])
async def test_opened_answered_and_decided(
    staff: Deps, stripe_account: StripeServer, ending: str, kept: int
) -> None:
    ours, theirs = await disputed(staff, stripe_account)
    books = await balances(staff)
    assert (books["clearing"], books["disputes"]) == (0, 2990)
    sent = await dispute.submit_evidence(staff, ours, EVIDENCE)
    assert sent.state is DisputeState.UNDER_REVIEW
    assert sent.allowed_actions == []
    evidence = stripe_account.disputes[theirs]["evidence"]
    assert evidence["shipping_tracking_number"] == EVIDENCE["tracking_number"]
    stripe_account.close_dispute(theirs, ending)
    await hear(staff, stripe_account)
    row = await only(staff)
    assert (row.state.value, row.closed_at is not None) == (ending, True)
    books = await balances(staff)
    assert (books["clearing"], books["disputes"]) == (kept, 2990 - kept)
    ended = "DisputeWon" if ending == "won" else "DisputeLost"
    assert await events(staff) == ["DisputeOpened", "DisputeEvidenceSubmitted", ended]
    assert await check(staff) == []


async def test_evidence_is_sent_once_whatever_is_lost(
    staff: Deps, stripe_account: StripeServer
) -> None:
    ours, theirs = await disputed(staff, stripe_account)
    stripe_account.faults.script.append(Fault.TIMEOUT_AFTER)
    with pytest.raises(Unavailable):
        await dispute.submit_evidence(staff, ours, EVIDENCE)
    with pytest.raises(Conflict):
        await dispute.submit_evidence(staff, ours, {"text": "something else"})
    answers = await asyncio.gather(
        *(dispute.submit_evidence(staff, ours, EVIDENCE) for _ in range(4)), return_exceptions=True
    )
    views = [a for a in answers if isinstance(a, dispute.DisputeView)]
    assert views
    assert all(isinstance(a, dispute.DisputeView | Unavailable) for a in answers)
    again = await dispute.submit_evidence(staff, ours, EVIDENCE)
    assert again.state is DisputeState.UNDER_REVIEW
    details = stripe_account.disputes[theirs]["evidence_details"]
    assert details["submission_count"] == 1
    assert (await events(staff)).count("DisputeEvidenceSubmitted") == 1


async def test_bad_evidence_is_refused(staff: Deps, stripe_account: StripeServer) -> None:
    ours, _ = await disputed(staff, stripe_account)
    for bad in ({}, {"text": "  "}, {"secret": "x"}, {"text": "x" * 30_000}):
        with pytest.raises(InvalidInput):
            await dispute.submit_evidence(staff, ours, bad)
    with pytest.raises(NotFound):
        await dispute.submit_evidence(staff, uuid4(), EVIDENCE)
    assert (await only(staff)).evidence == {}


async def test_disputes_are_for_staff(
    stripe_client: httpx.AsyncClient, staff: Deps, stripe_account: StripeServer
) -> None:
    ours, _ = await disputed(staff, stripe_account)
    customer = factories.bearer(await factories.user(staff))
    assert (await stripe_client.get("/v1/disputes", headers=customer)).status_code == 403
    headers = factories.bearer(staff) | {"Idempotency-Key": str(uuid4())}
    params = {"state": "needs_response"}
    listed = (await stripe_client.get("/v1/disputes", headers=headers, params=params)).json()
    assert [item["id"] for item in listed["items"]] == [str(ours)]
    number = listed["items"][0]["order_number"]
    params = {"number": number}
    listed = (await stripe_client.get("/v1/disputes", headers=headers, params=params)).json()
    assert len(listed["items"]) == 1
    answer = await stripe_client.post(
        f"/v1/disputes/{ours}/evidence", headers=headers, json={"evidence": EVIDENCE}
    )
    assert (answer.status_code, answer.json()["state"]) == (200, "under_review")
    timeline = (await stripe_client.get(f"/v1/orders/{number}/timeline", headers=headers)).json()
    assert "Evidence was sent to the bank." in [entry["summary"] for entry in timeline]


@pytest.mark.parametrize(
    ("outcome", "held"), [("RESOLVED_SELLER_FAVOUR", 0), ("RESOLVED_BUYER_FAVOUR", 2990)]
)
async def test_a_paypal_dispute(
    paypal_shop: Deps, paypal_account: PayPalServer, outcome: str, held: int
) -> None:
    await factories.product(paypal_shop, "MUG", price=1250, stock=50)
    buyer = await factories.user(paypal_shop)
    stored = await method.add(buyer, "SETUP-2")
    placed = await buy(buyer, str(stored.id))
    theirs = paypal_account.open_dispute(await reference_of(buyer, placed.id))
    await hear(paypal_shop, paypal_account)
    assert (await balances(paypal_shop))["disputes"] == 2990
    staff = await factories.user(paypal_shop, role=Role.MERCHANT)
    sent = await dispute.submit_evidence(staff, (await only(staff)).id, EVIDENCE)
    assert sent.state is DisputeState.UNDER_REVIEW
    (given,) = paypal_account.evidence[theirs]
    assert given["evidence_type"] == "PROOF_OF_FULFILLMENT"
    paypal_account.close_dispute(theirs, outcome)
    await hear(paypal_shop, paypal_account)
    assert (await balances(paypal_shop))["disputes"] == held
    assert await check(paypal_shop) == []
