//! Read leases: rows that a client may go on reading from its own memory, because nobody changes them meanwhile.
//!
//! A lease is a shared lock that ends by itself: its keys are in `Locks` under a name of its own, so that every way to write
//! them meets it and waits. Nobody waits in a circle: a lease waits for nothing.
//!
//! What holds:
//! * The holder counts the time from before it asked; the leader counts it, and a margin for clocks that run at different
//!   speed, from when the rows were read. So a write is executed only when no holder uses the old row any more.
//! * A lease that somebody waits for is wanted back: its holder is told (`lease_recalls`), and its keys are leased to nobody
//!   else. So a write waits for one answer of the holder, or for the length of one lease when that is dead.
//! * A leader that has leases has said so in the log (`records::lease_key`) before a holder hears of its own: the next
//!   leader, who does not know which they are, changes no row for the longest of them (`Leases::open`). The partition's own
//!   records are leased to nobody, and so may change.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::locks::{Holder, Locks};
use super::records::{beside_records, lease_key, recall_key};
use crate::error::{Error, Result};
use crate::storage::StateStore;
use crate::txn::messages::{LockMode, Span, TxnId};

/// The longest lease in microseconds.
pub const LEASE_US_MAX: u64 = 10_000_000;

/// The log's word that there are leases is taken back when there were none for so long: each change is an entry.
const IDLE_US: u64 = 60_000_000;

/// Bits of a lease's number that count within a term.
const COUNTER_BITS: u32 = 40;

/// Leases of earlier leaders.
const EARLIER: TxnId = id(0);

/// The youngest of all: who has to wait for it may, whatever locks he holds.
const fn id(number: u64) -> TxnId {
    TxnId {
        start: u64::MAX,
        node: 0,
        number,
    }
}

struct Lease {
    holder: i64,
    keys: usize,
    until_us: u64,
    wanted: bool,
}

/// See the module's description.
#[derive(Default)]
pub struct Leases {
    term: u64,
    granted: u64,
    leases: HashMap<u64, Lease>,
    /// By end, in microseconds of the monotonic clock.
    ends: BTreeSet<(u64, u64)>,
    /// Wanted back, by holder.
    wanted: BTreeMap<i64, BTreeSet<u64>>,
    /// Of all leases.
    keys: usize,
    /// No lease that may be told is longer, as the log says; 0: there is none.
    recorded_us: u64,
    /// When there last was a lease.
    used_us: u64,
}

impl Leases {
    /// Waits for what earlier leaders granted, whatever it was: all of it was granted before now.
    pub fn open<S: StateStore>(
        term: u64,
        store: &S,
        locks: &mut Locks,
        now_us: u64,
    ) -> Result<Self> {
        let mut leases = Self {
            term,
            used_us: now_us,
            ..Self::default()
        };
        if let Some(row) = store.get(&lease_key())? {
            let length_us = row.value.first_chunk::<8>().copied();
            let length_us = length_us.map(u64::from_be_bytes);
            leases.recorded_us =
                length_us.ok_or_else(|| Error::internal("the record of leases is damaged"))?;
            let all = beside_records().to_vec();
            leases.add(locks, EARLIER, 0, all, leases.recorded_us, now_us);
        }
        Ok(leases)
    }

    /// Keys leased.
    pub fn len(&self) -> usize {
        self.keys
    }

    /// The next lease's number: above 0, and no other leader's.
    pub fn next(&self) -> i64 {
        let number = (self.term << COUNTER_BITS) | (self.granted + 1);
        (number & i64::MAX as u64) as i64
    }

    /// True if nobody waits to write any of `spans`, or may write it already.
    pub fn may_grant(&self, locks: &Locks, spans: &[Span]) -> bool {
        // A key has as many holders as clients keep answers that read it: thousands. A lease shares its keys with others but
        // those that are wanted back.
        let refuses =
            |holder: &Holder| holder.mode.conflicts(LockMode::Share) || self.is_wanted(holder.txn);
        !spans.iter().any(|span| locks.any(span, refuses))
    }

