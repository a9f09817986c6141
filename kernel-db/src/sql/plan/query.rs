//! Planned queries.

use std::sync::Arc;

use super::access::Access;
use super::expr::{AggregateCall, Expr, SubqueryKind};
use super::window::WindowCall;
use crate::partition::RowLock;
use crate::sql::DataType;
use crate::sql::catalog::Table;
use crate::sql::prepare::Column;

#[derive(Clone, Debug)]
pub struct Query {
    pub body: QueryBody,
    /// What the caller sees; rows may carry hidden sort keys behind these while they are made.
    pub columns: Vec<Column>,
    pub distinct: bool,
    /// DISTINCT ON: places of the projected row, of whose values only the first row is kept.
    pub distinct_on: Vec<usize>,
    pub sort: Vec<SortKey>,
    pub limit: Option<Expr>,
    pub offset: Option<Expr>,
    /// FOR UPDATE and the like.
    pub locks: Vec<TableLock>,
}

/// A table of FROM whose rows are locked before they are shown.
#[derive(Clone, Debug)]
pub struct TableLock {
    pub table: Arc<Table>,
    /// First place of its columns in the row.
    pub offset: usize,
    pub lock: RowLock,
}

#[derive(Clone, Debug)]
pub enum QueryBody {
    Select {
        steps: Vec<Step>,
        /// Conditions that read no row.
        filter: Option<Expr>,
        grouping: Option<Grouping>,
        /// Their results stand behind the row of FROM, or the group's.
        windows: Vec<WindowCall>,
        /// Visible columns, then hidden sort keys.
        project: Vec<Expr>,
        /// Places of the row that are always equal to an expression over constants, parameters and outer rows.
        known: Vec<(usize, Expr)>,
    },
    Values(Vec<Vec<Expr>>),
    SetOperation {
        left: Box<Query>,
        right: Box<Query>,
        kind: SetKind,
        all: bool,
    },
    Recursive(Box<Recursive>),
}

/// A query of WITH RECURSIVE that refers to itself.
#[derive(Clone, Debug)]
pub struct Recursive {
    /// Of its rows in `Source::Working`; unique in the statement.
    pub id: usize,
    pub name: String,
    pub base: Query,
    /// Reads the rows of the round before.
    pub step: Query,
    /// UNION ALL: rows that were there before come again.
    pub all: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SetKind {
    Union,
    Except,
    Intersect,
}

/// GROUP BY. Rows after it are the keys, then the aggregates' results.
#[derive(Clone, Debug)]
pub struct Grouping {
    pub keys: Vec<Expr>,
    pub calls: Vec<AggregateCall>,
    pub having: Option<Expr>,
}

#[derive(Clone, Debug)]
pub struct SortKey {
    /// Place in the projected row.
    pub column: usize,
    pub desc: bool,
    pub nulls_first: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JoinKind {
    Inner,
    Left,
    /// Rows of this step without a match come at the end, with nulls for all steps before it.
    Right,
    Full,
}

impl JoinKind {
    /// Rows of this step are kept without a match: everything before it can be null.
    pub fn keeps_right(self) -> bool {
        matches!(self, Self::Right | Self::Full)
    }

    /// Rows before this step are kept without a match: its own columns can be null.
    pub fn keeps_left(self) -> bool {
        matches!(self, Self::Left | Self::Full)
    }
}

/// One table, subquery or function of FROM.
#[derive(Clone, Debug)]
pub struct Step {
    pub source: Source,
    pub kind: JoinKind,
    /// First place of its columns in the row, and their number.
    pub offset: usize,
    pub width: usize,
    /// Decides whether a row of this step matches the prefix.
    pub on: Option<Expr>,
    /// WHERE conditions that see a left join's nulls.
    pub after: Option<Expr>,
    /// Own places (from 0) and what they must equal: rows are read once and hashed.
    pub hash: Option<HashKeys>,
    /// The source does not depend on the prefix and is read again and again: keep its rows.
    pub keep: bool,
    /// A table's possible partition keys, over constants, parameters and outer rows; none if not known.
    pub site: Option<SiteKeys>,
    /// The table's access path is walked once for each of these values, which it sees as place `offset` of the row.
    pub each: Option<Each>,
    /// Of a right or full join: conditions of the inner joins before it, until they are given their places.
    pub early: Vec<Expr>,
}

/// Values of a condition `column IN (...)` or `column = ANY (array)` that an access path uses.
#[derive(Clone, Debug)]
pub enum Each {
    List(Vec<Expr>),
    Elements(Expr),
}

/// Partition keys that a step may read.
#[derive(Clone, Debug)]
pub enum SiteKeys {
    AnyOf(Vec<Expr>),
    /// Elements of an array.
    Elements(Expr),
}

impl Each {
    pub fn expressions(&self, f: &mut dyn FnMut(&Expr)) {
        match self {
            Self::List(list) => list.iter().for_each(f),
            Self::Elements(array) => f(array),
        }
    }

