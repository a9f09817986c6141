//! The state store on RocksDB: one database per partition replica, one column family, no WAL (the Raft log is the WAL).
//!
//! Key spaces by first byte: `m` meta, `c` current rows (`c key -> ts value`), `h` history (`h end_ts key -> start_ts value`),
//! `s` session replies (`s session place -> number reply`), `e` evicted sessions.
//!
//! What holds: everything an `apply` call changes is one `WriteBatch` (I8), which lands in one memtable, so that what is on
//! disk after a crash is the state after some whole call; which one, `durable_index` reads from what was flushed.
//!
//! Left out on purpose: snapshot objects (reads take a timestamp instead) and an index of history by key: a read at `ts`
//! walks what stopped being current since, which is short for the fresh snapshots that statements use.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use rocksdb::{
    BlockBasedOptions, Cache, DB, DBCompressionType, DBRawIterator, LogLevel, Options, ReadOptions,
    ReadTier, WriteBatch, WriteBufferManager, WriteOptions,
};

use super::format::{Identity, open_directory, storage_error};
use super::state::{
    AppliedEntry, Op, SESSION_RING, SessionRecord, StateMeta, StateSnapshot, StateStore, Versioned,
    snapshot_too_old,
};
use crate::error::{Error, Result};

const META: &[u8] = b"m";
const WATERMARK: &[u8] = b"mw";
pub(super) const MEMBERS: &[u8] = b"mc";
const CURRENT: u8 = b'c';
const HISTORY: u8 = b'h';
const SESSION: u8 = b's';
const EVICTED: u8 = b'e';

/// What the databases of one node share.
#[derive(Clone)]
pub struct RocksShared {
    cache: Cache,
    buffers: WriteBufferManager,
}

impl RocksShared {
    /// `cache_bytes` for blocks and, out of them, up to `buffer_bytes` for memtables, over all partitions of the node.
    pub fn new(cache_bytes: usize, buffer_bytes: usize) -> Self {
        let cache = Cache::new_lru_cache(cache_bytes);
        let buffers = WriteBufferManager::new_write_buffer_manager_with_cache(
            buffer_bytes,
            false,
            cache.clone(),
        );
        Self { cache, buffers }
    }

    pub(super) fn options(&self) -> Options {
        let mut table = BlockBasedOptions::default();
        table.set_block_cache(&self.cache);
        table.set_bloom_filter(10.0, false);
        let mut options = Options::default();
        options.create_if_missing(true);
        options.set_block_based_table_factory(&table);
        options.set_write_buffer_manager(&self.buffers);
        options.set_write_buffer_size(32 << 20);
        options.set_compression_type(DBCompressionType::None);
        // Look-ups of absent keys (unique checks of cold tables) end in the memtable's own filter.
        options.set_memtable_prefix_bloom_ratio(0.05);
        options.set_memtable_whole_key_filtering(true);
        // Apply is the only writer: inserts need no atomics, and keys in order start where the last one ended.
        options.set_allow_concurrent_memtable_write(false);
        options.set_max_background_jobs(2);
        options.set_log_level(LogLevel::Warn);
        options.set_keep_log_file_num(2);
        options.set_max_log_file_size(1 << 20);
        options.set_stats_dump_period_sec(0);
        options
    }
}

/// See the module's description.
pub struct RocksState {
    pub(super) path: PathBuf,
    pub(super) db: DB,
    meta: Mutex<StateMeta>,
    watermark: AtomicU64,
}

impl RocksState {
    /// Opens the store in `dir`, making it if the directory is empty. F0000 if it belongs to someone else, 55006 if another
    /// process has it open.
    pub fn open(dir: &Path, shared: &RocksShared, identity: Identity) -> Result<Self> {
        open_directory(dir, "state", identity)?;
        Self::open_database(&dir.join("rocksdb"), shared)
    }

