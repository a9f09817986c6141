//! The two threads beside the core: the log writer and the apply thread.
//!
//! Each takes everything that waits, does it as one piece of work, and reports back. The core never waits for them: the
//! job queues are bounded well above what replicas may have in flight, and reports go through a channel that cannot be
//! full, since each report answers a job.
//!
//! What need not be synced is appended in place, on the core, while nobody else is at the log: two wake-ups cost more than
//! the write. The log writer then syncs it in the background. An error here must stop the process: a failed fsync may have lost what it was
//! asked to keep, and a replica that skips an entry is no replica (I7).

use std::any::Any;
use std::cell::Cell;
use std::collections::BTreeMap;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam::channel::{Receiver, RecvTimeoutError, Sender, bounded};
use tokio::sync::mpsc::UnboundedSender;

use super::State;
use crate::error::{Error, Result};
use crate::partition::apply::{self, AppliedReport, ApplyJob};
use crate::storage::{LogStore, LogWrite};

/// Jobs waiting for one thread. Replicas bound what they have in flight far below it.
const JOBS_MAX: usize = 65_536;

/// How often the log is synced in the background while durability is `memory`.
const BACKGROUND_SYNC: Duration = Duration::from_millis(200);

/// Under load apply waits this long for more entries, unless somebody waits for it: rows that changed many times are
/// written once, and neighbours together.
const APPLY_PAUSE: Duration = Duration::from_millis(5);

/// What the threads tell the core.
pub enum Report {
    Persisted {
        group: u32,
        token: u64,
    },
    Applied {
        group: u32,
        report: AppliedReport,
    },
    /// The process must end.
    Fatal(Error),
}

/// For the log writer.
pub struct WriteJob {
    pub group: u32,
    pub token: u64,
    pub write: LogWrite,
    pub sync: bool,
}

/// What the log writer is asked for.
enum LogJob {
    Write(WriteJob),
    /// Something was appended in place: it is to be synced in the background.
    Appended,
}

/// What the core and the log writer tell each other beside the queue.
#[derive(Default)]
struct LogState {
    /// Something is appended and not synced.
    unsynced: AtomicBool,
    /// Work under way at the log, beside queued jobs, for which an append in place would have to wait.
    busy: AtomicUsize,
}

/// While it lives nothing is appended in place.
pub struct LogBusy(Arc<LogState>);

impl LogBusy {
    fn new(state: &Arc<LogState>) -> Self {
        state.busy.fetch_add(1, Ordering::AcqRel);
        Self(Arc::clone(state))
    }
}

impl Drop for LogBusy {
    fn drop(&mut self) {
        self.0.busy.fetch_sub(1, Ordering::AcqRel);
    }
}

/// The threads and their queues; dropping it lets them finish what waits, and joins them.
pub struct Threads {
    log: Arc<dyn LogStore>,
    state: Arc<LogState>,
    /// Jobs of the log writer whose reports the core has not taken.
    queued: Cell<usize>,
    writes: Option<Sender<LogJob>>,
    applies: Option<Sender<(Arc<State>, ApplyJob)>>,
    /// Log writer, apply.
    joins: Vec<JoinHandle<()>>,
}

