//! Batches: the transactions of one Raft entry, and the replies that wait for it.

use bytes::Bytes;
use prost::Message as _;

use super::apply::payload::{
    LogPayload, Op as LogOp, Put, Range, Section as LogSection, op::Kind as OpKind,
};
use super::encode;
use super::sessions::Outcome;
use crate::error::Result;
use crate::storage::{Op, Section};
use crate::txn::messages::Answer;

/// What a held reply rests on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rests {
    /// Its effect, or its recorded outcome, is in the entry: the entry's commit settles it.
    Effect,
    /// It saw the state up to the entry, and came before the entry was proposed: the entry's commit shows that this leader
    /// still led when the reply was made.
    Tip,
    /// As `Tip`, but it came after the proposal: it needs a lease or a quorum's word too.
    TipLate,
}

/// A reply that must not leave yet (I4).
pub struct Held {
    pub id: u64,
    pub result: Result<Bytes>,
    pub rests: Rests,
    /// The answer tells the entry's timestamp, which is not known while the batch is open: made of it when it is closed.
    pub stamped: Option<fn(u64) -> Answer>,
}

impl Held {
    fn stamp(&mut self, ts: u64) {
        if let Some(answer) = self.stamped.take()
            && self.result.is_ok()
        {
            self.result = Ok(answer(ts).into_bytes());
        }
    }
}

/// The batch that transactions are being added to.
#[derive(Default)]
pub struct Batch {
    pub held: Vec<Held>,
    /// `LogPayload.sessions`, encoded.
    pub sessions: Vec<u8>,
    pub evicted: Vec<Bytes>,
    /// Bytes of kept outcomes; the tip counts those of rows.
    pub bytes: usize,
    /// An entry is wanted even without changes: to raise the ceiling, or to tell the floor.
    pub wanted: bool,
}

/// A proposed batch.
pub struct InFlight {
    pub index: u64,
    pub ts: u64,
    pub ceiling: u64,
    pub proposed_us: u64,
    pub held: Vec<Held>,
}

/// What an entry says beside its changes.
pub struct Stamp {
    pub ts: u64,
    pub ceiling: u64,
    pub floor: u64,
}

impl Batch {
    pub fn add_outcome(&mut self, session: u128, number: u64, outcome: &Outcome) {
        let (tag, reply) = outcome.parts();
        self.bytes += reply.len() + 32;
        encode::session_reply(&mut self.sessions, session, number, tag, reply);
    }

    pub fn add_eviction(&mut self, session: u128) {
        self.evicted.push(session.to_be_bytes().to_vec().into());
    }

    /// The batch will be an entry of timestamp `ts`: answers that tell it can be made.
    pub fn stamp(&mut self, ts: u64) {
        self.held.iter_mut().for_each(|held| held.stamp(ts));
    }

    /// The data of the batch's Raft entry.
    pub fn encode(&mut self, stamp: &Stamp, ops: Vec<Op>, sections: Vec<Section>) -> Vec<u8> {
        let rare = LogPayload {
            ts: stamp.ts,
            ceiling: stamp.ceiling,
            evicted: std::mem::take(&mut self.evicted),
            floor: stamp.floor,
            sections: sections.into_iter().map(log_section).collect(),
            ..LogPayload::default()
        };
        // A message may come in pieces: the fields with many parts are encoded without being built first.
        let changes: usize = ops.iter().map(encode::op_len).sum();
        let length = rare.encoded_len() + changes + self.sessions.len();
        let mut data = Vec::with_capacity(length);
        rare.encode_raw(&mut data);
        for op in &ops {
            encode::op(&mut data, op);
        }
        data.append(&mut self.sessions);
        data
    }
}

fn log_section(section: Section) -> LogSection {
    LogSection {
        ts: section.ts,
        ops: section.ops.into_iter().map(log_op).collect(),
    }
}

fn log_op(op: Op) -> LogOp {
    let kind = match op {
        Op::Put { key, value, fresh } => OpKind::Put(Put { key, value, fresh }),
        Op::Delete { key } => OpKind::Delete(key),
        Op::DeleteRange { from, to } => OpKind::DeleteRange(Range { from, to }),
    };
    LogOp { kind: Some(kind) }
}
