//! The cluster scheduler: SQL in `sql/`, and this thin client.
//!
//! All state is in the tables `worker` and `task`; the policy is one procedure's ORDER BY and WHERE. Every call is one
//! transaction on the partition of its key. What holds, on every engine: a worker never has more unfinished tasks than
//! slots.
//!
//! * [`Scheduler`]: one method per procedure.
//! * [`worker::run`]: a worker process: registers, takes tasks, runs them, finishes them, shows that it lives.
//!
//! Left out: a choice between keys. Callers spread their tasks over keys, and walk on when a key has no free worker.

use std::fmt;
use std::str::FromStr;
use std::time::{Duration, Instant};

use dbos_client::{
    Client, Error, Params, Result, Row, WAIT_FOR_CHANGE, field, first_field, first_row,
};

pub mod worker;

/// The service's SQL files, in the order in which they are installed.
pub const FILES: [(&str, &str); 7] = [
    WAIT_FOR_CHANGE,
    (
        "scheduler/sql/schema.sql",
        include_str!("../sql/schema.sql"),
    ),
    ("scheduler/sql/fifo.sql", include_str!("../sql/fifo.sql")),
    (
        "scheduler/sql/least_loaded.sql",
        include_str!("../sql/least_loaded.sql"),
    ),
    (
        "scheduler/sql/locality.sql",
        include_str!("../sql/locality.sql"),
    ),
    (
        "scheduler/sql/workers.sql",
        include_str!("../sql/workers.sql"),
    ),
    ("scheduler/sql/tasks.sql", include_str!("../sql/tasks.sql")),
];

/// A worker or task that is not there: a worker that was reaped, say.
pub const NOT_THERE: &str = "P0002";

/// A longer wait for a task is several calls: a statement may wait for as long as its timeout, 30 s by default.
const WAIT_STEP: Duration = Duration::from_secs(5);

/// Creates the tables and procedures; harmless if they are there.
pub async fn install(client: &Client) -> Result<()> {
    client.install_schema(&FILES).await
}

/// How a worker is chosen for a task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Policy {
    /// The first worker with a free slot.
    Fifo,
    /// The worker with the most free slots.
    LeastLoaded,
    /// The first worker with a free slot that holds this shard of data.
    Locality { shard: i32 },
}

/// A task as a worker takes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Task {
    pub task_id: i64,
    pub command: String,
    /// How often it was started, this time included.
    pub attempts: i32,
}

/// Where a pushed task went.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pushed {
    pub worker_id: i32,
    pub url: Option<String>,
    pub command: String,
}

/// What a worker says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Registration {
    pub key: i32,
    pub worker_id: i32,
    /// Tasks it runs at once.
    pub slots: i32,
    pub shard: i32,
    pub url: Option<String>,
}

/// The procedures, by a client's connections.
#[derive(Clone, Debug)]
pub struct Scheduler {
    client: Client,
}

impl Scheduler {
    pub fn new(client: Client) -> Self {
        Self { client }
    }

    pub fn client(&self) -> &Client {
        &self.client
    }

    /// Chooses a worker and places a new task on it. `None`: no worker of this key has a free slot; nothing was changed.
    /// 23505: a task of this id exists.
    pub async fn schedule(&self, policy: Policy, key: i32, task_id: i64) -> Result<Option<i32>> {
        let rows = match policy {
            Policy::Fifo => {
                self.client
                    .call(key, "SELECT sched_fifo($1, $2)", &[&key, &task_id])
                    .await
            }
            Policy::LeastLoaded => {
                self.client
                    .call(key, "SELECT sched_least_loaded($1, $2)", &[&key, &task_id])
                    .await
            }
            Policy::Locality { shard } => {
                self.client
                    .call(
                        key,
                        "SELECT sched_locality($1, $2, $3)",
                        &[&key, &task_id, &shard],
                    )
                    .await
            }
        };
        let worker: i32 = first_field(&rows?)?;
        Ok((worker >= 0).then_some(worker))
    }

    /// Queues a task that no policy places. False: a task of this id exists already.
    pub async fn submit(&self, key: i32, task_id: i64, command: &str) -> Result<bool> {
        let rows = self
            .client
            .call(
                key,
                "SELECT sched_submit($1, $2, $3)",
                &[&key, &task_id, &command],
            )
            .await?;
        first_field(&rows)
    }

    /// Gives a submitted task to a worker with a free slot, as running; the caller then calls the worker's url. `None`: no
    /// worker has a free slot, or the task does not wait.
    pub async fn push(&self, key: i32, task_id: i64) -> Result<Option<Pushed>> {
        let sql = "SELECT worker_id, url, command FROM sched_push($1, $2)";
        let rows = self.client.call(key, sql, &[&key, &task_id]).await?;
        let pushed = |row: &Row| {
            Ok(Pushed {
                worker_id: field(row, 0)?,
                url: field(row, 1)?,
                command: field(row, 2)?,
            })
        };
        rows.first().map(pushed).transpose()
    }

