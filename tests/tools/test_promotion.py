"""Discount codes: made once, used as often as they may be, and ended."""

import asyncio
from datetime import timedelta
from typing import Any

import pytest

from deps.core import Deps
from deps.scripted import Fault, ScriptedGateway
from tests import factories
from tests.reversal import act, undone
from tools import (
    cap,
    checkout,
    invariant,
    promotion,
    rehearsal,
    undo,
)
from tools.errors import (
    AlreadyExists,
    CheckoutIncomplete,
    Conflict,
    InvalidInput,
    LimitReached,
    NotFound,
    PaymentDeclined,
)
from tools.promotion import DiscountView
from tools.registry import OPERATIONS


async def shown(merchant: Deps, name: str = "WELCOME10") -> DiscountView:
    async with merchant.begin() as uow:
        return await promotion.get_code(uow, name)


async def test_a_code_is_made_once_in_any_case_of_letters(merchant: Deps) -> None:
    made = await factories.discount(merchant, " welcome10 ", percent=10, uses_max=3)
    assert (made.code, made.percent, made.uses, made.is_active) == ("WELCOME10", 10, 0, True)
    assert await factories.discount(merchant, "WELCOME10", percent=10, uses_max=3) == made
    with pytest.raises(AlreadyExists) as refused:
        await factories.discount(merchant, "Welcome10", percent=20, uses_max=3)
    assert refused.value.field == "code"


@pytest.mark.parametrize(
    ("terms", "field"),
    [
        ({"code": "AB"}, "code"),
        ({"code": "NO SPACES"}, "code"),
        ({"code": "X" * 33}, "code"),
        ({"code": "ŠALE"}, "code"),
        ({"percent": None}, "percent"),
        ({"amount": 100}, "percent"),
        ({"percent": 0}, "percent"),
        ({"percent": 101}, "percent"),
        ({"percent": None, "amount": 0}, "amount"),
        ({"percent": None, "amount": promotion.AMOUNT_MAX + 1}, "amount"),
        ({"minimum_amount": -1}, "minimum_amount"),
        ({"uses_max": 0}, "uses_max"),
        ({"ends_at": factories.BEGAN_AT}, "ends_at"),
        ({"starts_at": factories.BEGAN_AT.replace(tzinfo=None)}, "starts_at"),
    ],
)
async def test_a_term_that_cannot_be_is_named(
    merchant: Deps, terms: dict[str, Any], field: str
) -> None:
    with pytest.raises(InvalidInput) as refused:
        async with merchant.begin() as uow:
            await OPERATIONS["promotion.create_code"].run(
                uow, **({"code": "SALE", "percent": 5} | terms)
            )
    assert refused.value.field == field
    async with merchant.begin() as uow:
        assert (await promotion.list_codes(uow)).items == []


@pytest.mark.parametrize(
    "terms",
    [
        {"percent": 1, "uses_max": 1},
        {"percent": promotion.PERCENT_MAX, "uses_max": promotion.USES_MAX},
        {"amount": 1, "minimum_amount": 0},
        {"amount": promotion.AMOUNT_MAX, "minimum_amount": promotion.AMOUNT_MAX},
    ],
)
async def test_the_least_and_the_most_that_a_term_may_be_is_taken(
    merchant: Deps, terms: dict[str, Any]
) -> None:
    made = await factories.discount(merchant, **terms)
    assert made.model_dump().items() >= terms.items()


async def test_a_code_that_is_there_is_shown_before_it_is_made_again(merchant: Deps) -> None:
    made = await factories.discount(merchant, uses_max=3)
    async with merchant.begin() as uow:
        shown = await promotion.preview_create_code(uow, "welcome10", percent=10, uses_max=3)
        assert shown.discount == made
        with pytest.raises(AlreadyExists):
            await promotion.preview_create_code(uow, "WELCOME10", percent=10, uses_max=4)


async def test_many_who_make_a_code_at_once_make_one(merchant: Deps) -> None:
    made = await asyncio.gather(*(factories.discount(merchant) for _ in range(8)))
    assert {each.id for each in made} == {made[0].id}
    found = await asyncio.gather(
        *(factories.discount(merchant, "OTHER", percent=10 + n) for n in range(8)),
        return_exceptions=True,
    )
    assert sum(isinstance(each, DiscountView) for each in found) == 1
    assert sum(isinstance(each, AlreadyExists) for each in found) == 7


async def test_what_becomes_of_a_code_is_told_once(merchant: Deps) -> None:
    made = await factories.discount(merchant)
    assert await factories.discount(merchant) == made
    async with merchant.begin() as uow:
        for change in (promotion.end_code, promotion.end_code, promotion.resume_code):
            await change(uow, "WELCOME10")
    told = await merchant.hot.fetch(
        "SELECT type, payload->>'is_active' FROM outbox WHERE aggregate_id = $1 ORDER BY seq",
        made.id,
    )
    assert [tuple(row) for row in told] == [
        ("DiscountCreated", None),
        ("DiscountActivitySet", "false"),
        ("DiscountActivitySet", "true"),
    ]


async def test_a_code_ends_before_it_begins_nowhere(merchant: Deps) -> None:
    now = merchant.clock()
    with pytest.raises(InvalidInput):
        await factories.discount(
            merchant, starts_at=now + timedelta(days=2), ends_at=now + timedelta(days=1)
        )


