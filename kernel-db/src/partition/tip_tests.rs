//! The tip against a plain map: random transactions, batches, applies, evictions and lost leaderships, over both stores.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use proptest::prelude::*;

use super::{Scan, Store, Tip, TipLimits};
use crate::storage::format::Identity;
use crate::storage::memory::MemState;
use crate::storage::rocks::{RocksShared, RocksState};
use crate::storage::{AppliedEntry, Op, StateStore};

type Rows = BTreeMap<Bytes, Bytes>;

#[derive(Clone, Debug)]
enum TxnStep {
    Put(u8, u8),
    Delete(u8),
    Get(u8),
    Scan {
        from: u8,
        to: u8,
        reverse: bool,
        limit: usize,
    },
    DropTable(u8),
    DropPart(u8, u8),
    Savepoint,
    RollbackTo(usize),
}

#[derive(Clone, Debug)]
enum Step {
    Txn {
        steps: Vec<TxnStep>,
        commit: bool,
    },
    Close,
    /// Entries applied to the store, which the tip hears of later.
    Apply(usize),
    Applied,
    LoseLeadership,
}

fn txn_step() -> impl Strategy<Value = TxnStep> {
    prop_oneof![
        8 => (0..KEYS, any::<u8>()).prop_map(|(key, value)| TxnStep::Put(key, value)),
        6 => (0..KEYS).prop_map(TxnStep::Delete),
        4 => (0..KEYS).prop_map(TxnStep::Get),
        6 => (0..KEYS, 0..KEYS, any::<bool>(), 0..9usize)
            .prop_map(|(from, to, reverse, limit)| TxnStep::Scan { from, to, reverse, limit }),
        1 => (0..3u8).prop_map(TxnStep::DropTable),
        1 => (0..KEYS, 0..KEYS).prop_map(|(from, to)| TxnStep::DropPart(from, to)),
        2 => Just(TxnStep::Savepoint),
        2 => (0..4usize).prop_map(TxnStep::RollbackTo),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        10 => (proptest::collection::vec(txn_step(), 0..10), proptest::bool::weighted(0.75))
            .prop_map(|(steps, commit)| Step::Txn { steps, commit }),
        4 => Just(Step::Close),
        4 => (1..4usize).prop_map(Step::Apply),
        4 => Just(Step::Applied),
        1 => Just(Step::LoseLeadership),
    ]
}

fn limits() -> impl Strategy<Value = TipLimits> {
    (
        prop_oneof![Just(0), Just(1500), Just(1 << 30)],
        prop_oneof![Just(0usize), Just(3), Just(1000)],
        prop_oneof![Just(40usize), Just(1 << 20)],
    )
        .prop_map(
            |(tip_bytes_max, load_rows_max, write_set_bytes_max)| TipLimits {
                tip_bytes_max,
                write_set_bytes_max,
                load_rows_max,
            },
        )
}

/// Three tables of eight keys.
const KEYS: u8 = 24;

/// Eight keys per table, four in each of two indexes.
fn key(number: u8) -> Bytes {
    Bytes::copy_from_slice(&[0, 0, 1, number / 8, 0, number % 8 / 4, number % 4])
}

/// A scan of the view from one key to another, within the table of the first, is the model's.
fn check_scan(
    view: &mut dyn Store,
    rows: &BTreeMap<Bytes, Bytes>,
    (from, to): (Bytes, Bytes),
    reverse: bool,
    limit: usize,
) {
    let (_, end) = table_range(from[3]);
    let to = to.min(Bytes::copy_from_slice(&end));
    let mut out = vec![(Bytes::new(), Bytes::new())];
    let scan = Scan {
        from: &from,
        to: &to,
        reverse,
        limit,
        slot: None,
    };
    view.scan(scan, &mut out).unwrap();
    assert_eq!(out[1..], range(rows, &from, &to, reverse, limit));
}

fn table_range(table: u8) -> ([u8; 4], [u8; 4]) {
    ([0, 0, 1, table], [0, 0, 1, table + 1])
}

fn range(rows: &Rows, from: &[u8], to: &[u8], reverse: bool, limit: usize) -> Vec<(Bytes, Bytes)> {
    let within = rows
        .iter()
        .filter(|(key, _)| key[..] >= *from && key[..] < *to);
    let owned = within.map(|(key, value)| (key.clone(), value.clone()));
    let mut all: Vec<_> = owned.collect();
    if reverse {
        all.reverse();
    }
    all.truncate(limit);
    all
}

