//! One transaction's view of the tip: its reads and writes, savepoints, and its bound on bytes written.

use std::cmp::Ordering;

use bytes::Bytes;

use super::locks::Locks;
use super::tip::{Record, Tip, Undo, table_end, table_of};
use super::tip_table::{Residency, RowKey, Slot, Table, Written};
use super::transaction::{Scan, Slot as PartitionSlot, Store};
use crate::error::{Error, Result};
use crate::storage::{StateStore, Versioned};
use crate::txn::messages::{LockMode, Span, TxnId, WaitPolicy};

/// Rows asked of the state store at a time while merging.
const CHUNK_ROWS: usize = 1024;

/// See the module's description. Dropping it undoes the transaction.
#[derive(Debug)]
pub struct TxnView<'a, S: StateStore> {
    tip: &'a mut Tip<S>,
    /// Of transactions that run elsewhere, if there are any.
    locks: Option<&'a Locks>,
    blocked: Option<Blocked>,
    unbounded: bool,
    /// What was read, if that is to be known.
    reads: Option<Vec<Span>>,
}

/// Why a run must be undone and repeated later. Whatever the transaction made of the error it got: it saw nothing of
/// what it must not see, and nothing of it may stay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Blocked {
    /// By a lock of this transaction.
    By(TxnId),
    /// The open batch has changed a key at another timestamp: it must be closed first.
    Batch,
}

impl<'a, S: StateStore> TxnView<'a, S> {
    pub(super) fn new(tip: &'a mut Tip<S>, locks: Option<&'a Locks>) -> Self {
        Self {
            tip,
            locks,
            blocked: None,
            unbounded: false,
            reads: None,
        }
    }

    /// Without the bound on bytes written: they were counted when they were accepted.
    pub(super) fn unbounded(mut self) -> Self {
        self.unbounded = true;
        self
    }

    /// From now on what is read is noted.
    pub(super) fn note_reads(&mut self) {
        self.reads = Some(Vec::new());
    }

    /// The keys and ranges read since `note_reads`.
    pub(super) fn take_reads(&mut self) -> Vec<Span> {
        self.reads.take().unwrap_or_default()
    }

    /// Set once the transaction met what it must wait for.
    pub(super) fn blocked(&self) -> Option<Blocked> {
        self.blocked
    }

    fn block<T>(&mut self, by: Blocked) -> Result<T> {
        self.blocked.get_or_insert(by);
        Err(Error::retry(
            "40001",
            "the transaction waits for another one and is run again",
        ))
    }

    /// Nothing is read or written any more once the run is to be undone.
    fn check_blocked(&mut self) -> Result<()> {
        match self.blocked {
            Some(by) => self.block(by),
            None => Ok(()),
        }
    }

    /// A key with a prepared write that is not decided is read by nobody (I4).
    fn check_read(&mut self, key: &[u8]) -> Result<()> {
        let Some(locks) = self.locks else {
            return Ok(());
        };
        self.check_blocked()?;
        match locks.read_conflict(None, key) {
            Some(txn) => self.block(Blocked::By(txn)),
            None => Ok(()),
        }
    }

    fn check_span(&mut self, span: Span, write: bool) -> Result<()> {
        let Some(locks) = self.locks else {
            return Ok(());
        };
        self.check_blocked()?;
        let met = if write {
            locks.conflicts(None, &span, LockMode::Update)
        } else {
            locks.undecided(None, &span)
        };
        match met.first() {
            Some(conflict) => self.block(Blocked::By(conflict.txn)),
            None => Ok(()),
        }
    }

    /// I12: a write waits for locks on its key, and on ranges around it.
    fn check_write(&mut self, key: &[u8], delete: bool) -> Result<()> {
        if !self.tip.stamped.is_empty() && self.tip.stamped.contains_key(key) {
            return self.block(Blocked::Batch);
        }
        let Some(locks) = self.locks else {
            return Ok(());
        };
        self.check_blocked()?;
        let mode = if delete {
            LockMode::Update
        } else {
            LockMode::NoKeyUpdate
        };
        match locks.write_conflict(key, mode) {
            Some(txn) => self.block(Blocked::By(txn)),
            None => Ok(()),
        }
    }

    /// True if the transaction has written anything so far.
    pub fn wrote(&self) -> bool {
        !self.tip.undo.is_empty()
    }

    /// Keeps the writes in the open batch. True if there were any.
    pub fn commit(self) -> bool {
        let wrote = self.wrote();
        self.tip.end();
        wrote
    }

    /// Takes every write back; the same as dropping the view.
    pub fn rollback(self) {}

