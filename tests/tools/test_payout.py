"""Payouts: a refund to a method that did not pay, once under its key, and in the books."""

from uuid import UUID

import pytest

from db.models.order import Order
from db.models.payment import StoredMethod
from db.models.refund import Refund, RefundPart, RefundState
from db.types import new_id
from deps.core import Deps
from deps.scripted import Fault, ScriptedGateway
from tests import aftersales as shop
from tests import factories
from tests.standing import balances
from tools import credit_desk, credit_tender, order_edit, refund, refund_process
from tools.checkout import complete
from tools.errors import InvalidInput, Unavailable
from tools.invariant import check
from tools.order import OrderView
from tools.refund_plan import parts_of


async def start(
    deps: Deps, placed: OrderView, to: UUID, amount: int | None = 700, refund_id: UUID | None = None
) -> UUID:
    async with deps.begin() as uow:
        of = await uow.session.get_one(Order, placed.id)
        method = await uow.session.get_one(StoredMethod, to)
        made = await refund.request(
            uow, of, reason="it broke", amount=amount, to=method, refund_id=refund_id
        )
        return made.id


async def paid_out(deps: Deps, placed: OrderView, to: UUID, amount: int | None = 700) -> Refund:
    return await refund_process.drive(deps, await start(deps, placed, to, amount))


async def parts(deps: Deps, of: UUID) -> list[RefundPart]:
    async with deps.begin() as uow:
        return await parts_of(uow, of)


async def calls(deps: Deps) -> list[tuple[int, str, str]]:
    async with deps.begin() as uow:
        rows = await uow.fetch(
            "SELECT number, state, detail FROM payment_attempt WHERE kind = 'refund' ORDER BY id"
        )
    return [tuple(row) for row in rows]


@pytest.fixture
async def placed(customer: Deps) -> OrderView:
    await factories.product(customer, "MUG", price=1000, stock=5)
    return await factories.placed_order(customer, MUG=1)


@pytest.fixture
async def other(customer: Deps) -> UUID:
    return await shop.card(customer, "tok_other")


async def test_money_is_paid_out_and_leaves_the_provider(
    customer: Deps, gateway: ScriptedGateway, placed: OrderView, other: UUID
) -> None:
    done = await paid_out(customer, placed, other)
    assert done.state is RefundState.SUCCEEDED
    assert list(gateway.paid_out.values()) == [700]
    assert sum(gateway.charges.values()) == placed.total_amount
    (part,) = await parts(customer, done.id)
    assert (part.method_id, part.credit_account_id) == (other, None)
    assert part.provider_reference in gateway.paid_out
    assert await calls(customer) == [(1, "succeeded", "")]
    assert (await balances(customer))["clearing"] == placed.total_amount - 700
    rest = await paid_out(customer, placed, other, None)
    assert rest.amount == placed.total_amount - 700
    assert await shop.tenders(customer, placed) == [
        ("tok_visa", placed.total_amount, placed.total_amount)
    ]
    assert await check(customer) == []


async def test_what_credit_had_paid_is_paid_out_of_the_providers_money(
    customer: Deps, gateway: ScriptedGateway, other: UUID
) -> None:
    await factories.product(customer, "MUG", price=1000, stock=5)
    present = await shop.gift_card(customer, 400)
    filled = await factories.filled_cart(customer, MUG=1)
    await credit_tender.choose(customer, filled.id, codes=[], uses_account=True)
    placed = await complete(customer, filled.id, payment_method="tok_visa")
    done = await paid_out(customer, placed, other, None)
    assert done.state is RefundState.SUCCEEDED
    assert sorted(gateway.paid_out.values()) == [400, placed.total_amount - 400]
    assert await shop.balance(customer, present) == 0
    assert (await balances(customer))["clearing"] == -400
    assert await check(customer) == []


@pytest.mark.parametrize("fault", [Fault.TIMEOUT_BEFORE, Fault.TIMEOUT_AFTER])
async def test_a_payout_without_an_answer_is_asked_for_under_its_key(
    customer: Deps, gateway: ScriptedGateway, placed: OrderView, other: UUID, fault: Fault
) -> None:
    made = await start(customer, placed, other)
    gateway.script.append(fault)
    with pytest.raises(Unavailable, match="did not answer"):
        await refund_process.drive(customer, made)
    assert await calls(customer) == [(1, "unknown", "timeout")]
    assert (await refund_process.drive(customer, made)).state is RefundState.SUCCEEDED
    assert list(gateway.paid_out.values()) == [700]
    assert await calls(customer) == [(1, "succeeded", "")]
    assert await check(customer) == []


