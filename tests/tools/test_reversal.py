"""Parcels, returns, exchanges, cases and gift cards, taken back: as it was, or it is refused."""

import asyncio
from uuid import UUID, uuid4

import pytest
from sqlalchemy import text

from db.models.inventory import MovementKind
from db.types import OrderId
from deps.core import SYSTEM, Deps
from tests import aftersales as shop
from tests import factories
from tests.reversal import act, at_once, rows, shelves, undone
from tools import (
    aftersales_mail,
    agent_run,
    checkout,
    conversation,
    credit,
    credit_code,
    credit_desk,
    exchange,
    fulfillment,
    handover,
    inventory,
    order,
    return_,
    stock_ledger,
    undo,
)
from tools.aftersales import PolicyInput
from tools.errors import (
    AftersalesLimit,
    Conflict,
    DomainError,
    IllegalTransition,
    InvalidInput,
    NotFound,
    OutOfStock,
)
from tools.invariant import check
from tools.line_change import LineChange, LineRequest
from tools.registry import OPERATIONS, Risk
from tools.reversal import OrderUnshipped


@pytest.fixture
async def goods(merchant: Deps) -> Deps:
    return await shelves(merchant)


async def delivered(deps: Deps, **units: int) -> int:
    """Place and deliver an order as a customer; return its number."""
    await shop.lamp(deps)
    return (await shop.delivered(deps, **units)).number


async def test_a_parcel_that_had_not_left_is_to_be_sent(goods: Deps, customer: Deps) -> None:
    placed = await factories.placed_order(customer, MUG=3, TEA=1)
    ship = {"number": placed.number, "carrier": "DHL", "tracking_number": "T-1"}
    await undone(goods, "order.ship", **ship)
    await undone(goods, "order.ship", **ship)
    await act(goods, "order.ship", **ship)
    await undone(goods, "order.unship", number=placed.number)
    async with customer.begin() as uow:
        parcels = await fulfillment.parcels(uow, placed.number)
    states = [(parcel.state.value, parcel.tracking_number) for parcel in parcels]
    assert states == [("cancelled", "T-1")] * 3 + [("shipped", "T-1")]
    async with goods.begin() as uow:
        moved = await stock_ledger.movements(uow, "MUG", MovementKind.SHIP)
    assert sum(item.on_hand_delta for item in moved.items) == -3, "what has left"


async def test_an_unshipped_order_can_be_cancelled(goods: Deps, customer: Deps) -> None:
    placed = await factories.placed_order(customer, MUG=3)
    async with goods.begin() as uow:
        await fulfillment.ship(uow, placed.number)
        await fulfillment.unship(uow, placed.number)
    await checkout.cancel(customer, placed.number, "too late")
    async with goods.begin() as uow:
        assert (await inventory.levels(uow, "MUG")).available == 11
    assert await check(goods) == []


async def test_a_parcel_is_unshipped_once_however_many_ask(goods: Deps, customer: Deps) -> None:
    placed = await factories.placed_order(customer, MUG=3)
    before = await rows(goods)
    with pytest.raises(IllegalTransition):
        await OPERATIONS["order.unship"](goods, number=placed.number)
    async with goods.begin() as uow:
        await fulfillment.ship(uow, placed.number)
    assert await at_once(goods, "order.unship", 5, number=placed.number) == []
    assert await rows(goods) == before
    async with goods.begin() as uow:
        await fulfillment.ship(uow, placed.number)
        await fulfillment.deliver(uow, placed.number)
    with pytest.raises(IllegalTransition):
        await OPERATIONS["order.unship"](goods, number=placed.number)
    assert await check(goods) == []


async def test_the_customer_is_told_that_it_has_not_left(goods: Deps, customer: Deps) -> None:
    placed = await factories.placed_order(customer, MUG=1)
    async with goods.begin() as uow:
        await fulfillment.ship(uow, placed.number)
        parcel = await fulfillment.unship(uow, placed.number)
    async with goods.begin() as uow:
        told = OrderUnshipped(order_id=OrderId(placed.id), fulfillment_id=parcel.id)
        await aftersales_mail.tell_unshipped(uow, told)
        await aftersales_mail.tell_unshipped(uow, told)
        mails = await uow.session.execute(text("SELECT subject FROM notification"))
        subjects = [s for s in mails.scalars() if "not left yet" in s]
    assert len(subjects) == 1


