//! The rows that a transaction knows, and what it has to ask for.
//!
//! A statement runs on the core without waiting: where it meets a row that is not known it ends, the row is fetched, and it
//! runs anew (its environment is the same, so it comes to the same place). A statement that needs many rounds or many steps
//! moves to a thread of its own and waits there for each row instead. What is read at a snapshot is forgotten after the
//! statement; what is read under a lock stays true until the transaction ends, and is kept.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use tokio::sync::{mpsc::UnboundedSender, oneshot};

use super::super::cluster_store::{Limits, Source};
use super::super::leader::gone;
use super::store::{Intent, Row, Rows};
use crate::error::{Error, Result};
use crate::partition::{RowLock, Scan};
use crate::storage::StateSnapshot;
use crate::txn::messages::{LockMode, Span, WaitPolicy};

/// What a key that is about to be written is locked with.
const WRITE: RowLock = RowLock {
    mode: LockMode::Update,
    wait: WaitPolicy::Wait,
};

/// Something to fetch from one partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Need {
    /// Keys to lock; their newest rows come with the locks. `checked`: not if they changed after the snapshot.
    Lock {
        group: u32,
        keys: Vec<Bytes>,
        lock: RowLock,
        checked: bool,
    },
    /// A range of the newest rows, locked if so said.
    Range { range: Range, limit: usize },
    /// A row at the snapshot, from another node.
    Point { group: u32, key: Bytes },
}

/// What was asked for.
pub(super) enum Got {
    /// As the keys; None: left out because it is locked.
    Locked(Vec<Option<Option<Bytes>>>),
    Rows(Vec<Row>),
    Point(Option<Bytes>),
}

/// A range of one partition and how it is read.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Range {
    pub group: u32,
    pub from: Bytes,
    pub to: Bytes,
    pub reverse: bool,
    pub how: How,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum How {
    Snapshot,
    Newest(Option<(LockMode, bool)>),
}

/// A question of a thread, and where it waits for the answer.
pub(super) type Question = (Vec<Need>, oneshot::Sender<Result<Vec<Got>>>);

/// What the transaction reads.
#[derive(Clone)]
pub(super) enum View {
    /// The newest rows, each under a lock of this mode.
    Newest(LockMode),
    /// What was committed at a timestamp.
    Snapshot {
        ts: u64,
        sources: Arc<BTreeMap<u32, Source>>,
        /// Rows to be changed may not have changed after `ts`.
        first_updater_wins: bool,
        /// What is looked at must be the same at commit.
        validated: bool,
    },
}

/// A locked key.
struct Held {
    mode: LockMode,
    checked: bool,
    value: Option<Bytes>,
}

/// See the module's documentation.
pub(super) struct Known {
    pub view: View,
    held: HashMap<(u32, Bytes), Held>,
    /// Left out by SKIP LOCKED in the statement that runs.
    skipped: HashSet<(u32, Bytes)>,
    points: HashMap<(u32, Bytes), Option<Bytes>>,
    /// Rows, and the limit they were asked with.
    ranges: HashMap<Range, (Vec<Row>, usize)>,
    /// Ranges among them whose rows are locked one by one when they are found.
    unlocked: usize,
    needs: Vec<Need>,
    ask: Option<UnboundedSender<Question>>,
    /// What a SERIALIZABLE block has looked at, by group.
    spans: HashMap<u32, HashSet<Span>>,
    cancel: Arc<AtomicBool>,
    left: Limits,
    limits: Limits,
}

impl Known {
    pub fn new(view: View, cancel: Arc<AtomicBool>, limits: Limits) -> Self {
        Self {
            view,
            held: HashMap::new(),
            skipped: HashSet::new(),
            points: HashMap::new(),
            ranges: HashMap::new(),
            unlocked: 0,
            needs: Vec::new(),
            ask: None,
            spans: HashMap::new(),
            cancel,
            left: limits,
            limits,
        }
    }

    /// A new statement: its bounds, its way of being cancelled, and its snapshot.
    pub fn begin(&mut self, view: View, cancel: Arc<AtomicBool>) {
        self.view = view;
        self.cancel = cancel;
        self.left = self.limits;
        self.forget_unlocked();
        self.skipped.clear();
    }

    pub fn spans(&self) -> &HashMap<u32, HashSet<Span>> {
        &self.spans
    }

