"""What staff do with stock: see it, correct it, take it in, and say how it is sold."""

import sys
from datetime import date
from enum import StrEnum
from typing import Any, Final

from pydantic import BaseModel
from sqlalchemy import text

from db.models.inventory import MovementKind, StockLevel, StockPolicy
from deps.core import UnitOfWork
from tools import idempotency, inventory, remark
from tools.errors import Conflict, InvalidInput
from tools.events import StockAdjusted, StockPolicySet
from tools.inventory import StockLevelView, StockView
from tools.location import by_code
from tools.page import Page, Values, checked_limit, decode_cursor, page_of
from tools.registry import Risk, operation
from tools.stock_ledger import AdjustReason, Move, append

ADJUSTMENT_MAX: Final = 1_000_000
BACKORDER_LIMIT_MAX: Final = 1_000_000


class LowStock(BaseModel):
    sku: str
    title: str
    location: str
    available: int
    reorder_point: int
    incoming: int


class ListedLevel(StockLevelView):
    sku: str
    title: str
    is_low: bool


class Sort(StrEnum):
    SKU = "sku"
    SCARCEST = "scarcest"


_TITLE = "p.title || CASE v.title WHEN '' THEN '' ELSE ' – ' || v.title END"


@operation(
    scope="stock:write",
    risk=Risk.READ,
    idempotent=True,
    domain="inventory",
    examples=(
        "what is running low",
        "which products are low on stock",
        "show low stock",
        "what do we need to reorder",
    ),
)
async def low(uow: UnitOfWork, limit: int = 20) -> list[LowStock]:
    """List what is at or below its reorder point, by location, scarcest first.

    Args:
        limit: How many to return, 1 to 100.
    """
    rows = await uow.session.execute(
        text(f"""
            SELECT l.sku, {_TITLE} AS title, o.code AS location, l.available, l.reorder_point,
                   l.incoming
            FROM stock_level l
            JOIN variant v ON v.sku = l.sku AND v.is_active
            JOIN product p ON p.id = v.product_id
            JOIN location o ON o.id = l.location_id AND o.is_active
            WHERE l.is_low
            ORDER BY l.available, l.sku, o.code LIMIT :limit
        """),
        {"limit": checked_limit(limit)},
    )
    return [LowStock.model_validate(row, from_attributes=True) for row in rows]


LAST_CHARACTER: Final = chr(sys.maxunicode)
# `~>=~` and `~<~` are the comparisons of the prefix index, whatever the database's collation is.
_LIST = """
    SELECT l.sku, {title} AS title, o.code AS location, o.name AS location_name, l.on_hand,
           l.reserved, l.allocated, l.incoming, l.safety_stock, l.reorder_point, l.available,
           l.is_low
    FROM stock_level l
    JOIN variant v ON v.sku = l.sku
    JOIN product p ON p.id = v.product_id
    JOIN location o ON o.id = l.location_id
    WHERE {where} ORDER BY {order} LIMIT $1
"""


