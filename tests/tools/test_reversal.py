"""Operations called reversible: each names its inverse, and the inverse brings back what was there.

What only grows is left out of the comparison: ledgers, events and the times of a change.
"""

import asyncio
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import text

from agents.base import call_operation
from db.models.inventory import MovementKind
from db.types import OrderId
from deps.core import Deps
from tests import aftersales as shop
from tests import factories
from tools import (
    aftersales_mail,
    agent_run,
    checkout,
    fulfillment,
    inventory,
    order,
    return_,
    stock_count,
    stock_ledger,
    transfer,
    transfer_back,
    undo,
)
from tools.errors import Conflict, DomainError, IllegalTransition, InvalidInput, NotFound
from tools.invariant import check
from tools.line_change import LineRequest
from tools.registry import OPERATIONS
from tools.reversal import OrderUnshipped
from tools.surface import load_operations
from tools.transfer import TransferUnits
from tools.transfer_step import ReceivedUnits

load_operations()

# Tables of state, and the columns that say when and by whom it was last written.
STATE = {
    "stock_level": "",
    "stock_item": "",
    "stock_count": "",
    "stock_count_line": "counted_at counted_by",
    "stock_transfer": "",
    "stock_transfer_line": "",
    "orders": "updated_at",
    "reservation": "",
    "reservation_line": "",
    "backorder": "",
    "payment": "",
}


async def rows(deps: Deps) -> dict[str, list[dict[str, Any]]]:
    """Return every row of state, without what only says when it was written."""
    shown = {}
    async with deps.begin() as uow:
        for table, but in STATE.items():
            left = [f"- '{column}'" for column in but.split()]
            found = await uow.session.execute(
                text(f"SELECT to_jsonb(t) {' '.join(left)} FROM {table} t ORDER BY 1")
            )
            shown[table] = list(found.scalars())
    return shown


async def act(deps: Deps, key: str, **arguments: Any) -> UUID:
    """Call an operation as an agent does; return the run."""
    within = agent_run.within(deps, words=key, route="order")
    await call_operation(within, OPERATIONS[key], arguments)
    assert within.turn is not None
    return within.turn.id


async def undone(deps: Deps, key: str, **arguments: Any) -> None:
    """Do, undo, and find everything as before; undo the undoing by the inverse's own inverse."""
    before = await rows(deps)
    run = await act(deps, key, **arguments)
    after = await rows(deps)
    assert after != before, "nothing to undo"
    assert await check(deps) == []
    (step,) = (await undo.undo(deps, run)).steps
    assert (step.is_undone, step.why_not) == (True, "")
    assert await rows(deps) == before
    assert await check(deps) == []
    (again,) = (await undo.undo(deps, run)).steps
    assert again.why_not == "It has been undone."


async def at_once(deps: Deps, key: str, times: int, **arguments: Any) -> list[str]:
    """Call an operation several times at once; return the errors."""

    async def once() -> str:
        try:
            await OPERATIONS[key](deps, **arguments)
        except DomainError as error:
            return error.error_code()
        return ""

    return sorted(filter(None, await asyncio.gather(*(once() for _ in range(times)))))


@pytest.fixture
async def goods(merchant: Deps) -> Deps:
    await factories.product(merchant, "MUG", stock=10)
    await factories.product(merchant, "TEA", title="Tea", stock=5)
    await factories.receive(merchant, "MUG", 1, "ROT")
    return merchant


async def counting(deps: Deps, **counted: int) -> UUID:
    async with deps.begin() as uow:
        count = await stock_count.start(uow, "HAM")
        for sku, units in counted.items():
            await stock_count.record(uow, count.id, sku, units)
    return count.id


async def test_a_count_that_was_opened_is_cancelled(goods: Deps) -> None:
    run = await act(goods, "stock_count.start", location="HAM")
    (step,) = (await undo.undo(goods, run)).steps
    assert step.is_undone
    async with goods.begin() as uow:
        (count,) = (await stock_count.show(uow)).items
    assert count.status == "cancelled"


