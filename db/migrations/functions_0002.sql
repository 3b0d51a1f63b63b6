-- The only writer of credit accounts, and its guard; as stock_movement is of stock levels.
CREATE FUNCTION credit_movement_apply() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    UPDATE credit_account SET balance_amount = balance_amount + NEW.balance_delta,
                              held_amount = held_amount + NEW.held_delta
    WHERE id = NEW.account_id;
    RETURN NULL;
END $$;
CREATE TRIGGER credit_movement_apply AFTER INSERT ON credit_movement
    FOR EACH ROW EXECUTE FUNCTION credit_movement_apply();
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE ON credit_movement
    FOR EACH ROW EXECUTE FUNCTION append_only();

CREATE FUNCTION credit_account_guard() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF pg_trigger_depth() < 2 AND (
        (TG_OP = 'INSERT' AND (NEW.balance_amount, NEW.held_amount) <> (0, 0)) OR
        (TG_OP = 'UPDATE' AND (NEW.balance_amount, NEW.held_amount) IS DISTINCT FROM
                              (OLD.balance_amount, OLD.held_amount))) THEN
        RAISE EXCEPTION 'credit changes through credit_movement only';
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER credit_account_guard BEFORE INSERT OR UPDATE ON credit_account
    FOR EACH ROW EXECUTE FUNCTION credit_account_guard();

-- An event from SQL, as deps.core writes one: numbered within its aggregate, under its row lock.
CREATE FUNCTION outbox_add(
    p_type text, p_aggregate_type text, p_aggregate uuid, p_payload jsonb, p_actor uuid,
    p_role text, p_trace text, p_now timestamptz
) RETURNS void LANGUAGE sql AS $$
    WITH place AS MATERIALIZED (SELECT next_aggregate_seq(p_aggregate) AS aggregate_seq)
    INSERT INTO outbox (id, type, schema_version, aggregate_type, aggregate_id, aggregate_seq,
                        payload, actor_id, actor_role, trace_id, occurred_at)
    SELECT uuidv7(), p_type, 1, p_aggregate_type, p_aggregate, place.aggregate_seq, p_payload,
           p_actor, p_role, p_trace, p_now
    FROM place
$$;

-- A cart's lines, priced from the catalogue now.
CREATE FUNCTION cart_lines(p_cart uuid, p_now timestamptz) RETURNS jsonb
LANGUAGE plpgsql STABLE AS $$
BEGIN
    RETURN (SELECT coalesce(jsonb_agg(to_jsonb(line) ORDER BY line.added_at, line.sku), '[]') FROM (
        SELECT k.sku, k.added_at, p.id AS product_id, p.image_url, k.quantity,
               v.price_amount AS unit_price_amount, v.currency,
               p.title || CASE v.title WHEN '' THEN '' ELSE ' – ' || v.title END AS title,
               v.is_active AND p.status = 'active' AS on_sale,
               stock_available(k.sku, p_now) AS available
        FROM cart_line k
        JOIN variant v ON v.sku = k.sku
        JOIN product p ON p.id = v.product_id
        WHERE k.cart_id = p_cart
    ) AS line);
END $$;

-- Whose cart is it: the customer's, or the guest's who holds its secret.
CREATE FUNCTION cart_is_of(c cart, p_customer uuid, p_secret text) RETURNS boolean
LANGUAGE sql IMMUTABLE AS $$
    SELECT CASE WHEN c.customer_id IS NOT NULL THEN c.customer_id = p_customer
                ELSE c.secret_sha256 = p_secret END IS TRUE
$$;

-- The actor's cart, locked for a change; null if there is none, open or not.
CREATE FUNCTION cart_locked(p_cart uuid, p_customer uuid, p_secret text) RETURNS cart
LANGUAGE plpgsql AS $$
DECLARE
    found_cart cart;
