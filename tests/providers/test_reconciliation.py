"""Reconciliation: the books agree, or every difference has a name."""

import asyncio
from datetime import UTC
from uuid import uuid4

import httpx
import pytest
from sqlalchemy import text

from db.models.reconciliation import DifferenceKind, RunState
from db.models.user import Role
from deps.core import SYSTEM, Deps
from deps.paypal_desk import PayPal
from tests import factories
from tests.conftest import NOW
from tests.providers.books import (
    HEADER,
    START,
    bookkeeper,
    found,
    line_of,
    report_of,
    run,
    sold,
)
from tests.providers.conftest import shop_with
from tests.providers.paypal_server import PayPalServer
from tests.providers.shop import buy, hear, order_of, reference_of
from tests.providers.stripe_account import fee_of
from tests.providers.stripe_server import StripeServer
from tests.standing import balances
from tools import method, reconciliation, refund, refund_process
from tools.errors import InvalidInput, Unavailable
from tools.invariant import check


@pytest.fixture
async def staff(stripe_shop: Deps, stripe_account: StripeServer) -> Deps:
    return await bookkeeper(stripe_shop, stripe_account)


async def test_books_that_agree(staff: Deps, stripe_account: StripeServer) -> None:
    shop = factories.guest(factories.later(staff, days=-2))
    first, _ = await buy(shop), await buy(shop)
    of = await order_of(staff, first.id)
    async with factories.later(staff, days=-2).acting_as(SYSTEM).begin() as uow:
        asked = await refund.request(uow, of, amount=1000, reason="it broke")
    await refund_process.drive(factories.later(staff, days=-2).acting_as(SYSTEM), asked.id)
    stripe_account.pay_out(4000)
    for _ in range(2):  # The second time books nothing more.
        done = await run(staff)
        assert (done.state, done.line_count, done.matched_count) == (RunState.FINISHED, 4, 3)
        assert await found(staff, done) == []
    fees = 2 * fee_of(2990)
    assert done.totals == {"EUR": {"charge": 5980, "refund": -1000, "payout": -4000, "fees": fees}}
    books = await balances(staff)
    assert (books["fees"], books["payouts"]) == (fees, 4000)
    assert books["clearing"] == 5980 - 1000 - 4000 - fees
    assert await check(staff) == []


async def test_missing_here(staff: Deps, stripe_account: StripeServer) -> None:
    """Money moved at Stripe that we know nothing of: another system's, and a refund by hand."""
    reference = await sold(staff)
    stripe_account.refund_by_hand(reference, 700)
    foreign = stripe_account.create_intent(
        "",
        {
            "amount": "5000",
            "currency": "eur",
            "payment_method": "pm_card_visa",
            "payment_method_options": {},
        },
        None,
    )
    stripe_account.capture(foreign["id"], {}, None)
    done = await run(staff)
    assert sorted(await found(staff, done)) == [
        ("missing_here", None, -700),
        ("missing_here", None, 5000),
    ]
    # Once the webhook has brought the refund in, only the foreign charge is left.
    await hear(factories.later(staff, days=-2), stripe_account)
    assert await found(staff, await run(staff)) == [("missing_here", None, 5000)]


async def test_missing_there(staff: Deps, stripe_account: StripeServer) -> None:
    await sold(staff)
    stripe_account.ledger.clear()
    assert await found(staff, await run(staff)) == [("missing_there", 2990, None)]


async def test_another_amount(staff: Deps, stripe_account: StripeServer) -> None:
    await sold(staff)
    line_of(stripe_account, "charge")["amount"] -= 90
    assert await found(staff, await run(staff)) == [("amount", 2990, 2900)]


async def test_another_currency(staff: Deps, stripe_account: StripeServer) -> None:
    await sold(staff)
    line_of(stripe_account, "charge")["currency"] = "usd"
    assert await found(staff, await run(staff)) == [("currency", None, 2990)]


