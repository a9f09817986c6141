//! The process: runtime, sockets, files and timers around the state machines.
//!
//! * [`run()`] starts a node: data directory, log, stores, replicas, listeners.
//! * `core` is the loop on the one thread that holds connections and replicas; `threads` are the log writer and apply.
//! * `peers` and `server` are the two ends of the connections between nodes.
//! * `gateway` plans, routes and repeats what clients ask, and changes the schema.
//! * `upkeep` does what is due by the clock.
//!
//! * `topology` and `placement` know the nodes and where every replica is, `steps` how one moves; `arrivals` fetches checkpoints.
//! * `admin` asks a running node to change the nodes.
//!
//! Left out until later: moving slots, more than one core per node.

pub mod admin;
mod arrivals;
mod chore;
mod clock;
mod config;
mod core;
mod datadir;
mod gateway;
mod logging;
mod metrics;
mod open;
mod peers;
mod placement;
mod run;
mod server;
#[cfg(test)]
mod shell_tests;
mod steps;
pub mod threads;
mod topology;
mod upkeep;

pub use config::{Durability, NodeAddress, NodeConfig};
pub use run::{run, run_on, terminated};

#[cfg(test)]
pub(crate) use steps::{Step, Stepper};
#[cfg(test)]
pub(crate) use topology::Topology;

/// The state store of a real node.
type State = crate::storage::replaceable::ReplaceableState;
