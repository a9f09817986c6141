//! Functions of numbers. The transcendental ones compute in double precision; PostgreSQL's numeric versions of exp, ln, log
//! and power are left out, and numerics are cast.

use std::sync::Arc;

use bigdecimal::num_traits::Zero;

use super::arithmetic::{checked_float, division_by_zero, out_of_range};
use super::{Args, FnCtx, mismatch};
use crate::error::{Error, Result};
use crate::sql::{Value, numeric};

pub(super) fn abs(args: &[Value], _: &mut FnCtx<'_>) -> Result<Value> {
    let result = match args {
        [Value::Int2(a)] => a.checked_abs().map(Value::Int2),
        [Value::Int4(a)] => a.checked_abs().map(Value::Int4),
        [Value::Int8(a)] => a.checked_abs().map(Value::Int8),
        [Value::Float8(a)] => Some(Value::Float8(a.abs())),
        [Value::Numeric(a)] => Some(Value::Numeric(Arc::new(numeric::abs(a)))),
        _ => return Err(mismatch(args)),
    };
    result.ok_or_else(|| out_of_range(args[0].data_type()))
}

pub(super) fn ceil(args: &[Value], _: &mut FnCtx<'_>) -> Result<Value> {
    match args {
        [Value::Float8(a)] => Ok(Value::Float8(a.ceil())),
        [Value::Numeric(a)] => Ok(Value::numeric(numeric::ceil(a)?)),
        _ => Err(mismatch(args)),
    }
}

pub(super) fn floor(args: &[Value], _: &mut FnCtx<'_>) -> Result<Value> {
    match args {
        [Value::Float8(a)] => Ok(Value::Float8(a.floor())),
        [Value::Numeric(a)] => Ok(Value::numeric(numeric::floor(a)?)),
        _ => Err(mismatch(args)),
    }
}

pub(super) fn round(args: &[Value], _: &mut FnCtx<'_>) -> Result<Value> {
    match args {
        [Value::Float8(a)] => Ok(Value::Float8(a.round_ties_even())),
        [Value::Numeric(a)] => Ok(Value::numeric(numeric::round(a, 0)?)),
        [Value::Numeric(a), Value::Int4(scale)] => {
            Ok(Value::numeric(numeric::round(a, i64::from(*scale))?))
        }
        _ => Err(mismatch(args)),
    }
}

pub(super) fn trunc(args: &[Value], _: &mut FnCtx<'_>) -> Result<Value> {
    match args {
        [Value::Float8(a)] => Ok(Value::Float8(a.trunc())),
        [Value::Numeric(a)] => Ok(Value::numeric(numeric::truncate(a, 0)?)),
        [Value::Numeric(a), Value::Int4(scale)] => {
            Ok(Value::numeric(numeric::truncate(a, i64::from(*scale))?))
        }
        _ => Err(mismatch(args)),
    }
}

pub(super) fn sign(args: &[Value], _: &mut FnCtx<'_>) -> Result<Value> {
    match args {
        [Value::Float8(a)] if *a == 0.0 || a.is_nan() => Ok(Value::Float8(*a)),
        [Value::Float8(a)] => Ok(Value::Float8(a.signum())),
        [Value::Numeric(a)] => Ok(Value::numeric(numeric::sign(a))),
        _ => Err(mismatch(args)),
    }
}

pub(super) fn sqrt(args: &[Value], _: &mut FnCtx<'_>) -> Result<Value> {
    match args {
        [Value::Float8(a)] if *a < 0.0 => Err(Error::new(
            "2201F",
            "cannot take square root of a negative number",
        )),
        [Value::Float8(a)] => Ok(Value::Float8(a.sqrt())),
        [Value::Numeric(a)] => Ok(Value::numeric(numeric::sqrt(a)?)),
        _ => Err(mismatch(args)),
    }
}

pub(super) fn power(args: &[Value], _: &mut FnCtx<'_>) -> Result<Value> {
    let (a, b) = (args.float(0)?, args.float(1)?);
    if a == 0.0 && b < 0.0 {
        return Err(Error::new(
            "2201F",
            "zero raised to a negative power is undefined",
        ));
    }
    if a < 0.0 && a.is_finite() && b.is_finite() && b.fract() != 0.0 {
        let message = "a negative number raised to a non-integer power yields a complex result";
        return Err(Error::new("2201F", message));
    }
    let infinite = a.is_infinite() || b.is_infinite();
    checked_float(a.powf(b), infinite, a == 0.0 || infinite)
}

pub(super) fn exp(args: &[Value], _: &mut FnCtx<'_>) -> Result<Value> {
    let a = args.float(0)?;
    checked_float(a.exp(), a.is_infinite(), a.is_infinite())
}

fn logarithm(a: f64, function: fn(f64) -> f64) -> Result<Value> {
    if a == 0.0 {
        return Err(Error::new("2201E", "cannot take logarithm of zero"));
    }
    if a < 0.0 {
        return Err(Error::new(
            "2201E",
            "cannot take logarithm of a negative number",
        ));
    }
    Ok(Value::Float8(function(a)))
}

pub(super) fn ln(args: &[Value], _: &mut FnCtx<'_>) -> Result<Value> {
    logarithm(args.float(0)?, f64::ln)
}

pub(super) fn log10(args: &[Value], _: &mut FnCtx<'_>) -> Result<Value> {
    logarithm(args.float(0)?, f64::log10)
}

pub(super) fn pi(_: &[Value], _: &mut FnCtx<'_>) -> Result<Value> {
    Ok(Value::Float8(std::f64::consts::PI))
}

/// div(numeric, numeric): the quotient truncated to an integer.
pub(super) fn div(args: &[Value], _: &mut FnCtx<'_>) -> Result<Value> {
    let [Value::Numeric(a), Value::Numeric(b)] = args else {
        return Err(mismatch(args));
    };
    if numeric::sign(b).is_zero() {
        return Err(division_by_zero());
    }
    let remainder = numeric::modulo(a, b)?;
    let exact = numeric::subtract(a, &remainder)?;
    Ok(Value::numeric(numeric::truncate(
        &numeric::divide(&exact, b)?,
        0,
    )?))
}

/// 53 random bits: every double of the form n / 2^53 in [0, 1).
pub(super) fn random(_: &[Value], context: &mut FnCtx<'_>) -> Result<Value> {
    Ok(Value::Float8(
        (context.next_random() >> 11) as f64 / (1_u64 << 53) as f64,
    ))
}
