//! Twin of the log store: what was appended since the last sync may be lost or torn by `crash`.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};

use protobuf::Message;
use raft::eraftpb::{Entry, HardState};

use super::log::{LogStore, LogWrite, check_contiguous};
use crate::error::{Error, Result};

/// Twin of `EngineLog`.
#[derive(Debug, Default)]
pub struct MemLog {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    now: BTreeMap<u32, Group>,
    synced: BTreeMap<u32, Group>,
    /// What `now` has more than `synced`, in order.
    unsynced: Vec<Change>,
}

#[derive(Clone, Debug)]
enum Change {
    Write(LogWrite),
    Truncate { group: u32, index: u64 },
}

#[derive(Clone, Debug, Default)]
struct Group {
    entries: VecDeque<Entry>,
    hard_state: HardState,
}

impl MemLog {
    pub fn new() -> Self {
        Self::default()
    }

    /// Keeps what was synced and, drawn by `seed`, a prefix of what was written since: a file torn at some record.
    pub fn crash(&self, seed: u64) {
        let mut inner = self.lock();
        let changes = std::mem::take(&mut inner.unsynced);
        // splitmix64: spreads small seeds evenly.
        let mut mixed = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^= mixed >> 31;
        let kept = mixed % (changes.len() as u64 + 1);
        for change in changes.into_iter().take(kept as usize) {
            apply(&mut inner.synced, change);
        }
        inner.now = inner.synced.clone();
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // A poisoned twin is still whole: every change is made by infallible steps.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Group {
    fn bounds(&self) -> (u64, u64) {
        match (self.entries.front(), self.entries.back()) {
            (Some(first), Some(last)) => (first.index, last.index),
            _ => (1, 0),
        }
    }
}

fn apply(groups: &mut BTreeMap<u32, Group>, change: Change) {
    match change {
        Change::Write(write) => {
            let group = groups.entry(write.group).or_default();
            if write.reset {
                *group = Group::default();
            }
            if let Some(first) = write.entries.first() {
                let kept = group
                    .entries
                    .partition_point(|entry| entry.index < first.index);
                group.entries.truncate(kept);
                group.entries.extend(write.entries);
            }
            if let Some(hard_state) = write.hard_state {
                group.hard_state = hard_state;
            }
        }
        Change::Truncate { group, index } => {
            let group = groups.entry(group).or_default();
            let index = index.min(group.bounds().1);
            while group
                .entries
                .front()
                .is_some_and(|entry| entry.index < index)
            {
                group.entries.pop_front();
            }
        }
    }
}

impl LogStore for MemLog {
    fn append(&self, writes: Vec<LogWrite>, sync: bool) -> Result<()> {
        let mut inner = self.lock();
        for write in &writes {
            let bounds = inner.now.get(&write.group).map_or((1, 0), Group::bounds);
            check_contiguous(write, bounds)?;
        }
        for write in writes {
            apply(&mut inner.now, Change::Write(write.clone()));
            inner.unsynced.push(Change::Write(write));
        }
        if sync {
            let changes = std::mem::take(&mut inner.unsynced);
            changes
                .into_iter()
                .for_each(|change| apply(&mut inner.synced, change));
        }
        Ok(())
    }

    fn load(&self, group: u32) -> Result<(u64, u64, HardState)> {
        let inner = self.lock();
        let empty = Group::default();
        let group = inner.now.get(&group).unwrap_or(&empty);
        let (first, last) = group.bounds();
        Ok((first, last, group.hard_state.clone()))
    }

    fn entries(&self, group: u32, low: u64, high: u64, max_bytes: u64) -> Result<Vec<Entry>> {
        if low >= high {
            return Ok(Vec::new());
        }
        let inner = self.lock();
        let entries = inner.now.get(&group).map(|group| &group.entries);
        let (first, last) = inner.now.get(&group).map_or((1, 0), Group::bounds);
        let Some(entries) = entries.filter(|_| low >= first && high <= last + 1) else {
            return Err(missing_entries(group, low, high, first, last));
        };
        let mut bytes = 0;
        let wanted = entries.range((low - first) as usize..(high - first) as usize);
        let within = |entry: &&Entry| {
            let fits = bytes == 0 || bytes + u64::from(entry.compute_size()) <= max_bytes;
            bytes += u64::from(entry.compute_size());
            fits
        };
        Ok(wanted.take_while(within).cloned().collect())
    }

    fn truncate(&self, group: u32, index: u64) -> Result<()> {
        let mut inner = self.lock();
        apply(&mut inner.now, Change::Truncate { group, index });
        inner.unsynced.push(Change::Truncate { group, index });
        Ok(())
    }

    fn size_bytes(&self) -> u64 {
        let inner = self.lock();
        let entries = inner.now.values().flat_map(|group| &group.entries);
        entries.map(|entry| u64::from(entry.compute_size())).sum()
    }
}

/// A read of the log outside what it holds: a broken promise of the caller's.
pub(super) fn missing_entries(group: u32, low: u64, high: u64, first: u64, last: u64) -> Error {
    Error::internal(format!(
        "group {group}: log entries {low}..{high} were asked for, it holds {first}..={last}"
    ))
}
