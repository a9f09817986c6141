//! One node from start to end.

use std::future::Future;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::task::LocalSet;
use tokio_util::sync::CancellationToken;

use super::arrivals::Arrivals;
use super::core::Core;
use super::datadir::DataDir;
use super::gateway::Gateway;
use super::metrics::Metrics;
use super::open::{open, open_log};
use super::server::{Calls, PeerServer};
use super::upkeep::{self, Upkeep};
use super::{NodeConfig, logging};
use crate::error::{Error, Result};
use crate::storage::format::Identity;
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
    let own = config.clone();
    run_on(config, shutdown, move |dir, identity| {
        open_log(&own, dir, identity)
    })
}

/// As `run`, with a log store that `log` opens, given its directory and whose it is: tests break the disk under it.
pub fn run_on<F, L>(config: NodeConfig, shutdown: F, log: L) -> Result<()>
where
    F: Future<Output = ()> + 'static,
    L: FnOnce(&Path, Identity) -> Result<Arc<dyn LogStore>>,
{
    config.validate()?;
    logging::start(&config)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|e| Error::new("58000", format!("cannot start the runtime: {e}")))?;
    let tasks = LocalSet::new();
    let result = tasks.block_on(&runtime, node(config, shutdown, log));
    if let Err(error) = &result {
        tracing::error!("cannot start: {error}");
    }
    // Tasks hold replicas and stores: they go before the runtime does.
    drop(tasks);
    result
}

async fn node<F, L>(config: NodeConfig, shutdown: F, log: L) -> Result<()>
where
    F: Future<Output = ()>,
    L: FnOnce(&Path, Identity) -> Result<Arc<dyn LogStore>>,
{
    let own = config.own()?.clone();
    // Ports first: a second start of the same node says so before it touches anything.
    let clients = bind(own.sql, "sql").await?;
    let peers = bind(own.peer, "peer").await?;
    let metrics = match config.metrics_port {
        0 => None,
        port => Some(bind(([127, 0, 0, 1], port).into(), "metrics").await?),
    };
    let dir = DataDir::open(&config)?;
    let config = Rc::new(config);
    let (core, links, reports) = open(&config, &dir, log)?;
    links.start();
    if let Some(listener) = metrics {
        let (core, peers) = (Rc::clone(&core), Rc::clone(&links));
        tokio::task::spawn_local(Metrics { core, peers }.serve(listener));
    }
    let core_loop = tokio::task::spawn_local(Rc::clone(&core).run(reports));
    let gateway = Gateway::start(Rc::clone(&config), Rc::clone(&core), Rc::clone(&links));
    let server = Rc::new(PeerServer {
        own: config.node_id,
        cluster: config.cluster_number(),
        core: Rc::clone(&core),
        arrivals: Arrivals::new(
            Rc::clone(&core),
            Rc::clone(&links),
            config.snapshot_bytes_per_s,
        ),
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
    let caught_up = core
        .groups()
        .keys()
        .all(|g| core.role(*g).is_some_and(|r| r.leader.is_some()));
    upkeep::hand_over(&core, &links).await;
    core_loop.abort();
    links.stop();
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
