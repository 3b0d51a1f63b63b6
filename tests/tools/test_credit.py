"""Gift cards and store credit: issued once, spent by who may, owed until then."""

import asyncio
from uuid import UUID

import pytest
from sqlalchemy import text

from db.models.order import Order
from db.models.user import Role
from db.types import new_id
from deps.core import Deps
from deps.scripted import Fault, ScriptedGateway
from tests import factories
from tests.standing import balances
from tools import (
    cart,
    checkout,
    credit,
    credit_code,
    credit_desk,
    credit_tender,
    payment,
    refund,
    refund_process,
    sale,
)
from tools.errors import (
    CheckoutIncomplete,
    Conflict,
    InvalidInput,
    NotFound,
    PaymentDeclined,
    TooManyRequests,
    Unavailable,
)
from tools.invariant import check
from tools.order import OrderView


async def issue(merchant: Deps, amount: int, *, life_days: int | None = None) -> tuple[UUID, str]:
    """Issue a gift card; return its id and its code."""
    async with merchant.begin() as uow:
        card = await credit_desk.issue_gift_card(uow, amount, life_days)
    async with merchant.begin() as uow:
        return card.id, (await credit_code.reveal(uow, card.id)).code


async def spendable(deps: Deps) -> int:
    async with deps.begin() as uow:
        return (await credit.balance(uow)).available_amount


async def pay_with(
    buyer: Deps, *codes: str, method: str | None = "tok_visa", uses_account: bool = False
) -> OrderView:
    filled = await factories.filled_cart(buyer, MUG=1)
    await credit_tender.choose(buyer, filled.id, codes=list(codes), uses_account=uses_account)
    return await checkout.complete(buyer, filled.id, payment_method=method)


async def tenders(deps: Deps, placed: OrderView) -> list[tuple[str, int]]:
    async with deps.begin() as uow:
        of = await uow.session.get_one(Order, placed.id)
        rows = await payment.read_tenders(uow, of.id)
        return [(row.provider, row.captured_amount) for row in rows]


async def test_a_code_is_shown_once_and_kept_as_a_digest(merchant: Deps) -> None:
    card, code = await issue(merchant, 5_000)
    assert len(code) == 24
    async with merchant.begin() as uow:
        with pytest.raises(Conflict):
            await credit_code.reveal(uow, card)
        stored = (await uow.session.execute(text("SELECT * FROM credit_account"))).mappings().one()
        events = (await uow.session.execute(text("SELECT payload FROM outbox"))).scalars().all()
    # Not even its last characters, which might stand in an id by chance.
    assert [set(payload) for payload in events] == [
        {"kind", "amount", "currency", "credit_account_id"}
    ]
    plain = code.replace("-", "")
    assert not any(plain in str(value) for value in stored.values())
    assert stored["code_last4"] == code[-4:]


async def test_a_code_is_read_as_people_type_it(merchant: Deps, customer: Deps) -> None:
    _, code = await issue(merchant, 5_000)
    typed = f" {code.lower().replace('-', ' ').replace('0', 'o').replace('1', 'l')} "
    assert (await credit.redeem(customer, typed)).available_amount == 5_000
    assert await spendable(customer) == 5_000


async def test_issuing_with_one_id_issues_once(merchant: Deps) -> None:
    mine = new_id()
    for _ in range(2):
        async with merchant.begin() as uow:
            await credit_desk.issue_gift_card(uow, 700, account_id=mine)
    assert (await balances(merchant))["gift_card_liability"] == -700
    assert await check(merchant) == []


async def test_granting_with_one_id_grants_once(merchant: Deps, customer: Deps) -> None:
    async with merchant.begin() as uow:
        email = await uow.session.scalar(
            text("SELECT email FROM app_user WHERE id = :id"), {"id": customer.actor.user_id}
        )
    mine = new_id()
    for _ in range(2):
        async with merchant.begin() as uow:
            await credit_desk.grant(uow, str(email), 300, "late", grant_id=mine)
    async with merchant.begin() as uow:
        await credit_desk.grant(uow, str(email), 200, "late again")
        with pytest.raises(NotFound):
            await credit_desk.grant(uow, "nobody@example.com", 200, "late")
    assert await spendable(customer) == 500
    assert (await balances(merchant))["store_credit_liability"] == -500
    assert await check(merchant) == []


async def test_redeeming_is_for_who_is_signed_in_and_told_once(
    guest: Deps, customer: Deps, merchant: Deps
) -> None:
    card, code = await issue(merchant, 100)
    with pytest.raises(InvalidInput, match="Sign in"):
        await credit.redeem(guest, code)
    for _ in range(2):
        assert (await credit.redeem(customer, code)).has_code
    async with merchant.begin() as uow:
        told = text("SELECT payload FROM outbox WHERE type = 'CreditRedeemed'")
        (event,) = (await uow.session.scalars(told)).all()
    assert event["credit_account_id"] == str(card)


