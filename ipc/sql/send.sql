-- Sends one message and returns its id, which grows by one with each message of the receiver. 53400 if
-- mailbox.message_limit messages wait already; whether to try again is the sender's choice.
--
-- A batch to one receiver is one statement with several calls, and so one transaction:
--     SELECT msg_send($1, $2, $3), msg_send($1, $2, $4), msg_send($1, $2, $5);
CREATE OR REPLACE FUNCTION msg_send(in_receiver int8, in_sender int8, in_data bytea) RETURNS int8 LANGUAGE plpgsql AS $$
DECLARE
    box      record;
    in_place int8;
BEGIN
    INSERT INTO mailbox (receiver_id, last_id) VALUES (in_receiver, 1)
        ON CONFLICT (receiver_id) DO UPDATE SET last_id = mailbox.last_id + 1
        RETURNING last_id, message_limit INTO box;
    IF box.last_id > box.message_limit THEN
        -- Messages leave from the oldest on, so that those that wait have ids without gaps: one row tells whether so many do.
        SELECT q.message_id INTO in_place FROM message q
            WHERE q.receiver_id = in_receiver AND q.message_id = box.last_id - box.message_limit;
        IF in_place IS NOT NULL OR box.message_limit = 0 THEN
            RAISE EXCEPTION 'the mailbox of % is full: % messages wait', in_receiver, box.message_limit
                USING ERRCODE = '53400', HINT = 'send again when its receiver has emptied it, or raise mailbox.message_limit';
        END IF;
    END IF;
    INSERT INTO message (receiver_id, message_id, sender_id, data)
        VALUES (in_receiver, box.last_id, in_sender, in_data);
    RETURN box.last_id;
END
$$;

-- Sends the same message to several receivers in one transaction: to all or to none. Returns the ids, by receiver.
CREATE OR REPLACE FUNCTION msg_broadcast(in_receivers int8[], in_sender int8, in_data bytea)
RETURNS TABLE (receiver_id int8, message_id int8) LANGUAGE sql AS $$
    -- In one order, so that two broadcasts on PostgreSQL do not wait for each other's mailboxes.
    SELECT b.r, msg_send(b.r, in_sender, in_data)
        FROM (SELECT u.r FROM unnest(in_receivers) AS u(r) ORDER BY u.r) b
$$;
