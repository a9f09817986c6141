//! Evaluation of expressions, with SQL's three-valued logic.

use super::{ExecCtx, Frame, query};
use crate::error::{Error, Result};
use crate::partition::SLOTS;
use crate::sql::cast::{self, CastContext};
use crate::sql::catalog::{Returned, Sequence};
use crate::sql::compare::{compare, not_distinct, sql_compare};
use crate::sql::plan::{CompareOp, Expr, InList, RoutineCall, SubqueryKind};
use crate::sql::{Value, codec, like};

/// A value that is already there, without copying it.
#[inline]
fn peek<'v>(expr: &'v Expr, frame: &Frame<'v>) -> Option<&'v Value> {
    match expr {
        Expr::Column(i) => frame.row.get(*i),
        Expr::Const(value) => Some(value),
        Expr::Param(i) => frame.params.get(*i),
        _ => None,
    }
}

/// Binds `$name` to a reference to the expression's value.
macro_rules! value {
    ($name:ident, $expr:expr, $frame:expr, $ctx:expr) => {
        let made;
        let $name: &Value = match peek($expr, $frame) {
            Some(value) => value,
            None => {
                made = eval($expr, $frame, $ctx)?;
                &made
            }
        };
    };
}

pub fn eval(expr: &Expr, frame: &Frame<'_>, ctx: &mut ExecCtx<'_>) -> Result<Value> {
    match expr {
        Expr::Const(value) => Ok(value.clone()),
        Expr::Column(i) => frame.row.get(*i).cloned().ok_or_else(|| Error::internal(format!("row has no place {i}"))),
        Expr::Param(i) => frame.params.get(*i).cloned().ok_or_else(|| no_parameter(*i)),
        Expr::Function { function, args } => match args.as_slice() {
            [only] => {
                value!(a, only, frame, ctx);
                function.call(std::slice::from_ref(a), &mut ctx.functions())
            }
            [left, right] => {
                let pair = [eval(left, frame, ctx)?, eval(right, frame, ctx)?];
                function.call(&pair, &mut ctx.functions())
            }
            args => {
                let values = eval_all(args, frame, ctx)?;
                function.call(&values, &mut ctx.functions())
            }
        },
        Expr::Compare { .. }
        | Expr::And(_)
        | Expr::Or(_)
        | Expr::Not(_)
        | Expr::IsNull { .. }
        | Expr::IsBool { .. }
        | Expr::Distinct { .. }
        | Expr::In(_)
        | Expr::Like { .. }
        | Expr::Subquery { kind: SubqueryKind::Exists | SubqueryKind::In { .. }, .. } => {
            Ok(truth(expr, frame, ctx)?.map_or(Value::Null, Value::Bool))
        }
        other => eval_rare(other, frame, ctx),
    }
}

