//! The log as raft-rs reads it: recent entries from memory, older ones from the log store.
//!
//! Entries must be readable before they are on disk, because messages to followers leave in parallel with the local sync.
//! So every entry enters the cache first, and leaves it only after it was written. The entry at the truncation boundary is
//! kept on disk: its term is needed to match the entry after it.

use std::cell::Cell;
use std::collections::VecDeque;
use std::sync::Arc;

use raft::eraftpb::{ConfState, Entry, HardState, Snapshot};
use raft::{GetEntriesContext, RaftState, Storage, StorageError};

use super::member_id::node_of;
use crate::error::{Error, Result};
use crate::storage::{Checkpoint, LogStore, LogWrite, StateMeta};

/// Bytes of written entries that stay in memory for followers that lag a little.
const CACHE_BYTES_MAX: usize = 16 << 20;
/// Bytes read at once when the sizes of the log's entries are collected at start.
const SCAN_BYTES: u64 = 4 << 20;

pub struct LogView {
    group: u32,
    log: Arc<dyn LogStore>,
    conf: ConfState,
    hard_state: HardState,
    /// Index and term of the last entry that is logically gone.
    boundary: (u64, u64),
    last: u64,
    /// Which member of the group this replica is.
    member: u64,
    /// The newest entries up to `last`, without gap.
    cache: VecDeque<Entry>,
    cache_bytes: usize,
    /// Sizes of the entries boundary + 1 ..= last.
    sizes: VecDeque<u32>,
    bytes: u64,
    /// Entries up to here are on disk.
    written: u64,
    /// What a member that needs older entries than these can have instead.
    offer: Option<Snapshot>,
    /// A member needs a checkpoint, and there is none that would do.
    wanted: Cell<bool>,
}

/// What the state store says of itself when the log is opened.
#[derive(Clone, Debug, Default)]
pub struct StateEnd {
    /// Last entry applied, and its term.
    pub applied: (u64, u64),
    /// Index and term of the checkpoint that the state began as; (0, 0) if it began empty.
    pub origin: (u64, u64),
    /// As `StateMeta::members`.
    pub members: bytes::Bytes,
}

impl StateEnd {
    pub fn new(meta: &StateMeta, origin: (u64, u64)) -> Self {
        Self {
            applied: (meta.applied_index, meta.applied_term),
            origin,
            members: meta.members.clone(),
        }
    }
}

impl LogView {
    /// Opens the log that `node` has of a group, with the state store's end. `voters` are the members of a group that has never
    /// changed them.
    pub fn open(
        node: u64,
        group: u32,
        voters: &[u64],
        log: Arc<dyn LogStore>,
        end: &StateEnd,
        tail_lost: bool,
    ) -> Result<Self> {
        let applied = end.applied;
        let (first, last, hard_state) = follow_checkpoint(group, &*log, end)?;
        let conf = decode_members(&end.members)?
            .unwrap_or_else(|| ConfState::from((voters.to_vec(), Vec::new())));
        let kept = log.member(group)?.unwrap_or(node);
        // A checkpoint that was installed may tell of it before the log does, which must know when the state is dropped.
        let member = member_of(&conf, node).unwrap_or(node).max(kept);
        if member > kept {
            let write = LogWrite {
                group,
                member: Some(member),
                ..LogWrite::default()
            };
            log.append(vec![write], true)?;
        }
        let mut view = Self {
            group,
            member,
            log,
            conf,
            hard_state,
            boundary: (0, 0),
            last,
            cache: VecDeque::new(),
            cache_bytes: 0,
            sizes: VecDeque::new(),
            bytes: 0,
            written: last,
            offer: None,
            wanted: Cell::new(false),
        };
        if applied.0 > last {
            return Err(Error::internal(format!(
                "group {group}: the state has applied entry {}, but the log ends at {last}",
                applied.0
            ))
            .hint("the log is damaged, lost its tail with the operating system, or is not the one of this state: remove this node and add it again with an empty data directory"));
        }
        if first <= last && first == end.origin.0 + 1 {
            view.boundary = end.origin;
        } else if first > 1 && first <= last {
            view.boundary = (first, view.read_one(first)?.term);
        } else if first > last {
            view.boundary = applied;
        }
        view.check(applied)?;
        view.collect_sizes()?;
        view.fit_hard_state(applied, tail_lost)?;
        Ok(view)
    }

