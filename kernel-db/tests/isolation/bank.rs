//! Money moves between accounts in different partitions by every kind of transaction at once; no reader ever sees some of
//! it missing, and every acknowledged transfer is there exactly once.

use std::cell::Cell;
use std::time::{Duration, Instant};

use tokio_postgres::{Client, Error};

use crate::systems::Node;

const ACCOUNTS: u64 = 8;
const BALANCE: i64 = 1_000;
const TIME: Duration = Duration::from_secs(6);

const SETUP: &str = "
CREATE FUNCTION transfer(a int, b int, n bigint) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
  UPDATE account SET balance = balance - n WHERE id = a;
  UPDATE account SET balance = balance + n WHERE id = b;
END $$;
";

/// SplitMix64.
struct Chance(u64);

impl Chance {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % bound
    }
}

fn may_try_again(error: &Error) -> bool {
    let code = error.as_db_error().map(|e| e.code().code().to_owned());
    matches!(code.as_deref(), Some("40001" | "40P01"))
}

/// One transfer in a block, which also counts itself; false if it has to be tried again.
async fn in_block(client: &Client, level: &str, a: u64, b: u64, n: i64, who: usize) -> bool {
    let from = format!("SELECT balance FROM account WHERE id = {a} FOR UPDATE");
    let result = async {
        client
            .batch_execute(&format!("BEGIN ISOLATION LEVEL {level}"))
            .await?;
        let rows = client.query(&from, &[]).await?;
        // Read, then written back: an update that is lost here is money that is lost.
        let left: i64 = rows[0].get::<_, i64>(0) - n;
        let write = format!("UPDATE account SET balance = {left} WHERE id = {a}");
        client.batch_execute(&write).await?;
        let give = format!("UPDATE account SET balance = balance + {n} WHERE id = {b}");
        client.batch_execute(&give).await?;
        let count = format!("UPDATE done SET n = n + 1 WHERE id = {who}");
        client.batch_execute(&count).await?;
        client.batch_execute("COMMIT").await
    }
    .await;
    match result {
        Ok(()) => true,
        Err(error) => {
            assert!(may_try_again(&error), "{error:?}");
            client.batch_execute("ROLLBACK").await.unwrap();
            false
        }
    }
}

/// Transfers until the time is over; the number acknowledged.
async fn writer(node: &Node, who: usize) -> i64 {
    let client = node.connect().await;
    let mut chance = Chance(who as u64);
    let end = Instant::now() + TIME;
    let mut done = 0;
    while Instant::now() < end {
        let a = chance.below(ACCOUNTS);
        let b = (a + 1 + chance.below(ACCOUNTS - 1)) % ACCOUNTS;
        let n = 1 + chance.below(9) as i64;
        let level = ["SERIALIZABLE", "REPEATABLE READ", "READ COMMITTED"][who % 3];
        let acknowledged = match who % 4 {
            // One statement after another in one implicit transaction.
            3 => {
                let sql = format!(
                    "SELECT transfer({a}, {b}, {n}); UPDATE done SET n = n + 1 WHERE id = {who}"
                );
                client.batch_execute(&sql).await.unwrap();
                true
            }
            _ => in_block(&client, level, a, b, n, who).await,
        };
        done += i64::from(acknowledged);
    }
    done
}

