//! The engine alone: one partition, one replica, FIFO scheduling through the compiled plpgsql procedure.
//!
//! Everything of a node is real but for sockets and SQL text: replica with its Raft driver, log writer thread with synced
//! raft-engine, apply thread with RocksDB; every call has a session and a number (I11). Calls arrive in groups, as they do
//! from a socket, and so many are in flight. At the end the directory is opened anew and the rows are counted.

use std::hint::black_box;
use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use kernel_db::node::NodeConfig;
use kernel_db::node::threads::{Report, Threads, WriteJob};
use kernel_db::partition::{
    Input, Now, Output, Replica, ReplicaConfig, Request, Task, Transaction, Waited,
};
use kernel_db::sql::Value;
use kernel_db::sql::catalog::Catalog;
use kernel_db::sql::prepare::{Prepared, prepare};
use kernel_db::sql::transaction::{CatalogChange, InstallSchema, SqlTransaction, catalog_key};
use kernel_db::storage::engine::{EngineLog, EngineLogOptions};
use kernel_db::storage::format::Identity;
use kernel_db::storage::replaceable::ReplaceableState;
use kernel_db::storage::rocks::RocksShared;
use kernel_db::storage::{LogStore, StateSnapshot};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

/// As in the `dbos` binary.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const SCHEMA: [&str; 2] = [
    include_str!("../../scheduler/sql/schema.sql"),
    include_str!("../../scheduler/sql/fifo.sql"),
];
const KEYS: u64 = 64;
const WORKERS_PER_KEY: u64 = 10;
/// Slots of a worker: never exhausted.
const SLOTS: i32 = 1 << 27;
const GROUP: u32 = 1;
/// Sessions that calls are spread over, as connections would be.
const SESSIONS: u64 = 4;
/// Calls that arrive together.
const ARRIVE: usize = 64;
const TICK: Duration = Duration::from_millis(50);

struct Engine {
    replica: Replica<ReplaceableState>,
    store: Arc<ReplaceableState>,
    threads: Threads,
    reports: UnboundedReceiver<Report>,
    started: Instant,
    ticked: Instant,
    outputs: Vec<Output>,
    /// Replies of the last steps.
    replies: Vec<Bytes>,
    open: bool,
    next_id: u64,
    /// What was written at once.
    done: Vec<Report>,
}

impl Engine {
    fn open(dir: &Path) -> Self {
        let identity = |number| Identity { cluster: 1, number };
        let node = NodeConfig::default();
        let options = EngineLogOptions {
            prefill_bytes: node.log_prefill_bytes,
            fill_ahead: true,
            ..EngineLogOptions::default()
        };
        let log: Arc<dyn LogStore> =
            Arc::new(EngineLog::open(&dir.join("log"), &options, identity(1)).unwrap());
        let shared = RocksShared::new(512 << 20, 256 << 20);
        let state = dir.join("state");
        let store = Arc::new(ReplaceableState::open(&state, &shared, identity(GROUP)).unwrap());
        let config = ReplicaConfig {
            tip_bytes_max: node.tip_bytes_max as usize,
            ..ReplicaConfig::new(1, GROUP, vec![1])
        };
        let replica = Replica::new(config, store.clone(), log.clone()).unwrap();
        let (sender, reports) = unbounded_channel();
        let mut engine = Self {
            replica,
            store,
            threads: Threads::start(log, sender).unwrap(),
            reports,
            started: Instant::now(),
            ticked: Instant::now(),
            outputs: Vec::new(),
            replies: Vec::new(),
            done: Vec::new(),
            open: false,
            next_id: 0,
        };
        engine.step(Input::Campaign);
        while !engine.open {
            engine.wait();
        }
        engine
    }

    fn step(&mut self, input: Input) {
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        let now = Now {
            mono_us: self.started.elapsed().as_micros() as u64,
            wall_us: wall.as_micros() as i64,
        };
        self.replica.step(now, input, &mut self.outputs).unwrap();
        for output in self.outputs.drain(..) {
            match output {
                Output::Write { token, write, sync } => {
                    let group = GROUP;
                    let job = WriteJob {
                        group,
                        token,
                        write,
                        sync,
                    };
                    self.done.extend(self.threads.write(vec![job]));
                }
                Output::Apply(job) => self.threads.apply(&self.store, job),
                Output::Reply { result, .. } => self.replies.push(result.unwrap()),
                Output::Role(role) => self.open = role.open,
                _ => {}
            }
        }
    }

    /// Takes what the threads report, waiting for the first report.
    fn wait(&mut self) {
        if self.done.is_empty() {
            let first = self.reports.blocking_recv();
            self.report(first);
        }
        while let Ok(report) = self.reports.try_recv() {
            self.report(Some(report));
        }
        for report in std::mem::take(&mut self.done) {
            self.take(Some(report));
        }
        if self.ticked.elapsed() >= TICK {
            self.ticked = Instant::now();
            self.step(Input::Tick);
        }
    }

    fn report(&mut self, report: Option<Report>) {
        if matches!(report, Some(Report::Persisted { .. })) {
            self.threads.written();
        }
        self.take(report);
    }

    fn take(&mut self, report: Option<Report>) {
        match report {
            Some(Report::Persisted { token, .. }) => self.step(Input::Persisted { token }),
            Some(Report::Applied { report, .. }) => self.step(Input::Applied(report)),
            Some(Report::Fatal(error)) => panic!("{error}"),
            None => panic!("the threads are gone"),
        }
    }

    fn request(&mut self, txn: Arc<dyn Transaction>, session: Option<(u128, u64)>) {
        self.next_id += 1;
        let id = self.next_id;
        self.step(Input::Request(Request {
            id,
            task: Task::Run(txn),
            session,
            seen: 0,
            cancel: None,
            waited: Waited::default(),
        }));
    }

