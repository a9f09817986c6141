//! Values as stored bytes: ordered keys, compact rows, and the slot of a partition key.

pub mod key;
pub mod row;
mod slot;

pub use slot::{slot, slot_of_entry};
