//! From text to something that can be executed again and again: parse, bind, plan, route.
//!
//! A [`Prepared`] belongs to one schema version. It knows its parameters' types, its result's columns, whether it may
//! write, and, given parameters, which slots it touches.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use sqlparser::ast;

use super::catalog::Catalog;
use super::exec::{Done, ExecCtx, Outcome, SystemTables};
use super::plan::{Expr, Plan, Routing};
use super::{DataType, Value};
use crate::error::{Error, Result};
use crate::partition::{Slot, Store, TxnEnv};

pub use super::bind::moment;

/// A column of a result.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Column {
    pub name: String,
    pub data_type: DataType,
}

/// What sort of statement it is, for the gateway and the wire.
#[derive(Clone, Debug, PartialEq)]
pub enum Kind {
    Select,
    Insert,
    Update,
    Delete,
    Explain,
    /// A block of plpgsql without a name.
    Do,
    /// Changes the catalogue: goes to the system group as a `CatalogChange` with this text.
    Ddl(String),
    /// Concerns the connection only.
    Session(SessionCommand),
    /// An empty statement.
    Empty,
}

/// Statements answered by the connection itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SessionCommand {
    /// Name in lower case; the value as text, none for DEFAULT.
    Set {
        name: String,
        value: Option<String>,
    },
    Show {
        name: String,
    },
    /// None: all.
    Reset {
        name: Option<String>,
    },
    Begin,
    Commit,
    Rollback,
    /// SAVEPOINT, RELEASE and ROLLBACK TO.
    Savepoint,
    DiscardAll,
    /// None: all.
    Deallocate {
        name: Option<String>,
    },
}

/// Where a statement has to run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Route {
    /// Touches no key in particular: any partition (through its log if `writes()`: sequences, rows without primary key).
    Anywhere,
    /// One slot.
    Slot(Slot),
    /// Several known slots: one partition if the slot map says so. Ascending, distinct, more than one.
    Slots(Vec<Slot>),
    /// Reads, in every partition.
    AllRead,
    /// May write, in any partition.
    AllWrite,
    /// Changes the catalogue.
    Ddl,
    /// For the connection itself.
    Session,
}

/// What a procedure's name stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Name {
    /// A scalar's slot.
    Slot(usize),
    /// The slots of a record's fields; none if nothing was assigned to it yet.
    Row(Vec<usize>),
}

/// Names that stand for parameters: the variables of a procedure.
#[derive(Clone, Debug, Default)]
pub struct ParamScope {
    /// Type of each slot; none if it is to be inferred from its use.
    pub types: Vec<Option<DataType>>,
    /// Lower-case name, or `label.name` / `record.field`, to what it means.
    pub names: HashMap<String, Name>,
    /// `$n` means slot `positional[n - 1]`.
    pub positional: Vec<usize>,
    /// A column of the same name is meant, as in LANGUAGE sql; otherwise that is an error, as in plpgsql.
    pub columns_win: bool,
}

impl ParamScope {
    /// `$1`, `$2`, ... only.
    pub fn positional(types: &[Option<DataType>]) -> Self {
        Self {
            types: types.to_vec(),
            names: HashMap::new(),
            positional: (0..types.len()).collect(),
            columns_win: false,
        }
    }
}

/// A statement ready to run.
#[derive(Debug)]
pub struct Prepared {
    /// Types of the parameters, inferred where the caller left them open.
    pub params: Vec<DataType>,
    /// Empty for a statement without result rows, and for one whose rows have no columns.
    pub columns: Vec<Column>,
    pub kind: Kind,
    /// Schema version this was planned for.
    pub version: u64,
    pub(super) catalog: Arc<Catalog>,
    pub(super) plan: Plan,
    pub(super) routing: Routing,
    pub(super) writes: bool,
    /// The time of AS OF SYSTEM TIME.
    pub(super) as_of: Option<Expr>,
    /// A run of it has waited for a change: the next ones probably do.
    pub(super) has_waited: AtomicBool,
}

/// An expression ready to be evaluated: procedures' conditions and assignments.
#[derive(Debug)]
pub struct PreparedExpr {
    pub data_type: DataType,
    pub(super) expr: Expr,
    pub(super) routing: Routing,
    pub(super) writes: bool,
}

/// Splits a simple query into statements; each comes with its own text.
pub fn parse_many(text: &str) -> Result<Vec<(ast::Statement, String)>> {
    super::bind::parse::parse_many(text)
}

/// 42601 if `text` cannot be parsed; what its names mean is not looked at.
pub fn check_syntax(text: &str) -> Result<()> {
    super::bind::parse::parse_timed(text).map(drop)
}

/// Prepares the one statement in `text`. `param_types` may be shorter than the number of parameters.
pub fn prepare(
    catalog: &Arc<Catalog>,
    text: &str,
    param_types: &[Option<DataType>],
) -> Result<Prepared> {
    super::bind::prepare_text(catalog, text, param_types)
}

/// Prepares a parsed statement whose parameters are `scope`'s slots.
pub fn prepare_ast(
    catalog: &Arc<Catalog>,
    statement: &ast::Statement,
    scope: &ParamScope,
) -> Result<Prepared> {
    super::bind::prepare_statement(catalog, statement, scope)
}

