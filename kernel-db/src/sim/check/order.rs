//! Freshness: what was known when an operation began is seen by it. For rows that only grow, a number says how much of a
//! row an operation saw, and these numbers must agree with real time.

use std::collections::BTreeMap;

use super::{End, Known, Operation};
use crate::sim::load::{COUNTER, Job, LIST, Step, reads};

/// How much of a row was there within an interval of time; `add` if the operation itself made it that much.
struct Seen {
    value: u64,
    add: bool,
    op: u64,
    begun_us: u64,
    ended_us: u64,
}

pub fn counters(operations: &[Operation]) -> Result<(), String> {
    let mut rows: BTreeMap<u64, Vec<Seen>> = BTreeMap::new();
    let mut begun: BTreeMap<u64, Vec<u64>> = BTreeMap::new();
    for operation in operations {
        if let Job::Count { counter } = operation.job {
            begun.entry(counter).or_default().push(operation.begun_us);
        }
        match (&operation.job, &operation.known) {
            (Job::Count { counter }, Known::Done(told)) => {
                let value = told.first().copied().unwrap_or(0);
                rows.entry(*counter)
                    .or_default()
                    .push(seen(operation, value, true));
            }
            (Job::Snapshot { rows: asked, .. }, Known::Saw(_, picture)) => {
                for row in asked.iter().filter(|(table, _)| *table == COUNTER) {
                    let value = picture.get(row).and_then(|held| held.first().copied());
                    let value = value.unwrap_or(0);
                    rows.entry(row.1)
                        .or_default()
                        .push(seen(operation, value, false));
                }
            }
            _ => {}
        }
    }
    for (counter, seen) in rows {
        let mut begun = begun.remove(&counter).unwrap_or_default();
        begun.sort_unstable();
        for seen in &seen {
            let possible = begun.partition_point(|begun| *begun <= seen.ended_us) as u64;
            if seen.value > possible {
                return Err(format!(
                    "counter {counter}: operation {} saw {} when only {possible} additions had begun",
                    seen.op, seen.value
                ));
            }
        }
        in_time(seen).map_err(|error| format!("counter {counter}: {error}"))?;
    }
    Ok(())
}

fn seen(operation: &Operation, value: u64, add: bool) -> Seen {
    Seen {
        value,
        add,
        op: operation.op,
        begun_us: operation.begun_us,
        ended_us: operation.ended_us,
    }
}

pub fn lists(operations: &[Operation], end: &End) -> Result<(), String> {
    let mut rows: BTreeMap<u64, Vec<Seen>> = BTreeMap::new();
    let place = |list: u64, element: u64| {
        let held = end.rows.get(&(LIST, list)).map_or(&[][..], Vec::as_slice);
        held.iter().position(|held| *held == element)
    };
    for operation in operations {
        match (&operation.job, &operation.known) {
            (Job::Lists(steps) | Job::Spoil(steps), Known::Done(told) | Known::Failed(told)) => {
                let failed = matches!(operation.known, Known::Failed(_));
                for (list, found, own) in external_reads(steps, told) {
                    let length = found.len() - own;
                    let list = rows.entry(list).or_default();
                    list.push(seen(operation, length as u64, false));
                }
                for step in steps.iter().filter(|_| !failed) {
                    if let Step::Append(list, element) = step
                        && let Some(place) = place(*list, *element)
                    {
                        let list = rows.entry(*list).or_default();
                        list.push(seen(operation, place as u64 + 1, true));
                    }
                }
            }
            (Job::Snapshot { rows: asked, .. }, Known::Saw(_, picture)) => {
                for row in asked.iter().filter(|(table, _)| *table == LIST) {
                    let length = picture.get(row).map_or(0, Vec::len) as u64;
                    rows.entry(row.1)
                        .or_default()
                        .push(seen(operation, length, false));
                }
            }
            _ => {}
        }
    }
    rows.into_iter()
        .try_for_each(|(list, seen)| in_time(seen).map_err(|error| format!("list {list}: {error}")))
}

/// (list, what was found there, how many of the last elements are the transaction's own) of each read.
pub fn external_reads(steps: &[Step], told: &[u64]) -> Vec<(u64, Vec<u64>, usize)> {
    let mut found = reads(steps, told).into_iter();
    let mut own: BTreeMap<u64, usize> = BTreeMap::new();
    let mut external = Vec::new();
    for step in steps {
        match step {
            Step::Append(list, _) => *own.entry(*list).or_default() += 1,
            Step::Read(list) => {
                let elements = found.next().unwrap_or_default();
                let own = own.get(list).copied().unwrap_or(0).min(elements.len());
                external.push((*list, elements, own));
            }
        }
    }
    external
}

/// No operation saw less than what was known before it began; additions made something new.
fn in_time(mut by_begin: Vec<Seen>) -> Result<(), String> {
    by_begin.sort_by_key(|seen| seen.begun_us);
    let mut adds: Vec<u64> = by_begin.iter().filter(|s| s.add).map(|s| s.value).collect();
    adds.sort_unstable();
    if let Some(twice) = adds.windows(2).find(|pair| pair[0] == pair[1]) {
        return Err(format!("two additions made it {}", twice[0]));
    }
    let mut by_end: Vec<&Seen> = by_begin.iter().collect();
    by_end.sort_by_key(|seen| seen.ended_us);
    let mut ended = by_end.into_iter().peekable();
    let (mut newest, mut by) = (0, 0);
    for seen in &by_begin {
        while let Some(before) = ended.next_if(|before| before.ended_us < seen.begun_us) {
            if before.value > newest {
                (newest, by) = (before.value, before.op);
            }
        }
        if seen.value < newest || (seen.add && seen.value == newest) {
            return Err(format!(
                "operation {} saw {} in {}..{} us, but {newest} was known before, by operation {by}",
                seen.op, seen.value, seen.begun_us, seen.ended_us
            ));
        }
    }
    Ok(())
}