async def test_a_payout_that_is_decided_later_is_not_booked_before(
    customer: Deps, gateway: ScriptedGateway, placed: OrderView, other: UUID
) -> None:
    made = await start(customer, placed, other)
    gateway.script.append(Fault.PENDING)
    for _ in range(2):
        with pytest.raises(Unavailable, match="still working"):
            await refund_process.drive(customer, made)
    assert (await balances(customer))["clearing"] == placed.total_amount
    gateway.decide()
    assert (await refund_process.drive(customer, made)).state is RefundState.SUCCEEDED
    assert await check(customer) == []


async def test_a_payout_that_was_refused_goes_to_another_method_or_back(
    customer: Deps, gateway: ScriptedGateway, placed: OrderView, other: UUID
) -> None:
    bad = await shop.card(customer, "tok_declined")
    failed = await paid_out(customer, placed, bad)
    assert failed.state is RefundState.FAILED
    assert gateway.paid_out == {}
    (part,) = await parts(customer, failed.id)
    assert part.failure == "payout_refused"
    assert await shop.tenders(customer, placed) == [("tok_visa", placed.total_amount, 0)]
    for to, method in (("method", other), ("original", None)):
        again = await paid_out(customer, placed, bad, 100)
        async with customer.begin() as uow:
            target = await uow.session.get_one(StoredMethod, other)
            await refund.reopen(uow, again.id, target if to == "method" else "original")
        (part,) = await parts(customer, again.id)
        assert (part.state, part.method_id, part.failure) == (RefundState.PENDING, method, "")
        assert (await refund_process.drive(customer, again.id)).state is RefundState.SUCCEEDED
    assert list(gateway.paid_out.values()) == [100]
    assert list(gateway.charges.values()) == [placed.total_amount - 100]
    assert await calls(customer) == [
        (1, "failed", "payout_refused"),
        (2, "failed", "payout_refused"),
        (3, "succeeded", ""),
        (4, "failed", "payout_refused"),
        (5, "succeeded", ""),
    ]
    assert await check(customer) == []


async def test_a_provider_that_cannot_pay_out_is_not_asked(
    customer: Deps, placed: OrderView
) -> None:
    present = await shop.gift_card(customer, 400)
    made = await start(customer, placed, present)
    failed = await refund_process.drive(customer, made)
    assert failed.state is RefundState.FAILED
    (part,) = await parts(customer, made)
    assert part.failure == "payout_unsupported"
    assert await check(customer) == []


async def test_one_id_is_one_refund_to_one_method(
    customer: Deps, placed: OrderView, other: UUID
) -> None:
    mine, third = new_id(), await shop.card(customer, "tok_third")
    assert await start(customer, placed, other, refund_id=mine) == mine
    assert await start(customer, placed, other, refund_id=mine) == mine
    with pytest.raises(InvalidInput, match="another refund"):
        await start(customer, placed, third, refund_id=mine)


async def lapsing(deps: Deps, method: UUID) -> UUID:
    """Let a gift card lapse tomorrow; return its account."""
    tomorrow = factories.later(deps, days=1).clock()
    await deps.hot.execute("UPDATE credit_account SET expires_at = $1", tomorrow)
    async with deps.begin() as uow:
        account = (await uow.session.get_one(StoredMethod, method)).credit_account_id
    assert account is not None
    return account


async def lives_days(deps: Deps, account: UUID) -> int:
    assert await credit_desk.expire_due(factories.later(deps, days=89)) == 0
    until = await deps.hot.fetchval("SELECT expires_at FROM credit_account WHERE id = $1", account)
    return int((until - deps.clock()).days)


async def test_a_refused_payout_goes_back_to_a_gift_card_that_lives_on(customer: Deps) -> None:
    await shop.lamp(customer)
    present, bad = await shop.gift_card(customer, 30_000), await shop.card(customer, "tok_declined")
    placed = await shop.ordered(customer, oak=1)
    await order_edit.modify_payment(customer, placed.number, present)
    account = await lapsing(customer, present)
    failed = await paid_out(customer, placed, bad)
    async with customer.begin() as uow:
        await refund.reopen(uow, failed.id)
    await refund_process.drive(customer, failed.id)
    assert await shop.balance(customer, present) == 30_000 - placed.total_amount + 700
    assert await lives_days(customer, account) == 90


async def test_a_gift_card_that_is_chosen_for_the_money_lives_on(
    customer: Deps, placed: OrderView
) -> None:
    present = await shop.gift_card(customer, 300)
    account = await lapsing(customer, present)
    async with customer.begin() as uow:
        of = await uow.session.get_one(Order, placed.id)
        made = await refund.request(uow, of, reason="it broke", amount=700, to=account)
    await refund_process.drive(customer, made.id)
    assert await shop.balance(customer, present) == 1_000
    assert await lives_days(customer, account) == 90
