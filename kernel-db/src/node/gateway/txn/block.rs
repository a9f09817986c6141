//! Transaction blocks: the state between BEGIN and its end.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use futures::FutureExt;
use futures::future::LocalBoxFuture;
use tokio::time::Instant;

use super::super::plans::Plan;
use super::super::submit::{Txn, outcome, plan_of};
use super::super::{Connection, Gateway, lock_wait};
use super::commit::may_pass;
use super::drive::{Job, Work, cancelled_by};
use super::holds::Holds;
use super::known::{Known, View, cancelled};
use super::store::Buffer;
use crate::error::{Error, Result};
use crate::partition::TxnEnv;
use crate::sql::Value;
use crate::sql::prepare::{Kind, Prepared, Route};
use crate::sql::transaction::SCHEMA_CHANGED;
use crate::txn::messages::LockMode;
use crate::wire::pg::{Block, BlockMode, Bound, ConnInfo, Isolation, Outcome};

/// What a block keeps between its statements. Dropping it gives its locks back.
struct State {
    info: Rc<ConnInfo>,
    holds: Holds,
    work: Work,
    env: TxnEnv,
    /// The block's snapshot, once it has one.
    view: Option<View>,
    /// The schema its statements were planned for.
    version: Option<u64>,
}

/// See the module's documentation.
pub(super) struct GatewayBlock {
    gateway: Rc<Gateway>,
    connection: Rc<Connection>,
    mode: Cell<BlockMode>,
    /// Taken while a statement runs: if that is given up, the block is over.
    state: Rc<RefCell<Option<State>>>,
}

impl Gateway {
    pub(in super::super) fn begin_block(
        &self,
        info: &Rc<ConnInfo>,
        mode: BlockMode,
    ) -> Rc<dyn Block> {
        let mut env = self.env();
        env.partition = self
            .any_group(info.session.map(|s| (s, 0)))
            .saturating_sub(1);
        let buffer = Buffer::new(self.config.write_set_bytes_max as usize);
        // Until the first statement nothing is read.
        let view = View::Newest(LockMode::Share);
        let known = Known::new(view, Arc::default(), self.read_limits());
        let state = State {
            info: Rc::clone(info),
            holds: self.registry.open(self.registry.start()),
            work: Work { buffer, known },
            env,
            view: None,
            version: None,
        };
        Rc::new(GatewayBlock {
            gateway: self.own(),
            connection: self.connection(info),
            mode: Cell::new(mode),
            state: Rc::new(RefCell::new(Some(state))),
        })
    }

    /// One statement of a block. On an error it has no effect.
    async fn block_statement(
        &self,
        state: &mut State,
        mode: BlockMode,
        plan: Arc<Plan>,
        params: Vec<Value>,
        cancel: Arc<AtomicBool>,
        deadline: Instant,
    ) -> Result<Outcome> {
        let plan = self.in_version(state, plan)?;
        let verb = match plan.prepared.kind {
            Kind::Insert => Some("INSERT"),
            Kind::Update => Some("UPDATE"),
            Kind::Delete => Some("DELETE"),
            _ => None,
        };
        if let Some(verb) = verb.filter(|_| mode.read_only) {
            let message = format!("cannot execute {verb} in a read-only transaction");
            return Err(Error::new("25006", message));
        }
        if plan.prepared.is_timed() && mode.read_only {
            return self
                .past_statement(state, plan, params, (cancel, deadline))
                .await;
        }
        let system = match plan.reads_system {
            true => Some(Arc::new(self.gather().await)),
            false => None,
        };
        state.env.seed = rand::random();
        let statements = Arc::new([(Arc::clone(&plan.prepared), params)]);
        let job = Job {
            scope: self.scope(&*statements, &state.env)?,
            statements,
            env: state.env.clone(),
            system,
            read_only: mode.read_only,
            cancel: Arc::clone(&cancel),
        };
        loop {
            let view = self.block_view(state, mode, &job, deadline).await?;
            state.work.known.begin(view, Arc::clone(&cancel));
            let ran = self
                .drive(&mut state.holds, &mut state.work, &job, deadline)
                .await;
            let failure = state.holds.failure.take();
            let error = match (ran, failure) {
                (Ok(done), None) => {
                    return done
                        .into_iter()
                        .next()
                        .map(outcome)
                        .ok_or_else(|| Error::internal("a statement without an outcome"));
                }
                (_, Some(error)) => error,
                (Err(error), None) => return Err(error),
            };
            // READ COMMITTED looks again, at what the others have left.
            let again = mode.isolation == Isolation::ReadCommitted && error.sqlstate() == "40001";
            if !again || Instant::now() >= deadline || cancel.load(Ordering::Relaxed) {
                return Err(error);
            }
        }
    }

    /// AS OF SYSTEM TIME names its own snapshot: nothing of the block is in it, and it writes nothing.
    async fn past_statement(
        &self,
        state: &State,
        plan: Arc<Plan>,
        params: Vec<Value>,
        (cancel, deadline): (Arc<AtomicBool>, Instant),
    ) -> Result<Outcome> {
        if plan.reads_system {
            return Err(Error::unsupported(
                "AS OF SYSTEM TIME over tables of schema dbos",
            ));
        }
        let past = Txn {
            plans: vec![plan],
            params: vec![params],
            session: None,
            cancel,
            began: Instant::now(),
            deadline,
            info: Rc::clone(&state.info),
            lock_wait: state.holds.lock_wait,
            harmless: Rc::default(),
        };
        let scope = self.scope(&past.statements(), &state.env)?;
        let mut done = self.read(scope.to_vec(), &past).await.map_err(|error| {
            match error.sqlstate() == SCHEMA_CHANGED {
                true => schema_changed(),
                false => error,
            }
        })?;
        done.pop()
            .ok_or_else(|| Error::internal("a statement without an outcome"))
    }

