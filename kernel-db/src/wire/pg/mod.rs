//! PostgreSQL's wire protocol, towards clients.
//!
//! Messages and their codec are `pgwire`'s; the connection loop is this one, because the crate's own answers a message
//! before it reads the next. A connection is one task on the core's thread: `reader` collects what comes up to one Sync
//! into one transaction (`implicit`), hands it to the [`Backend`] and reads on; `queue` sends replies in order as transactions commit.
//!
//! Left out: encryption and passwords (listeners are on loopback), COPY, FunctionCall, LISTEN.

pub mod backend;
mod block;
mod block_commands;
mod commands;
mod connection;
mod format;
mod frame;
mod implicit;
mod queue;
mod reader;
mod reply;
mod server;
mod session;
mod settings;
mod split;
mod startup;

pub use backend::{
    Backend, Block, BlockMode, Bound, Column, ConnInfo, Effect, Failed, Isolation, Lane, Notice,
    Outcome, Running, Statement,
};
pub use server::{Limits, serve};
pub use settings::SERVER_VERSION;
