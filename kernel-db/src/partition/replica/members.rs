//! Changes of members, one step at a time.
//!
//! A change is an entry of the log. It holds from its commit on, and the state keeps it with the entry (I8). Replacing
//! voters goes through a joint configuration, in which both majorities must agree; raft-rs leaves it by an entry of its own.

use protobuf::Message as _;
use raft::eraftpb::{
    ConfChangeSingle, ConfChangeTransition, ConfChangeType, ConfChangeV2, ConfState,
};

use super::{MemberChange, Output, Replica};
use crate::error::{Error, Result};
use crate::raft::Proposed;
use crate::storage::StateStore;

impl<S: StateStore> Replica<S> {
    pub(super) fn change_members(&mut self, id: u64, change: &MemberChange, out: &mut Vec<Output>) {
        match self.propose_change(change) {
            Ok(None) => out.push(Output::Members { id, result: Ok(()) }),
            Ok(Some((term, index))) => self.changing = Some((id, term, index)),
            Err(error) => out.push(Output::Members {
                id,
                result: Err(error),
            }),
        }
    }

    /// Term and index of the entry; none if there is nothing to change.
    fn propose_change(&mut self, change: &MemberChange) -> Result<Option<(u64, u64)>> {
        let Some(executor) = &self.executor else {
            return Err(self.not_leader());
        };
        let term = executor.term();
        let under_way = || {
            Error::retry(
                "55006",
                "the members of this partition are changing already",
            )
            .hint("wait until that is done")
        };
        if self.changing.is_some() || !self.driver.conf().voters_outgoing.is_empty() {
            return Err(under_way());
        }
        let Some(entry) = conf_change(change, self.driver.conf())? else {
            return Ok(None);
        };
        match self.driver.propose_members(term, entry) {
            Proposed::At(index) => Ok(Some((term, index))),
            Proposed::Refused => Err(under_way()),
            Proposed::Deposed => Err(self.not_leader()),
        }
    }

    /// Tells of a change that is committed and left, or lost with the leadership.
    pub(super) fn answer_change(&mut self, out: &mut Vec<Output>) {
        let Some((id, term, index)) = self.changing else {
            return;
        };
        let view = self.driver.view();
        let joint = !self.driver.conf().voters_outgoing.is_empty();
        let result = if !self.driver.is_leader() || view.term != term {
            Err(
                Error::unknown("leadership was lost before the change of members was confirmed")
                    .hint("look at the members, and try again"),
            )
        } else if self.applied >= index && !joint {
            Ok(())
        } else {
            return;
        };
        self.changing = None;
        out.push(Output::Members { id, result });
    }
}

fn conf_change(change: &MemberChange, conf: &ConfState) -> Result<Option<ConfChangeV2>> {
    let mut changes = Vec::new();
    let mut add = |kind, node| {
        let mut single = ConfChangeSingle::default();
        single.set_change_type(kind);
        single.node_id = node;
        changes.push(single);
    };
    let mut entry = ConfChangeV2::default();
    match change {
        MemberChange::AddLearner(node) => {
            if conf.voters.contains(node) || conf.learners.contains(node) {
                return Ok(None);
            }
            add(ConfChangeType::AddLearnerNode, *node);
        }
        MemberChange::SetVoters(voters) => {
            if voters.is_empty() {
                return Err(Error::new("22023", "a partition needs at least one voter"));
            }
            for node in voters.iter().filter(|n| !conf.voters.contains(n)) {
                if !conf.learners.contains(node) {
                    return Err(Error::new(
                        "55000",
                        format!("node {node} is no learner of this partition yet"),
                    ));
                }
                add(ConfChangeType::AddNode, *node);
            }
            let members = conf.voters.iter().chain(&conf.learners);
            for node in members.filter(|n| !voters.contains(n)) {
                add(ConfChangeType::RemoveNode, *node);
            }
            entry.set_transition(ConfChangeTransition::Implicit);
        }
    }
    if changes.is_empty() {
        return Ok(None);
    }
    entry.set_changes(changes.into());
    // An empty change would mean to leave a joint configuration.
    debug_assert!(entry.compute_size() > 0);
    Ok(Some(entry))
}
