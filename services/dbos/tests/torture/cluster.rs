//! Node processes of the `dbos` binary with a proxy between each two of them.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use kernel_db::node::{Durability, NodeAddress, NodeConfig};
use rustix::process::{Pid, Signal, kill_process};
use tokio_postgres::{Client, NoTls};

use super::proxy::Network;

pub const PARTITIONS: u32 = 4;
const START_TIMEOUT: Duration = Duration::from_secs(60);

pub struct Cluster {
    dir: Option<tempfile::TempDir>,
    addresses: BTreeMap<u64, SocketAddr>,
    pub network: Arc<Network>,
    children: BTreeMap<u64, Child>,
}

impl Cluster {
    pub async fn start(nodes: u64) -> Self {
        let (sql, peers) = free_addresses(nodes);
        let network = Arc::new(Network::start(&peers).await);
        let dir = tempfile::Builder::new()
            .prefix("dbos-torture-")
            .tempdir()
            .unwrap();
        for node in 1..=nodes {
            let address = |id: u64| NodeAddress {
                id,
                sql: sql[&id],
                peer: match id == node {
                    true => peers[&id],
                    false => network.address(node, id),
                },
            };
            let config = NodeConfig {
                cluster: "torture".into(),
                node_id: node,
                nodes: (1..=nodes).map(address).collect(),
                data_dir: PathBuf::from(format!("data-{node}")),
                log_file: PathBuf::from(format!("{node}.log")),
                partitions: PARTITIONS,
                replicas: 3,
                durability: Durability::Fsync,
                log_prefill_bytes: 0,
                ..NodeConfig::default()
            };
            std::fs::write(dir.path().join(format!("{node}.toml")), config.to_toml()).unwrap();
        }
        let mut cluster = Self {
            dir: Some(dir),
            addresses: sql,
            network,
            children: BTreeMap::new(),
        };
        for node in 1..=nodes {
            cluster.spawn(node);
        }
        cluster
    }

    pub fn nodes(&self) -> impl Iterator<Item = u64> + use<> {
        1..=self.addresses.len() as u64
    }

    pub fn url(&self, node: u64) -> String {
        format!("postgres://dbos@{}/dbos", self.addresses[&node])
    }

    pub fn target(&self) -> dbos_client::Target {
        let urls: Vec<String> = self.nodes().map(|node| self.url(node)).collect();
        urls.join(",").parse().unwrap()
    }

    pub fn spawn(&mut self, node: u64) {
        let config = self.path().join(format!("{node}.toml"));
        let child = Command::new(env!("CARGO_BIN_EXE_dbos"))
            .args(["node", "--config"])
            .arg(config)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        self.children.insert(node, child);
    }

    /// SIGKILL; the process is gone when this returns.
    pub fn kill(&mut self, node: u64) {
        let mut child = self.children.remove(&node).unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// SIGTERM, and the exit code.
    pub async fn stop(&mut self, node: u64) -> Option<i32> {
        self.signal(node, Signal::TERM);
        let mut child = self.children.remove(&node).unwrap();
        let wait = tokio::task::spawn_blocking(move || child.wait().unwrap().code());
        wait.await.unwrap()
    }

    pub fn signal(&self, node: u64, signal: Signal) {
        let pid = Pid::from_raw(self.children[&node].id() as i32).unwrap();
        kill_process(pid, signal).unwrap();
    }

    /// A plain connection to one node, once it answers.
    pub async fn connect(&self, node: u64) -> Client {
        let start = Instant::now();
        loop {
            match connect(&self.url(node)).await {
                Some(client) => return client,
                None if start.elapsed() > START_TIMEOUT => {
                    self.give_up(&format!("node {node} does not answer"))
                }
                None => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        }
    }

    /// Ends the test; data and logs stay to be looked at.
    pub fn give_up(&self, why: &str) -> ! {
        panic!("{why}; data and logs are in {}", self.path().display())
    }

    /// Keeps data and logs when the cluster is dropped.
    pub fn keep(&mut self) -> PathBuf {
        let path = self.path();
        if let Some(dir) = self.dir.take() {
            return dir.keep();
        }
        path
    }

    fn path(&self) -> PathBuf {
        self.dir
            .as_ref()
            .map(|dir| dir.path().to_owned())
            .unwrap_or_default()
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for child in self.children.values_mut() {
            let _ = child.kill();
            let _ = child.wait();
        }
        if std::thread::panicking() {
            self.keep();
        }
    }
}

/// `None` if there is no answer within a second.
pub async fn connect(url: &str) -> Option<Client> {
    let connecting = tokio_postgres::connect(url, NoTls);
    let (client, connection) = tokio::time::timeout(Duration::from_secs(1), connecting)
        .await
        .ok()?
        .ok()?;
    tokio::spawn(connection);
    Some(client)
}

type Addresses = BTreeMap<u64, SocketAddr>;

/// SQL and peer addresses.
fn free_addresses(nodes: u64) -> (Addresses, Addresses) {
    let base = dbos_client::ports::free(2 * nodes as u16);
    let at = |port: u16| SocketAddr::from(([127, 0, 0, 1], port));
    let address =
        |offset: u64| (1..=nodes).map(move |node| (node, at(base + (node - 1 + offset) as u16)));
    (address(0).collect(), address(nodes).collect())
}
