//! Messages: each is received once at most, in order, none is lost, and nobody is told that nothing came while something was
//! there, or before the time was over.

use std::collections::BTreeMap;

use super::{End, Known, Operation};
use crate::sim::load::{Job, MAIL};

/// Clocks of nodes run at most this much too fast, in hundredths.
const DRIFT_PERCENT: u64 = 5;

/// What became of a message: the place of its sender in the history, and of its receiver.
struct Message {
    sent: usize,
    received: Option<usize>,
    /// Still in its box.
    left: bool,
}

pub fn boxes(operations: &[Operation], end: &End) -> Result<(), String> {
    let mut boxes: BTreeMap<u64, BTreeMap<u64, Message>> = BTreeMap::new();
    for (sent, operation) in operations.iter().enumerate() {
        if let Job::Send { to, message } = operation.job
            && end.done.contains_key(&operation.op)
        {
            let left = end.rows.get(&(MAIL, to));
            let message_of = Message {
                sent,
                received: None,
                left: left.is_some_and(|left| left.contains(&message)),
            };
            boxes.entry(to).or_default().insert(message, message_of);
        }
    }
    for (place, operation) in operations.iter().enumerate() {
        let (Job::Receive { from, .. }, Known::Done(told)) = (&operation.job, &operation.known)
        else {
            continue;
        };
        let Some(told) = told.first() else {
            continue;
        };
        let message = boxes.get_mut(from).and_then(|held| held.get_mut(told));
        match message {
            Some(message) if message.received.is_none() && !message.left => {
                message.received = Some(place);
            }
            Some(_) => return Err(format!("message {told} is there twice: {operation:?}")),
            None => return Err(format!("message {told} was never sent: {operation:?}")),
        }
    }
    for (of, messages) in &boxes {
        let told = |error| format!("box {of}: {error}");
        complete(*of, messages, operations, end).map_err(told)?;
        in_order(messages, operations).map_err(told)?;
    }
    for operation in operations {
        nothing_came(operation, &boxes, operations)?;
    }
    Ok(())
}

/// What is neither received nor left was taken by receivers who were not told.
fn complete(
    of: u64,
    messages: &BTreeMap<u64, Message>,
    operations: &[Operation],
    end: &End,
) -> Result<(), String> {
    let lost = messages.iter();
    let lost = lost.filter(|(_, message)| message.received.is_none() && !message.left);
    let lost: Vec<u64> = lost.map(|(message, _)| *message).collect();
    let untold = |operation: &&Operation| {
        matches!(operation.job, Job::Receive { from, .. } if from == of)
            && operation.known == Known::Unknown
            && end.done.contains_key(&operation.op)
    };
    let untold = operations.iter().filter(untold).count();
    match lost.len() <= untold {
        true => Ok(()),
        false => Err(format!(
            "messages {lost:?} are lost, {untold} may have been taken"
        )),
    }
}

/// What was sent before is received before.
fn in_order(messages: &BTreeMap<u64, Message>, operations: &[Operation]) -> Result<(), String> {
    let received = |message: &Message| Some((message.sent, message.received?));
    let pairs: Vec<(usize, usize)> = messages.values().filter_map(received).collect();
    for (sent, received) in &pairs {
        let overtaken = pairs.iter().find(|(later, earlier)| {
            operations[*sent].ended_us < operations[*later].begun_us
                && operations[*earlier].ended_us < operations[*received].begun_us
        });
        if let Some((later, _)) = overtaken {
            return Err(format!(
                "{:?} was received before {:?}",
                operations[*later], operations[*sent]
            ));
        }
    }
    Ok(())
}

fn nothing_came(
    operation: &Operation,
    boxes: &BTreeMap<u64, BTreeMap<u64, Message>>,
    operations: &[Operation],
) -> Result<(), String> {
    let (Job::Receive { from, for_us }, Known::Done(told)) = (&operation.job, &operation.known)
    else {
        return Ok(());
    };
    if !told.is_empty() {
        return Ok(());
    }
    if (operation.ended_us - operation.begun_us) * (100 + DRIFT_PERCENT) < for_us * 100 {
        return Err(format!("given up too early: {operation:?}"));
    }
    let there = |message: &&Message| {
        let taken = message.received.map(|place| operations[place].begun_us);
        // Who took it without being told may have done so at any time.
        let taken = taken.or(message.left.then_some(u64::MAX)).unwrap_or(0);
        operations[message.sent].ended_us < operation.begun_us && taken > operation.ended_us
    };
    let messages = boxes.get(from).into_iter().flat_map(BTreeMap::values);
    match messages.into_iter().find(there) {
        Some(message) => Err(format!(
            "{operation:?} was told that nothing came, but there was {:?}",
            operations[message.sent]
        )),
        None => Ok(()),
    }
}