async def test_a_figure_is_struck_out_and_the_one_before_put_back(goods: Deps) -> None:
    count_id = await counting(goods)
    await undone(goods, "stock_count.record", count_id=str(count_id), sku="MUG", counted=8)
    async with goods.begin() as uow:
        await stock_count.record(uow, count_id, "MUG", 9)
    # What was expected then belongs to the figure: it is not what is on the shelf by now.
    await factories.receive(goods, "MUG", 4)
    await undone(goods, "stock_count.record", count_id=str(count_id), sku="MUG", counted=3)
    await undone(goods, "stock_count.strike", count_id=str(count_id), sku="MUG")
    async with goods.begin() as uow:
        (line,) = (await stock_count.get(uow, count_id)).lines
    assert (line.expected, line.counted, line.difference) == (10, 9, -1)


async def test_striking_is_repeated_and_refused_where_there_is_nothing(goods: Deps) -> None:
    count_id = await counting(goods, MUG=8)
    strike = OPERATIONS["stock_count.strike"]
    for _ in range(2):
        assert (await strike(goods, count_id=count_id, sku="MUG")).lines == []
    with pytest.raises(NotFound):
        await strike(goods, count_id=count_id, sku="NOPE")
    with pytest.raises(NotFound):
        await strike(goods, count_id=UUID(int=7), sku="MUG")
    async with goods.begin() as uow:
        await stock_count.close(uow, count_id)
    with pytest.raises(IllegalTransition):
        await strike(goods, count_id=count_id, sku="MUG")


async def test_a_count_that_ended_is_reopened(goods: Deps) -> None:
    count_id = await counting(goods, MUG=8, TEA=7)
    await undone(goods, "stock_count.close", count_id=str(count_id))
    await undone(goods, "stock_count.cancel", count_id=str(count_id))
    async with goods.begin() as uow:
        await stock_count.close(uow, count_id)
    await undone(goods, "stock_count.reopen", count_id=str(count_id))


async def test_reopening_books_back_once_however_many_ask(goods: Deps) -> None:
    count_id = await counting(goods, MUG=8, TEA=7)
    before = await rows(goods)
    async with goods.begin() as uow:
        await stock_count.close(uow, count_id)
    assert await at_once(goods, "stock_count.reopen", 5, count_id=count_id) == []
    assert await rows(goods) == before
    assert await check(goods) == []


async def test_found_units_that_were_promised_are_not_taken_back(goods: Deps) -> None:
    count_id = await counting(goods, TEA=7)
    async with goods.begin() as uow:
        await stock_count.close(uow, count_id)
    await factories.placed_order(factories.guest(goods), TEA=6)
    before = await rows(goods)
    with pytest.raises(Conflict) as refused:
        await OPERATIONS["stock_count.reopen"](goods, count_id=count_id)
    assert refused.value.extra["short"] == ["TEA"]
    assert await rows(goods) == before


async def planned(deps: Deps, **units: int) -> UUID:
    lines = [TransferUnits(sku=sku, quantity=quantity) for sku, quantity in units.items()]
    async with deps.begin() as uow:
        return (await transfer.create(uow, "HAM", "ROT", lines)).id


async def sent(deps: Deps, **units: int) -> UUID:
    transfer_id = await planned(deps, **units)
    async with deps.begin() as uow:
        await transfer.ship(uow, transfer_id)
    return transfer_id


def units(*lines: tuple[str, int, int, str]) -> list[ReceivedUnits]:
    return [
        ReceivedUnits(sku=sku, received=received, lost=lost, reason=reason)
        for sku, received, lost, reason in lines
    ]


async def test_an_arrival_is_taken_back_whole_or_in_part(goods: Deps) -> None:
    transfer_id = str(await sent(goods, MUG=4, TEA=5))
    await undone(goods, "transfer.receive", transfer_id=transfer_id)
    some = units(("MUG", 1, 1, "broken"), ("TEA", 2, 0, ""))
    await undone(goods, "transfer.receive", transfer_id=transfer_id, lines=some)
    await act(goods, "transfer.receive", transfer_id=transfer_id, lines=some)
    more = units(("MUG", 0, 1, "soaked"))
    await undone(goods, "transfer.receive", transfer_id=transfer_id, lines=more)
    await undone(goods, "transfer.take_back", transfer_id=transfer_id)
    one = units(("TEA", 1, 0, ""))
    await undone(goods, "transfer.take_back", transfer_id=transfer_id, lines=one)
    await undone(goods, "transfer.receive", transfer_id=transfer_id)


