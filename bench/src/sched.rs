//! Scheduling: one operation is one call of the loaded procedure, with its own reply and its own commit.
//!
//! 64 partition keys with 10 workers each that are never exhausted, as the papers' FIFO experiment, unless the sweeps say
//! otherwise. `two-keys` takes the worker from one key and puts the task under another with a given probability; `scan`
//! reads a key's tasks and counts them by worker.

use std::rc::Rc;
use std::str::FromStr;
use std::time::Duration;

use anyhow::{Context, bail};
use dbos_client::Client;
use rand::Rng;
use scheduler::{Registration, Scheduler};

use crate::run::{Operation, Prepared, expect_equal};

/// The benchmark's own keys: tasks and workers of the target's users have others, and are left alone.
const FIRST_KEY: i32 = 1_000_000_000;
/// `pull` takes up to this many tasks in one call; one operation is one task submitted, or one call that takes.
const PULL_LIMIT: i32 = 16;
/// Calls in flight while the tables are filled.
const FILL_IN_FLIGHT: usize = 256;
const TWO_KEYS: &str = include_str!("../sql/two_keys.sql");
const SCAN: &str = include_str!("../sql/scan.sql");

/// What one operation is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Policy {
    Fifo,
    LeastLoaded,
    Locality,
    Push,
    Pull,
    /// FIFO; some calls take the worker from one key and put the task under another.
    TwoKeys,
    /// Counts a key's tasks by worker, reading all of them.
    Scan,
}

impl Policy {
    pub const ALL: [(&str, Self); 7] = [
        ("fifo", Self::Fifo),
        ("least-loaded", Self::LeastLoaded),
        ("locality", Self::Locality),
        ("push", Self::Push),
        ("pull", Self::Pull),
        ("two-keys", Self::TwoKeys),
        ("scan", Self::Scan),
    ];
}

impl FromStr for Policy {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> anyhow::Result<Self> {
        crate::named(&Self::ALL, "policy", text)
    }
}

/// A policy and the tables it works on.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Spec {
    pub policy: Policy,
    /// Partition keys.
    pub keys: i32,
    pub workers_per_key: i32,
    /// Free slots of a worker at the start.
    pub slots: i32,
    /// `two-keys`: share of calls over two keys, 0 to 1.
    pub multi_partition: f64,
    /// `scan`: tasks of each key.
    pub tasks: i32,
}

impl Spec {
    /// The papers' FIFO experiment: slots are never exhausted (2^27, the artifact's default).
    pub fn new(policy: Policy) -> Self {
        Self {
            policy,
            keys: 64,
            workers_per_key: 10,
            slots: 1 << 27,
            multi_partition: 0.0,
            tasks: 0,
        }
    }

    fn last_key(&self) -> i32 {
        FIRST_KEY + self.keys - 1
    }

    /// Partition key and task of operation `n`.
    fn task(&self, n: u64) -> (i32, i64) {
        (FIRST_KEY + (n % self.keys as u64) as i32, n as i64)
    }
}

pub(crate) async fn prepare(client: Client, spec: &Spec) -> anyhow::Result<Prepared> {
    scheduler::install(&client).await?;
    let scheduler = Scheduler::new(client.clone());
    clear(&client, spec).await?;
    register(&scheduler, spec).await?;
    let spec = *spec;
    let operation: Operation = match spec.policy {
        Policy::Fifo => schedule(scheduler, spec, |_| scheduler::Policy::Fifo),
        Policy::LeastLoaded => schedule(scheduler, spec, |_| scheduler::Policy::LeastLoaded),
        Policy::Locality => schedule(scheduler, spec, move |n| scheduler::Policy::Locality {
            shard: (n % spec.workers_per_key as u64) as i32,
        }),
        Policy::Push => push(scheduler, spec),
        Policy::Pull => pull(scheduler, spec),
        Policy::TwoKeys => two_keys(client.clone(), spec).await?,
        Policy::Scan => scan(scheduler, spec).await?,
    };
    let before = spec.keys as u64 * spec.tasks as u64;
    Ok(Prepared::new(operation, move |acknowledged| async move {
        let added = match spec.policy {
            Policy::Scan => 0,
            _ => acknowledged,
        };
        // Key by key: a long run leaves more rows than one statement may read.
        let mut found: i64 = 0;
        for key in FIRST_KEY..=spec.last_key() {
            let sql = "SELECT count(*) FROM task WHERE p_key = $1";
            found += client.read_all(sql, &[&key]).await?[0].get::<_, i64>(0);
        }
        expect_equal("task rows", found, before + added)
    }))
}

/// Polls so many futures at a time; the first error ends it.
async fn all<T, F>(futures: impl Iterator<Item = F>) -> dbos_client::Result<()>
where
    F: Future<Output = dbos_client::Result<T>>,
{
    use futures::stream::{StreamExt, TryStreamExt};
    futures::stream::iter(futures)
        .buffer_unordered(FILL_IN_FLIGHT)
        .try_for_each(|_| async { Ok(()) })
        .await
}

async fn register(scheduler: &Scheduler, spec: &Spec) -> anyhow::Result<()> {
    let workers = (FIRST_KEY..=spec.last_key()).flat_map(|key| {
        (0..spec.workers_per_key).map(move |worker_id| Registration {
            key,
            worker_id,
            slots: spec.slots,
            shard: worker_id,
            url: None,
        })
    });
    all(workers.map(|worker| async move { scheduler.register(&worker).await })).await?;
    Ok(())
}

