-- Receives: oldest first, at most in_limit messages, after waiting up to in_wait_s seconds for the first one.

-- Reads and deletes in one transaction. Exactly once for callers whose session numbers requests (a retry gets the
-- first attempt's reply again); over a plain connection a lost reply loses its messages: use msg_receive_ack there.
CREATE OR REPLACE FUNCTION msg_receive(in_receiver int8, in_limit int4, in_wait_s float8)
RETURNS TABLE (message_id int8, sender_id int8, sent_at timestamptz, data bytea) LANGUAGE plpgsql AS $$
DECLARE
    m record;
BEGIN
    LOOP
        FOR m IN SELECT q.message_id, q.sender_id, q.sent_at, q.data FROM message q
                 WHERE q.receiver_id = in_receiver
                 ORDER BY q.message_id LIMIT in_limit FOR UPDATE
        LOOP
            message_id := m.message_id;
            sender_id := m.sender_id;
            sent_at := m.sent_at;
            data := m.data;
            RETURN NEXT;
        END LOOP;
        EXIT WHEN message_id IS NOT NULL;
        IF wait_for_change(in_wait_s) IS NOT TRUE THEN
            RETURN;
        END IF;
    END LOOP;
    -- Ids commit in order, so everything up to the last one read was read.
    DELETE FROM message q WHERE q.receiver_id = in_receiver AND q.message_id <= msg_receive.message_id;
END
$$;

-- Deletes what the caller says it has (ids up to in_ack_up_to; 0 for none) and returns what follows, without deleting
-- it: at least once over any connection, exactly once for a caller that remembers the last id it worked on.
CREATE OR REPLACE FUNCTION msg_receive_ack(in_receiver int8, in_ack_up_to int8, in_limit int4, in_wait_s float8)
RETURNS TABLE (message_id int8, sender_id int8, sent_at timestamptz, data bytea) LANGUAGE plpgsql AS $$
BEGIN
    DELETE FROM message q WHERE q.receiver_id = in_receiver AND q.message_id <= in_ack_up_to;
    LOOP
        RETURN QUERY SELECT q.message_id, q.sender_id, q.sent_at, q.data FROM message q
            WHERE q.receiver_id = in_receiver
            ORDER BY q.message_id LIMIT in_limit;
        EXIT WHEN FOUND OR wait_for_change(in_wait_s) IS NOT TRUE;
    END LOOP;
END
$$;

-- Number of messages waiting for one receiver. For all: SELECT receiver_id, count(*) FROM message GROUP BY receiver_id.
CREATE OR REPLACE FUNCTION msg_unread(in_receiver int8) RETURNS int8 LANGUAGE sql AS $$
    SELECT count(*) FROM message WHERE receiver_id = in_receiver
$$;
