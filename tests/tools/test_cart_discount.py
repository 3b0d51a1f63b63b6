"""The code that a cart carries: what it takes off, when it does not, and how it is taken off."""

from dataclasses import replace
from datetime import timedelta

import httpx
import pytest
from sqlalchemy import text

from deps.core import Deps, confined
from tests import factories
from tests.reversal import act, undone
from tools import cart, cart_discount, checkout, credit_code, promotion, undo
from tools.errors import CheckoutIncomplete, Conflict, InvalidInput, NotFound, TooManyRequests


async def test_a_code_takes_its_part_off_and_comes_off_again(merchant: Deps, guest: Deps) -> None:
    await factories.product(merchant, "MUG", price=1000, stock=10)
    await factories.discount(merchant)
    filled = await factories.filled_cart(guest, MUG=2)
    shown = await cart_discount.put(guest, filled.id, "welcome10")
    assert (shown.discount_code, shown.discount_amount) == ("WELCOME10", 200)
    assert shown.total_amount == filled.total_amount - 200
    assert shown.problems == []
    assert shown.version == filled.version + 1
    again = await cart_discount.put(guest, filled.id, "WELCOME10")
    assert again == shown
    async with guest.begin() as uow:
        bare = await cart.set_discount(uow, filled.id, None)
    assert (bare.discount_code, bare.total_amount) == (None, filled.total_amount)


async def test_another_code_takes_the_place_of_the_first(merchant: Deps, guest: Deps) -> None:
    await factories.product(merchant, "MUG", price=1000, stock=10)
    await factories.discount(merchant)
    await factories.discount(merchant, "FIVER", amount=500)
    filled = await factories.reduced_cart(guest, MUG=1)
    assert filled.discount_amount == 100
    assert (await cart_discount.put(guest, filled.id, "FIVER")).discount_amount == 500


async def test_what_was_shown_is_what_is_paid(merchant: Deps, guest: Deps) -> None:
    await factories.product(merchant, "MUG", price=1000, stock=10)
    await factories.discount(merchant)
    filled = await factories.reduced_cart(guest, MUG=2)
    async with guest.begin() as uow:
        await cart.set_discount(uow, filled.id, None)
    with pytest.raises(Conflict):
        await checkout.complete(
            guest,
            filled.id,
            payment_method="tok_visa",
            expected_total_amount=filled.total_amount,
        )


async def test_a_code_for_dearer_goods_is_refused_and_says_so(merchant: Deps, guest: Deps) -> None:
    await factories.product(merchant, "MUG", price=1000, stock=10)
    await factories.discount(merchant, minimum_amount=2_000)
    filled = await factories.filled_cart(guest, MUG=1)
    with pytest.raises(Conflict) as refused:
        await cart_discount.put(guest, filled.id, "WELCOME10")
    assert "EUR 20.00 or more" in str(refused.value)
    async with guest.begin() as uow:
        assert (await cart.view(uow, filled.id)).discount_code is None
        await cart.add(uow, filled.id, "MUG", 1)
    assert (await cart_discount.put(guest, filled.id, "WELCOME10")).discount_amount == 200
    async with guest.begin() as uow:
        less = await cart.set_quantity(uow, filled.id, "MUG", 1)
    assert (less.discount_amount, [p.code for p in less.problems]) == (0, ["discount"])
    with pytest.raises(CheckoutIncomplete):
        await checkout.complete(guest, filled.id, payment_method="tok_visa")


async def test_a_code_has_its_time(merchant: Deps, guest: Deps) -> None:
    await factories.product(merchant, "MUG", price=1000, stock=10)
    now = merchant.clock()
    day = timedelta(days=1)
    await factories.discount(merchant, starts_at=now + day, ends_at=now + 2 * day)
    filled = await factories.filled_cart(guest, MUG=1)
    with pytest.raises(Conflict, match="not valid yet"):
        await cart_discount.put(guest, filled.id, "WELCOME10")
    in_time = replace(guest, clock=lambda: now + day)
    assert (await cart_discount.put(in_time, filled.id, "WELCOME10")).discount_amount == 100
    late = replace(guest, clock=lambda: now + 2 * day)
    async with late.begin() as uow:
        assert "not valid any more" in (await cart.view(uow, filled.id)).problems[0].message


