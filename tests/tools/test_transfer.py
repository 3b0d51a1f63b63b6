"""Transfers: every unit is somewhere, whatever becomes of the lorry."""

from uuid import UUID

import pytest

from db.models.inventory import StockPolicy
from db.models.transfer import TransferStatus
from db.types import OrderId, new_id
from deps.core import Deps
from tests import factories
from tools import bundle, inventory, stock, transfer, transfer_back
from tools.bundle import BundlePartInput
from tools.errors import Conflict, IllegalTransition, InvalidInput, NotFound
from tools.invariant import check
from tools.transfer import TransferUnits, TransferView
from tools.transfer_step import ReceivedUnits


@pytest.fixture
async def goods(merchant: Deps) -> Deps:
    await factories.product(merchant, "MUG", stock=10)
    await factories.product(merchant, "TEA", title="Tea", stock=5)
    await factories.receive(merchant, "MUG", 1, "ROT")
    return merchant


async def planned(deps: Deps, **units: int) -> UUID:
    lines = [TransferUnits(sku=sku, quantity=quantity) for sku, quantity in units.items()]
    async with deps.begin() as uow:
        return (await transfer.create(uow, "HAM", "ROT", lines, "on the small lorry")).id


async def shipped(deps: Deps, **units: int) -> UUID:
    transfer_id = await planned(deps, **units)
    async with deps.begin() as uow:
        await transfer.ship(uow, transfer_id)
    return transfer_id


async def receive(deps: Deps, transfer_id: UUID, *units: ReceivedUnits) -> TransferView:
    async with deps.begin() as uow:
        return await transfer.receive(uow, transfer_id, list(units) or None)


async def counters(deps: Deps, sku: str) -> dict[str, tuple[int, int]]:
    async with deps.begin() as uow:
        levels = (await inventory.levels(uow, sku)).levels
    return {level.location: (level.on_hand, level.incoming) for level in levels}


async def test_a_draft_moves_nothing(goods: Deps) -> None:
    transfer_id = await planned(goods, MUG=4)
    assert await counters(goods, "MUG") == {"HAM": (10, 0), "ROT": (1, 0)}
    async with goods.begin() as uow:
        cancelled = await transfer.cancel(uow, transfer_id, "not needed")
        again = await transfer.cancel(uow, transfer_id, "not needed")
    assert cancelled == again
    assert cancelled.status == "cancelled"


async def test_units_in_transit_are_incoming_and_not_for_sale(goods: Deps) -> None:
    transfer_id = await shipped(goods, MUG=4, TEA=5)
    assert await counters(goods, "MUG") == {"HAM": (6, 0), "ROT": (1, 4)}
    assert await counters(goods, "TEA") == {"HAM": (0, 0), "ROT": (0, 5)}
    async with goods.begin() as uow:
        assert (await inventory.levels(uow, "MUG")).available == 7
        assert (await transfer.ship(uow, transfer_id)).status == "in_transit"
    assert await counters(goods, "MUG") == {"HAM": (6, 0), "ROT": (1, 4)}
    assert await check(goods) == []


async def test_it_arrives_in_parts_and_some_of_it_not_at_all(goods: Deps) -> None:
    transfer_id = await shipped(goods, MUG=4, TEA=5)
    half = await receive(goods, transfer_id, ReceivedUnits(sku="MUG", received=2))
    assert (half.status, half.lines[0].outstanding) == ("in_transit", 2)
    broken = ReceivedUnits(sku="MUG", received=1, lost=1, reason="broken")
    await receive(goods, transfer_id, broken)
    done = await receive(goods, transfer_id)
    assert done.status == "received"
    assert done.finished_at is not None
    assert [(line.sku, line.received, line.lost, line.loss_reason) for line in done.lines] == [
        ("MUG", 3, 1, "broken"),
        ("TEA", 5, 0, ""),
    ]
    assert await counters(goods, "MUG") == {"HAM": (6, 0), "ROT": (4, 0)}
    with pytest.raises(IllegalTransition):
        await receive(goods, transfer_id)
    assert await check(goods) == []


async def test_calling_it_back_returns_only_what_has_not_arrived(goods: Deps) -> None:
    transfer_id = await shipped(goods, MUG=4)
    await receive(goods, transfer_id, ReceivedUnits(sku="MUG", received=1))
    async with goods.begin() as uow:
        back = await transfer.cancel(uow, transfer_id, "the bridge is closed")
    assert (back.status, back.lines[0].returned, back.lines[0].received) == ("cancelled", 3, 1)
    assert await counters(goods, "MUG") == {"HAM": (9, 0), "ROT": (2, 0)}
    with pytest.raises(IllegalTransition):
        async with goods.begin() as uow:
            await transfer.ship(uow, transfer_id)
    assert await check(goods) == []


