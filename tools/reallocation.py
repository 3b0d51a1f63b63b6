"""Stock of an order that changes: hold the new units first, then swap, in one transaction.

The hold is an ordinary reservation under the change's own id. So nothing is sold twice while a
price difference is being paid, and a change that is never paid for expires like any other hold.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from uuid import UUID

from db.models.inventory import MovementKind, StockMovement
from db.types import LocationId, OrderId
from deps.core import UnitOfWork
from tools import inventory
from tools.events import OrderStockSwapped


def counted(units: Iterable[tuple[str, int]]) -> dict[str, int]:
    """Sum units by SKU, in SKU order."""
    counter: Counter[str] = Counter()
    for sku, quantity in units:
        counter[sku] += quantity
    return dict(sorted(counter.items()))


async def available(uow: UnitOfWork, skus: Sequence[str]) -> dict[str, int]:
    """Return how many of each SKU can be reserved now."""
    rows = await uow.fetch(
        "SELECT sku, stock_available(sku, $2) AS available FROM unnest($1::text[]) AS w (sku)",
        list(skus),
        uow.now,
    )
    return {row["sku"]: row["available"] for row in rows}


async def hold(
    uow: UnitOfWork,
    *,
    order_id: OrderId,
    change_id: UUID,
    added: Mapping[str, int],
    removed: Iterable[str] = (),
) -> None:
    """Hold the units a change needs, under the change's id.

    Args:
        removed: SKUs the same transaction will give back: locked now, all in one order, so that
            two changes in opposite directions queue instead of deadlock.

    Raises:
        OutOfStock: Too few available. The caller's transaction must roll back.
    """
    await _lock(uow, order_id, {*added, *removed})
    await inventory.reserve(uow, order_id=OrderId(change_id), units=added)


async def swap(
    uow: UnitOfWork,
    *,
    order_id: OrderId,
    change_id: UUID,
    removed: Mapping[str, int],
    added: Mapping[str, int],
) -> None:
    """Give the order what `change_id` holds, and put back on sale what it no longer sells.

    A hold that expired meanwhile is taken anew.

    Raises:
        OutOfStock: The hold expired and the units are gone. The caller's transaction must roll
            back.
    """
    await _lock(uow, order_id, {*added, *removed})
    await inventory.allocate(uow, order_id=OrderId(change_id))
    await _swap(uow, order_id, change_id, removed)
    uow.publish(OrderStockSwapped(order_id=order_id, removed=dict(removed), added=dict(added)))


async def swap_shipped(
    uow: UnitOfWork, *, order_id: OrderId, change_id: UUID, removed: Mapping[str, int]
) -> None:
    """Ship what `change_id` has allocated and count it to the order instead of `removed`.

    For exchanges: the old units left long ago and come back by `restock`.

    Raises:
        Conflict: The replacements are promised, but not here yet.
    """
    await inventory.ship(uow, order_id=OrderId(change_id))
    await uow.fetch(
        "SELECT stock_give_up($1, $2, $3, $4, $5)",
        order_id,
        list(removed),
        list(removed.values()),
        uow.actor.user_id,
        uow.now,
    )
    await uow.fetch("SELECT stock_inherit($1, $2)", order_id, change_id)


async def restock(uow: UnitOfWork, *, order_id: OrderId, sku: str, units: int) -> None:
    """Put returned units back on sale where they were sold from; of a bundle, its parts."""
    rows = await uow.fetch(
        """
        SELECT part.sku, part.quantity, p.id AS location_id
          FROM (SELECT coalesce(b.part_sku, $2) AS sku, coalesce(b.quantity, 1) AS quantity
                  FROM (SELECT 1) AS one LEFT JOIN reservation_bundle b
                    ON b.reservation_id = $1 AND b.bundle_sku = $2) AS part,
               LATERAL (SELECT p.id FROM location p
                          LEFT JOIN reservation_line r ON r.location_id = p.id
                            AND r.reservation_id = $1 AND r.sku = part.sku
                         WHERE p.is_active
                         ORDER BY r.sku IS NULL, p.priority, p.code LIMIT 1) AS p
         ORDER BY part.sku
        """,
        order_id,
        sku,
    )
    assert rows, "a shop that sells has a location"
    for row in rows:
        uow.session.add(
            StockMovement(
                sku=row["sku"],
                location_id=LocationId(row["location_id"]),
                kind=MovementKind.RECEIVE,
                on_hand_delta=units * row["quantity"],
                reason="returned by the customer",
                reference_id=order_id,
                actor_id=uow.actor.user_id,
                occurred_at=uow.now,
            )
        )
        await uow.session.flush()
    await uow.fetch(
        "SELECT stock_fill($1, $2, $3)",
        [row["sku"] for row in rows],
        uow.actor.user_id,
        uow.now,
    )


async def _lock(uow: UnitOfWork, order_id: OrderId, skus: Iterable[str]) -> None:
    await uow.fetch("SELECT stock_lock($1, $2)", order_id, sorted(skus))


async def _swap(
    uow: UnitOfWork, order_id: OrderId, change_id: UUID, removed: Mapping[str, int]
) -> None:
    await uow.fetch(
        "SELECT stock_swap($1, $2, $3, $4, $5, $6)",
        order_id,
        change_id,
        list(removed),
        list(removed.values()),
        uow.actor.user_id,
        uow.now,
    )
