//! Reads over several partitions at one timestamp.
//!
//! Each partition's leader is asked for its newest timestamp; the highest of them, T, is fresh in all. Then each leader
//! promises that everything up to T is applied there and that later commits are above it (its ceiling is in the log, I13),
//! and the row executor runs on a blocking thread over what was current at T. Nothing of it occupies a core but finding T.
//!
//! AS OF SYSTEM TIME names T itself: not in the future, within `history_window_s`, and with the schema of today. Stores refuse
//! a T below their watermark at every read (72000), so a long read is never wrong.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt;
use futures::future::{LocalBoxFuture, try_join_all};
use tokio::time::Instant;

use super::Gateway;
use super::cluster_store::{ClusterStore, Limits, Source};
use super::leader::gone;
use super::submit::{Txn, in_order};
use super::system::SystemRows;
use crate::error::{Error, Result};
use crate::partition::{Budget, Scan, Slot, Store};
use crate::sql::transaction::{SCHEMA_CHANGED, installed_version};
use crate::wire::peer::{SnapshotAt, SnapshotTs, answer, call};
use crate::wire::pg::Outcome;

/// The store of a statement that touches no table.
pub(super) struct EmptyStore;

impl Store for EmptyStore {
    fn get(&mut self, _key: &[u8], _slot: Option<Slot>) -> Result<Option<Bytes>> {
        Ok(None)
    }

    fn scan(&mut self, _scan: Scan<'_>, _out: &mut Vec<(Bytes, Bytes)>) -> Result<()> {
        Ok(())
    }
}

