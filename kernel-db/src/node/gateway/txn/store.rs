//! What a transaction beside the cores sees: rows that `Rows` brings, under what it has written itself.
//!
//! Writes stay in a buffer until commit; every read merges them, so a transaction reads its own writes, through indexes
//! too. Savepoints are marks in the buffer's undo log. The buffer is bounded (54000).

use std::collections::BTreeMap;
use std::ops::Bound;

use bytes::Bytes;

use crate::error::{Error, Result};
use crate::node::placement::Placement;
use crate::partition::{RowLock, Scan, Slot, Store};
use crate::txn::messages::{LockMode, WaitPolicy};

pub(super) type Row = (Bytes, Bytes);

/// Why a row is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Intent {
    /// It is only looked at.
    Look,
    /// The statement is going to lock what it finds.
    Lock(RowLock),
    /// The key is about to be written: what counts is the newest row.
    Write,
}

/// Where rows come from.
pub(super) trait Rows {
    fn get(&mut self, group: u32, key: &[u8], intent: Intent) -> Result<Option<Bytes>>;
    /// Of each group up to `scan.limit` rows of the range in its order; fewer only where the range ends.
    fn scan(&mut self, groups: &[u32], scan: Scan<'_>, intent: Intent) -> Result<Vec<Vec<Row>>>;
    /// These are going to be read with `Intent::Write`.
    fn expect(&mut self, keys: &[(u32, Bytes)]) -> Result<()>;
    /// One answer for each key: false, leave the row out.
    fn lock(&mut self, keys: &[(u32, Bytes)], lock: RowLock) -> Result<Vec<bool>>;
}

/// A buffered write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Written {
    pub group: u32,
    /// None: deleted.
    pub value: Option<Bytes>,
}

/// The writes of a transaction.
pub(super) struct Buffer {
    rows: BTreeMap<Bytes, Written>,
    /// Key and what the buffer held for it before.
    undo: Vec<(Bytes, Option<Written>)>,
    bytes: usize,
    bytes_max: usize,
}

impl Buffer {
    pub fn new(bytes_max: usize) -> Self {
        Self {
            rows: BTreeMap::new(),
            undo: Vec::new(),
            bytes: 0,
            bytes_max,
        }
    }

    pub fn rows(&self) -> &BTreeMap<Bytes, Written> {
        &self.rows
    }

    /// To return to.
    pub fn mark(&self) -> usize {
        self.undo.len()
    }

    pub fn rollback_to(&mut self, mark: usize) {
        while self.undo.len() > mark {
            let Some((key, before)) = self.undo.pop() else {
                return;
            };
            let after = match before {
                Some(before) => {
                    self.bytes += size(&key, &before);
                    self.rows.insert(key.clone(), before)
                }
                None => self.rows.remove(&key),
            };
            if let Some(after) = after {
                self.bytes -= size(&key, &after);
            }
        }
    }

    fn write(&mut self, key: Bytes, written: Written) -> Result<()> {
        let bytes = self.bytes + size(&key, &written);
        if bytes > self.bytes_max {
            return Err(Error::new(
                "54000",
                format!(
                    "the transaction writes more than write_set_bytes_max = {} bytes",
                    self.bytes_max
                ),
            )
            .hint("split the work into smaller transactions, or raise write_set_bytes_max in the node's configuration"));
        }
        self.bytes = bytes;
        let before = self.rows.insert(key.clone(), written);
        if let Some(before) = &before {
            self.bytes -= size(&key, before);
        }
        self.undo.push((key, before));
        Ok(())
    }

    /// What was written in `from..to` (`to` exclusive, in both directions).
    fn range<'a>(
        &'a self,
        from: &[u8],
        to: &[u8],
    ) -> impl Iterator<Item = (&'a Bytes, &'a Written)> {
        let bounds = (Bound::Included(from), Bound::Excluded(to));
        // An empty or reversed range would panic.
        let found = (from < to).then(|| self.rows.range::<[u8], _>(bounds));
        found.into_iter().flatten()
    }
}

