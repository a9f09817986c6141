//! kernel-db: the replicated transactional SQL store that holds all state of the cluster operating system.
//!
//! `ARCHITECTURE.md` is the map. From the bottom up: [`storage`] keeps bytes, [`raft`] agrees on their order,
//! [`partition`] executes transactions against one partition, [`sql`] compiles SQL into such transactions, [`wire`] speaks
//! the PostgreSQL protocol and the protocol between nodes, [`node`] is the process around all of it, and [`sim`] runs the
//! same state machines by seed in one thread.

pub mod error;
pub mod node;
pub mod partition;
mod planted;
pub mod raft;
pub mod sim;
pub mod sql;
pub mod storage;
pub mod txn;
pub mod wire;

pub use error::{Class, Error, Result};
