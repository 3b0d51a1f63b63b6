-- Stock in depth. The row of `stock_item` is the lock of a SKU: whoever moves units of several SKUs
-- takes those rows in SKU order, first. Then levels need no order of their own, baskets queue, and
-- nobody deadlocks.

-- Tell the shop of a crossing. The SKU's own aggregate is numbered under the SKU's lock, so taking
-- a number here can never wait for a transaction that waits for this one.
CREATE FUNCTION stock_announce(
    p_type text, p_item uuid, p_sku text, p_location uuid, p_available integer, p_actor uuid,
    p_at timestamptz
) RETURNS void LANGUAGE sql AS $$
    INSERT INTO outbox (id, type, schema_version, aggregate_type, aggregate_id, aggregate_seq,
                        payload, actor_id, actor_role, occurred_at)
    SELECT gen_random_uuid(), p_type, 1, 'stock', p_item, next_aggregate_seq(p_item),
           jsonb_build_object('stock_id', p_item, 'product_id', v.product_id, 'sku', p_sku,
                              'location', coalesce(l.code, ''), 'available', p_available),
           p_actor, 'system', p_at
    FROM variant v LEFT JOIN location l ON l.id = p_location WHERE v.sku = p_sku
$$;

-- The only writer of counters. A crossing is told exactly once: by the movement that crosses.
CREATE OR REPLACE FUNCTION stock_movement_apply() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    item uuid;
    was_known boolean := true;
    after integer;
    before integer;
    point integer;
    is_sold_from boolean;
    freed integer := 0;
    sellable integer;
BEGIN
    SELECT id INTO item FROM stock_item WHERE sku = NEW.sku FOR UPDATE;
    IF NOT FOUND THEN
        INSERT INTO stock_item (sku) VALUES (NEW.sku) ON CONFLICT (sku) DO NOTHING;
        was_known := false;
        SELECT id INTO item FROM stock_item WHERE sku = NEW.sku FOR UPDATE;
    END IF;
    IF NEW.location_id IS NOT NULL THEN
        -- UPDATE comes first: an INSERT of negative deltas would be refused by the checks.
        UPDATE stock_level l SET on_hand = l.on_hand + NEW.on_hand_delta,
                                 reserved = l.reserved + NEW.reserved_delta,
                                 allocated = l.allocated + NEW.allocated_delta,
                                 incoming = l.incoming + NEW.incoming_delta
        FROM location p
        WHERE l.sku = NEW.sku AND l.location_id = NEW.location_id AND p.id = NEW.location_id
        RETURNING l.available, l.reorder_point, p.is_active INTO after, point, is_sold_from;
        IF NOT FOUND THEN
            PERFORM stock_refuse_bundle(NEW.sku);
            INSERT INTO stock_level (sku, location_id, on_hand, reserved, allocated, incoming,
                                     reorder_point)
            VALUES (NEW.sku, NEW.location_id, NEW.on_hand_delta, NEW.reserved_delta,
                    NEW.allocated_delta, NEW.incoming_delta, 0)
            RETURNING available, reorder_point INTO after, point;
            SELECT is_active INTO is_sold_from FROM location WHERE id = NEW.location_id;
        END IF;
        before := after - NEW.on_hand_delta + NEW.reserved_delta + NEW.allocated_delta;
        IF is_sold_from THEN freed := greatest(after, 0) - greatest(before, 0); END IF;
        IF point > 0 AND after <= point AND before > point THEN
            PERFORM stock_announce('StockLow', item, NEW.sku, NEW.location_id, after,
                                   NEW.actor_id, NEW.occurred_at);
        END IF;
    END IF;
    IF freed <> 0 OR NEW.backordered_delta <> 0 THEN
        UPDATE stock_item SET free = free + freed, backordered = backordered + NEW.backordered_delta
        WHERE sku = NEW.sku RETURNING free - backordered INTO sellable;
        before := sellable - freed + NEW.backordered_delta;
        IF sellable > 0 AND before <= 0 AND was_known THEN
            PERFORM stock_announce('BackInStock', item, NEW.sku, NULL, sellable, NEW.actor_id,
                                   NEW.occurred_at);
        ELSIF sellable <= 0 AND before > 0 THEN
            PERFORM stock_announce('SoldOut', item, NEW.sku, NULL, 0, NEW.actor_id,
                                   NEW.occurred_at);
        END IF;
    END IF;
    RETURN NULL;
