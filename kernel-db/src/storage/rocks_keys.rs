//! Keys and records of the state store in RocksDB.
//!
//! Key spaces by first byte: `m` meta, `c` current rows (`c key -> ts value`), `h` history (`h end_ts key -> start_ts value`),
//! `s` session replies (`s session place -> number reply`), `e` evicted sessions.

use bytes::Bytes;
use rocksdb::{DB, ReadOptions};

use super::format::storage_error;
use super::state::{StateMeta, Versioned};
use crate::error::{Error, Result};

pub(super) const META: &[u8] = b"m";
pub(super) const WATERMARK: &[u8] = b"mw";
pub(super) const MEMBERS: &[u8] = b"mc";
pub(super) const CURRENT: u8 = b'c';
pub(super) const HISTORY: u8 = b'h';
pub(super) const SESSION: u8 = b's';
pub(super) const EVICTED: u8 = b'e';

pub(super) fn current_bounds(from: &[u8], to: &[u8]) -> ReadOptions {
    let mut options = ReadOptions::default();
    options.set_iterate_lower_bound(current_key(from));
    options.set_iterate_upper_bound(current_key(to));
    options
}

pub(super) fn current_key(key: &[u8]) -> Vec<u8> {
    [&[CURRENT][..], key].concat()
}

pub(super) fn history_key(end_ts: u64, key: &[u8]) -> Vec<u8> {
    [&[HISTORY][..], &end_ts.to_be_bytes(), key].concat()
}

pub(super) fn session_key(session: u128, place: u64) -> Vec<u8> {
    // Places are below 1,024: two bytes hold them and the end of the ring.
    [
        &[SESSION][..],
        &session.to_be_bytes(),
        &(place as u16).to_be_bytes(),
    ]
    .concat()
}

pub(super) fn encode_row(row: &Versioned) -> Vec<u8> {
    [&row.ts.to_be_bytes()[..], &row.value].concat()
}

pub(super) fn decode_row(bytes: &[u8]) -> Result<Versioned> {
    Ok(Versioned {
        ts: be_u64(bytes, 0)?,
        value: Bytes::copy_from_slice(&bytes[8..]),
    })
}

pub(super) fn read_meta(db: &DB) -> Result<StateMeta> {
    let mut meta = match db.get(META).map_err(rocks_error)? {
        Some(bytes) => decode_meta(&bytes)?,
        None => StateMeta::default(),
    };
    let members = db.get(MEMBERS).map_err(rocks_error)?;
    meta.members = members.unwrap_or_default().into();
    Ok(meta)
}

pub(super) fn encode_meta(meta: &StateMeta) -> Vec<u8> {
    let fields = [
        meta.applied_index,
        meta.applied_term,
        meta.last_ts,
        meta.ceiling,
    ];
    fields
        .iter()
        .flat_map(|field| field.to_be_bytes())
        .collect()
}

pub(super) fn decode_meta(bytes: &[u8]) -> Result<StateMeta> {
    Ok(StateMeta {
        applied_index: be_u64(bytes, 0)?,
        applied_term: be_u64(bytes, 8)?,
        last_ts: be_u64(bytes, 16)?,
        ceiling: be_u64(bytes, 24)?,
        members: Bytes::new(),
    })
}

pub(super) fn be_u64(bytes: &[u8], at: usize) -> Result<u64> {
    let field = bytes.get(at..).and_then(|rest| rest.first_chunk());
    field
        .map(|field| u64::from_be_bytes(*field))
        .ok_or_else(corrupt)
}

pub(super) fn be_u128(bytes: &[u8], at: usize) -> Result<u128> {
    let field = bytes.get(at..).and_then(|rest| rest.first_chunk());
    field
        .map(|field| u128::from_be_bytes(*field))
        .ok_or_else(corrupt)
}

pub(super) fn corrupt() -> Error {
    Error::new(
        "XX001",
        "a record of the state store is shorter than its fields",
    )
    .hint(
        "the data directory is damaged: remove it and let the node copy the state from the others",
    )
}

pub(super) fn rocks_error(error: rocksdb::Error) -> Error {
    storage_error(&format!("state store: {error}"))
}
