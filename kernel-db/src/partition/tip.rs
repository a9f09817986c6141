//! The tip: the partition's current state as its transactions see it, above the state store.
//!
//! Transactions run here one after another; what they write is in memory only (I5), first in the open batch, then in
//! batches in flight, until the entry that carries it is applied to the state store. `close_batch` gives the net effect of
//! the open batch as physical changes. Rows that are clean stay as a cache: small tables whole, so that neither look-ups
//! (found or not) nor scans touch RocksDB; tables too large for that row by row.
//!
//! What holds: a row not yet applied is never evicted; a reader sees the newest write of every key whatever is resident;
//! memory is bounded by `tip_bytes_max` plus what is in flight (which the replica bounds).
//!
//! Left out on purpose: ranges over several tables (no access path needs them), and caching of rows met by scans of tables
//! that are not resident.

use std::collections::{BTreeMap, HashMap, VecDeque, btree_map};
use std::sync::Arc;

use bytes::Bytes;

use super::locks::Locks;
use super::tip_table::{
    Base, Cut, Dropped, Residency, RowKey, SLOT_OVERHEAD, Slot, Table, Writer, index_of,
};
use super::tip_view::TxnView;
use crate::error::{Error, Result};
use crate::storage::{Op, Section, StateStore, Versioned};
use crate::txn::messages::Span;

/// Slots looked at per transaction while the tip is over its bound: more than a transaction usually adds, few enough not
/// to be felt.
const EVICT_STEP: usize = 256;
/// Dropped rows freed per transaction: their memory is used again as fast as new rows need it.
const FREE_STEP: usize = 64;
/// A table too large to be resident is tried again after this many times `load_rows_max` rows were read from the state
/// store, so that attempts cost a fraction of the reads.
const RELOAD_FACTOR: usize = 16;

/// Bounds of a tip.
#[derive(Clone, Debug)]
pub struct TipLimits {
    /// Bytes of rows held in memory by one partition; clean ones are evicted past it.
    pub tip_bytes_max: usize,
    /// Bytes one transaction may write (54000 past it).
    pub write_set_bytes_max: usize,
    /// Tables of up to this many rows are loaded whole on first use.
    pub load_rows_max: usize,
}

impl Default for TipLimits {
    fn default() -> Self {
        Self {
            tip_bytes_max: 256 << 20,
            write_set_bytes_max: 4 << 20,
            load_rows_max: 50_000,
        }
    }
}

/// Sizes, for `dbos` views and tests.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TipStats {
    pub bytes: usize,
    pub rows: usize,
    pub tables: usize,
    pub tables_whole: usize,
    pub batches_in_flight: usize,
}

/// A key written by the open batch.
#[derive(Debug)]
pub(super) struct Record {
    pub(super) key: Bytes,
    /// Before the batch (or, of a later record of the same key, before that).
    pub(super) base: Base,
    /// Now; `None` if deleted.
    pub(super) value: Option<Bytes>,
}

/// How to take back one write of the running transaction.
#[derive(Debug)]
pub(super) enum Undo {
    Row {
        /// Of the key, in the batch.
        record: usize,
        before: Option<Slot>,
        /// The write made that record.
        recorded: bool,
        txn_bytes_before: usize,
    },
    Range {
        table: u32,
        cut: Cut,
    },
}

#[derive(Debug)]
struct InFlight {
    batch: u64,
    /// Of the entry that carries it.
    index: u64,
    /// Keys it deleted.
    deleted: Vec<Bytes>,
}

