//! Parts larger than an entry: going back to an earlier time.
//!
//! What the locked range must become is staged first, as rows of the records' table, which nobody reads: what has been
//! overwritten or deleted since is put back, what is new is deleted. When it is decided, entries of bounded size move staged
//! writes to their keys, all at the commit timestamp. What holds (I12): from the prepare to the last of these entries nobody
//! reads or writes the range, and no snapshot at or above the prepare's timestamp is promised, so nothing half done is seen;
//! both stages are in the log, so another leader goes on where this one ended.

use std::collections::BTreeMap;

use bytes::{Buf, Bytes};

use super::Executor;
use super::work::Step;
use crate::error::{Error, Result};
use crate::partition::records::{
    heard_key, prepared_key, staged_key, staged_range, staged_row, staged_write,
};
use crate::partition::replica::{Now, ReplicaConfig};
use crate::partition::{Scan, Store};
use crate::planted::Mutation;
use crate::storage::StateStore;
use crate::txn::messages::{
    Answer, COUNT_PREFIX, Count, LockMode, Nothing, Settle, Span, Stage, Staged, TxnId,
};

/// Rows looked at, and bytes written, in one step: the core is held for milliseconds. One row may be larger.
const STEP_ROWS: usize = 1024;
const STEP_BYTES: usize = 1 << 20;
/// Rows read together.
const READ_ROWS: usize = 32;

/// What one step has found to write.
#[derive(Default)]
struct Found {
    writes: Vec<(Bytes, Option<Bytes>)>,
    looked_at: usize,
    bytes: usize,
    /// None: there is no more.
    next: Option<Bytes>,
}

impl Found {
    fn is_full(&self) -> bool {
        self.looked_at >= STEP_ROWS || self.bytes >= STEP_BYTES
    }

    fn write(&mut self, key: Bytes, value: Option<Bytes>) {
        self.bytes += key.len() + value.as_ref().map_or(0, Bytes::len);
        self.writes.push((key, value));
    }

    fn counts(&self) -> Vec<Count> {
        let mut counts: BTreeMap<&[u8], u64> = BTreeMap::new();
        for (key, _) in &self.writes {
            *counts
                .entry(&key[..key.len().min(COUNT_PREFIX)])
                .or_default() += 1;
        }
        let count = |(prefix, rows): (&[u8], u64)| Count {
            prefix: Bytes::copy_from_slice(prefix),
            rows,
        };
        counts.into_iter().map(count).collect()
    }
}

impl<S: StateStore> Executor<S> {
    /// The gateway of a staged part goes on: the next leader is to know that, too.
    pub(super) fn keep(&mut self, txn: TxnId, now: Now) -> Result<()> {
        if self.doubt.keep(txn, now) {
            let heard = (heard_key(txn), Some(Bytes::new()));
            self.put_all(std::iter::once(heard))?;
        }
        Ok(())
    }

    pub(super) fn stage(
        &mut self,
        config: &ReplicaConfig,
        now: Now,
        stage: &Stage,
    ) -> Result<Step> {
        let txn = stage.txn;
        self.keep(txn, now)?;
        let prepared = self.doubt.prepared(txn);
        let Some(prepared) = prepared.filter(|p| p.record.staged && p.settled_to.is_none()) else {
            return Err(
                Error::retry("40001", "going back in time was given up at this partition")
                    .hint("run it again"),
            );
        };
        // The store knows everything before the prepare; behind that nothing of the range changes.
        let applied = self.tip.store.meta().last_ts;
        let Some(prepared_ts) = prepared.ts.filter(|ts| *ts <= applied) else {
            return Ok(Step::Settled(Answer::Staged(Staged {
                next: Some(stage.after.clone()),
                counts: Vec::new(),
            })));
        };
        let exclusive = |mode: i32| LockMode::try_from(mode).is_ok_and(LockMode::is_exclusive);
        let kept = prepared.record.locks.iter();
        let mut ranges = kept.filter(|lock| !lock.span.is_key() && exclusive(lock.mode));
        let Some(range) = ranges.next().map(|lock| lock.span.clone()) else {
            return Err(Error::internal("a staged part without a locked range"));
        };
        let found = match stage.inserted {
            false => self.overwritten_since(stage, prepared_ts, &range)?,
            true => self.new_since(stage, prepared_ts, &range)?,
        };
        let answer = Answer::Staged(Staged {
            next: found.next.clone(),
            counts: found.counts(),
        });
        let early = config.planted.is(Mutation::RollbackBeforeDecided);
        let rows = found.writes.iter().map(|(key, value)| match early {
            true => (key.clone(), value.clone()),
            false => (staged_key(txn, key), Some(staged_row(value.as_ref()))),
        });
        match self.put_all(rows)? {
            Some(step) => Ok(step),
            None => Ok(Step::Settled(answer)),
        }
    }