async def test_a_delivery_that_was_none_is_on_its_way(goods: Deps, customer: Deps) -> None:
    placed = await factories.placed_order(customer, MUG=3)
    async with goods.begin() as uow:
        await fulfillment.ship(uow, placed.number)
    with pytest.raises(DomainError):
        await OPERATIONS["order.undeliver"](customer, number=placed.number)
    await undone(goods, "order.deliver", number=placed.number)
    await act(goods, "order.deliver", number=placed.number)
    await undone(goods, "order.undeliver", number=placed.number)
    assert await at_once(goods, "order.undeliver", 5, number=placed.number) == []
    async with customer.begin() as uow:
        shown = await order.get(uow, placed.number)
    assert (shown.status, shown.fulfillment_status) == ("placed", "fulfilled")
    assert await check(goods) == []


async def test_what_is_being_returned_was_delivered(goods: Deps, customer: Deps) -> None:
    number = await delivered(customer, oak=2)
    async with customer.begin() as uow:
        asked = await return_.request(uow, number, [LineRequest(sku="LAMP-OAK", quantity=1)])
    with pytest.raises(Conflict):
        await OPERATIONS["order.undeliver"](goods, number=number)
    async with customer.begin() as uow:
        await return_.cancel(uow, asked.id)
    assert (await OPERATIONS["order.undeliver"](goods, number=number)).state == "shipped"
    assert await check(goods) == []


async def test_what_only_records_says_that_there_is_nothing_to_take_back() -> None:
    finals = {key: undo.why_final(OPERATIONS[key]) for key in ("webhook.replay", "checkout.cancel")}
    assert finals == {
        "webhook.replay": "It wrote down what others know; there is nothing to take back.",
        "checkout.cancel": "This is final: nothing takes it back.",
    }


def test_what_is_called_reversible_can_be_undone_by_whoever_did_it() -> None:
    for known in OPERATIONS.values():
        if known.risk is Risk.REVERSIBLE:
            assert known.inverse is not None, known.key
            assert OPERATIONS[known.inverse].scope == known.scope, known.key


OAK = [LineRequest(sku="LAMP-OAK", quantity=1)]
STEEL = [LineChange(sku="LAMP-OAK", new_sku="LAMP-STEEL", quantity=1)]


async def sent_back(deps: Deps, number: int) -> UUID:
    async with deps.begin() as uow:
        return (await return_.request(uow, number, OAK, reason="too dark")).id


async def exchanged(deps: Deps, number: int, method: UUID | None = None) -> UUID:
    async with deps.begin() as uow:
        return (await exchange.request(uow, number, STEEL, method)).id


async def test_a_withdrawn_return_is_wanted_after_all(customer: Deps) -> None:
    return_id = await sent_back(customer, await delivered(customer, oak=2))
    await undone(customer, "return.cancel", return_id=return_id)
    async with customer.begin() as uow:
        await return_.cancel(uow, return_id)
    assert await at_once(customer, "return.reopen", 5, return_id=return_id) == []
    staff = customer.acting_as(SYSTEM)
    done = await return_.receive(staff, return_id)
    assert done.state == "completed"
    with pytest.raises(IllegalTransition):
        await OPERATIONS["return.reopen"](customer, return_id=return_id)
    assert await check(staff) == []


async def test_a_return_is_reopened_only_while_it_could_be_asked_for(customer: Deps) -> None:
    number = await delivered(customer, oak=1)
    return_id = await sent_back(customer, number)
    async with customer.begin() as uow:
        await return_.cancel(uow, return_id)
    reopen = OPERATIONS["return.reopen"]
    with pytest.raises(AftersalesLimit):
        await reopen(factories.later(customer, days=31), return_id=return_id)
    with pytest.raises(NotFound):
        await reopen(await factories.user(customer), return_id=return_id)
    async with customer.begin() as uow:
        other = await return_.request(uow, number, OAK)
    with pytest.raises(InvalidInput):
        await reopen(customer, return_id=return_id)
    async with customer.begin() as uow:
        await return_.cancel(uow, other.id)
    both = (reopen(customer, return_id=return_id), reopen(customer, return_id=other.id))
    outcomes = await asyncio.gather(*both, return_exceptions=True)
    assert sum(isinstance(outcome, InvalidInput) for outcome in outcomes) == 1
    assert await check(customer) == []