    /// Runs one transaction to its reply.
    fn run(&mut self, txn: impl Transaction + 'static) -> Bytes {
        self.request(Arc::new(txn), None);
        self.step(Input::Flush);
        while self.replies.is_empty() {
            self.wait();
        }
        self.replies.remove(0)
    }

    fn stop(mut self) {
        self.threads.stop();
    }
}

/// The scheduler's tables and procedure in an engine, and calls of it.
struct Scheduler {
    engine: Engine,
    fifo: Arc<Prepared>,
    scheduled: u64,
}

impl Scheduler {
    fn open(dir: &Path) -> Self {
        let mut engine = Engine::open(dir);
        let mut version = 0;
        for text in SCHEMA {
            let reply = engine.run(CatalogChange::Ddl(vec![text.to_string()]));
            version = CatalogChange::decode(&reply).unwrap().version;
        }
        let catalog = catalog(&engine, version);
        engine.run(InstallSchema::new(&catalog));
        let insert =
            "INSERT INTO worker (p_key, worker_id, capacity, slots) VALUES ($1, $2, $3, $3)";
        let insert = Arc::new(prepare(&catalog, insert, &[]).unwrap());
        for n in 0..KEYS * WORKERS_PER_KEY {
            let (key, worker) = (n % KEYS, n / KEYS);
            let params = vec![
                Value::Int4(key as i32),
                Value::Int4(worker as i32),
                Value::Int4(SLOTS),
            ];
            engine.run(SqlTransaction::new(vec![(insert.clone(), params)], ""));
        }
        let fifo = Arc::new(prepare(&catalog, "SELECT sched_fifo($1, $2)", &[]).unwrap());
        Self {
            engine,
            fifo,
            scheduled: 0,
        }
    }

    fn call(&mut self) {
        let n = self.scheduled;
        self.scheduled += 1;
        let params = vec![Value::Int4((n % KEYS) as i32), Value::Int8(n as i64)];
        let txn = SqlTransaction::new(vec![(self.fifo.clone(), params)], "");
        let session = (u128::from(n % SESSIONS) + 1, n / SESSIONS + 1);
        self.engine.request(Arc::new(txn), Some(session));
    }

    /// Schedules `count` tasks with up to `in_flight` calls outstanding.
    fn schedule(&mut self, count: u64, in_flight: usize) {
        let (mut sent, mut answered) = (0, 0);
        while answered < count {
            let room = (in_flight - (sent - answered) as usize).min((count - sent) as usize);
            let arrive = room.min(ARRIVE);
            for _ in 0..arrive {
                self.call();
            }
            sent += arrive as u64;
            self.engine.step(Input::Flush);
            if arrive == 0 {
                self.engine.wait();
            }
            answered += self.engine.replies.len() as u64;
            for reply in self.engine.replies.drain(..) {
                black_box(reply);
            }
        }
    }
}

/// The catalogue, of `version` at least: the apply thread may be behind a reply by a moment.
fn catalog(engine: &Engine, version: u64) -> Arc<Catalog> {
    loop {
        if let Some(row) = engine.store.get(&catalog_key()).unwrap() {
            let catalog = Catalog::from_bytes(&row.value).unwrap();
            if catalog.version >= version {
                return Arc::new(catalog);
            }
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Rows of table `task` on disk, after a start.
fn count_tasks(dir: &Path) -> u64 {
    let engine = Engine::open(dir);
    let table = catalog(&engine, 1).table(None, "task").unwrap().id;
    // The primary key is index 0.
    let mut from = [table.to_be_bytes().as_slice(), &[0, 0]].concat();
    let to = [table.to_be_bytes().as_slice(), &[0, 1]].concat();
    let (mut rows, mut page) = (0, Vec::new());
    loop {
        page.clear();
        engine
            .store
            .scan(&from, &to, false, 10_000, &mut page)
            .unwrap();
        rows += page.len() as u64;
        let Some((last, _)) = page.last() else { break };
        from = [last.as_ref(), &[0]].concat();
    }
    engine.stop();
    rows
}

/// Median of 101 synced appends of 4 KiB, in microseconds.
fn fdatasync_p50_us(dir: &Path) -> u128 {
    let mut file = std::fs::File::create(dir.join("probe")).unwrap();
    let mut times: Vec<u128> = (0..101)
        .map(|_| {
            file.write_all(&[1; 4096]).unwrap();
            let start = Instant::now();
            file.sync_data().unwrap();
            start.elapsed().as_micros()
        })
        .collect();
    times.sort_unstable();
    times[50]
}

fn fifo(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("engine/fifo, fsync, 1 replica, 1 partition");
    group.throughput(Throughput::Elements(1)).sample_size(10);
    group.measurement_time(Duration::from_secs(8));
    for in_flight in [64, 512] {
        let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let before = fdatasync_p50_us(dir.path());
        let mut scheduler = Scheduler::open(dir.path());
        group.bench_function(BenchmarkId::new("in flight", in_flight), |bencher| {
            bencher.iter_custom(|count| {
                let start = Instant::now();
                scheduler.schedule(count, in_flight);
                start.elapsed()
            });
        });
        let Scheduler {
            engine, scheduled, ..
        } = scheduler;
        engine.stop();
        assert_eq!(count_tasks(dir.path()), scheduled, "rows after a restart");
        let after = fdatasync_p50_us(dir.path());
        println!(
            "{scheduled} rows found after a restart; fdatasync p50 {before} us before, {after} us after"
        );
    }
    group.finish();
}

criterion_group!(benches, fifo);
criterion_main!(benches);
