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
const STAGED: u8 = 3;
const LEASES: u8 = 4;
const RECALL: u8 = 5;
const MEMBERS: u8 = 6;
const HEARD: u8 = 7;

/// Table, kind and transaction.
const PREFIX: usize = 29;

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
    /// What it writes is in staged rows.
    #[prost(bool, tag = "5")]
    pub staged: bool,
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

/// Where the staged write of `key` is kept.
pub fn staged_key(txn: TxnId, key: &[u8]) -> Bytes {
    [&prefix(STAGED, txn)[..], key].concat().into()
}

/// All staged writes of `txn` behind the one at `after`.
pub fn staged_range(txn: TxnId, after: Option<&Bytes>) -> (Bytes, Bytes) {
    let from = match after {
        Some(after) => [&after[..], &[0]].concat().into(),
        None => key(STAGED, txn),
    };
    // Keys begin with a table's number, which is never the highest.
    (from, staged_key(txn, &[0xff; 8]))
}

/// A staged write: a new row, or without value a deletion.
pub fn staged_row(value: Option<&Bytes>) -> Bytes {
    match value {
        Some(value) => [&[1_u8][..], value].concat().into(),
        None => Bytes::from_static(&[0]),
    }
}

/// The write that is kept at `key` as `row`.
pub fn staged_write(key: &Bytes, row: &Bytes) -> Result<(Bytes, Option<Bytes>)> {
    match row.first() {
        Some(kind) if key.len() > PREFIX => {
            let value = (*kind == 1).then(|| row.slice(1..));
            Ok((key.slice(PREFIX..), value))
        }
        _ => Err(Error::internal("a staged write is damaged")),
    }
}

/// Whose row's timestamp says when the gateway of a staged part was heard.
pub fn heard_key(txn: TxnId) -> Bytes {
    key(HEARD, txn)
}

/// Where the longest read lease that there may be is kept, in microseconds: eight bytes, big-endian.
pub fn lease_key() -> Bytes {
    of_kind(LEASES).into()
}

/// Where the version of the topology is kept that may change this group's members: eight bytes, big-endian.
pub fn members_key() -> Bytes {
    of_kind(MEMBERS).into()
}

/// No row: what a holder of read leases watches.
pub fn recall_key(holder: i64) -> Bytes {
    [&of_kind(RECALL)[..], &holder.to_be_bytes()]
        .concat()
        .into()
}

/// All keys but those of records: what may be leased to clients.
pub fn beside_records() -> [Span; 2] {
    let start = |table: u32| Bytes::copy_from_slice(&table.to_be_bytes());
    [
        Span::range(Bytes::new(), start(RECORDS_TABLE_ID)),
        Span::range(start(RECORDS_TABLE_ID + 1), Bytes::from_static(&[0xff; 8])),
    ]
}

fn of_kind(kind: u8) -> Vec<u8> {
    [&RECORDS_TABLE_ID.to_be_bytes()[..], &[kind]].concat()
}

fn key(kind: u8, txn: TxnId) -> Bytes {
    prefix(kind, txn).into()
}

fn prefix(kind: u8, txn: TxnId) -> Vec<u8> {
    let mut key = Vec::with_capacity(PREFIX);
    key.extend_from_slice(&RECORDS_TABLE_ID.to_be_bytes());
    key.push(kind);
    for field in [txn.start, txn.node, txn.number] {
        key.extend_from_slice(&field.to_be_bytes());
    }
    key
}

/// All records of a partition but staged writes, with the timestamps at which they were written.
pub fn load<S: StateStore>(store: &S) -> Result<Vec<(TxnId, u64, Record)>> {
    let (from, to) = (of_kind(PREPARED), of_kind(STAGED));
    let mut rows = Vec::new();
    store.scan(&from, &to, false, usize::MAX, &mut rows)?;
    rows.into_iter().map(decode).collect()
}

fn decode((key, row): (Bytes, Versioned)) -> Result<(TxnId, u64, Record)> {
    let malformed = |error| Error::internal(format!("a transaction record is damaged: {error}"));
    if key.len() != PREFIX {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_keys_but_those_of_records_may_be_leased() {
        let may = |key: &[u8]| beside_records().iter().any(|span| span.contains(key));
        let txn = TxnId {
            start: u64::MAX,
            node: u64::MAX,
            number: u64::MAX,
        };
        let staged = staged_key(txn, &[0xff; 8]);
        let records = [
            prepared_key(txn),
            staged,
            heard_key(txn),
            lease_key(),
            members_key(),
        ];
        assert!(records.iter().all(|key| !may(key)));
        let others = [0, 1, RECORDS_TABLE_ID + 1, 100, u32::MAX - 1];
        let rows = others.map(|table| [&table.to_be_bytes()[..], &[0xff; 9]].concat());
        assert!(rows.iter().all(|key| may(key)));
        assert!(may(&0_u32.to_be_bytes()));
    }
}
