//! What scripted clients do: counters, and transactions that fail after writing.
//!
//! Every writing transaction counts itself in a row of its own, so that a second execution shows.

use bytes::Bytes;

use crate::error::{Error, Result};
use crate::partition::{Store, Transaction, TxnEnv};
use crate::storage::{StateSnapshot, Versioned};

pub const COUNTERS: u64 = 4;

const COUNTER_TABLE: u32 = 100;
const DONE_TABLE: u32 = 102;

/// One transaction. `op` is unique in a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Work {
    /// Adds one to a counter; replies with the new value.
    Add { counter: u64, op: u64 },
    /// Replies with a counter's value.
    Read { counter: u64 },
    /// Writes, then fails with a counter's value as it saw it.
    Fail { counter: u64, op: u64 },
}

pub fn key(table: u32, row: u64) -> Bytes {
    let mut key = table.to_be_bytes().to_vec();
    key.extend([0, 0]);
    key.extend(row.to_be_bytes());
    key.into()
}

/// The row of a counter.
pub fn counter_key(counter: u64) -> Bytes {
    key(COUNTER_TABLE, counter)
}

fn number(value: Option<&[u8]>) -> u64 {
    let first = value.and_then(|value| value.first_chunk::<8>());
    first.map_or(0, |bytes| u64::from_be_bytes(*bytes))
}

fn load(store: &mut dyn Store, table: u32, row: u64) -> Result<u64> {
    Ok(number(store.get(&key(table, row), None)?.as_deref()))
}

fn save(store: &mut dyn Store, table: u32, row: u64, value: u64, padding: usize) -> Result<()> {
    let mut bytes = value.to_be_bytes().to_vec();
    bytes.resize(8 + padding, 0xab);
    store.put(key(table, row), bytes.into())
}

impl Work {
    pub fn op(self) -> Option<u64> {
        match self {
            Work::Add { op, .. } | Work::Fail { op, .. } => Some(op),
            Work::Read { .. } => None,
        }
    }
}

impl Transaction for Work {
    fn run(&self, store: &mut dyn Store, env: &mut TxnEnv) -> Result<Bytes> {
        env.budget.step(1)?;
        if let Some(op) = self.op() {
            let done = load(store, DONE_TABLE, op)?;
            save(store, DONE_TABLE, op, done + 1, 200)?;
        }
        match *self {
            Work::Add { counter, .. } => {
                let value = load(store, COUNTER_TABLE, counter)? + 1;
                save(store, COUNTER_TABLE, counter, value, 0)?;
                Ok(Bytes::copy_from_slice(&value.to_be_bytes()))
            }
            Work::Read { counter } => {
                let value = load(store, COUNTER_TABLE, counter)?;
                Ok(Bytes::copy_from_slice(&value.to_be_bytes()))
            }
            Work::Fail { counter, .. } => {
                let value = load(store, COUNTER_TABLE, counter)?;
                save(store, COUNTER_TABLE, counter, value + 1000, 0)?;
                Err(Error::new("P0001", value.to_string()))
            }
        }
    }

    fn read_only(&self) -> bool {
        matches!(self, Work::Read { .. })
    }
}

/// Everything a replica holds, read as of a timestamp or as it is now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Picture {
    pub counters: Vec<u64>,
    /// (op, times executed).
    pub done: Vec<(u64, u64)>,
}

impl Picture {
    /// Counters as of `ts`; every operation but a failed one leaves its mark there.
    pub fn at(store: &dyn StateSnapshot, ts: u64) -> Result<Self> {
        let (from, to) = (key(COUNTER_TABLE, 0), key(DONE_TABLE, 0));
        let mut rows = Vec::new();
        store.scan_at(&from, &to, false, usize::MAX, ts, &mut rows)?;
        Ok(Self::of(rows))
    }

    pub fn now(store: &dyn StateSnapshot) -> Result<Self> {
        let (from, to) = (key(COUNTER_TABLE, 0), key(DONE_TABLE + 1, 0));
        let mut rows = Vec::new();
        store.scan(&from, &to, false, usize::MAX, &mut rows)?;
        Ok(Self::of(rows))
    }

    fn of(rows: Vec<(Bytes, Versioned)>) -> Self {
        let mut picture = Self {
            counters: vec![0; COUNTERS as usize],
            done: Vec::new(),
        };
        for (key, row) in rows {
            let (table, index) = (number_of_table(&key), number(key.get(6..)));
            let value = number(Some(&row.value));
            match table {
                COUNTER_TABLE => picture.counters[index as usize] = value,
                _ => picture.done.push((index, value)),
            }
        }
        picture
    }
}

fn number_of_table(key: &[u8]) -> u32 {
    key.first_chunk::<4>()
        .map_or(0, |id| u32::from_be_bytes(*id))
}
