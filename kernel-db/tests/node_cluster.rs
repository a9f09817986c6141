//! Clusters of real node processes: SQL through any node, restarts, and the death of leaders.
//!
//! A node is this test binary run once more: the ignored test `node_process` runs the node whose configuration the
//! environment names.

use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use kernel_db::node::{Durability, NodeAddress, NodeConfig};
use tokio_postgres::{Client, NoTls, SimpleQueryMessage};

const CONFIG: &str = "KERNEL_DB_NODE_CONFIG";

#[test]
#[ignore = "not a test: the body of a child process"]
fn node_process() {
    let Some(path) = std::env::var_os(CONFIG) else {
        return;
    };
    let config = NodeConfig::load(Path::new(&path)).unwrap();
    if let Err(error) = kernel_db::node::run(config, kernel_db::node::terminated()) {
        eprintln!("{error}");
        std::process::exit(1);
    }
}

/// A cluster of child processes, killed when dropped.
struct Cluster {
    dir: tempfile::TempDir,
    nodes: Vec<NodeAddress>,
    children: Vec<Option<Child>>,
}

impl Cluster {
    fn start(nodes: usize, partitions: u32, replicas: u32, durability: Durability) -> Self {
        let listeners: Vec<TcpListener> = (0..nodes * 2)
            .map(|_| TcpListener::bind("127.0.0.1:0").unwrap())
            .collect();
        let ports: Vec<u16> = listeners
            .iter()
            .map(|l| l.local_addr().unwrap().port())
            .collect();
        drop(listeners);
        let address = |port: u16| SocketAddr::from(([127, 0, 0, 1], port));
        let addresses: Vec<NodeAddress> = (0..nodes)
            .map(|i| NodeAddress {
                id: i as u64 + 1,
                sql: address(ports[2 * i]),
                peer: address(ports[2 * i + 1]),
            })
            .collect();
        let mut cluster = Self {
            dir: tempfile::tempdir().unwrap(),
            nodes: addresses.clone(),
            children: (0..nodes).map(|_| None).collect(),
        };
        for node in &addresses {
            let config = NodeConfig {
                node_id: node.id,
                nodes: addresses.clone(),
                data_dir: PathBuf::from(node.id.to_string()),
                log_file: PathBuf::from(format!("{}.log", node.id)),
                partitions,
                replicas,
                durability,
                ..NodeConfig::default()
            };
            std::fs::write(cluster.config_path(node.id), config.to_toml()).unwrap();
            cluster.spawn(node.id);
        }
        cluster
    }

    fn config_path(&self, id: u64) -> PathBuf {
        self.dir.path().join(format!("{id}.toml"))
    }

