//! What breaks: disks, processes that stop answering, majorities.

use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use kernel_db::node::Durability;
use tokio_postgres::{Client, Error, SimpleQueryMessage};

use crate::cluster::{Cluster, PATIENCE, SYNC_FAILS, eventually, first, query};

/// What a node exits with that cannot keep its promises any more.
const EXIT_FATAL: i32 = 70;

fn code(error: &Error) -> &str {
    error.code().map_or("connection", |code| code.code())
}

/// Inserts rows of `bytes` bytes until an insert fails; returns how many were acknowledged, from key `from` on.
async fn insert_until_failure(client: &Client, from: i32, bytes: usize) -> (i32, Error) {
    for k in from.. {
        let sql = format!("INSERT INTO t VALUES ({k}, repeat('x', {bytes}))");
        if let Err(error) = client.simple_query(&sql).await {
            return (k - from, error);
        }
    }
    unreachable!("keys ran out")
}

/// Everything acknowledged is there, and the one of unknown outcome at most once.
async fn assert_rows(client: &Client, acknowledged: i32) {
    let count: i32 = query(client, "SELECT count(*) FROM t")
        .await
        .parse()
        .unwrap();
    assert!(
        (acknowledged..=acknowledged + 1).contains(&count),
        "{count} rows, {acknowledged} acknowledged"
    );
    let below = format!("SELECT count(*) FROM t WHERE k < {acknowledged}");
    assert_eq!(query(client, &below).await, acknowledged.to_string());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_failed_fsync_stops_the_node_and_loses_nothing() {
    let mut cluster = Cluster::start(1, 1, 1, Durability::Fsync);
    let client = cluster.connect(1).await;
    cluster.ready(&client).await;
    query(&client, "CREATE TABLE t (k int4 PRIMARY KEY, v text)").await;
    for k in 0..20 {
        query(&client, &format!("INSERT INTO t VALUES ({k}, '')")).await;
    }
    let broken = cluster.dir().join(SYNC_FAILS);
    std::fs::write(&broken, "").unwrap();
    let (acknowledged, error) = insert_until_failure(&client, 20, 1).await;
    assert_eq!(
        acknowledged, 0,
        "a write whose fdatasync failed was acknowledged"
    );
    assert!(["connection", "08007"].contains(&code(&error)), "{error:?}");
    assert_eq!(
        cluster.ended(1).await,
        Some(EXIT_FATAL),
        "{}",
        cluster.logs()
    );
    assert!(
        cluster.logs().contains("injected: fdatasync failed"),
        "{}",
        cluster.logs()
    );
    std::fs::remove_file(&broken).unwrap();
    cluster.spawn(1);
    let client = cluster.connect(1).await;
    cluster.ready(&client).await;
    assert_rows(&client, 20).await;
}

/// A file system of its own for one node's data, in a mount namespace that goes with the process that holds it.
struct SmallDisk {
    holder: Child,
}

impl SmallDisk {
    /// `None` where this machine gives no mount namespaces.
    fn mount(at: &std::path::Path, bytes: u64) -> Option<Self> {
        std::fs::create_dir_all(at).unwrap();
        let (at, ready) = (at.display(), at.with_extension("mounted"));
        let script = format!(
            "mount -t tmpfs -o size={bytes} none '{at}' && touch '{}' && exec sleep 600",
            ready.display()
        );
        let mut holder = Command::new("unshare")
            .args(["--map-root-user", "--mount", "sh", "-c", &script])
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .ok()?;
        while holder.try_wait().unwrap().is_none() {
            if ready.exists() {
                return Some(Self { holder });
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        None
    }

    /// The words that run a command where the disk is mounted.
    fn runner(&self) -> Vec<String> {
        let holder = self.holder.id().to_string();
        [
            "nsenter",
            "--preserve-credentials",
            "--user",
            "--mount",
            "--target",
            &holder,
        ]
        .map(str::to_string)
        .to_vec()
    }

    fn grow(&self, at: &std::path::Path, bytes: u64) {
        let runner = self.runner();
        let grown = Command::new(&runner[0])
            .args(&runner[1..])
            .args(["mount", "-o", &format!("remount,size={bytes}")])
            .arg(at)
            .status();
        assert!(grown.unwrap().success());
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = self.holder.kill();
        let _ = self.holder.wait();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_full_disk_stops_the_node_and_loses_nothing() {
    let mut cluster = Cluster::prepare(1, 1, 1, Durability::Fsync);
    let data = cluster.dir().join("1");
    let disk = SmallDisk::mount(&data, 24 << 20);
    match &disk {
        Some(disk) => cluster.run_by(disk.runner()),
        // No file may grow beyond 8 MiB: the same failure of write(2) with another number.
        None => {
            let limited = "trap '' XFSZ; ulimit -f 16384; exec \"$0\" \"$@\"";
            cluster.run_by(["sh", "-c", limited].map(str::to_string).to_vec());
        }
    }
    cluster.spawn(1);
    let client = cluster.connect(1).await;
    cluster.ready(&client).await;
    query(&client, "CREATE TABLE t (k int4 PRIMARY KEY, v text)").await;
    let (acknowledged, error) = insert_until_failure(&client, 0, 200_000).await;
    assert!(acknowledged > 10, "{acknowledged} rows fit: {error:?}");
    assert!(
        ["connection", "08007", "53100"].contains(&code(&error)),
        "{error:?}"
    );
    assert_eq!(
        cluster.ended(1).await,
        Some(EXIT_FATAL),
        "{}",
        cluster.logs()
    );
    let expected = if disk.is_some() { "53100" } else { "58030" };
    assert!(cluster.logs().contains(expected), "{}", cluster.logs());
    match &disk {
        Some(disk) => disk.grow(&data, 256 << 20),
        None => cluster.run_by(Vec::new()),
    }
    cluster.spawn(1);
    let client = cluster.connect(1).await;
    cluster.ready(&client).await;
    assert_rows(&client, acknowledged).await;
    query(&client, "INSERT INTO t VALUES (-1, 'there is room again')").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_paused_leader_is_replaced_and_answers_nothing_stale_when_it_goes_on() {
    let cluster = Cluster::start(3, 1, 3, Durability::Fsync);
    let client = cluster.connect(1).await;
    cluster.ready(&client).await;
    query(&client, "CREATE TABLE t (k int4 PRIMARY KEY, v int4)").await;
    query(&client, "INSERT INTO t VALUES (1, 0)").await;
    let leader = cluster.leader(&client, 0).await;
    let survivor = cluster.connect(1 + leader % 3).await;
    assert_eq!(query(&survivor, "SELECT v FROM t WHERE k = 1").await, "0");
    let mut asking = Vec::new();
    for _ in 0..20 {
        asking.push(cluster.connect(leader).await);
    }
    cluster.signal(leader, "STOP");
    let paused = Instant::now();
    // Not before there is a new leader: a write that waits in the paused one would keep its reads waiting too.
    let successor = format!("SELECT count(*) FROM dbos.partitions WHERE leader <> {leader}");
    while query(&survivor, &successor).await != "1" {
        assert!(
            paused.elapsed() < Duration::from_secs(15),
            "{}",
            cluster.logs()
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    while let Err(error) = survivor
        .simple_query("UPDATE t SET v = 1 WHERE k = 1")
        .await
    {
        assert!(
            paused.elapsed() < Duration::from_secs(15),
            "{error:?}\n{}",
            cluster.logs()
        );
    }
    println!("others took over after {} ms", paused.elapsed().as_millis());
    let ask = |client: Client| {
        tokio::spawn(async move {
            let one = client.simple_query("SELECT v FROM t WHERE k = 1").await;
            let all = client.simple_query("SELECT sum(v) FROM t").await;
            [one, all]
        })
    };
    let asked: Vec<_> = asking.into_iter().map(ask).collect();
    tokio::time::sleep_until((paused + Duration::from_secs(5)).into()).await;
    assert!(
        asked.iter().all(|answer| !answer.is_finished()),
        "a stopped process answered"
    );
    cluster.signal(leader, "CONT");
    let mut answered = 0;
    for answer in asked {
        for result in answer.await.unwrap() {
            match result {
                Ok(messages) => {
                    assert_eq!(first(&messages), "1", "stale after SIGCONT");
                    answered += 1;
                }
                Err(error) => assert_ne!(code(&error), "42P01", "{error:?}"),
            }
        }
    }
    assert!(
        answered > 0,
        "no read was answered at all\n{}",
        cluster.logs()
    );
    let back = cluster.connect(leader).await;
    assert_eq!(query(&back, "SELECT v FROM t WHERE k = 1").await, "1");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_peer_that_accepts_and_says_nothing_holds_nobody_up() {
    let mut cluster = Cluster::prepare_steady(3, 2, 3, Durability::Fsync);
    // In place of node 3: connections are accepted by the system, and nothing is ever read.
    let _silent = TcpListener::bind(cluster.nodes[2].peer).unwrap();
    cluster.spawn(1);
    cluster.spawn(2);
    let client = cluster.connect(1).await;
    cluster.ready(&client).await;
    query(&client, "CREATE TABLE t (k int4 PRIMARY KEY, v int4)").await;
    let mut took = Vec::new();
    for k in 0..10 {
        let start = Instant::now();
        query(&client, &format!("INSERT INTO t VALUES ({k}, 1)")).await;
        assert_eq!(
            query(&client, "SELECT count(*) FROM t").await,
            (k + 1).to_string()
        );
        // Every node is asked for its part of this: nobody waits for the silent one.
        let alive = "SELECT count(*) FROM dbos.nodes WHERE alive";
        eventually(&client, alive, |nodes| nodes == "2").await;
        took.push(start.elapsed());
        tokio::time::sleep(Duration::from_millis(250)).await;
    }
    // Not each: the machine may have had other things to do.
    took.sort();
    assert!(took[4] < Duration::from_millis(700), "{took:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn five_replicas_on_seven_nodes_outlive_two_of_them() {
    let mut cluster = Cluster::start(7, 4, 5, Durability::Fsync);
    let client = cluster.connect(1).await;
    cluster.ready(&client).await;
    // A new cluster moves nothing: there is never one more.
    let replicas = "SELECT count(*) FROM dbos.replicas";
    eventually(&client, replicas, |replicas| replicas == "20").await;
    query(&client, "CREATE TABLE t (k int4 PRIMARY KEY, v text)").await;
    for k in 0..40 {
        query(&client, &format!("INSERT INTO t VALUES ({k}, '')")).await;
    }
    // Each partition has a replica on one of these nodes at least, and some on both.
    for node in [4, 5] {
        cluster.kill(node);
    }
    for k in 40..80 {
        let sql = format!("INSERT INTO t VALUES ({k}, '') ON CONFLICT DO NOTHING");
        let start = Instant::now();
        while let Err(error) = client.simple_query(&sql).await {
            assert!(start.elapsed() < PATIENCE, "{error:?}\n{}", cluster.logs());
        }
    }
    assert_eq!(query(&client, "SELECT count(*) FROM t").await, "80");
    for node in [4, 5] {
        cluster.spawn(node);
    }
    for node in 1..=7 {
        let client = cluster.connect(node).await;
        cluster.ready(&client).await;
        assert_eq!(
            query(&client, "SELECT count(*) FROM t").await,
            "80",
            "node {node}"
        );
    }
    // Both are back in their groups: two others may go now.
    let level = "SELECT count(*) FROM dbos.replicas WHERE lag = 0";
    eventually(&client, level, |replicas| replicas == "20").await;
    for node in [2, 3] {
        cluster.kill(node);
    }
    let start = Instant::now();
    while let Err(error) = client
        .simple_query("UPDATE t SET v = 'x' WHERE k = 1")
        .await
    {
        assert!(start.elapsed() < PATIENCE, "{error:?}\n{}", cluster.logs());
    }
    assert_eq!(query(&client, "SELECT count(*) FROM t").await, "80");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_node_that_just_started_does_not_deny_names() {
    let mut cluster = Cluster::start(3, 2, 3, Durability::Fsync);
    let client = cluster.connect(1).await;
    cluster.ready(&client).await;
    query(&client, "CREATE TABLE t (k int4 PRIMARY KEY)").await;
    query(&client, "INSERT INTO t VALUES (1)").await;
    for round in 0..6 {
        // One node, or all: then nobody can tell until there is a leader again.
        let nodes: &[u64] = if round % 2 == 0 { &[3] } else { &[1, 2, 3] };
        nodes.iter().for_each(|node| cluster.kill(*node));
        nodes.iter().for_each(|node| cluster.spawn(*node));
        let mut answered = 0;
        let start = Instant::now();
        while answered < 20 {
            assert!(start.elapsed() < PATIENCE, "{}", cluster.logs());
            let Ok(client) = cluster.try_connect(3).await else {
                tokio::time::sleep(Duration::from_millis(5)).await;
                continue;
            };
            match client.simple_query("SELECT k FROM t").await {
                Ok(messages) => {
                    let rows = messages
                        .iter()
                        .filter(|m| matches!(m, SimpleQueryMessage::Row(_)));
                    assert_eq!(rows.count(), 1);
                    answered += 1;
                }
                Err(error) => {
                    let code = code(&error);
                    assert!(
                        code.starts_with("57P") || code.starts_with("DB"),
                        "{error:?}"
                    );
                }
            }
        }
    }
}
