"""Returns and exchanges: a request promises, the parcel's arrival moves stock and money, once."""

import asyncio
from uuid import UUID

import pytest
from sqlmodel import col, select

from db.models.aftersales import OrderExchange, OrderReturn, RequestState
from db.models.order import Order
from db.types import new_id
from deps.core import SYSTEM, Deps
from deps.scripted import Fault, ScriptedGateway
from tests import aftersales as shop
from tests import factories
from tests.aftersales import to
from tools import (
    checkout,
    credit_tender,
    exchange,
    exchange_view,
    fulfillment,
    invariant,
    inventory,
    order,
    refund_desk,
    refund_process,
    return_,
    return_refund,
)
from tools.errors import (
    AftersalesLimit,
    IdempotencyMismatch,
    IllegalTransition,
    InsufficientCredit,
    InvalidInput,
    NotFound,
    OutOfStock,
    PaymentDeclined,
    Unavailable,
)
from tools.exchange_view import ExchangeView
from tools.line_change import LineChange, LineRequest
from tools.return_ import ReturnView

STEEL = [LineRequest(sku="LAMP-STEEL")]


async def returned(
    deps: Deps,
    number: int,
    lines: list[LineRequest] = STEEL,
    method: UUID | None = None,
    key: UUID | None = None,
) -> ReturnView:
    async with deps.begin() as uow:
        return await return_.request(uow, number, lines, method, "too small", key)


async def exchanged(
    deps: Deps,
    number: int,
    changes: list[LineChange],
    method: UUID | None = None,
    key: UUID | None = None,
) -> ExchangeView:
    async with deps.begin() as uow:
        return await exchange.request(uow, number, changes, method, "too small", key)


async def units(deps: Deps, sku: str) -> tuple[int, int]:
    """Return (on hand, allocated)."""
    async with deps.acting_as(SYSTEM).begin() as uow:
        levels = (await inventory.levels(uow, sku)).levels
        return sum(x.on_hand for x in levels), sum(x.allocated for x in levels)


async def test_a_return_moves_nothing_until_it_arrives(
    customer: Deps, merchant: Deps, gateway: ScriptedGateway
) -> None:
    await shop.lamp(customer)
    placed = await shop.delivered(customer, steel=1, MUG=2)
    asked = await returned(customer, placed.number)
    assert (asked.state, asked.amount) == (RequestState.REQUESTED, 6500)
    assert sum(gateway.charges.values()) == placed.total_amount
    assert await units(customer, "LAMP-STEEL") == (9, 0)

    done = await return_.receive(merchant, asked.id)

    assert done.state is RequestState.COMPLETED
    assert sum(gateway.charges.values()) == placed.total_amount - 6500
    assert await units(customer, "LAMP-STEEL") == (10, 0)
    assert await invariant.check(customer) == []


async def test_receiving_again_changes_nothing(
    customer: Deps, merchant: Deps, gateway: ScriptedGateway
) -> None:
    await shop.lamp(customer)
    placed = await shop.delivered(customer, steel=1)
    asked = await returned(customer, placed.number)

    await asyncio.gather(*(return_.receive(merchant, asked.id) for _ in range(4)))

    assert sum(gateway.charges.values()) == placed.total_amount - 6500
    assert await units(customer, "LAMP-STEEL") == (10, 0)
    assert await invariant.check(customer) == []


async def test_an_unanswered_refund_is_finished_by_receiving_again(
    customer: Deps, merchant: Deps, gateway: ScriptedGateway
) -> None:
    await shop.lamp(customer)
    placed = await shop.delivered(customer, steel=1)
    asked = await returned(customer, placed.number)
    gateway.script.append(Fault.TIMEOUT_AFTER)
    with pytest.raises(Unavailable):
        await return_.receive(merchant, asked.id)

    done = await return_.receive(merchant, asked.id)

    assert done.state is RequestState.COMPLETED
    assert sum(gateway.charges.values()) == placed.total_amount - 6500
    assert await invariant.check(customer) == []


async def test_a_refund_the_sweeper_finished_closes_its_return(
    customer: Deps, merchant: Deps, gateway: ScriptedGateway
) -> None:
    await shop.lamp(customer)
    placed = await shop.delivered(customer, steel=1)
    asked = await returned(customer, placed.number)
    gateway.script.append(Fault.TIMEOUT_AFTER)
    with pytest.raises(Unavailable):
        await return_.receive(merchant, asked.id)
    await refund_process.resume_stuck(factories.later(merchant, minutes=5))

    for _ in range(2):
        async with merchant.begin() as uow:
            (shown,) = await return_.list_for_order(uow, placed.number)
            assert shown.refund_id is not None
            await return_refund.complete_refunded(uow, shown.refund_id)

    async with customer.begin() as uow:
        (shown,) = await return_.list_for_order(uow, placed.number)
    assert shown.state is RequestState.COMPLETED


