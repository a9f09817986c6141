//! PostgreSQL's text representation of values, in and out.

use std::fmt::Write;

use super::{DataType, Value, interval, numeric, time};
use crate::error::{Error, Result};

/// The text of a value, `None` for NULL.
pub fn to_text(value: &Value) -> Option<String> {
    if value.is_null() {
        return None;
    }
    let mut out = String::new();
    write_text(value, &mut out);
    Some(out)
}

/// Appends the text of a value; nothing for NULL.
pub fn write_text(value: &Value, out: &mut String) {
    match value {
        Value::Null => {}
        Value::Bool(value) => out.push(if *value { 't' } else { 'f' }),
        Value::Int2(value) => write_int(i64::from(*value), out),
        Value::Int4(value) => write_int(i64::from(*value), out),
        Value::Int8(value) => write_int(*value, out),
        Value::Float8(value) => out.push_str(&float_text(*value)),
        Value::Text(text) => out.push_str(text),
        Value::Bytea(bytes) => {
            out.reserve(2 + 2 * bytes.len());
            out.push_str("\\x");
            write_hex(bytes, out);
        }
        Value::Timestamptz(micros) => time::write(out, *micros),
        Value::Uuid(bytes) => {
            for (at, byte) in bytes.iter().enumerate() {
                if matches!(at, 4 | 6 | 8 | 10) {
                    out.push('-');
                }
                write_hex(&[*byte], out);
            }
        }
        Value::Numeric(number) => out.push_str(&numeric::format(number)),
        Value::Interval {
            months,
            days,
            micros,
        } => interval::write(out, *months, *days, *micros),
        Value::Record(fields) => write_record(fields, out),
        Value::Array { items, .. } => super::array::write_text(items, out),
    }
}

fn write_int(value: i64, out: &mut String) {
    // Writing to a String cannot fail.
    let _ = write!(out, "{value}");
}

pub fn write_hex(bytes: &[u8], out: &mut String) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    for byte in bytes {
        out.push(char::from(DIGITS[usize::from(byte >> 4)]));
        out.push(char::from(DIGITS[usize::from(byte & 15)]));
    }
}

/// The shortest digits that read back as the same double; an exponent below 1e-4 and from 1e15.
pub fn float_text(value: f64) -> String {
    if value.is_nan() {
        return "NaN".to_string();
    }
    if value.is_infinite() {
        return if value > 0.0 { "Infinity" } else { "-Infinity" }.to_string();
    }
    let scientific = format!("{value:e}");
    let Some((mantissa, exponent)) = scientific.split_once('e') else {
        return scientific;
    };
    let exponent: i32 = exponent.parse().unwrap_or(0);
    if (-4..15).contains(&exponent) {
        return format!("{value}");
    }
    let sign = if exponent < 0 { '-' } else { '+' };
    format!("{mantissa}e{sign}{:02}", exponent.abs())
}

/// A row: `(1,"a b",)`.
fn write_record(fields: &[Value], out: &mut String) {
    out.push('(');
    for (at, field) in fields.iter().enumerate() {
        if at > 0 {
            out.push(',');
        }
        let Some(text) = to_text(field) else { continue };
        let special =
            |c: char| matches!(c, '"' | '\\' | '(' | ')' | ',') || c.is_ascii_whitespace();
        if !text.is_empty() && !text.contains(special) {
            out.push_str(&text);
            continue;
        }
        out.push('"');
        for c in text.chars() {
            if matches!(c, '"' | '\\') {
                out.push(c);
            }
            out.push(c);
        }
        out.push('"');
    }
    out.push(')');
}

/// Reads a value of a type: 22P02 when the text is none, 22003 when it is too large, 22007 and 22008 for times.
pub fn from_text(text: &str, to: DataType) -> Result<Value> {
    from_text_at(text, to, None)
}