END $$;

-- A bundle has no stock of its own. The variant's lock makes `define` and the first units queue.
CREATE FUNCTION stock_refuse_bundle(p_sku text) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    PERFORM 1 FROM variant WHERE sku = p_sku FOR SHARE;
    IF EXISTS (SELECT 1 FROM bundle_part WHERE bundle_sku = p_sku) THEN
        RAISE EXCEPTION '% is a bundle and has no stock of its own', p_sku
            USING ERRCODE = 'check_violation', CONSTRAINT = 'bundle_has_no_stock';
    END IF;
END $$;

CREATE FUNCTION bundle_part_guard() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM 1 FROM variant WHERE sku = NEW.bundle_sku FOR UPDATE;
    IF EXISTS (SELECT 1 FROM stock_level WHERE sku = NEW.bundle_sku)
       OR EXISTS (SELECT 1 FROM bundle_part WHERE part_sku = NEW.bundle_sku)
       OR EXISTS (SELECT 1 FROM bundle_part WHERE bundle_sku = NEW.part_sku) THEN
        RAISE EXCEPTION '% cannot be a bundle of %', NEW.bundle_sku, NEW.part_sku
            USING ERRCODE = 'check_violation', CONSTRAINT = 'bundle_is_flat';
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER bundle_part_guard BEFORE INSERT OR UPDATE ON bundle_part
    FOR EACH ROW EXECUTE FUNCTION bundle_part_guard();

CREATE OR REPLACE FUNCTION stock_level_guard() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF pg_trigger_depth() < 2 AND (TG_OP <> 'UPDATE' OR
        (NEW.on_hand, NEW.reserved, NEW.allocated, NEW.incoming) IS DISTINCT FROM
        (OLD.on_hand, OLD.reserved, OLD.allocated, OLD.incoming)) THEN
        RAISE EXCEPTION 'stock levels change through stock_movement only';
    END IF;
    RETURN coalesce(NEW, OLD);
END $$;

CREATE FUNCTION stock_item_guard() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF pg_trigger_depth() < 2 AND (
        (TG_OP = 'DELETE' AND (OLD.free, OLD.backordered) <> (0, 0)) OR
        (TG_OP = 'INSERT' AND (NEW.free, NEW.backordered) <> (0, 0)) OR
        (TG_OP = 'UPDATE' AND
         (NEW.sku, NEW.free, NEW.backordered) <> (OLD.sku, OLD.free, OLD.backordered))) THEN
        RAISE EXCEPTION 'stock items change through stock_movement only';
    END IF;
    RETURN coalesce(NEW, OLD);
END $$;
CREATE TRIGGER stock_item_guard BEFORE INSERT OR UPDATE OR DELETE ON stock_item
    FOR EACH ROW EXECUTE FUNCTION stock_item_guard();

-- Keeping more or less back changes what may be sold, without a movement.
CREATE FUNCTION stock_level_safety() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    UPDATE stock_item SET free = free + greatest(NEW.available, 0) - greatest(OLD.available, 0)
    WHERE sku = NEW.sku
      AND (SELECT is_active FROM location WHERE id = NEW.location_id);
    RETURN NULL;
END $$;
CREATE TRIGGER stock_level_safety AFTER UPDATE OF safety_stock ON stock_level
    FOR EACH ROW WHEN (NEW.safety_stock <> OLD.safety_stock)
    EXECUTE FUNCTION stock_level_safety();

-- Opening or closing a location changes what may be sold of everything in it. Rare, so it may stop
-- the ledger for a moment: nobody can then move units by the old answer.
CREATE FUNCTION location_opens() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    LOCK TABLE stock_movement IN SHARE ROW EXCLUSIVE MODE;
    UPDATE stock_item i
    SET free = i.free + CASE WHEN NEW.is_active THEN l.available ELSE -l.available END
    FROM stock_level l
    WHERE l.sku = i.sku AND l.location_id = NEW.id AND l.available > 0;
    RETURN NULL;
