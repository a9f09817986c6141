//! Values and their types.

use std::sync::Arc;

use bigdecimal::BigDecimal;
use bytes::Bytes;

/// Types a value can have. Columns can have all but `Unknown`, `Numeric`, `Interval`, `Record` and `Void`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DataType {
    Bool,
    Int2,
    Int4,
    Int8,
    Float8,
    Text,
    Varchar,
    Bytea,
    Timestamptz,
    Uuid,
    /// Results of sum(int8), avg and numeric literals.
    Numeric,
    /// Only in expressions: `now() - interval '5 s'`.
    Interval,
    /// A literal or parameter whose type is not settled yet.
    Unknown,
    /// A function's result without columns.
    Void,
    /// A whole row.
    Record,
}

/// One value. Equality here is representation equality; SQL comparison is `sql::compare`.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    Null,
    Bool(bool),
    Int2(i16),
    Int4(i32),
    Int8(i64),
    Float8(f64),
    Text(Arc<str>),
    Bytea(Bytes),
    /// Microseconds since the Unix epoch, UTC.
    Timestamptz(i64),
    Uuid([u8; 16]),
    Numeric(Arc<BigDecimal>),
    Interval {
        months: i32,
        days: i32,
        micros: i64,
    },
    Record(Arc<[Value]>),
}