BEGIN
    SELECT * INTO found_cart FROM cart WHERE id = p_cart FOR NO KEY UPDATE;
    IF cart_is_of(found_cart, p_customer, p_secret) THEN RETURN found_cart; END IF;
    RETURN NULL;
END $$;

-- A cart's changes need not wait for the disk: a server that loses power may forget the last
-- fraction of a second of them, never in part, and never one that an order was made of, since the
-- order's own commit flushes all before it. For transactions that change nothing else.
CREATE FUNCTION commit_lazily() RETURNS void LANGUAGE sql AS $$
    SELECT set_config('synchronous_commit', 'off', true)
$$;

CREATE FUNCTION cart_document(c cart, p_now timestamptz) RETURNS jsonb LANGUAGE sql STABLE AS $$
    SELECT jsonb_build_object('cart', to_jsonb(c), 'lines', cart_lines(c.id, p_now))
$$;

CREATE FUNCTION cart_open(
    p_cart uuid, p_customer uuid, p_secret text, p_currency text, p_now timestamptz
) RETURNS jsonb LANGUAGE plpgsql AS $$
DECLARE
    opened cart;
BEGIN
    INSERT INTO cart (id, customer_id, secret_sha256, status, currency, version, created_at,
                      updated_at)
    VALUES (p_cart, p_customer, p_secret, 'open', p_currency, 1, p_now, p_now)
    RETURNING * INTO opened;
    RETURN cart_document(opened, p_now);
END $$;

-- Set a line's quantity, or add to it; zero takes it out. Says why not in `refusal`, and then
-- nothing has changed.
CREATE FUNCTION cart_put(
    p_cart uuid, p_customer uuid, p_secret text, p_sku text, p_quantity integer, p_adds boolean,
    p_lines_max integer, p_quantity_max integer, p_now timestamptz
) RETURNS jsonb LANGUAGE plpgsql AS $$
DECLARE
    changed cart := cart_locked(p_cart, p_customer, p_secret);
    wanted integer := p_quantity;
    sold_in text;
BEGIN
    IF changed.id IS NULL THEN RETURN '{"refusal": "not_found"}'; END IF;
    IF changed.status <> 'open' THEN RETURN '{"refusal": "closed"}'; END IF;
    IF p_adds THEN
        wanted := p_quantity + coalesce(
            (SELECT quantity FROM cart_line WHERE cart_id = p_cart AND sku = p_sku), 0);
    END IF;
    IF wanted NOT BETWEEN 0 AND p_quantity_max THEN RETURN '{"refusal": "quantity"}'; END IF;
    IF wanted = 0 THEN
        DELETE FROM cart_line WHERE cart_id = p_cart AND sku = p_sku;
    ELSE
        SELECT v.currency INTO sold_in FROM variant v JOIN product p ON p.id = v.product_id
        WHERE v.sku = p_sku AND v.is_active AND p.status = 'active';
        IF NOT FOUND THEN RETURN '{"refusal": "not_on_sale"}'; END IF;
        IF sold_in <> changed.currency THEN RETURN '{"refusal": "currency"}'; END IF;
        IF (SELECT count(*) FROM cart_line WHERE cart_id = p_cart AND sku <> p_sku) >= p_lines_max
        THEN RETURN '{"refusal": "too_many_lines"}'; END IF;
        INSERT INTO cart_line (cart_id, sku, quantity, added_at)
        VALUES (p_cart, p_sku, wanted, p_now)
        ON CONFLICT (cart_id, sku) DO UPDATE SET quantity = excluded.quantity;
    END IF;
    UPDATE cart SET updated_at = p_now, version = version + 1 WHERE id = p_cart
    RETURNING * INTO changed;
    RETURN cart_document(changed, p_now);
END $$;

-- Say where a cart goes and how; null leaves a field as it is.
CREATE FUNCTION cart_describe(
    p_cart uuid, p_customer uuid, p_secret text, p_email text, p_address jsonb, p_method text,
    p_now timestamptz
) RETURNS jsonb LANGUAGE plpgsql AS $$
DECLARE
    changed cart := cart_locked(p_cart, p_customer, p_secret);
