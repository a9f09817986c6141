//! The real stores against their in-memory twins: the same random steps, the same answers, across restarts and crashes.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use proptest::prelude::*;
use raft::eraftpb::{Entry, HardState};

use super::engine::{EngineLog, EngineLogOptions};
use super::format::Identity;
use super::memory::{MemLog, MemState};
use super::rocks::{RocksShared, RocksState};
use super::rocks_write::is_rare;
use super::{
    AppliedEntry, Ended, LogStore, LogWrite, Op, SessionRecord, StateSnapshot, StateStore,
};

pub(super) const IDENTITY: Identity = Identity {
    cluster: 42,
    number: 1,
};

/// Copies a data directory as a killed process leaves it. RocksDB compacts in the background: copies until nothing changed
/// meanwhile.
pub(super) fn copy_dir(from: &Path, to: &Path) {
    loop {
        let before = files(from);
        let copied = before.iter().all(|(file, _)| {
            let target = to.join(file.strip_prefix(from).unwrap());
            std::fs::create_dir_all(target.parent().unwrap()).unwrap();
            std::fs::copy(file, target).is_ok()
        });
        if copied && files(from) == before {
            return;
        }
        std::fs::remove_dir_all(to).unwrap();
    }
}

/// All files below `dir` with their lengths.
pub(super) fn files(dir: &Path) -> Vec<(PathBuf, u64)> {
    let mut found = Vec::new();
    for file in std::fs::read_dir(dir).unwrap() {
        let path = file.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path));
        } else if let Ok(metadata) = path.metadata() {
            found.push((path, metadata.len()));
        }
    }
    found.sort();
    found
}

#[derive(Clone, Debug)]
enum StateStep {
    /// Entries of (key, value or delete); `repeat` gives the first entry of the last call once more.
    Apply {
        entries: Vec<Vec<(u8, Option<u8>)>>,
        session: u8,
        repeat: bool,
    },
    DropRange(u8, u8),
    EvictSession(u8),
    Flush,
    Restart,
    Crash,
    DropHistory(u8),
}

fn state_step() -> impl Strategy<Value = StateStep> {
    let change = (0..12u8, proptest::option::weighted(0.7, any::<u8>()));
    let entry = proptest::collection::vec(change, 0..5);
    prop_oneof![
        12 => (proptest::collection::vec(entry, 1..4), 0..4u8, any::<bool>())
            .prop_map(|(entries, session, repeat)| StateStep::Apply { entries, session, repeat }),
        1 => (0..12u8, 0..12u8).prop_map(|(from, to)| StateStep::DropRange(from, to)),
        1 => (0..4u8).prop_map(StateStep::EvictSession),
        2 => Just(StateStep::Flush),
        1 => Just(StateStep::Restart),
        1 => Just(StateStep::Crash),
        1 => (0..30u8).prop_map(StateStep::DropHistory),
    ]
}

fn key(number: u8) -> Bytes {
    Bytes::copy_from_slice(&[0, 0, 0, 100, 0, 0, number / 4, number % 4])
}

struct StateTwins {
    shared: RocksShared,
    files: bool,
    dir: tempfile::TempDir,
    runs: u32,
    real: Option<RocksState>,
    twin: MemState,
    last: Vec<AppliedEntry>,
}

impl StateTwins {
    /// `files`: each spill of the real store is a file.
    fn new(files: bool) -> Self {
        let shared = RocksShared::new(8 << 20, 4 << 20);
        let mut twins = Self {
            shared: if files {
                shared.with_files_only()
            } else {
                shared
            },
            files,
            dir: tempfile::tempdir().unwrap(),
            runs: 0,
            real: None,
            twin: MemState::new(),
            last: Vec::new(),
        };
        twins.open();
        twins
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join(self.runs.to_string())
    }

    fn open(&mut self) {
        self.real = Some(RocksState::open(&self.path(), &self.shared, IDENTITY).unwrap());
    }

    fn apply(
        &mut self,
        ops_of_entries: Vec<Vec<Op>>,
        sessions: Vec<SessionRecord>,
        evicted: Vec<u128>,
        repeat: bool,
    ) {
        let mut index = self.twin.meta().applied_index;
        let mut entries: Vec<AppliedEntry> = if repeat {
            self.last.clone()
        } else {
            Vec::new()
        };
        entries.retain(|entry| entry.index <= index);
        entries.truncate(1);
        for ops in ops_of_entries {
            index += 1;
            let mut entry = AppliedEntry {
                index,
                term: 1 + index / 7,
                ts: index * 10,
                ceiling: index * 10 + 5,
                ops,
                ..AppliedEntry::default()
            };
            entry.settle_last(index * 10 - 3);
            entries.push(entry);
        }
        if let Some(last) = entries.last_mut() {
            last.sessions = sessions;
            last.evicted = evicted;
        }
        let applied = self.twin.meta().applied_index;
        let rare = |entry: &AppliedEntry| entry.index > applied && is_rare(entry);
        if self.files && entries.iter().any(rare) {
            // The real store spills first, and a file is durable.
            self.twin.flush().unwrap();
        }
        self.real.as_ref().unwrap().apply(&entries).unwrap();
        self.twin.apply(&entries).unwrap();
        self.last = entries;
    }

