//! Rules of the driver that no golden transcript shows.

use super::*;
use crate::storage::memory::MemLog;

fn driver(node: u64, voters: &[u64]) -> Driver {
    let config = DriverConfig {
        node,
        group: 1,
        voters: voters.to_vec(),
        election_ticks: 10,
        heartbeat_ticks: 2,
        sync: true,
        tail_lost: false,
        seed: 1,
        planted: crate::planted::Planted::default(),
    };
    Driver::new(config, Arc::new(MemLog::new()), &StateEnd::default()).unwrap()
}

/// Writes are done at once.
fn settle(driver: &mut Driver) -> Vec<Effect> {
    let (mut all, mut effects) = (Vec::new(), Vec::new());
    loop {
        driver.drain(&mut effects);
        if effects.is_empty() {
            return all;
        }
        for effect in std::mem::take(&mut effects) {
            if let Effect::Write { token, .. } = effect {
                driver.persisted(token, &mut effects);
            }
            all.push(effect);
        }
    }
}

fn from_peer(kind: MessageType, term: u64) -> Message {
    let mut message = Message::default();
    message.set_msg_type(kind);
    (message.from, message.to, message.term) = (2, 1, term);
    message
}

#[test]
fn i1_a_follower_proposes_nothing_and_forwards_nothing() {
    let mut driver = driver(1, &[1, 2, 3]);
    driver.receive(from_peer(MessageType::MsgHeartbeat, 1), false);
    settle(&mut driver);
    assert_eq!(driver.view().leader, Some(2));
    assert_eq!(driver.propose(1, b"x".to_vec()), Proposed::Deposed);
    let sent = settle(&mut driver);
    assert!(!sent.iter().any(|effect| matches!(effect, Effect::Send(_))));
}

#[test]
fn i1_an_executor_of_an_earlier_term_proposes_nothing() {
    let mut driver = driver(1, &[1]);
    driver.campaign();
    settle(&mut driver);
    let (term, last) = (driver.view().term, driver.view().last);
    assert_eq!(driver.propose(term, b"x".to_vec()), Proposed::At(last + 1));
    assert_eq!(driver.propose(term - 1, b"y".to_vec()), Proposed::Deposed);
    assert_eq!(driver.view().last, last + 1);
}

#[test]
fn i1_proposals_of_others_are_dropped() {
    let mut driver = driver(1, &[1, 2, 3]);
    driver.campaign();
    settle(&mut driver);
    driver.receive(from_peer(MessageType::MsgRequestPreVoteResponse, 1), false);
    settle(&mut driver);
    driver.receive(from_peer(MessageType::MsgRequestVoteResponse, 1), false);
    settle(&mut driver);
    assert!(driver.is_leader());
    let last = driver.view().last;
    let mut message = from_peer(MessageType::MsgPropose, 0);
    message.set_entries(vec![Entry::default()].into());
    driver.receive(message, false);
    assert_eq!(driver.view().last, last);
}

#[test]
fn a_heartbeat_for_the_replica_before_does_not_stop_a_new_one() {
    let mut driver = driver(1, &[]);
    let mut heartbeat = from_peer(MessageType::MsgHeartbeat, 3);
    heartbeat.commit = 362;
    driver.receive(heartbeat, false);
    settle(&mut driver);
    let view = driver.view();
    assert_eq!((view.leader, view.commit, view.last), (Some(2), 0, 0));
}

#[test]
fn a_member_that_lost_acknowledged_entries_enters_a_later_term_and_does_not_vote() {
    let log = Arc::new(MemLog::new());
    let config = |tail_lost| DriverConfig {
        node: 1,
        group: 1,
        voters: vec![1, 2, 3],
        election_ticks: 10,
        heartbeat_ticks: 2,
        sync: false,
        tail_lost,
        seed: 1,
        planted: crate::planted::Planted::default(),
    };
    let mut before = Driver::new(config(false), log.clone(), &StateEnd::default()).unwrap();
    before.receive(from_peer(MessageType::MsgHeartbeat, 3), false);
    for effect in settle(&mut before) {
        if let Effect::Write { write, sync, .. } = effect {
            log.append(vec![write], sync).unwrap();
        }
    }
    let mut after = Driver::new(config(true), log, &StateEnd::default()).unwrap();
    assert_eq!(after.view().term, 4);
    after.receive(from_peer(MessageType::MsgRequestVote, 5), false);
    assert!(settle(&mut after).is_empty());
    // A later leader's empty entry, committed: everything acknowledged before it is here again.
    let mut append = from_peer(MessageType::MsgAppend, 5);
    let mut entry = Entry::default();
    (entry.term, entry.index) = (5, 1);
    append.set_entries(vec![entry].into());
    append.commit = 1;
    after.receive(append, false);
    settle(&mut after);
    assert!(after.may_vote());
}
