"""Many at once, and processes that die: counts are exact, nobody deadlocks, nothing is lost."""

import asyncio
import random
import signal
import sys
from pathlib import Path

import pytest
from sqlalchemy import text

from db.models.inventory import StockPolicy
from db.models.transfer import TransferStatus
from db.types import OrderId, new_id
from deps.core import SYSTEM, Deps
from tests import factories
from tools import inventory, stock, stock_ledger, transfer
from tools.errors import Conflict, IllegalTransition, InvalidInput, OutOfStock
from tools.invariant import check
from tools.transfer import TransferUnits

ROOT = Path(__file__).parent.parent.parent


async def reserve(deps: Deps, **units: int) -> OrderId:
    order_id = OrderId(new_id())
    async with deps.begin() as uow:
        await inventory.reserve(uow, order_id=order_id, units=units)
    return order_id


async def outcomes(*work: object) -> tuple[int, list[BaseException]]:
    """Run all at once; return how many succeeded, and every refusal."""
    results = await asyncio.gather(*work, return_exceptions=True)  # type: ignore[call-overload]
    refused = [result for result in results if isinstance(result, BaseException)]
    return len(results) - len(refused), refused


@pytest.mark.parametrize("cap", [0, 7])
async def test_sixty_four_buyers_of_one_sku_get_exactly_what_there_is(deps: Deps, cap: int) -> None:
    await factories.product(deps, "MUG", stock=11)
    await factories.receive(deps, "MUG", 9, "ROT")
    if cap:
        async with deps.acting_as(SYSTEM).begin() as uow:
            await stock.set_policy(uow, "MUG", StockPolicy.BACKORDER, cap)
    sold, refused = await outcomes(*(reserve(deps, MUG=1) for _ in range(64)))
    assert sold == 20 + cap
    assert {type(error) for error in refused} == {OutOfStock}
    assert await check(deps) == []


async def test_mixed_baskets_in_opposite_order_do_not_deadlock(deps: Deps) -> None:
    skus = [f"SKU{number}" for number in range(6)]
    for sku in skus:
        await factories.product(deps, sku, stock=40)
        await factories.receive(deps, sku, 40, "ROT")

    async def shop(turn: int) -> None:
        basket = random.Random(turn).sample(skus, 4)
        order_id = await reserve(deps, **dict.fromkeys(basket, 1))
        async with deps.begin() as uow:
            if turn % 3:
                await inventory.allocate(uow, order_id=order_id)
            else:
                await inventory.release(uow, order_id=order_id, reason="changed their mind")

    done, refused = await outcomes(*(shop(turn) for turn in range(48)))
    assert (done, refused) == (48, [])
    assert await check(deps) == []


async def test_sales_transfers_and_corrections_meet_without_harm(deps: Deps) -> None:
    staff = deps.acting_as(SYSTEM)
    for sku in ("MUG", "TEA"):
        await factories.product(deps, sku, stock=20)
        await factories.receive(deps, sku, 20, "ROT")

    async def sell(turn: int) -> None:
        basket = {"MUG": 1, "TEA": 1} if turn % 2 else {"TEA": 1, "MUG": 1}
        order_id = await reserve(deps, **basket)
        async with deps.begin() as uow:
            await inventory.allocate(uow, order_id=order_id)
            if turn % 4 == 0:
                await inventory.ship(uow, order_id=order_id)

    async def send(turn: int) -> None:
        source, target = ("HAM", "ROT") if turn % 2 else ("ROT", "HAM")
        async with staff.begin() as uow:
            lines = [TransferUnits(sku=sku, quantity=2) for sku in ("TEA", "MUG")]
            planned = await transfer.create(uow, source, target, lines)
        async with staff.begin() as uow:
            await transfer.ship(uow, planned.id)
        async with staff.begin() as uow:
            await transfer.receive(uow, planned.id)

    async def correct(turn: int) -> None:
        async with staff.begin() as uow:
            await stock.adjust(uow, "MUG", "HAM", -1 if turn % 2 else 1, "count")

    work = [step(turn) for turn in range(20) for step in (sell, send, correct)]
    _, refused = await outcomes(*work)
    assert {type(error) for error in refused} <= {OutOfStock, Conflict}
    assert await check(deps) == []


async def test_units_that_arrive_while_orders_come_and_go_reach_those_who_wait(deps: Deps) -> None:
    staff = deps.acting_as(SYSTEM)
    await factories.product(deps, "MUG", stock=4)
    async with staff.begin() as uow:
        await stock.set_policy(uow, "MUG", StockPolicy.BACKORDER, 30)
    waiting = [await reserve(deps, MUG=1) for _ in range(20)]

    async def arrive() -> None:
        async with staff.begin() as uow:
            await stock.receive(uow, "MUG", "HAM", 1)

    async def finish(order_id: OrderId) -> None:
        async with deps.begin() as uow:
            await inventory.allocate(uow, order_id=order_id)

    async def give_up(order_id: OrderId) -> None:
        async with deps.begin() as uow:
            await inventory.release(uow, order_id=order_id, reason="too slow")

    _, refused = await outcomes(
        *(arrive() for _ in range(10)),
        *(finish(order_id) for order_id in waiting[::2]),
        *(give_up(order_id) for order_id in waiting[1::4]),
    )
    assert refused == []
    await inventory.fill_due(staff)
    async with staff.begin() as uow:
        seen = await inventory.levels(uow, "MUG")
    # 20 asked, 5 gave up, 14 arrived: one still waits, and no unit lies about.
    assert (seen.in_stock, seen.backordered) == (0, 1)
    assert await check(deps) == []


