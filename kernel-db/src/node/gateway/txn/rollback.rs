//! The tables of the whole cluster as they were at an earlier time, by one transaction over all partitions.
//!
//! It locks every table everywhere, as the oldest transaction of all: what is prepared is settled first, nobody overtakes it.
//! Then it prepares, which makes the locks outlive leaders, and lets every partition stage what must change; rows never
//! travel. The system group decides. Until then nothing has happened, and whoever dies, partitions give it up by themselves;
//! from then on they finish it by themselves (I12). Readers and writers of tables wait from the prepare to the end.
//!
//! Not touched: the catalogue, sequences (a value is never given twice), sessions, members. What a DROP or TRUNCATE removed has
//! no history, so the schema must be today's.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::{join_all, try_join_all};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::super::Gateway;
use super::super::cluster_store::ClusterStore;
use super::super::leader::gone;
use super::commit::{Ended, schema_guard};
use super::holds::{Holds, lost, now_us};
use crate::error::{Class, Error, Result};
use crate::sql::catalog::FIRST_TABLE_ID;
use crate::sql::prepare::moment;
use crate::txn::messages::{
    Answer, COUNT_PREFIX, Commit, Count, Forget, Lock, LockMode, Part, Prepare, Settle, Span,
    Stage, TxnId, WaitPolicy, Work as Message,
};

/// The system group decides: it has no part in it.
const COORDINATOR: u32 = 0;
/// For the transactions under way to end.
const LOCK_WITHIN: Duration = Duration::from_secs(30);
/// From the prepare to the decision at most.
const DECIDE_WITHIN: Duration = Duration::from_secs(1_800);
/// For a partition without a leader to get one.
const LEADER_WITHIN: Duration = Duration::from_secs(20);
/// Between two questions whether a partition has applied its prepare.
const PAUSE: Duration = Duration::from_millis(5);

/// How far going back to an earlier time is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    pub stage: Stages,
    /// Where to: a commit stamp, hybrid logical microseconds.
    pub to: u64,
    /// Rows and index entries staged so far.
    pub staged: u64,
    /// The last moment before it happened: going back there undoes it.
    pub before: Option<u64>,
    pub tables: Vec<Restored>,
    pub failure: Option<Failure>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stages {
    /// For transactions under way to end.
    #[default]
    Waiting,
    Staging,
    Deciding,
    /// It is decided.
    Settling,
    Done,
    /// Nothing has happened, unless the failure says that the outcome is unknown.
    Failed,
}

/// Rows of one table.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Restored {
    pub table: String,
    /// Changed or deleted since: back to what they were.
    pub restored: u64,
    /// New since: gone.
    pub removed: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    pub sqlstate: String,
    pub message: String,
    pub hint: Option<String>,
    pub unknown: bool,
}

/// The rollback that this node runs, or ran last.
pub(in super::super) type Rollback = Rc<RefCell<Progress>>;

/// Rows of tables by what became of them, restored and removed.
type Counts = BTreeMap<u32, (u64, u64)>;

impl Gateway {
    /// Begins to go back to `time`, as AS OF SYSTEM TIME takes it. 55006 while this node is at it already.
    pub(in super::super) fn begin_rollback(&self, time: &str) -> Result<()> {
        let busy = |progress: &Progress| !matches!(progress.stage, Stages::Done | Stages::Failed);
        let mut running = self.rollback.borrow_mut();
        if running.as_ref().is_some_and(|p| busy(&p.borrow())) {
            return Err(
                Error::new("55006", "a rollback is running already").hint("wait for it to end")
            );
        }
        let to = moment(&crate::sql::Value::Text(time.into()), now_us() as i64)?;
        let progress = Rollback::default();
        progress.borrow_mut().to = to;
        *running = Some(Rc::clone(&progress));
        let gateway = self.own();
        tokio::task::spawn_local(async move {
            let result = gateway.roll_back(to, &progress).await;
            let mut progress = progress.borrow_mut();
            progress.stage = Stages::Done;
            if let Err(error) = result {
                tracing::warn!("rollback to {to}: {error}");
                progress.stage = Stages::Failed;
                progress.failure = Some(Failure {
                    sqlstate: error.sqlstate().to_owned(),
                    message: error.message().to_owned(),
                    hint: error.get_hint().map(str::to_owned),
                    unknown: error.class() == crate::error::Class::Unknown,
                });
            }
        });
        Ok(())
    }