END $$;
CREATE TRIGGER location_opens AFTER UPDATE OF is_active ON location
    FOR EACH ROW WHEN (NEW.is_active <> OLD.is_active) EXECUTE FUNCTION location_opens();

-- How many units may be promised beyond the stock, now.
CREATE FUNCTION stock_allowance(
    p_policy text, p_limit integer, p_backordered integer, p_available_on date, p_now timestamptz
) RETURNS integer LANGUAGE sql IMMUTABLE AS $$
    SELECT CASE WHEN p_policy = 'backorder'
                  OR (p_policy = 'preorder' AND p_now < p_available_on::timestamp AT TIME ZONE 'UTC')
                THEN p_limit - p_backordered ELSE 0 END
$$;

-- How many of a SKU, or of a bundle, can be reserved now: the one definition for carts and pages.
CREATE FUNCTION stock_available(p_sku text, p_now timestamptz) RETURNS integer
LANGUAGE sql STABLE AS $$
    SELECT coalesce(
        (SELECT min((greatest(coalesce(i.free, 0) - coalesce(i.backordered, 0), 0)
                     + coalesce(stock_allowance(i.policy, i.backorder_limit, i.backordered,
                                                i.available_on, p_now), 0)) / b.quantity)
         FROM bundle_part b LEFT JOIN stock_item i ON i.sku = b.part_sku
         WHERE b.bundle_sku = p_sku),
        (SELECT greatest(free - backordered, 0)
                + stock_allowance(policy, backorder_limit, backordered, available_on, p_now)
         FROM stock_item WHERE sku = p_sku),
        0)
$$;

-- Where units can come from, best first per SKU. Without rules of the shop: a location that has
-- enough, then by priority. Rules weigh in the order of their position.
CREATE FUNCTION stock_places(p_skus text[], p_quantities integer[], p_destination jsonb)
RETURNS TABLE (sku text, location_id uuid, available integer) LANGUAGE plpgsql STABLE AS $$
BEGIN
    IF NOT EXISTS (SELECT 1 FROM stock_rule) THEN
        RETURN QUERY
        SELECT l.sku::text, l.location_id, l.available
        FROM unnest(p_skus, p_quantities) AS w (sku, quantity)
        JOIN stock_level l ON l.sku = w.sku
        JOIN location p ON p.id = l.location_id
        WHERE p.is_active AND l.available > 0
        ORDER BY l.sku, l.available >= w.quantity DESC, p.priority, p.code;
        RETURN;
    END IF;
    RETURN QUERY
    WITH here AS MATERIALIZED (
        SELECT a.latitude, a.longitude FROM postal_area a
        WHERE a.country_code = p_destination ->> 'country_code'
          AND starts_with(upper(replace(p_destination ->> 'postal_code', ' ', '')), a.prefix)
        ORDER BY length(a.prefix) DESC LIMIT 1
    ), level AS MATERIALIZED (
        SELECT l.sku, l.location_id, l.available, p.code, p.priority,
               p.latitude, p.longitude, l.available >= w.quantity AS is_enough,
               count(*) FILTER (WHERE l.available >= w.quantity) OVER (PARTITION BY p.id)
                   AS covered
        FROM unnest(p_skus, p_quantities) AS w (sku, quantity)
        JOIN stock_level l ON l.sku = w.sku
        JOIN location p ON p.id = l.location_id
        WHERE p.is_active AND l.available > 0
    )
    SELECT l.sku::text, l.location_id, l.available
    FROM level l
    ORDER BY l.sku, (
        SELECT array_agg(CASE r.kind
                   WHEN 'preferred' THEN (r.location_id <> l.location_id)::integer::float8
                   WHEN 'fewest_splits' THEN CASE WHEN l.is_enough THEN -l.covered ELSE 0 END
                   ELSE coalesce((SELECT stock_distance_km(h.latitude, h.longitude, l.latitude,
                                                           l.longitude) FROM here h), 1e9)
               END ORDER BY r.position)
        FROM stock_rule r
        WHERE r.country_code IS NULL OR r.country_code = p_destination ->> 'country_code'
    ) NULLS LAST, l.priority, l.code;
END $$;

