//! Apply: committed entries become rows. Runs off the core, on leader and follower alike.
//!
//! I7: apply sees bytes only; no SQL, clock or randomness, so that all replicas end with the same state. An error here
//! must stop the node: a replica that skips an entry is no replica.

use prost::Message as _;
use raft::eraftpb::{Entry, EntryType};

use crate::error::{Error, Result};
use crate::storage::{AppliedEntry, Checkpoint, Op, Section, SessionRecord, StateStore};

/// The log payload (`proto/log.proto`).
#[allow(missing_docs)]
pub mod payload {
    include!(concat!(env!("OUT_DIR"), "/dbos.log.rs"));
}

/// Committed entries of one group, in order.
#[derive(Clone, Debug, Default)]
pub struct ApplyJob {
    pub group: u32,
    /// To be installed first; what was applied or waits before it is in it.
    pub install: Option<Checkpoint>,
    pub entries: Vec<Entry>,
    /// Index of each entry that changes the members, and the members from there on.
    pub members: Vec<(u64, bytes::Bytes)>,
}

impl ApplyJob {
    /// Adds a later job of the same group.
    pub fn merge(&mut self, later: Self) {
        if later.install.is_some() {
            *self = later;
            return;
        }
        self.entries.extend(later.entries);
        self.members.extend(later.members);
    }
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
    if let Some(checkpoint) = &job.install {
        store.install(checkpoint)?;
    }
    let mut decoded = Vec::with_capacity(job.entries.len());
    let mut floor = 0;
    let mut members = job.members.into_iter().peekable();
    for entry in job.entries {
        let changed = members.next_if(|(index, _)| *index == entry.index);
        let (entry, its_floor) = decode(entry, changed.map(|(_, members)| members))?;
        floor = floor.max(its_floor);
        decoded.push(entry);
    }
    store.apply(&decoded)?;
    let last = decoded.last().map(|entry| entry.index);
    let index = last.or(job.install.map(|c| c.index)).unwrap_or(0);
    Ok(AppliedReport {
        index,
        durable: store.durable_index(),
        floor,
    })
}

fn decode(entry: Entry, members: Option<bytes::Bytes>) -> Result<(AppliedEntry, u64)> {
    let normal = entry.get_entry_type() == EntryType::EntryNormal;
    if normal != members.is_none() {
        return Err(Error::internal(format!(
            "log entry {} is of a kind this version does not know",
            entry.index
        )));
    }
    let mut applied = AppliedEntry {
        index: entry.index,
        term: entry.term,
        members,
        ..AppliedEntry::default()
    };
    if !normal || entry.data.is_empty() {
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
    applied.sections = payload
        .sections
        .into_iter()
        .map(|section| {
            let ops = section.ops.into_iter().map(op).collect::<Result<_>>()?;
            Ok(Section {
                ts: section.ts,
                ops,
            })
        })
        .collect::<Result<_>>()?;
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

pub(super) fn op(op: payload::Op) -> Result<Op> {
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

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::storage::StateSnapshot;
    use crate::storage::memory::MemState;

    fn entry(index: u64, data: Vec<u8>) -> Entry {
        let mut entry = Entry::default();
        (entry.index, entry.term, entry.data) = (index, 1, data.into());
        entry
    }

    fn put(key: &'static [u8]) -> payload::LogPayload {
        let put = payload::Put {
            key: Bytes::from_static(key),
            value: Bytes::from_static(b"v"),
            fresh: true,
        };
        payload::LogPayload {
            ts: 7,
            ceiling: 9,
            ops: vec![payload::Op {
                kind: Some(payload::op::Kind::Put(put)),
            }],
            sessions: vec![payload::SessionReply {
                session: vec![1; 16].into(),
                number: 3,
                reply: Bytes::from_static(b"r"),
            }],
            floor: 5,
            ..payload::LogPayload::default()
        }
    }

    #[test]
    fn i8_rows_sessions_and_index_arrive_together_and_a_replay_is_harmless() {
        let store = MemState::new();
        let job = ApplyJob {
            group: 1,
            entries: vec![entry(1, Vec::new()), entry(2, put(b"k").encode_to_vec())],
            ..ApplyJob::default()
        };
        for _ in 0..2 {
            let report = run(&store, job.clone()).unwrap();
            assert_eq!((report.index, report.floor), (2, 5));
            assert_eq!(store.get(b"k").unwrap().unwrap().ts, 7);
            assert_eq!(store.sessions().unwrap().len(), 1);
            assert_eq!((store.meta().applied_index, store.meta().ceiling), (2, 9));
        }
    }

    #[test]
    fn i7_an_entry_that_cannot_be_understood_stops_the_job_before_anything_is_written() {
        let store = MemState::new();
        let mut strange = put(b"k");
        strange.ops.push(payload::Op { kind: None });
        let kinds = [strange.encode_to_vec(), vec![0xff; 9]];
        for data in kinds {
            let entries = vec![entry(1, put(b"a").encode_to_vec()), entry(2, data)];
            let job = ApplyJob {
                group: 1,
                entries,
                ..ApplyJob::default()
            };
            assert!(run(&store, job).is_err());
            assert_eq!(store.meta().applied_index, 0);
            assert!(store.get(b"a").unwrap().is_none());
        }
    }
}
