//! Clusters of node processes.
//!
//! A node is this test binary run once more: the ignored test `node_process` runs the node whose configuration the
//! environment names.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use kernel_db::node::{Durability, NodeAddress, NodeConfig};
use kernel_db::storage::LogStore;
use kernel_db::storage::engine::{EngineLog, EngineLogOptions};
use tokio_postgres::{Client, NoTls, SimpleQueryMessage};

use crate::disk::BreakableDisk;
use crate::ports::free;

const CONFIG: &str = "KERNEL_DB_NODE_CONFIG";

/// What happens by itself has happened by then, on a machine that stands still for seconds too.
pub const PATIENCE: Duration = Duration::from_secs(60);
/// Of 50 ms, so that no leader is deposed because the machine stands still.
const STEADY_TICKS: u64 = 60;

/// A file beside the configuration: while it is there, fdatasync of the node's log fails.
pub const SYNC_FAILS: &str = "sync-fails";

#[test]
#[ignore = "not a test: the body of a child process"]
fn node_process() {
    let Some(path) = std::env::var_os(CONFIG) else {
        return;
    };
    let path = Path::new(&path);
    let config = NodeConfig::load(path).unwrap();
    let disk = Arc::new(BreakableDisk {
        broken: path.with_file_name(SYNC_FAILS),
    });
    let open_log = move |dir: &Path, identity| -> kernel_db::Result<Arc<dyn LogStore>> {
        let log = EngineLog::open_on(dir, &EngineLogOptions::default(), identity, disk)?;
        Ok(Arc::new(log))
    };
    if let Err(error) = kernel_db::node::run_on(config, kernel_db::node::terminated(), open_log) {
        eprintln!("{error}");
        std::process::exit(1);
    }
}

/// A cluster of child processes, killed when dropped.
pub struct Cluster {
    dir: tempfile::TempDir,
    pub nodes: Vec<NodeAddress>,
    children: Vec<Option<Child>>,
    /// What a node's command is run by, as `sh -c` runs it; nothing if empty.
    runner: Vec<String>,
}

impl Cluster {
    /// For tests of failovers: elections come as soon as they do by default.
    pub fn start(nodes: usize, partitions: u32, replicas: u32, durability: Durability) -> Self {
        Self::prepare(nodes, partitions, replicas, durability).started()
    }

    /// For tests of all else: leaders stay.
    pub fn steady(nodes: usize, partitions: u32, replicas: u32, durability: Durability) -> Self {
        Self::prepare_steady(nodes, partitions, replicas, durability).started()
    }

    /// Configurations only.
    pub fn prepare(nodes: usize, partitions: u32, replicas: u32, durability: Durability) -> Self {
        let ticks = NodeConfig::default().election_ticks;
        Self::prepare_with(nodes, partitions, replicas, durability, ticks)
    }

    /// Configurations only, of which leaders stay.
    pub fn prepare_steady(
        nodes: usize,
        partitions: u32,
        replicas: u32,
        durability: Durability,
    ) -> Self {
        Self::prepare_with(nodes, partitions, replicas, durability, STEADY_TICKS)
    }

