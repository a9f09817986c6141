-- Tables of the scheduler. All state of the scheduler is in these rows; the partition key is p_key.
--
-- What holds, on PostgreSQL and here: 0 <= capacity, and capacity + unfinished tasks of the worker = slots. Of a worker that
-- takes no more (sched_drain), capacity and slots are 0.
-- Lock order everywhere: worker first, then task.

CREATE TABLE IF NOT EXISTS worker (
    p_key      int4        NOT NULL,
    worker_id  int4        NOT NULL,
    capacity   int4        NOT NULL CHECK (capacity >= 0),  -- free slots now
    slots      int4        NOT NULL,                        -- slots when idle; 0: takes no more
    data_shard int4        NOT NULL DEFAULT 0,              -- shard of data held next to the worker
    url        text,                                        -- where tasks are pushed to, if anywhere
    last_seen  timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (p_key, worker_id)
);

-- capacity is in no index on purpose: it changes with every task, and a key has tens of workers.
CREATE INDEX IF NOT EXISTS worker_by_shard ON worker (p_key, data_shard, worker_id);

-- state: 1 pending, 2 running, 3 complete. worker_id is -1 as long as no worker was chosen.
CREATE TABLE IF NOT EXISTS task (
    p_key        int4        NOT NULL,
    task_id      int8        NOT NULL,
    worker_id    int4        NOT NULL DEFAULT -1,
    state        int4        NOT NULL DEFAULT 1,
    attempts     int4        NOT NULL DEFAULT 0,
    command      text        NOT NULL DEFAULT '',
    exit_code    int4,
    submitted_at timestamptz NOT NULL DEFAULT now(),
    started_at   timestamptz,
    finished_at  timestamptz,
    PRIMARY KEY (p_key, task_id)
);

-- Serves every queue: a worker's pending tasks, the unassigned ones (-1), and a dead worker's unfinished ones.
CREATE INDEX IF NOT EXISTS task_by_worker ON task (p_key, worker_id, state, task_id);
