//! Rules of the driver that no golden transcript shows.

use super::super::member_id::{dropped, member_at};
use super::*;
use crate::storage::memory::MemLog;
use raft::eraftpb::{ConfChangeSingle, ConfChangeTransition, ConfChangeType, HardState};

fn driver(node: u64, voters: &[u64]) -> Driver {
    driver_on(Arc::new(MemLog::new()), node, voters)
}

fn driver_on(log: Arc<MemLog>, node: u64, voters: &[u64]) -> Driver {
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
    Driver::new(config, log, &StateEnd::default()).unwrap()
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

/// A replica of node 1 on a log that outlived the one before it.
fn successor(log: &Arc<MemLog>) -> Driver {
    driver_on(log.clone(), 1, &[])
}

/// The replica that member 1 was is dropped.
fn after_a_drop() -> Arc<MemLog> {
    let log = Arc::new(MemLog::new());
    let end = LogWrite {
        group: 1,
        reset: true,
        hard_state: Some(HardState::default()),
        member: Some(dropped(1)),
        ..LogWrite::default()
    };
    log.append(vec![end], true).unwrap();
    log
}

fn checkpoint(to: u64, term: u64, voters: Vec<u64>) -> Message {
    let mut message = from_peer(MessageType::MsgSnapshot, term);
    message.to = to;
    let mut snapshot = Snapshot::default();
    let metadata = snapshot.mut_metadata();
    (metadata.index, metadata.term) = (50, term);
    metadata.set_conf_state(ConfState::from((voters, Vec::new())));
    message.set_snapshot(snapshot);
    message
}

#[test]
fn nothing_that_was_sent_to_a_dropped_replica_reaches_its_successor() {
    let mut driver = successor(&after_a_drop());
    let mut heartbeat = from_peer(MessageType::MsgHeartbeat, 3);
    heartbeat.commit = 362;
    let late = [
        heartbeat,
        from_peer(MessageType::MsgAppend, 3),
        from_peer(MessageType::MsgRequestVote, 4),
        // Of the members that were.
        checkpoint(1, 3, vec![1, 2, 3]),
    ];
    for message in late {
        assert!(!driver.is_for(&message));
        driver.receive(message, false);
        assert!(settle(&mut driver).is_empty());
        assert_eq!((driver.view().leader, driver.view().term), (None, 0));
    }
}

#[test]
fn a_successor_is_another_member_once_a_leader_says_so_and_keeps_it() {
    let log = after_a_drop();
    let mut driver = successor(&log);
    let mut heartbeat = from_peer(MessageType::MsgHeartbeat, 3);
    heartbeat.to = member_at(9, 1);
    driver.receive(heartbeat.clone(), false);
    for effect in settle(&mut driver) {
        if let Effect::Write { write, sync, .. } = effect {
            assert!(sync && write.member == Some(member_at(9, 1)));
            log.append(vec![write], sync).unwrap();
        }
    }
    assert_eq!(driver.view().leader, Some(2));
    // A start later too, and an earlier one is never heard again.
    let mut driver = successor(&log);
    assert_eq!(driver.member(), member_at(9, 1));
    assert!(driver.is_for(&heartbeat));
    heartbeat.to = member_at(8, 1);
    assert!(!driver.is_for(&heartbeat));
    driver.receive(
        checkpoint(member_at(9, 1), 3, vec![2, 3, member_at(9, 1)]),
        false,
    );
    let effects = settle(&mut driver);
    assert!(effects.iter().any(|e| matches!(e, Effect::Install(_))));
}

/// It is removed and added again while its replica is there still, which knows of neither.
#[test]
fn a_replica_that_is_a_member_anew_does_not_campaign_as_what_it_was() {
    let mut driver = driver(1, &[1, 2, 3]);
    let mut heartbeat = from_peer(MessageType::MsgHeartbeat, 3);
    heartbeat.to = member_at(9, 1);
    driver.receive(heartbeat, false);
    settle(&mut driver);
    assert_eq!(driver.view().leader, Some(2));
    let mut go = from_peer(MessageType::MsgTimeoutNow, 3);
    go.to = member_at(9, 1);
    driver.receive(go, false);
    driver.campaign();
    for _ in 0..40 {
        driver.tick();
        let asks = |effect: &Effect| matches!(effect, Effect::Send(_));
        assert!(!settle(&mut driver).iter().any(asks));
    }
    assert_eq!(driver.view().term, 3);
}

#[test]
fn an_acknowledgement_of_a_dropped_replica_does_not_count_for_its_successor() {
    let (old, new) = (member_at(0, 2), member_at(7, 2));
    let mut driver = driver(1, &[1, new, 3]);
    driver.campaign();
    settle(&mut driver);
    let say = |kind, from, index| {
        let mut message = from_peer(kind, 1);
        (message.from, message.index) = (from, index);
        message
    };
    let pre = MessageType::MsgRequestPreVoteResponse;
    driver.receive(say(pre, 3, 0), false);
    settle(&mut driver);
    let vote = MessageType::MsgRequestVoteResponse;
    driver.receive(say(vote, old, 0), false);
    settle(&mut driver);
    assert!(!driver.is_leader(), "its vote does not count");
    driver.receive(say(vote, new, 0), false);
    settle(&mut driver);
    assert!(driver.is_leader());
    let acknowledged = MessageType::MsgAppendResponse;
    driver.receive(say(acknowledged, old, 1), false);
    settle(&mut driver);
    assert_eq!((driver.view().commit, driver.members()[0].matched), (0, 0));
    driver.receive(say(acknowledged, new, 1), false);
    settle(&mut driver);
    assert_eq!((driver.view().commit, driver.members()[0].matched), (1, 1));
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

/// The only voter hands its group over to node 2, with more to commit behind the change.
#[test]
fn a_leader_that_has_left_leads_no_more() {
    let mut driver = driver(1, &[1]);
    driver.campaign();
    settle(&mut driver);
    let term = driver.view().term;
    let change = |changes: &[(ConfChangeType, u64)]| {
        let mut entry = ConfChangeV2::default();
        if changes.len() > 1 {
            entry.set_transition(ConfChangeTransition::Implicit);
        }
        for (kind, member) in changes {
            let mut single = ConfChangeSingle::default();
            single.set_change_type(*kind);
            single.node_id = *member;
            entry.mut_changes().push(single);
        }
        entry
    };
    let new = member_at(driver.view().last + 1, 2);
    let learner = change(&[(ConfChangeType::AddLearnerNode, new)]);
    assert_eq!(driver.propose_members(term, learner), Proposed::At(2));
    settle(&mut driver);
    driver.applied(2, &mut Vec::new());
    let swap = change(&[
        (ConfChangeType::AddNode, new),
        (ConfChangeType::RemoveNode, 1),
    ]);
    assert_eq!(driver.propose_members(term, swap), Proposed::At(3));
    settle(&mut driver);
    driver.applied(3, &mut Vec::new());
    settle(&mut driver);
    for index in 5..8 {
        assert_eq!(driver.propose(term, b"x".to_vec()), Proposed::At(index));
    }
    settle(&mut driver);
    let mut last_words = Vec::new();
    for index in [4, 5, 6, 7] {
        let mut held = from_peer(MessageType::MsgAppendResponse, term);
        (held.from, held.index) = (new, index);
        driver.receive(held, false);
        for effect in settle(&mut driver) {
            if let Effect::Send(messages) = effect {
                last_words.extend(messages.into_iter().map(|m| (m.get_msg_type(), m.to)));
            }
        }
    }
    assert!(driver.has_left() && !driver.is_leader());
    assert_eq!(last_words.pop(), Some((MessageType::MsgTimeoutNow, new)));
    assert_eq!(driver.propose(term, b"x".to_vec()), Proposed::Deposed);
}

/// It may start anew with a state that knows an earlier change of members only: what is committed tells it to wait.
#[test]
fn entries_bring_along_what_was_known_to_be_committed_before_them() {
    let mut driver = driver(1, &[1, 2, 3]);
    let append = |after: u64, count: u64, commit: u64| {
        let mut message = from_peer(MessageType::MsgAppend, 1);
        (message.index, message.log_term) = (after, after.min(1));
        message.commit = commit;
        let entry = |index| {
            let mut entry = Entry::default();
            (entry.term, entry.index) = (1, index);
            entry
        };
        let entries: Vec<Entry> = (after + 1..=after + count).map(entry).collect();
        message.set_entries(entries.into());
        message
    };
    let mut written = Vec::new();
    for message in [append(0, 2, 0), append(2, 0, 2), append(2, 1, 2)] {
        driver.receive(message, false);
        for effect in settle(&mut driver) {
            if let Effect::Write { write, .. } = effect {
                let commit = write.hard_state.map(|hard_state| hard_state.commit);
                written.push((write.entries.len(), commit));
            }
        }
    }
    assert_eq!(written, [(2, Some(0)), (1, Some(2))]);
}

#[test]
fn a_number_that_only_an_installed_checkpoint_tells_is_kept_in_the_log() {
    let member = member_at(7, 3);
    let end = StateEnd {
        applied: (9, 2),
        origin: (9, 2),
        members: encode_members(&ConfState::from((vec![1, member], Vec::new()))),
    };
    let log: Arc<dyn LogStore> = Arc::new(MemLog::new());
    let view = LogView::open(3, 1, &[], Arc::clone(&log), &end, false).unwrap();
    assert_eq!(view.member(), member);
    assert_eq!(log.member(1).unwrap(), Some(member));
}