    fn check(&self, applied: (u64, u64)) -> Result<()> {
        if applied.0 < self.boundary.0 {
            return Err(Error::internal(format!(
                "group {}: the log begins behind entry {}, but the state has applied only {}",
                self.group, self.boundary.0, applied.0
            )));
        }
        let logged = if applied.0 == self.boundary.0 {
            self.boundary.1
        } else {
            self.read_one(applied.0)?.term
        };
        if logged != applied.1 {
            return Err(Error::internal(format!(
                "group {}: entry {} is of term {logged} in the log and of term {} in the state",
                self.group, applied.0, applied.1
            )));
        }
        Ok(())
    }

    fn collect_sizes(&mut self) -> Result<()> {
        let mut next = self.boundary.0 + 1;
        while next <= self.last {
            let entries = self
                .log
                .entries(self.group, next, self.last + 1, SCAN_BYTES)?;
            if entries.is_empty() {
                return Err(self.missing(next));
            }
            for entry in &entries {
                self.note_size(entry);
            }
            next += entries.len() as u64;
        }
        Ok(())
    }

    /// The commit index on disk lags (it is written only along with entries); what was applied is committed.
    fn fit_hard_state(&mut self, applied: (u64, u64), tail_lost: bool) -> Result<()> {
        self.hard_state.commit = self.hard_state.commit.max(applied.0);
        if self.hard_state.commit > self.last {
            if !tail_lost {
                return Err(Error::internal(format!(
                    "group {}: entry {} was committed, but the log ends at {}",
                    self.group, self.hard_state.commit, self.last
                )));
            }
            self.hard_state.commit = self.last;
        }
        self.hard_state.term = self.hard_state.term.max(applied.1);
        Ok(())
    }

    /// Enters a later term before anything else happens, on disk too.
    pub fn enter_term(&mut self, term: u64) -> Result<()> {
        self.hard_state.term = term;
        self.hard_state.vote = 0;
        let write = LogWrite {
            group: self.group,
            hard_state: Some(self.hard_state.clone()),
            ..LogWrite::default()
        };
        self.log.append(vec![write], true)
    }

    /// A checkpoint takes the place of everything up to its last entry; `append` goes on behind it.
    pub fn restart_at(&mut self, snapshot: &Snapshot) {
        let metadata = snapshot.get_metadata();
        self.boundary = (metadata.index, metadata.term);
        (self.last, self.written) = (metadata.index, metadata.index);
        self.cache.clear();
        self.sizes.clear();
        (self.cache_bytes, self.bytes) = (0, 0);
        self.conf = metadata.get_conf_state().clone();
        self.offer = None;
    }

    /// Offers a checkpoint to members that need older entries than there are.
    pub fn offer(&mut self, checkpoint: &Checkpoint) -> Result<()> {
        let mut snapshot = Snapshot::default();
        let metadata = snapshot.mut_metadata();
        (metadata.index, metadata.term) = (checkpoint.index, checkpoint.term);
        metadata.set_conf_state(decode_members(&checkpoint.members)?.ok_or_else(|| {
            Error::internal(format!(
                "group {}: a checkpoint without members",
                self.group
            ))
        })?);
        snapshot.set_data(checkpoint.data.clone());
        self.offer = Some(snapshot);
        self.wanted.set(false);
        Ok(())
    }

    pub fn withdraw(&mut self) {
        self.offer = None;
    }

    /// True once after raft-rs asked for a checkpoint that there was not.
    pub fn take_wanted(&self) -> bool {
        self.wanted.take()
    }

    pub fn set_members(&mut self, conf: &ConfState) {
        self.conf = conf.clone();
    }

    /// Which member of the group this replica was when the log was opened.
    pub fn member(&self) -> u64 {
        self.member
    }

    pub fn members(&self) -> &ConfState {
        &self.conf
    }

    pub fn hard_state(&self) -> &HardState {
        &self.hard_state
    }

