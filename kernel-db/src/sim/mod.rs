//! The seeded simulator: the state machines of three or more nodes in one thread, over the in-memory twins.
//!
//! One seed decides everything: how many nodes, delays, losses, duplicates, cut connections, crashes between any two outputs
//! (which lose and tear what was not synced or flushed), disks that are slow or fail, pauses, clocks that are off and jump,
//! and what the clients do. Two runs of a seed give the same transcript. A run is sixty simulated seconds; then all faults
//! heal, and the history is checked: every acknowledged transaction happened exactly once, every refused one did not, those
//! of unknown outcome at most once; single keys are linearizable; transactions are serializable; reads are fresh; money
//! neither comes nor goes; snapshots stay as they were read; all replicas hold the same. Invariants are looked at on the
//! way.
//!
//! * `runs`: many seeds at a time, their totals, planted faults; `make sim` and `make sim-mutations`.
//! * `plan`: what a run is like. * `world`, `network`, `faults`: events, links, disasters. * `moves`: nodes that come and
//!   go. * `machine`, `member`: one node.
//! * `clients`: sessions that work and retry, and keep rows under read leases (`recalls`). * `gateway`, `chores`: two-phase commit as a gateway drives it. * `load`: their
//!   transactions. * `verdict`, `check`: the end. * `watch`: invariants.
//! * [`Script`]: the same nodes driven by hand, for golden transcripts, with `work`. * `transcript`: inputs and outputs as
//!   text.
//!
//! Left out: the SQL layer, and the row that holds the topology.

mod member;
mod script;
mod script_lease;
mod script_txn;
mod transcript;
mod work;

#[cfg(test)]
mod check;
#[cfg(test)]
mod chores;
#[cfg(test)]
mod clients;
#[cfg(test)]
mod faults;
#[cfg(test)]
mod gateway;
#[cfg(test)]
mod load;
#[cfg(test)]
mod machine;
#[cfg(test)]
mod moves;
#[cfg(test)]
mod network;
#[cfg(test)]
mod plan;
#[cfg(test)]
mod recalls;
#[cfg(test)]
mod rng;
#[cfg(test)]
mod runs;
#[cfg(test)]
mod totals;
#[cfg(test)]
mod verdict;
#[cfg(test)]
mod watch;
#[cfg(test)]
mod world;

pub use script::Script;
