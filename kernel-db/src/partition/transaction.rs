//! What a transaction sees of its partition, and what the partition sees of a transaction.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;

use crate::error::{Error, Result};
use crate::txn::messages::{LockMode, WaitPolicy};

/// Number of slots that partition keys are spread over; partitions own slots.
pub const SLOTS: u16 = 1024;

/// A partition key's slot: integers take `value mod 1024`, other types are hashed.
pub type Slot = u16;

/// A range read.
#[derive(Clone, Copy, Debug)]
pub struct Scan<'a> {
    /// Inclusive.
    pub from: &'a [u8],
    /// Exclusive.
    pub to: &'a [u8],
    pub reverse: bool,
    /// At most this many rows are appended; fewer mean that the range is exhausted.
    pub limit: usize,
    /// The slot all rows of the range belong to, if known; a view over many partitions asks only its owner.
    pub slot: Option<Slot>,
}

/// A row lock that a statement asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RowLock {
    pub mode: LockMode,
    pub wait: WaitPolicy,
}

/// Rows by key, as one transaction sees them: its own writes included. A view that cannot write answers 25006.
pub trait Store {
    fn get(&mut self, key: &[u8], slot: Option<Slot>) -> Result<Option<Bytes>>;
    fn scan(&mut self, scan: Scan<'_>, out: &mut Vec<(Bytes, Bytes)>) -> Result<()>;
    fn put(&mut self, _key: Bytes, _value: Bytes) -> Result<()> {
        Err(read_only())
    }
    /// As `put`, of a key that the caller knows to be absent: nobody need look for an old version.
    fn put_new(&mut self, key: Bytes, value: Bytes) -> Result<()> {
        self.put(key, value)
    }
    fn delete(&mut self, _key: &[u8]) -> Result<()> {
        Err(read_only())
    }
    /// As `put`, where the slot says which partition the row belongs to. A view of one partition need not know.
    fn put_at(&mut self, key: Bytes, value: Bytes, _slot: Option<Slot>) -> Result<()> {
        self.put(key, value)
    }
    fn put_new_at(&mut self, key: Bytes, value: Bytes, _slot: Option<Slot>) -> Result<()> {
        self.put_new(key, value)
    }
    fn delete_at(&mut self, key: &[u8], _slot: Option<Slot>) -> Result<()> {
        self.delete(key)
    }
    /// As `get`, for a key that is about to be written: its newest row, which stays the newest until this transaction ends.
    fn get_to_write(&mut self, key: &[u8], slot: Option<Slot>) -> Result<Option<Bytes>> {
        self.get(key, slot)
    }
    /// Says that these keys are about to be asked for by `get_to_write`, so that they can come together.
    fn expect(&mut self, _keys: &[(Bytes, Option<Slot>)]) -> Result<()> {
        Ok(())
    }
    /// As `scan`, for a range that is about to be written into.
    fn scan_to_write(&mut self, scan: Scan<'_>, out: &mut Vec<(Bytes, Bytes)>) -> Result<()> {
        self.scan(scan, out)
    }
    /// True if other transactions run beside this one, so that rows must be locked before they are changed.
    fn takes_locks(&self) -> bool {
        false
    }
    /// False if no row is locked by anybody else now: FOR UPDATE has nothing to ask.
    fn may_be_locked(&self) -> bool {
        self.takes_locks()
    }
    /// Locks rows that a statement found, before it shows or changes them; false for those that it has to leave out
    /// (SKIP LOCKED).
    fn lock_rows(&mut self, rows: &[(Bytes, Option<Slot>)], lock: RowLock) -> Result<Vec<bool>> {
        let one = |(key, slot): &(Bytes, Option<Slot>)| self.lock(key, *slot, lock.mode, lock.wait);
        rows.iter().map(one).collect()
    }
    /// Says that what is read from now on will be locked so, until it says None.
    fn will_lock(&mut self, _lock: Option<RowLock>) {}
    /// Drops current rows of a range without history: for dropped tables and indexes.
    fn delete_range(&mut self, _from: &[u8], _to: &[u8]) -> Result<()> {
        Err(read_only())
    }
    /// Locks a row until the end of the transaction, as FOR UPDATE and its kin ask. False: it was left out, because another
    /// transaction holds it (`SkipLocked`). The row may be another one than was read before: read it again after the lock.
    /// Transactions run one after another in a partition need no lock of their own; they see those of others.
    fn lock(
        &mut self,
        _key: &[u8],
        _slot: Option<Slot>,
        _mode: LockMode,
        _wait: WaitPolicy,
    ) -> Result<bool> {
        Ok(true)
    }
    /// A mark in the transaction's writes, to return to with `rollback_to`.
    fn savepoint(&mut self) -> usize {
        0
    }
    fn rollback_to(&mut self, _savepoint: usize) {}
}

fn read_only() -> Error {
    Error::new("25006", "cannot write in a read-only transaction")
}

/// SQLSTATE of "this takes too long for the core" (class Retry): the gateway runs it beside the core instead.
pub const TOO_LONG: &str = "DB003";

/// SQLSTATE of "this transaction waits for a change of what it has read" (class Retry): the partition parks it.
pub const WAITS: &str = "DB005";

/// Steps between two looks at the cancel flag.
const CANCEL_STEPS: u64 = 4096;

/// Counted steps of a transaction, so that a body that takes long cannot depose the leader: every row visited or written
/// and every procedure statement is a step.
#[derive(Clone, Debug)]
pub struct Budget {
    left: u64,
    limit: u64,
    /// Beside the core: as many steps as it takes, until this is set.
    cancel: Option<Arc<AtomicBool>>,
    /// Bytes of one statement's result, or of what a function returns.
    result_bytes_max: u64,
}

/// Unless it is configured.
const RESULT_BYTES_MAX: u64 = 256 << 20;

impl Budget {
    pub fn new(limit: u64) -> Self {
        Self {
            left: limit,
            limit,
            cancel: None,
            result_bytes_max: RESULT_BYTES_MAX,
        }
    }

