//! The verdict over a finished run: from what the clients were told and what the replicas hold at the end.
//!
//! * here: at most once, totals, unchanging snapshots. * [`linear`]: single keys. * [`order`]: freshness of counters and
//!   lists. * [`mail`]: messages. [`back`]: rollbacks. * [`cycles`]: serializability of transactions over lists.

mod back;
mod cycles;
mod linear;
mod mail;
mod order;

use std::collections::BTreeMap;

use super::load::{ACCOUNT, COUNTER, Job, LIST, Picture, REGISTER, Step, TOTAL, Versions};

/// What a client came to know of one operation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Known {
    /// Acknowledged, with the reply.
    Done(Vec<u64>),
    /// Refused by the transaction itself, with what it had seen.
    Failed(Vec<u64>),
    /// A snapshot: its timestamp, and what the rows asked for held.
    Saw(u64, Picture),
    /// Nothing.
    Unknown,
}

/// One operation of one client. Times are the simulator's, in microseconds; `ended_us` is the maximum if it never ended.
#[derive(Clone, Debug)]
pub struct Operation {
    pub op: u64,
    pub lane: usize,
    pub job: Job,
    pub begun_us: u64,
    pub ended_us: u64,
    pub known: Known,
}

/// What the replicas ended with.
#[derive(Debug, Default)]
pub struct End {
    pub rows: Picture,
    /// How often each operation was executed.
    pub done: BTreeMap<u64, u64>,
    /// Of rows that are brought back to earlier times.
    pub versions: Versions,
}

/// Checks the whole history.
pub fn history(operations: &[Operation], end: &End) -> Result<(), String> {
    at_most_once(operations, end)?;
    sums(operations, end)?;
    totals(operations, end)?;
    linear::registers(operations, end)?;
    mail::boxes(operations, end)?;
    back::rollbacks(operations, &end.versions)?;
    order::counters(operations)?;
    order::lists(operations, end)?;
    cycles::serializable(operations, end)
}

/// I11: what was acknowledged happened once, what was refused never, anything else at most once; nothing that was not sent.
fn at_most_once(operations: &[Operation], end: &End) -> Result<(), String> {
    let mut done = end.done.clone();
    for operation in operations {
        let executed = done.remove(&operation.op).unwrap_or(0);
        let right = match (&operation.known, &operation.job) {
            (Known::Failed(_), _) | (_, Job::Spoil(_)) => executed == 0,
            (Known::Done(_), job) if job.writes() => executed == 1,
            (_, job) if job.writes() => executed <= 1,
            _ => executed == 0,
        };
        if !right {
            return Err(format!("executed {executed} times: {operation:?}"));
        }
    }
    match done.first_key_value() {
        Some((op, _)) => Err(format!("operation {op} was never sent")),
        None => Ok(()),
    }
}

/// Counters, accounts and lists hold exactly what the executed operations put there.
fn sums(operations: &[Operation], end: &End) -> Result<(), String> {
    let mut expected: BTreeMap<(u32, u64), u64> = BTreeMap::new();
    let mut elements: BTreeMap<u64, u64> = BTreeMap::new();
    for operation in operations.iter().filter(|o| end.done.contains_key(&o.op)) {
        let mut add = |table, row, amount: u64| {
            let held = expected.entry((table, row)).or_default();
            *held = held.wrapping_add(amount);
        };
        match &operation.job {
            Job::Count { counter } => add(COUNTER, *counter, 1),
            Job::Transfer { from, to, amount } => {
                add(ACCOUNT, *from, amount.wrapping_neg());
                add(ACCOUNT, *to, *amount);
            }
            Job::Lists(steps) => elements.extend(steps.iter().filter_map(|step| match step {
                Step::Append(list, element) => Some((*element, *list)),
                Step::Read(_) => None,
            })),
            _ => {}
        }
    }
    for ((table, row), held) in &end.rows {
        match *table {
            COUNTER | ACCOUNT => {
                let right = expected.remove(&(*table, *row)).unwrap_or(0);
                if held != &[right] {
                    return Err(format!(
                        "row {row} of table {table} holds {held:?}, not {right}"
                    ));
                }
            }
            LIST => {
                for element in held {
                    if elements.remove(element) != Some(*row) {
                        return Err(format!(
                            "list {row} holds {element}, which nobody put there, or twice"
                        ));
                    }
                }
            }
            _ => {}
        }
    }
    if let Some((row, held)) = expected.into_iter().find(|(_, held)| *held != 0) {
        return Err(format!("{row:?} is empty, not {held}"));
    }
    match elements.first_key_value() {
        Some((element, list)) => Err(format!("list {list} has lost {element}")),
        None => Ok(()),
    }
}

/// Money neither comes nor goes.
fn totals(operations: &[Operation], end: &End) -> Result<(), String> {
    let sum = |balances: &[u64]| balances.iter().fold(0_u64, |sum, b| sum.wrapping_add(*b));
    for operation in operations {
        let balances: Vec<u64> = match (&operation.job, &operation.known) {
            (Job::Audit(_), Known::Done(balances)) => balances.clone(),
            (_, Known::Saw(_, picture)) => accounts(picture),
            _ => continue,
        };
        if sum(&balances) != TOTAL {
            return Err(format!("the accounts do not add up: {operation:?}"));
        }
    }
    let balances = accounts(&end.rows);
    if sum(&balances) != TOTAL {
        return Err(format!("the accounts do not add up: {balances:?}"));
    }
    Ok(())
}

fn accounts(picture: &Picture) -> Vec<u64> {
    let of_table = picture.iter().filter(|((table, _), _)| *table == ACCOUNT);
    of_table
        .flat_map(|(_, held)| held.iter().copied())
        .collect()
}

/// Snapshots read the same for ever, on every replica.
pub fn snapshots(
    operations: &[Operation],
    mut read: impl FnMut(u64, &[(u32, u64)]) -> Result<Picture, String>,
) -> Result<u64, String> {
    let mut count = 0;
    for operation in operations {
        let (Job::Snapshot { rows, .. }, Known::Saw(ts, then)) = (&operation.job, &operation.known)
        else {
            continue;
        };
        let now = read(*ts, rows)?;
        if now != *then {
            return Err(format!(
                "the snapshot of operation {} at {ts} was {then:?} and became {now:?}",
                operation.op
            ));
        }
        count += 1;
    }
    Ok(count)
}

/// The value of a register in a snapshot.
fn register_in(picture: &Picture, register: u64) -> u64 {
    let held = picture.get(&(REGISTER, register));
    held.and_then(|held| held.first().copied()).unwrap_or(0)
}

#[cfg(test)]
mod tests;
