"""Closed days of the ledger: balances are the same with and without, whoever books when."""

import asyncio
import random
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, date, datetime

import pytest

from api import worker
from db.models.payment import Account
from db.types import new_id
from deps.core import SYSTEM, Deps
from tests import factories
from tools import invariant, ledger, payment

Balances = Mapping[tuple[str, str], int]


def on_day(deps: Deps, day: int, hour: int = 12, minute: int = 0) -> Deps:
    at = datetime(2026, 3, day, hour, minute, tzinfo=UTC)
    return replace(deps.acting_as(SYSTEM), clock=lambda: at)


async def book(deps: Deps, amount: int, currency: str = "EUR") -> None:
    async with deps.begin() as uow:
        amounts = {Account.CLEARING: amount, Account.REVENUE: -amount}
        await payment.post(uow, new_id(), None, currency, amounts)


async def balances(deps: Deps) -> Balances:
    async with deps.acting_as(SYSTEM).begin() as uow:
        found = await payment.balances(uow)
    return {(row.account, row.currency): row.balance_amount for row in found}


async def entries(deps: Deps) -> Balances:
    """The whole ledger, added up."""
    async with deps.acting_as(SYSTEM).begin() as uow:
        rows = await uow.fetch(
            "SELECT account, currency, sum(amount)::bigint FROM ledger_entry GROUP BY 1, 2"
        )
    return {(row[0], row[1]): row[2] for row in rows}


async def closed(deps: Deps) -> list[date]:
    async with deps.acting_as(SYSTEM).begin() as uow:
        return [row["day"] for row in await uow.fetch("SELECT day FROM ledger_day ORDER BY day")]


async def test_a_balance_before_any_closing(deps: Deps) -> None:
    assert await balances(deps) == {}
    assert await ledger.close_days(on_day(deps, 9)) == 0
    await book(on_day(deps, 1), 500)
    assert await balances(deps) == {("clearing", "EUR"): 500, ("revenue", "EUR"): -500}


async def test_balances_are_the_same_with_closed_days_and_without(deps: Deps) -> None:
    for day, amount, currency in ((1, 500, "EUR"), (2, -200, "EUR"), (5, 70, "USD"), (6, 1, "EUR")):
        await book(on_day(deps, day, hour=0), amount, currency)
    without = await balances(deps)
    assert without[("clearing", "EUR")] == 301
    assert await ledger.close_days(on_day(deps, 3)) == 2
    assert await ledger.close_days(on_day(deps, 3)) == 0, "once"
    assert await balances(deps) == without
    assert await ledger.close_days(on_day(deps, 7)) == 4
    assert await closed(deps) == [date(2026, 3, day) for day in range(1, 7)], "idle days, too"
    assert await balances(deps) == without
    await book(on_day(deps, 7), 9)
    assert await balances(deps) == await entries(deps)
    assert await invariant.check(deps) == []


async def test_what_is_closed_is_not_read_again(deps: Deps) -> None:
    await book(on_day(deps, 1), 500)
    await ledger.close_days(on_day(deps, 2))
    await factories.damage(deps, "DELETE FROM ledger_entry")
    assert (await balances(deps))[("clearing", "EUR")] == 500


async def test_a_day_is_closed_only_when_its_transactions_have_ended(deps: Deps) -> None:
    await book(on_day(deps, 1, 23, 59), 500)
    assert await ledger.close_days(on_day(deps, 2, 0, 59)) == 0
    assert await ledger.close_days(on_day(deps, 2, 1, 0)) == 1


@pytest.mark.parametrize("day", [1, 2, 3])
async def test_a_late_entry_is_added_to_its_day_and_all_later_ones(deps: Deps, day: int) -> None:
    """Of a day before the first, in the middle, and of the last that is closed."""
    for booked in (2, 3):
        await book(on_day(deps, booked), 100)
    await ledger.close_days(on_day(deps, 4))
    await book(on_day(deps, day, 23), 7, "USD")
    await book(on_day(deps, day, 23), 20)
    found = await balances(deps)
    assert found[("clearing", "EUR")] == 220
    assert found[("clearing", "USD")] == 7
    assert found == await entries(deps)
    assert await invariant.check(deps) == []


