//! The state store: current rows, history, sessions and the applied index of one partition replica.
//!
//! Current rows carry the commit timestamp of the entry that wrote them. What an entry overwrites or deletes goes to the
//! history key space, ordered by the time at which it stopped being current, so that a fresh snapshot merges only what
//! changed since, and dropping old history is one range delete.

use bytes::Bytes;

use crate::error::{Error, Result};

/// Keys of this table have no history: nobody reads them as of a time. It holds what partitions keep of transactions that
/// are not finished.
pub const UNVERSIONED_TABLE_ID: u32 = 2;

/// True if what replaces a row of this key leaves it to the history.
pub(super) fn has_history(key: &[u8]) -> bool {
    !key.starts_with(&UNVERSIONED_TABLE_ID.to_be_bytes())
}

/// Places in a session's ring of replies.
pub const SESSION_RING: u64 = 1024;

/// A current row or index entry with its commit timestamp (hybrid logical, microseconds since the epoch).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Versioned {
    pub ts: u64,
    pub value: Bytes,
}

/// A version that stopped being current.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ended {
    /// It was current from `row.ts` until just before this.
    pub end: u64,
    pub key: Bytes,
    pub row: Versioned,
}

/// One physical change. Keys are the kernel's own (table, index, columns); the store adds its key space.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    /// `fresh`: the key was absent before, so the store need not look for an old version.
    Put {
        key: Bytes,
        value: Bytes,
        fresh: bool,
    },
    Delete {
        key: Bytes,
    },
    /// Drops current rows in `from..to` without history (dropped tables).
    DeleteRange {
        from: Bytes,
        to: Bytes,
    },
}

/// Changes of a settled transaction in an entry of a later timestamp.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Section {
    /// Commit timestamp of the changes.
    pub ts: u64,
    pub ops: Vec<Op>,
}

/// (session, number) -> reply, kept in a ring of 1,024 places per session (I11).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionRecord {
    pub session: u128,
    pub number: u64,
    pub reply: Bytes,
}

/// One committed entry, ready to be applied.
#[derive(Clone, Debug, Default)]
pub struct AppliedEntry {
    pub index: u64,
    pub term: u64,
    /// Commit timestamp of every change in `ops`; 0 for entries without data.
    pub ts: u64,
    /// Reads and commits of this leader stay at or below it (I13).
    pub ceiling: u64,
    pub ops: Vec<Op>,
    /// Changes with timestamps of their own; no key is in two of them, or in `ops` too.
    pub sections: Vec<Section>,
    pub sessions: Vec<SessionRecord>,
    /// Sessions forgotten by this entry; a later request under one is an error, never a second execution.
    pub evicted: Vec<u128>,
    /// The group's members from this entry on, as raft-rs encodes its `ConfState`.
    pub members: Option<Bytes>,
}

/// A consistent copy of a whole state, as one replica offers it to another.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Checkpoint {
    /// Last entry in it, and that entry's term.
    pub index: u64,
    pub term: u64,
    /// The group's members at that entry, as raft-rs encodes its `ConfState`.
    pub members: Bytes,
    /// What a store of the same kind needs to install it: a list of files with checksums (`transfer::Manifest`), whose
    /// contents travel by themselves, or for the twin the image itself.
    pub data: Bytes,
}

/// What a store knows about itself, written in the same batch as the rows (I8).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StateMeta {
    pub applied_index: u64,
    pub applied_term: u64,
    pub last_ts: u64,
    pub ceiling: u64,
    /// The group's members, as raft-rs encodes its `ConfState`; empty until the first change of them.
    pub members: Bytes,
}

impl AppliedEntry {
    /// All changes with their timestamps.
    pub(super) fn changes(&self) -> impl Iterator<Item = (u64, &Op)> {
        let own = self.ops.iter().map(|op| (self.ts, op));
        own.chain(
            self.sections
                .iter()
                .flat_map(|section| section.ops.iter().map(|op| (section.ts, op))),
        )
    }
}

#[cfg(test)]
impl AppliedEntry {
    /// Makes the last change one of a transaction that committed at `ts`, if no other change is of its key.
    pub(super) fn settle_last(&mut self, ts: u64) {
        let key_of = |op: &Op| match op {
            Op::Put { key, .. } | Op::Delete { key } => Some(key.clone()),
            Op::DeleteRange { .. } => None,
        };
        let key = self.ops.last().and_then(key_of);
        let same = |op: &&Op| key.is_some() && key_of(op) == key;
        if self.ops.iter().filter(same).count() == 1 {
            let ops = self.ops.pop().into_iter().collect();
            self.sections.push(Section { ts, ops });
        }
    }
}

