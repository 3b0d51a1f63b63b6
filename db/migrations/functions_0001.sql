-- What the tables cannot say by themselves: the writers of stock and numbers, and their guards.

-- The next place in an aggregate's own sequence; the row lock makes it gap-free.
CREATE FUNCTION next_aggregate_seq(p_aggregate uuid) RETURNS integer LANGUAGE sql AS $$
    INSERT INTO aggregate_counter AS c (aggregate_id, last_seq) VALUES (p_aggregate, 1)
    ON CONFLICT (aggregate_id) DO UPDATE SET last_seq = c.last_seq + 1
    RETURNING last_seq
$$;

CREATE FUNCTION outbox_notify() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_notify('outbox', '');
    RETURN NULL;
END $$;
CREATE TRIGGER outbox_notify AFTER INSERT ON outbox
    FOR EACH STATEMENT EXECUTE FUNCTION outbox_notify();

-- The only writer of stock levels. UPDATE comes first: an INSERT of negative deltas would be
-- refused by the checks before ON CONFLICT is even considered.
CREATE FUNCTION stock_movement_apply() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    LOOP
        UPDATE stock_level SET on_hand = on_hand + NEW.on_hand_delta,
                               reserved = reserved + NEW.reserved_delta,
                               allocated = allocated + NEW.allocated_delta
        WHERE sku = NEW.sku AND location_id = NEW.location_id;
        IF FOUND THEN RETURN NULL; END IF;
        BEGIN
            INSERT INTO stock_level (sku, location_id, on_hand, reserved, allocated, reorder_point)
            VALUES (NEW.sku, NEW.location_id, NEW.on_hand_delta, NEW.reserved_delta,
                    NEW.allocated_delta, 0);
            RETURN NULL;
        EXCEPTION WHEN unique_violation THEN
            NULL;  -- Another transaction made the row: update it.
        END;
    END LOOP;
END $$;
CREATE TRIGGER stock_movement_apply AFTER INSERT ON stock_movement
    FOR EACH ROW EXECUTE FUNCTION stock_movement_apply();

CREATE FUNCTION append_only() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION '% is append-only', TG_TABLE_NAME;
END $$;
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE ON stock_movement
    FOR EACH ROW EXECUTE FUNCTION append_only();
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE ON ledger_entry
    FOR EACH ROW EXECUTE FUNCTION append_only();

CREATE FUNCTION stock_level_guard() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF pg_trigger_depth() < 2 AND (TG_OP <> 'UPDATE' OR
        (NEW.on_hand, NEW.reserved, NEW.allocated) IS DISTINCT FROM
        (OLD.on_hand, OLD.reserved, OLD.allocated)) THEN
        RAISE EXCEPTION 'stock levels change through stock_movement only';
    END IF;
    RETURN coalesce(NEW, OLD);
END $$;
CREATE TRIGGER stock_level_guard BEFORE INSERT OR UPDATE OR DELETE ON stock_level
    FOR EACH ROW EXECUTE FUNCTION stock_level_guard();

-- Hold units for an order, all or nothing. Returns null, or the SKU that fell short; the caller
-- then rolls back. Rows are locked in (sku, location) order, so baskets queue and never deadlock.
-- A SKU comes from the best location that has enough of it, else from several in that order.
CREATE FUNCTION stock_reserve(
    p_id uuid, p_skus text[], p_quantities integer[], p_expires_at timestamptz, p_actor uuid,
    p_now timestamptz
) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    want record;
    place record;
    missing integer;
    take integer;
BEGIN
    INSERT INTO reservation (id, status, expires_at, created_at)
    VALUES (p_id, 'held', p_expires_at, p_now);
    PERFORM 1 FROM stock_level WHERE sku = ANY (p_skus) ORDER BY sku, location_id FOR UPDATE;
    FOR want IN SELECT sku, quantity FROM unnest(p_skus, p_quantities) AS w (sku, quantity)
                ORDER BY sku LOOP
        missing := want.quantity;
        FOR place IN
            SELECT l.location_id, l.on_hand - l.reserved - l.allocated AS free
            FROM stock_level l JOIN location p ON p.id = l.location_id
            WHERE l.sku = want.sku AND p.is_active AND l.on_hand - l.reserved - l.allocated > 0
            ORDER BY l.on_hand - l.reserved - l.allocated >= want.quantity DESC, p.priority, p.code
        LOOP
            EXIT WHEN missing = 0;
            take := least(missing, place.free);
            INSERT INTO reservation_line (reservation_id, sku, location_id, quantity)
            VALUES (p_id, want.sku, place.location_id, take);
            INSERT INTO stock_movement (sku, location_id, kind, on_hand_delta, reserved_delta,
                                        allocated_delta, reason, reference_id, actor_id, occurred_at)
            VALUES (want.sku, place.location_id, 'reserve', 0, take, 0, '', p_id, p_actor, p_now);
            missing := missing - take;
        END LOOP;
        IF missing > 0 THEN RETURN want.sku; END IF;
    END LOOP;
    RETURN NULL;
END $$;

CREATE FUNCTION ledger_balanced() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF EXISTS (SELECT 1 FROM ledger_entry WHERE transaction_id = NEW.transaction_id
               GROUP BY currency HAVING sum(amount) <> 0) THEN
        RAISE EXCEPTION 'ledger transaction % does not balance', NEW.transaction_id;
    END IF;
    RETURN NULL;
END $$;
CREATE CONSTRAINT TRIGGER ledger_balanced AFTER INSERT ON ledger_entry
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION ledger_balanced();