    /// As `open`, but of the database's own directory.
    pub(super) fn open_database(path: &Path, shared: &RocksShared) -> Result<Self> {
        let db = DB::open(&shared.options(), path).map_err(rocks_error)?;
        let meta = read_meta(&db)?;
        let watermark = match db.get(WATERMARK).map_err(rocks_error)? {
            Some(bytes) => be_u64(&bytes, 0)?,
            None => 0,
        };
        Ok(Self {
            path: path.to_path_buf(),
            db,
            meta: Mutex::new(meta),
            watermark: AtomicU64::new(watermark),
        })
    }

    pub(super) fn write(&self, batch: WriteBatch) -> Result<()> {
        let mut options = WriteOptions::default();
        options.disable_wal(true);
        self.db.write_opt(batch, &options).map_err(rocks_error)
    }

    pub(super) fn lock_meta(&self) -> MutexGuard<'_, StateMeta> {
        // Only whole values are assigned under this lock.
        self.meta.lock().unwrap_or_else(PoisonError::into_inner)
    }
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
        {
            self.put(history_key(ts, key), encode_row(&old));
        }
        Ok(())
    }
}

impl StateSnapshot for RocksState {
    fn get(&self, key: &[u8]) -> Result<Option<Versioned>> {
        read_row(&self.db, key)
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
        let bounds = current_bounds(from, to);
        let mut rows = Rows::start(self.db.raw_iterator_opt(bounds), reverse);
        for _ in 0..limit {
            match rows.next()? {
                Some(row) => out.push(row),
                None => break,
            }
        }
        Ok(())
    }

    fn get_at(&self, key: &[u8], ts: u64) -> Result<Option<Versioned>> {
        let to = [key, &[0]].concat();
        let mut rows = Vec::new();
        self.scan_at(key, &to, false, 1, ts, &mut rows)?;
        Ok(rows.pop().map(|(_, row)| row))
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
        if from >= to {
            return Ok(());
        }
        let snapshot = self.db.snapshot();
        // After the snapshot: history dropped before it was taken is then seen to be gone.
        snapshot_too_old(ts, self.watermark.load(Ordering::SeqCst))?;
        let mut since = ReadOptions::default();
        since.set_iterate_lower_bound(history_key(ts.saturating_add(1), &[]));
        since.set_iterate_upper_bound([HISTORY + 1]);
        let mut past = history_in_range(snapshot.raw_iterator_opt(since), from, to, ts)?;
        let mut rows = Rows::start(snapshot.raw_iterator_opt(current_bounds(from, to)), reverse);
        let mut current = rows.next_at(ts)?;
        for _ in 0..limit {
            let edge = if reverse {
                past.last_key_value()
            } else {
                past.first_key_value()
            };
            let take_past = match (edge, &current) {
                (None, None) => break,
                (Some(_), None) => true,
                (None, Some(_)) => false,
                (Some((left, _)), Some((right, _))) => (left < right) != reverse,
            };
            if take_past {
                out.extend(if reverse {
                    past.pop_last()
                } else {
                    past.pop_first()
                });
            } else {
                out.extend(current.take());
                current = rows.next_at(ts)?;
            }
        }
        Ok(())
    }
}

impl StateStore for RocksState {
    fn apply(&self, entries: &[AppliedEntry]) -> Result<()> {
        let mut meta = self.meta();
        let mut gather = Gather {
            db: &self.db,
            batch: WriteBatch::default(),
            records: Vec::new(),
            rows: HashMap::new(),
            last: false,
            dropped: Vec::new(),
        };
        let start = meta.applied_index;
        for (place, entry) in entries.iter().enumerate() {
            gather.last = place + 1 == entries.len();
            if entry.index > meta.applied_index {
                gather.entry(entry)?;
                meta.advance(entry);
            }
        }
        if meta.applied_index > start {
            // I8: rows, history, sessions and the applied index are one atomic write.
            gather.put(META.to_vec(), encode_meta(&meta));
            if entries.iter().any(|entry| entry.members.is_some()) {
                gather.put(MEMBERS.to_vec(), meta.members.to_vec());
            }
            gather.sort_in();
            self.write(gather.batch)?;
            *self.lock_meta() = meta;
        }
        Ok(())
    }

