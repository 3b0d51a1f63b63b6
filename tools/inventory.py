"""Stock: hold units for an order, allocate them when it is paid for, or let them go.

Every change is a row in `stock_movement`; a trigger keeps the counters in step and their checks
refuse an oversell from any code path. A hold is the pending half of a two-phase transfer, as in
https://docs.tigerbeetle.com/coding/two-phase-transfers/: it ends allocated, released or expired.
The SQL of it is in `db/migrations/functions_0003.sql`. What staff do with stock is in `stock.py`.
"""

from collections.abc import Mapping, Sequence
from datetime import date, datetime, timedelta
from uuid import UUID

from pydantic import BaseModel, Field
from sqlalchemy import text
from sqlmodel import col, select

from db.models.inventory import Reservation, ReservationStatus, StockPolicy
from db.types import OrderId
from deps.core import Deps, UnitOfWork
from tools.errors import Conflict, NotFound, OutOfStock
from tools.events import StockReleased, StockReserved
from tools.registry import Risk, operation

HOLD_TTL = timedelta(minutes=15)
# However busy the shopper looks, units are not kept from others for longer than this.
HOLD_AGE_MAX = timedelta(minutes=60)
EXPIRE_BATCH = 100
FILL_BATCH = 100


class StockLevelView(BaseModel):
    """Units of a SKU at one location. `available` is what is neither promised nor kept back."""

    location: str
    location_name: str
    on_hand: int
    reserved: int
    allocated: int
    incoming: int
    safety_stock: int
    reorder_point: int
    available: int


class BundlePartView(BaseModel):
    sku: str
    quantity: int = Field(description="Units in one bundle.")
    available: int


class StockView(BaseModel):
    sku: str
    title: str
    available: int = Field(description="How many can be ordered now, promises included.")
    in_stock: int = Field(description="How many of them can leave today.")
    policy: StockPolicy = StockPolicy.DENY
    available_on: date | None = Field(
        default=None, description="When the next units are expected, where the shop says so."
    )
    backordered: int | None = Field(default=None, description="Units owed; only staff see it.")
    backorder_limit: int | None = Field(default=None, description="Only staff see it.")
    parts: list[BundlePartView] = Field(default=[], description="What a bundle consists of.")
    levels: list[StockLevelView] = Field(description="Only staff see where units are.")


async def reserve(
    uow: UnitOfWork,
    *,
    order_id: OrderId,
    units: Mapping[str, int],
    destination: Mapping[str, str] | None = None,
) -> None:
    """Hold stock for every SKU of an order, or for none, for `HOLD_TTL`.

    SKUs are locked in order, so orders that share some queue and never deadlock. Of a bundle the
    parts are held. What is short is promised within the SKU's backorder cap.

    Args:
        order_id: Order the units are held for; it may hold once.
        units: Quantity by SKU, summed over lines: two lines must not both see the last unit.
        destination: `country_code` and `postal_code` of the delivery, for the shop's rules.

    Raises:
        OutOfStock: Too few available. The caller's transaction must roll back.
    """
    assert units
    assert all(quantity > 0 for quantity in units.values())
    short = await uow.fetchval(
        "SELECT stock_reserve($1, $2, $3, $4, $5, $6, $7)",
        order_id,
        list(units.keys()),
        list(units.values()),
        uow.now + HOLD_TTL,
        uow.actor.user_id,
        uow.now,
        dict(destination) if destination else None,
    )
    if short is not None:
        raise OutOfStock(short, units[short])
    uow.publish(StockReserved(order_id=order_id, units=dict(units)))


async def extend(uow: UnitOfWork, *, order_id: OrderId) -> datetime | None:
    """Keep an order's hold for another `HOLD_TTL`, up to `HOLD_AGE_MAX` after it began.

    For whatever shows that the shopper is still there. Return when the hold lapses, or None if
    there is none any more.
    """
    until: datetime | None = await uow.fetchval(
        "SELECT stock_extend($1, $2, $3, $4)", order_id, uow.now + HOLD_TTL, HOLD_AGE_MAX, uow.now
    )
    return until