impl Gateway {
    pub(super) fn read(
        &self,
        groups: Vec<u32>,
        txn: &Txn,
    ) -> LocalBoxFuture<'static, Result<Vec<Outcome>>> {
        let gateway = self.own();
        let statements = txn.statements();
        let system = txn.plans.iter().any(|p| p.reads_system);
        let version = statements.first().map_or(0, |(p, _)| p.version);
        // Several attempts fit into the time in which a leader is looked for.
        let patience = Duration::from_millis(gateway.config.leader_wait_ms) / 4;
        let (deadline, cancel) = (
            txn.deadline.min(Instant::now() + patience),
            Arc::clone(&txn.cancel),
        );
        async move {
            let system = match system {
                true => gateway.gather().await,
                false => SystemRows::default(),
            };
            let mut env = gateway.env();
            let mut past = None;
            for (prepared, params) in &statements {
                past = prepared.read_time(params, env.wall_us)?;
            }
            let ts = match past {
                None => gateway.newest_of(&groups, deadline).await?,
                Some(ts) => {
                    gateway.check_past(ts, env.wall_us, deadline).await?;
                    ts
                }
            };
            let sources = gateway.promised(&groups, ts, deadline).await?;
            let limits = gateway.read_limits();
            // Beside the core the bound is the statement timeout, not the run limit.
            env.budget = Budget::until(Arc::clone(&cancel)).with_results(limits.bytes);
            let mut store = ClusterStore::new(
                ts,
                gateway.placement.clone(),
                sources,
                gateway.fetches.clone(),
                cancel,
                limits.rows,
            );
            let run = move || {
                if past.is_some() {
                    // First that the plans are good now, then that they were good then.
                    store.read_newest();
                    store.check_schema(&groups, version)?;
                    store.read_at(ts);
                    store.check_past_schema(&groups, version)?;
                } else {
                    store.check_schema(&groups, version)?;
                }
                let outcomes = in_order(statements, |prepared, params| {
                    prepared.execute_at(&mut store, &mut env, params, Some(&system))
                });
                // What a DROP or TRUNCATE removes has no history: had one begun to be installed, rows would be missing.
                store.read_newest();
                store.check_schema(&groups, version)?;
                outcomes
            };
            tokio::task::spawn_blocking(run)
                .await
                .unwrap_or_else(|_| Err(gone()))
        }
        .boxed_local()
    }

    /// A timestamp fresh in all of `groups`.
    async fn newest_of(&self, groups: &[u32], deadline: Instant) -> Result<u64> {
        let asked = groups.iter().map(|&group| self.newest(group, deadline));
        let newest = try_join_all(asked).await?.into_iter().max().unwrap_or(0);
        // Causality: what is read comes after what was seen before, and before what is done from now on.
        let clock = self.core.clock();
        let ts = newest.max(clock.seen());
        clock.learn(ts);
        Ok(ts)
    }

    /// A stamp that includes everything acknowledged so far, and nothing that is committed after this.
    pub(super) async fn fresh_stamp(&self, deadline: Instant) -> Result<u64> {
        let groups: Vec<u32> = self.placement.partition_groups().collect();
        let ts = self.newest_of(&groups, deadline).await?;
        self.promised(&groups, ts, deadline).await?;
        Ok(ts)
    }

    /// 22023 if `ts` is in the future, 72000 if it is out of the history window.
    pub(super) async fn check_past(&self, ts: u64, wall_us: i64, deadline: Instant) -> Result<()> {
        let wall = u64::try_from(wall_us).unwrap_or(0);
        let window_us = self.config.history_window_s.saturating_mul(1_000_000);
        if ts < wall.saturating_sub(window_us) {
            let seconds = self.config.history_window_s;
            return Err(Error::new(
                "72000",
                format!("snapshot too old: history is kept for {seconds} s"),
            )
            .hint("read at a later time, or raise history_window_s in the node's configuration"));
        }
        if ts <= wall {
            return Ok(());
        }
        // A stamp of a node whose clock is ahead is in the past all the same.
        let groups: Vec<u32> = self.placement.partition_groups().collect();
        if ts > self.newest_of(&groups, deadline).await? {
            return Err(Error::new("22023", "AS OF SYSTEM TIME is in the future")
                .hint("read without it for what is newest, or at an earlier time"));
        }
        Ok(())
    }

    /// Bounds of what one statement reads beside the core.
    pub(super) fn read_limits(&self) -> Limits {
        Limits {
            rows: self.config.read_rows_max,
            bytes: self.config.result_bytes_max,
        }
    }

    /// A timestamp fresh in all of `groups`, and where each can be read at it.
    pub(super) async fn snapshot(
        &self,
        groups: &[u32],
        deadline: Instant,
    ) -> Result<(u64, BTreeMap<u32, Source>)> {
        let ts = self.newest_of(groups, deadline).await?;
        Ok((ts, self.promised(groups, ts, deadline).await?))
    }

    /// Where each group can be read at `ts`: its leader has promised that nothing will be committed up to it any more.
    pub(super) async fn promised(
        &self,
        groups: &[u32],
        ts: u64,
        deadline: Instant,
    ) -> Result<BTreeMap<u32, Source>> {
        let promised = groups.iter().map(|&group| async move {
            let body = call::Body::SnapshotAt(SnapshotAt { group, ts });
            let (node, _) = self.ask_leader(group, body, deadline).await?;
            let here = self
                .core
                .group(group)
                .filter(|_| node == self.config.node_id);
            let source = match here {
                Some(own) => Source::Here(Arc::clone(&own.store)),
                None => Source::Node(node),
            };
            Ok::<_, Error>((group, source))
        });
        Ok(try_join_all(promised).await?.into_iter().collect())
    }

    async fn newest(&self, group: u32, deadline: Instant) -> Result<u64> {
        let body = call::Body::SnapshotTs(SnapshotTs { group });
        match self.ask_leader(group, body, deadline).await? {
            (_, answer::Body::Ts(ts)) => Ok(ts),
            (node, _) => Err(Error::internal(format!(
                "node {node} answered something else"
            ))),
        }
    }
}

impl ClusterStore {
    /// What DROP and TRUNCATE removed has no history, and an index made since was not there: no schema but today's.
    pub(super) fn check_past_schema(&mut self, groups: &[u32], version: u64) -> Result<()> {
        for &group in groups {
            if installed_version(&mut self.only(group))? != version {
                return Err(Error::unsupported(
                    "AS OF SYSTEM TIME before the last change of the schema",
                )
                .hint("read at a time after the last CREATE, DROP or TRUNCATE"));
            }
        }
        Ok(())
    }

    /// The plans are good for `version` only: every partition must have had it at the timestamp.
    pub(super) fn check_schema(&mut self, groups: &[u32], version: u64) -> Result<()> {
        for &group in groups {
            let installed = installed_version(&mut self.only(group))?;
            if installed != version {
                return Err(Error::retry(
                    SCHEMA_CHANGED,
                    format!(
                        "schema changed: planned for version {version}, partition {} has {installed}",
                        group - 1
                    ),
                ));
            }
        }
        Ok(())
    }
}
