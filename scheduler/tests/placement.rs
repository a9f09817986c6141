//! Placement: whatever the policy, a worker never gets more tasks than it has slots.

use std::collections::HashMap;

use dbos_client::testing::{Engine, engines};
use dbos_client::{Client, field};
use futures::future::join_all;
use scheduler::{Policy, Registration, Scheduler};

const KEY: i32 = 3;
const WORKERS: i32 = 5;
const SLOTS: i32 = 7;
const CLIENTS: i64 = 8;

async fn scheduler(engine: &Engine) -> Scheduler {
    let client = engine.client().await.unwrap();
    scheduler::install(&client).await.unwrap();
    Scheduler::new(client)
}

fn registration(worker_id: i32, slots: i32, shard: i32) -> Registration {
    Registration {
        key: KEY,
        worker_id,
        slots,
        shard,
        url: None,
    }
}

/// Tasks per worker that are not finished.
async fn load(client: &Client) -> HashMap<i32, i64> {
    let sql =
        "SELECT worker_id, count(*) FROM task WHERE p_key = $1 AND state < 3 GROUP BY worker_id";
    let rows = client.read(KEY, sql, &[&KEY]).await.unwrap();
    rows.iter()
        .map(|row| (field(row, 0).unwrap(), field(row, 1).unwrap()))
        .collect()
}

/// What schema.sql promises of every worker.
async fn assert_capacity_is_slots_minus_load(client: &Client) {
    let load = load(client).await;
    let sql = "SELECT worker_id, capacity, slots FROM worker WHERE p_key = $1";
    for row in client.read(KEY, sql, &[&KEY]).await.unwrap() {
        let (worker_id, capacity, slots): (i32, i32, i32) = (row.get(0), row.get(1), row.get(2));
        let placed = load.get(&worker_id).copied().unwrap_or(0);
        assert!(capacity >= 0, "worker {worker_id}");
        assert_eq!(
            i64::from(capacity) + placed,
            i64::from(slots),
            "worker {worker_id}"
        );
    }
}

async fn eight_clients_compete(engine: &Engine, policy: Policy) {
    let first = scheduler(engine).await;
    for worker_id in 0..WORKERS {
        first
            .register(&registration(worker_id, SLOTS, 1))
            .await
            .unwrap();
    }
    let slots_in_all = usize::try_from(WORKERS * SLOTS).unwrap();
    let clients = join_all((0..CLIENTS).map(|_| engine.client())).await;
    let compete = clients
        .into_iter()
        .zip(0_i64..)
        .map(|(client, number)| async move {
            let scheduler = Scheduler::new(client.unwrap());
            let mut placed = 0;
            // A concurrent commit may hide a free slot from one call, never show one that is taken.
            for attempt in 0..100 {
                if scheduler
                    .schedule(policy, KEY, number * 1000 + attempt)
                    .await
                    .unwrap()
                    .is_some()
                {
                    placed += 1;
                }
            }
            placed
        });
    let placed: usize = join_all(compete).await.into_iter().sum();
    assert_eq!(placed, slots_in_all, "{policy} on {}", engine.name);
    assert_capacity_is_slots_minus_load(first.client()).await;
    assert_eq!(first.schedule(policy, KEY, 9_999).await.unwrap(), None);
}

macro_rules! never_oversubscribed {
    ($name:ident, $policy:expr) => {
        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $name() {
            for engine in engines() {
                eight_clients_compete(&engine.unwrap(), $policy).await;
            }
        }
    };
}

never_oversubscribed!(fifo_never_oversubscribes, Policy::Fifo);
never_oversubscribed!(least_loaded_never_oversubscribes, Policy::LeastLoaded);
never_oversubscribed!(locality_never_oversubscribes, Policy::Locality { shard: 1 });

#[tokio::test]
async fn each_policy_chooses_by_its_own_order() {
    for engine in engines() {
        let engine = engine.unwrap();
        let scheduler = scheduler(&engine).await;
        for (worker_id, slots, shard) in [(1, 2, 0), (2, 9, 0), (3, 5, 7)] {
            scheduler
                .register(&registration(worker_id, slots, shard))
                .await
                .unwrap();
        }
        assert_eq!(
            scheduler.schedule(Policy::Fifo, KEY, 1).await.unwrap(),
            Some(1)
        );
        assert_eq!(
            scheduler
                .schedule(Policy::LeastLoaded, KEY, 2)
                .await
                .unwrap(),
            Some(2)
        );
        assert_eq!(
            scheduler
                .schedule(Policy::Locality { shard: 7 }, KEY, 3)
                .await
                .unwrap(),
            Some(3)
        );
        assert_eq!(
            scheduler
                .schedule(Policy::Locality { shard: 8 }, KEY, 4)
                .await
                .unwrap(),
            None
        );
        assert_eq!(
            scheduler.schedule(Policy::Fifo, KEY + 1, 5).await.unwrap(),
            None
        );
    }
}

#[tokio::test]
async fn a_task_id_is_scheduled_once() {
    for engine in engines() {
        let engine = engine.unwrap();
        let scheduler = scheduler(&engine).await;
        scheduler.register(&registration(1, 5, 0)).await.unwrap();
        scheduler.schedule(Policy::Fifo, KEY, 1).await.unwrap();
        let error = scheduler.schedule(Policy::Fifo, KEY, 1).await.unwrap_err();
        assert_eq!(error.sqlstate(), Some("23505"));
        // The refused call took no slot.
        assert_capacity_is_slots_minus_load(scheduler.client()).await;
        assert!(scheduler.submit(KEY, 2, "true").await.unwrap());
        assert!(!scheduler.submit(KEY, 2, "false").await.unwrap());
    }
}

#[tokio::test]
async fn a_pushed_task_is_running_on_a_worker_and_is_finished_once() {
    for engine in engines() {
        let engine = engine.unwrap();
        let scheduler = scheduler(&engine).await;
        let worker = Registration {
            url: Some("http://127.0.0.1:1".to_owned()),
            ..registration(4, 1, 0)
        };
        scheduler.register(&worker).await.unwrap();
        scheduler.submit(KEY, 10, "true").await.unwrap();
        scheduler.submit(KEY, 11, "true").await.unwrap();
        let pushed = scheduler.push(KEY, 10).await.unwrap().unwrap();
        assert_eq!(
            (pushed.worker_id, pushed.url, pushed.command.as_str()),
            (4, worker.url, "true")
        );
        assert_eq!(
            scheduler.push(KEY, 10).await.unwrap(),
            None,
            "running already"
        );
        assert_eq!(scheduler.push(KEY, 11).await.unwrap(), None, "no slot");
        assert!(
            !scheduler.finish(KEY, 5, 10, 0).await.unwrap(),
            "another worker's"
        );
        assert!(scheduler.finish(KEY, 4, 10, 0).await.unwrap());
        assert!(!scheduler.finish(KEY, 4, 10, 0).await.unwrap(), "twice");
        assert_capacity_is_slots_minus_load(scheduler.client()).await;
        assert!(scheduler.push(KEY, 11).await.unwrap().is_some());
    }
}