    fn spawn(&mut self, id: u64) {
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["node_process", "--exact", "--ignored", "--nocapture"])
            .env(CONFIG, self.config_path(id))
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        self.children[id as usize - 1] = Some(child);
    }

    /// SIGKILL.
    fn kill(&mut self, id: u64) {
        let mut child = self.children[id as usize - 1].take().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// SIGTERM, and the exit code.
    fn stop(&mut self, id: u64) -> Option<i32> {
        let mut child = self.children[id as usize - 1].take().unwrap();
        Command::new("kill")
            .args(["-TERM", &child.id().to_string()])
            .status()
            .unwrap();
        child.wait().unwrap().code()
    }

    async fn connect(&self, id: u64) -> Client {
        let node = &self.nodes[id as usize - 1];
        let url = format!(
            "host=127.0.0.1 port={} user=dbos dbname=dbos",
            node.sql.port()
        );
        let until = Instant::now() + Duration::from_secs(20);
        loop {
            match tokio_postgres::connect(&url, NoTls).await {
                Ok((client, connection)) => {
                    tokio::spawn(connection);
                    return client;
                }
                Err(error) if Instant::now() > until => {
                    panic!("node {id}: {error}\n{}", self.logs())
                }
                Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
            }
        }
    }

    /// Waits until every partition has a leader.
    async fn ready(&self, client: &Client) {
        let until = Instant::now() + Duration::from_secs(20);
        loop {
            let leaderless = "SELECT count(*) FROM dbos.partitions WHERE leader IS NULL";
            let count = client.simple_query(leaderless).await;
            if matches!(&count, Ok(rows) if first(rows) == "0") {
                return;
            }
            assert!(Instant::now() < until, "{count:?}\n{}", self.logs());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    fn logs(&self) -> String {
        let log = |n: &NodeAddress| {
            std::fs::read_to_string(self.dir.path().join(format!("{}.log", n.id)))
                .unwrap_or_default()
        };
        self.nodes
            .iter()
            .map(log)
            .collect::<Vec<_>>()
            .join("\n---\n")
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for child in self.children.iter_mut().flatten() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn first(messages: &[SimpleQueryMessage]) -> String {
    messages
        .iter()
        .find_map(|m| match m {
            SimpleQueryMessage::Row(row) => row.get(0).map(str::to_string),
            _ => None,
        })
        .unwrap_or_default()
}

async fn query(client: &Client, sql: &str) -> String {
    match client.simple_query(sql).await {
        Ok(messages) => first(&messages),
        Err(error) => panic!("{sql}: {error:?}"),
    }
}

/// SQLSTATE of a statement that must fail.
async fn state(client: &Client, sql: &str) -> String {
    match client.simple_query(sql).await {
        Ok(_) => panic!("{sql} succeeded"),
        Err(error) => error
            .code()
            .map_or_else(|| format!("{error:?}"), |c| c.code().to_string()),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn one_node_keeps_what_it_acknowledged() {
    let mut cluster = Cluster::start(1, 1, 1, Durability::Fsync);
    let client = cluster.connect(1).await;
    cluster.ready(&client).await;
    query(&client, "CREATE TABLE t (k int4 PRIMARY KEY, v text)").await;
    query(&client, "INSERT INTO t VALUES (1, 'one'), (2, 'two')").await;
    query(&client, "UPDATE t SET v = v || '!' WHERE k = 2").await;
    assert_eq!(query(&client, "SELECT v FROM t WHERE k = 2").await, "two!");
    assert_eq!(
        state(&client, "INSERT INTO t VALUES (1, 'again')").await,
        "23505"
    );
    assert_eq!(state(&client, "SELECT * FROM nowhere").await, "42P01");
    cluster.kill(1);
    cluster.spawn(1);
    let client = cluster.connect(1).await;
    cluster.ready(&client).await;
    assert_eq!(query(&client, "SELECT count(*) FROM t").await, "2");
    query(&client, "INSERT INTO t VALUES (3, 'three')").await;
    assert_eq!(cluster.stop(1), Some(0));
    cluster.spawn(1);
    let client = cluster.connect(1).await;
    cluster.ready(&client).await;
    assert_eq!(query(&client, "SELECT count(*) FROM t").await, "3");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn three_nodes_answer_alike_and_outlive_a_leader() {
    let mut cluster = Cluster::start(3, 4, 3, Durability::Fsync);
    let clients = [
        cluster.connect(1).await,
        cluster.connect(2).await,
        cluster.connect(3).await,
    ];
    cluster.ready(&clients[0]).await;
    query(&clients[0], "CREATE TABLE t (k int4 PRIMARY KEY, v int4)").await;
    for k in 0..40 {
        query(&clients[k % 3], &format!("INSERT INTO t VALUES ({k}, 0)")).await;
    }
    for client in &clients {
        assert_eq!(query(client, "SELECT count(*) FROM t").await, "40");
        assert_eq!(
            query(client, "SELECT k FROM t ORDER BY k DESC LIMIT 1").await,
            "39"
        );
        assert_eq!(
            query(client, "SELECT count(*) FROM dbos.nodes WHERE alive").await,
            "3"
        );
        assert_eq!(
            query(client, "SELECT count(*) FROM dbos.replicas").await,
            "12"
        );
    }
    assert_eq!(state(&clients[0], "UPDATE t SET v = 1").await, "0A000");
    // Slot 1 is partition 1, which node 2 leads.
    let leader: u64 = query(
        &clients[0],
        "SELECT leader FROM dbos.partitions WHERE partition_id = 1",
    )
    .await
    .parse()
    .unwrap();
    let survivor = (1..=3).find(|n| *n != leader).unwrap();
    let client = &clients[survivor as usize - 1];
    cluster.kill(leader);
    let died = Instant::now();
    // The gateway waits for the new leader by itself, unless the answer was lost on the way.
    loop {
        match client
            .simple_query("UPDATE t SET v = v + 1 WHERE k = 1")
            .await
        {
            Ok(_) => break,
            Err(error) => assert!(
                died.elapsed() < Duration::from_secs(10),
                "{error:?}\n{}",
                cluster.logs()
            ),
        }
    }
    println!("failover: {} ms", died.elapsed().as_millis());
    assert!(
        died.elapsed() < Duration::from_secs(5),
        "failover took {:?}",
        died.elapsed()
    );
    assert_eq!(query(client, "SELECT count(*) FROM t").await, "40");
    cluster.spawn(leader);
    let back = cluster.connect(leader).await;
    cluster.ready(&back).await;
    assert_eq!(query(&back, "SELECT v FROM t WHERE k = 1").await, "1");
    for id in 1..=3 {
        assert_eq!(cluster.stop(id), Some(0), "{}", cluster.logs());
    }
}

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

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn what_never_ends_is_ended_and_the_leader_stays() {
    let cluster = Cluster::start(1, 1, 1, Durability::Fsync);
    let client = cluster.connect(1).await;
    cluster.ready(&client).await;
    let term = query(&client, "SELECT term FROM dbos.partitions").await;
    query(&client, "CREATE TABLE t (k int4 PRIMARY KEY)").await;
    let body = "BEGIN INSERT INTO t VALUES (in_k); LOOP END LOOP; END";
    query(
        &client,
        &format!(
            "CREATE FUNCTION forever(in_k int4) RETURNS void LANGUAGE plpgsql AS $$ {body} $$"
        ),
    )
    .await;
    assert_eq!(state(&client, "SELECT forever(1)").await, "57014");
    assert_eq!(
        state(
            &client,
            "INSERT INTO t SELECT g FROM generate_series(1, 10000000) g"
        )
        .await,
        "57014"
    );
    assert_eq!(query(&client, "SELECT count(*) FROM t").await, "0");
    assert_eq!(
        query(&client, "SELECT term FROM dbos.partitions").await,
        term
    );
}

#[test]
fn a_port_in_use_is_said_and_a_directory_is_not_shared() {
    let busy = TcpListener::bind("127.0.0.1:0").unwrap();
    let free = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let dir = tempfile::tempdir().unwrap();
    let config = NodeConfig {
        nodes: vec![NodeAddress {
            id: 1,
            sql: busy.local_addr().unwrap(),
            peer: free,
        }],
        data_dir: dir.path().join("data"),
        ..NodeConfig::default()
    };
    let error = kernel_db::node::run(config, std::future::ready(())).unwrap_err();
    assert_eq!(error.sqlstate(), "55006", "{error}");
    assert!(error.get_hint().unwrap().contains("port"));
}

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

async fn stamp(client: &Client) -> String {
    query(client, "SELECT stamp FROM dbos.clock").await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn the_past_is_as_it_was_after_updates_restarts_and_other_leaders() {
    let mut cluster = Cluster::start(3, 4, 3, Durability::Fsync);
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
    let first_seen = ["10", "45", "7", "0u1 1u2 2u3"].map(str::to_string);
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
    let second_seen = ["9", "836", "-1", "100u1"].map(str::to_string);
    query(&client, "DELETE FROM t WHERE k = 0").await;

    // Any node, every form of a time.
    let other = cluster.connect(2).await;
    let moment = |stamp: &str| {
        let micros: i64 = stamp.parse().unwrap();
        kernel_db::sql::text::to_text(&kernel_db::sql::Value::Timestamptz(micros)).unwrap()
    };
    for client in [&client, &other] {
        let nothing = ["0", "", "", ""].map(str::to_string);
        assert_eq!(past(client, &empty).await, nothing);
        assert_eq!(past(client, &first).await, first_seen);
        assert_eq!(past(client, &format!("'{second}'")).await, second_seen);
        assert_eq!(
            past(client, &format!("'{}'", moment(&first))).await,
            first_seen
        );
        let typed = format!("timestamptz '{}'", moment(&second));
        assert_eq!(past(client, &typed).await, second_seen);
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

    for (at, code) in [
        ("'-400s'", "72000"),
        ("'+1h'", "22007"),
        ("now() + interval '1 hour'", "22023"),
        ("9000000000000000", "22023"),
        ("'never'", "22007"),
        ("true", "42804"),
        ("NULL", "22023"),
        (&one_table, "0A000"),
    ] {
        let sql = format!("SELECT count(*) FROM t AS OF SYSTEM TIME {at}");
        assert_eq!(state(&other, &sql).await, code, "{at}");
    }
    for sql in [
        "UPDATE t SET v = 0 WHERE k = 1 AS OF SYSTEM TIME '-1s'",
        "SELECT 1 FROM t AS OF SYSTEM TIME '-1s' AS OF SYSTEM TIME '-2s'",
    ] {
        assert_eq!(state(&other, sql).await, "42601", "{sql}");
    }
    for sql in [
        "SELECT count(*) FROM t AS OF SYSTEM TIME '-0s'; SELECT 1 FROM t",
        "SELECT count(*) FROM dbos.nodes AS OF SYSTEM TIME '-0s'",
    ] {
        assert_eq!(state(&other, sql).await, "0A000", "{sql}");
    }

    // Another leader of every partition that node 1 led, and a node that comes back.
    cluster.kill(1);
    assert_eq!(past(&other, &first).await, first_seen, "{}", cluster.logs());
    cluster.spawn(1);
    let client = cluster.connect(1).await;
    cluster.ready(&client).await;
    cluster.kill(2);
    cluster.kill(3);
    cluster.spawn(2);
    cluster.spawn(3);
    cluster.ready(&client).await;
    assert_eq!(past(&client, &first).await, first_seen);
    assert_eq!(past(&client, &second).await, second_seen);

    // What TRUNCATE takes has no history.
    query(&client, "TRUNCATE t").await;
    let sql = format!("SELECT count(*) FROM t AS OF SYSTEM TIME {second}");
    assert_eq!(state(&client, &sql).await, "0A000");
    assert_eq!(past(&client, &stamp(&client).await).await[0], "0");
}