    fn meta(&self) -> StateMeta {
        self.lock_meta().clone()
    }

    fn durable_index(&self) -> u64 {
        let mut options = ReadOptions::default();
        options.set_read_tier(ReadTier::Persisted);
        // Unreadable means not known to be durable.
        let flushed = self.db.get_opt(META, &options).ok().flatten();
        flushed
            .and_then(|bytes| decode_meta(&bytes).ok())
            .map_or(0, |meta| meta.applied_index)
    }

    fn flush(&self) -> Result<()> {
        self.db.flush().map_err(rocks_error)
    }

    fn sessions(&self) -> Result<Vec<SessionRecord>> {
        let mut records = Vec::new();
        each(&self.db, SESSION, |key, value| {
            records.push(SessionRecord {
                session: be_u128(key, 1)?,
                number: be_u64(value, 0)?,
                reply: Bytes::copy_from_slice(&value[8..]),
            });
            Ok(())
        })?;
        Ok(records)
    }

    fn evicted_sessions(&self) -> Result<Vec<u128>> {
        let mut sessions = Vec::new();
        each(&self.db, EVICTED, |key, _| {
            sessions.push(be_u128(key, 1)?);
            Ok(())
        })?;
        Ok(sessions)
    }

    fn drop_history(&self, ts: u64) -> Result<()> {
        let before = self.watermark.fetch_max(ts, Ordering::SeqCst);
        if ts <= before {
            return Ok(());
        }
        let mut batch = WriteBatch::default();
        batch.delete_range(
            history_key(before, &[]),
            history_key(ts.saturating_add(1), &[]),
        );
        batch.put(WATERMARK, ts.to_be_bytes());
        self.write(batch)
    }

    fn size_bytes(&self) -> u64 {
        let property = |name: &str| self.db.property_int_value(name).ok().flatten().unwrap_or(0);
        property("rocksdb.total-sst-files-size") + property("rocksdb.cur-size-all-mem-tables")
    }
}

/// Walks current rows in one direction.
struct Rows<'a> {
    iterator: DBRawIterator<'a>,
    reverse: bool,
    started: bool,
}

impl<'a> Rows<'a> {
    fn start(iterator: DBRawIterator<'a>, reverse: bool) -> Self {
        Self {
            iterator,
            reverse,
            started: false,
        }
    }

    fn next(&mut self) -> Result<Option<(Bytes, Versioned)>> {
        match (std::mem::replace(&mut self.started, true), self.reverse) {
            (false, false) => self.iterator.seek_to_first(),
            (false, true) => self.iterator.seek_to_last(),
            (true, false) => self.iterator.next(),
            (true, true) => self.iterator.prev(),
        }
        match self.iterator.item() {
            Some((key, value)) => Ok(Some((
                Bytes::copy_from_slice(&key[1..]),
                decode_row(value)?,
            ))),
            None => self.iterator.status().map(|()| None).map_err(rocks_error),
        }
    }

    /// The next row that was already there at `ts`.
    fn next_at(&mut self, ts: u64) -> Result<Option<(Bytes, Versioned)>> {
        while let Some((key, row)) = self.next()? {
            if row.ts <= ts {
                return Ok(Some((key, row)));
            }
        }
        Ok(None)
    }
}

/// Rows of `from..to` that were current at `ts` and are not any more; `iterator` walks what ended after `ts`.
fn history_in_range(
    mut iterator: DBRawIterator<'_>,
    from: &[u8],
    to: &[u8],
    ts: u64,
) -> Result<BTreeMap<Bytes, Versioned>> {
    let mut rows = BTreeMap::new();
    iterator.seek_to_first();
    while let Some((history_key, value)) = iterator.item() {
        let key = &history_key[9..];
        if key >= from && key < to && be_u64(value, 0)? <= ts {
            rows.insert(Bytes::copy_from_slice(key), decode_row(value)?);
        }
        iterator.next();
    }
    iterator.status().map_err(rocks_error)?;
    Ok(rows)
}