-- Great-circle distance, to whole kilometres: https://en.wikipedia.org/wiki/Haversine_formula
CREATE FUNCTION stock_distance_km(
    p_latitude float8, p_longitude float8, q_latitude float8, q_longitude float8
) RETURNS float8 LANGUAGE sql IMMUTABLE AS $$
    SELECT round(2 * 6371 * asin(sqrt(least(1,
        sind((q_latitude - p_latitude) / 2) ^ 2
        + cosd(p_latitude) * cosd(q_latitude) * sind((q_longitude - p_longitude) / 2) ^ 2))))
$$;

-- Set units aside for a reservation that has none yet. Returns null, or the SKU that fell short:
-- then some may be taken already, and the caller must roll back.
CREATE FUNCTION stock_take(
    p_id uuid, p_skus text[], p_quantities integer[], p_actor uuid, p_now timestamptz,
    p_destination jsonb
) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    item record;
    place record;
    sellable integer;
    owed integer;
    seen text[] := '{}';
    wanted integer[] := '{}';
    spot integer := 0;
    missing integer := 0;
    part integer;
BEGIN
    FOR item IN
        SELECT i.sku::text AS sku, w.quantity, i.free, i.backordered, i.policy, i.backorder_limit,
               i.available_on
        FROM unnest(p_skus, p_quantities) AS w (sku, quantity)
        JOIN stock_item i ON i.sku = w.sku ORDER BY i.sku FOR UPDATE OF i
    LOOP
        sellable := greatest(item.free - item.backordered, 0);
        owed := greatest(item.quantity - sellable, 0);
        IF owed > 0 THEN
            IF owed > stock_allowance(item.policy, item.backorder_limit, item.backordered,
                                      item.available_on, p_now) THEN
                RETURN item.sku;
            END IF;
            INSERT INTO backorder (reservation_id, sku, quantity, is_open, promised_for, created_at)
            VALUES (p_id, item.sku, owed, true, item.available_on, p_now);
            INSERT INTO stock_movement (sku, location_id, kind, on_hand_delta, reserved_delta,
                                        allocated_delta, backordered_delta, reason, reference_id,
                                        actor_id, occurred_at)
            VALUES (item.sku, NULL, 'backorder', 0, 0, 0, owed, '', p_id, p_actor, p_now);
        END IF;
        seen := seen || item.sku;
        wanted := wanted || (item.quantity - owed);
    END LOOP;
    IF cardinality(seen) < cardinality(p_skus) THEN
        RETURN (SELECT min(sku) FROM unnest(p_skus) AS w (sku) WHERE sku <> ALL (seen));
    END IF;
    FOR place IN SELECT * FROM stock_places(seen, wanted, p_destination) LOOP
        IF spot = 0 OR place.sku <> seen[spot] THEN
            ASSERT missing = 0, 'fewer units than the SKU says are free';
            spot := array_position(seen, place.sku);
            missing := wanted[spot];
        END IF;
        CONTINUE WHEN missing = 0;
        part := least(missing, place.available);
        INSERT INTO reservation_line (reservation_id, sku, location_id, quantity)
        VALUES (p_id, place.sku, place.location_id, part);
        INSERT INTO stock_movement (sku, location_id, kind, on_hand_delta, reserved_delta,
                                    allocated_delta, reason, reference_id, actor_id, occurred_at)
        VALUES (place.sku, place.location_id, 'reserve', 0, part, 0, '', p_id, p_actor, p_now);
        missing := missing - part;
    END LOOP;
    ASSERT missing = 0, 'fewer units than the SKU says are free';
    RETURN NULL;
END $$;

DROP FUNCTION stock_reserve(uuid, text[], integer[], timestamptz, uuid, timestamptz);

-- Hold units for an order, all or nothing; of a bundle, its parts. Returns null, or the SKU that
-- fell short, as the caller named it: the caller then rolls back. SKUs are distinct.
-- `p_destination` is where the order goes: {"country_code": …, "postal_code": …}.
CREATE FUNCTION stock_reserve(
    p_id uuid, p_skus text[], p_quantities integer[], p_expires_at timestamptz, p_actor uuid,
    p_now timestamptz, p_destination jsonb DEFAULT NULL
) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    skus text[] := p_skus;
    quantities integer[] := p_quantities;
    short text;
