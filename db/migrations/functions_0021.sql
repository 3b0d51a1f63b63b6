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
                      version = i.version + 1, updated_at = p_now
    FROM cart f WHERE i.id = p_into AND f.id = p_from;
    INSERT INTO cart_credit AS k (cart_id, account_id, seen_amount)
    SELECT p_into, account_id, seen_amount FROM cart_credit WHERE cart_id = p_from AND is_chosen
    ON CONFLICT (cart_id, account_id) DO UPDATE
    SET is_chosen = true, seen_amount = excluded.seen_amount WHERE NOT k.is_chosen;
    UPDATE cart SET status = 'merged', updated_at = p_now WHERE id = p_from;
END $$;