async def test_one_transfer_is_shipped_once_and_received_once(deps: Deps) -> None:
    staff = deps.acting_as(SYSTEM)
    await factories.product(deps, "MUG", stock=10)
    await factories.receive(deps, "MUG", 1, "ROT")
    async with staff.begin() as uow:
        planned = await transfer.create(uow, "HAM", "ROT", [TransferUnits(sku="MUG", quantity=4)])

    async def ship() -> None:
        async with staff.begin() as uow:
            await transfer.ship(uow, planned.id)

    async def receive() -> None:
        async with staff.begin() as uow:
            await transfer.receive(uow, planned.id)

    async def cancel() -> None:
        async with staff.begin() as uow:
            await transfer.cancel(uow, planned.id, "no lorry")

    assert (await outcomes(*(ship() for _ in range(8))))[0] == 8
    received, refused = await outcomes(
        *(receive() for _ in range(6)), *(cancel() for _ in range(2))
    )
    assert received in (1, 2)  # Received once; or cancelled, which may be said twice.
    assert {type(error) for error in refused} <= {IllegalTransition, InvalidInput}
    async with staff.begin() as uow:
        seen = await inventory.levels(uow, "MUG")
    assert sum(level.on_hand for level in seen.levels) == 11
    assert await check(deps) == []


@pytest.mark.parametrize("step", ["ship", "receive", "cancel"])
async def test_a_process_killed_inside_a_step_leaves_it_undone(
    deps: Deps, database_url: str, redis: object, valkey: object, step: str
) -> None:
    staff = deps.acting_as(SYSTEM)
    await factories.product(deps, "MUG", stock=10)
    await factories.receive(deps, "MUG", 1, "ROT")
    async with staff.begin() as uow:
        planned = await transfer.create(uow, "HAM", "ROT", [TransferUnits(sku="MUG", quantity=4)])
    if step != "ship":
        async with staff.begin() as uow:
            await transfer.ship(uow, planned.id)
    before = await _levels(staff)
    child = await _doomed(database_url, valkey, step, str(planned.id))
    assert (await child.stdout.readline()).strip() == b"inside"  # type: ignore[union-attr]
    child.send_signal(signal.SIGKILL)
    await child.wait()
    assert await _levels(staff) == before
    assert await check(deps) == []
    async with staff.begin() as uow:  # PostgreSQL let go of the dead process's locks.
        arguments = ["the lorry broke down"] if step == "cancel" else []
        await getattr(transfer, step)(uow, planned.id, *arguments)
    assert await _levels(staff) != before
    assert await check(deps) == []


@pytest.mark.parametrize("seed", [1, 2, 3])
async def test_a_process_killed_anywhere_among_transfers_loses_nothing(
    deps: Deps, database_url: str, valkey: object, seed: int
) -> None:
    staff = deps.acting_as(SYSTEM)
    await factories.product(deps, "MUG", stock=10)
    await factories.receive(deps, "MUG", 10, "ROT")
    child = await _doomed(database_url, valkey, "loop", str(seed))
    for _ in range(random.Random(seed).randint(2, 8)):
        await child.stdout.readline()  # type: ignore[union-attr]
    await asyncio.sleep(random.Random(seed).random() / 50)
    child.send_signal(signal.SIGKILL)
    await child.wait()
    assert await check(deps) == []
    async with staff.begin() as uow:
        left = await transfer.show(uow, TransferStatus.IN_TRANSIT)
        drafts = await transfer.show(uow, TransferStatus.DRAFT)
    for each in left.items:
        async with staff.begin() as uow:
            await transfer.receive(uow, each.id)
    for each in drafts.items:
        async with staff.begin() as uow:
            await transfer.cancel(uow, each.id, "never left")
    async with staff.begin() as uow:
        seen = await inventory.levels(uow, "MUG")
        assert sum(level.on_hand for level in seen.levels) == 20
        assert all(level.incoming == 0 for level in seen.levels)
        report = await stock_ledger.rebuild(uow, is_dry_run=True)
    assert (report.different, report.is_changed) == (0, False)
    assert await check(deps) == []


async def _levels(staff: Deps) -> list[tuple[str, int, int]]:
    async with staff.begin() as uow:
        rows = await uow.session.execute(
            text("SELECT sku, on_hand, incoming FROM stock_level ORDER BY sku, location_id")
        )
        return [tuple(row) for row in rows]


async def _doomed(
    database_url: str, valkey: object, step: str, argument: str
) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "tests.tools.doomed_transfer", database_url, valkey.url, step, argument),  # type: ignore[attr-defined]
        cwd=ROOT,
        stdout=asyncio.subprocess.PIPE,
    )
