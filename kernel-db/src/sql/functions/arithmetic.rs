//! Arithmetic on numbers: 22003 when a result does not fit, 22012 for a division by zero.

use std::sync::Arc;

use bigdecimal::BigDecimal;

use super::{FnCtx, mismatch};
use crate::error::{Error, Result};
use crate::sql::{DataType, Value, numeric};

pub(super) fn out_of_range(data_type: DataType) -> Error {
    Error::new("22003", format!("{data_type} out of range"))
}

pub(super) fn division_by_zero() -> Error {
    Error::new("22012", "division by zero")
}

macro_rules! int_operators {
    ($variant:ident, $add:ident, $subtract:ident, $multiply:ident, $divide:ident, $modulo:ident) => {
        int_operators!(@checked $variant, $add, checked_add);
        int_operators!(@checked $variant, $subtract, checked_sub);
        int_operators!(@checked $variant, $multiply, checked_mul);

        pub(super) fn $divide(args: &[Value], _: &mut FnCtx<'_>) -> Result<Value> {
            match args {
                [Value::$variant(_), Value::$variant(0)] => Err(division_by_zero()),
                [Value::$variant(a), Value::$variant(b)] => a
                    .checked_div(*b)
                    .map(Value::$variant)
                    .ok_or_else(|| out_of_range(DataType::$variant)),
                _ => Err(mismatch(args)),
            }
        }

        pub(super) fn $modulo(args: &[Value], _: &mut FnCtx<'_>) -> Result<Value> {
            match args {
                [Value::$variant(_), Value::$variant(0)] => Err(division_by_zero()),
                // The least integer modulo -1 is 0, though its quotient overflows.
                [Value::$variant(a), Value::$variant(b)] => Ok(Value::$variant(a.wrapping_rem(*b))),
                _ => Err(mismatch(args)),
            }
        }
    };
    (@checked $variant:ident, $name:ident, $method:ident) => {
        #[inline]
        pub(super) fn $name(args: &[Value], _: &mut FnCtx<'_>) -> Result<Value> {
            match args {
                [Value::$variant(a), Value::$variant(b)] => a
                    .$method(*b)
                    .map(Value::$variant)
                    .ok_or_else(|| out_of_range(DataType::$variant)),
                _ => Err(mismatch(args)),
            }
        }
    };
}

int_operators!(
    Int2,
    int2_add,
    int2_subtract,
    int2_multiply,
    int2_divide,
    int2_modulo
);
int_operators!(
    Int4,
    int4_add,
    int4_subtract,
    int4_multiply,
    int4_divide,
    int4_modulo
);
int_operators!(
    Int8,
    int8_add,
    int8_subtract,
    int8_multiply,
    int8_divide,
    int8_modulo
);

/// A result that became infinite, or zero, only by computing is an error.
pub(super) fn checked_float(
    result: f64,
    inputs_infinite: bool,
    may_be_zero: bool,
) -> Result<Value> {
    if result.is_infinite() && !inputs_infinite {
        return Err(Error::new("22003", "value out of range: overflow"));
    }
    if result == 0.0 && !may_be_zero {
        return Err(Error::new("22003", "value out of range: underflow"));
    }
    Ok(Value::Float8(result))
}

fn floats(args: &[Value]) -> Result<(f64, f64)> {
    match args {
        [Value::Float8(a), Value::Float8(b)] => Ok((*a, *b)),
        _ => Err(mismatch(args)),
    }
}

pub(super) fn float_add(args: &[Value], _: &mut FnCtx<'_>) -> Result<Value> {
    let (a, b) = floats(args)?;
    checked_float(a + b, a.is_infinite() || b.is_infinite(), true)
}

pub(super) fn float_subtract(args: &[Value], _: &mut FnCtx<'_>) -> Result<Value> {
    let (a, b) = floats(args)?;
    checked_float(a - b, a.is_infinite() || b.is_infinite(), true)
}

pub(super) fn float_multiply(args: &[Value], _: &mut FnCtx<'_>) -> Result<Value> {
    let (a, b) = floats(args)?;
    checked_float(
        a * b,
        a.is_infinite() || b.is_infinite(),
        a == 0.0 || b == 0.0,
    )
}

pub(super) fn float_divide(args: &[Value], _: &mut FnCtx<'_>) -> Result<Value> {
    let (a, b) = floats(args)?;
    if b == 0.0 && !a.is_nan() {
        return Err(division_by_zero());
    }
    checked_float(a / b, a.is_infinite(), a == 0.0 || b.is_infinite())
}

