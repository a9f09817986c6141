//! A worker: takes tasks of one key, runs them, finishes them, and shows that it lives.
//!
//! A task's command is `spin D` (keep a core busy for D milliseconds, for benchmarks), empty (nothing to do), or a line for
//! `sh -c`. A task may be started more than once: a worker that is reaped, or loses its connection at the wrong moment,
//! gives its tasks back. It is finished exactly once: only the worker it belongs to at that time can finish it.
//!
//! While it has free slots, one pull of it waits in the database, until a task is submitted or placed on it. On a kernel
//! cluster that is parked at the leader and costs nothing; an idle worker's only transactions are its heartbeats.
//!
//! Every worker also reaps the dead ones of its key, so no further process is needed for a killed worker's tasks to be
//! scheduled again.

use std::future::Future;
use std::pin::pin;
use std::process::Stdio;
use std::time::{Duration, Instant};

use dbos_client::{Class, Error, Result};
use tokio::process::Command;
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;

use crate::{NOT_THERE, Registration, Scheduler, Task};

/// Exit code of a task that could not be started.
pub const EXIT_NOT_STARTED: i32 = 127;
/// Exit code of a task whose process was ended by a signal.
pub const EXIT_SIGNALLED: i32 = 128;

/// After a pull that came back early without a task. Rows that somebody keeps locked would be asked for again and again.
const PAUSE: Duration = Duration::from_millis(5);

/// How a worker runs.
#[derive(Clone, Debug)]
pub struct Options {
    pub registration: Registration,
    /// How long one pull waits in the database; below the server's statement timeout. On PostgreSQL, which does not notice
    /// that a process is gone, a dead worker may get a task for so long, until it is reaped.
    pub wait: Duration,
    pub heartbeat: Duration,
    /// A worker not seen for this long is reaped; several heartbeats.
    pub dead_after: Duration,
}

impl Options {
    pub fn new(registration: Registration) -> Self {
        Self {
            registration,
            wait: Duration::from_secs(5),
            heartbeat: Duration::from_secs(1),
            dead_after: Duration::from_secs(5),
        }
    }
}

/// What a worker did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Report {
    pub finished: u64,
    /// Run, but no longer this worker's when it was done.
    pub lost: u64,
    /// Registrations after the first.
    pub registered_again: u64,
}

/// Runs until `shutdown` resolves, then takes no more tasks and lets those in hand end; at once if there are none. Errors of
/// class `Request` and `Environment` end it; others are waited out.
pub async fn run(
    scheduler: &Scheduler,
    options: &Options,
    shutdown: impl Future<Output = ()>,
) -> Result<Report> {
    let mut shutdown = pin!(shutdown);
    let mut stopping = false;
    let mut worker = Worker {
        scheduler,
        options,
        running: JoinSet::new(),
        pulling: JoinSet::new(),
        report: Report::default(),
    };
    scheduler.register(&options.registration).await?;
    let mut heartbeat = tokio::time::interval(options.heartbeat);
    heartbeat.set_missed_tick_behavior(MissedTickBehavior::Delay);
    heartbeat.reset();
    while !stopping || !worker.running.is_empty() {
        if !stopping {
            worker.pull();
        }
        tokio::select! {
            biased;
            () = &mut shutdown, if !stopping => {
                stopping = true;
                worker.take_no_more().await?;
            }
            _ = heartbeat.tick() => worker.show_life().await?,
            Some(done) = worker.running.join_next(), if !worker.running.is_empty() => worker.finished(done).await?,
            Some(tasks) = worker.pulling.join_next(), if !worker.pulling.is_empty() => worker.start(tasks).await?,
        }
    }
    // No task may be placed on a worker that is gone; what it got meanwhile, by a pull that still waits too, waits again.
    let Registration { key, worker_id, .. } = options.registration;
    scheduler.leave(key, worker_id).await?;
    Ok(worker.report)
}

/// The tasks that a pull brought.
type Pulled = Result<Result<Vec<Task>>, tokio::task::JoinError>;
/// Whether the task was still ours when it was reported.
type Finished = Result<Result<bool>, tokio::task::JoinError>;

struct Worker<'a> {
    scheduler: &'a Scheduler,
    options: &'a Options,
    running: JoinSet<Result<bool>>,
    /// At most one pull, a task of its own: what it holds of the client must not wait for what this worker does meanwhile.
    pulling: JoinSet<Result<Vec<Task>>>,
    report: Report,
}

