//! PostgreSQL's binary representation of values, in and out (the `*send` and `*recv` functions).

use bigdecimal::BigDecimal;
use bigdecimal::num_bigint::BigInt;
use bigdecimal::num_traits::{Signed, Zero};
use bytes::{BufMut, Bytes, BytesMut};

use super::{DataType, Value, numeric, text, time};
use crate::error::{Error, Result};

/// Microseconds from the Unix epoch to 2000-01-01, where PostgreSQL counts from.
const POSTGRES_EPOCH: i64 = 946_684_800_000_000;

/// Appends the binary form without its length; nothing for NULL.
pub fn to_binary(value: &Value, out: &mut BytesMut) {
    match value {
        Value::Null => {}
        Value::Bool(value) => out.put_u8(u8::from(*value)),
        Value::Int2(value) => out.put_i16(*value),
        Value::Int4(value) => out.put_i32(*value),
        Value::Int8(value) => out.put_i64(*value),
        Value::Float8(value) => out.put_f64(*value),
        Value::Text(text) => out.put_slice(text.as_bytes()),
        Value::Bytea(bytes) => out.put_slice(bytes),
        Value::Timestamptz(micros) if !time::is_finite(*micros) => out.put_i64(*micros),
        Value::Timestamptz(micros) => out.put_i64(micros.saturating_sub(POSTGRES_EPOCH)),
        Value::Uuid(bytes) => out.put_slice(bytes),
        Value::Numeric(number) => put_numeric(number, out),
        Value::Interval {
            months,
            days,
            micros,
        } => {
            out.put_i64(*micros);
            out.put_i32(*days);
            out.put_i32(*months);
        }
        Value::Record(fields) => put_record(fields, out),
        Value::Array { element, items } => super::array::to_binary(*element, items, out),
    }
}

fn put_record(fields: &[Value], out: &mut BytesMut) {
    out.put_i32(fields.len() as i32);
    for field in fields {
        out.put_u32(field.data_type().oid());
        if field.is_null() {
            out.put_i32(-1);
            continue;
        }
        let start = out.len();
        out.put_i32(0);
        to_binary(field, out);
        let length = (out.len() - start - 4) as i32;
        out[start..start + 4].copy_from_slice(&length.to_be_bytes());
    }
}

/// Digits of base 10,000, aligned at the point.
fn put_numeric(number: &BigDecimal, out: &mut BytesMut) {
    let (digits, scale) = number.as_bigint_and_exponent();
    let shown_scale = scale.max(0);
    let size = digits.abs().to_string();
    let whole_zeros = usize::try_from(-scale).unwrap_or(0);
    let mut text = size + &"0".repeat(whole_zeros);
    let fraction = shown_scale as usize;
    if text.len() <= fraction {
        text.insert_str(0, &"0".repeat(fraction + 1 - text.len()));
    }
    let whole = text.len() - fraction;
    text.insert_str(0, &"0".repeat((4 - whole % 4) % 4));
    text.push_str(&"0".repeat((4 - fraction % 4) % 4));
    let groups: Vec<i16> = text
        .as_bytes()
        .chunks(4)
        .map(|group| {
            group
                .iter()
                .fold(0, |sum, byte| sum * 10 + i16::from(byte - b'0'))
        })
        .collect();
    let first = groups
        .iter()
        .position(|group| *group != 0)
        .unwrap_or(groups.len());
    let last = groups
        .iter()
        .rposition(|group| *group != 0)
        .map_or(first, |at| at + 1);
    let weight = whole.div_ceil(4) as i64 - 1 - first as i64;
    out.put_i16((last - first) as i16);
    out.put_i16(if first == last { 0 } else { weight as i16 });
    out.put_u16(if digits.is_negative() { 0x4000 } else { 0 });
    out.put_i16(shown_scale as i16);
    for group in &groups[first..last] {
        out.put_i16(*group);
    }
}

