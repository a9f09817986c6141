//! Bytes that outlive a process: the state store of a partition and the log store of a node.
//!
//! Both are traits with two implementations: RocksDB / raft-engine for real nodes, and in-memory twins with a crash model
//! for the simulator (what was not synced or flushed is lost by `crash`).

pub mod engine;
mod files;
mod filled;
pub mod format;
mod log;
#[cfg(test)]
mod log_tests;
pub mod memory;
mod memory_image;
mod memory_log;
mod recent;
pub mod replaceable;
#[cfg(test)]
mod replaceable_tests;
pub mod rocks;
mod rocks_copy;
mod rocks_keys;
mod rocks_rows;
#[cfg(test)]
mod rocks_tests;
mod rocks_write;
mod state;
pub mod transfer;
#[cfg(test)]
mod twin_tests;

pub use log::{LogStore, LogWrite};
pub use state::{
    AppliedEntry, Checkpoint, Ended, Op, SESSION_RING, Section, SessionRecord, StateMeta,
    StateSnapshot, StateStore, UNVERSIONED_TABLE_ID, Versioned,
};