async def test_a_changed_or_senseless_fee(staff: Deps, stripe_account: StripeServer) -> None:
    await sold(staff)
    await run(staff)
    line = line_of(stripe_account, "charge")
    line["fee"] += 10
    assert await found(staff, await run(staff)) == [("fee", fee_of(2990), fee_of(2990) + 10)]
    await sold(staff)
    stripe_account.ledger[-1]["fee"] = 3000
    line["fee"] -= 10
    assert await found(staff, await run(staff)) == [("fee", None, 3000)]


async def test_duplicated(staff: Deps, stripe_account: StripeServer) -> None:
    """The same line twice, and the same charge under another line."""
    await sold(staff)
    line = line_of(stripe_account, "charge")
    stripe_account.ledger.append({**line, "id": "txn_again"})
    assert await found(staff, await run(staff)) == [("duplicated", None, 2990)]
    stripe_account.ledger[:] = [line, line]
    kinds = [kind for kind, _, _ in await found(staff, await run(staff))]
    assert set(kinds) == {"duplicated"}


async def test_a_refund_that_the_bank_returned_agrees(
    staff: Deps, stripe_account: StripeServer
) -> None:
    reference = await sold(staff)
    stripe_account.refund_by_hand(reference, 700)
    await hear(factories.later(staff, days=-2), stripe_account)
    stripe_account.fail_refund(list(stripe_account.refunds)[-1])
    await hear(factories.later(staff, days=-2), stripe_account)
    assert await found(staff, await run(staff)) == []
    assert await check(staff) == []


async def test_disputes_and_their_fees(staff: Deps, stripe_account: StripeServer) -> None:
    reference = await sold(staff)
    stripe_account.open_dispute(reference)
    assert await found(staff, await run(staff)) == [("amount", 0, 2990)]
    await hear(factories.later(staff, days=-2), stripe_account)
    assert await found(staff, await run(staff)) == []
    books = await balances(staff)
    assert (books["disputes"], books["fees"]) == (2990, fee_of(2990) + 2000)
    assert await check(staff) == []


async def test_two_runs_at_once_book_once(staff: Deps, stripe_account: StripeServer) -> None:
    await sold(staff)
    stripe_account.pay_out(1000)
    runs = await asyncio.gather(*(run(staff) for _ in range(4)))
    assert [done.difference_count for done in runs] == [0, 0, 0, 0]
    books = await balances(staff)
    assert (books["fees"], books["payouts"]) == (fee_of(2990), 1000)
    assert await check(staff) == []


async def test_a_provider_that_is_away_leaves_a_failed_run(
    staff: Deps, stripe_account: StripeServer
) -> None:
    stripe_account.is_away = True
    with pytest.raises(Unavailable):
        await run(staff)
    async with staff.begin() as uow:
        (kept,) = (await reconciliation.list_runs(uow, "stripe")).items
    assert kept.state is RunState.FAILED
    assert kept.detail


async def test_what_another_provider_brought_is_not_missing(deps: Deps, staff: Deps) -> None:
    await factories.placed_order(factories.guest(deps), MUG=1)
    assert await found(staff, await run(staff)) == []


async def sold_and_refunded(
    staff: Deps, stripe_account: StripeServer, reported: str
) -> list[tuple[str, str, str, str, str, str]]:
    """Sell, refund 7.00 and 3.00; return the lines of a report that has `reported` for the 7.00."""
    reference = await sold(staff)
    for amount in (700, 300):
        stripe_account.refund_by_hand(reference, amount)
    await hear(factories.later(staff, days=-2), stripe_account)
    return [
        ("txn_a", "29.90", "0.69", "charge", "ch_1", reference),
        ("txn_b", reported, "0.00", "refund", "re_1", reference),
        ("txn_c", "-3.00", "0.00", "refund", "re_2", reference),
    ]


async def test_a_run_s_differences_are_its_own_and_of_one_kind_where_asked(
    staff: Deps, stripe_account: StripeServer
) -> None:
    first = await run(staff, report=report_of(("txn_x", "1.00", "0.00", "charge", "ch_x", "pi_x")))
    lines = await sold_and_refunded(staff, stripe_account, "-5.00")
    later = await run(staff, report=report_of(*lines))
    assert (first.difference_count, later.difference_count) == (1, 1)
    (kind,) = {kind for kind, _, _ in await found(staff, first)}
    assert (kind, await found(staff, later)) == ("missing_here", [("amount", 700, 500)])
    for wanted, count in (("missing_here", 0), ("amount", 1)):
        async with staff.begin() as uow:
            page = await reconciliation.differences(uow, later.id, DifferenceKind(wanted))
        assert len(page.items) == count