fn size(key: &Bytes, written: &Written) -> usize {
    key.len() + written.value.as_ref().map_or(0, Bytes::len)
}

/// See the module's documentation.
pub(super) struct TxnStore<'a> {
    pub buffer: &'a mut Buffer,
    pub rows: &'a mut dyn Rows,
    pub placement: &'a Placement,
    /// Partitions that the statements may touch: where a key of unknown slot is looked for.
    pub scope: &'a [u32],
    pub read_only: bool,
    intent: Intent,
}

impl<'a> TxnStore<'a> {
    pub fn new(
        buffer: &'a mut Buffer,
        rows: &'a mut dyn Rows,
        placement: &'a Placement,
        scope: &'a [u32],
        read_only: bool,
    ) -> Self {
        Self {
            buffer,
            rows,
            placement,
            scope,
            read_only,
            intent: Intent::Look,
        }
    }

    fn groups(&self, slot: Option<Slot>) -> Vec<u32> {
        match slot {
            Some(slot) => vec![self.placement.group_of(slot)],
            None => self.scope.to_vec(),
        }
    }

    fn get_as(&mut self, key: &[u8], slot: Option<Slot>, intent: Intent) -> Result<Option<Bytes>> {
        if let Some(written) = self.buffer.rows.get(key) {
            return Ok(written.value.clone());
        }
        for group in self.groups(slot) {
            if let Some(found) = self.rows.get(group, key, intent)? {
                return Ok(Some(found));
            }
        }
        Ok(None)
    }

    /// Asks for pieces of the range until enough rows are left over after the merge.
    fn scan_as(&mut self, scan: Scan<'_>, intent: Intent, out: &mut Vec<Row>) -> Result<()> {
        let end = out.len().saturating_add(scan.limit);
        let groups = self.groups(scan.slot);
        let (mut from, mut to) = (scan.from.to_vec(), scan.to.to_vec());
        while out.len() < end && from < to {
            let piece = Scan {
                from: &from,
                to: &to,
                ..scan
            };
            let parts = self.rows.scan(&groups, piece, intent)?;
            // A full part says nothing about what comes after its last row.
            let full = parts.iter().filter(|p| p.len() >= scan.limit);
            let ends = full.filter_map(|p| p.last().map(|(key, _)| key.clone()));
            let edge = if scan.reverse { ends.max() } else { ends.min() };
            let (part_from, part_to) = match (&edge, scan.reverse) {
                (None, _) => (from.clone(), to.clone()),
                (Some(edge), true) => (edge.to_vec(), to.clone()),
                (Some(edge), false) => (from.clone(), after(edge)),
            };
            let mut merged: BTreeMap<Bytes, Option<Bytes>> = parts
                .into_iter()
                .flatten()
                .filter(|(key, _)| part_from[..] <= key[..] && key[..] < part_to[..])
                .map(|(key, value)| (key, Some(value)))
                .collect();
            let own = self.buffer.range(&part_from, &part_to);
            for (key, written) in own.filter(|(_, w)| groups.contains(&w.group)) {
                merged.insert(key.clone(), written.value.clone());
            }
            let left = end - out.len();
            let rows = merged.into_iter().filter_map(|(k, v)| Some((k, v?)));
            if scan.reverse {
                out.extend(rows.rev().take(left));
                to = part_from;
            } else {
                out.extend(rows.take(left));
                from = part_to;
            }
            if edge.is_none() {
                return Ok(());
            }
        }
        Ok(())
    }

    fn write(&mut self, key: Bytes, slot: Option<Slot>, value: Option<Bytes>) -> Result<()> {
        if self.read_only {
            return Err(Error::new(
                "25006",
                "cannot write in a read-only transaction",
            ));
        }
        let Some(slot) = slot else {
            return Err(Error::internal("a row was written without its slot"));
        };
        let group = self.placement.group_of(slot);
        self.buffer.write(key, Written { group, value })
    }
}

/// The first key above `key`.
fn after(key: &[u8]) -> Vec<u8> {
    [key, &[0]].concat()
}

