//! Offering load: closed loop (so many operations in flight) or open loop (so many per second, whatever the answers).
//!
//! In the open loop an operation's latency counts from the moment it was meant to start, so that a stall of the target is
//! seen by every operation it delayed. Operations
//! start up to 0.2 ms late, which open-loop latencies include.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use tokio::sync::Semaphore;

/// Latencies are kept in microseconds, to three digits, up to this; longer ones count as this.
const LATENCY_US_MAX: u64 = 60_000_000;
/// Errors kept word for word; the rest are counted.
const ERRORS_KEPT: usize = 5;
/// Grain of a run's time line.
pub const TIMELINE_STEP: Duration = Duration::from_millis(100);

/// How load is offered.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    pub in_flight: u32,
    /// Operations per second; `None` is the closed loop.
    pub rate: Option<f64>,
    /// Not measured, before `duration`.
    pub warm_up: Duration,
    pub duration: Duration,
    /// The run ends earlier after so many operations.
    pub operations_max: Option<u64>,
}

/// The open loop starts what is due so often: the runtime's own timers, which count whole milliseconds, would add one to two of
/// them to each latency.
const PACE: Duration = Duration::from_micros(200);

/// Where the answer of an operation that reads through a cache came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// From memory, all of it: nothing was sent.
    Memory,
    Target,
}

/// Nanoseconds of operations that read through a cache: those answered from memory, and the others.
#[derive(Clone, Debug)]
pub struct BySource {
    pub hits: Histogram<u64>,
    pub misses: Histogram<u64>,
}

impl Default for BySource {
    fn default() -> Self {
        let empty =
            || Histogram::new_with_max(LATENCY_US_MAX * 1000, 3).expect("bounds are constants");
        Self {
            hits: empty(),
            misses: empty(),
        }
    }
}

impl BySource {
    pub(crate) fn add(&mut self, source: Source, took: Duration) {
        let of_it = match source {
            Source::Memory => &mut self.hits,
            Source::Target => &mut self.misses,
        };
        of_it.saturating_record((took.as_nanos() as u64).max(1));
    }

    pub(crate) fn merge(&mut self, other: &Self) {
        self.hits += &other.hits;
        self.misses += &other.misses;
    }
}

/// One operation, on the thread that runs it.
pub(crate) type ThreadOperation = Box<dyn FnMut(u64) -> Result<(), String> + Send>;

impl Load {
    /// When operation `number` is meant to start.
    fn began(&self, start: Instant, number: u64) -> Instant {
        match self.rate {
            None => Instant::now(),
            Some(rate) => start + Duration::from_secs_f64(number as f64 / rate),
        }
    }

    /// There is no operation `number`, which is meant to start at `began`.
    fn is_over(&self, start: Instant, number: u64, began: Instant) -> bool {
        let end = start + self.warm_up + self.duration;
        began >= end || self.operations_max.is_some_and(|max| number >= max)
    }
}

/// Adds a permit for each operation of the open loop when it is due, and at the end one for each that waits in vain.
fn pace(load: &Load, start: Instant, due: &Semaphore) {
    for number in 0.. {
        let began = load.began(start, number);
        if load.is_over(start, number, began) {
            return due.add_permits(load.in_flight as usize);
        }
        let now = Instant::now();
        if began > now {
            std::thread::sleep((began - now).max(PACE));
        }
        due.add_permits(1);
    }
}

/// What came back.
pub struct Measured {
    /// Microseconds of successful operations: in the closed loop of those that ended within the measured time, in the open
    /// loop of those meant to start in it, whenever they ended.
    pub latency: Histogram<u64>,
    /// The same operations, of those that say where their answers came from.
    pub by_source: BySource,
    /// Successful operations that ended within the measured time.
    pub completed: u64,
    pub elapsed: Duration,
    /// Successful operations of the whole run, warm-up included.
    pub acknowledged: u64,
    pub errors: u64,
    pub first_errors: Vec<String>,
    /// Successful operations of each [`TIMELINE_STEP`] since the start, warm-up included.
    pub timeline: Vec<u64>,
}

impl Measured {
    pub fn throughput_per_s(&self) -> f64 {
        self.completed as f64 / self.elapsed.as_secs_f64()
    }

