//! Serializability of transactions over lists that only grow (Kingsbury and Alvaro, Elle, 2020; Adya 1999).
//!
//! A list's final content is the order of its versions, so every dependency is known: who wrote before whom (ww), who read
//! what another wrote (wr), who read what another then overwrote (rw), and what one client did first. A cycle among
//! transactions is an anomaly, named by its edges: G0 (only ww), G1c (ww and wr), G-single (one rw), G2 (more).
//! Reads of what failed (G1a) and of what was in the making (G1b) are found on the way.

use std::collections::{BTreeMap, VecDeque};

use super::order::external_reads;
use super::{End, Known, Operation};
use crate::sim::load::{Job, LIST, Step};

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Edge {
    Ww,
    Wr,
    Rw,
    /// The next operation of the same client.
    Session,
}

/// Successors of each operation, by its place in the history.
type Graph = Vec<BTreeMap<usize, Edge>>;

pub fn serializable(operations: &[Operation], end: &End) -> Result<(), String> {
    let writers = writers(operations);
    let mut graph: Graph = vec![BTreeMap::new(); operations.len()];
    for ((table, _), held) in &end.rows {
        if *table == LIST {
            for pair in held.windows(2) {
                let (first, second) = (writers.get(&pair[0]), writers.get(&pair[1]));
                if let (Some(first), Some(second)) = (first, second) {
                    join(&mut graph, first.place, second.place, Edge::Ww);
                }
            }
        }
    }
    for (place, operation) in operations.iter().enumerate() {
        for (list, found) in found_by(operation)? {
            reader(
                &mut graph,
                (place, operation),
                (list, &found),
                &writers,
                operations,
                end,
            )?;
        }
    }
    sessions(&mut graph, operations);
    match cycle(&graph) {
        Some(cycle) => Err(explain(&cycle, operations)),
        None => Ok(()),
    }
}

struct Writer {
    place: usize,
    /// The last element that it adds to that list.
    last: bool,
}

/// Who adds an element.
fn writers(operations: &[Operation]) -> BTreeMap<u64, Writer> {
    let mut writers = BTreeMap::new();
    for (place, operation) in operations.iter().enumerate() {
        let (Job::Lists(steps) | Job::Spoil(steps)) = &operation.job else {
            continue;
        };
        for (at, step) in steps.iter().enumerate() {
            if let Step::Append(list, element) = step {
                let again = |s: &Step| matches!(s, Step::Append(of, _) if of == list);
                let last = !steps[at + 1..].iter().any(again);
                writers.insert(*element, Writer { place, last });
            }
        }
    }
    writers
}

/// What an operation found in lists beside its own: an error if its own is not there.
fn found_by(operation: &Operation) -> Result<Vec<(u64, Vec<u64>)>, String> {
    let own_of = |steps: &[Step], list: u64| -> Vec<u64> {
        let own = steps.iter().filter_map(|step| match step {
            Step::Append(of, element) if *of == list => Some(*element),
            _ => None,
        });
        own.collect()
    };
    match (&operation.job, &operation.known) {
        (Job::Lists(steps) | Job::Spoil(steps), Known::Done(told) | Known::Failed(told)) => {
            let mut found = Vec::new();
            for (list, mut elements, own) in external_reads(steps, told) {
                let mine = elements.split_off(elements.len() - own);
                if !own_of(steps, list).starts_with(&mine) {
                    return Err(format!("does not see its own writes: {operation:?}"));
                }
                found.push((list, elements));
            }
            Ok(found)
        }
        (Job::Snapshot { rows, .. }, Known::Saw(_, picture)) => {
            let lists = rows.iter().filter(|(table, _)| *table == LIST);
            let found = lists.map(|row| (row.1, picture.get(row).cloned().unwrap_or_default()));
            Ok(found.collect())
        }
        _ => Ok(Vec::new()),
    }
}

