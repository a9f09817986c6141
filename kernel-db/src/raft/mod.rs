//! Agreement on the order of entries within one partition's group: raft-rs behind a small interface without clock, thread
//! or disk.
//!
//! * [`driver`]: the one file that calls `RawNode`; inputs in, effects out.
//! * [`log_view`]: the log as raft-rs reads it, with a cache of entries that are not synced yet.
//! * [`member_id`]: who a member is, when its node leaves the group and comes back.
//! * [`lease`]: how long the leader may answer reads without asking.
//!
//! A member that the log no longer reaches gets a checkpoint of the state. Raft's own messages carry only what it is called
//! and what is in it; its files travel beside them, and the message is let in when they have arrived. Members change by
//! joint consensus; who they are is part of the state (I8).

mod driver;
mod io;
mod lease;
mod log_view;
pub mod member_id;

pub use driver::Driver;
pub use io::{DriverConfig, Effect, Member, Proposed, View};
pub use lease::Lease;
pub use log_view::{StateEnd, decode_members};
