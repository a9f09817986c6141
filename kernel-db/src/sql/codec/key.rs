//! Keys whose bytes sort as the values do (memcomparable).
//!
//! A column is one byte for NULL or not, then the value: integers big-endian with the sign bit flipped, doubles with all
//! bits flipped if negative, texts and byte strings with zero bytes escaped and a terminator. Ascending columns have NULLs
//! last. A descending column is the ascending one with all bits inverted, which puts NULLs first. Both are PostgreSQL's defaults.
//!
//! A value must have its column's type: integers of different widths are not comparable here. Numerics and intervals are
//! encoded for grouping only; equal ones have equal bytes, and the form they were written in is lost.

use bigdecimal::num_bigint::Sign;
use bytes::Bytes;

use crate::error::{Error, Result};
use crate::sql::{DataType, Value, interval, numeric};

const PRESENT: u8 = 0x01;
const NULL: u8 = 0x02;
const ESCAPE: u8 = 0x00;
const ESCAPED_ZERO: u8 = 0xff;
const TERMINATOR: u8 = 0x01;

/// The key of several columns. `descending` may be shorter than `values`: what is missing is ascending.
pub fn encode(values: &[Value], descending: &[bool]) -> Vec<u8> {
    let mut out = Vec::with_capacity(values.len() * 9);
    encode_into(&mut out, values, descending);
    out
}

pub fn encode_into(out: &mut Vec<u8>, values: &[Value], descending: &[bool]) {
    for (at, value) in values.iter().enumerate() {
        encode_value(out, value, descending.get(at).copied().unwrap_or(false));
    }
}

/// Appends one column.
pub fn encode_value(out: &mut Vec<u8>, value: &Value, descending: bool) {
    let start = out.len();
    if value.is_null() {
        out.push(NULL);
    } else {
        out.push(PRESENT);
        encode_present(out, value);
    }
    if descending {
        out[start..].iter_mut().for_each(|byte| *byte = !*byte);
    }
}

fn encode_present(out: &mut Vec<u8>, value: &Value) {
    match value {
        Value::Null => {}
        Value::Bool(truth) => out.push(u8::from(*truth)),
        Value::Int2(int) => out.extend_from_slice(&(*int as u16 ^ 1 << 15).to_be_bytes()),
        Value::Int4(int) => out.extend_from_slice(&(*int as u32 ^ 1 << 31).to_be_bytes()),
        Value::Int8(int) | Value::Timestamptz(int) => out.extend_from_slice(&flip(*int)),
        Value::Float8(number) => out.extend_from_slice(&ordered_bits(*number).to_be_bytes()),
        Value::Text(text) => encode_bytes(out, text.as_bytes()),
        Value::Bytea(bytes) => encode_bytes(out, bytes),
        Value::Uuid(bytes) => out.extend_from_slice(bytes),
        Value::Numeric(number) => encode_numeric(out, number),
        Value::Interval {
            months,
            days,
            micros,
        } => {
            let length = interval::length(*months, *days, *micros);
            out.extend_from_slice(&(length as u128 ^ 1 << 127).to_be_bytes());
        }
        Value::Record(fields) | Value::Array { items: fields, .. } => {
            for field in fields.iter() {
                encode_value(out, field, false);
            }
            out.push(0);
        }
    }
}

fn flip(int: i64) -> [u8; 8] {
    (int as u64 ^ 1 << 63).to_be_bytes()
}

/// One NaN and one zero.
pub fn canonical_bits(number: f64) -> u64 {
    if number.is_nan() {
        f64::NAN.to_bits() & !(1 << 63)
    } else if number == 0.0 {
        0
    } else {
        number.to_bits()
    }
}

fn ordered_bits(number: f64) -> u64 {
    let bits = canonical_bits(number);
    if bits >> 63 == 1 {
        !bits
    } else {
        bits | 1 << 63
    }
}

fn encode_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    let mut rest = bytes;
    while let Some(at) = rest.iter().position(|byte| *byte == ESCAPE) {
        out.extend_from_slice(&rest[..at]);
        out.extend_from_slice(&[ESCAPE, ESCAPED_ZERO]);
        rest = &rest[at + 1..];
    }
    out.extend_from_slice(rest);
    out.extend_from_slice(&[ESCAPE, TERMINATOR]);
}

