"""The ledger of stock: what moved, what there was on any day, and the proof that counters agree."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from enum import StrEnum
from typing import Any, Final
from uuid import UUID

from pydantic import BaseModel, Field
from sqlmodel import col, select

from db.models.inventory import Location, MovementKind, StockMovement
from db.models.stock_count import StockRebuild
from deps.core import Deps, UnitOfWork
from tools import inventory, location
from tools.page import (
    ByTime,
    Ordering,
    Page,
    Values,
    aware,
    checked_limit,
    decode_cursor,
    page_of,
    read_page,
)
from tools.registry import Risk, operation

# A transaction that began before midnight may commit a little after it.
SNAPSHOT_SETTLES: Final = timedelta(minutes=5)
DIFFERENCES_SHOWN: Final = 100


class AdjustReason(StrEnum):
    CORRECTION = "correction"
    DAMAGED = "damaged"
    EXPIRED = "expired"
    LOST = "lost"
    STOLEN = "stolen"
    FOUND = "found"
    RETURNED = "returned"
    SAMPLE = "sample"


@dataclass(frozen=True, slots=True)
class Move:
    sku: str
    location_id: UUID
    kind: MovementKind
    on_hand: int = 0
    incoming: int = 0
    reason: str = ""
    reason_code: AdjustReason | None = None


async def append(uow: UnitOfWork, moves: Sequence[Move], reference_id: UUID | None = None) -> None:
    """Write movements, in SKU order, so that others who move the same SKUs queue.

    Whoever adds units calls `inventory.fill` afterwards.

    Raises:
        asyncpg.CheckViolationError: Units that are promised would be gone. Look before.
    """
    ordered = sorted(moves, key=lambda move: (move.sku, str(move.location_id)))
    await inventory.lock(uow, [move.sku for move in ordered])
    await uow.fetch(
        """INSERT INTO stock_movement (sku, location_id, kind, on_hand_delta, reserved_delta,
                                       allocated_delta, incoming_delta, reason, reason_code,
                                       reference_id, actor_id, occurred_at)
           SELECT m.sku, m.location_id, m.kind, m.on_hand, 0, 0, m.incoming, m.reason,
                  m.reason_code, $8, $9, $10
           FROM unnest($1::text[], $2::uuid[], $3::text[], $4::int[], $5::int[], $6::text[],
                       $7::text[]) WITH ORDINALITY
                AS m (sku, location_id, kind, on_hand, incoming, reason, reason_code, place)
           ORDER BY m.place""",
        [move.sku for move in ordered],
        [move.location_id for move in ordered],
        [move.kind.value for move in ordered],
        [move.on_hand for move in ordered],
        [move.incoming for move in ordered],
        [move.reason for move in ordered],
        [move.reason_code.value if move.reason_code else None for move in ordered],
        reference_id,
        uow.actor.user_id,
        uow.now,
    )


class MovementView(BaseModel):
    id: int
    occurred_at: datetime
    kind: MovementKind
    location: str | None = Field(description="Null where units are promised that no place has.")
    on_hand_delta: int
    reserved_delta: int
    allocated_delta: int
    incoming_delta: int
    backordered_delta: int
    reason: str
    reason_code: str | None
    reference_id: UUID | None


@operation(
    scope="stock:write",
    risk=Risk.READ,
    idempotent=True,
    domain="inventory",
    examples=(
        "show the stock movements of {sku}",
        "what happened to the stock of {sku}",
        "movement history of {sku}",
        "why did the stock of {sku} change",
    ),
)
async def movements(
    uow: UnitOfWork,
    sku: str,
    kind: MovementKind | None = None,
    location_code: str | None = None,
    since: datetime | None = None,
    until: datetime | None = None,
    sort: ByTime = ByTime.NEWEST,
    limit: int = 20,
    cursor: str | None = None,
) -> Page[MovementView]:
    """List what changed a SKU's stock.

    Args:
        sku: SKU of the variant.
        kind: Only this kind, such as receive, adjust, reserve, ship or transfer_in.
        location_code: Only this location.
        since: Not before this time.
        until: Before this time.
        sort: newest or oldest first.
        limit: How many to return, 1 to 100.
        cursor: `next_cursor` of the page before.

    Raises:
        NotFound: No such SKU or location.
    """
    await inventory.variant(uow, sku)
    moved = col(StockMovement.occurred_at)
    query = (
        select(StockMovement, Location.code)
        .join(Location, col(Location.id) == col(StockMovement.location_id), isouter=True)
        .where(StockMovement.sku == sku)
    )
    if kind is not None:
        query = query.where(StockMovement.kind == kind)
    if location_code is not None:
        place = await location.by_code(uow, location_code, "location_code")
        query = query.where(StockMovement.location_id == place.id)
    if since is not None:
        query = query.where(moved >= aware(since, "since"))
    if until is not None:
        query = query.where(moved < aware(until, "until"))
    return await read_page(
        uow,
        query,
        Ordering((StockMovement.occurred_at, StockMovement.id), sort is ByTime.NEWEST),
        lambda row: MovementView.model_validate({**row[0].model_dump(), "location": row[1]}),
        limit,
        cursor,
    )


class PastLevel(BaseModel):
    """What a location had of a SKU at some time, by the ledger."""

    sku: str
    location: str
    on_hand: int
    reserved: int
    allocated: int
    incoming: int


_AS_OF = """
    SELECT l.sku, p.code AS location, coalesce(s.on_hand, 0) + d.on_hand AS on_hand,
           coalesce(s.reserved, 0) + d.reserved AS reserved,
           coalesce(s.allocated, 0) + d.allocated AS allocated,
           coalesce(s.incoming, 0) + d.incoming AS incoming
    FROM stock_level l
    JOIN location p ON p.id = l.location_id
    LEFT JOIN LATERAL (
        SELECT on_hand, reserved, allocated, incoming,
               (day + 1)::timestamp AT TIME ZONE 'UTC' AS ended_at
        FROM stock_snapshot
        WHERE sku = l.sku AND location_id = l.location_id
          AND (day + 1)::timestamp AT TIME ZONE 'UTC' <= $1
        ORDER BY day DESC LIMIT 1
    ) s ON true
    CROSS JOIN LATERAL (
        SELECT coalesce(sum(on_hand_delta), 0)::int AS on_hand,
               coalesce(sum(reserved_delta), 0)::int AS reserved,
               coalesce(sum(allocated_delta), 0)::int AS allocated,
               coalesce(sum(incoming_delta), 0)::int AS incoming
        FROM stock_movement m
        WHERE m.sku = l.sku AND m.location_id = l.location_id
          AND m.occurred_at >= coalesce(s.ended_at, '-infinity') AND m.occurred_at <= $1
    ) d
    WHERE {where} ORDER BY l.sku, l.location_id LIMIT $2
