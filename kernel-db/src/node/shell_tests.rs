//! The shell around the state machines, without SQL: three nodes in one thread, real sockets, logs and stores.

#[path = "../../../services/client/src/ports.rs"]
mod ports;

use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt;
use futures::future::LocalBoxFuture;
use tokio::net::TcpListener;
use tokio::task::{JoinHandle, LocalSet};

use super::arrivals::Arrivals;
use super::core::Core;
use super::datadir::DataDir;
use super::gateway::Gateway;
use super::open::{open, open_log};
use super::peers::Peers;
use super::server::{Calls, PeerServer};
use super::upkeep::Upkeep;
use super::{Durability, NodeAddress, NodeConfig};
use crate::error::{Error, Result};
use crate::partition::{Input, Store, Transaction, TxnEnv};
use crate::storage::{StateSnapshot, StateStore};
use crate::txn::messages::{Answer, Commit, Part, Prepare, TxnId, Work, Write};
use crate::wire::peer::{answer, call};

/// Adds one to a counter and returns it.
struct Count(&'static [u8]);

impl Transaction for Count {
    fn run(&self, store: &mut dyn Store, _env: &mut TxnEnv) -> Result<Bytes> {
        let old = store.get(self.0, None)?.map_or(0, |v| v[0]);
        store.put(Bytes::from_static(self.0), vec![old.wrapping_add(1)].into())?;
        Ok(vec![old.wrapping_add(1)].into())
    }
}

struct NoCalls;

impl Calls for NoCalls {
    fn call(
        &self,
        _from: u64,
        _body: call::Body,
        _cancel: Arc<AtomicBool>,
    ) -> LocalBoxFuture<'static, Result<answer::Body>> {
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
        Self::start_with(config, |_, _, _| Rc::new(NoCalls)).await
    }

    /// With what answers the calls of other nodes.
    async fn start_with(
        config: NodeConfig,
        calls: impl FnOnce(&Rc<NodeConfig>, &Rc<Core>, &Rc<Peers>) -> Rc<dyn Calls>,
    ) -> Self {
        let config = Rc::new(config);
        let dir = DataDir::open(&config).unwrap();
        let log = |dir: &Path, identity| open_log(&config, dir, identity);
        let (core, peers, reports) = open(&config, &dir, log).unwrap();
        let listener = TcpListener::bind(config.own().unwrap().peer).await.unwrap();
        let server = Rc::new(PeerServer {
            own: config.node_id,
            cluster: config.cluster_number(),
            core: Rc::clone(&core),
            arrivals: Arrivals::new(
                Rc::clone(&core),
                Rc::clone(&peers),
                config.snapshot_bytes_per_s,
            ),
            calls: calls(&config, &core, &peers),
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

/// Runs nodes, all on this thread.
fn alone<F: Future>(work: F) -> F::Output {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    LocalSet::new().block_on(&runtime, work)
}

fn configs(dir: &Path) -> Vec<NodeConfig> {
    let first = ports::free(6);
    let address = |p: u16| std::net::SocketAddr::from(([127, 0, 0, 1], p));
    let nodes: Vec<NodeAddress> = (0..3)
        .map(|i| NodeAddress {
            id: u64::from(i) + 1,
            sql: address(first + i),
            peer: address(first + 3 + i),
        })
        .collect();
    let one = |node: &NodeAddress| NodeConfig {
        node_id: node.id,
        nodes: nodes.clone(),
        data_dir: dir.join(node.id.to_string()),
        partitions: 2,
        replicas: 3,
        tick_ms: 20,
        // A machine that stands still for a moment deposes nobody.
        election_ticks: 25,
        tip_bytes_max: 1 << 20,
        ..NodeConfig::default()
    };
    nodes.iter().map(one).collect()
}

/// The open leader of `group` among `nodes`.
async fn leader(nodes: &[Node], group: u32) -> &Node {
    for _ in 0..6_000 {
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
    try_count(nodes, group).await.unwrap()
}

async fn try_count(nodes: &[Node], group: u32) -> Result<u8> {
    let node = leader(nodes, group).await;
    let reply = node
        .core
        .submit(group, Arc::new(Count(b"\0\0\0\x63count")), None, None);
    Ok(reply.await.unwrap()?[0])
}

#[test]
fn three_nodes_commit_lose_a_leader_and_restart() {
    three_nodes_lose_a_leader(Durability::Fsync);
}

#[test]
fn three_nodes_whose_log_is_written_in_place_do_the_same() {
    three_nodes_lose_a_leader(Durability::Memory);
}

fn three_nodes_lose_a_leader(durability: Durability) {
    let dir = tempfile::tempdir().unwrap();
    let mut configs = configs(dir.path());
    configs.iter_mut().for_each(|c| c.durability = durability);
    alone(async {
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

/// It does not hold what the one before it had acknowledged: as a voter it would help a leader without it to power.
#[test]
fn a_replica_made_anew_is_a_member_of_nothing_on_a_founder_too() {
    let dir = tempfile::tempdir().unwrap();
    let configs = configs(dir.path());
    alone(async {
        let mut nodes = Vec::new();
        for config in &configs {
            nodes.push(Node::start(config.clone()).await);
        }
        for group in [1, 2] {
            assert_eq!(count(&nodes, group).await, 1);
        }
        // Nobody is left to fill it.
        let last = nodes.pop().unwrap();
        for node in nodes.drain(..) {
            node.kill().await;
        }
        last.core.leave(1);
        tokio::time::sleep(Duration::from_millis(200)).await;
        last.kill().await;
        // As if the process had ended between the state and the log of the other.
        let state = |name: &str| configs[2].data_dir.join("state").join(name);
        std::fs::rename(state("2"), state("dropped-2")).unwrap();
        let again = Node::start(configs[2].clone()).await;
        for group in [1, 2] {
            let status = again.core.status(group).unwrap();
            assert_eq!(status.voters, Vec::<u64>::new(), "group {group}");
            assert_eq!(status.last_index, 0);
            assert!(status.term > 0);
        }
        assert_eq!(again.core.status(0).unwrap().voters, [1, 2, 3]);
        again.kill().await;
    });
}

/// What a gateway that dies at once leaves: a transaction of `number` that writes `value` under `key` in group 2, decided by
/// group 1, which commits it or never hears of it.
async fn abandon(gateway: &Gateway, number: u64, key: &'static [u8], value: u8, commit: bool) {
    let txn = TxnId {
        start: now_us(),
        node: 1,
        number,
    };
    let part = |key: &'static [u8]| Part {
        txn,
        writes: vec![Write {
            key: Bytes::from_static(key),
            value: Some(vec![value].into()),
        }],
        deadline_ts: now_us() + 5_000_000,
        ..Part::default()
    };
    let prepare = Work::Prepare(Prepare {
        part: part(key),
        coordinator: 1,
    });
    let end = tokio::time::Instant::now() + Duration::from_secs(20);
    let Answer::Prepared(stamp) = gateway.transact_until(2, prepare, end).await.unwrap() else {
        panic!("not prepared");
    };
    if commit {
        let commit = Work::Commit(Commit {
            part: part(b"\0\0\0\x63own"),
            others: vec![2],
            prepared_ts: stamp.ts,
            ..Commit::default()
        });
        let answer = gateway.transact_until(1, commit, end).await.unwrap();
        assert!(matches!(answer, Answer::Committed(committed) if committed.ts > stamp.ts));
    }
}

fn now_us() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    now.unwrap().as_micros() as u64
}

#[test]
fn i12_a_transaction_whose_gateway_died_is_finished_by_the_partitions() {
    let dir = tempfile::tempdir().unwrap();
    let configs = configs(dir.path());
    alone(async {
        let (mut nodes, mut gateways) = (Vec::new(), Vec::new());
        for config in &configs {
            let node = Node::start_with(config.clone(), |config, core, peers| {
                let gateway = Gateway::start(Rc::clone(config), Rc::clone(core), Rc::clone(peers));
                gateways.push(Rc::clone(&gateway));
                gateway as Rc<dyn Calls>
            });
            nodes.push(node.await);
        }
        leader(&nodes, 1).await;
        leader(&nodes, 2).await;
        // Any node reaches both leaders.
        for (number, gateway) in (0..).zip(&gateways) {
            abandon(
                gateway,
                number,
                [b"\0\0\0\x63a", b"\0\0\0\x63b", b"\0\0\0\x63c"][number as usize],
                40,
                number != 1,
            )
            .await;
        }
        // These wait until the partitions have found out by themselves.
        let leader = leader(&nodes, 2).await;
        for (key, expected) in [
            (b"\0\0\0\x63a", 41),
            (b"\0\0\0\x63b", 1),
            (b"\0\0\0\x63c", 41),
        ] {
            let reply = leader.core.submit(2, Arc::new(Count(key)), None, None);
            let reply = tokio::time::timeout(Duration::from_secs(20), reply).await;
            assert_eq!(reply.unwrap().unwrap().unwrap()[0], expected);
        }
        for node in nodes {
            node.kill().await;
        }
    });
}

/// Three nodes, the last of which is stopped, with a log of group 1 that has begun anew behind what that has. Returns how often
/// was counted.
async fn leave_behind(configs: &[NodeConfig]) -> (Vec<Node>, u8) {
    let mut nodes = Vec::new();
    for config in configs {
        let mut config = config.clone();
        config.log_bytes_max = 64 << 10;
        config.flush_log_bytes = 4 << 10;
        nodes.push(Node::start(config).await);
    }
    assert_eq!(count(&nodes, 1).await, 1);
    nodes.remove(2).kill().await;
    // One entry each.
    let mut expected = 1;
    for _ in 0..10_000 {
        // At most a few hundred between two flushes.
        tokio::time::sleep(Duration::from_millis(2)).await;
        // The leadership may go back to its preferred node meanwhile.
        let Ok(counted) = try_count(&nodes, 1).await else {
            continue;
        };
        expected = counted;
        let cut = |node: &Node| node.core.status(1).unwrap().first_index > 20;
        if nodes.iter().all(cut) && expected == 77 {
            break;
        }
    }
    (nodes, expected)
}

/// Waits until `found` says so.
async fn until(what: &str, limit: Duration, mut found: impl FnMut() -> bool) {
    let end = tokio::time::Instant::now() + limit;
    while !found() {
        assert!(tokio::time::Instant::now() < end, "{what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Some file of a checkpoint of group 1 is on its way to the node.
fn is_arriving(config: &NodeConfig) -> bool {
    let incoming = config.data_dir.join("state").join("1").join("incoming");
    let arriving = std::fs::read_dir(incoming).into_iter().flatten().flatten();
    arriving
        .flat_map(|dir| std::fs::read_dir(dir.path()))
        .any(|mut files| files.next().is_some())
}

#[test]
fn a_checkpoint_whose_leader_changes_is_left_for_that_of_the_next() {
    let dir = tempfile::tempdir().unwrap();
    let mut configs = configs(dir.path());
    // It takes some seconds.
    configs[2].snapshot_bytes_per_s = 8 << 10;
    alone(async {
        let (mut nodes, _) = leave_behind(&configs).await;
        nodes.push(Node::start(configs[2].clone()).await);
        let late = &nodes[2].core;
        let arriving = || is_arriving(&configs[2]);
        until("nothing arrives", Duration::from_secs(30), arriving).await;
        let leader = leader(&nodes[..2], 1).await.core.status(1).unwrap();
        assert!(late.status(1).unwrap().applied < leader.first_index);
        let to = 3 - leader.node;
        let [old, new] = [leader.node, to].map(|node| &nodes[node as usize - 1].core);
        old.send(1, Input::TransferLeader(to));
        let changed = || late.status(1).unwrap().term > leader.term;
        until("no other leader", Duration::from_secs(30), changed).await;
        let wanted = new.status(1).unwrap().commit;
        let caught_up = || late.status(1).unwrap().applied >= wanted;
        until("not caught up", Duration::from_secs(50), caught_up).await;
        assert!(nodes[2].core.group(1).unwrap().store.origin().0 > 20);
        for node in nodes {
            node.kill().await;
        }
    });
}

#[test]
fn a_replica_that_is_dropped_while_a_checkpoint_arrives_is_made_anew_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let mut configs = configs(dir.path());
    // A piece takes minutes.
    configs[2].snapshot_bytes_per_s = 10;
    alone(async {
        let (mut nodes, _) = leave_behind(&configs).await;
        nodes.push(Node::start(configs[2].clone()).await);
        let arriving = || is_arriving(&configs[2]);
        until("nothing arrives", Duration::from_secs(30), arriving).await;
        let late = &nodes[2].core;
        late.leave(1);
        assert!(late.group(1).is_none());
        let made = || late.join(1).is_ok() && late.group(1).is_some();
        until("not made anew", Duration::from_secs(30), made).await;
        assert_eq!(late.status(1).unwrap().voters, Vec::<u64>::new());
        for node in nodes {
            node.kill().await;
        }
    });
}

#[test]
fn a_node_that_the_log_no_longer_reaches_fetches_a_checkpoint() {
    let dir = tempfile::tempdir().unwrap();
    let configs = configs(dir.path());
    alone(async {
        let (mut nodes, expected) = leave_behind(&configs).await;
        nodes.push(Node::start(configs[2].clone()).await);
        let wanted = leader(&nodes, 1).await.core.status(1).unwrap().commit;
        for _ in 0..3000 {
            if nodes[2].core.status(1).unwrap().applied >= wanted {
                break;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let status = nodes[2].core.status(1).unwrap();
        assert!(status.applied >= wanted, "{status:?}");
        let store = Arc::clone(&nodes[2].core.group(1).unwrap().store);
        assert!(
            store.origin().0 > 20,
            "it came by the log: {:?}",
            store.origin()
        );
        assert_eq!(
            store.get(b"\0\0\0\x63count").unwrap().unwrap().value[..],
            [expected]
        );
        drop(store);
        // It votes and leads as any other.
        nodes.remove(0).kill().await;
        assert_eq!(count(&nodes, 1).await, expected + 1);
        for node in nodes {
            node.kill().await;
        }
    });
}

/// Waits for a row; counts its runs.
struct Awaiting {
    runs: AtomicUsize,
    may_wait: bool,
}

impl Transaction for Awaiting {
    fn run(&self, store: &mut dyn Store, env: &mut TxnEnv) -> Result<Bytes> {
        self.runs.fetch_add(1, Ordering::Relaxed);
        let found = store.get(b"\0\0\0\x63count", None)?;
        if let (None, Some(wait)) = (&found, &mut env.wait) {
            wait.until(60_000_000)?;
        }
        Ok(found.unwrap_or_default())
    }

    fn may_wait(&self) -> bool {
        self.may_wait
    }
}

#[test]
fn what_probably_waits_runs_once_before_it_is_parked() {
    let dir = tempfile::tempdir().unwrap();
    let mut config = configs(dir.path()).remove(0);
    (config.replicas, config.durability) = (1, Durability::Memory);
    config.nodes.truncate(1);
    alone(async {
        let nodes = [Node::start(config).await];
        let core = &leader(&nodes, 1).await.core;
        let submit = |may_wait| {
            let txn = Arc::new(Awaiting {
                runs: AtomicUsize::new(0),
                may_wait,
            });
            let reply = core.submit(1, Arc::clone(&txn) as Arc<dyn Transaction>, None, None);
            (txn, reply)
        };
        let waiting = [submit(false), submit(true)];
        assert_eq!(count(&nodes, 1).await, 1);
        let mut runs = Vec::new();
        for (txn, reply) in waiting {
            assert_eq!(reply.await.unwrap().unwrap()[0], 1, "woken by the write");
            runs.push(txn.runs.load(Ordering::Relaxed));
        }
        assert_eq!(runs, [3, 2], "the last one is the run behind the write");
        for node in nodes {
            node.kill().await;
        }
    });
}
