//! Transactions over several partitions, and transaction blocks: the gateway's half (`txn::messages` has the other).
//!
//! They run here, beside the cores, over a [`store::TxnStore`]: a buffer of writes over rows that are fetched.
//!
//! * A *one-shot* (statement, procedure, implicit transaction) reads the newest rows, each under a lock that it keeps, and
//!   is run anew under the same age when it has to give way to an older transaction, so that it gets through in the end.
//! * A *block* (BEGIN) reads at a snapshot: one for the whole block, or in READ COMMITTED one for each statement. What it is
//!   going to change is locked at the leaders when the statement runs: REPEATABLE READ and SERIALIZABLE give up with 40001
//!   if it changed since the snapshot, READ COMMITTED runs the statement again at a new snapshot. SERIALIZABLE sends what it
//!   has read, keys and ranges, to be validated at commit; if it has written nothing it is serial at its snapshot.
//! * Both commit as `commit` says: one partition in one step, several by two-phase commit.
//!
//! What holds: locks that were asked for are given back or settled however the transaction ends, also by dropping it; a
//! transaction waits for a lock only if it is older than the holder or holds nothing yet, so no circle of waiters closes.

mod block;
mod commit;
mod drive;
mod fetch;
mod holds;
mod known;
mod oneshot;
mod rollback;
mod store;
#[cfg(test)]
mod store_tests;

pub(super) use commit::Settled;
pub(super) use drive::{given_up, is_too_long};
pub(super) use fetch::lock_timeout;
pub(super) use holds::Registry;
pub(super) use rollback::Rollback;
pub use rollback::{Progress, Restored, Stages};
