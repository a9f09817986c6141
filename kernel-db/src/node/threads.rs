//! The two threads beside the core: the log writer and the apply thread.
//!
//! Each takes everything that waits, does it as one piece of work, and reports back. The core never waits for them: the
//! job queues are bounded well above what replicas may have in flight, and reports go through a channel that cannot be
//! full, since each report answers a job. An error here must stop the process: a failed fsync may have lost what it was
//! asked to keep, and a replica that skips an entry is no replica (I7).

use std::collections::BTreeMap;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
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

/// The threads and their queues; dropping it lets them finish what waits, and joins them.
pub struct Threads {
    writes: Option<Sender<WriteJob>>,
    applies: Option<Sender<(Arc<State>, ApplyJob)>>,
    /// Log writer, apply.
    joins: Vec<JoinHandle<()>>,
}

impl Threads {
    pub fn start(log: Arc<dyn LogStore>, reports: UnboundedSender<Report>) -> Result<Self> {
        let (writes, write_jobs) = bounded(JOBS_MAX);
        let (applies, apply_jobs) = bounded(JOBS_MAX);
        let (write_reports, fatal) = (reports.clone(), reports.clone());
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
                Box::new(move || write_loop(&*log, &write_jobs, &write_reports)),
            )?,
            spawn("apply", Box::new(move || apply_loop(&apply_jobs, &reports)))?,
        ];
        Ok(Self {
            writes: Some(writes),
            applies: Some(applies),
            joins,
        })
    }

    pub fn write(&self, job: WriteJob) {
        if let Some(queue) = &self.writes {
            // The receiver goes away only after it has reported a fatal error, which ends the process.
            let _ = queue.send(job);
        }
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
    let text = panic.downcast_ref::<String>().map(String::as_str);
    let text = text.or(panic.downcast_ref::<&str>().copied());
    let error = Error::new(
        "58030",
        format!("thread {name}: {}", text.unwrap_or("panicked")),
    );
    let _ = fatal.send(Report::Fatal(error));
}

/// One append and one fdatasync for everything that waits, of all groups.
fn write_loop(log: &dyn LogStore, jobs: &Receiver<WriteJob>, reports: &UnboundedSender<Report>) {
    let mut unsynced = false;
    let mut synced = Instant::now();
    loop {
        let first = if unsynced {
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
        let mut sync = first.is_none();
        let mut writes = Vec::new();
        let mut done = Vec::new();
        for job in first.into_iter().chain(jobs.try_iter()) {
            sync |= job.sync;
            writes.push(job.write);
            done.push((job.group, job.token));
        }
        let mut written = log.append(writes, sync);
        if written.is_ok() {
            for (group, token) in done {
                let _ = reports.send(Report::Persisted { group, token });
            }
            unsynced = !sync;
            // Under steady load nothing times out: the background sync is due all the same, behind the reports.
            if unsynced && synced.elapsed() >= BACKGROUND_SYNC {
                written = log.append(Vec::new(), true);
                (sync, unsynced) = (true, false);
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
    if unsynced && let Err(error) = log.append(Vec::new(), true) {
        let _ = reports.send(Report::Fatal(error));
    }
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
