//! Going back to an earlier time, as a whole cluster.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use kernel_db::node::admin::{Administration, RollbackProgress, RollbackStage};
use kernel_db::node::{Durability, NodeConfig};
use tokio_postgres::Client;

use crate::cluster::{Cluster, PATIENCE, query, stamp, state};

async fn begin(cluster: &Cluster, node: u64, to: &str) -> kernel_db::Result<()> {
    let config = config(cluster, node);
    administration(cluster, &config).roll_back(to).await
}

fn config(cluster: &Cluster, node: u64) -> NodeConfig {
    NodeConfig::load(&cluster.dir().join(format!("{node}.toml"))).unwrap()
}

fn administration<'a>(cluster: &Cluster, config: &'a NodeConfig) -> Administration<'a> {
    Administration {
        config,
        node: config.node_id,
        address: cluster.nodes[config.node_id as usize - 1].peer,
    }
}

async fn progress(cluster: &Cluster, node: u64) -> RollbackProgress {
    let config = config(cluster, node);
    let asked = administration(cluster, &config).rollback_progress().await;
    asked.unwrap()
}

/// The first progress that satisfies `wanted`.
async fn until(
    cluster: &Cluster,
    node: u64,
    wanted: impl Fn(&RollbackProgress) -> bool,
) -> RollbackProgress {
    let end = Instant::now() + PATIENCE;
    loop {
        let progress = progress(cluster, node).await;
        if wanted(&progress) {
            return progress;
        }
        assert!(Instant::now() < end, "{progress:?}\n{}", cluster.logs());
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

fn has_ended(progress: &RollbackProgress) -> bool {
    matches!(progress.stage, RollbackStage::Done | RollbackStage::Failed)
}

async fn roll_back(cluster: &Cluster, node: u64, to: &str) -> RollbackProgress {
    begin(cluster, node, to).await.unwrap();
    until(cluster, node, has_ended).await
}

/// SQLSTATE of a rollback that must fail.
async fn refused(cluster: &Cluster, to: &str) -> String {
    match begin(cluster, 1, to).await {
        Err(error) => error.sqlstate().to_owned(),
        Ok(()) => {
            let ended = until(cluster, 1, has_ended).await;
            ended.failure.expect("it succeeded").sqlstate
        }
    }
}

/// All that the tables show, by rows, by a local index and by a global one.
async fn picture(client: &Client, at: &str) -> [String; 4] {
    let mut seen = Vec::new();
    for sql in [
        "SELECT count(*) || ' ' || sum(v) || ' ' || sum(k * v) FROM t @",
        "SELECT count(*) FROM t @ WHERE v BETWEEN 100 AND 200",
        "SELECT string_agg(id || name, ' ' ORDER BY id) FROM u @",
        "SELECT id FROM u @ WHERE name = 'b'",
    ] {
        seen.push(query(client, &sql.replace('@', at)).await);
    }
    seen.try_into().unwrap()
}

/// Back and forth again, then what is refused.
async fn undone_and_undone_again(
    cluster: &Cluster,
    client: &Client,
    (before, before_unique): (&str, &str),
    (first_seen, second_seen): (&[String; 4], &[String; 4]),
) {
    // The rollback is undone, and that is undone too.
    let again = roll_back(cluster, 1, before).await;
    assert_eq!(again.failure, None, "{}", cluster.logs());
    assert_eq!(picture(client, "").await, *second_seen);
    let third = roll_back(cluster, 3, &again.before.unwrap().to_string()).await;
    assert_eq!(third.failure, None, "{}", cluster.logs());
    assert_eq!(picture(client, "").await, *first_seen);
    // Nothing changed since: nothing is written.
    let none = roll_back(cluster, 1, "-0s").await;
    assert_eq!((none.failure, none.tables.len()), (None, 0));

    // Refused, with nothing changed.
    assert_eq!(refused(cluster, "-400s").await, "72000");
    assert_eq!(refused(cluster, "9000000000000000").await, "22023");
    assert_eq!(refused(cluster, "never").await, "22007");
    assert_eq!(refused(cluster, before_unique).await, "0A000");
    assert_eq!(picture(client, "").await, *first_seen);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn all_tables_go_back_and_that_can_be_undone() {
    let cluster = Cluster::steady(3, 4, 3, Durability::Memory);
    let client = cluster.connect(1).await;
    cluster.ready(&client).await;
    query(&client, "CREATE TABLE t (k int8 PRIMARY KEY, v int8)").await;
    query(&client, "CREATE INDEX ON t (v)").await;
    let before_unique = stamp(&client).await;
    query(
        &client,
        "CREATE TABLE u (id int8 PRIMARY KEY, name text UNIQUE)",
    )
    .await;
    query(&client, "CREATE SEQUENCE s").await;
    // More than one step, and more than one entry, in every partition.
    query(
        &client,
        "INSERT INTO t SELECT g, g FROM generate_series(1, 6000) g",
    )
    .await;
    query(&client, "INSERT INTO u VALUES (1, 'a'), (2, 'b'), (3, 'c')").await;
    let first = stamp(&client).await;
    let first_seen = picture(&client, "").await;

    query(&client, "UPDATE t SET v = v + 1000 WHERE k <= 5500").await;
    query(&client, "DELETE FROM t WHERE k BETWEEN 5600 AND 5700").await;
    query(
        &client,
        "INSERT INTO t SELECT g, 150 FROM generate_series(7000, 7500) g",
    )
    .await;
    query(&client, "DELETE FROM u WHERE id = 2").await;
    query(&client, "INSERT INTO u VALUES (4, 'b'), (5, 'd')").await;
    let drawn = query(&client, "SELECT nextval('s')").await;
    let second_seen = picture(&client, "").await;
    assert_ne!(first_seen, second_seen);

    let back = roll_back(&cluster, 2, &first).await;
    assert_eq!(back.failure, None, "{}", cluster.logs());
    let changed = |of: &RollbackProgress, table: &str| {
        let found = of.tables.iter().find(|t| t.table == table);
        found.map(|t| (t.restored, t.removed))
    };
    assert_eq!(changed(&back, "t"), Some((5601, 501)));
    assert_eq!(changed(&back, "u"), Some((1, 2)));
    assert_eq!(picture(&client, "").await, first_seen);
    // Both moments are still there to be read.
    let before = back.before.unwrap().to_string();
    let at = |stamp: &str| format!("AS OF SYSTEM TIME {stamp}");
    assert_eq!(picture(&client, &at(&before)).await, second_seen);
    assert_eq!(picture(&client, &at(&first)).await, first_seen);
    // What is unique is so by the restored rows, and no value of a sequence comes twice.
    assert_eq!(
        state(&client, "INSERT INTO u VALUES (9, 'b')").await,
        "23505"
    );
    assert_ne!(query(&client, "SELECT nextval('s')").await, drawn);

    undone_and_undone_again(
        &cluster,
        &client,
        (&before, &before_unique),
        (&first_seen, &second_seen),
    )
    .await;
}

/// Moves money until it is told to stop; errors are met by going on.
async fn move_money(client: Client, stop: Arc<AtomicBool>, moved: Arc<AtomicU64>) {
    while !stop.load(Ordering::Relaxed) {
        let (a, b) = (rand::random_range(0..3000), rand::random_range(0..3000));
        let sql = format!(
            "UPDATE account SET balance = balance + CASE k WHEN {a} THEN -7 ELSE 7 END \
             WHERE k IN ({a}, {b}) AND {a} <> {b}"
        );
        match client.simple_query(&sql).await {
            Ok(_) => drop(moved.fetch_add(1, Ordering::Relaxed)),
            Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    }
}

async fn balances(client: &Client, at: &str) -> String {
    let sql = "SELECT string_agg(k || ':' || balance, ' ' ORDER BY k) FROM account @";
    query(client, &sql.replace('@', at)).await
}

/// What was decided at `decided` is what was there at `to`, and no money came or went.
async fn as_it_was(client: &Client, decided: u64, to: &str) {
    let at = |stamp: u64| format!("AS OF SYSTEM TIME {stamp}");
    assert_eq!(
        balances(client, &at(decided)).await,
        balances(client, &format!("AS OF SYSTEM TIME {to}")).await
    );
    let total = "SELECT sum(balance) FROM account @";
    for moment in [at(decided - 1), at(decided), String::new()] {
        assert_eq!(query(client, &total.replace('@', &moment)).await, "300000");
    }
}

async fn goes_on(cluster: &Cluster, moved: &AtomicU64) {
    let so_far = moved.load(Ordering::Relaxed);
    let end = Instant::now() + PATIENCE;
    while moved.load(Ordering::Relaxed) < so_far + 50 {
        assert!(
            Instant::now() < end,
            "the load does not go on\n{}",
            cluster.logs()
        );
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

// I12: whoever dies, it happens everywhere or nowhere.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn the_death_of_a_leader_does_not_leave_half_of_a_rollback() {
    let mut cluster = Cluster::start(3, 3, 3, Durability::Memory);
    let client = cluster.connect(1).await;
    cluster.ready(&client).await;
    query(
        &client,
        "CREATE TABLE account (k int8 PRIMARY KEY, balance int8)",
    )
    .await;
    query(
        &client,
        "INSERT INTO account SELECT g, 100 FROM generate_series(0, 2999) g",
    )
    .await;
    let (stop, moved) = (
        Arc::new(AtomicBool::new(false)),
        Arc::new(AtomicU64::new(0)),
    );
    let mut load = Vec::new();
    for _ in 0..4 {
        let client = cluster.connect(1).await;
        load.push(tokio::spawn(move_money(
            client,
            stop.clone(),
            moved.clone(),
        )));
    }
    for victim in [2, 3] {
        tokio::time::sleep(Duration::from_millis(700)).await;
        let to = stamp(&client).await;
        query(
            &client,
            "UPDATE account SET balance = balance + 1 WHERE k % 2 = 0",
        )
        .await;
        query(
            &client,
            "UPDATE account SET balance = balance - 1 WHERE k % 2 = 0",
        )
        .await;
        begin(&cluster, 1, &to).await.unwrap();
        let under_way = |p: &RollbackProgress| p.stage != RollbackStage::Waiting;
        until(&cluster, 1, under_way).await;
        cluster.kill(victim);
        let mut ended = until(&cluster, 1, has_ended).await;
        while let Some(failure) = &ended.failure {
            // Locks that were not prepared died with their leader.
            assert_eq!(failure.sqlstate, "40001", "{failure:?}\n{}", cluster.logs());
            ended = roll_back(&cluster, 1, &to).await;
        }
        as_it_was(&client, ended.before.unwrap() + 1, &to).await;
        cluster.spawn(victim);
        goes_on(&cluster, &moved).await;
        let back = cluster.connect(victim).await;
        cluster.ready(&back).await;
    }
    stop.store(true, Ordering::Relaxed);
    for task in load {
        task.await.unwrap();
    }
    assert_eq!(
        query(&client, "SELECT sum(balance) FROM account").await,
        "300000"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_rollback_whose_gateway_dies_is_given_up_or_finished_by_the_partitions() {
    let mut cluster = Cluster::start(3, 3, 3, Durability::Memory);
    let client = cluster.connect(1).await;
    cluster.ready(&client).await;
    query(&client, "CREATE TABLE t (k int8 PRIMARY KEY, v int8)").await;
    query(
        &client,
        "INSERT INTO t SELECT g, 1 FROM generate_series(1, 3000) g",
    )
    .await;
    let to = stamp(&client).await;
    query(&client, "UPDATE t SET v = 2").await;
    begin(&cluster, 3, &to).await.unwrap();
    until(&cluster, 3, |p| p.stage != RollbackStage::Waiting).await;
    cluster.kill(3);
    // Readers wait until it is settled; the statement timeout is longer.
    let sums = query(
        &client,
        "SELECT min(v) || ' ' || max(v) || ' ' || count(*) FROM t",
    )
    .await;
    assert!(
        ["1 1 3000", "2 2 3000"].contains(&&sums[..]),
        "{sums}\n{}",
        cluster.logs()
    );
    query(&client, "UPDATE t SET v = v + 10 WHERE k = 5").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn large_rows_of_one_partition_go_back_in_several_entries() {
    let cluster = Cluster::steady(3, 1, 3, Durability::Memory);
    let client = cluster.connect(1).await;
    cluster.ready(&client).await;
    query(&client, "CREATE TABLE big (k int8 PRIMARY KEY, v text)").await;
    // Together more than may wait for another node (peer_queue_bytes_max).
    let write = async |letter: &str| {
        for k in 0..20 {
            let sql = format!(
                "INSERT INTO big VALUES ({k}, repeat('{letter}', 4000000)) \
                 ON CONFLICT (k) DO UPDATE SET v = excluded.v"
            );
            query(&client, &sql).await;
        }
    };
    write("a").await;
    let to = stamp(&client).await;
    write("b").await;
    let back = roll_back(&cluster, 2, &to).await;
    assert_eq!(back.failure, None, "{}", cluster.logs());
    let sql = "SELECT min(left(v, 1)) || max(left(v, 1)) || count(*) FROM big";
    assert_eq!(query(&client, sql).await, "aa20");
    // The partition works on, on all nodes.
    write("c").await;
    assert_eq!(query(&client, sql).await, "cc20");
}
