//! What other nodes' gateways ask of this one.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt;
use futures::channel::oneshot;
use futures::future::LocalBoxFuture;
use tokio::time::Instant;

use super::Gateway;
use super::ddl::upkeep_transaction;
use super::leader::gone;
use crate::error::{Error, Result};
use crate::node::State;
use crate::node::server::Calls;
use crate::partition::Waited;
use crate::sql::catalog::Catalog;
use crate::sql::transaction::{SCHEMA_CHANGED, SqlTransaction};
use crate::storage::StateSnapshot;
use crate::txn::messages::Work;
use crate::wire::peer::{
    Execute, Maintain, Page, SnapshotScan, Transact, answer, call, decode_values,
};

/// Bytes of one page of a scan: small beside a frame's bound, large beside a round trip.
const PAGE_BYTES_MAX: usize = 1 << 20;
/// Rows of one page.
const PAGE_ROWS_MAX: usize = 4096;
/// For fetching the catalogue that a caller has already.
const CATCH_UP: Duration = Duration::from_secs(2);

impl Calls for Gateway {
    fn call(
        &self,
        _from: u64,
        body: call::Body,
        cancel: Arc<AtomicBool>,
    ) -> LocalBoxFuture<'static, Result<answer::Body>> {
        match body {
            call::Body::Execute(execute) => self.execute(execute, cancel),
            body => self.answer(body),
        }
    }
}

impl Gateway {
    /// Starts the work before it returns.
    pub(super) fn answer(&self, body: call::Body) -> LocalBoxFuture<'static, Result<answer::Body>> {
        match body {
            call::Body::Execute(execute) => self.execute(execute, Arc::default()),
            call::Body::Maintain(Maintain { group, work }) => {
                let txn = work
                    .ok_or_else(|| Error::unsupported("this maintenance"))
                    .and_then(upkeep_transaction);
                match txn {
                    Ok(txn) => reply(self.core.submit(group, txn, None, None)),
                    Err(error) => failed(error),
                }
            }
            call::Body::SnapshotTs(ask) => {
                let ts = self.core.snapshot_ts(ask.group);
                async move { Ok(answer::Body::Ts(ts.await.unwrap_or_else(|_| Err(gone()))?)) }
                    .boxed_local()
            }
            call::Body::SnapshotAt(ask) => {
                let ready = self.core.snapshot_at(ask.group, ask.ts);
                async move {
                    ready.await.unwrap_or_else(|_| Err(gone()))?;
                    Ok(answer::Body::Ts(ask.ts))
                }
                .boxed_local()
            }
            call::Body::SnapshotScan(scan) => self.scan(scan),
            call::Body::Status(_) => {
                let status = self.node_status();
                async move { Ok(answer::Body::Status(status)) }.boxed_local()
            }
            call::Body::FetchPiece(_) | call::Body::SnapshotDone(_) | call::Body::Cancel(_) => {
                failed(Error::internal("this is the peer server's to answer"))
            }
            call::Body::Advance(advance) => self.advance_members(advance),
            call::Body::Topology(bytes) => self.hear_topology(&bytes),
            call::Body::Admin(admin) => self.administer(admin),
            call::Body::Transact(Transact { group, work }) => match Work::from_bytes(work) {
                Ok(work) => reply(self.core.submit_work(group, work, None)),
                Err(error) => failed(error),
            },
            call::Body::Ping(_) => {
                std::future::ready(Ok(answer::Body::Reply(Bytes::new()))).boxed_local()
            }
            call::Body::Publish(publish) => match Catalog::from_bytes(&publish.catalog) {
                Ok(catalog) => {
                    self.adopt(catalog);
                    async move { Ok(answer::Body::Reply(Bytes::new())) }.boxed_local()
                }
                Err(error) => failed(error),
            },
        }
    }

    fn scan(&self, scan: SnapshotScan) -> LocalBoxFuture<'static, Result<answer::Body>> {
        let Some(group) = self.core.group(scan.group) else {
            return failed(Error::retry(
                "DB002",
                "not leader: no replica of this partition is here",
            ));
        };
        let store = Arc::clone(&group.store);
        let work = tokio::task::spawn_blocking(move || page(&store, &scan));
        async move {
            Ok(answer::Body::Page(
                work.await.unwrap_or_else(|_| Err(gone()))?,
            ))
        }
        .boxed_local()
    }

    /// Runs SQL of another gateway on the replica here.
    fn execute(
        &self,
        execute: Execute,
        cancel: Arc<AtomicBool>,
    ) -> LocalBoxFuture<'static, Result<answer::Body>> {
        if execute.schema_version <= self.catalog().version {
            return match self.submit_execute(execute, cancel) {
                Ok(receiver) => reply(receiver),
                Err(error) => failed(error),
            };
        }
        let gateway = self.own();
        async move {
            gateway.refresh_catalog(Instant::now() + CATCH_UP).await?;
            reply(gateway.submit_execute(execute, cancel)?).await
        }
        .boxed_local()
    }

    fn submit_execute(
        &self,
        execute: Execute,
        cancel: Arc<AtomicBool>,
    ) -> Result<oneshot::Receiver<Result<Bytes>>> {
        let version = self.catalog().version;
        if execute.schema_version != version {
            return Err(Error::retry(
                SCHEMA_CHANGED,
                format!(
                    "schema changed: planned for version {}, the leader's node has {version}",
                    execute.schema_version
                ),
            ));
        }
        let session = match execute.session.len() {
            0 => None,
            _ => {
                let bytes = execute.session[..]
                    .try_into()
                    .map_err(|_| Error::internal("session from another node"))?;
                Some((u128::from_be_bytes(bytes), execute.number))
            }
        };
        let mut statements = Vec::with_capacity(execute.statements.len());
        for statement in execute.statements {
            let plan = self.plan(&statement.text, &statement.param_oids)?;
            statements.push((
                Arc::clone(&plan.prepared),
                decode_values(statement.params)?,
                plan,
            ));
        }
        let label = statements
            .first()
            .map_or_else(|| "".into(), |(_, _, plan)| Arc::clone(&plan.text));
        let statements = statements
            .into_iter()
            .map(|(prepared, params, _)| (prepared, params))
            .collect();
        let txn = Arc::new(SqlTransaction::new(statements, label));
        Ok(self.core.submit_waited(
            execute.group,
            txn,
            session,
            Some(cancel),
            Waited {
                us: execute.waited_us,
                ..Waited::default()
            },
        ))
    }
}

