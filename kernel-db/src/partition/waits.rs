//! Requests that wait outside of the executor: for the owner of a lock that they met, or for a change of rows that they
//! have read. They are run again from the start. Others go on.
//!
//! What holds: those that one event wakes run in the order in which they came; nothing of a waiting request is proposed;
//! all of them are counted among the leader's requests, whose number is bounded (`queue_max`).

use std::collections::{BTreeMap, BTreeSet};

use super::replica::Request;
use super::watches::Watches;
use crate::txn::messages::{LockMode, Span, TxnId};

/// A request of another node's client waits here for a change for so many microseconds at most; then its gateway sends it
/// again, if that client is still there. Long beside a round trip, short beside what a person does next.
const PARKED_US_MAX: u64 = 250_000;

/// A lock that is waited for.
pub struct Want {
    pub txn: TxnId,
    pub spans: Vec<Span>,
    pub mode: LockMode,
    /// When the transaction was last heard of, on the monotonic clock.
    pub heard_us: u64,
}

/// A request that is parked for a change, and what rows that it has read by key hold now.
#[cfg(test)]
pub type Parked = (u64, Vec<(bytes::Bytes, Option<bytes::Bytes>)>);

enum On {
    /// Holds a lock in the request's way.
    Owner(TxnId),
    Change(Change),
}

struct Change {
    /// What the request has read.
    spans: Vec<Span>,
    since_us: u64,
    /// The request is over when it has waited so long, all in all.
    until_us: u64,
}

struct Waiting {
    on: On,
    request: Request,
    want: Option<Want>,
}

#[derive(Default)]
pub struct Waits {
    waiting: BTreeMap<u64, Waiting>,
    watches: Watches,
    arrivals: u64,
}

impl Waits {
    /// `on` holds a lock in the request's way.
    pub fn park(&mut self, on: TxnId, request: Request, want: Option<Want>) {
        let on = On::Owner(on);
        self.add(Waiting { on, request, want });
    }

    /// The request waits for a change in `spans` until it has waited for `until_us`.
    pub fn park_for_change(
        &mut self,
        mut request: Request,
        spans: Vec<Span>,
        now_us: u64,
        until_us: u64,
    ) {
        request.waited.parked = true;
        for span in &spans {
            self.watches.watch(self.arrivals + 1, span);
        }
        let on = On::Change(Change {
            spans,
            since_us: now_us,
            until_us,
        });
        let want = None;
        self.add(Waiting { on, request, want });
    }

    fn add(&mut self, waiting: Waiting) {
        self.arrivals += 1;
        self.waiting.insert(self.arrivals, waiting);
    }

    /// True if anybody waits for a change.
    pub fn watching(&self) -> bool {
        !self.watches.is_empty()
    }

    /// `written` was written: who waited for it, in order.
    pub fn changed(&mut self, written: &[Span], now_us: u64) -> Vec<Request> {
        let mut woken = BTreeSet::new();
        for span in written {
            self.watches.met(span, &mut woken);
        }
        let woken = woken.into_iter().filter_map(|n| self.remove(n));
        woken.map(|w| w.waited_until(now_us).0).collect()
    }

    /// The requests that wait for a change, and the keys that they have read.
    #[cfg(test)]
    pub fn for_change(&self) -> Vec<(u64, Vec<Span>)> {
        let keys = |waiting: &Waiting| match &waiting.on {
            On::Owner(_) => None,
            On::Change(change) => {
                let keys = change.spans.iter().filter(|span| span.is_key());
                Some((waiting.request.id, keys.cloned().collect()))
            }
        };
        self.waiting.values().filter_map(keys).collect()
    }

    /// Those whose wait for a change is over, and those who have to ask for it again.
    pub fn due(&mut self, now_us: u64) -> (Vec<Request>, Vec<Request>) {
        let due = self.numbers(|waiting| match &waiting.on {
            On::Owner(_) => false,
            On::Change(change) => {
                let waited = &waiting.request.waited;
                let left = change.until_us.saturating_sub(waited.us);
                let left = match waited.gone {
                    Some(_) => left,
                    None => left.min(PARKED_US_MAX),
                };
                now_us.saturating_sub(change.since_us) >= left
            }
        });
        let (mut over, mut again) = (Vec::new(), Vec::new());
        for waiting in due.into_iter().filter_map(|n| self.remove(n)) {
            match waiting.waited_until(now_us) {
                (request, true) => over.push(request),
                (request, false) => again.push(request),
            }
        }
        (over, again)
    }

    /// `txn` holds nothing any more: who waited for it, in order.
    pub fn freed(&mut self, txn: TxnId) -> Vec<Request> {
        self.take(|waiting| matches!(waiting.on, On::Owner(owner) if owner == txn))
    }

    /// Waits of `txn` itself.
    pub fn of(&mut self, txn: TxnId) -> Vec<Request> {
        self.take(|waiting| waiting.want.as_ref().is_some_and(|want| want.txn == txn))
    }

    /// `txn` lives. False if it does not wait here.
    pub fn keep_alive(&mut self, txn: TxnId, now_us: u64) -> bool {
        let mut waits = false;
        let wants = self.waiting.values_mut().filter_map(|w| w.want.as_mut());
        for want in wants.filter(|want| want.txn == txn) {
            want.heard_us = want.heard_us.max(now_us);
            waits = true;
        }
        waits
    }

    /// Those who want a lock and were silent since `before_us`: each would get it for nothing, and keep it for a lease.
    pub fn silent(&mut self, before_us: u64) -> Vec<Request> {
        self.take(|waiting| {
            let want = waiting.want.as_ref();
            want.is_some_and(|want| want.heard_us < before_us)
        })
    }

    /// Those whose client has given up.
    pub fn cancelled(&mut self) -> Vec<Request> {
        self.take(|waiting| waiting.request.has_nobody())
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
        found.and_then(|waiting| match waiting.on {
            On::Owner(owner) => Some(owner),
            On::Change(_) => None,
        })
    }

    fn take(&mut self, which: impl Fn(&Waiting) -> bool) -> Vec<Request> {
        let taken = self.numbers(which).into_iter();
        let taken = taken.filter_map(|n| self.remove(n));
        taken.map(|waiting| waiting.request).collect()
    }

    fn numbers(&self, which: impl Fn(&Waiting) -> bool) -> Vec<u64> {
        let chosen = |(number, waiting): (&u64, &Waiting)| which(waiting).then_some(*number);
        self.waiting.iter().filter_map(chosen).collect()
    }

    fn remove(&mut self, number: u64) -> Option<Waiting> {
        let waiting = self.waiting.remove(&number)?;
        if let On::Change(change) = &waiting.on {
            for span in &change.spans {
                self.watches.forget(number, span);
            }
        }
        Some(waiting)
    }
}

impl Waiting {
    /// The request, with its wait added, and whether that is over.
    fn waited_until(self, now_us: u64) -> (Request, bool) {
        let mut request = self.request;
        let mut over = false;
        if let On::Change(change) = &self.on {
            request.waited.us += now_us.saturating_sub(change.since_us);
            over = request.waited.us >= change.until_us;
        }
        (request, over)
    }
}
