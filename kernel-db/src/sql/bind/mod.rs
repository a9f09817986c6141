//! Binding: names become places, types are settled, conditions are made ready for the planner.
//!
//! Types follow PostgreSQL: a string literal or an untyped parameter is `Unknown` until its surroundings say what it is.
//! The binder keeps a stack of scopes, one per query level; a name found further out becomes an `Expr::Outer`.

mod array;
mod as_of;
mod call;
mod coerce;
mod dialect;
mod do_block;
mod expr;
mod from;
mod group;
mod inline;
mod long_chains;
mod named_windows;
mod names;
pub mod parse;
mod query;
mod recursive;
mod rewrite;
mod row_locks;
mod scope;
mod select;
mod session;
mod subquery;
mod system;
mod window;
mod write;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use sqlparser::ast::{self, SetExpr, Statement};
use sqlparser::tokenizer::Span;

use super::catalog::Catalog;
use super::plan::{AggregateCall, Expr, Plan, Routing, WindowCall, sites};
use super::prepare::{Column, Kind, Name, ParamScope, Prepared, PreparedExpr};
use super::{DataType, explain};
use crate::error::{Error, Result};
pub use as_of::{moment, stamp};
use named_windows::NamedWindows;
use recursive::Cte;
use scope::Scope;

/// How deep queries and expressions may nest.
const DEPTH_MAX: usize = 200;

/// An expression and its type.
#[derive(Clone, Debug)]
struct Typed {
    expr: Expr,
    data_type: DataType,
}

impl Typed {
    fn new(expr: Expr, data_type: DataType) -> Self {
        Self { expr, data_type }
    }
}

/// Aggregates and window functions met while a query level is bound.
#[derive(Default)]
struct Aggregates {
    calls: Vec<AggregateCall>,
    /// Where aggregates are not allowed, the name of the place.
    forbidden: Option<&'static str>,
    windows: Vec<WindowCall>,
    /// Where window functions are not allowed but aggregates are, the message that says so.
    no_windows: Option<&'static str>,
    named_windows: NamedWindows,
    /// What the windows of the WINDOW clause are made of.
    defined: Vec<Expr>,
}

pub(super) struct Binder<'a> {
    catalog: &'a Arc<Catalog>,
    text: Option<&'a str>,
    params: Vec<Option<DataType>>,
    names: &'a HashMap<String, Name>,
    /// Over `names`.
    columns_win: bool,
    positional: Vec<usize>,
    /// `$n` beyond the known ones makes a new parameter.
    growable: bool,
    scopes: Vec<Scope>,
    aggregates: Vec<Aggregates>,
    ctes: Vec<Cte>,
    /// For the next query that refers to itself.
    next_working: usize,
    depth: usize,
    writes: bool,
    /// Of the columns that the next SELECT's rows go into.
    target_types: Vec<DataType>,
}

/// Prepares the one statement in `text`.
pub fn prepare_text(
    catalog: &Arc<Catalog>,
    text: &str,
    types: &[Option<DataType>],
) -> Result<Prepared> {
    let mut statements = parse::parse_timed(text)?;
    if statements.len() > 1 {
        return Err(Error::new(
            "42601",
            "cannot insert multiple commands into a prepared statement",
        ));
    }
    let names = HashMap::new();
    let mut binder = Binder::new(catalog, types.to_vec(), &names, (0..types.len()).collect());
    binder.text = Some(text);
    binder.growable = true;
    match statements.pop() {
        Some(parsed) => {
            let as_of = match &parsed.as_of {
                Some(time) => Some(binder.as_of(time)?),
                None => None,
            };
            let mut prepared = binder.statement(&parsed.statement, &parsed.text)?;
            let reads = matches!(prepared.kind, Kind::Select | Kind::Explain) && !prepared.writes;
            if as_of.is_some() && !reads {
                return Err(Error::new(
                    "42601",
                    "AS OF SYSTEM TIME stands in a SELECT that reads only",
                ));
            }
            prepared.as_of = as_of;
            Ok(prepared)
        }
        None => Ok(binder.finish(Kind::Empty, Plan::Nothing, Vec::new())),
    }
}

