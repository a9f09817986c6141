//! Opens what a node has on disk: the log, a store per replica, and the replicas on top of them.

use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;

use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

use super::core::{Core, Opener};
use super::datadir::DataDir;
use super::peers::Peers;
use super::placement::Placement;
use super::threads::{Report, Threads};
use super::topology::Topology;
use super::{Durability, NodeConfig, State};
use crate::error::{Error, Result};
use crate::partition::{self, Replica, ReplicaConfig};
use crate::raft::member_id;
use crate::storage::engine::{EngineLog, EngineLogOptions};
use crate::storage::format::Identity;
use crate::storage::rocks::RocksShared;
use crate::storage::{LogStore, LogWrite};

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
    let known = dir.topology()?;
    // Whoever knows a later topology has made its first replicas long ago, perhaps of another deal than this program's.
    let founds = known.is_none();
    let placement = Placement::new(known.unwrap_or_else(|| Topology::new(config)));
    let tail_lost = config.durability == Durability::Memory && dir.system_went_down();
    let opener = opener(config, dir, &log, shared, (founds, tail_lost));
    let mut replicas = Vec::new();
    for group in placement.groups() {
        // What was made here later is here still; what the configuration places here is made at the first start.
        let placed = founds && founders(config, group).contains(&config.node_id);
        if dir.state(group).exists() || placed {
            let (replica, store) = opener(group)?;
            replicas.push((group, replica, store));
        }
    }
    let (sender, reports) = unbounded_channel();
    let threads = Threads::start(Arc::clone(&log), sender)?;
    let peers = Peers::new(config, &placement.nodes());
    Ok((
        Core::new(replicas, opener, log, threads, Rc::clone(&peers), placement),
        peers,
        reports,
    ))
}

/// Opens the replica of a group. One that is not placed here by the configuration is a member of nothing until its leader
/// fills it; so is any, unless this node `founds` the cluster.
fn opener(
    config: &Rc<NodeConfig>,
    dir: &DataDir,
    log: &Arc<dyn LogStore>,
    shared: RocksShared,
    (founds, tail_lost): (bool, bool),
) -> Opener {
    let (config, log) = (Rc::clone(config), Arc::clone(log));
    let states = dir.states();
    Box::new(move |group| {
        let identity = Identity {
            cluster: config.cluster_number(),
            number: group,
        };
        let state_dir = states.join(group.to_string());
        if State::was_dropped(&state_dir) {
            reset(&*log, config.node_id, group)?;
        }
        let store = Arc::new(State::open(&state_dir, &shared, identity)?);
        let voters = match founds && is_new(&*log, group)? {
            true => founders(&config, group),
            false => Vec::new(),
        };
        store.found(&voters)?;
        let replica_config = replica_config(&config, group, voters, tail_lost);
        let replica = Replica::new(replica_config, Arc::clone(&store), Arc::clone(&log))?;
        Ok((replica, store))
    })
}

/// The process ended when the state of a dropped replica was gone and its log was not. Term and vote stay, and which member
/// it was.
fn reset(log: &dyn LogStore, node: u64, group: u32) -> Result<()> {
    let (_, _, held) = log.load(group)?;
    let member = log.member(group)?.unwrap_or(node);
    let mut hard_state = raft::eraftpb::HardState::default();
    (hard_state.term, hard_state.vote) = (held.term, held.vote);
    let write = LogWrite {
        group,
        entries: Vec::new(),
        hard_state: Some(hard_state),
        reset: true,
        member: Some(member_id::dropped(member)),
    };
    log.append(vec![write], true)
}

/// False for a group that had a replica here before. If its state does not tell the members, the replica was dropped: one
/// made anew is a member of nothing until its leader fills it, founder or not, because it does not hold what the one before
/// it has acknowledged, and would vote for a leader without it.
fn is_new(log: &dyn LogStore, group: u32) -> Result<bool> {
    let (first, last, hard_state) = log.load(group)?;
    let was_here = log.member(group)?.is_some();
    Ok(first > last && hard_state == raft::eraftpb::HardState::default() && !was_here)
}

/// The first members of a group, if this node is one of them: all of them agree without asking. From then on the state
/// knows the members.
fn founders(config: &NodeConfig, group: u32) -> Vec<u64> {
    let voters = Topology::new(config).voters(group).to_vec();
    match voters.contains(&config.node_id) && !config.join {
        true => voters,
        false => Vec::new(),
    }
}

/// The log store of a real node.
pub fn open_log(config: &NodeConfig, dir: &Path, identity: Identity) -> Result<Arc<dyn LogStore>> {
    let options = EngineLogOptions {
        prefill_bytes: match config.durability {
            Durability::Fsync => config.log_prefill_bytes,
            Durability::Memory => 0,
        },
        fill_ahead: config.durability == Durability::Fsync,
        ..EngineLogOptions::default()
    };
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
        result_bytes_max: config.result_bytes_max,
        write_set_bytes_max: config.write_set_bytes_max as usize,
        batch_bytes_max: config.batch_bytes_max as usize,
        batches_in_flight_max: config.batches_in_flight_max as usize,
        queue_max: config.queue_max as usize,
        locks_max: config.locks_max as usize,
        changes_bytes_max: config.changes_bytes_max as usize,
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
