//! The fence against late steps of a move of replicas.
//!
//! The system group's leader moves a group step by step, each for one version of the topology. One that is deposed may not
//! know it, and one of its steps may come after its successor has turned the move back and found everything as it should be.
//! So the group keeps the newest version that it has heard of in its own log: every step begins with a [`Fence`], and the
//! leader changes members for that version only (`replica/members.rs`).
//!
//! The last step ends with a fence too, which is written in any case. Its entry is behind the change, so who holds it also
//! knows that the change is committed: from then on a majority of the new voters can go on by itself, after all of them have
//! lost power too. Nobody may leave before that.

use bytes::Bytes;

use super::records::members_key;
use super::transaction::{Store, Transaction, TxnEnv};
use crate::error::{Error, Result};

/// Lets this version of the topology change the members, and none before it.
#[derive(Clone, Copy, Debug)]
pub struct Fence {
    pub version: u64,
    /// The members are changed, and this is to be in the log behind it.
    pub confirms: bool,
}

impl Transaction for Fence {
    fn run(&self, store: &mut dyn Store, env: &mut TxnEnv) -> Result<Bytes> {
        env.budget.step(1)?;
        let known = read(store)?;
        if known > self.version {
            return Err(late(self.version, known));
        }
        if known < self.version || self.confirms {
            let version = Bytes::copy_from_slice(&self.version.to_be_bytes());
            store.put(members_key(), version)?;
        }
        Ok(Bytes::new())
    }

    fn label(&self) -> &str {
        "fence members"
    }
}

/// The version that may change the members; 0 if there was none yet.
pub fn read(store: &mut dyn Store) -> Result<u64> {
    let Some(row) = store.get(&members_key(), None)? else {
        return Ok(0);
    };
    let version = row.first_chunk::<8>().copied().map(u64::from_be_bytes);
    version.ok_or_else(|| Error::internal("the version of the members is damaged"))
}

/// 40001: the step is of another version of the topology than the group goes by.
pub fn late(version: u64, known: u64) -> Error {
    let text = format!("a step of version {version} of the topology, the group goes by {known}");
    Error::retry("40001", text)
}
