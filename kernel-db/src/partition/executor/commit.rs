//! Two-phase commit (I12): prepare, commit, settle, resolve; and what time does to them.

use bytes::Bytes;
use prost::Message as _;

use super::Executor;
use super::refusal;
use super::work::{Step, cancelled};
use crate::error::{Error, Result};
use crate::partition::Store;
use crate::partition::in_doubt::{self, Reminder, Verdict};
use crate::partition::locks::Conflict;
use crate::partition::records::{
    DecisionRecord, KeptLock, PreparedRecord, decision_key, prepared_key,
};
use crate::partition::replica::{Now, Output, ReplicaConfig};
use crate::partition::sessions::{self, Seen};
use crate::partition::waits::Want;
use crate::planted::Mutation;
use crate::storage::StateStore;
use crate::txn::messages::{
    Answer, Commit, DEADLINE_AHEAD_US_MAX, Decision, LockMode, LookUp, Nothing, Outcome, Part,
    Prepare, Resolve, STAGED_AHEAD_US_MAX, Settle, Span, Stamp, TxnId, Write,
};

const PREPARED: fn(u64) -> Answer = |ts| Answer::Prepared(Stamp { ts });
const COMMITTED: fn(u64) -> Answer = |ts| Answer::Committed(Stamp { ts });
const DECIDED: fn(u64) -> Answer = |ts| {
    let commit_ts = Some(ts);
    Answer::Decided(Decision { commit_ts })
};

impl<S: StateStore> Executor<S> {
    pub(super) fn prepare(
        &mut self,
        config: &ReplicaConfig,
        now: Now,
        prepare: &Prepare,
    ) -> Result<Step> {
        let part = &prepare.part;
        if let Some(prepared) = self.doubt.prepared(part.txn) {
            return Ok(at(prepared.ts, PREPARED));
        }
        self.check_deadline(now, part)?;
        if let Some(lease) = self.check_part(config, part, true)? {
            return Ok(waits_for(lease, part));
        }
        let mut locks: Vec<KeptLock> = Vec::new();
        for (span, mode) in self.locks.held(part.txn) {
            let mode = mode as i32;
            locks.push(KeptLock { span, mode });
        }
        let guards = part.guards.iter().map(|guard| Span::key(copy(&guard.key)));
        let reads = part.reads.iter().map(|span| Span {
            from: copy(&span.from),
            to: copy(&span.to),
        });
        for span in reads.chain(guards) {
            let mode = LockMode::Share as i32;
            locks.push(KeptLock { span, mode });
        }
        if config.planted.is(Mutation::PrepareWithoutReadLocks) {
            locks.retain(|lock| lock.mode >= LockMode::NoKeyUpdate as i32);
            self.release(part.txn);
        }
        let record = PreparedRecord {
            coordinator: prepare.coordinator,
            deadline_ts: part.deadline_ts,
            writes: part.writes.iter().map(own).collect(),
            locks,
            staged: part.staged,
        };
        let row = (prepared_key(part.txn), Some(record.encode_to_vec().into()));
        if let Some(step) = self.put_all(std::iter::once(row))? {
            return Ok(step);
        }
        in_doubt::lock(&mut self.locks, part.txn, &record, now.mono_us);
        if config.planted.is(Mutation::EarlyLockRelease) {
            self.release(part.txn);
        }
        self.doubt.prepare(part.txn, record, now);
        Ok(Step::Stamped(PREPARED))
    }

