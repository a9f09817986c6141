//! Fetches what a transaction needs: locks and newest rows from the leaders, rows of a snapshot from where it was promised.

use futures::future::try_join_all;
use tokio::time::Instant;

use super::super::Gateway;
use super::super::cluster_store::{Source, rest};
use super::super::leader::{gone, is_routing};
use super::holds::{Holds, lost};
use super::known::{Got, How, Need, Range, View};
use super::store::Row;
use crate::error::{Error, Result};
use crate::node::peers::OnLoss;
use crate::txn::messages::{Answer, Lock, LockedRow, Read, WaitPolicy, Work};
use crate::wire::peer::{Page, SnapshotScan, answer, call};

pub(in super::super) fn lock_timeout() -> Error {
    Error::new("55P03", "canceling statement due to lock timeout")
}

impl Gateway {
    /// All of `needs`, side by side. The first error is kept in `holds`.
    pub(super) async fn fetch(
        &self,
        holds: &mut Holds,
        view: &View,
        needs: &[Need],
        deadline: Instant,
    ) -> Result<Vec<Got>> {
        // Who holds nothing is in nobody's way, and waits for anybody.
        let alone = needs.len() == 1 && !holds.has_any();
        let shared = &*holds;
        let all = needs
            .iter()
            .map(|need| self.fetch_one(shared, view, need, alone, deadline));
        let result = try_join_all(all).await;
        if let Err(error) = &result {
            holds.failure.get_or_insert_with(|| error.clone());
        }
        result
    }

    async fn fetch_one(
        &self,
        holds: &Holds,
        view: &View,
        need: &Need,
        alone: bool,
        deadline: Instant,
    ) -> Result<Got> {
        match need {
            Need::Lock {
                group,
                keys,
                lock,
                checked,
            } => {
                let since = match view {
                    View::Snapshot { ts, .. } if *checked => Some(*ts),
                    _ => None,
                };
                let work = Work::Lock(Lock {
                    txn: holds.id,
                    keys: keys.clone(),
                    mode: lock.mode.into(),
                    wait: patient(lock.wait, alone).into(),
                    since,
                    ranges: Vec::new(),
                });
                match self.locking(holds, *group, work, deadline).await? {
                    Answer::Locked(locked) if locked.rows.len() == keys.len() => {
                        // Where everything was left out there is no lock to lose.
                        if locked.rows.iter().any(|row| !row.skipped) {
                            holds.given(*group, locked.term)?;
                        }
                        let one = |row: LockedRow| (!row.skipped).then_some(row.value);
                        Ok(Got::Locked(locked.rows.into_iter().map(one).collect()))
                    }
                    _ => Err(other(*group)),
                }
            }
            Need::Range { range, limit } => {
                let rows = match range.how {
                    How::Snapshot => self.snapshot_range(view, range, *limit).await?,
                    How::Newest(lock) => {
                        self.newest_range(holds, range, *limit, lock, alone, deadline)
                            .await?
                    }
                };
                Ok(Got::Rows(rows))
            }
            Need::Point { group, key } => {
                let scan = SnapshotScan {
                    from: key.clone(),
                    point: true,
                    ..ask(view, *group)?
                };
                let page = self.snapshot_page(view, scan).await?;
                Ok(Got::Point(page.values.into_iter().next()))
            }
        }
    }

    /// Asks the leader until it answers. A refusal by wait-die is final: who holds locks must let go of them.
    async fn locking(
        &self,
        holds: &Holds,
        group: u32,
        work: Work,
        deadline: Instant,
    ) -> Result<Answer> {
        let had = holds.groups().contains_key(&group);
        let until = holds.lock_wait.map(|wait| Instant::now() + wait);
        loop {
            holds.ask(group);
            let asked = self.transact(group, work.clone());
            let answer = match until {
                None => asked.await,
                // The leader hears of it with the end of the transaction.
                Some(until) => tokio::time::timeout_at(until, asked)
                    .await
                    .unwrap_or_else(|_| Err(lock_timeout())),
            };
            let error = match answer {
                Err(error) => error,
                answer => return answer,
            };
            if Instant::now() >= deadline {
                return Err(error);
            }
            if !is_routing(&error) {
                return Err(error);
            }
            if had {
                return Err(lost());
            }
            self.pause(group, &error).await;
        }
    }