struct Bench<S> {
    tip: Tip<S>,
    store: Arc<S>,
    /// What transactions should see, what the last closed batch left, what the store should hold.
    now: Rows,
    closed: Rows,
    applied: Rows,
    pending: VecDeque<(AppliedEntry, Rows)>,
    index: u64,
    exact: bool,
}

impl<S: StateStore> Bench<S> {
    fn new(store: S, limits: TipLimits) -> Self {
        let store = Arc::new(store);
        let exact = limits.load_rows_max == 1000 && limits.tip_bytes_max == 1 << 30;
        Self {
            tip: Tip::new(store.clone(), limits),
            store,
            now: Rows::new(),
            closed: Rows::new(),
            applied: Rows::new(),
            pending: VecDeque::new(),
            index: 0,
            exact,
        }
    }

    fn run(&mut self, steps: &[Step]) {
        for step in steps {
            match step {
                Step::Txn { steps, commit } => self.transaction(steps, *commit),
                Step::Close => self.close(),
                Step::Apply(count) => self.apply(*count),
                Step::Applied => self.tip.applied(self.store.meta().applied_index),
                Step::LoseLeadership => {
                    // The open batch is lost; what was closed is committed and applied before the tip is used again.
                    self.apply(usize::MAX);
                    self.tip.clear();
                    self.now = self.closed.clone();
                }
            }
        }
        self.close();
        self.apply(usize::MAX);
        self.tip.applied(self.index);
        assert_eq!(self.tip.stats().batches_in_flight, 0);
        let everything = (0..KEYS).map(TxnStep::Get).collect::<Vec<_>>();
        self.transaction(&everything, true);
    }

    fn transaction(&mut self, steps: &[TxnStep], commit: bool) {
        let mut rows = self.now.clone();
        let mut savepoints = Vec::new();
        let mut view = self.tip.begin();
        for step in steps {
            match step {
                TxnStep::Put(number, value) => {
                    let value = Bytes::from(vec![*value % 3; usize::from(*value % 4)]);
                    if let Err(error) = view.put(key(*number), value.clone()) {
                        assert_eq!(error.sqlstate(), "54000");
                        assert!(error.message().contains("write_set_bytes_max"));
                        return;
                    }
                    rows.insert(key(*number), value);
                }
                TxnStep::Delete(number) => {
                    if view.delete(&key(*number)).is_err() {
                        return;
                    }
                    rows.remove(&key(*number));
                }
                TxnStep::Get(number) => {
                    assert_eq!(
                        view.get(&key(*number), None).unwrap(),
                        rows.get(&key(*number)).cloned()
                    );
                }
                TxnStep::Scan {
                    from,
                    to,
                    reverse,
                    limit,
                } => check_scan(&mut view, &rows, (key(*from), key(*to)), *reverse, *limit),
                TxnStep::DropTable(table) => {
                    let (from, to) = table_range(*table);
                    view.delete_range(&from, &to).unwrap();
                    rows.retain(|key, _| key[..] < from[..] || key[..] >= to[..]);
                }
                TxnStep::DropPart(from, to) if from / 8 == to / 8 => {
                    view.delete_range(&key(*from), &key(*to)).unwrap();
                    if from < to {
                        rows.retain(|of, _| *of < key(*from) || *of >= key(*to));
                    }
                }
                TxnStep::DropPart(..) => {}
                TxnStep::Savepoint => savepoints.push((view.savepoint(), rows.clone())),
                TxnStep::RollbackTo(number) => {
                    if let Some((savepoint, then)) = savepoints.get(*number).cloned() {
                        view.rollback_to(savepoint);
                        rows = then;
                        savepoints.truncate(number + 1);
                    }
                }
            }
        }
        if commit {
            view.commit();
            self.now = rows;
        } else {
            view.rollback();
        }
    }

