//! Changes of the schema while clients work with what changes.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use kernel_db::node::Durability;
use tokio_postgres::SimpleQueryMessage;

use crate::cluster::{Cluster, PATIENCE, eventually, query};

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn an_index_built_under_load_equals_its_table() {
    let cluster = Cluster::start(1, 2, 1, Durability::Memory);
    let client = cluster.connect(1).await;
    cluster.ready(&client).await;
    query(
        &client,
        "CREATE TABLE directory (p int4, k int4, v int4, PRIMARY KEY (p, k))",
    )
    .await;
    for p in 0..4 {
        let rows: Vec<String> = (0..700).map(|k| format!("({p}, {k}, {})", k % 7)).collect();
        query(
            &client,
            &format!("INSERT INTO directory VALUES {}", rows.join(", ")),
        )
        .await;
    }
    let writer = cluster.connect(1).await;
    let load = tokio::spawn(async move {
        for i in 0..600 {
            let (p, k) = (i % 4, i * 7 % 700);
            query(
                &writer,
                &format!(
                    "UPDATE directory SET v = {} WHERE p = {p} AND k = {k}",
                    100 + i % 3
                ),
            )
            .await;
            query(
                &writer,
                &format!("INSERT INTO directory VALUES ({p}, {}, 5)", 1000 + i),
            )
            .await;
        }
    });
    query(&client, "CREATE INDEX by_v ON directory (p, v)").await;
    load.await.unwrap();
    for p in 0..4 {
        for v in [0, 5, 100, 101] {
            let by_index = format!("SELECT count(*) FROM directory WHERE p = {p} AND v = {v}");
            let by_table = format!("SELECT count(*) FROM directory WHERE p = {p} AND v + 0 = {v}");
            let rows: Vec<String> = match client.simple_query(&format!("EXPLAIN {by_index}")).await
            {
                Ok(messages) => messages
                    .iter()
                    .filter_map(|m| match m {
                        SimpleQueryMessage::Row(row) => row.get(0).map(str::to_string),
                        _ => None,
                    })
                    .collect(),
                Err(error) => panic!("{error:?}"),
            };
            assert!(rows.iter().any(|r| r.contains("by_v")), "{rows:?}");
            assert_eq!(
                query(&client, &by_index).await,
                query(&client, &by_table).await,
                "p {p} v {v}"
            );
        }
    }
}

/// Versions of a function that writes its version in two rows and returns it.
fn versioned(version: u64) -> String {
    format!(
        "CREATE OR REPLACE FUNCTION versioned(in_k int4, in_id int8) RETURNS int8 LANGUAGE plpgsql AS $$
        BEGIN
            INSERT INTO call VALUES (in_k, in_id, {version});
            INSERT INTO trace VALUES (in_k, in_id, {version});
            RETURN {version};
        END $$"
    )
}

#[derive(Default)]
struct Versions {
    /// The newest version that a CREATE OR REPLACE has returned for.
    replaced: AtomicU64,
    /// The newest that one was sent for.
    sent: AtomicU64,
    calls: AtomicU64,
    stop: AtomicBool,
}

