//! What a partition keeps of transactions over several partitions until they are finished: rows of a table of their own,
//! written through the tip as all rows are, so that undo, batches, apply, snapshots and recovery are the same (I8, I12).
//!
//! A participant keeps what it has prepared; the coordinator keeps what it has decided. The table has no name in SQL.

use bytes::{Buf, Bytes};
use prost::Message;

use crate::error::{Error, Result};
use crate::storage::{StateStore, UNVERSIONED_TABLE_ID, Versioned};
use crate::txn::messages::{Span, TxnId, Write};

/// Table number of the records: below the catalogue's first, and none of its own tables'. It has no history.
pub const RECORDS_TABLE_ID: u32 = UNVERSIONED_TABLE_ID;

const PREPARED: u8 = 1;
const DECIDED: u8 = 2;

/// A lock that a prepared transaction keeps, beside those on what it has written.
#[derive(Clone, PartialEq, Message)]
pub struct KeptLock {
    #[prost(message, required, tag = "1")]
    pub span: Span,
    /// A `LockMode`.
    #[prost(int32, tag = "2")]
    pub mode: i32,
}

/// A prepared part. The row's own timestamp is the prepare's.
#[derive(Clone, PartialEq, Message)]
pub struct PreparedRecord {
    #[prost(uint32, tag = "1")]
    pub coordinator: u32,
    #[prost(uint64, tag = "2")]
    pub deadline_ts: u64,
    #[prost(message, repeated, tag = "3")]
    pub writes: Vec<Write>,
    #[prost(message, repeated, tag = "4")]
    pub locks: Vec<KeptLock>,
}

/// A decision. The row's own timestamp is that of the decision: the commit timestamp, if it is one to commit.
#[derive(Clone, PartialEq, Message)]
pub struct DecisionRecord {
    #[prost(bool, tag = "1")]
    pub commit: bool,
    /// Groups that must be told; none of an abort, who ask for it.
    #[prost(uint32, repeated, tag = "2")]
    pub others: Vec<u32>,
    #[prost(uint64, tag = "3")]
    pub deadline_ts: u64,
}

/// A record as it is read at an opening.
pub enum Record {
    Prepared(PreparedRecord),
    Decided(DecisionRecord),
}

pub fn prepared_key(txn: TxnId) -> Bytes {
    key(PREPARED, txn)
}

pub fn decision_key(txn: TxnId) -> Bytes {
    key(DECIDED, txn)
}

fn key(kind: u8, txn: TxnId) -> Bytes {
    let mut key = Vec::with_capacity(29);
    key.extend_from_slice(&RECORDS_TABLE_ID.to_be_bytes());
    key.push(kind);
    for field in [txn.start, txn.node, txn.number] {
        key.extend_from_slice(&field.to_be_bytes());
    }
    key.into()
}

/// All records of a partition, with the timestamps at which they were written.
pub fn load<S: StateStore>(store: &S) -> Result<Vec<(TxnId, u64, Record)>> {
    let (from, to) = (
        RECORDS_TABLE_ID.to_be_bytes(),
        (RECORDS_TABLE_ID + 1).to_be_bytes(),
    );
    let mut rows = Vec::new();
    store.scan(&from, &to, false, usize::MAX, &mut rows)?;
    rows.into_iter().map(decode).collect()
}

fn decode((key, row): (Bytes, Versioned)) -> Result<(TxnId, u64, Record)> {
    let malformed = |error| Error::internal(format!("a transaction record is damaged: {error}"));
    if key.len() != 29 {
        return Err(Error::internal("a transaction record's key is damaged"));
    }
    let mut fields = key.slice(5..);
    let txn = TxnId {
        start: fields.get_u64(),
        node: fields.get_u64(),
        number: fields.get_u64(),
    };
    let record = match key[4] {
        PREPARED => Record::Prepared(PreparedRecord::decode(row.value).map_err(malformed)?),
        DECIDED => Record::Decided(DecisionRecord::decode(row.value).map_err(malformed)?),
        _ => return Err(Error::internal("a transaction record is of unknown kind")),
    };
    Ok((txn, row.ts, record))
}
