-- A chat turn begins and ends with one statement each, since every message pays for them.

-- Begin a turn in the ordinary case, as one statement: number it, tell of it, drop old events, and
-- return what the agents remember. A conversation without a row yet is opened for its owner. Where
-- anything is out of the ordinary (absent, somebody else's, one runs already, too many run, an id
-- used before) nothing is written and no row returned: the caller finds out what it is.
CREATE FUNCTION chat_begin(
    of_conversation uuid, is_new boolean, of_turn uuid, of_user uuid, of_secret text,
    new_title text, said text, over_channel text, by_runner integer, of_trace text, at timestamptz,
    running_max integer, turns_kept integer)
RETURNS TABLE (turn_number integer, first_number integer, remembered jsonb)
LANGUAGE plpgsql AS $$
DECLARE
    found_row conversation;
BEGIN
    IF is_new THEN
        found_row.turn_count := 0;
        found_row.event_count := 0;
        found_row.state := '{}';
    ELSE
        SELECT * INTO found_row FROM conversation c
        WHERE c.id = of_conversation
          AND CASE WHEN c.user_id IS NULL THEN c.secret_sha256 = of_secret
                   ELSE c.user_id = of_user END
        FOR UPDATE;
        IF NOT FOUND THEN
            RETURN;
        END IF;
    END IF;
    IF EXISTS (SELECT 1 FROM chat_turn t WHERE t.id = of_turn
                  OR t.conversation_id = of_conversation AND t.state = 'running')
       OR running_max <= (
           SELECT count(*) FROM chat_turn t JOIN conversation c ON c.id = t.conversation_id
           WHERE t.state = 'running'
             AND (c.user_id = of_user OR c.user_id IS NULL AND c.secret_sha256 = of_secret)) THEN
        RETURN;
    END IF;
    IF is_new THEN
        INSERT INTO conversation (id, user_id, secret_sha256, title, state, turn_count, event_count,
                                  created_at, updated_at)
        VALUES (of_conversation, of_user, CASE WHEN of_user IS NULL THEN of_secret END, new_title,
                '{}', 1, 0, at, at);
    ELSE
        UPDATE conversation SET turn_count = turn_count + 1, updated_at = at
        WHERE id = of_conversation;
    END IF;
    turn_number := found_row.turn_count + 1;
    first_number := found_row.event_count + 1;
    remembered := found_row.state;
    INSERT INTO chat_turn (id, conversation_id, number, asked, reply, cards, approvals, state,
                           channel, runner, first_event, trace_id, created_at)
    VALUES (of_turn, of_conversation, turn_number, said, '', '[]', '[]', 'running', over_channel,
            by_runner, first_number, of_trace, at);
    PERFORM chat_append(of_conversation, of_turn, jsonb_build_array(jsonb_build_object(
        'name', 'turn',
        'data', jsonb_build_object('id', of_turn, 'number', turn_number, 'text', said))), at);
    IF turn_number > turns_kept THEN
        DELETE FROM chat_event WHERE conversation_id = of_conversation AND number < (
            SELECT t.first_event FROM chat_turn t
            WHERE t.conversation_id = of_conversation AND t.number = turn_number - turns_kept);
    END IF;
    RETURN NEXT;
END $$;

-- End a turn in the ordinary case, as one statement, and return the number of its last event. Where
-- the turn runs no more, or the conversation got another turn meanwhile so that `new_state` was not
-- made of its state, nothing is written and the answer is null.
CREATE FUNCTION chat_finish(
    of_conversation uuid, of_turn uuid, of_number integer, events jsonb, at timestamptz,
    new_turn_state text, new_reply text, new_cards jsonb, new_approvals jsonb, new_error text,
    new_state jsonb)
RETURNS integer LANGUAGE plpgsql AS $$
DECLARE
    last integer;
BEGIN
    PERFORM 1 FROM conversation WHERE id = of_conversation AND turn_count = of_number
    FOR NO KEY UPDATE;
    IF NOT FOUND THEN
        RETURN NULL;
    END IF;
    SELECT last_number INTO last FROM chat_append(of_conversation, of_turn, events, at);
    IF last IS NULL THEN
        RETURN NULL;
    END IF;
    UPDATE chat_turn SET state = new_turn_state, finished_at = at, error_code = new_error,
                         reply = new_reply, cards = new_cards, approvals = new_approvals
    WHERE id = of_turn;
    UPDATE conversation SET state = new_state, updated_at = at WHERE id = of_conversation;
    RETURN last;
END $$;