    /// `absent`: the caller knows that the key is.
    fn write(&mut self, key: Bytes, value: Option<Bytes>, absent: bool) -> Result<()> {
        self.check_write(&key, value.is_none())?;
        let (new, max) = (
            value.as_ref().map_or(0, Bytes::len),
            self.tip.limits.write_set_bytes_max,
        );
        if !self.unbounded && self.tip.txn_bytes + key.len() + new > max {
            return Err(write_set_too_large(max));
        }
        let (writer, deletes) = (self.tip.writer(), value.is_none());
        match self
            .tip
            .table(table_of(&key)?)?
            .write(&key, value.clone(), writer, absent)
        {
            Written::Nothing => return Ok(()),
            Written::InPlace(old, record) => {
                self.tip.txn_bytes = (self.tip.txn_bytes + new).saturating_sub(old);
                if let Some(record) = self.tip.records.get_mut(record) {
                    record.value = value;
                }
            }
            Written::Logged {
                before,
                record,
                base,
            } => {
                self.tip.undo.push(Undo::Row {
                    record,
                    before,
                    recorded: base.is_some(),
                    txn_bytes_before: self.tip.txn_bytes,
                });
                self.tip.txn_bytes += key.len() + new;
                if let Some(base) = base {
                    self.tip.records.push(Record { key, base, value });
                } else if let Some(record) = self.tip.records.get_mut(record) {
                    record.value = value;
                }
            }
        }
        self.tip.removed |= deletes;
        Ok(())
    }

    /// Merges the tip's slots with the state store, chunk by chunk.
    fn scan_partial(
        &mut self,
        id: u32,
        scan: Scan<'_>,
        out: &mut Vec<(Bytes, Bytes)>,
    ) -> Result<()> {
        let end = out.len().saturating_add(scan.limit);
        let (mut from, mut to) = (scan.from.to_vec(), scan.to.to_vec());
        let chunk_rows = scan.limit.saturating_add(8).min(CHUNK_ROWS);
        let mut chunk = Vec::new();
        while out.len() < end && from < to {
            chunk.clear();
            self.tip
                .store
                .scan(&from, &to, scan.reverse, chunk_rows, &mut chunk)?;
            self.tip.note_store_reads(id, chunk.len());
            let Some(table) = self.tip.tables.get(&id) else {
                return Err(Error::internal("a table vanished during a scan"));
            };
            // The part of the range that this chunk says everything about.
            let (mut part_from, mut part_to) = (from.clone(), to.clone());
            if chunk.len() == chunk_rows
                && let Some((last, _)) = chunk.last()
            {
                if scan.reverse {
                    part_from = last.to_vec();
                } else {
                    part_to = [&last[..], &[0]].concat();
                }
            }
            let rows = table.range(&part_from, &part_to);
            if scan.reverse {
                merge(
                    table,
                    rows.rev(),
                    chunk.drain(..),
                    |a, b| b.cmp(a),
                    end,
                    out,
                );
                to = part_from;
            } else {
                merge(table, rows, chunk.drain(..), |a, b| a.cmp(b), end, out);
                from = part_to;
            }
        }
        Ok(())
    }
}

impl<S: StateStore> Drop for TxnView<'_, S> {
    fn drop(&mut self) {
        // After `commit` there is nothing left to undo.
        self.tip.undo_to(0);
    }
}

