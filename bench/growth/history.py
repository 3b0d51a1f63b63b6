"""A year of orders as SQL: for each table the rows that a sale, and what follows it, leave there.

One order of 33 was declined, one of 50 given back, the last two days' are waiting to be sent, and
all others have arrived. One of five is a guest's. Orders have one to three lines.
"""

from typing import Final

BATCH: Final = 20_000
GUEST_SECRET: Final = "growth-past-guest"

# $1: how many, $2: now
CUSTOMERS: Final = """
    INSERT INTO app_user (id, email, name, password_hash, role, is_active, created_at)
    SELECT md5('past-' || g)::uuid, 'past-' || g || '@example.com', 'Past ' || g, '!', 'customer',
           true, $2::timestamptz - interval '1 year'
      FROM generate_series(1, $1::int) g
    ON CONFLICT DO NOTHING
"""

TABLES: Final = (
    """
    CREATE TEMPORARY TABLE past (
        n bigint PRIMARY KEY, kind text, at timestamptz, id uuid, cart_id uuid, payment_id uuid,
        parcel_id uuid, refund_id uuid, part_id uuid, customer_id uuid, secret text, email text,
        currency text, subtotal bigint, shipping bigint, total bigint, number bigint
    ) ON COMMIT DROP
    """,
    """
    CREATE TEMPORARY TABLE past_line (
        n bigint, place int, id uuid, sku text, product_id uuid, title text, quantity int,
        price bigint, location_id uuid
    ) ON COMMIT DROP
    """,
)

# $1, $2: first and last of the batch; $3, $4: first and last of all; $5: customers; $6: now;
# $7: currency
ORDERS: Final = f"""
    INSERT INTO past (n, kind, at, id, cart_id, payment_id, parcel_id, refund_id, part_id,
                      customer_id, secret, email, currency, shipping)
    SELECT n, CASE WHEN n % 33 = 0 THEN 'declined' WHEN at > $6 - interval '2 days' THEN 'placed'
                   WHEN n % 50 = 0 THEN 'refunded' ELSE 'delivered' END,
           at, uuidv7(at - now()), uuidv7(at - interval '5 minutes' - now()), uuidv7(at - now()),
           uuidv7(at + interval '1 day' - now()), uuidv7(at + interval '9 days' - now()),
           uuidv7(at + interval '9 days' - now()),
           CASE WHEN n % 5 > 0 THEN md5('past-' || buyer)::uuid END,
           CASE WHEN n % 5 > 0 THEN NULL WHEN n < 20 THEN '{GUEST_SECRET}' ELSE md5(n::text) END,
           CASE WHEN n % 5 > 0 THEN 'past-' || buyer ELSE 'guest-' || n END || '@example.com',
           $7::text, 490
      FROM (SELECT n, 1 + n * 7919 % $5::bigint AS buyer,
                   $6::timestamptz - interval '1 minute'
                       - interval '1 year' * ($4::bigint - n) / ($4 - $3::bigint + 1) AS at
              FROM generate_series($1::bigint, $2::bigint) n) made
"""

# $1: SKUs of the shop, $2: the location they leave from
LINES: Final = """
    INSERT INTO past_line
    SELECT p.n, k, uuidv7(p.at - now()), v.sku, v.product_id, t.title, 1 + (p.n % 4 = 0)::int,
           v.price_amount, $2::uuid
      FROM past p CROSS JOIN generate_series(0, 2) k
      JOIN variant v ON v.sku = 'GROWN-' || 1 + (p.n * 7919 + k) % $1::bigint
      JOIN product t ON t.id = v.product_id
     WHERE k <= p.n % 3 AND k < $1
"""

