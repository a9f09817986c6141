//! Commits: one partition in one step, several by two-phase commit (I12).
//!
//! All parts but the coordinator's are prepared side by side; the coordinator's own part is written with the decision. The
//! client is answered right after that; the others are told in the background. If this gateway dies meanwhile, the partitions
//! settle what is prepared among themselves.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::{join_all, try_join_all};
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::time::Instant;

use super::super::Gateway;
use super::super::leader::is_routing;
use super::super::settle::may_ask_again;
use super::drive::Work;
use super::fetch::other;
use super::holds::{Holds, lost, now_us};
use super::known::View;
use crate::error::{Class, Error, Result};
use crate::sql::transaction::schema_version_key;
use crate::txn::messages::{
    self, Answer, Commit, Forget, Guard, KeepAlive, LookUp, Part, Prepare, Resolve, Settle, TxnId,
    Work as Message, Write,
};

/// From the start of the commit to the time after which the coordinator refuses it.
const DECIDE_WITHIN: Duration = Duration::from_secs(10);
/// How long the gateway drives what is decided; then the partitions do.
const SETTLE_WITHIN: Duration = Duration::from_secs(20);

/// Between two messages that say which transactions all have settled, and how many one names at most.
const FORGET_PAUSE: Duration = Duration::from_millis(10);
const FORGET_MAX: usize = 4096;

/// A coordinator and a transaction that all others have settled.
pub(in super::super) type Settled = (u32, TxnId);

/// What the partitions are to record with the commit.
pub(super) struct Recorded {
    /// (session, number) and the partition they belong to (I11).
    pub session: Option<(u128, u64)>,
    pub home: u32,
    pub outcome: Bytes,
}

impl Recorded {
    fn put_into(self, commit: &mut Commit) {
        if let Some((session, number)) = self.session {
            commit.session = Bytes::copy_from_slice(&session.to_be_bytes());
            commit.number = number;
            commit.outcome = self.outcome;
        }
    }
}

/// How a commit ended.
pub(super) enum Ended {
    /// At this timestamp; nothing was written at 0.
    Committed(u64),
    /// The request was executed before: what was recorded then.
    Repeated(Bytes),
}

impl Gateway {
    /// Commits what `work` has written. On an error nothing happened, unless its class is Unknown.
    pub(super) async fn commit(
        &self,
        holds: &Holds,
        work: &Work,
        version: u64,
        record: Option<Recorded>,
    ) -> Result<Ended> {
        if let Some(error) = &holds.failure {
            return Err(error.clone());
        }
        let wrote = !work.buffer.rows().is_empty();
        if !wrote {
            self.still_locked(holds, work).await?;
        }
        let record = record.filter(|r| r.session.is_some());
        if !wrote && record.is_none() {
            return Ok(Ended::Committed(0));
        }
        let mut parts = self.parts(holds, work, version, wrote);
        let coordinator = match &record {
            Some(record) => record.home,
            None => self.coordinator(&parts),
        };
        let txn = holds.id;
        let deadline_ts = now_us() + DECIDE_WITHIN.as_micros() as u64;
        for part in parts.values_mut() {
            part.deadline_ts = deadline_ts;
        }
        let own = parts.remove(&coordinator).unwrap_or_else(|| Part {
            txn,
            deadline_ts,
            ..Part::default()
        });
        let others: Vec<u32> = parts.keys().copied().collect();
        if wrote {
            // From here on two-phase commit ends the locks.
            holds.forget();
        }
        let prepared = try_join_all(parts.into_iter().map(|(group, part)| {
            let work = Message::Prepare(Prepare { part, coordinator });
            self.prepare(group, work)
        }));
        let prepared_ts = match prepared.await {
            Ok(stamps) => stamps.into_iter().max().unwrap_or(0),
            Err(error) => {
                self.abort(txn, coordinator, others);
                // No commit was asked for: whatever is prepared will be aborted.
                return Err(match error.class() {
                    Class::Unknown => lost(),
                    _ => conflict(error),
                });
            }
        };
        let mut commit = Commit {
            part: own,
            others: others.clone(),
            prepared_ts,
            ..Commit::default()
        };
        if let Some(record) = record {
            record.put_into(&mut commit);
        }
        let ended = self
            .decide(txn, coordinator, others.clone(), commit)
            .await?;
        if let Ended::Committed(ts) = ended {
            self.tell_all(txn, coordinator, others, Some(ts));
        }
        Ok(ended)
    }

