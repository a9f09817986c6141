//! Apply: committed entries become rows. Runs off the core, on leader and follower alike.
//!
//! I7: apply sees bytes only; no SQL, clock or randomness, so that all replicas end with the same state. An error here
//! must stop the node: a replica that skips an entry is no replica.

use prost::Message as _;
use raft::eraftpb::{Entry, EntryType};

use crate::error::{Error, Result};
use crate::storage::{AppliedEntry, Op, SessionRecord, StateStore};

/// The log payload (`proto/log.proto`).
#[allow(missing_docs)]
pub mod payload {
    include!(concat!(env!("OUT_DIR"), "/dbos.log.rs"));
}

/// Committed entries of one group, in order.
#[derive(Clone, Debug)]
pub struct ApplyJob {
    pub group: u32,
    pub entries: Vec<Entry>,
}

/// For `Input::Applied`: how far the state store has applied the log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AppliedReport {
    pub index: u64,
    /// Applied and flushed.
    pub durable: u64,
    /// Highest floor among the entries: every member holds the log up to there.
    pub floor: u64,
}

/// Applies a job in one atomic write (I8).
pub fn run<S: StateStore>(store: &S, job: ApplyJob) -> Result<AppliedReport> {
    let mut decoded = Vec::with_capacity(job.entries.len());
    let mut floor = 0;
    for entry in job.entries {
        let (entry, its_floor) = decode(entry)?;
        floor = floor.max(its_floor);
        decoded.push(entry);
    }
    store.apply(&decoded)?;
    let index = decoded.last().map_or(0, |entry| entry.index);
    Ok(AppliedReport {
        index,
        durable: store.durable_index(),
        floor,
    })
}

fn decode(entry: Entry) -> Result<(AppliedEntry, u64)> {
    if entry.get_entry_type() != EntryType::EntryNormal {
        return Err(Error::internal(format!(
            "log entry {} is of a kind this version does not know",
            entry.index
        )));
    }
    let mut applied = AppliedEntry {
        index: entry.index,
        term: entry.term,
        ..AppliedEntry::default()
    };
    if entry.data.is_empty() {
        return Ok((applied, 0));
    }
    let payload = payload::LogPayload::decode(entry.data).map_err(|error| {
        Error::internal(format!(
            "log entry {} does not decode: {error}",
            entry.index
        ))
    })?;
    applied.ts = payload.ts;
    applied.ceiling = payload.ceiling;
    applied.ops = payload.ops.into_iter().map(op).collect::<Result<_>>()?;
    applied.sessions = payload
        .sessions
        .into_iter()
        .map(|record| {
            Ok(SessionRecord {
                session: session_id(&record.session)?,
                number: record.number,
                reply: record.reply,
            })
        })
        .collect::<Result<_>>()?;
    applied.evicted = payload
        .evicted
        .iter()
        .map(|id| session_id(id))
        .collect::<Result<_>>()?;
    Ok((applied, payload.floor))
}

fn op(op: payload::Op) -> Result<Op> {
    use payload::op::Kind;
    match op.kind {
        Some(Kind::Put(put)) => Ok(Op::Put {
            key: put.key,
            value: put.value,
            fresh: put.fresh,
        }),
        Some(Kind::Delete(key)) => Ok(Op::Delete { key }),
        Some(Kind::DeleteRange(range)) => Ok(Op::DeleteRange {
            from: range.from,
            to: range.to,
        }),
        None => Err(Error::internal("log entry holds a change of unknown kind")),
    }
}

fn session_id(bytes: &[u8]) -> Result<u128> {
    let bytes: [u8; 16] = bytes
        .try_into()
        .map_err(|_| Error::internal("log entry holds a malformed session"))?;
    Ok(u128::from_be_bytes(bytes))
}
