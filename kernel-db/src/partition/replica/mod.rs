//! A replica of one partition as a state machine: `step(now, input, outputs)`.

mod io;

pub use io::{
    Durability, FollowerStatus, Input, Now, Output, ReplicaConfig, ReplicaStatus, Request, Role,
    RoleChange, SessionStatus,
};

use std::sync::Arc;

use crate::error::Result;
use crate::storage::{LogStore, StateStore};

/// One member of a Raft group with its executor.
pub struct Replica<S: StateStore> {
    config: ReplicaConfig,
    store: Arc<S>,
    log: Arc<dyn LogStore>,
}

impl<S: StateStore> Replica<S> {
    /// Opens the replica on what its stores hold.
    pub fn new(config: ReplicaConfig, store: Arc<S>, log: Arc<dyn LogStore>) -> Result<Self> {
        Ok(Self { config, store, log })
    }
}
