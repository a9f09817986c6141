//! One table's rows as the tip holds them: a slot per key, and whether the map is the whole table.
//!
//! What holds: in a `Whole` table a key without a slot is absent, so deleting removes the slot at once and a queue that is
//! emptied leaves nothing to skip. In a `Partial` table a key without a slot is whatever the state store says, so a delete
//! leaves a tombstone until its entry is applied there.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use bytes::Bytes;

/// `Slot::index` of a row that the state store holds as well.
pub(super) const CLEAN: u64 = 0;
/// `Slot::index` of a row written by the open batch.
pub(super) const OPEN: u64 = u64::MAX;
/// What a slot costs beside its key and value: two `Bytes`, marks, its share of tree nodes and allocator slack.
pub(super) const SLOT_OVERHEAD: usize = 160;

/// The value of a key at the tip, and which entry wrote it.
#[derive(Clone, Debug)]
pub(super) struct Slot {
    /// `None` is a tombstone; only in `Partial` tables.
    pub(super) value: Option<Bytes>,
    /// Index of the entry that wrote it, `OPEN`, or `CLEAN`.
    pub(super) index: u64,
    /// The tip's mark at which an undo record of this key was last written.
    pub(super) stamp: u64,
}

impl Slot {
    pub(super) fn clean(value: Bytes) -> Self {
        Self {
            value: Some(value),
            index: CLEAN,
            stamp: 0,
        }
    }
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
    pub(super) index: u64,
}

/// What a write did, for the undo log and the batch.
#[derive(Debug)]
pub(super) enum Written {
    /// Nothing changed: a delete of an absent key.
    Nothing,
    /// An undo record since the current mark covers it. The argument is the length of the value replaced.
    InPlace(usize),
    /// The slot before; and, if the open batch had not touched the key, what it held before the batch.
    Logged(Option<Slot>, Option<Base>),
}

#[derive(Debug)]
pub(super) struct Table {
    pub(super) rows: BTreeMap<Bytes, Slot>,
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

    /// Writes `value` (`None` deletes) for the open batch.
    pub(super) fn write(&mut self, key: &Bytes, value: Option<Bytes>, mark: u64) -> Written {
        let whole = self.residency == Residency::Whole;
        match self.rows.entry(key.clone()) {
            Entry::Occupied(mut entry) => {
                let slot = entry.get_mut();
                if slot.value.is_none() && value.is_none() {
                    return Written::Nothing;
                }
                self.bytes -= slot_bytes(key, slot);
                let logged = slot.stamp >= mark;
                let touched = slot.index == OPEN;
                let new = Slot {
                    value,
                    index: OPEN,
                    stamp: mark,
                };
                let old = if new.value.is_none() && whole {
                    entry.remove()
                } else {
                    self.bytes += slot_bytes(key, &new);
                    std::mem::replace(slot, new)
                };
                if logged {
                    return Written::InPlace(old.value.map_or(0, |value| value.len()));
                }
                let base = (!touched).then(|| Base::Known(old.value.clone()));
                Written::Logged(Some(old), base)
            }
            Entry::Vacant(entry) => {
                let absent = whole
                    || self
                        .dropped
                        .iter()
                        .any(|range| range.from <= *key && range.to > *key);
                if absent && value.is_none() {
                    return Written::Nothing;
                }
                let slot = Slot {
                    value,
                    index: OPEN,
                    stamp: mark,
                };
                self.bytes += slot_bytes(key, &slot);
                entry.insert(slot);
                let base = if absent {
                    Base::Known(None)
                } else {
                    Base::Unknown
                };
                Written::Logged(None, Some(base))
            }
        }
    }

    /// Puts a slot in place or removes it: undo, caching, eviction.
    pub(super) fn set(&mut self, key: &Bytes, slot: Option<Slot>) {
        let old = match slot {
            Some(slot) => {
                self.bytes += slot_bytes(key, &slot);
                self.rows.insert(key.clone(), slot)
            }
            None => self.rows.remove(key),
        };
        if let Some(old) = old {
            self.bytes -= slot_bytes(key, &old);
        }
    }

    /// Takes the rows of `from..to` out.
    pub(super) fn cut(&mut self, from: &[u8], to: &[u8]) -> BTreeMap<Bytes, Slot> {
        let mut cut = self.rows.split_off(from);
        let mut after = cut.split_off(to);
        if !after.is_empty() {
            self.rows.append(&mut after);
        }
        self.bytes -= map_bytes(&cut);
        cut
    }

    /// Puts back what `cut` took.
    pub(super) fn paste(&mut self, mut cut: BTreeMap<Bytes, Slot>) {
        self.bytes += map_bytes(&cut);
        self.rows.append(&mut cut);
    }

    /// Entry `index` is applied to the state store: `key` is clean unless written again since.
    pub(super) fn applied(&mut self, key: &Bytes, index: u64) {
        let Some(slot) = self.rows.get_mut(key) else {
            return;
        };
        if slot.index != index {
            return;
        }
        if slot.value.is_some() {
            slot.index = CLEAN;
        } else {
            self.set(key, None);
        }
    }

    /// A tombstone for a key of a formerly `Whole` table whose deletion the state store may not have applied.
    pub(super) fn entomb(&mut self, key: &Bytes, index: u64) {
        if self.rows.get(key).is_none_or(|slot| slot.value.is_none()) {
            let slot = Slot {
                value: None,
                index,
                stamp: 0,
            };
            self.set(key, Some(slot));
        }
    }

    /// Takes in what the state store holds; slots and dropped ranges win over it. The map is the table from then on.
    pub(super) fn load(&mut self, stored: impl Iterator<Item = (Bytes, Bytes)>) {
        for (key, value) in stored {
            if !self.rows.contains_key(&key) && !self.is_dropped(&key) {
                self.set(&key, Some(Slot::clean(value)));
            }
        }
        self.rows.retain(|_, slot| slot.value.is_some());
        self.bytes = map_bytes(&self.rows);
        self.residency = Residency::Whole;
    }

    /// Drops up to `count` slots from `cursor` on if they are clean. Returns where to go on, `None` at the end.
    pub(super) fn evict(&mut self, cursor: &[u8], count: usize) -> Option<Bytes> {
        use std::ops::Bound::{Excluded, Unbounded};
        let mut last = None;
        let mut clean = Vec::new();
        for (key, slot) in self
            .rows
            .range::<[u8], _>((Excluded(cursor), Unbounded))
            .take(count)
        {
            if slot.index == CLEAN {
                clean.push(key.clone());
            }
            last = Some(key.clone());
        }
        for key in &clean {
            self.set(key, None);
        }
        last
    }
}

fn slot_bytes(key: &Bytes, slot: &Slot) -> usize {
    SLOT_OVERHEAD + key.len() + slot.value.as_ref().map_or(0, Bytes::len)
}

fn map_bytes(map: &BTreeMap<Bytes, Slot>) -> usize {
    map.iter().map(|(key, slot)| slot_bytes(key, slot)).sum()
}