async def test_a_withdrawn_exchange_gets_its_replacements_again(customer: Deps) -> None:
    exchange_id = await exchanged(customer, await delivered(customer, oak=1))
    await undone(customer, "exchange.cancel", exchange_id=exchange_id)
    async with customer.begin() as uow:
        await exchange.cancel(uow, exchange_id)
    assert await at_once(customer, "exchange.reopen", 5, exchange_id=exchange_id) == []
    staff = customer.acting_as(SYSTEM)
    assert await check(staff) == []
    assert (await exchange.receive(staff, exchange_id)).state == "completed"
    with pytest.raises(IllegalTransition):
        await OPERATIONS["exchange.reopen"](customer, exchange_id=exchange_id)
    assert await check(staff) == []


async def test_an_exchange_is_reopened_as_it_was_or_not_at_all(customer: Deps) -> None:
    exchange_id = await exchanged(customer, await delivered(customer, oak=1))
    async with customer.begin() as uow:
        await exchange.cancel(uow, exchange_id)
    reopen = OPERATIONS["exchange.reopen"]
    staff = customer.acting_as(SYSTEM)
    async with staff.begin() as uow:
        await uow.session.execute(
            text("UPDATE variant SET price_amount = 6400 WHERE sku = 'LAMP-STEEL'")
        )
    with pytest.raises(Conflict):
        await reopen(customer, exchange_id=exchange_id)
    async with staff.begin() as uow:
        await uow.session.execute(
            text("UPDATE variant SET price_amount = 6500 WHERE sku = 'LAMP-STEEL'")
        )
    await factories.placed_order(factories.guest(customer), **{"LAMP-STEEL": 10})
    before = await rows(customer)
    with pytest.raises(OutOfStock):
        await reopen(customer, exchange_id=exchange_id)
    assert await rows(customer) == before
    assert await check(customer) == []


async def test_what_costs_money_again_waits_for_a_person(customer: Deps) -> None:
    assert OPERATIONS["return.reopen"].risk.needs_approval
    assert OPERATIONS["exchange.reopen"].risk.needs_approval
    number = await delivered(customer, oak=2)
    return_id, exchange_id = await sent_back(customer, number), await exchanged(customer, number)
    async with customer.begin() as uow:
        await return_.cancel(uow, return_id)
        await exchange.cancel(uow, exchange_id)
    before = await rows(customer)
    await act(customer, "return.reopen", return_id=return_id)
    await act(customer, "exchange.reopen", exchange_id=exchange_id)
    assert await rows(customer) == before


async def test_a_person_who_is_not_needed_any_more_is_not_waited_for(customer: Deps) -> None:
    run = await act(customer, "handover.request", reason="my mug is broken")
    (step,) = (await undo.undo(customer, run)).steps
    assert (step.is_undone, step.inverse) == (True, "handover.resolve")
    staff = customer.acting_as(SYSTEM)
    async with staff.begin() as uow:
        assert (await handover.list_open(uow)).items == []


async def test_asking_again_is_not_undone_by_closing_the_first_case(customer: Deps) -> None:
    async with customer.begin() as uow:
        talk = await conversation.start(uow, "broken mug")
        case = await handover.request(uow, "broken", conversation_id=talk.id)
    within = agent_run.within(customer, words="hello?")
    again = {"reason": "hello?", "conversation_id": talk.id}
    await agent_run.call(within, OPERATIONS["handover.request"], again)
    (step,) = (await undo.undo(customer)).steps
    assert not step.is_undone
    async with customer.acting_as(SYSTEM).begin() as uow:
        assert [one.number for one in (await handover.list_open(uow)).items] == [case.number]


async def test_a_closed_case_waits_again(customer: Deps, merchant: Deps) -> None:
    async with customer.begin() as uow:
        case = (await handover.request(uow, "broken")).number
    await undone(merchant, "handover.resolve", case=case, note="sent a new one")
    await undone(customer, "handover.resolve", case=case, note="found it")
    await act(merchant, "handover.resolve", case=case, note="sent a new one")
    await undone(customer, "handover.reopen", case=case)
    assert await at_once(customer, "handover.reopen", 5, case=case) == []