async def test_what_did_not_arrive_cannot_be_taken_back(goods: Deps) -> None:
    transfer_id = await sent(goods, MUG=4)
    take_back = OPERATIONS["transfer.take_back"]
    wrong = [None, [], [ReceivedUnits(sku="MUG", received=1)], [ReceivedUnits(sku="MUG")]]
    for lines in wrong:
        with pytest.raises(InvalidInput):
            await take_back(goods, transfer_id=transfer_id, lines=lines)
    async with goods.begin() as uow:
        await transfer.receive(uow, transfer_id, [ReceivedUnits(sku="MUG", received=2)])
    tea = units(("TEA", 1, 0, ""))
    with pytest.raises(NotFound):
        await take_back(goods, transfer_id=transfer_id, lines=tea)
    with pytest.raises(NotFound):
        await take_back(goods, transfer_id=UUID(int=7))
    async with goods.begin() as uow:
        await transfer.cancel(uow, transfer_id, "the bridge is closed")
    with pytest.raises(IllegalTransition):
        await take_back(goods, transfer_id=transfer_id)


async def test_an_arrival_is_taken_back_once_however_many_ask(goods: Deps) -> None:
    transfer_id = await sent(goods, MUG=4)
    before = await rows(goods)
    async with goods.begin() as uow:
        await transfer.receive(uow, transfer_id)
    errors = await at_once(goods, "transfer.take_back", 4, transfer_id=transfer_id)
    assert errors == ["invalid_input"] * 3
    assert await rows(goods) == before
    assert await check(goods) == []


async def test_units_that_left_again_stay_received(goods: Deps) -> None:
    transfer_id = await sent(goods, TEA=5)
    async with goods.begin() as uow:
        await transfer.receive(uow, transfer_id)
    await factories.placed_order(factories.guest(goods), TEA=1)
    before = await rows(goods)
    with pytest.raises(Conflict) as refused:
        await OPERATIONS["transfer.take_back"](goods, transfer_id=transfer_id)
    assert refused.value.extra["available"] == 4
    assert await rows(goods) == before


async def test_a_cancelled_transfer_goes_on(goods: Deps) -> None:
    draft = str(await planned(goods, TEA=1))
    await undone(goods, "transfer.cancel", transfer_id=draft, reason="no lorry")
    transfer_id = str(await sent(goods, MUG=4))
    await undone(goods, "transfer.cancel", transfer_id=transfer_id, reason="the bridge is closed")
    await act(goods, "transfer.receive", transfer_id=transfer_id, lines=units(("MUG", 1, 0, "")))
    await undone(goods, "transfer.cancel", transfer_id=transfer_id, reason="the bridge is closed")
    await act(goods, "transfer.cancel", transfer_id=transfer_id, reason="the bridge is closed")
    await undone(goods, "transfer.reopen", transfer_id=transfer_id)


async def test_what_went_back_leaves_again_once_and_only_if_it_is_free(goods: Deps) -> None:
    transfer_id = await sent(goods, MUG=4)
    before = await rows(goods)
    async with goods.begin() as uow:
        await transfer.cancel(uow, transfer_id, "the bridge is closed")
    assert await at_once(goods, "transfer.reopen", 4, transfer_id=transfer_id) == []
    assert await rows(goods) == before
    assert await check(goods) == []
    async with goods.begin() as uow:
        await transfer.cancel(uow, transfer_id, "the bridge is closed")
    await factories.placed_order(factories.guest(goods), MUG=8)
    with pytest.raises(Conflict):
        await OPERATIONS["transfer.reopen"](goods, transfer_id=transfer_id)
    async with goods.begin() as uow:
        assert (await transfer.get(uow, transfer_id)).status == "cancelled"
        assert (await inventory.levels(uow, "MUG")).available == 3
    assert await check(goods) == []


async def test_what_has_arrived_whole_is_not_reopened(goods: Deps) -> None:
    transfer_id = await sent(goods, MUG=4)
    async with goods.begin() as uow:
        await transfer.receive(uow, transfer_id)
    with pytest.raises(IllegalTransition):
        await OPERATIONS["transfer.reopen"](goods, transfer_id=transfer_id)
    async with goods.begin() as uow:
        assert (await transfer_back.take_back(uow, transfer_id)).status == "in_transit"


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
