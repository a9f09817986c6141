//! The slot a partition key belongs to.

use xxhash_rust::xxh3::xxh3_64;

use super::key;
use crate::partition::{SLOTS, Slot};
use crate::sql::Value;

/// Integers of every width take their value modulo 1,024, so that equal keys of different tables live together and 0..n
/// spread evenly; other types are hashed by their canonical bytes. NULL, which no primary key holds, takes slot 0.
pub fn slot(value: &Value) -> Slot {
    match value {
        Value::Null => 0,
        Value::Int2(int) => of_int(i64::from(*int)),
        Value::Int4(int) => of_int(i64::from(*int)),
        Value::Int8(int) => of_int(*int),
        Value::Bool(truth) => of_bytes(&[u8::from(*truth)]),
        Value::Text(text) => of_bytes(text.as_bytes()),
        Value::Bytea(bytes) => of_bytes(bytes),
        Value::Uuid(bytes) => of_bytes(bytes),
        Value::Float8(number) => of_bytes(&key::canonical_bits(*number).to_be_bytes()),
        Value::Timestamptz(micros) => of_bytes(&micros.to_be_bytes()),
        Value::Numeric(_) | Value::Interval { .. } | Value::Record(_) | Value::Array { .. } => {
            of_bytes(&key::encode(std::slice::from_ref(value), &[]))
        }
    }
}

/// The slot of a global index's entry: of its indexed columns as they are encoded.
pub fn slot_of_entry(columns: &[u8]) -> Slot {
    of_bytes(columns)
}

fn of_int(int: i64) -> Slot {
    // The remainder of 1,024 fits a u16.
    int.rem_euclid(i64::from(SLOTS)) as Slot
}

fn of_bytes(bytes: &[u8]) -> Slot {
    (xxh3_64(bytes) % u64::from(SLOTS)) as Slot
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers_of_all_widths_agree() {
        for int in [-1025_i64, -1, 0, 1, 5, 1023, 1024, 30_000] {
            let expected = int.rem_euclid(1024) as Slot;
            assert_eq!(slot(&Value::Int8(int)), expected);
            assert_eq!(slot(&Value::Int4(int as i32)), expected);
            assert_eq!(slot(&Value::Int2(int as i16)), expected);
        }
    }

    #[test]
    fn hashed_slots_stay_as_they_are() {
        // Stored data depends on these.
        assert_eq!(slot(&"alice".into()), (xxh3_64(b"alice") % 1024) as Slot);
        assert_eq!(slot(&0.0.into()), slot(&(-0.0).into()));
        assert_eq!(slot(&f64::NAN.into()), slot(&(-f64::NAN).into()));
        let all: std::collections::HashSet<_> = (0..20_000)
            .map(|n| slot(&Value::from(format!("user{n}"))))
            .collect();
        assert_eq!(all.len(), usize::from(SLOTS));
    }
}
