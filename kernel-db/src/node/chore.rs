//! Work between partitions that a partition's leader asks its node for.

use crate::partition::Output;
use crate::txn::messages::TxnId;

/// What a partition led from here wants of other partitions, to finish a transaction that nobody else finishes.
#[derive(Debug)]
pub enum Chore {
    /// Ask `coordinator` and settle in `group`.
    Resolve {
        group: u32,
        txn: TxnId,
        coordinator: u32,
        deadline_ts: u64,
    },
    /// Settle in `others`, then forget in `group`.
    Finish {
        group: u32,
        txn: TxnId,
        commit_ts: u64,
        others: Vec<u32>,
    },
}

impl Chore {
    /// What `group` asks for by `output`.
    pub fn of(group: u32, output: Output) -> Option<Self> {
        match output {
            Output::Resolve {
                txn,
                coordinator,
                deadline_ts,
            } => Some(Self::Resolve {
                group,
                txn,
                coordinator,
                deadline_ts,
            }),
            Output::Finish {
                txn,
                commit_ts,
                others,
            } => Some(Self::Finish {
                group,
                txn,
                commit_ts,
                others,
            }),
            _ => None,
        }
    }
}
