//! The log store on raft-engine: one log for all groups of a node, one fdatasync for all of them.
//!
//! A group is a raft-engine region of the same number; its hard state is a message under one key. Old files go once the
//! groups have truncated what they held; the few entries of slow groups that pin them are rewritten by raft-engine.
//!
//! Files are written over again rather than made anew, and filled with zeroes before their first use: what an fdatasync costs in a
//! file that need not grow does not depend on the file system's journal, which waits for what others write (spills).
//!
//! raft-engine panics when fdatasync fails, on purpose: what the log then holds is unknown, and the node must stop.

use std::path::Path;
use std::sync::Arc;

use raft::eraftpb::{Entry, HardState};
use raft_engine::env::FileSystem;
use raft_engine::internals::FilePipeLog;
use raft_engine::{Command, Config, Engine, LogBatch, MessageExt, ReadableSize};

use super::filled::{FilledFiles, Filler};
use super::format::{Identity, io_error, open_directory, storage_error};
use super::log::{LogStore, LogWrite, check_contiguous};
use super::memory_log::missing_entries;
use crate::error::Result;

const HARD_STATE: &[u8] = b"hard_state";
/// Big endian, eight bytes.
const MEMBER: &[u8] = b"member";
/// Region of what belongs to no group; group numbers are 32 bits wide.
const NODE_REGION: u64 = u64::MAX;

/// Sizes of the log's files.
#[derive(Clone, Debug)]
pub struct EngineLogOptions {
    /// Bytes after which a new file is begun.
    pub file_bytes: u64,
    /// Bytes on disk above which files without live entries are removed.
    pub purge_bytes: u64,
    /// Bytes of files that are filled before the first use; rounded up to a half more, in whole files. 0: none.
    pub prefill_bytes: u64,
    /// Fills the next file while the present one is in use: see `filled`.
    pub fill_ahead: bool,
}

impl Default for EngineLogOptions {
    fn default() -> Self {
        Self {
            file_bytes: 32 << 20,
            purge_bytes: 128 << 20,
            prefill_bytes: 0,
            fill_ahead: false,
        }
    }
}

/// See the module's description. `F` is how files are reached: tests break it.
pub struct EngineLog<F: FileSystem = FilledFiles> {
    engine: Engine<F, FilePipeLog<F>>,
    /// Told what is appended.
    filler: Option<Arc<Filler>>,
}

struct Entries;

impl MessageExt for Entries {
    type Entry = Entry;

    fn index(entry: &Entry) -> u64 {
        entry.index
    }
}

impl EngineLog {
    /// As `open_on`, on the real file system.
    pub fn open(dir: &Path, options: &EngineLogOptions, identity: Identity) -> Result<Self> {
        let next = dir.join("next-log-file");
        let filler = match options.fill_ahead {
            true => Some(Filler::start(next.clone(), options.file_bytes)),
            false => None,
        };
        let filler = filler
            .transpose()
            .map_err(|e| io_error("make", &next, &e))?;
        let filler = filler.map(Arc::new);
        let files = FilledFiles(filler.clone());
        Ok(Self {
            filler,
            ..Self::open_on(dir, options, identity, Arc::new(files))?
        })
    }

    /// The next file is filled.
    #[cfg(test)]
    pub fn is_next_ready(&self) -> bool {
        self.filler.as_ref().is_some_and(|filler| filler.is_ready())
    }
}

impl<F: FileSystem> EngineLog<F> {
    /// Opens the log in `dir`, making it if the directory is empty. A torn end, which was never synced, is cut off. F0000 if
    /// it belongs to someone else, 55006 if another process has it open.
    pub fn open_on(
        dir: &Path,
        options: &EngineLogOptions,
        identity: Identity,
        files: Arc<F>,
    ) -> Result<Self> {
        open_directory(dir, "log", identity)?;
        let config = Config {
            dir: dir.join("raft-engine").to_string_lossy().into_owned(),
            target_file_size: ReadableSize(options.file_bytes),
            purge_threshold: ReadableSize(options.purge_bytes),
            // Batches are short and compressing them would be on the way to every commit.
            batch_compression_threshold: ReadableSize(0),
            prefill_for_recycle: options.prefill_bytes > 0,
            prefill_limit: Some(ReadableSize(options.prefill_bytes)),
            ..Config::default()
        };
        let engine = Engine::open_with_file_system(config, files).map_err(engine_error)?;
        if options.prefill_bytes > 0 {
            sync_prefilled(&dir.join("raft-engine"))?;
        }
        Ok(Self {
            engine,
            filler: None,
        })
    }

    fn bounds(&self, group: u32) -> (u64, u64) {
        let region = u64::from(group);
        match (
            self.engine.first_index(region),
            self.engine.last_index(region),
        ) {
            (Some(first), Some(last)) => (first, last),
            _ => (1, 0),
        }
    }
}