    /// No bound but a cancel.
    pub fn until(cancel: Arc<AtomicBool>) -> Self {
        Self {
            left: 0,
            limit: u64::MAX,
            cancel: Some(cancel),
            result_bytes_max: RESULT_BYTES_MAX,
        }
    }

    /// With another bound of results.
    pub fn with_results(self, result_bytes_max: u64) -> Self {
        Self {
            result_bytes_max,
            ..self
        }
    }

    /// Bytes that a result, or what a part of a query keeps in memory, may have.
    pub fn result_bytes_max(&self) -> u64 {
        self.result_bytes_max
    }

    /// 54000 if a result has more than `bytes` in all.
    #[inline]
    pub fn check_result(&self, bytes: u64) -> Result<()> {
        if bytes <= self.result_bytes_max {
            return Ok(());
        }
        let bytes = self.result_bytes_max;
        Err(
            Error::new("54000", format!("a result of more than {bytes} bytes")).hint(
                "narrow the WHERE clause, or raise result_bytes_max in the node's configuration",
            ),
        )
    }

    /// Uses `n` steps; `TOO_LONG` when none are left, 57014 when cancelled.
    #[inline]
    pub fn step(&mut self, n: u64) -> Result<()> {
        if self.left < n {
            return self.refill(n);
        }
        self.left -= n;
        Ok(())
    }

    #[cold]
    fn refill(&mut self, n: u64) -> Result<()> {
        match &self.cancel {
            Some(cancel) if cancel.load(Ordering::Relaxed) => Err(Error::new(
                "57014",
                "canceling statement due to user request or timeout",
            )),
            Some(_) => {
                self.left = CANCEL_STEPS.saturating_sub(n);
                Ok(())
            }
            None => Err(Error::retry(
                TOO_LONG,
                format!("more than {} steps on the partition's core", self.limit),
            )
            .hint("split the work into smaller transactions, or raise run_limit_steps in the node's configuration")),
        }
    }
}

/// What a transaction may know of its surroundings; with it and the store it must be deterministic.
#[derive(Clone, Debug)]
pub struct TxnEnv {
    /// now() in microseconds since the epoch.
    pub wall_us: i64,
    /// Seed of random() and gen_random_uuid() in this transaction.
    pub seed: u64,
    /// This partition's number from 0 and how many there are (for sequences).
    pub partition: u32,
    pub partitions: u32,
    pub budget: Budget,
    /// None where nobody can wait: beside the cores, and in blocks.
    pub wait: Option<Wait>,
    /// None where nothing can be leased, as with `wait`.
    pub lease: Option<Lease>,
}

/// Read leases (see `leases.rs`): a transaction asks, is undone, and runs again with the answer.
#[derive(Clone, Copy, Debug, Default)]
pub struct Lease {
    pub asked: Option<LeaseAsk>,
    /// Number of the lease.
    pub answer: Option<i64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LeaseAsk {
    /// `holder` wants to keep what the transaction has read for `length_us`.
    Reads { holder: i64, length_us: u64 },
    /// `holder` gives a lease back, and asks for one that is wanted back, until it has waited for `until_us`.
    Recalls {
        holder: i64,
        returned: i64,
        until_us: u64,
    },
}

/// Waiting for a change of what a transaction has read: it is undone, parked outside of the executor, and run again from
/// the start when one of these rows, or a row that it found absent, is written.
#[derive(Clone, Debug, Default)]
pub struct Wait {
    /// How long the request has waited so far, in microseconds.
    pub waited_us: u64,
    /// Set by a transaction that wants to wait until it has waited so long.
    pub until_us: Option<u64>,
}

impl Wait {
    /// Waits until `until_us` microseconds are over: an error that ends the run, whatever the transaction makes of it. False
    /// once they are.
    pub fn until(&mut self, until_us: u64) -> Result<bool> {
        if self.waited_us >= until_us {
            return Ok(false);
        }
        self.until_us = Some(until_us);
        Err(Error::retry(
            WAITS,
            "the transaction waits for a change of what it has read",
        ))
    }
}

/// A unit of work that runs whole or not at all on one partition. On `Err` the partition undoes every write.
pub trait Transaction: Send + Sync {
    /// Runs to the end and returns the encoded reply, which is kept for its session and sent once the writes are committed.
    fn run(&self, store: &mut dyn Store, env: &mut TxnEnv) -> Result<Bytes>;
    /// True if `run` never writes.
    fn read_only(&self) -> bool {
        false
    }
    /// True if it probably waits for a change: what it reads is noted in its first run already, which saves one.
    fn may_wait(&self) -> bool {
        false
    }
    /// Short text for dbos.statements and traces.
    fn label(&self) -> &str {
        ""
    }
}
