//! What the protocol needs from the node behind it.
//!
//! The protocol side knows messages, portals, formats and session settings; the backend knows SQL and partitions. The
//! boundary is the implicit transaction: everything up to one Sync, or all of one simple query, is handed over at once,
//! unless some of it must be seen before its end (`implicit`).
//!
//! What holds: transactions of one connection are submitted in the order of their Syncs; transactions of different lanes
//! never overlap on one connection, so a client that pipelines sees its own effects in order. Inside a transaction block
//! (BEGIN) statements are handed over one by one. Left to the protocol side: SET, SHOW, RESET, DISCARD, DEALLOCATE, the
//! names of savepoints and COPY never reach the backend.

use std::any::Any;
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use futures::future::LocalBoxFuture;

pub use crate::error::Notice;
use crate::error::{Error, Result};
use crate::sql::{DataType, Value};

/// A result column.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Column {
    pub name: String,
    pub data_type: DataType,
}

/// What a statement does to the transaction it is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    Reads,
    Writes,
    /// Reads a time that is over, which no transaction changes: alone.
    Past,
    /// Changes the schema: only with others that do, as one change.
    Schema,
}

/// A statement that the backend has planned.
#[derive(Clone)]
pub struct Statement {
    /// Types of $1, $2, ...
    pub params: Vec<DataType>,
    /// Result columns; none if the statement returns no rows.
    pub columns: Option<Vec<Column>>,
    pub effect: Effect,
    /// A transaction with this statement takes the next number of the client's session (I11).
    pub numbered: bool,
    /// The backend's own plan.
    pub handle: Arc<dyn Any + Send + Sync>,
}

/// A statement with values for its parameters: one Execute, or one statement of a simple query.
#[derive(Clone)]
pub struct Bound {
    pub statement: Rc<Statement>,
    pub params: Vec<Value>,
}

/// What one statement of a committed transaction did.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Outcome {
    /// Values in the order of `Statement::columns`.
    pub rows: Vec<Vec<Value>>,
    /// Command tag as PostgreSQL prints it: `INSERT 0 1`, `SELECT 5`.
    pub tag: String,
    pub notices: Vec<Notice>,
}

/// A transaction that came to nothing, or whose end is not known (class Unknown).
#[derive(Clone, Debug, PartialEq)]
pub struct Failed {
    /// What the statements before the one that failed did: shown to the client, and undone.
    pub before: Vec<Outcome>,
    pub error: Error,
}

impl From<Error> for Failed {
    fn from(error: Error) -> Self {
        let before = Vec::new();
        Self { before, error }
    }
}

/// Where a transaction runs, as far as the order on its connection is concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lane {
    /// Touches no table: may run beside anything.
    Any,
    /// Stays on this partition: may be submitted while earlier ones of the same partition are not committed yet. The
    /// backend keeps the order of submission.
    Partition(u32),
    /// Writes in several partitions: in the order of its connection like those of any other partition.
    Several,
    /// Everything earlier must be finished first, and everything later waits: DDL, reads of several partitions.
    Alone,
}

/// A transaction submitted and not answered yet.
#[derive(Clone, Debug)]
pub struct Running {
    /// Microseconds since the epoch.
    pub started_us: i64,
    /// Text of the transaction's first statement.
    pub query: Arc<str>,
}

/// One client connection, as the backend may see it. Lives on the core's thread.
pub struct ConnInfo {
    /// Unique among this node's connections of this process.
    pub pid: i32,
    /// Client address and port.
    pub peer: String,
    pub user: String,
    pub database: String,
    /// The client's session (I11), if it named one in its startup options.
    pub session: Option<u128>,
    pub application_name: RefCell<String>,
    /// 0: the node's own bound. Set by `SET statement_timeout`.
    pub statement_timeout_ms: Cell<u64>,
    /// 0: as long as the statement may take. Set by `SET lock_timeout`.
    pub lock_timeout_ms: Cell<u64>,
    /// Transactions submitted since the start.
    pub submitted: Cell<u64>,
    /// Nothing more comes from the client: it is gone, or only listens for what it has asked.
    pub hung_up: Arc<AtomicBool>,
    /// Submitted and not answered, oldest first; empty: idle.
    pub running: RefCell<VecDeque<Running>>,
}