/// With the given probability the worker is of one key and the task of the next one; otherwise FIFO.
async fn two_keys(client: Client, spec: Spec) -> anyhow::Result<Operation> {
    const CALL: &str = "SELECT bench_fifo_two_keys($1, $2, $3)";
    client.script(TWO_KEYS).await?;
    if spec.keys < 2 {
        bail!("two-keys needs two partition keys");
    }
    Ok(Rc::new(move |n| {
        let (client, (key, id)) = (client.clone(), spec.task(n));
        let over_two = rand::rng().random_bool(spec.multi_partition);
        let other = match over_two {
            true => spec.task(n + 1).0,
            false => key,
        };
        Box::pin(async move {
            let placed = match over_two {
                true => client.call(key, CALL, &[&key, &other, &id]).await,
                false => {
                    client
                        .call(key, "SELECT sched_fifo($1, $2)", &[&key, &id])
                        .await
                }
            };
            match placed.and_then(|rows| dbos_client::first_field::<i32>(&rows)) {
                Ok(worker) if worker >= 0 => Ok(()),
                Ok(_) => Err("no worker has a free slot".into()),
                Err(error) => Err(error.to_string()),
            }
        })
    }))
}

/// Fills every key with tasks; one operation reads all of one key.
async fn scan(scheduler: Scheduler, spec: Spec) -> anyhow::Result<Operation> {
    let tasks = (FIRST_KEY..=spec.last_key())
        .flat_map(|key| (0..spec.tasks).map(move |id| (key, i64::from(id))));
    let scheduler = &scheduler;
    let place = |(key, id)| scheduler.schedule(scheduler::Policy::LeastLoaded, key, id);
    all(tasks.map(place)).await.context("filling the tables")?;
    let client = scheduler.client().clone();
    Ok(Rc::new(move |n| {
        let (client, (key, _)) = (client.clone(), spec.task(n));
        Box::pin(async move {
            match client.read(key, SCAN, &[&key]).await {
                Ok(rows) if rows.len() == 1 => Ok(()),
                Ok(rows) => Err(format!("{} rows instead of one", rows.len())),
                Err(error) => Err(error.to_string()),
            }
        })
    }))
}

fn schedule(
    scheduler: Scheduler,
    spec: Spec,
    policy: impl Fn(u64) -> scheduler::Policy + 'static,
) -> Operation {
    Rc::new(move |n| {
        let (scheduler, policy, (key, id)) = (scheduler.clone(), policy(n), spec.task(n));
        Box::pin(async move {
            match scheduler.schedule(policy, key, id).await {
                Ok(Some(_)) => Ok(()),
                Ok(None) => Err("no worker has a free slot".into()),
                Err(error) => Err(error.to_string()),
            }
        })
    })
}

/// Submit, then push to a worker: two calls, one operation.
fn push(scheduler: Scheduler, spec: Spec) -> Operation {
    Rc::new(move |n| {
        let (scheduler, (key, id)) = (scheduler.clone(), spec.task(n));
        Box::pin(async move {
            scheduler
                .submit(key, id, "")
                .await
                .map_err(|e| e.to_string())?;
            match scheduler.push(key, id).await {
                Ok(Some(_)) => Ok(()),
                Ok(None) => Err("no worker has a free slot".into()),
                Err(error) => Err(error.to_string()),
            }
        })
    })
}

/// Submit, then a worker takes what is pending: two calls, one operation.
fn pull(scheduler: Scheduler, spec: Spec) -> Operation {
    Rc::new(move |n| {
        let (scheduler, (key, id)) = (scheduler.clone(), spec.task(n));
        let worker = (n / spec.keys as u64 % spec.workers_per_key as u64) as i32;
        Box::pin(async move {
            scheduler
                .submit(key, id, "")
                .await
                .map_err(|e| e.to_string())?;
            scheduler
                .pull(key, worker, PULL_LIMIT, Duration::ZERO)
                .await
                .map(drop)
                .map_err(|e| e.to_string())
        })
    })
}

/// Removes what an earlier run left under the benchmark's keys: oldest first, in transactions of bounded size.
async fn clear(client: &Client, spec: &Spec) -> anyhow::Result<()> {
    const TASKS: [&str; 2] = [
        "SELECT task_id FROM task WHERE p_key = $1 ORDER BY task_id OFFSET 2000 LIMIT 1",
        "DELETE FROM task WHERE p_key = $1 AND task_id <= $2",
    ];
    const WORKERS: [&str; 2] = [
        "SELECT CAST(worker_id AS int8) FROM worker WHERE p_key = $1 ORDER BY worker_id OFFSET 2000 LIMIT 1",
        "DELETE FROM worker WHERE p_key = $1 AND CAST(worker_id AS int8) <= $2",
    ];
    let clear_key = |key: i32| async move {
        for [nth, delete_up_to] in [TASKS, WORKERS] {
            loop {
                let found = client.read(key, nth, &[&key]).await?;
                let up_to = found.first().map_or(i64::MAX, |row| row.get(0));
                client.call(key, delete_up_to, &[&key, &up_to]).await?;
                if up_to == i64::MAX {
                    break;
                }
            }
        }
        Ok(())
    };
    // A run with more keys may have been before.
    let last = spec
        .last_key()
        .max(FIRST_KEY + Spec::new(spec.policy).keys - 1);
    all((FIRST_KEY..=last).map(clear_key)).await?;
    Ok(())
}
