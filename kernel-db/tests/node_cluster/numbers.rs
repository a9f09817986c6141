//! What a node tells Prometheus.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream};

use kernel_db::node::Durability;

use crate::cluster::{Cluster, query, state};

/// Status line and body of the answer to `head`.
fn ask(port: u16, head: &str) -> (String, String) {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap();
    stream.write_all(head.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    match answer.split_once("\r\n\r\n") {
        Some((head, body)) => (head.lines().next().unwrap().into(), body.into()),
        None => (String::new(), answer),
    }
}

/// Values by name and labels, as Prometheus reads them.
fn scrape(port: u16) -> BTreeMap<String, f64> {
    let (status, text) = ask(port, "GET /metrics HTTP/1.1\r\nHost: here\r\n\r\n");
    assert_eq!(status, "HTTP/1.1 200 OK");
    let samples = text.lines().filter(|line| !line.starts_with('#'));
    samples
        .map(|line| {
            let (name, value) = line.rsplit_once(' ').unwrap();
            (name.to_string(), value.parse().unwrap())
        })
        .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn numbers_move_with_the_work() {
    let mut cluster = Cluster::prepare(1, 2, 1, Durability::Fsync);
    let port = crate::ports::free(1);
    let path = cluster.dir().join("1.toml");
    let config = std::fs::read_to_string(&path).unwrap();
    let asked = config.replace("metrics_port = 0", &format!("metrics_port = {port}"));
    assert_ne!(asked, config);
    std::fs::write(&path, asked).unwrap();
    cluster.spawn(1);
    let client = cluster.connect(1).await;
    cluster.ready(&client).await;
    query(&client, "CREATE TABLE t (k int4 PRIMARY KEY)").await;

    let before = scrape(port);
    for k in 0..50 {
        query(&client, &format!("INSERT INTO t VALUES ({k})")).await;
    }
    assert_eq!(state(&client, "INSERT INTO t VALUES (7)").await, "23505");
    let after = scrape(port);
    let grew = |name: &str| after[name] - before[name];
    assert!(grew("dbos_requests_total") >= 51.0, "{after:?}");
    assert!(grew("dbos_errors_total") >= 1.0, "{after:?}");
    assert_eq!(after["dbos_busy_total"], 0.0);
    // One after the other, each is written and synced by itself.
    assert!(grew("dbos_log_writes_total") >= 50.0, "{after:?}");
    assert!(grew("dbos_log_written_bytes_total") > 50.0 * 4.0);
    assert!(grew("raft_engine_sync_log_duration_seconds_count") >= 50.0);
    let rows: f64 = [1, 2]
        .map(|group| grew(&format!("dbos_group_commit_index{{group=\"{group}\"}}")))
        .iter()
        .sum();
    assert!(rows >= 50.0, "an entry each: {rows}");
    for group in [1, 2] {
        let of = |name: &str| after[&format!("dbos_group_{name}{{group=\"{group}\"}}")];
        assert_eq!((of("role"), of("open")), (2.0, 1.0));
        assert!(of("applied_index") <= of("commit_index"));
    }

    // What operations.md says to look at is there, and dbos.nodes agrees with it.
    let manual = include_str!("../../../docs/operations.md");
    let named: Vec<&str> = manual
        .split('`')
        .filter(|word| word.starts_with("dbos_"))
        .collect();
    assert!(named.len() > 5, "{named:?}");
    for name in named {
        assert!(after.keys().any(|key| key.starts_with(name)), "{name}");
    }
    let memory = query(&client, "SELECT memory_bytes FROM dbos.nodes").await;
    let ratio = after["dbos_process_resident_memory_bytes"] / memory.parse::<f64>().unwrap();
    assert!((0.5..2.0).contains(&ratio), "{memory}: {ratio}");

    // Whoever asks badly is told, or hung up on, and the next one is answered.
    let (status, body) = ask(port, "GET /other HTTP/1.1\r\n\r\n");
    assert_eq!(status, "HTTP/1.1 404 Not Found");
    assert!(body.contains("/metrics"));
    let long = "GET /metrics HTTP/1.1\r\nX: ".to_string() + &"x".repeat(1 << 20);
    let hung_up = std::panic::catch_unwind(|| ask(port, &long));
    assert!(hung_up.is_err() || hung_up.is_ok_and(|(status, _)| status.is_empty()));
    assert!(scrape(port).contains_key("dbos_requests_open"));
}