@operation(
    scope="stock:write",
    risk=Risk.READ,
    idempotent=True,
    domain="inventory",
    examples=(
        "list the stock at {location_code}",
        "show all stock levels",
        "list the stock of everything whose sku begins with {sku_prefix}",
        "list what is below its reorder point at {location_code}",
    ),
)
async def list_levels(
    uow: UnitOfWork,
    location_code: str | None = None,
    is_low: bool | None = None,
    sku_prefix: str | None = None,
    sort: Sort = Sort.SKU,
    limit: int = 20,
    cursor: str | None = None,
) -> Page[ListedLevel]:
    """List stock levels by SKU and location.

    Args:
        location_code: Only this location.
        is_low: Only what is at or below its reorder point.
        sku_prefix: Only SKUs that begin with this.
        sort: By SKU, or scarcest first, which needs `is_low` or `sku_prefix`.
        limit: How many to return, 1 to 100.
        cursor: `next_cursor` of the page before.

    Raises:
        NotFound: No such location.
        InvalidInput: Scarcest first over everything.
    """
    checked_limit(limit)
    if sort is Sort.SCARCEST and not (is_low or sku_prefix):
        raise InvalidInput("sort=scarcest needs is_low or sku_prefix.", field="sort")
    bind = Values(limit + 1)
    where = ["true"]
    if location_code is not None:
        place = await by_code(uow, location_code, "location_code")
        where.append(f"l.location_id = {bind(place.id)}")
    if is_low:
        where.append("l.is_low")
    if sku_prefix:
        where.append(f"l.sku ~>=~ {bind(sku_prefix)}::text")
        where.append(f"l.sku ~<~ {bind(sku_prefix + LAST_CHARACTER)}::text")
    order = "l.sku, o.code" if sort is Sort.SKU else "l.available, l.sku, o.code"
    if cursor is not None and sort is Sort.SKU:
        sku, code = decode_cursor(cursor, str, str)
        where.append(f"(l.sku, o.code) > ({bind(sku)}, {bind(code)})")
        where.append(f"l.sku >= {bind(sku)}")  # What the index can begin at.
    elif cursor is not None:
        available, sku, code = decode_cursor(cursor, int, str, str)
        where.append(
            f"(l.available, l.sku, o.code) > ({bind(available)}::int, {bind(sku)}, {bind(code)})"
        )
    # Only fixed fragments are put together here; every value is bound.
    sql = _LIST.format(title=_TITLE, where=" AND ".join(where), order=order)
    items = [ListedLevel(**row) for row in await uow.fetch(sql, *bind.bound)]
    if sort is Sort.SKU:
        return page_of(items, limit, lambda item: [item.sku, item.location])
    return page_of(items, limit, lambda item: [item.available, item.sku, item.location])


async def readjusted(
    uow: UnitOfWork, sku: str, location: str, delta: int, reason: str, **_: Any
) -> dict[str, Any]:
    """Return the adjustment that takes this one back, whatever else has moved since."""
    back = f"Taken back: {reason}"[:500]
    return {"sku": sku, "location": location, "delta": -delta, "reason": back}


async def received(
    uow: UnitOfWork, sku: str, location: str, quantity: int, reason: str = ""
) -> dict[str, Any]:
    """Return the adjustment that takes a receipt back, whatever else has moved since."""
    return await readjusted(uow, sku, location, quantity, reason or "a receipt")


async def sold_as(uow: UnitOfWork, sku: str, **_: Any) -> dict[str, Any]:
    """Return what sets the policy of a SKU to what it is now."""
    row = await uow.fetchrow(
        "SELECT policy, backorder_limit, available_on FROM stock_item WHERE sku = $1", sku
    )
    return {"sku": sku} | (dict(row) if row is not None else {"policy": StockPolicy.DENY})


async def kept_back(uow: UnitOfWork, sku: str, location: str, **_: Any) -> dict[str, Any] | None:
    """Return what sets the thresholds of a SKU at a location to what they are now."""
    row = await uow.fetchrow(
        """SELECT reorder_point, safety_stock FROM stock_level l
           JOIN location p ON p.id = l.location_id WHERE l.sku = $1 AND p.code = $2""",
        sku,
        location,
    )
    return {"sku": sku, "location": location, **row} if row is not None else None


@operation(
    scope="stock:write",
    risk=Risk.REVERSIBLE,
    idempotent=False,
    inverse="inventory.adjust",
    restore=readjusted,
    domain="inventory",
    examples=(
        "add {delta} units of {sku} at {location} because {reason}",
        "remove {delta} of {sku} from {location} because {reason}",
        "adjust the stock of {sku} at {location} by {delta}: {reason}",
        "write off {delta} of {sku} at {location}, they are damaged",
    ),
)
async def adjust(
    uow: UnitOfWork,
    sku: str,
    location: str,
    delta: int,
    reason: str,
    reason_code: AdjustReason = AdjustReason.CORRECTION,
) -> StockView:
    """Correct the units on hand of a SKU at a location.

    Args:
        sku: SKU of the variant.
        location: Code of the location, such as HAM.
        delta: Units to add, or to take away when negative.
        reason: Why, for the movement ledger.
        reason_code: Why, for reports: correction, damaged, expired, lost, stolen, found, returned
            or sample.

    Raises:
        NotFound: No such SKU or location.
        InvalidInput: `delta` is zero or too large, or `reason` is empty.
        Conflict: Fewer would remain than are reserved or allocated, or it is a bundle.
    """
    if delta == 0 or abs(delta) > ADJUSTMENT_MAX:
        raise InvalidInput(f"delta must be 1 to {ADJUSTMENT_MAX}, or negative.", field="delta")
    reason = remark.needed(reason)
    return await _book(uow, sku, location, delta, MovementKind.ADJUST, reason, reason_code)


