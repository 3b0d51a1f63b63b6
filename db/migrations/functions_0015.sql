-- What is kept of all listed products together: the words of their titles and brands, and how many
-- are in each category. Listed is what is active and has a variant on sale.

-- The words of a text that a search may misspell: numbers are never corrected.
CREATE FUNCTION search_words(p_text text) RETURNS SETOF text LANGUAGE sql IMMUTABLE AS $$
    SELECT DISTINCT word FROM regexp_split_to_table(lower(p_text), '[^[:alnum:]]+') AS word
    WHERE length(word) BETWEEN 3 AND 40 AND word ~ '[[:alpha:]]'
$$;

-- Which share of the products matches a query at least, as far as the planner's statistics know:
-- of one lexeme its own, of several with OR the greatest, with AND what they must have in common.
CREATE FUNCTION search_share(p_query tsquery) RETURNS double precision
LANGUAGE plpgsql STABLE AS $$
DECLARE
    quoted constant text := $re$'(?:[^']|'')*'$re$;
    lexemes text[] := array(SELECT replace(btrim(m[1], $q$'$q$), $q$''$q$, $q$'$q$)
                            FROM regexp_matches(p_query::text, quoted, 'g') AS m);
    operators text := translate(regexp_replace(p_query::text, quoted, '', 'g'), ' ()', '');
BEGIN
    IF operators !~ '^(&*|[|]*)$' THEN RETURN 0; END IF;
    RETURN (
        SELECT CASE WHEN operators LIKE '&%'
                    THEN greatest(sum(coalesce(e.share, 0)) - cardinality(lexemes) + 1, 0)
                    ELSE max(coalesce(e.share, 0)) END
        FROM unnest(lexemes) AS l (lexeme)
        LEFT JOIN (SELECT e.lexeme, e.share
                   FROM pg_stats s, unnest(s.most_common_elems::text::text[],
                                           s.most_common_elem_freqs) AS e (lexeme, share)
                   WHERE s.schemaname = 'public' AND s.tablename = 'product'
                     AND s.attname = 'search') e ON e.lexeme = l.lexeme);
END $$;

CREATE FUNCTION listed_unit(p product, p_n integer) RETURNS jsonb LANGUAGE sql IMMUTABLE AS $$
    SELECT jsonb_build_object('n', p_n, 'words', p.title || ' ' || p.brand,
                              'category_id', p.category_id)
$$;

-- Every statement notes what it changes, in rows that only its own transaction ever sees. They are
-- added up when it commits: words first, then categories, each in order. Whatever a transaction has
-- done before, those are its last locks, so two of them queue and never deadlock.
CREATE FUNCTION product_listed() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    units jsonb;
BEGIN
    IF TG_OP = 'INSERT' THEN
        SELECT jsonb_agg(listed_unit(f, 1)) INTO units FROM fresh f
        WHERE f.status = 'active' AND f.sku IS NOT NULL;
    ELSIF TG_OP = 'UPDATE' THEN
        SELECT jsonb_agg(u.unit) INTO units
        FROM stale s JOIN fresh f ON f.id = s.id
        CROSS JOIN LATERAL (
            SELECT listed_unit(s, -1) AS unit WHERE s.status = 'active' AND s.sku IS NOT NULL
            UNION ALL
            SELECT listed_unit(f, 1) WHERE f.status = 'active' AND f.sku IS NOT NULL) u
        WHERE (s.title, s.brand, s.category_id, s.status, s.sku IS NULL)
              IS DISTINCT FROM (f.title, f.brand, f.category_id, f.status, f.sku IS NULL);
    ELSE
        SELECT jsonb_agg(listed_unit(s, -1)) INTO units FROM stale s
        WHERE s.status = 'active' AND s.sku IS NOT NULL;
    END IF;
    IF units IS NULL THEN RETURN NULL; END IF;
    WITH listed AS (
        SELECT * FROM jsonb_to_recordset(units) AS u (n integer, words text, category_id uuid)
    ), noted AS (
        SELECT w.word, NULL::uuid AS category_id, sum(l.n) AS products
        FROM listed l CROSS JOIN LATERAL search_words(l.words) AS w (word) GROUP BY w.word
        UNION ALL
        SELECT NULL, l.category_id, sum(l.n) FROM listed l
        WHERE l.category_id IS NOT NULL GROUP BY l.category_id
    )
    INSERT INTO catalog_change (changes)
    SELECT jsonb_agg(to_jsonb(noted)) FROM noted WHERE products <> 0 HAVING count(*) > 0;
    RETURN NULL;
END $$;
CREATE TRIGGER product_inserted AFTER INSERT ON product
    REFERENCING NEW TABLE AS fresh FOR EACH STATEMENT EXECUTE FUNCTION product_listed();
CREATE TRIGGER product_updated AFTER UPDATE ON product
    REFERENCING OLD TABLE AS stale NEW TABLE AS fresh
    FOR EACH STATEMENT EXECUTE FUNCTION product_listed();
CREATE TRIGGER product_deleted AFTER DELETE ON product
    REFERENCING OLD TABLE AS stale FOR EACH STATEMENT EXECUTE FUNCTION product_listed();

CREATE FUNCTION catalog_change_apply() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    all_changes jsonb;
BEGIN
    -- The first of a transaction's rows takes all of them.
    WITH taken AS (DELETE FROM catalog_change RETURNING changes)
    SELECT jsonb_agg(change) INTO all_changes
    FROM taken, jsonb_array_elements(taken.changes) AS change;
    IF all_changes IS NULL THEN RETURN NULL; END IF;
    INSERT INTO search_word AS w (word, products)
    SELECT c.word, sum(c.products)
    FROM jsonb_to_recordset(all_changes) AS c (word text, products integer)
    WHERE c.word IS NOT NULL GROUP BY c.word HAVING sum(c.products) <> 0 ORDER BY c.word
    ON CONFLICT (word) DO UPDATE SET products = w.products + excluded.products;
    PERFORM 1 FROM category WHERE id IN (
        SELECT c.category_id FROM jsonb_to_recordset(all_changes) AS c (category_id uuid)
    ) ORDER BY id FOR NO KEY UPDATE;
    UPDATE category k SET products = k.products + c.products
    FROM (SELECT category_id, sum(products) AS products
          FROM jsonb_to_recordset(all_changes) AS c (category_id uuid, products integer)
          GROUP BY category_id) c
    WHERE k.id = c.category_id AND c.products <> 0;
    RETURN NULL;
END $$;
CREATE CONSTRAINT TRIGGER catalog_change_apply AFTER INSERT ON catalog_change
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION catalog_change_apply();

INSERT INTO search_word (word, products)
SELECT w.word, count(*)
FROM product p CROSS JOIN LATERAL search_words(p.title || ' ' || p.brand) AS w (word)
WHERE p.status = 'active' AND p.sku IS NOT NULL GROUP BY w.word;

UPDATE category k SET products = c.products
FROM (SELECT category_id, count(*) AS products FROM product
      WHERE status = 'active' AND sku IS NOT NULL GROUP BY category_id) c
WHERE c.category_id = k.id;