async def test_a_card_that_eight_people_redeem_at_once_is_one_persons(
    deps: Deps, merchant: Deps
) -> None:
    _, code = await issue(merchant, 100)
    people = [await factories.user(deps) for _ in range(8)]
    answers = await asyncio.gather(
        *(credit.redeem(person, code) for person in people), return_exceptions=True
    )
    refused = [answer for answer in answers if isinstance(answer, NotFound)]
    assert len(refused) == len(people) - 1
    assert sorted([await spendable(person) for person in people]) == [0] * 7 + [100]


async def test_absent_and_unusable_codes_look_the_same(deps: Deps, merchant: Deps) -> None:
    rival = await factories.user(deps, role=Role.CUSTOMER)
    _, taken = await issue(merchant, 100)
    await credit.redeem(rival, taken)
    off, blocked = await issue(merchant, 100)
    async with merchant.begin() as uow:
        await credit_desk.deactivate(uow, off)
    _, lapsed = await issue(merchant, 100, life_days=1)
    me = factories.later(await factories.user(deps, role=Role.CUSTOMER), days=2)
    said = set()
    for code in ("0000-0000-0000-0000-0000", taken, blocked, lapsed):
        with pytest.raises(NotFound) as refused:
            await credit.redeem(me, code)
        said.add((str(refused.value), refused.value.field, str(refused.value.extra)))
    assert len(said) == 1
    async with merchant.begin() as uow:
        await credit_desk.activate(uow, off)
    assert (await credit.redeem(me, blocked)).id == off


async def test_guessing_is_limited_also_when_it_fails(customer: Deps, merchant: Deps) -> None:
    _, code = await issue(merchant, 100)
    for _ in range(credit_code.LOOKUPS_MAX):
        with pytest.raises(NotFound):
            await credit.redeem(customer, "0000-0000-0000-0000-0000")
    with pytest.raises(TooManyRequests):
        await credit.redeem(customer, code)
    later = factories.later(customer, minutes=11)
    assert (await credit.redeem(later, code)).available_amount == 100


async def test_a_card_and_a_gift_card_share_a_total(
    guest: Deps, merchant: Deps, gateway: ScriptedGateway
) -> None:
    await factories.product(guest, "MUG", price=3_000, stock=5)
    _, small = await issue(merchant, 500)
    _, soon = await issue(merchant, 700, life_days=30)
    placed = await pay_with(guest, small, soon)
    assert await tenders(guest, placed) == [
        ("credit", 700),
        ("credit", 500),
        ("scripted", placed.total_amount - 1_200),
    ]
    assert sum(gateway.charges.values()) == placed.total_amount - 1_200
    books = await balances(merchant)
    assert books.get("gift_card_liability", 0) == 0
    assert books["clearing"] == placed.total_amount - 1_200
    assert books["receivable"] == 0
    assert await check(guest) == []


async def test_credit_alone_needs_no_card(
    guest: Deps, merchant: Deps, gateway: ScriptedGateway
) -> None:
    await factories.product(guest, "MUG", price=3_000, stock=5)
    _, code = await issue(merchant, 10_000)
    placed = await pay_with(guest, code, method=None)
    assert (placed.status, placed.payment_status) == ("placed", "captured")
    assert await tenders(guest, placed) == [("credit", placed.total_amount)]
    assert gateway.calls == 0
    again = await checkout.complete(
        guest,
        (await only_cart(guest)),
        payment_method=None,
    )
    assert again.number == placed.number
    assert await check(guest) == []


async def only_cart(deps: Deps) -> UUID:
    async with deps.begin() as uow:
        found = await uow.session.scalar(text("SELECT id FROM cart"))
        assert found is not None
        return UUID(str(found))


async def test_too_little_credit_and_no_card_is_refused(guest: Deps, merchant: Deps) -> None:
    await factories.product(guest, "MUG", price=3_000, stock=5)
    _, code = await issue(merchant, 100)
    with pytest.raises(InvalidInput, match="left to pay"):
        await pay_with(guest, code, method=None)


async def test_less_credit_than_was_shown_is_refused(
    deps: Deps, guest: Deps, merchant: Deps, gateway: ScriptedGateway
) -> None:
    await factories.product(deps, "MUG", price=3_000, stock=5)
    _, code = await issue(merchant, 2_000)
    filled = await factories.filled_cart(guest, MUG=1)
    shown = await credit_tender.choose(guest, filled.id, codes=[code], uses_account=False)
    assert (shown.credit_amount, shown.payable_amount) == (2_000, filled.total_amount - 2_000)
    other = factories.guest(deps, "token-of-another-buyer-0123456789ab")
    await pay_with(other, code)
    calls = gateway.calls
    with pytest.raises(CheckoutIncomplete) as refused:
        await checkout.complete(guest, filled.id, payment_method="tok_visa")
    assert [p["code"] for p in refused.value.extra["problems"]] == ["credit_changed"]
    assert gateway.calls == calls
    await credit_tender.choose(guest, filled.id, codes=[], uses_account=False)
    assert (await checkout.complete(guest, filled.id, payment_method="tok_visa")).status == "placed"
    assert await check(deps) == []


