-- For servers without it (kernel-db has it built in and skips this one). There a transaction that calls it is undone,
-- parked at its partition, and run again from the start when what it has read is changed. Here it sleeps, and the caller's
-- next query looks again. True: look again; false: in_wait_s seconds are over since the statement began.
--
-- So a procedure that waits must not hold locks of rows while it does: here they would last as long as the wait.
CREATE OR REPLACE FUNCTION wait_for_change(in_wait_s float8) RETURNS bool LANGUAGE plpgsql STRICT AS $$
BEGIN
    IF extract(epoch FROM clock_timestamp() - statement_timestamp()) >= in_wait_s THEN
        RETURN false;
    END IF;
    PERFORM pg_sleep(0.002);
    RETURN true;
END
$$;
