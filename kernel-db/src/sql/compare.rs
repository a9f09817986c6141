//! Order and equality of values.
//!
//! Text compares by its bytes (COLLATE "C"), NaN is above every number and equal to itself, NULL is above everything: the
//! order of ORDER BY ... ASC. Planned comparisons have both sides of one type; integers of different widths and numbers of
//! different kinds are nevertheless compared by value.

use std::cmp::Ordering;

use bigdecimal::BigDecimal;

use super::codec::key;
use super::{Value, interval, numeric};

/// A total order over values of one type class, NULLs last.
#[inline]
pub fn compare(a: &Value, b: &Value) -> Ordering {
    match (a, b) {
        (Value::Int4(x), Value::Int4(y)) => x.cmp(y),
        (Value::Int8(x), Value::Int8(y)) => x.cmp(y),
        (Value::Text(x), Value::Text(y)) => x.as_bytes().cmp(y.as_bytes()),
        _ => compare_rare(a, b),
    }
}

fn compare_rare(a: &Value, b: &Value) -> Ordering {
    match (a, b) {
        (Value::Null, Value::Null) => Ordering::Equal,
        (Value::Null, _) => Ordering::Greater,
        (_, Value::Null) => Ordering::Less,
        (Value::Bool(x), Value::Bool(y)) => x.cmp(y),
        (Value::Int2(x), Value::Int2(y)) => x.cmp(y),
        (Value::Float8(x), Value::Float8(y)) => compare_floats(*x, *y),
        (Value::Bytea(x), Value::Bytea(y)) => x.cmp(y),
        (Value::Timestamptz(x), Value::Timestamptz(y)) => x.cmp(y),
        (Value::Uuid(x), Value::Uuid(y)) => x.cmp(y),
        (Value::Numeric(x), Value::Numeric(y)) => numeric::compare(x, y),
        (
            Value::Interval {
                months,
                days,
                micros,
            },
            Value::Interval {
                months: months_b,
                days: days_b,
                micros: micros_b,
            },
        ) => interval::length(*months, *days, *micros)
            .cmp(&interval::length(*months_b, *days_b, *micros_b)),
        (Value::Record(x), Value::Record(y))
        | (Value::Array { items: x, .. }, Value::Array { items: y, .. }) => compare_rows(x, y),
        _ => compare_mixed(a, b),
    }
}

/// Fields from the left; a shorter row that is a prefix is smaller.
pub fn compare_rows(a: &[Value], b: &[Value]) -> Ordering {
    a.iter()
        .zip(b)
        .map(|(x, y)| compare(x, y))
        .find(|order| *order != Ordering::Equal)
        .unwrap_or_else(|| a.len().cmp(&b.len()))
}

fn compare_mixed(a: &Value, b: &Value) -> Ordering {
    if let (Some(x), Some(y)) = (a.as_int(), b.as_int()) {
        return x.cmp(&y);
    }
    if (matches!(a, Value::Float8(_)) || matches!(b, Value::Float8(_)))
        && let (Some(x), Some(y)) = (as_float(a), as_float(b))
    {
        return compare_floats(x, y);
    }
    if let (Some(x), Some(y)) = (as_numeric(a), as_numeric(b)) {
        return numeric::compare(&x, &y);
    }
    // Different classes never meet in a planned statement; the order is only kept total.
    a.data_type().oid().cmp(&b.data_type().oid())
}

fn as_float(value: &Value) -> Option<f64> {
    match value {
        Value::Float8(number) => Some(*number),
        Value::Numeric(number) => Some(numeric::to_f64(number)),
        other => other.as_int().map(|int| int as f64),
    }
}

fn as_numeric(value: &Value) -> Option<BigDecimal> {
    match value {
        Value::Numeric(number) => Some(BigDecimal::clone(number)),
        other => other.as_int().map(BigDecimal::from),
    }
}

/// NaN equals NaN and is above everything; -0 equals 0.
#[inline]
pub fn compare_floats(a: f64, b: f64) -> Ordering {
    a.partial_cmp(&b)
        .unwrap_or_else(|| a.is_nan().cmp(&b.is_nan()))
}

/// SQL's `=`: `None` (unknown) if either side is NULL.
#[inline]
pub fn sql_eq(a: &Value, b: &Value) -> Option<bool> {
    sql_compare(a, b).map(Ordering::is_eq)
}

/// The order for SQL's `<`, `=` and `>`: `None` if either side is NULL.
#[inline]
pub fn sql_compare(a: &Value, b: &Value) -> Option<Ordering> {
    if a.is_null() || b.is_null() {
        return None;
    }
    Some(compare(a, b))
}

/// IS NOT DISTINCT FROM: NULL is the same as NULL.
#[inline]
pub fn not_distinct(a: &Value, b: &Value) -> bool {
    compare(a, b).is_eq()
}

/// A hashable stand-in for a row of values: equal exactly when every pair is not distinct. For GROUP BY, DISTINCT and hash
/// joins; both sides must have the same types.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct GroupKey(Box<[u8]>);

impl GroupKey {
    pub fn new<'a>(values: impl IntoIterator<Item = &'a Value>) -> Self {
        let mut bytes = Vec::with_capacity(32);
        for value in values {
            key::encode_value(&mut bytes, value, false);
        }
        GroupKey(bytes.into_boxed_slice())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sql::DataType;
    use crate::sql::text::from_text;

    #[test]
    fn nan_and_null_are_last() {
        assert_eq!(
            compare(&f64::NAN.into(), &f64::INFINITY.into()),
            Ordering::Greater
        );
        assert_eq!(compare(&f64::NAN.into(), &f64::NAN.into()), Ordering::Equal);
        assert_eq!(compare(&Value::Null, &f64::NAN.into()), Ordering::Greater);
        assert_eq!(compare(&0.0.into(), &(-0.0).into()), Ordering::Equal);
        assert_eq!(sql_eq(&Value::Null, &Value::Null), None);
        assert!(not_distinct(&Value::Null, &Value::Null));
    }

    #[test]
    fn text_compares_by_bytes() {
        assert_eq!(compare(&"Z".into(), &"a".into()), Ordering::Less);
        assert_eq!(compare(&"ab".into(), &"abc".into()), Ordering::Less);
        assert_eq!(compare(&"é".into(), &"z".into()), Ordering::Greater);
    }

    #[test]
    fn group_keys_are_equal_when_values_are() {
        let numeric = |text| from_text(text, DataType::Numeric).unwrap();
        let interval = |text| from_text(text, DataType::Interval).unwrap();
        let same = [
            (numeric("1.50"), numeric("1.5")),
            (0.0.into(), (-0.0).into()),
            (Value::Null, Value::Null),
            (interval("1 day"), interval("24:00:00")),
        ];
        for (a, b) in same {
            assert_eq!(GroupKey::new([&a]), GroupKey::new([&b]), "{a:?} {b:?}");
            assert!(not_distinct(&a, &b));
        }
        let different = [
            (numeric("15"), numeric("1.5")),
            (numeric("-1"), numeric("1")),
            ("a".into(), Value::Null),
        ];
        for (a, b) in different {
            assert_ne!(GroupKey::new([&a]), GroupKey::new([&b]), "{a:?} {b:?}");
        }
        let split = [Value::from("a"), Value::from("bc")];
        let other = [Value::from("ab"), Value::from("c")];
        assert_ne!(GroupKey::new(&split), GroupKey::new(&other));
    }
}
