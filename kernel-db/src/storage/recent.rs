//! What a state store has applied and not given to RocksDB yet: the net effect of the entries since the last spill.
//!
//! The Raft log is the write-ahead log of the state, so nothing here need survive a crash. A row that changes many times
//! between two spills reaches RocksDB once, one that comes and goes (a message, a finished task) never; a ring of replies
//! reaches it as it is in the end. What is here shadows what RocksDB holds.
//!
//! What holds: `absent` rows are not in RocksDB; the history is in order of its ends: nearly as it comes, since entries
//! are, and only changes of settled transactions are older than the entries that carry them.

use std::collections::HashMap;
use std::collections::btree_map::{BTreeMap, Entry};

use bytes::Bytes;

use super::state::{SESSION_RING, SessionRecord, Versioned, has_history};
use crate::error::Result;

/// What a current row costs beside its bytes: key, value, timestamps, its share of tree nodes.
const ROW_OVERHEAD: usize = 160;
/// The same for a past version and for a reply.
const PAST_OVERHEAD: usize = 96;

/// A key with its first bytes inline: most comparisons on the way down a tree end there, without following a pointer.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct SortKey {
    /// Of equal heads the keys decide: a key shorter than the head is padded with zeroes, which other keys may have.
    head: [u64; 3],
    key: Bytes,
}

impl SortKey {
    fn new(key: Bytes) -> Self {
        let mut bytes = [0; 24];
        let length = key.len().min(24);
        bytes[..length].copy_from_slice(&key[..length]);
        let mut head = [0; 3];
        for (word, bytes) in head.iter_mut().zip(bytes.chunks_exact(8)) {
            let mut eight = [0; 8];
            eight.copy_from_slice(bytes);
            *word = u64::from_be_bytes(eight);
        }
        Self { head, key }
    }
}

/// A current row, or that there is none.
#[derive(Debug)]
pub(super) struct Slot {
    pub(super) row: Option<Versioned>,
    /// RocksDB holds no such key: nothing need be deleted there.
    pub(super) absent: bool,
}

/// A version that stopped being current at `end`.
#[derive(Debug)]
pub(super) struct Past {
    pub(super) end: u64,
    pub(super) key: Bytes,
    pub(super) row: Versioned,
}

#[derive(Debug, Default)]
pub(super) struct Recent {
    current: BTreeMap<SortKey, Slot>,
    history: Vec<Past>,
    /// By session and place in its ring.
    sessions: HashMap<(u128, u64), (u64, Bytes)>,
    bytes: usize,
}

impl Recent {
    /// Memory held, roughly and rather too much: bytes that were replaced count too, as they may share their memory with
    /// bytes that were not.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// The row of `key`: none if RocksDB knows, some none if there is no such row.
    pub(super) fn get(&self, key: &[u8]) -> Option<&Option<Versioned>> {
        if self.current.is_empty() {
            return None;
        }
        let slot = self.current.get(&SortKey::new(Bytes::copy_from_slice(key)));
        slot.map(|slot| &slot.row)
    }

    /// Writes a row (`None` deletes) as of `ts`; what it replaces goes to the history. `stored` asks RocksDB for the row.
    pub(super) fn write(
        &mut self,
        key: &Bytes,
        value: Option<&Bytes>,
        ts: u64,
        stored: impl FnOnce() -> Result<Option<Versioned>>,
    ) -> Result<()> {
        let row = value.map(|value| Versioned {
            ts,
            value: value.clone(),
        });
        self.bytes += key.len() + value.map_or(0, Bytes::len);
        let old = match self.current.entry(SortKey::new(key.clone())) {
            Entry::Occupied(slot) if row.is_none() && slot.get().absent => slot.remove().row,
            Entry::Occupied(mut slot) => std::mem::replace(&mut slot.get_mut().row, row),
            Entry::Vacant(slot) => {
                let old = stored()?;
                let absent = old.is_none();
                if row.is_some() || !absent {
                    slot.insert(Slot { row, absent });
                    self.bytes += ROW_OVERHEAD;
                }
                old
            }
        };
        if let Some(old) = old
            && old.ts < ts
            && has_history(key)
        {
            self.bytes += PAST_OVERHEAD;
            let past = Past {
                end: ts,
                key: key.clone(),
                row: old,
            };
            match self.history.last() {
                Some(last) if last.end > ts => {
                    let place = self.history.partition_point(|past| past.end <= ts);
                    self.history.insert(place, past);
                }
                _ => self.history.push(past),
            }
        }
        Ok(())
    }

    pub(super) fn keep_reply(&mut self, record: &SessionRecord) {
        self.bytes += record.reply.len();
        let place = (record.session, record.number % SESSION_RING);
        let kept = (record.number, record.reply.clone());
        if self.sessions.insert(place, kept).is_none() {
            self.bytes += PAST_OVERHEAD;
        }
    }

