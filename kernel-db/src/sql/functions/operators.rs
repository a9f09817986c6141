//! Operators: which function an operator means for two types.
//!
//! Numbers meet in the wider of their two types (int2, int4, int8, numeric, double precision), as PostgreSQL's cross-type
//! operators do. A literal of unknown type takes the other side's.

use sqlparser::ast::{BinaryOperator as Op, UnaryOperator};

use super::{Eval, Function, Volatility, arithmetic as arith, datetime, math, misc, regex, string};
use crate::error::{Error, Result};
use crate::sql::{Category, DataType};

fn immutable(name: &'static str, args: &[DataType], ret: DataType, eval: Eval) -> Function {
    let volatility = Volatility::Immutable;
    Function {
        name,
        args: args.to_vec(),
        ret,
        strict: true,
        volatility,
        eval,
    }
}

fn undefined(left: Option<DataType>, op: &dyn std::fmt::Display, right: DataType) -> Error {
    let left = left.map(|left| format!("{left} ")).unwrap_or_default();
    Error::new("42883", format!("operator does not exist: {left}{op} {right}")).hint(
        "No operator matches the given name and argument types. You might need to add explicit type casts.",
    )
}

fn ambiguous(op: &dyn std::fmt::Display) -> Error {
    Error::new(
        "42725",
        format!("operator is not unique: unknown {op} unknown"),
    )
    .hint("Could not choose a best candidate operator. You might need to add explicit type casts.")
}

/// The place of a number's type among the others: the wider type wins.
fn width(data_type: DataType) -> u8 {
    match data_type {
        DataType::Int2 => 0,
        DataType::Int4 => 1,
        DataType::Int8 => 2,
        DataType::Numeric => 3,
        _ => 4,
    }
}

fn wider(left: DataType, right: DataType) -> DataType {
    if width(left) >= width(right) {
        left
    } else {
        right
    }
}

/// The function of a binary operator. AND and OR are the executor's. 42883 if there is none, 42725 for two literals that
/// could be anything.
pub fn resolve_operator(op: &Op, left: DataType, right: DataType) -> Result<Function> {
    match op {
        Op::Eq | Op::NotEq | Op::Lt | Op::LtEq | Op::Gt | Op::GtEq => comparison(op, left, right),
        Op::StringConcat => concatenation(op, left, right),
        Op::PGRegexMatch | Op::PGRegexNotMatch | Op::PGRegexIMatch | Op::PGRegexNotIMatch => {
            let (name, eval): (_, Eval) = match op {
                Op::PGRegexMatch => ("~", regex::matching),
                Op::PGRegexNotMatch => ("!~", regex::not_matching),
                Op::PGRegexIMatch => ("~*", regex::matching_any_case),
                _ => ("!~*", regex::not_matching_any_case),
            };
            texts(op, name, left, right, DataType::Bool, eval)
        }
        Op::PGLikeMatch | Op::PGNotLikeMatch | Op::PGILikeMatch | Op::PGNotILikeMatch => {
            let eval = match op {
                Op::PGLikeMatch => string::like,
                Op::PGNotLikeMatch => string::not_like,
                Op::PGILikeMatch => string::ilike,
                _ => string::not_ilike,
            };
            texts(op, "like", left, right, DataType::Bool, eval)
        }
        Op::PGStartsWith => texts(
            op,
            "starts_with",
            left,
            right,
            DataType::Bool,
            string::starts_with,
        ),
        Op::Plus | Op::Minus | Op::Multiply | Op::Divide | Op::Modulo => {
            match settle_arithmetic(op, left, right) {
                None => Err(ambiguous(op)),
                Some((left, right)) => arithmetic(op, left, right),
            }
        }
        Op::PGExp => match settle(left, right) {
            Some((left, right)) if left.is_number() && right.is_number() => Ok(immutable(
                "power",
                &[DataType::Float8; 2],
                DataType::Float8,
                math::power,
            )),
            Some((left, right)) => Err(undefined(Some(left), op, right)),
            None => Ok(immutable(
                "power",
                &[DataType::Float8; 2],
                DataType::Float8,
                math::power,
            )),
        },
        Op::BitwiseAnd
        | Op::BitwiseOr
        | Op::PGBitwiseXor
        | Op::BitwiseXor
        | Op::PGBitwiseShiftLeft
        | Op::PGBitwiseShiftRight => bits(op, left, right),
        other => Err(Error::unsupported(format!("operator {other}"))),
    }
}

/// Unknown literals take the other side's type; `None` if both are unknown.
fn settle(left: DataType, right: DataType) -> Option<(DataType, DataType)> {
    match (left, right) {
        (DataType::Unknown, DataType::Unknown) => None,
        (DataType::Unknown, known) => Some((known, known)),
        (known, DataType::Unknown) => Some((known, known)),
        known => Some(known),
    }
}

