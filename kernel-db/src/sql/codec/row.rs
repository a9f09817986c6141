//! Rows as bytes: one tag byte per column, then the value in as few bytes as its type and size need.
//!
//! The tag says how many bytes an integer takes, so small numbers are small and the column's type is needed only to give
//! the value its width back. A row shorter than its table ends in NULLs: columns added later need no rewrite.

use bytes::Bytes;

use crate::error::{Error, Result};
use crate::sql::{DataType, Value};

mod tag {
    pub const NULL: u8 = 0;
    pub const FALSE: u8 = 1;
    pub const TRUE: u8 = 2;
    /// Integers and timestamps, little-endian, in 0, 1, 2, 4 or 8 bytes.
    pub const ZERO: u8 = 3;
    pub const INT1: u8 = 4;
    pub const INT2: u8 = 5;
    pub const INT4: u8 = 6;
    pub const INT8: u8 = 7;
    pub const FLOAT8: u8 = 8;
    /// Texts and byte strings: a length of 1 or 4 bytes, then the bytes.
    pub const SHORT: u8 = 9;
    pub const LONG: u8 = 10;
    pub const UUID: u8 = 11;
}

/// The bytes of a row. 0A000 for a value no column can hold.
pub fn encode(values: &[Value]) -> Result<Vec<u8>> {
    let mut out = Vec::with_capacity(values.len() * 6);
    encode_into(&mut out, values)?;
    Ok(out)
}

pub fn encode_into(out: &mut Vec<u8>, values: &[Value]) -> Result<()> {
    for value in values {
        match value {
            Value::Null => out.push(tag::NULL),
            Value::Bool(false) => out.push(tag::FALSE),
            Value::Bool(true) => out.push(tag::TRUE),
            Value::Int2(int) => put_int(out, i64::from(*int)),
            Value::Int4(int) => put_int(out, i64::from(*int)),
            Value::Int8(int) | Value::Timestamptz(int) => put_int(out, *int),
            Value::Float8(number) => {
                out.push(tag::FLOAT8);
                out.extend_from_slice(&number.to_le_bytes());
            }
            Value::Text(text) => put_bytes(out, text.as_bytes())?,
            Value::Bytea(bytes) => put_bytes(out, bytes)?,
            Value::Uuid(bytes) => {
                out.push(tag::UUID);
                out.extend_from_slice(bytes);
            }
            Value::Numeric(_) | Value::Interval { .. } | Value::Record(_) | Value::Array { .. } => {
                return Err(Error::unsupported(format!(
                    "storing type {}",
                    value.data_type()
                )));
            }
        }
    }
    Ok(())
}

/// Most bytes that these values take as a row.
pub fn length_max(values: &[Value]) -> usize {
    let one = |value: &Value| match value {
        Value::Text(text) => text.len() + 5,
        Value::Bytea(bytes) => bytes.len() + 5,
        Value::Uuid(_) => 17,
        _ => 9,
    };
    values.iter().map(one).sum()
}

fn put_int(out: &mut Vec<u8>, int: i64) {
    if int == 0 {
        out.push(tag::ZERO);
    } else if let Ok(int) = i8::try_from(int) {
        out.push(tag::INT1);
        out.extend_from_slice(&int.to_le_bytes());
    } else if let Ok(int) = i16::try_from(int) {
        out.push(tag::INT2);
        out.extend_from_slice(&int.to_le_bytes());
    } else if let Ok(int) = i32::try_from(int) {
        out.push(tag::INT4);
        out.extend_from_slice(&int.to_le_bytes());
    } else {
        out.push(tag::INT8);
        out.extend_from_slice(&int.to_le_bytes());
    }
}

fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) -> Result<()> {
    if let Ok(length) = u8::try_from(bytes.len()) {
        out.push(tag::SHORT);
        out.push(length);
    } else {
        let length = u32::try_from(bytes.len())
            .map_err(|_| Error::new("54000", "a value is longer than 4 GiB"))?;
        out.push(tag::LONG);
        out.extend_from_slice(&length.to_le_bytes());
    }
    out.extend_from_slice(bytes);
    Ok(())
}

/// The values of a row whose columns have these types; byte strings share the row's memory. XX001 if the bytes are no
/// such row.
pub fn decode(row: &Bytes, types: &[DataType]) -> Result<Vec<Value>> {
    let mut values = Vec::with_capacity(types.len());
    decode_into(row, types, &mut values)?;
    Ok(values)
}

/// Appends the values of a row to `values`.
pub fn decode_into(row: &Bytes, types: &[DataType], values: &mut Vec<Value>) -> Result<()> {
    let mut rest: &[u8] = row;
    for data_type in types {
        values.push(if rest.is_empty() {
            Value::Null
        } else {
            decode_column(row, &mut rest, *data_type)?
        });
    }
    Ok(())
}

