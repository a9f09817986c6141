//! One table's rows as the tip holds them: a slot per key, and whether the map is the whole table.
//!
//! What holds: in a `Whole` table a key without a slot is absent, so deleting removes the slot at once and a queue that is
//! emptied leaves nothing to skip. In a `Partial` table a key without a slot is whatever the state store says, so a delete
//! leaves a tombstone until its entry is applied there.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::collections::btree_map::{self, Entry};
use std::ops::Bound;

use bytes::Bytes;

/// `Slot::batch` of a row that came from the state store.
pub(super) const STORED: u64 = 0;
/// What a slot costs beside its key and value: two `Bytes`, marks, its share of tree nodes and allocator slack.
pub(super) const SLOT_OVERHEAD: usize = 160;

/// A key with its first bytes behind the table number inline: most comparisons on the way down a tree end there, without
/// following a pointer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct RowKey {
    head: u128,
    pub(super) key: Bytes,
}

impl RowKey {
    pub(super) fn new(key: Bytes) -> Self {
        let mut head = [0; 16];
        let behind = key.get(4..).unwrap_or(&[]);
        let length = behind.len().min(16);
        head[..length].copy_from_slice(&behind[..length]);
        Self {
            head: u128::from_be_bytes(head),
            key,
        }
    }

    pub(super) fn copy(key: &[u8]) -> Self {
        Self::new(Bytes::copy_from_slice(key))
    }
}

impl Ord for RowKey {
    fn cmp(&self, other: &Self) -> Ordering {
        self.head
            .cmp(&other.head)
            .then_with(|| self.key.cmp(&other.key))
    }
}

impl PartialOrd for RowKey {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// The rows of one table.
pub(super) type Rows = BTreeMap<RowKey, Slot>;

/// The value of a key at the tip, and which batch wrote it.
#[derive(Clone, Debug)]
pub(super) struct Slot {
    /// `None` is a tombstone; only in `Partial` tables.
    pub(super) value: Option<Bytes>,
    /// Number of the batch that wrote it, or `STORED`. The row is clean once that batch is applied.
    pub(super) batch: u64,
    /// The tip's mark at which an undo record of this key was last written.
    pub(super) stamp: u64,
    /// While its batch is open: the key's record there.
    pub(super) record: usize,
}

impl Slot {
    pub(super) fn stored(value: Bytes) -> Self {
        Self {
            value: Some(value),
            batch: STORED,
            stamp: 0,
            record: 0,
        }
    }
}

/// The open batch as a write to a table needs it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Writer {
    pub(super) mark: u64,
    pub(super) batch: u64,
    /// Where a new record would go.
    pub(super) record: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Residency {
    /// Not used yet; the next use tries to load it whole.
    Untried,
    /// The map is the table.
    Whole,
    /// The map lies above the state store.
    Partial,
}

/// What a key held before the open batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Base {
    Known(Option<Bytes>),
    /// Blind write to a `Partial` table.
    Unknown,
}

/// A dropped range that the state store may still hold.
#[derive(Clone, Debug)]
pub(super) struct Dropped {
    pub(super) from: Bytes,
    pub(super) to: Bytes,
    /// Number of the batch that dropped it.
    pub(super) batch: u64,
}

/// What a write did, for the undo log and the batch.
#[derive(Debug)]
pub(super) enum Written {
    /// Nothing changed: a delete of an absent key.
    Nothing,
    /// An undo record since the current mark covers it: the length of the value replaced, and the key's record.
    InPlace(usize, usize),
    /// The slot before; its key's record is `record`, a new one if there is a `base` for it.
    Logged {
        before: Option<Slot>,
        record: usize,
        base: Option<Base>,
    },
}

#[derive(Debug)]
pub(super) struct Table {
    pub(super) rows: Rows,
    pub(super) residency: Residency,
    pub(super) dropped: Vec<Dropped>,
    /// Memory held by `rows`, roughly.
    pub(super) bytes: usize,
    /// Rows read from the state store since the last attempt to load the table.
    pub(super) store_reads: usize,
}

impl Table {
    pub(super) fn new() -> Self {
        Self {
            rows: BTreeMap::new(),
            residency: Residency::Untried,
            dropped: Vec::new(),
            bytes: 0,
            store_reads: 0,
        }
    }

    /// True if the key is under a dropped range that the state store may not have applied yet.
    pub(super) fn is_dropped(&self, key: &[u8]) -> bool {
        self.dropped
            .iter()
            .any(|range| range.from <= key && range.to > key)
    }

