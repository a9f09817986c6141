//! Statements that wait for a change (`wait_for_change`).

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use kernel_db::node::Durability;
use tokio_postgres::{Client, NoTls};

use crate::cluster::{Cluster, query, state, until_runs};

/// Takes a row and tells its value; waits for it if it is not there.
const TAKE: &str =
    "CREATE FUNCTION take(in_k int4, in_wait_s float8) RETURNS int4 LANGUAGE plpgsql AS $$
DECLARE
    taken int4;
BEGIN
    LOOP
        DELETE FROM t WHERE k = in_k RETURNING v INTO taken;
        EXIT WHEN FOUND OR wait_for_change(in_wait_s) IS NOT TRUE;
    END LOOP;
    RETURN taken;
END
$$";

/// Longer than a request is parked without being sent again.
const AGAIN: Duration = Duration::from_millis(800);
/// What those wait who are woken before.
const WAIT: Duration = Duration::from_secs(20);

/// Three nodes with a copy of one partition each. A client at the leader, and one elsewhere.
async fn waiting_cluster() -> (Cluster, u64, Client, Client) {
    let cluster = Cluster::steady(3, 1, 3, Durability::Memory);
    let client = cluster.connect(1).await;
    cluster.ready(&client).await;
    query(&client, "CREATE TABLE t (k int4 PRIMARY KEY, v int4)").await;
    query(&client, TAKE).await;
    let leader = cluster.leader(&client, 0).await;
    let (here, there) = (
        cluster.connect(leader).await,
        cluster.connect(leader % 3 + 1).await,
    );
    (cluster, leader, here, there)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_change_wakes_those_who_wait_at_any_node() {
    let (_cluster, _, here, there) = waiting_cluster().await;
    assert_eq!(query(&here, "SELECT take(1, 0)").await, "");
    let begun = Instant::now();
    assert_eq!(query(&there, "SELECT take(1, 1.2)").await, "");
    assert!(begun.elapsed() >= Duration::from_millis(1200));
    for (waiter, writer) in [(&here, &there), (&there, &here)] {
        let begun = Instant::now();
        let write = async {
            tokio::time::sleep(AGAIN).await;
            query(writer, "INSERT INTO t VALUES (1, 5)").await
        };
        let (taken, _) = tokio::join!(query(waiter, "SELECT take(1, 20)"), write);
        assert_eq!(taken, "5");
        assert!(begun.elapsed() < WAIT / 2, "woken, not timed out");
    }
    assert_eq!(query(&here, "SELECT count(*) FROM t").await, "0");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn where_nobody_can_wait_the_answer_says_so() {
    let cluster = Cluster::start(1, 2, 1, Durability::Memory);
    let client = cluster.connect(1).await;
    cluster.ready(&client).await;
    query(&client, "CREATE TABLE t (k int4 PRIMARY KEY, v int4)").await;
    query(&client, TAKE).await;
    // Over both partitions, in none, and in a block.
    query(&client, "INSERT INTO t VALUES (2, 2), (3, 3)").await;
    let over_both = "UPDATE t SET v = 0 WHERE wait_for_change(1)";
    assert_eq!(state(&client, over_both).await, "0A000");
    assert_eq!(state(&client, "SELECT wait_for_change(1)").await, "0A000");
    query(&client, "BEGIN").await;
    assert_eq!(state(&client, "SELECT take(1, 1)").await, "0A000");
    query(&client, "ROLLBACK").await;
    // Not to wait is possible everywhere.
    assert_eq!(query(&client, "SELECT wait_for_change(0)").await, "f");
    assert_eq!(query(&client, "SELECT wait_for_change(NULL)").await, "");
    // A function of that name and type is the kernel's own.
    let mine =
        "CREATE FUNCTION wait_for_change(s float8) RETURNS bool LANGUAGE sql AS 'SELECT true'";
    query(&client, mine).await;
    assert_eq!(query(&client, "SELECT wait_for_change(0)").await, "f");
    // One transaction in both partitions wakes the waiters of both.
    let other = cluster.connect(1).await;
    let third = cluster.connect(1).await;
    let write = async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        query(&client, "INSERT INTO t VALUES (10, 10), (11, 11)").await
    };
    let (even, odd, _) = tokio::join!(
        query(&other, "SELECT take(10, 20)"),
        query(&third, "SELECT take(11, 20)"),
        write
    );
    assert_eq!([even, odd], ["10", "11"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_cancel_and_a_changed_schema_end_a_wait() {
    const TAKES: &str = "SELECT take(1, 20)";
    let (cluster, _, here, there) = waiting_cluster().await;
    let other = cluster.connect(1).await;
    for client in [&here, &there] {
        let token = client.cancel_token();
        let begun = Instant::now();
        let cancel = async {
            // A cancel that comes before its statement cancels nothing.
            until_runs(&other, TAKES).await;
            tokio::time::sleep(Duration::from_millis(300)).await;
            token.cancel_query(NoTls).await.unwrap();
        };
        let (ended, ()) = tokio::join!(state(client, TAKES), cancel);
        assert_eq!(ended, "57014");
        assert!(begun.elapsed() < WAIT / 2, "{:?}", begun.elapsed());
        // Nothing of it is left to take this.
        query(&there, "INSERT INTO t VALUES (1, 5)").await;
        assert_eq!(query(client, "SELECT take(1, 0)").await, "5");
    }
    // It is planned anew, and waits on.
    let change = async {
        until_runs(&other, TAKES).await;
        tokio::time::sleep(Duration::from_millis(300)).await;
        query(&there, "CREATE INDEX t_v ON t (k, v)").await;
        tokio::time::sleep(Duration::from_millis(300)).await;
        query(&there, "INSERT INTO t VALUES (1, 6)").await;
    };
    let (taken, ()) = tokio::join!(query(&here, TAKES), change);
    assert_eq!(taken, "6");
    // There is no table to wait for any more.
    let drop = async {
        until_runs(&other, TAKES).await;
        tokio::time::sleep(Duration::from_millis(300)).await;
        query(&there, "DROP TABLE t").await;
    };
    let (ended, ()) = tokio::join!(state(&here, TAKES), drop);
    assert_eq!(ended, "42P01");
}

/// Sends a statement and hangs up.
fn ask_and_leave(address: SocketAddr, sql: &str) {
    let mut socket = TcpStream::connect(address).unwrap();
    let parameters = b"\0\x03\0\0user\0dbos\0database\0dbos\0\0";
    let length = u32::try_from(parameters.len() + 4).unwrap();
    socket.write_all(&length.to_be_bytes()).unwrap();
    socket.write_all(parameters).unwrap();
    let mut heard = Vec::new();
    // ReadyForQuery, idle.
    while !heard.ends_with(b"Z\0\0\0\x05I") {
        let mut bytes = [0; 1024];
        let count = socket.read(&mut bytes).unwrap();
        assert!(count > 0, "the server hung up");
        heard.extend_from_slice(&bytes[..count]);
    }
    let length = u32::try_from(sql.len() + 5).unwrap();
    let message = [b"Q", &length.to_be_bytes()[..], sql.as_bytes(), b"\0"].concat();
    socket.write_all(&message).unwrap();
    // Time to be parked: a request that waits is shown nowhere. One that is not parked yet takes nothing either.
    std::thread::sleep(Duration::from_millis(300));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_client_that_is_gone_takes_nothing() {
    let (cluster, leader, here, _) = waiting_cluster().await;
    // At the leader's node that is seen at once, at another when the request is sent again.
    for (node, after_ms) in [(leader, 1000), (leader % 3 + 1, 3000)] {
        ask_and_leave(cluster.address(node), "SELECT take(1, 20)");
        tokio::time::sleep(Duration::from_millis(after_ms)).await;
        query(&here, "INSERT INTO t VALUES (1, 5)").await;
        tokio::time::sleep(Duration::from_millis(200)).await;
        assert_eq!(query(&here, "SELECT take(1, 0)").await, "5", "node {node}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn those_who_wait_cost_the_log_nothing() {
    let (_cluster, _, here, there) = waiting_cluster().await;
    let waiter = Arc::new(there);
    let waiting = tokio::spawn({
        let waiter = Arc::clone(&waiter);
        async move { query(&waiter, "SELECT take(1, 20)").await }
    });
    tokio::time::sleep(Duration::from_millis(300)).await;
    let commit = "SELECT max(commit_index) FROM dbos.replicas WHERE partition_id = 0";
    let mut quiet = false;
    // Something else may write, such as a new leader; not each time.
    for _ in 0..3 {
        if !quiet {
            let before = query(&here, commit).await;
            tokio::time::sleep(AGAIN).await;
            quiet = query(&here, commit).await == before;
        }
    }
    assert!(quiet, "a waiting request is in no entry");
    query(&here, "INSERT INTO t VALUES (1, 7)").await;
    assert_eq!(waiting.await.unwrap(), "7");
}
