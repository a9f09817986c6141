//! Client of the kernel and, for the same SQL, of any PostgreSQL.
//!
//! * [`Target`]: where to connect: a URL, several URLs of one cluster separated by commas, any `postgres://` server.
//! * [`Client`]: `connect`, then `call` for statements that may write, `read` for those that do not, `read_all` for reads
//!   over all partitions, `install_schema`. All are `async`, take `&self`, and are pipelined when polled together.
//!   On a cluster a call goes straight to the leader of its key's partition and follows it when it moves; calls are
//!   numbered within a session, so that one whose outcome is unknown is retried and runs at most once (I11).
//! * [`Options`]: connections, calls in flight, deadline. [`Stats`]: retries and reconnects so far, for benchmarks.
//! * [`Client::read_cached`]: rows read by their whole primary keys stay in memory until somebody changes them;
//!   [`Client::kept`] takes them from there at once.
//! * [`Error`] says which class it is: wrong request, try again (retries exhausted), outcome unknown.
//! * [`local_postgres::LocalPostgres`]: a private PostgreSQL for tests and benchmarks.
//!
//! Order: calls with keys of one partition that are first polled in order are sent in order, and without a failure they
//! run in that order. A retry may run behind later calls.
//!
//! Left out: transaction blocks, COPY, notifications, TLS.

mod answer;
mod cache;
mod client;
mod cluster;
mod connection;
mod error;
mod key;
mod lane;
pub mod local_postgres;
mod numbers;
pub mod ports;
mod recalls;
mod retry;
mod rows;
mod target;
pub mod testing;

pub use answer::Rows;
pub use cache::{CacheStats, Kept};
pub use client::{Client, Options, Stats, WAIT_FOR_CHANGE};
pub use cluster::{Node, ServerKind, Topology};
pub use connection::Params;
pub use error::{Class, Error, Result};
pub use key::{PartitionKey, SLOTS};
pub use rows::{field, first_field, first_row};
pub use target::Target;
pub use tokio_postgres::Row;
pub use tokio_postgres::types::{FromSql, ToSql};