impl Threads {
    pub fn start(log: Arc<dyn LogStore>, reports: UnboundedSender<Report>) -> Result<Self> {
        let (writes, write_jobs) = bounded(JOBS_MAX);
        let (applies, apply_jobs) = bounded(JOBS_MAX);
        let (write_reports, fatal) = (reports.clone(), reports.clone());
        let state: Arc<LogState> = Arc::default();
        let (writer_log, writer_state) = (Arc::clone(&log), Arc::clone(&state));
        let spawn = |name: &'static str, body: Box<dyn FnOnce() + Send>| {
            let fatal = fatal.clone();
            std::thread::Builder::new()
                .name(name.to_string())
                .spawn(move || report_panic(name, body, &fatal))
                .map_err(|e| Error::new("58000", format!("cannot start thread {name}: {e}")))
        };
        let joins = vec![
            spawn(
                "log-writer",
                Box::new(move || {
                    write_loop(&*writer_log, &writer_state, &write_jobs, &write_reports);
                }),
            )?,
            spawn("apply", Box::new(move || apply_loop(&apply_jobs, &reports)))?,
        ];
        Ok(Self {
            log,
            state,
            queued: Cell::new(0),
            writes: Some(writes),
            applies: Some(applies),
            joins,
        })
    }

    /// Writes all of `jobs`, in place or by the log writer, whose reports come through the channel. Returns the reports of
    /// what is done already.
    pub fn write(&self, jobs: Vec<WriteJob>) -> Vec<Report> {
        // Behind what is queued, so that a group's writes keep their order.
        let in_place = self.queued.get() == 0
            && self.state.busy.load(Ordering::Acquire) == 0
            && jobs.iter().all(|job| !job.sync);
        if !in_place {
            self.queued.set(self.queued.get() + jobs.len());
            for job in jobs {
                self.tell_writer(LogJob::Write(job));
            }
            return Vec::new();
        }
        let mut writes = Vec::with_capacity(jobs.len());
        let mut reports = Vec::with_capacity(jobs.len());
        for WriteJob {
            group,
            token,
            write,
            ..
        } in jobs
        {
            writes.push(write);
            reports.push(Report::Persisted { group, token });
        }
        let append = || self.log.append(writes, false);
        let error = match std::panic::catch_unwind(AssertUnwindSafe(append)) {
            Ok(Ok(())) => {
                if !self.state.unsynced.swap(true, Ordering::AcqRel) {
                    self.tell_writer(LogJob::Appended);
                }
                return reports;
            }
            Ok(Err(error)) => error,
            Err(panic) => panicked("core", &*panic),
        };
        vec![Report::Fatal(error)]
    }

    fn tell_writer(&self, job: LogJob) {
        if let Some(queue) = &self.writes {
            // The receiver goes away only after it has reported a fatal error, which ends the process.
            let _ = queue.send(job);
        }
    }

    /// The report of one job of the log writer was taken.
    pub fn written(&self) {
        self.queued.set(self.queued.get().saturating_sub(1));
    }

    /// For work at the log that may take long.
    pub fn log_busy(&self) -> LogBusy {
        LogBusy::new(&self.state)
    }

    /// `store` is the job's group's.
    pub fn apply(&self, store: &Arc<State>, job: ApplyJob) {
        if let Some(queue) = &self.applies {
            let _ = queue.send((Arc::clone(store), job));
        }
    }

    /// Somebody waits for what was given to apply: it is not to wait for more.
    pub fn hurry(&self) {
        if let Some(apply) = self.joins.last() {
            apply.thread().unpark();
        }
    }

    /// Lets the threads finish what waits and joins them.
    pub fn stop(&mut self) {
        self.writes = None;
        self.applies = None;
        for join in self.joins.drain(..) {
            if join.join().is_err() {
                tracing::error!("a thread beside the core panicked");
            }
        }
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        self.stop();
    }
}

/// raft-engine panics when fdatasync fails. A node without one of its threads would go on leading and never commit.
fn report_panic(name: &str, body: Box<dyn FnOnce() + Send>, fatal: &UnboundedSender<Report>) {
    let Err(panic) = std::panic::catch_unwind(AssertUnwindSafe(body)) else {
        return;
    };
    let _ = fatal.send(Report::Fatal(panicked(name, &*panic)));
}

fn panicked(name: &str, panic: &(dyn Any + Send)) -> Error {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    let text = text.or(panic.downcast_ref::<&str>().copied());
    let text = text.unwrap_or("panicked");
    Error::new("58030", format!("thread {name}: {text}"))
}

/// One append and one fdatasync for everything that waits, of all groups.
fn write_loop(
    log: &dyn LogStore,
    state: &Arc<LogState>,
    jobs: &Receiver<LogJob>,
    reports: &UnboundedSender<Report>,
) {
    let mut synced = Instant::now();
    loop {
        let first = if state.unsynced.load(Ordering::Acquire) {
            match jobs.recv_timeout(BACKGROUND_SYNC.saturating_sub(synced.elapsed())) {
                Ok(job) => Some(job),
                Err(RecvTimeoutError::Timeout) => None,
                Err(RecvTimeoutError::Disconnected) => break,
            }
        } else {
            match jobs.recv() {
                Ok(job) => Some(job),
                Err(_) => break,
            }
        };
        let mut sync = false;
        let mut writes = Vec::new();
        let mut done = Vec::new();
        for job in first.into_iter().chain(jobs.try_iter()) {
            if let LogJob::Write(job) = job {
                sync |= job.sync;
                writes.push(job.write);
                done.push((job.group, job.token));
            }
        }
        let mut written = Ok(());
        if !writes.is_empty() {
            // Before the append: what is appended in place meanwhile may not be covered.
            state.unsynced.store(!sync, Ordering::Release);
            written = log.append(writes, sync);
        }
        if written.is_ok() {
            for (group, token) in done {
                let _ = reports.send(Report::Persisted { group, token });
            }
            // Under steady load nothing times out: the background sync is due all the same, behind the reports.
            if !sync && synced.elapsed() >= BACKGROUND_SYNC {
                written = sync_now(log, state);
                sync = true;
            }
        }
        if let Err(error) = written {
            let _ = reports.send(Report::Fatal(error));
            return;
        }
        if sync {
            synced = Instant::now();
        }
    }
    if let Err(error) = sync_now(log, state) {
        let _ = reports.send(Report::Fatal(error));
    }
}

/// Syncs what is appended, if that was not done.
fn sync_now(log: &dyn LogStore, state: &Arc<LogState>) -> Result<()> {
    let _busy = LogBusy::new(state);
    // Before the sync: what is appended in place meanwhile may not be covered, and sets it again.
    if state.unsynced.swap(false, Ordering::AcqRel) {
        log.append(Vec::new(), true)?;
    }
    Ok(())
}

