//! A move of a group to other nodes, one step at a time, as its leader takes them: learner, caught up, joint change.

use crate::partition::{Fence, FollowerStatus, MemberChange, ReplicaStatus};

/// Entries that a learner may be behind when it is made a voter.
const LAG_MAX: u64 = 64;

/// What a group's leader does next.
pub(crate) enum Step {
    Done,
    /// Nothing, for this reason.
    Wait(String),
    /// Another node is to lead first.
    Transfer(u64),
    Change(MemberChange),
}

/// Finds one step: a fence is committed first, and another one before it is said that nothing is left.
#[derive(Default)]
pub(crate) struct Stepper {
    confirms: bool,
}

impl Stepper {
    /// To be committed by the group's leader before `next`: so it leads, and no step of an earlier version comes any more.
    pub fn fence(&self, version: u64) -> Fence {
        Fence {
            version,
            confirms: self.confirms,
        }
    }

    /// What a leader with this status does towards the voters `target`. None: all is done, but who is replaced may leave for
    /// ever then, and the new members must be able to go on without it: once more, with the fence that says so now.
    pub fn next(&mut self, status: &ReplicaStatus, target: &[u64]) -> Option<Step> {
        let step = next_step(status, target);
        let done = matches!(step, Step::Done);
        (!done || std::mem::replace(&mut self.confirms, true)).then_some(step)
    }
}

/// The next step of a leader with this status towards the voters `target`.
fn next_step(status: &ReplicaStatus, target: &[u64]) -> Step {
    let sorted = |nodes: &[u64]| {
        let mut nodes = nodes.to_vec();
        nodes.sort_unstable();
        nodes
    };
    if status.joint {
        return Step::Wait("two majorities still decide".into());
    }
    // Of an earlier step, perhaps of another version of the topology: it must show before it can be said that nothing is left.
    if status.changing {
        return Step::Wait("a change of members is not applied yet".into());
    }
    if sorted(&status.voters) == sorted(target) && status.learners.is_empty() {
        return Step::Done;
    }
    let member = |node: &&u64| status.voters.contains(node) || status.learners.contains(node);
    if let Some(new) = target.iter().find(|node| !member(node)) {
        return Step::Change(MemberChange::AddLearner(*new));
    }
    // Who has said nothing about the log yet, or waits for a checkpoint, may be few entries behind and hold nothing at all:
    // as a voter it could not even vote.
    let holds_all_before = |f: &FollowerStatus| {
        f.match_index > 0 && f.match_index + 1 >= status.first_index && !f.snapshot
    };
    let caught_up = |node: &u64| {
        let follower = status.followers.iter().find(|f| f.node == *node);
        *node == status.node
            || follower.is_some_and(|f| f.active && holds_all_before(f) && f.lag <= LAG_MAX)
    };
    // Who is a voter already may be away: it is not asked to catch up first.
    let mut new = target.iter().filter(|node| !status.voters.contains(node));
    if let Some(late) = new.find(|node| !caught_up(node)) {
        let lag = status.followers.iter().find(|f| f.node == *late);
        let lag = lag.map_or(0, |f| f.lag);
        return Step::Wait(format!("node {late} is {lag} entries behind"));
    }
    let heir = target
        .iter()
        .find(|node| status.voters.contains(node) && caught_up(node));
    match heir {
        Some(heir) if !target.contains(&status.node) => Step::Transfer(*heir),
        _ => Step::Change(MemberChange::SetVoters(target.to_vec())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::partition::Role;

    /// Node 1 leads voters 1, 2, 3; of the others, `followers` are (node, lag, active).
    fn status(learners: &[u64], followers: &[(u64, u64, bool)]) -> ReplicaStatus {
        let follower = |&(node, lag, active): &(u64, u64, bool)| FollowerStatus {
            node,
            match_index: 1000 - lag,
            lag,
            active,
            snapshot: false,
        };
        ReplicaStatus {
            group: 1,
            node: 1,
            role: Role::Leader,
            open: true,
            term: 2,
            leader: Some(1),
            commit: 1000,
            applied: 1000,
            durable: 0,
            first_index: 1,
            last_index: 1000,
            log_bytes: 0,
            last_ts: 0,
            followers: followers.iter().map(follower).collect(),
            voters: vec![1, 2, 3],
            learners: learners.to_vec(),
            joint: false,
            changing: false,
            tip_bytes: 0,
            batches_in_flight: 0,
            sessions: 0,
            rolls_back: false,
            requests: 0,
        }
    }

    #[test]
    fn a_voter_that_is_away_holds_no_change_up_but_a_learner_does() {
        let all = [(2, 900, false), (3, 0, true)];
        let change = |step| match step {
            Step::Change(change) => Some(change),
            _ => None,
        };
        let learner = change(next_step(&status(&[], &all), &[1, 2, 4]));
        assert_eq!(learner, Some(MemberChange::AddLearner(4)));
        let late = [(2, 900, false), (3, 0, true), (4, 65, true)];
        assert!(matches!(
            next_step(&status(&[4], &late), &[1, 2, 4]),
            Step::Wait(_)
        ));
        let near = [(2, 900, false), (3, 0, true), (4, 64, true)];
        let voters = change(next_step(&status(&[4], &near), &[1, 2, 4]));
        assert_eq!(voters, Some(MemberChange::SetVoters(vec![1, 2, 4])));
        // The leader goes: one that has caught up leads first.
        assert!(matches!(
            next_step(&status(&[4], &near), &[2, 3, 4]),
            Step::Transfer(3)
        ));
        assert!(matches!(
            next_step(&status(&[], &all), &[3, 2, 1]),
            Step::Done
        ));
        let joint = ReplicaStatus {
            joint: true,
            ..status(&[], &all)
        };
        assert!(matches!(next_step(&joint, &[1, 2, 3]), Step::Wait(_)));
        let changing = ReplicaStatus {
            changing: true,
            ..status(&[], &all)
        };
        assert!(matches!(next_step(&changing, &[1, 2, 3]), Step::Wait(_)));
    }

    /// The log is short, and what comes before it is in a checkpoint only.
    #[test]
    fn a_learner_that_holds_nothing_yet_has_not_caught_up() {
        let with = |first_index, match_index| {
            let mut short = ReplicaStatus {
                first_index,
                last_index: 31,
                commit: 31,
                ..status(&[4], &[(2, 0, true), (3, 0, true), (4, 0, true)])
            };
            for follower in &mut short.followers {
                follower.match_index = 31;
            }
            let learner = &mut short.followers[2];
            (learner.match_index, learner.lag) = (match_index, 31 - match_index);
            next_step(&short, &[1, 2, 4])
        };
        assert!(matches!(with(1, 0), Step::Wait(_)));
        assert!(matches!(with(20, 5), Step::Wait(_)));
        assert!(matches!(with(20, 19), Step::Change(_)));
        assert!(matches!(with(1, 5), Step::Change(_)));
    }
}