fn eval_rare(expr: &Expr, frame: &Frame<'_>, ctx: &mut ExecCtx<'_>) -> Result<Value> {
    match expr {
        Expr::Outer { depth, column } => outer(*depth, *column, frame),
        Expr::Case { whens, otherwise } => {
            for (when, then) in whens {
                if truth(when, frame, ctx)? == Some(true) {
                    return eval(then, frame, ctx);
                }
            }
            otherwise.as_ref().map_or(Ok(Value::Null), |e| eval(e, frame, ctx))
        }
        Expr::Coalesce(list) => {
            for item in list {
                let value = eval(item, frame, ctx)?;
                if !value.is_null() {
                    return Ok(value);
                }
            }
            Ok(Value::Null)
        }
        Expr::NullIf(left, right) => {
            let left = eval(left, frame, ctx)?;
            let right = eval(right, frame, ctx)?;
            let same = sql_compare(&left, &right).is_some_and(std::cmp::Ordering::is_eq);
            Ok(if same { Value::Null } else { left })
        }
        Expr::Extreme { greatest, args } => extreme(*greatest, args, frame, ctx),
        Expr::Cast { expr, to, explicit, max_len, .. } => {
            value!(v, expr, frame, ctx);
            let context = if *explicit { CastContext::Explicit } else { CastContext::Assignment };
            let made = cast::cast(v, *to, context)?;
            match max_len {
                Some(length) if !made.is_null() => cast::fit_varchar(made, *length, context),
                _ => Ok(made),
            }
        }
        Expr::Subquery { query, .. } => scalar(query, frame, ctx),
        Expr::Routine(call) => match routine(call, frame, ctx)? {
            Returned::One(value) => Ok(value),
            Returned::Set(_) => {
                Err(Error::unsupported("a function that returns a set outside of FROM").hint("write SELECT ... FROM f(...)"))
            }
        },
        Expr::NextVal(sequence) => next_value(sequence, ctx),
        Expr::CurrVal(sequence) => {
            let found = ctx.current.iter().find(|(id, _)| *id == sequence.id).map(|(_, v)| Value::Int8(*v));
            found.ok_or_else(|| {
                Error::new("55000", format!("currval of sequence \"{}\" is not yet defined in this session", sequence.name))
                    .hint("currval knows nextval calls of the same transaction")
            })
        }
        Expr::PartitionOf(key) => {
            let key = eval(key, frame, ctx)?;
            let partitions = ctx.env.partitions.max(1);
            let partition = u32::from(codec::slot(&key) % SLOTS) % partitions;
            Ok(Value::Int4(i32::try_from(partition).unwrap_or(i32::MAX)))
        }
        Expr::Row(fields) => Ok(Value::Record(eval_all(fields, frame, ctx)?.into())),
        Expr::Aggregate(_) => Err(Error::internal("an aggregate outside of its group")),
        other => Err(Error::internal(format!("expression {other:?} has no value"))),
    }
}

fn no_parameter(i: usize) -> Error {
    Error::new("08P01", format!("parameter ${} has no value", i + 1))
}

pub fn eval_all(list: &[Expr], frame: &Frame<'_>, ctx: &mut ExecCtx<'_>) -> Result<Vec<Value>> {
    let mut values = Vec::with_capacity(list.len());
    for e in list {
        values.push(eval(e, frame, ctx)?);
    }
    Ok(values)
}

fn outer(depth: usize, column: usize, frame: &Frame<'_>) -> Result<Value> {
    let mut at = frame;
    for _ in 0..depth {
        at = at.outer.ok_or_else(|| Error::internal("no outer row"))?;
    }
    at.row.get(column).cloned().ok_or_else(|| Error::internal(format!("outer row has no place {column}")))
}

