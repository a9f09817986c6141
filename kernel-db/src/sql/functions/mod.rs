//! Scalar functions and operators: which there are, and which one a call means.
//!
//! A call is resolved once, when its statement is bound, by PostgreSQL's rules: exact types first, then implicit casts,
//! preferred types, and literals of unknown type taking the type of their neighbours. What comes out is a plain function
//! pointer and the types to cast the arguments to. COALESCE, NULLIF, CASE and the logical connectives are the executor's,
//! since they do not evaluate all their arguments.

mod arithmetic;
mod array;
mod bytes;
mod datetime;
mod format;
mod math;
mod misc;
mod operators;
mod regex;
mod resolve;
mod string;

#[cfg(test)]
mod tests;

pub use format::identifier as quoted_identifier;
pub use operators::{resolve_operator, resolve_unary};
pub use resolve::{does_not_exist, is_built_in, is_function, resolve_function};
pub(super) use string::check_size;

use super::{DataType, Value};
use crate::error::{Error, Result};
use crate::partition::{Lease, Wait};

/// How much a function's result may change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Volatility {
    /// Depends on the arguments alone.
    Immutable,
    /// The same within a statement.
    Stable,
    /// May differ at every call.
    Volatile,
}

/// What functions may know of their surroundings.
#[derive(Debug)]
pub struct FnCtx<'a> {
    /// now() in microseconds since the epoch. All clocks show it: a transaction must be deterministic.
    pub wall_us: i64,
    /// Waiting for a change, where that is possible.
    pub wait: Option<&'a mut Wait>,
    /// Read leases, where there are any.
    pub lease: Option<&'a mut Lease>,
    /// State of the random numbers; any value to start with.
    pub seed: &'a mut u64,
    pub user: &'a str,
    pub database: &'a str,
    pub application: &'a str,
}

impl FnCtx<'_> {
    /// The next 64 random bits (splitmix64): fine for spreading, no secret.
    pub fn next_random(&mut self) -> u64 {
        *self.seed = self.seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = *self.seed;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        bits ^ (bits >> 31)
    }
}

pub type Eval = fn(&[Value], &mut FnCtx<'_>) -> Result<Value>;

/// A function or operator chosen for its arguments' types.
#[derive(Clone, Debug)]
pub struct Function {
    pub name: &'static str,
    /// What the caller casts the arguments to (explicitly) before the call.
    pub args: Vec<DataType>,
    pub ret: DataType,
    /// NULL in, NULL out: `eval` is never called with a NULL.
    pub strict: bool,
    pub volatility: Volatility,
    pub eval: Eval,
}

impl Function {
    /// Calls the function with arguments already cast to `args`.
    #[inline]
    pub fn call(&self, args: &[Value], context: &mut FnCtx<'_>) -> Result<Value> {
        if self.strict && args.iter().any(Value::is_null) {
            return Ok(Value::Null);
        }
        (self.eval)(args, context)
    }
}

/// A value whose type the planner promised is another: a bug of the kernel, not of the request.
fn mismatch(args: &[Value]) -> Error {
    let types: Vec<&str> = args.iter().map(|arg| arg.data_type().name()).collect();
    Error::internal(format!(
        "a function was given values of other types: {}",
        types.join(", ")
    ))
}

/// Typed access to arguments that resolution has already cast.
trait Args {
    fn text(&self, at: usize) -> Result<&str>;
    fn int(&self, at: usize) -> Result<i64>;
    fn float(&self, at: usize) -> Result<f64>;
}

impl Args for [Value] {
    fn text(&self, at: usize) -> Result<&str> {
        self.get(at)
            .and_then(Value::as_str)
            .ok_or_else(|| mismatch(self))
    }

    fn int(&self, at: usize) -> Result<i64> {
        self.get(at)
            .and_then(Value::as_int)
            .ok_or_else(|| mismatch(self))
    }

    fn float(&self, at: usize) -> Result<f64> {
        match self.get(at) {
            Some(Value::Float8(number)) => Ok(*number),
            _ => Err(mismatch(self)),
        }
    }
}
