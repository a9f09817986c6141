//! Writing to RocksDB: the net effect of many entries as one file or one batch, and entries with rare changes one by one.
//!
//! What holds: either way rows, history, sessions and the applied index arrive together (I8): a file is taken in whole or
//! not at all, and a batch lands in one memtable.

use std::collections::HashMap;
use std::path::Path;

use bytes::Bytes;
use rocksdb::{DB, IngestExternalFileOptions, Options, SstFileWriter, WriteBatch, WriteOptions};

use super::recent::Recent;
use super::rocks_keys::{
    CURRENT, EVICTED, MEMBERS, META, current_key, encode_meta, encode_row, history_key,
    rocks_error, session_key,
};
use super::rocks_rows::read_row;
use super::state::{
    AppliedEntry, Op, SESSION_RING, SessionRecord, StateMeta, Versioned, has_history,
};
use crate::error::{Error, Result};

/// Writes a batch without RocksDB's own log: the Raft log is it.
pub(super) fn write(db: &DB, batch: WriteBatch) -> Result<()> {
    let mut options = WriteOptions::default();
    options.disable_wal(true);
    db.write_opt(batch, &options).map_err(rocks_error)
}

/// Receives records in order of keys; without a value the key is deleted.
type Record<'r> = dyn FnMut(&[u8], Option<&[u8]>) -> Result<()> + 'r;

/// Everything in `recent`, and `meta`, in order of RocksDB's keys: `c`, `h`, `m`, `s`.
fn records(recent: &Recent, meta: &StateMeta, record: &mut Record<'_>) -> Result<()> {
    let (mut key, mut value) = (Vec::new(), Vec::new());
    for (row_key, slot) in recent.rows() {
        key.clear();
        key.push(CURRENT);
        key.extend_from_slice(row_key);
        match &slot.row {
            Some(row) => record(&key, Some(fill_row(&mut value, row)))?,
            None => record(&key, None)?,
        }
    }
    let mut history: Vec<_> = recent.ended_after(0).iter().collect();
    history.sort_unstable_by(|a, b| (a.end, &a.key).cmp(&(b.end, &b.key)));
    for past in history {
        let key = history_key(past.end, &past.key);
        record(&key, Some(fill_row(&mut value, &past.row)))?;
    }
    record(META, Some(&encode_meta(meta)))?;
    let mut replies: Vec<_> = recent.replies().collect();
    replies.sort_unstable_by_key(|(place, _)| **place);
    for ((session, place), (number, reply)) in replies {
        let key = session_key(*session, *place);
        value.clear();
        value.extend_from_slice(&number.to_be_bytes());
        value.extend_from_slice(reply);
        record(&key, Some(&value))?;
    }
    Ok(())
}

fn fill_row<'v>(value: &'v mut Vec<u8>, row: &Versioned) -> &'v [u8] {
    value.clear();
    value.extend_from_slice(&row.ts.to_be_bytes());
    value.extend_from_slice(&row.value);
    value
}

/// Gives `recent` to RocksDB as a batch: applied, not yet durable.
pub(super) fn spill_as_batch(db: &DB, recent: &Recent, meta: &StateMeta) -> Result<()> {
    let mut batch = WriteBatch::default();
    records(recent, meta, &mut |key, value| {
        match value {
            Some(value) => batch.put(key, value),
            None => batch.delete(key),
        }
        Ok(())
    })?;
    write(db, batch)
}

/// Gives `recent` to RocksDB as a file of sorted records: applied and durable, and dearer by one fsync, but without a
/// search in a memtable for every record. The memtable must hold nothing that is not flushed.
pub(super) fn spill_as_file(
    db: &DB,
    options: &Options,
    path: &Path,
    recent: &Recent,
    meta: &StateMeta,
) -> Result<()> {
    let mut file = SstFileWriter::create(options);
    file.open(path).map_err(rocks_error)?;
    records(recent, meta, &mut |key, value| {
        match value {
            Some(value) => file.put(key, value),
            None => file.delete(key),
        }
        .map_err(rocks_error)
    })?;
    file.finish().map_err(rocks_error)?;
    let mut ingest = IngestExternalFileOptions::default();
    ingest.set_move_files(true);
    db.ingest_external_file_opts(&ingest, vec![path])
        .map_err(rocks_error)
}

/// Removes what a crash left of a file that was not taken in.
pub(super) fn remove_left_over(path: &Path) -> Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(Error::new(
            "58030",
            format!("cannot remove {}: {error}", path.display()),
        )),
        _ => Ok(()),
    }
}

