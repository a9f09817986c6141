//! Partition keys and their slots.
//!
//! The same rule as the kernel's: integers of any width take `value mod 1024`, other types hash their canonical bytes with
//! xxh3. A client that computed a wrong slot would still get right answers: any node forwards, only slower.

use std::error::Error as StdError;

use bytes::BytesMut;
use tokio_postgres::types::{IsNull, ToSql, Type, to_sql_checked};
use uuid::Uuid;
use xxhash_rust::xxh3::xxh3_64;

/// Number of slots that partition keys are spread over.
pub const SLOTS: u16 = 1024;

/// The value of the first column of a table's primary key.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum PartitionKey<'a> {
    Int(i64),
    Text(&'a str),
    Bytes(&'a [u8]),
    Uuid(Uuid),
    Bool(bool),
}

impl PartitionKey<'_> {
    pub fn slot(&self) -> u16 {
        let hash = match self {
            // rem_euclid of a positive modulus is below it.
            Self::Int(value) => return value.rem_euclid(i64::from(SLOTS)) as u16,
            Self::Text(text) => xxh3_64(text.as_bytes()),
            Self::Bytes(bytes) => xxh3_64(bytes),
            Self::Uuid(uuid) => xxh3_64(uuid.as_bytes()),
            Self::Bool(value) => xxh3_64(&[u8::from(*value)]),
        };
        (hash % u64::from(SLOTS)) as u16
    }

    /// Appends type, length and value: different keys in different bytes, whatever follows.
    pub(crate) fn append_to(&self, out: &mut Vec<u8>) {
        let (tag, number, bytes): (u8, i64, &[u8]) = match self {
            Self::Int(value) => (1, *value, &[]),
            Self::Text(text) => (2, text.len() as i64, text.as_bytes()),
            Self::Bytes(bytes) => (3, bytes.len() as i64, bytes),
            Self::Uuid(uuid) => (4, 16, uuid.as_bytes()),
            Self::Bool(value) => (5, i64::from(*value), &[]),
        };
        out.push(tag);
        out.extend_from_slice(&number.to_le_bytes());
        out.extend_from_slice(bytes);
    }
}

/// As a parameter: integers of any width, and the types of the same names.
impl ToSql for PartitionKey<'_> {
    fn to_sql(
        &self,
        kind: &Type,
        out: &mut BytesMut,
    ) -> Result<IsNull, Box<dyn StdError + Sync + Send>> {
        match self {
            Self::Int(value) if *kind == Type::INT2 => i16::try_from(*value)?.to_sql(kind, out),
            Self::Int(value) if *kind == Type::INT4 => i32::try_from(*value)?.to_sql(kind, out),
            Self::Int(value) if *kind == Type::INT8 => value.to_sql(kind, out),
            Self::Text(text) if <&str as ToSql>::accepts(kind) => text.to_sql(kind, out),
            Self::Bytes(bytes) if *kind == Type::BYTEA => bytes.to_sql(kind, out),
            Self::Uuid(uuid) if *kind == Type::UUID => uuid.to_sql(kind, out),
            Self::Bool(value) if *kind == Type::BOOL => value.to_sql(kind, out),
            _ => Err(format!("{self:?} is no {kind}").into()),
        }
    }

    fn accepts(_: &Type) -> bool {
        true
    }

    to_sql_checked!();
}

/// A [`PartitionKey`] that borrows nothing.
#[derive(Clone, Debug)]
pub enum OwnedKey {
    Int(i64),
    Text(Box<str>),
    Bytes(Box<[u8]>),
    Uuid(Uuid),
    Bool(bool),
}

impl OwnedKey {
    pub fn borrowed(&self) -> PartitionKey<'_> {
        match self {
            Self::Int(value) => PartitionKey::Int(*value),
            Self::Text(text) => PartitionKey::Text(text),
            Self::Bytes(bytes) => PartitionKey::Bytes(bytes),
            Self::Uuid(uuid) => PartitionKey::Uuid(*uuid),
            Self::Bool(value) => PartitionKey::Bool(*value),
        }
    }
}

impl From<PartitionKey<'_>> for OwnedKey {
    fn from(key: PartitionKey<'_>) -> Self {
        match key {
            PartitionKey::Int(value) => Self::Int(value),
            PartitionKey::Text(text) => Self::Text(text.into()),
            PartitionKey::Bytes(bytes) => Self::Bytes(bytes.into()),
            PartitionKey::Uuid(uuid) => Self::Uuid(uuid),
            PartitionKey::Bool(value) => Self::Bool(value),
        }
    }
}

impl From<i16> for PartitionKey<'_> {
    fn from(value: i16) -> Self {
        Self::Int(value.into())
    }
}

impl From<i32> for PartitionKey<'_> {
    fn from(value: i32) -> Self {
        Self::Int(value.into())
    }
}

impl From<i64> for PartitionKey<'_> {
    fn from(value: i64) -> Self {
        Self::Int(value)
    }
}

impl<'a> From<&'a str> for PartitionKey<'a> {
    fn from(value: &'a str) -> Self {
        Self::Text(value)
    }
}

impl<'a> From<&'a [u8]> for PartitionKey<'a> {
    fn from(value: &'a [u8]) -> Self {
        Self::Bytes(value)
    }
}

impl From<Uuid> for PartitionKey<'_> {
    fn from(value: Uuid) -> Self {
        Self::Uuid(value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers_take_their_value_mod_1024_whatever_their_width_and_sign() {
        assert_eq!(PartitionKey::from(1025_i16).slot(), 1);
        assert_eq!(PartitionKey::from(-1_i32).slot(), 1023);
        assert_eq!(PartitionKey::from(i64::MIN).slot(), 0);
    }

    #[test]
    fn other_types_hash_their_bytes() {
        assert_eq!(
            PartitionKey::from("home").slot(),
            PartitionKey::from("home".as_bytes()).slot()
        );
        assert_eq!(
            u64::from(PartitionKey::from("home").slot()),
            xxh3_64(b"home") % 1024
        );
        assert!(PartitionKey::Bool(true).slot() < SLOTS);
    }
}