    /// What was current then and is not any more, with its value.
    fn overwritten_since(&self, stage: &Stage, prepared_ts: u64, range: &Span) -> Result<Found> {
        let mut found = Found::default();
        let mut place = match stage.after.is_empty() {
            true => None,
            false => Some(place_of(&stage.after)?),
        };
        loop {
            let mut ended = Vec::new();
            let after = place.as_ref().map(|(end, key)| (*end, &key[..]));
            let store = &self.tip.store;
            store.ended_after(stage.to_ts, after, READ_ROWS, &mut ended)?;
            let over = ended.len() < READ_ROWS;
            for version in ended {
                // What ended later is this transaction's own doing, if it is being settled already.
                let wanted = version.row.ts <= stage.to_ts && version.end <= prepared_ts;
                place = Some((version.end, version.key.clone()));
                if wanted && range.contains(&version.key) {
                    found.write(version.key, Some(version.row.value));
                }
                found.looked_at += 1;
                if found.is_full() {
                    found.next =
                        place.map(|(end, key)| [&end.to_be_bytes()[..], &key].concat().into());
                    return Ok(found);
                }
            }
            if over {
                return Ok(found);
            }
        }
    }

    /// What is current and was written since, but for keys that had a version then: those are staged already.
    fn new_since(&mut self, stage: &Stage, prepared_ts: u64, range: &Span) -> Result<Found> {
        let mut found = Found::default();
        let mut from = match stage.after.is_empty() {
            true => range.from.clone(),
            false => stage.after.clone(),
        };
        loop {
            let mut rows = Vec::new();
            let store = &self.tip.store;
            store.scan(&from, &range.to, false, READ_ROWS, &mut rows)?;
            let over = rows.len() < READ_ROWS;
            for (key, row) in rows {
                from = [&key[..], &[0]].concat().into();
                let is_new = row.ts > stage.to_ts && row.ts <= prepared_ts;
                let staged = staged_key(stage.txn, &key);
                if is_new && self.tip.begin().get(&staged, None)?.is_none() {
                    found.write(key, None);
                }
                found.looked_at += 1;
                if found.is_full() {
                    found.next = Some(from);
                    return Ok(found);
                }
            }
            if over {
                return Ok(found);
            }
        }
    }

    /// Writes, or drops, the next of the staged writes; with the last of them the record goes.
    pub(super) fn settle_staged(&mut self, now: Now, settle: &Settle) -> Result<Step> {
        let txn = settle.txn;
        self.keep(txn, now)?;
        let Some(prepared) = self.doubt.prepared(txn) else {
            return Ok(Step::Settled(Answer::Done(Nothing {})));
        };
        if let Some(ts) = settle.commit_ts {
            if prepared.ts.is_none_or(|prepared| prepared >= ts) {
                return Err(Error::internal("a commit at or before its own prepare"));
            }
            // Whatever commits here later, the entries of the settlement too, is above the commit timestamp.
            self.clock.observe(ts, now.wall_us)?;
        }
        let mut place = prepared.settled_to.clone();
        let (mut rows, mut keys) = (Vec::new(), Vec::new());
        let (mut bytes, mut last) = (0, false);
        while !last && rows.len() < STEP_ROWS && bytes < STEP_BYTES {
            let (from, to) = staged_range(txn, place.as_ref());
            let scan = Scan {
                from: &from,
                to: &to,
                reverse: false,
                limit: READ_ROWS,
                slot: None,
            };
            let mut staged = Vec::new();
            self.tip.begin().scan(scan, &mut staged)?;
            last = staged.len() < READ_ROWS;
            for (at, row) in staged {
                bytes += at.len() + row.len();
                if settle.commit_ts.is_some() {
                    let (key, value) = staged_write(&at, &row)?;
                    keys.push(key.clone());
                    rows.push((key, value));
                }
                rows.push((at.clone(), None));
                place = Some(at);
                if rows.len() >= STEP_ROWS || bytes >= STEP_BYTES {
                    // The next step finds out whether there are more.
                    last = false;
                    break;
                }
            }
        }
        if last {
            rows.push((prepared_key(txn), None));
            if self.tip.begin().get(&heard_key(txn), None)?.is_some() {
                rows.push((heard_key(txn), None));
            }
        }
        if let Some(step) = self.put_all(rows.into_iter())? {
            return Ok(step);
        }
        if let Some(ts) = settle.commit_ts {
            self.tip.stamp(keys.into_iter(), ts);
        }
        if last {
            self.doubt.settle(txn);
            self.release(txn);
            return Ok(Step::Settled(Answer::Done(Nothing {})));
        }
        if let Some(place) = place {
            self.doubt.settle_up_to(txn, place);
        }
        Ok(Step::Settled(Answer::More(Nothing {})))
    }
}

/// End and key of a version, as `Staged::next` tells them.
fn place_of(after: &Bytes) -> Result<(u64, Bytes)> {
    let mut rest = after.clone();
    if rest.len() < 8 {
        return Err(Error::new("22023", "no place in the history"));
    }
    Ok((rest.get_u64(), rest))
}