impl StateMeta {
    /// As it is once `entry` is applied.
    pub(super) fn advance(&mut self, entry: &AppliedEntry) {
        self.applied_index = entry.index;
        self.applied_term = entry.term;
        self.last_ts = self.last_ts.max(entry.ts);
        self.ceiling = self.ceiling.max(entry.ceiling);
        if let Some(members) = &entry.members {
            self.members = members.clone();
        }
    }
}

/// Reads of the state, each consistent in itself. `get_at` and `scan_at` answer the same however often and late they are
/// asked, as long as `ts` is not above `StateMeta::last_ts` nor below the history's watermark; so there is no snapshot object
/// to keep. `from` is inclusive, `to` exclusive; `reverse` walks from `to` down. Appends at most `limit` rows.
pub trait StateSnapshot: Send + Sync {
    fn get(&self, key: &[u8]) -> Result<Option<Versioned>>;
    fn scan(
        &self,
        from: &[u8],
        to: &[u8],
        reverse: bool,
        limit: usize,
        out: &mut Vec<(Bytes, Versioned)>,
    ) -> Result<()>;
    /// As `get` and `scan`, but as of timestamp `ts`: merges history. 72000 *snapshot too old* below the watermark.
    fn get_at(&self, key: &[u8], ts: u64) -> Result<Option<Versioned>>;
    fn scan_at(
        &self,
        from: &[u8],
        to: &[u8],
        reverse: bool,
        limit: usize,
        ts: u64,
        out: &mut Vec<(Bytes, Versioned)>,
    ) -> Result<()>;
    /// Versions that stopped being current after `ts`, in order of (end, key), behind the one `after` that an earlier call
    /// gave; `limit` at most. 72000 as for `get_at`.
    fn ended_after(
        &self,
        ts: u64,
        after: Option<(u64, &[u8])>,
        limit: usize,
        out: &mut Vec<Ended>,
    ) -> Result<()>;
}

/// The state of one partition replica. `apply` is called by one thread, reads by any.
pub trait StateStore: StateSnapshot + 'static {
    /// Applies entries in order, atomically per call: rows, history, sessions and `StateMeta` together (I8). Entries at
    /// or below `applied_index` are skipped, so that a replay after a crash is harmless.
    fn apply(&self, entries: &[AppliedEntry]) -> Result<()>;
    fn meta(&self) -> StateMeta;
    /// Applied index that survives a crash: what was flushed.
    fn durable_index(&self) -> u64;
    /// Makes everything applied durable.
    fn flush(&self) -> Result<()>;
    /// All session records, in no particular order.
    fn sessions(&self) -> Result<Vec<SessionRecord>>;
    /// Sessions that were evicted (kept as tombstones).
    fn evicted_sessions(&self) -> Result<Vec<u128>>;
    /// Drops history that ended before `ts`; later reads below `ts` are refused.
    fn drop_history(&self, ts: u64) -> Result<()>;
    /// Bytes on disk, roughly.
    fn size_bytes(&self) -> u64;
    /// Makes a durable copy of everything applied, for another replica. Runs beside `apply`. `members` are the group's if
    /// the state itself knows none.
    fn checkpoint(&self, members: &Bytes) -> Result<Checkpoint> {
        let _ = members;
        Err(Error::internal("this store offers no checkpoint"))
    }
    /// Puts `checkpoint`, which has arrived and was verified, in the place of this state, durably and as a whole: after a
    /// crash at any point it is the old state or the new one. Called by the thread that applies.
    fn install(&self, checkpoint: &Checkpoint) -> Result<()> {
        let _ = checkpoint;
        Err(Error::internal("this store takes no checkpoint"))
    }
    /// Index and term of the checkpoint that this state began with; (0, 0) if it began empty.
    fn origin(&self) -> (u64, u64) {
        (0, 0)
    }
}

/// 72000 if a read at `ts` would need history that is gone.
pub(super) fn snapshot_too_old(ts: u64, watermark: u64) -> Result<()> {
    if ts >= watermark {
        return Ok(());
    }
    Err(Error::new(
        "72000",
        format!("snapshot too old: reading at {ts}, history starts at {watermark}"),
    )
    .hint(
        "run the read again at a later time, or raise history_window_s in the node's configuration",
    ))
}