"""


@operation(
    scope="stock:write",
    risk=Risk.READ,
    idempotent=True,
    domain="inventory",
    examples=(
        "what was the stock of {sku} on {at}",
        "stock of {sku} as of {at}",
        "how many {sku} did we have on {at}",
        "show the inventory as of {at}",
    ),
)
async def as_of(
    uow: UnitOfWork,
    at: datetime,
    sku: str | None = None,
    location_code: str | None = None,
    limit: int = 20,
    cursor: str | None = None,
) -> Page[PastLevel]:
    """Tell from the ledger what there was at a time, by SKU and location.

    Args:
        at: The time, with its zone.
        sku: Only this SKU.
        location_code: Only this location.
        limit: How many to return, 1 to 100.
        cursor: `next_cursor` of the page before.

    Raises:
        NotFound: No such SKU or location.
        InvalidInput: The time has no zone.
    """
    bind = Values(aware(at, "at"), checked_limit(limit) + 1)
    where = ["true"]
    if sku is not None:
        await inventory.variant(uow, sku)
        where.append(f"l.sku = {bind(sku)}")
    if location_code is not None:
        place = await location.by_code(uow, location_code, "location_code")
        where.append(f"l.location_id = {bind(place.id)}")
    if cursor is not None:
        after_sku, after_place = decode_cursor(cursor, str, str)
        after = await location.by_code(uow, after_place, "cursor")
        where.append(f"(l.sku, l.location_id) > ({bind(after_sku)}, {bind(after.id)})")
    # Only fixed fragments are put together here; every value is bound.
    rows = await uow.fetch(_AS_OF.format(where=" AND ".join(where)), *bind.bound)
    return page_of(
        [PastLevel(**row) for row in rows], limit, lambda item: [item.sku, item.location]
    )


_SNAPSHOT = """
    WITH ended AS (
        INSERT INTO stock_snapshot_day (day, levels, taken_at) VALUES ($1, 0, $4)
        ON CONFLICT (day) DO NOTHING RETURNING day
    ), taken AS (
        INSERT INTO stock_snapshot (sku, location_id, day, on_hand, reserved, allocated, incoming)
        SELECT k.sku, k.location_id, $1, coalesce(s.on_hand, 0) + d.on_hand,
               coalesce(s.reserved, 0) + d.reserved, coalesce(s.allocated, 0) + d.allocated,
               coalesce(s.incoming, 0) + d.incoming
        FROM ended CROSS JOIN (
            SELECT DISTINCT sku, location_id FROM stock_movement
            WHERE occurred_at >= $2 AND occurred_at < $3 AND location_id IS NOT NULL
        ) k
        LEFT JOIN LATERAL (
            SELECT on_hand, reserved, allocated, incoming,
                   (day + 1)::timestamp AT TIME ZONE 'UTC' AS ended_at
            FROM stock_snapshot WHERE sku = k.sku AND location_id = k.location_id AND day < $1
            ORDER BY day DESC LIMIT 1
        ) s ON true
        CROSS JOIN LATERAL (
            SELECT sum(on_hand_delta) AS on_hand, sum(reserved_delta) AS reserved,
                   sum(allocated_delta) AS allocated, sum(incoming_delta) AS incoming
            FROM stock_movement m
            WHERE m.sku = k.sku AND m.location_id = k.location_id
              AND m.occurred_at >= coalesce(s.ended_at, '-infinity') AND m.occurred_at < $3
        ) d
        RETURNING 1
    )
    SELECT (SELECT count(*) FROM taken)::int
