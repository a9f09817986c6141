//! What simulated clients ask of the database: registers, counters, lists that grow, and money that moves.
//!
//! A row is a list of numbers; its group follows from its number. Every writing transaction counts itself in a row of its
//! own, so that a second execution shows.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use super::clients::lease_told;
use crate::error::{Error, Result};
use crate::partition::{LeaseAsk, Store, Transaction, TxnEnv};
use crate::storage::StateSnapshot;

pub const REGISTER: u32 = 110;
pub const LIST: u32 = 111;
pub const COUNTER: u32 = 112;
pub const ACCOUNT: u32 = 113;
pub const DONE: u32 = 114;
/// Boxes of messages: what was sent and is not received yet, in order.
pub const MAIL: u32 = 115;

/// Rows that are brought back to earlier times: the value last written.
pub const BACK: u32 = 120;
/// Of them in one group.
pub const BACKS: u64 = 3;

/// Boxes, counters and accounts of one group.
pub const BOXES: u64 = 2;
pub const COUNTERS: u64 = 2;
pub const ACCOUNTS: u64 = 4;
/// What all accounts hold together; single ones wrap.
pub const TOTAL: u64 = 0;
/// Numbers that fill the row by which a transaction counts itself, so that the log grows.
const FILLER: usize = 24;

/// A table and the number of a row.
pub type Row = (u32, u64);
/// Rows that hold something.
pub type Picture = BTreeMap<Row, Vec<u64>>;

/// The groups' numbers begin at 1; rows are dealt out in turn.
pub fn group_of(row: u64, groups: u32) -> u32 {
    1 + (row % u64::from(groups)) as u32
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    Read(u64),
    /// Adds the second, which is unique in a run, to the list.
    Append(u64, u64),
}

/// One piece of a client's work.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Job {
    Put {
        register: u64,
        value: u64,
    },
    /// Sets the register to `to` if it holds `from`; replies with 1 if it did.
    Swap {
        register: u64,
        from: u64,
        to: u64,
    },
    /// Replies with the value; 0 if it was never set.
    Get {
        register: u64,
    },
    /// Adds one; replies with the new value.
    Count {
        counter: u64,
    },
    /// Replies, for every list read, with its length and elements.
    Lists(Vec<Step>),
    /// As `Lists`, and fails at the end.
    Spoil(Vec<Step>),
    Transfer {
        from: u64,
        to: u64,
        amount: u64,
    },
    /// Puts a message, which is unique in a run, into a box.
    Send {
        to: u64,
        message: u64,
    },
    /// Takes the first message out of a box; while that is empty it waits for a change, so long at most. Replies with the
    /// message, or with nothing.
    Receive {
        from: u64,
        for_us: u64,
    },
    /// Writes the value, which is unique in a run, into all of these rows.
    Mark {
        rows: Vec<u64>,
        value: u64,
    },
    /// Brings the rows of `BACK` back to what they were at that time; replies with the timestamp at which that happened. As
    /// large as the table, so it is no transaction of rows.
    Rollback {
        to_ts: u64,
    },
    /// Replies with the balances of these accounts.
    Audit(Vec<u64>),
    /// These rows of all groups as of one time; asked of the groups' leaders, no transaction.
    Snapshot {
        ahead_us: u64,
        rows: Vec<Row>,
    },
}

/// A job of one group as a transaction. `op` is unique in a run.
#[derive(Clone, Debug)]
pub struct Serial {
    pub op: u64,
    pub job: Job,
    /// Set: the client wants to keep what is read; the lease's number comes behind the reply, 0 if there is none.
    pub lease: Option<LeaseAsk>,
}

impl Serial {
    pub fn rows(&self) -> Vec<(Row, bool)> {
        self.job.rows()
    }
}

pub fn key((table, row): Row) -> Bytes {
    let mut key = table.to_be_bytes().to_vec();
    key.extend([0, 0]);
    key.extend(row.to_be_bytes());
    key.into()
}

pub fn encode(numbers: &[u64]) -> Bytes {
    numbers.iter().flat_map(|n| n.to_be_bytes()).collect()
}

pub fn decode(bytes: &[u8]) -> Vec<u64> {
    let chunks = bytes.chunks_exact(8);
    chunks
        .filter_map(|chunk| chunk.first_chunk::<8>())
        .map(|chunk| u64::from_be_bytes(*chunk))
        .collect()
}

fn load(store: &mut dyn Store, row: Row) -> Result<Vec<u64>> {
    let value = store.get(&key(row), None)?;
    Ok(value.map_or_else(Vec::new, |value| decode(&value)))
}

fn load_one(store: &mut dyn Store, row: Row) -> Result<u64> {
    Ok(load(store, row)?.first().copied().unwrap_or(0))
}

fn save(store: &mut dyn Store, row: Row, numbers: &[u64]) -> Result<()> {
    store.put(key(row), encode(numbers))
}