    async fn newest_range(
        &self,
        holds: &Holds,
        range: &Range,
        limit: usize,
        lock: Option<(crate::txn::messages::LockMode, bool)>,
        alone: bool,
        deadline: Instant,
    ) -> Result<Vec<Row>> {
        let wait = match lock {
            Some((_, true)) => WaitPolicy::NoWait,
            _ => WaitPolicy::Wait,
        };
        let (mut from, mut to) = (range.from.clone(), range.to.clone());
        let mut rows: Vec<Row> = Vec::new();
        loop {
            let left = limit - rows.len();
            let work = Work::Read(Read {
                txn: holds.id,
                from: from.clone(),
                to: to.clone(),
                reverse: range.reverse,
                limit: u32::try_from(left).unwrap_or(u32::MAX),
                mode: lock.map(|(mode, _)| mode.into()),
                // Its own first page is locked when it asks for the next.
                wait: patient(wait, alone && !holds.has_any()).into(),
            });
            let answer = self.locking(holds, range.group, work, deadline).await?;
            let Answer::Rows(page) = answer else {
                return Err(other(range.group));
            };
            if page.keys.len() != page.values.len() || page.keys.len() > left {
                return Err(other(range.group));
            }
            if lock.is_some() {
                holds.given(range.group, page.term)?;
            }
            rows.extend(page.keys.into_iter().zip(page.values));
            match rows.last().filter(|_| page.more && rows.len() < limit) {
                Some((last, _)) => (from, to) = rest(&from, &to, last, range.reverse),
                None => return Ok(rows),
            }
        }
    }

    async fn snapshot_range(&self, view: &View, range: &Range, limit: usize) -> Result<Vec<Row>> {
        let (mut from, mut to) = (range.from.clone(), range.to.clone());
        let mut rows: Vec<Row> = Vec::new();
        loop {
            let left = limit - rows.len();
            let scan = SnapshotScan {
                from: from.clone(),
                to: to.clone(),
                reverse: range.reverse,
                limit: u32::try_from(left).unwrap_or(u32::MAX),
                ..ask(view, range.group)?
            };
            let page = self.snapshot_page(view, scan).await?;
            if page.keys.len() != page.values.len() || page.keys.len() > left {
                return Err(other(range.group));
            }
            rows.extend(page.keys.into_iter().zip(page.values));
            match rows.last().filter(|_| page.more && rows.len() < limit) {
                Some((last, _)) => (from, to) = rest(&from, &to, last, range.reverse),
                None => return Ok(rows),
            }
        }
    }

    async fn snapshot_page(&self, view: &View, scan: SnapshotScan) -> Result<Page> {
        let group = scan.group;
        let node = match view {
            View::Snapshot { sources, .. } => match sources.get(&group) {
                Some(Source::Node(node)) => *node,
                _ => return Err(other(group)),
            },
            View::Newest(_) => return Err(other(group)),
        };
        let page = self
            .peers
            .call(node, call::Body::SnapshotScan(scan), OnLoss::Retry);
        match page.await.unwrap_or_else(|_| Err(gone()))? {
            answer::Body::Page(page) => Ok(page),
            _ => Err(other(group)),
        }
    }
}

/// `alone`: the transaction holds no lock.
fn patient(wait: WaitPolicy, alone: bool) -> WaitPolicy {
    match wait {
        WaitPolicy::Wait if alone => WaitPolicy::Patient,
        other => other,
    }
}

fn ask(view: &View, group: u32) -> Result<SnapshotScan> {
    match view {
        View::Snapshot { ts, .. } => Ok(SnapshotScan {
            group,
            ts: *ts,
            ..SnapshotScan::default()
        }),
        View::Newest(_) => Err(other(group)),
    }
}

pub(super) fn other(group: u32) -> Error {
    Error::internal(format!("partition {} answered something else", group - 1))
}