/// See the module's description. Used by the replica that leads; cleared when it does not.
#[derive(Debug)]
pub struct Tip<S> {
    pub(super) store: Arc<S>,
    pub(super) limits: TipLimits,
    pub(super) tables: BTreeMap<u32, Table>,
    /// Number of the open batch; counts from 1 (0 means read from the state store).
    batch: u64,
    /// Every batch up to this one is applied to the state store.
    batch_applied: u64,
    /// Keys of the open batch in order of first write. A key removed from a whole table and written again has one more.
    pub(super) records: Vec<Record>,
    /// A row was removed from a whole table: keys may have more than one record.
    pub(super) removed: bool,
    /// Ranges dropped by the open batch.
    pub(super) ranges: Vec<(Bytes, Bytes)>,
    pub(super) undo: Vec<Undo>,
    /// Grows with every transaction, savepoint and rollback: a slot stamped at or above it needs no further undo record.
    pub(super) mark: u64,
    /// Bytes written by the running transaction.
    pub(super) txn_bytes: usize,
    /// Somebody waits for changes: what is written is noted in `written`, for him to be woken.
    pub(super) watched: bool,
    pub(super) written: Vec<Span>,
    /// A partial table that was read a lot: try to load it before the next transaction.
    pub(super) reload: Option<u32>,
    batch_bytes: usize,
    /// Keys of the open batch whose change has a commit timestamp of its own: those of settled transactions.
    pub(super) stamped: HashMap<Bytes, u64>,
    inflight: VecDeque<InFlight>,
    /// The table being evicted and how far.
    victim: Option<(u32, Option<RowKey>)>,
    /// Dropped rows that nothing refers to any more. Freeing them takes as long as making them did: it is done in steps.
    waste: Vec<btree_map::IntoIter<RowKey, Slot>>,
}

impl<S: StateStore> Tip<S> {
    /// An empty tip over `store`, which must have applied everything before the first batch's entry.
    pub fn new(store: Arc<S>, limits: TipLimits) -> Self {
        Self {
            store,
            limits,
            tables: BTreeMap::new(),
            batch: 1,
            batch_applied: 0,
            records: Vec::new(),
            removed: false,
            ranges: Vec::new(),
            undo: Vec::new(),
            mark: 1,
            txn_bytes: 0,
            watched: false,
            written: Vec::new(),
            reload: None,
            batch_bytes: 0,
            stamped: HashMap::new(),
            inflight: VecDeque::new(),
            victim: None,
            waste: Vec::new(),
        }
    }

