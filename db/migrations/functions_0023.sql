-- What a code takes off, and in `refusal` why it cannot be used now; null if there is no such code.
CREATE FUNCTION discount_terms(p_code text, p_now timestamptz) RETURNS jsonb
LANGUAGE sql STABLE AS $$
    SELECT jsonb_build_object(
        'code', code, 'percent', percent, 'amount', amount, 'currency', currency,
        'minimum_amount', minimum_amount,
        'refusal', CASE WHEN NOT is_active OR ends_at <= p_now THEN 'ended'
                        WHEN starts_at > p_now THEN 'not_started'
                        WHEN uses >= uses_max THEN 'used_up' END)
    FROM discount WHERE code = p_code
$$;

-- Orders count the uses of their code, at the end of their transaction: so its row is the last one
-- that anybody locks, and not for long. Raises SK002 with the code when there are no uses left.
CREATE FUNCTION discount_count() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'UPDATE' THEN
        UPDATE discount SET uses = uses - 1 WHERE code = NEW.discount_code;
    ELSE
        UPDATE discount SET uses = uses + 1
        WHERE code = NEW.discount_code AND (uses_max IS NULL OR uses < uses_max);
    END IF;
    IF NOT FOUND THEN RAISE EXCEPTION '%', NEW.discount_code USING ERRCODE = 'SK002'; END IF;
    RETURN NULL;
END $$;
CREATE CONSTRAINT TRIGGER discount_used AFTER INSERT ON orders DEFERRABLE INITIALLY DEFERRED
    FOR EACH ROW WHEN (NEW.discount_code IS NOT NULL AND NEW.status <> 'cancelled')
    EXECUTE FUNCTION discount_count();
CREATE CONSTRAINT TRIGGER discount_freed AFTER UPDATE OF status ON orders
    DEFERRABLE INITIALLY DEFERRED
    FOR EACH ROW WHEN (NEW.discount_code IS NOT NULL AND NEW.status = 'cancelled'
                       AND OLD.status <> 'cancelled')
    EXECUTE FUNCTION discount_count();

CREATE OR REPLACE FUNCTION cart_document(c cart, p_now timestamptz) RETURNS jsonb
LANGUAGE sql STABLE AS $$
    SELECT jsonb_build_object(
        'cart', to_jsonb(c), 'lines', cart_lines(c.id, p_now),
        'discount', CASE WHEN c.discount_code IS NOT NULL
                         THEN discount_terms(c.discount_code, p_now) END)
$$;

-- Set a cart's code, or take it off; says why not in `refusal`, and then nothing has changed.
CREATE FUNCTION cart_discount(
    p_cart uuid, p_customer uuid, p_secret text, p_code text, p_now timestamptz
) RETURNS jsonb LANGUAGE plpgsql AS $$
DECLARE
    changed cart := cart_locked(p_cart, p_customer, p_secret);
BEGIN
    IF changed.id IS NULL THEN RETURN '{"refusal": "not_found"}'; END IF;
    IF changed.status <> 'open' THEN RETURN '{"refusal": "closed"}'; END IF;
    IF changed.discount_code IS DISTINCT FROM p_code THEN
        UPDATE cart SET discount_code = p_code, version = version + 1, updated_at = p_now
        WHERE id = p_cart RETURNING * INTO changed;
    END IF;
    RETURN cart_document(changed, p_now);
END $$;

-- Move the lines and the credit of one cart into another and close it; what passes a limit stays
-- behind, and so does credit that was taken off.
CREATE OR REPLACE FUNCTION cart_merge(
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
                      uses_credit = i.uses_credit OR f.uses_credit,
                      discount_code = coalesce(i.discount_code, f.discount_code),
                      version = i.version + 1, updated_at = p_now
    FROM cart f WHERE i.id = p_into AND f.id = p_from;
    INSERT INTO cart_credit AS k (cart_id, account_id, seen_amount)
    SELECT p_into, account_id, seen_amount FROM cart_credit WHERE cart_id = p_from AND is_chosen
    ON CONFLICT (cart_id, account_id) DO UPDATE
    SET is_chosen = true, seen_amount = excluded.seen_amount WHERE NOT k.is_chosen;
    UPDATE cart SET status = 'merged', updated_at = p_now WHERE id = p_from;
END $$;

-- Everything that makes a cart an order, but the money: order, lines, hold, tenders and the intent
-- to charge them. `p_version` and `p_subtotal` are what the caller priced: if the cart or a price has
-- moved since, nothing happens and the answer is `changed`. Raises SK001 with the SKU that is short.
CREATE FUNCTION checkout_prepare(
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
    IF bought.status <> 'open' OR bought.version <> p_version OR p_tenders = '[]'
        OR prices IS DISTINCT FROM p_subtotal
        OR discount_terms(bought.discount_code, p_now)->>'refusal' IS NOT NULL THEN
        RETURN '{"refusal": "changed"}';
    END IF;
    INSERT INTO orders (id, cart_id, customer_id, guest_secret_sha256, email, status,
                        payment_status, fulfillment_status, currency, subtotal_amount,
                        shipping_amount, tax_amount, tax_rate, discount_amount, total_amount,
                        discount_code, shipping_address, shipping_method, captures_later, version, created_at,
                        lease_until)
    VALUES (p_order, p_cart, bought.customer_id, bought.secret_sha256, bought.email, 'pending',
            'pending', 'unfulfilled', bought.currency, p_subtotal, p_shipping, p_tax,
            p_tax_rate, p_discount, total, bought.discount_code, bought.shipping_address, bought.shipping_method, p_captures_later, 1, p_now,
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
