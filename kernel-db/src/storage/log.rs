//! The log store: Raft entries and hard states of all groups of a node, in one append and one fdatasync.

use raft::eraftpb::{Entry, HardState};

use crate::error::{Error, Result};

/// What one group wants written.
#[derive(Clone, Debug, Default)]
pub struct LogWrite {
    pub group: u32,
    /// Contiguous; the first may overwrite an earlier suffix, which is then dropped.
    pub entries: Vec<Entry>,
    pub hard_state: Option<HardState>,
    /// Drops everything the group holds first, but for `member`: a checkpoint took its place, and the log goes on behind it.
    pub reset: bool,
    /// Which member of the group this replica is from now on, for `LogStore::member`.
    pub member: Option<u64>,
}

/// The log of every group of one node. A group's writes come one after another, from the log writer or from the core.
pub trait LogStore: Send + Sync + 'static {
    /// Appends all of `writes` atomically per group; returns after write(2), and after fdatasync if `sync`.
    fn append(&self, writes: Vec<LogWrite>, sync: bool) -> Result<()>;
    /// First and last index held ((1, 0) when nothing was ever appended) and the last hard state.
    fn load(&self, group: u32) -> Result<(u64, u64, HardState)>;
    /// The newest `LogWrite::member` of the group, if there was any; no reset forgets it.
    fn member(&self, group: u32) -> Result<Option<u64>>;
    /// Entries `low..high`, stopping after `max_bytes` but returning at least one.
    fn entries(&self, group: u32, low: u64, high: u64, max_bytes: u64) -> Result<Vec<Entry>>;
    /// Drops entries before `index`, but never the last one, so that the log knows where it ends (I10 is the caller's to
    /// keep).
    fn truncate(&self, group: u32, index: u64) -> Result<()>;
    /// Bytes on disk held by all groups.
    fn size_bytes(&self) -> u64;
}

/// Entries must follow each other and what the group holds: a hole would be read as corruption after a restart.
pub(super) fn check_contiguous(write: &LogWrite, (first, last): (u64, u64)) -> Result<()> {
    let Some(start) = write.entries.first().map(|entry| entry.index) else {
        return Ok(());
    };
    let follow = write
        .entries
        .windows(2)
        .all(|pair| pair[0].index + 1 == pair[1].index);
    // A log that never held an entry may start anywhere.
    let joins = last == 0 || write.reset || (start >= first && start <= last + 1);
    if follow && joins {
        return Ok(());
    }
    Err(Error::internal(format!(
        "group {}: appending {} entries from {start} to a log of {first}..={last}",
        write.group,
        write.entries.len()
    )))
}