/// Prepares an expression over `scope`'s slots; with `want`, its value is cast to that type as in an assignment.
pub fn prepare_expr(
    catalog: &Arc<Catalog>,
    expr: &ast::Expr,
    scope: &ParamScope,
    want: Option<DataType>,
) -> Result<PreparedExpr> {
    super::bind::prepare_expression(catalog, expr, scope, want)
}

impl Prepared {
    /// True if running it may write.
    pub fn writes(&self) -> bool {
        self.writes
    }

    /// True if running it may read or write a table: such statements are numbered under a session.
    pub fn touches_tables(&self) -> bool {
        !matches!(self.routing, Routing::Nothing) || self.writes
    }

    /// The slots it touches under these parameters.
    pub fn route(&self, params: &[Value]) -> Result<Route> {
        match self.kind {
            Kind::Ddl(_) => Ok(Route::Ddl),
            Kind::Session(_) | Kind::Empty => Ok(Route::Session),
            _ => self.routing.route(params, self.writes),
        }
    }

    /// The commit stamp (microseconds since the epoch) that AS OF SYSTEM TIME means when it is `wall_us`; none if the statement
    /// reads what is current. Errors: no time (22023, 22007).
    pub fn read_time(&self, params: &[Value], wall_us: i64) -> Result<Option<u64>> {
        let as_of = self.as_of.as_ref();
        as_of
            .map(|e| super::bind::stamp(e, params, wall_us))
            .transpose()
    }

    /// True if its result is rows.
    pub fn returns_rows(&self) -> bool {
        self.kind == Kind::Select || !self.columns.is_empty()
    }

    /// True if it has an AS OF SYSTEM TIME.
    pub fn is_timed(&self) -> bool {
        self.as_of.is_some()
    }

    /// How it finds its partition, for the analysis of procedures.
    pub fn routing(&self) -> &Routing {
        &self.routing
    }

    /// What it was planned against.
    pub fn catalog(&self) -> &Arc<Catalog> {
        &self.catalog
    }

    /// Runs as a statement of its own.
    pub fn execute(
        &self,
        store: &mut dyn Store,
        env: &mut TxnEnv,
        params: &[Value],
    ) -> Result<Outcome> {
        self.execute_with(store, env, params, None)
    }

    /// As `execute`, with a source for the tables of schema `dbos`.
    pub fn execute_with(
        &self,
        store: &mut dyn Store,
        env: &mut TxnEnv,
        params: &[Value],
        system: Option<&dyn SystemTables>,
    ) -> Result<Outcome> {
        let mut ctx = ExecCtx::new(store, env, &self.catalog, system);
        self.run_alone(&mut ctx, params)
    }

    /// Runs over a store that shows the moment of `read_time`, if there is one.
    pub fn execute_at(
        &self,
        store: &mut dyn Store,
        env: &mut TxnEnv,
        params: &[Value],
        system: Option<&dyn SystemTables>,
    ) -> Result<Outcome> {
        let mut ctx = ExecCtx::new(store, env, &self.catalog, system);
        let outcome = super::exec::run_plan(&self.plan, &mut ctx, params);
        with_notices(&mut ctx, outcome)
    }

    /// Runs as a statement of a transaction that is under way: its notices are with its outcome, or its error.
    pub fn run_alone(&self, ctx: &mut ExecCtx<'_>, params: &[Value]) -> Result<Outcome> {
        let outcome = self.run(ctx, params);
        with_notices(ctx, outcome)
    }

    /// Runs inside a transaction or procedure that is under way; notices are left in `ctx`.
    pub fn run(&self, ctx: &mut ExecCtx<'_>, params: &[Value]) -> Result<Outcome> {
        // A store of the present must not pass for one of the past.
        if self.as_of.is_some() && self.kind != Kind::Explain {
            return Err(Error::unsupported(
                "AS OF SYSTEM TIME inside of a transaction that may write",
            )
            .hint("send the SELECT on its own, or BEGIN READ ONLY"));
        }
        super::exec::run_plan(&self.plan, ctx, params)
    }

    /// As `run`, without a command tag: statements inside of functions.
    pub(super) fn run_quiet(&self, ctx: &mut ExecCtx<'_>, params: &[Value]) -> Result<Done> {
        super::exec::run_quiet(&self.plan, ctx, params)
    }
}

fn with_notices(ctx: &mut ExecCtx<'_>, outcome: Result<Outcome>) -> Result<Outcome> {
    let notices = std::mem::take(&mut ctx.notices);
    match outcome {
        Ok(outcome) => Ok(Outcome { notices, ..outcome }),
        Err(error) => Err(error.said(notices)),
    }
}

impl PreparedExpr {
    pub fn eval(&self, ctx: &mut ExecCtx<'_>, params: &[Value]) -> Result<Value> {
        super::exec::eval_expr(&self.expr, ctx, params)
    }

    pub fn routing(&self) -> &Routing {
        &self.routing
    }

    pub fn writes(&self) -> bool {
        self.writes
    }
}
