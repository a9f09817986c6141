//! Running a transaction of the partition's own, and what becomes of one that waits for a change.

use bytes::Bytes;
use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::Executor;
use super::lease::{Asked, Leased, Pass};
use crate::error::{Error, Result};
use crate::partition::replica::{Now, Output, ReplicaConfig};
use crate::partition::tip_view::{Blocked, TxnView};
use crate::partition::transaction::{Budget, Transaction, TxnEnv, WAITS, Wait};
#[cfg(test)]
use crate::partition::{Store, waits::Parked};
use crate::planted::Mutation;
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
        let seed = self.next_seed(config);
        let mut noted = txn.may_wait();
        let mut pass = Pass::default();
        loop {
            let mut env = TxnEnv {
                wall_us: now.wall_us,
                seed,
                partition: config.partition,
                partitions: config.partitions,
                budget: Budget::new(config.run_limit_steps).with_results(config.result_bytes_max),
                wait: Some(Wait {
                    waited_us,
                    until_us: None,
                }),
                lease: Some(pass.lease()),
            };
            let locks = (!self.locks.is_empty()).then_some(&self.locks);
            let mut view = self.tip.begin_under(locks);
            if noted || pass.plain.is_some() {
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
            let asked = env.lease.and_then(|lease| lease.asked);
            if let (Some(ask), Ok(reply)) = (asked, &result)
                && txn.read_only()
                && !view.wrote()
            {
                let asked = Asked {
                    ask,
                    spans: view.take_reads(),
                    reply: reply.clone(),
                    waited_us,
                };
                view.rollback();
                match self.leased(config, now, asked, pass)? {
                    Leased::Reply(reply, recorded) => return Ok((Ok(reply), recorded)),
                    Leased::Again(next) => pass = next,
                }
                continue;
            }
            return Ok(finish(view, txn, result));
        }
    }

    fn next_seed(&mut self, config: &ReplicaConfig) -> u64 {
        self.runs += 1;
        let mut run = [0; 16];
        run[..8].copy_from_slice(&self.term.to_be_bytes());
        run[8..].copy_from_slice(&self.runs.to_be_bytes());
        xxh3_64_with_seed(&run, config.seed)
    }

    /// Those who waited for what was just written run next. They run on the tip, often in the batch of what woke them; what
    /// they are told leaves when that is committed (I4).
    pub(super) fn wake(&mut self, config: &ReplicaConfig, now: Now) {
        if !self.tip.written.is_empty() {
            let mut written = std::mem::take(&mut self.tip.written);
            if config.planted.is(Mutation::LostWakeUp) {
                written.truncate(1);
            }
            self.queue.extend(self.waits.changed(&written, now.mono_us));
        }
        self.tip.watched = self.waits.watching();
    }

    /// All requests that are parked for a change.
    #[cfg(test)]
    pub fn parked(&mut self) -> Vec<Parked> {
        let parked = self.waits.for_change();
        let mut view = self.tip.begin();
        let mut row = |span: Span| {
            let value = view.get(&span.from, None).unwrap_or_default();
            (span.from, value)
        };
        let rows = |(id, spans): (u64, Vec<Span>)| (id, spans.into_iter().map(&mut row).collect());
        parked.into_iter().map(rows).collect()
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

/// Keeps or undoes what a run wrote.
fn finish<S: StateStore>(
    view: TxnView<'_, S>,
    txn: &dyn Transaction,
    result: Result<Bytes>,
) -> (Result<Bytes>, bool) {
    match result {
        Ok(_) if txn.read_only() && view.wrote() => {
            view.rollback();
            let error = Error::internal("a transaction that claims to read only has written");
            (Err(error), false)
        }
        Ok(reply) => (Ok(reply), view.commit()),
        Err(error) => {
            // I5: what a transaction wrote was in memory only; nothing of a failed one stays there.
            view.rollback();
            (Err(error), false)
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
