-- Units of an order that become other units: what is new was held under the change's own id.

-- Lock the SKUs a change touches, of bundles their parts, before anything else moves: in SKU order,
-- as everybody does.
CREATE FUNCTION stock_lock(p_order uuid, p_skus text[]) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    PERFORM 1 FROM stock_item WHERE sku IN (
        SELECT unnest(p_skus) UNION
        SELECT part_sku FROM bundle_part WHERE bundle_sku = ANY (p_skus) UNION
        SELECT part_sku FROM reservation_bundle
        WHERE reservation_id = p_order AND bundle_sku = ANY (p_skus)
    ) ORDER BY sku FOR UPDATE;
END $$;

-- Take units out of a reservation: what it still waits for first, then what it has. Allocated units
-- go back on sale; shipped ones only change hands. Returns false when it has fewer.
CREATE FUNCTION stock_give_up(
    p_id uuid, p_skus text[], p_quantities integer[], p_actor uuid, p_now timestamptz
) RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
    was text;
    want record;
    place record;
    owed record;
    missing integer;
    part integer;
BEGIN
    SELECT status INTO was FROM reservation WHERE id = p_id FOR UPDATE;
    FOR want IN
        SELECT coalesce(b.part_sku, w.sku)::text AS sku,
               sum(w.quantity * coalesce(b.quantity, 1))::integer AS quantity
        FROM unnest(p_skus, p_quantities) AS w (sku, quantity)
        LEFT JOIN reservation_bundle b ON b.reservation_id = p_id AND b.bundle_sku = w.sku
        GROUP BY 1 ORDER BY 1
    LOOP
        missing := want.quantity;
        SELECT b.id, b.quantity INTO owed FROM backorder b
        WHERE b.reservation_id = p_id AND b.sku = want.sku AND b.is_open FOR UPDATE;
        IF FOUND THEN
            part := least(missing, owed.quantity);
            UPDATE backorder SET quantity = quantity - part, is_open = quantity > part
            WHERE id = owed.id;
            INSERT INTO stock_movement (sku, location_id, kind, on_hand_delta, reserved_delta,
                                        allocated_delta, backordered_delta, reason, reference_id,
                                        actor_id, occurred_at)
            VALUES (want.sku, NULL, 'release', 0, 0, 0, -part, '', p_id, p_actor, p_now);
            missing := missing - part;
        END IF;
        FOR place IN SELECT location_id, quantity FROM reservation_line
                     WHERE reservation_id = p_id AND sku = want.sku
                     ORDER BY quantity DESC, location_id
        LOOP
            EXIT WHEN missing = 0;
            part := least(missing, place.quantity);
            IF part = place.quantity THEN
                DELETE FROM reservation_line WHERE reservation_id = p_id AND sku = want.sku
                                               AND location_id = place.location_id;
            ELSE
                UPDATE reservation_line SET quantity = quantity - part
                WHERE reservation_id = p_id AND sku = want.sku AND location_id = place.location_id;
            END IF;
            IF was = 'allocated' THEN
                INSERT INTO stock_movement (sku, location_id, kind, on_hand_delta, reserved_delta,
                                            allocated_delta, reason, reference_id, actor_id,
                                            occurred_at)
                VALUES (want.sku, place.location_id, 'deallocate', 0, 0, -part, '', p_id, p_actor,
                        p_now);
            END IF;
            missing := missing - part;
        END LOOP;
        IF missing > 0 THEN RETURN false; END IF;
    END LOOP;
    RETURN true;
END $$;

-- Let a reservation have what another one holds, which is then gone. No movement: the counters do
-- not care whose the units are.
CREATE FUNCTION stock_inherit(p_id uuid, p_change uuid) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    DELETE FROM reservation_bundle b WHERE b.reservation_id = p_id
       AND EXISTS (SELECT 1 FROM reservation_bundle c
                   WHERE c.reservation_id = p_change AND c.bundle_sku = b.bundle_sku);
    UPDATE reservation_bundle SET reservation_id = p_id WHERE reservation_id = p_change;
    INSERT INTO reservation_line AS l (reservation_id, sku, location_id, quantity)
    SELECT p_id, sku, location_id, quantity FROM reservation_line WHERE reservation_id = p_change
    ON CONFLICT (reservation_id, sku, location_id)
    DO UPDATE SET quantity = l.quantity + excluded.quantity;
    UPDATE backorder b SET quantity = b.quantity + c.quantity, is_open = b.is_open OR c.is_open
    FROM backorder c
    WHERE c.reservation_id = p_change AND b.reservation_id = p_id AND b.sku = c.sku;
    UPDATE backorder c SET reservation_id = p_id WHERE c.reservation_id = p_change
       AND NOT EXISTS (SELECT 1 FROM backorder b WHERE b.reservation_id = p_id AND b.sku = c.sku);
    DELETE FROM reservation WHERE id = p_change;
END $$;

-- The order gives up units and gets what the change has allocated; those who wait for the old
-- units are served.
CREATE FUNCTION stock_swap(
    p_id uuid, p_change uuid, p_skus text[], p_quantities integer[], p_actor uuid, p_now timestamptz
) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    ASSERT (SELECT status FROM reservation WHERE id = p_change) = 'allocated', 'nothing to swap for';
    IF NOT stock_give_up(p_id, p_skus, p_quantities, p_actor, p_now) THEN
        RAISE EXCEPTION 'order % has reserved too few units', p_id;
    END IF;
    PERFORM stock_inherit(p_id, p_change);
    PERFORM stock_fill(array_agg(sku::text), p_actor, p_now) FROM stock_item
    WHERE backordered > 0 AND free > 0 AND sku = ANY (p_skus);
END $$;