impl<F: FileSystem + 'static> LogStore for EngineLog<F> {
    fn append(&self, writes: Vec<LogWrite>, sync: bool) -> Result<()> {
        let mut batch = LogBatch::with_capacity(writes.len());
        let mut bounds = std::collections::BTreeMap::new();
        let mut members = std::collections::BTreeMap::new();
        for write in &writes {
            let region = u64::from(write.group);
            if let Some(member) = write.member {
                members.insert(write.group, member);
            }
            let held = bounds
                .entry(write.group)
                .or_insert_with(|| self.bounds(write.group));
            if write.reset {
                // The hard state goes with it: a reset must carry one.
                batch.add_command(region, Command::Clean);
                *held = (1, 0);
                if !members.contains_key(&write.group)
                    && let Some(member) = self.member(write.group)?
                {
                    members.insert(write.group, member);
                }
            }
            check_contiguous(write, *held)?;
            if let (Some(first), Some(last)) = (write.entries.first(), write.entries.last()) {
                *held = (if held.1 == 0 { first.index } else { held.0 }, last.index);
                batch
                    .add_entries::<Entries>(region, &write.entries)
                    .map_err(engine_error)?;
            }
            if let Some(hard_state) = &write.hard_state {
                batch
                    .put_message(region, HARD_STATE.to_vec(), hard_state)
                    .map_err(engine_error)?;
            }
            // Behind a reset of this batch, which would take it along.
            if let Some(member) = members.get(&write.group)
                && (write.reset || write.member.is_some())
            {
                let bytes = member.to_be_bytes().to_vec();
                batch
                    .put(region, MEMBER.to_vec(), bytes)
                    .map_err(engine_error)?;
            }
        }
        if sync && batch.is_empty() {
            // raft-engine skips empty batches, their fdatasync included.
            batch
                .put(NODE_REGION, b"synced".to_vec(), Vec::new())
                .map_err(engine_error)?;
        }
        let bytes = self.engine.write(&mut batch, sync).map_err(engine_error)?;
        if let Some(filler) = &self.filler {
            filler.wrote(bytes);
        }
        Ok(())
    }

    fn load(&self, group: u32) -> Result<(u64, u64, HardState)> {
        let hard_state = self
            .engine
            .get_message::<HardState>(u64::from(group), HARD_STATE)
            .map_err(engine_error)?;
        let (first, last) = self.bounds(group);
        Ok((first, last, hard_state.unwrap_or_default()))
    }

    fn member(&self, group: u32) -> Result<Option<u64>> {
        let Some(bytes) = self.engine.get(u64::from(group), MEMBER) else {
            return Ok(None);
        };
        let Ok(bytes) = <[u8; 8]>::try_from(bytes.as_slice()) else {
            return Err(engine_error(raft_engine::Error::Corruption(
                "a member's number".to_owned(),
            )));
        };
        Ok(Some(u64::from_be_bytes(bytes)))
    }

    fn entries(&self, group: u32, low: u64, high: u64, max_bytes: u64) -> Result<Vec<Entry>> {
        if low >= high {
            return Ok(Vec::new());
        }
        let (first, last) = self.bounds(group);
        if low < first || high > last + 1 {
            return Err(missing_entries(group, low, high, first, last));
        }
        let mut entries = Vec::new();
        let max = usize::try_from(max_bytes).unwrap_or(usize::MAX);
        self.engine
            .fetch_entries_to::<Entries>(u64::from(group), low, high, Some(max), &mut entries)
            .map_err(engine_error)?;
        Ok(entries)
    }

    fn truncate(&self, group: u32, index: u64) -> Result<()> {
        let (first, last) = self.bounds(group);
        let index = index.min(last);
        if index > first {
            self.engine.compact_to(u64::from(group), index);
            self.engine.purge_expired_files().map_err(engine_error)?;
        }
        Ok(())
    }

    fn size_bytes(&self) -> u64 {
        self.engine.get_used_size() as u64
    }
}

/// raft-engine leaves this to the first fdatasync of each file, which is on the way to a commit.
fn sync_prefilled(dir: &Path) -> Result<()> {
    let sync = |path: &Path| std::fs::File::open(path)?.sync_all();
    for entry in std::fs::read_dir(dir).map_err(|e| io_error("read", dir, &e))? {
        let path = entry.map_err(|e| io_error("read", dir, &e))?.path();
        if path.extension().is_some_and(|e| e == "reserved") {
            sync(&path).map_err(|e| io_error("sync", &path, &e))?;
        }
    }
    Ok(())
}

fn engine_error(error: raft_engine::Error) -> crate::error::Error {
    storage_error(&format!("log store: {error}"))
}
