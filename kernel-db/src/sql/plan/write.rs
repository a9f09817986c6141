//! Planned INSERT, UPDATE and DELETE.

use std::sync::Arc;

use super::expr::Expr;
use super::query::{Query, Step};
use crate::sql::DataType;
use crate::sql::catalog::Table;

/// What every row of a table must keep, compiled.
#[derive(Clone, Debug)]
pub struct RowRules {
    pub table: Arc<Table>,
    pub types: Vec<DataType>,
    /// Constraint name and condition over the table's columns.
    pub checks: Vec<(String, Expr)>,
}

#[derive(Clone, Debug)]
pub struct Insert {
    pub rules: RowRules,
    pub source: InsertSource,
    pub conflict: Option<Conflict>,
    /// Over the new row.
    pub returning: Option<Vec<Expr>>,
}

#[derive(Clone, Debug)]
pub enum InsertSource {
    /// One expression per column of the table, defaults and casts included; none for a hidden row id.
    Values(Vec<Vec<Expr>>),
    /// Rows of the query become the row that `columns` (one per column of the table) is evaluated over.
    Query {
        query: Box<Query>,
        columns: Vec<Expr>,
    },
}

/// ON CONFLICT.
#[derive(Clone, Debug)]
pub struct Conflict {
    pub target: ConflictTarget,
    pub action: ConflictAction,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConflictTarget {
    Any,
    PrimaryKey,
    /// Position in `Table::indexes`.
    Index(usize),
}

/// Expressions of DO UPDATE see the existing row, then the proposed one (`excluded`).
#[derive(Clone, Debug)]
pub enum ConflictAction {
    Nothing,
    Update {
        assignments: Vec<Assignment>,
        filter: Option<Expr>,
    },
}

#[derive(Clone, Debug)]
pub struct Assignment {
    pub column: usize,
    /// Cast to the column's type.
    pub value: Expr,
}

#[derive(Clone, Debug)]
pub struct Update {
    pub rules: RowRules,
    /// The table itself, then the tables of FROM.
    pub steps: Vec<Step>,
    pub filter: Option<Expr>,
    /// As in `QueryBody::Select`.
    pub known: Vec<(usize, Expr)>,
    pub assignments: Vec<Assignment>,
    /// Over the new row, then the row of FROM.
    pub returning: Option<Vec<Expr>>,
}

#[derive(Clone, Debug)]
pub struct Delete {
    pub rules: RowRules,
    pub steps: Vec<Step>,
    pub filter: Option<Expr>,
    pub known: Vec<(usize, Expr)>,
    pub returning: Option<Vec<Expr>>,
}
