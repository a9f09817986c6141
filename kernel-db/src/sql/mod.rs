//! SQL: PostgreSQL's dialect, as far as it is built.
//!
//! Text is parsed by `sqlparser`, bound and planned against a catalogue, and executed by the row executor against a
//! [`crate::partition::Store`]. Stored procedures are compiled once.

mod bind;
pub mod catalog;
mod ddl;
pub mod exec;
mod explain;
pub mod plan;
pub mod plpgsql;
pub mod prepare;
pub mod transaction;
pub mod value;

pub use value::{DataType, Value};
