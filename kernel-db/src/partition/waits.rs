//! Requests that met a lock: they wait for its owner and are run again from the start when he is gone. Others go on.
//!
//! What holds: the waiting run in the order in which they came; all of them are counted among the leader's requests, whose
//! number is bounded (`queue_max`).

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;

use super::replica::Request;
use crate::txn::messages::{LockMode, Span, TxnId};

/// A lock that is waited for.
pub struct Want {
    pub txn: TxnId,
    pub spans: Vec<Span>,
    pub mode: LockMode,
}

struct Waiting {
    on: TxnId,
    request: Request,
    want: Option<Want>,
}

#[derive(Default)]
pub struct Waits {
    waiting: BTreeMap<u64, Waiting>,
    arrivals: u64,
}

impl Waits {
    /// `on` holds a lock in the request's way.
    pub fn park(&mut self, on: TxnId, request: Request, want: Option<Want>) {
        self.arrivals += 1;
        let waiting = Waiting { on, request, want };
        self.waiting.insert(self.arrivals, waiting);
    }

    /// `txn` holds nothing any more: who waited for it, in order.
    pub fn freed(&mut self, txn: TxnId) -> Vec<Request> {
        self.take(|waiting| waiting.on == txn)
    }

    /// Waits of `txn` itself.
    pub fn of(&mut self, txn: TxnId) -> Vec<Request> {
        self.take(|waiting| waiting.want.as_ref().is_some_and(|want| want.txn == txn))
    }

    /// True if `txn` waits.
    pub fn has(&self, txn: TxnId) -> bool {
        let mut wants = self.waiting.values().filter_map(|w| w.want.as_ref());
        wants.any(|want| want.txn == txn)
    }

    /// Those whose client has given up.
    pub fn cancelled(&mut self) -> Vec<Request> {
        self.take(|waiting| {
            let cancel = waiting.request.cancel.as_ref();
            cancel.is_some_and(|cancel| cancel.load(Ordering::Relaxed))
        })
    }

    pub fn all(&mut self) -> Vec<Request> {
        self.take(|_| true)
    }

    /// Whom a transaction older than `txn` waits for, if it waits for a lock that this one would be in the way of: it goes
    /// first.
    pub fn older_wants(&self, txn: TxnId, spans: &[Span], mode: LockMode) -> Option<TxnId> {
        let wants = |waiting: &Waiting| {
            let older = |want: &&Want| want.txn < txn && want.mode.conflicts(mode);
            waiting.want.as_ref().filter(older).is_some_and(|want| {
                let meets = |span: &Span| want.spans.iter().any(|wanted| wanted.overlaps(span));
                spans.iter().any(meets)
            })
        };
        let found = self.waiting.values().find(|waiting| wants(waiting));
        found.map(|waiting| waiting.on)
    }

    fn take(&mut self, which: impl Fn(&Waiting) -> bool) -> Vec<Request> {
        let chosen = |(number, waiting): (&u64, &Waiting)| which(waiting).then_some(*number);
        let numbers: Vec<u64> = self.waiting.iter().filter_map(chosen).collect();
        let waiting = numbers.iter().filter_map(|n| self.waiting.remove(n));
        waiting.map(|waiting| waiting.request).collect()
    }
}
