-- Conversations and their turns. Whoever changes either locks the conversation first, so that the
-- numbers of events follow the commit order and nothing deadlocks.

-- Append events under the next numbers and return the last one. For a turn, only while it runs:
-- otherwise nothing is written and no row is returned, and its process has to stop. `is_cancelled`
-- tells that somebody asked it to.
CREATE FUNCTION chat_append(of_conversation uuid, of_turn uuid, events jsonb, at timestamptz)
RETURNS TABLE (last_number integer, is_cancelled boolean) LANGUAGE plpgsql AS $$
DECLARE
    asked_at timestamptz;
BEGIN
    PERFORM 1 FROM conversation WHERE id = of_conversation FOR NO KEY UPDATE;
    IF of_turn IS NOT NULL THEN
        UPDATE chat_turn SET heartbeat_at = clock_timestamp()
        WHERE id = of_turn AND state = 'running'
        RETURNING cancel_requested_at INTO asked_at;
        IF NOT FOUND THEN
            RETURN;
        END IF;
    END IF;
    UPDATE conversation SET event_count = event_count + jsonb_array_length(events)
    WHERE id = of_conversation RETURNING event_count INTO last_number;
    IF NOT FOUND THEN
        RETURN;
    END IF;
    INSERT INTO chat_event (conversation_id, number, turn_id, name, data, occurred_at)
    SELECT of_conversation, last_number - jsonb_array_length(events) + item.position::integer,
           of_turn, item.value ->> 'name', item.value -> 'data', at
    FROM jsonb_array_elements(events) WITH ORDINALITY AS item (value, position);
    is_cancelled := asked_at IS NOT NULL;
    RETURN NEXT;
END $$;

-- Whether the process that runs a turn is gone: it no longer holds its lock, or, where a dead
-- machine left the connection open, has not been heard of for a minute.
CREATE FUNCTION chat_is_orphan(of_runner integer, heard_at timestamptz)
RETURNS boolean LANGUAGE sql VOLATILE AS $$
    SELECT of_runner IS NULL OR heard_at < clock_timestamp() - interval '60 seconds'
        OR pg_try_advisory_xact_lock_shared(7408, of_runner);
$$;
