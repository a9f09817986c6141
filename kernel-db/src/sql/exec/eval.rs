//! Values of expressions.

use super::truth::truth;
use super::{ExecCtx, Frame, query};
use crate::error::{Error, Result};
use crate::partition::SLOTS;
use crate::sql::cast::{self, CastContext};
use crate::sql::catalog::{Returned, Sequence};
use crate::sql::compare::{compare, sql_compare};
use crate::sql::plan::{Expr, RoutineCall, SubqueryKind};
use crate::sql::{DataType, Value, array, codec};

/// A value that is already there, without copying it.
#[inline]
pub(super) fn peek<'v>(expr: &'v Expr, frame: &Frame<'v>) -> Option<&'v Value> {
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

pub(super) use value;

pub fn eval(expr: &Expr, frame: &Frame<'_>, ctx: &mut ExecCtx<'_>) -> Result<Value> {
    match expr {
        Expr::Const(value) => Ok(value.clone()),
        Expr::Column(i) => frame
            .row
            .get(*i)
            .cloned()
            .ok_or_else(|| Error::internal(format!("row has no place {i}"))),
        Expr::Param(i) => frame
            .params
            .get(*i)
            .cloned()
            .ok_or_else(|| no_parameter(*i)),
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
        | Expr::Any(_)
        | Expr::Like { .. }
        | Expr::Subquery {
            kind: SubqueryKind::Exists | SubqueryKind::In { .. },
            ..
        } => Ok(truth(expr, frame, ctx)?.map_or(Value::Null, Value::Bool)),
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
            match otherwise {
                Some(e) => eval(e, frame, ctx),
                None => Ok(Value::Null),
            }
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
        Expr::Cast {
            expr,
            to,
            explicit,
            max_len,
            ..
        } => {
            value!(v, expr, frame, ctx);
            cast_value(v, *to, *explicit, *max_len)
        }
        Expr::Array { .. }
        | Expr::Element { .. }
        | Expr::Lookup { .. }
        | Expr::Subquery {
            kind: SubqueryKind::Array(_),
            ..
        } => eval_array(expr, frame, ctx),
        Expr::Subquery { query, .. } => scalar(query, frame, ctx),
        Expr::Routine(call) => match routine(call, frame, ctx)? {
            Returned::One(value) => Ok(value),
            Returned::Set(_) => Err(Error::unsupported(
                "a function that returns a set outside of FROM",
            )
            .hint("write SELECT ... FROM f(...)")),
        },
        Expr::NextVal(sequence) => next_value(sequence, ctx),
        Expr::CurrVal(sequence) => current_value(sequence, ctx),
        Expr::PartitionOf(key) => {
            let key = eval(key, frame, ctx)?;
            let partitions = ctx.env.partitions.max(1);
            let partition = u32::from(codec::slot(&key) % SLOTS) % partitions;
            Ok(Value::Int4(i32::try_from(partition).unwrap_or(i32::MAX)))
        }
        Expr::Row(fields) => Ok(Value::Record(eval_all(fields, frame, ctx)?.into())),
        Expr::Aggregate(_) => Err(Error::internal("an aggregate outside of its group")),
        other => Err(Error::internal(format!(
            "expression {other:?} has no value"
        ))),
    }
}

/// Arrays, their elements, and what is looked up in the catalogue.
fn eval_array(expr: &Expr, frame: &Frame<'_>, ctx: &mut ExecCtx<'_>) -> Result<Value> {
    match expr {
        Expr::Subquery {
            kind: SubqueryKind::Array(element),
            query,
        } => array_of(*element, query, frame, ctx),
        Expr::Array { element, items } => array::value(*element, eval_all(items, frame, ctx)?),
        Expr::Element { array, index } => {
            value!(list, array, frame, ctx);
            value!(index, index, frame, ctx);
            let place = index.as_int().and_then(|i| usize::try_from(i - 1).ok());
            let found = array::items(list).zip(place).and_then(|(l, i)| l.get(i));
            Ok(found.cloned().unwrap_or(Value::Null))
        }
        Expr::Lookup { lookup, args } => {
            let values = eval_all(args, frame, ctx)?;
            lookup.eval(&values, ctx.catalog)
        }
        other => Err(Error::internal(format!("expression {other:?} is no array"))),
    }
}

fn cast_value(value: &Value, to: DataType, explicit: bool, max_len: Option<u32>) -> Result<Value> {
    let context = if explicit {
        CastContext::Explicit
    } else {
        CastContext::Assignment
    };
    let made = cast::cast(value, to, context)?;
    match max_len {
        Some(length) if !made.is_null() => cast::fit_varchar(made, length, context),
        _ => Ok(made),
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
    at.row
        .get(column)
        .cloned()
        .ok_or_else(|| Error::internal(format!("outer row has no place {column}")))
}

fn scalar(
    query: &crate::sql::plan::Query,
    frame: &Frame<'_>,
    ctx: &mut ExecCtx<'_>,
) -> Result<Value> {
    let mut result: Option<Value> = None;
    let inner = Frame {
        params: frame.params,
        row: &[],
        outer: Some(frame),
    };
    query::run(query, &inner, ctx, &mut |_, mut row| {
        if result.is_some() {
            return Err(Error::new(
                "21000",
                "more than one row returned by a subquery used as an expression",
            ));
        }
        result = Some(if row.is_empty() {
            Value::Null
        } else {
            row.swap_remove(0)
        });
        Ok(true)
    })?;
    Ok(result.unwrap_or(Value::Null))
}

/// The only column of all rows.
fn array_of(
    element: DataType,
    query: &crate::sql::plan::Query,
    frame: &Frame<'_>,
    ctx: &mut ExecCtx<'_>,
) -> Result<Value> {
    let mut items = Vec::new();
    let inner = Frame {
        params: frame.params,
        row: &[],
        outer: Some(frame),
    };
    query::run(query, &inner, ctx, &mut |_, mut row| {
        items.push(if row.is_empty() {
            Value::Null
        } else {
            row.swap_remove(0)
        });
        // One more than may be kept, so that it is noticed.
        Ok(items.len() <= array::ELEMENTS_MAX)
    })?;
    array::value(element, items)
}

fn extreme(
    greatest: bool,
    args: &[Expr],
    frame: &Frame<'_>,
    ctx: &mut ExecCtx<'_>,
) -> Result<Value> {
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

/// Stack for one call: expressions nest, and calls within them.
const CALL_STACK_BYTES: usize = 1 << 20;

/// Calls a function of the user's.
pub fn routine(call: &RoutineCall, frame: &Frame<'_>, ctx: &mut ExecCtx<'_>) -> Result<Returned> {
    let args = eval_all(&call.args, frame, ctx)?;
    if call.def.strict && args.iter().any(Value::is_null) {
        return Ok(if call.def.returns.set {
            Returned::Set(Vec::new())
        } else {
            Returned::One(Value::Null)
        });
    }
    ctx.step()?;
    if ctx.depth >= super::CALL_DEPTH_MAX {
        return Err(Error::new(
            "54001",
            format!(
                "stack depth limit exceeded: more than {} calls within calls",
                super::CALL_DEPTH_MAX
            ),
        ));
    }
    let compiled = call.def.compiled(ctx.catalog)?;
    ctx.depth += 1;
    let call = || compiled.call(ctx, &args);
    let returned = stacker::maybe_grow(CALL_STACK_BYTES, 4 * CALL_STACK_BYTES, call);
    ctx.depth -= 1;
    returned
}

fn current_value(sequence: &Sequence, ctx: &ExecCtx<'_>) -> Result<Value> {
    let found = ctx.current.iter().find(|(id, _)| *id == sequence.id);
    found.map(|(_, v)| Value::Int8(*v)).ok_or_else(|| {
        let name = &sequence.name;
        Error::new(
            "55000",
            format!("currval of sequence \"{name}\" is not yet defined in this session"),
        )
        .hint("currval knows nextval calls of the same transaction")
    })
}

fn next_value(sequence: &Sequence, ctx: &mut ExecCtx<'_>) -> Result<Value> {
    let count = super::write::next_counter(sequence.id, ctx)?;
    let spread = (i128::from(count) - 1) * i128::from(ctx.env.partitions.max(1))
        + i128::from(ctx.env.partition);
    let value = i128::from(sequence.start) + i128::from(sequence.increment) * spread;
    let limit = if sequence.increment > 0 {
        sequence.max
    } else {
        sequence.min
    };
    let value = i64::try_from(value)
        .ok()
        .filter(|v| (sequence.min..=sequence.max).contains(v))
        .ok_or_else(|| {
            Error::new(
                "2200H",
                format!(
                    "nextval: reached the limit of sequence \"{}\" ({limit})",
                    sequence.name
                ),
            )
        })?;
    ctx.current.retain(|(id, _)| *id != sequence.id);
    ctx.current.push((sequence.id, value));
    Ok(Value::Int8(value))
}
