//! The shell around the state machines, without SQL: three nodes in one thread, real sockets, logs and stores.

use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt;
use futures::future::LocalBoxFuture;
use tokio::net::TcpListener;
use tokio::task::{JoinHandle, LocalSet};

use super::arrivals::Arrivals;
use super::core::Core;
use super::datadir::DataDir;
use super::open::open;
use super::peers::Peers;
use super::server::{Calls, PeerServer};
use super::upkeep::Upkeep;
use super::{NodeAddress, NodeConfig};
use crate::error::{Error, Result};
use crate::partition::{Store, Transaction, TxnEnv};
use crate::wire::peer::{answer, call};

/// Adds one to a counter and returns it.
struct Count(&'static [u8]);

impl Transaction for Count {
    fn run(&self, store: &mut dyn Store, _env: &mut TxnEnv) -> Result<Bytes> {
        let old = store.get(self.0, None)?.map_or(0, |v| v[0]);
        store.put(Bytes::from_static(self.0), vec![old + 1].into())?;
        Ok(vec![old + 1].into())
    }
}

struct NoCalls;

impl Calls for NoCalls {
    fn call(&self, _from: u64, _body: call::Body) -> LocalBoxFuture<'static, Result<answer::Body>> {
        async { Err(Error::unsupported("calls in this test")) }.boxed_local()
    }
}

struct Node {
    core: Rc<Core>,
    _dir: DataDir,
    peers: Rc<Peers>,
    tasks: Vec<JoinHandle<()>>,
}

impl Node {
    async fn start(config: NodeConfig) -> Self {
        let config = Rc::new(config);
        let dir = DataDir::open(&config).unwrap();
        let (core, peers, reports) = open(&config, &dir).unwrap();
        let listener = TcpListener::bind(config.own().unwrap().peer).await.unwrap();
        let server = Rc::new(PeerServer {
            own: config.node_id,
            cluster: config.cluster_number(),
            core: Rc::clone(&core),
            arrivals: Arrivals::new(Rc::clone(&core), Rc::clone(&peers), 1 << 30),
            calls: Rc::new(NoCalls),
        });
        let upkeep = Upkeep::new(Rc::clone(&config), Rc::clone(&core), Rc::clone(&peers));
        peers.start();
        let tasks = vec![
            tokio::task::spawn_local(Rc::clone(&core).run(reports)),
            tokio::task::spawn_local(server.run(listener)),
            tokio::task::spawn_local(Rc::clone(&upkeep).tick()),
            tokio::task::spawn_local(upkeep.run()),
        ];
        Self {
            core,
            _dir: dir,
            peers,
            tasks,
        }
    }

    /// Stops as a killed process would: nothing is flushed.
    async fn kill(self) {
        for task in self.tasks {
            task.abort();
        }
        self.peers.stop();
        self.core.stop();
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

fn configs(dir: &Path) -> Vec<NodeConfig> {
    let ports: Vec<u16> = (0..6)
        .map(|_| std::net::TcpListener::bind("127.0.0.1:0").unwrap())
        .collect::<Vec<_>>()
        .iter()
        .map(|l| l.local_addr().unwrap().port())
        .collect();
    let address = |p: u16| std::net::SocketAddr::from(([127, 0, 0, 1], p));
    let nodes: Vec<NodeAddress> = (0..3)
        .map(|i| NodeAddress {
            id: i as u64 + 1,
            sql: address(ports[i]),
            peer: address(ports[3 + i]),
        })
        .collect();
    let one = |node: &NodeAddress| NodeConfig {
        node_id: node.id,
        nodes: nodes.clone(),
        data_dir: dir.join(node.id.to_string()),
        partitions: 2,
        replicas: 3,
        tick_ms: 20,
        tip_bytes_max: 1 << 20,
        ..NodeConfig::default()
    };
    nodes.iter().map(one).collect()
}

/// The open leader of `group` among `nodes`.
async fn leader(nodes: &[Node], group: u32) -> &Node {
    for _ in 0..500 {
        if let Some(node) = nodes
            .iter()
            .find(|n| n.core.role(group).is_some_and(|r| r.open))
        {
            return node;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("no leader of group {group}")
}

async fn count(nodes: &[Node], group: u32) -> u8 {
    let node = leader(nodes, group).await;
    let reply = node
        .core
        .submit(group, Arc::new(Count(b"\0\0\0\x63count")), None, None);
    reply.await.unwrap().unwrap()[0]
}

#[test]
fn three_nodes_commit_lose_a_leader_and_restart() {
    let dir = tempfile::tempdir().unwrap();
    let configs = configs(dir.path());
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    LocalSet::new().block_on(&runtime, async {
        let mut nodes = Vec::new();
        for config in &configs {
            nodes.push(Node::start(config.clone()).await);
        }
        for expected in 1..=20 {
            assert_eq!(count(&nodes, 1).await, expected);
            assert_eq!(count(&nodes, 2).await, expected);
        }
        let lost = nodes
            .iter()
            .position(|n| n.core.role(1).is_some_and(|r| r.open))
            .unwrap();
        nodes.remove(lost).kill().await;
        assert_eq!(count(&nodes, 1).await, 21);
        nodes.push(Node::start(configs[lost].clone()).await);
        // All at once: what was acknowledged is on every disk or on a majority of them.
        for node in nodes.drain(..) {
            node.kill().await;
        }
        for config in &configs {
            nodes.push(Node::start(config.clone()).await);
        }
        assert_eq!(count(&nodes, 1).await, 22);
        assert_eq!(count(&nodes, 2).await, 21);
        for node in nodes {
            node.kill().await;
        }
    });
}
