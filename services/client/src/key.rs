//! Partition keys and their slots.
//!
//! The same rule as the kernel's: integers of any width take `value mod 1024`, other types hash their canonical bytes with
//! xxh3. A client that computed a wrong slot would still get right answers: any node forwards, only slower.

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
