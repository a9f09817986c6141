//! Casts: which there are, and how they convert.
//!
//! Whether a cast is allowed where it stands is decided when a statement is bound ([`can_cast`]); [`cast`] converts.

use bigdecimal::BigDecimal;

use super::{DataType, Value, array, numeric, text};
use crate::error::{Error, Result};

/// Where a cast stands: PostgreSQL allows more the more visibly it was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum CastContext {
    /// In an expression, unasked.
    Implicit,
    /// Storing into a column or variable.
    Assignment,
    /// CAST or `::`.
    Explicit,
}

use CastContext::{Assignment, Explicit, Implicit};

/// The least context in which a cast is allowed; `None` if there is none.
fn least_context(from: DataType, to: DataType) -> Option<CastContext> {
    use DataType::*;
    if from == to || from == Unknown {
        return Some(Implicit);
    }
    Some(match (from, to) {
        (Text | Varchar, Text | Varchar) => Implicit,
        (Int2, Int4 | Int8 | Float8 | Numeric) => Implicit,
        (Int4, Int8 | Float8 | Numeric) => Implicit,
        (Int8, Float8 | Numeric) => Implicit,
        (Numeric, Float8) => Implicit,
        (Int4 | Int8 | Float8 | Numeric, Int2 | Int4 | Int8 | Numeric) => Assignment,
        (Int4, Bool) | (Bool, Int4) => Explicit,
        (Void | Record, _) | (_, Void | Record | Unknown) => return None,
        // Element by element.
        _ if from.element().is_some() && to.element().is_some() => {
            match (from.element(), to.element()) {
                (Some(from), Some(to)) => return least_context(from, to),
                _ => return None,
            }
        }
        // Through the text representation: out in an assignment, in only when asked for.
        (_, Text | Varchar) => Assignment,
        (Text | Varchar, _) => Explicit,
        _ => return None,
    })
}

pub fn can_cast(from: DataType, to: DataType, context: CastContext) -> bool {
    least_context(from, to).is_some_and(|least| least <= context)
}

pub fn cannot_cast(from: DataType, to: DataType) -> Error {
    Error::new("42846", format!("cannot cast type {from} to {to}"))
}

fn out_of_range(to: DataType) -> Error {
    Error::new("22003", format!("{to} out of range"))
}

/// Converts a value. Text converts to anything, since a literal of unknown type is held as text; NULL stays NULL.
pub fn cast(value: &Value, to: DataType, context: CastContext) -> Result<Value> {
    match (value, to) {
        (Value::Null, _) => return Ok(Value::Null),
        (Value::Text(_), DataType::Text | DataType::Varchar | DataType::Unknown) => {
            return Ok(value.clone());
        }
        (Value::Text(text), _) => return text::from_text(text, to),
        _ => {}
    }
    let from = value.data_type();
    if from == to {
        return Ok(value.clone());
    }
    if !can_cast(from, to, context) {
        return Err(cannot_cast(from, to));
    }
    if let (Value::Array { items, .. }, Some(element)) = (value, to.element()) {
        return array::cast(items, element, |item| cast(item, element, context));
    }
    match to {
        DataType::Int2 => {
            let int = to_int(value, to)?;
            Ok(Value::Int2(
                i16::try_from(int).map_err(|_| out_of_range(to))?,
            ))
        }
        DataType::Int4 => {
            let int = to_int(value, to)?;
            Ok(Value::Int4(
                i32::try_from(int).map_err(|_| out_of_range(to))?,
            ))
        }
        DataType::Int8 => Ok(Value::Int8(to_int(value, to)?)),
        DataType::Float8 => match to_float(value) {
            Some(float) if float.is_infinite() && from == DataType::Numeric => {
                Err(out_of_range(to))
            }
            Some(float) => Ok(Value::Float8(float)),
            None => Err(cannot_cast(from, to)),
        },
        DataType::Numeric => match value {
            Value::Float8(number) => Ok(Value::numeric(numeric::from_f64(*number)?)),
            other => other
                .as_int()
                .map(|int| Value::numeric(BigDecimal::from(int)))
                .ok_or_else(|| cannot_cast(from, to)),
        },
        DataType::Bool => value
            .as_int()
            .map(|int| Value::Bool(int != 0))
            .ok_or_else(|| cannot_cast(from, to)),
        DataType::Text | DataType::Varchar => Ok(match value {
            // The cast spells out what the output function abbreviates.
            Value::Bool(truth) => Value::from(if *truth { "true" } else { "false" }),
            other => Value::from(text::to_text(other)),
        }),
        _ => Err(cannot_cast(from, to)),
    }
}

/// Floats round to even, numerics away from zero.
fn to_int(value: &Value, to: DataType) -> Result<i64> {
    match value {
        Value::Float8(number) => {
            let rounded = number.round_ties_even();
            // Both bounds are powers of two and exact; NaN fails both.
            if (-9_223_372_036_854_775_808.0..9_223_372_036_854_775_808.0).contains(&rounded) {
                Ok(rounded as i64)
            } else {
                Err(out_of_range(to))
            }
        }
        Value::Numeric(number) => numeric::to_i64(number).ok_or_else(|| out_of_range(to)),
        Value::Bool(truth) => Ok(i64::from(*truth)),
        other => other
            .as_int()
            .ok_or_else(|| cannot_cast(other.data_type(), to)),
    }
}

fn to_float(value: &Value) -> Option<f64> {
    match value {
        Value::Float8(number) => Some(*number),
        Value::Numeric(number) => Some(numeric::to_f64(number)),
        other => other.as_int().map(|int| int as f64),
    }
}