/// Sign, digits before the point, significant digits; all but the sign inverted if negative.
fn encode_numeric(out: &mut Vec<u8>, number: &bigdecimal::BigDecimal) {
    let (digits, scale) = numeric::canonical(number);
    let sign = digits.sign();
    out.push(match sign {
        Sign::Minus => 1,
        Sign::NoSign => 2,
        Sign::Plus => 3,
    });
    if sign == Sign::NoSign {
        return;
    }
    let start = out.len();
    let text = digits.magnitude().to_string();
    out.extend_from_slice(&flip(text.len() as i64 - scale));
    out.extend_from_slice(text.as_bytes());
    out.push(0);
    if sign == Sign::Minus {
        out[start..].iter_mut().for_each(|byte| *byte = !*byte);
    }
}

/// The smallest key above every key that begins with `prefix`; `None` if there is none (all bytes 0xff).
pub fn prefix_end(prefix: &[u8]) -> Option<Vec<u8>> {
    let last = prefix.iter().rposition(|byte| *byte != 0xff)?;
    let mut end = prefix[..=last].to_vec();
    end[last] += 1;
    Some(end)
}

/// The values of a key. `descending` as for [`encode`]. XX001 if the bytes are no such key.
pub fn decode(bytes: &[u8], types: &[DataType], descending: &[bool]) -> Result<Vec<Value>> {
    let mut values = Vec::with_capacity(types.len());
    let mut rest = bytes;
    for (at, data_type) in types.iter().enumerate() {
        let inverted = descending.get(at).copied().unwrap_or(false);
        values.push(decode_value(&mut rest, *data_type, inverted)?);
    }
    if !rest.is_empty() {
        return Err(corrupt());
    }
    Ok(values)
}

/// Takes one column from the front.
pub fn decode_value(rest: &mut &[u8], data_type: DataType, descending: bool) -> Result<Value> {
    let mask = if descending { 0xff } else { 0 };
    match take::<1>(rest, mask)? {
        [NULL] => return Ok(Value::Null),
        [PRESENT] => {}
        _ => return Err(corrupt()),
    }
    Ok(match data_type {
        DataType::Bool => Value::Bool(take::<1>(rest, mask)? != [0]),
        DataType::Int2 => Value::Int2((u16::from_be_bytes(take(rest, mask)?) ^ 1 << 15) as i16),
        DataType::Int4 => Value::Int4((u32::from_be_bytes(take(rest, mask)?) ^ 1 << 31) as i32),
        DataType::Int8 => Value::Int8(take_int8(rest, mask)?),
        DataType::Timestamptz => Value::Timestamptz(take_int8(rest, mask)?),
        DataType::Float8 => {
            let bits = u64::from_be_bytes(take(rest, mask)?);
            let bits = if bits >> 63 == 1 {
                bits & !(1 << 63)
            } else {
                !bits
            };
            Value::Float8(f64::from_bits(bits))
        }
        DataType::Text | DataType::Varchar => {
            let text = String::from_utf8(take_bytes(rest, mask)?).map_err(|_| corrupt())?;
            Value::from(text)
        }
        DataType::Bytea => Value::Bytea(Bytes::from(take_bytes(rest, mask)?)),
        DataType::Uuid => Value::Uuid(take(rest, mask)?),
        _ => {
            return Err(Error::internal(format!(
                "keys of type {data_type} are not read back"
            )));
        }
    })
}

fn corrupt() -> Error {
    Error::new("XX001", "a stored key is damaged")
}

fn take<const N: usize>(rest: &mut &[u8], mask: u8) -> Result<[u8; N]> {
    let (head, tail) = rest.split_first_chunk::<N>().ok_or_else(corrupt)?;
    *rest = tail;
    Ok(head.map(|byte| byte ^ mask))
}

fn take_int8(rest: &mut &[u8], mask: u8) -> Result<i64> {
    Ok((u64::from_be_bytes(take(rest, mask)?) ^ 1 << 63) as i64)
}

