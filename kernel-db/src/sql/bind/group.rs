//! GROUP BY: expressions over the input row become expressions over the group's row (keys, then aggregates).

use super::Binder;
use crate::error::{Error, Result};
use crate::sql::plan::{Expr, Source, Step, SubqueryKind};

impl Binder<'_> {
    /// Places that are decided by the keys because they contain their table's whole primary key.
    pub(super) fn dependent_columns(
        &mut self,
        steps: &[Step],
        keys: &[Expr],
    ) -> Result<Vec<usize>> {
        let mut found = Vec::new();
        for step in steps {
            let Source::Table { table, .. } = &step.source else {
                continue;
            };
            let is_key = |c: &usize| {
                keys.iter()
                    .any(|k| matches!(k, Expr::Column(p) if *p == step.offset + c))
            };
            if !table.primary_key.is_empty() && table.primary_key.iter().all(is_key) {
                found.extend(step.offset..step.offset + step.width);
            }
        }
        Ok(found)
    }
}

/// Rewrites `exprs`; may add keys that are decided by the others.
pub fn regroup(
    mut exprs: Vec<&mut Expr>,
    keys: &mut Vec<Expr>,
    dependent: &[usize],
    name: impl Fn(usize) -> String,
) -> Result<()> {
    for expr in &exprs {
        expr.columns(&mut |c| {
            if dependent.contains(&c)
                && !keys.iter().any(|k| matches!(k, Expr::Column(p) if *p == c))
            {
                keys.push(Expr::Column(c));
            }
        });
    }
    let shown: Vec<String> = keys.iter().map(|k| format!("{k:?}")).collect();
    for expr in &mut exprs {
        rewrite(expr, &shown, &name)?;
    }
    Ok(())
}

fn rewrite(expr: &mut Expr, keys: &[String], name: &dyn Fn(usize) -> String) -> Result<()> {
    if !matches!(expr, Expr::Const(_) | Expr::Param(_)) {
        let shown = format!("{expr:?}");
        if let Some(place) = keys.iter().position(|k| *k == shown) {
            *expr = Expr::Column(place);
            return Ok(());
        }
    }
    match expr {
        Expr::Aggregate(i) => *expr = Expr::Column(keys.len() + *i),
        Expr::Column(c) => return Err(not_grouped(&name(*c))),
        Expr::Subquery { query, kind } => {
            if let SubqueryKind::In { expr, .. } = kind {
                rewrite(expr, keys, name)?;
            }
            let mut failed = None;
            query.map_outer(1, &mut |e| {
                if let Expr::Outer { column, .. } = e {
                    let shown = format!("{:?}", Expr::Column(*column));
                    match keys.iter().position(|k| *k == shown) {
                        Some(place) => *column = place,
                        None => failed = Some(*column),
                    }
                }
            });
            if let Some(column) = failed {
                return Err(Error::new(
                    "42803",
                    format!(
                        "subquery uses ungrouped column \"{}\" from outer query",
                        name(column)
                    ),
                ));
            }
        }
        _ => {
            let mut result = Ok(());
            expr.children_mut(&mut |e| {
                if result.is_ok() {
                    result = rewrite(e, keys, name);
                }
            });
            return result;
        }
    }
    Ok(())
}

fn not_grouped(name: &str) -> Error {
    Error::new(
        "42803",
        format!(
            "column \"{name}\" must appear in the GROUP BY clause or be used in an aggregate function"
        ),
    )
}