async def test_an_entry_under_way_keeps_its_day_open(deps: Deps) -> None:
    await book(on_day(deps, 1), 100)
    booked, end = asyncio.Event(), asyncio.Event()

    async def books_slowly() -> None:
        async with on_day(deps, 1, 23).begin() as uow:
            amounts = {Account.CLEARING: 5, Account.REVENUE: -5}
            await payment.post(uow, new_id(), None, "EUR", amounts)
            await uow.session.flush()
            booked.set()
            await end.wait()

    slow = asyncio.create_task(books_slowly())
    await booked.wait()
    assert await ledger.close_days(on_day(deps, 2)) == 0, "given up, not waited for"
    end.set()
    await slow
    assert await ledger.close_days(on_day(deps, 2)) == 1
    assert (await balances(deps))[("clearing", "EUR")] == 105
    assert await invariant.check(deps) == []


async def test_an_entry_waits_for_the_closing_and_is_added_to_it(deps: Deps) -> None:
    await book(on_day(deps, 1), 100)
    closing = asyncio.Event()

    async def closes_slowly() -> None:
        async with on_day(deps, 2).begin() as uow:
            tomorrow = uow.now.date()
            assert await uow.fetchval("SELECT ledger_close_next($1, $2)", tomorrow, uow.now)
            closing.set()
            async with asyncio.timeout(60):
                while not await uow.fetchval(_WAITS):  # noqa: ASYNC110
                    await asyncio.sleep(0.01)

    slow = asyncio.create_task(closes_slowly())
    await closing.wait()
    await book(on_day(deps, 1, 23), 5)
    await slow
    assert (await balances(deps))[("clearing", "EUR")] == 105
    assert await invariant.check(deps) == []


_WAITS = """
    SELECT EXISTS (SELECT 1 FROM pg_locks l JOIN pg_database d ON d.oid = l.database
                    WHERE d.datname = current_database() AND NOT l.granted
                      AND l.relation = 'ledger_entry'::regclass)
"""


async def test_the_worker_closes_days(deps: Deps) -> None:
    await book(on_day(deps, 1), 100)
    stop = asyncio.Event()
    working = asyncio.create_task(worker.run(on_day(deps, 3), stop))
    async with asyncio.timeout(60):
        while len(await closed(deps)) < 2:  # noqa: ASYNC110
            await asyncio.sleep(0.05)
    stop.set()
    await working
    assert await closed(deps) == [date(2026, 3, 1), date(2026, 3, 2)]


async def test_many_book_while_two_workers_close(deps: Deps) -> None:
    """Into days that are closed, that are being closed, and that are open."""
    chance = random.Random(7)
    for day in range(1, 11):
        await book(on_day(deps, day), day)

    async def books() -> None:
        for _ in range(15):
            await book(on_day(deps, chance.randint(1, 12)), chance.randint(1, 999))

    async def closes() -> int:
        return sum([await ledger.close_days(on_day(deps, day, 2)) for day in range(2, 12)])

    counts = await asyncio.gather(closes(), closes(), *(books() for _ in range(6)))
    again = await ledger.close_days(on_day(deps, 11, 2))
    assert sum(count for count in counts if count) + again == 10, "each day once"
    assert await closed(deps) == [date(2026, 3, day) for day in range(1, 11)]
    assert await balances(deps) == await entries(deps)
    assert await invariant.check(deps) == []


@pytest.mark.parametrize(
    "damage",
    [
        "UPDATE ledger_closing SET amount = amount + 1 WHERE day = '2026-03-01'",
        "DELETE FROM ledger_closing WHERE day = '2026-03-02' AND account = 'revenue'",
        "DELETE FROM ledger_entry WHERE account = 'revenue'",
        "INSERT INTO ledger_closing VALUES ('2026-03-02', 'fees', 'EUR', 1)",
    ],
)
async def test_the_audit_finds_a_day_that_is_not_its_entries(deps: Deps, damage: str) -> None:
    await book(on_day(deps, 1), 100)
    await ledger.close_days(on_day(deps, 3))
    await factories.damage(deps, damage)
    names = {violation.invariant for violation in await invariant.check(deps)}
    assert "the closed days of the ledger hold what was booked until their end" in names


async def test_an_agent_of_staff_reads_the_same_balances(deps: Deps, merchant: Deps) -> None:
    await factories.product(merchant, "MUG", stock=5)
    await factories.placed_order(factories.guest(deps), MUG=2)
    await ledger.close_days(factories.later(deps.acting_as(SYSTEM), days=2))
    async with replace(merchant, as_agent=True).begin() as uow:
        seen = {row.account: row.balance_amount for row in await payment.balances(uow)}
    assert seen == {account: amount for (account, _), amount in (await entries(deps)).items()}
    assert seen["clearing"] > 0