"""


async def snapshot(deps: Deps) -> int:
    """Write down the closing stock of yesterday (UTC), once; return how many levels moved.

    Only levels that moved since the snapshot before have a row: the newest one not after a day is
    the day's.
    """
    async with deps.begin() as uow:
        today = (uow.now - SNAPSHOT_SETTLES).astimezone(UTC).date()
        day = today - timedelta(days=1)
        last: date | None = await uow.fetchval("SELECT max(day) FROM stock_snapshot_day")
        if last is not None and last >= day:
            return 0
        begins = _midnight(last + timedelta(days=1)) if last else datetime(1, 1, 1, tzinfo=UTC)
        taken = int(await uow.fetchval(_SNAPSHOT, day, begins, _midnight(today), uow.now))
        await uow.fetch("UPDATE stock_snapshot_day SET levels = $2 WHERE day = $1", day, taken)
        return taken


class CounterDifference(BaseModel):
    sku: str
    location: str | None
    counter: str
    stored: int
    ledger: int


class RebuildReport(BaseModel):
    """`levels` and `items` were compared with every movement there is."""

    levels: int
    items: int
    movements: int
    different: int
    is_changed: bool
    differences: list[CounterDifference] = Field(description="The first of them.")


_DIFFERENCES = f"""
    SELECT d.sku, p.code AS location, d.counter, d.stored, d.ledger, count(*) OVER () AS n
    FROM stock_differences() d LEFT JOIN location p ON p.id = d.location_id
    ORDER BY d.sku, p.code, d.counter LIMIT {DIFFERENCES_SHOWN}
"""
_COMPARED = """
    SELECT (SELECT count(*) FROM stock_level) AS levels, (SELECT count(*) FROM stock_item) AS items,
           (SELECT count(*) FROM stock_movement) AS movements
"""


async def preview_rebuild(uow: UnitOfWork, is_dry_run: bool = False) -> RebuildReport:
    """Say which counters `rebuild` would set, without setting them."""
    compared = await uow.fetchrow(_COMPARED)
    rows: list[Any] = await uow.fetch(_DIFFERENCES)
    return RebuildReport(
        **compared,
        different=rows[0]["n"] if rows else 0,
        is_changed=False,
        differences=[CounterDifference(**{k: v for k, v in r.items() if k != "n"}) for r in rows],
    )


@operation(
    scope="stock:write",
    risk=Risk.BULK,
    idempotent=True,
    domain="inventory",
    preview=preview_rebuild,
    examples=(
        "rebuild the stock counters from the ledger",
        "recompute the stock levels",
        "prove that the stock counters agree with the movements",
        "repair the stock counters",
    ),
)
async def rebuild(uow: UnitOfWork, is_dry_run: bool = False) -> RebuildReport:
    """Set every stock counter to what the movement ledger says. Movements wait meanwhile.

    A row of `stock_rebuild` keeps who did it, when, and what differed.

    Args:
        is_dry_run: Only compare.

    Raises:
        asyncpg.CheckViolationError: The ledger itself breaks a rule, and nothing changed.
    """
    report = await preview_rebuild(uow)
    if is_dry_run:
        return report
    uow.session.add(StockRebuild(is_dry_run=False, actor_id=uow.actor.user_id, started_at=uow.now))
    await uow.session.flush()
    return report.model_copy(update={"is_changed": report.different > 0})


def _midnight(day: date) -> datetime:
    return datetime.combine(day, time(), tzinfo=UTC)