    pub(super) fn commit(
        &mut self,
        config: &ReplicaConfig,
        now: Now,
        commit: &Commit,
    ) -> Result<Step> {
        let (part, txn) = (&commit.part, commit.part.txn);
        match self.doubt.verdict(txn) {
            Some(Verdict::Commit(ts)) => return Ok(at(ts, COMMITTED)),
            Some(Verdict::Abort) => return Err(decided_against()),
            None => {}
        }
        let session = session_of(&commit.session, commit.number)?;
        if let Some((session, number)) = session {
            // I11: the request was executed before, by another attempt.
            match self.sessions.look_up(session, number) {
                Seen::New => {}
                Seen::Done(recorded) => {
                    self.release(txn);
                    let recorded = Some(recorded.record());
                    return Ok(Step::Settled(Answer::Repeated(Outcome { recorded })));
                }
                Seen::Refused(error) => return Err(error),
            }
        }
        let outcome = session
            .map(|_| session_outcome(&commit.outcome))
            .transpose()?;
        if !commit.others.is_empty() {
            self.check_deadline(now, part)?;
            // The commit timestamp is above every prepare's.
            self.clock.observe(commit.prepared_ts, now.wall_us)?;
        }
        if let Some(lease) = self.check_part(config, part, false)? {
            return Ok(waits_for(lease, part));
        }
        let decision = (!commit.others.is_empty()).then(|| {
            let record = DecisionRecord {
                commit: true,
                others: commit.others.clone(),
                deadline_ts: part.deadline_ts,
            };
            (decision_key(txn), Some(record.encode_to_vec().into()))
        });
        let rows = part.writes.iter().map(own).map(|w| (w.key, w.value));
        if let Some(step) = self.put_all(rows.chain(decision))? {
            return Ok(step);
        }
        if let (Some((session, number)), Some(outcome)) = (session, outcome) {
            self.record_outcome(session, number, outcome);
        }
        if !commit.others.is_empty() {
            let (others, deadline) = (commit.others.clone(), part.deadline_ts);
            self.doubt.decide(txn, true, others, deadline, now.mono_us);
        }
        self.release(txn);
        Ok(Step::Stamped(COMMITTED))
    }

    pub(super) fn settle(&mut self, now: Now, settle: &Settle) -> Result<Step> {
        let txn = settle.txn;
        let done = Ok(Step::Settled(Answer::Done(Nothing {})));
        let Some(prepared) = self.doubt.prepared(txn) else {
            self.release(txn);
            return done;
        };
        if prepared.record.staged {
            return self.settle_staged(now, settle);
        }
        let mut rows = Vec::new();
        if let Some(ts) = settle.commit_ts {
            if prepared.ts.is_none_or(|prepared| prepared >= ts) {
                return Err(Error::internal("a commit at or before its own prepare"));
            }
            // Whatever commits here later, the entry of the settlement too, is above the commit timestamp.
            self.clock.observe(ts, now.wall_us)?;
            let writes = prepared.record.writes.iter();
            rows.extend(writes.map(|write| (write.key.clone(), write.value.clone())));
        }
        let keys: Vec<Bytes> = rows.iter().map(|(key, _)| key.clone()).collect();
        rows.push((prepared_key(txn), None));
        if let Some(step) = self.put_all(rows.into_iter())? {
            return Ok(step);
        }
        if let Some(ts) = settle.commit_ts {
            self.tip.stamp(keys.into_iter(), ts);
        }
        self.doubt.settle(txn);
        self.release(txn);
        done
    }

    pub(super) fn resolve(&mut self, now: Now, resolve: &Resolve) -> Result<Step> {
        let txn = resolve.txn;
        let abort = Step::Settled(Answer::Decided(Decision { commit_ts: None }));
        match self.doubt.verdict(txn) {
            Some(Verdict::Commit(ts)) => return Ok(at(ts, DECIDED)),
            Some(Verdict::Abort) => return Ok(abort),
            None => {}
        }
        // Past the deadline in the log's own time no leader commits it any more.
        if self.committed_ts <= resolve.deadline_ts {
            // I12: logged before anyone hears of it.
            let record = DecisionRecord {
                commit: false,
                others: Vec::new(),
                deadline_ts: resolve.deadline_ts,
            };
            let row = (decision_key(txn), Some(record.encode_to_vec().into()));
            if let Some(step) = self.put_all(std::iter::once(row))? {
                return Ok(step);
            }
            let (none, deadline) = (Vec::new(), resolve.deadline_ts);
            self.doubt.decide(txn, false, none, deadline, now.mono_us);
        }
        self.release(txn);
        Ok(abort)
    }

