//! Transactions over several partitions that are not finished here: what is prepared and not settled, what was decided
//! and may still be asked for.
//!
//! What holds (I12): all of it is in records, so an opening finds the same again; a prepare is in the way of snapshots at or
//! above its timestamp until its settlement is applied; a decision is kept until every participant has settled, and any until
//! the log's time is past the transaction's deadline, after which an unknown transaction was aborted.
//!
//! Whoever is in doubt for long asks, and asks again ever more rarely: nobody's death leaves this to a human.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use super::locks::Locks;
use super::records::{self, PreparedRecord, Record};
use super::replica::Now;
use crate::error::Result;
use crate::storage::StateStore;
use crate::txn::messages::{LockMode, Span, TxnId};

/// Between two questions about the same transaction, at most.
const BACKOFF_US_MAX: u64 = 8_000_000;
/// The gateway of a staged part says every second that it goes on; silent for longer, it is gone.
const STAGED_SILENCE_US: u64 = 5_000_000;
/// Leaders may come and go faster than that. So the log holds that it was heard, at most this long ago while it goes on; and
/// whoever was not heard for as long as the second is gone: without a leader to talk to, it gives up before that.
const HEARD_EVERY_US: u64 = 10_000_000;
const HEARD_AGO_US_MAX: u64 = 40_000_000;
/// Records dropped at one tick: more than come in that time, few enough not to be felt.
const DROP_STEP: usize = 512;

pub struct Prepared {
    pub record: PreparedRecord,
    /// None while its batch is open.
    pub ts: Option<u64>,
    /// Of a staged part, once it is being settled: how far.
    pub settled_to: Option<Bytes>,
    /// The last time at which the log knows of the gateway of a staged part, by the system clock.
    heard_us: u64,
    number: u64,
    ask: Ask,
}

/// When to ask again.
struct Ask {
    next_us: u64,
    pause_us: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The timestamp is not known while the batch is open.
    Commit(Option<u64>),
    Abort,
}

struct Decided {
    verdict: Verdict,
    deadline_ts: u64,
    /// Who may not know: empty once all have settled.
    others: Vec<u32>,
    ask: Ask,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Settled {
    No,
    /// By the open batch.
    Open,
    At(u64),
}

/// A prepare as snapshots see it: in their way until its settlement is applied.
struct Unsettled {
    ts: Option<u64>,
    settled: Settled,
}

/// What to ask or tell others.
pub enum Reminder {
    Resolve {
        txn: TxnId,
        coordinator: u32,
        deadline_ts: u64,
    },
    Finish {
        txn: TxnId,
        commit_ts: u64,
        others: Vec<u32>,
    },
}

/// See the module's description.
pub struct InDoubt {
    prepared: BTreeMap<TxnId, Prepared>,
    unsettled: BTreeMap<u64, Unsettled>,
    decided: BTreeMap<TxnId, Decided>,
    /// Decisions to commit that somebody may not know.
    unfinished: BTreeSet<TxnId>,
    /// Decisions that go when the log's time has passed their deadline.
    going: BTreeSet<(u64, TxnId)>,
    /// Of the open batch.
    new_prepared: Vec<(TxnId, u64)>,
    new_settled: Vec<u64>,
    new_decided: Vec<TxnId>,
    numbers: u64,
    /// How long somebody else may take before he is asked.
    patience_us: u64,
}

impl InDoubt {
    /// From the records of a state that has applied the whole log; takes the locks of what is prepared.
    pub fn load<S: StateStore>(
        store: &S,
        locks: &mut Locks,
        now: Now,
        patience_us: u64,
    ) -> Result<Self> {
        let now_us = now.mono_us;
        let mut doubt = Self {
            prepared: BTreeMap::new(),
            unsettled: BTreeMap::new(),
            decided: BTreeMap::new(),
            unfinished: BTreeSet::new(),
            going: BTreeSet::new(),
            new_prepared: Vec::new(),
            new_settled: Vec::new(),
            new_decided: Vec::new(),
            numbers: 0,
            patience_us,
        };
        for (txn, ts, record) in records::load(store)? {
            match record {
                Record::Prepared(record) => {
                    lock(locks, txn, &record, now_us);
                    let heard = match record.staged {
                        true => store.get(&records::heard_key(txn))?,
                        false => None,
                    };
                    let heard_us = heard.map_or(ts, |row| row.ts.max(ts));
                    doubt.add_prepared(txn, record, Some(ts), now, heard_us);
                }
                Record::Decided(record) => {
                    let verdict = if record.commit {
                        Verdict::Commit(Some(ts))
                    } else {
                        Verdict::Abort
                    };
                    doubt.add_decided(txn, verdict, record.others, record.deadline_ts, now_us);
                }
            }
        }
        doubt.new_prepared.clear();
        doubt.new_decided.clear();
        Ok(doubt)
    }

