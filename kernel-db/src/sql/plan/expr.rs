//! Bound expressions: a tree of enums over places of the current row, parameters and constants.

use std::sync::Arc;

use super::query::Query;
use crate::sql::aggregate::Aggregate;
use crate::sql::catalog::{FunctionDef, Lookup, Sequence};
use crate::sql::functions::Function;
use crate::sql::{DataType, Value};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CompareOp {
    Eq,
    Ne,
    Lt,
    Le,
    Gt,
    Ge,
}

impl CompareOp {
    /// The operator with its sides exchanged.
    pub fn flip(self) -> Self {
        match self {
            Self::Lt => Self::Gt,
            Self::Le => Self::Ge,
            Self::Gt => Self::Lt,
            Self::Ge => Self::Le,
            same => same,
        }
    }

    pub fn symbol(self) -> &'static str {
        match self {
            Self::Eq => "=",
            Self::Ne => "<>",
            Self::Lt => "<",
            Self::Le => "<=",
            Self::Gt => ">",
            Self::Ge => ">=",
        }
    }
}

#[derive(Clone, Debug)]
pub enum Expr {
    Const(Value),
    Param(usize),
    /// A place of the current row.
    Column(usize),
    /// A place of the row `depth` queries further out (1 = the nearest).
    Outer {
        depth: usize,
        column: usize,
    },
    /// Result of the n-th aggregate call; only while a query is being bound.
    Aggregate(usize),
    /// Result of the n-th window call; only while a query is being bound.
    Window(usize),
    Compare {
        op: CompareOp,
        left: Box<Expr>,
        right: Box<Expr>,
    },
    And(Vec<Expr>),
    Or(Vec<Expr>),
    Not(Box<Expr>),
    IsNull {
        expr: Box<Expr>,
        negated: bool,
    },
    /// IS `[NOT]` TRUE / FALSE.
    IsBool {
        expr: Box<Expr>,
        want: bool,
        negated: bool,
    },
    /// IS `[NOT]` DISTINCT FROM.
    Distinct {
        left: Box<Expr>,
        right: Box<Expr>,
        negated: bool,
    },
    Function {
        function: Arc<Function>,
        args: Vec<Expr>,
    },
    Case {
        /// (condition, result); an operand has been made part of the conditions.
        whens: Vec<(Expr, Expr)>,
        otherwise: Option<Box<Expr>>,
    },
    Coalesce(Vec<Expr>),
    NullIf(Box<Expr>, Box<Expr>),
    /// GREATEST / LEAST.
    Extreme {
        greatest: bool,
        args: Vec<Expr>,
    },
    In(Box<InList>),
    Like {
        expr: Box<Expr>,
        pattern: Box<Expr>,
        escape: Option<char>,
        insensitive: bool,
        negated: bool,
    },
    Cast {
        expr: Box<Expr>,
        to: DataType,
        explicit: bool,
        /// varchar(n).
        max_len: Option<u32>,
        /// Between integers: equal keys keep their slot.
        keeps_slot: bool,
    },
    Subquery {
        kind: SubqueryKind,
        query: Box<Query>,
    },
    Routine(Box<RoutineCall>),
    NextVal(Arc<Sequence>),
    CurrVal(Arc<Sequence>),
    /// dbos.partition_of(table, key): slot of the key, then the partition.
    PartitionOf(Box<Expr>),
    Row(Vec<Expr>),
    /// ARRAY[...].
    Array {
        element: DataType,
        items: Vec<Expr>,
    },
    /// An element of an array, counted from 1.
    Element {
        array: Box<Expr>,
        index: Box<Expr>,
    },
    /// op ANY (array), op ALL (array).
    Any(Box<AnyOf>),
    /// A function that looks things up in the catalogue.
    Lookup {
        lookup: Lookup,
        args: Vec<Expr>,
    },
}

/// A comparison with each element of an array.
#[derive(Clone, Debug)]
pub struct AnyOf {
    pub op: CompareOp,
    pub expr: Expr,
    pub array: Expr,
    pub all: bool,
}

#[derive(Clone, Debug)]
pub struct InList {
    pub expr: Expr,
    pub list: Vec<Expr>,
    pub negated: bool,
}

#[derive(Clone, Debug)]
pub enum SubqueryKind {
    /// At most one row, one column.
    Scalar,
    Exists,
    /// All rows of one column, of this type.
    Array(DataType),
    In {
        expr: Box<Expr>,
        negated: bool,
    },
}

/// A call of a function of the user's.
#[derive(Clone, Debug)]
pub struct RoutineCall {
    pub def: Arc<FunctionDef>,
    /// One per input argument, cast.
    pub args: Vec<Expr>,
}

/// An aggregate call of a grouped query.
#[derive(Clone, Debug)]
pub struct AggregateCall {
    pub aggregate: Aggregate,
    pub args: Vec<Expr>,
    pub distinct: bool,
    pub filter: Option<Expr>,
    /// ORDER BY inside the call: (key, descending, nulls first).
    pub order: Vec<(Expr, bool, bool)>,
    pub data_type: DataType,
}

impl Expr {
    pub const TRUE: Self = Self::Const(Value::Bool(true));

    pub fn is_const_true(&self) -> bool {
        matches!(self, Self::Const(Value::Bool(true)))
    }

    /// Splits a condition at its top-level ANDs.
    pub fn conjuncts(self) -> Vec<Expr> {
        match self {
            Self::And(list) => list.into_iter().flat_map(Self::conjuncts).collect(),
            other if other.is_const_true() => Vec::new(),
            other => vec![other],
        }
    }