    /// Starts a transaction. It is undone if the view is dropped without `commit`.
    pub fn begin(&mut self) -> TxnView<'_, S> {
        self.mark += 1;
        self.txn_bytes = 0;
        TxnView::new(self, None)
    }

    /// As `begin`; what the transaction meets in `locks` stops it.
    pub(super) fn begin_under<'a>(&'a mut self, locks: Option<&'a Locks>) -> TxnView<'a, S> {
        self.mark += 1;
        self.txn_bytes = 0;
        TxnView::new(self, locks)
    }

    /// The open batch's changes of these keys were committed at `ts`, not with the batch. Only keys that the batch has not
    /// changed otherwise: they were locked since an earlier batch.
    pub(super) fn stamp(&mut self, keys: impl Iterator<Item = Bytes>, ts: u64) {
        self.stamped.extend(keys.map(|key| (key, ts)));
    }

    /// Takes the changes that have timestamps of their own out of a closed batch's.
    pub(super) fn take_sections(&mut self, ops: &mut Vec<Op>) -> Vec<Section> {
        if self.stamped.is_empty() {
            return Vec::new();
        }
        let stamped = std::mem::take(&mut self.stamped);
        let mut sections: BTreeMap<u64, Vec<Op>> = BTreeMap::new();
        let own = |op: &Op| match op {
            Op::Put { key, .. } | Op::Delete { key } => stamped.get(key).copied(),
            Op::DeleteRange { .. } => None,
        };
        for op in std::mem::take(ops) {
            match own(&op) {
                Some(ts) => sections.entry(ts).or_default().push(op),
                None => ops.push(op),
            }
        }
        let section = |(ts, ops)| Section { ts, ops };
        sections.into_iter().map(section).collect()
    }

    /// Bytes written by the open batch's transactions.
    pub fn batch_bytes(&self) -> usize {
        self.batch_bytes
    }

    /// True if the open batch wrote nothing.
    pub fn batch_is_empty(&self) -> bool {
        self.records.is_empty() && self.ranges.is_empty()
    }

    /// Closes the open batch, which becomes entry `index`: its net effect against the state before it. A key whose value
    /// is as before yields nothing. Empty if the batch changed nothing.
    pub fn close_batch(&mut self, index: u64) -> Vec<Op> {
        let mut records = std::mem::take(&mut self.records);
        if std::mem::take(&mut self.removed) {
            records = one_per_key(records);
        }
        let ranges = std::mem::take(&mut self.ranges);
        let mut ops = Vec::with_capacity(records.len() + ranges.len());
        for (from, to) in &ranges {
            ops.push(Op::DeleteRange {
                from: from.clone(),
                to: to.clone(),
            });
        }
        let mut deleted = Vec::new();
        for Record { key, base, value } in records {
            let in_range = |(from, to): &(Bytes, Bytes)| *from <= key && *to > key;
            if value.is_none() {
                deleted.push(key.clone());
            }
            let dropped = ranges.iter().any(in_range);
            ops.extend(net_effect(key, value, &base, dropped));
        }
        self.inflight.push_back(InFlight {
            batch: self.batch,
            index,
            deleted,
        });
        self.batch += 1;
        self.batch_bytes = 0;
        ops
    }

    /// The state store has applied every entry up to `index`: their rows are clean, their tombstones go.
    pub fn applied(&mut self, index: u64) {
        while self
            .inflight
            .front()
            .is_some_and(|batch| batch.index <= index)
        {
            let Some(batch) = self.inflight.pop_front() else {
                break;
            };
            self.batch_applied = batch.batch;
            for key in &batch.deleted {
                if let Some(table) = table_of(key).ok().and_then(|id| self.tables.get_mut(&id)) {
                    table.bury(key, batch.batch);
                }
            }
        }
        for table in self.tables.values_mut() {
            table
                .dropped
                .retain(|range| range.batch > self.batch_applied);
        }
    }

    /// I5, I6: forgets everything, uncommitted writes included, when leadership is lost.
    pub fn clear(&mut self) {
        let (store, limits) = (self.store.clone(), self.limits.clone());
        let mark = self.mark;
        *self = Self::new(store, limits);
        self.mark = mark;
    }

    pub fn stats(&self) -> TipStats {
        let whole = |table: &&Table| table.residency == Residency::Whole;
        TipStats {
            bytes: self.bytes(),
            rows: self.tables.values().map(Table::len).sum(),
            tables: self.tables.len(),
            tables_whole: self.tables.values().filter(whole).count(),
            batches_in_flight: self.inflight.len(),
        }
    }

    fn bytes(&self) -> usize {
        self.tables.values().map(Table::bytes).sum()
    }

    /// The table `id`, loaded if that has not been tried.
    pub(super) fn table(&mut self, id: u32) -> Result<&mut Table> {
        let untried =
            self.tables.entry(id).or_insert_with(Table::new).residency == Residency::Untried;
        if untried {
            self.load(id)?;
        }
        self.tables
            .get_mut(&id)
            .ok_or_else(|| Error::internal("table just made is missing"))
    }

    /// Makes a table resident if it has few enough rows and fits; else partial. Not while the running transaction has
    /// written to it: its undo records know the residency they were made under.
    fn load(&mut self, id: u32) -> Result<()> {
        let (from, to) = (id.to_be_bytes(), table_end(id));
        let limit = self.limits.load_rows_max + 1;
        let mut stored = Vec::new();
        self.store.scan(&from, &to, false, limit, &mut stored)?;
        let row_bytes =
            |(key, row): &(Bytes, Versioned)| key.len() + row.value.len() + SLOT_OVERHEAD;
        let bytes: usize = stored.iter().map(row_bytes).sum();
        let fits = stored.len() < limit && self.bytes() + bytes <= self.limits.tip_bytes_max;
        let table = self.tables.entry(id).or_insert_with(Table::new);
        table.store_reads = 0;
        if fits {
            table.load(stored.into_iter().map(|(key, row)| (key, row.value)));
        } else {
            table.residency = Residency::Partial;
        }
        Ok(())
    }

    /// Counts rows read from the state store for a partial table.
    pub(super) fn note_store_reads(&mut self, id: u32, rows: usize) {
        let threshold = self.limits.load_rows_max.saturating_mul(RELOAD_FACTOR);
        if let Some(table) = self.tables.get_mut(&id) {
            table.store_reads += rows;
            if table.store_reads > threshold {
                self.reload = Some(id);
            }
        }
    }

    /// Takes the running transaction's writes back until `undo` has `length` records.
    pub(super) fn undo_to(&mut self, length: usize) {
        while self.undo.len() > length {
            match self.undo.pop() {
                Some(Undo::Row {
                    record: number,
                    before,
                    recorded,
                    txn_bytes_before,
                }) => {
                    self.txn_bytes = txn_bytes_before;
                    let Some(record) = self.records.get_mut(number) else {
                        continue;
                    };
                    let key = record.key.clone();
                    if recorded {
                        // Records are made and taken back in one order: it is the last.
                        self.records.truncate(number);
                    } else if let Some(slot) = &before {
                        record.value = slot.value.clone();
                    }
                    if let Some(table) = table_of(&key).ok().and_then(|id| self.tables.get_mut(&id))
                    {
                        table.set(&key, before);
                    }
                }
                Some(Undo::Range { table, cut }) => {
                    self.ranges.pop();
                    for (number, record) in self.records.iter_mut().enumerate() {
                        if let Some(slot) = slot_in(&cut, &record.key)
                            && slot.batch == self.batch
                            && slot.record == number
                        {
                            record.value = slot.value.clone();
                        }
                    }
                    if let Some(table) = self.tables.get_mut(&table) {
                        table.dropped.pop();
                        table.paste(cut);
                    }
                }
                None => break,
            }
        }
        self.mark += 1;
    }

    /// Ends the running transaction: keeps its writes in the open batch, and house-keeps.
    pub(super) fn end(&mut self) {
        if self.watched {
            let spans = self.undo.iter().filter_map(|undo| match undo {
                Undo::Row { record, .. } => {
                    let record = self.records.get(*record)?;
                    Some(Span::key(record.key.clone()))
                }
                Undo::Range { table, .. } => {
                    let from = Bytes::copy_from_slice(&table.to_be_bytes());
                    let to = Bytes::copy_from_slice(&table_end(*table));
                    Some(Span::range(from, to))
                }
            });
            self.written.extend(spans);
        }
        for undo in self.undo.drain(..) {
            if let Undo::Range { cut, .. } = undo {
                let rows = cut.into_iter().map(|(_, map)| map.rows.into_iter());
                self.waste.extend(rows);
            }
        }
        self.free(FREE_STEP);
        self.batch_bytes += self.txn_bytes;
        self.txn_bytes = 0;
        self.evict();
        if let Some(id) = self.reload.take() {
            // An error here is met again, and reported, by the next read that needs the store.
            let _ = self.load(id);
        }
    }

    /// Dropped rows that are not freed yet.
    #[cfg(test)]
    pub(super) fn dropped_rows(&self) -> usize {
        self.waste.iter().map(ExactSizeIterator::len).sum()
    }

    /// Rows read from the state store for a table.
    #[cfg(test)]
    pub(super) fn store_reads(&self, id: u32) -> usize {
        self.tables.get(&id).map_or(0, |table| table.store_reads)
    }

    /// Frees up to `count` dropped rows.
    pub fn free(&mut self, count: usize) {
        if let Some(rows) = self.waste.last_mut() {
            rows.by_ref().take(count).for_each(drop);
            if rows.len() == 0 {
                self.waste.pop();
            }
        }
    }

    /// Over the bound: evicts some clean rows of the largest table, which is partial from then on.
    fn evict(&mut self) {
        if self.bytes() <= self.limits.tip_bytes_max {
            self.victim = None;
            return;
        }
        let (id, cursor) = match self.victim.take() {
            Some(victim) => victim,
            None => {
                let Some((&id, _)) = self.tables.iter().max_by_key(|(_, table)| table.bytes())
                else {
                    return;
                };
                self.make_partial(id);
                (id, None)
            }
        };
        if let Some(table) = self.tables.get_mut(&id) {
            let cursor = table.evict(cursor, EVICT_STEP, self.batch_applied);
            self.victim = cursor.map(|cursor| (id, Some(cursor)));
        }
    }

    /// Deletions of a whole table that the state store has not applied get tombstones before its rows may go.
    fn make_partial(&mut self, id: u32) {
        let Some(table) = self.tables.get_mut(&id) else {
            return;
        };
        if table.residency == Residency::Whole {
            table.make_partial();
            let of_table = |key: &&Bytes| table_of(key).is_ok_and(|table| table == id);
            for batch in &self.inflight {
                for key in batch.deleted.iter().filter(of_table) {
                    table.entomb(key, batch.batch, 0);
                }
            }
            for (number, record) in self.records.iter().enumerate() {
                if of_table(&&record.key) {
                    table.entomb(&record.key, self.batch, number);
                }
            }
        }
    }

    /// Where writes of the running transaction go.
    pub(super) fn writer(&self) -> Writer {
        Writer {
            mark: self.mark,
            batch: self.batch,
            record: self.records.len(),
        }
    }

    /// Drops a range of one table in the running transaction.
    pub(super) fn drop_range(&mut self, id: u32, from: &[u8], to: &[u8]) -> Result<()> {
        let batch = self.batch;
        let table = self.table(id)?;
        let cut = table.cut(from, to);
        let (from, to) = (Bytes::copy_from_slice(from), Bytes::copy_from_slice(to));
        table.dropped.push(Dropped {
            from: from.clone(),
            to: to.clone(),
            batch,
        });
        self.ranges.push((from, to));
        for record in &mut self.records {
            // Its rows are gone; the range's effect says so for those of the state store.
            if slot_in(&cut, &record.key).is_some() {
                record.value = None;
            }
        }
        self.removed = true;
        self.undo.push(Undo::Range { table: id, cut });
        // Rows put back by an undo must not pass for rows logged under this mark.
        self.mark += 1;
        Ok(())
    }
}

