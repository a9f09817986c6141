//! Comparison operators, and functions about the session and about values as such.

use std::cmp::Ordering;

use super::{FnCtx, mismatch};
use crate::error::{Error, Result};
use crate::partition::{LEASE_US_MAX, LeaseAsk};
use crate::sql::Value;
use crate::sql::compare::compare;

/// What clients look at to decide what they may ask for.
pub const VERSION: &str = concat!(
    "PostgreSQL 15.0 (DBOS kernel-db ",
    env!("CARGO_PKG_VERSION"),
    ")"
);

/// More than any statement may take.
const WAIT_SECONDS_MAX: f64 = 1e9;

pub(super) fn int4_eq(args: &[Value], _: &mut FnCtx<'_>) -> Result<Value> {
    match args {
        [Value::Int4(a), Value::Int4(b)] => Ok(Value::Bool(a == b)),
        _ => Err(mismatch(args)),
    }
}

pub(super) fn int8_eq(args: &[Value], _: &mut FnCtx<'_>) -> Result<Value> {
    match args {
        [Value::Int8(a), Value::Int8(b)] => Ok(Value::Bool(a == b)),
        _ => Err(mismatch(args)),
    }
}

macro_rules! comparisons {
    ($($name:ident = $test:path),*) => {
        $(pub(super) fn $name(args: &[Value], _: &mut FnCtx<'_>) -> Result<Value> {
            match args {
                [a, b] => Ok(Value::Bool($test(compare(a, b)))),
                _ => Err(mismatch(args)),
            }
        })*
    };
}

comparisons!(
    eq = Ordering::is_eq,
    ne = Ordering::is_ne,
    lt = Ordering::is_lt,
    le = Ordering::is_le,
    gt = Ordering::is_gt,
    ge = Ordering::is_ge
);

fn extreme(args: &[Value], wanted: Ordering) -> Result<Value> {
    let mut best = &Value::Null;
    for value in args.iter().filter(|value| !value.is_null()) {
        if best.is_null() || compare(value, best) == wanted {
            best = value;
        }
    }
    Ok(best.clone())
}

/// NULL only if all arguments are.
pub(super) fn greatest(args: &[Value], _: &mut FnCtx<'_>) -> Result<Value> {
    extreme(args, Ordering::Greater)
}

pub(super) fn least(args: &[Value], _: &mut FnCtx<'_>) -> Result<Value> {
    extreme(args, Ordering::Less)
}

/// A random UUID of version 4. Its bits follow from the transaction's seed, so that a replay makes the same.
pub(super) fn gen_random_uuid(_: &[Value], context: &mut FnCtx<'_>) -> Result<Value> {
    let bits = u128::from(context.next_random()) << 64 | u128::from(context.next_random());
    let mut bytes = bits.to_be_bytes();
    bytes[6] = bytes[6] & 0x0f | 0x40;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    Ok(Value::Uuid(bytes))
}

/// `wait_for_change(seconds)`: waits until what this transaction has read so far may have changed, at most until the request
/// has waited for so many seconds. The transaction is undone, parked, and run again from the start; false: time is up.
pub(super) fn wait_for_change(args: &[Value], context: &mut FnCtx<'_>) -> Result<Value> {
    let seconds = match args {
        [Value::Float8(seconds)] => seconds.clamp(0.0, WAIT_SECONDS_MAX),
        _ => return Err(mismatch(args)),
    };
    let until_us = (seconds * 1e6) as u64;
    match &mut context.wait {
        Some(wait) => Ok(Value::Bool(wait.until(until_us)?)),
        None if until_us == 0 => Ok(Value::Bool(false)),
        None => Err(Error::unsupported(
            "waiting for a change in a transaction block, or in more than one partition",
        )
        .hint("send the statement alone, with all partition keys equal")),
    }
}

/// `lease_reads(holder, milliseconds)`: what this transaction has read is not changed for so long, and `holder` may go on
/// reading it from its own memory, counted from before it asked; unless `lease_recalls` tells it that the lease is wanted back.
/// Its number, or NULL: nothing is leased, because somebody is about to write it, or ranges or many keys were read.
pub(super) fn lease_reads(args: &[Value], context: &mut FnCtx<'_>) -> Result<Value> {
    let (holder, length_us) = match args {
        [Value::Int8(holder), Value::Int4(ms)] => (*holder, u64::try_from(*ms).unwrap_or(0) * 1000),
        _ => return Err(mismatch(args)),
    };
    if length_us == 0 || length_us > LEASE_US_MAX {
        return Err(
            Error::new("22023", "no length of a lease").hint("from 1 to 10000 milliseconds")
        );
    }
    Ok(ask(context, LeaseAsk::Reads { holder, length_us }))
}