async def test_a_conversation_waits_in_one_case(customer: Deps) -> None:
    async with customer.begin() as uow:
        talk = await conversation.start(uow, "broken mug")
        first = await handover.request(uow, "broken", conversation_id=talk.id)
        await handover.resolve(uow, first.number, "found it")
        second = await handover.request(uow, "lost again", conversation_id=talk.id)
    with pytest.raises(Conflict):
        await OPERATIONS["handover.reopen"](customer, case=first.number)
    await OPERATIONS["handover.resolve"](customer, case=second.number, note="found it")
    reopen = OPERATIONS["handover.reopen"]
    both = (reopen(customer, case=first.number), reopen(customer, case=second.number))
    outcomes = await asyncio.gather(*both, return_exceptions=True)
    assert sum(isinstance(outcome, Conflict) for outcome in outcomes) == 1


async def test_anothers_case_is_as_absent(customer: Deps) -> None:
    async with customer.begin() as uow:
        case = (await handover.request(uow, "broken")).number
    for who in (await factories.user(customer), factories.guest(customer)):
        for key, given in (("handover.resolve", {"note": "done"}), ("handover.reopen", {})):
            with pytest.raises(NotFound, match="No such case"):
                await OPERATIONS[key](who, case=case, **given)


async def test_staff_are_told_of_each_reopening(customer: Deps) -> None:
    async with customer.begin() as uow:
        case = await handover.request(uow, "broken")
        for event in (uuid4(), uuid4()):
            for _ in range(2):  # Delivered twice, told once.
                await handover.tell_reopened(uow, case.id, event)
        mails = await uow.session.execute(text("SELECT subject FROM notification"))
        assert list(mails.scalars()) == [f"Case {case.number} was reopened"] * 2


async def card(deps: Deps, amount: int = 5_000) -> tuple[UUID, str]:
    """Issue a gift card; return its account and its code."""
    staff = deps.acting_as(SYSTEM)
    async with staff.begin() as uow:
        issued = await credit_desk.issue_gift_card(uow, amount)
    async with staff.begin() as uow:
        return issued.id, (await credit_code.reveal(uow, issued.id)).code


async def test_a_redeemed_gift_card_is_handed_back(customer: Deps) -> None:
    account_id, code = await card(customer)
    await undone(customer, "credit.redeem", code=code)
    rival = await factories.user(customer)
    await credit.redeem(rival, code)
    with pytest.raises(NotFound):
        await OPERATIONS["credit.hand_back"](customer, account_id=account_id)
    errors = await at_once(rival, "credit.hand_back", 4, account_id=account_id)
    assert errors == ["not_found"] * 3
    assert (await credit.redeem(customer, code)).id == account_id
    run = await act(customer, "credit.redeem", code=code)
    (step,) = (await undo.undo(customer, run)).steps
    assert (step.is_undone, step.why_not) == (False, "It had changed nothing.")
    assert await check(customer.acting_as(SYSTEM)) == []


async def test_a_gift_card_that_was_used_stays(customer: Deps) -> None:
    await factories.product(customer, "MUG", price=1250, stock=10)
    account_id, code = await card(customer)
    await credit.redeem(customer, code)
    filled = await factories.filled_cart(customer, MUG=1)
    await OPERATIONS["credit.use_in_cart"](customer)
    await checkout.complete(customer, filled.id, payment_method="tok_visa")
    with pytest.raises(Conflict, match="used"):
        await OPERATIONS["credit.hand_back"](customer, account_id=account_id)


async def test_guesses_at_codes_tell_nothing_before_they_are_counted(customer: Deps) -> None:
    _, code = await card(customer)
    stranger = await factories.user(customer)
    await credit.redeem(stranger, code)
    for said in (code, "0000-0000-0000-0000-0000"):
        async with customer.begin() as uow:
            assert await credit.unclaimed(uow, said) is not None


async def test_what_staff_switched_is_switched_back(customer: Deps, merchant: Deps) -> None:
    account_id, _ = await card(customer)
    await undone(merchant, "credit.deactivate", account_id=account_id)
    await act(merchant, "credit.deactivate", account_id=account_id)
    again = await act(merchant, "credit.deactivate", account_id=account_id)
    before = await rows(merchant)
    (step,) = (await undo.undo(merchant, again)).steps
    assert (step.is_undone, step.why_not) == (False, "It had changed nothing.")
    assert await rows(merchant) == before, "it was switched off by the call before"
    await undone(merchant, "credit.activate", account_id=account_id)
    await shop.rules(customer, return_window_days=14, cancel_reasons=["too late"])
    await undone(merchant, "aftersales.set_policy", policy=PolicyInput(requests_max=1))
