"""Paying a cart with credit: what is chosen, and what of it can be spent when it comes to it."""

from dataclasses import replace
from uuid import UUID

import pytest
from sqlalchemy import text

from db.types import new_id
from deps.core import Deps
from deps.scripted import ScriptedGateway
from tests import factories
from tests.tools.test_credit import issue, spendable
from tools import cart, checkout, credit, credit_code, credit_desk, credit_tender
from tools.credit_tender import CartCreditView
from tools.errors import CheckoutIncomplete, InvalidInput, NotFound, TooManyRequests

TOTAL = 3_490  # Of a mug and its shipping.


@pytest.fixture(autouse=True)
async def mugs(deps: Deps) -> None:
    await factories.product(deps, "MUG", price=3_000, stock=50)


async def chosen(buyer: Deps, *codes: str) -> CartCreditView:
    filled = await factories.filled_cart(buyer, MUG=1)
    return await credit_tender.choose(buyer, filled.id, codes=list(codes), uses_account=False)


async def seen(buyer: Deps, cart_id: UUID) -> CartCreditView:
    async with buyer.begin() as uow:
        return await credit_tender.view(uow, cart_id)


async def uses_credit(buyer: Deps, cart_id: UUID) -> bool:
    async with buyer.begin() as uow:
        return (await cart.view(uow, cart_id)).uses_credit


@pytest.mark.parametrize("becomes", ["lapsed", "switched off", "someone else's"])
async def test_a_chosen_card_that_cannot_be_spent_any_more_is_not(
    guest: Deps, customer: Deps, merchant: Deps, gateway: ScriptedGateway, becomes: str
) -> None:
    card, code = await issue(merchant, 1_000, life_days=1)
    paid = await chosen(guest, code)
    if becomes == "lapsed":
        guest = factories.later(guest, days=1)
    elif becomes == "switched off":
        async with merchant.begin() as uow:
            await credit_desk.deactivate(uow, card)
    else:
        await credit.redeem(customer, code)
    now = await seen(guest, paid.cart_id)
    assert (now.credit_amount, now.payable_amount) == (0, TOTAL)
    assert [tender.available_amount for tender in now.tenders] == [0]
    with pytest.raises(CheckoutIncomplete, match=f"gift card ending in {code[-4:]} has less"):
        await checkout.complete(guest, paid.cart_id, payment_method="tok_visa")
    assert gateway.calls == 0


async def test_what_a_purchase_has_authorized_is_not_there_for_another(
    deps: Deps, merchant: Deps
) -> None:
    shop = factories.by_hand(deps)
    _, code = await issue(merchant, 5_000)
    first = factories.guest(shop)
    paid = await chosen(first, code)
    other = factories.guest(shop, "token-of-another-buyer-0123456789ab")
    both = await chosen(other, code)
    assert (await checkout.complete(first, paid.cart_id, payment_method=None)).status == "placed"
    left = await seen(other, both.cart_id)
    assert (left.credit_amount, [problem.code for problem in left.problems]) == (
        5_000 - TOTAL,
        ["credit_changed"],
    )
    again = await credit_tender.choose(other, both.cart_id, codes=[code], uses_account=False)
    assert (again.credit_amount, again.problems) == (5_000 - TOTAL, [])


async def test_store_credit_is_called_so_when_there_is_less_of_it(
    customer: Deps, merchant: Deps
) -> None:
    async with merchant.begin() as uow:
        email = await uow.session.scalar(
            text("SELECT email FROM app_user WHERE id = :id"), {"id": customer.actor.user_id}
        )
        granted = await credit_desk.grant(uow, str(email), 2_000, "late")
    filled = await factories.filled_cart(customer, MUG=1)
    await credit_tender.choose(customer, filled.id, codes=[], uses_account=True)
    async with merchant.begin() as uow:
        await credit_desk.deactivate(uow, granted.id)
    (problem,) = (await seen(customer, filled.id)).problems
    assert problem.message.startswith("Your store credit has less on it")


async def test_ten_gift_cards_pay_one_cart_and_an_eleventh_does_not(
    guest: Deps, merchant: Deps
) -> None:
    codes = [(await issue(merchant, 100))[1] for _ in range(credit_tender.CODES_MAX + 1)]
    with pytest.raises(InvalidInput, match="At most 10"):
        await chosen(guest, *codes)
    assert (await chosen(guest, *codes[1:])).credit_amount == 1_000


