"""Bundles, locations, rules and what a cart says, taken back: as it was, or it is refused."""

from dataclasses import replace
from typing import Any
from uuid import UUID

import pytest

from agents.base import call_operation
from db.models.stock_rule import RuleKind
from deps.core import SYSTEM, Deps
from tests import factories
from tests.reversal import act, at_once, rows, shelves, undone
from tools import (
    action,
    agent_run,
    bundle,
    cart,
    cart_delivery,
    checkout,
    credit_code,
    credit_desk,
    credit_tender,
    location,
    stock_rule,
    undo,
)
from tools.bundle import BundlePartInput
from tools.credit_tender import CreditChoice
from tools.errors import Conflict, InvalidInput, NotFound
from tools.invariant import check
from tools.registry import OPERATIONS
from tools.stock_rule import Rule

DELIVERY = {
    "email": "ada@example.com",
    "name": "Ada",
    "line1": "12 Quay Street",
    "postal_code": "20457",
    "city": "Hamburg",
    "country_code": "DE",
}
AREA = {"country_code": "DE", "prefix": "20", "latitude": 53.5, "longitude": 10.0}
NEAREST, SPLITS = Rule(kind=RuleKind.NEAREST), Rule(kind=RuleKind.FEWEST_SPLITS)
PREFERRED = Rule(kind=RuleKind.PREFERRED, location="ROT", country_code="NL")
MUGS = [BundlePartInput(sku="MUG", quantity=2)]
TEAS = [BundlePartInput(sku="TEA", quantity=1), *MUGS]


@pytest.fixture
async def goods(merchant: Deps) -> Deps:
    await factories.product(merchant, "SET", title="Gift set", stock=0)
    return await shelves(merchant)


async def why_not(deps: Deps, run: UUID) -> str:
    """Undo a run of one call that cannot be undone; return why, every row left as it is."""
    before = await rows(deps)
    (step,) = (await undo.undo(deps, run)).steps
    assert not step.is_undone
    assert await rows(deps) == before
    return step.why_not


async def changes_nothing(deps: Deps, key: str, **arguments: Any) -> None:
    """Do what was done already, and undo it: nothing that was there before goes."""
    before = await rows(deps)
    run = await act(deps, key, **arguments)
    assert await rows(deps) == before
    (step,) = (await undo.undo(deps, run)).steps
    assert (step.is_undone, step.why_not) == (True, "")
    assert await rows(deps) == before


SETTINGS: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    ("bundle.define", {"sku": "SET", "parts": MUGS}, {"parts": TEAS}),
    ("location.save", {"code": "BER", "name": "Berlin"}, {"country_code": "DE"}),
    ("location.save", {"code": "HAM", "latitude": 53.5, "longitude": 10.0}, {"priority": 7}),
    ("stock_rule.replace", {"rules": [NEAREST, PREFERRED]}, {"rules": [SPLITS]}),
    ("stock_rule.place_area", AREA, {"latitude": 52.5, "longitude": 13.4}),
]


@pytest.mark.parametrize(("key", "first", "then"), SETTINGS, ids=lambda value: str(value)[:30])
async def test_a_setting_is_set_back_unless_it_changed_since(
    goods: Deps, key: str, first: dict[str, Any], then: dict[str, Any]
) -> None:
    await undone(goods, key, **first)
    run = await act(goods, key, **first)
    await changes_nothing(goods, key, **first)
    await undone(goods, key, **(first | then))
    await act(goods, key, **(first | then))
    assert await why_not(goods, run) == "It was changed since."


async def test_a_bundle_that_was_dissolved_is_one_again(goods: Deps) -> None:
    async with goods.begin() as uow:
        await bundle.define(uow, "SET", TEAS)
    await undone(goods, "bundle.define", sku="SET", parts=[])


async def test_a_bundle_whose_part_became_one_stays_dissolved(goods: Deps) -> None:
    await factories.product(goods, "BOX", title="Box", stock=0)
    async with goods.begin() as uow:
        await bundle.define(uow, "SET", [BundlePartInput(sku="BOX"), *MUGS])
    run = await act(goods, "bundle.define", sku="SET", parts=[])
    async with goods.begin() as uow:
        await bundle.define(uow, "BOX", MUGS)
    assert await why_not(goods, run) == "BOX is a bundle itself."


async def test_a_location_that_was_forgotten_is_there_again(goods: Deps) -> None:
    async with goods.begin() as uow:
        await location.save(uow, "BER", "Berlin", 5, False, "DE", 52.5, 13.4)
    await undone(goods, "location.forget", code="BER")
    run = await act(goods, "location.forget", code="BER")
    with pytest.raises(NotFound):
        await OPERATIONS["location.forget"](goods, code="BER")
    async with goods.begin() as uow:
        await location.save(uow, "BER", "Another Berlin")
    assert await why_not(goods, run) == "It was changed since."