BEGIN
    INSERT INTO reservation (id, status, expires_at, created_at)
    VALUES (p_id, 'held', p_expires_at, p_now);
    INSERT INTO reservation_bundle (reservation_id, bundle_sku, part_sku, quantity)
    SELECT p_id, bundle_sku, part_sku, quantity FROM bundle_part WHERE bundle_sku = ANY (p_skus);
    IF FOUND THEN
        SELECT array_agg(sku), array_agg(quantity) INTO skus, quantities FROM (
            SELECT coalesce(b.part_sku, w.sku) AS sku,
                   sum(w.quantity * coalesce(b.quantity, 1))::integer AS quantity
            FROM unnest(p_skus, p_quantities) AS w (sku, quantity)
            LEFT JOIN bundle_part b ON b.bundle_sku = w.sku GROUP BY 1) AS part;
    END IF;
    short := stock_take(p_id, skus, quantities, p_actor, p_now, p_destination);
    IF short IS NULL OR short = ANY (p_skus) THEN RETURN short; END IF;
    RETURN (SELECT min(bundle_sku) FROM reservation_bundle
            WHERE reservation_id = p_id AND part_sku = short);
END $$;

-- Make a hold final. One that has lapsed takes its units anew, at today's stock and policy.
-- Returns null when done (or done before), or the SKU that is gone: then nothing changed.
CREATE FUNCTION stock_allocate(
    p_id uuid, p_actor uuid, p_now timestamptz, p_destination jsonb DEFAULT NULL
) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    was text;
    skus text[];
    quantities integer[];
    short text;
BEGIN
    SELECT status INTO was FROM reservation WHERE id = p_id FOR UPDATE;
    IF NOT FOUND THEN RAISE EXCEPTION '% never reserved', p_id; END IF;
    IF was IN ('allocated', 'shipped') THEN RETURN NULL; END IF;
    IF was IN ('released', 'expired') THEN
        SELECT array_agg(sku), array_agg(quantity) INTO skus, quantities FROM (
            SELECT sku, sum(quantity)::integer AS quantity FROM (
                SELECT sku, quantity FROM reservation_line WHERE reservation_id = p_id UNION ALL
                SELECT sku, quantity FROM backorder WHERE reservation_id = p_id AND quantity > 0
            ) AS unit GROUP BY sku) AS whole;
        BEGIN
            DELETE FROM reservation_line WHERE reservation_id = p_id;
            DELETE FROM backorder WHERE reservation_id = p_id;
            short := stock_take(p_id, skus, quantities, p_actor, p_now,
                                coalesce(p_destination, (SELECT shipping_address FROM orders
                                                         WHERE id = p_id)));
            IF short IS NOT NULL THEN RAISE SQLSTATE 'SK001'; END IF;
        EXCEPTION WHEN SQLSTATE 'SK001' THEN
            RETURN coalesce((SELECT min(bundle_sku) FROM reservation_bundle
                             WHERE reservation_id = p_id AND part_sku = short), short);
        END;
    END IF;
    UPDATE reservation SET status = 'allocated' WHERE id = p_id;
    INSERT INTO stock_movement (sku, location_id, kind, on_hand_delta, reserved_delta,
                                allocated_delta, reason, reference_id, actor_id, occurred_at)
    SELECT sku, location_id, 'allocate', 0, -quantity, quantity, '', p_id, p_actor, p_now
    FROM reservation_line WHERE reservation_id = p_id ORDER BY sku, location_id;
    IF EXISTS (SELECT 1 FROM backorder WHERE reservation_id = p_id AND is_open) THEN
        PERFORM stock_fill(array_agg(sku::text), p_actor, p_now) FROM backorder
        WHERE reservation_id = p_id AND is_open;
    END IF;
    RETURN NULL;
END $$;

-- Put an order's held or allocated units back on sale, and give them to those who wait.
-- `p_kind` is 'release', or 'expire', which lets go of a hold only, and only past its time.
-- Returns whether anything was let go.
CREATE FUNCTION stock_release(p_id uuid, p_kind text, p_actor uuid, p_now timestamptz)
RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
    was record;
    skus text[];
