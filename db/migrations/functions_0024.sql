-- Everything that makes a cart an order, but the money: order, lines, hold, tenders and the intent
-- to charge them. `p_version` and `p_subtotal` are what the caller priced: if the cart or a price has
-- moved since, or there are no tenders because it was not open then, nothing happens and the answer
-- is `changed`. What costs nothing has an empty list of tenders. Raises SK001 with the SKU that is
-- short.
CREATE OR REPLACE FUNCTION checkout_prepare(
    p_cart uuid, p_customer uuid, p_secret text, p_version integer, p_subtotal bigint,
    p_order uuid, p_shipping bigint, p_tax bigint, p_tax_rate integer,
    p_discount bigint, p_captures_later boolean, p_tenders jsonb, p_hold_until timestamptz,
    p_lease_until timestamptz, p_role text, p_trace text, p_now timestamptz
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
    IF bought.status <> 'open' OR bought.version <> p_version OR p_tenders IS NULL
        OR prices IS DISTINCT FROM p_subtotal
        OR (bought.discount_code IS NOT NULL
            AND discount_terms(bought.discount_code, p_now)->>'refusal' IS NOT NULL) THEN
        RETURN '{"refusal": "changed"}';
    END IF;
    INSERT INTO orders (id, cart_id, customer_id, guest_secret_sha256, email, status,
                        payment_status, fulfillment_status, currency, subtotal_amount,
                        shipping_amount, tax_amount, tax_rate, discount_amount, total_amount,
                        discount_code, shipping_address, shipping_method, captures_later, version,
                        created_at, lease_until)
    VALUES (p_order, p_cart, bought.customer_id, bought.secret_sha256, bought.email, 'pending',
            'pending', 'unfulfilled', bought.currency, p_subtotal, p_shipping, p_tax,
            p_tax_rate, p_discount, total, bought.discount_code, bought.shipping_address,
            bought.shipping_method, p_captures_later AND total > 0, 1, p_now, p_lease_until)
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
    IF (SELECT coalesce(sum(amount), 0) FROM payment WHERE order_id = p_order) <> total THEN
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
