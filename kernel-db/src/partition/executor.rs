//! The leader's executor: runs transactions one after another on the tip, gathers them in batches, and holds every reply
//! until what it rests on is committed.
//!
//! One executor lives for one term of leadership (I1): it is opened on the state that has applied the whole log (I2), so
//! that every batch is computed on the log's prefix before it (I3), and dropped with its tip when leadership is lost (I6).
//! It names no raft: the replica proposes what `seal` gives, and tells what was committed.

mod commit;
mod lease;
mod promises;
mod run;
mod staged;
mod work;

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;

use promises::SnapshotWait;

use super::batch::{Batch, Held, InFlight, Rests, Stamp};
use super::changes::Changes;
use super::fence;
use super::in_doubt::InDoubt;
use super::leases::Leases;
use super::locks::Locks;
use super::reads::{Answer, Reads};
use super::replica::{Now, Output, ReplicaConfig, Request, Task};
use super::sessions::{Outcome, Seen, Sessions};
use super::tip::{Tip, TipLimits, TipStats};
use super::tip_view::Blocked;
use super::waits::Waits;
use crate::error::{Class, Error, Result};
use crate::planted::Mutation;
use crate::raft::Lease;
use crate::storage::StateStore;
use crate::txn::HybridClock;
use run::Stopped;

/// I13: commits and read promises stay within this time of the clock, at or below a ceiling that the log holds.
const CEILING_AHEAD_US: u64 = 500_000;

/// Dropped rows freed per tick: some milliseconds of work.
const FREE_ROWS_PER_TICK: usize = 20_000;

pub struct Executor<S: StateStore> {
    term: u64,
    tip: Tip<S>,
    clock: HybridClock,
    sessions: Sessions,
    batch: Batch,
    in_flight: VecDeque<InFlight>,
    /// Requests that wait for room in a batch, not executed.
    queue: VecDeque<Request>,
    reads: Reads,
    snapshots: Vec<SnapshotWait>,
    /// Who asked for the newest timestamp, and the newest prepare at that time, which must be settled first.
    fresh: VecDeque<(u64, u64)>,
    locks: Locks,
    leases: Leases,
    waits: Waits,
    doubt: InDoubt,
    changes: Changes,
    /// The open batch must be closed before the next request is executed.
    close_first: bool,
    /// Highest index known to be committed.
    committed_index: u64,
    /// I13: the highest ceiling in a committed entry, and in a proposed one.
    ceiling_committed: u64,
    ceiling_proposed: u64,
    committed_ts: u64,
    /// The highest timestamp that an asker had seen elsewhere.
    seen: u64,
    /// The floor that the last entry told.
    floor_told: u64,
    /// Requests accepted and not answered.
    requests: usize,
    runs: u64,
}

impl<S: StateStore> Executor<S> {
    /// Opens on a state that has applied every entry of the log, the empty one of `term` included (I2).
    pub fn open(config: &ReplicaConfig, store: &Arc<S>, term: u64, now: Now) -> Result<Self> {
        let mut locks = Locks::default();
        // I12: what is prepared is locked before anything is executed.
        let patience_us = config.resolve_after_ms * 1000;
        let doubt = InDoubt::load(&**store, &mut locks, now, patience_us)?;
        let mut nobody = Locks::default();
        let waiting = match config.planted.is(Mutation::LeasesForgotten) {
            true => &mut nobody,
            false => &mut locks,
        };
        let leases = Leases::open(term, &**store, waiting, now.mono_us)?;
        let meta = store.meta();
        let tick_us = config.tick_ms * 1000;
        let limits = TipLimits {
            tip_bytes_max: config.tip_bytes_max,
            write_set_bytes_max: config.write_set_bytes_max,
            ..TipLimits::default()
        };
        // I13: what earlier leaders promised to readers stays true.
        let promised = if config.planted.is(Mutation::ForgottenReadCeiling) {
            0
        } else {
            meta.ceiling
        };
        let floor_ts = meta.last_ts.max(promised);
        let no_margin = config.planted.is(Mutation::LeaseWithoutMargin);
        let lease_ticks = config.election_ticks + if no_margin { 2 } else { 0 };
        Ok(Self {
            term,
            tip: Tip::new(store.clone(), limits),
            clock: HybridClock::above(floor_ts),
            sessions: Sessions::load(&**store, config.sessions_max)?,
            batch: Batch::default(),
            in_flight: VecDeque::new(),
            queue: VecDeque::new(),
            reads: Reads::new(
                Lease::new(tick_us, lease_ticks),
                2 * tick_us * config.heartbeat_ticks as u64,
            ),
            snapshots: Vec::new(),
            fresh: VecDeque::new(),
            locks,
            leases,
            waits: Waits::default(),
            doubt,
            // Every change above it will be this executor's.
            changes: Changes::new(meta.last_ts, config.changes_bytes_max),
            close_first: false,
            committed_index: meta.applied_index,
            ceiling_committed: meta.ceiling,
            ceiling_proposed: meta.ceiling,
            committed_ts: meta.last_ts,
            seen: 0,
            floor_told: 0,
            requests: 0,
            runs: 0,
        })
    }

