//! Values as the executor holds them.

use std::sync::Arc;

use bigdecimal::BigDecimal;
use bytes::Bytes;

pub use super::types::DataType;

/// One value. Equality here is representation equality; SQL comparison is [`super::compare`].
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
    /// Microseconds since the Unix epoch, UTC; `i64::MIN` and `i64::MAX` are the two infinities.
    Timestamptz(i64),
    Uuid([u8; 16]),
    Numeric(Arc<BigDecimal>),
    Interval {
        months: i32,
        days: i32,
        micros: i64,
    },
    Record(Arc<[Value]>),
    /// Elements of type `element`, or NULL.
    Array {
        element: DataType,
        items: Arc<[Value]>,
    },
}

impl Value {
    /// Bytes it takes in a result, roughly.
    pub fn bytes(&self) -> usize {
        match self {
            Value::Text(text) => text.len(),
            Value::Bytea(bytes) => bytes.len(),
            Value::Record(items) | Value::Array { items, .. } => {
                items.iter().map(Value::bytes).sum()
            }
            _ => 8,
        }
    }

    /// The type this representation stands for. NULL has none and says `Unknown`; varchar values are held as text.
    pub fn data_type(&self) -> DataType {
        match self {
            Value::Null => DataType::Unknown,
            Value::Bool(_) => DataType::Bool,
            Value::Int2(_) => DataType::Int2,
            Value::Int4(_) => DataType::Int4,
            Value::Int8(_) => DataType::Int8,
            Value::Float8(_) => DataType::Float8,
            Value::Text(_) => DataType::Text,
            Value::Bytea(_) => DataType::Bytea,
            Value::Timestamptz(_) => DataType::Timestamptz,
            Value::Uuid(_) => DataType::Uuid,
            Value::Numeric(_) => DataType::Numeric,
            Value::Interval { .. } => DataType::Interval,
            Value::Record(_) => DataType::Record,
            Value::Array { element, .. } => super::array::type_of(*element),
        }
    }

    #[inline]
    pub fn is_null(&self) -> bool {
        matches!(self, Value::Null)
    }

    pub fn text(text: impl Into<Arc<str>>) -> Self {
        Value::Text(text.into())
    }

    pub fn bytea(bytes: impl Into<Bytes>) -> Self {
        Value::Bytea(bytes.into())
    }

    pub fn numeric(number: BigDecimal) -> Self {
        Value::Numeric(Arc::new(number))
    }

    /// The truth of a condition: NULL is not true.
    #[inline]
    pub fn is_true(&self) -> bool {
        matches!(self, Value::Bool(true))
    }

    #[inline]
    pub fn as_bool(&self) -> Option<bool> {
        match self {
            Value::Bool(value) => Some(*value),
            _ => None,
        }
    }

    /// Any of the integer types, widened.
    #[inline]
    pub fn as_int(&self) -> Option<i64> {
        match self {
            Value::Int2(value) => Some(i64::from(*value)),
            Value::Int4(value) => Some(i64::from(*value)),
            Value::Int8(value) => Some(*value),
            _ => None,
        }
    }

    #[inline]
    pub fn as_str(&self) -> Option<&str> {
        match self {
            Value::Text(text) => Some(text),
            _ => None,
        }
    }
}

macro_rules! from {
    ($($rust:ty => $variant:ident),* $(,)?) => {
        $(impl From<$rust> for Value {
            fn from(value: $rust) -> Self {
                Value::$variant(value.into())
            }
        })*
    };
}

from! {
    bool => Bool,
    i16 => Int2,
    i32 => Int4,
    i64 => Int8,
    f64 => Float8,
    &str => Text,
    String => Text,
    Bytes => Bytea,
    Vec<u8> => Bytea,
    [u8; 16] => Uuid,
    Arc<BigDecimal> => Numeric,
    BigDecimal => Numeric,
}

impl<T: Into<Value>> From<Option<T>> for Value {
    fn from(value: Option<T>) -> Self {
        value.map_or(Value::Null, Into::into)
    }
}
