//! Twin of the log store: what was appended since the last sync may be lost or torn by `crash`.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};

use protobuf::Message;
use raft::eraftpb::{Entry, HardState};

use super::log::{LogStore, LogWrite, check_contiguous};
use crate::error::{Error, Result};

/// Bytes of a record beside its entries: header, checksum and hard state.
const RECORD_BYTES: u64 = 32;

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

impl Change {
    /// Size of its record in the file.
    fn bytes(&self) -> u64 {
        match self {
            Change::Write(write) => {
                let entries = write.entries.iter().map(|e| u64::from(e.compute_size()));
                RECORD_BYTES + entries.sum::<u64>()
            }
            Change::Truncate { .. } => RECORD_BYTES,
        }
    }
}

/// What a crash took from the log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LogLoss {
    /// Records written and lost.
    pub records: usize,
    /// The first of them was there in part.
    pub torn: bool,
}

#[derive(Clone, Debug, Default)]
struct Group {
    entries: VecDeque<Entry>,
    hard_state: HardState,
    member: Option<u64>,
}

impl MemLog {
    pub fn new() -> Self {
        Self::default()
    }

    /// Keeps what was synced and, drawn by `seed`, a part of the bytes written since: whole records before the tear stay,
    /// the one that is torn fails its checksum and goes with all after it.
    pub fn crash(&self, seed: u64) -> LogLoss {
        let mut inner = self.lock();
        let changes = std::mem::take(&mut inner.unsynced);
        // splitmix64: spreads small seeds evenly.
        let mut mixed = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^= mixed >> 31;
        let bytes: u64 = changes.iter().map(Change::bytes).sum();
        // Now and then everything had reached the disk.
        let mut left = mixed % (bytes + bytes / 4 + 1);
        let mut loss = LogLoss::default();
        for change in changes {
            let size = change.bytes();
            if loss.records == 0 && size <= left {
                left -= size;
                apply(&mut inner.synced, change);
            } else {
                loss.torn |= loss.records == 0 && left > 0;
                loss.records += 1;
            }
        }
        inner.now = inner.synced.clone();
        loss
    }

    /// The hard state that survives any crash.
    pub fn synced_hard_state(&self, group: u32) -> HardState {
        let inner = self.lock();
        let group = inner.synced.get(&group);
        group.map_or_else(HardState::default, |group| group.hard_state.clone())
    }

    /// The term of an entry, if the log holds it; with `synced`, if it would survive any crash.
    pub fn term_of(&self, group: u32, index: u64, synced: bool) -> Option<u64> {
        let inner = self.lock();
        let groups = if synced { &inner.synced } else { &inner.now };
        let entries = &groups.get(&group)?.entries;
        let place = index.checked_sub(entries.front()?.index)?;
        entries.get(place as usize).map(|entry| entry.term)
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
                *group = Group {
                    member: group.member,
                    ..Group::default()
                };
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
            group.member = write.member.or(group.member);
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
        let mut bounds = BTreeMap::new();
        for write in &writes {
            let held = || inner.now.get(&write.group).map_or((1, 0), Group::bounds);
            let held = bounds.entry(write.group).or_insert_with(held);
            check_contiguous(write, *held)?;
            if write.reset {
                *held = (1, 0);
            }
            if let (Some(first), Some(last)) = (write.entries.first(), write.entries.last()) {
                *held = (if held.1 == 0 { first.index } else { held.0 }, last.index);
            }
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

    fn member(&self, group: u32) -> Result<Option<u64>> {
        Ok(self.lock().now.get(&group).and_then(|group| group.member))
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
