//! Keys of rows, index entries and counters.
//!
//! `[table u32][index u16: 0 = rows][columns, memcomparable]`. An index entry's key is the index's columns, then the
//! primary key's; its value is where in the key the primary key begins (4 bytes, little endian).

use bytes::Bytes;

use crate::error::{Error, Result};
use crate::partition::{Scan, Slot, Store};
use crate::sql::Value;
use crate::sql::catalog::{COUNTER_TABLE_ID, Index, Table};
use crate::sql::codec::{self, key};

pub const PREFIX: usize = 6;
/// Room for most keys, and for most rows behind theirs.
const KEY_BYTES: usize = 64;

/// A key with its table and index, room for columns.
pub fn start(table: u32, index: u16) -> Vec<u8> {
    let mut key = Vec::with_capacity(KEY_BYTES);
    key.extend_from_slice(&table.to_be_bytes());
    key.extend_from_slice(&index.to_be_bytes());
    key
}

/// All keys of a table, or of one of its indexes.
pub fn range_of(table: u32, index: Option<u16>) -> (Vec<u8>, Vec<u8>) {
    match index {
        Some(index) => {
            let from = start(table, index);
            let to = key::prefix_end(&from).unwrap_or_else(|| vec![0xff; PREFIX + 1]);
            (from, to)
        }
        None => (
            table.to_be_bytes().to_vec(),
            table.saturating_add(1).to_be_bytes().to_vec(),
        ),
    }
}

pub fn row_key(table: &Table, row: &[Value]) -> Vec<u8> {
    let mut out = start(table.id, 0);
    append_primary(&mut out, table, row);
    out
}

fn append_primary(out: &mut Vec<u8>, table: &Table, row: &[Value]) {
    for column in &table.primary_key {
        key::encode_value(out, &row[*column], false);
    }
}

/// Slot of a row: of its partition key.
pub fn slot_of(table: &Table, row: &[Value]) -> Option<Slot> {
    table.partition_column().map(|c| codec::slot(&row[c]))
}

/// Slot of the row with this key, which `row_key` made.
pub fn slot_of_key(table: &Table, row_key: &[u8]) -> Option<Slot> {
    let column = table.partition_column()?;
    let mut rest = row_key.get(PREFIX..)?;
    let value = key::decode_value(&mut rest, table.columns[column].data_type, false).ok()?;
    Some(codec::slot(&value))
}

/// The index's columns only: what must be unique.
pub fn index_prefix(table: &Table, index: &Index, row: &[Value]) -> Vec<u8> {
    let mut out = start(table.id, index.id);
    for column in &index.columns {
        key::encode_value(&mut out, &row[column.column], column.desc);
    }
    out
}

/// Slot of a row's entry in an index.
pub fn slot_of_entry(table: &Table, index: &Index, row: &[Value]) -> Option<Slot> {
    match table.is_global(index) {
        true => Some(codec::slot_of_entry(&index_prefix(table, index, row))),
        false => slot_of(table, row),
    }
}

/// Key and value of a row's entry.
pub fn index_entry(table: &Table, index: &Index, row: &[Value]) -> Result<(Vec<u8>, Bytes)> {
    let mut out = index_prefix(table, index, row);
    let begins =
        u32::try_from(out.len()).map_err(|_| Error::new("54000", "index key is too long"))?;
    append_primary(&mut out, table, row);
    Ok((out, begins_at(begins)))
}

/// Where nearly all primary keys begin, as the values of index entries: nothing to allocate, nothing to count.
static BEGINS: [[u8; 4]; 128] = {
    let mut table = [[0; 4]; 128];
    let mut at = 0;
    while at < table.len() {
        table[at] = (at as u32).to_le_bytes();
        at += 1;
    }
    table
};

fn begins_at(begins: u32) -> Bytes {
    match BEGINS.get(begins as usize) {
        Some(bytes) => Bytes::from_static(bytes),
        None => Bytes::copy_from_slice(&begins.to_le_bytes()),
    }
}

/// Key of the row that an index entry stands for.
pub fn row_key_of_entry(table: u32, key: &[u8], value: &[u8]) -> Result<Vec<u8>> {
    let begins = value
        .try_into()
        .ok()
        .map(u32::from_le_bytes)
        .and_then(|b| usize::try_from(b).ok());
    let primary = begins
        .and_then(|b| key.get(b..))
        .ok_or_else(|| Error::new("XX001", "an index entry is damaged"))?;
    let mut out = start(table, 0);
    out.extend_from_slice(primary);
    Ok(out)
}

pub fn counter_key(id: u32) -> Bytes {
    let mut key = start(COUNTER_TABLE_ID, 0);
    key.extend_from_slice(&id.to_be_bytes());
    key.into()
}

/// For expressions that read nothing.
pub struct NoStore;

impl Store for NoStore {
    fn get(&mut self, _key: &[u8], _slot: Option<Slot>) -> Result<Option<Bytes>> {
        Err(Error::internal("a partition key was computed from rows"))
    }

    fn scan(&mut self, _scan: Scan<'_>, _out: &mut Vec<(Bytes, Bytes)>) -> Result<()> {
        Err(Error::internal("a partition key was computed from rows"))
    }
}