    fn step(&mut self, step: &StateStep) {
        match step {
            StateStep::Apply {
                entries,
                session,
                repeat,
            } => {
                let mut present = self.present();
                let ops = entries
                    .iter()
                    .map(|changes| to_ops(changes, &mut present))
                    .collect();
                let number = self.twin.meta().applied_index * 300;
                let record = SessionRecord {
                    session: u128::from(*session),
                    number,
                    reply: Bytes::from(format!("reply {number}")),
                };
                self.apply(ops, vec![record], Vec::new(), *repeat);
            }
            StateStep::DropRange(from, to) if from < to => self.drop_range(*from, *to),
            StateStep::DropRange(..) => {}
            StateStep::EvictSession(session) => {
                let session = u128::from(*session);
                let record = SessionRecord {
                    session,
                    number: self.twin.meta().applied_index * 300,
                    reply: Bytes::from_static(b"right before the eviction"),
                };
                self.apply(vec![Vec::new()], vec![record], vec![session], false);
            }
            StateStep::Flush => {
                self.real.as_ref().unwrap().flush().unwrap();
                self.twin.flush().unwrap();
            }
            StateStep::Restart => {
                drop(self.real.take());
                self.twin.flush().unwrap();
                self.open();
            }
            StateStep::Crash => {
                let before = self.path();
                self.runs += 1;
                copy_dir(&before, &self.path());
                self.open();
                self.twin.crash();
            }
            StateStep::DropHistory(ago) => {
                let ts = self.twin.meta().last_ts.saturating_sub(u64::from(*ago));
                self.real.as_ref().unwrap().drop_history(ts).unwrap();
                self.twin.drop_history(ts).unwrap();
            }
        }
    }

    /// A row of the range is written before it goes, and one after, all in one call.
    fn drop_range(&mut self, from: u8, to: u8) {
        let put = |key: Bytes, value| Op::Put {
            key,
            value: Bytes::from_static(value),
            fresh: false,
        };
        let before = put(key(from + (to - from) / 2), b"before the drop");
        let after = put(key(from), b"after the drop");
        let (from, to) = (key(from), key(to));
        let drop = Op::DeleteRange { from, to };
        let entries = vec![vec![before], vec![drop], vec![after]];
        self.apply(entries, Vec::new(), Vec::new(), false);
    }

    fn present(&self) -> BTreeSet<Bytes> {
        let mut rows = Vec::new();
        self.twin
            .scan(&key(0), &key(200), false, 1000, &mut rows)
            .unwrap();
        rows.into_iter().map(|(key, _)| key).collect()
    }

    fn compare(&self) {
        let (real, twin) = (self.real.as_ref().unwrap(), &self.twin);
        assert_eq!(real.meta(), twin.meta());
        assert_eq!(real.durable_index(), twin.durable_index());
        let sorted = |mut records: Vec<SessionRecord>| {
            records.sort_by_key(|record| (record.session, record.number));
            records
        };
        assert_eq!(
            sorted(real.sessions().unwrap()),
            sorted(twin.sessions().unwrap())
        );
        assert_eq!(
            real.evicted_sessions().unwrap(),
            twin.evicted_sessions().unwrap()
        );
        let last = twin.meta().last_ts;
        for (from, to, limit) in [(0, 12, 100), (3, 9, 2), (5, 6, 1), (9, 3, 5)] {
            for reverse in [false, true] {
                let (mut left, mut right) = (Vec::new(), Vec::new());
                real.scan(&key(from), &key(to), reverse, limit, &mut left)
                    .unwrap();
                twin.scan(&key(from), &key(to), reverse, limit, &mut right)
                    .unwrap();
                assert_eq!(left, right);
                for ts in [last, last.saturating_sub(10), last.saturating_sub(35), 0] {
                    let (mut left, mut right) = (Vec::new(), Vec::new());
                    let left_result =
                        real.scan_at(&key(from), &key(to), reverse, limit, ts, &mut left);
                    let right_result =
                        twin.scan_at(&key(from), &key(to), reverse, limit, ts, &mut right);
                    if from < to {
                        assert_eq!(left_result, right_result);
                    }
                    assert_eq!(left, right, "at {ts}");
                }
            }
        }
        for ts in [last, last.saturating_sub(10), last.saturating_sub(35), 0] {
            assert_eq!(ended(real, ts), ended(twin, ts), "ended after {ts}");
        }
        for number in 0..12 {
            assert_eq!(
                real.get(&key(number)).unwrap(),
                twin.get(&key(number)).unwrap()
            );
            let ts = last.saturating_sub(20);
            assert_eq!(real.get_at(&key(number), ts), twin.get_at(&key(number), ts));
        }
    }
}