    /// All statements of a block must be planned for one schema: rows written under another would lack what it added.
    fn in_version(&self, state: &mut State, plan: Arc<Plan>) -> Result<Arc<Plan>> {
        if plan.is_ddl() {
            return Err(
                Error::unsupported("changing the schema inside a transaction block")
                    .hint("send CREATE, DROP and the like on their own, outside of BEGIN"),
            );
        }
        let wanted = match state.version {
            Some(version) => version,
            None => self.catalog().version,
        };
        let plan = match plan.prepared.version == wanted {
            true => plan,
            false => {
                let next = self.plan(&plan.text, &plan.param_oids)?;
                let (old, new) = (&plan.prepared, &next.prepared);
                if old.columns != new.columns || old.params != new.params {
                    return Err(
                        Error::new("0A000", "cached plan must not change result type").hint(
                            "the schema changed since the statement was prepared: prepare it again",
                        ),
                    );
                }
                next
            }
        };
        if plan.prepared.version != wanted {
            return Err(schema_changed());
        }
        state.version = Some(wanted);
        Ok(plan)
    }

    /// What the statement reads.
    async fn block_view(
        &self,
        state: &mut State,
        mode: BlockMode,
        job: &Job,
        deadline: Instant,
    ) -> Result<View> {
        if let Some(view) = &state.view {
            return Ok(view.clone());
        }
        let each = mode.isolation == Isolation::ReadCommitted;
        let groups = match each {
            true => job.scope.to_vec(),
            false => self.placement.partition_groups().collect(),
        };
        let (ts, sources) = self.snapshot(&groups, deadline).await?;
        let view = View::Snapshot {
            ts,
            sources: Arc::new(sources),
            first_updater_wins: !each,
            validated: mode.isolation == Isolation::Serializable && !mode.read_only,
        };
        if !each {
            state.view = Some(view.clone());
        }
        Ok(view)
    }

    /// Partitions that statements may touch.
    pub(super) fn scope(
        &self,
        statements: &[(Arc<Prepared>, Vec<Value>)],
        env: &TxnEnv,
    ) -> Result<Arc<[u32]>> {
        let mut groups = std::collections::BTreeSet::new();
        for (prepared, params) in statements {
            if prepared.kind == Kind::Explain {
                continue;
            }
            match prepared.route(params)? {
                Route::Slot(slot) => drop(groups.insert(self.placement.group_of(slot))),
                Route::Slots(slots) => {
                    groups.extend(slots.into_iter().map(|s| self.placement.group_of(s)));
                }
                Route::Anywhere => drop(groups.insert(env.partition + 1)),
                _ => groups.extend(self.placement.partition_groups()),
            }
        }
        Ok(groups.into_iter().collect())
    }
}

impl Block for GatewayBlock {
    fn run(&self, statement: Bound) -> LocalBoxFuture<'static, Result<Outcome>> {
        let gateway = Rc::clone(&self.gateway);
        let connection = Rc::clone(&self.connection);
        let (cell, mode) = (Rc::clone(&self.state), self.mode.get());
        async move {
            let plan = plan_of(&statement)?;
            let mut state = cell.borrow_mut().take().ok_or_else(over)?;
            let cancel = Arc::clone(&connection.cancel.borrow());
            let deadline = gateway.deadline(&connection.info);
            let mark = state.work.buffer.mark();
            state.holds.lock_wait = lock_wait(&connection.info);
            let flag = Arc::clone(&cancel);
            let run =
                gateway.block_statement(&mut state, mode, plan, statement.params, flag, deadline);
            let result = tokio::select! {
                result = run => result,
                () = cancelled_by(&cancel, deadline) => Err(cancelled()),
            };
            if result.is_err() {
                cancel.store(true, Ordering::Relaxed);
                connection.cancel.take();
                state.work.buffer.rollback_to(mark);
                state.work.known.take_needs();
            }
            *cell.borrow_mut() = Some(state);
            result
        }
        .boxed_local()
    }

    fn savepoint(&self) -> usize {
        let state = self.state.borrow();
        state.as_ref().map_or(0, |s| s.work.buffer.mark())
    }

    fn rollback_to(&self, mark: usize) {
        if let Some(state) = &mut *self.state.borrow_mut() {
            state.work.buffer.rollback_to(mark);
        }
    }

    fn give_up(&self) {
        self.state.borrow_mut().take();
    }

    fn set_mode(&self, mode: BlockMode) {
        self.mode.set(mode);
    }

    fn commit(&self) -> LocalBoxFuture<'static, Result<()>> {
        let gateway = Rc::clone(&self.gateway);
        let cell = Rc::clone(&self.state);
        async move {
            let state = cell.borrow_mut().take().ok_or_else(over)?;
            let version = state.version.unwrap_or(0);
            let done = gateway
                .commit(&state.holds, &state.work, version, None)
                .await;
            match done {
                Ok(_) => Ok(()),
                Err(error) if error.sqlstate() == SCHEMA_CHANGED => Err(schema_changed()),
                Err(error) if may_pass(&error) => Err(error.hint("run the transaction again")),
                Err(error) => Err(error),
            }
        }
        .boxed_local()
    }
}

fn schema_changed() -> Error {
    Error::retry(
        "40001",
        "could not serialize access: the schema changed during the transaction",
    )
    .hint("run the transaction again")
}

/// The state went with a statement that was given up.
fn over() -> Error {
    Error::retry(
        "40001",
        "could not serialize access: the transaction was given up with its statement",
    )
}