pub fn prepare_statement(
    catalog: &Arc<Catalog>,
    statement: &Statement,
    scope: &ParamScope,
) -> Result<Prepared> {
    let mut binder = Binder::new(
        catalog,
        scope.types.clone(),
        &scope.names,
        scope.positional.clone(),
    );
    binder.columns_win = scope.columns_win;
    binder.statement(statement, &statement.to_string())
}

pub fn prepare_expression(
    catalog: &Arc<Catalog>,
    expr: &ast::Expr,
    scope: &ParamScope,
    want: Option<DataType>,
) -> Result<PreparedExpr> {
    let mut binder = Binder::new(
        catalog,
        scope.types.clone(),
        &scope.names,
        scope.positional.clone(),
    );
    let bound = binder.expr(expr)?;
    let (expr, data_type) = match want {
        Some(want) => (binder.assign(bound, want, None)?, want),
        None => {
            let bound = binder.settle(bound)?;
            (bound.expr, bound.data_type)
        }
    };
    let mut found = sites::Found::new(binder.catalog);
    found.expr(&expr);
    let (routing, writes) = found.finish();
    Ok(PreparedExpr {
        data_type,
        expr,
        routing,
        writes: writes || binder.writes,
    })
}

/// Binds SQL text of the catalogue (a check) over the columns of `table`.
pub fn bind_check(
    catalog: &Arc<Catalog>,
    table: &super::catalog::Table,
    text: &str,
) -> Result<Expr> {
    let names = HashMap::new();
    let mut binder = Binder::new(catalog, Vec::new(), &names, Vec::new());
    binder.check(table, text)
}

/// Binds SQL text of the catalogue (a default) as a value of `to`.
pub fn bind_default(
    catalog: &Arc<Catalog>,
    text: &str,
    to: DataType,
    max_len: Option<u32>,
) -> Result<Expr> {
    let names = HashMap::new();
    let mut binder = Binder::new(catalog, Vec::new(), &names, Vec::new());
    binder.default_value(text, to, max_len)
}

impl<'a> Binder<'a> {
    fn new(
        catalog: &'a Arc<Catalog>,
        params: Vec<Option<DataType>>,
        names: &'a HashMap<String, Name>,
        positional: Vec<usize>,
    ) -> Self {
        Self {
            catalog,
            text: None,
            params,
            names,
            columns_win: false,
            positional,
            growable: false,
            scopes: Vec::new(),
            aggregates: Vec::new(),
            ctes: Vec::new(),
            next_working: 0,
            depth: 0,
            writes: false,
            target_types: Vec::new(),
        }
    }

    fn at(&self, error: Error, span: Span) -> Error {
        parse::locate(error, self.text, span)
    }

    /// One level deeper into the statement; 54001 when it is nested too deeply.
    fn enter(&mut self) -> Result<()> {
        self.depth += 1;
        if self.depth > DEPTH_MAX {
            return Err(Error::new(
                "54001",
                "stack depth limit exceeded: the statement is nested too deeply",
            ));
        }
        Ok(())
    }