impl Job {
    pub fn writes(&self) -> bool {
        match self {
            Job::Put { .. } | Job::Swap { .. } | Job::Count { .. } => true,
            Job::Spoil(_) | Job::Transfer { .. } => true,
            Job::Send { .. } | Job::Receive { .. } | Job::Mark { .. } => true,
            Job::Lists(steps) => steps.iter().any(|s| matches!(s, Step::Append(..))),
            Job::Get { .. } | Job::Audit(_) => false,
            Job::Snapshot { .. } | Job::Rollback { .. } => false,
        }
    }

    /// The group whose rows it touches; 0 if it touches those of several.
    pub fn group(&self, groups: u32) -> u32 {
        let mut of = self
            .rows()
            .into_iter()
            .map(|(row, _)| group_of(row.1, groups));
        let first = of.next().unwrap_or(0);
        if of.all(|group| group == first) {
            first
        } else {
            0
        }
    }

    /// Rows that it reads, and whether it writes them.
    pub fn rows(&self) -> Vec<(Row, bool)> {
        match self {
            Job::Put { register, .. } | Job::Swap { register, .. } => {
                vec![((REGISTER, *register), true)]
            }
            Job::Get { register } => vec![((REGISTER, *register), false)],
            Job::Count { counter } => vec![((COUNTER, *counter), true)],
            Job::Lists(steps) | Job::Spoil(steps) => {
                let mut rows: BTreeMap<Row, bool> = BTreeMap::new();
                for step in steps {
                    let (list, writes) = match step {
                        Step::Read(list) => (list, false),
                        Step::Append(list, _) => (list, true),
                    };
                    *rows.entry((LIST, *list)).or_default() |= writes;
                }
                rows.into_iter().collect()
            }
            Job::Transfer { from, to, .. } => {
                let rows = BTreeMap::from([((ACCOUNT, *from), true), ((ACCOUNT, *to), true)]);
                rows.into_iter().collect()
            }
            Job::Send { to, .. } => vec![((MAIL, *to), true)],
            Job::Receive { from, .. } => vec![((MAIL, *from), true)],
            Job::Mark { rows, .. } => rows.iter().map(|row| ((BACK, *row), true)).collect(),
            Job::Rollback { .. } => Vec::new(),
            Job::Audit(accounts) => accounts.iter().map(|a| ((ACCOUNT, *a), false)).collect(),
            Job::Snapshot { rows, .. } => rows.iter().map(|row| (*row, false)).collect(),
        }
    }

    fn run(&self, store: &mut dyn Store, env: &mut TxnEnv) -> Result<Vec<u64>> {
        match self {
            Job::Send { to, message } => {
                let mut messages = load(store, (MAIL, *to))?;
                messages.push(*message);
                save(store, (MAIL, *to), &messages)?;
                Ok(Vec::new())
            }
            Job::Receive { from, for_us } => receive(*from, *for_us, store, env),
            Job::Put { register, value } => {
                save(store, (REGISTER, *register), &[*value])?;
                Ok(Vec::new())
            }
            Job::Swap { register, from, to } => {
                let row = (REGISTER, *register);
                let holds = load_one(store, row)? == *from;
                if holds {
                    save(store, row, &[*to])?;
                }
                Ok(vec![u64::from(holds)])
            }
            Job::Get { register } => Ok(vec![load_one(store, (REGISTER, *register))?]),
            Job::Count { counter } => {
                let value = load_one(store, (COUNTER, *counter))? + 1;
                save(store, (COUNTER, *counter), &[value])?;
                Ok(vec![value])
            }
            Job::Lists(steps) => run_steps(steps, store),
            Job::Spoil(steps) => {
                let told = run_steps(steps, store)?;
                let told: Vec<String> = told.iter().map(u64::to_string).collect();
                Err(Error::new("P0001", told.join(" ")))
            }
            Job::Transfer { from, to, amount } => {
                let left = load_one(store, (ACCOUNT, *from))?.wrapping_sub(*amount);
                save(store, (ACCOUNT, *from), &[left])?;
                let right = load_one(store, (ACCOUNT, *to))?.wrapping_add(*amount);
                save(store, (ACCOUNT, *to), &[right])?;
                Ok(Vec::new())
            }
            Job::Audit(accounts) => accounts
                .iter()
                .map(|account| load_one(store, (ACCOUNT, *account)))
                .collect(),
            Job::Mark { rows, value } => {
                for row in rows {
                    save(store, (BACK, *row), &[*value])?;
                }
                Ok(Vec::new())
            }
            Job::Snapshot { .. } | Job::Rollback { .. } => {
                Err(Error::internal("no transaction of rows"))
            }
        }
    }
}