fn each(db: &DB, space: u8, mut visit: impl FnMut(&[u8], &[u8]) -> Result<()>) -> Result<()> {
    let mut options = ReadOptions::default();
    options.set_iterate_lower_bound([space]);
    options.set_iterate_upper_bound([space + 1]);
    let mut iterator = db.raw_iterator_opt(options);
    iterator.seek_to_first();
    while let Some((key, value)) = iterator.item() {
        visit(key, value)?;
        iterator.next();
    }
    iterator.status().map_err(rocks_error)
}

fn read_row(db: &DB, key: &[u8]) -> Result<Option<Versioned>> {
    match db.get_pinned(current_key(key)).map_err(rocks_error)? {
        Some(bytes) => decode_row(&bytes).map(Some),
        None => Ok(None),
    }
}

fn current_bounds(from: &[u8], to: &[u8]) -> ReadOptions {
    let mut options = ReadOptions::default();
    options.set_iterate_lower_bound(current_key(from));
    options.set_iterate_upper_bound(current_key(to));
    options
}

fn current_key(key: &[u8]) -> Vec<u8> {
    [&[CURRENT][..], key].concat()
}

fn history_key(end_ts: u64, key: &[u8]) -> Vec<u8> {
    [&[HISTORY][..], &end_ts.to_be_bytes(), key].concat()
}

fn session_key(session: u128, place: u64) -> Vec<u8> {
    // Places are below 1,024: two bytes hold them and the end of the ring.
    [
        &[SESSION][..],
        &session.to_be_bytes(),
        &(place as u16).to_be_bytes(),
    ]
    .concat()
}

fn encode_row(row: &Versioned) -> Vec<u8> {
    [&row.ts.to_be_bytes()[..], &row.value].concat()
}

fn decode_row(bytes: &[u8]) -> Result<Versioned> {
    Ok(Versioned {
        ts: be_u64(bytes, 0)?,
        value: Bytes::copy_from_slice(&bytes[8..]),
    })
}

pub(super) fn read_meta(db: &DB) -> Result<StateMeta> {
    let mut meta = match db.get(META).map_err(rocks_error)? {
        Some(bytes) => decode_meta(&bytes)?,
        None => StateMeta::default(),
    };
    meta.members = db
        .get(MEMBERS)
        .map_err(rocks_error)?
        .unwrap_or_default()
        .into();
    Ok(meta)
}

fn encode_meta(meta: &StateMeta) -> Vec<u8> {
    let fields = [
        meta.applied_index,
        meta.applied_term,
        meta.last_ts,
        meta.ceiling,
    ];
    fields
        .iter()
        .flat_map(|field| field.to_be_bytes())
        .collect()
}

fn decode_meta(bytes: &[u8]) -> Result<StateMeta> {
    Ok(StateMeta {
        applied_index: be_u64(bytes, 0)?,
        applied_term: be_u64(bytes, 8)?,
        last_ts: be_u64(bytes, 16)?,
        ceiling: be_u64(bytes, 24)?,
        members: Bytes::new(),
    })
}

fn be_u64(bytes: &[u8], at: usize) -> Result<u64> {
    let field = bytes.get(at..).and_then(|rest| rest.first_chunk());
    field
        .map(|field| u64::from_be_bytes(*field))
        .ok_or_else(corrupt)
}

fn be_u128(bytes: &[u8], at: usize) -> Result<u128> {
    let field = bytes.get(at..).and_then(|rest| rest.first_chunk());
    field
        .map(|field| u128::from_be_bytes(*field))
        .ok_or_else(corrupt)
}

fn corrupt() -> Error {
    Error::new(
        "XX001",
        "a record of the state store is shorter than its fields",
    )
    .hint(
        "the data directory is damaged: remove it and let the node copy the state from the others",
    )
}

pub(super) fn rocks_error(error: rocksdb::Error) -> Error {
    storage_error(&format!("state store: {error}"))
}
