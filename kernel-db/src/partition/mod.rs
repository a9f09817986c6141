//! One partition: transactions are executed one after another by the leader of its Raft group, and what they changed is
//! replicated (H-Store's execution model on Raft).
//!
//! * [`Replica`]: one member of the group as a state machine; the leader's executor, its batches, sessions and reads.
//! * [`Tip`]: the leader's view of the current state, uncommitted writes included.
//! * [`apply`]: committed entries become rows, on every member.
//! * [`Transaction`], [`Store`]: what is executed, and what it sees.
//! * `locks`, `waits`, `watches`, `changes`, `records`, `in_doubt`: what transactions that run elsewhere hold, wait for, may have missed,
//!   have prepared, and have decided here (`txn::messages`).

pub mod apply;
mod batch;
mod changes;
mod encode;
mod executor;
mod fence;
mod in_doubt;
mod leases;
mod locks;
mod reads;
pub(crate) mod records;
mod replica;
mod sessions;
mod tip;
mod tip_filter;
mod tip_table;
#[cfg(test)]
mod tip_tests;
mod tip_view;
mod transaction;
pub(crate) mod waits;
mod watches;

pub use fence::Fence;
pub use leases::LEASE_US_MAX;
pub use replica::{
    Durability, FollowerStatus, Input, MemberChange, Now, Output, Replica, ReplicaConfig,
    ReplicaStatus, Request, Role, RoleChange, SessionStatus, Task, Waited,
};
pub use sessions::{decode_outcome, encode_outcome};
pub use tip::{Tip, TipLimits, TipStats};
pub use tip_view::TxnView;
pub use transaction::{
    Budget, Lease, LeaseAsk, RowLock, SLOTS, Scan, Slot, Store, TOO_LONG, Transaction, TxnEnv,
    WAITS, Wait,
};
