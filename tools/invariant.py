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
    "the closed days of the ledger hold what was booked until their end": """
        SELECT coalesce(c.day, l.day) || ' ' || coalesce(c.account, l.account) || ' '
               || coalesce(c.currency, l.currency)
          FROM (SELECT d.day, k.account, k.currency,
                       sum(coalesce(m.amount, 0)) OVER (PARTITION BY k.account, k.currency
                                                        ORDER BY d.day) AS amount
                  FROM ledger_day d
                 CROSS JOIN (SELECT DISTINCT account, currency FROM ledger_entry) k
                  LEFT JOIN (SELECT greatest((occurred_at AT TIME ZONE 'UTC')::date,
                                             (SELECT min(day) FROM ledger_day)) AS day,
                                    account, currency, sum(amount) AS amount
                               FROM ledger_entry GROUP BY 1, 2, 3) m
                    ON m.day = d.day AND m.account = k.account AND m.currency = k.currency) l
          FULL JOIN ledger_closing c
            ON c.day = l.day AND c.account = l.account AND c.currency = l.currency
         WHERE coalesce(c.amount, 0) <> coalesce(l.amount, 0)
    """,
    "the ledger's clearing account is captured less refunded, per order": """
        SELECT 'order ' || coalesce(p.order_id, l.order_id)
          FROM (SELECT order_id, currency,
                       sum(CASE WHEN provider = 'credit'
                           THEN -(SELECT coalesce(sum(amount), 0) FROM refund_part
                                   WHERE payment_id = payment.id AND state = 'succeeded'
                                     AND method_id IS NOT NULL)
                           ELSE captured_amount - refunded_amount
                              + (SELECT coalesce(sum(amount), 0) FROM refund_part
                                  WHERE payment_id = payment.id AND state = 'succeeded'
                                    AND credit_account_id IS NOT NULL)
                           END) AS amount
                  FROM payment GROUP BY order_id, currency) p
          FULL JOIN (SELECT order_id, currency, sum(amount) AS amount FROM ledger_entry
                      WHERE account IN ('clearing', 'disputes') AND order_id IS NOT NULL
                      GROUP BY order_id, currency) l
            ON l.order_id = p.order_id AND l.currency = p.currency
         WHERE coalesce(p.amount, 0) <> coalesce(l.amount, 0)
    """,
    "a tender is in its order's currency": """
        SELECT 'payment ' || p.id FROM payment p JOIN orders o ON o.id = p.order_id
         WHERE p.currency <> o.currency
    """,
    "what disputes hold back is on their account, per order": """
        SELECT 'order ' || coalesce(d.order_id, l.order_id)
          FROM (SELECT order_id, currency, sum(withdrawn_amount) AS amount
                  FROM dispute GROUP BY order_id, currency) d
          FULL JOIN (SELECT order_id, currency, sum(amount) AS amount FROM ledger_entry
                      WHERE account = 'disputes' GROUP BY order_id, currency) l
            ON l.order_id = d.order_id AND l.currency = d.currency
         WHERE coalesce(d.amount, 0) <> coalesce(l.amount, 0)
    """,
    "what disputes hold back of a payment is kept from its refunds": """
        SELECT 'payment ' || p.id FROM payment p
         WHERE p.disputed_amount <> (SELECT coalesce(sum(withdrawn_amount), 0) FROM dispute
                                      WHERE payment_id = p.id)
    """,
    "fees and payouts in the ledger are those of the providers' books": """
        SELECT coalesce(b.account, l.account) || ' ' || coalesce(b.currency, l.currency)
          FROM (SELECT 'fees' AS account, currency, sum(fee_amount) AS amount
                  FROM balance_entry GROUP BY currency
                UNION ALL
                SELECT 'payouts', currency, -sum(amount)
                  FROM balance_entry WHERE kind = 'payout' GROUP BY currency) b
          FULL JOIN (SELECT account, currency, sum(amount) AS amount FROM ledger_entry
                      WHERE account IN ('fees', 'payouts') GROUP BY account, currency) l
            ON l.account = b.account AND l.currency = b.currency
         WHERE coalesce(b.amount, 0) <> coalesce(l.amount, 0)
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
               (SELECT coalesce(sum(captured_amount), 0) FROM payment p WHERE p.order_id = o.id
                   AND NOT EXISTS (SELECT 1 FROM order_edit e
                                    WHERE e.payment_id = p.id AND e.state = 'pending')
                   AND NOT EXISTS (SELECT 1 FROM order_exchange x
                                    WHERE x.payment_id = p.id AND x.state = 'received'))
             - (SELECT coalesce(sum(amount), 0) FROM refund
                 WHERE order_id = o.id AND kind = 'adjustment')
    """,
    "what the customer owed for a placed order was booked as paid": """
        SELECT 'order ' || o.number FROM orders o JOIN ledger_entry l ON l.order_id = o.id
          LEFT JOIN refund_part other ON other.id = l.transaction_id AND EXISTS
                    (SELECT 1 FROM refund WHERE id = other.refund_id AND kind <> 'adjustment')
         CROSS JOIN LATERAL
                    (SELECT coalesce(sum(part.amount), 0) AS amount
                       FROM refund_part part JOIN refund r ON r.id = part.refund_id
                      WHERE r.order_id = o.id AND r.kind = 'adjustment'
                        AND part.state <> 'succeeded') owed
         WHERE o.status IN ('placed', 'completed') AND NOT o.captures_later
           AND l.account = 'receivable'
         GROUP BY o.id, owed.amount
        -- Beside what was paid for a change that is not made yet, and what a change made cheaper
        -- and has not been given back, unless another refund did.
        HAVING coalesce(sum(l.amount) FILTER (WHERE other.id IS NULL), 0) + owed.amount
             + (SELECT coalesce(sum(p.captured_amount - p.refunded_amount), 0) FROM payment p
                  LEFT JOIN order_edit e ON e.payment_id = p.id AND e.state = 'pending'
                  LEFT JOIN order_exchange x ON x.payment_id = p.id AND x.state = 'received'
                 WHERE p.order_id = o.id AND (e.id IS NOT NULL OR x.id IS NOT NULL))
            <> 0
            OR sum(l.amount) FILTER (WHERE other.id IS NOT NULL) > owed.amount
    """,
    "an order cancelled before it was placed kept no money": """
        SELECT 'order ' || o.number FROM orders o JOIN payment p ON p.order_id = o.id
         WHERE o.status = 'cancelled' AND o.placed_at IS NULL
         GROUP BY o.number HAVING sum(p.captured_amount - p.refunded_amount) <> 0
    """,
    "words and categories count what is listed": """
        SELECT coalesce(w.word, l.word)
          FROM (SELECT word, products FROM search_word WHERE products <> 0) w
          FULL JOIN (SELECT found.word, count(*) AS products
                       FROM product p CROSS JOIN LATERAL search_words(p.title || ' ' || p.brand)
                            AS found (word)
                      WHERE p.status = 'active' AND p.sku IS NOT NULL GROUP BY found.word) l
            ON l.word = w.word
         WHERE w.products IS DISTINCT FROM l.products
        UNION ALL
        SELECT 'category ' || c.slug FROM category c
         WHERE c.products <> (SELECT count(*) FROM product p WHERE p.category_id = c.id
                                 AND p.status = 'active' AND p.sku IS NOT NULL)
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
    "a code is used as often as orders carry it, and no oftener than it may be": """
        SELECT 'discount ' || d.code FROM discount d
          LEFT JOIN orders o ON o.discount_code = d.code AND o.status <> 'cancelled'
         GROUP BY d.id HAVING d.uses <> count(o.id) OR d.uses > d.uses_max
    """,
    "events are numbered from 1 without gaps per aggregate": """
        SELECT aggregate_type || ' ' || aggregate_id FROM outbox
         GROUP BY aggregate_type, aggregate_id
        HAVING min(aggregate_seq) <> 1 OR max(aggregate_seq) <> count(*)
            OR count(DISTINCT aggregate_seq) <> count(*)
    """,
    "a refund is the sum of its parts and of what it is for": """
        SELECT 'refund ' || r.id FROM refund r
         WHERE r.amount <> (SELECT coalesce(sum(amount), 0) FROM refund_part
                             WHERE refund_id = r.id)
            OR r.amount <> (r.breakdown->>'goods_amount')::bigint
                         + (r.breakdown->>'shipping_amount')::bigint
                         + (r.breakdown->>'tax_amount')::bigint
                         + (r.breakdown->>'adjustment_amount')::bigint
    """,
    "a refund has ended when all its parts have, and succeeded when all did": """
        SELECT 'refund ' || r.id FROM refund r JOIN refund_part p ON p.refund_id = r.id
         GROUP BY r.id
        HAVING r.state <> CASE
                   WHEN bool_and(p.state = 'rejected') THEN 'rejected'
                   WHEN r.state = 'awaiting_approval' AND bool_and(p.state = 'pending')
                       THEN 'awaiting_approval'
                   WHEN bool_or(p.state = 'pending') THEN 'pending'
                   WHEN bool_and(p.state = 'succeeded') THEN 'succeeded'
                   ELSE 'failed' END
    """,
    "what a tender is giving back, or gave, is the sum of its refunds' parts": """
        SELECT 'payment ' || p.id FROM payment p JOIN orders o ON o.id = p.order_id
          LEFT JOIN refund_part part ON part.payment_id = p.id
         WHERE o.placed_at IS NOT NULL
         GROUP BY p.id
        HAVING p.refunding_amount
               <> coalesce(sum(part.amount) FILTER (WHERE part.state = 'pending'), 0)
            OR p.refunded_amount
               <> coalesce(sum(part.amount) FILTER (WHERE part.state = 'succeeded'), 0)
    """,
    "refunds of an order are within what was captured": """
        SELECT 'order ' || o.number FROM orders o
         WHERE (SELECT coalesce(sum(part.amount), 0)
                  FROM refund_part part JOIN refund r ON r.id = part.refund_id
                 WHERE r.order_id = o.id AND part.state IN ('pending', 'succeeded'))
             > (SELECT coalesce(sum(captured_amount), 0) FROM payment WHERE order_id = o.id)
    """,
    "an order gives back no more goods, shipping and tax than it sold": """
        SELECT 'order ' || order_id FROM ledger_entry
         WHERE account IN ('revenue', 'refunds', 'tax_payable', 'shipping_revenue')
           AND order_id IS NOT NULL
         GROUP BY order_id, CASE account WHEN 'refunds' THEN 'revenue' ELSE account END
        HAVING sum(amount) > 0
    """,
    "what is owed for an order that is captured later is what its tenders are still to bring": """
        SELECT 'order ' || o.number FROM orders o
         WHERE o.placed_at IS NOT NULL AND o.captures_later AND NOT EXISTS
                   (SELECT 1 FROM refund WHERE order_id = o.id AND kind = 'adjustment')
           AND (SELECT coalesce(sum(amount), 0) FROM ledger_entry
                 WHERE order_id = o.id AND account = 'receivable')
            <> (SELECT coalesce(sum(amount - captured_amount), 0) FROM payment
                 WHERE order_id = o.id AND state IN ('created', 'unknown', 'authorized'))
    """,
    "a credit account is the sum of its movements": """
        SELECT 'credit ' || a.id FROM credit_account a
          LEFT JOIN credit_movement m ON m.account_id = a.id
         GROUP BY a.id
        HAVING a.balance_amount <> coalesce(sum(m.balance_delta), 0)
            OR a.held_amount <> coalesce(sum(m.held_delta), 0)
    """,
    "held credit is what live holds hold": """
        SELECT 'credit ' || a.id FROM credit_account a
          LEFT JOIN credit_hold h ON h.account_id = a.id
         GROUP BY a.id
        HAVING a.held_amount <> coalesce(
                   sum(h.authorized_amount - h.captured_amount - h.released_amount), 0)
    """,
    "no credit is overdrawn, held beyond its balance, or refunded beyond what was spent": """
        SELECT 'credit ' || id FROM credit_account
         WHERE held_amount NOT BETWEEN 0 AND balance_amount
        UNION ALL
        SELECT 'hold ' || id FROM credit_hold
         WHERE captured_amount + released_amount > authorized_amount
            OR refunded_amount NOT BETWEEN 0 AND captured_amount
    """,
    # The provider commits before we book, so what it answered and we have not read is counted in.
    "what we owe on gift cards and store credit is their balance": """
        SELECT coalesce(b.account, l.account) || ' ' || coalesce(b.currency, l.currency)
          FROM (SELECT kind || '_liability' AS account, currency,
                       sum(balance_amount
                           + (SELECT coalesce(sum(CASE c.kind WHEN 'capture' THEN c.amount
                                                              ELSE -c.amount END), 0)
                                FROM credit_hold h JOIN credit_call c ON c.hold_id = h.id
                                JOIN payment_attempt t ON t.key = c.key
                               WHERE h.account_id = credit_account.id
                                 AND c.kind IN ('capture', 'refund') AND c.decline_code IS NULL
                                 AND t.state IN ('started', 'unknown'))) AS amount
                  FROM credit_account GROUP BY kind, currency) b
          FULL JOIN (SELECT account, currency, -sum(amount) AS amount FROM ledger_entry
                      WHERE account IN ('gift_card_liability', 'store_credit_liability')
                      GROUP BY account, currency) l
            ON l.account = b.account AND l.currency = b.currency
         WHERE coalesce(b.amount, 0) <> coalesce(l.amount, 0)
    """,
    "edits and exchanges lead from what was placed to what is sold now": """
        SELECT 'order ' || o.number FROM orders o
          JOIN (SELECT order_id, sum(difference_amount) AS amount FROM
                  (SELECT order_id, difference_amount FROM order_edit
                    WHERE state = 'applied' AND kind = 'items'
                    UNION ALL
                   SELECT order_id, difference_amount FROM order_exchange
                    WHERE state = 'completed') change
                 GROUP BY order_id) c ON c.order_id = o.id
          JOIN outbox e ON e.aggregate_id = o.id AND e.type = 'OrderPlaced'
         WHERE (e.payload->>'total_amount')::bigint + c.amount <> o.total_amount
    """,
    "the lines of an edit or exchange are worth its difference, where prices are all there is": """
        SELECT 'edit ' || e.id FROM order_edit e LEFT JOIN order_edit_line l ON l.edit_id = e.id
          JOIN orders o ON o.id = e.order_id AND o.tax_rate = 0 AND o.discount_code IS NULL
         WHERE e.kind = 'items' GROUP BY e.id
        HAVING e.difference_amount <> coalesce(
                   sum((l.new_unit_price_amount - l.unit_price_amount) * l.quantity), 0)
        UNION ALL
        SELECT 'exchange ' || x.id FROM order_exchange x
          LEFT JOIN order_exchange_line l ON l.exchange_id = x.id
          JOIN orders o ON o.id = x.order_id AND o.tax_rate = 0 AND o.discount_code IS NULL
         GROUP BY x.id
        HAVING x.difference_amount <> coalesce(
                   sum((l.new_unit_price_amount - l.unit_price_amount) * l.quantity), 0)
    """,
    "no more units of a line are returned than were sold": """
        SELECT 'line ' || r.line_id FROM order_return_line r
          JOIN order_return w ON w.id = r.return_id AND w.state <> 'cancelled'
          LEFT JOIN order_line l ON l.id = r.line_id
         GROUP BY r.line_id, l.quantity HAVING sum(r.quantity) > coalesce(l.quantity, 0)
    """,
    "an exchange that waits has its replacements, and one that ended has none": """
        SELECT 'exchange ' || x.id FROM order_exchange x LEFT JOIN reservation r ON r.id = x.id
         WHERE CASE WHEN x.state IN ('requested', 'received')
                    THEN r.status IS DISTINCT FROM 'allocated'
                    ELSE coalesce(r.status, 'released') <> 'released' END
    """,
    "an edit that ended holds no stock of its own": """
        SELECT 'edit ' || e.id FROM order_edit e JOIN reservation r ON r.id = e.id
         WHERE e.state <> 'pending' AND r.status IN ('held', 'allocated')
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
        # It reads whole tables, where no one waits for it.
        await connection.execute(text("SET LOCAL statement_timeout = '5min'"))
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