type NumericOperation = fn(&BigDecimal, &BigDecimal) -> Result<BigDecimal>;

fn numeric_operation(args: &[Value], operation: NumericOperation) -> Result<Value> {
    match args {
        [Value::Numeric(a), Value::Numeric(b)] => Ok(Value::numeric(operation(a, b)?)),
        _ => Err(mismatch(args)),
    }
}

pub(super) fn numeric_add(args: &[Value], _: &mut FnCtx<'_>) -> Result<Value> {
    numeric_operation(args, numeric::add)
}

pub(super) fn numeric_subtract(args: &[Value], _: &mut FnCtx<'_>) -> Result<Value> {
    numeric_operation(args, numeric::subtract)
}

pub(super) fn numeric_multiply(args: &[Value], _: &mut FnCtx<'_>) -> Result<Value> {
    numeric_operation(args, numeric::multiply)
}

pub(super) fn numeric_divide(args: &[Value], _: &mut FnCtx<'_>) -> Result<Value> {
    numeric_operation(args, numeric::divide)
}

pub(super) fn numeric_modulo(args: &[Value], _: &mut FnCtx<'_>) -> Result<Value> {
    numeric_operation(args, numeric::modulo)
}

pub(super) fn plus(args: &[Value], _: &mut FnCtx<'_>) -> Result<Value> {
    args.first().cloned().ok_or_else(|| mismatch(args))
}

pub(super) fn negate(args: &[Value], _: &mut FnCtx<'_>) -> Result<Value> {
    let negated = match args {
        [Value::Int2(a)] => a.checked_neg().map(Value::Int2),
        [Value::Int4(a)] => a.checked_neg().map(Value::Int4),
        [Value::Int8(a)] => a.checked_neg().map(Value::Int8),
        [Value::Float8(a)] => Some(Value::Float8(-a)),
        [Value::Numeric(a)] => Some(Value::Numeric(Arc::new(numeric::negate(a)))),
        _ => return Err(mismatch(args)),
    };
    negated.ok_or_else(|| out_of_range(args[0].data_type()))
}

macro_rules! bit_operators {
    ($($name:ident = $operator:tt),*) => {
        $(pub(super) fn $name(args: &[Value], _: &mut FnCtx<'_>) -> Result<Value> {
            match args {
                [Value::Int2(a), Value::Int2(b)] => Ok(Value::Int2(a $operator b)),
                [Value::Int4(a), Value::Int4(b)] => Ok(Value::Int4(a $operator b)),
                [Value::Int8(a), Value::Int8(b)] => Ok(Value::Int8(a $operator b)),
                _ => Err(mismatch(args)),
            }
        })*
    };
}

bit_operators!(bit_and = &, bit_or = |, bit_xor = ^);

pub(super) fn bit_not(args: &[Value], _: &mut FnCtx<'_>) -> Result<Value> {
    match args {
        [Value::Int2(a)] => Ok(Value::Int2(!a)),
        [Value::Int4(a)] => Ok(Value::Int4(!a)),
        [Value::Int8(a)] => Ok(Value::Int8(!a)),
        _ => Err(mismatch(args)),
    }
}

/// The count is taken modulo the width, as the processors PostgreSQL runs on do; int2 is shifted as an int.
pub(super) fn shift_left(args: &[Value], _: &mut FnCtx<'_>) -> Result<Value> {
    match args {
        [Value::Int2(a), Value::Int4(b)] => {
            Ok(Value::Int2(i32::from(*a).wrapping_shl(*b as u32) as i16))
        }
        [Value::Int4(a), Value::Int4(b)] => Ok(Value::Int4(a.wrapping_shl(*b as u32))),
        [Value::Int8(a), Value::Int4(b)] => Ok(Value::Int8(a.wrapping_shl(*b as u32))),
        _ => Err(mismatch(args)),
    }
}

pub(super) fn shift_right(args: &[Value], _: &mut FnCtx<'_>) -> Result<Value> {
    match args {
        [Value::Int2(a), Value::Int4(b)] => {
            Ok(Value::Int2(i32::from(*a).wrapping_shr(*b as u32) as i16))
        }
        [Value::Int4(a), Value::Int4(b)] => Ok(Value::Int4(a.wrapping_shr(*b as u32))),
        [Value::Int8(a), Value::Int4(b)] => Ok(Value::Int8(a.wrapping_shr(*b as u32))),
        _ => Err(mismatch(args)),
    }
}
