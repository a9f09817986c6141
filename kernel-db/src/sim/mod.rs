//! The seeded simulator: the state machines of three or more nodes in one thread, over the in-memory twins.
//!
//! One seed decides everything: delays, losses, duplicates, cut connections, crashes (which lose what was not synced or
//! flushed), pauses, clocks that are off, and what the clients do. Two runs of a seed give the same transcript. At the end
//! all faults heal, and the history is checked: every acknowledged transaction happened exactly once, every refused one
//! did not, those of unknown outcome at most once; counters are linearizable; snapshots stay as they were read; all
//! replicas hold the same state.
//!
//! * [`run`]: one seed, start to end, checked. * [`world`]: events, network and faults. * [`member`]: one node.
//! * [`clients`]: sessions that work and retry. * [`work`]: their transactions. * [`check`]: the verdict.
//! * [`script`]: the same nodes driven by hand, for golden transcripts. * [`transcript`]: inputs and outputs as text.
//!
//! Left out: the SQL layer, several groups per node, and changes of membership.

mod check;
mod clients;
mod member;
mod rng;
mod script;
mod script_txn;

mod transcript;
mod work;
mod world;

pub use script::Script;
pub use world::{Faults, Summary, run};
