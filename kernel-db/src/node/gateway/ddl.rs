//! Changes of the schema.
//!
//! The catalogue is a row of the system group; a change of it is a transaction there and makes the next version. Then
//! every partition installs the version through its own log, new indexes are filled in bounded steps and become readable
//! with one more version, and every node is told. A node that dies in between leaves nothing wrong: partitions that lag
//! are helped by whoever meets a `DB001`, and the system group's leader takes unfinished indexes up again.

use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt;
use futures::future::{LocalBoxFuture, join_all};
use tokio::time::Instant;

use super::Gateway;
use super::leader::Upkeep;
use super::submit::Txn;
use super::txn::lock_timeout;
use crate::error::{Class, Error, Result};
use crate::node::peers::OnLoss;
use crate::node::placement::SYSTEM;
use crate::partition::{Store, Transaction, TxnEnv};
use crate::sql::catalog::{Catalog, IndexState};
use crate::sql::prepare::Kind;
use crate::sql::transaction::{
    Backfill, CatalogChange, InstallSchema, SCHEMA_CHANGED, read_catalog,
};
use crate::wire::peer::{self, IndexDone, Publish, call, maintain};
use crate::wire::pg::Outcome;

/// Rows read by one step of filling an index: a few milliseconds on the core.
const BACKFILL_ROWS: usize = 500;
/// For telling the other nodes of a new version; one that is down finds out by itself.
const PUBLISH_TIMEOUT: Duration = Duration::from_secs(1);
/// How often a node looks for a newer catalogue and for unfinished indexes.
const KEEP_INTERVAL: Duration = Duration::from_secs(2);
/// An index that nobody has finished for this many looks was left behind by a dead node.
const LEFT_BEHIND_LOOKS: u32 = 5;
/// For one step of the upkeep that no client waits for.
const UPKEEP_TIMEOUT: Duration = Duration::from_secs(10);

/// Reads the catalogue through the system group's leader, so that it is the newest.
#[derive(Debug)]
pub(super) struct ReadCatalog;

impl Transaction for ReadCatalog {
    fn run(&self, store: &mut dyn Store, _env: &mut TxnEnv) -> Result<Bytes> {
        Ok(read_catalog(store)?.to_bytes()?.into())
    }

    fn read_only(&self) -> bool {
        true
    }

    fn label(&self) -> &str {
        "read catalogue"
    }
}

impl Gateway {
    /// Uses `catalog` from now on, if it is newer.
    pub(super) fn adopt(&self, catalog: Catalog) {
        if catalog.version > self.catalog.borrow().version {
            tracing::info!(version = catalog.version, "schema");
            *self.catalog.borrow_mut() = Arc::new(catalog);
        }
    }

    /// Fetches the newest catalogue.
    pub(super) async fn refresh_catalog(&self, deadline: Instant) -> Result<()> {
        let work = Upkeep {
            txn: Arc::new(ReadCatalog),
            wire: maintain::Work::CatalogRead(true),
        };
        let bytes = self.upkeep(SYSTEM, &work, deadline).await?;
        self.adopt(Catalog::from_bytes(&bytes)?);
        Ok(())
    }

    /// Installs the catalogue's version in `groups`.
    pub(super) async fn install(&self, groups: &[u32], deadline: Instant) -> Result<()> {
        let catalog = self.catalog();
        let work = Upkeep {
            txn: Arc::new(InstallSchema::new(&catalog)),
            wire: maintain::Work::InstallSchema(catalog.to_bytes()?.into()),
        };
        let installs = groups
            .iter()
            .map(|&group| self.upkeep(group, &work, deadline));
        join_all(installs)
            .await
            .into_iter()
            .try_for_each(|r| r.map(drop))
    }

