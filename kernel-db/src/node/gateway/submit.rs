//! One transaction from the connection to its outcome: route, attempt, recover, attempt again.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt;
use futures::future::LocalBoxFuture;
use tokio::time::Instant;

use super::leader::{SqlWork, gone, is_routing};
use super::plans::Plan;
use super::reads::EmptyStore;
use super::txn::is_too_long;
use super::{Gateway, lock_wait};
use crate::error::{Error, Result};
use crate::partition::{Budget, TxnEnv, WAITS, Waited};
use crate::sql::Value;
use crate::sql::codec;
use crate::sql::exec;
use crate::sql::prepare::{Kind, Prepared, Route};
use crate::sql::transaction::{Outcomes, SCHEMA_CHANGED, SqlTransaction};
use crate::wire::pg::{Bound, ConnInfo, Failed, Lane, Outcome};

/// After the statement timeout: for whoever runs it, here or on another node, to say that it has ended without effect.
const CANCEL_WAIT: Duration = Duration::from_millis(500);

/// A transaction with the plans that its client prepared.
#[derive(Clone)]
pub(super) struct Txn {
    pub plans: Vec<Arc<Plan>>,
    pub params: Vec<Vec<Value>>,
    pub session: Option<(u128, u64)>,
    pub cancel: Arc<AtomicBool>,
    pub began: Instant,
    pub deadline: Instant,
    pub info: Rc<ConnInfo>,
    /// For each lock.
    pub lock_wait: Option<Duration>,
    /// It runs beside the cores and has not begun to commit: to give it up means that nothing happened.
    pub harmless: Rc<Cell<bool>>,
}

/// Where a transaction runs.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Target {
    /// Touches no table: right here.
    Here,
    /// In one partition, through its leader.
    Group(u32),
    /// Reads several partitions, or tables of the node itself.
    Read(Vec<u32>),
    /// Writes in several partitions, or in one that is not known before: beside the cores. With its home partition.
    Several(u32),
    Ddl,
}

impl Gateway {
    pub(super) fn lane_of(&self, info: &ConnInfo, txn: &[Bound]) -> Lane {
        let Ok(plans) = plans_of(txn) else {
            return Lane::Alone;
        };
        let params: Vec<&[Value]> = txn.iter().map(|b| b.params.as_slice()).collect();
        match self.target(&plans, &params, None) {
            Ok(Target::Here) => Lane::Any,
            Ok(Target::Group(_)) if is_beside(&plans, lock_wait(info)) => Lane::Several,
            Ok(Target::Group(group)) => Lane::Partition(group),
            Ok(Target::Several(_)) => Lane::Several,
            _ => Lane::Alone,
        }
    }