    /// Joins conditions; none for none.
    pub fn all(mut list: Vec<Expr>) -> Option<Expr> {
        match list.len() {
            0 => None,
            1 => list.pop(),
            _ => Some(Self::And(list)),
        }
    }

    /// Calls `f` on each direct child that is evaluated in the same row context (not inside subqueries' plans).
    pub fn children(&self, f: &mut dyn FnMut(&Expr)) {
        match self {
            Self::Const(_)
            | Self::Param(_)
            | Self::Column(_)
            | Self::Outer { .. }
            | Self::Aggregate(_)
            | Self::Window(_)
            | Self::NextVal(_)
            | Self::CurrVal(_) => {}
            Self::Compare { left, right, .. }
            | Self::Distinct { left, right, .. }
            | Self::NullIf(left, right) => {
                f(left);
                f(right);
            }
            Self::And(list)
            | Self::Or(list)
            | Self::Coalesce(list)
            | Self::Row(list)
            | Self::Array { items: list, .. } => list.iter().for_each(f),
            Self::Extreme { args, .. }
            | Self::Function { args, .. }
            | Self::Lookup { args, .. } => args.iter().for_each(f),
            Self::Element { array, index } => {
                f(array);
                f(index);
            }
            Self::Any(any) => {
                f(&any.expr);
                f(&any.array);
            }
            Self::Not(e) | Self::PartitionOf(e) => f(e),
            Self::IsNull { expr, .. } | Self::IsBool { expr, .. } | Self::Cast { expr, .. } => {
                f(expr)
            }
            Self::Case { whens, otherwise } => {
                for (when, then) in whens {
                    f(when);
                    f(then);
                }
                if let Some(e) = otherwise {
                    f(e);
                }
            }
            Self::In(list) => {
                f(&list.expr);
                list.list.iter().for_each(f);
            }
            Self::Like { expr, pattern, .. } => {
                f(expr);
                f(pattern);
            }
            Self::Subquery { kind, .. } => {
                if let SubqueryKind::In { expr, .. } = kind {
                    f(expr);
                }
            }
            Self::Routine(call) => call.args.iter().for_each(f),
        }
    }

    /// As `children`, mutable.
    pub fn children_mut(&mut self, f: &mut dyn FnMut(&mut Expr)) {
        match self {
            Self::Const(_)
            | Self::Param(_)
            | Self::Column(_)
            | Self::Outer { .. }
            | Self::Aggregate(_)
            | Self::Window(_)
            | Self::NextVal(_)
            | Self::CurrVal(_) => {}
            Self::Compare { left, right, .. }
            | Self::Distinct { left, right, .. }
            | Self::NullIf(left, right) => {
                f(left);
                f(right);
            }
            Self::And(list)
            | Self::Or(list)
            | Self::Coalesce(list)
            | Self::Row(list)
            | Self::Array { items: list, .. } => list.iter_mut().for_each(f),
            Self::Extreme { args, .. }
            | Self::Function { args, .. }
            | Self::Lookup { args, .. } => args.iter_mut().for_each(f),
            Self::Element { array, index } => {
                f(array);
                f(index);
            }
            Self::Any(any) => {
                f(&mut any.expr);
                f(&mut any.array);
            }
            Self::Not(e) | Self::PartitionOf(e) => f(e),
            Self::IsNull { expr, .. } | Self::IsBool { expr, .. } | Self::Cast { expr, .. } => {
                f(expr)
            }
            Self::Case { whens, otherwise } => {
                for (when, then) in whens {
                    f(when);
                    f(then);
                }
                if let Some(e) = otherwise {
                    f(e);
                }
            }
            Self::In(list) => {
                f(&mut list.expr);
                list.list.iter_mut().for_each(f);
            }
            Self::Like { expr, pattern, .. } => {
                f(expr);
                f(pattern);
            }
            Self::Subquery { kind, .. } => {
                if let SubqueryKind::In { expr, .. } = kind {
                    f(expr);
                }
            }
            Self::Routine(call) => call.args.iter_mut().for_each(f),
        }
    }

    /// Calls `f` on this expression and everything below it in the same row context.
    pub fn walk(&self, f: &mut dyn FnMut(&Expr)) {
        f(self);
        self.children(&mut |e| e.walk(f));
    }

    /// The highest place of the current row it reads, subqueries included.
    pub fn max_column(&self) -> Option<usize> {
        let mut found: Option<usize> = None;
        self.columns(&mut |c| found = Some(found.map_or(c, |f| f.max(c))));
        found
    }

    /// Calls `f` with every place of the current row it reads, from subqueries too.
    pub fn columns(&self, f: &mut dyn FnMut(usize)) {
        self.walk(&mut |e| match e {
            Self::Column(c) => f(*c),
            Self::Subquery { query, .. } => query.outer_columns(1, f),
            _ => {}
        });
    }

    /// True if it reads nothing but constants and parameters, and calling it twice gives the same.
    pub fn is_pure(&self) -> bool {
        let mut pure = true;
        self.walk(&mut |e| match e {
            Self::Column(_)
            | Self::Outer { .. }
            | Self::Aggregate(_)
            | Self::Window(_)
            | Self::Subquery { .. }
            | Self::Routine(_)
            | Self::NextVal(_)
            | Self::CurrVal(_)
            | Self::PartitionOf(_)
            | Self::Lookup { .. } => pure = false,
            Self::Function { function, .. } => {
                pure &= function.volatility == crate::sql::functions::Volatility::Immutable
            }
            _ => {}
        });
        pure
    }
}