BEGIN
    IF changed.id IS NULL THEN RETURN '{"refusal": "not_found"}'; END IF;
    IF changed.status <> 'open' THEN RETURN '{"refusal": "closed"}'; END IF;
    UPDATE cart SET email = coalesce(p_email, email),
                    shipping_address = coalesce(p_address, shipping_address),
                    shipping_method = coalesce(p_method, shipping_method),
                    updated_at = p_now, version = version + 1
    WHERE id = p_cart RETURNING * INTO changed;
    RETURN cart_document(changed, p_now);
END $$;

-- Move the lines and the credit of one cart into another and close it; what passes a limit stays
-- behind.
CREATE FUNCTION cart_merge(
    p_into uuid, p_from uuid, p_lines_max integer, p_quantity_max integer, p_now timestamptz
) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO cart_line AS k (cart_id, sku, quantity, added_at)
    SELECT p_into, sku, quantity, added_at FROM cart_line WHERE cart_id = p_from
    ORDER BY EXISTS (SELECT 1 FROM cart_line o WHERE o.cart_id = p_into AND o.sku = cart_line.sku)
             DESC, added_at, sku
    LIMIT greatest(0, p_lines_max - (
        SELECT count(*) FROM cart_line o WHERE o.cart_id = p_into AND o.sku NOT IN
            (SELECT sku FROM cart_line WHERE cart_id = p_from)))
    ON CONFLICT (cart_id, sku) DO UPDATE
    SET quantity = least(p_quantity_max, k.quantity + excluded.quantity);
    UPDATE cart i SET email = coalesce(i.email, f.email),
                      shipping_address = coalesce(i.shipping_address, f.shipping_address),
                      shipping_method = coalesce(i.shipping_method, f.shipping_method),
                      version = i.version + 1, updated_at = p_now
    FROM cart f WHERE i.id = p_into AND f.id = p_from;
    INSERT INTO cart_credit (cart_id, account_id, seen_amount)
    SELECT p_into, account_id, seen_amount FROM cart_credit WHERE cart_id = p_from
    ON CONFLICT DO NOTHING;
    UPDATE cart SET status = 'merged', updated_at = p_now WHERE id = p_from;
END $$;

-- Everything that makes a cart an order, but the money: order, lines, hold, tenders and the intent
-- to charge them. `p_version` and `p_subtotal` are what the caller priced: if the cart or a price has
-- moved since, nothing happens and the answer is `changed`. Raises SK001 with the SKU that is short.
CREATE FUNCTION checkout_prepare(
    p_cart uuid, p_customer uuid, p_secret text, p_version integer, p_subtotal bigint,
    p_order uuid, p_shipping bigint, p_tax bigint, p_discount bigint, p_captures_later boolean,
    p_tenders jsonb, p_hold_until timestamptz, p_lease_until timestamptz, p_role text,
    p_trace text, p_now timestamptz
) RETURNS jsonb LANGUAGE plpgsql AS $$
DECLARE
    bought cart := cart_locked(p_cart, p_customer, p_secret);
    existing uuid;
    skus text[];
    quantities integer[];
    prices bigint;
    total bigint := p_subtotal + p_shipping + p_tax - p_discount;
    order_number bigint;
    short text;
