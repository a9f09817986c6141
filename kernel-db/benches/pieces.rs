//! The hot pieces of a call, one by one, without threads and disks: what `bench-compare.sh` compares between revisions.

use std::hint::black_box;
use std::sync::Arc;

use bytes::Bytes;
use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use kernel_db::partition::apply::payload::{LogPayload, Op as LogOp, Put, op::Kind};
use kernel_db::partition::apply::{self, ApplyJob};
use kernel_db::partition::{Budget, Store, Tip, TipLimits, Transaction, TxnEnv};
use kernel_db::sql::catalog::Catalog;
use kernel_db::sql::codec::{key, row};
use kernel_db::sql::prepare::prepare;
use kernel_db::sql::transaction::{CatalogChange, InstallSchema, SqlTransaction, catalog_key};
use kernel_db::sql::{DataType, Value};
use kernel_db::storage::StateStore;
use kernel_db::storage::format::Identity;
use kernel_db::storage::memory::MemState;
use kernel_db::storage::replaceable::ReplaceableState;
use kernel_db::storage::rocks::RocksShared;
use kernel_db::txn::messages::{Commit, Part, TxnId, Work, Write};
use prost::Message as _;
use raft::eraftpb::Entry;

/// As in the `dbos` binary.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const SCHEMA: [&str; 2] = [
    include_str!("../../scheduler/sql/schema.sql"),
    include_str!("../../scheduler/sql/fifo.sql"),
];
const KEYS: i32 = 64;
const WORKERS_PER_KEY: i32 = 10;
/// Slots of a worker: never exhausted.
const SLOTS: i32 = 1 << 27;
/// Transactions of one batch.
const BATCH: u64 = 64;
const TABLE: u32 = 1_000;

fn env(seed: u64) -> TxnEnv {
    TxnEnv {
        wall_us: 1_700_000_000_000_000,
        seed,
        partition: 0,
        partitions: 1,
        budget: Budget::new(1_000_000),
        wait: None,
        lease: None,
    }
}

fn codec(criterion: &mut Criterion) {
    let columns = [
        Value::Int4(7),
        Value::Text("worker".into()),
        Value::Int8(42),
    ];
    let types = [DataType::Int4, DataType::Text, DataType::Int8];
    let ascending = [false; 3];
    let encoded = key::encode(&columns, &ascending);
    criterion.bench_function("key/encode", |b| {
        b.iter(|| key::encode(black_box(&columns), &ascending));
    });
    criterion.bench_function("key/decode", |b| {
        b.iter(|| key::decode(black_box(&encoded), &types, &ascending).unwrap());
    });
    let encoded = Bytes::from(row::encode(&columns).unwrap());
    criterion.bench_function("row/encode", |b| {
        b.iter(|| row::encode(black_box(&columns)).unwrap());
    });
    criterion.bench_function("row/decode", |b| {
        b.iter(|| row::decode(black_box(&encoded), &types).unwrap());
    });
}

fn tip_key(n: u64) -> Bytes {
    let head = [TABLE.to_be_bytes().as_slice(), &[0, 0]].concat();
    [head.as_slice(), &n.to_be_bytes()].concat().into()
}

fn tip(criterion: &mut Criterion) {
    let value = Bytes::from_static(&[7; 24]);
    let mut tip = Tip::new(Arc::new(MemState::new()), TipLimits::default());
    let mut index = 0;
    let mut n = 0_u64;
    // Closed and applied like a partition's batches, so that rows do not pile up in one.
    let mut close = |tip: &mut Tip<MemState>, n: u64| {
        if n.is_multiple_of(BATCH) {
            index += 1;
            black_box(tip.close_batch(index));
            tip.applied(index);
        }
    };
    let mut view = tip.begin();
    for n in 0..10_000 {
        view.put(tip_key(n), value.clone()).unwrap();
    }
    view.commit();
    let keys: Vec<Bytes> = (0..10_000).map(tip_key).collect();
    criterion.bench_function("tip/get", |b| {
        b.iter(|| {
            n += 1;
            let key = &keys[(n * 7919 % 10_000) as usize];
            tip.begin().get(key, None).unwrap()
        });
    });
    criterion.bench_function("tip/update", |b| {
        b.iter(|| {
            n += 1;
            let mut view = tip.begin();
            let key = keys[(n * 7919 % 10_000) as usize].clone();
            view.put(key, value.clone()).unwrap();
            view.commit();
            close(&mut tip, n);
        });
    });
    criterion.bench_function("tip/insert and delete", |b| {
        b.iter(|| {
            n += 1;
            let key = tip_key(1_000_000 + n);
            let mut view = tip.begin();
            view.put_new(key.clone(), value.clone()).unwrap();
            view.delete(&key).unwrap();
            view.commit();
            close(&mut tip, n);
        });
    });
}

