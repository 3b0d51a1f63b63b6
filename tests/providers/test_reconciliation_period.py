"""Which run looks at what: a period's edges, what is still settling, and what was listed late."""

from datetime import UTC, datetime, timedelta

import pytest

from deps.core import Deps
from tests import factories
from tests.conftest import NOW
from tests.providers.books import END, HEADER, START, bookkeeper, found, report_of, run, sold
from tests.providers.shop import hear
from tests.providers.stripe_account import fee_of
from tests.providers.stripe_server import StripeServer
from tests.standing import balances
from tools import pairing, reconciliation
from tools.errors import InvalidInput, NotFound
from tools.invariant import check


@pytest.fixture
async def staff(stripe_shop: Deps, stripe_account: StripeServer) -> Deps:
    return await bookkeeper(stripe_shop, stripe_account)


async def test_what_is_still_settling_is_not_missing(
    staff: Deps, stripe_account: StripeServer
) -> None:
    await sold(staff)
    stripe_account.ledger.clear()
    done = await reconciliation.run(staff, "stripe", START, NOW + timedelta(hours=1))
    assert await found(staff, done) == []


async def test_what_one_period_left_to_settle_is_looked_for_in_the_next(
    staff: Deps, stripe_account: StripeServer
) -> None:
    await sold(staff)
    stripe_account.ledger.clear()
    ends = NOW + timedelta(hours=1)
    missing = [("missing_there", 2990, None)]
    for start, end, named in (
        (START, ends, []),
        (ends + pairing.SETTLE + timedelta(seconds=1), END, []),
        (ends + pairing.SETTLE, END, missing),
        (ends, END, missing),
        (END, staff.clock(), []),
    ):
        done = await reconciliation.run(staff, "stripe", start, end)
        assert await found(staff, done) == named


async def test_a_line_that_was_listed_late_is_taken_along_once(
    staff: Deps, stripe_account: StripeServer
) -> None:
    await sold(staff)
    late = list(stripe_account.ledger)
    stripe_account.ledger.clear()
    ends = NOW + timedelta(hours=1)
    assert (await reconciliation.run(staff, "stripe", START, ends)).line_count == 0
    stripe_account.ledger.extend(late)
    for count in (1, 0):
        done = await reconciliation.run(staff, "stripe", ends, END)
        assert (done.line_count, done.matched_count) == (count, count)
        assert await found(staff, done) == []
    assert (await balances(staff))["fees"] == fee_of(2990)
    assert await check(staff) == []


async def test_disputes_of_another_period_are_not_counted_again(
    staff: Deps, stripe_account: StripeServer
) -> None:
    stripe_account.open_dispute(await sold(staff))
    await hear(factories.later(staff, days=-2), stripe_account)
    assert (await run(staff)).matched_count == 2
    done = await reconciliation.run(staff, "stripe", END, staff.clock())
    assert (done.matched_count, await found(staff, done)) == (0, [])


async def test_what_ended_in_a_period_is_its_whenever_it_began(
    staff: Deps, stripe_account: StripeServer
) -> None:
    await sold(staff)
    stripe_account.ledger.clear()
    earlier = "UPDATE payment_attempt SET started_at = started_at - interval '2 days'"
    await staff.hot.execute(earlier)
    assert await found(staff, await run(staff)) == [("missing_there", 2990, None)]


async def test_the_edges_of_a_period(staff: Deps, stripe_account: StripeServer) -> None:
    """What began it is in it; what ended it is left to settle, and another period's is paired."""
    reference = await sold(staff)
    stripe_account.ledger.clear()
    settled = NOW + pairing.SETTLE
    for start, end, missing in (
        (NOW, END, [("missing_there", 2990, None)]),
        (START, settled, []),
        (START, settled + timedelta(seconds=1), [("missing_there", 2990, None)]),
        (NOW + timedelta(seconds=1), END, []),
    ):
        done = await reconciliation.run(staff, "stripe", start, end)
        assert await found(staff, done) == missing
        async with staff.begin() as uow:
            shown = (await reconciliation.differences(uow, done.id)).items
        assert all((d.currency, bool(d.payment_id)) == ("EUR", True) for d in shown)
    late = report_of(("txn_a", "29.90", "0.69", "charge", "ch_1", reference))
    done = await reconciliation.run(staff, "stripe", NOW + timedelta(hours=1), END, late)
    assert (done.matched_count, await found(staff, done)) == (1, [])


async def test_periods_that_are_none(staff: Deps) -> None:
    for start, end in (
        (END, START),
        (START, START),
        (START, NOW + timedelta(days=30)),
        (NOW - timedelta(days=400), NOW),
        (datetime(2026, 1, 1), NOW),  # noqa: DTZ001  Without a zone on purpose.
        (START, datetime(2026, 1, 30)),  # noqa: DTZ001
        (datetime(1, 1, 1, tzinfo=UTC), datetime(1, 1, 2, tzinfo=UTC)),
        (datetime.fromisoformat("0001-01-01T00:00:00+14:00"), datetime(1, 1, 2, tzinfo=UTC)),
        (START, datetime.fromisoformat("9999-12-31T23:59:59-23:59")),
    ):
        with pytest.raises(InvalidInput):
            await reconciliation.run(staff, "stripe", start, end)
    with pytest.raises(NotFound):
        await run(staff, "scripted")
    now = staff.clock()
    longest = now - reconciliation.PERIOD_MAX
    whole = await reconciliation.run(staff, "stripe", longest, now, HEADER)
    assert (whole.period_start, whole.period_end) == (longest, now)