    /// Runs DDL statements as one change. `lock_timeout` ends the wait for another change through this node; once the catalogue
    /// is changed nothing is taken back, so what partitions wait for then is waited for.
    pub(super) fn change_schema(&self, txn: &Txn) -> LocalBoxFuture<'static, Result<Vec<Outcome>>> {
        let text = |plan: &Arc<super::plans::Plan>| match &plan.prepared.kind {
            Kind::Ddl(text) => text.clone(),
            _ => plan.text.to_string(),
        };
        let texts: Vec<String> = txn.plans.iter().map(text).collect();
        let (gateway, deadline, wait) = (self.own(), txn.deadline, txn.lock_wait);
        // A task of its own: a client that goes away must not leave the change half installed.
        let work =
            tokio::task::spawn_local(async move { gateway.change(texts, wait, deadline).await });
        async move { work.await.unwrap_or_else(|_| Err(super::leader::gone())) }.boxed_local()
    }

    async fn change(
        self: Rc<Self>,
        texts: Vec<String>,
        wait: Option<Duration>,
        deadline: Instant,
    ) -> Result<Vec<Outcome>> {
        let turn = self.ddl.lock();
        let _one_at_a_time = match wait {
            None => turn.await,
            Some(wait) => tokio::time::timeout(wait, turn)
                .await
                .map_err(|_| lock_timeout())?,
        };
        let work = Upkeep {
            wire: maintain::Work::CatalogChange(peer::Ddl {
                statements: texts.clone(),
            }),
            txn: Arc::new(CatalogChange::Ddl(texts)),
        };
        let before = self.catalog().version;
        let changed = CatalogChange::decode(&self.upkeep(SYSTEM, &work, deadline).await?)?;
        if changed.version != before {
            self.spread(deadline).await?;
            self.fill_indexes(deadline).await?;
        }
        Ok(changed
            .outcomes
            .into_iter()
            .map(super::submit::outcome)
            .collect())
    }

    /// Brings the newest catalogue to every partition and every node.
    async fn spread(&self, deadline: Instant) -> Result<()> {
        self.refresh_catalog(deadline).await?;
        let groups: Vec<u32> = self.placement.partition_groups().collect();
        self.install(&groups, deadline).await?;
        self.publish().await;
        Ok(())
    }

    async fn publish(&self) {
        let Ok(bytes) = self.catalog().to_bytes() else {
            return;
        };
        let catalog = Bytes::from(bytes);
        let calls = self.peers.nodes().into_iter().map(|node| {
            let body = call::Body::Publish(Publish {
                catalog: catalog.clone(),
            });
            self.peers.call(node, body, OnLoss::Retry)
        });
        // Whoever does not hear it meets a DB001 or an unknown name, and asks.
        let _ = tokio::time::timeout(PUBLISH_TIMEOUT, join_all(calls)).await;
    }

    /// Fills every index that is not readable yet, and makes it readable.
    async fn fill_indexes(&self, deadline: Instant) -> Result<()> {
        for (table, index) in self.catalog().unfinished_indexes() {
            let filled = self.fill_index(table.id, index, deadline).await;
            let failed = match &filled {
                Ok(()) => false,
                Err(error) if error.class() == Class::Request => true,
                // Nobody knows yet whether it can be filled: left for the next to try.
                Err(_) => return filled,
            };
            let (table, id) = (table.id, index);
            let change = if failed {
                CatalogChange::IndexFailed { table, index: id }
            } else {
                CatalogChange::IndexReady { table, index: id }
            };
            let done = IndexDone {
                table,
                index: id.into(),
                failed,
            };
            let work = Upkeep {
                txn: Arc::new(change),
                wire: maintain::Work::IndexDone(done),
            };
            self.upkeep(SYSTEM, &work, deadline).await?;
            self.spread(deadline).await?;
            filled?;
        }
        Ok(())
    }

    async fn fill_index(&self, table: u32, index: u16, deadline: Instant) -> Result<()> {
        let fills = self
            .placement
            .partition_groups()
            .map(|g| self.fill_in_group(g, table, index, deadline));
        join_all(fills).await.into_iter().collect()
    }

    async fn fill_in_group(
        &self,
        group: u32,
        table: u32,
        index: u16,
        deadline: Instant,
    ) -> Result<()> {
        let mut after: Option<Bytes> = None;
        loop {
            let catalog = self.catalog();
            let work = Upkeep {
                wire: maintain::Work::Backfill(peer::Backfill {
                    catalog: catalog.to_bytes()?.into(),
                    table,
                    index: index.into(),
                    after: after.clone().unwrap_or_default(),
                }),
                txn: Arc::new(backfill(catalog, table, index, after.clone())),
            };
            match self.upkeep(group, &work, deadline).await {
                Ok(reply) => match Backfill::decode(&reply) {
                    Some(next) => after = Some(next),
                    None => return Ok(()),
                },
                Err(error) if error.sqlstate() == SCHEMA_CHANGED && Instant::now() < deadline => {
                    self.refresh_catalog(deadline).await?;
                    self.install(&[group], deadline).await?;
                    if !is_unfinished(&self.catalog(), table, index) {
                        return Ok(());
                    }
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Follows the catalogue, and on the system group's leader finishes what a dead node left.
    pub(super) async fn keep_schema(self: Rc<Self>) {
        let mut looks: HashMap<(u32, u16), u32> = HashMap::new();
        loop {
            if let Err(error) = self.refresh_catalog(Instant::now() + UPKEEP_TIMEOUT).await {
                tracing::debug!("catalogue not read: {error}");
            }
            tokio::time::sleep(KEEP_INTERVAL).await;
            if !self.core.role(SYSTEM).is_some_and(|r| r.open) {
                looks.clear();
                continue;
            }
            let unfinished: Vec<(u32, u16)> = self
                .catalog()
                .unfinished_indexes()
                .into_iter()
                .map(|(t, i)| (t.id, i))
                .collect();
            looks.retain(|key, _| unfinished.contains(key));
            for key in unfinished {
                *looks.entry(key).or_default() += 1;
            }
            if looks.values().any(|n| *n >= LEFT_BEHIND_LOOKS) {
                let _one_at_a_time = self.ddl.lock().await;
                looks.clear();
                if let Err(error) = self.fill_indexes(Instant::now() + UPKEEP_TIMEOUT).await {
                    tracing::warn!("unfinished index: {error}");
                }
            }
        }
    }
}

/// One step of filling an index.
pub(super) fn backfill(
    catalog: Arc<Catalog>,
    table: u32,
    index: u16,
    after: Option<Bytes>,
) -> Backfill {
    Backfill {
        catalog,
        table,
        index,
        after,
        max_rows: BACKFILL_ROWS,
    }
}

fn is_unfinished(catalog: &Catalog, table: u32, index: u16) -> bool {
    catalog
        .tables()
        .filter(|t| t.id == table)
        .flat_map(|t| &t.indexes)
        .any(|i| i.id == index && i.state == IndexState::WriteOnly)
}

/// The transaction that `work` of another node's gateway stands for.
pub(super) fn upkeep_transaction(work: maintain::Work) -> Result<Arc<dyn Transaction>> {
    let index =
        |n: u32| u16::try_from(n).map_err(|_| Error::internal("index id from another node"));
    Ok(match work {
        maintain::Work::CatalogChange(ddl) => Arc::new(CatalogChange::Ddl(ddl.statements)),
        maintain::Work::CatalogRead(_) => Arc::new(ReadCatalog),
        maintain::Work::InstallSchema(catalog) => {
            Arc::new(InstallSchema::new(&Catalog::from_bytes(&catalog)?))
        }
        maintain::Work::Backfill(b) => {
            let catalog = Arc::new(Catalog::from_bytes(&b.catalog)?);
            let after = (!b.after.is_empty()).then_some(b.after);
            Arc::new(backfill(catalog, b.table, index(b.index)?, after))
        }
        maintain::Work::TopologyRead(_) => Arc::new(super::members::ReadTopology),
        maintain::Work::TopologyWrite(bytes) => Arc::new(super::members::WriteTopology(
            crate::node::topology::Topology::from_bytes(&bytes)?,
        )),
        maintain::Work::IndexDone(done) => {
            let (table, index) = (done.table, index(done.index)?);
            Arc::new(if done.failed {
                CatalogChange::IndexFailed { table, index }
            } else {
                CatalogChange::IndexReady { table, index }
            })
        }
    })
}
