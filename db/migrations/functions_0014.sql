-- The ledger's closing sums: what each account holds at the end of each day (UTC), so that a balance
-- adds up today's entries instead of all there ever were.

-- Close the first day that is not closed yet, if it is before `p_before`. Returns the day, or null
-- when there is none. Nobody books while a day is closed: the entries that are summed are then all
-- there are, and whoever books into that day afterwards finds it closed.
CREATE FUNCTION ledger_close_next(p_before date, p_now timestamptz) RETURNS date
LANGUAGE plpgsql AS $$
DECLARE
    last date;
    this date;
BEGIN
    SELECT max(day) INTO last FROM ledger_day;
    IF last >= p_before - 1 THEN RETURN NULL; END IF;
    LOCK TABLE ledger_entry IN SHARE ROW EXCLUSIVE MODE;
    SELECT max(day) INTO last FROM ledger_day;
    SELECT coalesce(last + 1, (min(occurred_at) AT TIME ZONE 'UTC')::date) INTO this
    FROM ledger_entry;
    IF this IS NULL OR this >= p_before THEN RETURN NULL; END IF;
    INSERT INTO ledger_day (day, closed_at) VALUES (this, p_now);
    INSERT INTO ledger_closing (day, account, currency, amount)
    SELECT this, account, currency, sum(amount)
    FROM (SELECT account, currency, amount FROM ledger_closing WHERE day = last
          UNION ALL
          SELECT account, currency, amount FROM ledger_entry
          WHERE occurred_at >= this::timestamp AT TIME ZONE 'UTC'
            AND occurred_at < (this + 1)::timestamp AT TIME ZONE 'UTC') AS booked
    GROUP BY account, currency;
    RETURN this;
END $$;

-- An entry of a day that is closed, from a clock that is slow or a process that was stopped in
-- between, is added to that day's sums and to all later ones. One at a time, so that two of them
-- cannot wait for each other's accounts.
CREATE FUNCTION ledger_entry_late() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    last date;
BEGIN
    SELECT max(day) INTO last FROM ledger_day;
    IF last IS NULL OR NOT EXISTS (
        SELECT 1 FROM fresh WHERE occurred_at < (last + 1)::timestamp AT TIME ZONE 'UTC'
    ) THEN
        RETURN NULL;
    END IF;
    PERFORM 1 FROM ledger_day WHERE day = last FOR UPDATE;
    INSERT INTO ledger_closing AS c (day, account, currency, amount)
    SELECT d.day, e.account, e.currency, sum(e.amount)
    FROM fresh e JOIN ledger_day d ON d.day >= (e.occurred_at AT TIME ZONE 'UTC')::date
    GROUP BY d.day, e.account, e.currency
    ON CONFLICT (day, account, currency) DO UPDATE SET amount = c.amount + excluded.amount;
    RETURN NULL;
END $$;
CREATE TRIGGER ledger_entry_late AFTER INSERT ON ledger_entry
    REFERENCING NEW TABLE AS fresh FOR EACH STATEMENT EXECUTE FUNCTION ledger_entry_late();
