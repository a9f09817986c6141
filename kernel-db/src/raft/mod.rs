//! Agreement on the order of entries within one partition's group: raft-rs behind a small interface without clock, thread
//! or disk.
//!
//! * [`driver`]: the one file that calls `RawNode`; inputs in, effects out.
//! * [`log_view`]: the log as raft-rs reads it, with a cache of entries that are not synced yet.
//! * [`lease`]: how long the leader may answer reads without asking.
//!
//! Left out until later: snapshots (a member that the log no longer reaches cannot catch up; I10 keeps that from
//! happening up to a size), and changes of membership.

mod driver;
mod lease;
mod log_view;

pub use driver::{Driver, DriverConfig, Effect, Member, Proposed, View};
pub use lease::Lease;
