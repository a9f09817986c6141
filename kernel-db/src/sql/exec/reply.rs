//! Outcomes as bytes: what a transaction replies, keeps for its session, and sends between nodes.
//!
//! `[count]` outcomes of `[tag][rows changed][rows][notices]`; lengths and counts are LEB128, a value is a tag byte and its
//! bytes.

use std::str::FromStr;
use std::sync::Arc;

use bigdecimal::BigDecimal;
use bytes::{Buf, Bytes};

use super::{Notice, Outcome};
use crate::error::{Error, Result};
use crate::sql::{DataType, Value};

fn put_len(out: &mut Vec<u8>, n: u64) {
    let mut n = n;
    while n >= 0x80 {
        out.push((n & 0x7f) as u8 | 0x80);
        n >>= 7;
    }
    out.push(n as u8);
}

fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_len(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

fn put_value(out: &mut Vec<u8>, value: &Value) {
    match value {
        Value::Null => out.push(0),
        Value::Bool(false) => out.push(1),
        Value::Bool(true) => out.push(2),
        Value::Int2(v) => put_fixed(out, 3, &v.to_le_bytes()),
        Value::Int4(v) => put_fixed(out, 4, &v.to_le_bytes()),
        Value::Int8(v) => put_fixed(out, 5, &v.to_le_bytes()),
        Value::Float8(v) => put_fixed(out, 6, &v.to_le_bytes()),
        Value::Text(v) => {
            out.push(7);
            put_bytes(out, v.as_bytes());
        }
        Value::Bytea(v) => {
            out.push(8);
            put_bytes(out, v);
        }
        Value::Timestamptz(v) => put_fixed(out, 9, &v.to_le_bytes()),
        Value::Uuid(v) => put_fixed(out, 10, v),
        Value::Numeric(v) => {
            out.push(11);
            put_bytes(out, v.to_plain_string().as_bytes());
        }
        Value::Interval {
            months,
            days,
            micros,
        } => {
            put_fixed(out, 12, &months.to_le_bytes());
            out.extend_from_slice(&days.to_le_bytes());
            out.extend_from_slice(&micros.to_le_bytes());
        }
        Value::Record(fields) => {
            out.push(13);
            put_row(out, fields);
        }
        Value::Array { element, items } => {
            out.push(14);
            out.extend_from_slice(&element.oid().to_le_bytes());
            put_row(out, items);
        }
    }
}

fn put_fixed(out: &mut Vec<u8>, tag: u8, bytes: &[u8]) {
    out.push(tag);
    out.extend_from_slice(bytes);
}

fn put_row(out: &mut Vec<u8>, row: &[Value]) {
    put_len(out, row.len() as u64);
    for value in row {
        put_value(out, value);
    }
}

pub fn encode(outcomes: &[Outcome]) -> Bytes {
    let mut out = Vec::with_capacity(32);
    put_len(&mut out, outcomes.len() as u64);
    for outcome in outcomes {
        put_bytes(&mut out, outcome.tag.as_bytes());
        put_len(&mut out, outcome.count);
        put_len(&mut out, outcome.rows.len() as u64);
        for row in &outcome.rows {
            put_row(&mut out, row);
        }
        put_len(&mut out, outcome.notices.len() as u64);
        for notice in &outcome.notices {
            for part in [&notice.severity, &notice.sqlstate, &notice.message] {
                put_bytes(&mut out, part.as_bytes());
            }
            for part in [&notice.detail, &notice.hint] {
                out.push(u8::from(part.is_some()));
                put_bytes(&mut out, part.as_deref().unwrap_or_default().as_bytes());
            }
        }
    }
    out.into()
}

fn damaged() -> Error {
    Error::internal("a reply is damaged")
}

fn take(rest: &mut Bytes, n: usize) -> Result<Bytes> {
    if rest.len() < n {
        Err(damaged())
    } else {
        Ok(rest.split_to(n))
    }
}

fn fixed<const N: usize>(rest: &mut Bytes) -> Result<[u8; N]> {
    take(rest, N)?[..].try_into().map_err(|_| damaged())
}

fn len(rest: &mut Bytes) -> Result<u64> {
    let mut n = 0;
    for shift in (0..64).step_by(7) {
        if !rest.has_remaining() {
            return Err(damaged());
        }
        let byte = rest.get_u8();
        n |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Ok(n);
        }
    }
    Err(damaged())
}

