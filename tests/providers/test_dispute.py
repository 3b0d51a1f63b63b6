"""Disputes: the books follow what the provider holds back, and evidence is sent once."""

import asyncio
from dataclasses import replace
from typing import Any, cast
from uuid import UUID, uuid4

import httpx
import pytest
from sqlmodel import col, select

from db.models.aftersales import RequestState
from db.models.dispute import Dispute, DisputeState
from db.models.order import Order
from db.models.outbox import OutboxMessage
from db.models.refund import Refund
from db.models.user import Role
from deps.core import SYSTEM, Deps
from deps.stripe_desk import Stripe
from tests import factories
from tests.providers.paypal_server import PayPalServer
from tests.providers.server import Fault, nowhere
from tests.providers.shop import buy, hear, reference_of, tender_of
from tests.providers.stripe_server import SECRET_KEY, WEBHOOK_SECRET, StripeServer
from tests.standing import balances
from tools import (
    dispute,
    fulfillment,
    inventory,
    method,
    refund,
    refund_process,
    return_,
)
from tools.errors import Conflict, InvalidInput, NotFound, NotRefundable, Unavailable
from tools.events import DisputeLost, DisputeWon
from tools.handlers import HandlerContext, handlers_of
from tools.invariant import check
from tools.line_change import LineRequest
from tools.refund_plan import DISPUTED

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


def move(account: StripeServer, theirs: str, amount: int) -> None:
    """Let the bank take money, or return it, once more."""
    dispute = account.disputes[theirs]
    account.book("dispute", amount, 0, dispute["currency"], dispute)
    dispute["balance_transactions"].append(dict(account.ledger[-1]))


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


async def test_evidence_whose_receipt_was_lost_may_be_sent_again_though_the_bank_has_it(
    staff: Deps, stripe_account: StripeServer
) -> None:
    ours, theirs = await disputed(staff, stripe_account)
    stripe_account.faults.script.append(Fault.ERROR_AFTER)
    with pytest.raises(Unavailable, match="send the same again"):
        await dispute.submit_evidence(staff, ours, EVIDENCE)
    await hear(staff, stripe_account)
    assert (await only(staff)).state is DisputeState.UNDER_REVIEW
    with pytest.raises(Conflict, match="takes no evidence"):
        await dispute.submit_evidence(staff, ours, {"text": "something else"})
    again = await dispute.submit_evidence(staff, ours, EVIDENCE)
    assert again.evidence_submitted_at == staff.clock()
    details = stripe_account.disputes[theirs]["evidence_details"]
    assert details["submission_count"] == 1
    assert await events(staff) == ["DisputeOpened", "DisputeEvidenceSubmitted"]


async def test_the_books_follow_whatever_the_bank_does_next(
    staff: Deps, stripe_account: StripeServer
) -> None:
    _, theirs = await disputed(staff, stripe_account)
    row = await only(staff)
    assert (row.amount, row.withdrawn_amount, row.moves, row.closed_at) == (2990, 2990, 1, None)
    assert row.evidence_due_at is not None
    stripe_account.close_dispute(theirs, "won")
    for late in (staff, factories.later(staff, days=1)):
        assert await dispute.settle(late, "stripe", theirs)
    row = await only(staff)
    assert (row.withdrawn_amount, row.moves, row.closed_at) == (0, 2, staff.clock())
    move(stripe_account, theirs, -2000)
    stripe_account.disputes[theirs]["status"] = "needs_response"
    assert await dispute.settle(staff, "stripe", theirs)
    row = await only(staff)
    assert (row.withdrawn_amount, row.moves, row.closed_at) == (2000, 3, None)
    books = await balances(staff)
    assert (books["clearing"], books["disputes"]) == (990, 2000)
    stripe_account.close_dispute(theirs, "lost")
    assert await dispute.settle(staff, "stripe", theirs)
    assert await events(staff) == ["DisputeOpened", "DisputeWon", "DisputeLost"]
    assert await check(staff) == []