fn take_bytes(rest: &mut &[u8], mask: u8) -> Result<Vec<u8>> {
    let mut out = Vec::new();
    loop {
        let at = rest
            .iter()
            .position(|byte| byte ^ mask == ESCAPE)
            .ok_or_else(corrupt)?;
        out.extend(rest[..at].iter().map(|byte| byte ^ mask));
        *rest = &rest[at + 1..];
        match take::<1>(rest, mask)? {
            [TERMINATOR] => return Ok(out),
            [ESCAPED_ZERO] => out.push(0),
            _ => return Err(corrupt()),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::sql::compare::compare_rows;

    /// Two values of one type that a column can have, the type beside them.
    fn pair() -> impl Strategy<Value = (DataType, Value, Value)> {
        let of = |data_type: DataType, strategy: BoxedStrategy<Value>| {
            (strategy.clone(), strategy).prop_map(move |(a, b)| (data_type, a, b))
        };
        fn nullable<T: Into<Value> + std::fmt::Debug + 'static>(
            strategy: impl Strategy<Value = T> + 'static,
        ) -> BoxedStrategy<Value> {
            prop_oneof![9 => strategy.prop_map(Into::into), 1 => Just(Value::Null)].boxed()
        }
        let small_bytes = prop::collection::vec(
            prop_oneof![Just(0_u8), Just(1), Just(255), any::<u8>()],
            0..6,
        );
        prop_oneof![
            of(DataType::Bool, nullable(any::<bool>())),
            of(DataType::Int2, nullable(any::<i16>())),
            of(DataType::Int4, nullable(prop_oneof![any::<i32>(), -3..3])),
            of(DataType::Int8, nullable(any::<i64>())),
            of(
                DataType::Float8,
                nullable(prop_oneof![
                    any::<f64>(),
                    Just(0.0),
                    Just(-0.0),
                    Just(f64::NAN)
                ])
            ),
            of(DataType::Text, nullable("[a-c\u{0}é]{0,4}".prop_map(|s| s))),
            of(DataType::Bytea, nullable(small_bytes)),
            of(
                DataType::Timestamptz,
                any::<i64>().prop_map(Value::Timestamptz).boxed()
            ),
            of(DataType::Uuid, nullable(any::<[u8; 16]>())),
        ]
    }

    proptest! {
        #[test]
        fn keys_sort_as_values_do(columns in prop::collection::vec((pair(), any::<bool>()), 1..4)) {
            let left: Vec<Value> = columns.iter().map(|((_, a, _), _)| a.clone()).collect();
            let right: Vec<Value> = columns.iter().map(|((_, _, b), _)| b.clone()).collect();
            let descending: Vec<bool> = columns.iter().map(|(_, d)| *d).collect();
            let expected = columns
                .iter()
                .map(|((_, a, b), d)| {
                    let order = crate::sql::compare::compare(a, b);
                    if *d { order.reverse() } else { order }
                })
                .find(|order| order.is_ne())
                .unwrap_or(std::cmp::Ordering::Equal);
            prop_assert_eq!(encode(&left, &descending).cmp(&encode(&right, &descending)), expected);
        }

        #[test]
        fn keys_round_trip(columns in prop::collection::vec((pair(), any::<bool>()), 1..4)) {
            let types: Vec<DataType> = columns.iter().map(|((t, _, _), _)| *t).collect();
            let values: Vec<Value> = columns.iter().map(|((_, a, _), _)| a.clone()).collect();
            let descending: Vec<bool> = columns.iter().map(|(_, d)| *d).collect();
            let back = decode(&encode(&values, &descending), &types, &descending).unwrap();
            prop_assert!(compare_rows(&back, &values).is_eq(), "{:?} {:?}", back, values);
        }

        #[test]
        fn damaged_keys_do_not_panic(bytes in prop::collection::vec(any::<u8>(), 0..20), at in 0..9_usize) {
            let _ = decode(&bytes, &[DataType::ALL[at], DataType::Text], &[false, true]);
        }

        #[test]
        fn numerics_sort_as_values_do(a in -2000_i64..2000, b in -2000_i64..2000, s in 0_i64..4, t in 0_i64..4) {
            let x = Value::numeric(bigdecimal::BigDecimal::new(a.into(), s));
            let y = Value::numeric(bigdecimal::BigDecimal::new(b.into(), t));
            let order = crate::sql::compare::compare(&x, &y);
            prop_assert_eq!(encode(&[x], &[]).cmp(&encode(&[y], &[])), order);
        }
    }

    #[test]
    fn nulls_are_last_and_first_when_descending() {
        let key = |value: Value, descending| encode(&[value], &[descending]);
        assert!(key(Value::Null, false) > key(i32::MAX.into(), false));
        assert!(key(Value::Null, true) < key(i32::MAX.into(), true));
    }

    #[test]
    fn prefixes_end() {
        assert_eq!(prefix_end(&[1, 2]), Some(vec![1, 3]));
        assert_eq!(prefix_end(&[1, 0xff]), Some(vec![2]));
        assert_eq!(prefix_end(&[0xff]), None);
    }
}
