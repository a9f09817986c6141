//! A real cluster of three node processes at work while its nodes are killed, paused, restarted and cut off.
//!
//! Each fault strikes the leader of some partition; the harness measures how long that partition is without service, heals,
//! waits until everything works, and goes on. In the end the histories of all clients are compared with what is there
//! (`history`). `TORTURE_MINUTES` sets how long (one minute by default, fractions allowed; every kind of fault strikes once
//! at least), `TORTURE_SEED` the order of faults, `TORTURE_FAULTS` (such as `Kill,Pause`) the kinds. `make torture MINUTES=n`
//! runs it as long as one likes.
//!
//! A lease that runs too long shows only where no write waits at the deposed leader, which this load always makes sure of:
//! `alone` is that case. Left out: full disks and failed fsyncs (kernel-db/tests/node_cluster), clocks (the simulator).

mod alone;
mod cluster;
mod faults;
mod history;
mod load;
mod proxy;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use cluster::Cluster;
use faults::{FAULTS, Failovers};
use history::History;

/// A number of the environment.
fn setting<T: std::str::FromStr>(name: &str) -> Option<T> {
    let value = std::env::var(name).ok()?;
    match value.parse() {
        Ok(value) => Some(value),
        Err(_) => panic!("{name}={value:?} is not a number"),
    }
}

/// xorshift: the order of faults is replayed by its seed; what the processes do meanwhile is not.
struct Order(u64);

impl Order {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn histories_hold_while_nodes_are_killed_paused_and_cut_off() {
    let minutes: f64 = setting("TORTURE_MINUTES").unwrap_or(1.0);
    let seed: u64 = setting("TORTURE_SEED").unwrap_or_else(|| uuid::Uuid::new_v4().as_u64_pair().0);
    let kinds = match std::env::var("TORTURE_FAULTS") {
        Ok(names) => faults::chosen(&names),
        Err(_) => FAULTS.to_vec(),
    };
    println!("TORTURE_SEED={seed} TORTURE_MINUTES={minutes}");
    let mut order = Order(seed.max(1));
    let mut cluster = Cluster::start(3).await;
    for node in cluster.nodes() {
        cluster.connect(node).await;
    }
    let client = load::client(&cluster).await;
    load::install(&client).await;
    faults::settled(&cluster).await;
    let history = Arc::new(History::new(load::REGISTERS));
    let working = load::start(&cluster, &history).await;

    let mut failovers = Failovers::default();
    let start = Instant::now();
    let mut turn = Vec::new();
    while start.elapsed() < Duration::from_secs_f64(minutes * 60.0)
        || kinds.iter().any(|fault| failovers.count(*fault) == 0)
    {
        if turn.is_empty() {
            turn = kinds.clone();
        }
        let fault = turn.swap_remove(order.next() as usize % turn.len());
        let before = history.acknowledged();
        faults::strike(&mut cluster, fault, order.next(), &mut failovers).await;
        assert!(
            history.acknowledged() > before,
            "no work went on around {fault:?}"
        );
    }
    history.stop.store(true, Ordering::Relaxed);
    for task in working {
        task.await.unwrap();
    }
    let wrong = load::check(&client, &history).await;
    print!("{}\n{failovers}", history.summary());
    if !wrong.is_empty() {
        let kept = cluster.keep();
        let shown: Vec<&String> = wrong.iter().take(20).collect();
        panic!(
            "TORTURE_SEED={seed}: {} wrong, first {shown:#?}; data and logs are in {}",
            wrong.len(),
            kept.display()
        );
    }
    assert!(history.reads.load(Ordering::Relaxed) > 0 && history.sums.load(Ordering::Relaxed) > 0);
    for node in cluster.nodes() {
        assert_eq!(
            cluster.stop(node).await,
            Some(0),
            "exit code of node {node}"
        );
    }
}