async def test_of_what_has_arrived_nothing_is_called_back(goods: Deps) -> None:
    other = await shipped(goods, MUG=1)
    transfer_id = await shipped(goods, MUG=4, TEA=2)
    await receive(goods, transfer_id, ReceivedUnits(sku="MUG", received=4))
    async with goods.begin() as uow:
        back = await transfer.cancel(uow, transfer_id, "the bridge is closed")
        lines = (await transfer.get(uow, other)).lines
    assert [(line.sku, line.received, line.returned) for line in back.lines] == [
        ("MUG", 4, 0), ("TEA", 0, 2),
    ]  # fmt: skip
    assert [(line.sku, line.outstanding) for line in lines] == [("MUG", 1)]
    assert await counters(goods, "MUG") == {"HAM": (5, 0), "ROT": (5, 1)}
    assert await counters(goods, "TEA") == {"HAM": (5, 0), "ROT": (0, 0)}


async def test_units_called_back_go_to_who_waits(goods: Deps) -> None:
    transfer_id = await shipped(goods, TEA=5)
    async with goods.begin() as uow:
        await stock.set_policy(uow, "TEA", StockPolicy.BACKORDER, 10)
        await inventory.reserve(uow, order_id=OrderId(new_id()), units={"TEA": 3})
    async with goods.begin() as uow:
        back = await transfer.cancel(uow, transfer_id, "the bridge is closed")
        seen = await inventory.levels(uow, "TEA")
    assert (seen.backordered, seen.in_stock) == (0, 2)
    assert (back.finished_at, back.lines[0].outstanding) == (goods.clock(), 0)


async def test_every_step_is_told_with_its_units(goods: Deps) -> None:
    transfer_id = await shipped(goods, MUG=4, TEA=5)
    part = ReceivedUnits(sku="MUG", received=2), ReceivedUnits(sku="TEA", lost=1, reason="wet")
    shown = await receive(goods, transfer_id, *part)
    assert (shown.shipped_at, shown.finished_at) == (goods.clock(), None)
    async with goods.begin() as uow:
        await transfer.cancel(uow, transfer_id, "the bridge is closed")
    async with goods.begin() as uow:
        rows = await uow.fetch(
            "SELECT type, payload FROM outbox WHERE type LIKE 'Transfer%' ORDER BY seq"
        )
        told = {row["type"]: row["payload"] for row in rows}
    assert told["TransferShipped"]["units"] == {"MUG": 4, "TEA": 5}
    arrived = told["TransferReceived"]
    assert (arrived["received"], arrived["lost"]) == ({"MUG": 2}, {"TEA": 1})
    assert (arrived["target"], arrived["is_complete"]) == ("ROT", False)
    assert told["TransferCancelled"]["returned"] == {"MUG": 2, "TEA": 4}
    assert {payload["transfer_id"] for payload in told.values()} == {str(transfer_id)}


async def test_what_is_taken_back_and_reopened_is_told_with_its_units(goods: Deps) -> None:
    transfer_id = await shipped(goods, MUG=4, TEA=5)
    part = ReceivedUnits(sku="MUG", received=2), ReceivedUnits(sku="TEA", lost=2, reason="wet")
    await receive(goods, transfer_id, *part)
    found = [ReceivedUnits(sku="TEA", lost=1)]
    with pytest.raises(InvalidInput, match="0 units of TEA were booked in, 2 written off"):
        async with goods.begin() as uow:
            await transfer_back.take_back(
                uow, transfer_id, [ReceivedUnits(sku="TEA", lost=3, reason="wet")]
            )
    async with goods.begin() as uow:
        less = await transfer_back.take_back(uow, transfer_id, found)
        assert [(line.lost, line.loss_reason) for line in less.lines] == [(0, ""), (1, "wet")]
    async with goods.begin() as uow:
        none = await transfer_back.take_back(uow, transfer_id)
        assert [(line.received, line.lost) for line in none.lines] == [(0, 0), (0, 0)]
        await transfer.cancel(uow, transfer_id, "the bridge is closed")
        await transfer_back.reopen(uow, transfer_id)
    async with goods.begin() as uow:
        rows = await uow.fetch(
            """SELECT type, payload FROM outbox WHERE type LIKE 'Transfer%'
               ORDER BY seq DESC LIMIT 4"""
        )
    told = [(row["type"], row["payload"]) for row in reversed(rows)]
    assert [name for name, _ in told] == [
        "TransferArrivalTakenBack", "TransferArrivalTakenBack", "TransferCancelled",
        "TransferReopened",
    ]  # fmt: skip
    assert (told[0][1]["target"], told[0][1]["received"], told[0][1]["lost"]) == (
        "ROT", {}, {"TEA": 1},
    )  # fmt: skip
    assert (told[1][1]["received"], told[1][1]["lost"]) == ({"MUG": 2}, {"TEA": 1})
    assert told[3][1]["sent"] == {"MUG": 4, "TEA": 5}
    assert await check(goods) == []