    fn close(&mut self) {
        self.index += 1;
        let ops = self.tip.close_batch(self.index);
        assert!(self.tip.batch_is_empty());
        let mut base = self.closed.clone();
        let mut seen = std::collections::BTreeSet::new();
        for op in &ops {
            match op {
                Op::DeleteRange { from, to } => base.retain(|key, _| key < from || key >= to),
                Op::Put { key, value, fresh } => {
                    assert!(seen.insert(key.clone()), "two changes of one key");
                    assert!(!fresh || !base.contains_key(key), "fresh over a row");
                    assert!(
                        !self.exact || *fresh != base.contains_key(key),
                        "not fresh over nothing"
                    );
                    assert!(
                        !self.exact || base.get(key) != Some(value),
                        "a change without effect"
                    );
                }
                Op::Delete { key } => {
                    assert!(seen.insert(key.clone()), "two changes of one key");
                    assert!(
                        !self.exact || base.contains_key(key),
                        "a delete without effect"
                    );
                }
            }
        }
        let entry = AppliedEntry {
            index: self.index,
            term: 1,
            ts: self.index * 10,
            ops,
            ..AppliedEntry::default()
        };
        self.closed = self.now.clone();
        self.pending.push_back((entry, self.closed.clone()));
    }

    fn apply(&mut self, count: usize) {
        for _ in 0..count.min(self.pending.len()) {
            let (entry, rows) = self.pending.pop_front().unwrap();
            self.store.apply(&[entry]).unwrap();
            self.applied = rows;
        }
        let mut stored = Vec::new();
        self.store
            .scan(&[0], &[1], false, 1000, &mut stored)
            .unwrap();
        let stored: Rows = stored
            .into_iter()
            .map(|(key, row)| (key, row.value))
            .collect();
        assert_eq!(stored, self.applied);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1500, max_shrink_iters: 4000, ..ProptestConfig::default() })]

    #[test]
    fn the_tip_is_a_map(limits in limits(), steps in proptest::collection::vec(step(), 1..50)) {
        Bench::new(MemState::new(), limits).run(&steps);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, max_shrink_iters: 200, ..ProptestConfig::default() })]

    #[test]
    fn the_tip_is_a_map_over_rocksdb(limits in limits(), steps in proptest::collection::vec(step(), 1..50)) {
        let dir = tempfile::tempdir().unwrap();
        let identity = Identity { cluster: 1, number: 1 };
        let store = RocksState::open(dir.path(), &RocksShared::new(1 << 20, 1 << 20), identity).unwrap();
        Bench::new(store, limits).run(&steps);
    }
}

#[test]
fn a_queue_filled_and_emptied_leaves_nothing_behind() {
    let mut tip = Tip::new(Arc::new(MemState::new()), TipLimits::default());
    let message = |number: u64| Bytes::from([&[0, 0, 1, 0][..], &number.to_be_bytes()].concat());
    let hot = Bytes::from_static(&[0, 0, 1, 1, 7]);
    for number in 0..50_000u64 {
        let mut view = tip.begin();
        view.put(message(number), Bytes::from_static(b"hello"))
            .unwrap();
        view.put(hot.clone(), Bytes::copy_from_slice(&number.to_be_bytes()))
            .unwrap();
        view.commit();
        let mut view = tip.begin();
        view.delete(&message(number)).unwrap();
        view.commit();
        if number % 10 == 9 {
            let ops = tip.close_batch(number);
            assert_eq!(ops.len(), 1, "only the hot row changed: {ops:?}");
            tip.applied(number - 9);
        }
    }
    let stats = tip.stats();
    assert_eq!((stats.rows, stats.tables_whole), (1, 2));
    assert!(
        stats.bytes < 1000 && stats.batches_in_flight < 3,
        "{stats:?}"
    );
}

#[test]
fn memory_is_bounded_by_eviction_of_what_is_applied() {
    let store = Arc::new(MemState::new());
    let limits = TipLimits {
        tip_bytes_max: 100_000,
        ..TipLimits::default()
    };
    let mut tip = Tip::new(store.clone(), limits);
    for index in 1..2000u64 {
        let mut view = tip.begin();
        view.put(
            Bytes::from([&[0, 0, 1, 0][..], &index.to_be_bytes()].concat()),
            Bytes::from(vec![1; 100]),
        )
        .unwrap();
        view.commit();
        let ops = tip.close_batch(index);
        let entry = AppliedEntry {
            index,
            ts: index,
            ops,
            ..AppliedEntry::default()
        };
        store.apply(&[entry]).unwrap();
        tip.applied(index);
        assert!(tip.stats().bytes < 101_000, "{:?}", tip.stats());
    }
    let mut rows = Vec::new();
    let scan = Scan {
        from: &[0, 0, 1, 0],
        to: &[0, 0, 1, 1],
        reverse: true,
        limit: 5000,
        slot: None,
    };
    tip.begin().scan(scan, &mut rows).unwrap();
    assert_eq!(rows.len(), 1999);
}

