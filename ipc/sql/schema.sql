-- Tables of the message service; the partition key is the receiver.

-- The last message id of each receiver. Its row lock makes message ids commit in order on PostgreSQL, so that an
-- acknowledgement up to some id never covers a message that was not seen yet.
CREATE TABLE IF NOT EXISTS mailbox (
    receiver_id   int8 NOT NULL PRIMARY KEY,
    last_id       int8 NOT NULL,
    -- So many messages may wait; a send past it is refused (53400), so that one dead receiver does not fill the cluster.
    -- An UPDATE changes it.
    message_limit int8 NOT NULL DEFAULT 100000 CHECK (message_limit >= 0)
);

-- Messages not received yet, in the order of message_id per receiver.
CREATE TABLE IF NOT EXISTS message (
    receiver_id int8        NOT NULL,
    message_id  int8        NOT NULL,
    sender_id   int8        NOT NULL,
    sent_at     timestamptz NOT NULL DEFAULT now(),
    data        bytea       NOT NULL,
    PRIMARY KEY (receiver_id, message_id)
);
