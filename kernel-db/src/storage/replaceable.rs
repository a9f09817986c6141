//! A RocksDB state store that a checkpoint can take the place of while it is in use.
//!
//! Directory of one replica: `FORMAT` (whose it is), `CURRENT` (name of the database in use, and the index and term of the
//! checkpoint that it began as; absent as long as it began empty), `rocksdb` or `rocksdb-<id>` (the databases),
//! `checkpoints/<id>` (offered to others), `incoming/<id>` (arriving).
//!
//! What holds: `CURRENT` is replaced by one rename, after the new database is in its place, synced, opened and known to be
//! what the checkpoint said; so a crash at any line leaves the old state or the new one. What `CURRENT` does not name is
//! removed at the next start, or when its last reader is done.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, RwLock};

use bytes::Bytes;

use super::files::{directories, make_dir, remove_dir, replace_text, sync_dir};
use super::format::{Identity, io_error, open_directory};
use super::rocks::{RocksShared, RocksState};
use super::state::{
    AppliedEntry, Checkpoint, Ended, SessionRecord, StateMeta, StateSnapshot, StateStore, Versioned,
};
use super::transfer::{INCOMING, Manifest, OUTGOING, damaged, incoming_dir, outgoing_dir};
use crate::error::{Error, Result};

const CURRENT: &str = "CURRENT";
const FIRST: &str = "rocksdb";
/// Before the name of a replica's directory that is to go.
const DROPPED: &str = "dropped-";

/// See the module's description.
pub struct ReplaceableState {
    dir: PathBuf,
    shared: RocksShared,
    now: RwLock<Arc<Held>>,
    /// One checkpoint is made, or removed, at a time.
    offering: Mutex<()>,
    // Dropped after the database.
    doomed: Garbage,
}

/// A database with what is to be done when nobody reads it any more.
struct Held {
    // Declared, and so dropped, before the directory is removed.
    state: RocksState,
    origin: (u64, u64),
    garbage: Garbage,
}

/// Removes a directory at the end, if there is one to remove.
struct Garbage(OnceLock<PathBuf>);

impl Drop for Garbage {
    fn drop(&mut self) {
        if let Some(dir) = self.0.get()
            && let Err(error) = remove_dir(dir)
        {
            tracing::warn!("{error}");
        }
    }
}

fn dropped_dir(dir: &Path) -> PathBuf {
    let name = dir.file_name().unwrap_or_default().to_string_lossy();
    dir.with_file_name(format!("{DROPPED}{name}"))
}

impl ReplaceableState {
    /// Opens the state in `dir`, making it if the directory is empty. F0000 if it belongs to someone else, 55006 if another
    /// process has it open, XX001 if `CURRENT` is damaged.
    pub fn open(dir: &Path, shared: &RocksShared, identity: Identity) -> Result<Self> {
        // Left by a process that ended too early.
        remove_dir(&dropped_dir(dir))?;
        open_directory(dir, "state", identity)?;
        let (name, origin) = current(dir)?;
        let wanted = dir.join(&name);
        for found in directories(dir)? {
            let is_database = found
                .file_name()
                .is_some_and(|n| n.to_string_lossy().starts_with(FIRST));
            if is_database && found != wanted {
                remove_dir(&found)?;
            }
        }
        // Offers end with the process that made them; what was arriving may go on.
        remove_dir(&dir.join(OUTGOING))?;
        let state = RocksState::open_database(&wanted, shared)?;
        if state.meta().applied_index < origin.0 {
            return Err(Error::new(
                "XX001",
                format!(
                    "{} holds entries up to {}, but began with a checkpoint at {}",
                    wanted.display(),
                    state.meta().applied_index,
                    origin.0
                ),
            )
            .hint("the data directory is damaged: remove this node and add it again with an empty one"));
        }
        Ok(Self {
            dir: dir.to_path_buf(),
            shared: shared.clone(),
            now: RwLock::new(Arc::new(Held {
                state,
                origin,
                garbage: Garbage(OnceLock::new()),
            })),
            offering: Mutex::new(()),
            doomed: Garbage(OnceLock::new()),
        })
    }

    fn held(&self) -> Arc<Held> {
        // Only whole values are assigned under this lock.
        Arc::clone(&self.now.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// The replica's directory, for `transfer`.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Reads all of an arrived checkpoint, so that a damaged one is known before it is installed.
    pub fn verify(&self, path: &Path) -> Result<()> {
        RocksState::read_all(path)
    }

    /// Writes down the first members of the group, unless members are known: a configuration that changes later must not
    /// change them.
    pub fn found(&self, voters: &[u64]) -> Result<()> {
        if voters.is_empty() {
            return Ok(());
        }
        let conf = raft::eraftpb::ConfState::from((voters.to_vec(), Vec::new()));
        let members = protobuf::Message::write_to_bytes(&conf)
            .map_err(|e| Error::internal(format!("members: {e}")))?;
        self.held().state.adopt_members(&members.into())
    }

    /// The replica is no member any more: its directory makes room at once, durably, and goes when nobody reads it any more.
    pub fn doom(&self) -> Result<()> {
        let aside = dropped_dir(&self.dir);
        remove_dir(&aside)?;
        fs::rename(&self.dir, &aside).map_err(|error| io_error("rename", &self.dir, &error))?;
        let _ = self.doomed.0.set(aside);
        self.dir.parent().map_or(Ok(()), sync_dir)
    }

    /// True if a replica in `dir` was dropped, and the process ended before it was quite gone.
    pub fn was_dropped(dir: &Path) -> bool {
        dropped_dir(dir).exists()
    }

    /// Stops offering checkpoints.
    pub fn withdraw(&self) -> Result<()> {
        let _one = self.offering.lock().unwrap_or_else(PoisonError::into_inner);
        remove_dir(&self.dir.join(OUTGOING))
    }

    /// True if a checkpoint is offered.
    pub fn offers(&self) -> bool {
        self.dir.join(OUTGOING).exists()
    }
}

/// Name of the database in use, and index and term of the checkpoint it began as.
fn current(dir: &Path) -> Result<(String, (u64, u64))> {
    let path = dir.join(CURRENT);
    let text = match fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok((FIRST.into(), (0, 0))),
        Err(error) => return Err(io_error("read", &path, &error)),
    };
    let words: Vec<&str> = text.split_whitespace().collect();
    if let [name, index, term] = words[..]
        && name.starts_with(FIRST)
        && !name.contains('/')
        && let (Ok(index), Ok(term)) = (index.parse(), term.parse())
    {
        return Ok((name.into(), (index, term)));
    }
    Err(
        Error::new("XX001", format!("{} is damaged", path.display())).hint(
            "remove this node from the cluster and add it again with an empty data directory",
        ),
    )
}

impl StateSnapshot for ReplaceableState {
    fn get(&self, key: &[u8]) -> Result<Option<Versioned>> {
        self.held().state.get(key)
    }

