//! In-memory twins of the state store and the log store, with a crash model, for the simulator and as oracles in tests.
//!
//! What holds: they answer exactly as the real ones; `crash` returns to what a real one may hold after a crash: the state of
//! the last flush, and a log that kept some of what was written since the last sync.

use std::collections::BTreeMap;
use std::ops::Bound::{Excluded, Included};
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

use super::state::{
    AppliedEntry, Checkpoint, Op, SESSION_RING, SessionRecord, StateMeta, StateSnapshot,
    StateStore, Versioned, has_history, snapshot_too_old,
};
use crate::error::Result;

pub use super::memory_log::MemLog;

/// Twin of `RocksState`.
#[derive(Debug, Default)]
pub struct MemState {
    now: Mutex<Image>,
    flushed: Mutex<Image>,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Image {
    pub(super) current: BTreeMap<Bytes, Versioned>,
    /// (end of validity, key) -> the version that ended then.
    pub(super) history: BTreeMap<(u64, Bytes), Versioned>,
    pub(super) sessions: BTreeMap<(u128, u64), (u64, Bytes)>,
    pub(super) evicted: BTreeMap<u128, ()>,
    pub(super) meta: StateMeta,
    pub(super) watermark: u64,
    /// Index and term of the checkpoint that it began as.
    pub(super) origin: (u64, u64),
}

impl MemState {
    pub fn new() -> Self {
        Self::default()
    }

    /// Loses everything since the last flush.
    pub fn crash(&self) {
        *lock(&self.now) = lock(&self.flushed).clone();
    }
}

impl Image {
    fn apply(&mut self, entry: &AppliedEntry) {
        for (ts, op) in entry.changes() {
            match op {
                Op::Put { key, value, .. } => {
                    let row = Versioned {
                        ts,
                        value: value.clone(),
                    };
                    let old = self.current.insert(key.clone(), row);
                    self.retire(key, old, ts);
                }
                Op::Delete { key } => {
                    let old = self.current.remove(key);
                    self.retire(key, old, ts);
                }
                Op::DeleteRange { from, to } => {
                    self.current.retain(|key, _| key < from || key >= to)
                }
            }
        }
        for record in &entry.sessions {
            let place = (record.session, record.number % SESSION_RING);
            self.sessions
                .insert(place, (record.number, record.reply.clone()));
        }
        for session in &entry.evicted {
            self.sessions.retain(|(of, _), _| of != session);
            self.evicted.insert(*session, ());
        }
        self.meta.advance(entry);
    }

    fn retire(&mut self, key: &Bytes, old: Option<Versioned>, ts: u64) {
        if let Some(old) = old
            && old.ts < ts
            && has_history(key)
        {
            self.history.insert((ts, key.clone()), old);
        }
    }

    fn version_at(&self, key: &Bytes, ts: u64) -> Option<Versioned> {
        let current = self.current.get(key).filter(|row| row.ts <= ts);
        let past = || {
            let ended_later = self.history.range((ts.saturating_add(1), Bytes::new())..);
            let mut of_key = ended_later.filter(|((_, of), row)| of == key && row.ts <= ts);
            of_key.next().map(|(_, row)| row)
        };
        current.or_else(past).cloned()
    }
}

impl StateSnapshot for MemState {
    fn get(&self, key: &[u8]) -> Result<Option<Versioned>> {
        Ok(lock(&self.now).current.get(key).cloned())
    }

    fn scan(
        &self,
        from: &[u8],
        to: &[u8],
        reverse: bool,
        limit: usize,
        out: &mut Vec<(Bytes, Versioned)>,
    ) -> Result<()> {
        if from >= to {
            return Ok(());
        }
        let image = lock(&self.now);
        let rows = image
            .current
            .range::<[u8], _>((Included(from), Excluded(to)));
        let owned = |(key, row): (&Bytes, &Versioned)| (key.clone(), row.clone());
        if reverse {
            out.extend(rows.rev().take(limit).map(owned));
        } else {
            out.extend(rows.take(limit).map(owned));
        }
        Ok(())
    }

