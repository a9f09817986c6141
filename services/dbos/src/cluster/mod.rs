//! Clusters of node processes on this machine.
//!
//! Holds no state of its own: a cluster is its description on disk, its pid files, and what its own SQL says.

mod commands;
mod home;
mod members;
mod process;
mod rollback;
mod status;
mod up;

pub use commands::{destroy, run};
pub use home::ClusterSpec;
pub use process::{kill, start, stop};
pub use up::{up, wait_ready};