    fn expressions_mut(&mut self, f: &mut dyn FnMut(&mut Expr)) {
        match self {
            Self::List(list) => list.iter_mut().for_each(f),
            Self::Elements(array) => f(array),
        }
    }
}

#[derive(Clone, Debug)]
pub struct HashKeys {
    pub own: Vec<usize>,
    pub probe: Vec<Expr>,
}

#[derive(Clone, Debug)]
pub enum Source {
    Table {
        table: Arc<Table>,
        alias: String,
        types: Vec<DataType>,
        access: Access,
    },
    System {
        table: Arc<Table>,
    },
    Query(Box<Query>),
    /// Rows of the last round of a recursive query, inside of it.
    Working {
        id: usize,
        name: String,
    },
    /// generate_series(from, to [, step]).
    Series(Vec<Expr>),
    /// unnest(array).
    Unnest(Expr),
    /// A function of the user's that returns rows, or any scalar expression as a one-row table.
    Routine {
        call: Expr,
        columns: usize,
    },
}

impl Query {
    /// Calls `f` on every expression evaluated in this query's own row context.
    pub fn expressions(&self, f: &mut dyn FnMut(&Expr)) {
        self.expressions_below(f);
        self.expressions_above(f);
    }

    /// Those that see the row of FROM even if there is a grouping.
    pub fn expressions_below(&self, f: &mut dyn FnMut(&Expr)) {
        if let QueryBody::Select {
            steps,
            filter,
            grouping,
            ..
        } = &self.body
        {
            steps.iter().for_each(|s| s.expressions(f));
            filter.iter().for_each(&mut *f);
            if let Some(g) = grouping {
                g.keys.iter().for_each(&mut *f);
                for call in &g.calls {
                    call.args.iter().for_each(&mut *f);
                    call.filter.iter().for_each(&mut *f);
                    call.order.iter().for_each(|(e, ..)| f(e));
                }
            }
        }
    }

    /// Those that see the group's row if there is a grouping.
    pub fn expressions_above(&self, f: &mut dyn FnMut(&Expr)) {
        if let QueryBody::Select {
            grouping,
            windows,
            project,
            ..
        } = &self.body
        {
            let having = grouping.iter().flat_map(|g| &g.having);
            having.for_each(&mut *f);
            windows.iter().for_each(|w| w.expressions(f));
            project.iter().for_each(&mut *f);
        }
        if let QueryBody::Values(rows) = &self.body {
            rows.iter().flatten().for_each(&mut *f);
        }
        self.limit.iter().for_each(&mut *f);
        self.offset.iter().for_each(&mut *f);
    }

    /// What is known of the places of the row of FROM.
    pub fn known_below(&self) -> Vec<(usize, Expr)> {
        match &self.body {
            QueryBody::Select { known, .. } => known.clone(),
            _ => Vec::new(),
        }
    }

    /// What is known of the places that the select list sees: those of a group are its keys.
    pub fn known_above(&self) -> Vec<(usize, Expr)> {
        let QueryBody::Select {
            known,
            grouping: Some(grouping),
            ..
        } = &self.body
        else {
            return self.known_below();
        };
        let of_key = |(place, key): (usize, &Expr)| match key {
            Expr::Column(c) => {
                let found = known.iter().find(|(k, _)| k == c);
                found.map(|(_, value)| (place, value.clone()))
            }
            _ => None,
        };
        grouping
            .keys
            .iter()
            .enumerate()
            .filter_map(of_key)
            .collect()
    }

    /// Queries evaluated inside this one's row context: subqueries of expressions and derived tables.
    pub fn inner_queries(&self, f: &mut dyn FnMut(&Query)) {
        self.expressions(&mut |e| {
            e.walk(&mut |e| {
                if let Expr::Subquery { query, .. } = e {
                    f(query);
                }
            });
        });
        if let QueryBody::Select { steps, .. } = &self.body {
            for step in steps {
                if let Source::Query(query) = &step.source {
                    f(query);
                }
            }
        }
    }

    /// Calls `f` with the columns it reads of the row `depth` queries further out.
    pub fn outer_columns(&self, depth: usize, f: &mut dyn FnMut(usize)) {
        self.expressions(&mut |e| {
            e.walk(&mut |e| {
                if let Expr::Outer { depth: d, column } = e
                    && *d == depth
                {
                    f(*column);
                }
            });
        });
        self.inner_queries(&mut |q| q.outer_columns(depth + 1, f));
        if let QueryBody::SetOperation { left, right, .. } = &self.body {
            left.outer_columns(depth, f);
            right.outer_columns(depth, f);
        }
        if let QueryBody::Recursive(recursive) = &self.body {
            recursive.base.outer_columns(depth, f);
            recursive.step.outer_columns(depth, f);
        }
    }

