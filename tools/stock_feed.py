"""The live feed of stock: the movement ledger as it grows, with what is left after each."""

from datetime import datetime
from uuid import UUID

from pydantic import BaseModel, Field

from db.models.inventory import MovementKind
from deps.core import UnitOfWork
from tools.errors import Forbidden

FEED_LIMIT_MAX = 500
FEED_SCOPE = "stock:write"


class StockChange(BaseModel):
    """One movement. The counters are those of now, which may be newer than the movement."""

    seq: int = Field(description="The movement's id.")
    sku: str
    kind: MovementKind
    location: str | None
    on_hand_delta: int
    reserved_delta: int
    allocated_delta: int
    incoming_delta: int
    backordered_delta: int
    reference_id: UUID | None
    occurred_at: datetime
    on_hand: int | None
    reserved: int | None
    allocated: int | None
    incoming: int | None
    available: int = Field(description="How many of the SKU can be ordered, over all locations.")


async def latest(uow: UnitOfWork) -> int:
    """Return the newest `seq`: a new watcher starts there. 0 when nothing ever moved."""
    return int(await uow.fetchval("SELECT coalesce(max(id), 0) FROM stock_movement"))


async def changes(
    uow: UnitOfWork, after_seq: int | None = None, limit: int = 100
) -> list[StockChange]:
    """Return movements after `after_seq`, oldest first; None means from now on.

    A transaction that commits late can fill in a lower `seq` than one already returned: whoever
    polls has to look back a little and drop what it has seen.

    Raises:
        Forbidden: Only staff may watch the stock.
    """
    if not uow.actor.may(FEED_SCOPE):
        raise Forbidden(f"This needs the permission {FEED_SCOPE}.", scope=FEED_SCOPE)
    if after_seq is None:
        return []
    assert 1 <= limit <= FEED_LIMIT_MAX
    rows = await uow.fetch(
        """SELECT m.id AS seq, m.sku, m.kind, p.code AS location, m.on_hand_delta,
                  m.reserved_delta, m.allocated_delta, m.incoming_delta, m.backordered_delta,
                  m.reference_id, m.occurred_at, l.on_hand, l.reserved, l.allocated, l.incoming,
                  stock_available(m.sku, $3) AS available
           FROM (SELECT * FROM stock_movement WHERE id > $1 ORDER BY id LIMIT $2) m
           LEFT JOIN location p ON p.id = m.location_id
           LEFT JOIN stock_level l ON l.sku = m.sku AND l.location_id = m.location_id
           ORDER BY m.id""",
        after_seq,
        limit,
        uow.now,
    )
    return [StockChange(**row) for row in rows]