BEGIN
    IF bought.id IS NULL THEN RETURN '{"refusal": "not_found"}'; END IF;
    SELECT id INTO existing FROM orders WHERE cart_id = p_cart;
    IF FOUND THEN RETURN jsonb_build_object('refusal', 'exists', 'order_id', existing); END IF;
    SELECT array_agg(k.sku), array_agg(k.quantity),
           sum(v.price_amount * k.quantity) FILTER (WHERE v.is_active AND p.status = 'active')
    INTO skus, quantities, prices
    FROM cart_line k JOIN variant v ON v.sku = k.sku JOIN product p ON p.id = v.product_id
    WHERE k.cart_id = p_cart;
    IF bought.status <> 'open' OR bought.version <> p_version OR p_tenders = '[]'
        OR prices IS DISTINCT FROM p_subtotal THEN
        RETURN '{"refusal": "changed"}';
    END IF;
    INSERT INTO orders (id, cart_id, customer_id, guest_secret_sha256, email, status,
                        payment_status, fulfillment_status, currency, subtotal_amount,
                        shipping_amount, tax_amount, discount_amount, total_amount,
                        shipping_address, shipping_method, captures_later, version, created_at,
                        lease_until)
    VALUES (p_order, p_cart, bought.customer_id, bought.secret_sha256, bought.email, 'pending',
            'pending', 'unfulfilled', bought.currency, p_subtotal, p_shipping, p_tax, p_discount,
            total, bought.shipping_address, bought.shipping_method, p_captures_later, 1, p_now,
            p_lease_until)
    RETURNING number INTO order_number;
    INSERT INTO order_line (id, order_id, sku, product_id, title, quantity, unit_price_amount,
                            total_amount)
    SELECT uuidv7(), p_order, k.sku, p.id,
           p.title || CASE v.title WHEN '' THEN '' ELSE ' – ' || v.title END,
           k.quantity, v.price_amount, v.price_amount * k.quantity
    FROM (SELECT * FROM cart_line WHERE cart_id = p_cart ORDER BY added_at, sku) k
    JOIN variant v ON v.sku = k.sku JOIN product p ON p.id = v.product_id
    ORDER BY k.added_at, k.sku;
    short := stock_reserve(p_order, skus, quantities, p_hold_until, p_customer, p_now,
                           bought.shipping_address);
    IF short IS NOT NULL THEN RAISE EXCEPTION '%', short USING ERRCODE = 'SK001'; END IF;
    INSERT INTO payment (id, order_id, provider, method_token, position, amount, captured_amount,
                         refunded_amount, currency, state, created_at, updated_at)
    SELECT t.id, p_order, t.provider, t.method_token, t.position - 1, t.amount, 0, 0,
           bought.currency, 'created', p_now, p_now
    FROM ROWS FROM (jsonb_to_recordset(p_tenders)
                    AS (id uuid, provider text, method_token text, amount bigint))
         WITH ORDINALITY AS t (id, provider, method_token, amount, position);
    INSERT INTO payment_attempt (id, payment_id, kind, number, key, amount, state, detail,
                                 started_at)
    SELECT uuidv7(), id, 'authorize', 1, id || ':authorize:1', amount, 'started', '', p_now
    FROM payment WHERE order_id = p_order;
    IF (SELECT sum(amount) FROM payment WHERE order_id = p_order) IS DISTINCT FROM total THEN
        RAISE EXCEPTION 'the tenders do not bring the total of %', total;
    END IF;
    UPDATE cart SET status = 'completing', updated_at = p_now WHERE id = p_cart;
    PERFORM outbox_add('OrderCreated', 'order', p_order, jsonb_build_object(
        'order_id', p_order, 'total_amount', total, 'currency', bought.currency),
        p_customer, p_role, p_trace, p_now);
    PERFORM outbox_add('StockReserved', 'order', p_order, jsonb_build_object(
        'order_id', p_order,
        'units', (SELECT jsonb_object_agg(s, q) FROM unnest(skus, quantities) AS u (s, q))),
        p_customer, p_role, p_trace, p_now);
    RETURN jsonb_build_object('order_id', p_order, 'number', order_number);
END $$;

-- The only tender is authorised: the hold becomes an allocation, the intent to capture is written.
-- False when the rows are not as they should be; then nothing happened and `sale.drive` decides.
CREATE FUNCTION checkout_confirm(
    p_order uuid, p_payment uuid, p_reference text, p_expires_at timestamptz, p_actor uuid,
    p_role text, p_trace text, p_now timestamptz
) RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
    sold orders;
    tender payment;
    short text;
