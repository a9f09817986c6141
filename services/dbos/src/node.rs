//! `dbos node`: one node in the foreground.

use std::path::Path;

use kernel_db::node::{NodeConfig, terminated};

use crate::exit::{Failure, Result};

pub fn run(config: &Path) -> Result<()> {
    let config = NodeConfig::load(config)?;
    kernel_db::node::run(config, terminated()).map_err(|error| {
        // The log file gets it too: whoever started this node may not be there to read it.
        tracing::error!("{error}");
        Failure::from(error)
    })
}
