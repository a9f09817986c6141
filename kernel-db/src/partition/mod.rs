//! One partition: transactions are executed one after another by the leader of its Raft group, and what they changed is
//! replicated (H-Store's execution model on Raft).

mod tip;
mod tip_table;
#[cfg(test)]
mod tip_tests;
mod tip_view;
mod transaction;

pub use tip::{Tip, TipLimits, TipStats};
pub use tip_view::TxnView;
pub use transaction::{Budget, SLOTS, Scan, Slot, Store, Transaction, TxnEnv};