    fn statement(mut self, statement: &Statement, own_text: &str) -> Result<Prepared> {
        match statement {
            Statement::Query(query) => {
                if let SetExpr::Insert(inner) | SetExpr::Update(inner) | SetExpr::Delete(inner) =
                    query.body.as_ref()
                {
                    self.with(query)?;
                    return self.statement(inner, own_text);
                }
                let query = self.query(query)?;
                let columns = query.columns.clone();
                Ok(self.finish(Kind::Select, Plan::Query(query), columns))
            }
            Statement::Insert(insert) => {
                let (insert, columns) = self.insert(insert)?;
                Ok(self.finish(Kind::Insert, Plan::Insert(insert), columns))
            }
            Statement::Update(update) => {
                let (update, columns) = self.update(update)?;
                Ok(self.finish(Kind::Update, Plan::Update(update), columns))
            }
            Statement::Delete(delete) => {
                let (delete, columns) = self.delete(delete)?;
                Ok(self.finish(Kind::Delete, Plan::Delete(delete), columns))
            }
            Statement::Explain {
                statement, analyze, ..
            } => self.explain(statement, *analyze),
            Statement::CreateFunction(create) if do_block::is_do(create) => self.do_block(create),
            other if super::ddl::is_ddl(other) => {
                Ok(self.finish(Kind::Ddl(own_text.to_string()), Plan::Nothing, Vec::new()))
            }
            other => {
                let (command, columns) = session::command(other)?;
                Ok(self.finish(Kind::Session(command), Plan::Nothing, columns))
            }
        }
    }

    fn explain(self, statement: &Statement, analyze: bool) -> Result<Prepared> {
        if analyze {
            return Err(Error::unsupported("EXPLAIN ANALYZE").hint("use EXPLAIN"));
        }
        let catalog = self.catalog;
        let inner = Binder {
            depth: self.depth,
            ..self
        }
        .statement(statement, "")?;
        if matches!(inner.kind, Kind::Ddl(_) | Kind::Session(_) | Kind::Empty) {
            return Err(Error::new(
                "42601",
                "EXPLAIN takes SELECT, INSERT, UPDATE or DELETE",
            ));
        }
        let lines = explain::lines(&inner);
        let columns = vec![Column {
            name: "QUERY PLAN".to_string(),
            data_type: DataType::Text,
        }];
        Ok(Prepared {
            params: inner.params,
            columns,
            kind: Kind::Explain,
            version: catalog.version,
            catalog: Arc::clone(catalog),
            plan: Plan::Explain(lines),
            routing: Routing::Nothing,
            writes: false,
            as_of: None,
            has_waited: AtomicBool::new(false),
        })
    }

    fn finish(self, kind: Kind, plan: Plan, columns: Vec<Column>) -> Prepared {
        let mut found = sites::Found::new(self.catalog);
        found.plan(&plan);
        let (routing, writes) = found.finish();
        let writes =
            writes || self.writes || matches!(kind, Kind::Insert | Kind::Update | Kind::Delete);
        Prepared {
            params: self
                .params
                .iter()
                .map(|t| t.unwrap_or(DataType::Text))
                .collect(),
            columns,
            kind,
            version: self.catalog.version,
            catalog: Arc::clone(self.catalog),
            plan,
            routing,
            writes,
            as_of: None,
            has_waited: AtomicBool::new(false),
        }
    }
}

/// An identifier as PostgreSQL reads it: lower case unless quoted.
pub fn ident(ident: &ast::Ident) -> String {
    if ident.quote_style.is_some() {
        ident.value.clone()
    } else {
        ident.value.to_lowercase()
    }
}

/// Schema, if given, and name.
pub fn object_name(name: &ast::ObjectName) -> Result<(Option<String>, String)> {
    let mut parts = Vec::with_capacity(2);
    for part in &name.0 {
        match part {
            ast::ObjectNamePart::Identifier(i) => parts.push(ident(i)),
            ast::ObjectNamePart::Function(_) => {
                return Err(Error::new("42601", format!("invalid name {name}")));
            }
        }
    }
    let last = parts
        .pop()
        .ok_or_else(|| Error::new("42601", "a name is missing"))?;
    let schema = parts.pop();
    Ok((schema, last))
}

/// Span of a name's last part.
pub fn name_span(name: &ast::ObjectName) -> Span {
    match name.0.first() {
        Some(ast::ObjectNamePart::Identifier(i)) => i.span,
        _ => Span::empty(),
    }
}