/// A count of things that take at least a byte each, so that a damaged one cannot ask for memory.
fn items(rest: &mut Bytes) -> Result<usize> {
    let n = usize::try_from(len(rest)?).map_err(|_| damaged())?;
    if n > rest.len() {
        Err(damaged())
    } else {
        Ok(n)
    }
}

fn bytes(rest: &mut Bytes) -> Result<Bytes> {
    let n = items(rest)?;
    take(rest, n)
}

fn string(rest: &mut Bytes) -> Result<String> {
    String::from_utf8(bytes(rest)?.to_vec()).map_err(|_| damaged())
}

fn value(rest: &mut Bytes) -> Result<Value> {
    Ok(match fixed::<1>(rest)?[0] {
        0 => Value::Null,
        1 => Value::Bool(false),
        2 => Value::Bool(true),
        3 => Value::Int2(i16::from_le_bytes(fixed(rest)?)),
        4 => Value::Int4(i32::from_le_bytes(fixed(rest)?)),
        5 => Value::Int8(i64::from_le_bytes(fixed(rest)?)),
        6 => Value::Float8(f64::from_le_bytes(fixed(rest)?)),
        7 => {
            let bytes = bytes(rest)?;
            Value::Text(std::str::from_utf8(&bytes).map_err(|_| damaged())?.into())
        }
        8 => Value::Bytea(bytes(rest)?),
        9 => Value::Timestamptz(i64::from_le_bytes(fixed(rest)?)),
        10 => Value::Uuid(fixed(rest)?),
        11 => {
            let number = BigDecimal::from_str(&string(rest)?).map_err(|_| damaged())?;
            Value::Numeric(Arc::new(number))
        }
        12 => Value::Interval {
            months: i32::from_le_bytes(fixed(rest)?),
            days: i32::from_le_bytes(fixed(rest)?),
            micros: i64::from_le_bytes(fixed(rest)?),
        },
        13 => Value::Record(row(rest)?.into()),
        14 => Value::Array {
            element: DataType::from_oid(u32::from_le_bytes(fixed(rest)?)).ok_or_else(damaged)?,
            items: row(rest)?.into(),
        },
        _ => return Err(damaged()),
    })
}

fn row(rest: &mut Bytes) -> Result<Vec<Value>> {
    let n = items(rest)?;
    (0..n).map(|_| value(rest)).collect()
}

fn optional(rest: &mut Bytes) -> Result<Option<String>> {
    let some = fixed::<1>(rest)?[0] == 1;
    let text = string(rest)?;
    Ok(some.then_some(text))
}

pub fn decode(reply: &Bytes) -> Result<Vec<Outcome>> {
    let mut rest = reply.clone();
    let rest = &mut rest;
    let outcomes = items(rest)?;
    let mut decoded = Vec::with_capacity(outcomes);
    for _ in 0..outcomes {
        let tag = string(rest)?;
        let count = len(rest)?;
        let rows = usize::try_from(len(rest)?).map_err(|_| damaged())?;
        let mut list = Vec::with_capacity(rows.min(rest.len()));
        for _ in 0..rows {
            list.push(row(rest)?);
        }
        let mut notices = Vec::new();
        for _ in 0..items(rest)? {
            notices.push(Notice {
                severity: string(rest)?,
                sqlstate: string(rest)?,
                message: string(rest)?,
                detail: optional(rest)?,
                hint: optional(rest)?,
            });
        }
        decoded.push(Outcome {
            rows: list,
            tag,
            count,
            notices,
        });
    }
    Ok(decoded)
}
