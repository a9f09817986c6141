//! A leader that is paused and cut off at once, and goes on while it is still cut off: nobody tells it that it was deposed,
//! and few of its ticks have passed. Only the end of its lease keeps it from answering what it knows.
//!
//! No write may wait at it: reads wait behind those, whatever the lease says.

use std::time::{Duration, Instant};

use rustix::process::Signal;

use super::cluster::Cluster;
use super::faults;
use super::load::number;

const PATIENCE: Duration = Duration::from_secs(20);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deposed_leader_that_wakes_up_alone_answers_nothing_stale() {
    let cluster = Cluster::start(3).await;
    let client = cluster.connect(1).await;
    faults::until_leader(&cluster, 0).await;
    client
        .batch_execute("CREATE TABLE t (k int4 PRIMARY KEY, v int8)")
        .await
        .unwrap();
    client
        .batch_execute("INSERT INTO t VALUES (0, 0)")
        .await
        .unwrap();
    let leader = faults::until_leader(&cluster, 0).await;
    let survivor = cluster.connect(1 + leader % 3).await;
    let mut asking = Vec::new();
    for _ in 0..20 {
        asking.push(cluster.connect(leader).await);
    }

    cluster.network.close_to(leader);
    cluster.network.close_from(leader);
    cluster.signal(leader, Signal::STOP);
    let start = Instant::now();
    let successor = format!(
        "SELECT count(*) FROM dbos.partitions WHERE partition_id = 0 AND leader <> {leader}"
    );
    while number(&survivor, &successor).await != Some(1) {
        assert!(start.elapsed() < PATIENCE, "nobody took over");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    while survivor
        .batch_execute("UPDATE t SET v = 1 WHERE k = 0")
        .await
        .is_err()
    {
        assert!(start.elapsed() < PATIENCE, "the new leader does not write");
    }
    let ask = |client: tokio_postgres::Client| {
        tokio::spawn(async move { number(&client, "SELECT v FROM t WHERE k = 0").await })
    };
    let asked: Vec<_> = asking.into_iter().map(ask).collect();
    tokio::time::sleep(Duration::from_millis(500)).await;
    cluster.signal(leader, Signal::CONT);
    tokio::time::sleep(Duration::from_millis(1000)).await;
    cluster.network.open_all();
    for answer in asked {
        // An error is as good as the truth.
        assert_ne!(answer.await.unwrap(), Some(0), "a stale read");
    }
    let back = cluster.connect(leader).await;
    assert_eq!(number(&back, "SELECT v FROM t WHERE k = 0").await, Some(1));
}