    /// Entries about to be written; they replace what was at their indexes.
    pub fn append(&mut self, entries: &[Entry]) {
        let Some(first) = entries.first() else {
            return;
        };
        while self.last >= first.index {
            let size = self.sizes.pop_back().unwrap_or(0);
            self.bytes -= u64::from(size);
            if self.cache.pop_back().is_some() {
                self.cache_bytes -= size as usize;
            }
            self.last -= 1;
        }
        self.written = self.written.min(self.last);
        for entry in entries {
            self.last = entry.index;
            self.cache_bytes += self.note_size(entry);
            self.cache.push_back(entry.clone());
        }
    }

    fn note_size(&mut self, entry: &Entry) -> usize {
        // Index, term and framing are counted too, so that a log of empty entries is not free.
        let size = entry.data.len() + 32;
        self.sizes
            .push_back(u32::try_from(size).unwrap_or(u32::MAX));
        self.bytes += size as u64;
        size
    }

    /// Everything up to `index` is on disk and may leave the cache.
    pub fn written_to(&mut self, index: u64) {
        self.written = index.min(self.last);
        while self.cache_bytes > CACHE_BYTES_MAX {
            match self.cache.front() {
                Some(entry) if entry.index <= self.written => {
                    self.cache_bytes -= entry.data.len() + 32;
                    self.cache.pop_front();
                }
                _ => break,
            }
        }
    }

    /// Forgets entries up to `index`, as far as they are written.
    pub fn truncate(&mut self, index: u64) -> Result<()> {
        let index = index.min(self.written);
        if index <= self.boundary.0 {
            return Ok(());
        }
        let term = self.term_of(index)?;
        for _ in self.boundary.0..index {
            self.bytes -= u64::from(self.sizes.pop_front().unwrap_or(0));
        }
        while self.cache.front().is_some_and(|entry| entry.index <= index) {
            if let Some(entry) = self.cache.pop_front() {
                self.cache_bytes -= entry.data.len() + 32;
            }
        }
        self.boundary = (index, term);
        Ok(())
    }

    pub fn boundary(&self) -> u64 {
        self.boundary.0
    }

    /// Bytes between the boundary and the last entry.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Bytes of the entries up to `index`, which a truncation there would free.
    pub fn bytes_to(&self, index: u64) -> u64 {
        let count = index.saturating_sub(self.boundary.0) as usize;
        self.sizes.iter().take(count).map(|s| u64::from(*s)).sum()
    }

    /// The first index at which a truncation would free `wanted` bytes.
    pub fn index_after(&self, wanted: u64) -> u64 {
        let mut freed = 0;
        let enough = |size: &u32| {
            freed += u64::from(*size);
            freed >= wanted
        };
        let count = self.sizes.iter().position(enough);
        self.boundary.0 + count.map_or(self.sizes.len(), |count| count + 1) as u64
    }

    fn cache_first(&self) -> u64 {
        self.last + 1 - self.cache.len() as u64
    }

    fn term_of(&self, index: u64) -> Result<u64> {
        if index == self.boundary.0 {
            return Ok(self.boundary.1);
        }
        if index >= self.cache_first() {
            return Ok(self.cache[(index - self.cache_first()) as usize].term);
        }
        Ok(self.read_one(index)?.term)
    }

    fn read_one(&self, index: u64) -> Result<Entry> {
        let mut entries = self.log.entries(self.group, index, index + 1, 0)?;
        match entries.pop() {
            Some(entry) if entry.index == index => Ok(entry),
            _ => Err(self.missing(index)),
        }
    }

    fn missing(&self, index: u64) -> Error {
        Error::internal(format!(
            "group {}: entry {index} is missing in the log",
            self.group
        ))
    }
}

/// Brings the log of a state that began as a checkpoint behind that checkpoint, if a crash came in between. Returns what
/// `LogStore::load` then tells, an empty log ending at the checkpoint.
fn follow_checkpoint(
    group: u32,
    log: &dyn LogStore,
    end: &StateEnd,
) -> Result<(u64, u64, HardState)> {
    let (first, last, mut hard_state) = log.load(group)?;
    let (index, term) = end.origin;
    if index == 0 || (first <= last && last >= index) {
        let joined = index == 0 || first > index || {
            let mut found = log.entries(group, index, index + 1, 0)?;
            found.pop().is_some_and(|entry| entry.term == term)
        };
        if joined {
            return Ok((first, last, hard_state));
        }
    }
    // The log was lost, or is another's: `check` says so.
    if end.applied.0 > index {
        return Ok((first, last, hard_state));
    }
    // Nothing behind the checkpoint was ever acknowledged here: the reset of the log comes before the first answer.
    hard_state.commit = hard_state.commit.max(index);
    hard_state.term = hard_state.term.max(term);
    if first <= last {
        let write = LogWrite {
            group,
            entries: Vec::new(),
            hard_state: Some(hard_state.clone()),
            reset: true,
            ..LogWrite::default()
        };
        log.append(vec![write], true)?;
    }
    Ok((index + 1, index, hard_state))
}