    pub fn prepared(&self, txn: TxnId) -> Option<&Prepared> {
        self.prepared.get(&txn)
    }

    pub fn verdict(&self, txn: TxnId) -> Option<Verdict> {
        self.decided.get(&txn).map(|decided| decided.verdict)
    }

    /// The open batch prepares it; `lock` was called.
    pub fn prepare(&mut self, txn: TxnId, record: PreparedRecord, now: Now) {
        self.add_prepared(txn, record, None, now, wall_us(now));
    }

    fn add_prepared(
        &mut self,
        txn: TxnId,
        record: PreparedRecord,
        ts: Option<u64>,
        now: Now,
        heard_us: u64,
    ) {
        self.numbers += 1;
        let (number, mut ask) = (self.numbers, self.first_ask(now.mono_us));
        if record.staged {
            let ago_us = wall_us(now).saturating_sub(heard_us);
            let patience_us = STAGED_SILENCE_US.min(HEARD_AGO_US_MAX.saturating_sub(ago_us));
            ask.next_us = now.mono_us + patience_us;
        }
        let prepared = Prepared {
            record,
            ts,
            settled_to: None,
            heard_us,
            number,
            ask,
        };
        let settled = Settled::No;
        self.prepared.insert(txn, prepared);
        self.unsettled.insert(number, Unsettled { ts, settled });
        self.new_prepared.push((txn, number));
    }

    /// The open batch settles it. Returns what was prepared.
    pub fn settle(&mut self, txn: TxnId) -> Option<Prepared> {
        let prepared = self.prepared.remove(&txn)?;
        if let Some(unsettled) = self.unsettled.get_mut(&prepared.number) {
            unsettled.settled = Settled::Open;
            self.new_settled.push(prepared.number);
        }
        Some(prepared)
    }

    /// The open batch holds the decision.
    pub fn decide(
        &mut self,
        txn: TxnId,
        commit: bool,
        others: Vec<u32>,
        deadline_ts: u64,
        now_us: u64,
    ) {
        let verdict = if commit {
            Verdict::Commit(None)
        } else {
            Verdict::Abort
        };
        self.add_decided(txn, verdict, others, deadline_ts, now_us);
    }

    fn add_decided(
        &mut self,
        txn: TxnId,
        verdict: Verdict,
        others: Vec<u32>,
        deadline_ts: u64,
        now_us: u64,
    ) {
        if others.is_empty() {
            self.going.insert((deadline_ts, txn));
        } else {
            self.unfinished.insert(txn);
        }
        let decided = Decided {
            verdict,
            deadline_ts,
            others,
            ask: self.first_ask(now_us),
        };
        self.decided.insert(txn, decided);
        self.new_decided.push(txn);
    }

    /// Whoever stages a part goes on with it. True: the log is to hold that.
    pub fn keep(&mut self, txn: TxnId, now: Now) -> bool {
        let prepared = self.prepared.get_mut(&txn);
        let Some(prepared) = prepared.filter(|prepared| prepared.record.staged) else {
            return false;
        };
        prepared.ask.next_us = now.mono_us + STAGED_SILENCE_US;
        let tells = wall_us(now) >= prepared.heard_us + HEARD_EVERY_US;
        if tells {
            prepared.heard_us = wall_us(now);
        }
        tells
    }

    /// The open batch settles a staged part up to `place`.
    pub fn settle_up_to(&mut self, txn: TxnId, place: Bytes) {
        if let Some(prepared) = self.prepared.get_mut(&txn) {
            prepared.settled_to = Some(place);
        }
    }

    fn first_ask(&self, now_us: u64) -> Ask {
        Ask {
            next_us: now_us + self.patience_us,
            pause_us: self.patience_us,
        }
    }

    /// All participants have settled.
    pub fn forget(&mut self, txn: TxnId) {
        if self.unfinished.remove(&txn)
            && let Some(decided) = self.decided.get_mut(&txn)
        {
            decided.others.clear();
            self.going.insert((decided.deadline_ts, txn));
        }
    }

    /// Decisions nobody will ask for any more: `committed_ts` is the log's time. The open batch drops their records.
    pub fn drop_decisions(&mut self, committed_ts: u64) -> Vec<TxnId> {
        let mut gone = Vec::new();
        while gone.len() < DROP_STEP
            && let Some((deadline_ts, txn)) = self.going.first().copied()
            && deadline_ts < committed_ts
        {
            self.going.pop_first();
            self.decided.remove(&txn);
            gone.push(txn);
        }
        gone
    }

