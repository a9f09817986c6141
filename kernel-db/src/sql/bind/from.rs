//! FROM: tables, subqueries, functions and joins become steps.

use std::sync::Arc;

use sqlparser::ast::{self, JoinConstraint, JoinOperator, TableFactor};

use super::recursive::CteOf;
use super::scope::ScopeTable;
use super::{Binder, Typed, ident, name_span, object_name};
use crate::error::{Error, Result};
use crate::sql::DataType;
use crate::sql::cast::CastContext;
use crate::sql::catalog::Table;
use crate::sql::plan::{Access, Expr, JoinKind, Query, Source, Step};

/// Tables of one FROM.
pub const TABLES_MAX: usize = 64;

/// What FROM gave: steps, and the conditions of inner joins.
#[derive(Default)]
pub struct From {
    pub steps: Vec<Step>,
    pub conditions: Vec<Expr>,
}

/// A source before it has its place in the row.
struct Factor {
    source: Source,
    alias: String,
    columns: Vec<(String, DataType)>,
    visible: usize,
}

impl Binder<'_> {
    /// Binds FROM into the current scope.
    pub(super) fn from(&mut self, list: &[ast::TableWithJoins]) -> Result<From> {
        let mut from = From::default();
        for item in list {
            self.table_with_joins(item, &mut from)?;
        }
        Ok(from)
    }

    fn table_with_joins(&mut self, item: &ast::TableWithJoins, from: &mut From) -> Result<()> {
        let first = self.scope()?.tables.is_empty();
        self.relation(&item.relation, JoinKind::Inner, from)?;
        for join in &item.joins {
            self.join(join, first, from)?;
        }
        Ok(())
    }

    fn relation(&mut self, relation: &TableFactor, kind: JoinKind, from: &mut From) -> Result<()> {
        if let TableFactor::NestedJoin {
            table_with_joins,
            alias: None,
        } = relation
        {
            if kind == JoinKind::Inner {
                return self.table_with_joins(table_with_joins, from);
            }
            if table_with_joins.joins.is_empty() {
                return self.relation(&table_with_joins.relation, kind, from);
            }
            return Err(Error::unsupported("an outer join of a join in parentheses")
                .hint("put the inner join into a subquery: LEFT JOIN (SELECT ...) AS x"));
        }
        let factor = self.factor(relation)?;
        self.add(factor, kind, from)
    }

    fn add(&mut self, factor: Factor, kind: JoinKind, from: &mut From) -> Result<()> {
        if from.steps.len() >= TABLES_MAX {
            return Err(Error::new(
                "54000",
                format!("more than {TABLES_MAX} tables in one FROM"),
            ));
        }
        let scope = self.scope()?;
        if scope.tables.iter().any(|t| t.alias == factor.alias) {
            return Err(Error::new(
                "42712",
                format!("table name \"{}\" specified more than once", factor.alias),
            ));
        }
        let offset = scope.width();
        let width = factor.columns.len();
        scope.tables.push(ScopeTable {
            alias: factor.alias,
            columns: factor.columns,
            visible: factor.visible,
            offset,
        });
        from.steps
            .push(Step::new(factor.source, kind, offset, width));
        Ok(())
    }

    /// `first`: nothing stands before this chain of joins in FROM.
    fn join(&mut self, join: &ast::Join, first: bool, from: &mut From) -> Result<()> {
        let (kind, constraint) = match &join.join_operator {
            JoinOperator::Join(c) | JoinOperator::Inner(c) | JoinOperator::CrossJoin(c) => {
                (JoinKind::Inner, c)
            }
            JoinOperator::Left(c) | JoinOperator::LeftOuter(c) => (JoinKind::Left, c),
            JoinOperator::Right(c) | JoinOperator::RightOuter(c) => (JoinKind::Right, c),
            JoinOperator::FullOuter(c) => (JoinKind::Full, c),
            _ => return Err(Error::unsupported("this kind of join")),
        };
        if kind.keeps_right() {
            if !first {
                return Err(
                    Error::unsupported("RIGHT or FULL JOIN after another table of FROM")
                        .hint("put it first, or into a subquery"),
                );
            }
            if matches!(
                constraint,
                JoinConstraint::Using(_) | JoinConstraint::Natural
            ) {
                return Err(
                    Error::unsupported("RIGHT or FULL JOIN with USING or NATURAL")
                        .hint("write ON a.x = b.x, and COALESCE(a.x, b.x) for the column"),
                );
            }
        }
        let left_tables = self.scope()?.tables.len();
        self.relation(&join.relation, kind, from)?;
        let condition = match constraint {
            JoinConstraint::On(on) => {
                let bound = self.expr(on)?;
                Some(self.condition(bound, "JOIN/ON")?)
            }
            JoinConstraint::Using(names) => {
                let mut columns = Vec::with_capacity(names.len());
                for name in names {
                    columns.push(object_name(name)?.1);
                }
                Some(self.using(&columns, left_tables)?)
            }
            JoinConstraint::Natural => {
                let columns = self.shared_columns(left_tables)?;
                Some(self.using(&columns, left_tables)?)
            }
            JoinConstraint::None => None,
        };
        let Some(condition) = condition else {
            return Ok(());
        };
        match (kind, from.steps.last_mut()) {
            (JoinKind::Left, Some(step)) => step.on = Some(condition),
            (JoinKind::Right | JoinKind::Full, Some(step)) => {
                step.on = Some(condition);
                step.early = std::mem::take(&mut from.conditions);
            }
            _ => from.conditions.extend(condition.conjuncts()),
        }
        Ok(())
    }

    fn shared_columns(&mut self, left_tables: usize) -> Result<Vec<String>> {
        let scope = self.scope()?;
        let right = scope.tables[left_tables..]
            .iter()
            .flat_map(|t| &t.columns[..t.visible]);
        let has = |name: &String| {
            scope.tables[..left_tables]
                .iter()
                .any(|t| t.columns.iter().any(|(n, _)| n == name))
        };
        Ok(right
            .filter(|(n, _)| has(n))
            .map(|(n, _)| n.clone())
            .collect())
    }

    fn using(&mut self, columns: &[String], left_tables: usize) -> Result<Expr> {
        let mut all = Vec::with_capacity(columns.len());
        for name in columns {
            let scope = self.scope()?;
            let find = |tables: &[ScopeTable], merged: &[usize]| {
                tables.iter().find_map(|t| {
                    let i = t.columns.iter().position(|(n, _)| n == name)?;
                    (!merged.contains(&(t.offset + i))).then(|| (t.offset + i, t.columns[i].1))
                })
            };
            let missing = |side: &str| {
                Error::new(
                    "42703",
                    format!(
                        "column \"{name}\" specified in USING clause does not exist in {side} table"
                    ),
                )
            };
            let left =
                find(&scope.tables[..left_tables], &scope.merged).ok_or_else(|| missing("left"))?;
            let right = find(&scope.tables[left_tables..], &[]).ok_or_else(|| missing("right"))?;
            scope.merged.push(right.0);
            let typed = |(place, data_type)| Typed::new(Expr::Column(place), data_type);
            all.push(self.equal(typed(left), typed(right))?);
        }
        Ok(Expr::all(all).unwrap_or(Expr::TRUE))
    }

    fn factor(&mut self, relation: &TableFactor) -> Result<Factor> {
        match relation {
            TableFactor::Table {
                name,
                alias,
                args: None,
                sample: None,
                version: None,
                ..
            } => self.named_table(name, alias.as_ref()),
            TableFactor::Table {
                name,
                alias,
                args: Some(args),
                with_ordinality: false,
                ..
            } => self.table_function(name, &args.args, alias.as_ref()),
            TableFactor::Function {
                name,
                alias,
                args,
                with_ordinality: false,
                ..
            } => self.table_function(name, args, alias.as_ref()),
            TableFactor::Derived {
                lateral,
                subquery,
                alias,
                ..
            } => self.derived(subquery, *lateral, alias.as_ref()),
            TableFactor::UNNEST {
                alias,
                array_exprs,
                with_offset: false,
                with_ordinality: false,
                ..
            } => {
                let arrays: Vec<&ast::Expr> = array_exprs.iter().collect();
                let factor = self.unnest(&arrays)?;
                named_function(factor, "unnest", alias.as_ref())
            }
            other => Err(Error::unsupported(format!("FROM {other}"))),
        }
    }

    fn named_table(
        &mut self,
        name: &ast::ObjectName,
        alias: Option<&ast::TableAlias>,
    ) -> Result<Factor> {
        let (schema, plain) = object_name(name)?;
        if schema.is_none()
            && let Some(position) = self.ctes.iter().rposition(|c| c.name == plain)
        {
            return self.cte(position, alias);
        }
        let Some(table) = self.catalog.table(schema.as_deref(), &plain).cloned() else {
            return Err(self.no_table(name, schema.as_deref(), &plain));
        };
        let columns = table
            .columns
            .iter()
            .map(|c| (c.name.clone(), c.data_type))
            .collect();
        let visible = table.visible_columns().len();
        let source = if table.is_system {
            Source::System { table }
        } else {
            let shown = alias.map_or_else(|| plain.clone(), |a| ident(&a.name));
            Source::Table {
                types: table.types(),
                table,
                alias: shown,
                access: Access::full(),
            }
        };
        let mut factor = Factor {
            source,
            alias: plain,
            columns,
            visible,
        };
        rename(&mut factor, alias)?;
        Ok(factor)
    }

    fn no_table(&self, name: &ast::ObjectName, schema: Option<&str>, plain: &str) -> Error {
        if schema == Some("pg_catalog") || plain.starts_with("pg_") {
            let error = Error::unsupported(format!("the system view {plain}"))
                .hint("ask information_schema.tables, information_schema.columns, dbos.tables or dbos.indexes");
            return self.at(error, name_span(name));
        }
        let shown = schema.map_or_else(|| plain.to_string(), |s| format!("{s}.{plain}"));
        self.at(
            Error::new("42P01", format!("relation \"{shown}\" does not exist")),
            name_span(name),
        )
    }

    /// A WITH query is bound anew at each use; it sees only those before it.
    fn cte(&mut self, position: usize, alias: Option<&ast::TableAlias>) -> Result<Factor> {
        if let CteOf::Working { id, columns, uses } = &mut self.ctes[position].of {
            *uses += 1;
            let (id, columns) = (*id, columns.clone());
            let name = self.ctes[position].name.clone();
            let mut factor = Factor {
                visible: columns.len(),
                columns,
                source: Source::Working {
                    id,
                    name: name.clone(),
                },
                alias: name,
            };
            rename(&mut factor, alias)?;
            return Ok(factor);
        }
        let hidden = self.ctes.split_off(position);
        self.hide(&hidden);
        let made = match &hidden[0].of {
            CteOf::Query { cte, recursive, .. } => {
                self.derived_by(false, Some(&cte.alias), |binder| {
                    binder.with_query(cte, *recursive)
                })
            }
            CteOf::Hidden(error) => Err((**error).clone()),
            CteOf::Working { .. } => Err(Error::internal("a query inside of itself")),
        };
        self.ctes.truncate(position);
        self.ctes.extend(hidden);
        let mut factor = made?;
        rename(&mut factor, alias)?;
        Ok(factor)
    }

    fn derived(
        &mut self,
        query: &ast::Query,
        lateral: bool,
        alias: Option<&ast::TableAlias>,
    ) -> Result<Factor> {
        self.derived_by(lateral, alias, |binder| binder.query(query))
    }

    fn derived_by(
        &mut self,
        lateral: bool,
        alias: Option<&ast::TableAlias>,
        bind: impl FnOnce(&mut Self) -> Result<Query>,
    ) -> Result<Factor> {
        // Without LATERAL the tables beside it are not seen.
        let beside = if lateral {
            None
        } else {
            Some(std::mem::take(self.scope()?))
        };
        let bound = bind(self);
        if let Some(beside) = beside {
            *self.scope()? = beside;
        }
        let query: Query = bound?;
        let columns: Vec<(String, DataType)> = query
            .columns
            .iter()
            .map(|c| (c.name.clone(), c.data_type))
            .collect();
        let visible = columns.len();
        let unnamed = format!("*SELECT* {}", self.scope()?.tables.len());
        let mut factor = Factor {
            source: Source::Query(Box::new(query)),
            alias: unnamed,
            columns,
            visible,
        };
        rename(&mut factor, alias)?;
        Ok(factor)
    }

    fn table_function(
        &mut self,
        name: &ast::ObjectName,
        args: &[ast::FunctionArg],
        alias: Option<&ast::TableAlias>,
    ) -> Result<Factor> {
        let (_, plain) = object_name(name)?;
        let mut exprs = Vec::with_capacity(args.len());
        for arg in args {
            match arg {
                ast::FunctionArg::Unnamed(ast::FunctionArgExpr::Expr(e)) => exprs.push(e),
                other => return Err(Error::unsupported(format!("argument {other}"))),
            }
        }
        let factor = match plain.as_str() {
            "generate_series" => self.series(&exprs)?,
            "unnest" => self.unnest(&exprs)?,
            _ => self.routine_table(name, args)?,
        };
        named_function(factor, &plain, alias)
    }

    fn series(&mut self, args: &[&ast::Expr]) -> Result<Factor> {
        if !(2..=3).contains(&args.len()) {
            return Err(Error::new(
                "42883",
                "generate_series takes two or three arguments",
            ));
        }
        let mut bound = Vec::with_capacity(args.len());
        for arg in args {
            bound.push(self.expr(arg)?);
        }
        let types: Vec<DataType> = bound.iter().map(|t| t.data_type).collect();
        let data_type = if types.contains(&DataType::Timestamptz) {
            DataType::Timestamptz
        } else if types.contains(&DataType::Int8) {
            DataType::Int8
        } else if types
            .iter()
            .all(|t| matches!(t, DataType::Int4 | DataType::Int2 | DataType::Unknown))
        {
            DataType::Int4
        } else {
            return Err(Error::unsupported(format!(
                "generate_series over {}",
                types[0]
            )));
        };
        let mut exprs = Vec::with_capacity(bound.len());
        for (i, arg) in bound.into_iter().enumerate() {
            let to = if i == 2 && data_type == DataType::Timestamptz {
                DataType::Interval
            } else {
                data_type
            };
            let from = arg.data_type;
            let expr = self.coerce(arg, to, CastContext::Implicit)?;
            exprs.push(expr.ok_or_else(|| {
                Error::new("42883", format!("generate_series does not take {from}"))
            })?);
        }
        let columns = vec![("generate_series".to_string(), data_type)];
        Ok(Factor {
            source: Source::Series(exprs),
            alias: "generate_series".to_string(),
            columns,
            visible: 1,
        })
    }

    fn unnest(&mut self, args: &[&ast::Expr]) -> Result<Factor> {
        let [list] = args else {
            return Err(Error::unsupported("unnest of several arrays"));
        };
        let list = self.expr(list)?;
        let Some(element) = list.data_type.element() else {
            let types = [list.data_type];
            return Err(crate::sql::functions::does_not_exist("unnest", &types));
        };
        Ok(Factor {
            source: Source::Unnest(list.expr),
            alias: "unnest".to_string(),
            columns: vec![("unnest".to_string(), element)],
            visible: 1,
        })
    }

    /// A function as a table: the rows of a set, or one row.
    fn routine_table(
        &mut self,
        name: &ast::ObjectName,
        args: &[ast::FunctionArg],
    ) -> Result<Factor> {
        let call = ast::Function {
            name: name.clone(),
            uses_odbc_syntax: false,
            parameters: ast::FunctionArguments::None,
            args: ast::FunctionArguments::List(ast::FunctionArgumentList {
                duplicate_treatment: None,
                args: args.to_vec(),
                clauses: Vec::new(),
            }),
            filter: None,
            null_treatment: None,
            over: None,
            within_group: Vec::new(),
        };
        let bound = self.function(&call)?;
        let (_, plain) = object_name(name)?;
        let mut columns = vec![(plain.clone(), bound.data_type)];
        if let Expr::Routine(call) = &bound.expr
            && !call.def.returns.columns.is_empty()
        {
            columns = call
                .def
                .returns
                .columns
                .iter()
                .map(|(n, t)| (n.clone(), t.0))
                .collect();
        }
        let width = columns.len();
        let source = Source::Routine {
            call: bound.expr,
            columns: width,
        };
        Ok(Factor {
            source,
            alias: plain,
            columns,
            visible: width,
        })
    }

    /// Scope of the table a statement writes to.
    pub(super) fn target_scope(table: &Table, alias: String, offset: usize) -> ScopeTable {
        ScopeTable {
            alias,
            columns: table
                .columns
                .iter()
                .map(|c| (c.name.clone(), c.data_type))
                .collect(),
            visible: table.visible_columns().len(),
            offset,
        }
    }

    /// The table a statement writes to.
    pub(super) fn target(&self, name: &ast::ObjectName) -> Result<Arc<Table>> {
        let (schema, plain) = object_name(name)?;
        let Some(table) = self.catalog.table(schema.as_deref(), &plain) else {
            return Err(self.no_table(name, schema.as_deref(), &plain));
        };
        if table.is_system {
            let message = format!(
                "cannot write to {}.{}: it shows the system's state",
                table.schema, table.name
            );
            return Err(Error::new("42809", message));
        }
        Ok(Arc::clone(table))
    }
}

/// A function as a table under its alias. With one unnamed column, the column is called like the table.
fn named_function(
    mut factor: Factor,
    plain: &str,
    alias: Option<&ast::TableAlias>,
) -> Result<Factor> {
    let scalar = factor.columns.len() == 1;
    rename(&mut factor, alias)?;
    if scalar && alias.is_some_and(|a| a.columns.is_empty()) && factor.columns[0].0 == plain {
        factor.columns[0].0.clone_from(&factor.alias);
    }
    Ok(factor)
}

fn rename(factor: &mut Factor, alias: Option<&ast::TableAlias>) -> Result<()> {
    let Some(alias) = alias else { return Ok(()) };
    factor.alias = ident(&alias.name);
    if alias.columns.len() > factor.visible {
        let message = format!(
            "table \"{}\" has {} columns available but {} columns specified",
            factor.alias,
            factor.visible,
            alias.columns.len()
        );
        return Err(Error::new("42P10", message));
    }
    for (column, new) in factor.columns.iter_mut().zip(&alias.columns) {
        column.0 = ident(&new.name);
    }
    Ok(())
}
