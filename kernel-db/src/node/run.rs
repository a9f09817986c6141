//! One node from start to end.

use std::collections::BTreeMap;
use std::future::Future;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::task::LocalSet;
use tokio_util::sync::CancellationToken;

use super::core::Core;
use super::datadir::DataDir;
use super::gateway::Gateway;
use super::peers::Peers;
use super::placement::Placement;
use super::server::{Calls, PeerServer};
use super::threads::{Report, Threads};
use super::upkeep::{self, Upkeep};
use super::{Durability, NodeConfig, State, logging};
use crate::error::{Error, Result};
use crate::partition::{self, Replica, ReplicaConfig};
use crate::storage::engine::{EngineLog, EngineLogOptions};
use crate::storage::format::Identity;
use crate::storage::rocks::{RocksShared, RocksState};
use crate::storage::{LogStore, StateStore};
use crate::wire::pg::{self, Backend};

/// For clients to receive what is under way when the node stops.
const DRAIN: Duration = Duration::from_secs(2);

/// Runs one node until `shutdown` resolves, on a single-threaded runtime of its own: call it from a thread that is not
/// inside a runtime. Returns an error if the node cannot start (port in use, data directory of another cluster or a
/// newer format, directory open in another process) and after a clean stop `Ok`. A failed fsync, a full disk or an
/// error in apply ends the process with exit code 70.
pub fn run<F>(config: NodeConfig, shutdown: F) -> Result<()>
where
    F: Future<Output = ()> + 'static,
{
    config.validate()?;
    logging::start(&config)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|e| Error::new("58000", format!("cannot start the runtime: {e}")))?;
    let tasks = LocalSet::new();
    let result = tasks.block_on(&runtime, node(config, shutdown));
    if let Err(error) = &result {
        tracing::error!("cannot start: {error}");
    }
    // Tasks hold replicas and stores: they go before the runtime does.
    drop(tasks);
    result
}

async fn node<F: Future<Output = ()>>(config: NodeConfig, shutdown: F) -> Result<()> {
    let own = config.own()?.clone();
    // Ports first: a second start of the same node says so before it touches anything.
    let clients = bind(own.sql, "sql").await?;
    let peers = bind(own.peer, "peer").await?;
    let dir = DataDir::open(&config)?;
    let config = Rc::new(config);
    let (core, links, reports) = open(&config, &dir)?;
    links.start();
    let core_loop = tokio::task::spawn_local(Rc::clone(&core).run(reports));
    let gateway = Gateway::start(Rc::clone(&config), Rc::clone(&core), Rc::clone(&links));
    let server = Rc::new(PeerServer {
        own: config.node_id,
        cluster: config.cluster_number(),
        core: Rc::clone(&core),
        calls: Rc::clone(&gateway) as Rc<dyn Calls>,
    });
    tokio::task::spawn_local(server.run(peers));
    let upkeep = Upkeep::new(Rc::clone(&config), Rc::clone(&core), Rc::clone(&links));
    tokio::task::spawn_local(Rc::clone(&upkeep).tick());
    tokio::task::spawn_local(Rc::clone(&upkeep).run());
    let stop = CancellationToken::new();
    let limits = pg::Limits {
        connections: config.connections_max as usize,
        message_bytes: config.message_bytes_max as usize,
        drain: DRAIN,
        ..pg::Limits::default()
    };
    let backend = gateway as Rc<dyn Backend>;
    let serving = tokio::task::spawn_local(pg::serve(clients, backend, limits, stop.clone()));
    tracing::info!(node = own.id, sql = %own.sql, peer = %own.peer, "node started");
    shutdown.await;
    tracing::info!("stopping");
    stop.cancel();
    if serving.await.is_err() {
        tracing::warn!("the listener ended early");
    }
    let caught_up = core.groups().keys().all(|g| core.role(*g).is_some_and(|r| r.leader.is_some()));
    upkeep::hand_over(&core, &links).await;
    core_loop.abort();
    core.stop();
    flush(&core).await?;
    if caught_up {
        dir.stopped_cleanly();
    }
    tracing::info!("stopped");
    Ok(())
}