async def test_what_is_broken_is_refunded_and_not_restocked(customer: Deps, merchant: Deps) -> None:
    await shop.lamp(customer)
    placed = await shop.delivered(customer, steel=2)
    asked = await returned(customer, placed.number, [LineRequest(sku="LAMP-STEEL", quantity=2)])
    with pytest.raises(InvalidInput, match="2 units of LAMP-STEEL were sent back"):
        await return_.receive(merchant, asked.id, [LineRequest(sku="LAMP-STEEL", quantity=3)])

    await return_.receive(merchant, asked.id, STEEL)

    assert await units(customer, "LAMP-STEEL") == (9, 0)
    assert (await shop.tenders(customer, placed))[0][2] == 13_000


async def test_the_money_may_go_to_ones_own_gift_card_but_to_no_other_card(
    customer: Deps, merchant: Deps
) -> None:
    await shop.lamp(customer)
    present, other = await shop.gift_card(customer, 100), await shop.card(customer, "tok_other")
    placed = await shop.delivered(customer, steel=1)
    with pytest.raises(InvalidInput, match="goes back to what paid"):
        await returned(customer, placed.number, method=other)
    asked = await returned(customer, placed.number, method=present)

    await return_.receive(merchant, asked.id)

    assert await shop.balance(customer, present) == 6600
    assert await invariant.check(customer) == []


@pytest.mark.parametrize("pays_out", [False, True])
async def test_a_card_that_got_back_what_it_paid_gets_what_credit_paid_only_where_that_is_allowed(
    customer: Deps, merchant: Deps, gateway: ScriptedGateway, pays_out: bool
) -> None:
    await shop.lamp(customer)
    await shop.rules(customer, refunds_to_any_method=pays_out)
    card, present = await shop.card(customer), await shop.gift_card(customer, 5_000)
    filled = await factories.filled_cart(customer, **{"LAMP-STEEL": 1})
    await credit_tender.choose(customer, filled.id, codes=[], uses_account=True)
    placed = await checkout.complete(customer, filled.id, payment_method=shop.CARD)
    async with merchant.begin() as uow:
        await fulfillment.ship(uow, placed.number, "T-1", "DHL")
    async with merchant.begin() as uow:
        await fulfillment.deliver(uow, placed.number)
    asked = await returned(customer, placed.number, method=card)
    by_card = placed.total_amount - 5_000
    await refund_desk.request(merchant, placed.number, "late", by_card)

    done = await return_.receive(merchant, asked.id)

    assert done.state is RequestState.COMPLETED
    assert list(gateway.paid_out.values()) == ([5_000] if pays_out else [])
    assert await shop.balance(customer, present) == (0 if pays_out else 5_000)
    assert await invariant.check(customer) == []


async def test_units_are_returned_once(customer: Deps) -> None:
    await shop.lamp(customer)
    placed = await shop.delivered(customer, steel=2)
    first = await returned(customer, placed.number)
    await returned(customer, placed.number)
    with pytest.raises(InvalidInput, match="fewer than 1"):
        await returned(customer, placed.number)

    async with customer.begin() as uow:
        await return_.cancel(uow, first.id)
    await returned(customer, placed.number)
    assert await invariant.check(customer) == []


async def test_eight_returns_at_once_under_a_limit_of_one_are_one(customer: Deps) -> None:
    await shop.lamp(customer)
    await shop.rules(customer, requests_max=1)
    placed = await shop.delivered(customer, steel=3)

    answers = await asyncio.gather(
        *(returned(customer, placed.number) for _ in range(8)), return_exceptions=True
    )

    refused = [answer for answer in answers if isinstance(answer, BaseException)]
    assert len(refused) == 7
    assert all(isinstance(answer, AftersalesLimit) for answer in refused)


async def test_the_same_id_is_the_same_return(customer: Deps) -> None:
    await shop.lamp(customer)
    placed = await shop.delivered(customer, steel=2)
    key = new_id()

    answers = await asyncio.gather(*(returned(customer, placed.number, key=key) for _ in range(4)))

    assert {answer.id for answer in answers} == {key}
    async with customer.begin() as uow:
        assert len((await uow.session.exec(select(OrderReturn))).all()) == 1
    two = [LineRequest(sku="LAMP-STEEL", quantity=2)]
    with pytest.raises(IdempotencyMismatch):
        await returned(customer, placed.number, two, key=key)


async def test_only_what_was_delivered_lately_is_taken_back(customer: Deps) -> None:
    await shop.lamp(customer)
    placed = await shop.ordered(customer, steel=1)
    with pytest.raises(IllegalTransition):
        await returned(customer, placed.number)
    async with customer.acting_as(SYSTEM).begin() as uow:
        await fulfillment.ship(uow, placed.number)
    with pytest.raises(IllegalTransition):
        await returned(customer, placed.number)
    async with customer.acting_as(SYSTEM).begin() as uow:
        await fulfillment.deliver(uow, placed.number)

    with pytest.raises(AftersalesLimit, match="30 days"):
        await returned(factories.later(customer, days=31), placed.number)
    await returned(factories.later(customer, days=29), placed.number)