/// As [`settle`], but where no operator takes a time or interval on both sides, the literal takes the type that one does.
fn settle_arithmetic(op: &Op, left: DataType, right: DataType) -> Option<(DataType, DataType)> {
    use DataType::{Float8, Interval, Timestamptz, Unknown};
    match (op, left, right) {
        (Op::Plus, Timestamptz, Unknown) => Some((Timestamptz, Interval)),
        (Op::Plus, Unknown, Timestamptz) => Some((Interval, Timestamptz)),
        (Op::Multiply | Op::Divide, Interval, Unknown) => Some((Interval, Float8)),
        (Op::Multiply, Unknown, Interval) => Some((Float8, Interval)),
        _ => settle(left, right),
    }
}

fn comparison(op: &Op, left: DataType, right: DataType) -> Result<Function> {
    let (left, right) = settle(left, right).unwrap_or((DataType::Text, DataType::Text));
    let both = if left.is_number() && right.is_number() {
        wider(left, right)
    } else if left.is_string() && right.is_string() {
        DataType::Text
    } else if left == right && (left.category() != Category::Pseudo || left == DataType::Record) {
        left
    } else {
        return Err(undefined(Some(left), op, right));
    };
    let (name, eval): (_, Eval) = match (op, both) {
        (Op::Eq, DataType::Int4) => ("=", misc::int4_eq),
        (Op::Eq, DataType::Int8) => ("=", misc::int8_eq),
        (Op::Eq, _) => ("=", misc::eq),
        (Op::NotEq, _) => ("<>", misc::ne),
        (Op::Lt, _) => ("<", misc::lt),
        (Op::LtEq, _) => ("<=", misc::le),
        (Op::Gt, _) => (">", misc::gt),
        _ => (">=", misc::ge),
    };
    Ok(immutable(name, &[both, both], DataType::Bool, eval))
}

fn concatenation(op: &Op, left: DataType, right: DataType) -> Result<Function> {
    if let Some(function) = super::array::concatenation(left, right) {
        return Ok(function);
    }
    let text = |data_type: DataType| data_type.is_string() || data_type == DataType::Unknown;
    let bytes = |data_type: DataType| matches!(data_type, DataType::Bytea | DataType::Unknown);
    if bytes(left) && bytes(right) && left != right || left == DataType::Bytea && left == right {
        let bytea = DataType::Bytea;
        return Ok(immutable(
            "||",
            &[bytea, bytea],
            bytea,
            string::concat_bytes,
        ));
    }
    if text(left) || text(right) {
        let text = DataType::Text;
        return Ok(immutable("||", &[text, text], text, string::concat_texts));
    }
    Err(undefined(Some(left), op, right))
}

fn texts(
    op: &Op,
    name: &'static str,
    left: DataType,
    right: DataType,
    ret: DataType,
    eval: Eval,
) -> Result<Function> {
    let text = |data_type: DataType| data_type.is_string() || data_type == DataType::Unknown;
    if !text(left) || !text(right) {
        return Err(undefined(Some(left), op, right));
    }
    Ok(immutable(
        name,
        &[DataType::Text, DataType::Text],
        ret,
        eval,
    ))
}

fn arithmetic(op: &Op, left: DataType, right: DataType) -> Result<Function> {
    if !left.is_number() || !right.is_number() {
        return time_arithmetic(op, left, right);
    }
    let both = wider(left, right);
    let (name, eval): (_, Eval) = match (op, both) {
        (Op::Plus, DataType::Int2) => ("+", arith::int2_add),
        (Op::Plus, DataType::Int4) => ("+", arith::int4_add),
        (Op::Plus, DataType::Int8) => ("+", arith::int8_add),
        (Op::Plus, DataType::Numeric) => ("+", arith::numeric_add),
        (Op::Plus, _) => ("+", arith::float_add),
        (Op::Minus, DataType::Int2) => ("-", arith::int2_subtract),
        (Op::Minus, DataType::Int4) => ("-", arith::int4_subtract),
        (Op::Minus, DataType::Int8) => ("-", arith::int8_subtract),
        (Op::Minus, DataType::Numeric) => ("-", arith::numeric_subtract),
        (Op::Minus, _) => ("-", arith::float_subtract),
        (Op::Multiply, DataType::Int2) => ("*", arith::int2_multiply),
        (Op::Multiply, DataType::Int4) => ("*", arith::int4_multiply),
        (Op::Multiply, DataType::Int8) => ("*", arith::int8_multiply),
        (Op::Multiply, DataType::Numeric) => ("*", arith::numeric_multiply),
        (Op::Multiply, _) => ("*", arith::float_multiply),
        (Op::Divide, DataType::Int2) => ("/", arith::int2_divide),
        (Op::Divide, DataType::Int4) => ("/", arith::int4_divide),
        (Op::Divide, DataType::Int8) => ("/", arith::int8_divide),
        (Op::Divide, DataType::Numeric) => ("/", arith::numeric_divide),
        (Op::Divide, _) => ("/", arith::float_divide),
        (_, DataType::Int2) => ("%", arith::int2_modulo),
        (_, DataType::Int4) => ("%", arith::int4_modulo),
        (_, DataType::Int8) => ("%", arith::int8_modulo),
        (_, DataType::Numeric) => ("%", arith::numeric_modulo),
        _ => return Err(undefined(Some(left), op, right)),
    };
    Ok(immutable(name, &[both, both], both, eval))
}

