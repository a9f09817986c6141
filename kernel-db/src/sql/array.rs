//! Arrays of one dimension: values of expressions and parameters, not of columns.
//!
//! Text and binary forms are PostgreSQL's (`array_in`, `array_out`, `array_recv`, `array_send`). Left out on purpose: more
//! dimensions and lower bounds other than 1 (0A000).

use std::sync::Arc;

use bytes::{BufMut, BytesMut};

use super::{DataType, Value, binary, text};
use crate::error::{Error, Result};

/// Most elements of one array.
pub const ELEMENTS_MAX: usize = 1 << 20;

/// Element type and array type.
const PAIRS: [(DataType, DataType); 9] = [
    (DataType::Bool, DataType::BoolArray),
    (DataType::Int2, DataType::Int2Array),
    (DataType::Int4, DataType::Int4Array),
    (DataType::Int8, DataType::Int8Array),
    (DataType::Float8, DataType::Float8Array),
    (DataType::Text, DataType::TextArray),
    (DataType::Varchar, DataType::VarcharArray),
    (DataType::Timestamptz, DataType::TimestamptzArray),
    (DataType::Uuid, DataType::UuidArray),
];

impl DataType {
    /// The type of this array type's elements.
    pub fn element(self) -> Option<DataType> {
        PAIRS.iter().find(|(_, a)| *a == self).map(|(e, _)| *e)
    }

    /// The type of arrays of this type. 0A000 if there is none.
    pub fn array(self) -> Result<DataType> {
        let found = PAIRS.iter().find(|(e, _)| *e == self).map(|(_, a)| *a);
        found.ok_or_else(|| Error::unsupported(format!("an array of {self}")))
    }
}

/// An array value; the elements have the type `element` or are NULL. 54000 if there are too many.
pub fn value(element: DataType, items: Vec<Value>) -> Result<Value> {
    if items.len() > ELEMENTS_MAX {
        let message = format!("an array of more than {ELEMENTS_MAX} elements");
        return Err(Error::new("54000", message));
    }
    Ok(Value::Array {
        element,
        items: items.into(),
    })
}

/// The type of an array value of elements of `element`: texts stand for varchar too.
pub fn type_of(element: DataType) -> DataType {
    element.array().unwrap_or(DataType::TextArray)
}

/// Appends `{1,"a b",NULL}`.
pub fn write_text(items: &[Value], out: &mut String) {
    out.push('{');
    for (at, item) in items.iter().enumerate() {
        if at > 0 {
            out.push(',');
        }
        let Some(shown) = text::to_text(item) else {
            out.push_str("NULL");
            continue;
        };
        let special =
            |c: char| matches!(c, '"' | '\\' | '{' | '}' | ',') || c.is_ascii_whitespace();
        if !shown.is_empty() && !shown.eq_ignore_ascii_case("null") && !shown.contains(special) {
            out.push_str(&shown);
            continue;
        }
        out.push('"');
        for c in shown.chars() {
            if matches!(c, '"' | '\\') {
                out.push('\\');
            }
            out.push(c);
        }
        out.push('"');
    }
    out.push('}');
}

fn malformed(text: &str) -> Error {
    Error::new("22P02", format!("malformed array literal: \"{text}\""))
}

/// Reads `{1,"a b",NULL}` as an array of `element`.
pub fn from_text(text: &str, element: DataType) -> Result<Value> {
    let inner = text
        .trim()
        .strip_prefix('{')
        .and_then(|t| t.strip_suffix('}'));
    let Some(inner) = inner else {
        return Err(malformed(text));
    };
    let mut items = Vec::new();
    let mut chars = inner.chars().peekable();
    let blank = |c: &char| c.is_ascii_whitespace();
    while chars.next_if(blank).is_some() {}
    if chars.peek().is_none() {
        return value(element, items);
    }
    loop {
        while chars.next_if(blank).is_some() {}
        let mut item = String::new();
        let quoted = chars.next_if_eq(&'"').is_some();
        loop {
            match chars.peek().copied() {
                Some('"') if quoted => break,
                Some(',') | None if !quoted => break,
                Some('{' | '}') if !quoted => {
                    return Err(Error::unsupported("an array of several dimensions"));
                }
                Some('"') | None => return Err(malformed(text)),
                Some(c) => {
                    chars.next();
                    let c = if c == '\\' {
                        chars.next().ok_or_else(|| malformed(text))?
                    } else {
                        c
                    };
                    item.push(c);
                }
            }
        }
        if quoted {
            chars.next();
            while chars.next_if(blank).is_some() {}
        }
        let plain = item.trim_end();
        items.push(match (quoted, plain) {
            (true, _) => text::from_text(&item, element)?,
            (false, "") => return Err(malformed(text)),
            (false, null) if null.eq_ignore_ascii_case("null") => Value::Null,
            (false, plain) => text::from_text(plain, element)?,
        });
        match chars.next() {
            None => return value(element, items),
            Some(',') => {}
            Some(_) => return Err(malformed(text)),
        }
    }
}