    pub fn take_needs(&mut self) -> Vec<Need> {
        std::mem::take(&mut self.needs)
    }

    /// True if the last run met something that has to be fetched.
    pub fn misses(&self) -> bool {
        !self.needs.is_empty()
    }

    /// From now on misses are asked for, and waited for: for a thread of its own.
    pub fn wait_for(&mut self, ask: Option<UnboundedSender<Question>>) {
        self.ask = ask;
    }

    fn forget_unlocked(&mut self) {
        self.points.clear();
        self.ranges
            .retain(|range, _| matches!(range.how, How::Newest(Some(_))));
        self.unlocked = 0;
    }

    pub fn learn(&mut self, needs: Vec<Need>, answers: Vec<Got>) -> Result<()> {
        for (need, got) in needs.into_iter().zip(answers) {
            match (need, got) {
                (
                    Need::Lock {
                        group,
                        keys,
                        lock,
                        checked,
                    },
                    Got::Locked(rows),
                ) => {
                    for (key, row) in keys.into_iter().zip(rows) {
                        self.learn_lock(group, key, lock.mode, checked, row)?;
                    }
                }
                (Need::Range { range, limit }, Got::Rows(rows)) => {
                    for (key, value) in &rows {
                        self.charge(key.len() + value.len())?;
                    }
                    let unlocked = range.how == How::Newest(None);
                    if self.ranges.insert(range, (rows, limit)).is_none() {
                        self.unlocked += usize::from(unlocked);
                    }
                }
                (Need::Point { group, key }, Got::Point(value)) => {
                    self.charge(key.len() + value.as_ref().map_or(0, Bytes::len))?;
                    self.points.insert((group, key), value);
                }
                _ => return Err(Error::internal("an answer to another question")),
            }
        }
        Ok(())
    }

    fn learn_lock(
        &mut self,
        group: u32,
        key: Bytes,
        mode: LockMode,
        checked: bool,
        row: Option<Option<Bytes>>,
    ) -> Result<()> {
        let Some(value) = row else {
            self.skipped.insert((group, key));
            return Ok(());
        };
        self.charge(key.len() + value.as_ref().map_or(0, Bytes::len))?;
        // Found without a lock and changed before it was locked: the statement looks again.
        let differs = |(k, v): &Row| *k == key && Some(v) != value.as_ref();
        let stale = self.unlocked > 0
            && self.ranges.iter().any(|(range, (rows, _))| {
                (range.group, range.how) == (group, How::Newest(None)) && rows.iter().any(differs)
            });
        if stale {
            self.ranges
                .retain(|range, _| range.how != How::Newest(None));
            self.unlocked = 0;
        }
        let mode = self
            .held
            .get(&(group, key.clone()))
            .map_or(mode, |h| h.mode.max(mode));
        let held = Held {
            mode,
            checked,
            value,
        };
        self.held.insert((group, key), held);
        Ok(())
    }

    /// Asks for what is missing: waits for it, or ends the run.
    fn miss(&mut self, needs: Vec<Need>) -> Result<()> {
        let Some(ask) = &self.ask else {
            self.needs.extend(needs);
            return Err(Error::internal("a row that is not here yet was read"));
        };
        if self.cancel.load(Ordering::Relaxed) {
            return Err(cancelled());
        }
        let (reply, answer) = oneshot::channel();
        ask.send((needs.clone(), reply)).map_err(|_| gone())?;
        let got = answer.blocking_recv().unwrap_or_else(|_| Err(gone()))?;
        self.learn(needs, got)
    }

    /// After a miss nothing more is answered in this run, whatever the body makes of the error.
    fn check(&self) -> Result<()> {
        if !self.needs.is_empty() {
            return Err(Error::internal("a row that is not here yet was read"));
        }
        if self.cancel.load(Ordering::Relaxed) {
            return Err(cancelled());
        }
        Ok(())
    }

    fn charge(&mut self, bytes: usize) -> Result<()> {
        let bytes = bytes as u64;
        if self.left.rows == 0 || self.left.bytes < bytes {
            return Err(Error::new(
                "54000",
                format!(
                    "a statement of a transaction that reads more than {} rows or {} bytes",
                    self.limits.rows, self.limits.bytes
                ),
            )
            .hint("narrow the WHERE clause, or raise read_rows_max and result_bytes_max in the node's configuration"));
        }
        self.left.rows -= 1;
        self.left.bytes -= bytes;
        Ok(())
    }

