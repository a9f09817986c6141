//! A worker that waits while leaders change.

use std::time::Duration;

use dbos_client::testing::{LocalCluster, leader};
use scheduler::worker::{self, Options};
use scheduler::{Registration, Scheduler};

const KEY: i32 = 7;
const LONG: Duration = Duration::from_secs(25);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_waiting_worker_goes_on_under_the_next_leader() {
    let cluster = LocalCluster::start(&["--nodes", "3", "--partitions", "1"]).unwrap();
    let client = cluster.client().await.unwrap();
    scheduler::install(&client).await.unwrap();
    let scheduler = Scheduler::new(client);
    let registration = Registration {
        key: KEY,
        worker_id: 1,
        slots: 1,
        shard: 0,
        url: None,
    };
    let options = Options {
        wait: LONG,
        dead_after: 100 * LONG,
        ..Options::new(registration)
    };
    // With a client of its own, as another process has.
    let other = cluster.client().await.unwrap();
    let watched = async {
        let scheduler = Scheduler::new(other.clone());
        tokio::time::sleep(Duration::from_millis(1500)).await;
        let leader = leader(&other, 0).await.unwrap().to_string();
        cluster.dbos(&["cluster", "kill", &leader]).unwrap();
        scheduler.submit(KEY, 1, "exit 5").await.unwrap();
        assert_eq!(scheduler.wait(KEY, 1, LONG).await.unwrap(), Some(5));
    };
    let report = worker::run(&scheduler, &options, watched).await.unwrap();
    assert_eq!((report.finished, report.registered_again), (1, 0));
}