    pub(super) fn look_up(&mut self, ask: &LookUp) -> Result<Step> {
        let Some((session, number)) = session_of(&ask.session, ask.number)? else {
            return Err(Error::new("22023", "a look-up names a session"));
        };
        match self.sessions.look_up(session, number) {
            Seen::New => Ok(Step::Answer(Answer::Known(Outcome { recorded: None }))),
            Seen::Done(recorded) => {
                let recorded = Some(recorded.record());
                Ok(Step::Settled(Answer::Known(Outcome { recorded })))
            }
            Seen::Refused(error) => Err(error),
        }
    }

    /// Commits nothing after the deadline; what the log's time has passed stays so under any leader.
    fn check_deadline(&self, now: Now, part: &Part) -> Result<()> {
        let deadline_ts = part.deadline_ts;
        let ahead_max = match part.staged {
            true => STAGED_AHEAD_US_MAX,
            false => DEADLINE_AHEAD_US_MAX,
        };
        let wall = u64::try_from(now.wall_us).unwrap_or(0);
        let now = wall.max(self.clock.last());
        if now > deadline_ts {
            return Err(
                Error::retry("40001", "the transaction's commit came too late")
                    .hint("run the transaction again"),
            );
        }
        if deadline_ts > now + ahead_max {
            return Err(Error::new(
                "22023",
                "the transaction's deadline is too far ahead",
            ));
        }
        Ok(())
    }

    /// Everything that can keep a part from committing. It waits for no transaction (I12); Some: for this read lease, which
    /// waits for nobody.
    fn check_part(
        &mut self,
        config: &ReplicaConfig,
        part: &Part,
        prepare: bool,
    ) -> Result<Option<TxnId>> {
        let txn = part.txn;
        if part
            .term
            .is_some_and(|term| term != self.term || !self.locks.owns(txn))
        {
            return Err(Error::retry(
                "40001",
                "the transaction's locks are gone: the leader changed, or their owner was silent for too long",
            )
            .hint("run the transaction again"));
        }
        let size = |w: &Write| w.key.len() + w.value.as_ref().map_or(0, Bytes::len);
        if part.writes.iter().map(size).sum::<usize>() > config.write_set_bytes_max {
            let max = config.write_set_bytes_max;
            return Err(crate::partition::tip_view::write_set_too_large(max));
        }
        let new = |write: &&Write| !self.locks.holds_key(txn, &write.key);
        let new = part.writes.iter().filter(new).count();
        self.check_room(config, txn, part.reads.len() + new)?;
        for guard in &part.guards {
            if self.tip.begin().get(&guard.key, None)? != guard.value {
                return Err(Error::retry(
                    "DB001",
                    "schema changed since the transaction began",
                ));
            }
        }
        let mut lease = None;
        for write in &part.writes {
            let span = Span::key(write.key.clone());
            let met = self.locks.conflicts(Some(txn), &span, LockMode::Update);
            let leased = |conflict: &&Conflict| self.leases.is_lease(conflict.txn);
            refuse(met.iter().any(|conflict| !leased(&conflict)))?;
            lease = lease.or(met.first().map(|conflict| conflict.txn));
        }
        // A commit of one step keeps nobody from anything afterwards, so only what is not decided is in its way.
        let mode = prepare.then_some(LockMode::Share);
        for guard in &part.guards {
            self.refuse_read(txn, &Span::key(guard.key.clone()), mode)?;
        }
        for span in &part.reads {
            let Some(since) = part.since else {
                return Err(Error::new(
                    "22023",
                    "reads without the timestamp they were made at",
                ));
            };
            self.refuse_read(txn, span, mode)?;
            self.check_unchanged(span, since)?;
        }
        Ok(lease)
    }

