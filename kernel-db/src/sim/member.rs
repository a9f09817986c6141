//! One simulated node: its stores, its replica, and the shell's work around it.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::error::{Error, Result};
use crate::partition::apply::{self, AppliedReport, ApplyJob};
use crate::partition::{Durability, Input, Now, Output, Replica, ReplicaConfig};
use crate::storage::memory::{MemLog, MemState};
use crate::storage::{Checkpoint, LogStore, LogWrite, StateSnapshot, StateStore};

/// A write that was asked for and is not done.
pub struct WaitingWrite {
    pub token: u64,
    pub write: LogWrite,
    pub sync: bool,
}

pub struct Member {
    config: ReplicaConfig,
    store: Arc<MemState>,
    log: Arc<MemLog>,
    replica: Option<Replica<MemState>>,
    pub writes: VecDeque<WaitingWrite>,
    pub applies: VecDeque<ApplyJob>,
}

impl Member {
    pub fn new(config: ReplicaConfig) -> Result<Self> {
        Self::on(config, Arc::new(MemLog::new()))
    }

    /// With a log that it shares with other groups.
    pub fn on(config: ReplicaConfig, log: Arc<MemLog>) -> Result<Self> {
        let mut member = Self {
            config,
            store: Arc::new(MemState::new()),
            log,
            replica: None,
            writes: VecDeque::new(),
            applies: VecDeque::new(),
        };
        member.start()?;
        Ok(member)
    }

    pub fn start(&mut self) -> Result<()> {
        let replica = Replica::new(self.config.clone(), self.store.clone(), self.log.clone())?;
        self.replica = Some(replica);
        Ok(())
    }

    pub fn replica(&self) -> Option<&Replica<MemState>> {
        self.replica.as_ref()
    }

    /// Requests that wait for a change here, with the rows that they have read.
    #[cfg(test)]
    pub fn parked(&mut self) -> Vec<crate::partition::waits::Parked> {
        self.replica.as_mut().map_or_else(Vec::new, Replica::parked)
    }

    pub fn is_up(&self) -> bool {
        self.replica.is_some()
    }

    pub fn store(&self) -> &dyn StateSnapshot {
        &*self.store
    }

    #[cfg(test)]
    pub fn state(&self) -> &MemState {
        &self.store
    }

    /// Gives an input; writes, applies and truncations are queued or done here, other outputs are returned.
    pub fn step(&mut self, now: Now, input: Input, out: &mut Vec<Output>) -> Result<()> {
        match &mut self.replica {
            Some(replica) => replica.step(now, input, out),
            None => Ok(()),
        }
    }

    /// The oldest write reaches the log.
    pub fn do_write(&mut self) -> Result<Option<u64>> {
        let Some(WaitingWrite { token, write, sync }) = self.writes.pop_front() else {
            return Ok(None);
        };
        self.log.append(vec![write], sync)?;
        Ok(Some(token))
    }

    /// The oldest apply job reaches the state.
    pub fn do_apply(&mut self) -> Result<Option<AppliedReport>> {
        match self.applies.pop_front() {
            Some(job) => apply::run(&*self.store, job).map(Some),
            None => Ok(None),
        }
    }

    pub fn truncate(&mut self, index: u64) -> Result<()> {
        self.log.truncate(self.config.group, index)
    }

    /// As the shell makes one, but at once.
    pub fn checkpoint(&self, members: &bytes::Bytes) -> Result<Checkpoint> {
        self.store.checkpoint(members)
    }

    /// Makes the state durable; the log first, where it is not synced by itself.
    pub fn flush(&mut self) -> Result<AppliedReport> {
        if self.config.durability == Durability::Memory {
            self.log.append(Vec::new(), true)?;
        }
        self.store.flush()?;
        Ok(AppliedReport {
            index: self.store.meta().applied_index,
            durable: self.store.durable_index(),
            floor: 0,
        })
    }

    /// The process dies, and with `machine` the operating system: of what was not synced, only some is left.
    pub fn crash(&mut self, machine: bool, seed: u64) -> Result<()> {
        if !self.is_up() {
            return Err(Error::internal("a member that is down cannot crash"));
        }
        // The log writer may have got any part of its work done.
        let writes = std::mem::take(&mut self.writes);
        let reached = seed as usize % (writes.len() + 1);
        for waiting in writes.into_iter().take(reached) {
            self.log.append(vec![waiting.write], false)?;
        }
        let fsync = self.config.durability == Durability::Fsync;
        if machine || fsync {
            self.log.crash(seed >> 8);
        }
        self.stop(machine && !fsync);
        Ok(())
    }

    /// As the shell drops a replica and makes another, which is a member of nothing. Term and vote were promised.
    #[cfg(test)]
    pub fn leave(&mut self) -> Result<()> {
        let Some(replica) = self.replica.take() else {
            return Ok(());
        };
        let mut hard_state = raft::eraftpb::HardState::default();
        (hard_state.term, hard_state.vote) = (replica.status().term, replica.vote());
        let write = LogWrite {
            group: self.config.group,
            entries: Vec::new(),
            hard_state: Some(hard_state),
            reset: true,
            member: Some(crate::raft::member_id::dropped(replica.member())),
        };
        self.log.append(vec![write], true)?;
        self.store = Arc::new(MemState::new());
        self.applies.clear();
        self.config.voters.clear();
        self.start()
    }

    /// The replica is gone, and what was not flushed of its state; with `tail_lost` it must not vote before it has caught up.
    pub fn stop(&mut self, tail_lost: bool) {
        if let Some(replica) = self.replica.take() {
            self.config.log_tail_lost = tail_lost || !replica.may_vote();
        }
        self.applies.clear();
        self.store.crash();
    }
}