async def test_one_wrong_refund_leaves_the_other_paired(
    staff: Deps, stripe_account: StripeServer
) -> None:
    report = report_of(*await sold_and_refunded(staff, stripe_account, "-5.00"))
    done = await run(staff, report=report)
    assert (done.matched_count, await found(staff, done)) == (2, [("amount", 700, 500)])


async def test_a_refund_in_another_currency_leaves_the_other_paired(
    staff: Deps, stripe_account: StripeServer
) -> None:
    told = report_of(*await sold_and_refunded(staff, stripe_account, "-7.00"))
    report = told.replace("eur,-7.00", "usd,-7.00")
    done = await run(staff, report=report)
    assert (done.matched_count, await found(staff, done)) == (2, [("currency", None, -700)])


async def test_a_refund_in_another_currency_hides_none_that_is_missing(
    staff: Deps, stripe_account: StripeServer
) -> None:
    told, _ = report_of(*await sold_and_refunded(staff, stripe_account, "-7.00")).split("txn_c")
    done = await run(staff, report=told.replace("eur,-7.00", "usd,-7.00"))
    kinds = [kind for kind, _, _ in await found(staff, done)]
    assert kinds == ["currency", "missing_there"], "whichever of the two it was"


async def test_a_refund_that_was_returned_and_made_again_stands_once(
    staff: Deps, stripe_account: StripeServer
) -> None:
    reference = await sold(staff)
    stripe_account.refund_by_hand(reference, 700)
    await hear(factories.later(staff, days=-2), stripe_account)
    report = report_of(
        ("txn_a", "29.90", "0.69", "charge", "ch_1", reference),
        ("txn_b", "-7.00", "0.00", "refund", "re_1", reference),
        ("txn_c", "7.00", "0.00", "refund_failure", "re_1", reference),
        ("txn_d", "-7.00", "0.00", "refund", "re_1", reference),
    )
    done = await run(staff, report=report)
    assert (done.matched_count, await found(staff, done)) == (2, [])


async def test_what_is_asked_for_and_not_done_is_not_missing(staff: Deps) -> None:
    shop = factories.later(staff, days=-2)
    placed = await buy(factories.guest(shop))
    of = await order_of(staff, placed.id)
    async with shop.acting_as(SYSTEM).begin() as uow:
        await refund.request(uow, of, amount=1000, reason="it broke")
    done = await run(staff)
    assert (done.matched_count, await found(staff, done)) == (1, [])


async def test_what_they_took_and_we_only_reserved_is_named(staff: Deps) -> None:
    reference = await sold(factories.by_hand(staff))
    report = report_of(
        ("txn_a", "29.90", "0.69", "charge", "ch_1", reference),
        ("txn_b", "5.00", "0.00", "topup", "", ""),
        ("txn_c", "0.00", "0.00", "adjustment", "", ""),
    )
    done = await run(staff, report=report)
    async with staff.begin() as uow:
        named = (await reconciliation.differences(uow, done.id)).items
    assert [(d.kind, d.line_id, d.actual_amount, d.detail) for d in named] == [
        (DifferenceKind.MISSING_HERE, "txn_a", 2990, "They moved it, and we did not."),
        (DifferenceKind.MISSING_HERE, "txn_b", 500, "A movement of a kind that we do not know."),
    ]


async def test_disputes_are_compared_payment_by_payment(
    staff: Deps, stripe_account: StripeServer
) -> None:
    references = [await sold(staff) for _ in range(2)]
    for reference in references:
        stripe_account.open_dispute(reference)
    await hear(factories.later(staff, days=-2), stripe_account)
    done = await run(staff)
    assert (done.matched_count, await found(staff, done)) == (4, [])
    charge = line_of(stripe_account, "charge")
    stripe_account.ledger[:] = [charge]
    assert (await run(staff)).matched_count == 2, "the charge and the dispute of its payment"