    /// Rows of `from..to`, also those that are gone.
    pub(super) fn range<'a>(
        &'a self,
        from: &[u8],
        to: &[u8],
    ) -> impl DoubleEndedIterator<Item = (&'a Bytes, &'a Slot)> + use<'a> {
        let key = |bytes| SortKey::new(Bytes::copy_from_slice(bytes));
        self.current
            .range(key(from)..key(to))
            .map(|(key, slot)| (&key.key, slot))
    }

    /// All current rows in order of keys.
    pub(super) fn rows(&self) -> impl Iterator<Item = (&Bytes, &Slot)> {
        self.current.iter().map(|(key, slot)| (&key.key, slot))
    }

    /// Versions that ended after `ts`, in order of their ends.
    pub(super) fn ended_after(&self, ts: u64) -> &[Past] {
        let first = self.history.partition_point(|past| past.end <= ts);
        &self.history[first..]
    }

    /// The first `limit` of them behind `after`, in order of ends and keys.
    pub(super) fn ended_behind(
        &self,
        ts: u64,
        after: Option<(u64, &[u8])>,
        limit: usize,
    ) -> Vec<&Past> {
        let first = match after {
            Some((end, _)) => self.history.partition_point(|past| past.end < end),
            None => self.history.partition_point(|past| past.end <= ts),
        };
        let mut found: Vec<&Past> = Vec::new();
        for past in &self.history[first..] {
            // Those of one end are in no order: all of them count.
            if found.len() >= limit && found.last().is_some_and(|last| last.end < past.end) {
                break;
            }
            if after.is_none_or(|after| (past.end, &past.key[..]) > after) {
                found.push(past);
            }
        }
        found.sort_by(|a, b| (a.end, &a.key).cmp(&(b.end, &b.key)));
        found.truncate(limit);
        found
    }

    /// Forgets versions that ended at `ts` or before.
    pub(super) fn drop_history(&mut self, ts: u64) {
        let gone = self.history.partition_point(|past| past.end <= ts);
        self.history.drain(..gone);
    }

    /// (session, place), (number, reply), in no particular order.
    pub(super) fn replies(&self) -> impl Iterator<Item = (&(u128, u64), &(u64, Bytes))> {
        self.sessions.iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(recent: &mut Recent, key: &'static [u8], value: Option<&'static [u8]>, ts: u64) {
        let value = value.map(Bytes::from_static);
        let key = Bytes::from_static(key);
        let stored = || Ok(None);
        recent.write(&key, value.as_ref(), ts, stored).unwrap();
    }

    #[test]
    fn a_row_that_comes_and_goes_leaves_its_history_only() {
        let mut recent = Recent::default();
        write(&mut recent, b"k", Some(b"1"), 1);
        write(&mut recent, b"k", Some(b"2"), 2);
        write(&mut recent, b"k", None, 3);
        assert!(recent.get(b"k").is_none());
        assert_eq!(recent.rows().count(), 0);
        let ends: Vec<u64> = recent.ended_after(0).iter().map(|past| past.end).collect();
        assert_eq!(ends, [2, 3]);
        assert_eq!(recent.ended_after(2)[0].row.value, Bytes::from_static(b"2"));
        recent.drop_history(2);
        assert_eq!(recent.ended_after(0).len(), 1);
    }

    #[test]
    fn rows_of_the_unversioned_table_leave_no_history() {
        let mut recent = Recent::default();
        write(&mut recent, b"\0\0\0\x02k", Some(b"1"), 1);
        write(&mut recent, b"\0\0\0\x02k", None, 2);
        assert!(recent.ended_after(0).is_empty());
        write(&mut recent, b"\0\0\0\x03k", Some(b"1"), 5);
        write(&mut recent, b"\0\0\0\x03k", Some(b"2"), 9);
        // A settled row is older than the entry that carries it.
        write(&mut recent, b"\0\0\0\x03k", Some(b"3"), 12);
        write(&mut recent, b"\0\0\0\x03m", Some(b"1"), 3);
        write(&mut recent, b"\0\0\0\x03m", Some(b"2"), 7);
        let ends: Vec<u64> = recent.ended_after(7).iter().map(|past| past.end).collect();
        assert_eq!(ends, [9, 12]);
    }

    #[test]
    fn the_deletion_of_a_row_that_rocksdb_holds_is_kept() {
        let mut recent = Recent::default();
        let stored = || {
            let value = Bytes::from_static(b"old");
            Ok(Some(Versioned { ts: 1, value }))
        };
        let key = Bytes::from_static(b"k");
        recent.write(&key, None, 5, stored).unwrap();
        assert_eq!(recent.get(b"k"), Some(&None));
        write(&mut recent, b"k", Some(b"new"), 6);
        write(&mut recent, b"k", None, 7);
        assert_eq!(recent.get(b"k"), Some(&None));
    }

    #[test]
    fn keys_sort_by_their_bytes() {
        let mut recent = Recent::default();
        let long: &[u8] = b"a long key that goes on behind its head";
        let keys: [&'static [u8]; 5] = [b"", b"a", b"a\0", b"a\0\0b", long];
        for (ts, key) in (1..).zip(keys.iter().rev()) {
            write(&mut recent, key, Some(b"v"), ts);
        }
        let found: Vec<&[u8]> = recent.rows().map(|(key, _)| &key[..]).collect();
        assert_eq!(found, keys);
        assert_eq!(recent.range(b"a\0", b"b").count(), 3);
    }
}