    fn prepare_with(
        nodes: usize,
        partitions: u32,
        replicas: u32,
        durability: Durability,
        election_ticks: u64,
    ) -> Self {
        let addresses = free_addresses(nodes);
        let cluster = Self {
            dir: tempfile::tempdir().unwrap(),
            nodes: addresses.clone(),
            children: (0..nodes).map(|_| None).collect(),
            runner: Vec::new(),
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
                log_prefill_bytes: 0,
                election_ticks,
                // Several elections, on a machine that stands still for seconds.
                leader_wait_ms: 20_000,
                ..NodeConfig::default()
            };
            std::fs::write(cluster.config_path(node.id), config.to_toml()).unwrap();
        }
        cluster
    }

    fn started(mut self) -> Self {
        for id in 1..=self.nodes.len() as u64 {
            self.spawn(id);
        }
        self
    }

    /// Nodes are run by this command from now on: their own command follows its words.
    pub fn run_by(&mut self, words: Vec<String>) {
        self.runner = words;
    }

    /// Holds configurations, logs and data.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    fn config_path(&self, id: u64) -> PathBuf {
        self.dir.path().join(format!("{id}.toml"))
    }

    pub fn spawn(&mut self, id: u64) {
        let mut words = self.runner.clone();
        words.push(std::env::current_exe().unwrap().display().to_string());
        let child = Command::new(&words[0])
            .args(&words[1..])
            .args([
                "cluster::node_process",
                "--exact",
                "--ignored",
                "--nocapture",
            ])
            .env(CONFIG, self.config_path(id))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        self.children[id as usize - 1] = Some(child);
    }

    /// SIGKILL.
    pub fn kill(&mut self, id: u64) {
        let mut child = self.children[id as usize - 1].take().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// SIGTERM, and the exit code.
    pub fn stop(&mut self, id: u64) -> Option<i32> {
        self.signal(id, "TERM");
        let mut child = self.children[id as usize - 1].take().unwrap();
        child.wait().unwrap().code()
    }

    pub fn signal(&self, id: u64, signal: &str) {
        let child = self.children[id as usize - 1].as_ref().unwrap();
        let kill = Command::new("kill")
            .args([&format!("-{signal}"), &child.id().to_string()])
            .status();
        assert!(kill.unwrap().success());
    }

    /// The exit code of a node that ends by itself, which it must soon.
    pub async fn ended(&mut self, id: u64) -> Option<i32> {
        let until = Instant::now() + PATIENCE;
        loop {
            let child = self.children[id as usize - 1].as_mut().unwrap();
            if let Some(status) = child.try_wait().unwrap() {
                self.children[id as usize - 1] = None;
                return status.code();
            }
            assert!(
                Instant::now() < until,
                "node {id} did not end\n{}",
                self.logs()
            );
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    pub async fn connect(&self, id: u64) -> Client {
        let until = Instant::now() + PATIENCE;
        loop {
            match self.try_connect(id).await {
                Ok(client) => return client,
                Err(error) if Instant::now() > until => {
                    panic!("node {id}: {error}\n{}", self.logs())
                }
                Err(_) => tokio::time::sleep(Duration::from_millis(5)).await,
            }
        }
    }

    /// Where a node's SQL clients connect.
    pub fn address(&self, id: u64) -> SocketAddr {
        self.nodes[id as usize - 1].sql
    }

    pub async fn try_connect(&self, id: u64) -> Result<Client, tokio_postgres::Error> {
        let port = self.address(id).port();
        let url = format!("host=127.0.0.1 port={port} user=dbos dbname=dbos");
        let (client, connection) = tokio_postgres::connect(&url, NoTls).await?;
        tokio::spawn(connection);
        Ok(client)
    }

    /// The node that leads `partition`.
    pub async fn leader(&self, client: &Client, partition: u32) -> u64 {
        let sql = format!("SELECT leader FROM dbos.partitions WHERE partition_id = {partition}");
        let leader = eventually(client, &sql, |leader| !leader.is_empty()).await;
        leader.parse().unwrap()
    }

    /// Waits until every partition has a leader.
    pub async fn ready(&self, client: &Client) {
        let until = Instant::now() + PATIENCE;
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

    pub fn logs(&self) -> String {
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

fn free_addresses(nodes: usize) -> Vec<NodeAddress> {
    let nodes = nodes as u16;
    let base = free(2 * nodes);
    let address = |port: u16| SocketAddr::from(([127, 0, 0, 1], port));
    (0..nodes)
        .map(|node| NodeAddress {
            id: u64::from(node) + 1,
            sql: address(base + 2 * node),
            peer: address(base + 2 * node + 1),
        })
        .collect()
}

pub fn first(messages: &[SimpleQueryMessage]) -> String {
    messages
        .iter()
        .find_map(|m| match m {
            SimpleQueryMessage::Row(row) => row.get(0).map(str::to_string),
            _ => None,
        })
        .unwrap_or_default()
}

pub async fn query(client: &Client, sql: &str) -> String {
    match client.simple_query(sql).await {
        Ok(messages) => first(&messages),
        Err(error) => panic!("{sql}: {error:?}"),
    }
}

/// The first answer that is `wanted`; errors are met by asking again. System tables show nothing of a node that is late, and no
/// time while a partition has no leader.
pub async fn eventually(client: &Client, sql: &str, wanted: impl Fn(&str) -> bool) -> String {
    let until = Instant::now() + PATIENCE;
    loop {
        let answer = client.simple_query(sql).await;
        let value = answer.as_ref().map(|messages| first(messages));
        match value {
            Ok(value) if wanted(&value) => return value,
            other => assert!(Instant::now() < until, "{sql}: {other:?}"),
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Waits until a statement that begins so runs at some node.
pub async fn until_runs(client: &Client, statement: &str) {
    let like = format!("query LIKE '{statement}%'");
    let sql = format!("SELECT count(*) FROM dbos.statements WHERE {like}");
    eventually(client, &sql, |running| running == "1").await;
}

/// A time to go back to, behind all that was acknowledged.
pub async fn stamp(client: &Client) -> String {
    let sql = "SELECT stamp FROM dbos.clock";
    eventually(client, sql, |stamp| !stamp.is_empty()).await
}

/// SQLSTATE of a statement that must fail.
pub async fn state(client: &Client, sql: &str) -> String {
    match client.simple_query(sql).await {
        Ok(_) => panic!("{sql} succeeded"),
        Err(error) => error
            .code()
            .map_or_else(|| format!("{error:?}"), |c| c.code().to_string()),
    }
}
