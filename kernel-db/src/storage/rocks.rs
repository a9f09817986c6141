//! The state store on RocksDB: one database per partition replica, one column family, no WAL (the Raft log is the WAL).
//!
//! What was applied since the last spill is in memory (`recent.rs`); a spill gives its net effect to RocksDB, mostly as a
//! file of sorted records. Readers see both.
//!
//! What holds: a spill is atomic and carries the applied index (I8), so that what is on disk after a crash is the state
//! after some whole `apply` call; which one, `durable_index` reads from what was flushed. A checkpoint of the RocksDB
//! directory has the state of the last spill: call `flush` before, or take the applied index from the checkpoint.
//!
//! Memory: up to `RECENT_BYTES_MAX` per partition and `buffer_bytes` over all partitions of the node (and
//! `RECENT_BYTES_MIN` per partition beyond that), plus one `apply` call each.
//!
//! Left out on purpose: snapshot objects (reads take a timestamp instead) and an index of history by key: a read at `ts`
//! walks what stopped being current since, which is short for the fresh snapshots that statements use.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use bytes::Bytes;
use rocksdb::{
    BlockBasedOptions, Cache, DB, DBCompressionType, LogLevel, Options, ReadOptions, ReadTier,
    WriteBatch, WriteBufferManager,
};

use super::format::{Identity, open_directory};
use super::recent::Recent;
use super::rocks_keys::{
    EVICTED, HISTORY, META, SESSION, WATERMARK, be_u64, be_u128, current_bounds, decode_meta,
    history_key, read_meta, rocks_error,
};
use super::rocks_rows::{Merged, each, ended, history_in_range, read_row};
use super::rocks_write::{
    apply_rare, is_rare, remove_left_over, spill_as_batch, spill_as_file, write,
};
use super::state::{
    AppliedEntry, Ended, Op, SESSION_RING, SessionRecord, StateMeta, StateSnapshot, StateStore,
    Versioned, snapshot_too_old,
};
use crate::error::{Error, Result};

/// Memory of one partition's recent changes: past it they are spilled. A larger one spares more rewrites of hot rows, and
/// makes the log that a restart replays longer.
const RECENT_BYTES_MAX: usize = 32 << 20;
/// While all partitions together are over their bound, those with more than this spill.
const RECENT_BYTES_MIN: usize = 1 << 20;
/// Spills of less go through the memtable: a file is not worth its fsync.
const FILE_BYTES_MIN: usize = 4 << 20;
/// Spills that are merged at once. More of them rewrite less, and make reads look at more files.
const LEVEL_ZERO_FILES: i32 = 8;
/// What RocksDB leaves to the page cache before it asks for it to be written.
const WRITE_BEHIND_BYTES: u64 = 512 << 10;
/// Changes written under one lock of the recent ones, which readers on the core may wait for.
const LOCK_OPS: usize = 16;

/// What the databases of one node share.
#[derive(Clone)]
pub struct RocksShared {
    cache: Cache,
    buffers: WriteBufferManager,
    buffer_bytes: usize,
    /// Recent changes of all partitions.
    recent_bytes: Arc<AtomicUsize>,
    file_bytes_min: usize,
}

impl RocksShared {
    /// `cache_bytes` for blocks and, out of them, up to `buffer_bytes` for memtables, over all partitions of the node; as
    /// much again for changes that RocksDB was not given yet.
    pub fn new(cache_bytes: usize, buffer_bytes: usize) -> Self {
        let cache = Cache::new_lru_cache(cache_bytes);
        let buffers = WriteBufferManager::new_write_buffer_manager_with_cache(
            buffer_bytes,
            false,
            cache.clone(),
        );
        Self {
            cache,
            buffers,
            buffer_bytes,
            recent_bytes: Arc::default(),
            file_bytes_min: FILE_BYTES_MIN,
        }
    }

    /// Every spill is a file, however small.
    #[cfg(test)]
    pub(super) fn with_files_only(mut self) -> Self {
        self.file_bytes_min = 0;
        self
    }

    #[cfg(test)]
    pub(super) fn recent_bytes(&self) -> usize {
        self.recent_bytes.load(Ordering::Relaxed)
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
        // Spills are files of all keys: merging them rewrites the level below.
        options.set_level_zero_file_num_compaction_trigger(LEVEL_ZERO_FILES);
        options.set_max_background_jobs(2);
        // Files go to the disk as they are written: all at once they would keep the log's fdatasyncs waiting.
        options.set_bytes_per_sync(WRITE_BEHIND_BYTES);
        options.set_log_level(LogLevel::Warn);
        options.set_keep_log_file_num(2);
        options.set_max_log_file_size(1 << 20);
        options.set_stats_dump_period_sec(0);
        options
    }
}