fn time_arithmetic(op: &Op, left: DataType, right: DataType) -> Result<Function> {
    use DataType::{Float8, Interval, Timestamptz};
    let (args, ret, eval): ([DataType; 2], _, Eval) = match (op, left, right) {
        (Op::Minus, Timestamptz, Timestamptz) => (
            [Timestamptz, Timestamptz],
            Interval,
            datetime::timestamp_difference,
        ),
        (Op::Plus, Timestamptz, Interval) => (
            [Timestamptz, Interval],
            Timestamptz,
            datetime::timestamp_plus,
        ),
        (Op::Plus, Interval, Timestamptz) => (
            [Interval, Timestamptz],
            Timestamptz,
            datetime::plus_timestamp,
        ),
        (Op::Minus, Timestamptz, Interval) => (
            [Timestamptz, Interval],
            Timestamptz,
            datetime::timestamp_minus,
        ),
        (Op::Plus, Interval, Interval) => ([Interval, Interval], Interval, datetime::interval_plus),
        (Op::Minus, Interval, Interval) => {
            ([Interval, Interval], Interval, datetime::interval_minus)
        }
        (Op::Multiply, Interval, number) if number.is_number() => {
            ([Interval, Float8], Interval, datetime::interval_times)
        }
        (Op::Multiply, number, Interval) if number.is_number() => {
            ([Float8, Interval], Interval, datetime::times_interval)
        }
        (Op::Divide, Interval, number) if number.is_number() => {
            ([Interval, Float8], Interval, datetime::interval_divide)
        }
        _ => return Err(undefined(Some(left), op, right)),
    };
    let name = match op {
        Op::Plus => "+",
        Op::Minus => "-",
        Op::Multiply => "*",
        _ => "/",
    };
    // Days and months are added by the calendar of the session's zone, which is why PostgreSQL calls these stable.
    let volatility = if ret == Timestamptz {
        Volatility::Stable
    } else {
        Volatility::Immutable
    };
    Ok(Function {
        name,
        args: args.to_vec(),
        ret,
        strict: true,
        volatility,
        eval,
    })
}

fn bits(op: &Op, left: DataType, right: DataType) -> Result<Function> {
    let shift = matches!(op, Op::PGBitwiseShiftLeft | Op::PGBitwiseShiftRight);
    let settled = match right {
        // A shift's count is an integer whatever is shifted.
        DataType::Unknown if shift && left != DataType::Unknown => Some((left, DataType::Int4)),
        _ => settle(left, right),
    };
    let Some((left, right)) = settled else {
        return Err(ambiguous(op));
    };
    if !left.is_int() || !right.is_int() {
        return Err(undefined(Some(left), op, right));
    }
    if shift {
        if right == DataType::Int8 {
            return Err(undefined(Some(left), op, right));
        }
        let (name, eval): (_, Eval) = match op {
            Op::PGBitwiseShiftLeft => ("<<", arith::shift_left),
            _ => (">>", arith::shift_right),
        };
        return Ok(immutable(name, &[left, DataType::Int4], left, eval));
    }
    let both = wider(left, right);
    let (name, eval): (_, Eval) = match op {
        Op::BitwiseAnd => ("&", arith::bit_and),
        Op::BitwiseOr => ("|", arith::bit_or),
        _ => ("#", arith::bit_xor),
    };
    Ok(immutable(name, &[both, both], both, eval))
}

/// The function of a prefix operator. NOT is the executor's.
pub fn resolve_unary(op: &UnaryOperator, operand: DataType) -> Result<Function> {
    use DataType::{Float8, Int2, Int4, Int8, Interval, Numeric, Unknown};
    let operand = match (operand, op) {
        // Candidates of several categories: nothing to prefer.
        (Unknown, UnaryOperator::Minus | UnaryOperator::BitwiseNot) => {
            let message = format!("operator is not unique: {op} unknown");
            return Err(Error::new("42725", message).hint(
                "Could not choose a best candidate operator. You might need to add explicit type casts.",
            ));
        }
        (Unknown, _) => Float8,
        _ => operand,
    };
    let (name, eval): (_, Eval) = match (op, operand) {
        (UnaryOperator::Minus, Int2 | Int4 | Int8 | Float8 | Numeric) => ("-", arith::negate),
        (UnaryOperator::Minus, Interval) => ("-", datetime::interval_negate),
        (UnaryOperator::Plus, Int2 | Int4 | Int8 | Float8 | Numeric) => ("+", arith::plus),
        (UnaryOperator::BitwiseNot, Int2 | Int4 | Int8) => ("~", arith::bit_not),
        (UnaryOperator::PGAbs, Int2 | Int4 | Int8 | Float8 | Numeric) => ("@", math::abs),
        (UnaryOperator::PGSquareRoot, Int2 | Int4 | Int8 | Float8 | Numeric) => {
            return Ok(immutable("|/", &[Float8], Float8, math::sqrt));
        }
        _ => return Err(undefined(None, op, operand)),
    };
    Ok(immutable(name, &[operand], operand, eval))
}