BEGIN
    ASSERT p_kind IN ('release', 'expire');
    SELECT status, expires_at INTO was FROM reservation WHERE id = p_id FOR UPDATE;
    IF NOT FOUND OR was.status NOT IN ('held', 'allocated') THEN RETURN false; END IF;
    IF p_kind = 'expire' AND (was.status <> 'held' OR was.expires_at > p_now) THEN
        RETURN false;
    END IF;
    UPDATE reservation SET status = CASE p_kind WHEN 'expire' THEN 'expired' ELSE 'released' END
    WHERE id = p_id;
    INSERT INTO stock_movement (sku, location_id, kind, on_hand_delta, reserved_delta,
                                allocated_delta, backordered_delta, reason, reference_id, actor_id,
                                occurred_at)
    SELECT sku, location_id, CASE was.status WHEN 'held' THEN p_kind ELSE 'deallocate' END, 0,
           CASE was.status WHEN 'held' THEN -quantity ELSE 0 END,
           CASE was.status WHEN 'held' THEN 0 ELSE -quantity END, owed, '', p_id, p_actor, p_now
    FROM (SELECT sku, location_id, quantity, 0 AS owed
          FROM reservation_line WHERE reservation_id = p_id
          UNION ALL
          SELECT sku, NULL, 0, -quantity FROM backorder WHERE reservation_id = p_id AND is_open
         ) AS unit ORDER BY sku, location_id;
    UPDATE backorder SET is_open = false WHERE reservation_id = p_id AND is_open;
    SELECT array_agg(i.sku::text) INTO skus
    FROM reservation_line l JOIN stock_item i ON i.sku = l.sku
    WHERE l.reservation_id = p_id AND i.backordered > 0;
    IF skus IS NOT NULL THEN PERFORM stock_fill(skus, p_actor, p_now); END IF;
    RETURN true;
END $$;

-- Units leave the building. Returns whether the reservation is shipped now: one that still waits
-- for units is not.
CREATE FUNCTION stock_ship(p_id uuid, p_actor uuid, p_now timestamptz) RETURNS boolean
LANGUAGE plpgsql AS $$
DECLARE
    was text;
BEGIN
    SELECT status INTO was FROM reservation WHERE id = p_id FOR UPDATE;
    IF was = 'shipped' THEN RETURN true; END IF;
    IF was IS DISTINCT FROM 'allocated'
       OR EXISTS (SELECT 1 FROM backorder WHERE reservation_id = p_id AND is_open) THEN
        RETURN false;
    END IF;
    UPDATE reservation SET status = 'shipped' WHERE id = p_id;
    INSERT INTO stock_movement (sku, location_id, kind, on_hand_delta, reserved_delta,
                                allocated_delta, reason, reference_id, actor_id, occurred_at)
    SELECT sku, location_id, 'ship', -quantity, 0, -quantity, '', p_id, p_actor, p_now
    FROM reservation_line WHERE reservation_id = p_id ORDER BY sku, location_id;
    RETURN true;
END $$;

-- Keep a live hold for longer. Returns when it lapses now, or null when there is none.
CREATE FUNCTION stock_extend(
    p_id uuid, p_until timestamptz, p_age_max interval, p_now timestamptz
) RETURNS timestamptz LANGUAGE sql AS $$
    UPDATE reservation
    SET expires_at = greatest(expires_at, least(p_until, created_at + p_age_max))
    WHERE id = p_id AND status = 'held' AND expires_at > p_now
    RETURNING expires_at
$$;

-- Give free units to those who wait for them, oldest first. Whoever is at work on the oldest
-- reservation right now fills it when it is done: waiting for it here could deadlock, and going
-- past it would be unfair. New orders never get units that are owed. It acts for the shop, not for
-- whoever set units free: the orders that wait are other people's.
CREATE FUNCTION stock_fill(p_skus text[], p_actor uuid, p_now timestamptz) RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
DECLARE
    item record;
    owed record;
    place record;
    part integer;
    filled integer := 0;
    units integer;
