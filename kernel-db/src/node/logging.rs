//! The node's trace: one file per node, or standard error.
//!
//! Written without a thread in between, so that the last lines before a fatal error are there; the trace is quiet enough
//! on the hot path for that.

use std::fs::OpenOptions;
use std::sync::Mutex;

use tracing_subscriber::EnvFilter;

use super::NodeConfig;
use crate::error::{Error, Result};

/// Starts tracing as `config` says. A process that has a subscriber already keeps it.
pub fn start(config: &NodeConfig) -> Result<()> {
    let filter = EnvFilter::try_new(&config.log_level)
        .map_err(|e| Error::new("F0000", format!("log_level = {:?}: {e}", config.log_level)))?;
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(false);
    let started = if config.log_file.as_os_str().is_empty() {
        builder.with_writer(std::io::stderr).try_init()
    } else {
        if let Some(parent) = config.log_file.parent() {
            std::fs::create_dir_all(parent).map_err(|e| unwritable(config, &e))?;
        }
        let file = OpenOptions::new()
            .create(true)
            .append(true)
            .open(&config.log_file)
            .map_err(|e| unwritable(config, &e))?;
        builder.with_writer(Mutex::new(file)).try_init()
    };
    if started.is_err() {
        tracing::debug!("tracing was started before");
    }
    Ok(())
}

fn unwritable(config: &NodeConfig, error: &std::io::Error) -> Error {
    Error::new(
        "58030",
        format!("cannot write {}: {error}", config.log_file.display()),
    )
}