#[test]
fn a_delete_of_the_open_batch_outlives_the_eviction_of_its_table() {
    let limits = TipLimits {
        tip_bytes_max: 1500,
        ..TipLimits::default()
    };
    let mut bench = Bench::new(MemState::new(), limits);
    bench.transaction(&[TxnStep::Put(0, 1)], true);
    bench.close();
    bench.apply(1);
    bench.tip.applied(1);
    let delete_and_grow: Vec<_> = [TxnStep::Delete(0)]
        .into_iter()
        .chain((1..8).map(|number| TxnStep::Put(number, 3)))
        .chain((8..11).map(|number| TxnStep::Put(number, 3)))
        .collect();
    bench.transaction(&delete_and_grow, true);
    assert_ne!(bench.tip.stats().tables_whole, 2, "nothing was evicted");
    bench.run(&[Step::Txn {
        steps: vec![TxnStep::Get(0)],
        commit: true,
    }]);
}

#[test]
fn dropped_rows_are_given_back_in_steps_and_come_back_with_an_undo() {
    const ROWS: u32 = 10_000;
    let mut tip = Tip::new(Arc::new(MemState::new()), TipLimits::default());
    let row = |number: u32| Bytes::from([&[0, 0, 1, 0, 0, 0][..], &number.to_be_bytes()].concat());
    let mut view = tip.begin();
    for number in 0..ROWS {
        view.put(row(number), Bytes::from_static(b"value")).unwrap();
    }
    view.commit();
    tip.close_batch(1);
    let before = tip.stats();
    assert_eq!(before.rows, ROWS as usize);
    let (from, to) = table_range(0);
    for commit in [false, true] {
        let mut view = tip.begin();
        view.delete_range(&from, &to).unwrap();
        assert_eq!(view.get(&row(7), None).unwrap(), None);
        view.put(row(7), Bytes::from_static(b"after")).unwrap();
        if !commit {
            view.rollback();
            assert_eq!(tip.stats(), before);
            continue;
        }
        view.commit();
    }
    assert_eq!(tip.stats().rows, 1);
    let left = tip.dropped_rows();
    assert!(
        left > ROWS as usize / 2,
        "all {ROWS} rows were freed at once"
    );
    tip.free(left - 1);
    assert_eq!(tip.dropped_rows(), 1);
    tip.free(1);
    assert_eq!(tip.dropped_rows(), 0);
}

#[test]
fn inserting_into_a_table_that_outgrew_its_memory_asks_the_state_store_for_nothing() {
    let limits = TipLimits {
        tip_bytes_max: 50_000,
        ..TipLimits::default()
    };
    let mut bench = Bench::new(MemState::new(), limits);
    let row = |number: u32| Bytes::from([&[0, 0, 1, 0, 0, 0][..], &number.to_be_bytes()].concat());
    let mut doubts = 0;
    for number in 0..2000 {
        let mut view = bench.tip.begin();
        assert_eq!(view.get(&row(number), None).unwrap(), None);
        view.put(row(number), Bytes::from_static(b"value")).unwrap();
        view.commit();
        let ops = bench.tip.close_batch(u64::from(number) + 1);
        let [Op::Put { fresh, .. }] = &ops[..] else {
            panic!("one row is one change: {ops:?}");
        };
        doubts += usize::from(!fresh);
        let entry = AppliedEntry {
            index: u64::from(number) + 1,
            term: 1,
            ts: u64::from(number) + 1,
            ops,
            ..AppliedEntry::default()
        };
        bench.store.apply(&[entry]).unwrap();
        bench.tip.applied(u64::from(number) + 1);
    }
    assert!(bench.tip.stats().rows < 500, "nothing was evicted");
    // The few false positives of the filter.
    let reads = bench.tip.store_reads(256);
    assert!(reads < 20, "{reads} reads of the state store");
    assert!(doubts < 20, "{doubts} rows were not known to be new");
    let mut view = bench.tip.begin();
    assert!((0..2000).all(|number| view.get(&row(number), None).unwrap().is_some()));
    drop(view);
    assert!(bench.tip.store_reads(256) > 1000);
}
