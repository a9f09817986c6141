//! One table's rows as the tip holds them: a slot per key, and whether the map is the whole table.
//!
//! What holds: in a `Whole` table a key without a slot is absent, so deleting removes the slot at once and a queue that is
//! emptied leaves nothing to skip. In a `Partial` table a key without a slot is whatever the state store says, so a delete
//! leaves a tombstone until its entry is applied there.
//!
//! Rows, and the entries of each index, are in maps of their own: dropping a table or an index moves whole maps, however
//! many rows they have.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::ops::Bound;

use bytes::Bytes;

use super::tip_filter::Filter;

/// `Slot::batch` of a row that came from the state store.
pub(super) const STORED: u64 = 0;
/// What a slot costs beside its key and value: two `Bytes`, marks, its share of tree nodes and allocator slack.
pub(super) const SLOT_OVERHEAD: usize = 160;

/// Bytes of table and index number, the same for all keys of a map.
const PREFIX: usize = 6;

/// A key with its first bytes behind table and index inline: most comparisons on the way down a tree end there, without
/// following a pointer. Keys of different maps must not be compared.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct RowKey {
    /// Of equal heads the keys decide: short keys are padded with zeroes, which other keys may have.
    head: [u64; 3],
    pub(super) key: Bytes,
}

impl RowKey {
    pub(super) fn new(key: Bytes) -> Self {
        let mut bytes = [0; 24];
        let behind = key.get(PREFIX..).unwrap_or(&[]);
        let length = behind.len().min(24);
        bytes[..length].copy_from_slice(&behind[..length]);
        let mut head = [0; 3];
        for (word, bytes) in head.iter_mut().zip(bytes.as_chunks().0) {
            *word = u64::from_be_bytes(*bytes);
        }
        Self { head, key }
    }

    pub(super) fn copy(key: &[u8]) -> Self {
        Self::new(Bytes::copy_from_slice(key))
    }
}

/// The rows of a table, or the entries of one of its indexes.
pub(super) type Rows = BTreeMap<RowKey, Slot>;

/// One map of a table.
#[derive(Debug, Default)]
pub(super) struct Map {
    pub(super) rows: Rows,
    /// Memory held by `rows`, roughly.
    bytes: usize,
}

/// Maps, or parts of maps, that were cut out of a table, by index.
pub(super) type Cut = Vec<(u16, Map)>;

/// The index a key belongs to: the two bytes behind the table number; 0 for rows.
pub(super) fn index_of(key: &[u8]) -> u16 {
    let byte = |at| u16::from(key.get(at).copied().unwrap_or(0));
    byte(4) << 8 | byte(5)
}

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
    /// By index, rows first: the order of keys.
    maps: BTreeMap<u16, Map>,
    pub(super) residency: Residency,
    pub(super) dropped: Vec<Dropped>,
    /// In a `Partial` table that was `Whole`: the keys that the state store may hold without a slot here.
    evicted: Option<Filter>,
    /// Rows read from the state store since the last attempt to load the table.
    pub(super) store_reads: usize,
}

impl Table {
    pub(super) fn new() -> Self {
        Self {
            maps: BTreeMap::new(),
            residency: Residency::Untried,
            dropped: Vec::new(),
            evicted: None,
            store_reads: 0,
        }
    }

    /// From now on rows may be in the state store alone.
    pub(super) fn make_partial(&mut self) {
        self.residency = Residency::Partial;
        self.evicted = Some(Filter::default());
    }

    /// True if a key without a slot is certainly absent from the state store too.
    pub(super) fn is_absent(&self, key: &[u8]) -> bool {
        self.residency == Residency::Whole
            || self
                .evicted
                .as_ref()
                .is_some_and(|keys| !keys.may_have(key))
            || self.is_dropped(key)
    }

    /// Memory held by the slots, roughly.
    pub(super) fn bytes(&self) -> usize {
        self.maps.values().map(|map| map.bytes).sum()
    }

    pub(super) fn len(&self) -> usize {
        self.maps.values().map(|map| map.rows.len()).sum()
    }