/// Looks at the sum in every way there is.
async fn reader(node: &Node) -> u64 {
    let client = node.connect().await;
    let end = Instant::now() + TIME;
    let looked = Cell::new(0);
    let sum = "SELECT sum(balance)::bigint FROM account";
    let total = ACCOUNTS as i64 * BALANCE;
    while Instant::now() < end {
        let row = client.query_one(sum, &[]).await.unwrap();
        assert_eq!(row.get::<_, i64>(0), total, "a fresh read");
        for level in ["SERIALIZABLE", "REPEATABLE READ", "READ COMMITTED"] {
            let begin = format!("BEGIN ISOLATION LEVEL {level}");
            client.batch_execute(&begin).await.unwrap();
            let row = client.query_one(sum, &[]).await.unwrap();
            assert_eq!(row.get::<_, i64>(0), total, "{level}");
            if level != "READ COMMITTED" {
                let mut by_key = 0;
                for id in 0..ACCOUNTS {
                    let one = format!("SELECT balance FROM account WHERE id = {id}");
                    let row = client.query_one(&one, &[]).await.unwrap();
                    by_key += row.get::<_, i64>(0);
                }
                assert_eq!(by_key, total, "{level}, row by row");
            }
            client.batch_execute("COMMIT").await.unwrap();
            looked.set(looked.get() + 1);
        }
    }
    looked.get()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn money_is_neither_made_nor_lost_nor_seen_on_its_way() {
    let node = Node::start().await;
    let client = node.connect().await;
    for sql in [
        "CREATE TABLE account (id int PRIMARY KEY, balance bigint)",
        "CREATE TABLE done (id int PRIMARY KEY, n bigint)",
        SETUP,
    ] {
        client.batch_execute(sql).await.unwrap();
    }
    let rows = format!(
        "INSERT INTO account SELECT g, {BALANCE} FROM generate_series(0, {}) g",
        ACCOUNTS - 1
    );
    client.batch_execute(&rows).await.unwrap();
    client
        .batch_execute("INSERT INTO done SELECT g, 0 FROM generate_series(0, 7) g")
        .await
        .unwrap();
    let writers = futures::future::join_all((0..8).map(|who| writer(&node, who)));
    let readers = futures::future::join_all((0..2).map(|_| reader(&node)));
    let (done, looked) = tokio::join!(writers, readers);
    assert!(
        done.iter().all(|n| *n > 0) && looked.iter().all(|n| *n > 0),
        "{done:?} {looked:?}"
    );
    let rows = client
        .query("SELECT n FROM done ORDER BY id", &[])
        .await
        .unwrap();
    let counted: Vec<i64> = rows.iter().map(|row| row.get(0)).collect();
    assert_eq!(counted, done, "transfers there, and acknowledged");
    let row = client
        .query_one("SELECT sum(balance)::bigint FROM account", &[])
        .await
        .unwrap();
    assert_eq!(row.get::<_, i64>(0), ACCOUNTS as i64 * BALANCE);
}

// I11: over several partitions too.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_repeated_number_gets_the_first_reply_and_runs_once() {
    let node = Node::start().await;
    let session = "-c dbos.session=0000000000000000000000000000002a";
    let client = node.connect_with(session).await;
    for sql in [
        "CREATE TABLE account (id int PRIMARY KEY, balance bigint)",
        "CREATE FUNCTION add(a int, b int, n bigint) RETURNS bigint LANGUAGE plpgsql AS $$
         DECLARE total bigint;
         BEGIN
           UPDATE account SET balance = balance + n WHERE id = a OR id = b;
           SELECT sum(balance) INTO total FROM account;
           IF total > 1000 THEN RAISE EXCEPTION 'too much'; END IF;
           RETURN total;
         END $$",
        "INSERT INTO account VALUES (1, 0), (2, 0), (3, 0)",
    ] {
        client.batch_execute(sql).await.unwrap();
    }
    let again = node.connect_with(session).await;
    for (number, a, b, n, expected) in [
        (7, 1, 2, 5_i64, Some(10_i64)),
        (8, 2, 3, 7, Some(24)),
        (9, 1, 3, 1_000, None),
    ] {
        for client in [&client, &again, &client] {
            let set = format!("SET dbos.request TO {number}");
            client.batch_execute(&set).await.unwrap();
            let reply = client
                .query_one("SELECT add($1, $2, $3)", &[&a, &b, &n])
                .await;
            match (expected, reply) {
                (Some(total), Ok(row)) => assert_eq!(row.get::<_, i64>(0), total),
                (None, Err(error)) => {
                    assert_eq!(error.as_db_error().unwrap().message(), "too much");
                }
                (_, other) => panic!("{number}: {other:?}"),
            }
        }
    }
    let total = client
        .query_one("SELECT sum(balance)::bigint FROM account", &[])
        .await
        .unwrap();
    assert_eq!(total.get::<_, i64>(0), 24);
}
