//! Work of transactions that run elsewhere: locks, reads under a lock, and who waits for them.

use bytes::Bytes;

use super::{Executor, refusal};
use crate::error::{Error, Result};
use crate::partition::batch::{Held, Rests};
use crate::partition::changes::{Changed, Open};
use crate::partition::locks::Conflict;
use crate::partition::reads::Answer as ReadAnswer;
use crate::partition::replica::{Now, Output, ReplicaConfig, Request};
use crate::partition::tip_view::{Blocked, lock_not_available, span_read};
use crate::partition::waits::Want;
use crate::partition::{Scan, Store};
use crate::storage::StateStore;
use crate::txn::messages::{
    Answer, Kept, Lock, LockMode, Locked, LockedRow, Nothing, Read, Rows, Span, TxnId, WaitPolicy,
    Work,
};

/// Rows and bytes of one answer: the core is not held longer, and a frame between nodes is not filled.
const PAGE_ROWS_MAX: usize = 4096;
const PAGE_BYTES_MAX: usize = 1 << 20;

/// What a piece of work came to.
pub(super) enum Step {
    /// Rests on the tip as it is.
    Answer(Answer),
    /// Is, or may be, in the log: certain when that is committed.
    Settled(Answer),
    /// As `Settled`, and tells the timestamp of the entry.
    Stamped(fn(u64) -> Answer),
    Wait(TxnId, Option<Want>),
    /// Run again when the open batch is closed.
    BatchFirst,
}

impl<S: StateStore> Executor<S> {
    pub(super) fn work(
        &mut self,
        config: &ReplicaConfig,
        now: Now,
        request: Request,
        work: &Work,
        out: &mut Vec<Output>,
    ) {
        let id = request.id;
        let step = match work {
            Work::Lock(lock) => self.lock(config, now, lock),
            Work::Read(read) => self.read(config, now, read),
            Work::Prepare(prepare) => self.prepare(config, now, prepare),
            Work::Commit(commit) => {
                // A lock that was given up is not for a transaction that is over.
                self.end_waits(commit.part.txn, out);
                self.commit(config, now, commit)
            }
            Work::Settle(settle) => {
                self.end_waits(settle.txn, out);
                self.settle(now, settle)
            }
            Work::Resolve(resolve) => self.resolve(now, resolve),
            Work::Forget(forget) => {
                for txn in std::iter::once(&forget.txn).chain(&forget.more) {
                    self.doubt.forget(*txn);
                }
                Ok(Step::Settled(Answer::Done(Nothing {})))
            }
            Work::Release(release) => {
                self.end_waits(release.txn, out);
                self.release(release.txn);
                return self.tell(id, Answer::Done(Nothing {}), out);
            }
            Work::KeepAlive(alive) => {
                let kept = alive.txns.iter().try_for_each(|txn| self.keep(*txn, now));
                let lost = |txn: &&TxnId| {
                    let waits = self.waits.keep_alive(**txn, now.mono_us);
                    !self.locks.keep_alive(**txn, now.mono_us) && !waits
                };
                let lost = alive.txns.iter().filter(lost).copied().collect();
                // I4: locks in memory say something only while nobody else leads.
                kept.map(|()| Step::Answer(Answer::Kept(Kept { lost })))
            }
            Work::LookUp(ask) => self.look_up(ask),
            Work::Stage(stage) => self.stage(config, now, stage),
        };
        match step {
            Ok(Step::Answer(answer)) => self.hold(id, Ok(answer.into_bytes()), Rests::Tip),
            Ok(Step::Settled(answer)) => self.hold(id, Ok(answer.into_bytes()), Rests::Effect),
            Ok(Step::Stamped(answer)) => self.hold_stamped(id, answer),
            Ok(Step::Wait(on, mut want)) => {
                if let Some(want) = &mut want {
                    want.heard_us = now.mono_us;
                }
                self.park(on, request, want);
            }
            Ok(Step::BatchFirst) => self.batch_first(request),
            Err(error) => self.hold(id, Err(error), Rests::Tip),
        }
    }

    /// Answers what rests on nothing but this leader's memory.
    fn tell(&mut self, id: u64, answer: Answer, out: &mut Vec<Output>) {
        self.requests -= 1;
        out.push(Output::Reply {
            id,
            result: Ok(answer.into_bytes()),
            ts: self.committed_ts,
        });
    }

    fn hold_stamped(&mut self, id: u64, answer: fn(u64) -> Answer) {
        let (rests, result) = (Rests::Effect, |ts| Ok(answer(ts).into_bytes()));
        if self.is_dirty() || self.seen > self.ceiling_proposed {
            self.batch.held.push(Held {
                id,
                result: Ok(Bytes::new()),
                rests,
                stamped: Some(answer),
            });
        } else if let Some(newest) = self.in_flight.back_mut() {
            let result = result(newest.ts);
            newest.held.push(Held {
                id,
                result,
                rests,
                stamped: None,
            });
        } else {
            let result = result(self.committed_ts);
            self.reads.push(ReadAnswer::Reply { id, result });
        }
    }