fn decode_column(row: &Bytes, rest: &mut &[u8], data_type: DataType) -> Result<Value> {
    let [tag] = take::<1>(rest)?;
    let int = match tag {
        tag::NULL => return Ok(Value::Null),
        tag::ZERO => 0,
        tag::INT1 => i64::from(i8::from_le_bytes(take(rest)?)),
        tag::INT2 => i64::from(i16::from_le_bytes(take(rest)?)),
        tag::INT4 => i64::from(i32::from_le_bytes(take(rest)?)),
        tag::INT8 => i64::from_le_bytes(take(rest)?),
        other => return decode_other(row, rest, other, data_type),
    };
    match data_type {
        DataType::Int4 => i32::try_from(int).map(Value::Int4).map_err(|_| corrupt()),
        DataType::Int8 => Ok(Value::Int8(int)),
        DataType::Int2 => i16::try_from(int).map(Value::Int2).map_err(|_| corrupt()),
        DataType::Timestamptz => Ok(Value::Timestamptz(int)),
        _ => Err(corrupt()),
    }
}

fn decode_other(row: &Bytes, rest: &mut &[u8], tag: u8, data_type: DataType) -> Result<Value> {
    match (tag, data_type) {
        (tag::FALSE, DataType::Bool) => Ok(Value::Bool(false)),
        (tag::TRUE, DataType::Bool) => Ok(Value::Bool(true)),
        (tag::FLOAT8, DataType::Float8) => Ok(Value::Float8(f64::from_le_bytes(take(rest)?))),
        (tag::UUID, DataType::Uuid) => Ok(Value::Uuid(take(rest)?)),
        (tag::SHORT | tag::LONG, DataType::Text | DataType::Varchar) => {
            let text = std::str::from_utf8(take_bytes(rest, tag)?).map_err(|_| corrupt())?;
            Ok(Value::Text(text.into()))
        }
        (tag::SHORT | tag::LONG, DataType::Bytea) => {
            Ok(Value::Bytea(row.slice_ref(take_bytes(rest, tag)?)))
        }
        _ => Err(corrupt()),
    }
}

fn corrupt() -> Error {
    Error::new("XX001", "a stored row is damaged")
}

fn take<const N: usize>(rest: &mut &[u8]) -> Result<[u8; N]> {
    let (head, tail) = rest.split_first_chunk::<N>().ok_or_else(corrupt)?;
    *rest = tail;
    Ok(*head)
}

fn take_bytes<'a>(rest: &mut &'a [u8], tag: u8) -> Result<&'a [u8]> {
    let length = if tag == tag::SHORT {
        usize::from(take::<1>(rest)?[0])
    } else {
        u32::from_le_bytes(take(rest)?) as usize
    };
    let (head, tail) = rest.split_at_checked(length).ok_or_else(corrupt)?;
    *rest = tail;
    Ok(head)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn column() -> impl Strategy<Value = (DataType, Value)> {
        prop_oneof![
            any::<bool>().prop_map(|v| (DataType::Bool, v.into())),
            any::<i16>().prop_map(|v| (DataType::Int2, v.into())),
            prop_oneof![any::<i32>(), -200..200].prop_map(|v| (DataType::Int4, v.into())),
            any::<i64>().prop_map(|v| (DataType::Int8, v.into())),
            any::<i64>().prop_map(|v| (DataType::Timestamptz, Value::Timestamptz(v))),
            any::<i32>().prop_map(|v| (DataType::Float8, f64::from(v).into())),
            ".{0,8}".prop_map(|v| (DataType::Text, v.into())),
            prop::collection::vec(any::<u8>(), 0..300).prop_map(|v| (DataType::Bytea, v.into())),
            any::<[u8; 16]>().prop_map(|v| (DataType::Uuid, v.into())),
            Just((DataType::Int4, Value::Null)),
        ]
    }

    proptest! {
        #[test]
        fn rows_round_trip(columns in prop::collection::vec(column(), 0..8)) {
            let (types, values): (Vec<_>, Vec<_>) = columns.into_iter().unzip();
            let row = Bytes::from(encode(&values).unwrap());
            prop_assert!(row.len() <= length_max(&values));
            prop_assert_eq!(decode(&row, &types).unwrap(), values);
        }

        #[test]
        fn damaged_rows_do_not_panic(bytes in prop::collection::vec(0..12_u8, 0..20), at in 0..10_usize) {
            let _ = decode(&Bytes::from(bytes), &[DataType::ALL[at]; 4]);
        }
    }

    #[test]
    fn missing_columns_are_null() {
        let row = Bytes::from(encode(&[Value::Int4(7)]).unwrap());
        let types = [DataType::Int4, DataType::Text];
        assert_eq!(decode(&row, &types).unwrap(), [Value::Int4(7), Value::Null]);
    }

    #[test]
    fn small_rows_are_small() {
        let row = encode(&[1_i32.into(), 0_i32.into(), 300_i64.into(), true.into()]).unwrap();
        assert_eq!(row.len(), 2 + 1 + 3 + 1);
        assert_eq!(
            encode(&[Value::numeric(1.into())]).unwrap_err().sqlstate(),
            "0A000"
        );
    }
}
