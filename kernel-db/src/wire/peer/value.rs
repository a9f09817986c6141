//! Values on the wire between nodes: a tag byte and the value's own bytes, lengths as u32, all big endian.

use std::str::FromStr;
use std::sync::Arc;

use bigdecimal::BigDecimal;
use bytes::{Buf, BufMut, Bytes, BytesMut};

use crate::error::{Error, Result};
use crate::sql::{DataType, Value};

/// Nesting of records at most, so that a broken peer cannot exhaust the stack.
const DEPTH_MAX: usize = 32;

pub fn encode_values(values: &[Value]) -> Bytes {
    let mut out = BytesMut::with_capacity(4 + values.len() * 9);
    put_all(values, &mut out);
    out.freeze()
}

pub fn decode_values(mut bytes: Bytes) -> Result<Vec<Value>> {
    let values = get_all(&mut bytes, 0)?;
    if bytes.has_remaining() {
        return Err(malformed());
    }
    Ok(values)
}

fn put_all(values: &[Value], out: &mut BytesMut) {
    out.put_u32(values.len() as u32);
    for value in values {
        put(value, out);
    }
}

fn put_bytes(tag: u8, bytes: &[u8], out: &mut BytesMut) {
    out.put_u8(tag);
    out.put_u32(bytes.len() as u32);
    out.put_slice(bytes);
}

fn put(value: &Value, out: &mut BytesMut) {
    match value {
        Value::Null => out.put_u8(0),
        Value::Bool(v) => {
            out.put_u8(1);
            out.put_u8(u8::from(*v));
        }
        Value::Int2(v) => {
            out.put_u8(2);
            out.put_i16(*v);
        }
        Value::Int4(v) => {
            out.put_u8(3);
            out.put_i32(*v);
        }
        Value::Int8(v) => {
            out.put_u8(4);
            out.put_i64(*v);
        }
        Value::Float8(v) => {
            out.put_u8(5);
            out.put_f64(*v);
        }
        Value::Text(v) => put_bytes(6, v.as_bytes(), out),
        Value::Bytea(v) => put_bytes(7, v, out),
        Value::Timestamptz(v) => {
            out.put_u8(8);
            out.put_i64(*v);
        }
        Value::Uuid(v) => {
            out.put_u8(9);
            out.put_slice(v);
        }
        // Scientific notation keeps digits and scale, whatever their size.
        Value::Numeric(v) => put_bytes(10, v.to_scientific_notation().as_bytes(), out),
        Value::Interval {
            months,
            days,
            micros,
        } => {
            out.put_u8(11);
            out.put_i32(*months);
            out.put_i32(*days);
            out.put_i64(*micros);
        }
        Value::Record(fields) => {
            out.put_u8(12);
            put_all(fields, out);
        }
        Value::Array { element, items } => {
            out.put_u8(13);
            out.put_u32(element.oid());
            put_all(items, out);
        }
    }
}

fn get_all(from: &mut Bytes, depth: usize) -> Result<Vec<Value>> {
    let count = from.try_get_u32().map_err(|_| malformed())? as usize;
    // Every value has at least its tag.
    if count > from.len() || depth > DEPTH_MAX {
        return Err(malformed());
    }
    (0..count).map(|_| get(from, depth)).collect()
}

fn get_bytes(from: &mut Bytes) -> Result<Bytes> {
    let length = from.try_get_u32().map_err(|_| malformed())? as usize;
    if length > from.len() {
        return Err(malformed());
    }
    Ok(from.split_to(length))
}

fn get_text(from: &mut Bytes) -> Result<Arc<str>> {
    let bytes = get_bytes(from)?;
    Ok(std::str::from_utf8(&bytes).map_err(|_| malformed())?.into())
}

fn get(from: &mut Bytes, depth: usize) -> Result<Value> {
    let short = |_| malformed();
    Ok(match from.try_get_u8().map_err(short)? {
        0 => Value::Null,
        1 => Value::Bool(from.try_get_u8().map_err(short)? != 0),
        2 => Value::Int2(from.try_get_i16().map_err(short)?),
        3 => Value::Int4(from.try_get_i32().map_err(short)?),
        4 => Value::Int8(from.try_get_i64().map_err(short)?),
        5 => Value::Float8(from.try_get_f64().map_err(short)?),
        6 => Value::Text(get_text(from)?),
        7 => Value::Bytea(get_bytes(from)?),
        8 => Value::Timestamptz(from.try_get_i64().map_err(short)?),
        9 => {
            let mut uuid = [0; 16];
            from.try_copy_to_slice(&mut uuid).map_err(short)?;
            Value::Uuid(uuid)
        }
        10 => Value::Numeric(Arc::new(
            BigDecimal::from_str(&get_text(from)?).map_err(|_| malformed())?,
        )),
        11 => Value::Interval {
            months: from.try_get_i32().map_err(short)?,
            days: from.try_get_i32().map_err(short)?,
            micros: from.try_get_i64().map_err(short)?,
        },
        12 => Value::Record(get_all(from, depth + 1)?.into()),
        13 => Value::Array {
            element: DataType::from_oid(from.try_get_u32().map_err(short)?)
                .ok_or_else(malformed)?,
            items: get_all(from, depth + 1)?.into(),
        },
        _ => return Err(malformed()),
    })
}

fn malformed() -> Error {
    Error::internal("malformed values from another node")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn samples() -> Vec<Value> {
        vec![
            Value::Null,
            Value::Bool(true),
            Value::Int2(-2),
            Value::Int4(i32::MIN),
            Value::Int8(i64::MAX),
            Value::Float8(-0.5),
            Value::Text("täst".into()),
            Value::Bytea(Bytes::from_static(b"\0\xff")),
            Value::Timestamptz(-1),
            Value::Uuid([9; 16]),
            Value::Numeric(Arc::new(
                BigDecimal::from_str("-12345678901234567890.1200").unwrap(),
            )),
            Value::Interval {
                months: 1,
                days: -2,
                micros: 3,
            },
            Value::Record(vec![Value::Int4(1), Value::Null].into()),
        ]
    }

    #[test]
    fn values_survive_the_wire() {
        let values = samples();
        assert_eq!(decode_values(encode_values(&values)).unwrap(), values);
    }

    #[test]
    fn every_cut_is_refused() {
        let bytes = encode_values(&samples());
        for end in 0..bytes.len() {
            assert!(decode_values(bytes.slice(..end)).is_err(), "{end}");
        }
        assert!(decode_values(Bytes::from_static(&[0xff; 40])).is_err());
    }
}
