-- Sends one message and returns its id, which grows by one with each message of the receiver.
--
-- A batch to one receiver is one statement with several calls, and so one transaction:
--     SELECT msg_send($1, $2, $3), msg_send($1, $2, $4), msg_send($1, $2, $5);
-- A fan-out is one pipelined statement per receiver.
CREATE OR REPLACE FUNCTION msg_send(in_receiver int8, in_sender int8, in_data bytea) RETURNS int8 LANGUAGE plpgsql AS $$
DECLARE
    id int8;
BEGIN
    INSERT INTO mailbox (receiver_id, last_id) VALUES (in_receiver, 1)
        ON CONFLICT (receiver_id) DO UPDATE SET last_id = mailbox.last_id + 1
        RETURNING last_id INTO id;
    INSERT INTO message (receiver_id, message_id, sender_id, data) VALUES (in_receiver, id, in_sender, in_data);
    RETURN id;
END
$$;
