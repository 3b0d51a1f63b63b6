-- The only writer of credit accounts, and its guard; as stock_movement is of stock levels.
CREATE FUNCTION credit_movement_apply() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    UPDATE credit_account SET balance_amount = balance_amount + NEW.balance_delta,
                              held_amount = held_amount + NEW.held_delta
    WHERE id = NEW.account_id;
    RETURN NULL;
END $$;
CREATE TRIGGER credit_movement_apply AFTER INSERT ON credit_movement
    FOR EACH ROW EXECUTE FUNCTION credit_movement_apply();
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE ON credit_movement
    FOR EACH ROW EXECUTE FUNCTION append_only();

CREATE FUNCTION credit_account_guard() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF pg_trigger_depth() < 2 AND (
        (TG_OP = 'INSERT' AND (NEW.balance_amount, NEW.held_amount) <> (0, 0)) OR
        (TG_OP = 'UPDATE' AND (NEW.balance_amount, NEW.held_amount) IS DISTINCT FROM
                              (OLD.balance_amount, OLD.held_amount))) THEN
        RAISE EXCEPTION 'credit changes through credit_movement only';
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER credit_account_guard BEFORE INSERT OR UPDATE ON credit_account
    FOR EACH ROW EXECUTE FUNCTION credit_account_guard();