async def test_a_place_that_never_had_any_sends_none(goods: Deps) -> None:
    async with goods.begin() as uow:
        tea = [TransferUnits(sku="TEA", quantity=1)]
        planned_id = (await transfer.create(uow, "ROT", "HAM", tea)).id
    with pytest.raises(Conflict, match="Only 0 units of TEA are free at ROT"):
        async with goods.begin() as uow:
            await transfer.ship(uow, planned_id)


async def test_what_is_planned_is_not_received_and_a_bundle_is_not_sent(goods: Deps) -> None:
    transfer_id = await planned(goods, MUG=1)
    with pytest.raises(IllegalTransition):
        await receive(goods, transfer_id)
    await factories.product(goods, "SET", title="Set", stock=0)
    async with goods.begin() as uow:
        await bundle.define(uow, "SET", [BundlePartInput(sku="MUG")])
    with pytest.raises(Conflict, match="bundle"):
        await planned(goods, SET=1)


async def test_promised_units_do_not_leave(goods: Deps) -> None:
    async with goods.begin() as uow:
        await inventory.reserve(uow, order_id=OrderId(new_id()), units={"MUG": 9})
    transfer_id = await planned(goods, TEA=1, MUG=4)
    with pytest.raises(Conflict) as refused:
        async with goods.begin() as uow:
            await transfer.ship(uow, transfer_id)
    assert refused.value.extra["sku"] == "MUG"
    assert await counters(goods, "TEA") == {"HAM": (5, 0)}
    async with goods.begin() as uow:
        assert (await transfer.get(uow, transfer_id)).status == "draft"


async def test_who_waits_gets_what_arrives(goods: Deps) -> None:
    transfer_id = await shipped(goods, TEA=5)
    order_id = OrderId(new_id())
    async with goods.begin() as uow:
        await stock.set_policy(uow, "TEA", StockPolicy.BACKORDER, 10)
        await inventory.reserve(uow, order_id=order_id, units={"TEA": 3})
    await receive(goods, transfer_id)
    async with goods.begin() as uow:
        seen = await inventory.levels(uow, "TEA")
    assert (seen.backordered, seen.in_stock) == (0, 2)


@pytest.mark.parametrize(
    ("lines", "error"),
    [
        ([ReceivedUnits(sku="MUG", received=5)], InvalidInput),
        ([ReceivedUnits(sku="MUG")], InvalidInput),
        ([ReceivedUnits(sku="MUG", lost=1)], InvalidInput),
        ([ReceivedUnits(sku="MUG", received=1)] * 2, InvalidInput),
        ([ReceivedUnits(sku="TEA", received=1)], NotFound),
    ],
)
async def test_what_cannot_have_arrived_is_refused(
    goods: Deps, lines: list[ReceivedUnits], error: type[Exception]
) -> None:
    transfer_id = await shipped(goods, MUG=4)
    with pytest.raises(error):
        await receive(goods, transfer_id, *lines)
    assert await counters(goods, "MUG") == {"HAM": (6, 0), "ROT": (1, 4)}


@pytest.mark.parametrize(
    ("source", "target", "lines", "error"),
    [
        ("HAM", "HAM", [("MUG", 1)], InvalidInput),
        ("HAM", "MOON", [("MUG", 1)], NotFound),
        ("HAM", "ROT", [("NOPE", 1)], NotFound),
        ("HAM", "ROT", [], InvalidInput),
        ("HAM", "ROT", [("MUG", 1), ("MUG", 2)], InvalidInput),
    ],
)
async def test_plans_that_make_no_sense_are_refused(
    goods: Deps,
    source: str,
    target: str,
    lines: list[tuple[str, int]],
    error: type[Exception],
) -> None:
    units = [TransferUnits(sku=sku, quantity=quantity) for sku, quantity in lines]
    with pytest.raises(error):
        async with goods.begin() as uow:
            await transfer.create(uow, source, target, units)


async def test_transfers_are_listed_by_state_and_place(goods: Deps) -> None:
    first, second = await planned(goods, MUG=1), await shipped(goods, MUG=1)
    third = await planned(goods, TEA=1)
    async with goods.begin() as uow:
        page = await transfer.show(uow, limit=2)
        assert [item.id for item in page.items] == [third, second]
        assert {(item.source, item.target) for item in page.items} == {("HAM", "ROT")}
        rest = await transfer.show(uow, limit=2, cursor=page.next_cursor)
        assert ([item.id for item in rest.items], rest.next_cursor) == ([first], None)
        sent = await transfer.show(uow, TransferStatus.IN_TRANSIT, source="HAM", target="ROT")
        assert [item.id for item in sent.items] == [second]
        assert (await transfer.show(uow, source="ROT")).items == []
        assert (await transfer.show(uow, target="HAM")).items == []
        with pytest.raises(NotFound):
            await transfer.get(uow, new_id())