async def test_guessing_codes_at_a_cart_is_limited(deps: Deps, merchant: Deps) -> None:
    _, code = await issue(merchant, 100)
    guesses = ["0000-0000-0000-0000-0000"] * credit_tender.CODES_MAX
    one, other = await factories.user(deps), await factories.user(deps)
    for _ in range(credit_code.LOOKUPS_MAX // credit_tender.CODES_MAX):
        with pytest.raises(NotFound):
            await chosen(one, *guesses)
    with pytest.raises(TooManyRequests):
        await chosen(one, code)
    assert (await chosen(one)).credit_amount == 0, "no code, no guess"
    await factories.filled_cart(other, MUG=1)
    for _ in range(credit_code.LOOKUPS_MAX):
        await credit_tender.use_in_cart(other, code)
    with pytest.raises(TooManyRequests):
        await credit_tender.use_in_cart(other, code)


async def test_an_empty_card_and_one_in_another_currency_pay_nothing(
    deps: Deps, guest: Deps, merchant: Deps
) -> None:
    _, empty = await issue(merchant, 100)
    spent = await chosen(guest, empty)
    await checkout.complete(guest, spent.cart_id, payment_method="tok_visa")
    dollars = merchant.settings.model_copy(update={"currency": "USD"})
    _, foreign = await issue(replace(merchant, settings=dollars), 100)
    other = factories.guest(deps, "token-of-another-buyer-0123456789ab")
    for code in (empty, foreign):
        paid = await chosen(other, code)
        assert (paid.credit_amount, paid.tenders) == (0, [])
        assert not await uses_credit(other, paid.cart_id)


async def test_a_second_card_that_is_not_needed_is_not_charged(guest: Deps, merchant: Deps) -> None:
    _, first = await issue(merchant, 4_000, life_days=5)
    other, second = await issue(merchant, 4_000)
    paid = await chosen(guest, first, second)
    assert [tender.amount for tender in paid.tenders] == [TOTAL, 0]
    placed = await checkout.complete(guest, paid.cart_id, payment_method=None)
    assert placed.payment_status == "captured"
    async with merchant.begin() as uow:
        assert len((await credit.history(uow, other)).items) == 1, "the issue alone"


async def test_one_cart_s_credit_is_no_other_cart_s(
    deps: Deps, guest: Deps, merchant: Deps
) -> None:
    other = factories.guest(deps, "token-of-another-buyer-0123456789ab")
    plain = await factories.filled_cart(other, MUG=1)
    _, code = await issue(merchant, 1_000)
    async with guest.begin() as uow:
        await cart.add_item(uow, "MUG")
        before = await cart.current(uow)
    paid = await credit_tender.use_in_cart(guest, code)
    async with guest.begin() as uow:
        assert (await cart.current(uow)).version > before.version
    assert not await uses_credit(other, plain.id)
    async with other.begin() as uow:
        assert not (await credit_tender.remove_from_cart(uow)).tenders
    assert await uses_credit(guest, paid.cart_id)
    assert (await seen(guest, paid.cart_id)).credit_amount == 1_000


async def test_a_card_chosen_before_signing_in_pays_the_cart_that_was_there(
    guest: Deps, customer: Deps, merchant: Deps, gateway: ScriptedGateway
) -> None:
    _, code = await issue(merchant, 1_000)
    await factories.filled_cart(customer, MUG=1)
    await chosen(guest, code)
    secret = guest.actor.guest_secret_sha256
    buyer = customer.acting_as(replace(customer.actor, guest_secret_sha256=secret))
    async with buyer.begin() as uow:
        merged = await cart.current(uow)
    assert (await seen(buyer, merged.id)).payable_amount == 5_000
    bought = await checkout.complete(buyer, merged.id, payment_method="tok_visa")
    assert bought.total_amount == 6_000
    assert sum(gateway.charges.values()) == 5_000


async def test_one_s_own_credit_in_conversation(
    guest: Deps, customer: Deps, merchant: Deps
) -> None:
    _, code = await issue(merchant, 1_000)
    await credit.redeem(customer, code)
    for buyer in (guest, customer):
        async with buyer.begin() as uow:
            await cart.add_item(uow, "MUG")
    with pytest.raises(InvalidInput, match="Sign in"):
        await credit_tender.use_in_cart(guest)
    assert (await credit_tender.use_in_cart(customer)).credit_amount == 1_000
    assert await spendable(customer) == 1_000, "nothing is spent before the purchase"


async def test_nobody_pays_another_s_cart(deps: Deps, guest: Deps, customer: Deps) -> None:
    stranger = await factories.user(deps)
    other = factories.guest(deps, "token-of-another-buyer-0123456789ab")
    for owner, strangers in ((guest, (other, customer)), (customer, (guest, stranger))):
        filled = await factories.filled_cart(owner, MUG=1)
        assert (await seen(owner, filled.id)).total_amount == TOTAL
        for somebody in strangers:
            with pytest.raises(NotFound, match="No such cart"):
                await credit_tender.choose(somebody, filled.id, codes=[], uses_account=False)
            with pytest.raises(NotFound, match="No such cart"):
                await seen(somebody, filled.id)
    with pytest.raises(NotFound, match="No such cart"):
        await seen(guest, new_id())