/// The members as raft-rs knows them; none if they were never written.
pub fn decode_members(bytes: &[u8]) -> Result<Option<ConfState>> {
    if bytes.is_empty() {
        return Ok(None);
    }
    let decoded = <ConfState as protobuf::Message>::parse_from_bytes(bytes);
    decoded.map(Some).map_err(|error| {
        Error::new(
            "XX001",
            format!("the group's members do not decode: {error}"),
        )
        .hint("the data directory is damaged: remove this node and add it again with an empty one")
    })
}

/// The newest member at `node` among `conf`.
fn member_of(conf: &ConfState, node: u64) -> Option<u64> {
    let voters = conf.voters.iter().chain(&conf.voters_outgoing);
    let all = voters.chain(&conf.learners).chain(&conf.learners_next);
    all.copied().filter(|m| node_of(*m) == node).max()
}

fn store_error(error: Error) -> raft::Error {
    raft::Error::Store(StorageError::Other(Box::new(error)))
}

impl Storage for LogView {
    fn initial_state(&self) -> raft::Result<RaftState> {
        Ok(RaftState::new(self.hard_state.clone(), self.conf.clone()))
    }

    fn entries(
        &self,
        low: u64,
        high: u64,
        max_size: impl Into<Option<u64>>,
        _context: GetEntriesContext,
    ) -> raft::Result<Vec<Entry>> {
        if low <= self.boundary.0 {
            return Err(raft::Error::Store(StorageError::Compacted));
        }
        if high > self.last + 1 {
            return Err(raft::Error::Store(StorageError::Unavailable));
        }
        let max_size = max_size.into().unwrap_or(u64::MAX);
        let cached_from = self.cache_first();
        if low < cached_from {
            let high = high.min(cached_from);
            return self
                .log
                .entries(self.group, low, high, max_size)
                .map_err(store_error);
        }
        let mut entries = Vec::new();
        let mut bytes = 0;
        for index in low..high {
            let entry = &self.cache[(index - cached_from) as usize];
            bytes += entry.data.len() as u64 + 32;
            if bytes > max_size && !entries.is_empty() {
                break;
            }
            entries.push(entry.clone());
        }
        Ok(entries)
    }

    fn term(&self, index: u64) -> raft::Result<u64> {
        if index < self.boundary.0 {
            return Err(raft::Error::Store(StorageError::Compacted));
        }
        if index > self.last {
            return Err(raft::Error::Store(StorageError::Unavailable));
        }
        self.term_of(index).map_err(store_error)
    }

    fn first_index(&self) -> raft::Result<u64> {
        Ok(self.boundary.0 + 1)
    }

    fn last_index(&self) -> raft::Result<u64> {
        Ok(self.last)
    }

    fn snapshot(&self, request_index: u64, to: u64) -> raft::Result<Snapshot> {
        // The log must go on right behind it, or the member could not follow from there; and it must say that it is one.
        let fits = |snapshot: &&Snapshot| {
            let metadata = snapshot.get_metadata();
            let conf = metadata.get_conf_state();
            let voters = [&conf.voters, &conf.voters_outgoing];
            let everybody = [voters, [&conf.learners, &conf.learners_next]].concat();
            metadata.index >= self.boundary.0.max(request_index)
                && everybody.iter().any(|members| members.contains(&to))
        };
        if let Some(offer) = self.offer.as_ref().filter(fits) {
            return Ok(offer.clone());
        }
        self.wanted.set(true);
        Err(raft::Error::Store(
            StorageError::SnapshotTemporarilyUnavailable,
        ))
    }
}
