//! Truth of conditions, in SQL's three-valued logic.

use super::eval::{eval, peek, value};
use super::{ExecCtx, Frame, query};
use crate::error::{Error, Result};
use crate::sql::compare::{not_distinct, sql_compare};
use crate::sql::plan::{AnyOf, CompareOp, Expr, InList, Query, SubqueryKind};
use crate::sql::{Value, array, like};

/// A condition's truth; none is SQL's unknown.
pub fn truth(expr: &Expr, frame: &Frame<'_>, ctx: &mut ExecCtx<'_>) -> Result<Option<bool>> {
    match expr {
        Expr::Compare { op, left, right } => {
            value!(l, left, frame, ctx);
            value!(r, right, frame, ctx);
            Ok(sql_compare(l, r).map(|o| holds(*op, o)))
        }
        Expr::And(list) => connective(list, false, frame, ctx),
        Expr::Or(list) => connective(list, true, frame, ctx),
        Expr::Not(e) => Ok(truth(e, frame, ctx)?.map(|t| !t)),
        Expr::IsNull { expr, negated } => {
            value!(v, expr, frame, ctx);
            Ok(Some(is_null(v, *negated)))
        }
        Expr::IsBool {
            expr,
            want,
            negated,
        } => Ok(Some((truth(expr, frame, ctx)? == Some(*want)) != *negated)),
        Expr::Distinct {
            left,
            right,
            negated,
        } => {
            value!(l, left, frame, ctx);
            value!(r, right, frame, ctx);
            Ok(Some(not_distinct(l, r) == *negated))
        }
        Expr::In(list) => in_list(list, frame, ctx),
        Expr::Any(any) => any_of(any, frame, ctx),
        Expr::Like {
            expr,
            pattern,
            escape,
            insensitive,
            negated,
        } => {
            value!(text, expr, frame, ctx);
            value!(pattern, pattern, frame, ctx);
            let (Some(text), Some(pattern)) = (text.as_str(), pattern.as_str()) else {
                return Ok(None);
            };
            Ok(Some(
                like::like(text, pattern, *escape, *insensitive)? != *negated,
            ))
        }
        Expr::Subquery {
            kind: SubqueryKind::Exists,
            query,
        } => exists(query, frame, ctx),
        Expr::Subquery {
            kind: SubqueryKind::In { expr, negated },
            query,
        } => {
            let wanted = eval(expr, frame, ctx)?;
            Ok(in_query(&wanted, query, frame, ctx)?.map(|t| t != *negated))
        }
        other => {
            value!(v, other, frame, ctx);
            match v {
                Value::Bool(b) => Ok(Some(*b)),
                Value::Null => Ok(None),
                other => Err(Error::internal(format!(
                    "condition is {}",
                    other.data_type().name()
                ))),
            }
        }
    }
}

/// A row is null if all its fields are, and not null if none is.
fn is_null(value: &Value, negated: bool) -> bool {
    match value {
        Value::Record(fields) if negated => fields.iter().all(|f| !f.is_null()),
        Value::Record(fields) => fields.iter().all(Value::is_null),
        other => other.is_null() != negated,
    }
}

#[inline]
fn holds(op: CompareOp, order: std::cmp::Ordering) -> bool {
    match op {
        CompareOp::Eq => order.is_eq(),
        CompareOp::Ne => order.is_ne(),
        CompareOp::Lt => order.is_lt(),
        CompareOp::Le => order.is_le(),
        CompareOp::Gt => order.is_gt(),
        CompareOp::Ge => order.is_ge(),
    }
}

fn in_list(list: &InList, frame: &Frame<'_>, ctx: &mut ExecCtx<'_>) -> Result<Option<bool>> {
    value!(wanted, &list.expr, frame, ctx);
    let mut unknown = wanted.is_null() && !list.list.is_empty();
    for item in &list.list {
        value!(item, item, frame, ctx);
        match sql_compare(wanted, item) {
            Some(order) if order.is_eq() => return Ok(Some(!list.negated)),
            Some(_) => {}
            None => unknown = true,
        }
    }
    Ok(if unknown { None } else { Some(list.negated) })
}

/// ANY is true if one element is, ALL if every one is; unknown counts only if nothing decided.
fn any_of(any: &AnyOf, frame: &Frame<'_>, ctx: &mut ExecCtx<'_>) -> Result<Option<bool>> {
    value!(wanted, &any.expr, frame, ctx);
    value!(list, &any.array, frame, ctx);
    let Some(items) = array::items(list) else {
        return Ok(None);
    };
    let mut unknown = false;
    for item in items.iter() {
        match sql_compare(wanted, item).map(|o| holds(any.op, o)) {
            Some(truth) if truth != any.all => return Ok(Some(truth)),
            Some(_) => {}
            None => unknown = true,
        }
    }
    Ok((!unknown).then_some(any.all))
}

fn in_query(
    wanted: &Value,
    query: &crate::sql::plan::Query,
    frame: &Frame<'_>,
    ctx: &mut ExecCtx<'_>,
) -> Result<Option<bool>> {
    let (mut found, mut unknown) = (false, false);
    let inner = Frame {
        params: frame.params,
        row: &[],
        outer: Some(frame),
    };
    query::run(query, &inner, ctx, &mut |_, row| {
        match row.first().and_then(|item| sql_compare(wanted, item)) {
            Some(order) => found |= order.is_eq(),
            None => unknown = true,
        }
        Ok(!found)
    })?;
    Ok(match (found, unknown) {
        (true, _) => Some(true),
        (false, true) => None,
        (false, false) => Some(false),
    })
}

/// AND and OR: `decisive` ends it at once, unknown counts only if nothing decided.
fn connective(
    list: &[Expr],
    decisive: bool,
    frame: &Frame<'_>,
    ctx: &mut ExecCtx<'_>,
) -> Result<Option<bool>> {
    let mut unknown = false;
    for e in list {
        match truth(e, frame, ctx)? {
            Some(truth) if truth == decisive => return Ok(Some(decisive)),
            Some(_) => {}
            None => unknown = true,
        }
    }
    Ok((!unknown).then_some(!decisive))
}

fn exists(query: &Query, frame: &Frame<'_>, ctx: &mut ExecCtx<'_>) -> Result<Option<bool>> {
    let mut found = false;
    let inner = Frame {
        params: frame.params,
        row: &[],
        outer: Some(frame),
    };
    query::run(query, &inner, ctx, &mut |_, _| {
        found = true;
        Ok(false)
    })?;
    Ok(Some(found))
}