impl Store for TxnStore<'_> {
    fn get(&mut self, key: &[u8], slot: Option<Slot>) -> Result<Option<Bytes>> {
        self.get_as(key, slot, self.intent)
    }

    fn scan(&mut self, scan: Scan<'_>, out: &mut Vec<Row>) -> Result<()> {
        self.scan_as(scan, self.intent, out)
    }

    fn put(&mut self, key: Bytes, value: Bytes) -> Result<()> {
        self.write(key, None, Some(value))
    }

    fn delete(&mut self, key: &[u8]) -> Result<()> {
        self.write(Bytes::copy_from_slice(key), None, None)
    }

    fn put_at(&mut self, key: Bytes, value: Bytes, slot: Option<Slot>) -> Result<()> {
        self.write(key, slot, Some(value))
    }

    fn put_new_at(&mut self, key: Bytes, value: Bytes, slot: Option<Slot>) -> Result<()> {
        self.write(key, slot, Some(value))
    }

    fn delete_at(&mut self, key: &[u8], slot: Option<Slot>) -> Result<()> {
        self.write(Bytes::copy_from_slice(key), slot, None)
    }

    fn get_to_write(&mut self, key: &[u8], slot: Option<Slot>) -> Result<Option<Bytes>> {
        self.get_as(key, slot, Intent::Write)
    }

    fn expect(&mut self, keys: &[(Bytes, Option<Slot>)]) -> Result<()> {
        let known = |(key, slot): &(Bytes, Option<Slot>)| {
            let slot = slot.filter(|_| !self.buffer.rows.contains_key(key))?;
            Some((self.placement.group_of(slot), key.clone()))
        };
        let keys: Vec<_> = keys.iter().filter_map(known).collect();
        self.rows.expect(&keys)
    }

    fn scan_to_write(&mut self, scan: Scan<'_>, out: &mut Vec<Row>) -> Result<()> {
        self.scan_as(scan, Intent::Write, out)
    }

    fn takes_locks(&self) -> bool {
        true
    }

    fn lock_rows(&mut self, rows: &[(Bytes, Option<Slot>)], lock: RowLock) -> Result<Vec<bool>> {
        // FOR UPDATE and the like are writes as far as READ ONLY is concerned.
        if self.read_only && !rows.is_empty() {
            return Err(Error::new(
                "25006",
                "cannot lock rows in a read-only transaction",
            ));
        }
        let mut taken = vec![true; rows.len()];
        let (mut asked, mut places) = (Vec::new(), Vec::new());
        for (place, (key, slot)) in rows.iter().enumerate() {
            // A row that this transaction has written is its own.
            if self.buffer.rows.contains_key(key) {
                continue;
            }
            let Some(slot) = slot else {
                return Err(Error::internal("a row was locked without its slot"));
            };
            asked.push((self.placement.group_of(*slot), key.clone()));
            places.push(place);
        }
        if !asked.is_empty() {
            let answers = self.rows.lock(&asked, lock)?;
            for (place, answer) in places.into_iter().zip(answers) {
                taken[place] = answer;
            }
        }
        Ok(taken)
    }

    fn lock(
        &mut self,
        key: &[u8],
        slot: Option<Slot>,
        mode: LockMode,
        wait: WaitPolicy,
    ) -> Result<bool> {
        let row = (Bytes::copy_from_slice(key), slot);
        let taken = self.lock_rows(&[row], RowLock { mode, wait })?;
        Ok(taken.first() == Some(&true))
    }

    fn will_lock(&mut self, lock: Option<RowLock>) {
        self.intent = lock.map_or(Intent::Look, Intent::Lock);
    }

    fn delete_range(&mut self, _from: &[u8], _to: &[u8]) -> Result<()> {
        Err(Error::unsupported(
            "dropping rows of a table inside a transaction",
        ))
    }

    fn savepoint(&mut self) -> usize {
        self.buffer.mark()
    }

    fn rollback_to(&mut self, savepoint: usize) {
        self.buffer.rollback_to(savepoint);
    }
}