/// A condition's truth; none is SQL's unknown.
pub fn truth(expr: &Expr, frame: &Frame<'_>, ctx: &mut ExecCtx<'_>) -> Result<Option<bool>> {
    match expr {
        Expr::Compare { op, left, right } => {
            value!(l, left, frame, ctx);
            value!(r, right, frame, ctx);
            Ok(sql_compare(l, r).map(|o| holds(*op, o)))
        }
        Expr::And(list) => {
            let mut unknown = false;
            for e in list {
                match truth(e, frame, ctx)? {
                    Some(false) => return Ok(Some(false)),
                    None => unknown = true,
                    Some(true) => {}
                }
            }
            Ok((!unknown).then_some(true))
        }
        Expr::Or(list) => {
            let mut unknown = false;
            for e in list {
                match truth(e, frame, ctx)? {
                    Some(true) => return Ok(Some(true)),
                    None => unknown = true,
                    Some(false) => {}
                }
            }
            Ok((!unknown).then_some(false))
        }
        Expr::Not(e) => Ok(truth(e, frame, ctx)?.map(|t| !t)),
        Expr::IsNull { expr, negated } => {
            value!(v, expr, frame, ctx);
            Ok(Some(is_null(v, *negated)))
        }
        Expr::IsBool { expr, want, negated } => Ok(Some((truth(expr, frame, ctx)? == Some(*want)) != *negated)),
        Expr::Distinct { left, right, negated } => {
            value!(l, left, frame, ctx);
            value!(r, right, frame, ctx);
            Ok(Some(not_distinct(l, r) == *negated))
        }
        Expr::In(list) => in_list(list, frame, ctx),
        Expr::Like { expr, pattern, escape, insensitive, negated } => {
            value!(text, expr, frame, ctx);
            value!(pattern, pattern, frame, ctx);
            let (Some(text), Some(pattern)) = (text.as_str(), pattern.as_str()) else { return Ok(None) };
            Ok(Some(like::like(text, pattern, *escape, *insensitive)? != *negated))
        }
        Expr::Subquery { kind: SubqueryKind::Exists, query } => {
            let mut found = false;
            let inner = Frame { params: frame.params, row: &[], outer: Some(frame) };
            query::run(query, &inner, ctx, &mut |_, _| {
                found = true;
                Ok(false)
            })?;
            Ok(Some(found))
        }
        Expr::Subquery { kind: SubqueryKind::In { expr, negated }, query } => {
            let wanted = eval(expr, frame, ctx)?;
            Ok(in_query(&wanted, query, frame, ctx)?.map(|t| t != *negated))
        }
        other => {
            value!(v, other, frame, ctx);
            match v {
                Value::Bool(b) => Ok(Some(*b)),
                Value::Null => Ok(None),
                other => Err(Error::internal(format!("condition is {}", other.data_type().name()))),
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

fn in_query(
    wanted: &Value,
    query: &crate::sql::plan::Query,
    frame: &Frame<'_>,
    ctx: &mut ExecCtx<'_>,
) -> Result<Option<bool>> {
    let (mut found, mut unknown) = (false, false);
    let inner = Frame { params: frame.params, row: &[], outer: Some(frame) };
    query::run(query, &inner, ctx, &mut |_, row| {
        match row.first().map_or(None, |item| sql_compare(wanted, item)) {
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

fn scalar(query: &crate::sql::plan::Query, frame: &Frame<'_>, ctx: &mut ExecCtx<'_>) -> Result<Value> {
    let mut result: Option<Value> = None;
    let inner = Frame { params: frame.params, row: &[], outer: Some(frame) };
    query::run(query, &inner, ctx, &mut |_, mut row| {
        if result.is_some() {
            return Err(Error::new("21000", "more than one row returned by a subquery used as an expression"));
        }
        result = Some(if row.is_empty() { Value::Null } else { row.swap_remove(0) });
        Ok(true)
    })?;
    Ok(result.unwrap_or(Value::Null))
}

fn extreme(greatest: bool, args: &[Expr], frame: &Frame<'_>, ctx: &mut ExecCtx<'_>) -> Result<Value> {
    let mut best = Value::Null;
    for arg in args {
        let value = eval(arg, frame, ctx)?;
        if value.is_null() {
            continue;
        }
        let order = compare(&value, &best);
        if best.is_null() || (greatest && order.is_gt()) || (!greatest && order.is_lt()) {
            best = value;
        }
    }
    Ok(best)
}

/// Calls a function of the user's.
pub fn routine(call: &RoutineCall, frame: &Frame<'_>, ctx: &mut ExecCtx<'_>) -> Result<Returned> {
    let args = eval_all(&call.args, frame, ctx)?;
    if call.def.strict && args.iter().any(Value::is_null) {
        return Ok(if call.def.returns.set { Returned::Set(Vec::new()) } else { Returned::One(Value::Null) });
    }
    ctx.step()?;
    if ctx.depth >= super::CALL_DEPTH_MAX {
        return Err(Error::new("54001", format!("stack depth limit exceeded: more than {} calls within calls", super::CALL_DEPTH_MAX)));
    }
    let compiled = call.def.compiled(ctx.catalog)?;
    ctx.depth += 1;
    let returned = compiled.call(ctx, &args);
    ctx.depth -= 1;
    returned
}

fn next_value(sequence: &Sequence, ctx: &mut ExecCtx<'_>) -> Result<Value> {
    let count = super::write::next_counter(sequence.id, ctx)?;
    let spread = (i128::from(count) - 1) * i128::from(ctx.env.partitions.max(1)) + i128::from(ctx.env.partition);
    let value = i128::from(sequence.start) + i128::from(sequence.increment) * spread;
    let limit = if sequence.increment > 0 { sequence.max } else { sequence.min };
    let value = i64::try_from(value).ok().filter(|v| (sequence.min..=sequence.max).contains(v)).ok_or_else(|| {
        Error::new("2200H", format!("nextval: reached the limit of sequence \"{}\" ({limit})", sequence.name))
    })?;
    ctx.current.retain(|(id, _)| *id != sequence.id);
    ctx.current.push((sequence.id, value));
    Ok(Value::Int8(value))
}
