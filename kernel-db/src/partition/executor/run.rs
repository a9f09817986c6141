//! Running a transaction of the partition's own, and what becomes of one that waits for a change.

use bytes::Bytes;
use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::Executor;
use crate::error::{Error, Result};
use crate::partition::replica::{Now, Output, ReplicaConfig};
use crate::partition::tip_view::Blocked;
use crate::partition::transaction::{Budget, Transaction, TxnEnv, WAITS, Wait};
use crate::storage::StateStore;
use crate::txn::messages::Span;

/// Keys and ranges that one waiting transaction may have read.
const WATCHED_MAX: usize = 1024;

/// Why nothing of a run is kept or told.
pub(super) enum Stopped {
    Blocked(Blocked),
    /// It waits for a change in these spans until it has waited so long, all in all.
    Waits {
        spans: Vec<Span>,
        until_us: u64,
    },
}

impl<S: StateStore> Executor<S> {
    /// Runs the transaction on the tip; on error every write is undone. `Err`: it met what it must wait for.
    pub(super) fn run(
        &mut self,
        config: &ReplicaConfig,
        now: Now,
        txn: &dyn Transaction,
        waited_us: u64,
    ) -> Result<(Result<Bytes>, bool), Stopped> {
        self.runs += 1;
        let mut run = [0; 16];
        run[..8].copy_from_slice(&self.term.to_be_bytes());
        run[8..].copy_from_slice(&self.runs.to_be_bytes());
        let seed = xxh3_64_with_seed(&run, config.seed);
        let mut noted = txn.may_wait();
        loop {
            let mut env = TxnEnv {
                wall_us: now.wall_us,
                seed,
                partition: config.partition,
                partitions: config.partitions,
                budget: Budget::new(config.run_limit_steps),
                wait: Some(Wait {
                    waited_us,
                    until_us: None,
                }),
            };
            let locks = (!self.locks.is_empty()).then_some(&self.locks);
            let mut view = self.tip.begin_under(locks);
            if noted {
                view.note_reads();
            }
            let result = txn.run(&mut view, &mut env);
            if let Some(blocked) = view.blocked() {
                // Whatever it made of the error it got; nothing of this run is kept or told.
                view.rollback();
                return Err(Stopped::Blocked(blocked));
            }
            let until_us = env.wait.and_then(|wait| wait.until_us);
            if let Some(until_us) = until_us {
                let spans = view.take_reads();
                view.rollback();
                if !noted {
                    // Nothing is noted for those who never waited. Once more, which on the same tip does the same.
                    noted = true;
                    continue;
                }
                return match spans.len() {
                    0..=WATCHED_MAX => Err(Stopped::Waits { spans, until_us }),
                    _ => Ok((Err(reads_too_much()), false)),
                };
            }
            return Ok(match result {
                Ok(_) if txn.read_only() && view.wrote() => {
                    view.rollback();
                    let error =
                        Error::internal("a transaction that claims to read only has written");
                    (Err(error), false)
                }
                Ok(reply) => (Ok(reply), view.commit()),
                Err(error) => {
                    // I5: what a transaction wrote was in memory only; nothing of a failed one stays there.
                    view.rollback();
                    (Err(error), false)
                }
            });
        }
    }

    /// Those who waited for what was just written run next. They run on the tip, often in the batch of what woke them; what
    /// they are told leaves when that is committed (I4).
    pub(super) fn wake(&mut self, now: Now) {
        if !self.tip.written.is_empty() {
            let written = std::mem::take(&mut self.tip.written);
            self.queue.extend(self.waits.changed(&written, now.mono_us));
        }
        self.tip.watched = self.waits.watching();
    }

    /// Waits that end without a change.
    pub(super) fn end_parks(&mut self, now: Now, out: &mut Vec<Output>) {
        let (over, again) = self.waits.due(now.mono_us);
        self.queue.extend(over);
        for request in again {
            self.requests -= 1;
            let (id, result) = (request.id, Err(still_waiting()));
            out.push(Output::Reply { id, result, ts: 0 });
        }
    }
}

fn still_waiting() -> Error {
    Error::retry(WAITS, "nothing has changed yet").hint("send the request again to go on waiting")
}

fn reads_too_much() -> Error {
    Error::new(
        "54000",
        format!("the transaction reads more than {WATCHED_MAX} keys and ranges, and then waits for a change"),
    )
    .hint("read less before wait_for_change")
}
