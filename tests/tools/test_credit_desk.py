"""Gift cards and store credit as staff hand them out: once, told, owed, and until they lapse."""

from typing import Any
from uuid import UUID

import pytest

from db.models.credit import CreditKind
from db.types import Money, new_id
from deps.core import Deps
from deps.gateway import Gateway
from tests import factories
from tests.standing import balances
from tools import credit_account, credit_code, credit_desk
from tools.credit_desk import AMOUNT_MAX, LIFE_DAYS_MAX
from tools.errors import InvalidInput, NotFound
from tools.invariant import check
from tools.page import ByTime


async def issue(merchant: Deps, amount: int, life_days: int | None = None) -> UUID:
    async with merchant.begin() as uow:
        return (await credit_desk.issue_gift_card(uow, amount, life_days)).id


async def told(deps: Deps) -> list[tuple[str, Any]]:
    rows = await deps.hot.fetch("SELECT type, payload FROM outbox ORDER BY seq")
    return [(row["type"], row["payload"]) for row in rows]


async def movements(deps: Deps) -> list[tuple[str, int, str]]:
    rows = await deps.hot.fetch(
        "SELECT key, balance_delta, reason FROM credit_movement ORDER BY id"
    )
    return [tuple(row) for row in rows]


async def email_of(deps: Deps) -> str:
    return str(
        await deps.hot.fetchval("SELECT email FROM app_user WHERE id = $1", deps.actor.user_id)
    )


async def test_what_is_shown_beforehand_is_what_is_issued(merchant: Deps) -> None:
    async with merchant.begin() as uow:
        shown = await credit_desk.preview_issue_gift_card(uow, 700, 10)
        mine = await credit_desk.preview_issue_gift_card(uow, 1, account_id=shown.account_id)
    assert (shown.amount, shown.refund_amount, shown.currency) == (700, 700, "EUR")
    assert shown.expires_at == factories.later(merchant, days=10).clock()
    assert (mine.account_id, mine.expires_at) == (shown.account_id, None)
    assert await told(merchant) == []
    async with merchant.begin() as uow:
        made = await credit_desk.issue_gift_card(
            uow, 700, 10, note="a raffle", account_id=shown.account_id
        )
        again = await credit_desk.issue_gift_card(uow, 700, account_id=shown.account_id)
    assert again == made
    assert (made.id, made.kind, made.expires_at) == (
        shown.account_id,
        CreditKind.GIFT_CARD,
        shown.expires_at,
    )
    assert (made.balance_amount, made.available_amount, made.has_code) == (700, 700, False)
    event = {"credit_account_id": str(made.id), "kind": "gift_card"}
    assert await told(merchant) == [("CreditIssued", event | {"amount": 700, "currency": "EUR"})]
    assert await movements(merchant) == [(f"issue:{made.id}", 700, "a raffle")]
    assert await balances(merchant) == {"credit_issued": 700, "gift_card_liability": -700}
    assert await check(merchant) == []


async def test_a_grant_is_shown_and_made_once(customer: Deps, merchant: Deps) -> None:
    email, mine = await email_of(customer), new_id()
    async with merchant.begin() as uow:
        shown = await credit_desk.preview_grant(uow, email.upper(), 300, "late", mine)
        assert (await credit_desk.preview_grant(uow, email, 300, "late")).grant_id != mine
        for name, amount, reason in (("x@y.example", 1, "x"), (email, 0, "x"), (email, 1, " ")):
            with pytest.raises((InvalidInput, NotFound)):
                await credit_desk.preview_grant(uow, name, amount, reason)
    assert (shown.grant_id, shown.email) == (mine, email)
    assert (shown.amount, shown.refund_amount, shown.currency) == (300, 300, "EUR")
    assert await told(merchant) == []
    for _ in range(2):
        async with merchant.begin() as uow:
            made = await credit_desk.grant(uow, email, 300, " late ", mine)
        assert (made.kind, made.available_amount) == (CreditKind.STORE_CREDIT, 300)
    assert await movements(merchant) == [(f"grant:{mine}", 300, "late")]
    ((event, said),) = await told(merchant)
    assert (event, said["kind"], said["amount"]) == ("CreditIssued", "store_credit", 300)
    assert await balances(merchant) == {"credit_issued": 300, "store_credit_liability": -300}


