//! Statements that are given up while another node's leader has them.

use std::time::Duration;

use kernel_db::node::Durability;
use tokio_postgres::{Client, NoTls};

use crate::cluster::{Cluster, query, state, until_runs};

/// A cluster of three nodes and one partition, with clients of its leader and of another node.
async fn cluster() -> (Cluster, Client, Client) {
    let cluster = Cluster::steady(3, 1, 3, Durability::Memory);
    let client = cluster.connect(1).await;
    cluster.ready(&client).await;
    let leader = cluster.leader(&client, 0).await;
    let at_leader = cluster.connect(leader).await;
    let elsewhere = cluster.connect(leader % 3 + 1).await;
    query(&at_leader, "CREATE TABLE t (k int4 PRIMARY KEY, v int4)").await;
    query(&at_leader, "INSERT INTO t VALUES (1, 0), (2, 0)").await;
    (cluster, at_leader, elsewhere)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_cancel_reaches_what_waits_at_another_nodes_leader() {
    let (cluster, holder, waiter) = cluster().await;
    let watcher = cluster.connect(1).await;
    query(&holder, "BEGIN").await;
    query(&holder, "UPDATE t SET v = 1 WHERE k = 1").await;
    let cancel = waiter.cancel_token();
    let waiting = tokio::spawn(async move {
        let ended = state(&waiter, "UPDATE t SET v = v + 10 WHERE k = 1").await;
        (waiter, ended)
    });
    // A cancel that comes before its statement cancels nothing.
    until_runs(&watcher, "UPDATE t SET v = v + 10").await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(!waiting.is_finished(), "it does not wait for the lock");
    cancel.cancel_query(NoTls).await.unwrap();
    // The lock is still held: nothing else can end it, but for the statement timeout much later.
    let ended = tokio::time::timeout(Duration::from_secs(20), waiting).await;
    let (waiter, ended) = ended.expect("the cancel did not arrive").unwrap();
    assert_eq!(ended, "57014");
    query(&holder, "COMMIT").await;
    assert_eq!(query(&waiter, "SELECT v FROM t WHERE k = 1").await, "1");
    // The next statement is not touched by it.
    query(&waiter, "UPDATE t SET v = v + 10 WHERE k = 1").await;
    assert_eq!(query(&holder, "SELECT v FROM t WHERE k = 1").await, "11");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_statement_timeout_has_an_outcome_at_another_nodes_leader() {
    let (_cluster, holder, waiter) = cluster().await;
    query(&holder, "BEGIN").await;
    query(&holder, "UPDATE t SET v = 1 WHERE k = 1").await;
    query(&waiter, "SET statement_timeout = '300ms'").await;
    // Not 08007: the leader says that nothing happened. What it says may come too late on a machine that stands still.
    let update = "UPDATE t SET v = v + 10 WHERE k = 1";
    let mut ended = state(&waiter, update).await;
    for _ in 1..5 {
        if ended == "08007" {
            ended = state(&waiter, update).await;
        }
    }
    assert_eq!(ended, "57014");
    query(&holder, "COMMIT").await;
    query(&waiter, "RESET statement_timeout").await;
    query(&waiter, "UPDATE t SET v = v + 10 WHERE k = 1").await;
    assert_eq!(query(&holder, "SELECT v FROM t WHERE k = 1").await, "11");
}
