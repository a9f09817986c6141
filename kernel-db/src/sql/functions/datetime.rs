//! Functions of times and intervals. Every clock shows the transaction's time.

use super::{Args, FnCtx, mismatch};
use crate::error::Result;
use crate::sql::{Value, interval, numeric, time};

pub(super) fn now(_: &[Value], context: &mut FnCtx<'_>) -> Result<Value> {
    Ok(Value::Timestamptz(context.wall_us))
}

pub(super) fn to_timestamp(args: &[Value], _: &mut FnCtx<'_>) -> Result<Value> {
    Ok(Value::Timestamptz(time::from_seconds(args.float(0)?)?))
}

pub(super) fn extract(args: &[Value], _: &mut FnCtx<'_>) -> Result<Value> {
    let field = args.text(0)?;
    let number = match args.get(1) {
        Some(Value::Timestamptz(micros)) => time::extract(field, *micros)?,
        Some(Value::Interval {
            months,
            days,
            micros,
        }) => time::extract_interval(field, *months, *days, *micros)?,
        _ => return Err(mismatch(args)),
    };
    Ok(Value::numeric(number))
}

pub(super) fn date_part(args: &[Value], context: &mut FnCtx<'_>) -> Result<Value> {
    match extract(args, context)? {
        Value::Numeric(number) => Ok(Value::Float8(numeric::to_f64(&number))),
        other => Ok(other),
    }
}

pub(super) fn date_trunc(args: &[Value], _: &mut FnCtx<'_>) -> Result<Value> {
    match args {
        [Value::Text(field), Value::Timestamptz(micros)] => {
            Ok(Value::Timestamptz(time::truncate(field, *micros)?))
        }
        _ => Err(mismatch(args)),
    }
}

pub(super) fn timestamp_difference(args: &[Value], _: &mut FnCtx<'_>) -> Result<Value> {
    match args {
        [Value::Timestamptz(a), Value::Timestamptz(b)] => time::difference(*a, *b),
        _ => Err(mismatch(args)),
    }
}

pub(super) fn timestamp_plus(args: &[Value], _: &mut FnCtx<'_>) -> Result<Value> {
    match args {
        [
            Value::Timestamptz(at),
            Value::Interval {
                months,
                days,
                micros,
            },
        ] => Ok(Value::Timestamptz(time::add_interval(
            *at, *months, *days, *micros,
        )?)),
        _ => Err(mismatch(args)),
    }
}

pub(super) fn plus_timestamp(args: &[Value], _: &mut FnCtx<'_>) -> Result<Value> {
    match args {
        [
            Value::Interval {
                months,
                days,
                micros,
            },
            Value::Timestamptz(at),
        ] => Ok(Value::Timestamptz(time::add_interval(
            *at, *months, *days, *micros,
        )?)),
        _ => Err(mismatch(args)),
    }
}

pub(super) fn timestamp_minus(args: &[Value], context: &mut FnCtx<'_>) -> Result<Value> {
    let [at, span] = args else {
        return Err(mismatch(args));
    };
    let negative = interval_negate(std::slice::from_ref(span), context)?;
    timestamp_plus(&[at.clone(), negative], context)
}

fn parts(args: &[Value], at: usize) -> Result<(i32, i32, i64)> {
    match args.get(at) {
        Some(Value::Interval {
            months,
            days,
            micros,
        }) => Ok((*months, *days, *micros)),
        _ => Err(mismatch(args)),
    }
}

pub(super) fn interval_plus(args: &[Value], _: &mut FnCtx<'_>) -> Result<Value> {
    interval::add(parts(args, 0)?, parts(args, 1)?)
}

pub(super) fn interval_minus(args: &[Value], _: &mut FnCtx<'_>) -> Result<Value> {
    let negative = interval::negate(parts(args, 1)?)?;
    interval::add(parts(args, 0)?, parts(&[negative], 0)?)
}

pub(super) fn interval_negate(args: &[Value], _: &mut FnCtx<'_>) -> Result<Value> {
    interval::negate(parts(args, 0)?)
}

pub(super) fn interval_times(args: &[Value], _: &mut FnCtx<'_>) -> Result<Value> {
    interval::multiply(parts(args, 0)?, args.float(1)?)
}

pub(super) fn times_interval(args: &[Value], _: &mut FnCtx<'_>) -> Result<Value> {
    interval::multiply(parts(args, 1)?, args.float(0)?)
}

pub(super) fn interval_divide(args: &[Value], _: &mut FnCtx<'_>) -> Result<Value> {
    interval::divide(parts(args, 0)?, args.float(1)?)
}
