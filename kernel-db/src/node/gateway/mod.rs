//! The gateway: what stands between a connection and the partitions. Every node has one, and any node answers any client.
//!
//! A transaction is planned (plans are cached), routed, and submitted to the replica here or to the leader's node. What
//! fails without any effect because a leader moved or the schema changed is repeated here until a deadline; an unknown
//! outcome never is. Reads over several partitions take a timestamp that is fresh in all of them and run beside the
//! core; DDL goes to the system group first and then to every partition.

mod calls;
mod cluster_store;
mod ddl;
mod leader;
mod members;
mod order;
mod plans;
mod reads;
mod settle;
mod submit;
mod system;
mod txn;

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures::FutureExt;
use futures::future::LocalBoxFuture;
use tokio::sync::mpsc::UnboundedSender;
use tokio::time::Instant;

use super::NodeConfig;
use super::core::Core;
use super::peers::Peers;
use super::placement::Placement;
use crate::error::{Error, Result};
use crate::sql::catalog::Catalog;
use crate::wire::pg::{
    self, Backend, Block, BlockMode, Bound, ConnInfo, Effect, Failed, Lane, Outcome,
};
use order::Order;
use plans::{Plan, PlanCache};
pub use txn::{Progress, Restored, Stages};

/// What the gateway keeps for one client connection.
struct Connection {
    info: Rc<ConnInfo>,
    order: Rc<Order>,
    /// Set to end what is running.
    cancel: RefCell<Arc<AtomicBool>>,
}

/// See the module's documentation.
pub struct Gateway {
    config: Rc<NodeConfig>,
    placement: Placement,
    core: Rc<Core>,
    peers: Rc<Peers>,
    catalog: RefCell<Arc<Catalog>>,
    plans: RefCell<PlanCache>,
    /// Leaders of groups that have no replica here, as last heard.
    hints: RefCell<BTreeMap<u32, u64>>,
    connections: RefCell<HashMap<i32, Rc<Connection>>>,
    /// One change of the schema at a time on this node.
    ddl: tokio::sync::Mutex<()>,
    /// Transactions that run here.
    registry: Rc<txn::Registry>,
    /// The rollback that this node runs, or ran last.
    rollback: RefCell<Option<txn::Rollback>>,
    /// Transactions that the coordinator may forget.
    settled: UnboundedSender<txn::Settled>,
    /// Reads of blocking threads for the core to fetch from other nodes.
    fetches: UnboundedSender<cluster_store::Fetch>,
    this: Weak<Self>,
}

impl Gateway {
    /// Starts the gateway's own tasks on the current `LocalSet`.
    pub fn start(config: Rc<NodeConfig>, core: Rc<Core>, peers: Rc<Peers>) -> Rc<Self> {
        let (fetches, jobs) = tokio::sync::mpsc::unbounded_channel();
        let (registry, released) = txn::Registry::new(config.node_id);
        let (settled, forgotten) = tokio::sync::mpsc::unbounded_channel();
        let gateway = Rc::new_cyclic(|this: &Weak<Self>| Self {
            placement: core.placement().clone(),
            plans: RefCell::new(PlanCache::new(config.plan_cache_max)),
            config,
            core,
            peers,
            catalog: RefCell::new(Arc::new(Catalog::new())),
            hints: RefCell::default(),
            connections: RefCell::default(),
            ddl: tokio::sync::Mutex::new(()),
            registry,
            rollback: RefCell::default(),
            settled,
            fetches,
            this: Weak::clone(this),
        });
        tokio::task::spawn_local(Rc::clone(&gateway).serve_fetches(jobs));
        tokio::task::spawn_local(Rc::clone(&gateway).keep_schema());
        tokio::task::spawn_local(Rc::clone(&gateway).keep_topology());
        tokio::task::spawn_local(Rc::clone(&gateway).serve_releases(released));
        tokio::task::spawn_local(Rc::clone(&gateway).serve_settled(forgotten));
        tokio::task::spawn_local(Rc::clone(&gateway).keep_locks());
        let (chores, wanted) = tokio::sync::mpsc::unbounded_channel();
        gateway.core.set_chores(chores);
        tokio::task::spawn_local(Rc::clone(&gateway).serve_chores(wanted));
        gateway
    }

    /// The gateway itself, for a future that outlives the call.
    fn own(&self) -> Rc<Self> {
        // `this` is dangling only before `new_cyclic` has returned.
        self.this
            .upgrade()
            .unwrap_or_else(|| unreachable!("a method runs on a living gateway"))
    }

    fn catalog(&self) -> Arc<Catalog> {
        Arc::clone(&self.catalog.borrow())
    }

    /// Plans `text` at the catalogue's present version.
    fn plan(&self, text: &str, param_oids: &[u32]) -> Result<Arc<Plan>> {
        let catalog = self.catalog();
        self.plans.borrow_mut().get(&catalog, text, param_oids)
    }

