"""Counts and transfers, taken back: the shelf is as it was, or it is refused."""

from typing import Any
from uuid import UUID

import pytest

from db.models.inventory import StockPolicy
from deps.core import Deps
from tests import factories
from tests.reversal import act, at_once, rows, shelves, undone
from tools import inventory, stock_count, transfer, transfer_back, undo
from tools.errors import Conflict, IllegalTransition, InvalidInput, NotFound
from tools.invariant import check
from tools.registry import OPERATIONS
from tools.transfer import TransferUnits
from tools.transfer_step import ReceivedUnits


@pytest.fixture
async def goods(merchant: Deps) -> Deps:
    return await shelves(merchant)


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
    await act(goods, "stock_count.reopen", count_id=str(count_id))
    async with goods.begin() as uow:
        await stock_count.cancel(uow, count_id)
    await undone(goods, "stock_count.reopen", count_id=str(count_id))
    run = await act(goods, "stock_count.reopen", count_id=str(count_id))
    async with goods.begin() as uow:
        await stock_count.close(uow, count_id)
    before = await rows(goods)
    (step,) = (await undo.undo(goods, run)).steps
    assert step.why_not == "It was changed since."
    assert await rows(goods) == before


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
    run = await act(goods, "transfer.ship", transfer_id=draft)
    (step,) = (await undo.undo(goods, run)).steps
    assert (step.is_undone, step.inverse) == (True, "transfer.cancel")
    async with goods.begin() as uow:
        assert (await inventory.levels(uow, "TEA")).available == 5
        assert (await transfer.get(uow, UUID(draft))).status == "cancelled"
    transfer_id = str(await sent(goods, MUG=4))
    again = await act(goods, "transfer.ship", transfer_id=transfer_id)
    (step,) = (await undo.undo(goods, again)).steps
    assert (step.is_undone, step.why_not) == (False, "It had changed nothing.")
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


async def test_what_was_set_is_set_back(goods: Deps) -> None:
    await undone(goods, "inventory.receive", sku="MUG", location="HAM", quantity=3)
    cap: dict[str, Any] = {"sku": "MUG", "policy": StockPolicy.BACKORDER, "backorder_limit": 5}
    await undone(goods, "inventory.set_policy", **cap)
    await act(goods, "inventory.set_policy", **cap)
    await undone(goods, "inventory.set_policy", sku="MUG", policy=StockPolicy.DENY)
    here: dict[str, Any] = {"sku": "MUG", "location": "HAM"}
    await undone(goods, "inventory.set_thresholds", **here, safety_stock=4)
    await undone(goods, "inventory.set_thresholds", **here, safety_stock=1, reorder_point=2)
