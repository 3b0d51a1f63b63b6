"""Credit accounts: who may see one, which can be spent, and how long what is given back lives."""

import asyncio
from datetime import timedelta
from uuid import UUID

import pytest

from db.models.credit import CreditAccount, CreditKind
from db.models.payment import Account
from db.models.user import Role
from db.types import UserId, new_id
from deps.core import Deps
from tests import factories
from tools import credit, credit_account, credit_desk
from tools.errors import NotFound


async def card(deps: Deps, life_days: int | None = None, currency: str = "EUR") -> UUID:
    """Add an empty gift card to the account of `deps.actor`."""
    async with deps.begin() as uow:
        made = CreditAccount(
            kind=CreditKind.GIFT_CARD,
            customer_id=deps.actor.user_id and UserId(deps.actor.user_id),
            currency=currency,
            expires_at=uow.now + timedelta(days=life_days) if life_days else None,
            created_at=uow.now,
        )
        uow.session.add(made)
    return made.id


async def usable(deps: Deps) -> list[UUID]:
    async with deps.begin() as uow:
        return [row.id for row in await credit_account.usable_of(uow)]


async def test_an_account_is_for_its_owner_and_for_staff(
    deps: Deps, customer: Deps, guest: Deps, merchant: Deps
) -> None:
    mine, nobodys = await card(customer), await card(guest)
    stranger = await factories.user(deps, role=Role.CUSTOMER)
    for caller, account, may in (
        (customer, mine, True),
        (merchant, mine, True),
        (merchant, nobodys, True),
        (merchant, new_id(), False),
        (stranger, mine, False),
        (guest, mine, False),
        (guest, nobodys, False),
        (customer, nobodys, False),
    ):
        async with caller.begin() as uow:
            if may:
                assert (await credit_account.access(uow, account)).id == account
            else:
                with pytest.raises(NotFound, match="No such credit"):
                    await credit_account.access(uow, account)


async def test_what_lapses_first_is_spent_first_and_what_has_lapsed_is_not(
    deps: Deps, customer: Deps, guest: Deps, merchant: Deps
) -> None:
    never, late, soon = [await card(customer, days) for days in (None, 20, 10)]
    off = await card(customer)
    await card(customer, currency="USD")
    await card(await factories.user(deps))
    await card(guest)
    async with merchant.begin() as uow:
        await credit_desk.deactivate(uow, off)
    assert await usable(customer) == [soon, late, never]
    assert await usable(factories.later(customer, days=9, hours=23)) == [soon, late, never]
    assert await usable(factories.later(customer, days=10)) == [late, never]
    assert await usable(guest) == []
    async with merchant.begin() as uow:
        await credit_desk.activate(uow, off)
    assert await usable(customer) == [soon, late, never, off]


async def test_a_customer_has_one_store_credit_in_each_currency(deps: Deps, customer: Deps) -> None:
    await card(customer)

    async def opened(of: Deps, currency: str = "EUR") -> UUID:
        async with deps.begin() as uow:
            assert of.actor.user_id is not None
            customer_id = UserId(of.actor.user_id)
            row = await credit_account.store_account(uow, customer_id, currency)
            assert (row.kind, row.customer_id) == (CreditKind.STORE_CREDIT, customer_id)
            assert (row.currency, row.expires_at) == (currency, None)
            return row.id

    at_once = await asyncio.gather(*(opened(customer) for _ in range(8)))
    assert len(set(at_once)) == 1
    other = await factories.user(deps)
    ids = {await opened(customer), await opened(customer, "USD"), await opened(other)}
    assert len(ids) == 3
    assert await deps.hot.fetchval("SELECT count(*) FROM credit_account") == 4


async def test_a_movement_says_who_added_what_and_why(customer: Deps, merchant: Deps) -> None:
    account, about = await card(customer), new_id()
    async with merchant.begin() as uow:
        owed = await credit_account.add(
            uow, account, 700, key="k", reason="x" * 501, reference_id=about
        )
        assert owed is Account.GIFT_CARD_LIABILITY
        store = await credit_account.store_account(uow, UserId(owner(customer)), "EUR")
        owed = await credit_account.add(uow, store.id, 5, key="l", reason="y")
        assert owed is Account.STORE_CREDIT_LIABILITY
    rows = await merchant.hot.fetch(
        "SELECT account_id, balance_delta, held_delta, reason, reference_id, actor_id, occurred_at"
        " FROM credit_movement ORDER BY id"
    )
    by, at = merchant.actor.user_id, merchant.clock()
    assert [tuple(row) for row in rows] == [
        (account, 700, 0, "x" * 500, about, by, at),
        (store.id, 5, 0, "y", None, by, at),
    ]
    async with customer.begin() as uow:
        assert (await credit.balance(uow)).available_amount == 705


def owner(deps: Deps) -> UUID:
    assert deps.actor.user_id is not None
    return deps.actor.user_id


@pytest.mark.parametrize(("life_days", "lives_days"), [(1, 90), (90, 90), (91, 91), (None, None)])
async def test_what_is_given_back_lives_for_ninety_days_at_least(
    customer: Deps, life_days: int | None, lives_days: int | None
) -> None:
    account = await card(customer, life_days)
    async with customer.begin() as uow:
        await credit_account.prolong(uow, account)
    until = await customer.hot.fetchval("SELECT expires_at FROM credit_account")
    assert until == (lives_days and factories.later(customer, days=lives_days).clock())


@pytest.mark.parametrize(("seconds", "is_usable"), [(-1, False), (0, False), (1, True)])
def test_an_account_lapses_at_its_moment(seconds: int, is_usable: bool) -> None:
    now = factories.BEGAN_AT
    row = CreditAccount(kind=CreditKind.GIFT_CARD, currency="EUR", created_at=now)
    assert credit_account.is_usable(row, now)
    row.expires_at = now + timedelta(seconds=seconds)
    assert credit_account.is_usable(row, now) is is_usable
    row.is_active = False
    assert not credit_account.is_usable(row, now)
