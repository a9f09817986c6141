//! A node of the kernel as a process of its own, asked through its PostgreSQL protocol.
//!
//! The node is this test binary run once more: the ignored test `node_process` runs the node whose configuration the
//! environment names.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use kernel_db::node::{Durability, NodeAddress, NodeConfig};
use tokio::runtime::Runtime;
use tokio_postgres::{Client, NoTls};

use crate::Side;
use crate::outcome::Outcome;
use crate::ports::free;
use crate::postgres::outcome_of;

const CONFIG: &str = "KERNEL_DB_NODE_CONFIG";
/// A node is up well within this time, on a busy machine too.
const START_MAX: Duration = Duration::from_secs(30);

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

/// A cluster of one node, killed and removed when dropped.
pub struct Server {
    partitions: u32,
    runtime: Runtime,
    node: Option<Node>,
}

struct Node {
    _process: Process,
    client: Client,
    _dir: tempfile::TempDir,
}

/// A child process that ends with this, also where the node does not start.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Server {
    pub fn start(partitions: u32) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .expect("a runtime");
        let node = runtime.block_on(start(partitions));
        Self {
            partitions,
            runtime,
            node: Some(node),
        }
    }
}

impl Side for Server {
    fn reset(&mut self) {
        self.node = None;
        self.node = Some(self.runtime.block_on(start(self.partitions)));
    }

    fn run(&mut self, sql: &str) -> Outcome {
        let node = self.node.as_ref().expect("a node");
        outcome_of(self.runtime.block_on(node.client.simple_query(sql)))
    }
}

fn address() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], free(1)))
}

async fn start(partitions: u32) -> Node {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let address = NodeAddress {
        id: 1,
        sql: address(),
        peer: address(),
    };
    let config = NodeConfig {
        node_id: 1,
        nodes: vec![address.clone()],
        data_dir: PathBuf::from("data"),
        log_file: PathBuf::from("log"),
        partitions,
        replicas: 1,
        durability: Durability::Memory,
        ..NodeConfig::default()
    };
    let path = dir.path().join("node.toml");
    std::fs::write(&path, config.to_toml()).expect("a configuration");
    let child = Command::new(std::env::current_exe().expect("this program"))
        .args(["--exact", "server::node_process", "--ignored"])
        .env(CONFIG, &path)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("a child process");
    let process = Process(child);
    let url = format!(
        "host=127.0.0.1 port={} user=dbos dbname=dbos",
        address.sql.port()
    );
    let began = Instant::now();
    loop {
        if let Ok((client, connection)) = tokio_postgres::connect(&url, NoTls).await {
            tokio::spawn(connection);
            let ready = "SELECT count(*) FROM dbos.partitions WHERE leader IS NULL";
            if outcome_of(client.simple_query(ready).await).first() == Some("0") {
                return Node {
                    _process: process,
                    client,
                    _dir: dir,
                };
            }
        }
        assert!(began.elapsed() < START_MAX, "the node did not start");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
