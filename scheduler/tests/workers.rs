//! Workers: they run what they take, and what a dead one had is scheduled again.

use std::time::{Duration, Instant};

use dbos_client::testing::{Engine, engines};
use scheduler::worker::{self, Options};
use scheduler::{Policy, Registration, Scheduler};

const KEY: i32 = 12;
/// Nothing but a change ends a wait within a test.
const LONG: Duration = Duration::from_secs(25);
const NOW: Duration = Duration::ZERO;

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

async fn until_finished(scheduler: &Scheduler, tasks: i64) {
    for task in 1..=tasks {
        let ended = scheduler.wait(KEY, task, LONG).await.unwrap();
        assert!(ended.is_some(), "{:?}", finished(scheduler).await);
    }
}

/// Only what is submitted or placed makes such a worker do anything.
fn patient(worker_id: i32, slots: i32) -> Options {
    Options {
        wait: LONG,
        heartbeat: 100 * LONG,
        ..Options::new(registration(worker_id, slots))
    }
}

/// Until the worker waits for tasks, most likely: nothing tells who waits.
async fn settled(scheduler: &Scheduler) {
    until_registered(scheduler).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
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
        assert_eq!(scheduler.pull(KEY, 1, 4, NOW).await.unwrap().len(), 2);
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
        assert_eq!(scheduler.heartbeat(KEY, 1, 60.0).await.unwrap(), (false, 0));
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
    until_there(scheduler, "SELECT worker_id FROM worker WHERE p_key = $1").await;
}

