//! Formats of parameters and result columns: text and binary.

use std::rc::Rc;

use bytes::{Bytes, BytesMut};

use super::frame::protocol;
use crate::error::{Error, Result};
use crate::sql::{DataType, Value, binary, text};

/// Which values are binary.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Formats {
    All(bool),
    Each(Rc<[bool]>),
}

impl Formats {
    pub const TEXT: Formats = Formats::All(false);

    /// From the format codes of a Bind: none (all text), one for all, or one for each of `count` values.
    pub fn from_codes(codes: &[i16], count: usize, what: &str) -> Result<Self> {
        let one = |code: &i16| match code {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(Error::new(
                "22023",
                format!("unsupported format code: {code}"),
            )),
        };
        match codes {
            [] => Ok(Self::TEXT),
            [code] => Ok(Self::All(one(code)?)),
            codes if codes.len() == count => {
                Ok(Self::Each(codes.iter().map(one).collect::<Result<_>>()?))
            }
            codes => Err(protocol(format!(
                "bind message has {} {what} formats but {count} {what}s",
                codes.len()
            ))),
        }
    }

    pub fn binary(&self, n: usize) -> bool {
        match self {
            Formats::All(binary) => *binary,
            Formats::Each(each) => each.get(n).copied().unwrap_or(false),
        }
    }
}

/// Byte strings from here on share the memory of the message they came in, which lives as long as the call.
const SHARED_BYTES_MIN: usize = 16 << 10;

/// A parameter's value from its bytes.
pub fn decode(bytes: &Bytes, data_type: DataType, binary: bool) -> Result<Value> {
    let invalid = || Error::new("22021", "invalid byte sequence for encoding \"UTF8\"");
    let character = matches!(
        data_type,
        DataType::Text | DataType::Varchar | DataType::Unknown
    );
    if (character || !binary) && bytes.contains(&0) {
        return Err(invalid());
    }
    if binary {
        if data_type == DataType::Bytea && bytes.len() >= SHARED_BYTES_MIN {
            return Ok(Value::Bytea(bytes.clone()));
        }
        return binary::from_binary(bytes, data_type);
    }
    text::from_text(
        std::str::from_utf8(bytes).map_err(|_| invalid())?,
        data_type,
    )
}

/// Appends a value that is not NULL.
pub fn encode(out: &mut BytesMut, value: &Value, binary: bool) {
    match value {
        Value::Text(text) => out.extend_from_slice(text.as_bytes()),
        value if binary => binary::to_binary(value, out),
        value => {
            let mut text = String::new();
            text::write_text(value, &mut text);
            out.extend_from_slice(text.as_bytes());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_long_byte_strings_share_their_message() {
        for (length, shared) in [(SHARED_BYTES_MIN - 1, false), (SHARED_BYTES_MIN, true)] {
            let sent = Bytes::from(vec![7; length]);
            let Value::Bytea(value) = decode(&sent, DataType::Bytea, true).unwrap() else {
                panic!("another type");
            };
            assert_eq!(value, sent);
            assert_eq!(value.as_ptr() == sent.as_ptr(), shared);
        }
    }
}
