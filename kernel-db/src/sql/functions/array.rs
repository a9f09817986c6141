//! Functions over arrays. Their argument and result types follow from the call.

use super::{Eval, FnCtx, Function, Volatility, mismatch};
use crate::error::Result;
use crate::sql::{DataType, Value, array, text};

/// The function `name` over an array, none if it is no function of arrays.
pub(super) fn resolve(name: &str, args: &[DataType]) -> Option<Function> {
    use DataType::{Int4, Text};
    let first = *args.first()?;
    first.element()?;
    let (name, rest, ret, eval): (_, &[DataType], _, Eval) = match (name, args.len()) {
        ("array_length", 2) => ("array_length", &[Int4], Int4, length),
        ("array_upper", 2) => ("array_upper", &[Int4], Int4, length),
        ("array_lower", 2) => ("array_lower", &[Int4], Int4, lower),
        ("cardinality", 1) => ("cardinality", &[], Int4, cardinality),
        ("array_to_string", 2) => ("array_to_string", &[Text], Text, to_string),
        _ => return None,
    };
    let mut all = vec![first];
    all.extend_from_slice(rest);
    Some(function(name, all, ret, true, eval))
}

/// `array || array`, if both have one type.
pub(super) fn concatenation(left: DataType, right: DataType) -> Option<Function> {
    let both = match (left, right) {
        (DataType::Unknown, known) | (known, DataType::Unknown) => known,
        (a, b) if a == b => a,
        _ => return None,
    };
    both.element()?;
    Some(function("||", vec![both, both], both, false, concat))
}

fn function(
    name: &'static str,
    args: Vec<DataType>,
    ret: DataType,
    strict: bool,
    eval: Eval,
) -> Function {
    Function {
        name,
        args,
        ret,
        strict,
        volatility: Volatility::Immutable,
        eval,
    }
}

fn items(args: &[Value]) -> Result<&[Value]> {
    let first = args.first().and_then(array::items);
    first.map(|i| &i[..]).ok_or_else(|| mismatch(args))
}

/// Of dimension 1, the only one; NULL of an empty array.
fn dimension(args: &[Value], value: usize) -> Result<Value> {
    if items(args)?.is_empty() || args.get(1).and_then(Value::as_int) != Some(1) {
        return Ok(Value::Null);
    }
    Ok(Value::Int4(i32::try_from(value).unwrap_or(i32::MAX)))
}

fn length(args: &[Value], _: &mut FnCtx<'_>) -> Result<Value> {
    dimension(args, items(args)?.len())
}

fn lower(args: &[Value], _: &mut FnCtx<'_>) -> Result<Value> {
    dimension(args, 1)
}

fn cardinality(args: &[Value], _: &mut FnCtx<'_>) -> Result<Value> {
    Ok(Value::Int4(
        i32::try_from(items(args)?.len()).unwrap_or(i32::MAX),
    ))
}

/// NULL elements are left out.
fn to_string(args: &[Value], _: &mut FnCtx<'_>) -> Result<Value> {
    let shown: Vec<String> = items(args)?.iter().filter_map(text::to_text).collect();
    let between = args.get(1).and_then(Value::as_str).unwrap_or_default();
    Ok(Value::from(shown.join(between)))
}

/// NULL counts as an empty array unless both are.
fn concat(args: &[Value], _: &mut FnCtx<'_>) -> Result<Value> {
    match args {
        [Value::Null, other] | [other, Value::Null] => Ok(other.clone()),
        [
            Value::Array { element, items: a },
            Value::Array { items: b, .. },
        ] => array::value(*element, a.iter().chain(b.iter()).cloned().collect()),
        _ => Err(mismatch(args)),
    }
}
