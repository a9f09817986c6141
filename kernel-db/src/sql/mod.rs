//! SQL: PostgreSQL's dialect, as far as it is built.
//!
//! Text is parsed by `sqlparser`, bound and planned against a catalogue, and executed by the row executor against a
//! [`crate::partition::Store`]. Stored procedures are compiled once.

pub mod value;

pub use value::{DataType, Value};