    fn scan(
        &self,
        from: &[u8],
        to: &[u8],
        reverse: bool,
        limit: usize,
        out: &mut Vec<(Bytes, Versioned)>,
    ) -> Result<()> {
        self.held().state.scan(from, to, reverse, limit, out)
    }

    fn get_at(&self, key: &[u8], ts: u64) -> Result<Option<Versioned>> {
        self.held().state.get_at(key, ts)
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
        self.held().state.scan_at(from, to, reverse, limit, ts, out)
    }

    fn ended_after(
        &self,
        ts: u64,
        after: Option<(u64, &[u8])>,
        limit: usize,
        out: &mut Vec<Ended>,
    ) -> Result<()> {
        self.held().state.ended_after(ts, after, limit, out)
    }
}

impl StateStore for ReplaceableState {
    fn apply(&self, entries: &[AppliedEntry]) -> Result<()> {
        self.held().state.apply(entries)
    }

    fn meta(&self) -> StateMeta {
        self.held().state.meta()
    }

    fn durable_index(&self) -> u64 {
        self.held().state.durable_index()
    }

    fn flush(&self) -> Result<()> {
        self.held().state.flush()
    }

    fn sessions(&self) -> Result<Vec<SessionRecord>> {
        self.held().state.sessions()
    }

    fn evicted_sessions(&self) -> Result<Vec<u128>> {
        self.held().state.evicted_sessions()
    }

    fn drop_history(&self, ts: u64) -> Result<()> {
        self.held().state.drop_history(ts)
    }

    fn size_bytes(&self) -> u64 {
        self.held().state.size_bytes()
    }

    fn checkpoint(&self, members: &Bytes) -> Result<Checkpoint> {
        let _one = self.offering.lock().unwrap_or_else(PoisonError::into_inner);
        let making = self.dir.join(OUTGOING).join("making");
        remove_dir(&making)?;
        make_dir(&self.dir.join(OUTGOING))?;
        self.held().state.copy_to(&making)?;
        // What it holds is read from itself: entries were applied while it was made.
        let meta = RocksState::meta_of(&making)?;
        let manifest = Manifest::of(&making)?;
        let offered = outgoing_dir(&self.dir, manifest.id());
        remove_dir(&offered)?;
        fs::rename(&making, &offered).map_err(|error| io_error("rename", &making, &error))?;
        Ok(Checkpoint {
            index: meta.applied_index,
            term: meta.applied_term,
            members: match meta.members.is_empty() {
                true => members.clone(),
                false => meta.members,
            },
            data: prost::Message::encode_to_vec(&manifest).into(),
        })
    }

    fn install(&self, checkpoint: &Checkpoint) -> Result<()> {
        let manifest = Manifest::decode_checked(&checkpoint.data)?;
        let arrived = incoming_dir(&self.dir, &manifest);
        let name = format!("{FIRST}-{:016x}", manifest.id());
        let path = self.dir.join(&name);
        remove_dir(&path)?;
        fs::rename(&arrived, &path).map_err(|error| io_error("rename", &arrived, &error))?;
        let state = RocksState::open_database(&path, &self.shared)?;
        state.adopt_members(&checkpoint.members)?;
        let meta = state.meta();
        if (meta.applied_index, meta.applied_term) != (checkpoint.index, checkpoint.term) {
            return Err(damaged(format!(
                "it holds entries up to {} of term {}, not {} of term {}",
                meta.applied_index, meta.applied_term, checkpoint.index, checkpoint.term
            )));
        }
        sync_dir(&self.dir)?;
        let line = format!("{name} {} {}\n", checkpoint.index, checkpoint.term);
        replace_text(&self.dir.join(CURRENT), &line)?;
        // As long as this one is not told of: another may arrive from then on.
        remove_dir(&self.dir.join(INCOMING))?;
        let new = Arc::new(Held {
            state,
            origin: (checkpoint.index, checkpoint.term),
            garbage: Garbage(OnceLock::new()),
        });
        let old = {
            let mut now = self.now.write().unwrap_or_else(PoisonError::into_inner);
            std::mem::replace(&mut *now, new)
        };
        // Reads that began on the old state may finish on it.
        let _ = old.garbage.0.set(old.state.path().to_path_buf());
        Ok(())
    }

    fn origin(&self) -> (u64, u64) {
        self.held().origin
    }
}
