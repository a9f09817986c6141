//! The verdict over a finished run.

use std::collections::BTreeMap;

use super::work::{COUNTERS, Picture, TOTAL, Work};

/// What a client came to know of one operation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Known {
    /// Acknowledged, with the counter's value for `Add` and `Read`.
    Done(u64),
    /// Refused, with the counter's value for `Fail`.
    Failed(u64),
    /// A snapshot: its timestamp and what was in it.
    Saw(u64, Box<Picture>),
    /// Nothing.
    Unknown,
}

/// One operation of one client. Times are the simulator's.
#[derive(Clone, Debug)]
pub struct Operation {
    pub work: Work,
    pub begun_us: u64,
    pub ended_us: u64,
    pub known: Known,
}

/// Checks the history against the state that all replicas ended with.
pub fn history(operations: &[Operation], end: &Picture) -> Result<(), String> {
    let mut times: BTreeMap<u64, u64> = end.done.iter().copied().collect();
    let mut added = vec![0; COUNTERS as usize];
    for operation in operations {
        let Some(op) = operation.work.op() else {
            continue;
        };
        let executed = times.remove(&op).unwrap_or(0);
        let right = match (&operation.known, operation.work) {
            (_, Work::Fail { .. }) | (Known::Failed(_), _) => executed == 0,
            (Known::Done(_), _) => executed == 1,
            _ => executed <= 1,
        };
        if !right {
            return Err(format!("executed {executed} times: {operation:?}"));
        }
        if let Work::Add { counter, .. } = operation.work {
            added[counter as usize] += executed;
        }
    }
    if let Some((op, _)) = times.first_key_value() {
        return Err(format!("operation {op} was never sent"));
    }
    if end.counters != added {
        return Err(format!(
            "counters {:?}, but {added:?} were added",
            end.counters
        ));
    }
    total(end)?;
    (0..COUNTERS).try_for_each(|counter| linearizable(operations, counter))
}

fn total(picture: &Picture) -> Result<(), String> {
    if picture.total() == TOTAL {
        return Ok(());
    }
    Err(format!(
        "the accounts do not add up: {:?}",
        picture.accounts
    ))
}

/// An observation of a counter: its value within an interval of time; `add` if it made the value.
struct Seen {
    value: u64,
    add: bool,
    begun_us: u64,
    ended_us: u64,
}

fn seen(operation: &Operation, of: u64) -> Option<Seen> {
    let (value, add) = match (&operation.known, operation.work) {
        (Known::Done(value), Work::Add { counter, .. }) if counter == of => (*value, true),
        (Known::Done(value), Work::Read { counter }) if counter == of => (*value, false),
        (Known::Failed(value), Work::Fail { counter, .. }) if counter == of => (*value, false),
        (Known::Saw(_, picture), _) => (picture.counters[of as usize], false),
        _ => return None,
    };
    Some(Seen {
        value,
        add,
        begun_us: operation.begun_us,
        ended_us: operation.ended_us,
    })
}

/// The values that additions returned give the order; it must agree with real time.
fn linearizable(operations: &[Operation], counter: u64) -> Result<(), String> {
    let mut by_begin: Vec<Seen> = operations.iter().filter_map(|o| seen(o, counter)).collect();
    let mut begun: Vec<u64> = operations
        .iter()
        .filter(|o| matches!(o.work, Work::Add { counter: of, .. } if of == counter))
        .map(|o| o.begun_us)
        .collect();
    begun.sort_unstable();
    by_begin.sort_by_key(|seen| seen.begun_us);
    let mut by_end: Vec<&Seen> = by_begin.iter().collect();
    by_end.sort_by_key(|seen| seen.ended_us);
    let mut adds: Vec<u64> = by_begin.iter().filter(|s| s.add).map(|s| s.value).collect();
    adds.sort_unstable();
    if adds.windows(2).any(|pair| pair[0] == pair[1]) {
        return Err(format!(
            "counter {counter}: two additions returned the same value"
        ));
    }
    let mut ended = by_end.into_iter().peekable();
    let mut newest = 0;
    for seen in &by_begin {
        while let Some(before) = ended.next_if(|before| before.ended_us < seen.begun_us) {
            newest = newest.max(before.value);
        }
        if seen.value < newest || (seen.add && seen.value == newest) {
            return Err(format!(
                "counter {counter}: value {} seen in {}..{} after {newest} was known",
                seen.value, seen.begun_us, seen.ended_us
            ));
        }
        let possible = begun.partition_point(|begun| *begun <= seen.ended_us) as u64;
        if seen.value > possible {
            return Err(format!(
                "counter {counter}: value {} seen when only {possible} additions had begun",
                seen.value
            ));
        }
    }
    Ok(())
}

/// Snapshots must add up, and read the same for ever, on every replica.
pub fn snapshots(
    operations: &[Operation],
    mut read: impl FnMut(u64) -> Result<Picture, String>,
) -> Result<usize, String> {
    let mut count = 0;
    for operation in operations {
        let Known::Saw(ts, picture) = &operation.known else {
            continue;
        };
        total(picture)?;
        let now = read(*ts)?;
        if now != **picture {
            return Err(format!(
                "a snapshot at {ts} changed: {picture:?} became {now:?}"
            ));
        }
        count += 1;
    }
    Ok(count)
}
