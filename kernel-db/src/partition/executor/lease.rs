//! Read leases at the leader: who asks for one, who gives one back, and their end.

use bytes::Bytes;

use super::Executor;
use super::run::Stopped;
use crate::error::Result;
use crate::partition::leases::recall_span;
use crate::partition::locks::Locks;
use crate::partition::records::{beside_records, lease_key};
use crate::partition::replica::{Now, ReplicaConfig};
use crate::partition::transaction::{Lease, LeaseAsk};
use crate::planted::Mutation;
use crate::storage::StateStore;
use crate::txn::messages::Span;

/// Keys that one transaction may lease.
const KEYS_MAX: usize = 64;

/// What a transaction that asks about leases is told when it runs again on the same tip.
#[derive(Default)]
pub(super) struct Pass {
    /// What it replied without a lease, when it was run before.
    pub plain: Option<Bytes>,
    pub answer: Option<i64>,
}

/// A run that wrote nothing and asked.
pub(super) struct Asked {
    pub ask: LeaseAsk,
    /// What it has read, if that was noted.
    pub spans: Vec<Span>,
    pub reply: Bytes,
    /// How long its request has waited, in microseconds.
    pub waited_us: u64,
}

/// What becomes of a run that asked.
pub(super) enum Leased {
    /// Told as it is; true: the log has to say that there are leases.
    Reply(Bytes, bool),
    Again(Pass),
}

impl Pass {
    pub fn lease(&self) -> Lease {
        Lease {
            asked: None,
            answer: self.answer,
        }
    }
}

impl<S: StateStore> Executor<S> {
    pub(super) fn leased(
        &mut self,
        config: &ReplicaConfig,
        now: Now,
        asked: Asked,
        pass: Pass,
    ) -> Result<Leased, Stopped> {
        let Asked {
            ask, spans, reply, ..
        } = asked;
        let again = |answer, reply| {
            Ok(Leased::Again(Pass {
                plain: Some(reply),
                answer: Some(answer),
            }))
        };
        match (ask, pass.plain) {
            (LeaseAsk::Reads { .. }, None) => again(self.leases.next(), reply),
            (LeaseAsk::Reads { holder, length_us }, Some(plain)) => {
                match self.lease(config, now, holder, length_us, spans) {
                    Some(recorded) => Ok(Leased::Reply(reply, recorded)),
                    None => Ok(Leased::Reply(plain, false)),
                }
            }
            (LeaseAsk::Recalls { .. }, Some(_)) => Ok(Leased::Reply(reply, false)),
            (
                LeaseAsk::Recalls {
                    holder,
                    returned,
                    until_us,
                },
                None,
            ) => {
                if let Some(txn) = self.leases.give_back(holder, returned) {
                    self.release(txn);
                }
                match self.leases.recalled(holder) {
                    Some(number) => again(number, reply),
                    None if asked.waited_us < until_us => Err(Stopped::Waits {
                        spans: vec![recall_span(holder)],
                        until_us,
                    }),
                    None => Ok(Leased::Reply(reply, false)),
                }
            }
        }
    }

    /// Leases what was read, under the number that was told. None: not now. True: the log has to say so first, so that the
    /// reply must wait for the open batch.
    fn lease(
        &mut self,
        config: &ReplicaConfig,
        now: Now,
        holder: i64,
        length_us: u64,
        mut spans: Vec<Span>,
    ) -> Option<bool> {
        spans.sort_unstable_by(|a, b| a.from.cmp(&b.from));
        spans.dedup();
        // Whoever reads passes all locked ranges: there must not be many.
        let few = spans.len() <= KEYS_MAX && spans.iter().all(Span::is_key);
        // The next leader leaves records out of what it keeps unchanged.
        let leasable = beside_records();
        let of_rows = |span: &Span| leasable.iter().any(|range| range.overlaps(span));
        let few = few && spans.iter().all(of_rows);
        let room = self.leases.len() + spans.len() <= config.leases_max;
        if spans.is_empty() || !few || !room || !self.leases.may_grant(&self.locks, &spans) {
            return None;
        }
        let record = self.leases.must_record(length_us);
        if record {
            let length = Bytes::copy_from_slice(&length_us.to_be_bytes());
            let row = (lease_key(), Some(length));
            // A store that cannot be read is found by those who need it.
            if !matches!(self.put_all(std::iter::once(row)), Ok(None)) {
                return None;
            }
            self.leases.recorded(length_us);
        }
        let mut nobody = Locks::default();
        let locks = match config.planted.is(Mutation::LeaseNotAwaited) {
            true => &mut nobody,
            false => &mut self.locks,
        };
        let leases = &mut self.leases;
        leases.grant(locks, holder, spans, length_us, now.mono_us);
        Some(record)
    }

    /// Leases that have ended go; after a while without any, the log says that there are none.
    pub(super) fn end_leases(&mut self, now: Now) -> Result<()> {
        for txn in self.leases.expired(now.mono_us) {
            self.release(txn);
        }
        if self.leases.is_idle(now.mono_us)
            && self
                .put_all(std::iter::once((lease_key(), None)))?
                .is_none()
        {
            self.leases.recorded(0);
        }
        Ok(())
    }
}