    /// The row of a key that must be locked first.
    fn locked(&mut self, group: u32, key: &[u8], lock: RowLock) -> Result<Option<Bytes>> {
        let place = (group, Bytes::copy_from_slice(key));
        loop {
            if let Some(held) = self.held.get(&place).filter(|h| h.mode >= lock.mode) {
                return Ok(held.value.clone());
            }
            if self.skipped.contains(&place) {
                return Ok(None);
            }
            self.miss(vec![Need::Lock {
                group,
                keys: vec![place.1.clone()],
                lock,
                checked: false,
            }])?;
        }
    }

    fn snapshot_row(
        &mut self,
        group: u32,
        key: &[u8],
        ts: u64,
        source: Option<&Source>,
        validated: bool,
    ) -> Result<Option<Bytes>> {
        let key = Bytes::copy_from_slice(key);
        if validated {
            let spans = self.spans.entry(group).or_default();
            spans.insert(Span::key(key.clone()));
        }
        match source {
            Some(Source::Here(state)) => {
                let found = state.get_at(&key, ts)?.map(|row| row.value);
                self.charge(key.len() + found.as_ref().map_or(0, Bytes::len))?;
                Ok(found)
            }
            Some(Source::Node(_)) => {
                let place = (group, key);
                loop {
                    if let Some(found) = self.points.get(&place) {
                        return Ok(found.clone());
                    }
                    let key = place.1.clone();
                    self.miss(vec![Need::Point { group, key }])?;
                }
            }
            None => Err(not_part(group)),
        }
    }

    /// The known rows of ranges, after asking for those that are not known.
    fn ranges(&mut self, ranges: Vec<Range>, limit: usize) -> Result<Vec<Vec<Row>>> {
        loop {
            let known = |r: &&Range| {
                let found = self.ranges.get(*r);
                found.is_none_or(|(rows, asked)| *asked < limit && rows.len() == *asked)
            };
            let missing: Vec<Range> = ranges.iter().filter(known).cloned().collect();
            if missing.is_empty() {
                break;
            }
            let need = |range| Need::Range { range, limit };
            self.miss(missing.into_iter().map(need).collect())?;
        }
        let rows = |r| {
            let found = self.ranges.get(r).map(|(rows, _)| rows.as_slice());
            let found = found.unwrap_or_default();
            found[..found.len().min(limit)].to_vec()
        };
        Ok(ranges.iter().map(rows).collect())
    }

    fn snapshot_rows(
        &mut self,
        groups: &[u32],
        scan: Scan<'_>,
        ts: u64,
        sources: &BTreeMap<u32, Source>,
        validated: bool,
    ) -> Result<Vec<Vec<Row>>> {
        let mut parts = Vec::with_capacity(groups.len());
        let far = |g: &&u32| matches!(sources.get(*g), Some(Source::Node(_)));
        let remote: Vec<u32> = groups.iter().filter(far).copied().collect();
        let asked = remote.iter().map(|g| range(*g, scan, How::Snapshot));
        let mut fetched = self.ranges(asked.collect(), scan.limit)?.into_iter();
        for group in groups {
            let rows: Vec<Row> = match sources.get(group) {
                None => return Err(not_part(*group)),
                Some(Source::Node(_)) => fetched.next().unwrap_or_default(),
                Some(Source::Here(state)) => {
                    let mut rows = Vec::new();
                    state.scan_at(scan.from, scan.to, scan.reverse, scan.limit, ts, &mut rows)?;
                    let rows = rows.into_iter().map(|(key, row)| (key, row.value));
                    let rows: Vec<Row> = rows.collect();
                    for (key, value) in &rows {
                        self.charge(key.len() + value.len())?;
                    }
                    rows
                }
            };
            if validated {
                let span = covered(scan, &rows);
                self.spans.entry(*group).or_default().insert(span);
            }
            parts.push(rows);
        }
        Ok(parts)
    }
}

fn range(group: u32, scan: Scan<'_>, how: How) -> Range {
    Range {
        group,
        from: Bytes::copy_from_slice(scan.from),
        to: Bytes::copy_from_slice(scan.to),
        reverse: scan.reverse,
        how,
    }
}