    /// The others are still to be told of a commit.
    pub(super) async fn decide(
        &self,
        txn: TxnId,
        coordinator: u32,
        others: Vec<u32>,
        commit: Commit,
    ) -> Result<Ended> {
        let deadline_ts = commit.part.deadline_ts;
        let answer = self.transact(coordinator, Message::Commit(commit)).await;
        match answer {
            Ok(Answer::Committed(stamp)) => Ok(Ended::Committed(stamp.ts)),
            Ok(Answer::Repeated(outcome)) => {
                self.abort(txn, coordinator, others);
                Ok(Ended::Repeated(outcome.recorded.unwrap_or_default()))
            }
            Ok(_) => Err(other(coordinator)),
            Err(error) if error.class() == Class::Unknown && !others.is_empty() => {
                match self.resolve(txn, coordinator, deadline_ts).await {
                    Ok(Some(ts)) => Ok(Ended::Committed(ts)),
                    Ok(None) => {
                        self.tell_all(txn, coordinator, others, None);
                        Err(lost())
                    }
                    // The partitions will find out.
                    Err(_) => Err(error),
                }
            }
            Err(error) => {
                if error.class() != Class::Unknown {
                    self.abort(txn, coordinator, others);
                }
                Err(conflict(error))
            }
        }
    }

    /// What was only read was right at one moment if every lock was still there after the last of them was given.
    async fn still_locked(&self, holds: &Holds, work: &Work) -> Result<()> {
        if !matches!(work.known.view, View::Newest(_)) {
            return Ok(());
        }
        let asked = holds.groups().into_keys().map(|group| {
            let txns = vec![holds.id];
            self.transact(group, Message::KeepAlive(KeepAlive { txns }))
        });
        for answer in try_join_all(asked).await.map_err(|_| lost())? {
            match answer {
                Answer::Kept(kept) if kept.lost.is_empty() => {}
                _ => return Err(lost()),
            }
        }
        Ok(())
    }

    /// What the transaction comes to in each partition.
    fn parts(&self, holds: &Holds, work: &Work, version: u64, wrote: bool) -> BTreeMap<u32, Part> {
        let locked = holds.groups();
        let mut parts: BTreeMap<u32, Part> = BTreeMap::new();
        let new = || Part {
            txn: holds.id,
            guards: vec![schema_guard(version)],
            ..Part::default()
        };
        if wrote {
            for (group, term) in locked {
                parts.entry(group).or_insert_with(new).term = Some(term);
            }
        }
        for (key, written) in work.buffer.rows() {
            let part = parts.entry(written.group).or_insert_with(new);
            part.writes.push(Write {
                key: key.clone(),
                value: written.value.clone(),
            });
        }
        if let View::Snapshot {
            ts,
            validated: true,
            ..
        } = &work.known.view
            && wrote
        {
            for (group, spans) in work.known.spans() {
                let part = parts.entry(*group).or_insert_with(new);
                part.since = Some(*ts);
                part.reads = spans.iter().cloned().collect();
            }
        }
        parts
    }

    /// The partition with the most to write, and of equals one that is led from here: its part costs no round of its own.
    fn coordinator(&self, parts: &BTreeMap<u32, Part>) -> u32 {
        let weight = |(group, part): &(&u32, &Part)| {
            let here = self.core.role(**group).is_some_and(|r| r.open);
            (here, part.writes.len())
        };
        parts
            .iter()
            .max_by_key(weight)
            .map_or(1, |(group, _)| *group)
    }

    pub(super) async fn prepare(&self, group: u32, work: Message) -> Result<u64> {
        match self.transact(group, work).await? {
            Answer::Prepared(stamp) => Ok(stamp.ts),
            _ => Err(other(group)),
        }
    }

    /// The decision, when it is not known whether the commit arrived. Asking decides.
    async fn resolve(&self, txn: TxnId, coordinator: u32, deadline_ts: u64) -> Result<Option<u64>> {
        let end = Instant::now() + SETTLE_WITHIN;
        loop {
            let ask = Message::Resolve(Resolve { txn, deadline_ts });
            match self.transact(coordinator, ask).await {
                Ok(Answer::Decided(decision)) => return Ok(decision.commit_ts),
                Ok(_) => return Err(other(coordinator)),
                Err(error) if Instant::now() < end => self.pause(coordinator, &error).await,
                Err(error) => return Err(error),
            }
        }
    }