    /// The open batch was closed: it is entry `index`, of timestamp `ts`.
    pub fn sealed(&mut self, index: u64, ts: u64) {
        for (txn, number) in self.new_prepared.drain(..) {
            if let Some(prepared) = self.prepared.get_mut(&txn) {
                prepared.ts.get_or_insert(ts);
            }
            if let Some(unsettled) = self.unsettled.get_mut(&number) {
                unsettled.ts.get_or_insert(ts);
            }
        }
        for number in self.new_settled.drain(..) {
            if let Some(unsettled) = self.unsettled.get_mut(&number) {
                unsettled.settled = Settled::At(index);
            }
        }
        for txn in self.new_decided.drain(..) {
            if let Some(decided) = self.decided.get_mut(&txn)
                && decided.verdict == Verdict::Commit(None)
            {
                decided.verdict = Verdict::Commit(Some(ts));
            }
        }
    }

    /// Everything up to `index` is applied: what was settled there is in nobody's way any more.
    pub fn applied(&mut self, index: u64) {
        self.unsettled
            .retain(|_, unsettled| !is_settled(unsettled, index));
    }

    /// The newest prepare, for `settled_up_to`.
    pub fn newest(&self) -> u64 {
        self.numbers
    }

    /// True if all prepares up to number `number` are settled by entries up to `commit`.
    pub fn settled_up_to(&self, number: u64, commit: u64) -> bool {
        let mut older = self.unsettled.range(..=number);
        older.all(|(_, unsettled)| is_settled(unsettled, commit))
    }

    /// True if no prepare at or below `ts` waits for its settlement to be applied, which is done up to `applied`.
    pub fn settled_at(&self, ts: u64, applied: u64) -> bool {
        let below = |unsettled: &&Unsettled| unsettled.ts.is_some_and(|prepared| prepared <= ts);
        let mut in_the_way = self.unsettled.values().filter(below);
        in_the_way.all(|unsettled| is_settled(unsettled, applied))
    }

    /// Who is to be asked or told now.
    /// I4: what is decided is told only when the decision is committed, at or below `committed_ts`.
    pub fn remind(&mut self, now_us: u64, committed_ts: u64) -> Vec<Reminder> {
        let mut reminders = Vec::new();
        for (txn, prepared) in &mut self.prepared {
            // Not before the prepare itself is in the log.
            if prepared.ts.is_some() && prepared.ask.is_due(now_us) {
                reminders.push(Reminder::Resolve {
                    txn: *txn,
                    coordinator: prepared.record.coordinator,
                    deadline_ts: prepared.record.deadline_ts,
                });
            }
        }
        for txn in &self.unfinished {
            if let Some(decided) = self.decided.get_mut(txn)
                && let Verdict::Commit(Some(commit_ts)) = decided.verdict
                && commit_ts <= committed_ts
                && decided.ask.is_due(now_us)
            {
                reminders.push(Reminder::Finish {
                    txn: *txn,
                    commit_ts,
                    others: decided.others.clone(),
                });
            }
        }
        reminders
    }
}

impl Ask {
    fn is_due(&mut self, now_us: u64) -> bool {
        if now_us < self.next_us {
            return false;
        }
        self.next_us = now_us + self.pause_us;
        self.pause_us = (self.pause_us * 2).min(BACKOFF_US_MAX);
        true
    }
}

fn wall_us(now: Now) -> u64 {
    u64::try_from(now.wall_us).unwrap_or(0)
}

fn is_settled(unsettled: &Unsettled, index: u64) -> bool {
    matches!(unsettled.settled, Settled::At(at) if at <= index)
}

/// I12: what a prepared transaction has written is locked exclusively, what it has read as it was read.
pub fn lock(locks: &mut Locks, txn: TxnId, record: &PreparedRecord, now_us: u64) {
    for kept in &record.locks {
        // An unknown mode is as strong as any.
        let mode = LockMode::try_from(kept.mode).unwrap_or(LockMode::Update);
        if record.staged && mode.is_exclusive() {
            locks.acquire_written(txn, kept.span.clone(), now_us);
        } else {
            locks.acquire(txn, kept.span.clone(), mode, now_us);
        }
    }
    for write in &record.writes {
        locks.acquire_written(txn, Span::key(write.key.clone()), now_us);
    }
    locks.set_prepared(txn);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::memory::MemState;

    #[test]
    fn i4_a_decision_is_told_to_others_only_when_it_is_committed() {
        let mut doubt = InDoubt::load(
            &MemState::new(),
            &mut Locks::default(),
            Now::default(),
            1_000,
        )
        .unwrap();
        let txn = TxnId::default();
        doubt.decide(txn, true, vec![2], 1_000_000, 0);
        doubt.sealed(5, 100);
        assert!(doubt.remind(2_000, 99).is_empty());
        let told = doubt.remind(2_000, 100);
        assert!(matches!(
            told[..],
            [Reminder::Finish { commit_ts: 100, .. }]
        ));
    }
}