async def allocate(uow: UnitOfWork, *, order_id: OrderId) -> None:
    """Turn an order's hold into an allocation; take the units anew if the hold has expired.

    Repeating it changes nothing.

    Raises:
        OutOfStock: The hold expired and the units are gone; nothing changed.
    """
    short = await uow.fetchval(
        "SELECT stock_allocate($1, $2, $3)", order_id, uow.actor.user_id, uow.now
    )
    if short is not None:
        wanted = await uow.fetchval(
            "SELECT sum(quantity) FROM order_line WHERE order_id = $1 AND sku = $2", order_id, short
        )
        raise OutOfStock(short, wanted or 1)


async def release(uow: UnitOfWork, *, order_id: OrderId, reason: str) -> None:
    """Put an order's held or allocated units back on sale; do nothing if it has none."""
    if await _let_go(uow, order_id, "release"):
        uow.publish(StockReleased(order_id=order_id, reason=reason))


async def ship(uow: UnitOfWork, *, order_id: OrderId) -> None:
    """Take an order's allocated units off the books: they left. Repeating it changes nothing.

    Raises:
        Conflict: It has no allocation, or waits for units that are not here yet.
    """
    shipped = await uow.fetchval(
        "SELECT stock_ship($1, $2, $3)", order_id, uow.actor.user_id, uow.now
    )
    if not shipped:
        raise Conflict("Not every unit of the order is allocated yet.")


async def unship(uow: UnitOfWork, *, order_id: OrderId) -> None:
    """Put an order's units back on the books: they had not left. Repeating it changes nothing.

    Raises:
        Conflict: It has no units that were shipped.
    """
    allocated = await uow.fetchval(
        "SELECT stock_unship($1, $2, $3)", order_id, uow.actor.user_id, uow.now
    )
    if not allocated:
        raise Conflict("No units of the order were shipped.")


async def expire_due(deps: Deps) -> int:
    """Let go of holds past their time; return how many. Each in a transaction of its own."""
    async with deps.begin() as uow:
        due = await uow.session.exec(
            select(Reservation.id)
            .where(Reservation.status == ReservationStatus.HELD)
            .where(col(Reservation.expires_at) <= uow.now)
            .order_by(col(Reservation.expires_at))
            .limit(EXPIRE_BATCH)
        )
        ids = [OrderId(i) for i in due]
    for order_id in ids:
        async with deps.begin() as uow:
            if await _let_go(uow, order_id, "expire"):
                uow.publish(StockReleased(order_id=order_id, reason="the hold expired"))
    return len(ids)


async def fill_due(deps: Deps) -> int:
    """Give free units to orders that wait for them, where nobody did at once; return how many.

    Each SKU in a transaction of its own.
    """
    async with deps.begin() as uow:
        rows = await uow.fetch(
            "SELECT sku FROM stock_item WHERE backordered > 0 AND free > 0 ORDER BY sku LIMIT $1",
            FILL_BATCH,
        )
    filled = 0
    for row in rows:
        async with deps.begin() as uow:
            filled += await fill(uow, [row["sku"]])
    return filled


async def fill(uow: UnitOfWork, skus: Sequence[str]) -> int:
    """Give free units to the orders that wait longest for them; call it after units arrived."""
    return int(
        await uow.fetchval("SELECT stock_fill($1, $2, $3)", list(skus), uow.actor.user_id, uow.now)
    )


async def lock(uow: UnitOfWork, skus: Sequence[str]) -> None:
    """Wait until nobody else moves units of these SKUs, and keep others out until the commit.

    Before reading counters to decide on, and before moving units of several SKUs: in SKU order,
    as every function of the database takes them, so that nobody deadlocks.
    """
    await uow.fetch(
        "SELECT FROM stock_item WHERE sku = ANY($1) ORDER BY sku FOR UPDATE", list(skus)
    )


