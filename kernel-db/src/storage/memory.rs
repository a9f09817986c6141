//! In-memory twins of the state store and the log store, with a crash model, for the simulator and as oracles in tests.
//!
//! What holds: they answer exactly as the real ones; `crash` returns to what a real one may hold after a crash: the state of
//! the last flush, and a log that kept some of what was written since the last sync.

use std::collections::BTreeMap;
use std::ops::Bound::{Excluded, Included};
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

use super::state::{
    AppliedEntry, Checkpoint, Ended, Op, SESSION_RING, SessionRecord, StateMeta, StateSnapshot,
    StateStore, Versioned, has_history, snapshot_too_old,
};
use crate::error::Result;

pub use super::memory_log::{LogLoss, MemLog};

/// Twin of `RocksState`.
#[derive(Debug, Default)]
pub struct MemState {
    now: Mutex<Image>,
    flushed: Mutex<Image>,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Image {
    pub(super) current: BTreeMap<Bytes, Versioned>,
    /// (key, end of validity) -> the version that ended then.
    pub(super) history: BTreeMap<(Bytes, u64), Versioned>,
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

    /// What this store holds otherwise than `other`, in words; history counts, as old snapshots read it.
    pub fn difference(&self, other: &Self) -> Option<String> {
        let (this, other) = (lock(&self.now), lock(&other.now).clone());
        // A state that never saw a change of members knows none; one that came as a checkpoint was told.
        let told = !this.meta.members.is_empty() && !other.meta.members.is_empty();
        let meta = |image: &Image| StateMeta {
            members: if told {
                image.meta.members.clone()
            } else {
                Bytes::new()
            },
            ..image.meta.clone()
        };
        if meta(&this) != meta(&other) {
            return Some(format!("{:?} and {:?}", this.meta, other.meta));
        }
        if this.evicted != other.evicted {
            return Some("other sessions are evicted".into());
        }
        let rows = this.current.iter().zip(&other.current);
        let mut rows = rows.filter(|(a, b)| a != b);
        let past = this.history.iter().zip(&other.history);
        let mut past = past.filter(|(a, b)| a != b);
        let lengths = |image: &Image| (image.current.len(), image.history.len());
        let more = (lengths(&this) != lengths(&other)).then(|| "one holds more".to_owned());
        let row = rows.next().map(|(a, b)| format!("{a:?} and {b:?}"));
        let row = row.or_else(|| past.next().map(|(a, b)| format!("{a:?} and {b:?}")));
        row.or(more)
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
            self.history.insert((key.clone(), ts), old);
        }
    }

    fn version_at(&self, key: &Bytes, ts: u64) -> Option<Versioned> {
        let current = self.current.get(key).filter(|row| row.ts <= ts);
        let past = || {
            let from = (key.clone(), ts.saturating_add(1));
            let ended_later = self.history.range(from..=(key.clone(), u64::MAX));
            let mut seen = ended_later.filter(|(_, row)| row.ts <= ts);
            seen.next().map(|(_, row)| row)
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
        if from >= to {
            return Ok(());
        }
        let current = image
            .current
            .range::<[u8], _>((Included(from), Excluded(to)));
        let first = (Bytes::copy_from_slice(from), 0);
        let past = image.history.range(first..(Bytes::copy_from_slice(to), 0));
        let keys = current.map(|(key, _)| key);
        let mut keys: Vec<&Bytes> = keys.chain(past.map(|((key, _), _)| key)).collect();
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

    fn ended_after(
        &self,
        ts: u64,
        after: Option<(u64, &[u8])>,
        limit: usize,
        out: &mut Vec<Ended>,
    ) -> Result<()> {
        let image = lock(&self.now);
        snapshot_too_old(ts, image.watermark)?;
        let behind = |key: &Bytes, end: u64| after.is_none_or(|after| (end, &key[..]) > after);
        let ended = image.history.iter();
        let ended = ended.filter(|((key, end), _)| *end > ts && behind(key, *end));
        let mut found: Vec<Ended> = ended
            .map(|((key, end), row)| Ended {
                end: *end,
                key: key.clone(),
                row: row.clone(),
            })
            .collect();
        found.sort_by(|a, b| (a.end, &a.key).cmp(&(b.end, &b.key)));
        out.extend(found.into_iter().take(limit));
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
            image.history.retain(|(_, end), _| *end > ts);
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
            .map(|((key, _), row)| key.len() + row.value.len())
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
