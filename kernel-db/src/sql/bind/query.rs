//! Queries around SELECT: WITH, VALUES, set operations, ORDER BY of a result, LIMIT.

use sqlparser::ast::{self, SetExpr, SetOperator, SetQuantifier};

use super::coerce::cast_expr;
use super::scope::Scope;
use super::select::{ordinal, sort_key};
use super::{Aggregates, Binder, Typed, ident};
use crate::error::{Error, Result};
use crate::sql::cast::{self, CastContext};
use crate::sql::plan::{Expr, JoinKind, Query, QueryBody, SetKind, Source, Step};
use crate::sql::prepare::Column;
use crate::sql::{DataType, Value};

impl Binder<'_> {
    pub(super) fn query(&mut self, query: &ast::Query) -> Result<Query> {
        self.enter()?;
        let ctes = self.ctes.len();
        let bound = self.with(query).and_then(|()| self.query_body(query));
        self.ctes.truncate(ctes);
        self.depth -= 1;
        bound
    }

    fn query_body(&mut self, query: &ast::Query) -> Result<Query> {
        if query
            .fetch
            .as_ref()
            .is_some_and(|f| f.with_ties || f.percent)
        {
            return Err(Error::unsupported("FETCH WITH TIES"));
        }
        let order: &[ast::OrderByExpr] = match query.order_by.as_ref().map(|o| &o.kind) {
            None => &[],
            Some(ast::OrderByKind::Expressions(list)) => list,
            Some(ast::OrderByKind::All(_)) => return Err(Error::unsupported("ORDER BY ALL")),
        };
        let limited = query.limit_clause.is_some() || query.fetch.is_some();
        let mut bound = match query.body.as_ref() {
            SetExpr::Select(select) => self.select(select, order, limited)?,
            SetExpr::Query(inner) => {
                let inner = self.query(inner)?;
                if order.is_empty() && !limited {
                    return Ok(inner);
                }
                if !inner.sort.is_empty() || inner.limit.is_some() || inner.offset.is_some() {
                    return Err(Error::unsupported(
                        "ORDER BY or LIMIT around a query that has its own",
                    ));
                }
                self.sort_output(inner, order)?
            }
            SetExpr::Values(values) => {
                let made = self.values(&values.rows)?;
                self.sort_output(made, order)?
            }
            SetExpr::SetOperation {
                left,
                op,
                set_quantifier,
                right,
            } => {
                let made = self.set_operation(left, *op, *set_quantifier, right)?;
                self.sort_output(made, order)?
            }
            other => return Err(Error::unsupported(format!("{other} as a query"))),
        };
        self.limits(query, &mut bound)?;
        self.row_locks(query, &mut bound)?;
        Ok(bound)
    }

    fn limits(&mut self, query: &ast::Query, bound: &mut Query) -> Result<()> {
        let (limit, offset) = match &query.limit_clause {
            None => (None, None),
            Some(ast::LimitClause::LimitOffset { limit, offset, .. }) => {
                (limit.as_ref(), offset.as_ref().map(|o| &o.value))
            }
            Some(ast::LimitClause::OffsetCommaLimit { .. }) => {
                return Err(Error::new("42601", "LIMIT #,# syntax is not supported")
                    .hint("Use separate LIMIT and OFFSET clauses."));
            }
        };
        let fetch = query.fetch.as_ref();
        let one = fetch
            .filter(|f| f.quantity.is_none())
            .map(|_| Expr::Const(Value::Int8(1)));
        let limit = limit.or_else(|| fetch.and_then(|f| f.quantity.as_ref()));
        self.scopes.push(Scope::default());
        let made = self
            .limit(limit, "LIMIT")
            .and_then(|l| Ok((l, self.limit(offset, "OFFSET")?)));
        self.scopes.pop();
        let (limit, offset) = made?;
        bound.limit = limit.or(one);
        bound.offset = offset;
        Ok(())
    }

    fn limit(&mut self, e: Option<&ast::Expr>, what: &'static str) -> Result<Option<Expr>> {
        let Some(e) = e else { return Ok(None) };
        let bound = self.without_aggregates(what, |b| b.expr(e))?;
        let from = bound.data_type;
        match self.coerce(bound, DataType::Int8, CastContext::Assignment)? {
            Some(expr) => Ok(Some(expr)),
            None => Err(Error::new(
                "42804",
                format!("argument of {what} must be type bigint, not type {from}"),
            )),
        }
    }

    fn values(&mut self, rows: &[ast::Parens<Vec<ast::Expr>>]) -> Result<Query> {
        self.scopes.push(Scope::default());
        let made = self.without_aggregates("VALUES", |b| b.values_in_scope(rows));
        self.scopes.pop();
        made
    }

    /// Binds what is of no SELECT, at a level of its own where neither aggregates nor window functions stand.
    pub(super) fn without_aggregates<T>(
        &mut self,
        place: &'static str,
        bind: impl FnOnce(&mut Self) -> Result<T>,
    ) -> Result<T> {
        self.aggregates.push(Aggregates {
            forbidden: Some(place),
            ..Aggregates::default()
        });
        let bound = bind(self);
        self.aggregates.pop();
        bound
    }

    fn values_in_scope(&mut self, rows: &[ast::Parens<Vec<ast::Expr>>]) -> Result<Query> {
        let width = rows.first().map_or(0, |r| r.len());
        let mut by_column: Vec<Vec<Typed>> =
            (0..width).map(|_| Vec::with_capacity(rows.len())).collect();
        for row in rows {
            if row.len() != width {
                return Err(Error::new(
                    "42601",
                    "VALUES lists must all be the same length",
                ));
            }
            for (column, e) in by_column.iter_mut().zip(row.iter()) {
                column.push(self.expr(e)?);
            }
        }
        let mut out: Vec<Vec<Expr>> = (0..rows.len()).map(|_| Vec::with_capacity(width)).collect();
        let mut columns = Vec::with_capacity(width);
        for (i, column) in by_column.into_iter().enumerate() {
            let (exprs, data_type) = self.unify(column, "VALUES")?;
            for (row, expr) in out.iter_mut().zip(exprs) {
                row.push(expr);
            }
            columns.push(Column {
                name: format!("column{}", i + 1),
                data_type,
            });
        }
        Ok(plain(QueryBody::Values(out), columns))
    }

    fn set_operation(
        &mut self,
        left: &SetExpr,
        op: SetOperator,
        quantifier: SetQuantifier,
        right: &SetExpr,
    ) -> Result<Query> {
        let all = match quantifier {
            SetQuantifier::All => true,
            SetQuantifier::None | SetQuantifier::Distinct => false,
            _ => return Err(Error::unsupported(format!("{op} {quantifier}"))),
        };
        let kind = match op {
            SetOperator::Union => SetKind::Union,
            SetOperator::Except | SetOperator::Minus => SetKind::Except,
            SetOperator::Intersect => SetKind::Intersect,
        };
        let left = self.set_side(left)?;
        let right = self.set_side(right)?;
        if left.columns.len() != right.columns.len() {
            return Err(Error::new(
                "42601",
                format!("each {op} query must have the same number of columns"),
            ));
        }
        let mut types = Vec::with_capacity(left.columns.len());
        for (l, r) in left.columns.iter().zip(&right.columns) {
            types.push(cast::common_type(
                &[l.data_type, r.data_type],
                &op.to_string(),
            )?);
        }
        let left = cast_columns(left, &types);
        let right = cast_columns(right, &types);
        let columns = left.columns.clone();
        let body = QueryBody::SetOperation {
            left: Box::new(left),
            right: Box::new(right),
            kind,
            all,
        };
        Ok(plain(body, columns))
    }

    pub(super) fn set_side(&mut self, side: &SetExpr) -> Result<Query> {
        self.enter()?;
        let made = match side {
            SetExpr::Select(select) => self.select(select, &[], false),
            SetExpr::Values(values) => self.values(&values.rows),
            SetExpr::Query(query) => self.query(query),
            SetExpr::SetOperation {
                left,
                op,
                set_quantifier,
                right,
            } => self.set_operation(left, *op, *set_quantifier, right),
            other => Err(Error::unsupported(format!("{other} as a query"))),
        };
        self.depth -= 1;
        made
    }

    /// ORDER BY over a result's own columns: names and positions only.
    fn sort_output(&mut self, mut query: Query, order: &[ast::OrderByExpr]) -> Result<Query> {
        for key in order {
            let position = match &key.expr {
                ast::Expr::Identifier(id) => {
                    let name = ident(id);
                    query
                        .columns
                        .iter()
                        .position(|c| c.name == name)
                        .ok_or_else(|| {
                            self.at(
                                Error::new("42703", format!("column \"{name}\" does not exist")),
                                id.span,
                            )
                        })?
                }
                other => match ordinal(other, query.columns.len())? {
                    Some(position) => position,
                    None => {
                        return Err(Error::unsupported("ORDER BY an expression over a set operation or VALUES")
                            .hint("Add the expression to every SELECT, or move the UNION into a FROM clause."));
                    }
                },
            };
            query.sort.push(sort_key(position, &key.options));
        }
        Ok(query)
    }
}