impl Worker<'_> {
    /// Asks for tasks for the free slots, unless it has.
    fn pull(&mut self) {
        let Registration {
            key,
            worker_id,
            slots,
            ..
        } = self.options.registration;
        let running = i32::try_from(self.running.len()).unwrap_or(i32::MAX);
        let free = slots.saturating_sub(running);
        if free <= 0 || !self.pulling.is_empty() {
            return;
        }
        let (scheduler, wait) = (self.scheduler.clone(), self.options.wait);
        self.pulling.spawn(async move {
            let tasks = scheduler.pull(key, worker_id, free, wait).await?;
            if tasks.is_empty() {
                tokio::time::sleep(PAUSE).await;
            }
            Ok(tasks)
        });
    }

    /// Runs what was pulled.
    async fn start(&mut self, pulled: Pulled) -> Result<()> {
        let Registration { key, worker_id, .. } = self.options.registration;
        let tasks = match pulled {
            Ok(Ok(tasks)) => tasks,
            // Tasks may be running in our name that we never heard of; or we were reaped.
            Ok(Err(error)) if error.is_unknown() || error.sqlstate() == Some(NOT_THERE) => {
                return self.register_again().await;
            }
            Ok(Err(error)) => return waited_out(error),
            Err(_) => return self.register_again().await,
        };
        for task in tasks {
            let scheduler = self.scheduler.clone();
            self.running.spawn(async move {
                let (task_id, exit_code) = execute(task).await;
                scheduler.finish(key, worker_id, task_id, exit_code).await
            });
        }
        Ok(())
    }

    /// Before the tasks in hand end: others wait for another worker, and the pull under way comes back. What it has got in
    /// the last moment is in hand.
    async fn take_no_more(&mut self) -> Result<()> {
        let Registration { key, worker_id, .. } = self.options.registration;
        if self.running.is_empty() {
            return Ok(());
        }
        match self.scheduler.drain(key, worker_id).await {
            Ok(_) => Ok(()),
            Err(error) => waited_out(error),
        }
    }

    async fn finished(&mut self, finished: Finished) -> Result<()> {
        match finished {
            Ok(Ok(true)) => self.report.finished += 1,
            Ok(Ok(false)) => self.report.lost += 1,
            // If it is not finished, registering gives it back; if it is, registering changes nothing about it.
            Ok(Err(error)) if matches!(error.class(), Class::Unknown | Class::Retry) => {
                self.report.lost += 1;
                self.register_again().await?;
            }
            Ok(Err(error)) => return Err(error),
            // A task that panicked never reported: registering gives it back.
            Err(error) if error.is_panic() => self.register_again().await?,
            Err(_) => {}
        }
        Ok(())
    }

    async fn show_life(&mut self) -> Result<()> {
        let Registration { key, worker_id, .. } = self.options.registration;
        let dead_after_s = self.options.dead_after.as_secs_f64();
        let heartbeat = self.scheduler.heartbeat(key, worker_id, dead_after_s);
        match heartbeat.await {
            Ok((registered, released)) => {
                if released > 0 {
                    tracing::info!(released, "tasks of dead workers wait again");
                }
                match registered {
                    true => Ok(()),
                    false => self.register_again().await,
                }
            }
            Err(error) => waited_out(error),
        }
    }

    /// Drops what is running: with the registration it is given back and will be run again.
    async fn register_again(&mut self) -> Result<()> {
        self.running.shutdown().await;
        // A pull that came behind the registration would take tasks that nobody hears of.
        while self.pulling.join_next().await.is_some() {}
        self.report.registered_again += 1;
        match self.scheduler.register(&self.options.registration).await {
            Ok(_) => Ok(()),
            // The next heartbeat or pull finds out.
            Err(error) => waited_out(error),
        }
    }
}

/// What a new attempt may cure is logged; anything else ends the worker.
fn waited_out(error: Error) -> Result<()> {
    match error.class() {
        Class::Retry | Class::Unknown => {
            tracing::warn!(%error, "the worker goes on");
            Ok(())
        }
        Class::Request | Class::Environment => Err(error),
    }
}

/// Runs a task to its end; returns its id and exit code.
async fn execute(task: Task) -> (i64, i32) {
    let command = task.command.trim();
    let exit_code = match spin_of(command) {
        _ if command.is_empty() => 0,
        Some(duration) => spin(duration).await,
        None => run_process(command, task.task_id).await,
    };
    (task.task_id, exit_code)
}

/// `spin D`: D milliseconds.
fn spin_of(command: &str) -> Option<Duration> {
    let milliseconds = command.strip_prefix("spin ")?.trim().parse().ok()?;
    Some(Duration::from_millis(milliseconds))
}

async fn spin(duration: Duration) -> i32 {
    let busy = tokio::task::spawn_blocking(move || {
        let until = Instant::now() + duration;
        while Instant::now() < until {
            std::hint::spin_loop();
        }
    });
    if busy.await.is_ok() {
        0
    } else {
        EXIT_NOT_STARTED
    }
}

async fn run_process(command: &str, task_id: i64) -> i32 {
    let child = Command::new("sh")
        .arg("-c")
        .arg(command)
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .status()
        .await;
    match child {
        Ok(status) => status.code().unwrap_or(EXIT_SIGNALLED),
        Err(error) => {
            tracing::warn!(task_id, %error, "cannot start a task's process");
            EXIT_NOT_STARTED
        }
    }
}