    pub(super) fn submit_transaction(
        &self,
        info: &Rc<ConnInfo>,
        bound: Vec<Bound>,
        session: Option<(u128, u64)>,
    ) -> LocalBoxFuture<'static, Result<Vec<Outcome>, Failed>> {
        let plans = match plans_of(&bound) {
            Ok(plans) => plans,
            Err(error) => return async move { Err(error.into()) }.boxed_local(),
        };
        let connection = self.connection(info);
        let txn = Txn {
            plans,
            params: bound.into_iter().map(|b| b.params).collect(),
            session,
            cancel: Arc::clone(&connection.cancel.borrow()),
            began: Instant::now(),
            deadline: self.deadline(info),
            info: Rc::clone(info),
            lock_wait: lock_wait(info),
            harmless: Rc::default(),
        };
        let ticket = connection.order.enter();
        // Submitted now, unless an older one of this connection is waiting for its second attempt.
        let first = (!connection.order.blocked()).then(|| self.attempt(&txn));
        let gateway = self.own();
        async move {
            let (deadline, cancel) = (txn.deadline, Arc::clone(&txn.cancel));
            let harmless = Rc::clone(&txn.harmless);
            let writes = txn.plans.iter().any(|p| p.prepared.writes() || p.is_ddl());
            let mut work = std::pin::pin!(gateway.finish(txn, first, ticket));
            let result = match tokio::time::timeout_at(deadline, &mut work).await {
                Ok(result) => result,
                Err(_) => {
                    cancel.store(true, Ordering::Relaxed);
                    match tokio::time::timeout(CANCEL_WAIT, work).await {
                        Ok(Err(error)) if error.sqlstate() == "57014" => Err(timed_out(false)),
                        // It may have been over at that moment.
                        Ok(result) => result,
                        Err(_) => Err(timed_out(writes && !harmless.get())),
                    }
                }
            };
            // A flag that was set, here or beside the core, is not the next statement's.
            let same = Arc::ptr_eq(&cancel, &connection.cancel.borrow());
            if same && cancel.load(Ordering::Relaxed) {
                connection.cancel.take();
            }
            result.map_err(failed)
        }
        .boxed_local()
    }

    async fn finish(
        self: Rc<Self>,
        mut txn: Txn,
        first: Option<LocalBoxFuture<'static, Result<Vec<Outcome>>>>,
        ticket: super::order::Ticket,
    ) -> Result<Vec<Outcome>> {
        let patience = Duration::from_millis(self.config.leader_wait_ms);
        let mut give_up = txn.deadline.min(txn.began + patience);
        let mut asked = txn.began;
        let mut result = match first {
            Some(first) => first.await,
            None => {
                ticket.first().await;
                self.attempt(&txn).await
            }
        };
        loop {
            let error = match result {
                Err(error) if error.sqlstate() == WAITS => {
                    // It waits for a change as long as somebody waits for its answer.
                    if txn.has_nobody() {
                        return Err(Error::new("57014", "canceled while waiting"));
                    }
                    give_up = txn.deadline.min(Instant::now() + patience);
                    result = self.attempt(&txn).await;
                    continue;
                }
                Err(error) if error.sqlstate() == SCHEMA_CHANGED || is_routing(&error) => error,
                result => return result,
            };
            if asked.elapsed() > patience {
                // It waited at a leader: the search for the next one begins only now.
                give_up = txn.deadline.min(Instant::now() + patience);
            }
            if Instant::now() >= give_up || txn.cancel.load(Ordering::Relaxed) {
                return Err(error);
            }
            ticket.first().await;
            self.recover(&mut txn, &error, give_up).await?;
            asked = Instant::now();
            result = self.attempt(&txn).await;
        }
    }

    /// Makes the next attempt worth it.
    async fn recover(&self, txn: &mut Txn, error: &Error, give_up: Instant) -> Result<()> {
        let params: Vec<&[Value]> = txn.params.iter().map(Vec::as_slice).collect();
        let groups = match self.target(&txn.plans, &params, txn.session)? {
            Target::Here | Target::Ddl => Vec::new(),
            Target::Several(_) => self.placement.partition_groups().collect(),
            Target::Group(group) => vec![group],
            Target::Read(groups) => groups,
        };
        if error.sqlstate() != SCHEMA_CHANGED {
            match groups.first() {
                Some(group) if groups.len() == 1 => self.pause(*group, error).await,
                _ => tokio::time::sleep(Duration::from_millis(15)).await,
            }
            return Ok(());
        }
        self.refresh_catalog(give_up).await?;
        self.install(&groups, give_up).await?;
        self.plan_anew(txn)
    }

    /// At the catalogue's version known here.
    fn plan_anew(&self, txn: &mut Txn) -> Result<()> {
        for plan in &mut txn.plans {
            let next = self.plan(&plan.text, &plan.param_oids)?;
            let (old, new) = (&plan.prepared, &next.prepared);
            if old.columns != new.columns || old.params != new.params {
                return Err(
                    Error::new("0A000", "cached plan must not change result type").hint(
                        "the schema changed since the statement was prepared: prepare it again",
                    ),
                );
            }
            *plan = next;
        }
        Ok(())
    }

    /// One attempt; submitted when this returns.
    fn attempt(&self, txn: &Txn) -> LocalBoxFuture<'static, Result<Vec<Outcome>>> {
        let params: Vec<&[Value]> = txn.params.iter().map(Vec::as_slice).collect();
        match self.target(&txn.plans, &params, txn.session) {
            // No partition says that the schema changed since: functions may have.
            Ok(Target::Here) if self.is_planned_before(txn) => {
                let mut anew = txn.clone();
                match self.plan_anew(&mut anew) {
                    Ok(()) => self.attempt(&anew),
                    Err(error) => std::future::ready(Err(error)).boxed_local(),
                }
            }
            Ok(Target::Here) => self.run_here(txn),
            Ok(Target::Group(group)) if is_beside(&txn.plans, txn.lock_wait) => {
                self.one_shot(group, txn)
            }
            Ok(Target::Group(group)) => self.attempt_group(group, txn),
            Ok(Target::Read(groups)) => self.read(groups, txn),
            Ok(Target::Several(home)) => self.one_shot(home, txn),
            Ok(Target::Ddl) => self.change_schema(txn),
            Err(error) => std::future::ready(Err(error)).boxed_local(),
        }
    }

    fn attempt_group(
        &self,
        group: u32,
        txn: &Txn,
    ) -> LocalBoxFuture<'static, Result<Vec<Outcome>>> {
        let label = txn
            .plans
            .first()
            .map_or_else(|| "".into(), |p| Arc::clone(&p.text));
        let work = SqlWork {
            plans: txn.plans.clone(),
            txn: Arc::new(SqlTransaction::new(txn.statements(), label)),
            session: txn.session,
            cancel: Arc::clone(&txn.cancel),
            waited: Waited {
                us: u64::try_from(txn.began.elapsed().as_micros()).unwrap_or(u64::MAX),
                parked: false,
                gone: Some(Arc::clone(&txn.info.hung_up)),
            },
        };
        let reply = self.attempt_sql(group, &work);
        // Undone there and begun anew beside the core; the same partition keeps its number (I11).
        let gateway = self.own();
        let again = txn.clone();
        async move {
            match reply.await {
                Err(error) if is_too_long(&error) => gateway.one_shot(group, &again).await,
                reply => decode(&reply?),
            }
        }
        .boxed_local()
    }

    fn is_planned_before(&self, txn: &Txn) -> bool {
        let version = self.catalog.borrow().version;
        txn.plans.iter().any(|p| p.prepared.version != version)
    }

    /// On the core; what takes too long there begins anew beside it, where it may take as long as the statement.
    fn run_here(&self, txn: &Txn) -> LocalBoxFuture<'static, Result<Vec<Outcome>>> {
        let mut env = self.env();
        match run_nowhere(txn.statements(), env.clone()) {
            Err(error) if is_too_long(&error) => {
                env.budget = Budget::until(Arc::clone(&txn.cancel))
                    .with_results(self.config.result_bytes_max);
                let statements = txn.statements();
                let run = tokio::task::spawn_blocking(move || run_nowhere(statements, env));
                async move { run.await.unwrap_or_else(|_| Err(gone())) }.boxed_local()
            }
            done => std::future::ready(done).boxed_local(),
        }
    }

    /// Surroundings of work that runs in no partition.
    pub(super) fn env(&self) -> TxnEnv {
        let wall = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        TxnEnv {
            wall_us: wall.map_or(0, |d| d.as_micros() as i64),
            seed: rand::random(),
            partition: 0,
            partitions: self.placement.partitions(),
            budget: Budget::new(self.config.run_limit_steps)
                .with_results(self.config.result_bytes_max),
            wait: None,
            lease: None,
        }
    }

    /// Works out where the statements run, all of them together.
    fn target(
        &self,
        plans: &[Arc<Plan>],
        params: &[&[Value]],
        session: Option<(u128, u64)>,
    ) -> Result<Target> {
        if plans.iter().any(|p| p.is_ddl()) {
            return if plans.iter().all(|p| p.is_ddl()) {
                Ok(Target::Ddl)
            } else {
                Err(mixed())
            };
        }
        let timed = plans.iter().any(|p| p.prepared.is_timed());
        if timed && (plans.len() > 1 || plans.iter().any(|p| p.reads_system)) {
            return Err(Error::unsupported(
                "AS OF SYSTEM TIME beside other statements or tables of schema dbos",
            )
            .hint("send the SELECT over tables of your own alone"));
        }
        let mut groups = BTreeSet::new();
        let (mut writes, mut anywhere, mut system) = (false, false, false);
        for (plan, params) in plans.iter().zip(params) {
            let changes = plan.prepared.writes();
            writes |= changes;
            system |= plan.reads_system;
            if plan.prepared.kind == Kind::Explain {
                continue;
            }
            match plan.prepared.route(params)? {
                Route::Anywhere => anywhere |= changes,
                Route::Slot(slot) => drop(groups.insert(self.placement.group_of(slot))),
                Route::Slots(slots) => {
                    groups.extend(slots.into_iter().map(|s| self.placement.group_of(s)))
                }
                Route::AllRead | Route::AllWrite => {
                    groups.extend(self.placement.partition_groups())
                }
                Route::Ddl | Route::Session => {
                    return Err(Error::unsupported("this statement at this place"));
                }
            }
        }
        if writes && (groups.len() > 1 || system) {
            return Ok(Target::Several(self.home_of(params, session)));
        }
        Ok(match groups.len() {
            // The past of one partition is read like that of several: beside its core, from its history.
            1.. if timed => Target::Read(groups.into_iter().collect()),
            _ if system => Target::Read(groups.into_iter().collect()),
            0 if anywhere => Target::Group(self.any_group(session)),
            0 => Target::Here,
            1 => Target::Group(groups.into_iter().next().unwrap_or(1)),
            _ => Target::Read(groups.into_iter().collect()),
        })
    }

    /// The partition that remembers a request which runs beside the cores (I11): the same for the same request, so that a
    /// retry finds it, and if possible one that the request writes in anyway. Procedures are mostly called with a partition
    /// key as their first argument.
    fn home_of(&self, params: &[&[Value]], session: Option<(u128, u64)>) -> u32 {
        match params.first().and_then(|p| p.first()) {
            Some(value) => self.placement.group_of(codec::slot(value)),
            None => self.any_group(session),
        }
    }

    /// A partition for work that may run in any: the session's own, so that a retry finds the first attempt's reply
    /// (I11), else one that is led from here.
    pub(super) fn any_group(&self, session: Option<(u128, u64)>) -> u32 {
        let partitions = self.placement.partitions();
        if let Some((session, _)) = session {
            return (session % u128::from(partitions)) as u32 + 1;
        }
        // Always the same one while leaders stay, so that one connection's work keeps its order.
        let led_here = |g: &u32| self.core.role(*g).is_some_and(|r| r.open);
        self.placement
            .partition_groups()
            .find(led_here)
            .unwrap_or(1)
    }
}