    /// Operations per second in each whole minute of the measured time.
    pub fn per_minute(&self, load: &Load) -> Vec<f64> {
        let steps = |time: Duration| (time.as_millis() / TIMELINE_STEP.as_millis()) as usize;
        let minute = Duration::from_secs(60);
        let all = self.timeline.iter().skip(steps(load.warm_up));
        let measured: Vec<u64> = all.take(steps(load.duration)).copied().collect();
        let whole = measured.chunks_exact(steps(minute));
        whole
            .map(|steps| steps.iter().sum::<u64>() as f64 / minute.as_secs_f64())
            .collect()
    }
}

/// What one task or thread saw.
struct Record {
    latency: Histogram<u64>,
    by_source: BySource,
    completed: u64,
    acknowledged: u64,
    errors: u64,
    first_errors: Vec<String>,
    timeline: Vec<u64>,
    last: Duration,
}

impl Record {
    fn new() -> Self {
        Self {
            latency: Histogram::new_with_max(LATENCY_US_MAX, 3).expect("bounds are constants"),
            by_source: BySource::default(),
            completed: 0,
            acknowledged: 0,
            errors: 0,
            first_errors: Vec::new(),
            timeline: Vec::new(),
            last: Duration::ZERO,
        }
    }

    /// An operation of `load`; both times count from the start of the run.
    fn add(
        &mut self,
        load: &Load,
        result: Result<Option<Source>, String>,
        began: Duration,
        ended: Duration,
    ) {
        let measured = load.warm_up..load.warm_up + load.duration;
        match result {
            Ok(source) => {
                self.acknowledged += 1;
                self.last = ended;
                let step = (ended.as_millis() / TIMELINE_STEP.as_millis()) as usize;
                if self.timeline.len() <= step {
                    self.timeline.resize(step + 1, 0);
                }
                self.timeline[step] += 1;
                self.completed += u64::from(measured.contains(&ended));
                // In the open loop none may be left out because it was slow.
                let counts = match load.rate {
                    None => measured.contains(&ended),
                    Some(_) => measured.contains(&began),
                };
                if counts {
                    let took = ended.saturating_sub(began);
                    let us = (took.as_micros() as u64).clamp(1, LATENCY_US_MAX);
                    self.latency.saturating_record(us);
                    if let Some(source) = source {
                        self.by_source.add(source, took);
                    }
                }
            }
            Err(error) => {
                self.errors += 1;
                if self.first_errors.len() < ERRORS_KEPT {
                    self.first_errors.push(error);
                }
            }
        }
    }

    fn merge(&mut self, other: Self) {
        self.latency += other.latency;
        self.by_source.merge(&other.by_source);
        self.completed += other.completed;
        self.acknowledged += other.acknowledged;
        self.errors += other.errors;
        self.first_errors.extend(other.first_errors);
        self.first_errors.truncate(ERRORS_KEPT);
        self.last = self.last.max(other.last);
        let steps = self.timeline.len().max(other.timeline.len());
        self.timeline.resize(steps, 0);
        for (step, done) in other.timeline.into_iter().enumerate() {
            self.timeline[step] += done;
        }
    }

    fn measured(self, load: &Load) -> Measured {
        let exhausted = load
            .operations_max
            .is_some_and(|max| self.acknowledged + self.errors >= max);
        let until_last = self.last.saturating_sub(load.warm_up);
        Measured {
            // A run that ended because nothing was left is as long as that took.
            elapsed: match exhausted && until_last > Duration::ZERO {
                true => load.duration.min(until_last),
                false => load.duration,
            },
            latency: self.latency,
            by_source: self.by_source,
            completed: self.completed,
            acknowledged: self.acknowledged,
            errors: self.errors,
            first_errors: self.first_errors,
            timeline: self.timeline,
        }
    }
}

struct Shared {
    record: RefCell<Record>,
    next: Cell<u64>,
    /// Operations of the open loop that are due.
    due: Arc<Semaphore>,
}

