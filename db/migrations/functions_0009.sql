-- Catalogue: what a card shows of a product's variants is kept on the product, so that a list sorted
-- by price reads an index instead of every variant of the shop.

-- The cheapest active variant prices a product; ties break by position, then SKU. The rows are
-- locked first: of two writers of one product the second then sees what the first committed.
CREATE FUNCTION product_price_cards(p_products uuid[]) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    PERFORM 1 FROM product WHERE id = ANY(p_products) ORDER BY id FOR NO KEY UPDATE;
    UPDATE product p
       SET sku = v.sku, price_amount = v.price_amount, currency = v.currency,
           variant_count = coalesce(v.variant_count, 0)
      FROM unnest(p_products) AS touched(id)
      LEFT JOIN LATERAL (
           SELECT x.sku, x.price_amount, x.currency, count(*) OVER ()::integer AS variant_count
             FROM variant x WHERE x.product_id = touched.id AND x.is_active
            ORDER BY x.price_amount, x.position, x.sku LIMIT 1
      ) v ON true
     WHERE p.id = touched.id
       AND (p.sku, p.price_amount, p.currency, p.variant_count)
           IS DISTINCT FROM (v.sku, v.price_amount, v.currency, coalesce(v.variant_count, 0));
END $$;

CREATE FUNCTION variant_priced() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'INSERT' THEN
        PERFORM product_price_cards(array(SELECT DISTINCT product_id FROM fresh));
    ELSIF TG_OP = 'UPDATE' THEN
        PERFORM product_price_cards(
            array(SELECT product_id FROM stale UNION SELECT product_id FROM fresh));
    ELSE
        PERFORM product_price_cards(array(SELECT DISTINCT product_id FROM stale));
    END IF;
    RETURN NULL;
END $$;

CREATE TRIGGER variant_inserted AFTER INSERT ON variant
    REFERENCING NEW TABLE AS fresh FOR EACH STATEMENT EXECUTE FUNCTION variant_priced();

CREATE TRIGGER variant_updated AFTER UPDATE ON variant
    REFERENCING OLD TABLE AS stale NEW TABLE AS fresh
    FOR EACH STATEMENT EXECUTE FUNCTION variant_priced();

CREATE TRIGGER variant_deleted AFTER DELETE ON variant
    REFERENCING OLD TABLE AS stale FOR EACH STATEMENT EXECUTE FUNCTION variant_priced();

SELECT product_price_cards(array(SELECT id FROM product));