    pub fn term(&self) -> u64 {
        self.term
    }

    pub fn requests(&self) -> usize {
        self.requests
    }

    /// See `Locks::rolls_back`.
    pub fn rolls_back(&self) -> bool {
        self.locks.rolls_back()
    }

    /// The version of the topology that may change the members.
    pub fn fence(&mut self) -> Result<u64> {
        fence::read(&mut self.tip.begin())
    }

    pub fn tip_stats(&self) -> TipStats {
        self.tip.stats()
    }

    pub fn committed_ts(&self) -> u64 {
        self.committed_ts
    }

    pub fn sessions(&self) -> &Sessions {
        &self.sessions
    }

    pub fn reads(&mut self) -> &mut Reads {
        &mut self.reads
    }

    pub fn in_flight(&self) -> usize {
        self.in_flight.len()
    }

    /// The open batch has reached its bound: it must be closed before anything else is executed.
    pub fn is_full(&self, config: &ReplicaConfig) -> bool {
        self.close_first || self.tip.batch_bytes() + self.batch.bytes >= config.batch_bytes_max
    }

    /// True if the open batch needs an entry.
    pub fn has_batch(&self) -> bool {
        self.is_dirty() || self.batch.wanted
    }

    fn is_dirty(&self) -> bool {
        !self.tip.batch_is_empty() || !self.batch.sessions.is_empty()
    }

    /// Accepts a request: executes it, or queues it behind a full batch, or refuses it.
    pub fn request(
        &mut self,
        config: &ReplicaConfig,
        now: Now,
        request: Request,
        log_full: bool,
        out: &mut Vec<Output>,
    ) {
        let refused = if self.requests >= config.queue_max && !request.task.ends_waits() {
            Some(Error::busy(format!(
                "{} requests are waiting at this partition (queue_max)",
                self.requests
            )))
        } else if log_full && !request.task.read_only() {
            Some(log_full_error(config.log_bytes_max))
        } else {
            None
        };
        if let Some(error) = refused {
            out.push(refusal(request.id, error));
            return;
        }
        let forgotten = config.planted.is(Mutation::SeenForgotten);
        let seen = if forgotten { 0 } else { request.seen };
        if let Err(error) = self.follow(seen, now) {
            out.push(refusal(request.id, error));
            return;
        }
        self.requests += 1;
        if !self.queue.is_empty() || self.is_full(config) {
            self.queue.push_back(request);
        } else {
            self.execute(config, now, request, out);
            self.wake(config, now);
            // Those who waited for what this one released or wrote.
            self.run_queue(config, now, out);
        }
    }

    /// Causality: what is committed here from now on is above what the asker has seen elsewhere.
    fn follow(&mut self, seen: u64, now: Now) -> Result<()> {
        self.clock.observe(seen, now.wall_us)?;
        // Early, so that few reads wait for it.
        if seen > self.seen && seen + CEILING_AHEAD_US / 2 > self.ceiling_proposed {
            self.batch.wanted = true;
        }
        self.seen = self.seen.max(seen);
        Ok(())
    }

    /// Executes queued requests until the batch is full. True if it ran any.
    pub fn run_queue(&mut self, config: &ReplicaConfig, now: Now, out: &mut Vec<Output>) -> bool {
        let mut ran = false;
        while !self.is_full(config) {
            let Some(request) = self.queue.pop_front() else {
                break;
            };
            self.execute(config, now, request, out);
            self.wake(config, now);
            ran = true;
        }
        ran
    }