impl Txn {
    /// Its client cancelled it, or is gone.
    fn has_nobody(&self) -> bool {
        self.cancel.load(Ordering::Relaxed) || self.info.hung_up.load(Ordering::Relaxed)
    }

    pub(super) fn statements(&self) -> Vec<(Arc<Prepared>, Vec<Value>)> {
        let one = |(plan, params): (&Arc<Plan>, &Vec<Value>)| {
            (Arc::clone(&plan.prepared), params.clone())
        };
        self.plans.iter().zip(&self.params).map(one).collect()
    }
}

/// Statements that touch no table.
fn run_nowhere(
    statements: Vec<(Arc<Prepared>, Vec<Value>)>,
    mut env: TxnEnv,
) -> Result<Vec<Outcome>> {
    let mut store = EmptyStore;
    in_order(statements, |prepared, params| {
        // The time makes no difference, but it must be one.
        prepared.read_time(params, env.wall_us)?;
        prepared.execute_at(&mut store, &mut env, params, None)
    })
}

/// On the core nobody takes locks one by one, so nobody could stop waiting for one.
fn is_beside(plans: &[Arc<Plan>], lock_wait: Option<Duration>) -> bool {
    lock_wait.is_some() && plans.iter().any(|plan| plan.prepared.writes())
}