async def test_sixteen_buyers_of_one_gift_card_spend_it_once(
    deps: Deps, merchant: Deps, gateway: ScriptedGateway
) -> None:
    await factories.product(deps, "MUG", price=3_000, stock=50)
    card, code = await issue(merchant, 2_000)
    buyers = [factories.guest(deps, f"token-of-buyer-{n:030}") for n in range(16)]
    carts = [await factories.filled_cart(buyer, MUG=1) for buyer in buyers]
    for buyer, filled in zip(buyers, carts, strict=True):
        await credit_tender.choose(buyer, filled.id, codes=[code], uses_account=False)
    results = await asyncio.gather(
        *(
            checkout.complete(buyer, filled.id, payment_method="tok_visa")
            for buyer, filled in zip(buyers, carts, strict=True)
        ),
        return_exceptions=True,
    )
    placed = [r for r in results if isinstance(r, OrderView)]
    assert len(placed) == 1
    assert all(isinstance(r, OrderView | PaymentDeclined | CheckoutIncomplete) for r in results)
    assert sum(gateway.charges.values()) == placed[0].total_amount - 2_000
    async with merchant.begin() as uow:
        moves = (await credit.history(uow, card)).items
    assert sum(move.balance_delta for move in moves) == 0
    assert sum(move.held_delta for move in moves) == 0
    assert await check(deps) == []


async def test_a_declined_card_releases_the_gift_card(guest: Deps, merchant: Deps) -> None:
    await factories.product(guest, "MUG", price=3_000, stock=5)
    card, code = await issue(merchant, 1_000)
    with pytest.raises(PaymentDeclined):
        await pay_with(guest, code, method="tok_declined")
    async with merchant.begin() as uow:
        (shown,) = (await credit_desk.list_all(uow)).items
    assert (shown.id, shown.available_amount, shown.balance_amount) == (card, 1_000, 1_000)
    assert await check(guest) == []


async def test_an_unanswered_card_keeps_the_hold_until_it_is_resumed(
    customer: Deps, merchant: Deps, gateway: ScriptedGateway
) -> None:
    await factories.product(customer, "MUG", price=3_000, stock=5)
    _, code = await issue(merchant, 1_000)
    await credit.redeem(customer, code)
    gateway.script.append(Fault.TIMEOUT_AFTER)
    with pytest.raises(Unavailable):
        await pay_with(customer, uses_account=True)
    async with customer.begin() as uow:
        shown = await credit.balance(uow)
    (account,) = shown.accounts
    assert (account.balance_amount, account.available_amount, shown.available_amount) == (
        1_000,
        0,
        0,
    )
    assert await check(customer) == []
    later = factories.later(customer, minutes=5)
    await sale.resume_stuck(later)
    assert (await balances(merchant)).get("gift_card_liability", 0) == 0
    assert await check(later) == []


async def test_refunds_go_to_the_card_first_and_then_to_the_gift_card(
    customer: Deps, merchant: Deps, gateway: ScriptedGateway
) -> None:
    await factories.product(customer, "MUG", price=3_000, stock=5)
    card, code = await issue(merchant, 1_000, life_days=10)
    placed = await pay_with(customer, code)
    by_card = placed.total_amount - 1_000

    async def give_back(amount: int | None) -> None:
        async with merchant.begin() as uow:
            of = await uow.session.get_one(Order, placed.id)
            asked = await refund.request(uow, of, reason="x", amount=amount)
        await refund_process.drive(merchant, asked.id)

    await give_back(by_card - 100)
    assert sum(gateway.charges.values()) == 100
    await give_back(None)
    assert sum(gateway.charges.values()) == 0
    async with merchant.begin() as uow:
        (shown,) = (await credit_desk.list_all(uow)).items
    assert (shown.id, shown.available_amount) == (card, 1_000)
    assert shown.expires_at is not None
    assert (shown.expires_at - merchant.clock()).days == 90
    books = await balances(merchant)
    assert (books["gift_card_liability"], books["clearing"]) == (-1_000, 0)
    assert await check(customer) == []


