//! AS OF SYSTEM TIME.

use kernel_db::node::Durability;
use tokio_postgres::Client;

use crate::cluster::{Cluster, eventually, query, stamp, state};

/// What the tables of the next test hold at a time: rows, sum, rows of one partition, and a join over partitions.
async fn past(client: &Client, at: &str) -> [String; 4] {
    let ask = |sql: &str| query_owned(client, sql.replace("@", &format!("AS OF SYSTEM TIME {at}")));
    [
        ask("SELECT count(*) FROM t @").await,
        ask("SELECT sum(v) FROM t @ WHERE k >= 0").await,
        ask("SELECT v FROM t @ WHERE k = 7").await,
        ask("SELECT string_agg(t.v || u.s, ' ' ORDER BY t.k) FROM t JOIN u ON u.k = t.k + 1 @ WHERE t.k < 3").await,
    ]
}

async fn query_owned(client: &Client, sql: String) -> String {
    query(client, &sql).await
}

/// What `past` sees at the first and at the second moment.
const FIRST: [&str; 4] = ["10", "45", "7", "0u1 1u2 2u3"];
const SECOND: [&str; 4] = ["9", "836", "-1", "100u1"];

async fn every_form_of_a_time(
    client: &Client,
    other: &Client,
    empty: &str,
    first: &str,
    second: &str,
) {
    let moment = |stamp: &str| {
        let micros: i64 = stamp.parse().unwrap();
        kernel_db::sql::text::to_text(&kernel_db::sql::Value::Timestamptz(micros)).unwrap()
    };
    for client in [client, other] {
        assert_eq!(past(client, empty).await, ["0", "", "", ""]);
        assert_eq!(past(client, first).await, FIRST);
        assert_eq!(past(client, &format!("'{second}'")).await, SECOND);
        assert_eq!(past(client, &format!("'{}'", moment(first))).await, FIRST);
        let typed = format!("timestamptz '{}'", moment(second));
        assert_eq!(past(client, &typed).await, SECOND);
        assert_eq!(past(client, "'-0s'").await[..2], ["8", "736"]);
        assert_eq!(query(client, "SELECT count(*) FROM t").await, "8");
    }
    let row = other
        .query_one(
            "SELECT v FROM t AS OF SYSTEM TIME $1 WHERE k = $2",
            &[&first, &4_i32],
        )
        .await
        .unwrap();
    assert_eq!(row.get::<_, i32>(0), 4);
}

/// Times that cannot be read at, each with its code.
async fn wrong_times(other: &Client, one_table: &str) {
    for (at, code) in [
        ("'-400s'", "72000"),
        ("'+1h'", "22007"),
        ("now() + interval '1 hour'", "22023"),
        ("9000000000000000", "22023"),
        ("'never'", "22007"),
        ("true", "42804"),
        ("NULL", "22023"),
        (one_table, "0A000"),
    ] {
        let sql = format!("SELECT count(*) FROM t AS OF SYSTEM TIME {at}");
        assert_eq!(state(other, &sql).await, code, "{at}");
    }
    for sql in [
        "UPDATE t SET v = 0 WHERE k = 1 AS OF SYSTEM TIME '-1s'",
        "SELECT 1 FROM t AS OF SYSTEM TIME '-1s' AS OF SYSTEM TIME '-2s'",
    ] {
        assert_eq!(state(other, sql).await, "42601", "{sql}");
    }
    for sql in [
        "SELECT count(*) FROM t AS OF SYSTEM TIME '-0s'; SELECT 1 FROM t",
        "SELECT count(*) FROM dbos.nodes AS OF SYSTEM TIME '-0s'",
    ] {
        assert_eq!(state(other, sql).await, "0A000", "{sql}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn the_past_is_as_it_was_after_updates_restarts_and_other_leaders() {
    let mut cluster = Cluster::steady(3, 4, 3, Durability::Fsync);
    let client = cluster.connect(1).await;
    cluster.ready(&client).await;
    query(&client, "CREATE TABLE t (k int PRIMARY KEY, v int)").await;
    let one_table = stamp(&client).await;
    query(&client, "CREATE TABLE u (k int PRIMARY KEY, s text)").await;
    let empty = stamp(&client).await;
    for k in 0..10 {
        query(&client, &format!("INSERT INTO t VALUES ({k}, {k})")).await;
        query(&client, &format!("INSERT INTO u VALUES ({k}, 'u{k}')")).await;
    }
    let first = stamp(&client).await;
    let first_seen = FIRST.map(str::to_string);
    assert_eq!(past(&client, &first).await, first_seen);
    for k in 0..10 {
        query(&client, &format!("UPDATE t SET v = v + 100 WHERE k = {k}")).await;
    }
    for k in [1, 7] {
        query(&client, &format!("DELETE FROM t WHERE k = {k}")).await;
    }
    query(&client, "INSERT INTO t VALUES (7, -1)").await;
    query(&client, "DELETE FROM u WHERE k = 3").await;
    let second = stamp(&client).await;
    let second_seen = SECOND.map(str::to_string);
    query(&client, "DELETE FROM t WHERE k = 0").await;

    let other = cluster.connect(2).await;
    every_form_of_a_time(&client, &other, &empty, &first, &second).await;
    wrong_times(&other, &one_table).await;

    // In a block that only reads, beside what the block itself sees.
    query(&other, "BEGIN READ ONLY").await;
    assert_eq!(past(&other, &first).await, first_seen);
    assert_eq!(query(&other, "SELECT count(*) FROM t").await, "8");
    assert_eq!(past(&other, &second).await, second_seen);
    let sql = "SELECT count(*) FROM dbos.nodes AS OF SYSTEM TIME '-0s'";
    assert_eq!(state(&other, sql).await, "0A000");
    query(&other, "ROLLBACK").await;
    query(&other, "BEGIN").await;
    let sql = format!("SELECT count(*) FROM t AS OF SYSTEM TIME {first}");
    assert_eq!(state(&other, &sql).await, "0A000");
    query(&other, "ROLLBACK").await;

    // Another leader of every partition that node 1 led, and a node that comes back.
    cluster.kill(1);
    let count = "SELECT count(*) FROM t";
    eventually(&other, count, |rows| rows == "8").await;
    assert_eq!(past(&other, &first).await, first_seen, "{}", cluster.logs());
    cluster.spawn(1);
    let client = cluster.connect(1).await;
    cluster.ready(&client).await;
    cluster.kill(2);
    cluster.kill(3);
    cluster.spawn(2);
    cluster.spawn(3);
    for node in [2, 3] {
        cluster.connect(node).await;
    }
    // Node 1 still thinks that they lead.
    eventually(&client, count, |rows| rows == "8").await;
    assert_eq!(past(&client, &first).await, first_seen);
    assert_eq!(past(&client, &second).await, second_seen);

    // What TRUNCATE takes has no history.
    query(&client, "TRUNCATE t").await;
    let sql = format!("SELECT count(*) FROM t AS OF SYSTEM TIME {second}");
    assert_eq!(state(&client, &sql).await, "0A000");
    assert_eq!(past(&client, &stamp(&client).await).await[0], "0");
}
