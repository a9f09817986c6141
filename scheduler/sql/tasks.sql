-- A task's way without a placement policy: submitted, then pushed to a worker or pulled by one, then finished.

-- Queues a task without a worker. False: a task of this id exists already; submitting twice is harmless.
CREATE OR REPLACE FUNCTION sched_submit(in_key int4, in_task_id int8, in_command text) RETURNS bool
LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO task (p_key, task_id, command) VALUES (in_key, in_task_id, in_command) ON CONFLICT DO NOTHING;
    RETURN FOUND;
END
$$;

-- Push: gives a submitted task to the first worker with a free slot, as running. The caller then calls the worker's
-- url. No row: no worker has a free slot, or the task is not waiting.
CREATE OR REPLACE FUNCTION sched_push(in_key int4, in_task_id int8)
RETURNS TABLE (worker_id int4, url text, command text) LANGUAGE plpgsql AS $$
BEGIN
    SELECT w.worker_id, w.url INTO worker_id, url FROM worker w
        WHERE w.p_key = in_key AND w.capacity > 0
        ORDER BY w.worker_id LIMIT 1 FOR UPDATE;
    IF NOT FOUND THEN
        RETURN;
    END IF;
    UPDATE task SET worker_id = sched_push.worker_id, state = 2, attempts = task.attempts + 1, started_at = now()
        WHERE task.p_key = in_key AND task.task_id = in_task_id AND task.worker_id = -1 AND task.state = 1
        RETURNING task.command INTO command;
    IF NOT FOUND THEN
        RETURN;
    END IF;
    UPDATE worker SET capacity = worker.capacity - 1
        WHERE worker.p_key = in_key AND worker.worker_id = sched_push.worker_id;
    RETURN NEXT;
END
$$;

-- Pull: a worker takes up to in_limit tasks, after waiting up to in_wait_s seconds for the first one: first those a policy
-- placed on it (their slot is already taken), then unassigned ones as far as its own free slots go. All come back as
-- running. None may also come back early: another worker was quicker, or this one takes no more (sched_drain).
-- P0002: there is no such worker; it was reaped, and has to register again.
CREATE OR REPLACE FUNCTION sched_pull(in_key int4, in_worker_id int4, in_limit int4, in_wait_s float8)
RETURNS TABLE (task_id int8, command text, attempts int4) LANGUAGE plpgsql AS $$
DECLARE
    free   int4;
    of_all int4;
    taken  int4 := 0;
    fresh  int4 := 0;
    t      record;
BEGIN
    -- Looks without locks, which on PostgreSQL would be held as long as this waits.
    LOOP
        SELECT w.capacity, w.slots INTO free, of_all FROM worker w
            WHERE w.p_key = in_key AND w.worker_id = in_worker_id;
        IF NOT FOUND THEN
            RAISE EXCEPTION 'worker % of key % is not registered', in_worker_id, in_key
                USING ERRCODE = 'P0002', HINT = 'sched_register registers it';
        END IF;
        EXIT WHEN EXISTS (SELECT 1 FROM task q WHERE q.p_key = in_key AND q.worker_id = in_worker_id AND q.state = 1);
        EXIT WHEN free > 0
            AND EXISTS (SELECT 1 FROM task q WHERE q.p_key = in_key AND q.worker_id = -1 AND q.state = 1);
        EXIT WHEN of_all = 0;
        IF wait_for_change(in_wait_s) IS NOT TRUE THEN
            RETURN;
        END IF;
    END LOOP;
    SELECT w.capacity INTO free FROM worker w
        WHERE w.p_key = in_key AND w.worker_id = in_worker_id FOR UPDATE;
    IF NOT FOUND THEN
        RETURN;
    END IF;
    FOR t IN SELECT q.task_id, q.command, q.attempts FROM task q
             WHERE q.p_key = in_key AND q.worker_id = in_worker_id AND q.state = 1
             ORDER BY q.task_id LIMIT in_limit FOR UPDATE
    LOOP
        -- Not now(), which on PostgreSQL is when the waiting began.
        UPDATE task SET state = 2, attempts = task.attempts + 1, started_at = clock_timestamp()
            WHERE task.p_key = in_key AND task.task_id = t.task_id;
        task_id := t.task_id;
        command := t.command;
        attempts := t.attempts + 1;
        taken := taken + 1;
        RETURN NEXT;
    END LOOP;
    IF taken >= in_limit OR free = 0 THEN
        RETURN;
    END IF;
    FOR t IN SELECT q.task_id, q.command, q.attempts FROM task q
             WHERE q.p_key = in_key AND q.worker_id = -1 AND q.state = 1
             ORDER BY q.task_id LIMIT least(in_limit - taken, free) FOR UPDATE SKIP LOCKED
    LOOP
        UPDATE task SET worker_id = in_worker_id, state = 2, attempts = task.attempts + 1, started_at = clock_timestamp()
            WHERE task.p_key = in_key AND task.task_id = t.task_id;
        task_id := t.task_id;
        command := t.command;
        attempts := t.attempts + 1;
        fresh := fresh + 1;
        RETURN NEXT;
    END LOOP;
    IF fresh > 0 THEN
        UPDATE worker SET capacity = free - fresh WHERE worker.p_key = in_key AND worker.worker_id = in_worker_id;
    END IF;
END
$$;

-- Finish: the worker reports a task's exit code and gets its slot back. False: the task is not this worker's any more
-- (it was reaped meanwhile, and somebody else runs it) or was finished before.
CREATE OR REPLACE FUNCTION sched_finish(in_key int4, in_worker_id int4, in_task_id int8, in_exit_code int4)
RETURNS bool LANGUAGE plpgsql AS $$
BEGIN
    PERFORM worker_id FROM worker WHERE p_key = in_key AND worker_id = in_worker_id FOR UPDATE;
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    UPDATE task SET state = 3, exit_code = in_exit_code, finished_at = now()
        WHERE p_key = in_key AND task_id = in_task_id AND worker_id = in_worker_id AND state < 3;
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    -- A worker that takes no more (sched_drain) has no slots.
    UPDATE worker SET capacity = least(capacity + 1, slots) WHERE p_key = in_key AND worker_id = in_worker_id;
    RETURN true;
END
$$;

-- Waits up to in_wait_s seconds for a task's end. Its exit code; NULL: it has not ended yet. P0002: there is no such task.
CREATE OR REPLACE FUNCTION sched_wait(in_key int4, in_task_id int8, in_wait_s float8) RETURNS int4
LANGUAGE plpgsql AS $$
DECLARE
    ended bool;
    code  int4;
BEGIN
    LOOP
        SELECT q.state = 3, q.exit_code INTO ended, code FROM task q
            WHERE q.p_key = in_key AND q.task_id = in_task_id;
        IF NOT FOUND THEN
            RAISE EXCEPTION 'there is no task % of key %', in_task_id, in_key USING ERRCODE = 'P0002';
        END IF;
        IF ended OR wait_for_change(in_wait_s) IS NOT TRUE THEN
            RETURN code;
        END IF;
    END LOOP;
END
$$;
