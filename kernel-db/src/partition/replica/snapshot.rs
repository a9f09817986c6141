//! Checkpoints for members that the log no longer reaches: asked for, offered, watched until they have arrived.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::{Output, Replica};
use crate::error::Result;
use crate::storage::{Checkpoint, StateStore};

/// What the leader knows of checkpoints on their way.
#[derive(Default)]
pub struct Snapshots {
    /// A checkpoint was asked for and is not made yet.
    making: bool,
    /// Ticks since each member showed progress.
    waiting: BTreeMap<u64, u64>,
}

impl Snapshots {
    pub fn progress(&mut self, to: u64) {
        if let Some(ticks) = self.waiting.get_mut(&to) {
            *ticks = 0;
        }
    }
}

impl<S: StateStore> Replica<S> {
    pub(super) fn want_checkpoint(&mut self, out: &mut Vec<Output>) {
        if !self.snapshots.making {
            self.snapshots.making = true;
            let members = protobuf::Message::write_to_bytes(self.driver.conf());
            out.push(Output::Checkpoint {
                // Writing to memory does not fail.
                members: members.map(Bytes::from).unwrap_or_default(),
            });
        }
    }

    /// A failure is repeated at the next request of raft-rs's, a heartbeat later.
    pub(super) fn checkpointed(&mut self, result: Result<Checkpoint>) -> Result<()> {
        self.snapshots.making = false;
        match result {
            Ok(checkpoint) if checkpoint.index > 0 => self.driver.offer(&checkpoint),
            _ => Ok(()),
        }
    }

    pub(super) fn snapshot_done(&mut self, to: u64, arrived: bool) {
        if self.driver.is_leader() {
            self.snapshots.waiting.remove(&to);
            if !arrived {
                // It may be the checkpoint's fault.
                self.driver.withdraw();
            }
            self.driver.report_snapshot(to, arrived);
        }
    }

    /// Called with every tick: a member without progress for long is given up, and tried again.
    pub(super) fn watch_snapshots(&mut self) {
        if !self.driver.is_leader() {
            self.snapshots.waiting.clear();
            return;
        }
        let members = self.driver.members();
        let under_way: Vec<u64> = members
            .iter()
            .filter(|member| member.snapshot)
            .map(|member| member.node)
            .collect();
        self.snapshots
            .waiting
            .retain(|node, _| under_way.contains(node));
        for node in under_way {
            let ticks = self.snapshots.waiting.entry(node).or_default();
            *ticks += 1;
            if *ticks > self.config.snapshot_patience_ticks {
                self.snapshots.waiting.remove(&node);
                self.driver.report_snapshot(node, false);
            }
        }
    }
}