/// Runs `operation(n)` for n = 0, 1, 2, ... until the time is over, then waits for what is in flight. Call it inside a
/// `LocalSet`. `progress` is called about every second with the seconds passed and operations done.
pub async fn run<Op, Fut>(load: Load, operation: Op, progress: impl Fn(Duration, u64)) -> Measured
where
    Op: Fn(u64) -> Fut + 'static,
    Fut: Future<Output = Result<Option<Source>, String>> + 'static,
{
    let shared = Rc::new(Shared {
        record: RefCell::new(Record::new()),
        next: Cell::new(0),
        due: Arc::new(Semaphore::new(0)),
    });
    let operation = Rc::new(operation);
    let start = Instant::now();
    if load.rate.is_some() {
        let due = Arc::clone(&shared.due);
        // It ends by itself, with the run.
        std::thread::spawn(move || pace(&load, start, &due));
    }
    let tasks: Vec<_> = (0..load.in_flight)
        .map(|_| {
            tokio::task::spawn_local(one_in_flight(
                load,
                start,
                shared.clone(),
                operation.clone(),
            ))
        })
        .collect();
    for task in tasks {
        let mut task = task;
        while tokio::time::timeout(Duration::from_secs(1), &mut task)
            .await
            .is_err()
        {
            progress(start.elapsed(), shared.record.borrow().acknowledged);
        }
    }
    shared.record.replace(Record::new()).measured(&load)
}

/// Threads that go on until they are done or this is dropped, which waits for the operation each of them is at.
struct Threads {
    stop: Arc<AtomicBool>,
    running: Vec<std::thread::JoinHandle<()>>,
}

impl Drop for Threads {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let mut panicked = None;
        // All of them end before a panic goes on.
        for thread in self.running.drain(..) {
            panicked = thread.join().err().or(panicked);
        }
        if let Some(panic) = panicked.filter(|_| !std::thread::panicking()) {
            std::panic::resume_unwind(panic);
        }
    }
}

/// The same for operations that block: each of `operations` has a thread, and is one in flight. Dropped before its end, it
/// waits for what the threads are at, and nothing runs any more.
pub(crate) async fn run_threads(load: Load, operations: Vec<ThreadOperation>) -> Measured {
    let next = Arc::new(AtomicU64::new(0));
    let start = Instant::now();
    let (ended, mut records) = tokio::sync::mpsc::unbounded_channel();
    let mut threads = Threads {
        stop: Arc::default(),
        running: Vec::new(),
    };
    for operation in operations {
        let (next, stop, ended) = (next.clone(), threads.stop.clone(), ended.clone());
        let work = move || drop(ended.send(on_thread(load, start, &next, &stop, operation)));
        threads.running.push(std::thread::spawn(work));
    }
    drop(ended);
    let mut all = Record::new();
    while let Some(record) = records.recv().await {
        all.merge(record);
    }
    drop(threads);
    all.measured(&load)
}

fn on_thread(
    load: Load,
    start: Instant,
    next: &AtomicU64,
    stop: &AtomicBool,
    mut operation: ThreadOperation,
) -> Record {
    let end = start + load.warm_up + load.duration;
    let mut record = Record::new();
    loop {
        if load.rate.is_none() && Instant::now() >= end {
            return record;
        }
        let number = next.fetch_add(1, Ordering::Relaxed);
        let began = load.began(start, number);
        if load.is_over(start, number, began) {
            return record;
        }
        let left = || began.saturating_duration_since(Instant::now());
        while !stop.load(Ordering::Relaxed) && !left().is_zero() {
            // In steps: at a low rate the next operation may be far away.
            std::thread::sleep(left().min(TIMELINE_STEP));
        }
        if stop.load(Ordering::Relaxed) {
            return record;
        }
        let result = operation(number).map(|()| None);
        record.add(&load, result, began - start, start.elapsed());
    }
}

