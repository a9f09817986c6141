//! The process: runtime, sockets, files and timers around the state machines.

mod config;
mod run;

pub use config::{Durability, NodeAddress, NodeConfig};
pub use run::{run, terminated};
