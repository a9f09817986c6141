-- FIFO over two keys: the worker comes from in_key, the task goes to in_other. When the two keys are of different
-- partitions, this is the transaction that the papers call multi-partition.
CREATE OR REPLACE FUNCTION bench_fifo_two_keys(in_key int4, in_other int4, in_task_id int8) RETURNS int4
LANGUAGE plpgsql AS $$
DECLARE
    chosen int4;
BEGIN
    SELECT worker_id INTO chosen FROM worker
        WHERE p_key = in_key AND capacity > 0
        ORDER BY worker_id LIMIT 1 FOR UPDATE;
    IF NOT FOUND THEN
        RETURN -1;
    END IF;
    UPDATE worker SET capacity = capacity - 1 WHERE p_key = in_key AND worker_id = chosen;
    INSERT INTO task (p_key, task_id, worker_id, state) VALUES (in_other, in_task_id, chosen, 1);
    RETURN chosen;
END
$$;
