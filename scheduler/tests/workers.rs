//! Workers: they run what they take, and what a dead one had is scheduled again.

use std::time::Duration;

use dbos_client::testing::{Engine, engines};
use scheduler::worker::{self, Options};
use scheduler::{Policy, Registration, Scheduler};

const KEY: i32 = 12;

async fn scheduler(engine: &Engine) -> Scheduler {
    let client = engine.client().await.unwrap();
    scheduler::install(&client).await.unwrap();
    Scheduler::new(client)
}

fn registration(worker_id: i32, slots: i32) -> Registration {
    Registration {
        key: KEY,
        worker_id,
        slots,
        shard: 0,
        url: None,
    }
}

/// Exit codes by task, of finished tasks.
async fn finished(scheduler: &Scheduler) -> Vec<(i64, i32)> {
    let sql = "SELECT task_id, exit_code FROM task WHERE p_key = $1 AND state = 3 ORDER BY task_id";
    let rows = scheduler.client().read(KEY, sql, &[&KEY]).await.unwrap();
    rows.iter().map(|row| (row.get(0), row.get(1))).collect()
}

async fn until_finished(scheduler: &Scheduler, count: usize) {
    for _ in 0..1000 {
        if finished(scheduler).await.len() == count {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("finished after 10 s: {:?}", finished(scheduler).await);
}

#[tokio::test]
async fn a_worker_runs_submitted_and_placed_tasks_and_reports_exit_codes() {
    for engine in engines() {
        let engine = engine.unwrap();
        let scheduler = scheduler(&engine).await;
        for (task_id, command) in [(1, "exit 3"), (2, "spin 5"), (3, "kill -9 $$"), (4, "true")] {
            scheduler.submit(KEY, task_id, command).await.unwrap();
        }
        let options = Options::new(registration(1, 2));
        let watched = async {
            until_finished(&scheduler, 4).await;
            assert_eq!(
                scheduler.schedule(Policy::Fifo, KEY, 5).await.unwrap(),
                Some(1)
            );
            until_finished(&scheduler, 5).await;
        };
        let report = worker::run(&scheduler, &options, watched).await.unwrap();
        assert_eq!(
            finished(&scheduler).await,
            [(1, 3), (2, 0), (3, worker::EXIT_SIGNALLED), (4, 0), (5, 0)]
        );
        assert_eq!((report.finished, report.lost), (5, 0));
        let rows = scheduler
            .client()
            .read(
                KEY,
                "SELECT worker_id FROM worker WHERE p_key = $1",
                &[&KEY],
            )
            .await
            .unwrap();
        assert!(rows.is_empty(), "a worker that ends leaves");
    }
}

#[tokio::test]
async fn a_dead_workers_tasks_are_run_by_another() {
    for engine in engines() {
        let engine = engine.unwrap();
        let scheduler = scheduler(&engine).await;
        scheduler.register(&registration(1, 4)).await.unwrap();
        scheduler.submit(KEY, 1, "true").await.unwrap();
        assert_eq!(
            scheduler.schedule(Policy::Fifo, KEY, 2).await.unwrap(),
            Some(1)
        );
        // Worker 1 takes both, and is never heard of again.
        assert_eq!(scheduler.pull(KEY, 1, 4).await.unwrap().len(), 2);
        let options = Options {
            heartbeat: Duration::from_millis(50),
            dead_after: Duration::from_millis(300),
            ..Options::new(registration(2, 1))
        };
        worker::run(&scheduler, &options, until_finished(&scheduler, 2))
            .await
            .unwrap();
        let sql = "SELECT worker_id, attempts FROM task WHERE p_key = $1 ORDER BY task_id";
        let rows = scheduler.client().read(KEY, sql, &[&KEY]).await.unwrap();
        let ran: Vec<(i32, i32)> = rows.iter().map(|row| (row.get(0), row.get(1))).collect();
        assert_eq!(ran, [(2, 2), (2, 2)]);
        // The dead worker cannot finish what is not its own any more, and must register again.
        assert!(!scheduler.finish(KEY, 1, 1, 0).await.unwrap());
        assert!(!scheduler.heartbeat(KEY, 1).await.unwrap());
    }
}

#[tokio::test]
async fn a_worker_that_was_reaped_registers_again_and_goes_on() {
    for engine in engines() {
        let engine = engine.unwrap();
        let scheduler = scheduler(&engine).await;
        let options = Options {
            heartbeat: Duration::from_millis(30),
            ..Options::new(registration(1, 2))
        };
        let watched = async {
            until_registered(&scheduler).await;
            scheduler.reap(KEY, 0.0).await.unwrap();
            scheduler.submit(KEY, 1, "true").await.unwrap();
            until_finished(&scheduler, 1).await;
        };
        let report = worker::run(&scheduler, &options, watched).await.unwrap();
        assert!(report.registered_again >= 1);
    }
}

async fn until_registered(scheduler: &Scheduler) {
    let sql = "SELECT worker_id FROM worker WHERE p_key = $1";
    while scheduler
        .client()
        .read(KEY, sql, &[&KEY])
        .await
        .unwrap()
        .is_empty()
    {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