/// `lease_recalls(holder, returned, seconds)`: gives lease `returned` back (0: none), which `holder` does not use any more;
/// then tells one that is wanted back, or NULL when there was none for so many seconds.
pub(super) fn lease_recalls(args: &[Value], context: &mut FnCtx<'_>) -> Result<Value> {
    let [
        Value::Int8(holder),
        Value::Int8(returned),
        Value::Float8(seconds),
    ] = args
    else {
        return Err(mismatch(args));
    };
    let ask_for = LeaseAsk::Recalls {
        holder: *holder,
        returned: *returned,
        until_us: (seconds.clamp(0.0, WAIT_SECONDS_MAX) * 1e6) as u64,
    };
    Ok(ask(context, ask_for))
}

/// Where nothing can be leased, beside the cores and in blocks, the answer is NULL.
fn ask(context: &mut FnCtx<'_>, ask: LeaseAsk) -> Value {
    let Some(lease) = &mut context.lease else {
        return Value::Null;
    };
    lease.asked = Some(ask);
    lease.answer.map_or(Value::Null, Value::Int8)
}

pub(super) fn version(_: &[Value], _: &mut FnCtx<'_>) -> Result<Value> {
    Ok(VERSION.into())
}

pub(super) fn current_schema(_: &[Value], _: &mut FnCtx<'_>) -> Result<Value> {
    Ok("public".into())
}

pub(super) fn current_user(_: &[Value], context: &mut FnCtx<'_>) -> Result<Value> {
    Ok(context.user.into())
}

pub(super) fn current_database(_: &[Value], context: &mut FnCtx<'_>) -> Result<Value> {
    Ok(context.database.into())
}

pub(super) fn num_nulls(args: &[Value], _: &mut FnCtx<'_>) -> Result<Value> {
    Ok(Value::Int4(
        args.iter().filter(|arg| arg.is_null()).count() as i32
    ))
}

pub(super) fn num_nonnulls(args: &[Value], _: &mut FnCtx<'_>) -> Result<Value> {
    Ok(Value::Int4(
        args.iter().filter(|arg| !arg.is_null()).count() as i32,
    ))
}

macro_rules! type_names {
    ($($name:ident = $text:literal),*) => {
        $(fn $name(_: &[Value], _: &mut FnCtx<'_>) -> Result<Value> {
            Ok($text.into())
        })*
    };
}

type_names!(
    type_bool = "boolean",
    type_int2 = "smallint",
    type_int4 = "integer",
    type_int8 = "bigint",
    type_float8 = "double precision",
    type_text = "text",
    type_varchar = "character varying",
    type_bytea = "bytea",
    type_timestamptz = "timestamp with time zone",
    type_uuid = "uuid",
    type_numeric = "numeric",
    type_interval = "interval",
    type_unknown = "unknown",
    type_void = "void",
    type_record = "record",
    type_bool_array = "boolean[]",
    type_int2_array = "smallint[]",
    type_int4_array = "integer[]",
    type_int8_array = "bigint[]",
    type_float8_array = "double precision[]",
    type_text_array = "text[]",
    type_varchar_array = "character varying[]",
    type_timestamptz_array = "timestamp with time zone[]",
    type_uuid_array = "uuid[]"
);

/// pg_typeof knows its answer when it is resolved: a function per type, since a NULL does not tell its own.
pub(super) fn pg_typeof(of: crate::sql::DataType) -> super::Eval {
    use crate::sql::DataType::*;
    match of {
        Bool => type_bool,
        Int2 => type_int2,
        Int4 => type_int4,
        Int8 => type_int8,
        Float8 => type_float8,
        Text => type_text,
        Varchar => type_varchar,
        Bytea => type_bytea,
        Timestamptz => type_timestamptz,
        Uuid => type_uuid,
        Numeric => type_numeric,
        Interval => type_interval,
        Unknown => type_unknown,
        Void => type_void,
        Record => type_record,
        BoolArray => type_bool_array,
        Int2Array => type_int2_array,
        Int4Array => type_int4_array,
        Int8Array => type_int8_array,
        Float8Array => type_float8_array,
        TextArray => type_text_array,
        VarcharArray => type_varchar_array,
        TimestamptzArray => type_timestamptz_array,
        UuidArray => type_uuid_array,
    }
}
