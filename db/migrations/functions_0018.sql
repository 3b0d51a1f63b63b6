-- Units that were shipped by mistake never left: they are allocated again, where they were. The
-- movement is the one of shipping, backwards, so that what was shipped sums up to what has left.
-- Returns whether the reservation is allocated now; one that was not shipped is left alone.
CREATE FUNCTION stock_unship(p_id uuid, p_actor uuid, p_now timestamptz) RETURNS boolean
LANGUAGE plpgsql AS $$
DECLARE
    was text;
BEGIN
    SELECT status INTO was FROM reservation WHERE id = p_id FOR UPDATE;
    IF was IS DISTINCT FROM 'shipped' THEN RETURN coalesce(was = 'allocated', false); END IF;
    UPDATE reservation SET status = 'allocated' WHERE id = p_id;
    INSERT INTO stock_movement (sku, location_id, kind, on_hand_delta, reserved_delta,
                                allocated_delta, reason, reference_id, actor_id, occurred_at)
    SELECT sku, location_id, 'ship', quantity, 0, quantity, 'It had not left.', p_id, p_actor, p_now
    FROM reservation_line WHERE reservation_id = p_id ORDER BY sku, location_id;
    RETURN true;
END $$;