    /// A worker takes up to `limit` tasks: those placed on it, then waiting ones. They come back as running. If there are
    /// none, waits up to `wait` for one; that must be below the server's statement timeout. [`NOT_THERE`]: it must register.
    ///
    /// Dropping the future while it waits may leave tasks running in the worker's name that nobody runs, until it registers
    /// again or leaves.
    pub async fn pull(
        &self,
        key: i32,
        worker_id: i32,
        limit: i32,
        wait: Duration,
    ) -> Result<Vec<Task>> {
        let sql = "SELECT task_id, command, attempts FROM sched_pull($1, $2, $3, $4)";
        let seconds = wait.as_secs_f64();
        let params: Params<'_> = &[&key, &worker_id, &limit, &seconds];
        let rows = self.client.call_waiting(key, sql, params, wait).await?;
        let task = |row: &Row| {
            Ok(Task {
                task_id: field(row, 0)?,
                command: field(row, 1)?,
                attempts: field(row, 2)?,
            })
        };
        rows.iter().map(task).collect()
    }

    /// A worker reports a task's exit code. False: the task is not this worker's any more, or was finished before.
    pub async fn finish(
        &self,
        key: i32,
        worker_id: i32,
        task_id: i64,
        exit_code: i32,
    ) -> Result<bool> {
        let params: Params<'_> = &[&key, &worker_id, &task_id, &exit_code];
        first_field(
            &self
                .client
                .call(key, "SELECT sched_finish($1, $2, $3, $4)", params)
                .await?,
        )
    }

    /// Waits up to `wait` for a task's end: its exit code, `None` if it has not ended. [`NOT_THERE`]: there is no such task.
    pub async fn wait(&self, key: i32, task_id: i64, wait: Duration) -> Result<Option<i32>> {
        let began = Instant::now();
        loop {
            let left = wait.saturating_sub(began.elapsed());
            let step = left.min(WAIT_STEP);
            let params: Params<'_> = &[&key, &task_id, &step.as_secs_f64()];
            let sql = "SELECT sched_wait($1, $2, $3)";
            let rows = self.client.call_waiting(key, sql, params, step).await?;
            let exit_code: Option<i32> = first_field(&rows)?;
            if exit_code.is_some() || step == left {
                return Ok(exit_code);
            }
        }
    }

    /// Registers a worker with all its slots free. Returns how many tasks an earlier life of it gave back.
    pub async fn register(&self, worker: &Registration) -> Result<i32> {
        let Registration {
            key,
            worker_id,
            slots,
            shard,
            url,
        } = worker;
        let params: Params<'_> = &[key, worker_id, slots, shard, url];
        first_field(
            &self
                .client
                .call(*key, "SELECT sched_register($1, $2, $3, $4, $5)", params)
                .await?,
        )
    }

    /// A worker says that it lives, and reaps those of its key that do not, as [`Scheduler::reap`]: one transaction. Whether
    /// it is still registered, and how many tasks of others wait again.
    pub async fn heartbeat(
        &self,
        key: i32,
        worker_id: i32,
        dead_after_s: f64,
    ) -> Result<(bool, i32)> {
        let sql = "SELECT sched_heartbeat($1, $2), sched_reap($1, $3)";
        let params: Params<'_> = &[&key, &worker_id, &dead_after_s];
        let rows = self.client.call(key, sql, params).await?;
        let row = first_row(&rows)?;
        Ok((field(row, 0)?, field(row, 1)?))
    }

    /// A worker takes no more tasks, and may end those that it runs. Returns how many tasks wait for another.
    pub async fn drain(&self, key: i32, worker_id: i32) -> Result<i32> {
        first_field(
            &self
                .client
                .call(key, "SELECT sched_drain($1, $2)", &[&key, &worker_id])
                .await?,
        )
    }

    /// A worker leaves. Returns how many of its tasks wait again.
    pub async fn leave(&self, key: i32, worker_id: i32) -> Result<i32> {
        first_field(
            &self
                .client
                .call(key, "SELECT sched_leave($1, $2)", &[&key, &worker_id])
                .await?,
        )
    }

    /// Removes workers of a key not seen for `timeout_s` seconds. Returns how many tasks wait again.
    pub async fn reap(&self, key: i32, timeout_s: f64) -> Result<i32> {
        first_field(
            &self
                .client
                .call(key, "SELECT sched_reap($1, $2)", &[&key, &timeout_s])
                .await?,
        )
    }
}

impl FromStr for Policy {
    type Err = Error;

    /// `fifo`, `least-loaded`, or `locality:SHARD`.
    fn from_str(text: &str) -> Result<Self> {
        let shard = text.strip_prefix("locality:").map(str::parse);
        match (text, shard) {
            ("fifo", _) => Ok(Self::Fifo),
            ("least-loaded" | "least_loaded", _) => Ok(Self::LeastLoaded),
            (_, Some(Ok(shard))) => Ok(Self::Locality { shard }),
            _ => Err(
                Error::request(format!("no such scheduling policy: {text:?}"))
                    .hint("policies: fifo, least-loaded, locality:SHARD"),
            ),
        }
    }
}

impl fmt::Display for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fifo => f.write_str("fifo"),
            Self::LeastLoaded => f.write_str("least-loaded"),
            Self::Locality { shard } => write!(f, "locality:{shard}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_policy_is_parsed_back_from_its_name() {
        for policy in [
            Policy::Fifo,
            Policy::LeastLoaded,
            Policy::Locality { shard: 7 },
        ] {
            assert_eq!(policy.to_string().parse::<Policy>().unwrap(), policy);
        }
        for wrong in ["", "lifo", "locality:x", "localityx"] {
            assert!(wrong.parse::<Policy>().is_err(), "{wrong}");
        }
    }
}
