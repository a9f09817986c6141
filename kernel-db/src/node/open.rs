//! Opens what a node has on disk: the log, a store per replica, and the replicas on top of them.

use std::collections::BTreeMap;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;

use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

use super::core::Core;
use super::datadir::DataDir;
use super::peers::Peers;
use super::placement::Placement;
use super::threads::{Report, Threads};
use super::{Durability, NodeConfig, State};
use crate::error::{Error, Result};
use crate::partition::{self, Replica, ReplicaConfig};
use crate::storage::LogStore;
use crate::storage::engine::{EngineLog, EngineLogOptions};
use crate::storage::format::Identity;
use crate::storage::rocks::{RocksShared, RocksState};

/// Opens log, stores and replicas; `open_log` is given the log's directory and whose it is.
pub fn open(
    config: &Rc<NodeConfig>,
    dir: &DataDir,
    open_log: impl FnOnce(&Path, Identity) -> Result<Arc<dyn LogStore>>,
) -> Result<(Rc<Core>, Rc<Peers>, UnboundedReceiver<Report>)> {
    let cluster = config.cluster_number();
    let number =
        u32::try_from(config.node_id).map_err(|_| Error::new("F0000", "node_id is too large"))?;
    let log = open_log(&dir.log(), Identity { cluster, number })?;
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
        let identity = Identity {
            cluster,
            number: group,
        };
        let store = Arc::new(RocksState::open(&dir.state(group), &shared, identity)?);
        let replica_config = replica_config(config, group, voters, tail_lost);
        let replica = Replica::new(replica_config, Arc::clone(&store), Arc::clone(&log))?;
        stores.insert(group, Arc::clone(&store));
        replicas.push((group, replica, store));
    }
    let (sender, reports) = unbounded_channel();
    let threads = Threads::start(Arc::clone(&log), stores, sender)?;
    let peers = Peers::new(config);
    Ok((
        Core::new(replicas, log, threads, Rc::clone(&peers)),
        peers,
        reports,
    ))
}

/// The log store of a real node.
pub fn open_log(dir: &Path, identity: Identity) -> Result<Arc<dyn LogStore>> {
    let options = EngineLogOptions::default();
    Ok(Arc::new(EngineLog::open(dir, &options, identity)?))
}

fn replica_config(
    config: &NodeConfig,
    group: u32,
    voters: Vec<u64>,
    log_tail_lost: bool,
) -> ReplicaConfig {
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
