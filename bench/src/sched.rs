//! Scheduling: one operation is one call of the loaded procedure, with its own reply and its own commit.
//!
//! 64 partition keys with 10 workers each that are never exhausted, as the papers' FIFO experiment.

use std::rc::Rc;

use anyhow::bail;
use dbos_client::Client;
use scheduler::{Policy, Registration, Scheduler};

use crate::run::{Operation, Prepared, expect_equal};

const KEYS: i32 = 64;
const WORKERS_PER_KEY: i32 = 10;
/// Never exhausted: 2^27, the artifact's default.
const SLOTS: i32 = 1 << 27;
/// `pull` takes up to this many tasks in one call; one operation is one task submitted, or one call that takes.
const PULL_LIMIT: i32 = 16;

pub(crate) async fn prepare(client: Client, policy: &str) -> anyhow::Result<Prepared> {
    scheduler::install(&client).await?;
    let scheduler = Scheduler::new(client.clone());
    clear(&client).await?;
    for key in 0..KEYS {
        let register = (0..WORKERS_PER_KEY).map(|worker_id| {
            let scheduler = scheduler.clone();
            async move {
                let worker = Registration { key, worker_id, slots: SLOTS, shard: worker_id, url: None };
                scheduler.register(&worker).await
            }
        });
        futures::future::try_join_all(register).await?;
    }
    let operation: Operation = match policy {
        "fifo" => schedule(scheduler, |_| Policy::Fifo),
        "least-loaded" => schedule(scheduler, |_| Policy::LeastLoaded),
        "locality" => schedule(scheduler, |n| Policy::Locality { shard: (n % WORKERS_PER_KEY as u64) as i32 }),
        "push" => push(scheduler),
        "pull" => pull(scheduler),
        other => bail!("unknown policy {other:?}: fifo, least-loaded, locality, push or pull"),
    };
    Ok(Prepared { operation, check: Box::new(|acknowledged| Box::pin(check(client, acknowledged))) })
}

/// Partition key and task of operation `n`.
fn task(n: u64) -> (i32, i64) {
    ((n % KEYS as u64) as i32, n as i64)
}

fn schedule(scheduler: Scheduler, policy: impl Fn(u64) -> Policy + 'static) -> Operation {
    Rc::new(move |n| {
        let (scheduler, policy, (key, id)) = (scheduler.clone(), policy(n), task(n));
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
fn push(scheduler: Scheduler) -> Operation {
    Rc::new(move |n| {
        let (scheduler, (key, id)) = (scheduler.clone(), task(n));
        Box::pin(async move {
            scheduler.submit(key, id, "").await.map_err(|e| e.to_string())?;
            match scheduler.push(key, id).await {
                Ok(Some(_)) => Ok(()),
                Ok(None) => Err("no worker has a free slot".into()),
                Err(error) => Err(error.to_string()),
            }
        })
    })
}

/// Submit, then a worker takes what is pending: two calls, one operation.
fn pull(scheduler: Scheduler) -> Operation {
    Rc::new(move |n| {
        let (scheduler, (key, id)) = (scheduler.clone(), task(n));
        let worker = (n / KEYS as u64 % WORKERS_PER_KEY as u64) as i32;
        Box::pin(async move {
            scheduler.submit(key, id, "").await.map_err(|e| e.to_string())?;
            scheduler.pull(key, worker, PULL_LIMIT).await.map(drop).map_err(|e| e.to_string())
        })
    })
}

/// Removes what an earlier run left, one partition key at a time.
async fn clear(client: &Client) -> anyhow::Result<()> {
    // A task is a few steps of a transaction's bound: two thousand of them are well below it.
    const LAST: &str = "SELECT task_id FROM task WHERE p_key = $1 ORDER BY task_id LIMIT 1 OFFSET 1999";
    const UP_TO: &str = "DELETE FROM task WHERE p_key = $1 AND task_id <= $2 RETURNING 1";
    for key in 0..KEYS {
        loop {
            let last = client.read(key, LAST, &[&key]).await?;
            let last = last.first().map_or(i64::MAX, |row| row.get(0));
            client.call(key, UP_TO, &[&key, &last]).await?;
            if last == i64::MAX {
                break;
            }
        }
        client.call(key, "DELETE FROM worker WHERE p_key = $1 RETURNING 1", &[&key]).await?;
    }
    Ok(())
}

async fn check(client: Client, acknowledged: u64) -> anyhow::Result<()> {
    let rows = client.read_all("SELECT count(*) FROM task", &[]).await?;
    expect_equal("task rows", rows[0].get(0), acknowledged)
}