impl<S: StateStore> Store for TxnView<'_, S> {
    fn may_be_locked(&self) -> bool {
        self.locks.is_some()
    }

    fn get(&mut self, key: &[u8], _slot: Option<PartitionSlot>) -> Result<Option<Bytes>> {
        self.check_read(key)?;
        if let Some(reads) = &mut self.reads {
            reads.push(Span::key(Bytes::copy_from_slice(key)));
        }
        let id = table_of(key)?;
        let table = self.tip.table(id)?;
        let row = RowKey::copy(key);
        if let Some(slot) = table.slot(&row) {
            return Ok(slot.value.clone());
        }
        if table.is_absent(key) {
            return Ok(None);
        }
        let found = self.tip.store.get(key)?.map(|row| row.value);
        self.tip.note_store_reads(id, 1);
        if let Some(value) = &found {
            let slot = Slot::stored(value.clone());
            self.tip.table(id)?.set(&row.key, Some(slot));
        }
        Ok(found)
    }

    fn scan(&mut self, scan: Scan<'_>, out: &mut Vec<(Bytes, Bytes)>) -> Result<()> {
        if scan.from >= scan.to || scan.limit == 0 {
            return Ok(());
        }
        let id = one_table(scan.from, scan.to)?;
        let before = out.len();
        let table = self.tip.table(id)?;
        if table.residency != Residency::Whole {
            self.scan_partial(id, scan, out)?;
        } else {
            let rows = table.range(scan.from, scan.to);
            let row = |(row, slot): (&RowKey, &Slot)| Some((row.key.clone(), slot.value.clone()?));
            if scan.reverse {
                out.extend(rows.rev().filter_map(row).take(scan.limit));
            } else {
                out.extend(rows.filter_map(row).take(scan.limit));
            }
        }
        if self.locks.is_none() && self.reads.is_none() {
            return Ok(());
        }
        let rows = out.get(before..).unwrap_or(&[]);
        let span = span_read(&scan, rows);
        if let Some(reads) = &mut self.reads {
            reads.push(span.clone());
        }
        self.check_span(span, false)
    }

    fn put(&mut self, key: Bytes, value: Bytes) -> Result<()> {
        self.write(key, Some(value), false)
    }

    fn put_new(&mut self, key: Bytes, value: Bytes) -> Result<()> {
        self.write(key, Some(value), true)
    }

    fn delete(&mut self, key: &[u8]) -> Result<()> {
        self.write(Bytes::copy_from_slice(key), None, false)
    }

    fn delete_range(&mut self, from: &[u8], to: &[u8]) -> Result<()> {
        if from >= to {
            return Ok(());
        }
        let id = one_table(from, to)?;
        let span = Span::range(Bytes::copy_from_slice(from), Bytes::copy_from_slice(to));
        if self.tip.stamped.keys().any(|key| span.contains(key)) {
            return self.block(Blocked::Batch);
        }
        self.check_span(span, true)?;
        self.tip.drop_range(id, from, to)
    }

    fn lock(
        &mut self,
        key: &[u8],
        _slot: Option<PartitionSlot>,
        mode: LockMode,
        wait: WaitPolicy,
    ) -> Result<bool> {
        let Some(locks) = self.locks else {
            return Ok(true);
        };
        self.check_blocked()?;
        match (locks.write_conflict(key, mode), wait) {
            (None, _) => Ok(true),
            (Some(_), WaitPolicy::SkipLocked) => Ok(false),
            (Some(_), WaitPolicy::NoWait) => Err(lock_not_available()),
            (Some(txn), WaitPolicy::Wait | WaitPolicy::Patient) => self.block(Blocked::By(txn)),
        }
    }

    fn savepoint(&mut self) -> usize {
        self.tip.mark += 1;
        self.tip.undo.len()
    }

    fn rollback_to(&mut self, savepoint: usize) {
        self.tip.undo_to(savepoint);
    }
}

/// What a scan that gave `rows` says something about: up to its last row, if the limit stopped it.
pub(super) fn span_read(scan: &Scan<'_>, rows: &[(Bytes, Bytes)]) -> Span {
    let (mut from, mut to) = (
        Bytes::copy_from_slice(scan.from),
        Bytes::copy_from_slice(scan.to),
    );
    if rows.len() >= scan.limit
        && let Some((last, _)) = rows.last()
    {
        if scan.reverse {
            from = last.clone();
        } else {
            to = [&last[..], &[0]].concat().into();
        }
    }
    Span::range(from, to)
}

/// 55P03, as PostgreSQL words it; the same statement may succeed later.
pub(super) fn lock_not_available() -> Error {
    Error::retry("55P03", "could not obtain lock on row")
        .hint("another transaction holds it; try again later, or leave NOWAIT out")
}

/// The one table a range lies in.
fn one_table(from: &[u8], to: &[u8]) -> Result<u32> {
    let id = table_of(from)?;
    if to > &table_end(id)[..] {
        return Err(Error::internal("a range reaches over more than one table"));
    }
    Ok(id)
}

/// Rows of the slots and of the state store in one order, up to `end` rows in `out`; a slot hides the stored row.
fn merge<'t>(
    table: &'t Table,
    slots: impl Iterator<Item = (&'t RowKey, &'t Slot)>,
    stored: impl Iterator<Item = (Bytes, Versioned)>,
    order: impl Fn(&[u8], &[u8]) -> Ordering,
    end: usize,
    out: &mut Vec<(Bytes, Bytes)>,
) {
    let mut slots = slots.peekable();
    let mut stored = stored.filter(|(key, _)| !table.is_dropped(key)).peekable();
    while out.len() < end {
        let next = match (slots.peek(), stored.peek()) {
            (None, None) => return,
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (Some((left, _)), Some((right, _))) => order(&left.key, right),
        };
        if next == Ordering::Greater {
            out.extend(stored.next().map(|(key, row)| (key, row.value)));
            continue;
        }
        if next == Ordering::Equal {
            stored.next();
        }
        if let Some((row, slot)) = slots.next() {
            out.extend(slot.value.clone().map(|value| (row.key.clone(), value)));
        }
    }
}

pub(super) fn write_set_too_large(max: usize) -> Error {
    Error::new("54000", format!("the transaction writes more than write_set_bytes_max = {max} bytes"))
        .hint("split the work into smaller transactions, or raise write_set_bytes_max in the node's configuration")
}