async def test_a_report_as_a_file(staff: Deps) -> None:
    reference = await sold(staff)
    at = NOW.strftime("%Y-%m-%d %H:%M:%S")
    report = HEADER + (
        f"txn_a,{at},eur,29.90,0.69,charge,ch_1,{reference}\n"
        f"txn_b,{at},eur,-25.00,0.00,payout,po_1,\n"
        f"txn_c,{at},jpy,-300,0,fee,,\n"
    )
    done = await run(staff, report=report)
    assert (done.source, done.matched_count) == ("report", 1)
    assert await found(staff, done) == []
    assert done.totals["JPY"]["fees"] == 300
    assert (await balances(staff))["payouts"] == 2500


async def test_a_run_is_kept_with_its_sums_and_told_of(staff: Deps) -> None:
    charges = report_of(
        ("txn_a", "10.00", "0.30", "charge", "ch_1", "pi_1"),
        ("txn_b", "20.00", "0.50", "charge", "ch_2", "pi_2"),
    )
    done = await run(staff, report=charges)
    assert done.totals == {"EUR": {"charge": 3000, "fees": 80}}
    assert (done.state, done.finished_at) == (RunState.FINISHED, staff.clock())
    async with staff.begin() as uow:
        assert (await reconciliation.list_runs(uow, "stripe")).items == [done]
        assert (await reconciliation.list_runs(uow)).items == [done]
        assert (await reconciliation.list_runs(uow, "paypal")).items == []
        asker = await uow.session.scalar(text("SELECT requested_by FROM reconciliation_run"))
        told = text("SELECT payload FROM outbox WHERE type = 'ReconciliationFinished'")
        (event,) = (await uow.session.scalars(told)).all()
    assert asker == staff.actor.user_id
    assert (event["reconciliation_id"], event["difference_count"]) == (str(done.id), 2)


async def test_differences_are_listed_by_run_and_kind(staff: Deps) -> None:
    first = await run(staff, report=report_of(("txn_a", "10.00", "-0.30", "charge", "", "pi_1")))
    second = await run(staff, report=report_of(("txn_b", "7.00", "0.00", "charge", "", "pi_2")))
    assert sorted(await found(staff, first)) == [("fee", None, -30), ("missing_here", None, 1000)]
    assert await found(staff, second) == [("missing_here", None, 700)]
    async with staff.begin() as uow:
        (only,) = (await reconciliation.differences(uow, first.id, DifferenceKind.FEE)).items
    assert (only.line_id, only.actual_amount) == ("txn_a", -30)


async def test_a_report_of_too_many_lines_is_refused(
    staff: Deps, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reconciliation, "LINES_MAX", 2)
    lines = [(f"txn_{n}", "1.00", "0.00", "charge", "", f"pi_{n}") for n in range(3)]
    assert (await run(staff, report=report_of(*lines[:2]))).line_count == 2
    with pytest.raises(InvalidInput, match="shorter period"):
        await run(staff, report=report_of(*lines))
    async with staff.begin() as uow:
        latest, _ = (await reconciliation.list_runs(uow)).items
    assert (latest.state, latest.line_count) == (RunState.FAILED, 0)


async def test_a_kept_line_is_given_its_payment_when_that_is_known(
    staff: Deps, stripe_account: StripeServer
) -> None:
    """The report names the refund alone, and the webhook that says whose it is comes later."""
    reference = await sold(staff)
    stripe_account.refund_by_hand(reference, 700)
    refund_id = list(stripe_account.refunds)[-1]
    report = report_of(
        ("txn_a", "29.90", "0.69", "charge", "ch_1", reference),
        ("txn_b", "-7.00", "0.00", "refund", refund_id, ""),
    )
    assert await found(staff, await run(staff, report=report)) == [("missing_here", None, -700)]
    await hear(factories.later(staff, days=-2), stripe_account)
    again = await run(staff, report=report)
    assert (again.matched_count, await found(staff, again)) == (2, [])
    async with staff.begin() as uow:
        owned = await uow.session.scalar(text("SELECT count(payment_id) FROM balance_entry"))
    assert owned == 2


