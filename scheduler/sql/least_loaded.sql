-- Least loaded: sched_fifo with another ORDER BY.
-- Returns the worker's id, or -1 when no worker has a free slot; then nothing was changed.
-- SKIP LOCKED takes a worker nobody else is choosing right now; only when there is none does the procedure wait for one.
CREATE OR REPLACE FUNCTION sched_least_loaded(in_key int4, in_task_id int8) RETURNS int4 LANGUAGE plpgsql AS $$
DECLARE
    chosen int4;
BEGIN
    SELECT worker_id INTO chosen FROM worker
        WHERE p_key = in_key AND capacity > 0
        ORDER BY capacity DESC LIMIT 1 FOR UPDATE SKIP LOCKED;
    IF NOT FOUND THEN
        SELECT worker_id INTO chosen FROM worker
            WHERE p_key = in_key AND capacity > 0
            ORDER BY capacity DESC LIMIT 1 FOR UPDATE;
        IF NOT FOUND THEN
            RETURN -1;
        END IF;
    END IF;
    UPDATE worker SET capacity = capacity - 1 WHERE p_key = in_key AND worker_id = chosen;
    INSERT INTO task (p_key, task_id, worker_id, state) VALUES (in_key, in_task_id, chosen, 1);
    RETURN chosen;
END
$$;