/// Fits a text to varchar(n): an explicit cast cuts, anything else fails with 22001 unless only blanks are cut.
pub fn fit_varchar(value: Value, length: u32, context: CastContext) -> Result<Value> {
    let Value::Text(text) = &value else {
        return Ok(value);
    };
    let limit = length as usize;
    // Bytes are never fewer than characters.
    if text.len() <= limit {
        return Ok(value);
    }
    let Some((end, _)) = text.char_indices().nth(limit) else {
        return Ok(value);
    };
    if context != Explicit && text[end..].chars().any(|c| c != ' ') {
        let message = format!("value too long for type character varying({length})");
        return Err(Error::new("22001", message));
    }
    Ok(Value::from(&text[..end]))
}

/// The type that CASE, COALESCE, UNION, VALUES, IN, GREATEST and the like give their branches (PostgreSQL's
/// select_common_type). `what` names the construct in the error, 42804.
pub fn common_type(types: &[DataType], what: &str) -> Result<DataType> {
    let mut chosen = DataType::Unknown;
    for &next in types {
        if next == DataType::Unknown || next == chosen {
            continue;
        }
        if chosen == DataType::Unknown {
            chosen = next;
        } else if chosen.category() != next.category() {
            let message = format!("{what} types {chosen} and {next} cannot be matched");
            return Err(Error::new("42804", message));
        } else if !chosen.is_preferred()
            && can_cast(chosen, next, Implicit)
            && !can_cast(next, chosen, Implicit)
        {
            chosen = next;
        }
    }
    if chosen == DataType::Unknown {
        return Ok(DataType::Text);
    }
    for &next in types {
        if !can_cast(next, chosen, Implicit) {
            let message = format!("{what} could not convert type {next} to {chosen}");
            return Err(Error::new("42846", message));
        }
    }
    Ok(chosen)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(value: &Value, to: DataType) -> String {
        text::to_text(&cast(value, to, Explicit).unwrap()).unwrap()
    }

    #[test]
    fn contexts_are_postgresqls() {
        use DataType::*;
        for (from, to, least) in [
            (Int4, Int8, Some(Implicit)),
            (Int8, Int4, Some(Assignment)),
            (Float8, Int4, Some(Assignment)),
            (Float8, Numeric, Some(Assignment)),
            (Numeric, Float8, Some(Implicit)),
            (Int4, Text, Some(Assignment)),
            (Text, Int4, Some(Explicit)),
            (Bool, Int4, Some(Explicit)),
            (Bool, Int8, None),
            (Bytea, Int4, None),
            (Unknown, Timestamptz, Some(Implicit)),
            (Varchar, Text, Some(Implicit)),
            (Timestamptz, Int8, None),
        ] {
            assert_eq!(least_context(from, to), least, "{from} -> {to}");
        }
    }

    #[test]
    fn rounds_as_postgresql_does() {
        for (number, int) in [
            (0.5, "0"),
            (1.5, "2"),
            (2.5, "2"),
            (-0.5, "0"),
            (-1.5, "-2"),
        ] {
            assert_eq!(shown(&number.into(), DataType::Int4), int);
        }
        let half = text::from_text("2.5", DataType::Numeric).unwrap();
        assert_eq!(shown(&half, DataType::Int4), "3");
        assert_eq!(shown(&true.into(), DataType::Text), "true");
        assert_eq!(shown(&"  7 ".into(), DataType::Int8), "7");
    }

    #[test]
    fn errors_have_postgresql_codes() {
        let code = |value: Value, to| cast(&value, to, Explicit).unwrap_err();
        assert_eq!(code(3e9.into(), DataType::Int4).sqlstate(), "22003");
        assert_eq!(
            code(3e9.into(), DataType::Int4).message(),
            "integer out of range"
        );
        assert_eq!(code(f64::NAN.into(), DataType::Int8).sqlstate(), "22003");
        assert_eq!(
            code(9_223_372_036_854_775_807_f64.into(), DataType::Int8).sqlstate(),
            "22003"
        );
        assert_eq!(code(70_000_i32.into(), DataType::Int2).sqlstate(), "22003");
        assert_eq!(code("x".into(), DataType::Int4).sqlstate(), "22P02");
        assert_eq!(code(true.into(), DataType::Uuid).sqlstate(), "42846");
    }

    #[test]
    fn varchar_is_cut_only_on_request() {
        assert_eq!(fit_varchar("äöü".into(), 2, Explicit).unwrap(), "äö".into());
        assert_eq!(
            fit_varchar("äö  ".into(), 2, Assignment).unwrap(),
            "äö".into()
        );
        assert_eq!(
            fit_varchar("äöü".into(), 3, Assignment).unwrap(),
            "äöü".into()
        );
        assert_eq!(
            fit_varchar("äöü".into(), 2, Assignment)
                .unwrap_err()
                .sqlstate(),
            "22001"
        );
    }

    #[test]
    fn branches_find_their_type() {
        use DataType::*;
        assert_eq!(common_type(&[Int4, Unknown, Int8], "CASE").unwrap(), Int8);
        assert_eq!(
            common_type(&[Int8, Numeric, Float8, Int2], "CASE").unwrap(),
            Float8
        );
        assert_eq!(common_type(&[Unknown, Unknown], "CASE").unwrap(), Text);
        assert_eq!(common_type(&[Varchar, Text], "CASE").unwrap(), Varchar);
        assert_eq!(
            common_type(&[Int4, Text], "CASE").unwrap_err().sqlstate(),
            "42804"
        );
    }
}
