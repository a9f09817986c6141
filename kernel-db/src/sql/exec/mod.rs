//! The row executor: runs plans against a [`Store`], row by row, without hopping threads or planning anew.
//!
//! Rows are pushed: a source calls back for each row and is told whether to go on, so that LIMIT stops a scan early. Every
//! row visited or written is a step of the budget. Nothing here reads a clock or a random source: the environment brings
//! both, so that the same transaction on the same state does the same.

mod backfill;
mod eval;
mod kept;
pub(super) mod keys;
mod query;
mod recursive;
pub(super) mod reply;
mod routine;
mod row_locks;
mod scan;
mod steps;
mod truth;
mod window;
mod write;

use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;

use super::catalog::Catalog;
pub use super::catalog::SystemTables;
use super::functions::FnCtx;
use super::plan::{Expr, Plan};
use super::{DataType, Value};
pub use crate::error::Notice;
use crate::error::{Error, Result};
use crate::partition::{Store, TxnEnv};
pub use backfill::run as backfill;
pub use keys::NoStore;
pub use routine::compile_sql_function;
pub use scan::rows_within;

/// Calls of functions within functions.
pub const CALL_DEPTH_MAX: u32 = 64;

/// What a statement gave.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Outcome {
    pub rows: Vec<Vec<Value>>,
    /// Command tag, such as `INSERT 0 1`.
    pub tag: String,
    /// Rows returned or changed.
    pub count: u64,
    pub notices: Vec<Notice>,
}

/// What a transaction's statements share while they run.
pub struct ExecCtx<'a> {
    pub store: &'a mut dyn Store,
    pub env: &'a mut TxnEnv,
    pub catalog: &'a Arc<Catalog>,
    pub system: Option<&'a dyn SystemTables>,
    pub notices: Vec<Notice>,
    /// Functions being called.
    depth: u32,
    /// Last values of sequences in this transaction, by sequence id.
    current: Vec<(u32, i64)>,
    /// Rows of the last round of each recursive query under way.
    working: HashMap<usize, Rc<Vec<Vec<Value>>>>,
}

impl<'a> ExecCtx<'a> {
    pub fn new(
        store: &'a mut dyn Store,
        env: &'a mut TxnEnv,
        catalog: &'a Arc<Catalog>,
        system: Option<&'a dyn SystemTables>,
    ) -> Self {
        Self {
            store,
            env,
            catalog,
            system,
            notices: Vec::new(),
            depth: 0,
            current: Vec::new(),
            working: HashMap::new(),
        }
    }

    /// Surroundings of the built-in functions.
    pub fn functions(&mut self) -> FnCtx<'_> {
        FnCtx {
            wall_us: self.env.wall_us,
            seed: &mut self.env.seed,
            wait: self.env.wait.as_mut(),
            lease: self.env.lease.as_mut(),
            user: "dbos",
            database: "dbos",
            application: "",
        }
    }

    /// One step of the budget.
    #[inline]
    pub fn step(&mut self) -> Result<()> {
        self.env.budget.step(1)
    }
}

/// The rows that an expression can see.
#[derive(Clone, Copy)]
pub(super) struct Frame<'f> {
    params: &'f [Value],
    row: &'f [Value],
    outer: Option<&'f Frame<'f>>,
}

impl<'f> Frame<'f> {
    fn new(params: &'f [Value]) -> Self {
        Self {
            params,
            row: &[],
            outer: None,
        }
    }

    fn with_row<'g>(&self, row: &'g [Value]) -> Frame<'g>
    where
        'f: 'g,
    {
        Frame {
            params: self.params,
            row,
            outer: self.outer,
        }
    }
}

/// Bytes of a row's values, roughly.
pub fn row_bytes(row: &[Value]) -> u64 {
    row.iter().map(|value| value.bytes() as u64).sum()
}

/// Runs a plan; notices stay in `ctx`.
pub fn run_plan(plan: &Plan, ctx: &mut ExecCtx<'_>, params: &[Value]) -> Result<Outcome> {
    let done = run_quiet(plan, ctx, params)?;
    Ok(Outcome {
        tag: done.tag(),
        rows: done.rows,
        count: done.count,
        notices: Vec::new(),
    })
}

/// As `run_plan`, for statements inside of functions: nobody is told their command tags.
pub fn run_quiet(plan: &Plan, ctx: &mut ExecCtx<'_>, params: &[Value]) -> Result<Done> {
    match plan {
        Plan::Query(query) => {
            let (mut rows, mut bytes) = (Vec::new(), 0);
            query::run(query, &Frame::new(params), ctx, &mut |ctx, row| {
                bytes += row_bytes(&row);
                ctx.env.budget.check_result(bytes)?;
                rows.push(row);
                Ok(true)
            })?;
            Ok(Done::new("SELECT", rows.len() as u64, rows))
        }
        Plan::Do(call) => {
            query::run(call, &Frame::new(params), ctx, &mut |_, _| Ok(true))?;
            Ok(Done::new(DO, 0, Vec::new()))
        }
        Plan::Insert(insert) => write::insert(insert, ctx, params),
        Plan::Update(update) => write::update(update, ctx, params),
        Plan::Delete(delete) => write::delete(delete, ctx, params),
        Plan::Explain(lines) => {
            let rows: Vec<Vec<Value>> = lines
                .iter()
                .map(|l| vec![Value::text(l.as_str())])
                .collect();
            Ok(Done::new(EXPLAIN, rows.len() as u64, rows))
        }
        Plan::Nothing => Err(Error::internal(
            "a statement without a plan reached a partition",
        )),
    }
}

/// What a statement did.
pub struct Done {
    pub rows: Vec<Vec<Value>>,
    /// Rows returned or changed.
    pub count: u64,
    verb: &'static str,
}

/// The commands whose tags have no count.
const EXPLAIN: &str = "EXPLAIN";
const DO: &str = "DO";

impl Done {
    fn new(verb: &'static str, count: u64, rows: Vec<Vec<Value>>) -> Self {
        Self { rows, count, verb }
    }

    /// The command tag, such as `INSERT 0 1`.
    fn tag(&self) -> String {
        let mut tag = String::with_capacity(self.verb.len() + 4);
        tag.push_str(self.verb);
        if ![EXPLAIN, DO].contains(&self.verb) {
            tag.push(' ');
            match u8::try_from(self.count) {
                Ok(digit @ 0..=9) => tag.push(char::from(b'0' + digit)),
                _ => tag.push_str(&self.count.to_string()),
            }
        }
        tag
    }
}

/// Evaluates an expression that reads no row.
pub fn eval_expr(expr: &Expr, ctx: &mut ExecCtx<'_>, params: &[Value]) -> Result<Value> {
    eval::eval(expr, &Frame::new(params), ctx)
}

/// Evaluates an expression over constants and parameters alone, without a store: routing.
pub fn eval_pure(expr: &Expr, params: &[Value]) -> Result<Value> {
    let mut store = keys::NoStore;
    let mut env = TxnEnv {
        wall_us: 0,
        seed: 0,
        partition: 0,
        partitions: 1,
        budget: crate::partition::Budget::new(1_000),
        wait: None,
        lease: None,
    };
    let catalog = Arc::new(Catalog::default());
    let mut ctx = ExecCtx::new(&mut store, &mut env, &catalog, None);
    eval_expr(expr, &mut ctx, params)
}

/// Types of a row's columns, for callers that build results.
pub fn types_of(columns: &[super::prepare::Column]) -> Vec<DataType> {
    columns.iter().map(|c| c.data_type).collect()
}