# What each kind of order says in the outbox, and how long after the order.
_EVENTS: Final = """
    (VALUES ('', 1, 'OrderCreated', 0), ('', 2, 'StockReserved', 0),
            ('declined', 3, 'PaymentFailed', 1), ('declined', 4, 'StockReleased', 1),
            ('declined', 5, 'OrderCancelled', 1),
            ('sold', 3, 'PaymentAuthorized', 1), ('sold', 4, 'PaymentCaptured', 1),
            ('sold', 5, 'OrderPlaced', 1),
            ('sent', 6, 'OrderShipped', 86400), ('sent', 7, 'OrderDelivered', 259200),
            ('refunded', 8, 'RefundRequested', 777600), ('refunded', 9, 'PaymentRefunded', 777600),
            ('refunded', 10, 'RefundSucceeded', 777600)) AS e (of, seq, type, after_s)
"""
_OF_KIND: Final = """
    e.of IN ('', p.kind) OR e.of = 'sold' AND p.kind <> 'declined'
        OR e.of = 'sent' AND p.kind IN ('delivered', 'refunded')
"""

ROWS: Final = (
    """
    UPDATE past p SET subtotal = l.subtotal, total = l.subtotal + p.shipping
      FROM (SELECT n, sum(price * quantity) AS subtotal FROM past_line GROUP BY n) l
     WHERE l.n = p.n
    """,
    """
    INSERT INTO cart (id, customer_id, secret_sha256, status, currency, email, shipping_address,
                      shipping_method, version, created_at, updated_at)
    SELECT cart_id, customer_id, secret, CASE kind WHEN 'declined' THEN 'open' ELSE 'completed' END,
           currency, email, a.address, 'standard', 4, at - interval '5 minutes', at
      FROM past, past_address a ORDER BY n
    """,
    """
    INSERT INTO cart_line (cart_id, sku, quantity, added_at)
    SELECT p.cart_id, l.sku, l.quantity, p.at - interval '4 minutes'
      FROM past p JOIN past_line l ON l.n = p.n ORDER BY p.n, l.place
    """,
    """
    INSERT INTO orders (id, cart_id, customer_id, guest_secret_sha256, email, status,
                        payment_status, fulfillment_status, currency, subtotal_amount,
                        shipping_amount, tax_amount, discount_amount, total_amount,
                        shipping_address, shipping_method, captures_later, version, created_at,
                        placed_at, cancelled_at)
    SELECT id, CASE WHEN kind <> 'declined' THEN cart_id END, customer_id, secret, email,
           CASE kind WHEN 'declined' THEN 'cancelled' WHEN 'placed' THEN 'placed'
                     ELSE 'completed' END,
           CASE kind WHEN 'declined' THEN 'failed' WHEN 'refunded' THEN 'refunded'
                     ELSE 'captured' END,
           CASE WHEN kind IN ('delivered', 'refunded') THEN 'delivered' ELSE 'unfulfilled' END,
           currency, subtotal, shipping, 0, 0, total, a.address, 'standard', false, 1, at,
           CASE WHEN kind <> 'declined' THEN at + interval '1 second' END,
           CASE WHEN kind = 'declined' THEN at + interval '1 second' END
      FROM past, past_address a ORDER BY n
    """,
    "UPDATE past p SET number = o.number FROM orders o WHERE o.id = p.id",
    """
    INSERT INTO order_line (id, order_id, sku, product_id, title, quantity, unit_price_amount,
                            total_amount)
    SELECT l.id, p.id, l.sku, l.product_id, l.title, l.quantity, l.price, l.price * l.quantity
      FROM past p JOIN past_line l ON l.n = p.n ORDER BY p.n, l.place
    """,
    """
    INSERT INTO reservation (id, status, expires_at, created_at)
    SELECT id, CASE kind WHEN 'declined' THEN 'released' WHEN 'placed' THEN 'allocated'
                         ELSE 'shipped' END, at + interval '15 minutes', at
      FROM past ORDER BY n
    """,
    """
    INSERT INTO reservation_line (reservation_id, sku, location_id, quantity)
    SELECT p.id, l.sku, l.location_id, l.quantity
      FROM past p JOIN past_line l ON l.n = p.n ORDER BY p.n, l.sku
    """,
    """
    INSERT INTO stock_movement (sku, location_id, kind, on_hand_delta, reserved_delta,
                                allocated_delta, reason, reference_id, occurred_at)
    SELECT l.sku, l.location_id, m.kind, m.on_hand * l.quantity, m.reserved * l.quantity,
           m.allocated * l.quantity, '', p.id, p.at + m.after_s * interval '1 second'
      FROM past p JOIN past_line l ON l.n = p.n
      JOIN (VALUES ('reserve', 0, 1, 0, 0), ('release', 0, -1, 0, 1), ('allocate', 0, -1, 1, 1),
                   ('ship', -1, 0, -1, 86400)) AS m (kind, on_hand, reserved, allocated, after_s)
        ON CASE m.kind WHEN 'reserve' THEN true WHEN 'release' THEN p.kind = 'declined'
                       WHEN 'allocate' THEN p.kind <> 'declined'
                       ELSE p.kind IN ('delivered', 'refunded') END
     ORDER BY p.n, l.sku, m.after_s
    """,
    """
    INSERT INTO payment (id, order_id, provider, method_token, position, amount, captured_amount,
                         refunded_amount, currency, state, provider_reference, decline_code,
                         created_at, updated_at)
    SELECT payment_id, id, 'scripted', 'tok_visa', 0, total,
           CASE WHEN kind <> 'declined' THEN total ELSE 0 END,
           CASE WHEN kind = 'refunded' THEN total ELSE 0 END, currency,
           CASE kind WHEN 'declined' THEN 'declined' ELSE 'captured' END, 'auth_' || payment_id,
           CASE WHEN kind = 'declined' THEN 'card_declined' END, at, at + interval '1 second'
      FROM past ORDER BY n
    """,
    """
    INSERT INTO payment_attempt (id, payment_id, kind, number, key, amount, state, detail,
                                 started_at, finished_at)
    SELECT uuidv7(p.at - now()), p.payment_id, t.kind, 1, p.payment_id || ':' || t.kind || ':1',
           p.total, CASE WHEN p.kind = 'declined' THEN 'failed' ELSE 'succeeded' END, '', p.at,
           p.at + interval '1 second'
      FROM past p
      JOIN (VALUES ('authorize'), ('capture'), ('refund')) AS t (kind)
        ON t.kind = 'authorize' OR t.kind = 'capture' AND p.kind <> 'declined'
           OR t.kind = 'refund' AND p.kind = 'refunded'
     ORDER BY p.n
    """,
    """
    INSERT INTO ledger_entry (transaction_id, account, amount, currency, order_id, occurred_at)
    SELECT p.id, b.account, b.amount, p.currency, p.id, p.at + interval '1 second'
      FROM past p, LATERAL (VALUES ('clearing', p.total), ('revenue', -p.subtotal),
                                   ('shipping_revenue', -p.shipping)) AS b (account, amount)
     WHERE p.kind <> 'declined' ORDER BY p.n
    """,
    """
    INSERT INTO refund (id, order_id, kind, amount, currency, reason, state, breakdown, created_at,
                        finished_at)
    SELECT refund_id, id, 'refund', total, currency, 'changed my mind', 'succeeded',
           jsonb_build_object('lines', '[]'::jsonb, 'goods_amount', subtotal, 'shipping_amount',
                              shipping, 'tax_amount', 0, 'shipping_tax_amount', 0,
                              'adjustment_amount', 0),
           at + interval '9 days', at + interval '9 days'
      FROM past WHERE kind = 'refunded' ORDER BY n
    """,
    """
    INSERT INTO refund_part (id, refund_id, payment_id, position, amount, state, attempt_number,
                             failure)
    SELECT part_id, refund_id, payment_id, 0, total, 'succeeded', 1, ''
      FROM past WHERE kind = 'refunded' ORDER BY n
    """,
    """
    INSERT INTO ledger_entry (transaction_id, account, amount, currency, order_id, occurred_at)
    SELECT p.part_id, b.account, b.amount, p.currency, p.id, p.at + interval '9 days'
      FROM past p, LATERAL (VALUES ('refunds', p.subtotal), ('shipping_revenue', p.shipping),
                                   ('clearing', -p.total)) AS b (account, amount)
     WHERE p.kind = 'refunded' ORDER BY p.n
    """,
    """
    INSERT INTO fulfillment (id, order_id, state, carrier, tracking_number, shipped_at,
                             delivered_at)
    SELECT parcel_id, id, 'delivered', 'DHL', 'JJD' || n, at + interval '1 day',
           at + interval '3 days'
      FROM past WHERE kind IN ('delivered', 'refunded') ORDER BY n
    """,
    """
    INSERT INTO fulfillment_line (fulfillment_id, line_id, sku, quantity)
    SELECT p.parcel_id, l.id, l.sku, l.quantity FROM past p JOIN past_line l ON l.n = p.n
     WHERE p.kind IN ('delivered', 'refunded') ORDER BY p.n, l.place
    """,
    f"""
    INSERT INTO outbox (id, type, schema_version, aggregate_type, aggregate_id, aggregate_seq,
                        payload, actor_id, actor_role, occurred_at, published_at)
    SELECT uuidv7(p.at - now()), e.type, 1, 'order', p.id, e.seq,
           jsonb_build_object('order_id', p.id, 'number', p.number, 'customer_id', p.customer_id,
                              'payment_id', p.payment_id, 'amount', p.total, 'total_amount',
                              p.total, 'currency', p.currency),
           p.customer_id, CASE WHEN p.customer_id IS NULL THEN 'guest' ELSE 'customer' END,
           p.at + e.after_s * interval '1 second', p.at + e.after_s * interval '1 second'
      FROM past p JOIN {_EVENTS} ON {_OF_KIND} ORDER BY p.n, e.seq
    """,
    f"""
    INSERT INTO aggregate_counter (aggregate_id, last_seq)
    SELECT p.id, max(e.seq) FROM past p JOIN {_EVENTS} ON {_OF_KIND} GROUP BY p.id
    """,
    """
    INSERT INTO notification (id, dedupe_key, customer_id, template, recipient, subject, body,
                              status, attempts, due_at, sent_at, last_error, created_at)
    SELECT uuidv7(at - now()), 'order_confirmation:' || id, customer_id, 'order_confirmation',
           email, 'Your order ' || number, repeat('Thank you for your order. ', 12), 'sent', 1, at,
           at + interval '2 seconds', '', at
      FROM past WHERE kind <> 'declined' ORDER BY n
    """,
)

# The counters, which a trigger would have kept: what the movements add up to.
COUNTERS: Final = (
    """
    UPDATE stock_level l SET on_hand = m.on_hand, reserved = m.reserved, allocated = m.allocated
      FROM (SELECT sku, location_id, sum(on_hand_delta) AS on_hand,
                   sum(reserved_delta) AS reserved, sum(allocated_delta) AS allocated
              FROM stock_movement GROUP BY sku, location_id) m
     WHERE m.sku = l.sku AND m.location_id = l.location_id
       AND (l.on_hand, l.reserved, l.allocated) <> (m.on_hand, m.reserved, m.allocated)
    """,
    """
    UPDATE stock_item i SET free = l.free
      FROM (SELECT sku, sum(greatest(available, 0)) AS free FROM stock_level GROUP BY sku) l
     WHERE l.sku = i.sku AND l.free <> i.free
    """,
)
ADDRESS: Final = """
    CREATE TEMPORARY TABLE past_address ON COMMIT DROP AS
    SELECT '{"name": "Ada Lovelace", "line1": "12 Quay Street", "line2": null, "city": "Hamburg",
             "region": null, "postal_code": "20457", "country_code": "DE"}'::jsonb AS address
"""