BEGIN
    FOR item IN SELECT sku::text AS sku, free FROM stock_item
                WHERE sku = ANY (p_skus) AND backordered > 0 AND free > 0
                ORDER BY sku FOR UPDATE
    LOOP
        WHILE item.free > 0 LOOP
            SELECT b.id, b.reservation_id, b.quantity INTO owed
            FROM backorder b JOIN reservation r ON r.id = b.reservation_id
            WHERE b.sku = item.sku AND b.is_open
              AND (r.status = 'allocated' OR r.expires_at > p_now)
            ORDER BY b.id LIMIT 1;
            EXIT WHEN NOT FOUND;
            PERFORM 1 FROM reservation WHERE id = owed.reservation_id FOR UPDATE SKIP LOCKED;
            EXIT WHEN NOT FOUND;
            units := 0;
            FOR place IN SELECT * FROM stock_places(
                ARRAY[item.sku], ARRAY[owed.quantity],
                (SELECT shipping_address FROM orders WHERE id = owed.reservation_id)) LOOP
                part := least(owed.quantity - units, place.available);
                EXIT WHEN part = 0;
                INSERT INTO reservation_line AS l (reservation_id, sku, location_id, quantity)
                VALUES (owed.reservation_id, item.sku, place.location_id, part)
                ON CONFLICT (reservation_id, sku, location_id)
                DO UPDATE SET quantity = l.quantity + part;
                INSERT INTO stock_movement (sku, location_id, kind, on_hand_delta, reserved_delta,
                                            allocated_delta, backordered_delta, reason,
                                            reference_id, actor_id, occurred_at)
                SELECT item.sku, place.location_id, 'fill', 0,
                       CASE status WHEN 'held' THEN part ELSE 0 END,
                       CASE status WHEN 'held' THEN 0 ELSE part END, -part, '', id, p_actor, p_now
                FROM reservation WHERE id = owed.reservation_id;
                units := units + part;
            END LOOP;
            UPDATE backorder SET quantity = quantity - units, is_open = quantity > units
            WHERE id = owed.id;
            INSERT INTO outbox (id, type, schema_version, aggregate_type, aggregate_id,
                                aggregate_seq, payload, actor_id, actor_role, occurred_at)
            SELECT gen_random_uuid(), 'BackorderFilled', 1, 'order', owed.reservation_id,
                   next_aggregate_seq(owed.reservation_id),
                   jsonb_build_object('order_id', owed.reservation_id, 'sku', item.sku,
                                      'quantity', units, 'open_quantity', owed.quantity - units),
                   p_actor, 'system', p_now;
            item.free := item.free - units;
            filled := filled + units;
        END LOOP;
    END LOOP;
    RETURN filled;
END $$;

-- Every counter that is not what the ledger says.
CREATE FUNCTION stock_differences() RETURNS TABLE (
    sku text, location_id uuid, counter text, stored bigint, ledger bigint
) LANGUAGE sql STABLE AS $$
    WITH summed AS MATERIALIZED (
        SELECT m.sku, m.location_id, sum(on_hand_delta) AS on_hand, sum(reserved_delta) AS reserved,
               sum(allocated_delta) AS allocated, sum(incoming_delta) AS incoming,
               sum(backordered_delta) AS backordered
        FROM stock_movement m GROUP BY m.sku, m.location_id
    ), level AS MATERIALIZED (
        SELECT coalesce(l.sku, m.sku) AS sku, coalesce(l.location_id, m.location_id) AS location_id,
               coalesce(l.on_hand, 0) AS on_hand, coalesce(l.reserved, 0) AS reserved,
               coalesce(l.allocated, 0) AS allocated, coalesce(l.incoming, 0) AS incoming,
               coalesce(m.on_hand, 0) AS on_hand_sum, coalesce(m.reserved, 0) AS reserved_sum,
               coalesce(m.allocated, 0) AS allocated_sum, coalesce(m.incoming, 0) AS incoming_sum,
               CASE WHEN p.is_active THEN greatest(coalesce(m.on_hand, 0) - coalesce(m.reserved, 0)
                   - coalesce(m.allocated, 0) - coalesce(l.safety_stock, 0), 0) ELSE 0 END AS free
        FROM stock_level l
        FULL JOIN (SELECT * FROM summed s WHERE s.location_id IS NOT NULL) m
          ON m.sku = l.sku AND m.location_id = l.location_id
        LEFT JOIN location p ON p.id = coalesce(l.location_id, m.location_id)
    ), item AS (
        SELECT coalesce(i.sku, s.sku) AS sku, coalesce(i.free, 0) AS free,
               coalesce(i.backordered, 0) AS backordered, coalesce(s.free, 0) AS free_sum,
               coalesce(s.backordered, 0) AS backordered_sum
        FROM stock_item i
        FULL JOIN (SELECT k.sku, sum(k.free) AS free, sum(k.backordered) AS backordered FROM (
                       SELECT v.sku, v.free, 0 AS backordered FROM level v UNION ALL
                       SELECT s.sku, 0, s.backordered FROM summed s) AS k GROUP BY k.sku) s
          ON s.sku = i.sku
    )
    SELECT v.sku, v.location_id, c.counter, c.stored, c.ledger FROM level v, LATERAL (VALUES
        ('on_hand', v.on_hand::bigint, v.on_hand_sum::bigint), ('reserved', v.reserved, v.reserved_sum),
        ('allocated', v.allocated, v.allocated_sum), ('incoming', v.incoming, v.incoming_sum)
    ) AS c (counter, stored, ledger) WHERE c.stored <> c.ledger
    UNION ALL
    SELECT i.sku, NULL, c.counter, c.stored, c.ledger FROM item i, LATERAL (VALUES
        ('free', i.free::bigint, i.free_sum::bigint), ('backordered', i.backordered, i.backordered_sum)
    ) AS c (counter, stored, ledger) WHERE c.stored <> c.ledger