@pytest.mark.parametrize(
    ("amount", "life_days", "field"),
    [
        (1, 1, None),
        (AMOUNT_MAX, LIFE_DAYS_MAX, None),
        (0, None, "amount"),
        (AMOUNT_MAX + 1, None, "amount"),
        (1, 0, "life_days"),
        (1, LIFE_DAYS_MAX + 1, "life_days"),
    ],
)
async def test_amounts_and_lives_have_limits(
    merchant: Deps, amount: int, life_days: int, field: str | None
) -> None:
    async with merchant.begin() as uow:
        for ask in (credit_desk.preview_issue_gift_card, credit_desk.issue_gift_card):
            if field is None:
                await ask(uow, amount, life_days)
                continue
            with pytest.raises(InvalidInput) as refused:
                await ask(uow, amount, life_days)
            assert refused.value.field == field
    assert await merchant.hot.fetchval("SELECT count(*) FROM credit_movement") == (field is None)


async def test_a_switch_is_told_when_it_moves(merchant: Deps) -> None:
    card, other = await issue(merchant, 500), await issue(merchant, 500)
    off, on = credit_desk.deactivate, credit_desk.activate
    for switch, is_active in ((on, True), (off, False), (off, False), (on, True), (off, False)):
        async with merchant.begin() as uow:
            assert (await switch(uow, card)).is_active is is_active
    moves = [said["is_active"] for event, said in await told(merchant) if "Activity" in event]
    assert moves == [False, True, False]
    async with merchant.begin() as uow:
        assert await credit_desk.switched_on(uow, card) is None
        assert await credit_desk.switched_off(uow, card) == {"account_id": card}
        assert await credit_desk.switched_on(uow, other) == {"account_id": other}
        assert await credit_desk.switched_off(uow, other) is None
        for is_active, found in ((True, other), (False, card)):
            listed = await credit_desk.list_all(uow, is_active=is_active)
            assert [item.id for item in listed.items] == [found]
        for sort, first in ((ByTime.NEWEST, other), (ByTime.OLDEST, card)):
            assert (await credit_desk.list_all(uow, sort=sort)).items[0].id == first
        with pytest.raises(NotFound):
            await credit_desk.deactivate(uow, new_id())


async def test_what_is_left_of_a_card_lapses_at_its_moment_but_for_what_is_held(
    deps: Deps, merchant: Deps
) -> None:
    card, _ = await issue(merchant, 1_000, 10), await issue(merchant, 77)
    gateway: Gateway = deps.gateways["credit"]
    held = await gateway.authorize(f"{new_id()}:authorize:1", Money(300, "EUR"), str(card))
    assert held.approved
    assert await credit_desk.expire_due(factories.later(merchant, days=9, hours=23)) == 0
    assert (await movements(merchant))[0] == (f"issue:{card}", 1_000, "issued")
    due = factories.later(merchant, days=10)
    assert await credit_desk.expire_due(due) == 1
    assert await credit_desk.expire_due(due) == 0
    assert (await movements(merchant))[-1] == (f"expire:{card}:1", -700, "expired")
    said = {"credit_account_id": str(card), "amount": 700, "currency": "EUR"}
    assert (await told(merchant))[-1] == ("CreditExpired", said)
    assert (await balances(merchant))["gift_card_liability"] == -377
    assert (await gateway.void(f"{new_id()}:void:1", held.reference)).approved
    assert await credit_desk.expire_due(due) == 1
    assert (await movements(merchant))[-1] == (f"expire:{card}:2", -300, "expired")
    assert await balances(merchant) == {"credit_issued": 77, "gift_card_liability": -77}
    assert await check(due) == []


async def test_what_was_given_back_to_a_lapsed_card_lapses_later(merchant: Deps) -> None:
    card = await issue(merchant, 500, 1)
    late = factories.later(merchant, days=1)
    assert await credit_desk.expire_due(late) == 1
    async with late.begin() as uow:
        await credit_account.prolong(uow, card)
        await credit_account.add(uow, card, 1, key="back", reason="given back")
    assert await credit_desk.expire_due(factories.later(late, days=89)) == 0
    assert await credit_desk.expire_due(factories.later(late, days=90)) == 1
    assert (await movements(merchant))[-1] == (f"expire:{card}:2", -1, "expired")


async def test_a_card_is_found_by_the_end_of_its_code(merchant: Deps) -> None:
    cards = [await issue(merchant, 500) for _ in range(2)]
    async with merchant.begin() as uow:
        last4 = [(await credit_code.reveal(uow, card)).last4 for card in cards]
        for card, typed in zip(cards, last4, strict=True):
            listed = await credit_desk.list_all(uow, CreditKind.GIFT_CARD, f" {typed.lower()}")
            assert [item.id for item in listed.items] == [card]
        assert (await credit_desk.list_all(uow, CreditKind.STORE_CREDIT, last4[0])).items == []