/// As [`from_text`]; with the transaction's time, `now`, `today`, `tomorrow` and `yesterday` are times.
pub fn from_text_at(text: &str, to: DataType, now: Option<i64>) -> Result<Value> {
    Ok(match to {
        DataType::Bool => Value::Bool(parse_bool(text).ok_or_else(|| invalid(text, to))?),
        DataType::Int2 => Value::Int2(parse_int(text, to)?),
        DataType::Int4 => Value::Int4(parse_int(text, to)?),
        DataType::Int8 => Value::Int8(parse_int(text, to)?),
        DataType::Float8 => Value::Float8(parse_float(text)?),
        DataType::Text | DataType::Varchar | DataType::Unknown => {
            if text.contains('\0') {
                return Err(Error::new(
                    "22021",
                    "invalid byte sequence for encoding \"UTF8\": 0x00",
                ));
            }
            Value::Text(text.into())
        }
        DataType::Bytea => Value::bytea(parse_bytea(text)?),
        DataType::Timestamptz => Value::Timestamptz(time::parse(text, now)?),
        DataType::Uuid => Value::Uuid(parse_uuid(text).ok_or_else(|| invalid(text, to))?),
        DataType::Numeric => Value::numeric(numeric::parse(text)?),
        DataType::Interval => interval::parse(text)?,
        DataType::Void => Value::Text("".into()),
        DataType::Record => {
            return Err(Error::new(
                "0A000",
                "input of anonymous composite types is not implemented",
            ));
        }
        array => match array.element() {
            Some(element) => super::array::from_text(text, element)?,
            None => return Err(invalid(text, to)),
        },
    })
}

fn invalid(text: &str, to: DataType) -> Error {
    Error::new(
        "22P02",
        format!("invalid input syntax for type {to}: \"{text}\""),
    )
}

fn trim(text: &str) -> &str {
    text.trim_matches(|c: char| c.is_ascii_whitespace() || c == '\x0b')
}

fn parse_int<T: TryFrom<i128>>(text: &str, to: DataType) -> Result<T> {
    let trimmed = trim(text);
    let digits = trimmed.strip_prefix(['+', '-']).unwrap_or(trimmed);
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(invalid(text, to));
    }
    // More digits than an i128 holds are out of range of every integer type.
    trimmed
        .parse::<i128>()
        .ok()
        .and_then(|number| T::try_from(number).ok())
        .ok_or_else(|| {
            Error::new(
                "22003",
                format!("value \"{text}\" is out of range for type {to}"),
            )
        })
}

fn parse_float(text: &str) -> Result<f64> {
    let trimmed = trim(text);
    let number: f64 = trimmed
        .parse()
        .map_err(|_| invalid(text, DataType::Float8))?;
    let names_infinity = trimmed.contains(['i', 'I']);
    let has_digits = || {
        let mantissa = trimmed.split(['e', 'E']).next().unwrap_or("");
        mantissa.bytes().any(|byte| matches!(byte, b'1'..=b'9'))
    };
    if (number.is_infinite() && !names_infinity) || (number == 0.0 && has_digits()) {
        let message = format!("\"{text}\" is out of range for type double precision");
        return Err(Error::new("22003", message));
    }
    Ok(number)
}

/// Unique prefixes of true, false, yes, no; on, off; 1, 0.
fn parse_bool(text: &str) -> Option<bool> {
    let lower = trim(text).to_ascii_lowercase();
    if lower.is_empty() {
        return None;
    }
    match lower.as_str() {
        "1" | "on" => Some(true),
        "0" | "of" | "off" => Some(false),
        word if "true".starts_with(word) || "yes".starts_with(word) => Some(true),
        word if "false".starts_with(word) || "no".starts_with(word) => Some(false),
        _ => None,
    }
}

/// Hexadecimal digits of any case in pairs.
pub fn parse_hex(text: &str) -> Result<Vec<u8>> {
    let digits: Vec<char> = text.chars().filter(|c| !c.is_ascii_whitespace()).collect();
    let mut bytes = Vec::with_capacity(digits.len() / 2);
    for pair in digits.chunks(2) {
        let mut byte = 0;
        for digit in pair {
            let value = digit.to_digit(16).ok_or_else(|| {
                Error::new("22023", format!("invalid hexadecimal digit: \"{digit}\""))
            })?;
            byte = byte << 4 | value as u8;
        }
        if pair.len() == 1 {
            return Err(Error::new(
                "22023",
                "invalid hexadecimal data: odd number of digits",
            ));
        }
        bytes.push(byte);
    }
    Ok(bytes)
}

/// The hex form `\xdeadbeef` or the escape form with `\\` and `\ooo`.
fn parse_bytea(text: &str) -> Result<Vec<u8>> {
    if let Some(digits) = text.strip_prefix("\\x") {
        return parse_hex(digits);
    }
    parse_escaped(text).ok_or_else(|| Error::new("22P02", "invalid input syntax for type bytea"))
}

/// bytea's escape form; `None` if a backslash is followed by neither itself nor three octal digits.
pub fn parse_escaped(text: &str) -> Option<Vec<u8>> {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        match (bytes[at], bytes.get(at + 1)) {
            (b'\\', Some(b'\\')) => {
                out.push(b'\\');
                at += 2;
            }
            (b'\\', Some(b'0'..=b'3')) => {
                let digits = text.get(at + 1..at + 4)?;
                out.push(u8::from_str_radix(digits, 8).ok()?);
                at += 4;
            }
            (b'\\', _) => return None,
            (byte, _) => {
                out.push(byte);
                at += 1;
            }
        }
    }
    Some(out)
}