/// Reads the binary form; 22P03 when the bytes are none, 22021 for text that is not UTF-8.
pub fn from_binary(bytes: &[u8], data_type: DataType) -> Result<Value> {
    Ok(match data_type {
        DataType::Bool => Value::Bool(fixed::<1>(bytes)? != [0]),
        DataType::Int2 => Value::Int2(i16::from_be_bytes(fixed(bytes)?)),
        DataType::Int4 => Value::Int4(i32::from_be_bytes(fixed(bytes)?)),
        DataType::Int8 => Value::Int8(i64::from_be_bytes(fixed(bytes)?)),
        DataType::Float8 => Value::Float8(f64::from_be_bytes(fixed(bytes)?)),
        DataType::Text | DataType::Varchar | DataType::Unknown => {
            let utf8 = std::str::from_utf8(bytes)
                .map_err(|_| Error::new("22021", "invalid byte sequence for encoding \"UTF8\""))?;
            text::from_text(utf8, data_type)?
        }
        DataType::Bytea => Value::Bytea(Bytes::copy_from_slice(bytes)),
        DataType::Timestamptz => {
            let micros = i64::from_be_bytes(fixed(bytes)?);
            if !time::is_finite(micros) {
                return Ok(Value::Timestamptz(micros));
            }
            let micros = micros
                .checked_add(POSTGRES_EPOCH)
                .ok_or_else(time::out_of_range)?;
            Value::Timestamptz(time::add_interval(micros, 0, 0, 0)?)
        }
        DataType::Uuid => Value::Uuid(fixed(bytes)?),
        DataType::Numeric => get_numeric(bytes)?,
        DataType::Interval => {
            let bytes: [u8; 16] = fixed(bytes)?;
            Value::Interval {
                micros: i64::from_be_bytes(fixed(&bytes[..8])?),
                days: i32::from_be_bytes(fixed(&bytes[8..12])?),
                months: i32::from_be_bytes(fixed(&bytes[12..])?),
            }
        }
        DataType::Void => Value::Text("".into()),
        DataType::Record => {
            return Err(Error::new(
                "0A000",
                "input of anonymous composite types is not implemented",
            ));
        }
        array => match array.element() {
            Some(element) => super::array::from_binary(bytes, element)?,
            None => return Err(malformed()),
        },
    })
}

fn malformed() -> Error {
    Error::new("22P03", "incorrect binary data format")
}

fn fixed<const N: usize>(bytes: &[u8]) -> Result<[u8; N]> {
    bytes.try_into().map_err(|_| malformed())
}

fn get_numeric(bytes: &[u8]) -> Result<Value> {
    let mut words = bytes
        .chunks(2)
        .map(|pair| fixed::<2>(pair).map(i16::from_be_bytes));
    let mut next = || words.next().ok_or_else(malformed)?;
    let count = usize::try_from(next()?).map_err(|_| malformed())?;
    let weight = i64::from(next()?);
    let sign = next()? as u16;
    let scale = i64::from(next()?);
    if sign != 0 && sign != 0x4000 {
        return Err(Error::unsupported("numeric NaN and infinity").hint("use double precision"));
    }
    if !(0..=16_383).contains(&scale) || bytes.len() != 8 + 2 * count {
        return Err(malformed());
    }
    let mut digits = BigInt::zero();
    for _ in 0..count {
        let group = next()?;
        if !(0..10_000).contains(&group) {
            return Err(malformed());
        }
        digits = digits * 10_000 + group;
    }
    if sign != 0 {
        digits = -digits;
    }
    let exact = BigDecimal::new(digits, (count as i64 - 1 - weight) * 4);
    Ok(Value::numeric(numeric::truncate(&exact, scale)?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sql::text::from_text;

    fn binary(value: &Value) -> BytesMut {
        let mut out = BytesMut::new();
        to_binary(value, &mut out);
        out
    }

    #[test]
    fn round_trips() {
        use DataType::*;
        for (data_type, text) in [
            (Bool, "t"),
            (Int2, "-5"),
            (Int4, "77"),
            (Int8, "-9223372036854775808"),
            (Float8, "-1.5"),
            (Text, "héllo"),
            (Bytea, "\\x00ff"),
            (Uuid, "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"),
            (Timestamptz, "2026-11-22 01:02:03.000004+00"),
            (Timestamptz, "infinity"),
            (Interval, "1 mon 2 days 03:00:00"),
            (Numeric, "0"),
            (Numeric, "0.00"),
            (Numeric, "-1.230"),
            (Numeric, "12345.6789"),
            (Numeric, "0.00001"),
            (Numeric, "100000000"),
            (Numeric, "-99999.5"),
        ] {
            let value = from_text(text, data_type).unwrap();
            let back = from_binary(&binary(&value), data_type).unwrap();
            assert_eq!(back, value, "{text}");
        }
    }

    #[test]
    fn known_bytes() {
        let numeric = from_text("12345.678", DataType::Numeric).unwrap();
        assert_eq!(
            binary(&numeric)[..],
            [0, 3, 0, 1, 0, 0, 0, 3, 0, 1, 0x09, 0x29, 0x1a, 0x7c]
        );
        let epoch = from_text("2000-01-01 00:00:00+00", DataType::Timestamptz).unwrap();
        assert_eq!(binary(&epoch)[..], [0; 8]);
    }

    #[test]
    fn wrong_bytes_are_refused() {
        for data_type in [
            DataType::Int4,
            DataType::Uuid,
            DataType::Numeric,
            DataType::Interval,
        ] {
            assert_eq!(
                from_binary(&[1, 2, 3], data_type).unwrap_err().sqlstate(),
                "22P03"
            );
        }
        assert_eq!(
            from_binary(&[0xff], DataType::Text).unwrap_err().sqlstate(),
            "22021"
        );
    }
}
