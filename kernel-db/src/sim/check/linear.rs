//! Linearizability of registers: search for an order that agrees with real time (Wing and Gong 1993; states once seen are
//! not searched again, Lowe 2017).

use std::collections::{BTreeMap, HashSet};

use super::{End, Known, Operation, register_in};
use crate::sim::load::{Job, REGISTER};

/// Operations of one register, so that a set of them fits in a word; the clients keep to it.
pub const OPERATIONS_MAX: usize = 128;
/// States visited for one register before the search gives up, which is an error.
const STATES_MAX: usize = 2_000_000;

#[derive(Clone, Copy, Debug)]
enum Act {
    Put(u64),
    /// From, to, and whether it was told to have happened.
    Swap(u64, u64, Option<bool>),
    Get(u64),
}

#[derive(Clone, Copy, Debug)]
struct Event {
    act: Act,
    begun_us: u64,
    /// The maximum if the outcome is not known: it may take effect at any later time, or never.
    ended_us: u64,
    must: bool,
}

/// Every register has an order of its operations.
pub fn registers(operations: &[Operation], end: &End) -> Result<(), String> {
    let mut events: BTreeMap<u64, Vec<Event>> = BTreeMap::new();
    for operation in operations {
        collect(operation, &mut events);
    }
    for (register, mut events) in events {
        events.push(Event {
            act: Act::Get(register_in(&end.rows, register)),
            begun_us: u64::MAX,
            ended_us: u64::MAX,
            must: true,
        });
        search(&events).map_err(|error| format!("register {register}: {error}"))?;
    }
    Ok(())
}

fn collect(operation: &Operation, events: &mut BTreeMap<u64, Vec<Event>>) {
    let mut push = |register: u64, act, must| {
        events.entry(register).or_default().push(Event {
            act,
            begun_us: operation.begun_us,
            ended_us: if must { operation.ended_us } else { u64::MAX },
            must,
        });
    };
    match (&operation.job, &operation.known) {
        (Job::Put { register, value }, Known::Done(_)) => push(*register, Act::Put(*value), true),
        (Job::Put { register, value }, _) => push(*register, Act::Put(*value), false),
        (Job::Swap { register, from, to }, Known::Done(told)) => {
            let told = told.first() == Some(&1);
            push(*register, Act::Swap(*from, *to, Some(told)), true);
        }
        (Job::Swap { register, from, to }, _) => {
            push(*register, Act::Swap(*from, *to, None), false)
        }
        (Job::Get { register }, Known::Done(told)) => {
            let value = told.first().copied().unwrap_or(0);
            push(*register, Act::Get(value), true);
        }
        (Job::Snapshot { rows, .. }, Known::Saw(_, picture)) => {
            for (_, register) in rows.iter().filter(|(table, _)| *table == REGISTER) {
                push(*register, Act::Get(register_in(picture, *register)), true);
            }
        }
        _ => {}
    }
}

/// The register's value after `act`, if it can happen at `value`.
fn after(act: Act, value: u64) -> Option<u64> {
    match act {
        Act::Put(new) => Some(new),
        Act::Get(seen) => (seen == value).then_some(value),
        Act::Swap(from, to, told) => {
            let holds = value == from;
            let next = if holds { to } else { value };
            told.is_none_or(|told| told == holds).then_some(next)
        }
    }
}

fn search(events: &[Event]) -> Result<(), String> {
    if events.len() > OPERATIONS_MAX {
        return Err(format!("{} operations are too many to check", events.len()));
    }
    let bit = |place: usize| 1_u128 << place;
    let needed = (0..events.len()).filter(|place| events[*place].must);
    let needed = needed.fold(0, |set, place| set | bit(place));
    let mut seen: HashSet<(u128, u64)> = HashSet::new();
    let mut open = vec![(0_u128, 0_u64)];
    let mut furthest = 0_u128;
    while let Some((done, value)) = open.pop() {
        if done & needed == needed {
            return Ok(());
        }
        if seen.len() > STATES_MAX {
            return Err("the search gave up".into());
        }
        if (done & needed).count_ones() > (furthest & needed).count_ones() {
            furthest = done;
        }
        let left = || (0..events.len()).filter(|place| done & bit(*place) == 0);
        // Nothing can come before an operation that had ended when it began.
        let first_end = left().map(|place| events[place].ended_us).min();
        for place in left().filter(|place| Some(events[*place].begun_us) <= first_end) {
            if let Some(value) = after(events[place].act, value)
                && seen.insert((done | bit(place), value))
            {
                open.push((done | bit(place), value));
            }
        }
    }
    let rest = (0..events.len()).filter(|place| furthest & bit(*place) == 0);
    let rest: Vec<Event> = rest.map(|place| events[place]).collect();
    Err(format!(
        "no order fits; not placed at the best try: {rest:?}"
    ))
}
