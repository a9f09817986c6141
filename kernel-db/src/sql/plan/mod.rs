//! Plans: what the binder produces, the executor runs and EXPLAIN prints.
//!
//! A query's FROM is a list of steps. Each step extends the row so far (the prefix) by its own columns, so that every
//! expression of the query sees one flat row: column i of the query is place i of the row.

mod access;
mod candidates;
pub mod choose;
mod expr;
mod query;
mod route;
pub mod sites;
mod window;
mod write;

pub use access::{Access, Bound, KeyPart, RangeAccess};
pub use expr::{AggregateCall, AnyOf, CompareOp, Expr, InList, RoutineCall, SubqueryKind};
pub use query::{
    Each, Grouping, HashKeys, JoinKind, Query, QueryBody, Recursive, SetKind, SiteKeys, SortKey,
    Source, Step, TableLock,
};
pub use route::{Routing, Site};
pub use window::{FrameBound, WindowCall, WindowFrame, WindowFunction};
pub use write::{
    Assignment, Conflict, ConflictAction, ConflictTarget, Delete, Insert, InsertSource, RowRules,
    Update,
};

/// A planned statement.
#[derive(Debug)]
pub enum Plan {
    Query(Query),
    Insert(Insert),
    Update(Update),
    Delete(Delete),
    /// DO: a call whose result nobody sees.
    Do(Query),
    /// Lines of text, made when planned.
    Explain(Vec<String>),
    /// DDL, session commands and empty statements: nothing to run in a partition.
    Nothing,
}