/// What stopped being current after `ts`, asked for in small pieces.
fn ended(store: &dyn StateSnapshot, ts: u64) -> crate::error::Result<Vec<Ended>> {
    let mut all: Vec<Ended> = Vec::new();
    loop {
        let (before, last) = (all.len(), all.last().cloned());
        let after = last.as_ref().map(|last| (last.end, &last.key[..]));
        store.ended_after(ts, after, 3, &mut all)?;
        if all.len() < before + 3 {
            return Ok(all);
        }
    }
}

/// `fresh` is right by the rows present, which follow.
fn to_ops(changes: &[(u8, Option<u8>)], present: &mut BTreeSet<Bytes>) -> Vec<Op> {
    let mut seen = BTreeSet::new();
    let first_of_key = changes.iter().filter(|(number, _)| seen.insert(*number));
    let op = |&(number, value): &(u8, Option<u8>)| match value {
        Some(value) => Op::Put {
            key: key(number),
            value: Bytes::from(vec![value; usize::from(value % 5)]),
            fresh: present.insert(key(number)),
        },
        None => {
            present.remove(&key(number));
            Op::Delete { key: key(number) }
        }
    };
    first_of_key.map(op).collect()
}

#[derive(Clone, Debug)]
enum LogStep {
    Append {
        group: u32,
        back: u64,
        sizes: Vec<u16>,
        vote: Option<u64>,
        sync: bool,
    },
    Truncate(u32, u64),
    Restart,
}

fn log_step() -> impl Strategy<Value = LogStep> {
    let sizes = proptest::collection::vec(0..300u16, 0..6);
    let vote = proptest::option::of(1..4u64);
    prop_oneof![
        8 => (0..3u32, 0..3u64, sizes, vote, any::<bool>())
            .prop_map(|(group, back, sizes, vote, sync)| LogStep::Append { group, back, sizes, vote, sync }),
        2 => (0..3u32, 0..30u64).prop_map(|(group, index)| LogStep::Truncate(group, index)),
        1 => Just(LogStep::Restart),
    ]
}

pub(super) fn log_write(
    log: &dyn LogStore,
    group: u32,
    back: u64,
    sizes: &[u16],
    vote: Option<u64>,
) -> LogWrite {
    let (first, last, _) = log.load(group).unwrap();
    let start = (last + 1).saturating_sub(back).max(first);
    let entry = |(index, size): (u64, &u16)| Entry {
        index,
        term: 1 + back,
        data: vec![back as u8; usize::from(*size)].into(),
        ..Entry::default()
    };
    LogWrite {
        group,
        entries: (start..).zip(sizes).map(entry).collect(),
        hard_state: vote.map(|vote| HardState {
            term: vote + 1,
            vote,
            ..HardState::default()
        }),
        reset: false,
        member: vote.map(|vote| vote + 7),
    }
}

pub(super) fn compare_logs(real: &EngineLog, twin: &MemLog) {
    for group in 0..3 {
        let (first, last, hard_state) = twin.load(group).unwrap();
        assert_eq!(real.load(group).unwrap(), (first, last, hard_state));
        assert_eq!(real.member(group).unwrap(), twin.member(group).unwrap());
        for (low, high, max) in [
            (first, last + 1, u64::MAX),
            (first, last + 1, 300),
            (last.max(first), last + 1, 0),
        ] {
            assert_eq!(
                real.entries(group, low, high, max).unwrap(),
                twin.entries(group, low, high, max).unwrap()
            );
        }
        assert!(real.entries(group, last + 1, last + 2, 1).is_err());
        assert!(twin.entries(group, last + 1, last + 2, 1).is_err());
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 30, ..ProptestConfig::default() })]

    #[test]
    fn state_store_and_twin_agree(
        files in any::<bool>(),
        steps in proptest::collection::vec(state_step(), 1..40),
    ) {
        let mut twins = StateTwins::new(files);
        for step in &steps {
            twins.step(step);
            twins.compare();
        }
    }

    #[test]
    fn log_store_and_twin_agree(steps in proptest::collection::vec(log_step(), 1..40)) {
        let dir = tempfile::tempdir().unwrap();
        let options = EngineLogOptions { file_bytes: 4096, purge_bytes: 8192, prefill_bytes: 0, fill_ahead: false };
        let mut real = EngineLog::open(dir.path(), &options, IDENTITY).unwrap();
        let twin = MemLog::new();
        for step in &steps {
            match step {
                LogStep::Append { group, back, sizes, vote, sync } => {
                    let write = log_write(&twin, *group, *back, sizes, *vote);
                    real.append(vec![write.clone()], *sync).unwrap();
                    twin.append(vec![write], *sync).unwrap();
                }
                LogStep::Truncate(group, index) => {
                    real.truncate(*group, *index).unwrap();
                    twin.truncate(*group, *index).unwrap();
                }
                LogStep::Restart => {
                    drop(real);
                    real = EngineLog::open(dir.path(), &options, IDENTITY).unwrap();
                }
            }
            compare_logs(&real, &twin);
        }
    }
}