async def test_no_code_and_what_is_none_are_told_apart(merchant: Deps, guest: Deps) -> None:
    await factories.product(merchant, "MUG", stock=10)
    filled = await factories.filled_cart(guest, MUG=1)
    with pytest.raises(NotFound):
        await cart_discount.put(guest, filled.id, "NOSUCH")
    with pytest.raises(InvalidInput):
        await cart_discount.put(guest, filled.id, "' OR 1=1 --")


async def test_codes_are_not_guessed_at_leisure(merchant: Deps, guest: Deps) -> None:
    await factories.product(merchant, "MUG", stock=10)
    filled = await factories.filled_cart(guest, MUG=1)
    for number in range(credit_code.LOOKUPS_MAX):
        with pytest.raises(NotFound):
            await cart_discount.put(guest, filled.id, f"GUESS{number}")
    with pytest.raises(TooManyRequests):
        await cart_discount.put(guest, filled.id, "GUESS")


async def test_a_code_comes_along_when_its_guest_signs_in(
    merchant: Deps, guest: Deps, customer: Deps
) -> None:
    await factories.product(merchant, "MUG", price=1000, stock=10)
    await factories.discount(merchant)
    await factories.filled_cart(customer, MUG=1)
    await factories.reduced_cart(guest, MUG=1)
    both = replace(
        customer,
        actor=replace(customer.actor, guest_secret_sha256=guest.actor.guest_secret_sha256),
    )
    async with both.begin() as uow:
        merged = await cart.current(uow)
    assert (merged.discount_code, merged.discount_amount) == ("WELCOME10", 200)


async def test_a_code_is_put_on_and_taken_off_and_each_is_undone(
    merchant: Deps, customer: Deps
) -> None:
    await factories.product(merchant, "MUG", price=1000, stock=10)
    await factories.discount(merchant)
    await factories.discount(merchant, "FIVER", amount=500)
    await factories.filled_cart(customer, MUG=1)
    await undone(customer, "cart.apply_discount", code="WELCOME10")
    async with customer.begin() as uow:
        current = await cart.current_id(uow)
    await cart_discount.put(customer, current, "WELCOME10")
    await undone(customer, "cart.apply_discount", code="FIVER")
    await undone(customer, "cart.remove_discount")


async def test_a_code_is_taken_off_and_put_back_in_the_cart_that_is_named(
    merchant: Deps, customer: Deps
) -> None:
    await factories.product(merchant, "MUG", price=1000, stock=10)
    await factories.discount(merchant)
    first, second = [await factories.reduced_cart(customer, MUG=1) for _ in range(2)]
    for before, expected in ((None, [None, "WELCOME10"]), ("WELCOME10", ["WELCOME10"] * 2)):
        async with customer.begin() as uow:
            await cart_discount.remove_discount(uow, first.id, before)
            said = await cart_discount.named(uow, first.id)
            codes = [(await cart.view(uow, of.id)).discount_code for of in (first, second)]
        assert codes == expected
        assert said == {"cart_id": first.id, "before": before}


async def test_a_code_of_a_cart_that_is_not_current_any_more_stays_when_it_is_taken_back(
    merchant: Deps, customer: Deps
) -> None:
    await factories.product(merchant, "MUG", price=1000, stock=10)
    await factories.discount(merchant)
    first = await factories.filled_cart(customer, MUG=1)
    run = await act(customer, "cart.apply_discount", code="WELCOME10")
    second = await factories.reduced_cart(customer, MUG=2)
    (step,) = (await undo.undo(customer, run)).steps
    assert step.why_not == "It was changed since."
    async with customer.begin() as uow:
        codes = [(await cart.view(uow, of.id)).discount_code for of in (first, second)]
    assert codes == ["WELCOME10", "WELCOME10"]


