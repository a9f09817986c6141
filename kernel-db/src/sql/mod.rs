//! SQL: PostgreSQL's dialect, as far as it is built.
//!
//! Text is parsed by `sqlparser`, bound and planned against a catalogue, and executed by the row executor against a
//! [`crate::partition::Store`]. Stored procedures are compiled once.

pub mod aggregate;
pub mod array;
pub mod binary;
mod bind;
pub mod cast;
pub mod catalog;
pub mod codec;
pub mod compare;
mod ddl;
pub mod exec;
mod explain;
pub mod functions;
pub mod interval;
pub mod like;
pub mod numeric;
pub mod plan;
pub mod plpgsql;
pub mod prepare;
pub mod text;
pub mod time;
pub mod transaction;
pub mod types;
pub mod value;

pub use types::{Category, DataType};
pub use value::Value;