async def spare(uow: UnitOfWork, location_id: UUID, skus: Sequence[str]) -> dict[str, int]:
    """Lock SKUs; return how many units of each a location has that are not promised."""
    await lock(uow, skus)
    rows = await uow.fetch(
        """SELECT sku, on_hand - reserved - allocated AS spare FROM stock_level
           WHERE location_id = $1 AND sku = ANY($2)""",
        location_id,
        list(skus),
    )
    return {row["sku"]: row["spare"] for row in rows}


async def _let_go(uow: UnitOfWork, order_id: OrderId, kind: str) -> bool:
    return bool(
        await uow.fetchval(
            "SELECT stock_release($1, $2, $3, $4)", order_id, kind, uow.actor.user_id, uow.now
        )
    )


@operation(
    scope="stock:read",
    risk=Risk.READ,
    idempotent=True,
    examples=(
        "how many {sku} are in stock",
        "is {sku} in stock",
        "stock of {sku}",
        "show the stock level of {sku}",
        "do you still have {sku} available",
        "where is {sku} stored",
    ),
)
async def levels(uow: UnitOfWork, sku: str) -> StockView:
    """Show how many units of a SKU can be sold; staff also see each location's counters.

    Args:
        sku: SKU of the variant.

    Raises:
        NotFound: No such SKU.
    """
    title, _ = await variant(uow, sku)
    is_staff = uow.actor.may("stock:write")
    item = await uow.fetchrow(
        """SELECT stock_available($1, $2) AS available, policy, backordered, backorder_limit,
                  available_on, free
           FROM (SELECT) one LEFT JOIN stock_item ON sku = $1""",
        sku,
        uow.now,
    )
    parts = await _parts(uow, sku)
    in_stock = max(0, (item["free"] or 0) - (item["backordered"] or 0))
    return StockView(
        sku=sku,
        title=title,
        available=item["available"],
        in_stock=item["available"] if parts else in_stock,
        policy=item["policy"] or StockPolicy.DENY,
        available_on=item["available_on"],
        backordered=(item["backordered"] or 0) if is_staff else None,
        backorder_limit=(item["backorder_limit"] or 0) if is_staff else None,
        parts=parts,
        levels=await _levels(uow, sku) if is_staff else [],
    )


async def _levels(uow: UnitOfWork, sku: str) -> list[StockLevelView]:
    rows = await uow.fetch(
        """SELECT p.code AS location, p.name AS location_name, l.on_hand, l.reserved, l.allocated,
                  l.incoming, l.safety_stock, l.reorder_point, l.available
           FROM stock_level l JOIN location p ON p.id = l.location_id
           WHERE l.sku = $1 ORDER BY p.priority, p.code""",
        sku,
    )
    return [StockLevelView(**row) for row in rows]


async def _parts(uow: UnitOfWork, sku: str) -> list[BundlePartView]:
    rows = await uow.fetch(
        """SELECT part_sku AS sku, quantity, stock_available(part_sku, $2) AS available
           FROM bundle_part WHERE bundle_sku = $1 ORDER BY part_sku""",
        sku,
        uow.now,
    )
    return [BundlePartView(**row) for row in rows]


async def variant(uow: UnitOfWork, sku: str) -> tuple[str, UUID]:
    """Return a SKU's full title and its product.

    Raises:
        NotFound: No such SKU.
    """
    row = (
        await uow.session.execute(
            text("""
                SELECT p.title || CASE v.title WHEN '' THEN '' ELSE ' – ' || v.title END, p.id
                FROM variant v JOIN product p ON p.id = v.product_id WHERE v.sku = :sku
            """),
            {"sku": sku},
        )
    ).first()
    if row is None:
        raise NotFound(f"There is no SKU {sku}.", field="sku")
    return row[0], row[1]
