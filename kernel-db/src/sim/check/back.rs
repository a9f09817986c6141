//! Going back in time: each rollback happened at one moment, at which every row became what it was then; everything else in the
//! rows' versions was written by a client, once, in all its rows at the same moment.

use std::collections::{BTreeMap, BTreeSet};

use super::{Known, Operation};
use crate::sim::load::{BACK, Job, Row, Versions};

/// A value in a row.
type Held = (Row, u64);

pub fn rollbacks(operations: &[Operation], versions: &Versions) -> Result<(), String> {
    let marked = marks(operations, versions)?;
    // What no client wrote was brought back.
    let mut moments: BTreeSet<u64> = BTreeSet::new();
    for (row, of_row) in versions {
        for (ts, value) in of_row {
            if value.is_none_or(|value| marked.get(&(*row, value)) != Some(ts)) {
                moments.insert(*ts);
            }
        }
    }
    let (mut told, mut untold) = (BTreeMap::new(), Vec::new());
    for operation in operations {
        match (&operation.job, &operation.known) {
            (Job::Rollback { to_ts }, Known::Done(at)) => {
                let at = at.first().copied().unwrap_or(0);
                moments.insert(at);
                told.insert(at, *to_ts);
            }
            (Job::Rollback { to_ts }, _) => untold.push(*to_ts),
            _ => {}
        }
    }
    for at in moments {
        match told.get(&at) {
            Some(to) => same(versions, at, *to)?,
            None if untold.iter().any(|to| same(versions, at, *to).is_ok()) => {}
            None => return Err(format!("rows changed at {at}, and nobody changed them")),
        }
    }
    Ok(())
}

/// When each value came into each row. It came into all rows of its operation at once, and not at all if that was not executed.
fn marks(operations: &[Operation], versions: &Versions) -> Result<BTreeMap<Held, u64>, String> {
    let mut first: BTreeMap<Held, u64> = BTreeMap::new();
    for (row, of_row) in versions {
        for (ts, value) in of_row {
            if let Some(value) = value {
                first.entry((*row, *value)).or_insert(*ts);
            }
        }
    }
    let mut written: BTreeSet<Held> = BTreeSet::new();
    for operation in operations {
        let Job::Mark { rows, value } = &operation.job else {
            continue;
        };
        let at = |row: &u64| first.get(&((BACK, *row), *value)).copied();
        let moments: BTreeSet<u64> = rows.iter().filter_map(at).collect();
        // Where it did not stay, a later one of the same batch has overwritten it.
        let touched = |row: &u64, ts: u64| {
            let of_row = versions.get(&(BACK, *row));
            of_row.is_some_and(|of_row| of_row.iter().any(|(from, _)| *from == ts))
        };
        let whole = |ts: &u64| rows.iter().all(|row| touched(row, *ts));
        if moments.len() > 1 || !moments.iter().all(whole) {
            return Err(format!("half of it, or at two moments: {operation:?}"));
        }
        written.extend(rows.iter().map(|row| ((BACK, *row), *value)));
    }
    match first.keys().find(|place| !written.contains(place)) {
        Some((row, value)) => Err(format!("{row:?} held {value}, which nobody wrote")),
        None => Ok(first),
    }
}

/// Every row holds at `at` what it held at `to`.
fn same(versions: &Versions, at: u64, to: u64) -> Result<(), String> {
    let held = |of_row: &[(u64, Option<u64>)], ts: u64| {
        let before = of_row.iter().rev().find(|(from, _)| *from <= ts);
        before.and_then(|(_, value)| *value)
    };
    for (row, of_row) in versions {
        let (then, now) = (held(of_row, to), held(of_row, at));
        if then != now {
            return Err(format!(
                "{row:?} was {then:?} at {to}, and is {now:?} after going back there at {at}"
            ));
        }
    }
    Ok(())
}
