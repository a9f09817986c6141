//! One simulated node: a replica of every group, and the one log that they share.

use std::collections::VecDeque;
use std::sync::Arc;

use super::member::{Member, WaitingWrite};
use crate::error::Result;
use crate::partition::{Durability, ReplicaConfig};
use crate::storage::LogStore;
use crate::storage::memory::{LogLoss, MemLog};

pub struct Machine {
    pub log: Arc<MemLog>,
    /// By group, from 1.
    members: Vec<Member>,
    /// For the log writer, of all groups.
    pub writes: VecDeque<(u32, WaitingWrite)>,
    durability: Durability,
    /// Grows with every crash: events of an earlier life are void.
    pub life: u64,
}

impl Machine {
    /// With an empty disk; one configuration for each group, in order.
    pub fn new(configs: Vec<ReplicaConfig>, durability: Durability) -> Result<Self> {
        let log = Arc::new(MemLog::new());
        let members = configs.into_iter().map(|c| Member::on(c, log.clone()));
        Ok(Self {
            members: members.collect::<Result<_>>()?,
            log,
            writes: VecDeque::new(),
            durability,
            life: 0,
        })
    }

    pub fn start(&mut self) -> Result<()> {
        self.members.iter_mut().try_for_each(Member::start)
    }

    pub fn is_up(&self) -> bool {
        self.members.iter().all(Member::is_up)
    }

    pub fn member(&self, group: u32) -> &Member {
        &self.members[group as usize - 1]
    }

    pub fn member_mut(&mut self, group: u32) -> &mut Member {
        &mut self.members[group as usize - 1]
    }

    /// The replica of `group` is a member no more: what it had goes, but for term and vote.
    pub fn leave(&mut self, group: u32) -> Result<()> {
        self.writes.retain(|(of, _)| *of != group);
        self.member_mut(group).leave()
    }

    /// Every replica is up and holds what it ever acknowledged.
    pub fn may_vote(&self) -> bool {
        let replicas = self.members.iter().map(Member::replica);
        replicas
            .into_iter()
            .all(|r| r.is_some_and(|r| r.may_vote()))
    }

    /// The log writer takes everything that waits: one append, one sync if any of it asks for one. Returns (group, token)
    /// of each write.
    pub fn do_writes(&mut self) -> Result<Vec<(u32, u64)>> {
        let waiting = std::mem::take(&mut self.writes);
        let done = waiting.iter().map(|(group, w)| (*group, w.token)).collect();
        let sync = waiting.iter().any(|(_, w)| w.sync);
        let writes = waiting.into_iter().map(|(_, w)| w.write).collect();
        self.log.append(writes, sync)?;
        Ok(done)
    }

    /// The process dies, and with `machine` the operating system: of what was not synced, only some is left. A process
    /// alone takes nothing that was written, but the twin loses some of it in `Fsync` too: nothing may rest on it.
    pub fn crash(&mut self, machine: bool, seed: u64) -> Result<LogLoss> {
        self.life += 1;
        // The log writer may have got any part of its work done.
        let writes = std::mem::take(&mut self.writes);
        let reached = seed as usize % (writes.len() + 1);
        for (_, waiting) in writes.into_iter().take(reached) {
            self.log.append(vec![waiting.write], false)?;
        }
        let fsync = self.durability == Durability::Fsync;
        let loss = if machine || fsync {
            self.log.crash(seed >> 8)
        } else {
            LogLoss::default()
        };
        for member in &mut self.members {
            member.stop(machine && !fsync);
        }
        Ok(loss)
    }
}