@operation(
    scope="stock:write",
    risk=Risk.REVERSIBLE,
    idempotent=False,
    inverse="inventory.adjust",
    restore=received,
    domain="inventory",
    examples=(
        "receive {quantity} units of {sku} at {location}",
        "{quantity} of {sku} arrived at {location}",
        "book in a delivery of {quantity} {sku} at {location}",
        "goods receipt: {quantity} x {sku} at {location}",
    ),
)
async def receive(
    uow: UnitOfWork, sku: str, location: str, quantity: int, reason: str = ""
) -> StockView:
    """Take in units that arrived from outside. Orders that wait for them get theirs first.

    Args:
        sku: SKU of the variant.
        location: Code of the location they arrived at.
        quantity: How many.
        reason: Delivery note, supplier or the like, for the movement ledger.

    Raises:
        NotFound: No such SKU or location.
        InvalidInput: `quantity` is not 1 to a million, or `reason` is too long.
        Conflict: It is a bundle: its parts arrive.
    """
    if not 1 <= quantity <= ADJUSTMENT_MAX:
        raise InvalidInput(f"quantity must be 1 to {ADJUSTMENT_MAX}.", field="quantity")
    reason = remark.optional(reason)
    return await _book(uow, sku, location, quantity, MovementKind.RECEIVE, reason, None)


async def _book(
    uow: UnitOfWork,
    sku: str,
    code: str,
    delta: int,
    kind: MovementKind,
    reason: str,
    reason_code: AdjustReason | None,
) -> StockView:
    # Adding twice is not adding once: the request's key is spent together with the effect.
    await idempotency.settle(uow)
    _, product_id = await inventory.variant(uow, sku)
    place = await by_code(uow, code)
    await inventory.lock(uow, [sku])
    level = await uow.session.get(StockLevel, (sku, place.id), populate_existing=True)
    if level is None:
        await refuse_bundle(uow, sku)
        level = StockLevel(sku=sku, location_id=place.id)
    spare = level.on_hand - level.reserved - level.allocated
    if spare + delta < 0:
        raise Conflict(
            f"Only {spare} units of {sku} are free at {code}.", field="delta", available=spare
        )
    on_hand = level.on_hand + delta
    await append(
        uow,
        [Move(sku, place.id, kind, on_hand=delta, reason=reason, reason_code=reason_code)],
    )
    uow.publish(
        StockAdjusted(
            product_id=product_id,
            sku=sku,
            location=code,
            delta=delta,
            on_hand=on_hand,
            reason=reason or kind.value,
            reason_code=reason_code,
        )
    )
    if delta > 0:
        await inventory.fill(uow, [sku])
    return await inventory.levels(uow, sku)


async def refuse_bundle(uow: UnitOfWork, sku: str) -> None:
    """Raise `Conflict` if the SKU is a bundle: it has no stock of its own."""
    if await uow.fetchval("SELECT 1 FROM bundle_part WHERE bundle_sku = $1 LIMIT 1", sku):
        raise Conflict(f"{sku} is a bundle: its parts have stock, it has none.", field="sku")