#[test]
fn a_crash_keeps_what_was_synced_and_a_prefix_of_the_rest() {
    let mut kept = BTreeSet::new();
    for seed in 0..40 {
        let log = MemLog::new();
        log.append(vec![log_write(&log, 1, 0, &[1, 1], Some(2))], true)
            .unwrap();
        for _ in 0..3 {
            log.append(vec![log_write(&log, 1, 0, &[5], None)], false)
                .unwrap();
        }
        log.crash(seed);
        let (first, last, hard_state) = log.load(1).unwrap();
        assert_eq!((first, hard_state.vote), (1, 2));
        kept.insert(last);
    }
    assert_eq!(kept.into_iter().collect::<Vec<_>>(), vec![2, 3, 4, 5]);
}

#[test]
fn a_torn_end_of_the_log_is_cut_off() {
    let dir = tempfile::tempdir().unwrap();
    let options = EngineLogOptions::default();
    let log = EngineLog::open(&dir.path().join("a"), &options, IDENTITY).unwrap();
    for _ in 0..3 {
        log.append(vec![log_write(&log, 1, 0, &[100], Some(1))], true)
            .unwrap();
    }
    copy_dir(&dir.path().join("a"), &dir.path().join("b"));
    let newest = std::fs::read_dir(dir.path().join("b/raft-engine"))
        .unwrap()
        .map(|file| file.unwrap().path());
    let newest = newest
        .filter(|path| {
            path.extension()
                .is_some_and(|extension| extension == "raftlog")
        })
        .max()
        .unwrap();
    let mut bytes = std::fs::read(&newest).unwrap();
    let end = bytes.iter().rposition(|byte| *byte != 0).unwrap();
    bytes[end - 20..].fill(0);
    std::fs::write(&newest, bytes).unwrap();
    let log = EngineLog::open(&dir.path().join("b"), &options, IDENTITY).unwrap();
    assert_eq!(log.load(1).unwrap().1, 2);
    log.append(vec![log_write(&log, 1, 0, &[7], None)], true)
        .unwrap();
    assert_eq!(log.load(1).unwrap().1, 3);
}

#[test]
fn holes_in_the_log_are_refused_by_both() {
    let dir = tempfile::tempdir().unwrap();
    let real = EngineLog::open(dir.path(), &EngineLogOptions::default(), IDENTITY).unwrap();
    let twin = MemLog::new();
    for log in [&real as &dyn LogStore, &twin] {
        log.append(vec![log_write(log, 1, 0, &[1, 1], None)], false)
            .unwrap();
        let mut hole = log_write(log, 1, 0, &[1], None);
        hole.entries[0].index += 1;
        assert_eq!(
            log.append(vec![hole], true).unwrap_err().sqlstate(),
            "XX000"
        );
        log.append(Vec::new(), true).unwrap();
        assert_eq!(log.load(1).unwrap().1, 2);
    }
}

#[test]
fn the_log_gives_space_back() {
    let dir = tempfile::tempdir().unwrap();
    let options = EngineLogOptions {
        file_bytes: 64 << 10,
        purge_bytes: 256 << 10,
        prefill_bytes: 0,
        fill_ahead: false,
    };
    let log = EngineLog::open(dir.path(), &options, IDENTITY).unwrap();
    for _ in 0..400 {
        log.append(vec![log_write(&log, 1, 0, &[10_000], None)], false)
            .unwrap();
        let last = log.load(1).unwrap().1;
        log.truncate(1, last.saturating_sub(3)).unwrap();
    }
    assert!(log.size_bytes() < 1 << 20, "{} bytes", log.size_bytes());
}

#[test]
fn a_store_open_elsewhere_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let shared = RocksShared::new(1 << 20, 1 << 20);
    let _open = RocksState::open(dir.path(), &shared, IDENTITY).unwrap();
    let Err(error) = RocksState::open(dir.path(), &shared, IDENTITY) else {
        panic!("opened twice");
    };
    assert_eq!(error.sqlstate(), "55006", "{error}");
    let other = Identity {
        cluster: 43,
        number: 1,
    };
    assert_eq!(
        RocksState::open(dir.path(), &shared, other)
            .err()
            .unwrap()
            .sqlstate(),
        "F0000"
    );
}
