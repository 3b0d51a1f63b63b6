"""What must be true of the whole shop at any moment, as SQL that must return no rows.

The same checks run in tests, after simulations, in benchmarks and in production. Every query
returns one text column that names the offender; none is an estimate and none has a tolerance,
except for time. All of them read one snapshot, so work in progress cannot look like a violation.
"""

from collections.abc import Mapping
from typing import Final

from pydantic import BaseModel
from sqlalchemy import text

from deps.core import Deps

OFFENDERS_MAX: Final = 20
PENDING_H_MAX: Final = 1

INVARIANTS: Final[Mapping[str, str]] = {
    "stock counters equal the sums of the movement ledger": """
        SELECT sku || coalesce(' at ' || location_id, '') || ': ' || counter
          FROM stock_differences()
    """,
    "reserved and allocated units are those of live reservations": """
        SELECT coalesce(l.sku, r.sku) || ' at ' || coalesce(l.location_id, r.location_id)
          FROM stock_level l
          FULL JOIN (SELECT line.sku, line.location_id,
                            coalesce(sum(line.quantity) FILTER (WHERE status = 'held'), 0)
                                AS reserved,
                            coalesce(sum(line.quantity) FILTER (WHERE status = 'allocated'), 0)
                                AS allocated
                       FROM reservation_line line JOIN reservation ON id = reservation_id
                      GROUP BY line.sku, line.location_id) r
            ON r.sku = l.sku AND r.location_id = l.location_id
         WHERE (coalesce(l.reserved, 0), coalesce(l.allocated, 0))
            <> (coalesce(r.reserved, 0), coalesce(r.allocated, 0))
    """,
    "backordered units are those live reservations wait for": """
        SELECT coalesce(i.sku, b.sku)
          FROM stock_item i
          FULL JOIN (SELECT sku, sum(b.quantity) AS quantity,
                            bool_and(r.status IN ('held', 'allocated')) AS is_live
                       FROM backorder b JOIN reservation r ON r.id = b.reservation_id
                      WHERE b.is_open GROUP BY sku) b ON b.sku = i.sku
         WHERE coalesce(i.backordered, 0) <> coalesce(b.quantity, 0) OR NOT b.is_live
    """,
    "incoming units are those in transit": """
        SELECT coalesce(l.sku, t.sku) || ' at ' || coalesce(l.location_id, t.target_id)
          FROM stock_level l
          FULL JOIN (SELECT line.sku, t.target_id,
                            sum(line.quantity - received - lost - returned) AS quantity
                       FROM stock_transfer_line line
                       JOIN stock_transfer t ON t.id = line.transfer_id
                      WHERE t.status = 'in_transit' GROUP BY line.sku, t.target_id) t
            ON t.sku = l.sku AND t.target_id = l.location_id
         WHERE coalesce(l.incoming, 0) <> coalesce(t.quantity, 0)
    """,
    "no stock is negative, sold twice or promised beyond its cap": """
        SELECT sku || ' at ' || location_id FROM stock_level
         WHERE on_hand < 0 OR reserved < 0 OR allocated < 0 OR reserved + allocated > on_hand
        UNION ALL
        SELECT sku FROM stock_item WHERE backordered NOT BETWEEN 0 AND backorder_limit
    """,
    "an order reserved exactly what it sells, while it has stock": """
        SELECT 'order ' || o.number FROM orders o
          JOIN reservation r ON r.id = o.id AND r.status IN ('held', 'allocated', 'shipped')
         WHERE (SELECT jsonb_object_agg(sku, q) FROM
                  (SELECT coalesce(b.part_sku, l.sku) AS sku,
                          sum(l.quantity * coalesce(b.quantity, 1)) AS q
                     FROM order_line l LEFT JOIN reservation_bundle b
                       ON b.reservation_id = l.order_id AND b.bundle_sku = l.sku
                    WHERE l.order_id = o.id GROUP BY 1) s)
            IS DISTINCT FROM
               (SELECT jsonb_object_agg(sku, q) FROM
                  (SELECT sku, sum(quantity) AS q FROM
                     (SELECT sku, quantity FROM reservation_line WHERE reservation_id = o.id
                       UNION ALL
                      SELECT sku, quantity FROM backorder
                       WHERE reservation_id = o.id AND is_open) unit
                    GROUP BY sku) s)
    """,
    "a placed order has its stock": """
        SELECT 'order ' || o.number FROM orders o LEFT JOIN reservation r ON r.id = o.id
         WHERE o.status IN ('placed', 'completed')
           AND r.status IS DISTINCT FROM 'allocated' AND r.status IS DISTINCT FROM 'shipped'
    """,
    "a cancelled order holds no stock": """
        SELECT 'order ' || o.number FROM orders o JOIN reservation r ON r.id = o.id
         WHERE o.status = 'cancelled' AND r.status IN ('held', 'allocated')
    """,
    "captured is within authorised, and refunded within captured": """
        SELECT 'payment ' || id FROM payment
         WHERE captured_amount NOT BETWEEN 0 AND amount
            OR refunded_amount NOT BETWEEN 0 AND captured_amount
            OR (captured_amount > 0 AND state NOT IN ('authorized', 'captured', 'expired'))
    """,
    "every ledger transaction sums to zero per currency": """
        SELECT 'transaction ' || transaction_id || ' ' || currency FROM ledger_entry
         GROUP BY transaction_id, currency HAVING sum(amount) <> 0
    """,
    "the ledger's clearing account is captured less refunded, per order": """
        SELECT 'order ' || coalesce(p.order_id, l.order_id)
          FROM (SELECT order_id, currency, sum(captured_amount - refunded_amount) AS amount
                  FROM payment WHERE provider <> 'credit' GROUP BY order_id, currency) p
          FULL JOIN (SELECT order_id, currency, sum(amount) AS amount FROM ledger_entry
                      WHERE account = 'clearing' AND order_id IS NOT NULL
                      GROUP BY order_id, currency) l
            ON l.order_id = p.order_id AND l.currency = p.currency
         WHERE coalesce(p.amount, 0) <> coalesce(l.amount, 0)
    """,
    "a tender is in its order's currency": """
        SELECT 'payment ' || p.id FROM payment p JOIN orders o ON o.id = p.order_id
         WHERE p.currency <> o.currency
    """,
    "an order ever placed has exactly one OrderPlaced event, and no other order has": """
        SELECT 'order ' || o.number FROM orders o
          LEFT JOIN outbox e ON e.aggregate_id = o.id AND e.type = 'OrderPlaced'
         GROUP BY o.id, o.number, o.placed_at
        HAVING count(e.seq) <> CASE WHEN o.placed_at IS NULL THEN 0 ELSE 1 END
    """,
    "a placed order is paid in full, and its adjustments were given back": """
        SELECT 'order ' || o.number FROM orders o
         WHERE o.status IN ('placed', 'completed') AND NOT o.captures_later
           AND o.total_amount <>
               (SELECT coalesce(sum(captured_amount), 0) FROM payment WHERE order_id = o.id)
             - (SELECT coalesce(sum(amount), 0) FROM refund
                 WHERE order_id = o.id AND kind = 'adjustment')
    """,
    "what the customer owed for a placed order was booked as paid": """
        SELECT 'order ' || o.number FROM orders o JOIN ledger_entry l ON l.order_id = o.id
         WHERE o.status IN ('placed', 'completed') AND NOT o.captures_later
           AND l.account = 'receivable'
         GROUP BY o.number HAVING sum(l.amount) <> 0
    """,
    "an order cancelled before it was placed kept no money": """
        SELECT 'order ' || o.number FROM orders o JOIN payment p ON p.order_id = o.id
         WHERE o.status = 'cancelled' AND o.placed_at IS NULL
         GROUP BY o.number HAVING sum(p.captured_amount - p.refunded_amount) <> 0
    """,
    "a completed cart made exactly one order": """
        SELECT 'cart ' || c.id FROM cart c
         WHERE c.status = 'completed'
           AND (SELECT count(*) FROM orders o WHERE o.cart_id = c.id) <> 1
    """,
    "an order's amounts add up from its lines": """
        SELECT 'order ' || o.number FROM orders o LEFT JOIN order_line l ON l.order_id = o.id
         GROUP BY o.id
        HAVING o.subtotal_amount <> coalesce(sum(l.quantity * l.unit_price_amount), 0)
            OR o.total_amount <>
               o.subtotal_amount + o.shipping_amount + o.tax_amount - o.discount_amount
    """,
    "events are numbered from 1 without gaps per aggregate": """
        SELECT aggregate_type || ' ' || aggregate_id FROM outbox
         GROUP BY aggregate_type, aggregate_id
        HAVING min(aggregate_seq) <> 1 OR max(aggregate_seq) <> count(*)
            OR count(DISTINCT aggregate_seq) <> count(*)
    """,
    f"no order is pending longer than {PENDING_H_MAX} h": f"""
        SELECT 'order ' || number FROM orders
         WHERE status = 'pending'
           AND created_at < CAST(:now AS timestamptz) - interval '{PENDING_H_MAX} hours'
    """,
}


class Violation(BaseModel):
    """A rule that does not hold, with the first offenders."""

    invariant: str
    count: int
    offenders: list[str]


async def check(deps: Deps) -> list[Violation]:
    """Evaluate every invariant in one read-only snapshot. An empty list is the good answer."""
    violations: list[Violation] = []
    async with deps.begin() as uow:
        connection = await uow.session.connection()
        # First of the transaction, or PostgreSQL refuses to change its snapshot.
        await connection.execute(text("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY"))
        for name, query in INVARIANTS.items():
            statement = text(
                f"SELECT offender, count(*) OVER () AS n FROM ({query}) AS found(offender) "
                f"ORDER BY 1 LIMIT {OFFENDERS_MAX}"
            )
            values = {"now": uow.now} if ":now" in query else {}
            rows = (await connection.execute(statement, values)).all()
            if rows:
                violations.append(
                    Violation(
                        invariant=name, count=rows[0].n, offenders=[row.offender for row in rows]
                    )
                )
    return violations
