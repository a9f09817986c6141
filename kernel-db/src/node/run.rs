//! One node from start to end.

use std::future::Future;

use super::NodeConfig;
use crate::error::{Error, Result};

/// Runs one node until `shutdown` resolves, on a single-threaded runtime of its own: call it from a thread that is not
/// inside a runtime. Returns an error if the node cannot start (port in use, data directory of another cluster or a
/// newer format, directory open in another process) and after a clean stop `Ok`. A failed fsync, a full disk or an
/// error in apply ends the process with exit code 70.
pub fn run<F>(config: NodeConfig, shutdown: F) -> Result<()>
where
    F: Future<Output = ()> + 'static,
{
    config.validate()?;
    let _runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|e| Error::new("58000", format!("cannot start the runtime: {e}")))?;
    drop(shutdown);
    Err(Error::unsupported("running a node"))
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