/// 32 digits, with an optional hyphen after each four and optional braces around them.
fn parse_uuid(text: &str) -> Option<[u8; 16]> {
    let inner = match text.strip_prefix('{') {
        Some(rest) => rest.strip_suffix('}')?,
        None => text,
    };
    let mut bytes = [0; 16];
    let mut count = 0;
    let mut chars = inner.chars().peekable();
    while let Some(c) = chars.next() {
        let digit = c.to_digit(16)? as u8;
        *bytes.get_mut(count / 2)? |= if count % 2 == 0 { digit << 4 } else { digit };
        count += 1;
        if count % 4 == 0 && count < 32 && chars.peek() == Some(&'-') {
            chars.next();
        }
    }
    if count == 32 { Some(bytes) } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn floats_print_as_postgresql_prints_them() {
        for (value, text) in [
            (1.0, "1"),
            (0.1, "0.1"),
            (-0.0, "-0"),
            (1e14, "100000000000000"),
            (1e15, "1e+15"),
            (123_456_789_012_345.0, "123456789012345"),
            (1_234_567_890_123_456.0, "1.234567890123456e+15"),
            (0.0001, "0.0001"),
            (0.00001, "1e-05"),
            (1e100, "1e+100"),
            (1.5e-7, "1.5e-07"),
            (0.1 + 0.2, "0.30000000000000004"),
            (f64::NAN, "NaN"),
            (f64::NEG_INFINITY, "-Infinity"),
        ] {
            assert_eq!(float_text(value), text);
        }
    }

    #[test]
    fn round_trips() {
        use DataType::*;
        for (data_type, text) in [
            (Bool, "t"),
            (Int2, "-5"),
            (Int4, "2147483647"),
            (Int8, "-9223372036854775808"),
            (Float8, "1.5"),
            (Text, " a "),
            (Bytea, "\\x00ff"),
            (Numeric, "-1.230"),
            (Uuid, "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"),
            (Interval, "1 mon 2 days 03:00:00"),
            (Timestamptz, "2026-11-22 00:00:00.000001+00"),
        ] {
            assert_eq!(to_text(&from_text(text, data_type).unwrap()).unwrap(), text);
        }
        assert_eq!(to_text(&Value::Null), None);
    }

    #[test]
    fn input_errors_have_postgresql_codes() {
        use DataType::*;
        for (data_type, text, code) in [
            (Int4, "abc", "22P02"),
            (Int4, "", "22P02"),
            (Int4, "1.5", "22P02"),
            (Int2, "40000", "22003"),
            (
                Int4,
                "99999999999999999999999999999999999999999999",
                "22003",
            ),
            (Float8, "1e400", "22003"),
            (Float8, "1e-400", "22003"),
            (Float8, "x", "22P02"),
            (Bool, "maybe", "22P02"),
            (Bool, "o", "22P02"),
            (Bytea, "\\xz0", "22023"),
            (Bytea, "\\x0", "22023"),
            (Bytea, "a\\b", "22P02"),
            (Uuid, "a0eebc99", "22P02"),
            (Text, "a\0b", "22021"),
        ] {
            assert_eq!(
                from_text(text, data_type).unwrap_err().sqlstate(),
                code,
                "{text}"
            );
        }
        let error = from_text("abc", Int4).unwrap_err();
        assert_eq!(
            error.message(),
            "invalid input syntax for type integer: \"abc\""
        );
    }

    #[test]
    fn accepts_loose_forms() {
        for word in ["true", "T", "yes", " on ", "1", "tr"] {
            assert_eq!(from_text(word, DataType::Bool).unwrap(), Value::Bool(true));
        }
        let uuid = from_text("{a0eebc999c0b4ef8bb6d6bb9bd380a11}", DataType::Uuid).unwrap();
        assert_eq!(
            to_text(&uuid).unwrap(),
            "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"
        );
        assert_eq!(
            from_text("a\\000\\\\", DataType::Bytea).unwrap(),
            Value::bytea(vec![b'a', 0, b'\\'])
        );
        let row = Value::Record(vec![Value::Int4(1), Value::Null, "a b".into(), "".into()].into());
        assert_eq!(to_text(&row).unwrap(), "(1,,\"a b\",\"\")");
    }
}