    /// Rewrites what it reads of the row `depth` queries further out.
    pub fn map_outer(&mut self, depth: usize, f: &mut dyn FnMut(&mut Expr)) {
        if let QueryBody::SetOperation { left, right, .. } = &mut self.body {
            left.map_outer(depth, f);
            right.map_outer(depth, f);
        }
        if let QueryBody::Recursive(recursive) = &mut self.body {
            recursive.base.map_outer(depth, f);
            recursive.step.map_outer(depth, f);
        }
        if let QueryBody::Select { steps, known, .. } = &mut self.body {
            for step in steps {
                if let Source::Query(query) = &mut step.source {
                    query.map_outer(depth + 1, f);
                }
                match &mut step.site {
                    Some(SiteKeys::AnyOf(keys)) => {
                        keys.iter_mut().for_each(|key| map_outer(key, depth, f));
                    }
                    Some(SiteKeys::Elements(array)) => map_outer(array, depth, f),
                    None => {}
                }
            }
            for (_, value) in known {
                map_outer(value, depth, f);
            }
        }
        self.expressions_mut(&mut |e| map_outer(e, depth, f));
    }

    fn expressions_mut(&mut self, f: &mut dyn FnMut(&mut Expr)) {
        if let QueryBody::Select {
            steps,
            filter,
            grouping,
            windows,
            project,
            ..
        } = &mut self.body
        {
            steps.iter_mut().for_each(|s| s.expressions_mut(f));
            filter.iter_mut().for_each(&mut *f);
            if let Some(g) = grouping {
                g.keys.iter_mut().for_each(&mut *f);
                for call in &mut g.calls {
                    call.args.iter_mut().for_each(&mut *f);
                    call.filter.iter_mut().for_each(&mut *f);
                    call.order.iter_mut().for_each(|(e, ..)| f(e));
                }
                g.having.iter_mut().for_each(&mut *f);
            }
            windows.iter_mut().for_each(|w| w.expressions_mut(f));
            project.iter_mut().for_each(&mut *f);
        }
        if let QueryBody::Values(rows) = &mut self.body {
            rows.iter_mut().flatten().for_each(&mut *f);
        }
        self.limit.iter_mut().for_each(&mut *f);
        self.offset.iter_mut().for_each(&mut *f);
    }
}

fn map_outer(expr: &mut Expr, depth: usize, f: &mut dyn FnMut(&mut Expr)) {
    match expr {
        Expr::Outer { depth: d, .. } if *d == depth => return f(expr),
        Expr::Subquery { query, kind } => {
            query.map_outer(depth + 1, f);
            if let SubqueryKind::In { expr, .. } = kind {
                map_outer(expr, depth, f);
            }
            return;
        }
        _ => {}
    }
    expr.children_mut(&mut |e| map_outer(e, depth, f));
}

impl Step {
    /// Every row of `source`, with nothing known of it yet.
    pub fn new(source: Source, kind: JoinKind, offset: usize, width: usize) -> Self {
        Self {
            source,
            kind,
            offset,
            width,
            on: None,
            after: None,
            hash: None,
            keep: false,
            site: None,
            each: None,
            early: Vec::new(),
        }
    }

    pub fn expressions(&self, f: &mut dyn FnMut(&Expr)) {
        match &self.source {
            Source::Table { access, .. } => access.expressions(f),
            Source::Series(args) => args.iter().for_each(&mut *f),
            Source::Routine { call, .. } | Source::Unnest(call) => f(call),
            Source::System { .. } | Source::Query(_) | Source::Working { .. } => {}
        }
        self.each.iter().for_each(|each| each.expressions(f));
        self.on.iter().for_each(&mut *f);
        self.after.iter().for_each(&mut *f);
        if let Some(hash) = &self.hash {
            hash.probe.iter().for_each(&mut *f);
        }
    }

    fn expressions_mut(&mut self, f: &mut dyn FnMut(&mut Expr)) {
        match &mut self.source {
            Source::Table { access, .. } => access.expressions_mut(f),
            Source::Series(args) => args.iter_mut().for_each(&mut *f),
            Source::Routine { call, .. } | Source::Unnest(call) => f(call),
            Source::System { .. } | Source::Query(_) | Source::Working { .. } => {}
        }
        self.each
            .iter_mut()
            .for_each(|each| each.expressions_mut(f));
        self.on.iter_mut().for_each(&mut *f);
        self.after.iter_mut().for_each(&mut *f);
        if let Some(hash) = &mut self.hash {
            hash.probe.iter_mut().for_each(&mut *f);
        }
    }
}