async def test_a_location_that_was_used_stays(goods: Deps) -> None:
    run = await act(goods, "location.save", code="BER", name="Berlin")
    await factories.receive(goods, "MUG", 1, "BER")
    assert await why_not(goods, run) == "BER has been used; close it instead."
    async with goods.begin() as uow:
        await location.save(uow, "MAD", "Madrid")
        await stock_rule.replace(uow, [Rule(kind=RuleKind.PREFERRED, location="MAD")])
    with pytest.raises(Conflict):
        await OPERATIONS["location.forget"](goods, code="MAD")
    assert await check(goods) == []


async def test_a_location_is_forgotten_once_however_many_ask(goods: Deps) -> None:
    before = await rows(goods)
    async with goods.begin() as uow:
        await location.save(uow, "BER", "Berlin")
    assert await at_once(goods, "location.forget", 4, code="BER") == ["not_found"] * 3
    assert await rows(goods) == before


async def test_a_postal_area_that_was_forgotten_is_where_it_was(goods: Deps) -> None:
    async with goods.begin() as uow:
        await stock_rule.place_area(uow, "DE", 53.5, 10.0, "2")
    await undone(goods, "stock_rule.forget_area", country_code="de", prefix="2")
    run = await act(goods, "stock_rule.forget_area", country_code="DE", prefix="2")
    for prefix in ("2", "20"):
        with pytest.raises(NotFound):
            await OPERATIONS["stock_rule.forget_area"](goods, country_code="DE", prefix=prefix)
    async with goods.begin() as uow:
        await stock_rule.place_area(uow, "DE", 1.0, 1.0, "2")
    assert await why_not(goods, run) == "It was changed since."


async def shopping(deps: Deps, *skus: str) -> UUID:
    """Put one of each SKU into the shopper's cart."""
    async with deps.begin() as uow:
        for sku in skus:
            await cart.add_item(uow, sku)
        return await cart.current_id(uow)


async def test_where_a_cart_goes_is_what_it_was_before(goods: Deps, customer: Deps) -> None:
    cart_id = await shopping(customer, "MUG")
    await undone(customer, "cart.deliver_to", **DELIVERY)
    full = factories.ADDRESS.model_copy(update={"line2": "c/o Babbage", "region": "HH"})
    async with customer.begin() as uow:
        await cart.set_details(uow, cart_id, shipping_address=full, shipping_method="express")
    await undone(customer, "cart.deliver_to", **DELIVERY)
    await undone(customer, "cart.forget_delivery")
    run = await act(customer, "cart.deliver_to", **DELIVERY)
    await changes_nothing(customer, "cart.deliver_to", **DELIVERY)
    async with customer.begin() as uow:
        await cart.set_details(uow, cart_id, email="grace@example.com")
    assert await why_not(customer, run) == "It was changed since."


async def test_where_the_cart_that_is_named_goes_is_forgotten(goods: Deps, customer: Deps) -> None:
    first, second = [await factories.filled_cart(customer, MUG=1) for _ in range(2)]
    said = cart_delivery.Delivery(
        email="ada@example.com", shipping_address=factories.ADDRESS, shipping_method="standard"
    )
    for before, expected in ((None, cart_delivery.Delivery()), (said, said)):
        async with customer.begin() as uow:
            await cart_delivery.forget_delivery(uow, first.id, before)
            for of, goes in ((first.id, expected), (second.id, said)):
                found = await cart_delivery.described(uow, of)
                assert found["cart_id"] == of
                assert cart_delivery.Delivery.model_validate(found["before"]) == goes


async def test_where_a_bought_cart_goes_is_not_taken_back(goods: Deps, customer: Deps) -> None:
    cart_id = await shopping(customer, "MUG")
    run = await act(customer, "cart.deliver_to", **DELIVERY)
    await checkout.complete(customer, cart_id, payment_method="tok_visa")
    assert await shopping(customer) != cart_id
    assert await why_not(customer, run) == "It was changed since."
    with pytest.raises(Conflict):
        await OPERATIONS["cart.forget_delivery"](customer, cart_id=cart_id)


async def test_where_another_s_cart_goes_is_not_forgotten(goods: Deps, customer: Deps) -> None:
    cart_id = await shopping(customer, "MUG")
    other = await factories.user(customer)
    before = await rows(goods)
    for key in ("cart.forget_delivery", "credit.remove_from_cart"):
        with pytest.raises(NotFound):
            await OPERATIONS[key](other, cart_id=cart_id)
    assert await rows(goods) == before


async def test_what_is_put_back_is_checked_as_if_it_was_new(goods: Deps, customer: Deps) -> None:
    cart_id = await shopping(customer, "MUG")
    wrong = cart_delivery.Delivery(shipping_method="by pigeon")
    async with customer.begin() as uow:
        with pytest.raises(InvalidInput):
            await cart_delivery.forget_delivery(uow, cart_id, wrong)