fn reader(
    graph: &mut Graph,
    (place, operation): (usize, &Operation),
    (list, found): (u64, &[u64]),
    writers: &BTreeMap<u64, Writer>,
    operations: &[Operation],
    end: &End,
) -> Result<(), String> {
    let order = end.rows.get(&(LIST, list)).map_or(&[][..], Vec::as_slice);
    if !order.starts_with(found) {
        return Err(format!(
            "G1a or lost: list {list} was {found:?}, which never came to be ({order:?}): {operation:?}"
        ));
    }
    for element in found {
        if let Some(writer) = writers.get(element)
            && operations[writer.place].begun_us > operation.ended_us
        {
            return Err(format!(
                "{element} of list {list} was read before it was sent: {operation:?}"
            ));
        }
    }
    if let Some(writer) = found.last().and_then(|element| writers.get(element)) {
        if !writer.last && writer.place != place {
            return Err(format!(
                "G1b: list {list} was read in the middle of operation {}: {operation:?}",
                operations[writer.place].op
            ));
        }
        join(graph, writer.place, place, Edge::Wr);
    }
    let next = order
        .get(found.len())
        .and_then(|element| writers.get(element));
    // A transaction that failed has no place in the order after those that overwrote what it read.
    if let Some(next) = next {
        join(graph, place, next.place, Edge::Rw);
    }
    Ok(())
}

fn join(graph: &mut Graph, from: usize, to: usize, edge: Edge) {
    if from != to {
        let known = graph[from].entry(to).or_insert(edge);
        *known = edge.min(*known);
    }
}

/// Causality within a session: what a client did before comes before, whichever groups it was in.
fn sessions(graph: &mut Graph, operations: &[Operation]) {
    let mut before: BTreeMap<usize, usize> = BTreeMap::new();
    for (place, operation) in operations.iter().enumerate() {
        if operation.known == Known::Unknown {
            continue;
        }
        if let Some(before) = before.insert(operation.lane, place) {
            join(graph, before, place, Edge::Session);
        }
    }
}

/// A shortest cycle through some operation that is on one.
fn cycle(graph: &Graph) -> Option<Vec<(usize, Edge)>> {
    let start = on_a_cycle(graph)?;
    let mut from: BTreeMap<usize, usize> = BTreeMap::new();
    let mut queue = VecDeque::from([start]);
    while let Some(place) = queue.pop_front() {
        for next in graph[place].keys() {
            if !from.contains_key(next) {
                from.insert(*next, place);
                queue.push_back(*next);
            }
        }
        if from.contains_key(&start) {
            break;
        }
    }
    let (mut cycle, mut at) = (Vec::new(), start);
    loop {
        let before = *from.get(&at)?;
        cycle.push((before, *graph[before].get(&at)?));
        at = before;
        if at == start {
            cycle.reverse();
            return Some(cycle);
        }
    }
}

/// What is left when operations without predecessor, and then those without successor, are taken away, is on a cycle or
/// between two: the one of the smallest place that can reach itself.
fn on_a_cycle(graph: &Graph) -> Option<usize> {
    let mut incoming = vec![0; graph.len()];
    for next in graph.iter().flat_map(BTreeMap::keys) {
        incoming[*next] += 1;
    }
    let mut free: Vec<usize> = (0..graph.len()).filter(|p| incoming[*p] == 0).collect();
    let mut left = graph.len();
    while let Some(place) = free.pop() {
        left -= 1;
        for next in graph[place].keys() {
            incoming[*next] -= 1;
            if incoming[*next] == 0 {
                free.push(*next);
            }
        }
    }
    if left == 0 {
        return None;
    }
    (0..graph.len())
        .filter(|place| incoming[*place] > 0)
        .find(|place| reaches_itself(graph, *place))
}

fn reaches_itself(graph: &Graph, start: usize) -> bool {
    let mut seen = vec![false; graph.len()];
    let mut open = vec![start];
    while let Some(place) = open.pop() {
        for next in graph[place].keys() {
            if *next == start {
                return true;
            }
            if !std::mem::replace(&mut seen[*next], true) {
                open.push(*next);
            }
        }
    }
    false
}

fn explain(cycle: &[(usize, Edge)], operations: &[Operation]) -> String {
    let count = |kind| cycle.iter().filter(|(_, edge)| *edge == kind).count();
    let name = match (count(Edge::Rw), count(Edge::Wr)) {
        (0, 0) => "G0",
        (0, _) => "G1c",
        (1, _) => "G-single",
        _ => "G2",
    };
    let among = if count(Edge::Session) > 0 {
        " with the order within sessions"
    } else {
        ""
    };
    let mut text = format!("a cycle of dependencies ({name}{among}):");
    for (place, edge) in cycle {
        text += &format!("\n  {:?}\n  {edge:?} ->", operations[*place]);
    }
    text
}
