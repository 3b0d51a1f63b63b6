-- Credit as a payment provider: each function is one call of the gateway, in one transaction of its
-- own. The account's row lock makes calls on one account queue, so that a key is looked up after
-- whoever used it first has committed; a repeated call gets the first answer.

CREATE FUNCTION credit_answer(
    p_key text, p_kind text, p_hold uuid, p_amount bigint, p_currency text, p_decline text,
    p_now timestamptz
) RETURNS credit_call LANGUAGE sql AS $$
    INSERT INTO credit_call (key, kind, hold_id, amount, currency, decline_code, occurred_at)
    VALUES (p_key, p_kind, p_hold, p_amount, p_currency, p_decline, p_now)
    RETURNING *
$$;

-- A key belongs to one call: the same key with other content is a bug of the caller, not an answer.
CREATE FUNCTION credit_answered(p_key text, p_kind text, p_amount bigint)
RETURNS SETOF credit_call LANGUAGE plpgsql AS $$
DECLARE
    said credit_call;
BEGIN
    SELECT * INTO said FROM credit_call WHERE key = p_key;
    IF NOT FOUND THEN RETURN; END IF;
    IF said.kind <> p_kind OR said.amount <> p_amount THEN
        RAISE EXCEPTION 'credit key % was used for another call', p_key;
    END IF;
    RETURN NEXT said;
END $$;

-- Hold `p_amount` of what can be spent. `p_hold` names the new hold.
CREATE FUNCTION credit_authorize(
    p_key text, p_hold uuid, p_account uuid, p_amount bigint, p_currency text, p_now timestamptz
) RETURNS credit_call LANGUAGE plpgsql AS $$
DECLARE
    account credit_account;
    said credit_call;
    refusal text;
BEGIN
    SELECT * INTO account FROM credit_account WHERE id = p_account FOR UPDATE;
    SELECT * INTO said FROM credit_answered(p_key, 'authorize', p_amount);
    IF FOUND THEN RETURN said; END IF;
    refusal := CASE
        WHEN account.id IS NULL THEN 'no_such_account'
        WHEN account.currency <> p_currency THEN 'currency_mismatch'
        WHEN NOT account.is_active THEN 'inactive'
        WHEN account.expires_at <= p_now THEN 'expired'
        WHEN account.balance_amount - account.held_amount < p_amount THEN 'insufficient_funds'
    END;
    IF refusal IS NOT NULL THEN
        RETURN credit_answer(p_key, 'authorize', NULL, p_amount, p_currency, refusal, p_now);
    END IF;
    INSERT INTO credit_hold (id, account_id, authorized_amount, captured_amount, released_amount,
                             refunded_amount, currency, created_at)
    VALUES (p_hold, p_account, p_amount, 0, 0, 0, p_currency, p_now);
    INSERT INTO credit_movement (account_id, balance_delta, held_delta, key, reason, reference_id,
                                 occurred_at)
    VALUES (p_account, 0, p_amount, p_key, 'held', p_hold, p_now);
    RETURN credit_answer(p_key, 'authorize', p_hold, p_amount, p_currency, NULL, p_now);
END $$;

-- Take `p_amount` of a hold. A final capture releases the rest; one that takes all is final.
CREATE FUNCTION credit_capture(
    p_key text, p_hold uuid, p_amount bigint, p_currency text, p_is_final boolean,
    p_now timestamptz
) RETURNS credit_call LANGUAGE plpgsql AS $$
DECLARE
    hold credit_hold;
    said credit_call;
    refusal text;
    rest bigint;
