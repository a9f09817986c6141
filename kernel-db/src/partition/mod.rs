//! One partition: transactions are executed one after another by the leader of its Raft group, and what they changed is
//! replicated (H-Store's execution model on Raft).

pub mod apply;
mod replica;
mod tip;
mod tip_table;
mod tip_view;
mod transaction;

pub use replica::{
    Durability, FollowerStatus, Input, Now, Output, Replica, ReplicaConfig, ReplicaStatus, Request,
    Role, RoleChange, SessionStatus,
};
pub use tip::{Tip, TipLimits, TipStats};
pub use tip_view::TxnView;
pub use transaction::{Budget, SLOTS, Scan, Slot, Store, Transaction, TxnEnv};