    /// JSON of a `Progress`; 42704 if this node never began a rollback.
    pub(in super::super) fn rollback_progress(&self) -> Result<String> {
        let running = self.rollback.borrow();
        let Some(progress) = &*running else {
            return Err(Error::new("42704", "this node runs no rollback"));
        };
        serde_json::to_string(&*progress.borrow()).map_err(|e| Error::internal(e.to_string()))
    }

    async fn roll_back(self: &Rc<Self>, to: u64, progress: &Rollback) -> Result<()> {
        let groups: Vec<u32> = self.placement.partition_groups().collect();
        let deadline = Instant::now() + LEADER_WITHIN;
        self.refresh_catalog(deadline).await?;
        self.install(&groups, deadline).await?;
        let version = self.catalog().version;
        self.check_way_back(&groups, to, version, deadline).await?;
        let holds = self.registry.open(TxnId::OLDEST);
        self.lock_tables(&holds, &groups).await?;
        tracing::info!(txn = ?holds.id, to, "rollback: every table is locked");
        progress.borrow_mut().stage = Stages::Staging;
        let txn = holds.id;
        let deadline_ts = now_us() + DECIDE_WITHIN.as_micros() as u64;
        let prepared = async {
            let prepared_ts = self
                .prepare_all(&holds, &groups, version, deadline_ts)
                .await?;
            let counts = self.stage_all(txn, &groups, to, progress).await?;
            Ok::<_, Error>((prepared_ts, counts))
        };
        let (prepared_ts, counts) = match prepared.await {
            Ok(prepared) => prepared,
            Err(error) => {
                // No commit was asked for: whatever is prepared will be given up.
                self.abort(txn, COORDINATOR, groups);
                return Err(match error.class() {
                    Class::Unknown => lost(),
                    _ => error,
                });
            }
        };
        progress.borrow_mut().stage = Stages::Deciding;
        let commit = Commit {
            part: Part {
                txn,
                deadline_ts,
                staged: true,
                ..Part::default()
            },
            others: groups.clone(),
            prepared_ts,
            ..Commit::default()
        };
        let decided = self
            .decide(txn, COORDINATOR, groups.clone(), commit)
            .await?;
        let Ended::Committed(commit_ts) = decided else {
            return Err(Error::internal("a rollback has no number"));
        };
        holds.forget();
        {
            let mut progress = progress.borrow_mut();
            progress.stage = Stages::Settling;
            progress.before = Some(commit_ts - 1);
            progress.tables = self.named(&counts);
        }
        tracing::info!(?txn, to, commit_ts, "rollback: decided");
        self.settle_everywhere(txn, &groups, commit_ts).await;
        Ok(())
    }

    /// Before anybody waits: the time is in the window, and the schema was today's.
    async fn check_way_back(
        &self,
        groups: &[u32],
        to: u64,
        version: u64,
        deadline: Instant,
    ) -> Result<()> {
        self.check_past(to, now_us() as i64, deadline).await?;
        let sources = self.promised(groups, to, deadline).await?;
        let mut store = ClusterStore::new(
            to,
            self.placement.clone(),
            sources,
            self.fetches.clone(),
            Arc::default(),
            self.config.read_rows_max,
        );
        let groups = groups.to_vec();
        let check = move || {
            store.read_newest();
            store.check_schema(&groups, version)?;
            store.read_at(to);
            store.check_past_schema(&groups, version)
        };
        let checked = tokio::task::spawn_blocking(check).await;
        checked.unwrap_or_else(|_| Err(gone()))
    }

    async fn lock_tables(&self, holds: &Holds, groups: &[u32]) -> Result<()> {
        let locked = groups.iter().map(|&group| async move {
            holds.ask(group);
            let mut lock = Lock {
                txn: holds.id,
                ranges: vec![tables()],
                ..Lock::default()
            };
            lock.set_mode(LockMode::Update);
            lock.set_wait(WaitPolicy::Wait);
            let until = Instant::now() + LEADER_WITHIN;
            match self
                .transact_until(group, Message::Lock(lock), until)
                .await?
            {
                Answer::Locked(locked) => holds.given(group, locked.term),
                other => Err(unexpected(&other)),
            }
        });
        let locked = tokio::time::timeout(LOCK_WITHIN, try_join_all(locked)).await;
        locked.map_err(|_| {
            let message = format!("transactions under way did not end within {LOCK_WITHIN:?}");
            Error::retry("55P03", message)
                .hint("end open transaction blocks, then run the rollback again")
        })??;
        Ok(())
    }

