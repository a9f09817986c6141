//! Client of the kernel and, for the same SQL, of any PostgreSQL.
//!
//! * [`Target`]: where to connect: a URL, several URLs of one cluster separated by commas, any `postgres://` server.
//! * [`Client`]: `connect`, then `call` for statements that may write, `read` for those that do not, `read_all` for reads
//!   over all partitions, `install_schema`. All are `async`, take `&self`, and are pipelined when polled together.
//!   On a cluster a call goes straight to the leader of its key's partition and follows it when it moves; calls are
//!   numbered within a session, so that one whose outcome is unknown is retried and runs at most once (I11).
//! * [`Options`]: connections, calls in flight, deadline. [`Stats`]: retries and reconnects so far, for benchmarks.
//! * [`Error`] says which class it is: wrong request, try again (retries exhausted), outcome unknown.
//! * [`local_postgres::LocalPostgres`]: a private PostgreSQL for tests and benchmarks.
//!
//! Order: calls with keys of one partition that are first polled in order are sent in order, and without a failure they
//! run in that order. A retry may run behind later calls.
//!
//! Left out: transaction blocks, COPY, notifications, TLS.

pub mod error;
pub mod local_postgres;

pub use error::{Class, Error, Result};
