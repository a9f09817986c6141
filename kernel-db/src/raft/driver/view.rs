//! What the driver tells of the group, and of its own part in it.

use raft::eraftpb::ConfState;
use raft::{ProgressState, StateRole};

use super::super::io::{Member, View};
use super::super::member_id::node_of;
use super::Driver;
use crate::error::Result;

impl Driver {
    /// A member of nothing yet: it learns who the members are from a checkpoint. Until then it must not vote: what it may have
    /// held under an earlier membership is gone.
    pub fn is_blank(&self) -> bool {
        let members = self.node.store().members();
        members.voters.is_empty() && members.learners.is_empty()
    }

    /// The newest member at `node`.
    pub(super) fn member_at(&self, node: u64) -> Option<u64> {
        let members = self.node.raft.prs().iter().map(|(member, _)| *member);
        members.filter(|member| node_of(*member) == node).max()
    }

    /// Which member of the group this replica is.
    pub fn member(&self) -> u64 {
        self.node.raft.id
    }

    /// False while this node may have lost entries that it acknowledged.
    pub fn may_vote(&self) -> bool {
        self.no_vote_before.is_none()
    }

    /// For whom this node voted in its term; 0 for nobody.
    pub fn vote(&self) -> u64 {
        self.node.raft.vote
    }

    pub fn is_leader(&self) -> bool {
        self.node.raft.state == StateRole::Leader
    }

    /// False while leadership is being handed over, when proposals are refused.
    pub fn can_propose(&self) -> bool {
        self.is_leader() && self.node.raft.lead_transferee.is_none()
    }

    pub fn log_bytes(&self) -> u64 {
        self.node.store().bytes()
    }

    pub fn view(&self) -> View {
        let raft = &self.node.raft;
        View {
            role: raft.state,
            term: raft.term,
            leader: (raft.leader_id != 0).then(|| node_of(raft.leader_id)),
            commit: raft.raft_log.committed,
            first: self.node.store().boundary() + 1,
            last: raft.raft_log.last_index(),
            log_bytes: self.node.store().bytes(),
        }
    }

    /// Never voted, never logged: nothing that a lease could rest on.
    pub fn is_new(&self) -> bool {
        self.last_vote == (0, 0) && self.node.raft.raft_log.last_index() == 0
    }

    /// The other members, by node.
    pub fn members(&self) -> Vec<Member> {
        let mut members: Vec<Member> = self
            .node
            .raft
            .prs()
            .iter()
            .filter(|(member, _)| **member != self.member())
            .map(|(member, progress)| Member {
                node: node_of(*member),
                matched: progress.matched,
                active: progress.recent_active,
                snapshot: progress.state == ProgressState::Snapshot,
                voter: self.node.raft.prs().conf().voters().contains(*member),
            })
            .collect();
        members.sort_by_key(|member| member.node);
        members
    }

    /// The members of the group, as this node knows them, by their numbers.
    pub fn conf(&self) -> &ConfState {
        self.node.store().members()
    }

    /// An entry that changes the members may be in this leader's log and is not applied yet.
    pub fn is_changing(&self) -> bool {
        self.is_leader() && self.node.raft.has_pending_conf()
    }

    /// This node is the only voter: there is nobody to be deposed by.
    pub fn is_alone(&self) -> bool {
        let conf = self.conf();
        conf.voters == [self.member()] && conf.voters_outgoing.is_empty()
    }

    /// This replica is no voter, or no more.
    pub fn has_left(&self) -> bool {
        let conf = self.conf();
        !conf.voters.contains(&self.member()) && !conf.voters_outgoing.contains(&self.member())
    }

    /// Index that every member, this node included, is known to hold.
    pub fn held_by_all(&self) -> u64 {
        let members = self.node.raft.prs().iter();
        members
            .map(|(_, progress)| progress.matched)
            .min()
            .unwrap_or(0)
    }

    /// Forgets entries up to `index`, which must be applied; returns the new boundary.
    pub fn truncate(&mut self, index: u64) -> Result<u64> {
        self.node.mut_store().truncate(index)?;
        Ok(self.node.store().boundary())
    }

    /// Bytes that a truncation at `index` would free.
    pub fn bytes_to(&self, index: u64) -> u64 {
        self.node.store().bytes_to(index)
    }

    /// The first index at which a truncation would free `bytes`.
    pub fn index_after(&self, bytes: u64) -> u64 {
        self.node.store().index_after(bytes)
    }
}
