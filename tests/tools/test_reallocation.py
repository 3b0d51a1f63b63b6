"""What a change of an order does with its stock, to the row: given up, inherited, exchanged.

That is `stock_swap`, which is `stock_give_up` and `stock_inherit`.
"""

import asyncpg
import pytest

from db.models.inventory import StockPolicy
from db.types import OrderId
from deps.core import Deps
from tests import factories
from tests.stockroom import DUE, OTHERS, Shop
from tools import reallocation, stock
from tools.invariant import check


@pytest.fixture
async def shop(merchant: Deps) -> Shop:
    shop = Shop(merchant)
    await shop.open()
    return shop


async def swap(shop: Shop, order_id: OrderId, removed: dict[str, int], **added: int) -> None:
    change_id = await shop.reserve(**added)
    async with shop.deps.begin() as uow:
        await reallocation.swap(
            uow, order_id=order_id, change_id=change_id, removed=removed, added=added
        )
    async with shop.deps.begin() as uow:
        left = "SELECT count(*) FROM reservation WHERE id = $1"
        assert await uow.fetchval(left, change_id) == 0


async def test_a_change_gives_up_what_is_owed_first_and_is_inherited(shop: Shop) -> None:
    order_id = await shop.reserve(MUG=6, TEA=2)
    await shop.step("allocate", order_id)
    await shop.moved(order_id)
    with pytest.raises(asyncpg.RaiseError, match="too few units"):
        await swap(shop, order_id, {"MUG": 7}, TEA=1)
    assert await shop.moved(order_id) == []
    await swap(shop, order_id, {"MUG": 3, "TEA": 1}, MUG=1, TEA=3)
    assert await shop.moved(order_id) == [
        "release MUG nowhere owed-2",
        "deallocate MUG HAM sold-1",
        "deallocate TEA HAM sold-1",
        "fill MUG HAM sold+1 owed-1",
    ]
    lines = ["MUG HAM 2", "MUG ROT 2", "TEA HAM 4"]
    assert await shop.has(order_id) == ("allocated", lines, ["MUG 0 no more"])
    assert await shop.has(shop.other) == OTHERS
    waiting = await shop.reserve(MUG=1)
    await swap(shop, order_id, {"MUG": 3}, TEA=1)
    assert await shop.has(waiting) == ("held", ["MUG HAM 1"], ["MUG 0 no more"])
    assert await shop.has(order_id) == ("allocated", ["MUG ROT 1", "TEA HAM 5"], ["MUG 0 no more"])
    assert await check(shop.deps) == []


async def test_what_a_change_waits_for_the_order_waits_for(shop: Shop) -> None:
    order_id = await shop.reserve(TEA=2)
    await shop.step("allocate", order_id)
    waiting = await shop.reserve(MUG=5)
    await swap(shop, order_id, {"TEA": 1}, MUG=2)
    assert await shop.has(order_id) == ("allocated", ["TEA HAM 1"], ["MUG 2"])
    assert await shop.has(waiting) == ("held", ["MUG HAM 2", "MUG ROT 2"], ["MUG 1"])
    await swap(shop, order_id, {"MUG": 1}, MUG=3)
    assert await shop.has(order_id) == ("allocated", ["TEA HAM 1"], ["MUG 4"])
    assert await check(shop.deps) == []


async def test_only_what_is_given_up_is_no_longer_waited_for(shop: Shop) -> None:
    for sku in ("CUP", "POT"):
        await factories.product(shop.deps, sku, title=sku.title(), stock=0)
        async with shop.deps.begin() as uow:
            await stock.set_policy(uow, sku, StockPolicy.BACKORDER, 9, DUE)
    order_id = await shop.reserve(MUG=6, POT=3)
    await shop.step("allocate", order_id)
    await swap(shop, order_id, {"POT": 1}, TEA=1)
    assert (await shop.has(order_id))[2] == ["MUG 2", "POT 2"]
    await swap(shop, order_id, {"MUG": 1}, POT=1)
    assert (await shop.has(order_id))[2] == ["MUG 1", "POT 3"]
    await swap(shop, order_id, {"POT": 1}, CUP=1)
    assert (await shop.has(order_id))[2] == ["CUP 1", "MUG 1", "POT 2"]
    assert await check(shop.deps) == []


async def test_a_changed_bundle_is_what_it_is_now_and_its_parts_go_to_who_waits(
    shop: Shop,
) -> None:
    for name in ("BOX", "SET"):
        await factories.product(shop.deps, name, title=name.title(), stock=0)
    await shop.define("BOX", TEA=1)
    await shop.define("SET", TEA=3)
    other = await shop.reserve(SET=1)
    await shop.define("SET", MUG=2, TEA=1)
    await shop.reserve(MUG=2)
    order_id = await shop.reserve(BOX=1, SET=1)
    await shop.step("allocate", order_id)
    await shop.define("SET", MUG=1, TEA=2)
    await swap(shop, order_id, {"SET": 1}, SET=1)

    async def consists(of: OrderId) -> list[str]:
        async with shop.deps.begin() as uow:
            parts = await uow.fetch(
                """SELECT bundle_sku || ' ' || part_sku || ' ' || quantity AS part
                   FROM reservation_bundle WHERE reservation_id = $1 ORDER BY 1""",
                of,
            )
        return [row["part"] for row in parts]

    assert await consists(order_id) == ["BOX TEA 1", "SET MUG 1", "SET TEA 2"]
    assert await consists(other) == ["SET TEA 3"]
    assert await shop.has(order_id) == (
        "allocated",
        ["MUG ROT 1", "TEA HAM 3"],
        ["MUG 0 no more"],
    )
    waiting = await shop.reserve(MUG=2)
    await swap(shop, order_id, {"SET": 1}, TEA=1)
    assert await shop.has(waiting) == ("held", ["MUG ROT 2"], ["MUG 0 no more"])
    assert await check(shop.deps) == []


async def test_an_exchange_ships_the_new_and_forgets_the_old_that_left(shop: Shop) -> None:
    order_id = await shop.reserve(MUG=3, TEA=1)
    for name in ("allocate", "ship"):
        await shop.step(name, order_id)
    change_id = await shop.reserve(TEA=2)
    await shop.step("allocate", change_id)
    await shop.moved(order_id)
    async with shop.deps.begin() as uow:
        await reallocation.swap_shipped(
            uow, order_id=order_id, change_id=change_id, removed={"MUG": 2}
        )
    assert (await shop.moved(order_id), (await shop.moved(change_id))[-1]) == (
        [],
        "ship TEA HAM here-2 sold-2",
    )
    assert await shop.has(order_id) == ("shipped", ["MUG ROT 1", "TEA HAM 3"], [])
    assert await check(shop.deps) == []
