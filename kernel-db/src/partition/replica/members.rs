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
use crate::partition::fence::late;
use crate::planted::Mutation;
use crate::raft::Proposed;
use crate::raft::member_id::{member_at, node_of};
use crate::storage::StateStore;

impl<S: StateStore> Replica<S> {
    pub(super) fn change_members(
        &mut self,
        id: u64,
        version: u64,
        change: &MemberChange,
        out: &mut Vec<Output>,
    ) {
        match self.propose_change(version, change) {
            Ok(None) => out.push(Output::Members { id, result: Ok(()) }),
            Ok(Some((term, index))) => self.changing = Some((id, term, index)),
            Err(error) => out.push(Output::Members {
                id,
                result: Err(error),
            }),
        }
    }

    /// Term and index of the entry; none if there is nothing to change.
    fn propose_change(
        &mut self,
        version: u64,
        change: &MemberChange,
    ) -> Result<Option<(u64, u64)>> {
        let Some(executor) = &mut self.executor else {
            return Err(self.not_leader());
        };
        let term = executor.term();
        // On the tip: what comes behind a later fence in the log is refused, also before that is committed.
        let known = executor.fence()?;
        if known != version && !self.config.planted.is(Mutation::LateStepTaken) {
            return Err(late(version, known));
        }
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
        let next = self.driver.view().last + 1;
        let Some(entry) = conf_change(change, self.driver.conf(), next)? else {
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
        // A leader that was removed by it has stepped down, and is to hear of its end all the same.
        let leads = self.driver.is_leader() || self.driver.has_left();
        let result = if !leads || view.term != term {
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

/// The entry at index `next` that makes this change; none if there is nothing to change.
fn conf_change(change: &MemberChange, conf: &ConfState, next: u64) -> Result<Option<ConfChangeV2>> {
    let mut changes = Vec::new();
    let is_at = |members: &[u64], node: u64| members.iter().any(|m| node_of(*m) == node);
    let mut add = |kind, member| {
        let mut single = ConfChangeSingle::default();
        single.set_change_type(kind);
        single.node_id = member;
        changes.push(single);
    };
    let mut entry = ConfChangeV2::default();
    match change {
        MemberChange::AddLearner(node) => {
            if is_at(&conf.voters, *node) || is_at(&conf.learners, *node) {
                return Ok(None);
            }
            add(ConfChangeType::AddLearnerNode, member_at(next, *node));
        }
        MemberChange::SetVoters(voters) => {
            if voters.is_empty() {
                return Err(Error::new("22023", "a partition needs at least one voter"));
            }
            for node in voters.iter().filter(|n| !is_at(&conf.voters, **n)) {
                let Some(learner) = conf.learners.iter().find(|m| node_of(**m) == *node) else {
                    return Err(Error::new(
                        "55000",
                        format!("node {node} is no learner of this partition yet"),
                    ));
                };
                add(ConfChangeType::AddNode, *learner);
            }
            let members = conf.voters.iter().chain(&conf.learners);
            for member in members.filter(|m| !voters.contains(&node_of(**m))) {
                add(ConfChangeType::RemoveNode, *member);
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