BEGIN
    PERFORM 1 FROM credit_account
      WHERE id = (SELECT account_id FROM credit_hold WHERE id = p_hold) FOR UPDATE;
    SELECT * INTO said FROM credit_answered(p_key, 'capture', p_amount);
    IF FOUND THEN RETURN said; END IF;
    SELECT * INTO hold FROM credit_hold WHERE id = p_hold;
    rest := hold.authorized_amount - hold.captured_amount - hold.released_amount - p_amount;
    refusal := CASE
        WHEN hold.id IS NULL THEN 'no_such_hold'
        WHEN hold.currency <> p_currency THEN 'currency_mismatch'
        WHEN p_amount <= 0 OR rest < 0 THEN 'amount_too_large'
    END;
    IF refusal IS NOT NULL THEN
        RETURN credit_answer(p_key, 'capture', hold.id, p_amount, p_currency, refusal, p_now);
    END IF;
    rest := CASE WHEN p_is_final THEN rest ELSE 0 END;
    UPDATE credit_hold SET captured_amount = captured_amount + p_amount,
                           released_amount = released_amount + rest
      WHERE id = p_hold;
    INSERT INTO credit_movement (account_id, balance_delta, held_delta, key, reason, reference_id,
                                 occurred_at)
    VALUES (hold.account_id, -p_amount, -(p_amount + rest), p_key, 'spent', p_hold, p_now);
    RETURN credit_answer(p_key, 'capture', p_hold, p_amount, p_currency, NULL, p_now);
END $$;

-- Release what is left of a hold. Releasing nothing is no error: the goal is reached.
CREATE FUNCTION credit_void(p_key text, p_hold uuid, p_now timestamptz)
RETURNS credit_call LANGUAGE plpgsql AS $$
DECLARE
    hold credit_hold;
    said credit_call;
    rest bigint;
BEGIN
    PERFORM 1 FROM credit_account
      WHERE id = (SELECT account_id FROM credit_hold WHERE id = p_hold) FOR UPDATE;
    SELECT * INTO said FROM credit_answered(p_key, 'void', 0);
    IF FOUND THEN RETURN said; END IF;
    SELECT * INTO hold FROM credit_hold WHERE id = p_hold;
    IF NOT FOUND THEN
        RETURN credit_answer(p_key, 'void', NULL, 0, 'XXX', 'no_such_hold', p_now);
    END IF;
    rest := hold.authorized_amount - hold.captured_amount - hold.released_amount;
    IF rest > 0 THEN
        UPDATE credit_hold SET released_amount = released_amount + rest WHERE id = p_hold;
        INSERT INTO credit_movement (account_id, balance_delta, held_delta, key, reason,
                                     reference_id, occurred_at)
        VALUES (hold.account_id, 0, -rest, p_key, 'released', p_hold, p_now);
    END IF;
    RETURN credit_answer(p_key, 'void', p_hold, 0, hold.currency, NULL, p_now);
END $$;

-- Put back what was captured of a hold, also on an account that has lapsed since.
CREATE FUNCTION credit_refund(
    p_key text, p_hold uuid, p_amount bigint, p_currency text, p_now timestamptz
) RETURNS credit_call LANGUAGE plpgsql AS $$
DECLARE
    hold credit_hold;
    said credit_call;
    refusal text;
BEGIN
    PERFORM 1 FROM credit_account
      WHERE id = (SELECT account_id FROM credit_hold WHERE id = p_hold) FOR UPDATE;
    SELECT * INTO said FROM credit_answered(p_key, 'refund', p_amount);
    IF FOUND THEN RETURN said; END IF;
    SELECT * INTO hold FROM credit_hold WHERE id = p_hold;
    refusal := CASE
        WHEN hold.id IS NULL THEN 'no_such_hold'
        WHEN hold.currency <> p_currency THEN 'currency_mismatch'
        WHEN p_amount <= 0 OR hold.refunded_amount + p_amount > hold.captured_amount
            THEN 'amount_too_large'
    END;
    IF refusal IS NOT NULL THEN
        RETURN credit_answer(p_key, 'refund', hold.id, p_amount, p_currency, refusal, p_now);
    END IF;
    UPDATE credit_hold SET refunded_amount = refunded_amount + p_amount WHERE id = p_hold;
    INSERT INTO credit_movement (account_id, balance_delta, held_delta, key, reason, reference_id,
                                 occurred_at)
    VALUES (hold.account_id, p_amount, 0, p_key, 'refunded', p_hold, p_now);
    RETURN credit_answer(p_key, 'refund', p_hold, p_amount, p_currency, NULL, p_now);
END $$;