/// Isolation of a transaction block, as PostgreSQL's levels promise at least. READ UNCOMMITTED is READ COMMITTED.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Isolation {
    /// Every statement sees what was committed before it began.
    ReadCommitted,
    /// Every statement sees what was committed before the first one.
    RepeatableRead,
    Serializable,
}

impl Isolation {
    /// From its SQL name, in any case.
    pub fn from_name(name: &str) -> Option<Self> {
        Some(match name.to_ascii_lowercase().as_str() {
            "serializable" => Self::Serializable,
            "repeatable read" => Self::RepeatableRead,
            "read committed" | "read uncommitted" => Self::ReadCommitted,
            _ => return None,
        })
    }

    pub fn name(self) -> &'static str {
        match self {
            Self::ReadCommitted => "read committed",
            Self::RepeatableRead => "repeatable read",
            Self::Serializable => "serializable",
        }
    }
}

/// How a transaction block runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockMode {
    pub isolation: Isolation,
    pub read_only: bool,
}

/// An open transaction block. One call at a time; dropping it rolls it back.
pub trait Block {
    /// Runs a statement: its outcome, which nobody else sees yet. After an error the statement has no effect, but the block
    /// can only be ended, or returned to a savepoint.
    fn run(&self, statement: Bound) -> LocalBoxFuture<'static, Result<Outcome>>;

    /// A mark to return to.
    fn savepoint(&self) -> usize;

    /// Undoes what was written since the mark; locks may stay.
    fn rollback_to(&self, mark: usize);

    /// Nothing of it will be committed, and there is no savepoint to return to: lets go of what others wait for.
    fn give_up(&self);

    /// The isolation changes only before the first statement.
    fn set_mode(&self, mode: BlockMode);

    /// Commits: everything or nothing; on an error nothing happened unless its class is Unknown.
    fn commit(&self) -> LocalBoxFuture<'static, Result<()>>;
}

/// The node behind the protocol. Everything happens on the core's thread, so futures need not be `Send`.
pub trait Backend {
    /// Plans one statement. `param_oids` may be shorter than the statement's parameters; 0 means "find out".
    /// Usually ready at once; the connection reads on only when it is.
    fn prepare(
        &self,
        conn: &Rc<ConnInfo>,
        sql: &str,
        param_oids: &[u32],
    ) -> LocalBoxFuture<'static, Result<Statement>>;

    /// 42601 if the statement cannot be parsed, whatever its names mean.
    fn check_syntax(&self, sql: &str) -> Result<()>;

    /// Where `txn` runs. Called right before `submit`.
    fn lane(&self, conn: &Rc<ConnInfo>, txn: &[Bound]) -> Lane;

    /// Runs the statements as one transaction: the outcomes of all, in order, once it is committed, or what it failed
    /// with. Must submit before it returns, not at the first poll: the
    /// order of calls is the order of execution. `number` is session and number (I11).
    fn submit(
        &self,
        conn: &Rc<ConnInfo>,
        txn: Vec<Bound>,
        number: Option<(u128, u64)>,
    ) -> LocalBoxFuture<'static, Result<Vec<Outcome>, Failed>>;

    /// Opens a transaction block. Everything the connection submitted before is finished.
    fn begin(&self, conn: &Rc<ConnInfo>, mode: BlockMode) -> Result<Rc<dyn Block>>;

    /// The highest timestamp seen here, which everything asked for from now on comes after: hybrid logical microseconds.
    fn seen(&self) -> u64;

    /// What is asked for here from now on comes after `ts`, as another node told it; 55000 if that is too far ahead.
    fn observe(&self, ts: u64) -> Result<()>;

    /// Asks to end what the connection is running (57014), if that is still possible. The secret was checked.
    fn cancel(&self, pid: i32);

    /// A connection finished its startup; `conn` shows its state (dbos.sessions, dbos.statements) until `disconnected`.
    fn connected(&self, conn: &Rc<ConnInfo>);

    /// The connection is gone. What it submitted still runs.
    fn disconnected(&self, conn: &Rc<ConnInfo>);
}