async def test_two_providers_may_give_a_line_the_same_name(staff: Deps, paypal: PayPal) -> None:
    both = shop_with(staff, paypal)
    for provider, gross in (("stripe", "10.00"), ("paypal", "20.00")):
        line = ("1", gross, "0.10", "charge", "", f"of_{provider}")
        done = await run(both, provider, report_of(line))
        assert [kind for kind, _, _ in await found(both, done)] == ["missing_here"]
    assert (await balances(both))["fees"] == 20


@pytest.mark.parametrize(
    "report",
    [
        "",
        "rubbish",
        "a,b\n1,2\n",
        HEADER + "txn,2026-01-30 12:00:00,eur,1.234,0,charge,,\n",
        HEADER + "txn,2026-01-30 12:00:00,eur,NaN,0,charge,,\n",
        HEADER + "txn,2026-01-30 12:00:00,eur,1e999999999,0,charge,,\n",
        HEADER + "txn,yesterday,eur,1,0,charge,,\n",
        HEADER + "txn,2026-01-30 12:00:00,euro,1,0,charge,,\n",
        HEADER + ",2026-01-30 12:00:00,eur,1,0,charge,,\n",
        HEADER + "txn\n",
        HEADER + '"txn,2026\n',
    ],
)
async def test_hostile_reports(staff: Deps, report: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        await run(staff, report=report)
    assert caught.value.field == "report"
    assert await check(staff) == []


async def test_over_http(
    stripe_client: httpx.AsyncClient, staff: Deps, stripe_account: StripeServer
) -> None:
    await sold(staff)
    stripe_account.ledger.clear()
    # The client's clock is NOW: a period may not end after it.
    body = {
        "provider": "stripe",
        "start": START.isoformat(),
        "end": NOW.astimezone(UTC).isoformat(),
    }
    path, customer = "/v1/reconciliations", await factories.user(staff)
    refused = await stripe_client.post(path, json=body, headers=factories.bearer(customer))
    assert refused.status_code == 401 or refused.status_code == 403
    headers = factories.bearer(factories.later(staff, days=-2)) | {"Idempotency-Key": str(uuid4())}
    made = await stripe_client.post(path, json=body, headers=headers)
    assert (made.status_code, made.json()["state"]) == (201, "finished")
    listed = (await stripe_client.get(path, headers=headers)).json()["items"]
    assert [item["id"] for item in listed] == [made.json()["id"]]
    differences = f"{path}/{made.json()['id']}/differences"
    answer = await stripe_client.get(
        differences, headers=headers, params={"kind": DifferenceKind.MISSING_THERE.value}
    )
    assert (answer.status_code, answer.json()["items"]) == (200, [])
    absent = await stripe_client.get(f"{path}/{uuid4()}/differences", headers=headers)
    assert absent.status_code == 404


async def test_paypals_books(paypal_shop: Deps, paypal_account: PayPalServer) -> None:
    paypal_account.transactions.clear()
    await factories.product(paypal_shop, "MUG", price=1250, stock=50)
    buyer = await factories.user(paypal_shop)
    stored = await method.add(buyer, "SETUP-4")
    placed = await buy(buyer, str(stored.id))
    of = await order_of(buyer, placed.id)
    async with buyer.acting_as(SYSTEM).begin() as uow:
        asked = await refund.request(uow, of, amount=1000, reason="it broke")
    await refund_process.drive(buyer.acting_as(SYSTEM), asked.id)
    paypal_account.pay_out("10.00")
    staff = factories.later(await factories.user(paypal_shop, role=Role.MERCHANT), days=2)
    done = await run(staff, "paypal")
    assert (done.line_count, done.matched_count) == (3, 2)
    assert await found(staff, done) == []
    books = await balances(staff)
    assert (books["fees"], books["payouts"]) == (109, 1000)
    paypal_account.refund_by_hand(await reference_of(buyer, placed.id), "1.00")
    assert await found(staff, await run(staff, "paypal")) == [("missing_here", None, -100)]
    async with staff.begin() as uow:
        count = await uow.session.scalar(text("SELECT count(*) FROM balance_entry"))
    assert count == 4
    assert await check(staff) == []