/// The slot of a key among rows cut out of its table.
fn slot_in<'c>(cut: &'c Cut, key: &Bytes) -> Option<&'c Slot> {
    let (_, map) = cut.iter().find(|(index, _)| *index == index_of(key))?;
    map.rows.get(&RowKey::new(key.clone()))
}

/// Joins the records of each key: what it held before the first, what it holds after the last.
fn one_per_key(records: Vec<Record>) -> Vec<Record> {
    let mut places: HashMap<Bytes, usize> = HashMap::with_capacity(records.len());
    let mut joined: Vec<Record> = Vec::with_capacity(records.len());
    for record in records {
        let place = *places.entry(record.key.clone()).or_insert(joined.len());
        match joined.get_mut(place) {
            Some(first) => first.value = record.value,
            None => joined.push(record),
        }
    }
    joined
}

/// What one key of the batch adds to its entry.
fn net_effect(key: Bytes, value: Option<Bytes>, base: &Base, dropped: bool) -> Option<Op> {
    match (value, base) {
        (Some(value), _) if dropped => Some(Op::Put {
            key,
            value,
            fresh: true,
        }),
        (None, _) if dropped => None,
        (Some(value), Base::Known(Some(before))) if value == *before => None,
        (Some(value), base) => Some(Op::Put {
            key,
            value,
            fresh: *base == Base::Known(None),
        }),
        (None, Base::Known(None)) => None,
        (None, _) => Some(Op::Delete { key }),
    }
}

/// The table a key belongs to: its first four bytes.
pub(super) fn table_of(key: &[u8]) -> Result<u32> {
    match key.first_chunk::<4>() {
        Some(id) => Ok(u32::from_be_bytes(*id)),
        None => Err(Error::internal("a key is shorter than its table number")),
    }
}

/// The first key behind table `id`.
pub(super) fn table_end(id: u32) -> Vec<u8> {
    match id.checked_add(1) {
        Some(next) => next.to_be_bytes().to_vec(),
        None => vec![0xff; 64],
    }
}