@pytest.mark.parametrize(("life_days", "lives_days"), [(10, 90), (200, 200), (None, None)])
async def test_a_refund_lets_a_card_live_long_enough_and_never_shorter(
    guest: Deps, merchant: Deps, life_days: int | None, lives_days: int | None
) -> None:
    await factories.product(guest, "MUG", price=3_000, stock=5)
    _, code = await issue(merchant, 5_000, life_days=life_days)
    placed = await pay_with(guest, code, method=None)
    await checkout.cancel(guest, placed.number, "too late")
    async with merchant.begin() as uow:
        (shown,) = (await credit_desk.list_all(uow)).items
    assert (shown.balance_amount, shown.available_amount) == (5_000, 5_000)
    lives = shown.expires_at and (shown.expires_at - merchant.clock()).days
    assert lives == lives_days


async def test_a_redeemed_card_that_lapsed_is_not_shown_as_credit(
    customer: Deps, merchant: Deps
) -> None:
    for amount, life_days in ((1_000, 1), (200, None)):
        _, code = await issue(merchant, amount, life_days=life_days)
        await credit.redeem(customer, code)
    assert await spendable(customer) == 1_200
    assert await spendable(factories.later(customer, days=1)) == 200


async def test_cancelling_gives_every_tender_its_own_back(
    customer: Deps, merchant: Deps, gateway: ScriptedGateway
) -> None:
    await factories.product(customer, "MUG", price=3_000, stock=5)
    _, code = await issue(merchant, 1_000)
    await credit.redeem(customer, code)
    placed = await pay_with(customer, uses_account=True)
    assert await spendable(customer) == 0
    answers = await asyncio.gather(
        *(checkout.cancel(customer, placed.number, "too late") for _ in range(8))
    )
    assert {answer.payment_status for answer in answers} == {"refunded"}
    assert await spendable(customer) == 1_000
    assert list(gateway.charges.values()) == [0]
    assert await check(customer) == []


async def test_what_lapses_is_no_longer_owed(deps: Deps, merchant: Deps) -> None:
    await issue(merchant, 1_000, life_days=10)
    await issue(merchant, 500)
    assert await credit_desk.expire_due(merchant) == 0
    late = factories.later(merchant, days=11)
    counts = await asyncio.gather(*(credit_desk.expire_due(late) for _ in range(4)))
    assert sum(counts) == 1
    books = await balances(merchant)
    assert (books["gift_card_liability"], books["credit_issued"]) == (-500, 500)
    assert await check(late) == []


async def test_history_pages_and_is_ones_own(deps: Deps, merchant: Deps, customer: Deps) -> None:
    await factories.product(customer, "MUG", price=3_000, stock=5)
    card, code = await issue(merchant, 1_000)
    await credit.redeem(customer, code)
    await pay_with(customer, uses_account=True)
    async with customer.begin() as uow:
        first = await credit.history(uow, limit=2)
        rest = await credit.history(uow, limit=2, cursor=first.next_cursor)
    assert [m.balance_delta for m in first.items + rest.items] == [-1_000, 0, 1_000]
    assert rest.next_cursor is None
    stranger = await factories.user(deps, role=Role.CUSTOMER)
    async with stranger.begin() as uow:
        assert (await credit.history(uow)).items == []
        for account in (card, new_id()):
            with pytest.raises(NotFound, match="No such credit"):
                await credit.history(uow, account)
    other, _ = await issue(merchant, 500)
    async with merchant.begin() as uow:
        for account, moved in ((card, [-1_000, 0, 1_000]), (other, [500])):
            assert [m.balance_delta for m in (await credit.history(uow, account)).items] == moved


async def test_a_guest_has_no_history(guest: Deps, merchant: Deps) -> None:
    await issue(merchant, 1_000)
    async with guest.begin() as uow:
        assert (await credit.history(uow)).items == []


async def test_a_cart_keeps_its_credit_to_itself(guest: Deps, customer: Deps) -> None:
    await factories.product(guest, "MUG", price=3_000, stock=5)
    filled = await factories.filled_cart(guest, MUG=1)
    with pytest.raises(NotFound):
        await credit_tender.choose(customer, filled.id, codes=[], uses_account=True)
    with pytest.raises(InvalidInput):
        await credit_tender.choose(guest, filled.id, codes=[], uses_account=True)


async def test_in_conversation(customer: Deps, merchant: Deps) -> None:
    await factories.product(customer, "MUG", price=3_000, stock=5)
    _, code = await issue(merchant, 1_000)
    async with customer.begin() as uow:
        await cart.add_item(uow, "MUG")
    shown = await credit_tender.use_in_cart(customer, code)
    assert (shown.credit_amount, shown.payable_amount) == (1_000, 2_000)
    assert (await credit_tender.use_in_cart(customer, code)) == shown
    async with customer.begin() as uow:
        assert (await credit_tender.remove_from_cart(uow)).credit_amount == 0
        assert not (await cart.current(uow)).uses_credit