BEGIN
    SELECT * INTO sold FROM orders WHERE id = p_order FOR NO KEY UPDATE;
    SELECT * INTO tender FROM payment WHERE id = p_payment FOR NO KEY UPDATE;
    IF sold.status <> 'pending' OR sold.payment_status <> 'pending'
        OR tender.state <> 'created' OR tender.amount <> sold.total_amount THEN
        RETURN false;
    END IF;
    short := stock_allocate(p_order, p_actor, p_now);
    IF short IS NOT NULL THEN RAISE EXCEPTION '%', short USING ERRCODE = 'SK001'; END IF;
    UPDATE orders SET payment_status = 'authorized' WHERE id = p_order;
    UPDATE payment SET state = 'authorized', provider_reference = p_reference,
                       expires_at = p_expires_at, updated_at = p_now
    WHERE id = p_payment;
    UPDATE payment_attempt SET state = 'succeeded', finished_at = p_now
    WHERE key = p_payment || ':authorize:1';
    INSERT INTO payment_attempt (id, payment_id, kind, number, key, amount, state, detail,
                                 started_at)
    VALUES (uuidv7(), p_payment, 'capture', 1, p_payment || ':capture:1', tender.amount, 'started',
            '', p_now);
    PERFORM outbox_add('PaymentAuthorized', 'order', p_order, jsonb_build_object(
        'order_id', p_order, 'payment_id', p_payment, 'amount', tender.amount,
        'currency', tender.currency), p_actor, p_role, p_trace, p_now);
    RETURN true;
END $$;

-- The only tender is captured: the money is booked, the order placed. False as above.
CREATE FUNCTION checkout_place(
    p_order uuid, p_payment uuid, p_actor uuid, p_role text, p_trace text, p_now timestamptz
) RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
    sold orders;
    tender payment;
BEGIN
    SELECT * INTO sold FROM orders WHERE id = p_order FOR NO KEY UPDATE;
    SELECT * INTO tender FROM payment WHERE id = p_payment FOR NO KEY UPDATE;
    IF sold.status <> 'pending' OR sold.payment_status <> 'authorized'
        OR tender.state <> 'authorized' OR tender.captured_amount <> 0
        OR tender.decline_code IS NOT NULL OR tender.amount <> sold.total_amount THEN
        RETURN false;
    END IF;
    UPDATE payment SET state = 'captured', captured_amount = amount, updated_at = p_now
    WHERE id = p_payment;
    UPDATE payment_attempt SET state = 'succeeded', finished_at = p_now
    WHERE key = p_payment || ':capture:1';
    INSERT INTO ledger_entry (transaction_id, account, amount, currency, order_id, occurred_at)
    SELECT p_order, account, amount, sold.currency, p_order, p_now
    FROM (VALUES ('clearing', sold.total_amount),
                 ('revenue', -(sold.subtotal_amount - sold.discount_amount)),
                 ('shipping_revenue', -sold.shipping_amount),
                 ('tax_payable', -sold.tax_amount)) AS booked (account, amount)
    WHERE amount <> 0;
    UPDATE orders SET status = 'placed', payment_status = 'captured', placed_at = p_now,
                      lease_until = NULL
    WHERE id = p_order;
    UPDATE cart SET status = 'completed', updated_at = p_now WHERE id = sold.cart_id;
    PERFORM outbox_add('PaymentCaptured', 'order', p_order, jsonb_build_object(
        'order_id', p_order, 'payment_id', p_payment, 'amount', tender.amount,
        'currency', tender.currency), p_actor, p_role, p_trace, p_now);
    PERFORM outbox_add('OrderPlaced', 'order', p_order, jsonb_build_object(
        'order_id', p_order, 'number', sold.number, 'customer_id', sold.customer_id,
        'total_amount', sold.total_amount, 'currency', sold.currency),
        p_actor, p_role, p_trace, p_now);
    RETURN true;
END $$;
