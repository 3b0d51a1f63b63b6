"""Stock: hold units for an order, allocate them when it is paid for, or let them go.

Every change is a row in `stock_movement`; a trigger keeps `stock_level` in step and its checks
refuse an oversell from any code path. A hold is the pending half of a two-phase transfer, as in
https://docs.tigerbeetle.com/coding/two-phase-transfers/: it ends allocated, released or expired.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from uuid import UUID

from pydantic import BaseModel
from sqlalchemy import text
from sqlmodel import col, select

from db.models.inventory import (
    Location,
    MovementKind,
    Reservation,
    ReservationStatus,
    StockLevel,
    StockMovement,
)
from db.types import OrderId
from deps.core import Deps, UnitOfWork
from tools import idempotency
from tools.errors import Conflict, InvalidInput, NotFound, OutOfStock
from tools.events import StockAdjusted, StockReleased, StockReserved
from tools.page import Page, checked_limit, decode_cursor, encode_cursor
from tools.registry import Risk, operation

HOLD_TTL = timedelta(minutes=15)
# However busy the shopper looks, units are not kept from others for longer than this.
HOLD_AGE_MAX = timedelta(minutes=60)
EXPIRE_BATCH = 100
ADJUSTMENT_MAX = 1_000_000


class StockLevelView(BaseModel):
    location: str
    location_name: str
    on_hand: int
    reserved: int
    allocated: int
    available: int


class StockView(BaseModel):
    sku: str
    title: str
    available: int
    levels: list[StockLevelView]


class MovementView(BaseModel):
    id: int
    occurred_at: datetime
    kind: MovementKind
    location: str | None
    on_hand_delta: int
    reserved_delta: int
    allocated_delta: int
    reason: str
    reference_id: UUID | None


class LowStock(BaseModel):
    sku: str
    title: str
    available: int


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


async def lock(uow: UnitOfWork, skus: Sequence[str]) -> None:
    """Wait until nobody else moves units of these SKUs, and keep others out until the commit.

    Before reading counters to decide on, and before moving units of several SKUs: in SKU order,
    as every function of the database takes them, so that nobody deadlocks.
    """
    await uow.fetch(
        "SELECT FROM stock_item WHERE sku = ANY($1) ORDER BY sku FOR UPDATE", list(skus)
    )


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
    title, _ = await _variant(uow, sku)
    rows = await uow.session.execute(
        text("""
            SELECT p.code AS location, p.name AS location_name, l.on_hand, l.reserved, l.allocated,
                   l.on_hand - l.reserved - l.allocated AS available
            FROM stock_level l JOIN location p ON p.id = l.location_id
            WHERE l.sku = :sku ORDER BY p.priority, p.code
        """),
        {"sku": sku},
    )
    found = [StockLevelView.model_validate(row, from_attributes=True) for row in rows]
    return StockView(
        sku=sku,
        title=title,
        available=sum(level.available for level in found),
        levels=found if uow.actor.may("stock:write") else [],
    )


@operation(
    scope="stock:write",
    risk=Risk.READ,
    idempotent=True,
    examples=(
        "show the stock movements of {sku}",
        "what happened to the stock of {sku}",
        "movement history of {sku}",
        "why did the stock of {sku} change",
    ),
)
async def movements(
    uow: UnitOfWork, sku: str, limit: int = 20, cursor: str | None = None
) -> Page[MovementView]:
    """List what changed a SKU's stock, newest first.

    Args:
        sku: SKU of the variant.
        limit: How many to return, 1 to 100.
        cursor: `next_cursor` of the page before.

    Raises:
        NotFound: No such SKU.
    """
    checked_limit(limit)
    await _variant(uow, sku)
    query = (
        select(StockMovement, Location.code)
        .join(Location, col(Location.id) == col(StockMovement.location_id), isouter=True)
        .where(StockMovement.sku == sku)
        .order_by(col(StockMovement.id).desc())
        .limit(limit + 1)
    )
    if cursor is not None:
        query = query.where(col(StockMovement.id) < decode_cursor(cursor, int)[0])
    rows = list(await uow.session.exec(query))
    items = [
        MovementView.model_validate({**movement.model_dump(), "location": code})
        for movement, code in rows[:limit]
    ]
    more = len(rows) > limit
    return Page(items=items, next_cursor=encode_cursor(items[-1].id) if more else None)


@operation(
    scope="stock:write",
    risk=Risk.READ,
    idempotent=True,
    examples=(
        "what is running low",
        "which products are low on stock",
        "show low stock",
        "what do we need to reorder",
    ),
)
async def low(uow: UnitOfWork, limit: int = 20) -> list[LowStock]:
    """List SKUs at or below their reorder point, scarcest first.

    Args:
        limit: How many to return, 1 to 100.
    """
    rows = await uow.session.execute(
        text("""
            SELECT l.sku,
                   p.title || CASE v.title WHEN '' THEN '' ELSE ' – ' || v.title END AS title,
                   sum(l.on_hand - l.reserved - l.allocated)::int AS available
            FROM stock_level l
            JOIN variant v ON v.sku = l.sku AND v.is_active
            JOIN product p ON p.id = v.product_id
            GROUP BY l.sku, p.title, v.title
            HAVING sum(l.on_hand - l.reserved - l.allocated) <= greatest(max(l.reorder_point), 0)
            ORDER BY available, l.sku LIMIT :limit
        """),
        {"limit": checked_limit(limit)},
    )
    return [LowStock.model_validate(row, from_attributes=True) for row in rows]


@operation(
    scope="stock:write",
    risk=Risk.REVERSIBLE,
    idempotent=False,
    inverse="inventory.adjust",
    examples=(
        "add {delta} units of {sku} at {location} because {reason}",
        "remove {delta} of {sku} from {location} because {reason}",
        "adjust the stock of {sku} at {location} by {delta}: {reason}",
    ),
)
async def adjust(uow: UnitOfWork, sku: str, location: str, delta: int, reason: str) -> StockView:
    """Correct the units on hand of a SKU at a location.

    Args:
        sku: SKU of the variant.
        location: Code of the location, such as HAM.
        delta: Units to add, or to take away when negative.
        reason: Why, for the movement ledger.

    Raises:
        NotFound: No such SKU or location.
        InvalidInput: `delta` is zero or too large, or `reason` is empty.
        Conflict: Fewer would remain than are reserved or allocated.
    """
    # Adding twice is not adding once: the request's key is spent together with the effect.
    await idempotency.settle(uow)
    if delta == 0 or abs(delta) > ADJUSTMENT_MAX:
        raise InvalidInput(f"delta must be 1 to {ADJUSTMENT_MAX}, or negative.", field="delta")
    if not reason.strip() or len(reason) > 500:
        raise InvalidInput("reason must have 1 to 500 characters.", field="reason")
    _, product_id = await _variant(uow, sku)
    place = (await uow.session.exec(select(Location).where(Location.code == location))).first()
    if place is None:
        raise NotFound(f"There is no location {location!r}.", field="location")
    await lock(uow, [sku])
    level = await uow.session.get(StockLevel, (sku, place.id), populate_existing=True)
    free = level.on_hand - level.reserved - level.allocated if level else 0
    if free + delta < 0:
        raise Conflict(
            f"Only {free} units of {sku} are free at {location}.", field="delta", available=free
        )
    uow.session.add(
        StockMovement(
            sku=sku,
            location_id=place.id,
            kind=MovementKind.ADJUST,
            on_hand_delta=delta,
            reason=reason.strip(),
            actor_id=uow.actor.user_id,
            occurred_at=uow.now,
        )
    )
    await uow.session.flush()
    on_hand = (level.on_hand if level else 0) + delta
    uow.publish(
        StockAdjusted(
            product_id=product_id,
            sku=sku,
            location=location,
            delta=delta,
            on_hand=on_hand,
            reason=reason.strip(),
        )
    )
    return await levels(uow, sku)


async def _variant(uow: UnitOfWork, sku: str) -> tuple[str, UUID]:
    """Return a SKU's full title and its product."""
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