    /// What was read may be locked by somebody who has not prepared: the first to commit wins, and that one is refused when
    /// it comes to write.
    fn refuse_read(&self, txn: TxnId, span: &Span, mode: Option<LockMode>) -> Result<()> {
        let met = match mode {
            Some(mode) => self.locks.conflicts(Some(txn), span, mode),
            None => self.locks.undecided(Some(txn), span),
        };
        refuse(met.iter().any(|conflict| conflict.prepared))
    }

    /// What time brings: locks of the silent go, the doubtful is asked for, decisions nobody needs are dropped.
    pub fn tick(&mut self, config: &ReplicaConfig, now: Now, out: &mut Vec<Output>) -> Result<()> {
        let lease_us = config.lock_lease_ms * 1000;
        let before_us = now.mono_us.saturating_sub(lease_us);
        // Before the locks go, which these would get.
        for request in self.waits.silent(before_us) {
            self.requests -= 1;
            out.push(refusal(request.id, owner_silent()));
        }
        for txn in self.locks.silent(before_us) {
            self.release(txn);
        }
        for request in self.waits.cancelled() {
            self.requests -= 1;
            out.push(refusal(request.id, cancelled()));
        }
        self.end_parks(now, out);
        self.end_leases(now)?;
        for reminder in self.doubt.remind(now.mono_us, self.committed_ts) {
            out.push(match reminder {
                Reminder::Resolve {
                    txn,
                    coordinator,
                    deadline_ts,
                } => Output::Resolve {
                    txn,
                    coordinator,
                    deadline_ts,
                },
                Reminder::Finish {
                    txn,
                    commit_ts,
                    others,
                } => Output::Finish {
                    txn,
                    commit_ts,
                    others,
                },
            });
        }
        let gone = self.doubt.drop_decisions(self.committed_ts);
        let rows = gone.into_iter().map(|txn| (decision_key(txn), None));
        self.put_all(rows).map(drop)
    }
}

/// Until it is given back or has ended; given up when the transaction is settled before.
fn waits_for(lease: TxnId, part: &Part) -> Step {
    let want = Want {
        txn: part.txn,
        spans: Vec::new(),
        mode: LockMode::Update,
        heard_us: 0,
    };
    Step::Wait(lease, Some(want))
}

fn refuse(conflict: bool) -> Result<()> {
    if !conflict {
        return Ok(());
    }
    Err(Error::retry(
        "40001",
        "could not serialize access: another transaction has locked a row",
    )
    .hint("run the transaction again"))
}

/// With the timestamp if it is known, else with the open batch's.
fn at(ts: Option<u64>, answer: fn(u64) -> Answer) -> Step {
    match ts {
        Some(ts) => Step::Settled(answer(ts)),
        None => Step::Stamped(answer),
    }
}

/// A write whose bytes do not keep a larger buffer alive.
fn own(write: &Write) -> Write {
    Write {
        key: copy(&write.key),
        value: write.value.as_ref().map(copy),
    }
}

fn copy(bytes: &Bytes) -> Bytes {
    Bytes::copy_from_slice(bytes)
}

fn session_of(session: &Bytes, number: u64) -> Result<Option<(u128, u64)>> {
    if session.is_empty() {
        return Ok(None);
    }
    let bytes: [u8; 16] = session[..]
        .try_into()
        .map_err(|_| Error::internal("a session's name has 16 bytes"))?;
    Ok(Some((u128::from_be_bytes(bytes), number)))
}

fn session_outcome(recorded: &Bytes) -> Result<sessions::Outcome> {
    sessions::Outcome::from_record(&copy(recorded))
}

fn owner_silent() -> Error {
    Error::retry(
        "40001",
        "the transaction was silent for too long while it waited for a lock",
    )
    .hint("run the transaction again")
}

fn decided_against() -> Error {
    Error::retry(
        "40001",
        "the transaction was aborted: a participant asked before it was committed",
    )
    .hint("run the transaction again")
}