/// Until `sql`, which takes the key, finds a row.
async fn until_there(scheduler: &Scheduler, sql: &str) {
    let begun = Instant::now();
    let read = || scheduler.client().read(KEY, sql, &[&KEY]);
    while read().await.unwrap().is_empty() {
        assert!(begun.elapsed() < Duration::from_secs(60), "nothing: {sql}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn a_waiting_worker_starts_what_is_submitted_and_what_is_placed_on_it() {
    for engine in engines() {
        let engine = engine.unwrap();
        let scheduler = scheduler(&engine).await;
        let watched = async {
            settled(&scheduler).await;
            scheduler.submit(KEY, 1, "").await.unwrap();
            until_finished(&scheduler, 1).await;
            settled(&scheduler).await;
            let placed = scheduler.schedule(Policy::Fifo, KEY, 2).await;
            assert_eq!(placed.unwrap(), Some(1));
            until_finished(&scheduler, 2).await;
            settled(&scheduler).await;
        };
        let begun = Instant::now();
        let report = worker::run(&scheduler, &patient(1, 2), watched)
            .await
            .unwrap();
        // Told to end while a pull of it waits, it ends at once.
        assert!(begun.elapsed() < LONG / 2, "woken, not timed out");
        assert_eq!((report.finished, report.registered_again), (2, 0));
        // Not when the waiting began.
        let sql = "SELECT count(*) FROM task WHERE p_key = $1 AND started_at >= submitted_at";
        let rows = scheduler.client().read(KEY, sql, &[&KEY]).await.unwrap();
        assert_eq!(rows[0].get::<_, i64>(0), 2, "on {}", engine.name);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn waiting_workers_share_tasks_and_start_each_once() {
    const TASKS: i64 = 60;
    for engine in engines() {
        let engine = engine.unwrap();
        let first = scheduler(&engine).await;
        let mut workers = Vec::new();
        let (stop, stopped) = tokio::sync::watch::channel(());
        for worker_id in 1..=3 {
            let scheduler = scheduler(&engine).await;
            let mut stopped = stopped.clone();
            workers.push(tokio::spawn(async move {
                let told = async {
                    let _ = stopped.changed().await;
                };
                worker::run(&scheduler, &patient(worker_id, 2), told).await
            }));
        }
        for task in 1..=TASKS {
            assert!(first.submit(KEY, task, "").await.unwrap());
        }
        until_finished(&first, TASKS).await;
        stop.send(()).unwrap();
        let mut finished = 0;
        for worker in workers {
            let report = worker.await.unwrap().unwrap();
            assert_eq!(report.lost, 0, "on {}", engine.name);
            finished += report.finished;
        }
        assert_eq!(finished, TASKS as u64);
        let sql = "SELECT max(attempts) FROM task WHERE p_key = $1";
        let rows = first.client().read(KEY, sql, &[&KEY]).await.unwrap();
        assert_eq!(rows[0].get::<_, i32>(0), 1, "on {}", engine.name);
    }
}

/// Entries in the log of the key's partition.
async fn entries(scheduler: &Scheduler) -> i64 {
    let sql = format!(
        "SELECT max(commit_index) FROM dbos.replicas WHERE partition_id = {}",
        scheduler.client().partition(KEY)
    );
    scheduler.client().read_all(&sql, &[]).await.unwrap()[0].get(0)
}

#[tokio::test]
async fn an_idle_worker_writes_its_heartbeats_and_nothing_else() {
    const TIME: Duration = Duration::from_millis(2100);
    let engine = Engine::kernel().unwrap();
    let scheduler = scheduler(&engine).await;
    let silent = async {
        settled(&scheduler).await;
        // To ask after a write may be an entry itself: until it is none.
        let mut before = entries(&scheduler).await;
        loop {
            tokio::time::sleep(Duration::from_millis(300)).await;
            let now = entries(&scheduler).await;
            if std::mem::replace(&mut before, now) == now {
                break;
            }
        }
        tokio::time::sleep(TIME).await;
        assert_eq!(entries(&scheduler).await, before);
    };
    worker::run(&scheduler, &patient(1, 1), silent)
        .await
        .unwrap();
    let beating = async {
        settled(&scheduler).await;
        let (begun, before) = (Instant::now(), entries(&scheduler).await);
        tokio::time::sleep(TIME).await;
        let written = entries(&scheduler).await - before;
        // Each second a heartbeat, and a look at who leads, which behind a write may be an entry.
        let most = 2 * begun.elapsed().as_secs() as i64 + 4;
        assert!(written <= most, "{written} entries, at most {most}");
    };
    let options = Options::new(registration(2, 1));
    worker::run(&scheduler, &options, beating).await.unwrap();
}

#[tokio::test]
async fn a_worker_that_is_told_to_end_finishes_what_it_runs_and_takes_no_more() {
    for engine in engines() {
        let engine = engine.unwrap();
        let scheduler = scheduler(&engine).await;
        // It ends when all has been looked at, or after a minute.
        let folder = tempfile::tempdir().unwrap();
        let seen = folder.path().join("seen");
        let command = format!(
            "for i in $(seq 1200); do [ -e '{}' ] && exit 4; sleep 0.05; done",
            seen.display()
        );
        scheduler.submit(KEY, 1, &command).await.unwrap();
        let running = "SELECT task_id FROM task WHERE p_key = $1 AND state = 2";
        let running = until_there(&scheduler, running);
        let begun = Instant::now();
        let options = patient(1, 3);
        let others = async {
            let drained = "SELECT slots FROM worker WHERE p_key = $1 AND slots = 0";
            until_there(&scheduler, drained).await;
            assert!(scheduler.submit(KEY, 2, "").await.unwrap());
            let placed = scheduler.schedule(Policy::Fifo, KEY, 3).await.unwrap();
            std::fs::write(&seen, "").unwrap();
            placed
        };
        let (report, placed) = tokio::join!(worker::run(&scheduler, &options, running), others);
        assert_eq!(placed, None, "on {}", engine.name);
        assert!(begun.elapsed() < LONG);
        assert_eq!(report.unwrap().finished, 1);
        assert_eq!(finished(&scheduler).await, [(1, 4)]);
        let sql = "SELECT worker_id, attempts FROM task WHERE p_key = $1 AND task_id = 2";
        let rows = scheduler.client().read(KEY, sql, &[&KEY]).await.unwrap();
        assert_eq!((rows[0].get(0), rows[0].get(1)), (-1, 0));
    }
}

#[tokio::test]
async fn a_drained_worker_gives_back_what_it_has_not_begun_and_gets_no_slot_back() {
    for engine in engines() {
        let engine = engine.unwrap();
        let scheduler = scheduler(&engine).await;
        scheduler.register(&registration(1, 2)).await.unwrap();
        scheduler.submit(KEY, 1, "").await.unwrap();
        assert_eq!(scheduler.pull(KEY, 1, 1, NOW).await.unwrap().len(), 1);
        scheduler.schedule(Policy::Fifo, KEY, 2).await.unwrap();
        assert_eq!(scheduler.drain(KEY, 1).await.unwrap(), 1);
        assert!(scheduler.finish(KEY, 1, 1, 0).await.unwrap());
        // At once: it will never get any.
        assert_eq!(scheduler.pull(KEY, 1, 1, LONG).await.unwrap(), []);
        assert_eq!(
            scheduler.schedule(Policy::Fifo, KEY, 3).await.unwrap(),
            None
        );
        assert_eq!(scheduler.drain(KEY, 9).await.unwrap(), 0, "no such worker");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pull_of_a_worker_that_is_gone_is_refused_also_while_it_waits() {
    for engine in engines() {
        let engine = engine.unwrap();
        let scheduler = scheduler(&engine).await;
        let refused = |pulled: dbos_client::Result<Vec<scheduler::Task>>| {
            let error = pulled.unwrap_err();
            assert_eq!(error.sqlstate(), Some(scheduler::NOT_THERE));
            assert!(error.get_hint().is_some());
        };
        refused(scheduler.pull(KEY, 1, 1, LONG).await);
        scheduler.register(&registration(1, 1)).await.unwrap();
        let waiting = scheduler.clone();
        let waiting = tokio::spawn(async move { waiting.pull(KEY, 1, 1, LONG).await });
        settled(&scheduler).await;
        let begun = Instant::now();
        scheduler.leave(KEY, 1).await.unwrap();
        refused(waiting.await.unwrap());
        assert!(begun.elapsed() < LONG / 2, "on {}", engine.name);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_waits_for_a_task_hears_how_it_ended() {
    for engine in engines() {
        let engine = engine.unwrap();
        let scheduler = scheduler(&engine).await;
        let missing = scheduler.wait(KEY, 1, LONG).await.unwrap_err();
        assert_eq!(missing.sqlstate(), Some(scheduler::NOT_THERE));
        scheduler.register(&registration(1, 1)).await.unwrap();
        scheduler.submit(KEY, 1, "").await.unwrap();
        let short = Duration::from_millis(300);
        let begun = Instant::now();
        assert_eq!(scheduler.wait(KEY, 1, short).await.unwrap(), None);
        assert!(begun.elapsed() >= short);
        let waiting = scheduler.clone();
        let waiting = tokio::spawn(async move { waiting.wait(KEY, 1, LONG).await });
        scheduler.pull(KEY, 1, 1, NOW).await.unwrap();
        tokio::time::sleep(short).await;
        let begun = Instant::now();
        assert!(scheduler.finish(KEY, 1, 1, 7).await.unwrap());
        assert_eq!(waiting.await.unwrap().unwrap(), Some(7));
        assert!(begun.elapsed() < LONG / 2, "on {}", engine.name);
        assert_eq!(scheduler.wait(KEY, 1, LONG).await.unwrap(), Some(7));
    }
}