/// A tip with the scheduler's tables, its procedure and workers; and the catalogue.
fn scheduler() -> (Tip<MemState>, Arc<Catalog>) {
    let mut tip = Tip::new(Arc::new(MemState::new()), TipLimits::default());
    let mut run = |txn: &dyn Transaction| {
        let mut view = tip.begin();
        txn.run(&mut view, &mut env(1)).unwrap();
        view.commit();
    };
    for text in SCHEMA {
        run(&CatalogChange::Ddl(vec![text.to_string()]));
    }
    let stored = tip.begin().get(&catalog_key(), None).unwrap().unwrap();
    let catalog = Arc::new(Catalog::from_bytes(&stored).unwrap());
    let mut run = |txn: &dyn Transaction| {
        let mut view = tip.begin();
        txn.run(&mut view, &mut env(1)).unwrap();
        view.commit();
    };
    run(&InstallSchema::new(&catalog));
    let insert = "INSERT INTO worker (p_key, worker_id, capacity, slots) VALUES ($1, $2, $3, $3)";
    let insert = Arc::new(prepare(&catalog, insert, &[]).unwrap());
    for n in 0..KEYS * WORKERS_PER_KEY {
        let (p_key, worker) = (Value::Int4(n % KEYS), Value::Int4(n / KEYS));
        let params = vec![p_key, worker, Value::Int4(SLOTS)];
        run(&SqlTransaction::new(vec![(insert.clone(), params)], ""));
    }
    tip.close_batch(1);
    tip.applied(1);
    (tip, catalog)
}

fn sql(criterion: &mut Criterion) {
    let (mut tip, catalog) = scheduler();
    let text = "SELECT sched_fifo($1, $2)";
    criterion.bench_function("sql/prepare", |b| {
        b.iter(|| prepare(&catalog, black_box(text), &[]).unwrap());
    });
    let fifo = Arc::new(prepare(&catalog, text, &[]).unwrap());
    let (mut n, mut index) = (0_u64, 1);
    criterion.bench_function("sql/fifo call", |b| {
        b.iter(|| {
            n += 1;
            let params = vec![Value::Int4((n % KEYS as u64) as i32), Value::Int8(n as i64)];
            let txn = SqlTransaction::new(vec![(fifo.clone(), params)], "");
            let mut view = tip.begin();
            let reply = txn.run(&mut view, &mut env(n)).unwrap();
            view.commit();
            if n.is_multiple_of(BATCH) {
                index += 1;
                black_box(tip.close_batch(index));
                tip.applied(index);
            }
            reply
        });
    });
}

/// A batch's entry: new rows and rows that change again and again.
fn payload(n: u64) -> LogPayload {
    let put = |key, fresh| LogOp {
        kind: Some(Kind::Put(Put {
            key,
            value: Bytes::from_static(&[7; 24]),
            fresh,
        })),
    };
    let mut ops: Vec<_> = (0..BATCH).map(|i| put(tip_key(i), false)).collect();
    ops.extend((0..BATCH).map(|i| put(tip_key(1_000_000 + n * BATCH + i), true)));
    LogPayload {
        ts: n + 1,
        ceiling: n + 1_000,
        ops,
        ..LogPayload::default()
    }
}

fn log(criterion: &mut Criterion) {
    let entry = payload(0);
    let encoded = Bytes::from(entry.encode_to_vec());
    criterion.bench_function("log/decode an entry of 128 rows", |b| {
        b.iter(|| LogPayload::decode(black_box(encoded.clone())).unwrap());
    });
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let shared = RocksShared::new(64 << 20, 64 << 20);
    let identity = Identity {
        cluster: 1,
        number: 1,
    };
    let store = ReplaceableState::open(&dir.path().join("state"), &shared, identity).unwrap();
    let mut index = store.meta().applied_index;
    criterion.bench_function("log/apply an entry of 128 rows", |b| {
        let next = || {
            index += 1;
            let data = payload(index).encode_to_vec().into();
            let entry = Entry {
                index,
                term: 1,
                data,
                ..Entry::default()
            };
            ApplyJob {
                group: 1,
                entries: vec![entry],
                ..ApplyJob::default()
            }
        };
        let apply = |job| apply::run(&store, job).unwrap();
        b.iter_batched(next, apply, BatchSize::PerIteration);
    });
}

fn messages(criterion: &mut Criterion) {
    let txn = TxnId {
        start: 1,
        node: 2,
        number: 3,
    };
    let write = |n| Write {
        key: tip_key(n),
        value: Some(Bytes::from_static(&[7; 24])),
    };
    let work = Work::Commit(Commit {
        part: Part {
            txn,
            term: Some(1),
            writes: vec![write(1), write(2)],
            ..Part::default()
        },
        others: vec![2],
        ..Commit::default()
    });
    criterion.bench_function("txn/a commit to bytes and back", |b| {
        b.iter(|| Work::from_bytes(black_box(work.clone()).into_bytes()).unwrap());
    });
}

criterion_group!(benches, codec, tip, sql, log, messages);
criterion_main!(benches);