/// Appends the binary form.
pub fn to_binary(element: DataType, items: &[Value], out: &mut BytesMut) {
    out.put_i32(i32::from(!items.is_empty()));
    out.put_i32(i32::from(items.iter().any(Value::is_null)));
    out.put_u32(element.oid());
    if items.is_empty() {
        return;
    }
    out.put_i32(items.len() as i32);
    out.put_i32(1);
    for item in items {
        if item.is_null() {
            out.put_i32(-1);
            continue;
        }
        let start = out.len();
        out.put_i32(0);
        binary::to_binary(item, out);
        let length = (out.len() - start - 4) as i32;
        out[start..start + 4].copy_from_slice(&length.to_be_bytes());
    }
}

/// Reads the binary form as an array of `element`; 22P03 when the bytes are none, 42804 when they are of another type.
pub fn from_binary(bytes: &[u8], element: DataType) -> Result<Value> {
    let broken = || Error::new("22P03", "incorrect binary data format");
    let mut rest = bytes;
    let mut int = || -> Result<i32> {
        let (head, tail) = rest.split_first_chunk::<4>().ok_or_else(broken)?;
        rest = tail;
        Ok(i32::from_be_bytes(*head))
    };
    let (dimensions, _, oid) = (int()?, int()?, int()?);
    let same = DataType::from_oid(oid as u32)
        .is_some_and(|sent| sent == element || sent.is_string() && element.is_string());
    if !same {
        return Err(Error::new("42804", "wrong element type"));
    }
    if dimensions == 0 {
        return value(element, Vec::new());
    }
    let (count, _) = (int()?, int()?);
    if dimensions != 1 {
        return Err(Error::unsupported("an array of several dimensions"));
    }
    let count = usize::try_from(count).map_err(|_| broken())?;
    // Every element has at least its length.
    if count > rest.len() / 4 {
        return Err(broken());
    }
    let mut items = Vec::with_capacity(count);
    for _ in 0..count {
        let (head, tail) = rest.split_first_chunk::<4>().ok_or_else(broken)?;
        rest = tail;
        items.push(match usize::try_from(i32::from_be_bytes(*head)) {
            Err(_) => Value::Null,
            Ok(length) => {
                let (item, tail) = rest.split_at_checked(length).ok_or_else(broken)?;
                rest = tail;
                binary::from_binary(item, element)?
            }
        });
    }
    if !rest.is_empty() {
        return Err(broken());
    }
    value(element, items)
}

/// The elements cast to another type.
pub fn cast(items: &[Value], to: DataType, one: impl Fn(&Value) -> Result<Value>) -> Result<Value> {
    let items: Result<Vec<Value>> = items.iter().map(one).collect();
    value(to, items?)
}

/// The elements of an array value.
pub fn items(value: &Value) -> Option<&Arc<[Value]>> {
    match value {
        Value::Array { items, .. } => Some(items),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn round(text: &str, element: DataType) -> String {
        let made = from_text(text, element).unwrap();
        let mut bytes = BytesMut::new();
        binary::to_binary(&made, &mut bytes);
        assert_eq!(from_binary(&bytes, element).unwrap(), made);
        text::to_text(&made).unwrap()
    }

    #[test]
    fn text_and_binary_forms() {
        assert_eq!(round("{}", DataType::Int4), "{}");
        assert_eq!(round(" { 1 , -2,NULL } ", DataType::Int8), "{1,-2,NULL}");
        assert_eq!(
            round(r#"{a,"b c","d\"e",NULL,"NULL","",f\,g}"#, DataType::Text),
            r#"{a,"b c","d\"e",NULL,"NULL","","f,g"}"#
        );
        for bad in ["", "{", "1,2", "{1,}", "{,1}", "{\"a}", "{\"a\"b}"] {
            assert!(from_text(bad, DataType::Text).is_err(), "{bad}");
        }
        assert_eq!(
            from_text("{x}", DataType::Int4).unwrap_err().sqlstate(),
            "22P02"
        );
        assert_eq!(
            from_text("{{1}}", DataType::Int4).unwrap_err().sqlstate(),
            "0A000"
        );
        let mut bytes = BytesMut::new();
        to_binary(DataType::Int4, &[Value::Int4(1)], &mut bytes);
        assert_eq!(
            from_binary(&bytes, DataType::Int8).unwrap_err().sqlstate(),
            "42804"
        );
        for cut in 0..bytes.len() {
            assert!(from_binary(&bytes[..cut], DataType::Int4).is_err(), "{cut}");
        }
    }
}