    /// Runs the request again once the open batch is closed, before anything else.
    pub(super) fn batch_first(&mut self, request: Request) {
        self.close_first = true;
        self.queue.push_front(request);
    }

    /// The request waits for whoever holds a lock in its way.
    pub(super) fn park(&mut self, on: TxnId, request: Request, want: Option<Want>) {
        self.waits.park(on, request, want);
        // Its holder is told as one who waited for a change is.
        self.tip.written.extend(self.leases.want(on));
    }

    /// Ends locks of `txn`; those who waited for them run again, before what came later.
    pub(super) fn release(&mut self, txn: TxnId) {
        // I12: what is prepared is settled first, whatever a message that comes late says.
        if self.doubt.prepared(txn).is_some() {
            return;
        }
        self.locks.release(txn);
        for request in self.waits.freed(txn).into_iter().rev() {
            self.queue.push_front(request);
        }
    }

    /// The transaction does not want any more what it waits for.
    fn end_waits(&mut self, txn: TxnId, out: &mut Vec<Output>) {
        for request in self.waits.of(txn) {
            self.requests -= 1;
            out.push(refusal(request.id, cancelled()));
        }
    }

    fn lock(&mut self, config: &ReplicaConfig, now: Now, lock: &Lock) -> Result<Step> {
        let (txn, mode, wait) = (lock.txn, lock.mode(), lock.wait());
        self.check_unprepared(txn)?;
        self.check_room(config, txn, lock.keys.len() + lock.ranges.len())?;
        let mut spans = Vec::with_capacity(lock.keys.len());
        let mut skipped = vec![false; lock.keys.len()];
        for (key, skipped) in lock.keys.iter().zip(&mut skipped) {
            // Copied: the message's bytes belong to a larger buffer.
            let span = Span::key(Bytes::copy_from_slice(key));
            *skipped = wait == WaitPolicy::SkipLocked
                && !self.locks.conflicts(Some(txn), &span, mode).is_empty();
            if !*skipped {
                spans.push(span);
            }
        }
        spans.extend(lock.ranges.iter().map(|range| Span {
            from: Bytes::copy_from_slice(&range.from),
            to: Bytes::copy_from_slice(&range.to),
        }));
        if let Some(step) = self.contend(txn, &spans, Some(mode), wait)? {
            return Ok(step);
        }
        if let Some(since) = lock.since {
            for span in &spans {
                self.check_unchanged(span, since)?;
            }
        }
        let mut rows = Vec::with_capacity(lock.keys.len());
        let mut view = self.tip.begin();
        for (key, skipped) in lock.keys.iter().zip(skipped) {
            let value = if skipped { None } else { view.get(key, None)? };
            rows.push(LockedRow { value, skipped });
        }
        drop(view);
        for span in spans {
            self.locks.acquire(txn, span, mode, now.mono_us);
        }
        let term = self.term;
        Ok(Step::Answer(Answer::Locked(Locked { term, rows })))
    }

    fn read(&mut self, config: &ReplicaConfig, now: Now, read: &Read) -> Result<Step> {
        let (txn, wait) = (read.txn, read.wait());
        if wait == WaitPolicy::SkipLocked {
            return Err(Error::unsupported("SKIP LOCKED for a range"));
        }
        let mode = read.mode.map(|_| read.mode());
        if mode.is_some() {
            self.check_unprepared(txn)?;
            self.check_room(config, txn, 1)?;
        }
        let limit = (read.limit as usize).min(PAGE_ROWS_MAX);
        let scan = Scan {
            from: &read.from,
            to: &read.to,
            reverse: read.reverse,
            limit,
            slot: None,
        };
        let mut found = Vec::new();
        self.tip.begin().scan(scan, &mut found)?;
        let mut bytes = 0;
        let mut fits = |(key, value): &(Bytes, Bytes)| {
            bytes += key.len() + value.len();
            bytes <= PAGE_BYTES_MAX
        };
        let kept = found.iter().take_while(|row| fits(row)).count().max(1);
        let cut = kept < found.len();
        found.truncate(kept);
        let more = cut || (found.len() == limit && limit < read.limit as usize);
        let limit = if cut { kept } else { limit };
        // What follows the last row was not read, so it is not locked.
        let span = span_read(&Scan { limit, ..scan }, &found);
        if let Some(step) = self.contend(txn, std::slice::from_ref(&span), mode, wait)? {
            return Ok(step);
        }
        if let Some(mode) = mode
            && read.from < read.to
        {
            self.locks.acquire(txn, span, mode, now.mono_us);
        }
        let (keys, values) = found.into_iter().unzip();
        Ok(Step::Answer(Answer::Rows(Rows {
            term: self.term,
            keys,
            values,
            more,
        })))
    }