pub(super) fn plain(body: QueryBody, columns: Vec<Column>) -> Query {
    Query {
        body,
        columns,
        distinct: false,
        distinct_on: Vec::new(),
        sort: Vec::new(),
        limit: None,
        offset: None,
        locks: Vec::new(),
    }
}

/// A query that selects from this one, with its columns cast: for one whose own rows must stay as they are.
fn around(query: Query, types: &[DataType]) -> Query {
    let columns = query.columns.clone();
    let width = columns.len();
    let source = Source::Query(Box::new(query));
    let step = Step::new(source, JoinKind::Inner, 0, width);
    let body = QueryBody::Select {
        steps: vec![step],
        filter: None,
        grouping: None,
        windows: Vec::new(),
        project: (0..width).map(Expr::Column).collect(),
        known: Vec::new(),
    };
    cast_columns(plain(body, columns), types)
}

/// Casts the only column of a query.
pub fn cast_output(query: Query, to: DataType) -> Query {
    cast_columns(query, &[to])
}

/// Casts a query's columns where their types differ.
pub fn cast_columns(mut query: Query, types: &[DataType]) -> Query {
    if query
        .columns
        .iter()
        .map(|c| c.data_type)
        .eq(types.iter().copied())
    {
        return query;
    }
    let cast = |expr: &mut Expr, from: DataType, to: DataType| {
        if from != to && !(from.is_string() && to.is_string()) {
            let inner = std::mem::replace(expr, Expr::TRUE);
            // A constant that does not fit fails when it is evaluated, like any other value.
            *expr = cast_expr(inner.clone(), to, true, None).unwrap_or(Expr::Cast {
                expr: Box::new(inner),
                to,
                explicit: true,
                max_len: None,
                keeps_slot: false,
            });
        }
    };
    let from: Vec<DataType> = query.columns.iter().map(|c| c.data_type).collect();
    match &mut query.body {
        QueryBody::Select { project, .. } => {
            for (i, to) in types.iter().enumerate() {
                cast(&mut project[i], from[i], *to);
            }
        }
        QueryBody::Values(rows) => {
            for row in rows {
                for (i, to) in types.iter().enumerate() {
                    cast(&mut row[i], from[i], *to);
                }
            }
        }
        QueryBody::SetOperation { left, right, .. } => {
            for side in [left, right] {
                let empty = plain(QueryBody::Values(Vec::new()), Vec::new());
                let taken = std::mem::replace(side.as_mut(), empty);
                **side = cast_columns(taken, types);
            }
        }
        QueryBody::Recursive(_) => return around(query, types),
    }
    for (column, to) in query.columns.iter_mut().zip(types) {
        column.data_type = *to;
    }
    query
}
