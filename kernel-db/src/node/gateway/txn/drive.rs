//! Runs statements until every row they need is there.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::mpsc::unbounded_channel;
use tokio::time::Instant;

use super::super::Gateway;
use super::super::leader::gone;
use super::super::system::SystemRows;
use super::holds::Holds;
use super::known::{Known, View, cancelled};
use super::store::{Buffer, TxnStore};
use crate::error::{Error, Result};
use crate::node::placement::Placement;
use crate::partition::{Budget, TxnEnv};
use crate::sql::Value;
use crate::sql::exec::{ExecCtx, Outcome};
use crate::sql::prepare::Prepared;
use crate::sql::transaction::Outcomes;

/// Runs on the core at most; then the statement gets a thread.
const ROUNDS_INLINE: usize = 8;
/// How long a thread may take to notice that it was cancelled.
const CANCEL_WAIT: Duration = Duration::from_secs(5);

/// Between two looks at a cancel flag.
const CANCEL_LOOK: Duration = Duration::from_millis(20);

/// What a transaction has read and written so far.
pub(super) struct Work {
    pub buffer: Buffer,
    pub known: Known,
}

/// Statements and their surroundings: the same in every run.
#[derive(Clone)]
pub(super) struct Job {
    pub statements: Arc<[(Arc<Prepared>, Vec<Value>)]>,
    pub env: TxnEnv,
    pub system: Option<Arc<SystemRows>>,
    pub read_only: bool,
    /// Partitions that the statements may touch.
    pub scope: Arc<[u32]>,
    pub cancel: Arc<AtomicBool>,
}

impl Job {
    /// One run. An error, or something missing, leaves the buffer as it was.
    fn run(&self, work: &mut Work, placement: &Placement, budget: Budget) -> Result<Vec<Outcome>> {
        let mark = work.buffer.mark();
        let mut env = self.env.clone();
        env.budget = budget;
        let mut store = TxnStore::new(
            &mut work.buffer,
            &mut work.known,
            placement,
            &self.scope,
            self.read_only,
        );
        let mut outcomes = Vec::with_capacity(self.statements.len());
        let result = self.statements.first().map_or(Ok(()), |(first, _)| {
            let system = self.system.as_deref().map(|s| s as _);
            let mut ctx = ExecCtx::new(&mut store, &mut env, first.catalog(), system);
            self.statements.iter().try_for_each(|(statement, params)| {
                let outcome = statement.run_alone(&mut ctx, params);
                outcomes.push(outcome.map_err(|error| Outcomes::before(&outcomes, error))?);
                Ok(())
            })
        });
        if result.is_err() || work.known.misses() {
            work.buffer.rollback_to(mark);
        }
        result.map(|()| outcomes)
    }
}

impl Gateway {
    /// Runs `job` to its end. On an error the buffer is as before.
    pub(super) async fn drive(
        &self,
        holds: &mut Holds,
        work: &mut Work,
        job: &Job,
        deadline: Instant,
    ) -> Result<Vec<Outcome>> {
        for _ in 0..ROUNDS_INLINE {
            let budget =
                Budget::new(self.config.run_limit_steps).with_results(self.config.result_bytes_max);
            let result = job.run(work, &self.placement, budget);
            let needs = work.known.take_needs();
            if needs.is_empty() {
                match result {
                    Err(error) if is_too_long(&error) => break,
                    result => return result,
                }
            }
            let view = work.known.view.clone();
            let got = self.fetch(holds, &view, &needs, deadline).await?;
            work.known.learn(needs, got)?;
        }
        self.drive_beside(holds, work, job, deadline).await
    }

    /// On a thread, which waits for each row; its questions are answered here.
    async fn drive_beside(
        &self,
        holds: &mut Holds,
        work: &mut Work,
        job: &Job,
        deadline: Instant,
    ) -> Result<Vec<Outcome>> {
        let (ask, mut questions) = unbounded_channel();
        let view = work.known.view.clone();
        let mut own = std::mem::replace(work, self.no_work());
        own.known.wait_for(Some(ask));
        let (job, placement) = (job.clone(), self.placement.clone());
        let cancel = Arc::clone(&job.cancel);
        let budget = Budget::until(cancel.clone()).with_results(self.config.result_bytes_max);
        let mut thread = tokio::task::spawn_blocking(move || {
            let result = job.run(&mut own, &placement, budget);
            own.known.wait_for(None);
            (own, result)
        });
        let mut end = deadline;
        loop {
            tokio::select! {
                done = &mut thread => {
                    let (own, result) = done.map_err(|_| gone())?;
                    *work = own;
                    return result;
                }
                Some((needs, reply)) = questions.recv() => {
                    let got = self.fetch_before(holds, &view, &needs, end, &cancel).await;
                    // The thread waits for it.
                    let _ = reply.send(got);
                }
                () = tokio::time::sleep_until(end) => {
                    if cancel.swap(true, Ordering::Relaxed) && end > deadline {
                        holds.failure.get_or_insert_with(cancelled);
                        return Err(cancelled());
                    }
                    end = Instant::now() + CANCEL_WAIT;
                }
            }
        }
    }

    async fn fetch_before(
        &self,
        holds: &mut Holds,
        view: &View,
        needs: &[super::known::Need],
        deadline: Instant,
        cancel: &AtomicBool,
    ) -> Result<Vec<super::known::Got>> {
        if cancel.load(Ordering::Relaxed) {
            return Err(cancelled());
        }
        let fetched = self.fetch(holds, view, needs, deadline);
        tokio::time::timeout_at(deadline, fetched)
            .await
            .unwrap_or_else(|_| Err(cancelled()))
    }

    /// In the place of work that a thread has: whoever meets it finds a transaction that cannot go on.
    fn no_work(&self) -> Work {
        let limits = self.read_limits();
        Work {
            buffer: Buffer::new(0),
            known: Known::new(
                View::Newest(crate::txn::messages::LockMode::Share),
                Arc::new(AtomicBool::new(true)),
                limits,
            ),
        }
    }
}

/// It used up its steps on the core.
pub(in super::super) fn is_too_long(error: &Error) -> bool {
    error.sqlstate() == crate::partition::TOO_LONG
}

/// Ends when the statement was cancelled.
pub(in super::super) async fn given_up(cancel: &AtomicBool) {
    while !cancel.load(Ordering::Relaxed) {
        tokio::time::sleep(CANCEL_LOOK).await;
    }
}

/// Ends when the statement is to be given up: by a cancel, or because its time is over.
pub(super) async fn cancelled_by(cancel: &AtomicBool, deadline: Instant) {
    while Instant::now() < deadline && !cancel.load(Ordering::Relaxed) {
        tokio::time::sleep_until(deadline.min(Instant::now() + CANCEL_LOOK)).await;
    }
}