/// Calls the function until it is told to stop; the number and the version of each call.
async fn call_versions(
    client: tokio_postgres::Client,
    caller: i64,
    versions: Arc<Versions>,
) -> Vec<(i64, i64)> {
    let call = client.prepare("SELECT versioned($1, $2)").await.unwrap();
    let mut returned = Vec::new();
    while !versions.stop.load(Ordering::SeqCst) {
        let (k, id) = (
            returned.len() as i32 % 8,
            caller << 32 | returned.len() as i64,
        );
        let least = versions.replaced.load(Ordering::SeqCst);
        let row = client.query_one(&call, &[&k, &id]).await;
        let version = row
            .unwrap_or_else(|error| panic!("a call failed: {error:?}"))
            .get::<_, i64>(0);
        let most = versions.sent.load(Ordering::SeqCst);
        assert!(
            (least..=most).contains(&(version as u64)),
            "{version} is not in {least}..={most}"
        );
        returned.push((id, version));
        versions.calls.fetch_add(1, Ordering::SeqCst);
    }
    returned
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_function_replaced_under_load_is_the_old_or_the_new_one_and_loses_no_call() {
    let cluster = Cluster::steady(3, 4, 3, Durability::Memory);
    let client = cluster.connect(1).await;
    cluster.ready(&client).await;
    for table in ["call", "trace"] {
        query(
            &client,
            &format!("CREATE TABLE {table} (k int4, id int8, version int8, PRIMARY KEY (k, id))"),
        )
        .await;
    }
    query(&client, &versioned(0)).await;
    let versions = Arc::new(Versions::default());
    let mut callers = Vec::new();
    for caller in 0..6_i64 {
        let connection = cluster.connect(1 + caller as u64 % 3).await;
        let calling = call_versions(connection, caller, versions.clone());
        callers.push(tokio::spawn(calling));
    }
    let end = Instant::now() + PATIENCE;
    let (mut version, mut calls) = (0, 0);
    // Fewer are no load.
    while version < 25 || calls <= 200 {
        assert!(Instant::now() < end, "{version} versions, {calls} calls");
        version += 1;
        tokio::time::sleep(Duration::from_millis(40)).await;
        versions.sent.store(version, Ordering::SeqCst);
        query(&client, &versioned(version)).await;
        versions.replaced.store(version, Ordering::SeqCst);
        calls = versions.calls.load(Ordering::SeqCst);
    }
    versions.stop.store(true, Ordering::SeqCst);
    let mut returned = Vec::new();
    for caller in callers {
        returned.extend(caller.await.unwrap());
    }
    returned.sort_unstable();
    for table in ["call", "trace"] {
        let rows = client
            .query(&format!("SELECT id, version FROM {table} ORDER BY id"), &[])
            .await
            .unwrap();
        let rows: Vec<(i64, i64)> = rows.iter().map(|row| (row.get(0), row.get(1))).collect();
        assert!(
            rows == returned,
            "{table} and what the calls returned differ"
        );
    }
}

/// Rows of each of four partition keys: enough for a scan to take a while.
const ROWS: usize = 2_000;

async fn fill(client: &tokio_postgres::Client) {
    for p in 0..4 {
        let sql = format!("INSERT INTO big SELECT {p}, g FROM generate_series(1, {ROWS}) g");
        query(client, &sql).await;
    }
}

async fn until(counter: &AtomicU64, least: u64) {
    let end = Instant::now() + PATIENCE;
    while counter.load(Ordering::SeqCst) < least {
        assert!(Instant::now() < end, "{counter:?} is not {least}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_read_beside_truncate_or_drop_has_all_rows_or_none() {
    let cluster = Cluster::steady(3, 4, 3, Durability::Memory);
    let client = cluster.connect(1).await;
    cluster.ready(&client).await;
    let create = "CREATE TABLE big (p int4, k int4, PRIMARY KEY (p, k))";
    query(&client, create).await;
    let mut readers = Vec::new();
    for reader in 0..6 {
        readers.push(Arc::new(cluster.connect(1 + reader % 3).await));
    }
    let (mut whole, mut nothing) = (0, 0);
    for round in 0..12 {
        fill(&client).await;
        let stop = Arc::new(AtomicBool::new(false));
        let done = Arc::new(AtomicU64::new(0));
        let count = |connection: &Arc<tokio_postgres::Client>| {
            let (connection, stop, done) = (connection.clone(), stop.clone(), done.clone());
            tokio::spawn(async move {
                let mut counts = Vec::new();
                while !stop.load(Ordering::SeqCst) {
                    match connection.simple_query("SELECT count(*) FROM big").await {
                        Ok(messages) => counts.push(crate::cluster::first(&messages)),
                        // Dropped, or between two versions of the schema for too long.
                        Err(error) => match error.code().map(|code| code.code()) {
                            Some("42P01") => counts.push("0".into()),
                            Some("DB001") => {}
                            _ => panic!("{error:?}"),
                        },
                    }
                    done.fetch_add(1, Ordering::SeqCst);
                }
                counts
            })
        };
        let reading: Vec<_> = readers.iter().map(count).collect();
        until(&done, 8).await;
        if round % 2 == 0 {
            query(&client, "TRUNCATE big").await;
        } else {
            query(&client, "DROP TABLE big").await;
        }
        until(&done, done.load(Ordering::SeqCst) + 8).await;
        stop.store(true, Ordering::SeqCst);
        for counts in reading {
            for count in counts.await.unwrap() {
                match count.as_str() {
                    "0" => nothing += 1,
                    all if all == (4 * ROWS).to_string() => whole += 1,
                    part => panic!("{part} of {} rows, round {round}", 4 * ROWS),
                }
            }
        }
        if round % 2 == 1 {
            query(&client, create).await;
        }
    }
    assert!(
        whole > 0 && nothing > 0,
        "{whole} reads with all rows, {nothing} with none"
    );
}

/// Rows of a table that goes: as many as issue 2 asks for.
const MANY: usize = 500_000;
/// Rows of one statement that fills it.
const CHUNK: usize = 2_500;

/// Terms of all partitions.
async fn terms(client: &tokio_postgres::Client) -> Vec<i64> {
    let sql = "SELECT term FROM dbos.partitions ORDER BY partition_id";
    let rows = client.query(sql, &[]).await.unwrap();
    rows.iter().map(|row| row.get(0)).collect()
}

/// Fills one partition's half of the table.
async fn fill_half(client: tokio_postgres::Client, p: usize) {
    for chunk in 0..MANY / 2 / CHUNK {
        let (from, to) = (chunk * CHUNK, (chunk + 1) * CHUNK - 1);
        let rows = format!("SELECT {p}, g FROM generate_series({from}, {to}) g");
        let sql = format!("INSERT INTO many {rows} ON CONFLICT DO NOTHING");
        // On a machine with too much to do a leader may change while the table is filled: that is not what is tested.
        let mut attempts = 0;
        while let Err(error) = client.simple_query(&sql).await {
            attempts += 1;
            assert!(attempts < 20, "{error:?}");
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
    }
}

/// Inserts until it is told to stop; what was acknowledged, and what was answered instead.
async fn write(
    client: tokio_postgres::Client,
    first: i64,
    stop: Arc<AtomicBool>,
    done: Arc<AtomicU64>,
) -> (Vec<(i32, i64)>, Vec<String>) {
    let insert = client.prepare("INSERT INTO other VALUES ($1, $2)");
    let insert = insert.await.unwrap();
    let (mut acknowledged, mut failed) = (Vec::new(), Vec::new());
    for k in first.. {
        if stop.load(Ordering::SeqCst) {
            break;
        }
        let p = k as i32 % 2;
        match client.execute(&insert, &[&p, &k]).await {
            Ok(_) => {
                acknowledged.push((p, k));
                done.fetch_add(1, Ordering::SeqCst);
            }
            Err(error) => {
                failed.push(format!("{error:?}"));
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
    (acknowledged, failed)
}

async fn half_a_million_rows_go(gone: &str) {
    let cluster = Cluster::start(3, 2, 3, Durability::Memory);
    let client = cluster.connect(1).await;
    cluster.ready(&client).await;
    let sql = "CREATE TABLE other (p int4, k int8, PRIMARY KEY (p, k))";
    query(&client, sql).await;
    // A machine that stands still deposes leaders too, but not each time.
    for attempt in 1..=3 {
        if go_quietly(&cluster, &client, gone, attempt).await {
            return;
        }
    }
    panic!("{gone}: a leader was deposed each time");
}

/// False if a leader was deposed: then statements may fail, but what was acknowledged is there all the same.
async fn go_quietly(
    cluster: &Cluster,
    client: &tokio_postgres::Client,
    gone: &str,
    attempt: i64,
) -> bool {
    let create = "CREATE TABLE IF NOT EXISTS many (p int4, k int4, PRIMARY KEY (p, k));
        SELECT 'made'";
    eventually(client, create, |made| made == "made").await;
    let (one, two) = (cluster.connect(1).await, cluster.connect(2).await);
    tokio::join!(fill_half(one, 0), fill_half(two, 1));
    let count = "SELECT count(*) FROM many";
    let whole = MANY.to_string();
    eventually(client, count, |rows| rows == whole).await;
    let before = terms(client).await;
    let (stop, done) = (
        Arc::new(AtomicBool::new(false)),
        Arc::new(AtomicU64::new(0)),
    );
    let mut writers = Vec::new();
    for writer in 0..4_i64 {
        let connection = cluster.connect(1 + writer as u64 % 3).await;
        let first = (attempt * 4 + writer) << 40;
        let writing = write(connection, first, stop.clone(), done.clone());
        writers.push(tokio::spawn(writing));
    }
    until(&done, 200).await;
    let went = client.simple_query(gone).await;
    until(&done, done.load(Ordering::SeqCst) + 200).await;
    stop.store(true, Ordering::SeqCst);
    let (mut acknowledged, mut failed) = (Vec::new(), Vec::new());
    for writer in writers {
        let (there, not) = writer.await.unwrap();
        acknowledged.extend(there);
        failed.extend(not);
    }
    let rows = client.query("SELECT p, k FROM other", &[]).await.unwrap();
    let there: HashSet<(i32, i64)> = rows.iter().map(|r| (r.get(0), r.get(1))).collect();
    let lost = acknowledged.iter().filter(|row| !there.contains(row));
    assert_eq!(lost.count(), 0, "{gone}: acknowledged inserts are lost");
    if terms(client).await != before {
        return false;
    }
    // Anything but success is a lost operation.
    assert!(went.is_ok() && failed.is_empty(), "{went:?} {failed:?}");
    match gone.starts_with("DROP") {
        true => assert_eq!(crate::cluster::state(client, "TABLE many").await, "42P01"),
        false => assert_eq!(query(client, count).await, "0"),
    }
    true
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn truncate_of_half_a_million_rows_deposes_nobody_and_loses_nothing() {
    half_a_million_rows_go("TRUNCATE many").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn drop_of_half_a_million_rows_deposes_nobody_and_loses_nothing() {
    half_a_million_rows_go("DROP TABLE many").await;
}

/// It reads no table, so no partition tells that the schema changed.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_prepared_statement_calls_the_function_that_is_there() {
    let cluster = Cluster::start(1, 2, 1, Durability::Memory);
    let client = cluster.connect(1).await;
    cluster.ready(&client).await;
    let make = |body: &str| {
        format!("CREATE OR REPLACE FUNCTION f(x int4) RETURNS int4 LANGUAGE sql AS $$ {body} $$")
    };
    query(&client, "CREATE TABLE t (k int4 PRIMARY KEY)").await;
    query(&client, "INSERT INTO t VALUES (1), (2), (3)").await;
    query(&client, &make("SELECT x")).await;
    let prepared = client.prepare("SELECT f(1)").await.unwrap();
    let value = async || {
        client
            .query_one(&prepared, &[])
            .await
            .unwrap()
            .get::<_, i32>(0)
    };
    assert_eq!(value().await, 1);
    let other = cluster.connect(1).await;
    query(&other, &make("SELECT x + 1")).await;
    assert_eq!(value().await, 2);
    query(&other, &make("SELECT count(*)::int4 FROM t")).await;
    assert_eq!(value().await, 3);
    query(&other, "DROP FUNCTION f(int4)").await;
    let gone = client.query_one(&prepared, &[]).await.unwrap_err();
    assert_eq!(gone.code().unwrap().code(), "42883");
}