/// Entries that drop ranges, evict sessions or change the members go to RocksDB at once, where nothing is recent: with all others of their call.
pub(super) fn is_rare(entry: &AppliedEntry) -> bool {
    let drops = |op: &Op| matches!(op, Op::DeleteRange { .. });
    !entry.evicted.is_empty() || entry.members.is_some() || entry.ops.iter().any(drops)
}

/// Applies entries as one batch. `meta` is as it is after them.
pub(super) fn apply_rare(db: &DB, entries: &[&AppliedEntry], meta: &StateMeta) -> Result<()> {
    let mut gather = Gather {
        db,
        batch: WriteBatch::default(),
        records: Vec::new(),
        rows: HashMap::new(),
        last: false,
        dropped: Vec::new(),
    };
    for (place, entry) in entries.iter().enumerate() {
        gather.last = place + 1 == entries.len();
        gather.entry(entry)?;
    }
    gather.put(META.to_vec(), encode_meta(meta));
    if !meta.members.is_empty() {
        gather.put(MEMBERS.to_vec(), meta.members.to_vec());
    }
    gather.sort_in();
    write(db, gather.batch)
}

/// The changes of one `apply` call while they are gathered.
struct Gather<'a> {
    db: &'a DB,
    batch: WriteBatch,
    /// Records put (or, without a value, deleted) and not in `batch` yet.
    records: Vec<(Vec<u8>, Option<Vec<u8>>)>,
    /// Current rows as the entries before the last leave them, so that later entries of the call see earlier ones.
    rows: HashMap<Bytes, Option<Versioned>>,
    /// This entry is the call's last one.
    last: bool,
    dropped: Vec<(Bytes, Bytes)>,
}

impl Gather<'_> {
    fn entry(&mut self, entry: &AppliedEntry) -> Result<()> {
        for (ts, op) in entry.changes() {
            match op {
                Op::Put { key, value, fresh } => {
                    self.retire(key, *fresh, ts)?;
                    let row = Versioned {
                        ts,
                        value: value.clone(),
                    };
                    self.put(current_key(key), encode_row(&row));
                    self.note(key, Some(row));
                }
                Op::Delete { key } => {
                    self.retire(key, false, ts)?;
                    self.records.push((current_key(key), None));
                    self.note(key, None);
                }
                Op::DeleteRange { from, to } => {
                    self.sort_in();
                    self.batch.delete_range(current_key(from), current_key(to));
                    self.rows.retain(|key, _| key < from || key >= to);
                    self.dropped.push((from.clone(), to.clone()));
                }
            }
        }
        for SessionRecord {
            session,
            number,
            reply,
        } in &entry.sessions
        {
            let value = [&number.to_be_bytes()[..], reply].concat();
            self.put(session_key(*session, number % SESSION_RING), value);
        }
        for session in &entry.evicted {
            self.sort_in();
            self.batch.delete_range(
                session_key(*session, 0),
                session_key(*session, SESSION_RING),
            );
            self.put(
                [&[EVICTED][..], &session.to_be_bytes()].concat(),
                Vec::new(),
            );
        }
        Ok(())
    }

    fn put(&mut self, key: Vec<u8>, value: Vec<u8>) {
        self.records.push((key, Some(value)));
    }

    fn note(&mut self, key: &Bytes, row: Option<Versioned>) {
        if !self.last {
            self.rows.insert(key.clone(), row);
        }
    }

    /// Moves the records to the batch: in order of keys, which a memtable takes faster, and of each key only the last.
    fn sort_in(&mut self) {
        self.records
            .sort_by(|(left, _), (right, _)| left.cmp(right));
        let mut records = self.records.drain(..).peekable();
        while let Some((key, value)) = records.next() {
            if records.peek().is_some_and(|(next, _)| *next == key) {
                continue;
            }
            match value {
                Some(value) => self.batch.put(key, value),
                None => self.batch.delete(key),
            }
        }
    }

    /// Moves the current version of `key`, if there is one, to the history, which it enters at `ts`.
    fn retire(&mut self, key: &Bytes, fresh: bool, ts: u64) -> Result<()> {
        let old = match self.rows.get(key) {
            Some(row) => row.clone(),
            None if fresh
                || self
                    .dropped
                    .iter()
                    .any(|(from, to)| from <= key && to > key) =>
            {
                None
            }
            None => read_row(self.db, key)?,
        };
        if let Some(old) = old
            && old.ts < ts
            && has_history(key)
        {
            self.put(history_key(ts, key), encode_row(&old));
        }
        Ok(())
    }
}