fn reply(
    receiver: oneshot::Receiver<Result<Bytes>>,
) -> LocalBoxFuture<'static, Result<answer::Body>> {
    async move {
        Ok(answer::Body::Reply(
            receiver.await.unwrap_or_else(|_| Err(gone()))?,
        ))
    }
    .boxed_local()
}

fn failed(error: Error) -> LocalBoxFuture<'static, Result<answer::Body>> {
    async move { Err(error) }.boxed_local()
}

/// Reads one page of a replica's store at a timestamp that its leader has promised.
fn page(store: &State, scan: &SnapshotScan) -> Result<Page> {
    let mut page = Page::default();
    if scan.point {
        if let Some(found) = store.get_at(&scan.from, scan.ts)? {
            page.keys.push(scan.from.clone());
            page.values.push(found.value);
        }
        return Ok(page);
    }
    let limit = (scan.limit as usize).clamp(1, PAGE_ROWS_MAX);
    let mut rows = Vec::new();
    store.scan_at(
        &scan.from,
        &scan.to,
        scan.reverse,
        limit,
        scan.ts,
        &mut rows,
    )?;
    // A full page that was asked for more rows says nothing about the range's end.
    page.more = rows.len() == limit && limit < scan.limit as usize;
    let mut bytes = 0;
    for (key, row) in rows {
        if bytes > PAGE_BYTES_MAX {
            page.more = true;
            break;
        }
        bytes += key.len() + row.value.len();
        page.keys.push(key);
        page.values.push(row.value);
    }
    Ok(page)
}