async def test_another_persons_return_does_not_exist(customer: Deps) -> None:
    await shop.lamp(customer)
    stranger = await factories.user(customer)
    placed = await shop.delivered(customer, steel=1)
    asked = await returned(customer, placed.number)

    with pytest.raises(NotFound, match="No such order"):
        await returned(stranger, placed.number)
    for return_id in (asked.id, new_id()):
        async with stranger.begin() as uow:
            with pytest.raises(NotFound, match="No such return"):
                await return_.cancel(uow, return_id)


async def test_an_exchange_keeps_the_replacement_and_settles_on_arrival(
    customer: Deps, merchant: Deps, gateway: ScriptedGateway
) -> None:
    await shop.lamp(customer, oak=1)
    method = await shop.card(customer)
    placed = await shop.delivered(customer, steel=1)
    asked = await exchanged(customer, placed.number, to("LAMP-OAK"), method)
    assert (asked.state, asked.difference_amount) == (RequestState.REQUESTED, 3400)
    assert await units(customer, "LAMP-OAK") == (1, 1)
    assert sum(gateway.charges.values()) == placed.total_amount
    assert await invariant.check(customer) == []

    done = await exchange.receive(merchant, asked.id, tracking_number="T-2")

    async with customer.begin() as uow:
        now = await order.get(uow, placed.number)
        parcels = await fulfillment.parcels(uow, placed.number)
    assert done.state is RequestState.COMPLETED
    assert [line.sku for line in now.lines] == ["LAMP-OAK"]
    assert now.total_amount == placed.total_amount + 3400
    assert sum(gateway.charges.values()) == now.total_amount
    assert [parcel.tracking_number for parcel in parcels] == ["T-1", "T-2"]
    assert (await units(customer, "LAMP-OAK"), await units(customer, "LAMP-STEEL")) == (
        (0, 0),
        (10, 0),
    )
    assert await invariant.check(customer) == []


async def test_a_cheaper_replacement_gives_the_difference_back(
    customer: Deps, merchant: Deps, gateway: ScriptedGateway
) -> None:
    await shop.lamp(customer)
    placed = await shop.delivered(customer, oak=2)
    asked = await exchanged(customer, placed.number, to("LAMP-STEEL", "LAMP-OAK"))

    await asyncio.gather(*(exchange.receive(merchant, asked.id) for _ in range(3)))

    assert sum(gateway.charges.values()) == placed.total_amount - 3400
    assert await invariant.check(customer) == []


async def test_a_faulty_unit_is_replaced_by_the_same(customer: Deps, merchant: Deps) -> None:
    await shop.lamp(customer)
    placed = await shop.delivered(customer, steel=1)
    asked = await exchanged(customer, placed.number, to("LAMP-STEEL"))
    assert asked.difference_amount == 0

    await exchange.receive(merchant, asked.id, restock=[])

    assert await units(customer, "LAMP-STEEL") == (8, 0)
    assert await invariant.check(customer) == []


async def test_a_declined_difference_keeps_the_replacement_until_it_is_paid(
    customer: Deps, merchant: Deps
) -> None:
    await shop.lamp(customer)
    bad, good = await shop.card(customer, "tok_declined"), await shop.card(customer)
    placed = await shop.delivered(customer, steel=1)
    asked = await exchanged(customer, placed.number, to("LAMP-OAK"), bad)
    with pytest.raises(PaymentDeclined):
        await exchange.receive(merchant, asked.id)
    assert await units(customer, "LAMP-OAK") == (10, 1)
    assert await invariant.check(customer) == []

    done = await exchange.receive(merchant, asked.id, payment_method=good)

    assert done.state is RequestState.COMPLETED
    assert await units(customer, "LAMP-STEEL") == (10, 0)
    assert await invariant.check(customer) == []


async def test_the_sweeper_sends_what_a_crash_held_back(
    customer: Deps, merchant: Deps, gateway: ScriptedGateway
) -> None:
    await shop.lamp(customer)
    method = await shop.card(customer)
    placed = await shop.delivered(customer, steel=1)
    asked = await exchanged(customer, placed.number, to("LAMP-OAK"), method)
    gateway.script.append(Fault.TIMEOUT_AFTER)
    with pytest.raises(Unavailable):
        await exchange.receive(merchant, asked.id)
    assert await invariant.check(customer) == []

    await exchange.resume_stuck(factories.later(merchant, minutes=5))

    async with customer.begin() as uow:
        (shown,) = await exchange_view.list_for_order(uow, placed.number)
    assert shown.state is RequestState.COMPLETED
    assert await invariant.check(customer) == []


