//! Functions with LANGUAGE sql.

use std::collections::HashMap;
use std::sync::Arc;

use super::ExecCtx;
use crate::error::{Error, Result};
use crate::sql::cast::{self, CastContext};
use crate::sql::catalog::{ArgMode, Catalog, FunctionDef, Procedure, Returned};
use crate::sql::functions::Volatility;
use crate::sql::plan::{Expr, Plan, QueryBody, Routing};
use crate::sql::prepare::{Kind, Name, ParamScope, Prepared, parse_many, prepare_ast};
use crate::sql::{DataType, Value};

#[derive(Debug)]
struct SqlFunction {
    statements: Vec<Prepared>,
    /// Types of the result's columns; empty for void.
    returns: Vec<DataType>,
    set: bool,
    partition_param: Option<usize>,
    touches_no_table: bool,
    writes: bool,
    expression: Option<(Expr, DataType)>,
}

/// Compiles the body of a function with LANGUAGE sql.
pub fn compile_sql_function(
    catalog: &Arc<Catalog>,
    def: &FunctionDef,
) -> Result<Arc<dyn Procedure>> {
    let mut scope = ParamScope {
        types: Vec::new(),
        names: HashMap::new(),
        positional: Vec::new(),
        columns_win: true,
    };
    for arg in def.inputs() {
        let slot = scope.types.len();
        scope.types.push(Some(arg.data_type));
        scope.positional.push(slot);
        if !arg.name.is_empty() {
            scope.names.insert(arg.name.clone(), Name::Slot(slot));
            scope
                .names
                .insert(format!("{}.{}", def.name, arg.name), Name::Slot(slot));
        }
    }
    let mut statements = Vec::new();
    for (statement, _) in parse_many(&def.body)? {
        let prepared = prepare_ast(catalog, &statement, &scope)?;
        if matches!(prepared.kind, Kind::Ddl(_) | Kind::Session(_)) {
            return Err(Error::unsupported(format!(
                "{statement} inside of a function"
            )));
        }
        statements.push(prepared);
    }
    let returns = result_types(def);
    check_result(def, &returns, statements.last())?;
    let touches_no_table = statements
        .iter()
        .all(|s| matches!(s.routing(), Routing::Nothing));
    Ok(Arc::new(SqlFunction {
        partition_param: common_param(&statements),
        touches_no_table,
        writes: statements.iter().any(Prepared::writes),
        set: def.returns.set,
        expression: match (&statements[..], &returns[..]) {
            ([statement], [_]) if !def.returns.set && def.returns.columns.is_empty() => {
                one_expression(statement)
            }
            _ => None,
        },
        returns,
        statements,
    }))
}

/// What a SELECT of one expression without tables computes, if that needs nothing but its parameters.
fn one_expression(statement: &Prepared) -> Option<(Expr, DataType)> {
    let (Plan::Query(query), [column]) = (&statement.plan, &statement.columns[..]) else {
        return None;
    };
    let QueryBody::Select {
        steps,
        filter: None,
        grouping: None,
        windows,
        project,
        ..
    } = &query.body
    else {
        return None;
    };
    let plain = steps.is_empty()
        && windows.is_empty()
        && query.limit.is_none()
        && query.offset.is_none()
        && statement.as_of.is_none();
    let [expr] = &project[..] else {
        return None;
    };
    let mut fine = plain;
    expr.walk(&mut |e| {
        fine &= !matches!(
            e,
            Expr::Subquery { .. } | Expr::NextVal(_) | Expr::CurrVal(_) | Expr::Lookup { .. }
        );
        if let Expr::Function { function, .. } = e {
            fine &= function.volatility != Volatility::Volatile;
        }
    });
    fine.then(|| (expr.clone(), column.data_type))
}

fn result_types(def: &FunctionDef) -> Vec<DataType> {
    let outs: Vec<DataType> = def
        .args
        .iter()
        .filter(|a| a.mode != ArgMode::In)
        .map(|a| a.data_type)
        .collect();
    match def.returns.data_type {
        DataType::Void => Vec::new(),
        _ if !def.returns.columns.is_empty() => {
            def.returns.columns.iter().map(|(_, t)| t.0).collect()
        }
        _ if !outs.is_empty() => outs,
        other => vec![other],
    }
}

fn check_result(def: &FunctionDef, returns: &[DataType], last: Option<&Prepared>) -> Result<()> {
    if returns.is_empty() {
        return Ok(());
    }
    let mismatch = |detail: String| {
        let message = format!(
            "return type mismatch in function declared to return {}",
            def.returns.data_type.name()
        );
        Err(Error::new("42P13", message).detail(detail))
    };
    let Some(last) = last.filter(|l| !l.columns.is_empty()) else {
        return mismatch(
            "Function's final statement must be SELECT or INSERT/UPDATE/DELETE RETURNING."
                .to_string(),
        );
    };
    if last.columns.len() != returns.len() {
        return mismatch(format!(
            "Final statement returns {} columns instead of {}.",
            last.columns.len(),
            returns.len()
        ));
    }
    for (column, to) in last.columns.iter().zip(returns) {
        if column.data_type != *to
            && !cast::can_cast(column.data_type, *to, CastContext::Assignment)
        {
            return mismatch(format!(
                "Final statement returns {} instead of {}.",
                column.data_type.name(),
                to.name()
            ));
        }
    }
    Ok(())
}

/// The input that every statement touching a table routes by.
fn common_param(statements: &[Prepared]) -> Option<usize> {
    let mut found = None;
    for statement in statements
        .iter()
        .filter(|s| !matches!(s.routing(), Routing::Nothing))
    {
        let param = statement.routing().single_param()?;
        if found.is_some_and(|f| f != param) {
            return None;
        }
        found = Some(param);
    }
    found
}

impl Procedure for SqlFunction {
    fn call(&self, ctx: &mut ExecCtx<'_>, args: &[Value]) -> Result<Returned> {
        let mut rows = Vec::new();
        for statement in &self.statements {
            rows = statement.run_quiet(ctx, args)?.rows;
        }
        if self.returns.is_empty() {
            return Ok(Returned::One(Value::Null));
        }
        if !self.set {
            rows.truncate(1);
        }
        for row in &mut rows {
            for (value, to) in row.iter_mut().zip(&self.returns) {
                if value.data_type() != *to && !value.is_null() {
                    *value = cast::cast(value, *to, CastContext::Assignment)?;
                }
            }
        }
        if self.set {
            return Ok(Returned::Set(rows));
        }
        Ok(Returned::One(match rows.pop() {
            None => Value::Null,
            Some(mut row) if row.len() == 1 => row.swap_remove(0),
            Some(row) => Value::Record(row.into()),
        }))
    }

    fn partition_param(&self) -> Option<usize> {
        self.partition_param
    }

    fn touches_no_table(&self) -> bool {
        self.touches_no_table
    }

    fn writes(&self) -> bool {
        self.writes
    }

    fn expression(&self) -> Option<&(Expr, DataType)> {
        self.expression.as_ref()
    }
}
