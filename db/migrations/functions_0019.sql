-- The order gives up units and gets what the change has allocated; those who wait for the old
-- units are served, also where they were parts of a bundle the order gave up.
CREATE OR REPLACE FUNCTION stock_swap(
    p_id uuid, p_change uuid, p_skus text[], p_quantities integer[], p_actor uuid, p_now timestamptz
) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    freed text[] := ARRAY(
        SELECT coalesce(b.part_sku, w.sku)::text FROM unnest(p_skus) AS w (sku)
        LEFT JOIN reservation_bundle b ON b.reservation_id = p_id AND b.bundle_sku = w.sku);
BEGIN
    ASSERT (SELECT status FROM reservation WHERE id = p_change) = 'allocated', 'nothing to swap for';
    IF NOT stock_give_up(p_id, p_skus, p_quantities, p_actor, p_now) THEN
        RAISE EXCEPTION 'order % has reserved too few units', p_id;
    END IF;
    PERFORM stock_inherit(p_id, p_change);
    PERFORM stock_fill(array_agg(sku::text), p_actor, p_now) FROM stock_item
    WHERE backordered > 0 AND free > 0 AND sku = ANY (freed);
END $$;