/// See the module's description. Locks are taken in the order of the fields.
pub struct RocksState {
    pub(super) path: PathBuf,
    pub(super) db: DB,
    shared: RocksShared,
    /// A spill's file before RocksDB takes it over.
    spill_path: PathBuf,
    /// Held by whoever changes anything.
    writer: Mutex<Writer>,
    recent: RwLock<Recent>,
    meta: Mutex<StateMeta>,
    watermark: AtomicU64,
}

#[derive(Default)]
struct Writer {
    /// The memtable holds records that are not flushed.
    unflushed: bool,
    /// An `apply` ended half-way: nothing of it may reach the disk.
    broken: bool,
    /// What this store has added to `RocksShared::recent_bytes`.
    counted: usize,
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
        let spill_path = path.with_extension("spill");
        remove_left_over(&spill_path)?;
        let meta = read_meta(&db)?;
        let watermark = match db.get(WATERMARK).map_err(rocks_error)? {
            Some(bytes) => be_u64(&bytes, 0)?,
            None => 0,
        };
        Ok(Self {
            path: path.to_path_buf(),
            db,
            shared: shared.clone(),
            spill_path,
            writer: Mutex::default(),
            recent: RwLock::default(),
            meta: Mutex::new(meta),
            watermark: AtomicU64::new(watermark),
        })
    }

    /// Gives the recent changes to RocksDB; they are then durable if they went as a file.
    fn spill(&self, writer: &mut Writer) -> Result<()> {
        if writer.broken {
            return Err(Error::internal("the state store has failed before"));
        }
        let recent = self.read_recent();
        let meta = self.meta();
        // I8: rows, history, sessions and the applied index are one atomic write.
        if recent.bytes() < self.shared.file_bytes_min {
            if recent.bytes() > 0 {
                spill_as_batch(&self.db, &recent, &meta)?;
                writer.unflushed = true;
            }
        } else {
            if std::mem::take(&mut writer.unflushed) {
                self.db.flush().map_err(rocks_error)?;
            }
            let options = self.shared.options();
            spill_as_file(&self.db, &options, &self.spill_path, &recent, &meta)?;
        }
        drop(recent);
        // Freed behind the lock: readers on the core would wait for it.
        let spilled = std::mem::take(&mut *self.write_recent());
        drop(spilled);
        self.count(writer, 0);
        Ok(())
    }

    /// Keeps the sum over all partitions.
    fn count(&self, writer: &mut Writer, bytes: usize) -> usize {
        let before = std::mem::replace(&mut writer.counted, bytes);
        let all = &self.shared.recent_bytes;
        all.fetch_sub(before, Ordering::Relaxed);
        all.fetch_add(bytes, Ordering::Relaxed) + bytes
    }

    fn apply_entry(&self, entry: &AppliedEntry) -> Result<()> {
        let own = std::iter::once((entry.ts, &entry.ops));
        let settled = entry
            .sections
            .iter()
            .map(|section| (section.ts, &section.ops));
        let pieces = own
            .chain(settled)
            .flat_map(|(ts, ops)| ops.chunks(LOCK_OPS).map(move |ops| (ts, ops)));
        for (ts, ops) in pieces {
            let mut recent = self.write_recent();
            for op in ops {
                let (key, value, fresh) = match op {
                    Op::Put { key, value, fresh } => (key, Some(value), *fresh),
                    Op::Delete { key } => (key, None, false),
                    Op::DeleteRange { .. } => {
                        return Err(Error::internal("a dropped range among recent changes"));
                    }
                };
                let stored = || {
                    if fresh {
                        Ok(None)
                    } else {
                        read_row(&self.db, key)
                    }
                };
                recent.write(key, value, ts, stored)?;
            }
        }
        let mut recent = self.write_recent();
        for record in &entry.sessions {
            recent.keep_reply(record);
        }
        Ok(())
    }

    fn lock_writer(&self) -> MutexGuard<'_, Writer> {
        self.writer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn read_recent(&self) -> RwLockReadGuard<'_, Recent> {
        self.recent.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write_recent(&self) -> RwLockWriteGuard<'_, Recent> {
        self.recent.write().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn lock_meta(&self) -> MutexGuard<'_, StateMeta> {
        // Only whole values are assigned under this lock.
        self.meta.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl StateSnapshot for RocksState {
    fn get(&self, key: &[u8]) -> Result<Option<Versioned>> {
        if let Some(row) = self.read_recent().get(key) {
            return Ok(row.clone());
        }
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
        // The lock comes first: what a spill takes out of the recent changes is then in what the iterator sees.
        let recent = self.read_recent();
        let mut rows = Merged::start(self.db.raw_iterator_opt(bounds), &recent, from, to, reverse);
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
        // As in `scan`; rows of entries that are half applied are above `ts`, what they replace is in the history.
        let recent = self.read_recent();
        let snapshot = self.db.snapshot();
        // After the snapshot: history dropped before it was taken is then seen to be gone.
        snapshot_too_old(ts, self.watermark.load(Ordering::SeqCst))?;
        let mut since = ReadOptions::default();
        since.set_iterate_lower_bound(history_key(ts.saturating_add(1), &[]));
        since.set_iterate_upper_bound([HISTORY + 1]);
        let since = snapshot.raw_iterator_opt(since);
        let mut past = history_in_range(since, &recent, from, to, ts)?;
        let stored = snapshot.raw_iterator_opt(current_bounds(from, to));
        let mut rows = Merged::start(stored, &recent, from, to, reverse);
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

    fn ended_after(
        &self,
        ts: u64,
        after: Option<(u64, &[u8])>,
        limit: usize,
        out: &mut Vec<Ended>,
    ) -> Result<()> {
        // As in `scan_at`.
        let recent = self.read_recent();
        let snapshot = self.db.snapshot();
        snapshot_too_old(ts, self.watermark.load(Ordering::SeqCst))?;
        let mut behind = ReadOptions::default();
        behind.set_iterate_lower_bound(match after {
            Some((end, key)) => [&history_key(end, key)[..], &[0]].concat(),
            None => history_key(ts.saturating_add(1), &[]),
        });
        behind.set_iterate_upper_bound([HISTORY + 1]);
        let stored = snapshot.raw_iterator_opt(behind);
        out.extend(ended(stored, &recent, ts, after, limit)?);
        Ok(())
    }
}

impl StateStore for RocksState {
    fn apply(&self, entries: &[AppliedEntry]) -> Result<()> {
        let mut writer = self.lock_writer();
        let mut meta = self.meta();
        let start = meta.applied_index;
        let new: Vec<&AppliedEntry> = entries.iter().filter(|e| e.index > start).collect();
        for entry in &new {
            meta.advance(entry);
        }
        if new.iter().any(|entry| is_rare(entry)) {
            self.spill(&mut writer)?;
            apply_rare(&self.db, &new, &meta)?;
            writer.unflushed = true;
            *self.lock_meta() = meta;
            return Ok(());
        }
        // Until the applied index is there too: I8.
        writer.broken = true;
        for entry in &new {
            self.apply_entry(entry)?;
        }
        *self.lock_meta() = meta;
        writer.broken = false;
        let own = self.read_recent().bytes();
        let all = self.count(&mut writer, own);
        let bound = self.shared.buffer_bytes;
        if own > RECENT_BYTES_MAX.min(bound) || (all > bound && own > RECENT_BYTES_MIN) {
            self.spill(&mut writer)?;
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
        let mut writer = self.lock_writer();
        self.spill(&mut writer)?;
        if std::mem::take(&mut writer.unflushed) {
            self.db.flush().map_err(rocks_error)?;
        }
        Ok(())
    }

    fn sessions(&self) -> Result<Vec<SessionRecord>> {
        // As in `scan`: the lock comes first.
        let recent = self.read_recent();
        let mut records = BTreeMap::new();
        each(&self.db, SESSION, |key, value| {
            let (session, number) = (be_u128(key, 1)?, be_u64(value, 0)?);
            let reply = Bytes::copy_from_slice(&value[8..]);
            records.insert((session, number % SESSION_RING), (number, reply));
            Ok(())
        })?;
        records.extend(recent.replies().map(|(place, kept)| (*place, kept.clone())));
        let record = |((session, _), (number, reply))| SessionRecord {
            session,
            number,
            reply,
        };
        Ok(records.into_iter().map(record).collect())
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
        let mut writer = self.lock_writer();
        let before = self.watermark.fetch_max(ts, Ordering::SeqCst);
        if ts <= before {
            return Ok(());
        }
        self.write_recent().drop_history(ts);
        let mut batch = WriteBatch::default();
        batch.delete_range(
            history_key(before, &[]),
            history_key(ts.saturating_add(1), &[]),
        );
        batch.put(WATERMARK, ts.to_be_bytes());
        writer.unflushed = true;
        write(&self.db, batch)
    }

    fn size_bytes(&self) -> u64 {
        let property = |name: &str| self.db.property_int_value(name).ok().flatten().unwrap_or(0);
        property("rocksdb.total-sst-files-size")
            + property("rocksdb.cur-size-all-mem-tables")
            + self.read_recent().bytes() as u64
    }
}

impl Drop for RocksState {
    fn drop(&mut self) {
        let mut writer = self.lock_writer();
        // What cannot be spilled is in the log, and is replayed from there.
        let _ = self.spill(&mut writer);
        self.count(&mut writer, 0);
    }
}
