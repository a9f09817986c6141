-- Workers come, show that they live, and are missed.

-- Gives back every unfinished task of a worker: pending, without a worker. Returns their number. The caller holds the
-- worker's row lock, or there is no such row.
CREATE OR REPLACE FUNCTION sched_release(in_key int4, in_worker_id int4) RETURNS int4 LANGUAGE plpgsql AS $$
DECLARE
    released int4;
BEGIN
    UPDATE task SET worker_id = -1, state = 1, started_at = NULL
        WHERE p_key = in_key AND worker_id = in_worker_id AND state IN (1, 2);
    GET DIAGNOSTICS released = ROW_COUNT;
    RETURN released;
END
$$;

-- Registers a worker with all its slots free. A worker that comes back under its old id gives back what it had.
-- Returns the number of tasks given back.
CREATE OR REPLACE FUNCTION sched_register(in_key int4, in_worker_id int4, in_slots int4, in_data_shard int4, in_url text)
RETURNS int4 LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO worker (p_key, worker_id, capacity, slots, data_shard, url)
        VALUES (in_key, in_worker_id, in_slots, in_slots, in_data_shard, in_url)
        ON CONFLICT (p_key, worker_id) DO UPDATE
        SET capacity = EXCLUDED.capacity, slots = EXCLUDED.slots, data_shard = EXCLUDED.data_shard,
            url = EXCLUDED.url, last_seen = now();
    RETURN sched_release(in_key, in_worker_id);
END
$$;

-- Says that a worker lives. False: it was reaped, and must register again.
CREATE OR REPLACE FUNCTION sched_heartbeat(in_key int4, in_worker_id int4) RETURNS bool LANGUAGE plpgsql AS $$
BEGIN
    UPDATE worker SET last_seen = now() WHERE p_key = in_key AND worker_id = in_worker_id;
    RETURN FOUND;
END
$$;

-- Removes the workers of a key that were not seen for in_timeout_s seconds; their unfinished tasks wait again.
-- Returns the number of tasks given back.
CREATE OR REPLACE FUNCTION sched_reap(in_key int4, in_timeout_s float8) RETURNS int4 LANGUAGE plpgsql AS $$
DECLARE
    dead     record;
    released int4 := 0;
BEGIN
    FOR dead IN SELECT worker_id FROM worker
                WHERE p_key = in_key AND last_seen < now() - in_timeout_s * interval '1 second'
                ORDER BY worker_id FOR UPDATE
    LOOP
        released := released + sched_release(in_key, dead.worker_id);
        DELETE FROM worker WHERE p_key = in_key AND worker_id = dead.worker_id;
    END LOOP;
    RETURN released;
END
$$;

-- A worker takes no more tasks, and may end those that it runs: no policy chooses it, a pull of it that waits comes back,
-- and what it has not begun waits for another. Returns how many tasks that is.
CREATE OR REPLACE FUNCTION sched_drain(in_key int4, in_worker_id int4) RETURNS int4 LANGUAGE plpgsql AS $$
DECLARE
    released int4;
BEGIN
    UPDATE worker SET capacity = 0, slots = 0 WHERE p_key = in_key AND worker_id = in_worker_id;
    UPDATE task SET worker_id = -1 WHERE p_key = in_key AND worker_id = in_worker_id AND state = 1;
    GET DIAGNOSTICS released = ROW_COUNT;
    RETURN released;
END
$$;

-- A worker leaves: its unfinished tasks become pending again. Returns how many.
CREATE OR REPLACE FUNCTION sched_leave(in_key int4, in_worker_id int4) RETURNS int4 LANGUAGE plpgsql AS $$
DECLARE
    released int4;
BEGIN
    PERFORM worker_id FROM worker WHERE p_key = in_key AND worker_id = in_worker_id FOR UPDATE;
    released := sched_release(in_key, in_worker_id);
    DELETE FROM worker WHERE p_key = in_key AND worker_id = in_worker_id;
    RETURN released;
END
$$;