    fn execute(
        &mut self,
        config: &ReplicaConfig,
        now: Now,
        request: Request,
        out: &mut Vec<Output>,
    ) {
        let id = request.id;
        if request.has_nobody() {
            let error = Error::new("57014", "canceled on user request");
            return self.hold(id, Err(error), Rests::Tip);
        }
        let txn = match &request.task {
            Task::Run(txn) => Arc::clone(txn),
            Task::Txn(work) => {
                let work = Arc::clone(work);
                return self.work(config, now, request, &work, out);
            }
        };
        let session = request.session.filter(|_| !txn.read_only());
        if let Some((session, number)) = session {
            match self.sessions.look_up(session, number) {
                Seen::New => {}
                Seen::Done(outcome) => {
                    return self.repeat(id, outcome.result(), out);
                }
                Seen::Refused(error) => return self.hold(id, Err(error), Rests::Tip),
            }
        }
        let (result, wrote) = match self.run(config, now, &*txn, request.waited.us) {
            Ok(ran) => ran,
            // Undone: it is run again from the start, others go on.
            Err(Stopped::Blocked(Blocked::By(txn))) => return self.park(txn, request, None),
            Err(Stopped::Blocked(Blocked::Batch)) => return self.batch_first(request),
            Err(Stopped::Waits { spans, until_us }) => {
                let now_us = now.mono_us;
                return self.waits.park_for_change(request, spans, now_us, until_us);
            }
        };
        let mut rests = if wrote { Rests::Effect } else { Rests::Tip };
        if let Some((session, number)) = session
            && let Some(outcome) = Outcome::of(&result)
        {
            if config.planted.is(Mutation::ForgottenSessionWrite) {
                self.sessions.record(session, number, outcome);
            } else {
                self.record_outcome(session, number, outcome);
            }
            rests = Rests::Effect;
        }
        self.hold(id, result, rests);
    }

    /// I11: the outcome travels in the entry of the effect.
    fn record_outcome(&mut self, session: u128, number: u64, outcome: Outcome) {
        self.batch.add_outcome(session, number, &outcome);
        if let Some(evicted) = self.sessions.record(session, number, outcome) {
            self.batch.add_eviction(evicted);
        }
    }

    /// I4: a reply waits for the newest entry that it may rest on; only what rests on committed state goes to the reads.
    fn hold(&mut self, id: u64, result: Result<Bytes>, rests: Rests) {
        // I13: that later commits are above what the asker has seen must outlive this leader.
        if self.is_dirty() || self.seen > self.ceiling_proposed {
            self.batch.held.push(Held {
                id,
                result,
                rests,
                stamped: None,
            });
        } else if let Some(newest) = self.in_flight.back_mut() {
            let rests = match rests {
                Rests::Effect => Rests::Effect,
                Rests::Tip | Rests::TipLate => Rests::TipLate,
            };
            newest.held.push(Held {
                id,
                result,
                rests,
                stamped: None,
            });
        } else {
            self.reads.push(Answer::Reply { id, result });
        }
    }

    /// An outcome that was recorded: told at once if its entry is committed, else held with the tip.
    fn repeat(&mut self, id: u64, result: Result<Bytes>, out: &mut Vec<Output>) {
        if self.is_dirty() || !self.in_flight.is_empty() {
            self.hold(id, result, Rests::Effect);
        } else {
            self.requests -= 1;
            let ts = self.committed_ts;
            out.push(Output::Reply { id, result, ts });
        }
    }

    /// Closes the open batch, to be proposed as entry `index`. The caller has made sure that it can be.
    pub fn seal(&mut self, now: Now, index: u64, floor: u64) -> Vec<u8> {
        let ts = self.clock.next(now.wall_us);
        let wall_us = u64::try_from(now.wall_us).unwrap_or(0);
        // I13: an entry raises the ceiling over its own timestamp, which is above every promise that waits for it.
        let ceiling = (wall_us + CEILING_AHEAD_US).max(ts);
        self.ceiling_proposed = self.ceiling_proposed.max(ceiling);
        self.floor_told = floor;
        let mut ops = self.tip.close_batch(index);
        let sections = self.tip.take_sections(&mut ops);
        self.changes.closed(ts, &ops, &sections);
        self.doubt.sealed(index, ts);
        self.close_first = false;
        let mut batch = std::mem::take(&mut self.batch);
        batch.stamp(ts);
        let stamp = Stamp { ts, ceiling, floor };
        let data = batch.encode(&stamp, ops, sections);
        self.in_flight.push_back(InFlight {
            index,
            ts,
            ceiling,
            proposed_us: now.mono_us,
            held: batch.held,
        });
        data
    }