async fn one_in_flight<Op, Fut>(load: Load, start: Instant, shared: Rc<Shared>, operation: Rc<Op>)
where
    Op: Fn(u64) -> Fut,
    Fut: Future<Output = Result<Option<Source>, String>>,
{
    loop {
        if load.rate.is_some() {
            match shared.due.acquire().await {
                Ok(permit) => permit.forget(),
                Err(_) => return,
            }
        }
        let number = shared.next.get();
        let began = load.began(start, number);
        if load.is_over(start, number, began) {
            return;
        }
        shared.next.set(number + 1);
        let result = operation(number).await;
        let (began, ended) = (began - start, start.elapsed());
        shared.record.borrow_mut().add(&load, result, began, ended);
        if load.rate.is_none() {
            // A connection that answers at once must not starve the others.
            tokio::task::coop::consume_budget().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block_on<F: Future>(future: F) -> F::Output {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(tokio::task::LocalSet::new().run_until(future))
    }

    fn load(in_flight: u32, rate: Option<f64>) -> Load {
        Load {
            in_flight,
            rate,
            warm_up: Duration::ZERO,
            duration: Duration::from_millis(300),
            operations_max: None,
        }
    }

    #[test]
    fn threads_and_tasks_end_after_the_operations_there_are() {
        let limited = Load {
            operations_max: Some(10),
            duration: Duration::from_secs(60),
            ..load(3, None)
        };
        let thread = || -> ThreadOperation { Box::new(|_| Ok(())) };
        let measured = block_on(run_threads(limited, vec![thread(), thread(), thread()]));
        assert_eq!(measured.acknowledged, 10);
        assert_eq!(measured.timeline.iter().sum::<u64>(), 10);
        assert!(measured.elapsed < limited.duration, "as long as it took");
        let measured = block_on(run(limited, |_| async { Ok(None) }, |_, _| ()));
        assert_eq!(measured.acknowledged, 10);
    }

    #[test]
    fn rates_are_of_whole_minutes_behind_the_warm_up() {
        let long = Load {
            warm_up: Duration::from_secs(2),
            duration: Duration::from_secs(150),
            ..load(1, None)
        };
        let mut record = Record::new();
        record.timeline = [vec![9; 20], vec![6; 600], vec![3; 600], vec![1; 310]].concat();
        assert_eq!(record.measured(&long).per_minute(&long), [60.0, 30.0]);
    }

    #[test]
    fn a_stall_is_seen_by_every_operation_it_delays_in_the_open_loop() {
        let stalled = Rc::new(Cell::new(false));
        let operation = move |_| {
            let first = !stalled.replace(true);
            async move {
                if first {
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
                Ok(None)
            }
        };
        let measured = block_on(run(load(1, Some(100.0)), operation, |_, _| ()));
        let delayed = measured.latency.len() - measured.latency.count_between(0, 20_000);
        assert!(
            delayed >= 5,
            "{delayed} of {} operations saw the stall",
            measured.latency.len()
        );
    }

    #[test]
    fn a_stall_at_the_end_of_the_open_loop_is_seen_too() {
        let operation = |n| async move {
            if n == 25 {
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
            Ok(None)
        };
        let measured = block_on(run(load(1, Some(100.0)), operation, |_, _| ()));
        assert_eq!(measured.latency.len(), 30);
        assert!(measured.latency.max() >= 200_000);
        assert!(measured.completed < 30, "not all ended in time");
    }

    #[test]
    fn hits_and_misses_are_timed_apart_after_the_warm_up() {
        let mixed = Load {
            warm_up: Duration::from_millis(100),
            // It ends with the operations.
            duration: Duration::from_secs(600),
            operations_max: Some(9),
            ..load(1, None)
        };
        let operation = |n| async move {
            let source = match n % 3 {
                0 => Source::Target,
                _ => Source::Memory,
            };
            let ms = match (n, source) {
                (0, _) => 110,
                (_, Source::Target) => 20,
                (_, Source::Memory) => return Ok(Some(source)),
            };
            tokio::time::sleep(Duration::from_millis(ms)).await;
            Ok(Some(source))
        };
        let measured = block_on(run(mixed, operation, |_, _| ()));
        let BySource { hits, misses } = &measured.by_source;
        assert_eq!((hits.len(), misses.len()), (6, 3));
        assert_eq!(hits.len() + misses.len(), measured.latency.len());
        assert!(hits.min() < 20_000_000 && misses.min() >= 20_000_000);

        let early = Load {
            warm_up: Duration::from_secs(600),
            ..mixed
        };
        let operation = |_| async { Ok(Some(Source::Memory)) };
        let measured = block_on(run(early, operation, |_, _| ()));
        assert_eq!(
            (measured.acknowledged, measured.by_source.hits.len()),
            (9, 0)
        );
    }

    #[test]
    fn errors_are_counted_and_the_first_are_kept() {
        let measured = block_on(run(
            load(2, Some(200.0)),
            |n| async move {
                if n % 2 == 0 {
                    Err(format!("no {n}"))
                } else {
                    Ok(None)
                }
            },
            |_, _| (),
        ));
        assert!(measured.errors > 10 && measured.acknowledged > 10);
        assert_eq!(measured.first_errors.len(), ERRORS_KEPT);
    }
}