    pub(super) fn slot(&self, row: &RowKey) -> Option<&Slot> {
        self.maps.get(&index_of(&row.key))?.rows.get(row)
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
        let map = self.maps.entry(index_of(key)).or_default();
        match map.rows.entry(RowKey::new(key.clone())) {
            Entry::Occupied(mut entry) => {
                let slot = entry.get_mut();
                if slot.value.is_none() && new.value.is_none() {
                    return Written::Nothing;
                }
                map.bytes -= slot_bytes(key, slot);
                let again = slot.batch == writer.batch;
                if again {
                    new.record = slot.record;
                }
                let (logged, record) = (slot.stamp >= writer.mark, new.record);
                let old = if new.value.is_none() && whole {
                    entry.remove()
                } else {
                    map.bytes += slot_bytes(key, &new);
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
                let stored = |keys: &Filter| keys.may_have(key);
                let absent = absent
                    || whole
                    || self.evicted.as_ref().is_some_and(|keys| !stored(keys))
                    || self.dropped.iter().any(dropped);
                if absent && new.value.is_none() {
                    return Written::Nothing;
                }
                map.bytes += slot_bytes(key, &new);
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
        let map = self.maps.entry(index_of(key)).or_default();
        let old = match slot {
            Some(slot) => {
                map.bytes += slot_bytes(key, &slot);
                map.rows.insert(RowKey::new(key.clone()), slot)
            }
            None => map.rows.remove(&RowKey::new(key.clone())),
        };
        if let Some(old) = old {
            map.bytes -= slot_bytes(key, &old);
        }
    }

    /// Takes the rows of `from..to` out. A map that lies in the range whole is moved, whatever its size.
    pub(super) fn cut(&mut self, from: &[u8], to: &[u8]) -> Cut {
        let (first, last) = (index_of(from), last_index(from, to));
        let touched: Vec<u16> = self.maps.range(first..=last).map(|(i, _)| *i).collect();
        let mut cut = Cut::new();
        for index in touched {
            let Some(mut map) = self.maps.remove(&index) else {
                continue;
            };
            let (low, high) = map_bounds(index, from, to);
            let is_below = |bound: &Bound<RowKey>| match (bound, map.rows.first_key_value()) {
                (Bound::Included(low), Some((first, _))) => low <= first,
                _ => true,
            };
            let is_above = |bound: &Bound<RowKey>| match (bound, map.rows.last_key_value()) {
                (Bound::Excluded(high), Some((last, _))) => high > last,
                _ => true,
            };
            if is_below(&low) && is_above(&high) {
                cut.push((index, map));
                continue;
            }
            let mut rows = match &low {
                Bound::Included(low) => map.rows.split_off(low),
                _ => std::mem::take(&mut map.rows),
            };
            if let Bound::Excluded(high) = &high {
                let mut after = rows.split_off(high);
                map.rows.append(&mut after);
            }
            let bytes = rows_bytes(&rows);
            map.bytes -= bytes;
            self.maps.insert(index, map);
            cut.push((index, Map { rows, bytes }));
        }
        cut
    }

    /// Puts back what `cut` took.
    pub(super) fn paste(&mut self, cut: Cut) {
        for (index, mut piece) in cut {
            let map = self.maps.entry(index).or_default();
            map.bytes += piece.bytes;
            if map.rows.is_empty() {
                map.rows = piece.rows;
            } else {
                map.rows.append(&mut piece.rows);
            }
        }
    }

    /// Batch `batch`, which deleted `key`, is applied to the state store: its tombstone goes.
    pub(super) fn bury(&mut self, key: &Bytes, batch: u64) {
        if self.residency == Residency::Whole {
            return;
        }
        let slot = self.slot(&RowKey::new(key.clone()));
        if slot.is_some_and(|slot| slot.batch == batch && slot.value.is_none()) {
            self.set(key, None);
        }
    }

    /// A tombstone for a key of a formerly `Whole` table whose deletion the state store may not have applied.
    pub(super) fn entomb(&mut self, key: &Bytes, batch: u64, record: usize) {
        let slot = self.slot(&RowKey::new(key.clone()));
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
            if !self.is_dropped(&key) && self.slot(&RowKey::new(key.clone())).is_none() {
                self.set(&key, Some(Slot::stored(value)));
            }
        }
        for map in self.maps.values_mut() {
            map.rows.retain(|_, slot| slot.value.is_some());
            map.bytes = rows_bytes(&map.rows);
        }
        self.residency = Residency::Whole;
        self.evicted = None;
    }

    /// Drops up to `count` slots behind `cursor` if their batch is applied, that is, not above `applied`. Returns where to
    /// go on, `None` at the end.
    pub(super) fn evict(
        &mut self,
        cursor: Option<RowKey>,
        count: usize,
        applied: u64,
    ) -> Option<RowKey> {
        let index = cursor.as_ref().map_or(0, |row| index_of(&row.key));
        let (index, map) = self.maps.range_mut(index..).next()?;
        // A cursor of a map that is gone says nothing about the next one.
        let cursor = cursor.filter(|row| index_of(&row.key) == *index);
        let start = cursor.map_or(Bound::Unbounded, Bound::Excluded);
        let rows = map.rows.range((start.clone(), Bound::Unbounded));
        let Some(last) = rows.take(count).last().map(|(row, _)| row.clone()) else {
            let next = index.checked_add(1)?;
            let (_, map) = self
                .maps
                .range(next..)
                .find(|(_, map)| !map.rows.is_empty())?;
            let (first, _) = map.rows.first_key_value()?;
            // The first row of the next map is passed over this time.
            return Some(first.clone());
        };
        let upto = Bound::Included(last.clone());
        let clean = map
            .rows
            .extract_if((start, upto), |_, slot| slot.batch <= applied);
        let mut bytes = 0;
        for (row, slot) in clean {
            bytes += slot_bytes(&row.key, &slot);
            // A tombstone that is applied: the state store has no such row either.
            if slot.value.is_some()
                && let Some(evicted) = &mut self.evicted
            {
                evicted.add(&row.key);
            }
        }
        map.bytes -= bytes;
        Some(last)
    }

    /// Slots of `from..to`.
    pub(super) fn range<'t>(
        &'t self,
        from: &[u8],
        to: &[u8],
    ) -> impl DoubleEndedIterator<Item = (&'t RowKey, &'t Slot)> + use<'t> {
        let (first, last) = (index_of(from), last_index(from, to));
        // Each bound is of one map only, which is visited once.
        let mut low = Some(RowKey::copy(from));
        let mut high = same_table(from, to).then(|| RowKey::copy(to));
        self.maps.range(first..=last).flat_map(move |(index, map)| {
            let low = low.take_if(|_| *index == first);
            let high = high.take_if(|_| *index == last);
            let low = low.map_or(Bound::Unbounded, Bound::Included);
            map.rows
                .range((low, high.map_or(Bound::Unbounded, Bound::Excluded)))
        })
    }
}

/// The last index that may have keys below `to`.
fn last_index(from: &[u8], to: &[u8]) -> u16 {
    if same_table(from, to) {
        index_of(to)
    } else {
        // The end of the table.
        u16::MAX
    }
}

/// False if `to` is the end of the table.
fn same_table(from: &[u8], to: &[u8]) -> bool {
    from.get(..4) == to.get(..4)
}

/// The part of `from..to` that lies in the map of `index`.
fn map_bounds(index: u16, from: &[u8], to: &[u8]) -> (Bound<RowKey>, Bound<RowKey>) {
    let low = if index == index_of(from) {
        Bound::Included(RowKey::copy(from))
    } else {
        Bound::Unbounded
    };
    let high = if same_table(from, to) && index == index_of(to) {
        Bound::Excluded(RowKey::copy(to))
    } else {
        Bound::Unbounded
    };
    (low, high)
}

fn slot_bytes(key: &Bytes, slot: &Slot) -> usize {
    SLOT_OVERHEAD + key.len() + slot.value.as_ref().map_or(0, Bytes::len)
}

fn rows_bytes(rows: &Rows) -> usize {
    rows.iter()
        .map(|(row, slot)| slot_bytes(&row.key, slot))
        .sum()
}
