//! Whole copies of a RocksDB state store: made, looked into, and read through.

use std::path::Path;

use bytes::Bytes;
use rocksdb::checkpoint::Checkpoint;
use rocksdb::{DB, IteratorMode, Options, ReadOptions, WriteBatch};

use super::rocks::RocksState;
use super::rocks_keys::{MEMBERS, read_meta, rocks_error};
use super::rocks_write::write;
use super::state::{StateMeta, StateStore};
use crate::error::Result;

impl RocksState {
    /// The database's directory.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Flushes, and makes a copy in `to`, which must not exist: hard links where the file system has them.
    pub(super) fn copy_to(&self, to: &Path) -> Result<()> {
        self.flush()?;
        let checkpoint = Checkpoint::new(&self.db).map_err(rocks_error)?;
        checkpoint.create_checkpoint(to).map_err(rocks_error)
    }

    /// What a copy says about itself.
    pub(super) fn meta_of(path: &Path) -> Result<StateMeta> {
        let db = DB::open_for_read_only(&Options::default(), path, false).map_err(rocks_error)?;
        read_meta(&db)
    }

    /// Reads everything with its checksums; an error says what is damaged.
    pub(super) fn read_all(path: &Path) -> Result<()> {
        let db = DB::open_for_read_only(&Options::default(), path, false).map_err(rocks_error)?;
        let mut options = ReadOptions::default();
        options.set_verify_checksums(true);
        options.fill_cache(false);
        for row in db.iterator_opt(IteratorMode::Start, options) {
            row.map_err(rocks_error)?;
        }
        Ok(())
    }

    /// Members of the group, for a state that knows none itself: durable when this returns.
    pub(super) fn adopt_members(&self, members: &Bytes) -> Result<()> {
        if members.is_empty() || !self.lock_meta().members.is_empty() {
            return Ok(());
        }
        let mut batch = WriteBatch::default();
        batch.put(MEMBERS, members);
        write(&self.db, batch)?;
        self.db.flush().map_err(rocks_error)?;
        self.lock_meta().members = members.clone();
        Ok(())
    }
}