    /// Wait-die: an older transaction waits for a younger one, a younger one ends, unless it holds nothing. None: nothing is in
    /// the way. A prepared transaction waits for nobody, so anybody may wait for it.
    fn contend(
        &self,
        txn: TxnId,
        spans: &[Span],
        mode: Option<LockMode>,
        wait: WaitPolicy,
    ) -> Result<Option<Step>> {
        let of_span = |span| match mode {
            Some(mode) => self.locks.conflicts(Some(txn), span, mode),
            None => self.locks.undecided(Some(txn), span),
        };
        let conflicts: Vec<Conflict> = spans.iter().flat_map(of_span).collect();
        // Asked again after a lost answer, it may hold what others wait for, and would wait for itself.
        let patient = wait == WaitPolicy::Patient && !self.locks.owns(txn);
        let older = |conflict: &Conflict| !conflict.prepared && conflict.txn < txn;
        let on = match conflicts.first() {
            // Else a stream of newcomers could keep an older one waiting for ever.
            None => match mode.and_then(|mode| self.waits.older_wants(txn, spans, mode)) {
                // Behind it: he whom it waits for ends, or is given up, whatever becomes of it.
                Some(holder) if patient => holder,
                Some(_) => return Err(deadlock()),
                None => return Ok(None),
            },
            Some(_) if wait == WaitPolicy::NoWait => return Err(lock_not_available()),
            Some(_) if !patient && conflicts.iter().any(older) => return Err(deadlock()),
            Some(first) => first.txn,
        };
        let want = mode.map(|mode| Want {
            txn,
            spans: spans.to_vec(),
            mode,
            heard_us: 0,
        });
        Ok(Some(Step::Wait(on, want)))
    }

    /// 40001 if `span` changed after `since`, by what is not committed yet too.
    pub(super) fn check_unchanged(&mut self, span: &Span, since: u64) -> Result<()> {
        let open = Open {
            records: &self.tip.records,
            ranges: &self.tip.ranges,
            stamped: &self.tip.stamped,
        };
        match self.changes.after(span, since, &open) {
            Changed::No => Ok(()),
            Changed::Yes => Err(Error::retry(
                "40001",
                "could not serialize access due to concurrent update",
            )
            .hint("run the transaction again")),
            Changed::TooOld => Err(Error::retry(
                "40001",
                "could not serialize access: the transaction began too long ago, or under another leader",
            )
            .hint("run the transaction again; changes_bytes_max bounds how long changes are kept")),
        }
    }

    /// A prepared transaction has ended its work.
    fn check_unprepared(&self, txn: TxnId) -> Result<()> {
        let over = self.doubt.prepared(txn).is_some() || self.doubt.verdict(txn).is_some();
        if over {
            return Err(Error::new(
                "25000",
                "the transaction is prepared or decided already",
            ));
        }
        Ok(())
    }

    pub(super) fn check_room(&self, config: &ReplicaConfig, txn: TxnId, more: usize) -> Result<()> {
        if self.locks.count_of(txn) + more > config.locks_max {
            return Err(Error::new(
                "54000",
                format!(
                    "a transaction that locks more than {} rows of a partition",
                    config.locks_max
                ),
            )
            .hint("change fewer rows in one transaction, or raise locks_max"));
        }
        if self.locks.len() - self.leases.len() + more > config.locks_max {
            return Err(
                Error::retry("53200", "busy: too many locks at this partition")
                    .hint("lock fewer rows in one transaction, or raise locks_max"),
            );
        }
        Ok(())
    }

    /// Writes rows and records of work that was checked already, all or none.
    pub(super) fn put_all(
        &mut self,
        rows: impl Iterator<Item = (Bytes, Option<Bytes>)>,
    ) -> Result<Option<Step>> {
        let mut view = self.tip.begin().unbounded();
        for (key, value) in rows {
            let written = match value {
                Some(value) => view.put(key, value),
                None => view.delete(&key),
            };
            if let Err(error) = written {
                return match view.blocked() {
                    Some(Blocked::Batch) => Ok(Some(Step::BatchFirst)),
                    _ => Err(error),
                };
            }
        }
        view.commit();
        Ok(None)
    }
}

/// 57014: whoever waited was told to stop.
pub(super) fn cancelled() -> Error {
    Error::new("57014", "canceled while waiting")
}

fn deadlock() -> Error {
    Error::retry(
        "40P01",
        "deadlock avoided: an older transaction holds or wants the row",
    )
    .hint("run the transaction again; it keeps its age if the client library retries it")
}