@operation(
    scope="stock:write",
    risk=Risk.REVERSIBLE,
    idempotent=True,
    inverse="inventory.set_policy",
    restore=sold_as,
    domain="inventory",
    examples=(
        "allow backorders of {sku} up to {backorder_limit}",
        "take pre-orders for {sku} until {available_on}, at most {backorder_limit}",
        "stop backorders of {sku}",
        "set the stock policy of {sku} to {policy}",
    ),
)
async def set_policy(
    uow: UnitOfWork,
    sku: str,
    policy: StockPolicy,
    backorder_limit: int = 0,
    available_on: date | None = None,
) -> StockView:
    """Say what happens when a SKU runs out: refuse, or promise units up to a cap.

    Args:
        sku: SKU of the variant.
        policy: deny, backorder, or preorder, which promises only until `available_on`.
        backorder_limit: How many units may be promised at once beyond the stock.
        available_on: When the goods are expected; a pre-order needs it.

    Raises:
        NotFound: No such SKU.
        InvalidInput: A cap without a policy that promises, or a pre-order without a date to come.
        Conflict: More units are promised already than the cap would allow, or it is a bundle.
    """
    if policy is StockPolicy.DENY and backorder_limit:
        raise InvalidInput("deny promises nothing: leave out the cap.", field="backorder_limit")
    if policy is not StockPolicy.DENY and not 1 <= backorder_limit <= BACKORDER_LIMIT_MAX:
        raise InvalidInput(
            f"backorder_limit must be 1 to {BACKORDER_LIMIT_MAX}.", field="backorder_limit"
        )
    if policy is StockPolicy.PREORDER and (available_on is None or available_on <= uow.now.date()):
        raise InvalidInput("A pre-order needs a date to come.", field="available_on")
    _, product_id = await inventory.variant(uow, sku)
    await refuse_bundle(uow, sku)
    await uow.fetch("INSERT INTO stock_item (sku) VALUES ($1) ON CONFLICT (sku) DO NOTHING", sku)
    await inventory.lock(uow, [sku])
    promised = await uow.fetchval("SELECT backordered FROM stock_item WHERE sku = $1", sku)
    if promised > backorder_limit:
        raise Conflict(
            f"{promised} units of {sku} are promised already; a cap of {promised} takes no more.",
            field="backorder_limit",
            promised=promised,
        )
    await uow.fetch(
        """UPDATE stock_item SET policy = $2, backorder_limit = $3, available_on = $4
           WHERE sku = $1""",
        sku,
        policy.value,
        backorder_limit,
        available_on,
    )
    uow.publish(
        StockPolicySet(
            product_id=product_id,
            sku=sku,
            policy=policy,
            backorder_limit=backorder_limit,
            available_on=available_on,
        )
    )
    return await inventory.levels(uow, sku)


@operation(
    scope="stock:write",
    risk=Risk.REVERSIBLE,
    idempotent=True,
    inverse="inventory.set_thresholds",
    restore=kept_back,
    domain="inventory",
    examples=(
        "set the reorder point of {sku} at {location} to {reorder_point}",
        "keep {safety_stock} of {sku} at {location} as safety stock",
        "warn me when {sku} at {location} falls to {reorder_point}",
        "change the safety stock of {sku} at {location} to {safety_stock}",
    ),
)
async def set_thresholds(
    uow: UnitOfWork,
    sku: str,
    location: str,
    reorder_point: int | None = None,
    safety_stock: int | None = None,
) -> StockView:
    """Set when a SKU counts as low at a location, and how many units are never sold from it.

    Args:
        sku: SKU of the variant.
        location: Code of the location.
        reorder_point: At or below so many available units it is low; 0 never is.
        safety_stock: Units kept back from sale.

    Raises:
        NotFound: No such SKU or location.
        InvalidInput: Neither is given, or one is not 0 to a million.
        Conflict: The SKU was never at this location.
    """
    for name, value in (("reorder_point", reorder_point), ("safety_stock", safety_stock)):
        if value is not None and not 0 <= value <= ADJUSTMENT_MAX:
            raise InvalidInput(f"{name} must be 0 to {ADJUSTMENT_MAX}.", field=name)
    if reorder_point is None and safety_stock is None:
        raise InvalidInput("Give reorder_point or safety_stock.", field="reorder_point")
    await inventory.variant(uow, sku)
    place = await by_code(uow, location)
    await inventory.lock(uow, [sku])
    known = await uow.fetch(
        """UPDATE stock_level SET reorder_point = coalesce($3, reorder_point),
                                  safety_stock = coalesce($4, safety_stock)
           WHERE sku = $1 AND location_id = $2 RETURNING sku""",
        sku,
        place.id,
        reorder_point,
        safety_stock,
    )
    if not known:
        raise Conflict(f"{sku} was never at {location}: receive some first.", field="location")
    await inventory.fill(uow, [sku])
    return await inventory.levels(uow, sku)