    /// Leases `spans`, which `may_grant` allowed, for `length_us` under the number that `next` told.
    pub fn grant(
        &mut self,
        locks: &mut Locks,
        holder: i64,
        spans: Vec<Span>,
        length_us: u64,
        now_us: u64,
    ) {
        let number = self.next() as u64;
        self.granted += 1;
        self.add(locks, id(number), holder, spans, length_us, now_us);
    }

    fn add(
        &mut self,
        locks: &mut Locks,
        txn: TxnId,
        holder: i64,
        spans: Vec<Span>,
        length_us: u64,
        now_us: u64,
    ) {
        // The margin: the holder's clock may be slower by an eighth.
        let until_us = now_us + length_us + length_us / 8;
        let keys = spans.len();
        for span in spans {
            // Never silent: it ends by itself.
            locks.acquire(txn, span, LockMode::Share, u64::MAX);
        }
        self.keys += keys;
        self.ends.insert((until_us, txn.number));
        let lease = Lease {
            holder,
            keys,
            until_us,
            wanted: false,
        };
        self.leases.insert(txn.number, lease);
    }

    /// True if `txn` is a lease.
    pub fn is_lease(&self, txn: TxnId) -> bool {
        txn == id(txn.number) && self.leases.contains_key(&txn.number)
    }

    fn is_wanted(&self, txn: TxnId) -> bool {
        let lease = self.leases.get(&txn.number);
        txn == id(txn.number) && lease.is_some_and(|lease| lease.wanted)
    }

    /// Somebody waits for `txn`. If that is a lease not wanted before: what its holder watches to hear of it.
    pub fn want(&mut self, txn: TxnId) -> Option<Span> {
        if !self.is_lease(txn) {
            return None;
        }
        let lease = self.leases.get_mut(&txn.number)?;
        if std::mem::replace(&mut lease.wanted, true) {
            return None;
        }
        let of_holder = self.wanted.entry(lease.holder).or_default();
        of_holder.insert(txn.number);
        Some(recall_span(lease.holder))
    }

    /// A lease of `holder` that is wanted back.
    pub fn recalled(&self, holder: i64) -> Option<i64> {
        let first = self.wanted.get(&holder)?.first()?;
        Some(*first as i64)
    }

    /// `holder` does not use the lease any more: its lock may go.
    pub fn give_back(&mut self, holder: i64, number: i64) -> Option<TxnId> {
        // What earlier leaders granted ends by time only.
        let number = u64::try_from(number).ok().filter(|number| *number > 0)?;
        let lease = self.leases.get(&number)?;
        (lease.holder == holder).then(|| self.remove(number))?
    }

    /// Leases that have ended: their locks may go.
    pub fn expired(&mut self, now_us: u64) -> Vec<TxnId> {
        if !self.leases.is_empty() {
            self.used_us = now_us;
        }
        let ended = self.ends.iter().take_while(|(end, _)| *end <= now_us);
        let ended: Vec<u64> = ended.map(|(_, number)| *number).collect();
        let gone = ended.into_iter().filter_map(|number| self.remove(number));
        gone.collect()
    }

    fn remove(&mut self, number: u64) -> Option<TxnId> {
        let lease = self.leases.remove(&number)?;
        self.keys -= lease.keys;
        self.ends.remove(&(lease.until_us, number));
        if let Some(wanted) = self.wanted.get_mut(&lease.holder) {
            wanted.remove(&number);
            if wanted.is_empty() {
                self.wanted.remove(&lease.holder);
            }
        }
        Some(id(number))
    }

    /// True if the log must say first that leases of this length may be there.
    pub fn must_record(&self, length_us: u64) -> bool {
        length_us > self.recorded_us
    }

    /// The log says so, or will with the open batch.
    pub fn recorded(&mut self, length_us: u64) {
        self.recorded_us = length_us;
    }

    /// True if the log may say that there are no leases any more.
    pub fn is_idle(&self, now_us: u64) -> bool {
        self.recorded_us > 0 && self.leases.is_empty() && now_us >= self.used_us + IDLE_US
    }
}

/// What a holder watches to hear that a lease of its own is wanted back. No row.
pub fn recall_span(holder: i64) -> Span {
    Span::key(recall_key(holder))
}