fn receive(from: u64, for_us: u64, store: &mut dyn Store, env: &mut TxnEnv) -> Result<Vec<u64>> {
    let mut messages = load(store, (MAIL, from))?;
    if messages.is_empty() {
        if let Some(wait) = &mut env.wait {
            wait.until(for_us)?;
        }
        return Ok(Vec::new());
    }
    let first = messages.remove(0);
    save(store, (MAIL, from), &messages)?;
    Ok(vec![first])
}

fn run_steps(steps: &[Step], store: &mut dyn Store) -> Result<Vec<u64>> {
    let mut told = Vec::new();
    for step in steps {
        match step {
            Step::Read(list) => {
                let elements = load(store, (LIST, *list))?;
                told.push(elements.len() as u64);
                told.extend(elements);
            }
            Step::Append(list, element) => {
                let mut elements = load(store, (LIST, *list))?;
                elements.push(*element);
                save(store, (LIST, *list), &elements)?;
            }
        }
    }
    Ok(told)
}

/// What each `Read` of `steps` found, from the reply to them.
pub fn reads(steps: &[Step], told: &[u64]) -> Vec<Vec<u64>> {
    let mut rest = told;
    let mut found = Vec::new();
    for _ in steps.iter().filter(|s| matches!(s, Step::Read(_))) {
        let Some((length, after)) = rest.split_first() else {
            break;
        };
        let (elements, after) = after.split_at((*length as usize).min(after.len()));
        found.push(elements.to_vec());
        rest = after;
    }
    found
}

impl Transaction for Serial {
    fn run(&self, store: &mut dyn Store, env: &mut TxnEnv) -> Result<Bytes> {
        env.budget.step(1)?;
        if self.job.writes() {
            let done = load_one(store, (DONE, self.op))?;
            let mut row = vec![done + 1];
            row.resize(FILLER, self.op);
            save(store, (DONE, self.op), &row)?;
        }
        let mut told = self.job.run(store, env)?;
        if let Some(ask) = self.lease {
            told.push(lease_told(&mut env.lease, ask));
        }
        Ok(encode(&told))
    }

    fn read_only(&self) -> bool {
        !self.job.writes()
    }
}

/// These rows as of `ts`; what holds nothing is left out.
pub fn rows_at(store: &dyn StateSnapshot, rows: &[Row], ts: u64) -> Result<Picture> {
    let mut picture = Picture::new();
    for row in rows {
        if let Some(version) = store.get_at(&key(*row), ts)? {
            picture.insert(*row, decode(&version.value));
        }
    }
    Ok(picture)
}

/// All versions of a row, the oldest first: when it began, and the value, or none from when it was gone.
pub type Versions = BTreeMap<Row, Vec<(u64, Option<u64>)>>;

/// The versions of all rows of `BACK`.
pub fn all_versions(store: &dyn StateSnapshot) -> Result<Versions> {
    let (from, to) = (key((BACK, 0)), key((BACK + 1, 0)));
    let mut times: BTreeMap<Row, BTreeSet<u64>> = BTreeMap::new();
    let mut note = |key: &[u8], ts: u64| {
        let row = decode(key.get(6..).unwrap_or(&[])).first().copied();
        times
            .entry((BACK, row.unwrap_or(0)))
            .or_default()
            .insert(ts);
    };
    let mut ended = Vec::new();
    store.ended_after(0, None, usize::MAX, &mut ended)?;
    for version in ended.iter().filter(|v| v.key >= from && v.key < to) {
        note(&version.key, version.row.ts);
        note(&version.key, version.end);
    }
    let mut rows = Vec::new();
    store.scan(&from, &to, false, usize::MAX, &mut rows)?;
    rows.iter().for_each(|(key, version)| note(key, version.ts));
    let mut versions = Versions::new();
    for (row, times) in times {
        for ts in times {
            let value = store.get_at(&key(row), ts)?;
            let value = value.and_then(|v| decode(&v.value).first().copied());
            versions.entry(row).or_default().push((ts, value));
        }
    }
    Ok(versions)
}

/// Everything in a store, and how often each transaction was executed.
pub fn all_rows(store: &dyn StateSnapshot) -> Result<(Picture, BTreeMap<u64, u64>)> {
    let mut rows = Vec::new();
    let (from, to) = (key((REGISTER, 0)), key((MAIL + 1, 0)));
    store.scan(&from, &to, false, usize::MAX, &mut rows)?;
    let (mut picture, mut done) = (Picture::new(), BTreeMap::new());
    for (key, version) in rows {
        let table = key
            .first_chunk::<4>()
            .map_or(0, |id| u32::from_be_bytes(*id));
        let row = decode(key.get(6..).unwrap_or(&[])).first().copied();
        let (row, numbers) = (row.unwrap_or(0), decode(&version.value));
        if table == DONE {
            done.insert(row, numbers.first().copied().unwrap_or(0));
        } else {
            picture.insert((table, row), numbers);
        }
    }
    Ok((picture, done))
}