@pytest.mark.parametrize(
    ("moved", "currency", "said"),
    [
        (-1, "eur", "A dispute over 2990 holds back 2991"),
        (2991, "eur", "A dispute over 2990 holds back -1"),
        (0, "usd", "The dispute is in USD, the payment in EUR"),
    ],
)
async def test_what_cannot_be_true_is_left_to_a_person(
    staff: Deps, stripe_account: StripeServer, moved: int, currency: str, said: str
) -> None:
    await factories.product(staff, "MUG", price=1250, stock=50)
    placed = await buy(factories.guest(staff))
    theirs = stripe_account.open_dispute(await reference_of(staff, placed.id))
    move(stripe_account, theirs, moved)
    stripe_account.disputes[theirs]["currency"] = currency
    with pytest.raises(Conflict, match=said):
        await dispute.settle(staff, "stripe", theirs)
    assert await events(staff) == []
    assert "disputes" not in await balances(staff)


async def test_a_dispute_of_what_is_not_ours_is_not_ours(
    staff: Deps, stripe_account: StripeServer
) -> None:
    ours, theirs = await disputed(staff, stripe_account)
    with pytest.raises(Conflict, match="does not know the dispute du_none"):
        await dispute.settle(staff, "stripe", "du_none")
    for reference in ("pi_of_another_shop", None):
        stripe_account.disputes["du_other"] = stripe_account.disputes[theirs] | {
            "id": "du_other",
            "payment_intent": reference,
        }
        assert not await dispute.settle(staff, "stripe", "du_other")
    assert (await only(staff)).id == ours
    await staff.hot.execute("""
        INSERT INTO dispute SELECT (jsonb_populate_record(d, jsonb_build_object(
            'id', uuidv7(), 'provider', 'paypal', 'state', 'lost'))).* FROM dispute d
    """)
    assert await dispute.settle(staff, "stripe", theirs), "another provider may use the same id"
    states = await staff.hot.fetch("SELECT provider, state FROM dispute ORDER BY provider")
    assert [tuple(row) for row in states] == [("paypal", "lost"), ("stripe", "needs_response")]


async def test_a_provider_that_does_not_answer_is_asked_later(
    staff: Deps, stripe_account: StripeServer
) -> None:
    _, theirs = await disputed(staff, stripe_account)
    with nowhere() as address:
        gone = Stripe(SECRET_KEY, webhook_secret=WEBHOOK_SECRET, api_base=address, retries=0)
        silent = replace(staff, gateways={**staff.gateways, "stripe": gone})
        with pytest.raises(Unavailable, match="stripe did not answer"):
            await dispute.settle(silent, "stripe", theirs)
        await gone.aclose()


async def test_evidence_that_never_arrived_is_not_taken_for_sent(
    staff: Deps, stripe_account: StripeServer
) -> None:
    ours, theirs = await disputed(staff, stripe_account)
    stripe_account.faults.script.append(Fault.ERROR_BEFORE)
    with pytest.raises(Unavailable):
        await dispute.submit_evidence(staff, ours, EVIDENCE)
    stripe_account.close_dispute(theirs, "lost")
    await hear(staff, stripe_account)
    with pytest.raises(Conflict, match="lost and takes no evidence"):
        await dispute.submit_evidence(staff, ours, EVIDENCE)
    assert (await only(staff)).evidence_submitted_at is None


async def test_evidence_is_checked_before_it_is_sent_and_says_who_sent_it(
    staff: Deps, stripe_account: StripeServer
) -> None:
    ours, theirs = await disputed(staff, stripe_account)
    sent = {"text": " " + "x" * 19_997 + " ", "carrier": "DHL", "customer_name": " "}
    async with staff.begin() as uow:
        with pytest.raises(InvalidInput, match="20000 characters at most"):
            await dispute.preview_submit_evidence(uow, ours, sent | {"carrier": "DHL."})
        with pytest.raises(InvalidInput, match="Evidence may have: ") as refused:
            await dispute.preview_submit_evidence(uow, ours, sent | {"secret": "x"})
        shown = await dispute.preview_submit_evidence(uow, ours, sent)
    assert refused.value.field == "evidence.secret"
    assert shown.evidence == {"text": "x" * 19_997, "carrier": "DHL"}
    assert (shown.dispute.id, shown.dispute.allowed_actions) == (ours, ["submit_evidence"])
    assert stripe_account.disputes[theirs]["evidence"] == {}
    done = await dispute.submit_evidence(staff, ours, sent)
    assert (done.evidence, done.evidence_submitted_at) == (shown.evidence, staff.clock())
    assert (await only(staff)).submitted_by == staff.actor.user_id
    for evidence in (EVIDENCE, {"text": "x"}):
        with pytest.raises(Conflict) as waits:
            await dispute.submit_evidence(staff, ours, evidence)
        assert waits.value.extra["current"] == "under_review"
    async with staff.begin() as uow:
        with pytest.raises(Conflict):
            await dispute.preview_submit_evidence(uow, ours, sent)
    for status in ("needs_response", "won"):
        stripe_account.disputes[theirs]["status"] = status
        assert await dispute.settle(staff, "stripe", theirs)
        again = await dispute.submit_evidence(staff, ours, sent)
        assert (again.state.value, again.allowed_actions) == (status, [])
    assert stripe_account.disputes[theirs]["evidence_details"]["submission_count"] == 1