async def test_a_code_of_another_currency_is_none(merchant: Deps, guest: Deps) -> None:
    await factories.product(merchant, "MUG", stock=10)
    await factories.discount(merchant, amount=500)
    await merchant.hot.execute("UPDATE discount SET currency = 'JPY'")
    filled = await factories.filled_cart(guest, MUG=1)
    with pytest.raises(NotFound) as refused:
        await cart_discount.put(guest, filled.id, "WELCOME10")
    assert refused.value.field == "code"
    async with guest.begin() as uow:
        assert (await cart.view(uow, filled.id)).discount_code is None


async def test_a_shoppers_agent_cannot_look_through_the_codes(
    merchant: Deps, customer: Deps
) -> None:
    await factories.discount(merchant)
    async with customer.begin() as open_work, confined(open_work) as uow:
        rows = await uow.session.execute(text("SELECT code FROM discount"))
        assert rows.all() == []
        assert await uow.fetchval("SELECT discount_terms($1, $2)", "WELCOME10", uow.now)


async def test_tax_comes_on_top_where_the_shop_says_so(merchant: Deps, guest: Deps) -> None:
    await factories.product(merchant, "MUG", price=1000, stock=10)
    await factories.discount(merchant)
    filled = await factories.reduced_cart(factories.taxed(guest, DE="19"), MUG=2)
    assert (filled.tax_rate, filled.tax_amount) == (1900, 435)  # Of 1800 and 490.
    placed = await checkout.complete(
        factories.taxed(guest, DE="19"),
        filled.id,
        payment_method="tok_visa",
        expected_total_amount=2_725,
    )
    assert (placed.tax_amount, placed.total_amount) == (435, 2_725)
    booked = await merchant.hot.fetchval(
        "SELECT jsonb_object_agg(account, amount) FROM ledger_entry WHERE order_id = $1", placed.id
    )
    assert booked == {
        "clearing": 2_725, "revenue": -1_800, "shipping_revenue": -490, "tax_payable": -435,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("rates", "expected"),
    [({}, 0), ({"US": "8.25"}, 0), ({"US": "8.25", "*": "7"}, 700), ({"DE": "0", "*": "7"}, 0)],
)
async def test_the_rate_is_that_of_the_country_or_of_all_others(
    merchant: Deps, guest: Deps, rates: dict[str, str], expected: int
) -> None:
    await factories.product(merchant, "MUG", stock=10)
    filled = await factories.filled_cart(factories.taxed(guest, **rates), MUG=1)
    assert filled.tax_rate == expected


async def test_codes_over_rest(client: httpx.AsyncClient, merchant: Deps, customer: Deps) -> None:
    staff, shopper = factories.bearer(merchant), factories.bearer(customer)
    await factories.product(merchant, "MUG", price=1000, stock=10)
    made = await client.post(
        "/v1/discounts", json={"code": "spring", "percent": 20, "uses_max": 1}, headers=staff
    )
    assert (made.status_code, made.json()["code"]) == (201, "SPRING")
    other = await client.post(
        "/v1/discounts", json={"code": "SPRING", "amount": 100}, headers=staff
    )
    assert (other.status_code, other.json()["code"]) == (409, "already_exists")
    hidden = await client.get("/v1/discounts", headers=shopper)
    assert hidden.status_code == 403
    filled = await factories.filled_cart(customer, MUG=1)
    path = f"/v1/carts/{filled.id}/discount"
    applied = await client.put(path, json={"code": "spring"}, headers=shopper)
    assert (applied.status_code, applied.json()["discount_amount"]) == (200, 200)
    assert (await client.delete(path, headers=shopper)).json()["discount_code"] is None
    ended = await client.patch("/v1/discounts/spring", json={"is_active": False}, headers=staff)
    assert ended.json()["is_active"] is False
    late = await client.put(path, json={"code": "spring"}, headers=shopper)
    assert (late.status_code, late.json()["field"]) == (409, "code")
    listed = await client.get("/v1/discounts?is_active=false", headers=staff)
    assert [item["code"] for item in listed.json()["items"]] == ["SPRING"]
    assert (await client.get("/v1/discounts/spring", headers=staff)).json()["uses"] == 0
    assert promotion.normal_code("spring") == "SPRING"
