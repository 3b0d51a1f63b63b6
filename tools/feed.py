"""What just happened in the shop, for the merchant's live page: a reading of the outbox."""

from datetime import datetime
from typing import Any

from pydantic import BaseModel
from sqlalchemy import text

from deps.core import UnitOfWork
from tools import order
from tools.errors import Forbidden

FEED_LIMIT_MAX = 500
FEED_SCOPE = "order:read_all"

# Only what a merchant's page shows: sign-ins and tokens are nobody's news.
_LATEST = text("SELECT coalesce(max(seq), 0) FROM outbox")
_CHANGES = text("""
    SELECT e.seq, e.type, e.occurred_at, e.payload, o.number
    FROM outbox e
    LEFT JOIN orders o ON e.aggregate_type = 'order' AND o.id = e.aggregate_id
    WHERE e.seq > :after_seq AND e.aggregate_type IN ('order', 'product', 'stock')
    ORDER BY e.seq
    LIMIT :limit
""")


class FeedItem(BaseModel):
    seq: int
    type: str
    occurred_at: datetime
    summary: str
    order_number: int | None
    payload: dict[str, Any]


async def latest(uow: UnitOfWork) -> int:
    """Return the newest `seq`: a new watcher starts there. 0 when nothing ever happened."""
    return int(await uow.session.scalar(_LATEST) or 0)


async def changes(
    uow: UnitOfWork, after_seq: int | None = None, limit: int = 100
) -> list[FeedItem]:
    """Return changes of orders and stock after `after_seq`, oldest first; None means from now on.

    A transaction that commits late can fill in a lower `seq` than one already returned: whoever
    polls has to look back a little and drop what it has seen.

    Raises:
        Forbidden: Only those who may see every order may watch them.
    """
    if not uow.actor.may(FEED_SCOPE):
        raise Forbidden(f"This needs the permission {FEED_SCOPE}.", scope=FEED_SCOPE)
    if after_seq is None:
        return []
    assert 1 <= limit <= FEED_LIMIT_MAX
    rows = await uow.session.execute(_CHANGES, {"after_seq": after_seq, "limit": limit})
    return [
        FeedItem(
            seq=row.seq,
            type=row.type,
            occurred_at=row.occurred_at,
            summary=summarize(row.type, row.payload, row.number),
            order_number=row.number,
            payload=row.payload,
        )
        for row in rows
    ]


def summarize(event_type: str, payload: dict[str, Any], number: int | None) -> str:
    """Say one change in a sentence that stands alone."""
    if event_type == "StockAdjusted":
        return (
            f"{payload['sku']} at {payload['location']}: {payload['delta']:+d}, "
            f"now {payload['on_hand']} on hand ({payload['reason']})."
        )
    if event_type == "StockLow":
        place = f" at {payload['location']}" if payload.get("location") else ""
        return f"{payload['sku']} is running low{place}: {payload['available']} left."
    if event_type == "BackInStock":
        return f"{payload['sku']} is back in stock: {payload['available']} can be sold."
    if event_type == "SoldOut":
        return f"{payload['sku']} is sold out."
    if event_type == "ProductSaved":
        return f"{payload['handle']} was {'added' if payload['created'] else 'changed'}."
    sentence = order.summarize(event_type, payload)
    if number is None or str(number) in sentence:
        return sentence
    return f"Order {number}: {sentence}"
