"""Codes of gift cards: made once, read as people type them, and not to be guessed."""

from dataclasses import replace

import pytest

from db.models.user import Role
from deps.core import Deps
from tests import factories
from tools import credit, credit_code, credit_desk
from tools.credit_code import ALPHABET, LOOKUPS_MAX, CodeView
from tools.errors import Conflict, NotFound, TooManyRequests


async def issued(merchant: Deps, life_days: int | None = None) -> CodeView:
    async with merchant.begin() as uow:
        card = await credit_desk.issue_gift_card(uow, 500, life_days)
        return await credit_code.reveal(uow, card.id)


async def test_a_code_is_shown_in_groups_with_its_last_four(merchant: Deps) -> None:
    first, second = await issued(merchant), await issued(merchant)
    groups = first.code.split("-")
    assert [len(group) for group in groups] == [4] * 5
    assert set("".join(groups)) <= set(ALPHABET)
    assert first.last4 == groups[-1]
    assert first.code != second.code
    async with merchant.begin() as uow:
        (found,) = (await credit_desk.list_all(uow, last4=first.last4.lower())).items
    assert (found.id, found.last4) == (first.account_id, first.last4)


async def test_only_a_gift_card_of_nobody_has_a_code_to_show(
    customer: Deps, merchant: Deps
) -> None:
    async with merchant.begin() as uow:
        fresh = await credit_desk.issue_gift_card(uow, 500)
    async with customer.begin() as uow:
        with pytest.raises(NotFound, match="No such credit"):
            await credit_code.reveal(uow, fresh.id)
    shown = await issued(merchant)
    await credit.redeem(customer, shown.code)
    await merchant.hot.execute(
        "UPDATE credit_account SET code_sha256 = NULL WHERE id = $1", shown.account_id
    )
    mail = await merchant.hot.fetchval(
        "SELECT email FROM app_user WHERE id = $1", customer.actor.user_id
    )
    async with merchant.begin() as uow:
        with pytest.raises(Conflict, match="needs no code"):
            await credit_code.reveal(uow, shown.account_id)
        granted = await credit_desk.grant(uow, mail, 100, "late")
        with pytest.raises(NotFound, match="No such credit"):
            await credit_code.reveal(uow, granted.id)


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("abcd-efgh", "ABCDEFGH"),
        (" ab cd\t-efgh\n", "ABCDEFGH"),
        ("oOiIlL", "001111"),
        ("", ""),
    ],
)
def test_what_people_misread_is_put_right(typed: str, meant: str) -> None:
    assert credit_code.normal_code(typed) == meant


async def test_tries_are_counted_by_caller_and_for_ten_minutes(
    customer: Deps, guest: Deps, merchant: Deps
) -> None:
    await credit_code.count_lookup(customer, LOOKUPS_MAX)
    for late in (customer, factories.later(customer, minutes=9, seconds=59)):
        with pytest.raises(TooManyRequests):
            await credit_code.count_lookup(late)
    await credit_code.count_lookup(guest, LOOKUPS_MAX)
    await credit_code.count_lookup(merchant)
    for caller in (guest, factories.guest(guest)):
        with pytest.raises(TooManyRequests):
            await credit_code.count_lookup(caller)
    await credit_code.count_lookup(factories.guest(guest, "token-of-another-buyer-0123456789ab"))
    later = factories.later(customer, minutes=10)
    await credit_code.count_lookup(later, LOOKUPS_MAX)
    with pytest.raises(TooManyRequests):
        await credit_code.count_lookup(later)
    nobody = replace(customer, actor=replace(customer.actor, user_id=None))
    await credit_code.count_lookup(nobody, LOOKUPS_MAX)
    with pytest.raises(TooManyRequests):
        await credit_code.count_lookup(nobody)


async def test_a_code_is_its_holders_and_then_its_owners(
    deps: Deps, customer: Deps, guest: Deps, merchant: Deps
) -> None:
    shown, other = await issued(merchant), await issued(merchant)
    stranger = await factories.user(deps, role=Role.CUSTOMER)
    for caller in (guest, customer, stranger):
        async with caller.begin() as uow:
            assert (await credit_code.by_code(uow, shown.code)).id == shown.account_id
            assert await credit_code.own(uow, shown.code) is None
    await credit.redeem(customer, shown.code)
    async with customer.begin() as uow:
        assert (await credit_code.by_code(uow, shown.code)).id == shown.account_id
        mine = await credit_code.own(uow, shown.code.lower())
        assert mine is not None
        assert mine.id == shown.account_id
        assert await credit_code.own(uow, other.code) is None
    for caller in (guest, stranger):
        async with caller.begin() as uow:
            assert await credit_code.own(uow, shown.code) is None
            with pytest.raises(NotFound) as refused:
                await credit_code.by_code(uow, shown.code)
            assert refused.value.field == "code"


async def test_a_code_is_worth_nothing_from_the_moment_it_lapses(
    guest: Deps, merchant: Deps
) -> None:
    shown = await issued(merchant, life_days=1)
    async with factories.later(guest, hours=23, minutes=59).begin() as uow:
        assert (await credit_code.by_code(uow, shown.code)).id == shown.account_id
    async with factories.later(guest, days=1).begin() as uow:
        with pytest.raises(NotFound, match="cannot be used"):
            await credit_code.by_code(uow, shown.code)