async def test_disputes_are_listed_by_state_and_order(
    staff: Deps, stripe_account: StripeServer
) -> None:
    first, _ = await disputed(staff, stripe_account)
    placed = await buy(factories.guest(staff))
    theirs = stripe_account.open_dispute(await reference_of(staff, placed.id))
    stripe_account.close_dispute(theirs, "lost")
    await hear(staff, stripe_account)
    assert await events(staff) == ["DisputeOpened", "DisputeOpened", "DisputeLost"]
    async with staff.begin() as uow:
        both = [item.id for item in (await dispute.list_disputes(uow)).items]
        assert (len(both), both[1]) == (2, first)
        for state, ids in ((DisputeState.LOST, both[:1]), (DisputeState.WON, [])):
            listed = await dispute.list_disputes(uow, state)
            assert [item.id for item in listed.items] == ids
        (of,) = (await dispute.list_disputes(uow, number=placed.number)).items
        assert (of.id, of.order_number) == (both[0], placed.number)
        page = await dispute.list_disputes(uow, limit=1)
        rest = await dispute.list_disputes(uow, limit=1, cursor=page.next_cursor)
        assert [item.id for item in page.items + rest.items] == both
        assert (await dispute.get(uow, first)).id == first
    async with (await factories.user(staff)).begin() as uow:
        for dispute_id in (first, uuid4()):
            with pytest.raises(NotFound, match="No such dispute"):
                await dispute.get(uow, dispute_id)


async def give_back(deps: Deps, amount: int | None = None, **asked: Any) -> Refund:
    async with deps.begin() as uow:
        of = (await uow.session.exec(select(Order))).one()
        return await refund.request(uow, of, reason="it broke", amount=amount, **asked)


async def test_what_the_bank_took_back_is_not_given_back_as_well(
    staff: Deps, stripe_account: StripeServer
) -> None:
    _, theirs = await disputed(staff, stripe_account)
    for amount in (None, 1):
        with pytest.raises(NotRefundable, match="bank has taken that money back"):
            await give_back(staff, amount)
    move(stripe_account, theirs, 990)
    assert await dispute.settle(staff, "stripe", theirs)
    with pytest.raises(NotRefundable) as refused:
        await give_back(staff, 991)
    assert refused.value.extra["refundable_amount"] == 990
    assert (await give_back(staff)).amount == 990
    with pytest.raises(NotRefundable):
        await give_back(staff, 1)
    move(stripe_account, theirs, 2000)
    assert await dispute.settle(staff, "stripe", theirs)
    assert (await give_back(staff)).amount == 2000
    assert await check(staff) == []


async def test_a_refund_that_waits_for_a_second_person_is_not_approved_once_the_bank_has_it(
    staff: Deps, stripe_account: StripeServer
) -> None:
    await factories.product(staff, "MUG", price=1250, stock=50)
    placed = await buy(factories.guest(staff))
    first, second = [await give_back(staff, 1000, second_person_above=500) for _ in range(2)]
    async with staff.begin() as uow:
        await refund.decide(uow, first.id, approves=True)
    stripe_account.open_dispute(await reference_of(staff, placed.id))
    await hear(staff, stripe_account)
    with pytest.raises(NotRefundable, match="bank has taken that money back"):
        async with staff.begin() as uow:
            await refund.decide(uow, second.id, approves=True)
    async with staff.begin() as uow:
        assert (await refund.decide(uow, second.id, approves=False)).state == "rejected"
    assert await check(staff) == []