$$;

-- Compare the counters with the ledger and, unless it is a dry run, make them equal. A trigger,
-- because the guards let only triggers write counters: the row says who did it, when and to what.
CREATE FUNCTION stock_rebuild_run() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    LOCK TABLE stock_movement IN SHARE ROW EXCLUSIVE MODE;
    NEW.differences := coalesce((SELECT jsonb_agg(to_jsonb(d) ORDER BY d.sku, d.counter)
                                 FROM stock_differences() d), '[]');
    IF NEW.is_dry_run OR NEW.differences = '[]' THEN RETURN NEW; END IF;
    INSERT INTO stock_item (sku)
    SELECT DISTINCT d.sku FROM stock_differences() d ON CONFLICT (sku) DO NOTHING;
    INSERT INTO stock_level (sku, location_id, on_hand, reserved, allocated, reorder_point)
    SELECT DISTINCT d.sku, d.location_id, 0, 0, 0, 0 FROM stock_differences() d
    WHERE d.location_id IS NOT NULL ON CONFLICT DO NOTHING;
    UPDATE stock_level l SET on_hand = m.on_hand, reserved = m.reserved, allocated = m.allocated,
                             incoming = m.incoming
    FROM (SELECT k.sku, k.location_id, coalesce(sum(s.on_hand_delta), 0) AS on_hand,
                 coalesce(sum(s.reserved_delta), 0) AS reserved,
                 coalesce(sum(s.allocated_delta), 0) AS allocated,
                 coalesce(sum(s.incoming_delta), 0) AS incoming
          FROM (SELECT DISTINCT d.sku, d.location_id FROM stock_differences() d
                WHERE d.location_id IS NOT NULL) k
          LEFT JOIN stock_movement s ON s.sku = k.sku AND s.location_id = k.location_id
          GROUP BY k.sku, k.location_id) m
    WHERE l.sku = m.sku AND l.location_id = m.location_id;
    UPDATE stock_item i SET free = d.ledger
    FROM stock_differences() d WHERE d.sku = i.sku AND d.counter = 'free';
    UPDATE stock_item i SET backordered = d.ledger
    FROM stock_differences() d WHERE d.sku = i.sku AND d.counter = 'backordered';
    ASSERT NOT EXISTS (SELECT 1 FROM stock_differences()), 'the counters still differ';
    RETURN NEW;
END $$;
CREATE TRIGGER stock_rebuild_run BEFORE INSERT ON stock_rebuild
    FOR EACH ROW EXECUTE FUNCTION stock_rebuild_run();
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE ON stock_rebuild
    FOR EACH ROW EXECUTE FUNCTION append_only();