async def test_a_gift_card_that_was_issued_is_switched_off(merchant: Deps) -> None:
    within = agent_run.within(merchant, words="a gift card of 5 euros", route="payment")
    issuing = OPERATIONS["credit.issue_gift_card"]
    answer = await call_operation(within, issuing, {"amount": 500})
    approved = await action.approve(merchant, UUID(answer["data"]["id"]))
    assert approved.result is not None
    (step,) = (await undo.undo(merchant)).steps
    assert (step.is_undone, step.inverse) == (True, "credit.deactivate")
    async with merchant.begin() as uow:
        (issued,) = (await credit_desk.list_all(uow)).items
    assert (str(issued.id), issued.is_active) == (approved.result["id"], False)


async def gift_card(deps: Deps, amount: int) -> tuple[UUID, str]:
    """Issue a gift card; return its account and its code."""
    staff = deps.acting_as(SYSTEM)
    async with staff.begin() as uow:
        issued = await credit_desk.issue_gift_card(uow, amount)
        return issued.id, (await credit_code.reveal(uow, issued.id)).code


async def test_credit_for_a_cart_is_chosen_as_before(goods: Deps, customer: Deps) -> None:
    cart_id = await shopping(customer, "MUG", "TEA")
    (first, code), (_, second) = await gift_card(goods, 500), await gift_card(goods, 700)
    await undone(customer, "credit.use_in_cart", code=code)
    run = await act(customer, "credit.use_in_cart", code=code)
    await undone(customer, "credit.use_in_cart", code=second)
    await changes_nothing(customer, "credit.use_in_cart", code=code)
    await undone(customer, "credit.remove_from_cart")
    await act(customer, "credit.use_in_cart", code=second)
    assert await why_not(customer, run) == "It was changed since."
    await undone(customer, "credit.remove_from_cart")
    async with customer.begin() as uow:
        taken = await credit_tender.remove_from_cart(uow)
        assert (taken.credit_amount, taken.tenders) == (0, [])
        assert not (await cart.view(uow, cart_id)).uses_credit
        again = [CreditChoice(account_id=first, seen_amount=500)]
        back = await credit_tender.remove_from_cart(uow, cart_id, again)
        assert (back.credit_amount, [t.account_id for t in back.tenders]) == (500, [first])
        assert (await cart.view(uow, cart_id)).uses_credit


async def test_a_gift_card_is_put_back_only_where_its_code_was_given(
    goods: Deps, customer: Deps
) -> None:
    account_id, code = await gift_card(goods, 500)
    thief = await factories.user(customer)
    choice = CreditChoice(account_id=account_id, seen_amount=500)
    await shopping(customer, "MUG")
    await credit_tender.use_in_cart(customer, code)
    own = await shopping(thief, "MUG")
    for cart_id in (None, own):
        async with thief.begin() as uow:
            with pytest.raises(NotFound, match="give its code"):
                await credit_tender.remove_from_cart(uow, cart_id, [choice])


async def test_credit_that_is_gone_by_now_is_said_to_be(goods: Deps, customer: Deps) -> None:
    await shopping(customer, "MUG")
    _, code = await gift_card(goods, 500)
    await credit_tender.use_in_cart(customer, code)
    run = await act(customer, "credit.remove_from_cart")
    other = factories.guest(customer, "token-of-another-buyer-0123456789ab")
    spent = await factories.filled_cart(other, MUG=1)
    await credit_tender.choose(other, spent.id, codes=[code], uses_account=False)
    await checkout.complete(other, spent.id, payment_method="tok_visa")
    (step,) = (await undo.undo(customer, run)).steps
    assert step.is_undone
    async with customer.begin() as uow:
        shown = await credit_tender.view(uow, await cart.current_id(uow))
    assert (shown.credit_amount, [p.code for p in shown.problems]) == (0, ["credit_changed"])


async def test_a_guest_s_credit_comes_along_unless_it_was_taken_off(
    goods: Deps, customer: Deps
) -> None:
    (kept, kept_code), (_, off_code) = await gift_card(goods, 500), await gift_card(goods, 700)
    guest = factories.guest(customer)
    await shopping(guest, "MUG")
    await credit_tender.use_in_cart(guest, off_code)
    async with guest.begin() as uow:
        await credit_tender.remove_from_cart(uow)
    await credit_tender.use_in_cart(guest, kept_code)
    own = await shopping(customer, "TEA")
    await credit_tender.use_in_cart(customer, kept_code)
    async with customer.begin() as uow:
        await credit_tender.remove_from_cart(uow)
    secret = guest.actor.guest_secret_sha256
    signed_in = customer.acting_as(replace(customer.actor, guest_secret_sha256=secret))
    async with signed_in.begin() as uow:
        shown = await cart.current(uow)
        paid = await credit_tender.view(uow, own)
    assert (shown.id, shown.uses_credit) == (own, True)
    assert [tender.account_id for tender in paid.tenders] == [kept]