async def test_what_was_given_back_at_the_provider_is_booked_whatever_the_bank_holds_back(
    staff: Deps, stripe_account: StripeServer
) -> None:
    _, theirs = await disputed(staff, stripe_account)
    intent = stripe_account.disputes[theirs]["payment_intent"]
    stripe_account.refund_by_hand(intent, 2990)
    await hear(staff, stripe_account)
    stripe_account.close_dispute(theirs, "won")
    await hear(staff, stripe_account)
    books = await balances(staff)
    assert (books["clearing"], books["disputes"]) == (0, 0)
    assert await check(staff) == []


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


async def sent_back(shop: Deps, staff: Deps, account: StripeServer) -> tuple[UUID, str]:
    """Deliver an order of two mugs, of which one is on its way back when the bank takes the money;
    return the return's id and Stripe's dispute."""
    await factories.product(shop, "MUG", price=1250, stock=50)
    placed = await buy(factories.guest(shop))
    for step in (fulfillment.ship, fulfillment.deliver):
        async with staff.begin() as uow:
            await step(uow, placed.number)
    async with staff.begin() as uow:
        asked = await return_.request(uow, placed.number, [LineRequest(sku="MUG")])
    theirs = account.open_dispute(await reference_of(shop, placed.id))
    await hear(shop, account)
    return asked.id, theirs


async def handled(shop: Deps) -> None:
    """Apply the events of disputes' ends so far, as the handlers do."""
    async with shop.acting_as(SYSTEM).begin() as uow:
        query = select(OutboxMessage).order_by(col(OutboxMessage.seq))
        for message in list(await uow.session.exec(query)):
            for ended in (DisputeWon, DisputeLost):
                if message.type == ended.__name__:
                    event = ended.model_validate(message.payload)
                    for handler in handlers_of(ended):
                        await handler.run(HandlerContext(uow), event, cast(Any, None))


@pytest.mark.parametrize("ending", ["won", "lost"])
async def test_goods_come_back_though_a_bank_took_the_money(
    stripe_shop: Deps, staff: Deps, stripe_account: StripeServer, ending: str
) -> None:
    asked, theirs = await sent_back(stripe_shop, staff, stripe_account)
    async with staff.begin() as uow:
        shown = await return_.preview_receive(uow, asked)
    assert (shown.refund_amount, shown.restocked, shown.why_no_refund) == (0, {"MUG": 1}, DISPUTED)

    for _ in range(2):
        taken = await return_.receive(staff, asked)
        assert (taken.state, taken.refund_id) == (RequestState.RECEIVED, None)
        assert (taken.lines[0].restocked_quantity, taken.why_no_refund) == (1, DISPUTED)
    async with staff.begin() as uow:
        assert (await inventory.levels(uow, "MUG")).levels[0].on_hand == 49
    assert await check(staff) == []

    stripe_account.close_dispute(theirs, ending)
    await hear(stripe_shop, stripe_account)
    for _ in range(2):
        await handled(stripe_shop)
    await refund_process.resume_stuck(factories.later(staff, minutes=5))
    ended = await return_.receive(staff, asked)

    assert ended.state is RequestState.COMPLETED
    given = (await tender_of(stripe_shop, (await only(staff)).order_id)).refunded_amount
    if ending == "won":
        assert (given, ended.why_no_refund) == (1250, "")
    else:
        assert (given, ended.refund_id, ended.why_no_refund) == (0, None, DISPUTED)
    assert await check(staff) == []


async def test_a_return_whose_money_comes_after_the_word_is_paid_when_asked_again(
    stripe_shop: Deps, staff: Deps, stripe_account: StripeServer
) -> None:
    asked, theirs = await sent_back(stripe_shop, staff, stripe_account)
    await return_.receive(staff, asked)
    stripe_account.disputes[theirs]["status"] = "won"
    assert await dispute.settle(staff, "stripe", theirs)
    await handled(stripe_shop)
    assert (await return_.receive(staff, asked)).state is RequestState.RECEIVED, "no money yet"
    move(stripe_account, theirs, 2990)
    assert await dispute.settle(staff, "stripe", theirs)
    assert (await return_.receive(staff, asked)).state is RequestState.COMPLETED
    assert await check(staff) == []