async def test_codes_are_listed_newest_first_and_by_whether_they_run(merchant: Deps) -> None:
    for name in ("ONE", "TWO", "THREE"):
        await factories.discount(merchant, name)
    async with merchant.begin() as uow:
        await promotion.end_code(uow, "two")
        first = await promotion.list_codes(uow, limit=2)
        rest = await promotion.list_codes(uow, limit=2, cursor=first.next_cursor)
        assert [x.code for x in first.items + rest.items] == ["THREE", "TWO", "ONE"]
        assert [x.code for x in (await promotion.list_codes(uow, is_active=False)).items] == ["TWO"]
        with pytest.raises(NotFound):
            await promotion.get_code(uow, "FOUR")


async def test_a_code_is_counted_by_the_orders_that_carry_it(
    merchant: Deps, customer: Deps
) -> None:
    await factories.product(merchant, "MUG", price=1000, stock=10)
    await factories.discount(merchant)
    filled = await factories.reduced_cart(customer, MUG=2)
    assert (await shown(merchant)).uses == 0
    placed = await checkout.complete(customer, filled.id, payment_method="tok_visa")
    assert (placed.discount_code, placed.discount_amount) == ("WELCOME10", 200)
    assert (await shown(merchant)).uses == 1
    await checkout.complete(customer, filled.id, payment_method="tok_visa")
    assert (await shown(merchant)).uses == 1
    await checkout.cancel(customer, placed.number, "changed my mind")
    assert (await shown(merchant)).uses == 0
    assert await invariant.check(merchant) == []


async def test_a_declined_purchase_gives_the_use_back(
    merchant: Deps, customer: Deps, gateway: ScriptedGateway
) -> None:
    await factories.product(merchant, "MUG", stock=10)
    await factories.discount(merchant, uses_max=1)
    filled = await factories.reduced_cart(customer, MUG=1)
    gateway.script.append(Fault.DECLINE)
    with pytest.raises(PaymentDeclined):
        await checkout.complete(customer, filled.id, payment_method="tok_visa")
    assert (await shown(merchant)).uses == 0
    again = await checkout.complete(customer, filled.id, payment_method="tok_visa")
    assert again.discount_code == "WELCOME10"
    assert await invariant.check(merchant) == []


async def test_many_at_once_use_a_code_just_as_often_as_it_may_be(merchant: Deps) -> None:
    await factories.product(merchant, "MUG", price=1000, stock=100)
    await factories.discount(merchant, uses_max=5)
    buyers = [factories.guest(merchant, f"{n:040}") for n in range(16)]
    carts = await asyncio.gather(*(factories.reduced_cart(buyer, MUG=1) for buyer in buyers))
    ends = await asyncio.gather(
        *(
            checkout.complete(buyer, filled.id, payment_method="tok_visa")
            for buyer, filled in zip(buyers, carts, strict=True)
        ),
        return_exceptions=True,
    )
    refused = [end for end in ends if isinstance(end, BaseException)]
    assert len(refused) == 11
    for end in refused:
        assert isinstance(end, CheckoutIncomplete), end
        assert end.extra["problems"][0]["field"] == "discount_code"
    assert (await shown(merchant)).uses == 5
    assert await invariant.check(merchant) == []


async def test_an_ended_code_sells_nothing_more(merchant: Deps, customer: Deps) -> None:
    await factories.product(merchant, "MUG", stock=10)
    await factories.discount(merchant)
    filled = await factories.reduced_cart(customer, MUG=1)
    async with merchant.begin() as uow:
        await promotion.end_code(uow, "WELCOME10")
    with pytest.raises(CheckoutIncomplete) as refused:
        await checkout.complete(customer, filled.id, payment_method="tok_visa")
    assert "not valid any more" in str(refused.value)
    with pytest.raises(Conflict):
        await factories.reduced_cart(customer, MUG=1)
    async with merchant.begin() as uow:
        await promotion.resume_code(uow, "WELCOME10")
    placed = await checkout.complete(customer, filled.id, payment_method="tok_visa")
    assert placed.discount_amount == 125


async def test_ending_a_code_and_resuming_it_is_taken_back(merchant: Deps) -> None:
    await factories.discount(merchant)
    await undone(merchant, "promotion.end_code", code="welcome10")
    async with merchant.begin() as uow:
        await promotion.end_code(uow, "WELCOME10")
    await undone(merchant, "promotion.resume_code", code="welcome10")


async def test_what_changed_nothing_has_nothing_to_take_back(merchant: Deps) -> None:
    await factories.discount(merchant)
    run = await act(merchant, "promotion.resume_code", code="WELCOME10")
    await undo.undo(merchant, run)
    assert (await shown(merchant)).is_active
    async with merchant.begin() as uow:
        await promotion.end_code(uow, "WELCOME10")
    run = await act(merchant, "promotion.end_code", code="WELCOME10")
    await undo.undo(merchant, run)
    assert not (await shown(merchant)).is_active


@pytest.mark.parametrize(
    ("terms", "is_too_deep"),
    [
        ({"percent": 50}, False),
        ({"percent": 51}, True),
        ({"amount": 500}, True),
        ({"amount": 500, "minimum_amount": 999}, True),
        ({"amount": 500, "minimum_amount": 1_000}, False),
    ],
)
async def test_an_agent_offers_no_deeper_discount_than_it_may(
    merchant: Deps, terms: dict[str, Any], is_too_deep: bool
) -> None:
    found = await rehearsal.rehearse(
        merchant, OPERATIONS["promotion.create_code"], {"code": "DEEP", **terms}
    )
    async with merchant.begin() as uow:
        if is_too_deep:
            with pytest.raises(LimitReached):
                await cap.check_discounts(uow, found.effects)
        else:
            await cap.check_discounts(uow, found.effects)
        assert (await promotion.list_codes(uow)).items == []
