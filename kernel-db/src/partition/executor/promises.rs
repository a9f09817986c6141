//! What readers over several partitions ask for: a fresh timestamp, and the promise that the past up to one is complete.

use super::Executor;
use crate::error::Error;
use crate::partition::reads::Answer;
use crate::partition::replica::{Now, Output, ReplicaConfig};
use crate::storage::StateStore;

/// A promise that was asked for and cannot be given yet.
pub(super) struct SnapshotWait {
    pub(super) id: u64,
    ts: u64,
    /// Entries up to here may hold commits at or below `ts`.
    index: u64,
}

impl<S: StateStore> Executor<S> {
    /// Asks for the newest timestamp. What is prepared now may be committed and told elsewhere already: it is settled first,
    /// so that the timestamp is above it.
    pub fn snapshot_ts(&mut self, config: &ReplicaConfig, id: u64, out: &mut Vec<Output>) {
        if self.fresh.len() >= config.queue_max {
            let error = Error::busy("many wait for a transaction that is not decided (queue_max)");
            out.push(Output::SnapshotTs {
                id,
                result: Err(error),
            });
            return;
        }
        self.fresh.push_back((id, self.doubt.newest()));
        self.release_fresh();
    }

    pub(super) fn release_fresh(&mut self) {
        while let Some((id, newest)) = self.fresh.front().copied()
            && self.doubt.settled_up_to(newest, self.committed_index)
        {
            self.fresh.pop_front();
            self.reads.push(Answer::SnapshotTs { id });
        }
    }

    /// Asks for the promise that everything at or below `ts` is applied and nothing more will be committed there.
    pub fn snapshot_at(
        &mut self,
        now: Now,
        id: u64,
        ts: u64,
        last_index: u64,
        out: &mut Vec<Output>,
    ) {
        if let Err(error) = self.clock.observe(ts, now.wall_us) {
            out.push(Output::SnapshotReady {
                id,
                result: Err(error),
            });
            return;
        }
        // The open batch has no timestamp yet: it will be above `ts`.
        if self.ceiling_proposed < ts {
            self.batch.wanted = true;
        }
        self.snapshots.push(SnapshotWait {
            id,
            ts,
            index: last_index,
        });
    }

    pub fn answer_snapshots(&mut self, applied: u64, out: &mut Vec<Output>) {
        let (ceiling, doubt) = (self.ceiling_committed, &self.doubt);
        self.snapshots.retain(|wait| {
            // I13: the promise must outlive this leader, so the ceiling over it must be committed. I12: what is prepared
            // below it may have been committed below it.
            let ready =
                wait.ts <= ceiling && wait.index <= applied && doubt.settled_at(wait.ts, applied);
            if ready {
                out.push(Output::SnapshotReady {
                    id: wait.id,
                    result: Ok(()),
                });
            }
            !ready
        });
    }
}