    /// Writes `value` (`None` deletes) for the open batch. `absent`: the key is known to be.
    pub(super) fn write(
        &mut self,
        key: &Bytes,
        value: Option<Bytes>,
        writer: Writer,
        absent: bool,
    ) -> Written {
        let whole = self.residency == Residency::Whole;
        let mut new = Slot {
            value,
            batch: writer.batch,
            stamp: writer.mark,
            record: writer.record,
        };
        match self.rows.entry(RowKey::new(key.clone())) {
            Entry::Occupied(mut entry) => {
                let slot = entry.get_mut();
                if slot.value.is_none() && new.value.is_none() {
                    return Written::Nothing;
                }
                self.bytes -= slot_bytes(key, slot);
                let again = slot.batch == writer.batch;
                if again {
                    new.record = slot.record;
                }
                let (logged, record) = (slot.stamp >= writer.mark, new.record);
                let old = if new.value.is_none() && whole {
                    entry.remove()
                } else {
                    self.bytes += slot_bytes(key, &new);
                    std::mem::replace(slot, new)
                };
                if logged {
                    return Written::InPlace(old.value.map_or(0, |value| value.len()), record);
                }
                let base = (!again).then(|| Base::Known(old.value.clone()));
                Written::Logged {
                    before: Some(old),
                    record,
                    base,
                }
            }
            Entry::Vacant(entry) => {
                let dropped = |range: &Dropped| range.from <= *key && range.to > *key;
                let absent = absent || whole || self.dropped.iter().any(dropped);
                if absent && new.value.is_none() {
                    return Written::Nothing;
                }
                self.bytes += slot_bytes(key, &new);
                entry.insert(new);
                Written::Logged {
                    before: None,
                    record: writer.record,
                    base: Some(if absent {
                        Base::Known(None)
                    } else {
                        Base::Unknown
                    }),
                }
            }
        }
    }

    /// Puts a slot in place or removes it: undo, caching, eviction.
    pub(super) fn set(&mut self, key: &Bytes, slot: Option<Slot>) {
        let old = match slot {
            Some(slot) => {
                self.bytes += slot_bytes(key, &slot);
                self.rows.insert(RowKey::new(key.clone()), slot)
            }
            None => self.rows.remove(&RowKey::new(key.clone())),
        };
        if let Some(old) = old {
            self.bytes -= slot_bytes(key, &old);
        }
    }

    /// Takes the rows of `from..to` out.
    pub(super) fn cut(&mut self, from: &[u8], to: &[u8]) -> Rows {
        let mut cut = self.rows.split_off(&RowKey::copy(from));
        let mut after = cut.split_off(&end_key(to));
        if !after.is_empty() {
            self.rows.append(&mut after);
        }
        self.bytes -= map_bytes(&cut);
        cut
    }

    /// Puts back what `cut` took.
    pub(super) fn paste(&mut self, mut cut: Rows) {
        self.bytes += map_bytes(&cut);
        self.rows.append(&mut cut);
    }

    /// Batch `batch`, which deleted `key`, is applied to the state store: its tombstone goes.
    pub(super) fn bury(&mut self, key: &Bytes, batch: u64) {
        if self.residency == Residency::Whole {
            return;
        }
        let slot = self.rows.get(&RowKey::new(key.clone()));
        if slot.is_some_and(|slot| slot.batch == batch && slot.value.is_none()) {
            self.set(key, None);
        }
    }

    /// A tombstone for a key of a formerly `Whole` table whose deletion the state store may not have applied.
    pub(super) fn entomb(&mut self, key: &Bytes, batch: u64, record: usize) {
        let slot = self.rows.get(&RowKey::new(key.clone()));
        if slot.is_none_or(|slot| slot.value.is_none()) {
            let slot = Slot {
                value: None,
                batch,
                stamp: 0,
                record,
            };
            self.set(key, Some(slot));
        }
    }

    /// Takes in what the state store holds; slots and dropped ranges win over it. The map is the table from then on.
    pub(super) fn load(&mut self, stored: impl Iterator<Item = (Bytes, Bytes)>) {
        for (key, value) in stored {
            if !self.is_dropped(&key) && !self.rows.contains_key(&RowKey::new(key.clone())) {
                self.set(&key, Some(Slot::stored(value)));
            }
        }
        self.rows.retain(|_, slot| slot.value.is_some());
        self.bytes = map_bytes(&self.rows);
        self.residency = Residency::Whole;
    }

    /// Drops up to `count` slots behind `cursor` if their batch is applied, that is, not above `applied`. Returns where to
    /// go on, `None` at the end.
    pub(super) fn evict(
        &mut self,
        cursor: Option<RowKey>,
        count: usize,
        applied: u64,
    ) -> Option<RowKey> {
        let start = cursor.map_or(Bound::Unbounded, Bound::Excluded);
        let rows = self.rows.range((start.clone(), Bound::Unbounded));
        let last = rows.take(count).last().map(|(row, _)| row.clone())?;
        let mut bytes = 0;
        let upto = Bound::Included(last.clone());
        for (row, slot) in self
            .rows
            .extract_if((start, upto), |_, slot| slot.batch <= applied)
        {
            bytes += slot_bytes(&row.key, &slot);
        }
        self.bytes -= bytes;
        Some(last)
    }

    /// Slots of `from..to`.
    pub(super) fn range(&self, from: &[u8], to: &[u8]) -> btree_map::Range<'_, RowKey, Slot> {
        self.rows.range(RowKey::copy(from)..end_key(to))
    }
}

/// The end of a range: the first key of the next table comes behind every key of this one, whatever its head.
fn end_key(to: &[u8]) -> RowKey {
    let mut end = RowKey::copy(to);
    if to.len() <= 4 {
        end.head = u128::MAX;
    }
    end
}

fn slot_bytes(key: &Bytes, slot: &Slot) -> usize {
    SLOT_OVERHEAD + key.len() + slot.value.as_ref().map_or(0, Bytes::len)
}

fn map_bytes(map: &Rows) -> usize {
    map.iter()
        .map(|(row, slot)| slot_bytes(&row.key, slot))
        .sum()
}