    /// Gives up a transaction of which some parts may be prepared.
    pub(super) fn abort(&self, txn: TxnId, coordinator: u32, others: Vec<u32>) {
        let mut all: BTreeSet<u32> = others.into_iter().collect();
        all.insert(coordinator);
        self.tell_all(txn, coordinator, all.into_iter().collect(), None);
    }

    /// Tells the decision, in the background.
    fn tell_all(&self, txn: TxnId, coordinator: u32, groups: Vec<u32>, commit_ts: Option<u64>) {
        if groups.is_empty() {
            return;
        }
        let gateway = self.own();
        tokio::task::spawn_local(async move {
            let end = Instant::now() + SETTLE_WITHIN;
            let told = join_all(groups.into_iter().map(|group| {
                let work = Message::Settle(Settle { txn, commit_ts });
                gateway.tell(group, work, end)
            }));
            let all = told.await.into_iter().all(|told| told);
            if all && commit_ts.is_some() {
                // Without a gateway the node is stopping, and the coordinator finds out by itself.
                let _ = gateway.settled.send((coordinator, txn));
            }
        });
    }

    /// Tells coordinators which transactions all have settled: those of a moment in one message.
    pub(in super::super) async fn serve_settled(
        self: Rc<Self>,
        mut settled: UnboundedReceiver<Settled>,
    ) {
        let mut all = Vec::new();
        while settled.recv_many(&mut all, FORGET_MAX).await > 0 {
            let mut by_coordinator: BTreeMap<u32, Vec<TxnId>> = BTreeMap::new();
            for (coordinator, txn) in all.drain(..) {
                by_coordinator.entry(coordinator).or_default().push(txn);
            }
            for (coordinator, mut more) in by_coordinator {
                let Some(txn) = more.pop() else { continue };
                let gateway = Rc::clone(&self);
                tokio::task::spawn_local(async move {
                    let forget = Message::Forget(Forget { txn, more });
                    gateway
                        .tell(coordinator, forget, Instant::now() + SETTLE_WITHIN)
                        .await;
                });
            }
            // Nobody waits for it: a coordinator reminds the others after a second at the earliest.
            tokio::time::sleep(FORGET_PAUSE).await;
        }
    }

    /// True if it arrived; otherwise the partitions find out by themselves.
    pub(super) async fn tell(self: &Rc<Self>, group: u32, work: Message, end: Instant) -> bool {
        loop {
            match self.transact(group, work.clone()).await {
                Ok(Answer::More(_)) => {}
                Ok(_) => return true,
                Err(error) if may_ask_again(&error, &work) && Instant::now() < end => {
                    self.pause(group, &error).await;
                }
                Err(error) => {
                    tracing::debug!(group, %error, "the end of a transaction was not delivered");
                    return false;
                }
            }
        }
    }

    /// What was recorded for a numbered request in its home (I11).
    pub(super) async fn look_up(
        &self,
        home: u32,
        (session, number): (u128, u64),
        deadline: Instant,
    ) -> Result<Option<Bytes>> {
        let work = Message::LookUp(LookUp {
            session: Bytes::copy_from_slice(&session.to_be_bytes()),
            number,
        });
        loop {
            match self.transact(home, work.clone()).await {
                Ok(Answer::Known(messages::Outcome { recorded })) => return Ok(recorded),
                Ok(_) => return Err(other(home)),
                Err(error) if is_routing(&error) && Instant::now() < deadline => {
                    self.pause(home, &error).await;
                }
                Err(error) => return Err(error),
            }
        }
    }
}

/// The partition must have the schema that the statements were planned for.
pub(super) fn schema_guard(version: u64) -> Guard {
    Guard {
        key: schema_version_key(),
        value: (version > 0).then(|| Bytes::copy_from_slice(&version.to_be_bytes())),
    }
}

/// A leader that has moved has lost the locks.
fn conflict(error: Error) -> Error {
    if is_routing(&error) { lost() } else { error }
}

/// An error that another attempt may not meet.
pub(super) fn may_pass(error: &Error) -> bool {
    error.class() == Class::Retry && matches!(error.sqlstate(), "40001" | "40P01")
}