    fn connection(&self, info: &Rc<ConnInfo>) -> Rc<Connection> {
        let mut connections = self.connections.borrow_mut();
        let new = || {
            Rc::new(Connection {
                info: Rc::clone(info),
                order: Rc::default(),
                cancel: RefCell::default(),
            })
        };
        Rc::clone(connections.entry(info.pid).or_insert_with(new))
    }

    fn deadline(&self, info: &ConnInfo) -> Instant {
        let own = self.config.statement_timeout_ms;
        let ms = match info.statement_timeout_ms.get() {
            0 => own,
            wanted => wanted.min(own),
        };
        Instant::now() + Duration::from_millis(ms)
    }
}

/// How long the connection's statements may wait for one lock.
fn lock_wait(info: &ConnInfo) -> Option<Duration> {
    match info.lock_timeout_ms.get() {
        0 => None,
        ms => Some(Duration::from_millis(ms)),
    }
}

impl Backend for Gateway {
    fn prepare(
        &self,
        _conn: &Rc<ConnInfo>,
        sql: &str,
        param_oids: &[u32],
    ) -> LocalBoxFuture<'static, Result<pg::Statement>> {
        let first = self.plan(sql, param_oids);
        match first {
            // The name may have been created through another node a moment ago.
            Err(error) if is_unknown_name(&error) => {
                let (gateway, sql, oids) = (self.own(), sql.to_string(), param_oids.to_vec());
                async move {
                    let wait = Duration::from_millis(gateway.config.leader_wait_ms);
                    // Without the newest catalogue nobody can say that the name is unknown: a node that has just started
                    // knows no table at all.
                    gateway
                        .refresh_catalog(Instant::now() + wait)
                        .await
                        .map_err(|cause| unknown_yet(&error, &cause))?;
                    statement(&gateway.plan(&sql, &oids)?)
                }
                .boxed_local()
            }
            result => std::future::ready(result.and_then(|plan| statement(&plan))).boxed_local(),
        }
    }

    fn check_syntax(&self, sql: &str) -> Result<()> {
        crate::sql::prepare::check_syntax(sql)
    }

    fn lane(&self, conn: &Rc<ConnInfo>, txn: &[Bound]) -> Lane {
        self.lane_of(conn, txn)
    }

    fn submit(
        &self,
        conn: &Rc<ConnInfo>,
        txn: Vec<Bound>,
        number: Option<(u128, u64)>,
    ) -> LocalBoxFuture<'static, Result<Vec<Outcome>, Failed>> {
        self.submit_transaction(conn, txn, number)
    }

    fn begin(&self, conn: &Rc<ConnInfo>, mode: BlockMode) -> Result<Rc<dyn Block>> {
        Ok(self.begin_block(conn, mode))
    }

    fn seen(&self) -> u64 {
        self.core.clock().seen()
    }

    fn observe(&self, ts: u64) -> Result<()> {
        self.core.clock().observe_client(ts)
    }

    fn cancel(&self, pid: i32) {
        if let Some(connection) = self.connections.borrow().get(&pid) {
            // Later statements get a flag of their own.
            connection.cancel.take().store(true, Ordering::Relaxed);
        }
    }

    fn connected(&self, conn: &Rc<ConnInfo>) {
        self.connection(conn);
    }

    fn disconnected(&self, conn: &Rc<ConnInfo>) {
        self.connections.borrow_mut().remove(&conn.pid);
    }
}

fn statement(plan: &Arc<Plan>) -> Result<pg::Statement> {
    let column = |c: &crate::sql::prepare::Column| pg::Column {
        name: c.name.clone(),
        data_type: c.data_type,
    };
    Ok(pg::Statement {
        params: plan.prepared.params.clone(),
        columns: plan
            .prepared
            .returns_rows()
            .then(|| plan.prepared.columns.iter().map(column).collect()),
        effect: effect(plan),
        numbered: plan.numbered(),
        handle: Arc::clone(plan) as Arc<dyn std::any::Any + Send + Sync>,
    })
}

fn effect(plan: &Plan) -> Effect {
    match &plan.prepared {
        _ if plan.is_ddl() => Effect::Schema,
        prepared if prepared.writes() => Effect::Writes,
        prepared if prepared.is_timed() => Effect::Past,
        _ => Effect::Reads,
    }
}

/// The catalogue cannot be read now, so whether `error` is true is not known.
fn unknown_yet(error: &Error, cause: &Error) -> Error {
    Error::retry(
        "57P03",
        format!("the schema cannot be read now ({})", cause.message()),
    )
    .detail(error.message())
    .hint("a majority of the nodes must be alive; try again")
}

/// Undefined table, column or function.
fn is_unknown_name(error: &Error) -> bool {
    matches!(error.sqlstate(), "42P01" | "42703" | "42883")
}
