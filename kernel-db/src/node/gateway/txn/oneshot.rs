//! One-shots: statements, procedures and implicit transactions that one partition alone cannot run.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt;
use futures::future::LocalBoxFuture;
use tokio::time::Instant;

use super::super::Gateway;
use super::super::submit::{Txn, decode, outcome};
use super::commit::{Ended, Recorded, may_pass};
use super::drive::{Job, Work, cancelled_by};
use super::fetch::lock_timeout;
use super::holds::{Holds, lost};
use super::known::{Known, View, cancelled};
use super::store::Buffer;
use crate::error::{Class, Error, Result};
use crate::partition::{decode_outcome, encode_outcome};
use crate::sql::transaction::Outcomes;
use crate::txn::messages::LockMode;
use crate::wire::pg::Outcome;

/// Longest pause before another attempt; drawn, so that those who met do not meet again.
const PAUSE_MS_MAX: u64 = 16;
/// Attempts after which what is read is locked as if it were to be written: two readers that both go on to write the same
/// row would meet for ever.
const ATTEMPTS_SHARED: u32 = 2;

impl Gateway {
    /// Runs to its end, over as many attempts as it takes until the deadline. `home`: where it is recorded if it is numbered.
    pub(in super::super) fn one_shot(
        &self,
        home: u32,
        txn: &Txn,
    ) -> LocalBoxFuture<'static, Result<Vec<Outcome>>> {
        let gateway = self.own();
        let session = txn.session;
        let (deadline, lock_wait) = (txn.deadline, txn.lock_wait);
        let harmless = Rc::clone(&txn.harmless);
        harmless.set(true);
        let job = match gateway.job(home, txn) {
            Ok(job) => job,
            Err(error) => return std::future::ready(Err(error)).boxed_local(),
        };
        let version = txn.plans.first().map_or(0, |p| p.prepared.version);
        let system = txn.plans.iter().any(|p| p.reads_system);
        async move {
            let mut job = job;
            if system {
                job.system = Some(Arc::new(gateway.gather().await));
            }
            let one = OneShot {
                job,
                home,
                session,
                version,
                deadline,
                lock_wait,
                harmless,
            };
            gateway.attempts(&one).await
        }
        .boxed_local()
    }

    fn job(&self, home: u32, txn: &Txn) -> Result<Job> {
        let mut env = self.env();
        env.partition = home.saturating_sub(1);
        let statements: Arc<[_]> = txn.statements().into();
        Ok(Job {
            scope: self.scope(&statements, &env)?,
            statements,
            env,
            system: None,
            read_only: false,
            cancel: Arc::clone(&txn.cancel),
        })
    }

    async fn attempts(self: &Rc<Self>, one: &OneShot) -> Result<Vec<Outcome>> {
        let start = self.registry.start();
        let mut attempt = 0;
        let mut refused: Option<Instant> = None;
        loop {
            let mut holds = self.registry.open(start);
            holds.lock_wait = one.lock_wait;
            let error = match self.attempt_once(one, &mut holds, attempt).await {
                Ok(outcomes) => return Ok(outcomes),
                Err(Failed::Final(error)) => return Err(error),
                Err(Failed::Passing(error)) => error,
            };
            tracing::debug!(txn = ?holds.id, attempt, %error, "another attempt");
            drop(holds);
            attempt += 1;
            // Refused by wait-die again and again, it waits for a lock as much as one that stands in line.
            if let Some(wait) = one.lock_wait.filter(|_| error.sqlstate() == "40P01")
                && refused.get_or_insert_with(Instant::now).elapsed() >= wait
            {
                return Err(lock_timeout());
            }
            let stop = one.job.cancel.load(Ordering::Relaxed);
            if stop || Instant::now() >= one.deadline {
                return Err(error);
            }
            let most = (1 << attempt.min(4)).min(PAUSE_MS_MAX) * 1000;
            let pause = rand::random_range(0..most);
            tokio::time::sleep(Duration::from_micros(pause)).await;
        }
    }

    async fn attempt_once(
        self: &Rc<Self>,
        one: &OneShot,
        holds: &mut Holds,
        attempt: u32,
    ) -> Result<Vec<Outcome>, Failed> {
        let mode = match attempt {
            0..ATTEMPTS_SHARED => LockMode::Share,
            _ => LockMode::Update,
        };
        let write_set_max = self.config.write_set_bytes_max as usize;
        let mut work = Work {
            buffer: Buffer::new(write_set_max),
            known: Known::new(
                View::Newest(mode),
                Arc::clone(&one.job.cancel),
                self.read_limits(),
            ),
        };
        let run = tokio::select! {
            run = self.drive(holds, &mut work, &one.job, one.deadline) => run,
            () = cancelled_by(&one.job.cancel, one.deadline) => {
                one.job.cancel.store(true, Ordering::Relaxed);
                return Err(Failed::Final(cancelled()));
            }
        };
        if let Some(error) = holds.failure.take() {
            return Err(match may_pass(&error) {
                true => Failed::Passing(error),
                false => Failed::Final(error),
            });
        }
        let done = match run {
            Ok(done) => done,
            Err(error) => return self.refused(one, error).await.map_err(Failed::Final),
        };
        let reply = Ok(Outcomes::encode(&done));
        let record = Recorded {
            session: one.session,
            home: one.home,
            outcome: encode_outcome(&reply).unwrap_or_default(),
        };
        one.harmless.set(false);
        let committed = self.commit(holds, &work, one.version, Some(record)).await;
        one.harmless
            .set(matches!(&committed, Err(e) if e.class() != Class::Unknown));
        match committed {
            Ok(Ended::Committed(_)) => Ok(done.into_iter().map(outcome).collect()),
            Ok(Ended::Repeated(recorded)) => repeated(&recorded).map_err(Failed::Final),
            Err(error) if may_pass(&error) => Err(Failed::Passing(error)),
            Err(error) => Err(Failed::Final(error)),
        }
    }

    /// The body failed. A numbered request is told what its first attempt came to, and this is recorded as its outcome if
    /// there was none (I11).
    async fn refused(&self, one: &OneShot, error: Error) -> Result<Vec<Outcome>> {
        let Some(session) = one.session.filter(|_| error.class() == Class::Request) else {
            return Err(error);
        };
        if let Some(recorded) = self.look_up(one.home, session, one.deadline).await? {
            return repeated(&recorded);
        }
        let failure: Result<Bytes> = Err(error.clone());
        let Some(outcome) = encode_outcome(&failure) else {
            return Err(error);
        };
        let record = Recorded {
            session: one.session,
            home: one.home,
            outcome,
        };
        let nothing = Work {
            buffer: Buffer::new(0),
            known: Known::new(
                View::Newest(LockMode::Share),
                Arc::clone(&one.job.cancel),
                self.read_limits(),
            ),
        };
        let holds = self.registry.open(self.registry.start());
        match self
            .commit(&holds, &nothing, one.version, Some(record))
            .await
        {
            Ok(Ended::Repeated(recorded)) => repeated(&recorded),
            // Not recorded: a retry of the same number may come to something else, and nothing was done.
            Ok(Ended::Committed(_)) | Err(_) => Err(error),
        }
    }
}

struct OneShot {
    job: Job,
    /// The partition that the request's number belongs to, and whose counters it uses.
    home: u32,
    session: Option<(u128, u64)>,
    version: u64,
    deadline: Instant,
    lock_wait: Option<Duration>,
    /// As `Txn::harmless`.
    harmless: Rc<Cell<bool>>,
}

enum Failed {
    /// Another attempt may get through.
    Passing(Error),
    Final(Error),
}

fn repeated(recorded: &Bytes) -> Result<Vec<Outcome>> {
    if recorded.is_empty() {
        return Err(lost());
    }
    decode(&decode_outcome(recorded)?)
}