    fn get_at(&self, key: &[u8], ts: u64) -> Result<Option<Versioned>> {
        let image = lock(&self.now);
        snapshot_too_old(ts, image.watermark)?;
        Ok(image.version_at(&Bytes::copy_from_slice(key), ts))
    }

    fn scan_at(
        &self,
        from: &[u8],
        to: &[u8],
        reverse: bool,
        limit: usize,
        ts: u64,
        out: &mut Vec<(Bytes, Versioned)>,
    ) -> Result<()> {
        let image = lock(&self.now);
        snapshot_too_old(ts, image.watermark)?;
        let in_range = |key: &&Bytes| key[..] >= *from && key[..] < *to;
        let keys = image
            .current
            .keys()
            .chain(image.history.keys().map(|(_, key)| key));
        let mut keys: Vec<&Bytes> = keys.filter(in_range).collect();
        keys.sort();
        keys.dedup();
        if reverse {
            keys.reverse();
        }
        let rows = keys
            .into_iter()
            .filter_map(|key| Some((key.clone(), image.version_at(key, ts)?)));
        out.extend(rows.take(limit));
        Ok(())
    }
}

impl StateStore for MemState {
    fn apply(&self, entries: &[AppliedEntry]) -> Result<()> {
        let mut image = lock(&self.now);
        for entry in entries {
            if entry.index > image.meta.applied_index {
                image.apply(entry);
            }
        }
        Ok(())
    }

    fn meta(&self) -> StateMeta {
        lock(&self.now).meta.clone()
    }

    fn durable_index(&self) -> u64 {
        lock(&self.flushed).meta.applied_index
    }

    fn flush(&self) -> Result<()> {
        *lock(&self.flushed) = lock(&self.now).clone();
        Ok(())
    }

    fn sessions(&self) -> Result<Vec<SessionRecord>> {
        let image = lock(&self.now);
        let record =
            |(&(session, _), (number, reply)): (&(u128, u64), &(u64, Bytes))| SessionRecord {
                session,
                number: *number,
                reply: reply.clone(),
            };
        Ok(image.sessions.iter().map(record).collect())
    }

    fn evicted_sessions(&self) -> Result<Vec<u128>> {
        Ok(lock(&self.now).evicted.keys().copied().collect())
    }

    fn drop_history(&self, ts: u64) -> Result<()> {
        let mut image = lock(&self.now);
        if ts > image.watermark {
            image.watermark = ts;
            image.history.retain(|(end, _), _| *end > ts);
        }
        Ok(())
    }

    fn size_bytes(&self) -> u64 {
        let image = lock(&self.now);
        let current: usize = image
            .current
            .iter()
            .map(|(key, row)| key.len() + row.value.len())
            .sum();
        let history: usize = image
            .history
            .iter()
            .map(|((_, key), row)| key.len() + row.value.len())
            .sum();
        (current + history) as u64
    }

    fn checkpoint(&self, members: &Bytes) -> Result<Checkpoint> {
        let image = lock(&self.now).clone();
        Ok(Checkpoint {
            index: image.meta.applied_index,
            term: image.meta.applied_term,
            members: match image.meta.members.is_empty() {
                true => members.clone(),
                false => image.meta.members.clone(),
            },
            data: image.encode(),
        })
    }

    fn install(&self, checkpoint: &Checkpoint) -> Result<()> {
        let mut image = Image::decode(checkpoint.data.clone())?;
        image.meta.members = checkpoint.members.clone();
        image.origin = (checkpoint.index, checkpoint.term);
        *lock(&self.flushed) = image.clone();
        *lock(&self.now) = image;
        Ok(())
    }

    fn origin(&self) -> (u64, u64) {
        lock(&self.now).origin
    }
}

/// A poisoned twin is still whole: every change is made by infallible steps.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