fn plans_of(txn: &[Bound]) -> Result<Vec<Arc<Plan>>> {
    txn.iter().map(plan_of).collect()
}

pub(super) fn plan_of(bound: &Bound) -> Result<Arc<Plan>> {
    Arc::clone(&bound.statement.handle)
        .downcast::<Plan>()
        .map_err(|_| Error::internal("a statement of another backend"))
}

/// Runs statements that write nothing; an error carries the outcomes of those before.
pub(super) fn in_order(
    statements: Vec<(Arc<Prepared>, Vec<Value>)>,
    mut run: impl FnMut(&Prepared, &[Value]) -> Result<exec::Outcome>,
) -> Result<Vec<Outcome>> {
    let mut done = Vec::with_capacity(statements.len());
    for (prepared, params) in statements {
        match run(&prepared, &params) {
            Ok(outcome) => done.push(outcome),
            Err(error) => return Err(Outcomes::before(&done, error)),
        }
    }
    Ok(done.into_iter().map(outcome).collect())
}

/// What the client is told of a transaction that failed.
fn failed(error: Error) -> Failed {
    // Results that cannot be read are left out: what counts is the error.
    let before = error.before().and_then(|bytes| decode(bytes).ok());
    Failed {
        before: before.unwrap_or_default(),
        error,
    }
}

pub(super) fn decode(reply: &Bytes) -> Result<Vec<Outcome>> {
    Ok(Outcomes::decode(reply)?.into_iter().map(outcome).collect())
}

/// The executor's outcome as the protocol sends it.
pub(super) fn outcome(done: exec::Outcome) -> Outcome {
    Outcome {
        rows: done.rows,
        tag: done.tag,
        notices: done.notices,
    }
}

fn mixed() -> Error {
    Error::unsupported("changing the schema and other statements in one transaction")
        .hint("send CREATE, DROP and the like on their own")
}

fn timed_out(writes: bool) -> Error {
    if writes {
        return Error::unknown(
            "canceling statement due to statement timeout; its outcome is unknown",
        );
    }
    Error::new("57014", "canceling statement due to statement timeout")
}