/// One atomic write for everything that waits of one group.
fn apply_loop(jobs: &Receiver<(Arc<State>, ApplyJob)>, reports: &UnboundedSender<Report>) {
    let mut done: Option<Instant> = None;
    while let Ok(first) = jobs.recv() {
        if done.is_some_and(|done| done.elapsed() < APPLY_PAUSE) {
            // Ends early by `Threads::hurry`.
            std::thread::park_timeout(APPLY_PAUSE);
        }
        let mut merged: BTreeMap<u32, (Arc<State>, ApplyJob)> = BTreeMap::new();
        for (store, job) in std::iter::once(first).chain(jobs.try_iter()) {
            match merged.get_mut(&job.group) {
                Some((_, waiting)) => waiting.merge(job),
                None => {
                    merged.insert(job.group, (store, job));
                }
            }
        }
        for (group, (store, job)) in merged {
            let report = match apply::run(&*store, job) {
                Ok(report) => Report::Applied { group, report },
                Err(error) => Report::Fatal(error),
            };
            let fatal = matches!(report, Report::Fatal(_));
            let _ = reports.send(report);
            if fatal {
                return;
            }
        }
        done = Some(Instant::now());
    }
}

#[cfg(test)]
mod tests {
    use raft::eraftpb::{Entry, HardState};
    use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

    use super::*;
    use crate::storage::memory::MemLog;

    fn job(token: u64, sync: bool) -> WriteJob {
        let mut entry = Entry::default();
        (entry.index, entry.term) = (token, 1);
        let write = LogWrite {
            group: 1,
            entries: vec![entry],
            ..LogWrite::default()
        };
        WriteJob {
            group: 1,
            token,
            write,
            sync,
        }
    }

    fn start() -> (Arc<MemLog>, Threads, UnboundedReceiver<Report>) {
        let log = Arc::new(MemLog::new());
        let (sender, reports) = unbounded_channel();
        let threads = Threads::start(Arc::clone(&log) as Arc<dyn LogStore>, sender).unwrap();
        (log, threads, reports)
    }

    fn token(report: Option<Report>) -> u64 {
        match report {
            Some(Report::Persisted { group: 1, token }) => token,
            _ => panic!("another report"),
        }
    }

    #[test]
    fn what_need_not_be_synced_is_appended_at_once_and_synced_in_the_background() {
        let (log, threads, _reports) = start();
        for index in 1..=3 {
            let done = threads.write(vec![job(index, false)]);
            assert_eq!(done.into_iter().map(|r| token(Some(r))).sum::<u64>(), index);
            assert_eq!(log.term_of(1, index, false), Some(1));
        }
        let until = Instant::now() + 50 * BACKGROUND_SYNC;
        while log.term_of(1, 3, true).is_none() {
            assert!(Instant::now() < until, "nobody syncs it");
            std::thread::sleep(BACKGROUND_SYNC / 10);
        }
    }

    #[test]
    fn behind_a_queued_write_all_are_queued_and_keep_their_order() {
        let (log, threads, mut reports) = start();
        assert!(threads.write(vec![job(1, true)]).is_empty());
        // The log refuses a hole: in place this could come too early.
        assert!(threads.write(vec![job(2, false)]).is_empty());
        for expected in [1, 2] {
            assert_eq!(token(reports.blocking_recv()), expected);
            threads.written();
        }
        assert_eq!(log.term_of(1, 1, true), Some(1));
        assert_eq!(threads.write(vec![job(3, false)]).len(), 1);
    }

    #[test]
    fn nothing_is_appended_in_place_while_the_log_is_busy() {
        let (_log, threads, mut reports) = start();
        let busy = threads.log_busy();
        assert!(threads.write(vec![job(1, false)]).is_empty());
        assert_eq!(token(reports.blocking_recv()), 1);
        threads.written();
        drop(busy);
        assert_eq!(threads.write(vec![job(2, false)]).len(), 1);
    }

    /// As raft-engine when a file cannot be written.
    struct Broken;

    impl LogStore for Broken {
        fn append(&self, _: Vec<LogWrite>, _: bool) -> Result<()> {
            panic!("the disk is gone");
        }
        fn load(&self, _: u32) -> Result<(u64, u64, HardState)> {
            Ok((1, 0, HardState::default()))
        }
        fn member(&self, _: u32) -> Result<Option<u64>> {
            Ok(None)
        }
        fn entries(&self, _: u32, _: u64, _: u64, _: u64) -> Result<Vec<Entry>> {
            Ok(Vec::new())
        }
        fn truncate(&self, _: u32, _: u64) -> Result<()> {
            Ok(())
        }
        fn size_bytes(&self) -> u64 {
            0
        }
    }

    #[test]
    fn a_log_that_breaks_in_place_is_fatal() {
        let (sender, _reports) = unbounded_channel();
        let threads = Threads::start(Arc::new(Broken), sender).unwrap();
        let reports = threads.write(vec![job(1, false)]);
        let [Report::Fatal(error)] = &reports[..] else {
            panic!("not fatal");
        };
        assert!(error.message().contains("the disk is gone"));
    }
}