/// The part of the range that these rows are all of.
fn covered(scan: Scan<'_>, rows: &[Row]) -> Span {
    let mut from = Bytes::copy_from_slice(scan.from);
    let mut to = Bytes::copy_from_slice(scan.to);
    if let Some((last, _)) = rows.last().filter(|_| rows.len() >= scan.limit) {
        match scan.reverse {
            true => from = last.clone(),
            false => to = [&last[..], &[0]].concat().into(),
        }
    }
    Span::range(from, to)
}

fn not_part(group: u32) -> Error {
    Error::internal(format!("partition {} is not part of this read", group - 1))
}

pub(super) fn cancelled() -> Error {
    Error::new(
        "57014",
        "canceling statement due to user request or timeout",
    )
}

impl Rows for Known {
    fn get(&mut self, group: u32, key: &[u8], intent: Intent) -> Result<Option<Bytes>> {
        self.check()?;
        let lock = match (&self.view, intent) {
            (_, Intent::Write) => WRITE,
            (View::Newest(_), Intent::Lock(lock)) => lock,
            (View::Newest(mode), Intent::Look) => RowLock {
                mode: *mode,
                wait: WaitPolicy::Wait,
            },
            (
                View::Snapshot {
                    ts,
                    sources,
                    validated,
                    ..
                },
                _,
            ) => {
                let (ts, validated, sources) = (*ts, *validated, Arc::clone(sources));
                return self.snapshot_row(group, key, ts, sources.get(&group), validated);
            }
        };
        self.locked(group, key, lock)
    }

    fn scan(&mut self, groups: &[u32], scan: Scan<'_>, intent: Intent) -> Result<Vec<Vec<Row>>> {
        self.check()?;
        let how = match (&self.view, intent) {
            (_, Intent::Write) => How::Newest(Some((LockMode::Update, false))),
            (View::Newest(mode), Intent::Look) => How::Newest(Some((*mode, false))),
            // Each row is locked when it is found.
            (View::Newest(_), Intent::Lock(lock)) if lock.wait == WaitPolicy::SkipLocked => {
                How::Newest(None)
            }
            (View::Newest(_), Intent::Lock(lock)) => {
                How::Newest(Some((lock.mode, lock.wait == WaitPolicy::NoWait)))
            }
            (
                View::Snapshot {
                    ts,
                    sources,
                    validated,
                    ..
                },
                _,
            ) => {
                let (ts, validated, sources) = (*ts, *validated, Arc::clone(sources));
                return self.snapshot_rows(groups, scan, ts, &sources, validated);
            }
        };
        let asked = groups.iter().map(|g| range(*g, scan, how));
        self.ranges(asked.collect(), scan.limit)
    }

    fn expect(&mut self, keys: &[(u32, Bytes)]) -> Result<()> {
        self.check()?;
        let enough = |h: &&Held| h.mode == LockMode::Update;
        let mut missing: BTreeMap<u32, BTreeSet<Bytes>> = BTreeMap::new();
        for place in keys {
            if self.held.get(place).filter(enough).is_none() {
                missing.entry(place.0).or_default().insert(place.1.clone());
            }
        }
        if missing.is_empty() {
            return Ok(());
        }
        let need = |(group, keys): (u32, BTreeSet<Bytes>)| Need::Lock {
            group,
            keys: keys.into_iter().collect(),
            lock: WRITE,
            checked: false,
        };
        self.miss(missing.into_iter().map(need).collect())
    }

    fn lock(&mut self, keys: &[(u32, Bytes)], lock: RowLock) -> Result<Vec<bool>> {
        self.check()?;
        let checked = matches!(self.view, View::Snapshot { .. });
        let strict = matches!(
            self.view,
            View::Snapshot {
                first_updater_wins: true,
                ..
            }
        );
        loop {
            let mut missing: BTreeMap<u32, Vec<Bytes>> = BTreeMap::new();
            for place in keys {
                let enough = |h: &&Held| h.mode >= lock.mode && (h.checked || !strict);
                let held = self.held.get(place).filter(enough).is_some();
                if !held && !self.skipped.contains(place) {
                    missing.entry(place.0).or_default().push(place.1.clone());
                }
            }
            if missing.is_empty() {
                break;
            }
            let need = |(group, keys)| Need::Lock {
                group,
                keys,
                lock,
                checked,
            };
            self.miss(missing.into_iter().map(need).collect())?;
        }
        Ok(keys.iter().map(|k| !self.skipped.contains(k)).collect())
    }
}
