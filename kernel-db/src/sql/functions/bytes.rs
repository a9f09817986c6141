//! Functions between texts, byte strings and digits.

use super::{Args, FnCtx, mismatch};
use crate::error::{Error, Result};
use crate::sql::{Value, text};

pub(super) fn md5(args: &[Value], _: &mut FnCtx<'_>) -> Result<Value> {
    let digest = match args {
        [Value::Text(text)] => md5::compute(text.as_bytes()),
        [Value::Bytea(bytes)] => md5::compute(bytes),
        _ => return Err(mismatch(args)),
    };
    Ok(format!("{digest:x}").into())
}

pub(super) fn to_hex(args: &[Value], _: &mut FnCtx<'_>) -> Result<Value> {
    match args {
        [Value::Int4(number)] => Ok(format!("{number:x}").into()),
        [Value::Int8(number)] => Ok(format!("{number:x}").into()),
        _ => Err(mismatch(args)),
    }
}

/// get_byte(bytes, n), counting from 0.
pub(super) fn get_byte(args: &[Value], _: &mut FnCtx<'_>) -> Result<Value> {
    let [Value::Bytea(bytes), index] = args else {
        return Err(mismatch(args));
    };
    let index = index.as_int().ok_or_else(|| mismatch(args))?;
    match usize::try_from(index).ok().and_then(|at| bytes.get(at)) {
        Some(byte) => Ok(Value::Int4(i32::from(*byte))),
        None => {
            let last = bytes.len() as i64 - 1;
            Err(Error::new(
                "2202E",
                format!("index {index} out of valid range, 0..{last}"),
            ))
        }
    }
}

pub(super) fn encode(args: &[Value], _: &mut FnCtx<'_>) -> Result<Value> {
    let [Value::Bytea(bytes), Value::Text(format)] = args else {
        return Err(mismatch(args));
    };
    let mut out = String::new();
    match format.to_ascii_lowercase().as_str() {
        "hex" => text::write_hex(bytes, &mut out),
        "base64" => write_base64(bytes, &mut out),
        "escape" => {
            for byte in bytes {
                match byte {
                    0 | 0x80.. => out.push_str(&format!("\\{byte:03o}")),
                    b'\\' => out.push_str("\\\\"),
                    _ => out.push(char::from(*byte)),
                }
            }
        }
        _ => return Err(unknown_encoding(format)),
    }
    Ok(out.into())
}

pub(super) fn decode(args: &[Value], _: &mut FnCtx<'_>) -> Result<Value> {
    let (data, format) = (args.text(0)?, args.text(1)?);
    let bytes = match format.to_ascii_lowercase().as_str() {
        "hex" => text::parse_hex(data)?,
        "base64" => parse_base64(data)?,
        "escape" => text::parse_escaped(data)
            .ok_or_else(|| Error::new("22P02", "invalid input syntax for type bytea"))?,
        _ => return Err(unknown_encoding(format)),
    };
    Ok(Value::bytea(bytes))
}

fn unknown_encoding(format: &str) -> Error {
    Error::new("22023", format!("unrecognized encoding: \"{format}\""))
}

const BASE64: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// Lines of 76 characters, as PostgreSQL writes them (RFC 2045).
fn write_base64(bytes: &[u8], out: &mut String) {
    for (at, group) in bytes.chunks(3).enumerate() {
        let bits = group
            .iter()
            .fold(0_u32, |bits, byte| bits << 8 | u32::from(*byte))
            << (8 * (3 - group.len()));
        for place in 0..4 {
            if place <= group.len() {
                out.push(char::from(BASE64[(bits >> (18 - 6 * place) & 63) as usize]));
            } else {
                out.push('=');
            }
        }
        // A full line is ended even if it is the last.
        if at % 19 == 18 && group.len() == 3 {
            out.push('\n');
        }
    }
}

fn parse_base64(data: &str) -> Result<Vec<u8>> {
    let invalid_end = || {
        Error::new("22023", "invalid base64 end sequence")
            .hint("Input data is missing padding, is truncated, or is otherwise corrupted.")
    };
    let mut out = Vec::with_capacity(data.len() / 4 * 3);
    let (mut bits, mut places, mut padding) = (0_u32, 0, 0);
    for c in data.bytes().filter(|c| !c.is_ascii_whitespace()) {
        if c == b'=' {
            padding += 1;
            continue;
        }
        let value = BASE64.iter().position(|known| *known == c).ok_or_else(|| {
            let message = format!(
                "invalid symbol \"{}\" found while decoding base64 sequence",
                char::from(c)
            );
            Error::new("22023", message)
        })?;
        if padding > 0 {
            return Err(Error::new(
                "22023",
                "unexpected \"=\" while decoding base64 sequence",
            ));
        }
        bits = bits << 6 | value as u32;
        places += 1;
        if places == 4 {
            out.extend_from_slice(&bits.to_be_bytes()[1..]);
            (bits, places) = (0, 0);
        }
    }
    match (places, padding) {
        (0, 0) => {}
        (2, 2) => out.push((bits >> 4) as u8),
        (3, 1) => out.extend_from_slice(&[(bits >> 10) as u8, (bits >> 2) as u8]),
        _ => return Err(invalid_end()),
    }
    Ok(out)
}