    /// What the newest batch holds leaves now (`Mutation::ReplyBeforeCommit`).
    pub fn reply_early(&mut self, out: &mut Vec<Output>) {
        let Some(batch) = self.in_flight.back_mut() else {
            return;
        };
        let ts = batch.ts;
        for Held { id, result, .. } in std::mem::take(&mut batch.held) {
            self.requests -= 1;
            out.push(Output::Reply { id, result, ts });
        }
    }

    /// Everything of this term up to `commit` is committed: replies leave in order.
    pub fn committed(&mut self, commit: u64, out: &mut Vec<Output>) {
        self.committed_index = self.committed_index.max(commit);
        while self.in_flight.front().is_some_and(|f| f.index <= commit) {
            let Some(entry) = self.in_flight.pop_front() else {
                break;
            };
            self.reads.lease().renew(entry.proposed_us);
            self.ceiling_committed = self.ceiling_committed.max(entry.ceiling);
            self.committed_ts = self.committed_ts.max(entry.ts);
            for Held {
                id, result, rests, ..
            } in entry.held
            {
                if rests == Rests::TipLate {
                    self.reads.push(Answer::Reply { id, result });
                } else {
                    self.requests -= 1;
                    let ts = entry.ts;
                    out.push(Output::Reply { id, result, ts });
                }
            }
        }
    }

    /// The state store has applied everything up to `index`.
    pub fn applied(&mut self, index: u64) {
        self.tip.applied(index);
        self.doubt.applied(index);
    }

    /// Work that can wait for a tick.
    pub fn tidy(&mut self) {
        self.tip.free(FREE_ROWS_PER_TICK);
    }

    /// Answers reads that a valid lease covers.
    pub fn answer_reads(&mut self, now: Now, out: &mut Vec<Output>) {
        self.release_fresh();
        self.requests -= self.reads.release(now.mono_us, self.committed_ts, out);
    }

    /// A read-index round came back.
    pub fn read_confirmed(&mut self, round: u64, out: &mut Vec<Output>) {
        self.requests -= self.reads.confirmed(round, self.committed_ts, out);
    }

    /// Asks for an entry that tells the floor, if that has moved since the last one.
    pub fn tell_floor(&mut self, floor: u64) {
        if floor > self.floor_told && self.in_flight.is_empty() {
            self.batch.wanted = true;
        }
    }

    /// For `Mutation::OverlayKept`.
    #[cfg(test)]
    pub fn take_tip(&mut self) -> Tip<S> {
        let empty = Tip::new(self.tip.store.clone(), self.tip.limits.clone());
        std::mem::replace(&mut self.tip, empty)
    }

    #[cfg(test)]
    pub fn put_tip(&mut self, tip: Tip<S>) {
        self.tip = tip;
    }

    /// I6: leadership is lost. What was proposed may or may not come true; what was not never will.
    pub fn close(mut self, not_leader: &Error, out: &mut Vec<Output>) {
        let unknown = Error::unknown("leadership was lost before the commit was confirmed").hint(
            "the effect may or may not be there; a retry under the same session and number tells",
        );
        let mut reply = |id, error: &Error| {
            out.push(refusal(id, error.clone()));
        };
        for held in self.in_flight.into_iter().flat_map(|entry| entry.held) {
            let effect = held.rests == Rests::Effect;
            reply(held.id, if effect { &unknown } else { not_leader });
        }
        for held in self.batch.held {
            reply(held.id, not_leader);
        }
        for request in self.queue.into_iter().chain(self.waits.all()) {
            reply(request.id, not_leader);
        }
        out.extend(self.fresh.into_iter().map(|(id, _)| Output::SnapshotTs {
            id,
            result: Err(not_leader.clone()),
        }));
        self.reads.refuse(not_leader, out);
        out.extend(
            self.snapshots
                .into_iter()
                .map(|wait| Output::SnapshotReady {
                    id: wait.id,
                    result: Err(not_leader.clone()),
                }),
        );
    }
}

/// An answer that rests on nothing.
fn refusal(id: u64, error: Error) -> Output {
    Output::Reply {
        id,
        result: Err(error),
        ts: 0,
    }
}

/// I10: the log goes only behind state that is durable here; members do not hold it for ever.
fn log_full_error(bound: u64) -> Error {
    Error::with_class(
        Class::Retry,
        "53100",
        format!("busy: the log holds {bound} bytes (log_bytes_max) that are not flushed to the state yet"),
    )
    .hint("wait for the leader's disk; lower flush_log_bytes, or raise log_bytes_max")
}