async def test_a_withdrawn_exchange_puts_the_replacement_back(
    customer: Deps, merchant: Deps
) -> None:
    await shop.lamp(customer)
    method = await shop.card(customer)
    placed = await shop.delivered(customer, steel=1)
    asked = await exchanged(customer, placed.number, to("LAMP-OAK"), method)

    for _ in range(2):
        async with customer.begin() as uow:
            await exchange.cancel(uow, asked.id)

    assert await units(customer, "LAMP-OAK") == (10, 0)
    with pytest.raises(IllegalTransition):
        await exchange.receive(merchant, asked.id)
    assert await invariant.check(customer) == []


async def test_an_exchange_that_cannot_be_is_refused(customer: Deps) -> None:
    await shop.lamp(customer, brass=0)
    method, present = await shop.card(customer), await shop.gift_card(customer, 100)
    placed = await shop.delivered(customer, steel=1)

    with pytest.raises(OutOfStock):
        await exchanged(customer, placed.number, to("LAMP-BRASS"), method)
    with pytest.raises(InvalidInput, match="not a variant"):
        await exchanged(customer, placed.number, to("MUG"), method)
    with pytest.raises(InsufficientCredit):
        await exchanged(customer, placed.number, to("LAMP-OAK"), present)
    with pytest.raises(InvalidInput, match="name a stored payment method"):
        await exchanged(customer, placed.number, to("LAMP-OAK"))
    async with customer.begin() as uow:
        assert (await uow.session.exec(select(OrderExchange))).all() == []


async def test_an_exchanged_unit_can_be_returned(customer: Deps, merchant: Deps) -> None:
    await shop.lamp(customer)
    method = await shop.card(customer)
    placed = await shop.delivered(customer, steel=1)
    asked = await exchanged(customer, placed.number, to("LAMP-OAK"), method)
    await exchange.receive(merchant, asked.id)

    back = await returned(customer, placed.number, [LineRequest(sku="LAMP-OAK")])
    await return_.receive(merchant, back.id)

    assert await units(customer, "LAMP-OAK") == (10, 0)
    assert await invariant.check(customer) == []


async def test_a_shipped_order_left_the_stock(customer: Deps) -> None:
    await shop.lamp(customer)
    placed = await shop.ordered(customer, steel=1)
    staff = customer.acting_as(SYSTEM)
    for _ in range(2):
        async with staff.begin() as uow:
            await fulfillment.ship(uow, placed.number, "T-9", "DHL")

    async with customer.begin() as uow:
        parcels = await fulfillment.parcels(uow, placed.number)
        row = (await uow.session.exec(select(Order).where(col(Order.id) == placed.id))).one()
    assert [(p.tracking_number, p.lines[0].sku) for p in parcels] == [("T-9", "LAMP-STEEL")]
    assert row.fulfillment_status.value == "fulfilled"
    assert await units(customer, "LAMP-STEEL") == (9, 0)
    assert await invariant.check(customer) == []


@pytest.mark.parametrize(("by_hand", "then"), [(1, 6_500), (2, 0)])
async def test_goods_come_back_though_their_money_went_back_before(
    customer: Deps, merchant: Deps, by_hand: int, then: int
) -> None:
    await shop.lamp(customer)
    placed = await shop.delivered(customer, steel=2, MUG=1)
    two = [LineRequest(sku="LAMP-STEEL", quantity=2)]
    asked = await returned(customer, placed.number, two)
    given = {"LAMP-STEEL": by_hand}
    await refund_desk.request(merchant, placed.number, "broken", lines=given)

    done = await return_.receive(merchant, asked.id)

    assert done.state is RequestState.COMPLETED
    assert done.why_no_refund == ("" if then else return_refund.NOTHING_LEFT)
    assert (await shop.tenders(customer, placed))[0][2] == 6_500 * by_hand + then
    assert await units(customer, "LAMP-STEEL") == (10, 0)
    assert await invariant.check(customer) == []


async def test_goods_come_back_though_the_whole_order_was_refunded(
    customer: Deps, merchant: Deps
) -> None:
    await shop.lamp(customer)
    placed = await shop.delivered(customer, steel=1)
    asked = await returned(customer, placed.number)
    await refund_desk.request(merchant, placed.number, "sorry")
    async with merchant.begin() as uow:
        shown = await return_.preview_receive(uow, asked.id)
    assert (shown.refund_amount, shown.why_no_refund) == (0, return_refund.NOTHING_LEFT)
    done = await return_.receive(merchant, asked.id)
    assert (done.state, done.refund_id) == (RequestState.COMPLETED, None)
    assert done.why_no_refund == return_refund.NOTHING_LEFT
    assert await units(customer, "LAMP-STEEL") == (10, 0)