    /// The locks outlive leaders from here on. The highest timestamp of the prepares.
    async fn prepare_all(
        &self,
        holds: &Holds,
        groups: &[u32],
        version: u64,
        deadline_ts: u64,
    ) -> Result<u64> {
        let terms = holds.groups();
        let prepared = groups.iter().map(|group| {
            let part = Part {
                txn: holds.id,
                term: terms.get(group).copied(),
                guards: vec![schema_guard(version)],
                deadline_ts,
                staged: true,
                ..Part::default()
            };
            let coordinator = COORDINATOR;
            self.prepare(*group, Message::Prepare(Prepare { part, coordinator }))
        });
        let stamps = try_join_all(prepared).await.map_err(|error| {
            match error.class() == crate::error::Class::Unknown {
                true => super::holds::lost(),
                false => error,
            }
        })?;
        Ok(stamps.into_iter().max().unwrap_or(0))
    }

    async fn stage_all(
        &self,
        txn: TxnId,
        groups: &[u32],
        to: u64,
        progress: &Rollback,
    ) -> Result<Counts> {
        let staged = groups.iter().map(|&group| async move {
            let mut counts = Counts::new();
            for inserted in [false, true] {
                self.stage_one(group, (txn, to, inserted), progress, &mut counts)
                    .await?;
            }
            Ok::<_, Error>(counts)
        });
        let mut all = Counts::new();
        for (table, (restored, removed)) in try_join_all(staged).await?.into_iter().flatten() {
            let sums = all.entry(table).or_default();
            *sums = (sums.0 + restored, sums.1 + removed);
        }
        Ok(all)
    }

    /// All steps of one kind in one partition.
    async fn stage_one(
        &self,
        group: u32,
        (txn, to_ts, inserted): (TxnId, u64, bool),
        progress: &Rollback,
        counts: &mut Counts,
    ) -> Result<()> {
        let mut after = Bytes::new();
        loop {
            let step = Message::Stage(Stage {
                txn,
                to_ts,
                inserted,
                after: after.clone(),
            });
            let until = Instant::now() + LEADER_WITHIN;
            let staged = match self.transact_until(group, step, until).await {
                Ok(Answer::Staged(staged)) => staged,
                Ok(other) => return Err(unexpected(&other)),
                // The log is full until more of it is flushed.
                Err(error) if error.sqlstate().starts_with("53") => {
                    tokio::time::sleep(PAUSE).await;
                    continue;
                }
                Err(error) => return Err(error),
            };
            progress.borrow_mut().staged += staged.counts.iter().map(|c| c.rows).sum::<u64>();
            for Count { prefix, rows } in &staged.counts {
                if let Some(table) = table_of_rows(prefix) {
                    let sums = counts.entry(table).or_default();
                    let sum = if inserted { &mut sums.1 } else { &mut sums.0 };
                    *sum += rows;
                }
            }
            match staged.next {
                None => return Ok(()),
                Some(next) if next == after => tokio::time::sleep(PAUSE).await,
                Some(next) => after = next,
            }
        }
    }

    /// It is decided: what this does not bring to an end, the partitions do.
    async fn settle_everywhere(self: &Rc<Self>, txn: TxnId, groups: &[u32], commit_ts: u64) {
        let end = Instant::now() + DECIDE_WITHIN;
        let told = groups.iter().map(|&group| {
            let commit_ts = Some(commit_ts);
            self.tell(group, Message::Settle(Settle { txn, commit_ts }), end)
        });
        if join_all(told).await.into_iter().all(|told| told) {
            let more = Vec::new();
            self.tell(COORDINATOR, Message::Forget(Forget { txn, more }), end)
                .await;
        }
    }

    fn named(&self, counts: &Counts) -> Vec<Restored> {
        let catalog = self.catalog();
        let name = |id: u32| match catalog.tables().find(|table| table.id == id) {
            Some(table) => table.name.clone(),
            None => format!("table {id}"),
        };
        let restored = |(id, (restored, removed)): (&u32, &(u64, u64))| Restored {
            table: name(*id),
            restored: *restored,
            removed: *removed,
        };
        counts.iter().map(restored).collect()
    }
}

/// All rows and index entries of tables, and nothing of the kernel's own.
fn tables() -> Span {
    let from = Bytes::copy_from_slice(&FIRST_TABLE_ID.to_be_bytes());
    Span::range(from, Bytes::from_static(&[0xff; 4]))
}

/// The table, if these are its rows and not those of an index.
fn table_of_rows(prefix: &[u8]) -> Option<u32> {
    let table = prefix.first_chunk().map(|id| u32::from_be_bytes(*id))?;
    (prefix.len() == COUNT_PREFIX && prefix[4..] == [0, 0]).then_some(table)
}

fn unexpected(answer: &Answer) -> Error {
    Error::internal(format!("a partition answered something else: {answer:?}"))
}