async fn bind(address: std::net::SocketAddr, what: &str) -> Result<TcpListener> {
    TcpListener::bind(address).await.map_err(|e| {
        let code = match e.kind() {
            std::io::ErrorKind::AddrInUse => "55006",
            _ => "58000",
        };
        Error::new(code, format!("cannot listen on {address} ({what}): {e}"))
            .hint("another process has the port: stop it, or choose other ports")
    })
}

/// Opens log, stores and replicas.
fn open(config: &Rc<NodeConfig>, dir: &DataDir) -> Result<(Rc<Core>, Rc<Peers>, UnboundedReceiver<Report>)> {
    let cluster = config.cluster_number();
    let number = u32::try_from(config.node_id).map_err(|_| Error::new("F0000", "node_id is too large"))?;
    let log: Arc<dyn LogStore> = Arc::new(EngineLog::open(
        &dir.log(),
        &EngineLogOptions::default(),
        Identity { cluster, number },
    )?);
    let shared = RocksShared::new(
        (config.block_cache_bytes + config.write_buffer_bytes) as usize,
        config.write_buffer_bytes as usize,
    );
    let placement = Placement::new(config);
    let tail_lost = config.durability == Durability::Memory && dir.system_went_down();
    let mut stores: BTreeMap<u32, Arc<State>> = BTreeMap::new();
    let mut replicas = Vec::new();
    for group in placement.groups() {
        let voters = placement.voters(group);
        if !voters.contains(&config.node_id) {
            continue;
        }
        let identity = Identity { cluster, number: group };
        let store = Arc::new(RocksState::open(&dir.state(group), &shared, identity)?);
        let replica_config = replica_config(config, group, voters, tail_lost);
        let replica = Replica::new(replica_config, Arc::clone(&store), Arc::clone(&log))?;
        stores.insert(group, Arc::clone(&store));
        replicas.push((group, replica, store));
    }
    let (sender, reports) = unbounded_channel();
    let threads = Threads::start(Arc::clone(&log), stores, sender)?;
    let peers = Peers::new(config);
    Ok((Core::new(replicas, log, threads, Rc::clone(&peers)), peers, reports))
}

fn replica_config(config: &NodeConfig, group: u32, voters: Vec<u64>, log_tail_lost: bool) -> ReplicaConfig {
    ReplicaConfig {
        partitions: config.partitions,
        tick_ms: config.tick_ms,
        election_ticks: config.election_ticks as usize,
        heartbeat_ticks: config.heartbeat_ticks as usize,
        run_limit_steps: config.run_limit_steps,
        write_set_bytes_max: config.write_set_bytes_max as usize,
        batch_bytes_max: config.batch_bytes_max as usize,
        batches_in_flight_max: config.batches_in_flight_max as usize,
        queue_max: config.queue_max as usize,
        log_bytes_max: config.log_bytes_max,
        tip_bytes_max: config.tip_bytes_max as usize,
        sessions_max: config.sessions_max as usize,
        durability: match config.durability {
            Durability::Fsync => partition::Durability::Fsync,
            Durability::Memory => partition::Durability::Memory,
        },
        log_tail_lost,
        seed: rand::random(),
        ..ReplicaConfig::new(config.node_id, group, voters)
    }
}

/// Makes the next start quick: nothing of the log has to be applied again.
async fn flush(core: &Rc<Core>) -> Result<()> {
    for group in core.groups().values() {
        let store = Arc::clone(&group.store);
        let flushed = tokio::task::spawn_blocking(move || store.flush()).await;
        flushed.unwrap_or_else(|e| Err(Error::internal(format!("flush: {e}"))))?;
    }
    Ok(())
}

/// Resolves when the process is asked to end: SIGTERM or SIGINT. For `run`.
pub async fn terminated() {
    use tokio::signal::unix::{SignalKind, signal};
    let (Ok(mut term), Ok(mut int)) = (
        signal(SignalKind::terminate()),
        signal(SignalKind::interrupt()),
    ) else {
        tracing::error!("cannot listen for signals; only SIGKILL ends this node");
        return std::future::pending().await;
    };
    tokio::select! {
        _ = term.recv() => {}
        _ = int.recv() => {}
    }
}
