//! One partition: transactions are executed one after another by the leader of its Raft group, and what they changed is
//! replicated (H-Store's execution model on Raft).

mod transaction;

pub use transaction::{Budget, SLOTS, Scan, Slot, Store, Transaction, TxnEnv};
